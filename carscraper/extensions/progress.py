"""How far the crawl is: a line that moves on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from collections import deque
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
_PACE = 180.0  # seconds by which the time left is told
_LAST = 5.0  # seconds that tell how much of the rest is known, at least
_KNOWN = ("known", "adopted", "left", "deleted", "not_due")
"""Photos of a backfill that nobody is asked for."""


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
        self._seen: deque[tuple[float, int, int]] = deque()
        """When how much was done, and how much of that was known before, in the last minutes."""
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
        self._seen = deque([(self._since, 0, 0)])
        self._loop = create_looping_call(self._show)
        self._loop.start(_LIVE_EVERY if self._terminal else self._interval, now=False)

    def spider_closed(self) -> None:
        """End; the verdict has the last word."""
        if self._loop and self._loop.running:
            self._loop.stop()
        if self._terminal:
            self._terminal.show("")

    def _show(self) -> None:
        line = f"{self._crawler.spidercls.name}: {self._numbers()}"
        if self._terminal:
            self._terminal.show(line)
        else:
            logs.say(self._crawler.settings, line, name=__name__)

    def _numbers(self) -> str:
        stats = self._crawler.stats.get_stats()

        def number(key: str) -> int:
            value: int = stats.get(f"carscraper/{key}", 0)
            return value

        stored, saved = number("images/stored"), number("cars/saved")
        failed = sum(failed_images(stats).values())
        waiting = max(0, number("spool/added") - number("spool/uploaded"))
        # The plan of a backfill, or the last crawl that saw the whole site.
        total, done, known = number("cars/expected"), saved, 0
        what = [f"{number('pages/results')} pages", f"{saved} cars", f"{stored} photos"]
        if photos := number("backfill/photos"):
            known = sum(number(f"images/{name}") for name in _KNOWN)
            total, done = photos, known + number("images/stored") + number("images/linked") + failed
            what = [f"{min(done, total):,} of {total:,} photos ({min(1, done / total):.0%})"]
        minutes = max(time.monotonic() - self._since, 1.0) / 60
        left = self._seconds_left(done, known, total) / 60
        parts = [
            *what,
            f"{failed} failed" if failed else "",
            f"{waiting} waiting" if waiting else "",
            f"{number('images/bytes') / 1e6:.1f} MB",
            f"{stored / minutes:.0f} photos a minute",
            "" if not left else f"{left:.0f} minutes left" if left >= 2 else f"{left * 60:.0f} seconds left",
        ]
        return ", ".join(filter(None, parts))

    def _seconds_left(self, done: int, known: int, total: int) -> float:
        """Return the seconds that the rest takes; 0 if that can't be told.

        What is fetched sets the pace, of the last minutes; of the rest as much is known as of what came last.
        """
        now, seen = time.monotonic(), self._seen
        if not done:
            seen.clear()  # it has not begun
            seen.append((now, 0, 0))
        is_next = now - seen[-1][0] >= _LAST
        _, done_before, known_before = seen[-1] if is_next or len(seen) == 1 else seen[-2]
        if is_next:
            seen.append((now, done, known))
        while len(seen) > 2 and seen[1][0] < now - _PACE:
            seen.popleft()
        since, done_then, known_then = seen[0]
        share = 1 - (known - known_before) / max(done - done_before, 1)
        passed = done - done_then - (known - known_then)
        if not passed:
            share, passed = 1, done - done_then
        return max(0, total - done) * share * (now - since) / passed if passed else 0
