"""Counts what a dealer's crawl can read of its cars and writes it at the end, for ``scrapy checkdealers``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from scrapy import signals
from scrapy.exceptions import NotConfigured

from carscraper.addon import for_our_spiders
from carscraper.base_spiders.dealer import DealerSpider
from carscraper.db.field_coverage import Record, write_coverage
from carscraper.db.ledger import Ledger
from carscraper.exceptions import CarscraperError
from carscraper.field_coverage import FieldCoverage, look_at
from carscraper.items import CarItem, utcnow
from carscraper.runs.monitors import expected_of
from carscraper.state import DATABASE_AWAY, state_of

if TYPE_CHECKING:
    from typing import Self

    from scrapy import Request
    from scrapy.crawler import Crawler

    from carscraper.field_coverage import Drop

logger = logging.getLogger(__name__)

_TIMEOUT = 10.0  # seconds; the crawl has ended, and these numbers are worth no longer wait


class CoverageRecorder:
    """A mistake here costs its numbers only, never the crawl."""

    def __init__(self, crawler: Crawler) -> None:
        """Accept the crawler."""
        self._crawler = crawler
        self._coverage = FieldCoverage()
        self._fallen: list[Drop] = []
        self._seen: set[str] = set()
        self._started = False
        crawler.signals.connect(self.spider_opened, signal=signals.spider_opened)
        crawler.signals.connect(self.request_scheduled, signal=signals.request_scheduled)
        crawler.signals.connect(self.item_scraped, signal=signals.item_scraped)
        crawler.signals.connect(self.spider_closed, signal=signals.spider_closed)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Only a dealer's spider is of interest.

        Raises:
            NotConfigured: it is another one.
        """
        for_our_spiders(crawler)
        if not issubclass(crawler.spidercls, DealerSpider):
            raise NotConfigured
        return cls(crawler)

    @property
    def coverage(self) -> FieldCoverage:
        """What was counted so far."""
        return self._coverage

    @property
    def fallen(self) -> list[Drop]:
        """The fields that fell against the last good crawl, once the crawl has ended."""
        return self._fallen

    def spider_opened(self) -> None:
        """Note that the crawl could begin."""
        self._started = state_of(self._crawler).failed is None

    def request_scheduled(self, request: Request) -> None:
        """Count a card whose car's own page is asked for: afterwards nobody can tell what was on which."""
        item = request.cb_kwargs.get("item")
        if isinstance(item, CarItem):
            self._add_card(item)

    def item_scraped(self, item: Any, spider: DealerSpider) -> None:
        """Count a car that went through the pipelines."""
        if not isinstance(item, CarItem):
            return
        self._add_card(item)
        if item.details_at is not None:
            self._coverage.add_page(item)
        self._coverage.add_car(item, spider.known_fields.pop(item.external_id, ()))

    def _add_card(self, item: CarItem) -> None:
        if item.external_id not in self._seen:
            self._seen.add(item.external_id)
            self._coverage.add_card(item)

    async def spider_closed(self, spider: DealerSpider, reason: str) -> None:
        """Write the numbers; those of a failed or partial crawl never become the measure of others."""
        if not self._started or reason in {"configuration", DATABASE_AWAY, "skipped"}:
            return
        self._coverage.counts["unreadable"] = self._crawler.stats.get_value("carscraper/cards/failed", 0)
        record = Record(
            source=spider.source,
            finished_at=utcnow(),
            coverage=self._coverage,
            # A card that can't be read night after night must not end the comparing of fields.
            complete=spider.ended_well(reason) and not spider.is_part,
            why=state_of(self._crawler).failed,
            good=all(each.is_met for each in look_at(self._coverage, expected_of(self._crawler.settings, spider))),
        )
        ledger = Ledger.of(self._crawler)
        ledger.hurry(timeout=_TIMEOUT, patience=0)
        try:
            self._fallen = await ledger.write(write_coverage, record)
        except CarscraperError as error:
            logger.warning("What could be read of the cars is not written, for `scrapy checkdealers`: %s", error)
