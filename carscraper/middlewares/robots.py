"""``robots.txt`` as RFC 9309 has it, and its ``Crawl-delay``."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import CannotResolveHostError, IgnoreRequest
from scrapy.robotstxt import RobotParser
from scrapy.utils.httpobj import urlparse_cached

from carscraper.exceptions import RobotsUnreachableError

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler
    from scrapy.http import Request, Response

logger = logging.getLogger(__name__)

_SERVER_ERROR = 500


class _NoAnswer(RobotParser):
    """Stands for a file that did not come."""

    def __init__(self, why: str) -> None:
        self.why = why
        self.since = time.monotonic()

    @classmethod
    def from_crawler(cls, crawler: Crawler, robotstxt_body: bytes) -> Self:
        raise NotImplementedError  # Scrapy makes parsers of files only

    def allowed(self, url: str | bytes, user_agent: str | bytes) -> bool:
        return False


class PatientRobotsTxtMiddleware(RobotsTxtMiddleware):
    """Scrapy's obedience to ``robots.txt``.

    Besides: a file that is not there (4xx) allows everything, whatever the error page says. One that does not come
    (5xx, no answer) allows nothing: Scrapy would take that as permission. And a host that names a ``Crawl-delay`` is
    asked for pages and photos together no faster than that.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._longest = crawler.settings.getfloat("RETRY_AFTER_MAX")
        self._delays: dict[str, float] = {}

    async def process_request(self, request: Request) -> None:  # type: ignore[override]
        parts = urlparse_cached(request)
        known = self._parsers.get(parts.netloc)
        if isinstance(known, _NoAnswer) and time.monotonic() - known.since > self._longest:
            del self._parsers[parts.netloc]  # a crawl may last for hours: ask once more
        await super().process_request(request)
        delay = self._delays.get(parts.netloc)
        if delay is not None:
            self._slow_down(request, parts.hostname or "", delay)

    async def robot_parser(self, request: Request) -> RobotParser | None:
        """Return what the host of *request* allows.

        Of several requests that wait for one file Scrapy 2.19 hands it to the first only: the others would pass unread.
        """
        await super().robot_parser(request)
        return self._parsers[urlparse_cached(request).netloc]  # type: ignore[return-value]  # it has come by now

    def process_request_2(self, rp: RobotParser | None, request: Request) -> None:
        if isinstance(rp, _NoAnswer):
            raise RobotsUnreachableError(rp.why)
        super().process_request_2(rp, request)

    async def _parse_robots(self, response: Response, netloc: str, request: Request) -> None:
        if response.status >= _SERVER_ERROR:
            self._no_answer(netloc, f"answers HTTP {response.status}")
            return
        if not 200 <= response.status < 300:  # an error page is no file
            response = response.replace(body=b"")
        await super()._parse_robots(response, netloc, request)
        parser = self._parsers[netloc]
        assert isinstance(parser, RobotParser)
        delay = parser.crawl_delay(self._robotstxt_useragent or self._default_useragent)
        if delay is not None and delay > 0:
            self._delays[netloc] = self._bounded(delay, netloc)

    def _robots_error(self, exc: Exception, netloc: str) -> None:
        if isinstance(exc, IgnoreRequest | CannotResolveHostError):
            # Not the host's answer: what is asked of it next meets the same, and says so.
            super()._robots_error(exc, netloc)
            return
        self._stats.inc_value(f"robotstxt/exception_count/{type(exc)}")
        self._no_answer(netloc, f"does not come ({exc})")

    def _no_answer(self, netloc: str, how: str) -> None:
        parser = _NoAnswer(f"robots.txt of {netloc} {how}, which means that nothing may be fetched (RFC 9309)")
        logger.warning("%s; try again later", parser.why)
        waiting, self._parsers[netloc] = self._parsers[netloc], parser
        waiting.callback(parser)  # type: ignore[union-attr]

    def _bounded(self, delay: float, netloc: str) -> float:
        if delay > self._longest:
            logger.warning(
                "robots.txt of %s asks for %g s between two requests; taken as %g s (RETRY_AFTER_MAX)",
                netloc,
                delay,
                self._longest,
            )
            return self._longest
        logger.info("robots.txt of %s asks for %g s between two requests: pages and photos keep to it", netloc, delay)
        return delay

    def _slow_down(self, request: Request, host: str, delay: float) -> None:
        """Put *host* into one slot, without jitter, and keep AutoThrottle from making it faster."""
        downloader = self.crawler.engine.downloader
        request.meta["download_slot"] = host
        request.meta["autothrottle_dont_adjust_delay"] = True
        delay = max(delay, self.crawler.settings.getfloat("DOWNLOAD_DELAY"))
        downloader.per_slot_settings[host] = {"delay": delay, "jitter": 0}
        slot = downloader.slots.get(host)
        if slot and (slot.delay < delay or slot.jitter):
            slot.delay, slot.jitter = delay, 0.0
