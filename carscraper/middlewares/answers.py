"""What servers send that they should not: a wrong header costs no photo, and no library asks anyone else about it."""

from __future__ import annotations

import logging
import re
import zlib
from typing import TYPE_CHECKING, Any

from scrapy.core.downloader.handlers.http11 import (
    HTTP11DownloadHandler,
    _LenientHTTP11ClientFactory,
    _LenientHTTP11ClientProtocol,
    _LenientHTTPClientParser,
)
from scrapy.downloadermiddlewares import cookies
from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
from scrapy.downloadermiddlewares.redirect import RedirectMiddleware
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Request, Response, TextResponse
from tldextract import TLDExtract
from twisted.web.http_headers import InvalidHeaderName

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from twisted.web.client import HTTPConnectionPool

logger = logging.getLogger(__name__)

_LONGEST_HEADER = 256 * 1024  # bytes; Twisted's own limit is 16 KB
_SAME_ADDRESS = 2  # times: the second one may bring the cookie that the first one set
_HEAD = 4096  # characters, in which Scrapy looks for <base href>
_BASE = re.compile(rb"<base\s[^>]*href\s*=[^>]*>", re.IGNORECASE)
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_HEAD_TAG = re.compile(rb"<head(\s[^>]*)?>", re.IGNORECASE)


# --- headers ----------------------------------------------------------------------------------------------------


class _Parser(_LenientHTTPClientParser):
    """Twisted's parser gives up on an answer with one header that it does not understand; browsers do not."""

    MAX_LENGTH = _LONGEST_HEADER

    def headerReceived(self, name: bytes, value: bytes) -> None:  # noqa: N802 - Twisted's name
        """Accept a header as browsers do, or leave it out."""
        name = name.rstrip(b" \t")  # RFC 9112, 5.1
        if name.lower() == b"transfer-encoding" and value.lower() == b"identity":
            return  # RFC 2616 had it for "no encoding"
        try:
            super().headerReceived(name, value)  # type: ignore[no-untyped-call]
        except InvalidHeaderName:
            logger.debug("A header without a proper name is left out: %r", name[:100])

    def allHeadersReceived(self) -> None:  # noqa: N802 - Twisted's name
        """Begin with the body.

        Raises:
            ValueError: nobody knows how the body is encoded.
        """
        try:
            super().allHeadersReceived()  # type: ignore[no-untyped-call]
        except KeyError as error:
            raise ValueError(f"the answer has the unknown Transfer-Encoding {error}") from None

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802 - Twisted's name
        """End the answer.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"a header of the answer has more than {_LONGEST_HEADER // 1024} kB: {line[:40]!r}…")


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
        """Accept the crawler."""
        super().__init__(crawler)
        read_leniently(self._pool)


# --- bodies -----------------------------------------------------------------------------------------------------


class LenientCompressionMiddleware(HttpCompressionMiddleware):
    """Scrapy's decompression; a ``Content-Encoding`` that is not true, or a wrong length beside it, costs nothing."""

    def process_response(self, request: Request, response: Response) -> Request | Response:  # type: ignore[override]
        """Decompress; a body that is not what its header says is handed on as it is."""
        most = request.meta.get("download_maxsize", self._max_size)
        if "dataloss" in response.flags and _is_whole_gzip(response.body, most):
            # The length was that of something else; the end of the compressed bytes is there.
            response = response.replace(flags=[flag for flag in response.flags if flag != "dataloss"])
        try:
            return super().process_response(request, response)
        except IgnoreRequest:  # it unpacks to too much
            raise
        except Exception as error:
            encoding = b", ".join(response.headers.getlist("Content-Encoding")).decode("latin-1")
            logger.info("%r is not %r, as its header says (%s)", response.url, encoding, error)
            response = response.copy()
            del response.headers["Content-Encoding"]
            return response


def _is_whole_gzip(body: bytes, most: int) -> bool:
    """Return whether *body* is gzip from its first byte to its checksum, of *most* bytes at most.

    >>> import gzip
    >>> packed = gzip.compress(b"photo")
    >>> [_is_whole_gzip(body, 5) for body in (packed, packed[:-1], b"photo", gzip.compress(b"photos"))]
    [True, False, False, False]
    """
    unpack = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpack.decompress(body, most + 1)
    except zlib.error:
        return False
    return unpack.eof and len(unpacked) <= most


class BaseAddressMiddleware:
    """Puts a ``<base href>`` that stands late in the page where Scrapy looks for it, at the page's beginning."""

    def process_response(self, request: Request, response: Response) -> Response:
        """Hand on *response*, its ``<base>`` in the head."""
        if not isinstance(response, TextResponse) or b"<base" not in response.body.lower():
            return response
        if _BASE.search(_COMMENT.sub(b"", response.body[:_HEAD])):
            return response
        found = _BASE.search(_COMMENT.sub(b"", response.body))
        if found is None:
            return response
        head = _HEAD_TAG.search(response.body)
        place = head.end() if head and head.end() < _HEAD // 2 else 0
        return response.replace(body=response.body[:place] + found[0] + response.body[place:])


# --- redirects --------------------------------------------------------------------------------------------------


class BoundedRedirectMiddleware(RedirectMiddleware):
    """Scrapy's redirects; one without a target, or in a circle, is an answer like any other error."""

    def process_response(self, request: Request, response: Response) -> Request | Response:  # type: ignore[override]
        """Follow the redirect, or hand on the answer where that leads nowhere."""
        if not (response.headers.get("Location") or b"").strip():
            return response
        try:
            following = super().process_response(request, response)
        except IgnoreRequest:  # too many of them
            return response
        been_at = [*request.meta.get("redirect_urls", ()), request.url]
        if isinstance(following, Request) and been_at.count(following.url) >= _SAME_ADDRESS:
            return response
        return following


# --- cookies ----------------------------------------------------------------------------------------------------


# With the first cookie Scrapy would fetch the newest list of public suffixes: on the event loop, without a time limit
# and past the address filter. tldextract comes with a list. There is no setting for it, and nobody else reads the name.
cookies._split_domain = TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)  # noqa: SLF001
