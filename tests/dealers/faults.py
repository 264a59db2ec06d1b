"""What can go wrong with an answer, as short words that fit in a test, on a command line and in JSON.

============================  =========================================================================
``ok``                        nothing goes wrong this time
``404`` ``503`` ``429:2``     that status with an HTML error page; after the colon ``Retry-After``
``html200`` ``json200``       a 200 that is not a photo
``placeholder``               a 200 with the site's small "no picture" photo, always the same bytes
``maintenance`` ``login``     a 200 with such a page
``half``                      the full Content-Length, half of the body, then the connection ends
``half-short``                half of the body with a Content-Length that agrees with it
``half-closed``               half of the body without a Content-Length, then the connection ends
``gzip-cut``                  half of the body's gzip, with a Content-Length that agrees with it
``empty`` ``one-byte``        as it says
``as-html``                   the good body, sent as text/html
``svg``                       an SVG with a script in it, sent as image/jpeg
``slow:1.5``                  the answer comes after that many seconds
``trickle:0.05``              512 bytes at a time, with that many seconds between
``never`` ``reset``           no answer, for ever; no answer, the connection is closed
``endless``                   a JPEG that goes on and on, chunked (it gives up at 200 MB)
``gzip-bomb`` ``png-bomb``    100 kB that unpack to 100 MB; 50 kB that decode to 20000 x 20000 pixels
``redirect:<address>``        302 to that address
``binary``                    a page as application/octet-stream
``windows-1252:utf-8``        the page in that encoding, while its header says the other (or nothing)
``declared:iso-8859-1``       the page as it is, while its header says that encoding
============================  =========================================================================

A site may know more for its own pages: bilasolur has ``layout`` (a redesigned site, nothing is where it was)
and ``garbage`` (a details page full of impossible values).
"""

from __future__ import annotations

import functools
import gzip
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from tests.dealers import photos
from tests.http_server import Response

ENDLESS_LIMIT = 200 * 1024 * 1024
"""Bytes after which an endless body ends, so that a crawler without a limit fails its test only."""


class FaultPlan:
    """Which step comes next for whom."""

    def __init__(self) -> None:
        self._queues: dict[str, tuple[deque[str], bool]] = {}
        self._for_each: dict[str, tuple[tuple[str, ...], bool]] = {}

    def set(self, target: str, steps: Sequence[str], *, sticky: bool, each: bool) -> None:
        if isinstance(steps, str):
            raise TypeError(f"steps are a list of words, not {steps!r}")
        self._for_each.pop(target, None)
        self._queues.pop(target, None)
        if not steps:
            return
        if each:
            self._for_each[target] = (tuple(steps), sticky)
        else:
            self._queues[target] = (deque(steps), sticky)

    def take(self, kind: str, which: str) -> str:
        """The step for this request, "" for none: the single page or photo goes before its kind."""
        if not self._queues and not self._for_each:
            return ""
        kinds = (kind,) if kind == "photo" else (kind, "page")
        own = f"{kind}:{which}"
        for name in kinds:
            if name in self._for_each and own not in self._queues:
                steps, sticky = self._for_each[name]
                self._queues[own] = (deque(steps), sticky)
        for name in (own, *kinds):
            queue, sticky = self._queues.get(name, (None, False))
            if queue:
                return queue[0] if sticky and len(queue) == 1 else queue.popleft()
        return ""


def page(title: str, text: str, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """A page with one heading and one paragraph; both are HTML."""
    head = f"<head><title>{title}</title></head>"
    body = f"<!DOCTYPE html><html>{head}<body><h1>{title}</h1><p>{text}</p></body></html>"
    return Response(status=status, body=body, headers=headers)


def is_step(step: str) -> bool:
    word = step.partition(":")[0]
    return word.isdecimal() or word in _REPLACEMENTS or word in _CHANGES


def apply_step(step: str, normal: Callable[[], Response]) -> Response:
    """The answer that *step* makes of the *normal* one.

    Raises:
        ValueError: no such step.
    """
    word, _, value = step.partition(":")
    if word.isdecimal():
        headers = (("Retry-After", value),) if value else ()
        return page(f"{word}", "Villa kom upp.", status=int(word), headers=headers)
    if word == "redirect":
        return Response(status=302, headers=(("Location", value),))
    if word in _REPLACEMENTS:
        return _REPLACEMENTS[word]()
    response = normal()
    body = b"".join(response.parts)
    if word == "half":
        response.cut_at = len(body) // 2
    elif word == "half-short":
        response.body = body[: len(body) // 2]
    elif word == "half-closed":
        response.until_close = True
        response.cut_at = len(body) // 2
    elif word == "gzip-cut":
        packed = gzip.compress(body)
        response.body = packed[: len(packed) // 2]
        response.headers += (("Content-Encoding", "gzip"),)
    elif word == "one-byte":
        response.body = body[:1]
    elif word == "empty":
        response.body = b""
    elif word == "as-html":
        response.content_type = "text/html; charset=utf-8"
    elif word == "binary":
        response.content_type = "application/octet-stream"
        response.body = b"\x00\xff\x00\xfe" * 64
    elif word == "windows-1252":
        text = body.decode().replace('<meta charset="utf-8">', "")
        response.body = text.encode(word, "xmlcharrefreplace")
        response.content_type = f"text/html; charset={value}" if value else "text/html"
    elif word == "declared":
        response.content_type = f"text/html; charset={value}"
    elif word == "slow":
        response.delay = float(value)
    elif word == "trickle":
        response.trickle = (512, float(value))
    elif word != "ok":
        raise ValueError(f"unknown fault step {step!r}")
    return response


def placeholder() -> Response:
    return Response(body=photos.placeholder(), content_type="image/jpeg")


def _maintenance() -> Response:
    return page("Lokað vegna viðhalds", "Vefurinn er lokaður tímabundið vegna viðhalds. Reyndu aftur síðar.")


def _login() -> Response:
    form = '<form method="post" action="/Login.aspx"><input type="password" name="password"></form>'
    return page("Innskráning", f"Skráðu þig inn til að halda áfram.{form}")


def _svg() -> Response:
    text = '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="480"><script>alert(1)</script></svg>'
    return Response(body=text, content_type="image/jpeg")


def _endless() -> Iterator[bytes]:
    first = photos.placeholder()[:-2]
    yield first
    chunk = b"\x55" * 65536
    for _ in range((ENDLESS_LIMIT - len(first)) // len(chunk)):
        yield chunk


@functools.cache
def _gzip_bomb() -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1024 * 1024)
    return b"".join(squeeze.compress(zeros) for _ in range(100)) + squeeze.flush()


@functools.cache
def _png_bomb(side: int = 20_000) -> bytes:
    """A true picture, one bit a pixel and all black: 50 kB in the file, 400 million pixels in memory."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    squeeze = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    pixels = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


_CHANGES = {"ok", "redirect", "slow", "trickle", "binary", "as-html", "windows-1252", "declared"}
_CHANGES |= {"empty", "one-byte", "half", "half-short", "half-closed", "gzip-cut"}
"""The steps that need the normal answer or a value, which `apply_step` knows itself."""

_REPLACEMENTS: dict[str, Callable[[], Response]] = {
    "html200": lambda: page("Mynd fannst ekki", "Myndin er ekki lengur til."),
    "json200": lambda: Response(body='{"error": "not found"}', content_type="application/json"),
    "placeholder": placeholder,
    "maintenance": _maintenance,
    "login": _login,
    "svg": _svg,
    "never": lambda: Response(never=True),
    "reset": lambda: Response(drop=True),
    "endless": lambda: Response(stream=_endless(), content_type="image/jpeg"),
    "gzip-bomb": lambda: Response(
        body=_gzip_bomb(), content_type="image/jpeg", headers=(("Content-Encoding", "gzip"),)
    ),
    "png-bomb": lambda: Response(body=_png_bomb(), content_type="image/png"),
}
