"""An API key that belongs in the address of a request, and nowhere else.

Scrapy writes the addresses of requests into log lines, exceptions, the ``Referer`` header and the messages of
redirects and retries. So the key is no part of them: it is put into the request line when that is written to the
connection, below everything that logs or remembers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from twisted.web.client import HTTPConnectionPool

from carscraper.middlewares.answers import LenientDownloadHandler

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy.crawler import Crawler

    from carscraper.settings import Secret

    FindKey = Callable[[str], tuple[str, Secret] | None]


class KeyedDownloadHandler(LenientDownloadHandler):
    """Scrapy's handler for http and https; its connections ask the spider which addresses get a key.

    The spider has a method ``key_for(url)``, which gives the name of the parameter and the key, or ``None``.
    """

    def __init__(self, crawler: Crawler) -> None:
        """Take the crawler, for its spider."""
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
