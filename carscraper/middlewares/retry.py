"""Retries with patience: back-off, ``Retry-After`` for the whole host, and the address filter's refusals."""

from __future__ import annotations

import asyncio
import logging
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from scrapy.downloadermiddlewares.retry import RetryMiddleware
from scrapy.exceptions import CannotResolveHostError, NotConfigured, ResponseDataLossError
from scrapy.http import Request, Response
from scrapy.utils.httpobj import urlparse_cached

from carscraper.addon import stopped_by_shortage
from carscraper.exceptions import BlockedAddressError
from carscraper.shortage import no_more_files
from carscraper.state import state_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from scrapy.crawler import Crawler

logger = logging.getLogger(__name__)

_FACTOR = 3  # 1 s, 3 s, 9 s
_LOOK_EVERY = 0.25  # seconds between two looks whether the crawl is being stopped
_DEFAULT_PORTS = {"http": 80, "https": 443}


class PatientRetryMiddleware(RetryMiddleware):
    """Scrapy's retries, each after a pause; a host that names a pause gets it from every request."""

    def __init__(self, crawler: Crawler, *, backoff: float, retry_after_max: float) -> None:
        super().__init__(crawler.settings)
        self.crawler = crawler
        self._state = state_of(crawler)
        self._backoff = backoff
        self._retry_after_max = retry_after_max
        self._paused_until: dict[str, float] = {}

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        if not crawler.settings.getbool("RETRY_ENABLED"):
            raise NotConfigured
        settings = crawler.settings
        return cls(
            crawler, backoff=settings.getfloat("RETRY_BACKOFF"), retry_after_max=settings.getfloat("RETRY_AFTER_MAX")
        )

    async def process_request(self, request: Request) -> None:
        """Hold the request back while its host wants peace."""
        host = urlparse_cached(request).netloc
        while (wait := self._paused_until.get(host, 0) - time.monotonic()) > 0:
            if not await self._sleep(wait):
                return

    async def process_response(self, request: Request, response: Response) -> Request | Response:  # type: ignore[override]
        """Retry a response that may get better.

        Raises:
            ResponseDataLossError: it was cut off, at the last try as well.
        """
        if "dataloss" in response.flags and not self._is_whole(request, response):
            cut = ResponseDataLossError(f"{len(response.body)} bytes came, and then the connection broke")
            if retried := await self.process_exception(request, cut):
                return retried
            raise cut
        retry = super().process_response(request, response)
        if not isinstance(retry, Request):
            return retry
        wait = self._retry_after(response)
        if wait is None:
            wait = self._pause(retry)
        elif wait > self._retry_after_max:
            return response
        else:
            self.crawler.stats.inc_value("carscraper/retry_after")
            host = urlparse_cached(request).netloc
            self._paused_until[host] = time.monotonic() + wait
        return retry if await self._sleep(wait) else response

    async def process_exception(self, request: Request, exception: Exception) -> Request | None:  # type: ignore[override]
        """Retry a connection that may get better; tell a refused address from an unknown host."""
        hidden = no_more_files() if isinstance(exception, CannotResolveHostError) else None
        if stopped_by_shortage(self.crawler, hidden or exception):
            return None
        parts = urlparse_cached(request)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        if isinstance(exception, CannotResolveHostError) and self._state.addresses.refused(parts.hostname or "", port):
            if self._state.one_page:
                # Its user sees no outcome of a photo.
                logger.error(
                    "%s is inside a private network: start the command with its address, or name it in "
                    "IMAGES_ALLOWED_HOSTS",
                    parts.hostname,
                )
            raise BlockedAddressError(f"{parts.hostname} is inside a private network") from exception
        retry = super().process_exception(request, exception)
        if isinstance(retry, Request) and await self._sleep(self._pause(retry)):
            return retry
        return None

    @staticmethod
    def _is_whole(request: Request, response: Response) -> bool:
        """Return whether all is there though its length was wrong, if the request says how to find out."""
        is_whole: Callable[[bytes], bool] | None = request.meta.get("is_whole")
        return is_whole is not None and is_whole(response.body)

    def _pause(self, retry: Request) -> float:
        tries: int = retry.meta.get("retry_times", 1)
        return self._backoff * float(_FACTOR) ** (tries - 1)

    @staticmethod
    def _retry_after(response: Response) -> float | None:
        """Return the seconds that ``Retry-After`` asks for: a number or a date (RFC 9110, 10.2.3)."""
        value: Any = response.headers.get("Retry-After")
        text: str = value.decode("latin-1").strip() if value else ""
        if text.isdecimal():
            return float(text)
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, TypeError):
            return None

    async def _sleep(self, seconds: float) -> bool:
        """Wait; false as soon as the crawl is being stopped."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not self.crawler.engine.running:
                return False
            await asyncio.sleep(min(left, _LOOK_EVERY))
        return True
