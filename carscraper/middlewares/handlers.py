"""How answers are had from a connection: odd headers cost nothing, and an API key is shown to nobody.

Scrapy writes the addresses of requests into log lines, exceptions, the ``Referer`` header and the messages of
redirects and retries. So a key is no part of them: it is put into the request line when that is written to the
connection, below everything that logs or remembers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from scrapy.core.downloader.handlers import http11
from scrapy.core.downloader.handlers.http11 import (
    HTTP11DownloadHandler,
    _LenientHTTP11ClientFactory,
    _LenientHTTP11ClientProtocol,
    _LenientHTTPClientParser,
)
from twisted.internet.protocol import connectionDone
from twisted.web.client import HTTPConnectionPool
from twisted.web.http_headers import InvalidHeaderName

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy.crawler import Crawler
    from twisted.python.failure import Failure

    from carscraper.settings import Secret

    FindKey = Callable[[str], tuple[str, Secret] | None]

logger = logging.getLogger(__name__)

_LONGEST_HEADER = 256 * 1024  # bytes; Twisted's own limit is 16 KB


class _Parser(_LenientHTTPClientParser):
    """Twisted's parser gives up on an answer with one header that it does not understand; browsers do not."""

    MAX_LENGTH = _LONGEST_HEADER

    def headerReceived(self, name: bytes, value: bytes) -> None:  # noqa: N802 - Twisted's name
        name = name.rstrip(b" \t")  # RFC 9112, 5.1
        if name.lower() == b"transfer-encoding" and value.lower() == b"identity":
            return  # RFC 2616 had it for "no encoding"
        try:
            super().headerReceived(name, value)  # type: ignore[no-untyped-call]
        except InvalidHeaderName:
            logger.debug("A header without a proper name is left out: %r", name[:100])

    def allHeadersReceived(self) -> None:  # noqa: N802 - Twisted's name
        try:
            super().allHeadersReceived()  # type: ignore[no-untyped-call]
        except KeyError as error:
            raise ValueError(f"the answer has the unknown Transfer-Encoding {error}") from None

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802 - Twisted's name
        raise ValueError(f"a header of the answer has more than {_LONGEST_HEADER // 1024} kB: {line[:40]!r}…")


class _Reader(http11._ResponseReader):  # noqa: SLF001 - as above
    """Scrapy's answer for whose body there is no memory would never end, and the crawl with it."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        try:
            super().dataReceived(data)
        except MemoryError as error:
            self._finished.errback(error)
            raise  # Twisted closes the connection

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        try:
            super().connectionLost(reason)
        except MemoryError as error:
            self._finished.errback(error)


http11._ResponseReader = _Reader  # type: ignore[misc]  # noqa: SLF001 - Scrapy takes it from there


class _Protocol(_LenientHTTP11ClientProtocol):
    def request(self, request: Any) -> Any:
        """Send *request*, and read the answer with our parser (in the way in which Scrapy puts in its own)."""
        answer = super().request(request)
        self._parser.__class__ = _Parser
        return answer


class _Factory(_LenientHTTP11ClientFactory):
    def buildProtocol(self, _addr: Any) -> _Protocol:  # noqa: N802 - Twisted's name
        return _Protocol(self._quiescentCallback)  # type: ignore[no-untyped-call]


def read_leniently(pool: HTTPConnectionPool) -> None:
    """Let the connections of *pool* read answers with odd headers."""
    pool._factory = _Factory  # noqa: SLF001 - Scrapy sets it in the same way


class LenientDownloadHandler(HTTP11DownloadHandler):
    """Scrapy's handler for http and https, which an odd header does not cost the answer."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        read_leniently(self._pool)


class KeyedDownloadHandler(LenientDownloadHandler):
    """Scrapy's handler for http and https; its connections ask the spider which addresses get a key.

    The spider has a method ``key_for(url)``, which gives the name of the parameter and the key, or ``None``.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        from twisted.internet import reactor  # noqa: PLC0415 - installs a reactor when imported

        pool = _KeyedPool(reactor, persistent=True)  # type: ignore[no-untyped-call]
        pool.maxPersistentPerHost = self._pool.maxPersistentPerHost
        pool._factory = self._pool._factory  # noqa: SLF001 - Scrapy sets it in the same way
        pool.find_key = getattr(crawler.spider, "key_for")  # noqa: B009 - not every spider has it
        self._pool = pool


class _KeyedPool(HTTPConnectionPool):
    find_key: FindKey

    def getConnection(self, key: Any, endpoint: Any) -> Any:  # noqa: N802 - Twisted's name
        return super().getConnection(key, endpoint).addCallback(_KeyedConnection, self.find_key)


class _KeyedConnection:
    """A connection of Twisted's for one request."""

    def __init__(self, connection: Any, find_key: FindKey) -> None:
        self._connection = connection
        self._find_key = find_key

    def request(self, request: Any) -> Any:
        """Send *request*, with its key if it gets one; what the answer's headers repeat of the key is hidden."""
        found = self._find_key((request.absoluteURI or b"").decode("ascii", "replace"))
        if found is None:
            return self._connection.request(request)
        name, key = found
        path, _, query = request.uri.partition(b"?")
        # A redirect may have repeated the parameter, by now without its value.
        others = [part for part in query.split(b"&") if part and part.partition(b"=")[0].lower() != name.encode()]
        request.uri = path + b"?" + b"&".join([f"{name}={quote(key.reveal(), safe='')}".encode(), *others])
        return self._connection.request(request).addCallback(_hide, key)


def _hide(response: Any, key: Secret) -> Any:
    for name, values in list(response.headers.getAllRawHeaders()):
        response.headers.setRawHeaders(name, [key.redact(value) for value in values])
    return response
