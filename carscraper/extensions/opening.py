"""The opening of a crawl: whatever is raised there ends it with one sentence and exit code 4.

Scrapy logs what a component's start raises and goes on without it, or ends with a traceback, exit code 1 and the reason
"shutdown" as if it had been asked to. There is no list of expected exceptions here: this is the border.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from scrapy import signals
from scrapy.core.engine import ExecutionEngine
from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider
from scrapy.extensions.feedexport import FeedExporter
from scrapy.pipelines import ItemPipelineManager
from scrapy.signalmanager import SignalManager

from carscraper.addon import COULD_NOT_BEGIN, could_not_begin, end_as_failed
from carscraper.exceptions import ConfigurationError
from carscraper.extensions.verdict import announce, announce_late
from carscraper.logs import cleaned
from carscraper.state import ExitCode, state_of

if TYPE_CHECKING:
    from scrapy import Spider
    from scrapy.settings import Settings

logger = logging.getLogger(__name__)


class OpeningCrawler(Crawler):
    """A crawler that ends as failed if it can't open; ``scrapy crawl`` makes one."""

    def __init__(self, spidercls: type[Spider], settings: Settings) -> None:
        """Take what Scrapy's crawler takes."""
        super().__init__(spidercls, settings)
        self.signals = _OpeningSignals(self)
        self.opened = False

    def _create_engine(self) -> ExecutionEngine:
        engine = _OpeningEngine(self, lambda _: self.stop_async())
        feeds = self.settings.getdict("FEEDS")
        if feeds and self.get_extension(FeedExporter) is None:
            # Scrapy logs an error and leaves the feed out.
            names = ", ".join(cleaned(str(feed)) for feed in feeds)
            raise ConfigurationError(f"The items can't be written to {names}; name a file, or an address Scrapy knows.")
        return engine

    async def crawl_async(self, *args: Any, **kwargs: Any) -> None:
        """Crawl; what is raised before there is an engine to close has its verdict here."""
        try:
            await super().crawl_async(*args, **kwargs)
        except Exception as error:
            if self.opened:
                raise
            announce(self, ExitCode.FAILED, [f"{self.spidercls.name}: failed. {could_not_begin(error)}"])
        finally:
            announce_late(self)
            if ledger := state_of(self).ledger:
                ledger.close()


class _OpeningEngine(ExecutionEngine):
    async def open_spider_async(self, *, close_if_idle: bool = True) -> None:
        assert isinstance(self.crawler, OpeningCrawler)
        try:
            await super().open_spider_async(close_if_idle=close_if_idle)
        except CloseSpider:
            raise
        except Exception as error:
            end_as_failed(self.crawler, could_not_begin(error))
            raise CloseSpider(COULD_NOT_BEGIN) from error
        finally:
            self.crawler.opened = True


class OpeningPipelines(ItemPipelineManager):
    """Opens the pipelines; the rest of the start-up runs whatever they raise, so that what began is also ended."""

    async def open_spider_async(self) -> None:
        """Open them.

        Raises:
            CloseSpider: one of them can't.
        """
        try:
            await super().open_spider_async()
        except CloseSpider:
            raise
        except Exception as error:
            assert self.crawler is not None
            end_as_failed(self.crawler, could_not_begin(error))
            raise CloseSpider(COULD_NOT_BEGIN) from error


class _OpeningSignals(SignalManager):
    """Ends the crawl if an extension can't start, where Scrapy would go on without it."""

    async def send_catch_log_async(self, signal: Any = None, **named: Any) -> list[tuple[Any, Any]]:
        if signal is not signals.spider_opened:
            return await super().send_catch_log_async(signal, **named)
        results = await super().send_catch_log_async(signal, **named | {"dont_log": Exception})
        crawler: Crawler = self.sender
        for number, (receiver, result) in enumerate(results):
            if isinstance(result, Exception) and not isinstance(result, CloseSpider):
                end_as_failed(crawler, could_not_begin(result))
                results[number] = (receiver, CloseSpider(COULD_NOT_BEGIN))
        return results
