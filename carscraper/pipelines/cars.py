"""Second and last station: a car's row is there before its photos are fetched, and is closed when they are through."""

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
from carscraper.state import DATABASE_AWAY

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler

    from carscraper.db.opening import Saved
    from carscraper.items import CarImage

logger = logging.getLogger(__name__)

_WAIT = "The cars in hand wait in the spool; the next crawl writes them."


class CarsPipeline:
    """Opens cars: writes what their sites say of them, and rows for photos that have none, in groups."""

    def __init__(self, crawler: Crawler) -> None:
        """Take the crawler, for its ledger and stats."""
        self._crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """No settings."""
        for_our_spiders(crawler)
        return cls(crawler)

    async def open_spider(self) -> None:
        """Open the ledger."""
        with aborting(self._crawler):
            await Ledger.of(self._crawler).open()

    async def process_item(self, item: Any) -> Any:
        """Open the car; its photos leave with what is known of them.

        Raises:
            DropItem: the database will never take this car.
        """
        if not isinstance(item, CarItem) or item.unchanged or item.imported:
            return item
        try:
            saved = await Ledger.of(self._crawler).open_car(item)
        except DatabaseUnavailableError as error:
            # Without the ledger nothing is fetched: the photos stay pending, the car goes to the spool.
            stop_as_failed(self._crawler, f"{error} {_WAIT}", reason=DATABASE_AWAY)
            return item
        _refuse(self._crawler, item, saved)
        item.listing_id, item.images = saved.listing_id, list(saved.images)
        item.news = _news(self._crawler, item, saved)
        for image in item.images:
            if image.status != Status.PENDING or image.reason is not None:  # else it has no outcome yet
                count_photo(self._crawler, item, image, is_new=image.identity not in saved.known)
        return item


class ClosingPipeline:
    """Closes cars when their photos have an outcome; a database that stays away costs no car."""

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
        """Try the spool, and write what an earlier run had to leave in it."""
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
                raise ConfigurationError(f"{error} {len(items)} cars wait in {path}.") from None
            for item, saved in zip(items, results, strict=True):
                if saved.error:
                    self._crawler.stats.inc_value("carscraper/cars/failed")
                    logger.warning("The database refuses %r from the spool: %s", item.url, saved.error)
                if saved.raised:
                    self._spool.add(item)  # until somebody has seen to it
            path.unlink(missing_ok=True)
            logger.info("Wrote %d cars that waited in %s", sum(not saved.error for saved in results), path)

    async def process_item(self, item: Any) -> Any:
        """Write what is left to write of *item*; it leaves only when its transaction is committed.

        Raises:
            DropItem: the database will never take this car.
        """
        try:
            saved = await self._ledger.save(item)
        except DatabaseUnavailableError as error:
            await self._keep(item, str(error))
            return item
        _refuse(self._crawler, item, saved)
        stats = self._crawler.stats
        if isinstance(item, GoneCar):
            stats.inc_value("carscraper/cars/gone", int(saved.changed))
            stats.inc_value("carscraper/images/failed/car-gone", saved.given_up)
        elif isinstance(item, CarItem):
            stats.inc_value("carscraper/cars/saved")
            if item.unchanged:
                stored = sum(image.status == Status.STORED for image in item.images)
                stats.inc_value("carscraper/images/known", stored)
            stats.inc_value(f"carscraper/cars/{item.news or _news(self._crawler, item, saved)}")
            self._look_at_places(item, saved)
        return item

    async def _keep(self, item: CarItem | GoneCar, why: str) -> None:
        """Put the car into the spool, and end the crawl."""
        try:
            self._spool.add(item)  # not in a thread: there may be none to be had
        except OSError as full:
            self._crawler.stats.inc_value("carscraper/cars/failed")
            self._stop(
                f"{why} Nor can the spool be written ({full.strerror}): make room; "
                "the next crawl sees the cars in hand again."
            )
            raise DropItem(f"Neither the database nor the spool takes {item.url!r}", log_level="DEBUG") from None
        self._crawler.stats.inc_value("carscraper/cars/spooled")
        self._stop(f"{why} {_WAIT}")

    def _look_at_places(self, item: CarItem, saved: Saved) -> None:
        """Write into the item which of its photos others have taken the place of; the rest is missed."""
        for image in item.images:
            if image.identity in saved.superseded:
                image.status, image.reason = Status.SUPERSEDED, None
            elif image.reason == Reason.OFF_PAGE and image.attempts:
                self._crawler.stats.inc_value("carscraper/images/failed/off-page")

    def _stop(self, why: str) -> None:
        stop_as_failed(self._crawler, why, reason=DATABASE_AWAY)


def _refuse(crawler: Crawler, item: CarItem | GoneCar, saved: Saved) -> None:
    if saved.error:
        crawler.stats.inc_value("carscraper/cars/failed")
        raise DropItem(f"The database refuses {item.url!r}: {saved.error}")


def _news(crawler: Crawler, item: CarItem, saved: Saved) -> str:
    """Return what the car is to the database, which is counted once it is closed; count the rest."""
    stats = crawler.stats
    stats.inc_value("carscraper/prices/changed", int(saved.price_changed))
    if saved.placeholders:
        stats.inc_value("carscraper/images/failed/placeholder", saved.placeholders)
    if saved.replaced:
        logger.warning(
            "The dealer has given the id %s to another car: %s %s %s instead of %s; its row is now this car's, "
            "the earlier car's photos are superseded and stay in the store",
            *(item.external_id, item.make, item.model, item.year, saved.replaced),
        )
    return "new" if saved.created else "changed" if saved.changed else "unchanged"


def count_photo(crawler: Crawler, item: CarItem, image: CarImage, *, is_new: bool) -> None:
    """Count a photo whose outcome is known; *is_new*: the ledger did not know it."""
    stats = crawler.stats
    stats.inc_value("carscraper/images/seen")
    if (item.gone and image.reason == Reason.NO_FRESH_ADDRESS) or image.reason == Reason.OFF_PAGE:
        return  # whether it is missed shows when the car is closed, or when the run ends
    if image.attempts == 0 and image.status == Status.STORED:
        stats.inc_value("carscraper/images/known")
    elif image.reason == Reason.DELETED:
        stats.inc_value("carscraper/images/deleted")
    elif image.reason == Reason.LIMIT:
        stats.inc_value("carscraper/images/left")
    elif image.status == Status.FAILED and (image.attempts or is_new):
        stats.inc_value(f"carscraper/images/failed/{image.reason}")
    elif image.status == Status.PENDING and image.reason not in {Reason.SPOOLED, Reason.TERMS}:
        stats.inc_value("carscraper/images/pending")
