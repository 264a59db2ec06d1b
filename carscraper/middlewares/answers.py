"""What servers send that they should not: a wrong header costs no photo and no page, and nobody else is asked of it."""

from __future__ import annotations

import logging
import re
import zlib
from typing import TYPE_CHECKING, Any

from scrapy.downloadermiddlewares import cookies
from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
from scrapy.downloadermiddlewares.redirect import RedirectMiddleware
from scrapy.exceptions import IgnoreRequest
from scrapy.http import HtmlResponse, Request, Response, TextResponse
from tldextract import TLDExtract

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

_SAME_ADDRESS = 2  # times: the second one may bring the cookie that the first one set
_HEAD = 4096  # characters, in which Scrapy looks for <base href>
_BASE = re.compile(rb"<base\s[^>]*href\s*=[^>]*>", re.IGNORECASE)
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_HEAD_TAG = re.compile(rb"<head(\s[^>]*)?>", re.IGNORECASE)


# --- bodies ---


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
        except (IgnoreRequest, MemoryError):  # it unpacks to too much
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


# --- encodings ---

_BINARY = 1024  # bytes, of which one is NUL in every photo and in UTF-16, whatever they are sent as
# A character of UTF-8 that is no ASCII, or (in the group) a byte that is part of none.
_HIGH = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{2}|([\x80-\xff])"
)


class PageEncodingMiddleware:
    """Corrects the encoding of pages whose header or ``<meta>`` is missing or wrong."""

    def process_response(self, request: Request, response: Response) -> Response:
        if not isinstance(response, HtmlResponse) or b"\0" in response.body[:_BINARY]:
            return response
        encoding, body = encoding_of(response.body)
        if encoding == response.encoding and body is response.body:
            return response
        return response.replace(encoding=encoding, body=body)


def encoding_of(body: bytes) -> tuple[str, bytes]:
    r"""Return the encoding of a page, and its bytes in that encoding.

    What is whole UTF-8 is UTF-8: no Icelandic text in windows-1252 looks like it. A page that is UTF-8 but for a few
    bytes (a seller's text of another origin) stays it, and those bytes are read as windows-1252, like a whole page that
    is none: no other encoding of one byte a character is in use on Icelandic sites, whatever a library guesses.

    >>> encoding_of("Þór".encode())[0], encoding_of("Þór".encode("cp1252"))[0]
    ('utf-8', 'cp1252')
    >>> encoding_of("Þór ð ".encode() + b"\xf0")[1].decode()
    'Þór ð ð'
    """
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        strays = sum(1 for match in _HIGH.finditer(body) if match[1])
        characters = sum(1 for match in _HIGH.finditer(body) if not match[1])
        if characters > strays:
            return "utf-8", _HIGH.sub(_as_utf8, body)
        return "cp1252", body
    return "utf-8", body


def _as_utf8(match: re.Match[bytes]) -> bytes:
    return match[1].decode("cp1252", "ignore").encode() if match[1] else match[0]


# --- redirects ---


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


# --- cookies ---


# With the first cookie Scrapy would fetch the newest list of public suffixes: on the event loop, without a time limit
# and past the address filter. tldextract comes with a list. There is no setting for it, and nobody else reads the name.
cookies._split_domain = TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)  # noqa: SLF001


class CarriedMiddleware:
    """Answers requests of :func:`carry` at once, before anything is downloaded.

    Scrapy 2.19 does not wait for items that a spider's ``start()`` yields when it is told to stop: the crawl hangs.
    It does for those of a callback, and it bounds how many are under way.
    """

    def process_request(self, request: Request) -> Response | None:
        """Answer a request that carries an item with an empty response; let the others through."""
        return Response(request.url, request=request) if "carried" in request.meta else None


def carry(item: Any) -> Request:
    """Make a request whose only outcome is *item*."""
    return Request(
        "carried://item", callback=_deliver, cb_kwargs={"item": item}, meta={"carried": True}, dont_filter=True
    )


def _deliver(_response: Response, item: Any) -> Iterator[Any]:
    yield item
