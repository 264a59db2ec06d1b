"""Last station: the car, its photos and its price change are committed before the item leaves."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy.exceptions import DropItem

from carscraper.addon import aborting, for_our_spiders, stop_as_failed
from carscraper.db.ledger import Ledger
from carscraper.db.spool import CarSpool
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from carscraper.items import CarItem, GoneCar, Reason, Status

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler
    from scrapy.statscollectors import StatsCollector

    from carscraper.db.queries import Saved

logger = logging.getLogger(__name__)


class DatabasePipeline:
    """Writes cars in groups through the ledger; a database that stays away costs no car."""

    def __init__(self, crawler: Crawler, *, spool: CarSpool) -> None:
        """Take the crawler, for its ledger and stats, and the spool for a database that is away."""
        self._crawler = crawler
        self._spool = spool

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the settings."""
        for_our_spiders(crawler)
        return cls(crawler, spool=CarSpool(Path(crawler.settings.get("SPOOL_DIR"))))

    async def open_spider(self) -> None:
        """Try the spool, open the ledger and write what an earlier run had to leave in the spool."""
        with aborting(self._crawler):
            await asyncio.to_thread(self._spool.try_out)
            self._ledger = Ledger.of(self._crawler)
            await self._ledger.open()
            await self._replay()

    async def _replay(self) -> None:
        for waiting in self._spool.waiting():
            path = self._spool.claim(waiting)
            if path is None:
                continue
            items = self._spool.read(path)
            try:
                results = await asyncio.gather(*(self._ledger.save(item) for item in items))
            except DatabaseUnavailableError as error:
                raise ConfigurationError(f"{error} Start the database; {len(items)} cars wait in {path}.") from None
            for item, saved in zip(items, results, strict=True):
                if saved.error:
                    logger.warning("The database refuses %r from the spool: %s", item.url, saved.error)
            path.unlink(missing_ok=True)
            logger.info("Wrote %d cars that waited in %s", len(items), path)

    async def process_item(self, item: Any) -> Any:
        """Write *item*; it leaves only when its transaction is committed.

        Raises:
            DropItem: the database will never take this car.
        """
        stats = self._crawler.stats
        try:
            saved = await self._ledger.save(item)
        except DatabaseUnavailableError as error:
            try:
                await asyncio.to_thread(self._spool.add, item)
            except OSError as full:
                stats.inc_value("carscraper/cars/failed")
                self._stop(
                    f"{error} Nor can the spool be written ({full.strerror}): make room; "
                    "the next crawl sees the cars in hand again."
                )
                raise DropItem(f"Neither the database nor the spool takes {item.url!r}") from None
            stats.inc_value("carscraper/cars/spooled")
            self._stop(f"{error} The cars in hand wait in the spool; the next crawl writes them.")
            return item
        if saved.error:
            stats.inc_value("carscraper/cars/failed")
            raise DropItem(f"The database refuses {item.url!r}: {saved.error}")
        if isinstance(item, GoneCar):
            stats.inc_value("carscraper/cars/gone", int(saved.changed))
            stats.inc_value("carscraper/images/failed/car-gone", saved.given_up)
        elif isinstance(item, CarItem):
            stats.inc_value("carscraper/cars/saved")
            count_saved(stats, saved, item)
            self._look_at_places(item, saved)
            if item.news != "new":  # that is counted when it comes into being
                stats.inc_value(f"carscraper/cars/{item.news or 'unchanged'}")
        return item

    def _look_at_places(self, item: CarItem, saved: Saved) -> None:
        """Write into the item which of its photos others have taken the place of; the rest is missed."""
        for image in item.images:
            if image.identity in saved.superseded:
                image.status, image.reason = Status.SUPERSEDED, None
            elif image.reason == Reason.OFF_PAGE and image.attempts:
                self._crawler.stats.inc_value("carscraper/images/failed/off-page")

    def _stop(self, why: str) -> None:
        stop_as_failed(self._crawler, why, reason="database_away")


def count_saved(stats: StatsCollector, saved: Saved, item: CarItem) -> None:
    """Count what saving *item* found out; a car with photos to fetch is saved before them and after."""
    if saved.created:
        item.news = "new"
    elif item.news is None and (saved.changed or (item.seen and _is_another_card(saved.card_hash, item.card_hash))):
        item.news = "changed"
    if saved.replaced:
        logger.warning(
            "The dealer has given the id %s to another car: %s %s %s instead of %s; its row is now this car's, "
            "the earlier car's photos are superseded and stay in the store",
            *(item.external_id, item.make, item.model, item.year, saved.replaced),
        )
    stats.inc_value("carscraper/cars/new", int(saved.created))
    stats.inc_value("carscraper/prices/changed", int(saved.price_changed))
    if saved.placeholders:
        stats.inc_value("carscraper/images/failed/placeholder", saved.placeholders)


def _is_another_card(before: str | None, now: str | None) -> bool:
    return before is not None and now is not None and before != now
