"""A line that moves on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from scrapy import signals
from scrapy.utils.asyncio import create_looping_call

from carscraper import logs
from carscraper.runs.record import failed_images
from carscraper.state import state_of

if TYPE_CHECKING:
    from typing import Any, Self

    from scrapy.crawler import Crawler

_LIVE_EVERY = 0.25  # seconds


class Progress:
    """Shows cars, photos, photos a minute and bytes from the stats."""

    def __init__(self, crawler: Crawler, *, interval: float, terminal: logs.TerminalHandler | None) -> None:
        """Take plain values.

        Args:
            crawler: for its stats.
            interval: seconds between two lines where there is no terminal.
            terminal: where one line is drawn anew instead.
        """
        self._crawler = crawler
        self._interval = interval
        self._terminal = terminal
        self._loop: Any = None
        crawler.signals.connect(self.spider_opened, signal=signals.spider_opened)
        crawler.signals.connect(self.spider_closed, signal=signals.spider_closed)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the settings; a line that moves only if standard error is a terminal."""
        settings = crawler.settings
        terminal = None if logs.is_json(settings) else logs.terminal()
        return cls(crawler, interval=settings.getfloat("PROGRESS_INTERVAL"), terminal=terminal)

    def spider_opened(self) -> None:
        """Begin, unless the crawl is ending already."""
        if state_of(self._crawler).failed is not None:
            return
        self._since = time.monotonic()
        self._loop = create_looping_call(self._show)
        self._loop.start(_LIVE_EVERY if self._terminal else self._interval, now=False)

    def spider_closed(self) -> None:
        """End; the verdict has the last word."""
        if self._loop and self._loop.running:
            self._loop.stop()
        if self._terminal:
            self._terminal.show("")

    def _show(self) -> None:
        name = self._crawler.spidercls.name
        if self._terminal:
            self._terminal.show(f"{name}: {self._in_short()}")
            return
        line = ", ".join(f"{name} {value}" for name, value in self._numbers().items())
        logs.say(self._crawler.settings, f"{name}: {line}", name=__name__)

    def _in_short(self) -> str:
        """Return the numbers so that they fit into one line of a terminal."""
        stats = self._crawler.stats
        stored: int = stats.get_value("carscraper/images/stored", 0)
        rest = {"failed": self._failed(), "waiting": self._waiting()}
        parts = [
            f"{stats.get_value('carscraper/pages/results', 0)} pages",
            f"{stats.get_value('carscraper/cars/saved', 0)} cars",
            f"{stored} photos",
            *(f"{number} {what}" for what, number in rest.items() if number),
            f"{stats.get_value('carscraper/images/bytes', 0) / 1e6:.1f} MB",
            f"{stored / self._minutes:.0f} photos a minute",
            self._left(),
        ]
        return ", ".join(part for part in parts if part)

    def _left(self) -> str:
        """Return how long it will take, from the plan of a backfill or the last crawl that saw the whole site."""
        stats = self._crawler.stats
        total: int = stats.get_value("carscraper/backfill/photos", 0)
        done = self._done()
        if not total:
            total = stats.get_value("carscraper/cars/expected", 0)
            done = stats.get_value("carscraper/cars/saved", 0)
        if not done or total <= done:
            return ""
        minutes = (total - done) * self._minutes / done
        return f"{minutes:.0f} minutes left" if minutes >= 2 else f"{minutes * 60:.0f} seconds left"

    @property
    def _minutes(self) -> float:
        return max(time.monotonic() - self._since, 1.0) / 60

    def _failed(self) -> int:
        return sum(failed_images(self._crawler.stats.get_stats()).values())

    def _waiting(self) -> int:
        stats = self._crawler.stats
        waiting: int = stats.get_value("carscraper/spool/added", 0) - stats.get_value("carscraper/spool/uploaded", 0)
        return max(0, waiting)

    def _done(self) -> int:
        stats = self._crawler.stats
        kept: int = sum(
            stats.get_value(f"carscraper/images/{word}", 0) for word in ("stored", "linked", "known", "adopted")
        )
        return kept + self._failed()

    def _numbers(self) -> dict[str, str]:
        stats = self._crawler.stats.get_stats()

        def number(key: str) -> int:
            value: int = stats.get(f"carscraper/{key}", 0)
            return value

        total, done, minutes = number("backfill/photos"), self._done(), self._minutes
        stored = number("images/stored")
        left = {}
        if total:
            rate = max(done / minutes, 1)
            left = {"left": f"{max(0, total - done)}, about {max(0, total - done) / rate:.0f} minutes"}
        return {
            "pages": str(number("pages/results")),
            "cars": f"{number('cars/saved')} of {number('cars/seen')} seen",
            "photos": f"{stored} stored, {number('images/linked')} linked, {number('images/known')} known",
            "failed": str(self._failed()),
            "waiting": str(self._waiting()),
            "rate": f"{stored / minutes:.0f} photos a minute",
            "size": f"{number('images/bytes') / 1e6:.1f} MB",
            **left,
        }
