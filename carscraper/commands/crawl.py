"""``scrapy crawl``: Scrapy's own command, with a sentence for whatever keeps a crawl from beginning."""

from __future__ import annotations

import difflib
import gc
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, ClassVar

from scrapy.commands import crawl

from carscraper.command import border
from carscraper.shortage import raise_limit_of_files
from carscraper.state import ExitCode, state_of

if TYPE_CHECKING:
    import argparse

    from scrapy import Spider
    from scrapy.crawler import Crawler

_GRACE = 3.0  # seconds from the end of the crawl to the end of the process
# Modules and classes are most of the objects and never garbage: going through them took an eighth of a photo's CPU.
_COLLECT_AT = (50_000, 20, 100)


class Command(crawl.Command):
    """Takes and means what Scrapy's command does."""

    owns_process: ClassVar[bool] = True
    """The process is this crawl's alone, and ends with it."""
    crawler: Crawler | None = None

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Crawl; the exit code is the verdict's, and Scrapy's own if there is no such spider."""
        assert self.crawler_process
        known = self.crawler_process.spider_loader.list()
        if len(args) == 1 and args[0] not in known:
            nearest = difflib.get_close_matches(args[0].lower(), known, 1)
            instead = f"did you mean {nearest[0]}?" if nearest else f"write one of: {', '.join(sorted(known))}."
            print(f"There is no spider {args[0]!r}; {instead}", file=sys.stderr)
            self.exitcode = 1
            return
        with border(self):
            super().run(args, opts)
        if self.crawler:
            from carscraper.extensions.verdict import announce_late

            announce_late(self.crawler)  # a second signal has broken the end off
            code = state_of(self.crawler).exit_code
            if code is None and hasattr(self.crawler.spidercls, "spooled_sources"):
                code = ExitCode.PARTIAL  # without a verdict it was broken off; other programs' spiders have none
            self.exitcode = max(self.exitcode, code or ExitCode.SUCCESS)
        if self.owns_process:
            self._set_alarm()

    def _set_alarm(self) -> None:
        """End the process soon.

        Python waits at its end for every worker thread; an upload to a server that never answers, or a query to a
        frozen database, would hold it for as long as it takes. What those threads were doing has no row yet.
        """
        alarm = threading.Timer(_GRACE, os._exit, (int(self.exitcode),))
        alarm.daemon = True  # an orderly end does not wait for it
        try:
            alarm.start()
        except RuntimeError:  # no more threads are to be had
            signal.signal(signal.SIGALRM, lambda *_: os._exit(int(self.exitcode)))
            signal.setitimer(signal.ITIMER_REAL, _GRACE)

    def _create_crawler(self, spidercls: type[Spider] | str) -> Crawler:
        from carscraper.extensions.opening import OpeningCrawler

        assert self.crawler_process
        if isinstance(spidercls, str):
            spidercls = self.crawler_process.spider_loader.load(spidercls)
        self.crawler = OpeningCrawler(spidercls, self.crawler_process.settings)
        if self.owns_process:
            raise_limit_of_files()
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_COLLECT_AT)
        return self.crawler_process.create_crawler(self.crawler)
