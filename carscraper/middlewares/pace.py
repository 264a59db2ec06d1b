"""One pace for all crawls of a dealer, on however many machines they run."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scrapy import signals
from scrapy.exceptions import NotConfigured
from scrapy.utils.httpobj import urlparse_cached

from carscraper.db.pace import Pace, can_be_shared
from carscraper.exceptions import ConfigurationError
from carscraper.middlewares.retry import HOST_PAUSED
from carscraper.settings import Secret

if TYPE_CHECKING:
    from typing import Self

    from scrapy.core.downloader import Slot
    from scrapy.crawler import Crawler
    from scrapy.http import Request

_BLOCK = 0.5  # seconds that are taken at once, for as many requests as wait: one round trip for a few photos
_LATE = 0.05  # seconds after which a moment that was not used is over: two at once would be ruder than was agreed
_LOOK_EVERY = 0.25  # seconds between two looks whether the crawl is being stopped
_MARGIN = 60  # seconds ahead that others may have taken, on top of the longest Retry-After


@dataclass(slots=True)
class _Line:
    """Who waits for one slot, in their order."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    moments: deque[float] = field(default_factory=deque)
    """Those that are ours and still to come, by ``time.monotonic()``."""


class SharedPaceMiddleware:
    """Lets each request wait for a moment that no other crawl of the database has.

    The delays are those of Scrapy's download slots, with what AutoThrottle makes of them, and they stay in force below:
    without the database this crawl keeps its own pace, as it would alone.
    """

    def __init__(self, crawler: Crawler, pace: Pace) -> None:
        """Take the crawler and the database's side of it."""
        self._crawler = crawler
        self._pace = pace
        self._lines: dict[str, _Line] = {}
        self._of_host: dict[str, set[str]] = {}
        self._tells: set[asyncio.Future[None]] = set()
        crawler.signals.connect(self.host_paused, signal=HOST_PAUSED)
        crawler.signals.connect(self._close, signal=signals.engine_stopped)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the settings.

        Raises:
            NotConfigured: it is off, or the database is not one for several machines.
        """
        settings = crawler.settings
        # Not a boolean yet where the settings are wrong; the crawl ends with its sentence then.
        if settings.get("SHARED_PACE") is not True:
            raise NotConfigured
        secret: Secret = settings["DATABASE_URL"]
        try:
            if not can_be_shared(secret.reveal()):
                raise NotConfigured("SHARED_PACE is of use with PostgreSQL only; this crawl keeps its own pace.")
            pace = Pace(secret.reveal(), most=settings.getfloat("RETRY_AFTER_MAX") + _MARGIN)
        except ConfigurationError:  # which the pipelines say, too
            raise NotConfigured from None
        return cls(crawler, pace)

    async def process_request(self, request: Request) -> None:
        """Hold the request back until its moment."""
        downloader = self._crawler.engine.downloader
        key = downloader.get_slot_key(request)
        name = self._name(key)
        self._of_host.setdefault(urlparse_cached(request).netloc, set()).add(name)
        line = self._lines.setdefault(name, _Line())
        line.waiting += 1
        try:
            async with line.lock:
                if self._crawler.engine.running:
                    await self._wait(await self._moment(name, line, key))
        finally:
            line.waiting -= 1

    def host_paused(self, host: str, seconds: float) -> None:
        """Tell all crawls that *host* (with its port) wants peace for so many *seconds*."""
        names = self._of_host.get(host, set())
        for name in names:
            self._lines[name].moments.clear()
        if names:
            told = asyncio.ensure_future(self._pace.hold(names, seconds))
            self._tells.add(told)
            told.add_done_callback(self._tells.discard)

    def _name(self, key: str) -> str:
        """Name a slot alike in every crawl: a dealer's photos by its source, pages by their host.

        A dealer's own crawl calls the slot of its photos ``images``, a backfill ``images-Bilasolur``.
        """
        source = getattr(self._crawler.spider, "source", None)
        return f"images-{source}" if key == "images" and source else key.removeprefix("www.")

    async def _moment(self, name: str, line: _Line, key: str) -> float:
        now = time.monotonic()
        while line.moments and line.moments[0] < now - _LATE:
            line.moments.popleft()
        if not line.moments:
            gaps = self._gaps(key, line.waiting)
            if not gaps:
                return now
            wait = await self._pace.reserve(name, sum(gaps))
            if wait is None:
                return now  # the slot's own delay holds
            moment = time.monotonic() + wait
            for gap in gaps:
                line.moments.append(moment)
                moment += gap
        return line.moments.popleft()

    def _gaps(self, key: str, waiting: int) -> list[float]:
        """Give the seconds that the next requests keep apart: of those that wait, as many as fit into a block."""
        gaps: list[float] = []
        while len(gaps) < max(1, waiting) and (delay := self._delay(key)) > 0:
            if gaps and sum(gaps) + delay > _BLOCK:
                break
            gaps.append(delay)
        return gaps

    def _delay(self, key: str) -> float:
        slot: Slot | None = self._crawler.engine.downloader.slots.get(key)
        if slot:
            return slot.delay
        settings = self._crawler.settings  # nothing was asked there yet
        return float(settings.getdict("DOWNLOAD_SLOTS").get(key, {}).get("delay", settings.getfloat("DOWNLOAD_DELAY")))

    async def _wait(self, moment: float) -> None:
        """Wait; a crawl that is being stopped does not wait for long pauses, and keeps its own pace."""
        while (left := moment - time.monotonic()) > 0 and self._crawler.engine.running:  # noqa: ASYNC110 - no event
            await asyncio.sleep(min(left, _LOOK_EVERY))

    def _close(self) -> None:
        self._pace.close()
