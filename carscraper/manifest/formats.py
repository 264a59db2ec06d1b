"""The formats of a manifest's files: each reader yields what is at every number, an address, an object or an error."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import ijson

if TYPE_CHECKING:
    import io

MAX_LINE: Final = 1 << 20
"""Bytes. A longer line, or a longer value of a JSON file, is no photo."""
BUFFER: Final = 1 << 16
ADDRESSES: Final = ("image_url", "url", "thumb_url")
"""Fields with addresses."""

_FIELDS: Final = frozenset({*ADDRESSES, "key"})
_END: Final = 320  # bytes of a piece that are looked at with the next one
_LONGEST_ROW: Final = 1 << 17  # bytes of a CSV row of several lines
# ijson's C code ends the process over more digits than Python takes, 640 at least; they may lie in two pieces.
_MANY_DIGITS = re.compile(rb"[0-9]{320}")
# What programs write for numbers that are none, or that nobody needs; addresses have other characters before them.
_HUGE_NUMBER = re.compile(rb"(?<=[\s\[:,.eE+-])[0-9]{320,}")
_NOT_A_NUMBER = re.compile(rb"([\[:,]\s*)-?(?:NaN|Infinity)(?=\s*[,\]}])")


class UnusableError(Exception):
    """What is wrong with the file, and the cure."""


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
    is_empty = True
    for number, line in enumerate(_lines(stream), 1):
        if line is None or not line.isspace():
            is_empty = False
            yield number, _value(line)
    if is_empty:
        raise UnusableError("is empty; get it anew")


def _value(line: bytes | None) -> object:
    text = ""
    try:
        text = _text(line)
        try:
            return json.loads(text)
        except ValueError as error:
            if isinstance(error, json.JSONDecodeError):
                raise
            return json.loads(text, parse_int=float)  # a number of thousands of digits
    except (ValueError, RecursionError) as error:
        return ValueError("bad JSON") if text else error


def _csv_items(stream: io.BufferedReader) -> Iterator[tuple[int, object]]:
    rows = _csv_rows(stream)
    _, header = next(rows, (0, ValueError()))
    names = [] if isinstance(header, ValueError) else [cell.strip().lower() for cell in header]
    columns = {name: names.index(name) for name in _FIELDS & set(names)}
    if not columns.keys() & set(ADDRESSES):
        raise UnusableError("has no column url or image_url; let its first line name the columns, with commas between")
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
        self._end = b""

    def read(self, size: int) -> bytes:
        """Return the next piece; called by ijson."""
        piece = self._stream.read1(size)
        self._silent += len(piece)
        piece = _NOT_A_NUMBER.sub(rb"\1null", _HUGE_NUMBER.sub(b"0", piece))
        if _MANY_DIGITS.search(self._end + piece):
            raise UnusableError("has more than 300 digits in a row, which can't be read; leave them out")
        self._end = (self._end + piece)[-_END:]
        if self._silent > MAX_LINE + BUFFER:
            raise UnusableError("has a value of more than 1 MiB, which is no list of photos; name another one")
        return piece

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        try:
            for event in ijson.basic_parse(self, buf_size=BUFFER):
                self._silent = 0
                yield event
        except ArithmeticError:
            raise UnusableError("has a number that is too large; write it in quotes, or leave it out") from None
        except (ijson.JSONError, ValueError):
            raise UnusableError(
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
        raise UnusableError('has no list of photos; let it be an array, or an object such as {"images": [...]}')


def _has_address(element: object) -> bool:
    is_one = isinstance(element, str) and element.startswith(("http://", "https://"))
    return is_one or (isinstance(element, dict) and not element.keys().isdisjoint(ADDRESSES))


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


READERS: Final[Mapping[str, Callable[[io.BufferedReader], Iterator[tuple[int, object]]]]] = {
    "jsonl": _jsonl_items,
    "ndjson": _jsonl_items,
    "csv": _csv_items,
    "json": _json_items,
}
