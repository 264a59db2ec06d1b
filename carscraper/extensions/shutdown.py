"""A process that was told twice to stop is gone within five seconds."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from scrapy.commands import ScrapyCommand

from carscraper.addon import for_our_spiders
from carscraper.extensions.verdict import PARTIAL

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler

_GRACE = 3.0  # seconds from the end of the event loop to the end of the process


class PromptShutdown:
    """Bounds what happens after the event loop has ended.

    Python waits at its end for every worker thread; an upload to a server that never answers, or a query to a frozen
    database, would hold the process for as long as it takes. Nothing is lost by leaving: what those threads were
    doing has no row yet.
    """

    def __init__(self, crawler: Crawler) -> None:
        """Take the crawler."""
        self._crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Set the alarm that rings when the loop has ended and the process has not."""
        from twisted.internet import reactor  # noqa: PLC0415 - installs a reactor when imported: Scrapy has done so

        for_our_spiders(crawler)  # fetch, shell and their like have no verdict
        extension = cls(crawler)
        reactor.addSystemEventTrigger("after", "shutdown", extension._set_alarm)  # type: ignore[arg-type]
        return extension

    def _set_alarm(self) -> None:
        # Without a verdict the crawl was broken off; with one a straggling thread changes nothing about it.
        code: int = self._crawler.stats.get_value("carscraper/exit_code", PARTIAL)
        ScrapyCommand.exitcode = max(ScrapyCommand.exitcode, code)

        def leave() -> None:
            os._exit(ScrapyCommand.exitcode)

        alarm = threading.Timer(_GRACE, leave)
        alarm.daemon = True  # an orderly end does not wait for it
        alarm.start()
