"""Reading web servers' access logs: which photo was asked for, when. Anybody can write anything into such a log.

Understood are the common and the combined format (nginx, Apache, Caddy and most others) and CloudFront's standard
logs; compressed by gzip or not.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 64 * 1024
"""Bytes of a line; longer ones are passed over."""

_GZIP = b"\x1f\x8b"
_VIEWED = {b"200", b"206", b"304"}
_MONTHS = {name: number for number, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}
# Host, who, [time], "request", status. No two parts of it can match the same text: it never runs away.
_COMMON = re.compile(
    rb'[^ \[\]"]+ [^\[\]"]{1,500}\[(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)\] '
    rb'"([A-Z]{1,10}) ([^ "\\]*(?:\\.[^ "\\]*)*)(?: HTTP/[0-9.]{1,5})?" (\d{3}) '
)
_ESCAPED = re.compile(rb'\\(x[0-9A-Fa-f]{2}|["\\])')
_FIELDS = b"date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status".split()
_NEEDED = (b"date", b"time", b"cs-method", b"cs-uri-stem", b"sc-status")


@dataclass(frozen=True, slots=True)
class View:
    """One request that was answered with a picture, or with "yours is still good"."""

    path: bytes
    """As it was asked for, still percent-encoded, without what follows a ``?``."""
    at: datetime
    """UTC without a zone."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log."""

    end: int
    """Bytes (uncompressed) of the log up to its end."""
    view: View | None
    is_bad: bool
    """It is in no known format."""


class Log:
    """One access log, read from its first line on."""

    def __init__(self, stream: IO[bytes]) -> None:
        """Take a binary stream; it may be compressed."""
        raw: Any = stream
        buffered: Any = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)
        packed = buffered.peek(2)[:2] == _GZIP
        self._stream: Any = gzip.GzipFile(fileobj=buffered) if packed else buffered
        self._can_seek = not packed and buffered.seekable()
        self._fields: dict[bytes, int] | None = None
        self._at = 0
        self._first: tuple[bytes, int] | None = None
        self.broken: str | None = None
        """Why the log could not be read to its end."""

    def fingerprint(self) -> str | None:
        """Name the log by its first line, ``None`` while it has none: the name stays when it is moved or compressed."""
        while (found := self._line()) is not None:
            line, end = found
            if line is not None and not line.startswith(b"#"):
                self._first = (line, end)
                return hashlib.sha256(line).hexdigest()
        return None

    def lines(self, start: int) -> Iterator[Line]:
        """Give the complete lines behind the first *start* bytes; call :meth:`fingerprint` before."""
        if self._first is not None and self._first[1] > start:
            yield self._read(*self._first)
        if self._can_seek and start > self._at:
            self._stream.seek(start)
            self._at = start
        while (found := self._line()) is not None:
            line, end = found
            if end <= start:
                continue
            yield Line(end, None, is_bad=True) if line is None else self._read(line, end)

    def _line(self) -> tuple[bytes | None, int] | None:
        """Read a line that has its end, and say where that is; ``None`` at the end of the log, no text if too long."""
        try:
            line = self._stream.readline(LONGEST)
            size, too_long = len(line), False
            while line and not line.endswith(b"\n"):
                rest = self._stream.readline(LONGEST)
                if not rest:
                    return None  # it is being written
                size, too_long, line = size + len(rest), True, rest
        except (OSError, EOFError, zlib.error) as error:
            self.broken = str(error) or type(error).__name__
            return None
        if not line:
            return None
        self._at += size
        if line.startswith(b"#Fields:") and not too_long:
            self._fields = {name: number for number, name in enumerate(line.split()[1:])}
        return (None if too_long else line), self._at

    def _read(self, line: bytes, end: int) -> Line:
        if line.startswith(b"#") or not line.strip():
            return Line(end, None, is_bad=False)
        if b"\t" in line:
            return self._cloudfront(line, end)
        found = _COMMON.match(line)
        if not found:
            return Line(end, None, is_bad=True)
        day, month, year, hour, minute, second, sign, zone_hours, zone_minutes, method, target, status = found.groups()
        try:
            zone = timedelta(hours=int(zone_hours), minutes=int(zone_minutes)) * (-1 if sign == b"-" else 1)
            at = datetime(
                *(int(year), _MONTHS[month], int(day), int(hour), int(minute), min(int(second), 59)),
                tzinfo=timezone(zone),
            )
            utc = at.astimezone(UTC).replace(tzinfo=None)
        except (ValueError, KeyError, OverflowError):
            return Line(end, None, is_bad=True)
        if method != b"GET" or status not in _VIEWED:
            return Line(end, None, is_bad=False)
        return Line(end, View(_path(_ESCAPED.sub(_unescape, target)), utc), is_bad=False)

    def _cloudfront(self, line: bytes, end: int) -> Line:
        places = self._fields or {name: number for number, name in enumerate(_FIELDS)}
        cells = line.rstrip(b"\r\n").split(b"\t")
        try:
            date, time, method, target, status = (cells[places[name]] for name in _NEEDED)
            at = datetime.strptime(f"{date.decode('ascii')} {time.decode('ascii')}", "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - the logs are in UTC, and so are the tables, without a zone
        except (ValueError, KeyError, IndexError):
            return Line(end, None, is_bad=True)
        if method != b"GET" or status not in _VIEWED:
            return Line(end, None, is_bad=False)
        return Line(end, View(_path(target), at), is_bad=False)


def _unescape(found: re.Match[bytes]) -> bytes:
    text = found[1]
    return bytes([int(text[1:], 16)]) if text.startswith(b"x") else text


def _path(target: bytes) -> bytes:
    """Give the path of a request's target, which a client may also send as a whole address."""
    if target[:7].lower() == b"http://" or target[:8].lower() == b"https://":
        target = b"/" + target.split(b"/", 3)[3] if target.count(b"/") > 2 else b"/"
    return target.split(b"?", 1)[0].split(b"#", 1)[0]


def key_of_path(path: bytes, base: bytes) -> str | None:
    """Give the key that a permanent URL's *path* names below the path *base*; ``None`` if it can be none.

    >>> key_of_path(b"/img/a%20b/%C3%BE%2B.jpg", b"/img"), key_of_path(b"/other/a.jpg", b"/img")
    ('a b/þ+.jpg', None)
    >>> key_of_path(b"/a%00.jpg", b""), key_of_path(b"/%FF.jpg", b""), key_of_path(b"*", b"")
    (None, None, None)
    """
    if not path.startswith(base + b"/"):
        return None
    raw = unquote_to_bytes(path[len(base) + 1 :])
    if not 0 < len(raw) <= 1024 or b"\0" in raw:
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
