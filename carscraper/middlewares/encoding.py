"""The one place that decides in which encoding a page is read: by its bytes, before what header and page say of it."""

from __future__ import annotations

import re

from scrapy.http import HtmlResponse, Request, Response

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
        """Return the page as it is to be read."""
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
