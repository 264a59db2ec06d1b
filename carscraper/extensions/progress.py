"""A live display on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from scrapy import signals
from scrapy.utils.asyncio import create_looping_call

from carscraper import logs

if TYPE_CHECKING:
    from typing import Any, Self

    from scrapy.crawler import Crawler

_LIVE_EVERY = 0.25  # seconds


class Progress:
    """Shows cars, photos, photos a minute and bytes from the stats."""

    def __init__(self, crawler: Crawler, *, interval: float, live: bool) -> None:
        """Take plain values.

        Args:
            crawler: for its stats.
            interval: seconds between two lines where there is no terminal.
            live: redraw a display instead.
        """
        self._crawler = crawler
        self._interval = interval
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True) if live else None
        self._loop: Any = None
        crawler.signals.connect(self.spider_opened, signal=signals.spider_opened)
        crawler.signals.connect(self.spider_closed, signal=signals.spider_closed)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the settings; live only if standard error is a terminal and the log goes elsewhere."""
        settings = crawler.settings
        log_elsewhere = bool(settings.get("LOG_FILE")) or not settings.getbool("LOG_ENABLED")
        live = sys.stderr.isatty() and log_elsewhere
        return cls(crawler, interval=settings.getfloat("PROGRESS_INTERVAL"), live=live)

    def spider_opened(self) -> None:
        """Begin, unless the crawl is ending already."""
        if self._crawler.stats.get_value("carscraper/failed") is not None:
            return
        self._since = time.monotonic()
        if self._live:
            self._live.start()
        self._loop = create_looping_call(self._show)
        self._loop.start(_LIVE_EVERY if self._live else self._interval, now=False)

    def spider_closed(self) -> None:
        """End; the verdict has the last word."""
        if self._loop and self._loop.running:
            self._loop.stop()
        if self._live and self._live.is_started:
            self._live.stop()

    def _show(self) -> None:
        numbers = self._numbers()
        if self._live:
            table = Table.grid(padding=(0, 2))
            for name, value in numbers.items():
                table.add_row(name, f"[bold]{value}[/bold]")
            self._live.update(table, refresh=True)
            return
        line = ", ".join(f"{name} {value}" for name, value in numbers.items())
        logs.say(self._crawler.settings, f"{self._crawler.spidercls.name}: {line}", name=__name__)

    def _numbers(self) -> dict[str, str]:
        stats = self._crawler.stats.get_stats()

        def number(key: str) -> int:
            value: int = stats.get(f"carscraper/{key}", 0)
            return value

        failed = sum(n for key, n in stats.items() if key.startswith("carscraper/images/failed/"))
        total = number("backfill/photos")
        minutes = max(time.monotonic() - self._since, 1.0) / 60
        stored = number("images/stored")
        done = stored + number("images/linked") + number("images/known") + number("images/adopted") + failed
        left = {}
        if total:
            rate = max(done / minutes, 1)
            left = {"left": f"{max(0, total - done)}, about {max(0, total - done) / rate:.0f} minutes"}
        return {
            "pages": str(number("pages/results")),
            "cars": f"{number('cars/saved')} of {number('cars/seen')} seen",
            "photos": f"{stored} stored, {number('images/linked')} linked, {number('images/known')} known",
            "failed": str(failed),
            "waiting": str(max(0, number("spool/added") - number("spool/uploaded"))),
            "rate": f"{stored / minutes:.0f} photos a minute",
            "size": f"{number('images/bytes') / 1e6:.1f} MB",
            **left,
        }
