"""Reads a *manifest*: the list of photos of an archive that is no dealer. Nothing is held whole in memory.

What a manifest may be, by its name; each also with ``.gz`` after it, in UTF-8 with or without a BOM:

* ``.jsonl``, ``.ndjson``: an object a line, or a JSON string, which is the address;
* ``.csv``: a header row that names a column ``url`` or ``image_url``, and maybe ``key``;
* ``.json``: an array of objects or of addresses, or an object that holds such arrays, at any depth, though not
  inside another array; arrays in which nothing has an address (``"tags": ["red"]``) are passed over;
* a folder: every ``lot_*_images.json`` below it, and if there is none, every file of the kinds above. Files come
  in the order of their names; names that begin with a dot and links to folders are passed over.

The address of a photo is its ``url``, else its ``image_url``, else its ``thumb_url``. Its key is its ``key``, else
what :func:`key_of` makes of the address.
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
import stat
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
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
_ADDRESSES: Final = ("url", "image_url", "thumb_url")
_FIELDS: Final = frozenset({*_ADDRESSES, "key"})

_LOT = re.compile(r"lot_.*_images\.json(?:\.gz)?", re.IGNORECASE)
_SUFFIX = re.compile(r".*\.(jsonl|ndjson|csv|json)(?:\.gz)?", re.IGNORECASE | re.DOTALL)
# Control characters, and lone surrogates, which have no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# A segment of nothing, of one dot or of two.
_BAD_SEGMENT = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)")
# ijson's C code ends the process over a whole number with more digits than Python takes: 4300, and as few as 640
# where somebody has set that. Half of it, as the digits may lie in two chunks.
_HUGE_NUMBER = re.compile(rb"[0-9]{320}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One photo of a manifest."""

    url: str
    """The address; empty when there is none."""
    key: str
    """The name below ``S3_PREFIX``; empty when :attr:`problem` says why."""
    problem: str | None = None
    """``no url``, ``not a web address``, ``bad key``, ``bad JSON``, ``bad CSV``, ``not UTF-8``, ``line too long``."""
    where: str = ""
    """For messages: the file and the line; in a JSON file, the number of the photo, from 1."""


def read_manifest(path: Path, *, strip_prefix: str = STRIP_PREFIX) -> Iterator[Entry]:
    """Return every photo of the manifest at *path*, in its order; the same key may come twice.

    What can be seen at once is checked at once, not with the first entry. A line that can't be read is an entry
    with a problem.

    Raises:
        ConfigurationError: *path* is not there, can't be read, is of no known kind or is a folder without a
            manifest; or, after the entries before it, a file turns out to be broken.
    """
    return _entries(_manifests(path), strip_prefix)


def count_entries(path: Path) -> int | None:
    """Return how many entries :func:`read_manifest` yields, or ``None`` where counting is as slow as reading (JSON).

    Raises:
        ConfigurationError: as :func:`read_manifest` does.
    """
    total = 0
    for file, _ in _manifests(path):
        counter = _COUNTERS.get(_kind(file))
        if counter is None:
            return None
        with _reading(file) as stream:
            total += counter(stream)
    return total


# --- addresses and keys -------------------------------------------------------------------------------------


def key_of(url: str, *, strip_prefix: str) -> str:
    """Return the key of the photo at *url*: its path, decoded, without *strip_prefix* if it begins with that.

    A query is part of the address, so a digest of it is part of the name.

    >>> key_of("https://img.example.com/auctionimages/3483/1713553344/i0178-1.jpg", strip_prefix="auctionimages/")
    '3483/1713553344/i0178-1.jpg'
    >>> key_of("https://img.example.com/a%20b.jpg?width=640", strip_prefix="")
    'a b-b8fcb210.jpg'

    Raises:
        ValueError: ``not a web address`` or ``bad key``.
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
    r"""Return *key* as it is when it can name an object in a bucket and a file in a folder alike.

    >>> clean_key("3483/þór 1.jpg")
    '3483/þór 1.jpg'
    >>> clean_key("../secrets")
    Traceback (most recent call last):
    ValueError: bad key

    Raises:
        ValueError: ``bad key``: an empty one, an empty segment, ``.`` or ``..``, a control character, a
            backslash, or more than :data:`MAX_KEY` bytes, or 255 in one segment (no folder takes more).
    """
    if "\\" in key or _BAD_SEGMENT.search(key) or _UNPRINTABLE.search(key) or _is_long(key):
        raise ValueError("bad key")
    return key


def _is_long(key: str) -> bool:
    data = key.encode()
    return len(data) > MAX_KEY or max(map(len, data.split(b"/"))) > 255


def _split(url: str) -> SplitResult:
    # urlsplit drops line breaks in silence: the address would be another than the one that is written.
    if not _UNPRINTABLE.search(url):
        with contextlib.suppress(ValueError):
            parts = urlsplit(url)
            # A port that is no number is a ValueError when it is asked for.
            if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
                return parts
    raise ValueError("not a web address")


def _entry(element: object, where: str, strip_prefix: str) -> Entry:
    """Make an entry of what a reader found: an object, an address, or the error that stands in their place."""
    if isinstance(element, ValueError):
        return Entry("", "", str(element), where)
    fields: Mapping[str, object] = element if isinstance(element, dict) else {"url": element}
    url = _address(fields)
    if not url:
        return Entry("", "", "no url", where)
    try:
        return Entry(url, _key(fields.get("key"), url, strip_prefix), None, where)
    except ValueError as error:
        return Entry(url, "", str(error), where)


def _address(fields: Mapping[str, object]) -> str:
    for name in _ADDRESSES:
        value = fields.get(name)
        if isinstance(value, str) and (stripped := value.strip()):
            return stripped
    return ""


def _key(given: object, url: str, strip_prefix: str) -> str:
    given = given.strip() if isinstance(given, str) else given
    if given is None or given == "":
        return key_of(url, strip_prefix=strip_prefix)
    _split(url)
    if not isinstance(given, str):
        raise ValueError("bad key")  # noqa: TRY004 - what is wrong with the data is a ValueError throughout
    return clean_key(given)


# --- files --------------------------------------------------------------------------------------------------


class _UnusableError(Exception):
    """What is wrong with the file that is being read, and the cure: the end of a sentence."""


def _refuse(path: Path, what: str) -> NoReturn:
    raise ConfigurationError(f"The manifest {str(path)!r} {what}.") from None


def _kind(path: Path) -> str | None:
    match = _SUFFIX.fullmatch(path.name)
    return match[1].lower() if match else None


def _manifests(path: Path) -> Iterator[tuple[Path, str]]:
    """Return the files of the manifest, each with its name for messages. Checks at once what can be checked at once."""
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in it
        _refuse(path, "does not exist; write the path of a file or of a folder")
    except OSError as error:
        _refuse(path, f"can't be read ({error.strerror or error}); name one that can")
    if folder:
        return _manifests_below(path)
    if not _kind(path):
        _refuse(path, "is none that is known; name a .jsonl, .ndjson, .csv or .json file, or one of these with .gz")
    with _reading(path):
        return iter([(path, path.name)])


def _manifests_below(folder: Path) -> Iterator[tuple[Path, str]]:
    for pattern in (_LOT, _SUFFIX):
        found = _walk(folder, pattern)
        first = next(found, None)
        if first:
            return ((file, file.relative_to(folder).as_posix()) for file in itertools.chain([first], found))
    _refuse(folder, "is a folder without lot_*_images.json, .jsonl, .ndjson, .csv or .json files; name another one")


def _walk(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    """Yield the matching files below *folder* in sorted order, while holding the names of one folder a level."""
    try:
        with os.scandir(folder) as found:
            shown = (entry for entry in found if not entry.name.startswith("."))
            names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in shown)
    except OSError as error:
        _refuse(folder, f"can't be listed ({error.strerror or error}); allow it, or name another one")
    for name, is_folder in names:
        if is_folder:
            yield from _walk(folder / name, pattern)
        elif pattern.fullmatch(name):
            yield folder / name


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[io.BufferedReader]:
    """Open *path*; whatever stops the reading inside is a ConfigurationError."""
    try:
        with io.BufferedReader(_open(path), _BUFFER) as stream:
            _skip_bom(stream)
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


def _skip_bom(stream: io.BufferedReader) -> None:
    start = stream.peek(3)[:3]
    if start == b"\xef\xbb\xbf":
        stream.read(3)
    elif start[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise _UnusableError("is written in UTF-16; save it in UTF-8")


def _entries(files: Iterator[tuple[Path, str]], strip_prefix: str) -> Iterator[Entry]:
    for file, name in files:
        reader = _READERS[_kind(file)]
        with _reading(file) as stream:
            for number, element in reader(stream):
                yield _entry(element, f"{name}:{number}", strip_prefix)


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
            yield number, _json_value(line)


def _json_value(line: bytes | None) -> object:
    try:
        text = _text(line)
    except ValueError as error:
        return error
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return ValueError("bad JSON")


def _count_jsonl(stream: io.BufferedReader) -> int:
    return sum(line is None or not line.isspace() for line in _lines(stream))


# --- CSV ----------------------------------------------------------------------------------------------------


class _CsvLines:
    """The lines for ``csv.reader``, which can take back all but the first line of a row.

    A quote that is opened and never closed swallows the lines after it; they are rows all the same.
    """

    def __init__(self, lines: Iterator[bytes | None]) -> None:
        self._again: deque[bytes | None] = deque()
        self._lines = lines
        self._row: list[bytes | None] = []
        self._size = 0
        self.number = 0
        """The line that was given last, from 1."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.number += 1
        self._row.append(line)
        self._size += len(line or b"")
        if self._size > MAX_LINE + 1:
            raise ValueError("line too long")
        return _text(line)

    def begin(self) -> int:
        """Begin a row and give the number of its first line."""
        self._row.clear()
        self._size = 0
        return self.number + 1

    def take_back(self) -> None:
        """Let the row be its first line only."""
        self._again.extendleft(reversed(self._row[1:]))
        self.number -= len(self._row[1:])


def _csv_rows(stream: io.BufferedReader) -> Iterator[tuple[int, list[str] | ValueError]]:
    """Yield the rows that aren't blank, with the number of the line where each begins."""
    lines = _CsvLines(_lines(stream))
    rows = csv.reader(lines, strict=True)
    while True:
        number = lines.begin()
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            lines.take_back()
            yield number, ValueError("bad CSV")
        except ValueError as error:
            lines.take_back()
            yield number, error
        else:
            if any(cell and not cell.isspace() for cell in row):
                yield number, row


def _csv_items(stream: io.BufferedReader) -> Iterator[tuple[int, object]]:
    rows = _csv_rows(stream)
    columns = _columns(rows)
    for number, row in rows:
        if isinstance(row, ValueError):
            yield number, row
        else:
            yield number, {name: row[index] for name, index in columns.items() if index < len(row)}


def _columns(rows: Iterator[tuple[int, list[str] | ValueError]]) -> dict[str, int]:
    """Take the header row and give where our fields stand in the others."""
    _, header = next(rows, (0, ValueError()))
    names = [] if isinstance(header, ValueError) else [cell.strip().lower() for cell in header]
    columns = {name: names.index(name) for name in _FIELDS & set(names)}
    if not columns.keys() & set(_ADDRESSES):
        raise _UnusableError("has no column url or image_url; let its first line name the columns, with commas between")
    return columns


def _count_csv(stream: io.BufferedReader) -> int:
    return sum(1 for _ in _csv_items(stream))


# --- JSON ---------------------------------------------------------------------------------------------------


def _json_items(stream: io.BufferedReader) -> Iterator[tuple[int, object]]:
    return enumerate(_json_photos(_json_events(stream)), 1)


def _json_events(stream: io.BufferedReader) -> Iterator[tuple[str, Any]]:
    """Yield the events of ``ijson``, those before a break included."""
    events = ijson.sendable_list()
    parser = ijson.basic_parse_coro(events)
    silent = 0
    for read in itertools.chain(iter(partial(stream.read, _BUFFER), b""), [b""]):
        huge = _HUGE_NUMBER.search(read)
        chunk = read[: huge.start()] if huge else read
        broken = huge is not None
        try:
            if chunk:
                parser.send(chunk)
            elif not huge:
                parser.close()  # the end: it says whether the document is whole
        except (ijson.JSONError, ValueError, ArithmeticError):  # the latter two: numbers that Python does not take
            broken = True
        silent = 0 if events else silent + len(chunk)
        yield from events
        events.clear()
        if broken:
            raise _UnusableError(
                "is no whole JSON document: it breaks off, is damaged, or has one object a line; get it anew, "
                "or in the last case name it .jsonl"
            )
        if silent > MAX_LINE:
            # The parser holds an unfinished value in memory, however long it grows.
            raise _UnusableError("has a value of more than 1 MiB, which is no list of photos; name another one")


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
    if isinstance(element, dict):
        return not element.keys().isdisjoint(_ADDRESSES)
    return isinstance(element, str) and element.startswith(("http://", "https://"))


def _elements(events: Iterator[tuple[str, Any]]) -> Iterator[object]:
    """Yield what is in an array that has begun, of objects our fields only."""
    for event, value in events:
        if event == "end_array":
            return
        if event == "start_map":
            yield _fields(events)
        elif event == "start_array":
            _skip(events)
            yield None
        else:
            yield value


def _fields(events: Iterator[tuple[str, Any]]) -> dict[str, object]:
    """Return our fields of an object that has begun; one that is no plain value is ``False``, which is no text."""
    found: dict[str, object] = {}
    name = ""
    for event, value in events:
        if event == "end_map":
            break
        if event == "map_key":
            name = value
            continue
        if event in {"start_map", "start_array"}:
            _skip(events)
        if name in _FIELDS:
            found[name] = False if event in {"start_map", "start_array"} else value
    return found


def _skip(events: Iterable[tuple[str, Any]]) -> None:
    """Read to the end of an object or array that has begun."""
    depth = 1
    for event, _ in events:
        if event in {"start_map", "start_array"}:
            depth += 1
        elif event in {"end_map", "end_array"}:
            depth -= 1
            if not depth:
                return


_Reader = Callable[[io.BufferedReader], Iterator[tuple[int, object]]]
_READERS: Final[Mapping[str | None, _Reader]] = {
    "jsonl": _jsonl_items,
    "ndjson": _jsonl_items,
    "csv": _csv_items,
    "json": _json_items,
}
_COUNTERS: Final[Mapping[str | None, Callable[[io.BufferedReader], int]]] = {
    "jsonl": _count_jsonl,
    "ndjson": _count_jsonl,
    "csv": _count_csv,
}
