"""Reads a *manifest*: the list of photos of an archive that is no dealer. Nothing is held whole in memory.

``docs/backfill.md`` says what a manifest may be. Of a ``.json`` document the arrays are read in which something has an
address (``"tags": ["red"]`` is passed over), at any depth, though not inside another array. Files of a folder come in
the order of their names; names that begin with a dot and links to folders are passed over.

The address of a photo is its ``url``, else its ``image_url``, else its ``thumb_url``. Its key is its ``key``, else
what :func:`key_from_address` makes of the address.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import itertools
import json
import os
import posixpath
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

import ijson

from carscraper.exceptions import ConfigurationError

STRIP_PREFIX: Final = "auctionimages/"
"""What keys lose at their start unless the caller says otherwise."""
MAX_KEY: Final = 900
"""Bytes of UTF-8. S3 takes 1024, of which the prefix and the names of thumbnails have their share."""
MAX_LINE: Final = 1 << 20
"""Bytes. A longer line, or a longer value of a JSON file, is no photo."""

_BUFFER: Final = 1 << 16
_LONGEST_ROW: Final = 1 << 17  # bytes of a CSV row of several lines
_ADDRESSES: Final = ("url", "image_url", "thumb_url")
_FIELDS: Final = frozenset({*_ADDRESSES, "key"})

_LOT = re.compile(r"lot_.*_images\.json(?:\.gz)?", re.IGNORECASE)
_SUFFIX = re.compile(r".*\.(jsonl|ndjson|csv|json)(?:\.gz)?", re.IGNORECASE | re.DOTALL)
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and what has no UTF-8
_BAD_SEGMENT = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)")  # of nothing, of one dot or of two
# ijson's C code ends the process over more digits than Python takes, 640 at least; they may lie in two chunks.
_HUGE_NUMBER = re.compile(rb"[0-9]{320}")


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One photo of a manifest."""

    url: str
    key: str
    """The name below ``S3_PREFIX``; empty when :attr:`problem` says why."""
    problem: str | None = None
    """``no url``, ``not a web address``, ``bad key``, ``bad JSON``, ``bad CSV``, ``not UTF-8``, ``line too long``."""
    where: str = ""
    """The file and the line; in a JSON file, the number of the photo, from 1."""


def read_manifest(path: Path, *, strip_prefix: str = STRIP_PREFIX) -> Iterator[ManifestEntry]:
    """Return every photo of the manifest at *path*; a line that can't be read is an entry with a problem.

    Raises:
        ConfigurationError: *path* can't be used; or, after the entries before it, a file turns out to be broken.
    """
    return (_entry(element, where, strip_prefix) for element, where in _elements_of(_manifests(path)))


def count_entries(path: Path) -> int | None:
    """Return how many entries :func:`read_manifest` yields, or ``None`` where counting is as slow as reading (JSON)."""
    files = _manifests(path)
    if any(_kind(file) == "json" for file, _ in files):
        return None
    return sum(1 for _ in _elements_of(files))


def _elements_of(files: list[tuple[Path, str]]) -> Iterator[tuple[object, str]]:
    for file, name in files:
        with _reading(file) as stream:
            for number, element in _READERS[_kind(file)](stream):
                yield element, f"{name}:{number}"


# --- addresses and keys -------------------------------------------------------------------------------------


def key_from_address(url: str, *, strip_prefix: str) -> str:
    """Return the key of the photo at *url*: its path, decoded, without *strip_prefix*; a query leaves a digest.

    >>> key_from_address("https://img.example.com/auctionimages/3483/17/i0178-1.jpg", strip_prefix="auctionimages/")
    '3483/17/i0178-1.jpg'
    >>> key_from_address("https://img.example.com/a%20b.jpg?width=640", strip_prefix="")
    'a b-b8fcb210.jpg'

    Raises ``ValueError``: ``not a web address`` or ``bad key``.
    """
    parts = _split(url)
    try:
        path = unquote(parts.path, errors="strict").removeprefix("/")
    except UnicodeDecodeError:
        raise ValueError("bad key") from None
    if prefix := strip_prefix.strip("/"):
        path = path.removeprefix(f"{prefix}/")
    key = clean_key(path)
    if not parts.query:
        return key
    name, extension = posixpath.splitext(key)
    return clean_key(f"{name}-{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}{extension}")


def clean_key(key: str) -> str:
    """Return *key* as it is when it can name an object in a bucket and a file in a folder alike.

    Raises ``ValueError`` (``bad key``): an empty segment, ``.`` or ``..``, a control character, a backslash, or more
    than :data:`MAX_KEY` bytes, or 255 in one segment (no folder takes more).
    """
    bad = "\\" in key or _BAD_SEGMENT.search(key) or _UNPRINTABLE.search(key)
    if bad or len(data := key.encode()) > MAX_KEY or max(map(len, data.split(b"/"))) > 255:
        raise ValueError("bad key")
    return key


def _split(url: str) -> SplitResult:
    # urlsplit drops line breaks in silence: the address would be another than the one that is written.
    if not _UNPRINTABLE.search(url):
        with contextlib.suppress(ValueError):
            parts = urlsplit(url)
            # A port that is no number is a ValueError when it is asked for.
            if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
                return parts
    raise ValueError("not a web address")


def _entry(element: object, where: str, strip_prefix: str) -> ManifestEntry:
    """Make an entry of what a reader found: an object, an address, or the error that stands in their place."""
    if isinstance(element, ValueError):
        return ManifestEntry("", "", str(element), where)
    fields: Mapping[str, object] = element if isinstance(element, dict) else {"url": element}
    given = (value.strip() for name in _ADDRESSES if isinstance(value := fields.get(name), str))
    url = next(filter(None, given), "")
    if not url:
        return ManifestEntry("", "", "no url", where)
    key = fields.get("key")
    key = key.strip() if isinstance(key, str) else key
    try:
        if key is None or key == "":
            return ManifestEntry(url, key_from_address(url, strip_prefix=strip_prefix), None, where)
        _split(url)
        return ManifestEntry(url, clean_key(key if isinstance(key, str) else ""), None, where)
    except ValueError as error:
        return ManifestEntry(url, "", str(error), where)


# --- files --------------------------------------------------------------------------------------------------


class _UnusableError(Exception):
    """What is wrong with the file, and the cure."""


def _refuse(path: Path | str, what: str) -> NoReturn:
    raise ConfigurationError(f"The manifest {str(path)!r} {what}.") from None


def _kind(path: Path) -> str:
    match = _SUFFIX.fullmatch(path.name)
    return match[1].lower() if match else ""


def _manifests(path: Path) -> list[tuple[Path, str]]:
    """Return the files of the manifest, each with its name for messages. Checks at once what can be checked at once."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in it
        _refuse(path, "does not exist; write the path of a file or of a folder")
    except OSError as error:
        _refuse(path, f"can't be read ({error.strerror or error}); name one that can")
    if not path.is_dir():
        if not _kind(path):
            _refuse(path, "is none that is known; name a .jsonl, .ndjson, .csv or .json file, or one of these with .gz")
        with _reading(path):
            return [(path, path.name)]
    there = sorted(_below(path))
    for pattern in (_LOT, _SUFFIX):
        if found := [file for file in there if pattern.fullmatch(file.name)]:
            return [(file, file.relative_to(path).as_posix()) for file in found]
    _refuse(path, "is a folder without lot_*_images.json, .jsonl, .ndjson, .csv or .json files; name another one")


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> NoReturn:
        _refuse(error.filename, f"can't be listed ({error.strerror or error}); allow it, or name another one")

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root, name) for name in names if not name.startswith("."))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[io.BufferedReader]:
    """Open *path*; whatever stops the reading inside is a ConfigurationError."""
    try:
        with io.BufferedReader(_open(path), _BUFFER) as stream:
            start = stream.peek(3)[:3]
            if start == b"\xef\xbb\xbf":
                stream.read(3)
            elif start[:2] in {b"\xff\xfe", b"\xfe\xff"}:
                _refuse(path, "is written in UTF-16; save it in UTF-8")
            yield stream
    except _UnusableError as error:
        _refuse(path, str(error))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        _refuse(path, f"is a broken gzip file ({error}); get it anew")
    except OSError as error:
        _refuse(path, f"can't be read ({error.strerror or error}); allow it, or name another one")


def _open(path: Path) -> Any:
    # Read through a buffer of ours in both cases: gzip's own lines are slow.
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb", buffering=0)


# --- lines --------------------------------------------------------------------------------------------------


def _lines(stream: io.BufferedReader) -> Iterator[bytes | None]:
    """Yield each line, or ``None`` for one that is too long, of which no more than a piece is ever held."""
    for line in iter(partial(stream.readline, MAX_LINE + 1), b""):
        if len(line) <= MAX_LINE or line.endswith(b"\n"):
            yield line
            continue
        rest = b"more"
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE)
        yield None


def _text(line: bytes | None) -> str:
    if line is None:
        raise ValueError("line too long")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None


def _jsonl_items(stream: io.BufferedReader) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(_lines(stream), 1):
        if line is None or not line.isspace():
            yield number, _value(line)


def _value(line: bytes | None) -> object:
    text = ""
    try:
        text = _text(line)
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return ValueError("bad JSON") if text else error


def _csv_items(stream: io.BufferedReader) -> Iterator[tuple[int, object]]:
    rows = _csv_rows(stream)
    _, header = next(rows, (0, ValueError()))
    names = [] if isinstance(header, ValueError) else [cell.strip().lower() for cell in header]
    columns = {name: names.index(name) for name in _FIELDS & set(names)}
    if not columns.keys() & set(_ADDRESSES):
        raise _UnusableError("has no column url or image_url; let its first line name the columns, with commas between")
    for number, row in rows:
        if isinstance(row, ValueError):
            yield number, row
        else:
            yield number, {name: row[index] for name, index in columns.items() if index < len(row)}


def _csv_rows(stream: io.BufferedReader) -> Iterator[tuple[int, list[str] | ValueError]]:
    """Yield the rows that aren't blank; where a quote is opened and never closed, the lines after it are rows, too."""
    again: deque[tuple[int, bytes | None]] = deque()
    lines = enumerate(_lines(stream), 1)

    def following() -> tuple[int, bytes | None] | None:
        return again.popleft() if again else next(lines, None)

    while first := following():
        taken = [first]
        size = quotes = 0
        for _, line in taken:  # grows while a quote is open
            size += len(line or b"")
            quotes += (line or b"").count(b'"')
            if quotes % 2 and size < _LONGEST_ROW and (more := following()):
                taken.append(more)
        row: list[str] | ValueError
        try:
            row = next(csv.reader([_text(line) for _, line in taken], strict=True), [])
        except csv.Error:
            row = ValueError("bad CSV")
        except ValueError as error:
            row = error
        if isinstance(row, ValueError):
            again.extendleft(reversed(taken[1:]))
        if isinstance(row, ValueError) or any(cell and not cell.isspace() for cell in row):
            yield first[0], row


class _Document:
    """A JSON document as ijson reads it, which holds an unfinished value in memory, however long it grows."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._silent = 0

    def read(self, size: int) -> bytes:
        """Return the next piece; called by ijson."""
        piece = self._stream.read(size)
        self._silent += len(piece)
        if _HUGE_NUMBER.search(piece):
            raise ValueError("a huge number")
        if self._silent > MAX_LINE + _BUFFER:
            raise _UnusableError("has a value of more than 1 MiB, which is no list of photos; name another one")
        return piece

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        try:
            for event in ijson.basic_parse(self, buf_size=_BUFFER):
                self._silent = 0
                yield event
        except (ijson.JSONError, ValueError, ArithmeticError):  # the latter two: numbers that Python does not take
            raise _UnusableError(
                "is no whole JSON document: it breaks off, is damaged, or has one object a line; get it anew, "
                "or in the last case name it .jsonl"
            ) from None


def _json_items(stream: io.BufferedReader) -> Iterator[tuple[int, object]]:
    return enumerate(_json_photos(iter(_Document(stream))), 1)


def _json_photos(events: Iterator[tuple[str, Any]]) -> Iterator[object]:
    """Yield the elements of the outermost array, or of those outermost arrays of an object that have addresses."""
    at_root, listed = True, False
    for event, _ in events:
        if event == "start_array":
            certain, passed = at_root, 0
            for element in _elements(events):
                certain = certain or _has_address(element)
                if not certain:
                    passed += 1
                    continue
                # Those before the first address lack only that: they are told of, too.
                yield from itertools.repeat(None, passed)
                passed = 0
                yield element
            # An empty array is the list of a lot without photos.
            listed = listed or not passed
        at_root = False
    if not listed:
        raise _UnusableError('has no list of photos; let it be an array, or an object such as {"images": [...]}')


def _has_address(element: object) -> bool:
    is_one = isinstance(element, str) and element.startswith(("http://", "https://"))
    return is_one or (isinstance(element, dict) and not element.keys().isdisjoint(_ADDRESSES))


def _elements(events: Iterator[tuple[str, Any]]) -> Iterator[object]:
    """Yield what is in an array that has begun; of objects our fields only, ``False`` for what is no plain value."""
    depth, name = 0, ""
    found: dict[str, object] = {}
    for event, value in events:
        opens, closes = event.startswith("start_"), event.startswith("end_")
        depth -= closes
        if depth < 0:
            return
        if opens and depth == 0:
            name, found = "", {}
        elif event == "map_key" and depth == 1:
            name = value
        elif depth == 1 and not closes and name in _FIELDS:
            found[name] = False if opens else value
        elif depth == 0 and not opens:
            yield {"end_map": found, "end_array": None}.get(event, value)
        depth += opens


_READERS: Final[Mapping[str, Callable[[io.BufferedReader], Iterator[tuple[int, object]]]]] = {
    "jsonl": _jsonl_items,
    "ndjson": _jsonl_items,
    "csv": _csv_items,
    "json": _json_items,
}
