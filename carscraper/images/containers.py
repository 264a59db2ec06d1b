"""Walk the parts of a picture's file: the segments of a JPEG, the chunks of a PNG or WebP, the blocks of a GIF, the
boxes of an AVIF.

Nothing is decoded, and what stands inside a part (an EXIF thumbnail, say) is not looked at. Every walker raises
:exc:`~carscraper.exceptions.ImageRejectedError` with ``truncated`` where the data ends too early, and with
``not-an-image`` where it can't be followed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, NoReturn

from carscraper.exceptions import ImageRejectedError

MAX_PARTS: Final = 20_000
"""More of them are no picture; it bounds what a hostile file can cost."""


class Part(NamedTuple):
    """``data[begin:end]`` is the whole part, ``data[start:end]`` its content (with a PNG's checksum)."""

    name: bytes
    begin: int
    start: int
    end: int


def truncated(detail: str) -> NoReturn:
    """Raise for data that ends too early."""
    raise ImageRejectedError("truncated", detail)


def not_an_image(detail: str) -> NoReturn:
    """Raise for data that is no picture."""
    raise ImageRejectedError("not-an-image", detail)


def big_endian(data: bytes, at: int, size: int = 4) -> int:
    """Return the number of *size* bytes at *at*, high byte first."""
    return int.from_bytes(data[at : at + size], "big")


def little_endian(data: bytes, at: int, size: int = 4) -> int:
    """Return the number of *size* bytes at *at*, low byte first."""
    return int.from_bytes(data[at : at + size], "little")


# --- JPEG: ITU-T T.81, annex B --------------------------------------------------------------------------------------

SOF: Final = frozenset(bytes([marker]) for marker in {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
SOS: Final = b"\xda"
EOI: Final = b"\xd9"
SCAN: Final = b""
"""The name of the part with a scan's coded pixels, restart markers included."""
_SOI: Final = 0xD8
_BARE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_next_marker = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]").search
"""Within a scan 00, TEM and RST0 to RST7 after FF are part of it."""


def jpeg_parts(data: bytes) -> Iterator[Part]:
    """Walk from SOI to EOI, the last one yielded. A part's name is its marker's second byte."""
    size = len(data)
    position = 2
    for _ in range(MAX_PARTS):
        if position + 2 > size:
            truncated("ends before its end marker")
        if data[position] != 0xFF or not 0xC0 <= data[position + 1] <= 0xFE:
            position = _marker_from(data, position)  # fill bytes, or a few stray ones that every decoder skips
        begin, marker = position, data[position + 1]
        position += 2
        if marker in _BARE:
            continue
        if marker == _SOI:
            truncated("another picture begins before this one's end marker")
        name = bytes([marker])
        if name == EOI:
            yield Part(name, begin, position, position)
            return
        end = position + big_endian(data, position, 2)
        if position + 2 > size or end > size:
            truncated("ends within a segment")
        if end < position + 2:
            not_an_image("a JPEG segment is shorter than its own length field")
        yield Part(name, begin, position + 2, end)
        position = end
        if name == SOS:
            position = _marker_from(data, end)
            yield Part(SCAN, end, end, position)
    not_an_image(f"more than {MAX_PARTS} JPEG segments")


def _marker_from(data: bytes, position: int) -> int:
    found = _next_marker(data, position)
    if not found:
        truncated("ends before its end marker")
    return found.start()


# --- PNG ------------------------------------------------------------------------------------------------------------

PNG: Final = b"\x89PNG\r\n\x1a\n"


def png_parts(data: bytes) -> Iterator[Part]:
    """Walk the chunks to IEND, the last one yielded; the end of each is behind its checksum."""
    position = len(PNG)
    for _ in range(MAX_PARTS):
        if position + 12 > len(data):
            truncated("ends before the IEND chunk")
        begin, start = position, position + 8
        position = start + big_endian(data, begin) + 4
        if position > len(data):
            truncated("ends within a chunk")
        name = data[begin + 4 : start]
        yield Part(name, begin, start, position)
        if name == b"IEND":
            return
    not_an_image(f"more than {MAX_PARTS} PNG chunks")


# --- WebP -----------------------------------------------------------------------------------------------------------

WEBP_PICTURE: Final = frozenset({b"VP8 ", b"VP8L", b"ANMF"})


def webp_parts(data: bytes) -> Iterator[Part]:
    """Walk the chunks of the RIFF container; what stands behind it is not part of the picture."""
    if len(data) < 12:
        truncated("ends within the RIFF header")
    limit = 8 + little_endian(data, 4)
    if limit > len(data):
        truncated(f"{len(data)} of {limit} bytes")
    return riff_chunks(data, 12, limit)


def riff_chunks(data: bytes, position: int, limit: int) -> Iterator[Part]:
    """Walk the chunks in ``data[position:limit]``; a damaged one behind the picture ends it, as in browsers."""
    has_picture = False
    for _ in range(MAX_PARTS):
        if position + 8 > limit:
            return
        name, begin, start = data[position : position + 4], position, position + 8
        end = start + little_endian(data, begin + 4)
        if end > limit:
            if has_picture and name not in WEBP_PICTURE:
                return
            truncated("ends within a chunk")
        yield Part(name, begin, start, end)
        has_picture = has_picture or name in WEBP_PICTURE
        position = end + (end & 1)
    not_an_image(f"more than {MAX_PARTS} WebP chunks")


# --- GIF ------------------------------------------------------------------------------------------------------------


def gif_screen_end(data: bytes) -> int:
    """Return where the first block begins: behind the screen's description and its colours."""
    if len(data) < 13:
        truncated("ends within its header")
    return 13 + _colours(data[10])


def gif_parts(data: bytes) -> Iterator[Part]:
    """Walk the blocks: ``,`` for a frame, ``!`` and a label for an extension.

    The trailer is not yielded, and need not be there: every browser shows a GIF whose last frame is whole. So are NULs
    between blocks.
    """
    position = gif_screen_end(data)
    frames = 0
    for _ in range(MAX_PARTS):
        while position < len(data) and not data[position]:
            position += 1
        if position >= len(data):
            if not frames:
                truncated("ends before its first frame")
            return
        begin, introducer = position, data[position : position + 1]
        if introducer == b";":
            return
        if introducer == b",":
            name, start = introducer, begin + 1
            if begin + 10 > len(data):
                truncated("ends within a frame")
            position = begin + 11 + _colours(data[begin + 9])
            frames += 1
        elif introducer == b"!":
            name, start = data[begin : begin + 2], begin + 2
            position = start
        else:
            not_an_image("a GIF with an unknown block")
        while position < len(data) and data[position]:
            position += 1 + data[position]
        if position >= len(data):
            truncated("ends within a block")
        position += 1
        yield Part(name, begin, start, position)
    not_an_image(f"more than {MAX_PARTS} GIF blocks")


def _colours(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


# --- AVIF: ISO/IEC 14496-12, 23008-12 ---------------------------------------------------------------------------------


def avif_parts(data: bytes) -> Iterator[Part]:
    """Walk the boxes of the file itself."""
    return boxes(data, 0, len(data))


def boxes(data: bytes, position: int, limit: int) -> Iterator[Part]:
    """Walk the boxes in ``data[position:limit]``."""
    for _ in range(MAX_PARTS):
        if position == limit:
            return
        begin, start = position, position + 8
        if start > limit:
            truncated("ends within a box header")
        size = big_endian(data, begin)
        if size == 1:
            start += 8
            size = big_endian(data, begin + 8, 8)
        elif size == 0:
            size = limit - begin
        position = begin + size
        if position < start:
            not_an_image("a box is shorter than its own header")
        if position > limit:
            truncated("ends within a box")
        yield Part(data[begin + 4 : begin + 8], begin, start, position)
    not_an_image(f"more than {MAX_PARTS} boxes")


class AvifItem(NamedTuple):
    """An item of an AVIF: a picture, a part of one, or metadata."""

    type: bytes
    extents: list[tuple[int, int]]
    """Where its bytes are in the file: begin and end of each piece."""


class _Fields:
    """The big-endian numbers of a box, one after the other."""

    def __init__(self, data: bytes, part: Part) -> None:
        self._data, self._at, self._end = data, part.start, part.end

    def take(self, size: int) -> int:
        if self._at + size > self._end:
            truncated("ends within a box's fields")
        self._at += size
        return big_endian(self._data, self._at - size, size)


def meta_boxes(data: bytes, meta: Part) -> list[Part]:
    """Return the boxes in a ``meta`` box, which begins with four bytes of version and flags."""
    return list(boxes(data, min(meta.start + 4, meta.end), meta.end))


def avif_items(data: bytes, children: list[Part]) -> list[AvifItem]:
    """Return the items that the boxes of a ``meta`` box describe and that lie in this file."""
    found = {part.name: part for part in reversed(children)}
    types: dict[int, bytes] = {}
    if info := found.get(b"iinf"):
        first = info.start + (8 if data[info.start : info.start + 1] > b"\0" else 6)
        for entry in boxes(data, min(first, info.end), info.end):
            fields = _Fields(data, entry)
            version = fields.take(4) >> 24
            item = fields.take(2 if version < 3 else 4)
            fields.take(2)
            types[item] = fields.take(4).to_bytes(4, "big") if version >= 2 else b""
    if b"iloc" not in found:
        return []
    fields = _Fields(data, found[b"iloc"])
    version = fields.take(4) >> 24
    sizes = fields.take(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    items = []
    for _ in range(fields.take(2 if version < 2 else 4)):
        item = fields.take(2 if version < 2 else 4)
        method = fields.take(2) & 15 if version else 0
        fields.take(2)
        base = fields.take(base_size)
        extents = []
        for _ in range(fields.take(2)):
            fields.take(index_size)
            begin, limit = base + fields.take(offset_size), len(data)
            length = fields.take(length_size)
            if method == 1 and b"idat" in found:
                begin, limit = found[b"idat"].start + begin, found[b"idat"].end
            end = begin + length if length else limit
            if method < 2 and not begin <= end <= limit:
                truncated("ends within an item's data")
            extents.append((begin, end))
            if len(extents) > MAX_PARTS:
                not_an_image(f"more than {MAX_PARTS} pieces of an item")
        if method < 2:
            items.append(AvifItem(types.get(item, b""), extents))
    return items


PARTS: Final[dict[str, Callable[[bytes], Iterator[Part]]]] = {
    "JPEG": jpeg_parts,
    "PNG": png_parts,
    "WEBP": webp_parts,
    "GIF": gif_parts,
    "AVIF": avif_parts,
}
"""The walker of each format."""
