"""Lossless removal of private metadata: where a photo was taken, with which very camera, and whose it is.

Nothing is decoded and no byte of the picture moves. An EXIF block keeps its length: private entries are taken
out of their tables and what they pointed at becomes zeros. An XMP packet that speaks of such things is
emptied. All else, the orientation above all, stays as it was. Only compressed text in a PNG changes length.

A photo without private metadata is returned as the very same object.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from carscraper.exceptions import ImageRejectedError
from carscraper.storage.inspection import (
    Fields,
    Part,
    bmff_boxes,
    bmff_items,
    bmff_meta,
    gif_blocks,
    jpeg_segments,
    png_chunks,
    webp_chunks,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_MAX_PASSES: Final = 4


def strip_private(data: bytes, photo_format: str) -> bytes:
    """Return *data* without GPS, serial numbers, owner names and maker notes; the same object if it has none.

    *photo_format* is ``Photo.format``. Never raises for odd data: what can't be followed is left alone, but
    an EXIF block that shows private entries and can't be followed is emptied, all but its orientation.
    """
    find = _FINDERS.get(photo_format)
    if find is None:
        return data
    for _ in range(_MAX_PASSES):  # Hostile data may show something new once something else is gone.
        cleaned = _apply(data, _collect(find(data)))
        if cleaned is data:
            break
        data = cleaned
    return data


# Edits


class _Edit(NamedTuple):
    """``data[start:end]`` becomes *content*."""

    start: int
    end: int
    content: bytes


def _apply(data: bytes, edits: Iterable[_Edit]) -> bytes:
    """Replace what differs; return *data* itself if nothing does. Of overlapping edits the first holds."""
    pieces: list[bytes] = []
    position = 0
    for start, end, content in sorted(edits):
        if start < position or data[start:end] == content:
            continue
        pieces += data[position:start], content
        position = end
    if not pieces:
        return data
    return b"".join((*pieces, data[position:]))


def _collect(edits: Iterator[_Edit]) -> list[_Edit]:
    """Return all edits up to where the structure can't be followed any more."""
    collected: list[_Edit] = []
    try:
        for edit in edits:
            collected.append(edit)  # noqa: PERF402 - extend() would lose those before an exception
    except ImageRejectedError:
        pass
    return collected


def _scatter(data: bytes, pieces: Sequence[tuple[int, int]], clean: Callable[[bytes], bytes]) -> Iterator[_Edit]:
    """Clean what stands in several *pieces* of the data as one block."""
    block = b"".join([data[start:end] for start, end in pieces])
    cleaned = clean(block)
    if cleaned is block:
        return
    position = 0
    for start, end in pieces:
        yield _Edit(start, end, cleaned[position : position + end - start])
        position += end - start


# EXIF

_GPS: Final = 0x8825
_ORIENTATION: Final = 0x0112
_XMP_TAG: Final = 0x02BC
_THUMBNAIL: Final = (0x0201, 0x0202)
"""Where it begins and its length."""
_SUB_TABLES: Final = frozenset({0x014A, 0x8769, 0xA005})
_PRIVATE_TAGS: Final = frozenset(
    {
        _GPS,
        0x927C,  # MakerNote
        0xA430,  # CameraOwnerName
        0xA431,  # BodySerialNumber
        0xA435,  # LensSerialNumber
        0xC62F,  # CameraSerialNumber
        0xC634,  # DNGPrivateData, the maker note of a DNG
        0xFDE8,  # OwnerName
        0xFDE9,  # SerialNumber
    }
)
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
_PRIVATE_IN_SIGHT: Final = re.compile(
    rb"\0(?:(?<=(?:\x88\x25|\x92\x7c|\xa4[\x30\x31\x35]|\xc6[\x2f\x34]|\xfd[\xe8\xe9])\0)[\x01-\x12]\0\0"
    rb"|(?<=(?:\x25\x88|\x7c\x92|[\x30\x31\x35]\xa4|[\x2f\x34]\xc6|[\xe8\xe9]\xfd)[\x01-\x12]\0)..\0\0)",
    re.DOTALL,
)
"""A private entry as it stands in a table of the old or of the 64-bit kind, big or little endian.

Begins at a zero of the entry's type and looks back from there, which is ten times as fast."""
# A real block stays far below these; they bound the work that hostile ones can ask for.
_MAX_BLOCK: Final = 1024 * 1024
_MAX_BLOCKS: Final = 8
_MAX_ENTRIES: Final = 2_000
_MAX_PRIVATE: Final = 64
_MAX_TABLES: Final = 64
_MAX_PACKETS: Final = 4
_MAX_THUMBNAILS: Final = 2
_MAX_DEPTH: Final = 2


class _UnreadableError(Exception):
    """The EXIF block can't be followed safely."""


class _Entry(NamedTuple):
    tag: int
    kind: int
    values: int
    at: int
    start: int
    """Where its value is: in the entry itself if it has room there."""
    end: int


class _Table(NamedTuple):
    start: int
    entries: list[_Entry]
    end: int
    """After the entries and the offset of the next table, as far as the block has them."""
    whole: bool


class _Tiff:
    """An EXIF block, without the header that its container gives it."""

    def __init__(self, block: bytes) -> None:
        if block[:2] not in {b"II", b"MM"} or block[2:4] not in {b"\0*", b"*\0"}:
            raise _UnreadableError
        if not 8 <= len(block) <= _MAX_BLOCK:
            raise _UnreadableError
        self._budget = _MAX_ENTRIES
        self._block = block
        self._order: Literal["little", "big"] = "little" if block[:2] == b"II" else "big"

    def orientation(self) -> int | None:
        for entry in self._table(self._number(4, 4)).entries:
            if entry.tag == _ORIENTATION and entry.kind in {3, 8}:
                value = self._number(entry.start, 2)
                return value if 1 <= value <= 8 else None
        return None

    def cleaned(self, depth: int) -> bytes:
        """Return the block without private entries, the block itself if it has none."""
        tables = self._tables()
        if sum(entry.tag == _XMP_TAG for table in tables for entry in table.entries) > _MAX_PACKETS:
            raise _UnreadableError
        thumbnails = self._thumbnails(tables, depth)
        hit = [table for table in tables if any(map(self._is_private, table.entries))]
        if not hit:
            return _apply(self._block, thumbnails)
        tables.sort()
        ends = [8, *(table.end for table in tables)]
        if any(table.start < end for table, end in zip(tables, ends, strict=False)):
            raise _UnreadableError  # Tables lie over each other.
        if not all(table.whole for table in hit):
            raise _UnreadableError
        if sum(self._is_private(entry) for table in hit for entry in table.entries) > _MAX_PRIVATE:
            raise _UnreadableError
        result = bytearray(_apply(self._block, thumbnails))
        kept = [(0, 8), *((table.start, table.end) for table in tables)]
        for table in hit:
            for entry in filter(self._is_private, table.entries):
                for start, end in self._blanks(entry):
                    _zero(result, start, end, kept)
        for table in hit:
            self._compact(table, result)
        return bytes(result)

    def _number(self, at: int, size: int) -> int:
        if at + size > len(self._block):
            raise _UnreadableError
        return int.from_bytes(self._block[at : at + size], self._order)

    def _tables(self) -> list[_Table]:
        """All tables that can be reached, but not those of GPS."""
        tables: dict[int, _Table] = {}
        waiting = [self._number(4, 4)]
        while waiting:
            start = waiting.pop()
            if not start or start in tables or start + 2 > len(self._block):
                continue
            if start < 8 or len(tables) == _MAX_TABLES:
                raise _UnreadableError
            table = tables[start] = self._table(start)
            if table.whole and table.end - 4 >= start + 2 + 12 * len(table.entries):
                waiting.append(self._number(table.end - 4, 4))
            for entry in table.entries:
                if entry.tag in _SUB_TABLES:
                    waiting += self._offsets(entry)
        return list(tables.values())

    def _table(self, start: int) -> _Table:
        size = len(self._block)
        if start + 2 > size:
            return _Table(start, [], start, whole=False)
        count = self._number(start, 2)
        room = (size - start - 2) // 12
        self._budget -= 1 + min(count, room)
        if self._budget < 0:
            raise _UnreadableError
        entries = []
        for at in range(start + 2, start + 2 + 12 * min(count, room), 12):
            tag, kind, values = self._number(at, 2), self._number(at + 2, 2), self._number(at + 4, 4)
            length = _SIZES.get(kind, 1) * values
            begin = at + 8 if length <= 4 else self._number(at + 8, 4)
            entries.append(_Entry(tag, kind, values, at, begin, begin + length))
        end = start + 2 + 12 * len(entries)
        return _Table(start, entries, end + 4 if end + 4 <= size else end, whole=count <= room)

    def _offsets(self, entry: _Entry) -> list[int]:
        """What an entry of offsets points at."""
        step = 2 if entry.kind in {3, 8} else 4
        count = min(max(entry.values, 1), _MAX_TABLES)
        start = entry.start if count > 1 else entry.at + 8
        last = len(self._block) - step
        return [self._number(at, step) for at in range(start, start + step * count, step) if at <= last]

    def _is_private(self, entry: _Entry) -> bool:
        if entry.tag == _XMP_TAG:
            return _speaks_of_private(self._block[entry.start : entry.end])
        return entry.tag in _PRIVATE_TAGS

    def _blanks(self, entry: _Entry) -> Iterator[tuple[int, int]]:
        """Where the value of a private entry is, and for GPS its table and all values of that."""
        yield entry.start, entry.end
        if entry.tag == _GPS:
            for offset in self._offsets(entry):
                table = self._table(offset)
                yield table.start, table.end
                for value in table.entries:
                    yield value.start, value.end

    def _compact(self, table: _Table, result: bytearray) -> None:
        """Take the private entries out of *table*; the others move up, the room after them becomes zeros."""
        kept = [entry for entry in table.entries if not self._is_private(entry)]
        tail_at = table.start + 2 + 12 * len(table.entries)
        content = len(kept).to_bytes(2, self._order)
        content += b"".join([bytes(result[entry.at : entry.at + 12]) for entry in kept])
        content += result[tail_at : table.end]
        result[table.start : table.end] = content.ljust(table.end - table.start, b"\0")

    def _thumbnails(self, tables: Iterable[_Table], depth: int) -> list[_Edit]:
        """A thumbnail is a JPEG of its own, which may have an EXIF block of its own."""
        places: set[tuple[int, int]] = set()
        for table in tables:
            offsets = {entry.tag: self._offsets(entry) for entry in table.entries if entry.tag in _THUMBNAIL}
            if len(offsets) == len(_THUMBNAIL) and all(offsets.values()):
                start, length = (offsets[tag][0] for tag in _THUMBNAIL)
                places.add((start, min(start + length, len(self._block))))
        edits = []
        for start, end in sorted(places)[: _MAX_THUMBNAILS if depth < _MAX_DEPTH else 0]:
            thumbnail = self._block[start:end]
            if thumbnail.startswith(b"\xff\xd8"):
                edits.append(_Edit(start, end, _apply(thumbnail, _collect(_jpeg(thumbnail, depth + 1)))))
        return edits


def _zero(block: bytearray, start: int, end: int, kept: Sequence[tuple[int, int]]) -> None:
    """Write zeros from *start* to *end*, but not over the sorted ranges in *kept*."""
    end = min(end, len(block))
    index = max(bisect_right(kept, (start, len(block))) - 1, 0)
    for keep_start, keep_end in kept[index:]:
        if start >= end or keep_start >= end:
            break
        if start < keep_start:
            block[start:keep_start] = bytes(keep_start - start)
        start = max(start, keep_end)
    if start < end:
        block[start:end] = bytes(end - start)


def _clean_tiff(block: bytes, depth: int = 0) -> bytes:
    """Take what is private out of an EXIF block; the block itself if there is nothing."""
    try:
        tiff = _Tiff(block)
        cleaned = tiff.cleaned(depth)
        again = cleaned if cleaned is block else _Tiff(cleaned).cleaned(depth)
    except _UnreadableError:
        return _empty_tiff(block) if _PRIVATE_IN_SIGHT.search(block) else block
    if again is not cleaned or _PRIVATE_IN_SIGHT.search(cleaned):
        return _empty_tiff(block)
    return cleaned


def _empty_tiff(block: bytes) -> bytes:
    """An EXIF block of the same length that says nothing but the orientation."""
    try:
        orientation = _Tiff(block).orientation()
    except _UnreadableError:
        orientation = None
    empty = b"MM\0*\0\0\0\x08\0\0\0\0\0\0"
    if orientation is not None and len(block) >= 26:
        empty = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + bytes(6)
    return (empty if len(block) >= len(empty) else b"").ljust(len(block), b"\0")


def _clean_exif(payload: bytes, depth: int = 0) -> bytes:
    """The same for a block that may have JPEG's header before it."""
    if not payload.startswith(b"Exif\0"):
        return _clean_tiff(payload, depth)
    block = payload[6:]
    cleaned = _clean_tiff(block, depth)
    return payload if cleaned is block else payload[:6] + cleaned


# XMP

_PRIVATE_WORDS: Final = re.compile(
    rb"GPS|G[Pp]s[A-Z]|SerialN|OwnerName|ISO6709|LocationCreated|:(?:Lat|Long)itude", re.DOTALL
)
_EMPTY_XMP: Final = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'


def _speaks_of_private(text: bytes) -> bool:
    if b"\0" in text:  # UTF-16
        text = text.replace(b"\0", b"")
    return _PRIVATE_WORDS.search(text) is not None


def _clean_xmp(text: bytes) -> bytes:
    """Empty an XMP packet that speaks of private things; the text itself if it does not."""
    if not _speaks_of_private(text):
        return text
    return (_EMPTY_XMP if len(text) >= len(_EMPTY_XMP) else b"").ljust(len(text))


def _clean_text(text: bytes) -> bytes:
    return b" " * len(text) if _speaks_of_private(text) else text


# JPEG

_XMP_HEADER: Final = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_EXTENSION: Final = b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP: Final = b"Photoshop 3.0\0"
_LOCATED_VIDEO: Final = re.compile(rb"\xa9xyz|ISO6709|loci\0|gpmd|camm")
_MAX_PICTURES: Final = 64


def _jpeg(data: bytes, depth: int = 0, begin: int = 0) -> Iterator[_Edit]:
    """Private metadata in the segments of a JPEG, and in the further pictures or the video after its end."""
    exif: list[tuple[int, int]] = []
    extension: list[tuple[int, int]] = []
    several = begin > 0 or not data.endswith(b"\xff\xd9")
    after = 0
    try:
        for marker, start, end in jpeg_segments(data, begin):
            if marker == 0xD9:
                after = end
            elif marker == 0xDA and not several:
                break
            elif data.startswith(b"MPF\0", start):
                several = True
            elif data.startswith(b"Exif\0", start):
                exif.append((min(start + 6, end), end))
            elif data.startswith(_XMP_HEADER, start):
                yield from _scatter(data, [(min(start + len(_XMP_HEADER), end), end)], _clean_xmp)
            elif data.startswith(_XMP_EXTENSION, start):
                extension.append((min(start + len(_XMP_EXTENSION) + 40, end), end))
            elif data.startswith(_PHOTOSHOP, start):
                yield from _photoshop(data, start + len(_PHOTOSHOP), end, depth)
    except ImageRejectedError:
        pass
    yield from _exif_segments(data, exif, depth)
    yield from _scatter(data, extension, _clean_text)
    if after and not begin:
        yield from _after_jpeg(data, after, depth)


def _exif_segments(data: bytes, pieces: list[tuple[int, int]], depth: int) -> Iterator[_Edit]:
    """One block may go on in further segments, or each has a block of its own: told by how they begin."""
    groups: list[list[tuple[int, int]]] = []
    for start, end in pieces:
        if groups and data[start : start + 2] not in {b"II", b"MM"}:
            groups[-1].append((start, end))
        else:
            groups.append([(start, end)])
    for group in groups[:_MAX_BLOCKS]:
        yield from _scatter(data, group, lambda block: _clean_tiff(block, depth))
    for group in groups[_MAX_BLOCKS:]:
        yield from _scatter(data, group, lambda block: bytes(len(block)))


def _photoshop(data: bytes, position: int, end: int, depth: int) -> Iterator[_Edit]:
    """Photoshop keeps copies of EXIF and XMP among its resources."""
    while position + 12 <= end and data.startswith(b"8BIM", position):
        resource = int.from_bytes(data[position + 4 : position + 6], "big")
        position += 6 + (data[position + 6] + 2 & ~1)
        start = position + 4
        stop = start + int.from_bytes(data[position:start], "big")
        if start > end or stop > end:
            return
        if resource == 0x0422:
            yield from _scatter(data, [(start, stop)], lambda block: _clean_exif(block, depth))
        elif resource == 0x0424:
            yield from _scatter(data, [(start, stop)], _clean_xmp)
        position = stop + (stop - start & 1)


def _after_jpeg(data: bytes, position: int, depth: int) -> Iterator[_Edit]:
    """Phones put a second picture or a short video after the end of the first picture."""
    for _ in range(_MAX_PICTURES):
        picture = data.find(b"\xff\xd8\xff", position)
        if picture < 0:
            break
        yield from _jpeg(data, depth, picture)
        position = picture + 3
        try:
            for segment in jpeg_segments(data, picture):
                position = segment.end
        except ImageRejectedError:
            pass
    video = data.find(b"ftyp", position + 4)
    if video >= 0 and _LOCATED_VIDEO.search(data, video):
        yield _Edit(video - 4, len(data), bytes(len(data) - video + 4))


# PNG

_RAW_PROFILE: Final = b"Raw profile type "
_RAW_PROFILE_TEXT: Final = re.compile(rb"\s*+\S++\s++\d++\s++([0-9a-fA-F\s]*+)")
_XMP_KEYWORD: Final = b"XML:com.adobe.xmp"
_PNG_METADATA: Final = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
_MAX_TEXT: Final = 16 * 1024 * 1024


def _png(data: bytes) -> Iterator[_Edit]:
    blocks = 0
    room = _MAX_TEXT
    for name, start, end in png_chunks(data):
        content = chunk = data[start:end] if name in _PNG_METADATA else b""
        if name == b"eXIf":
            blocks += 1
            content = _clean_exif(chunk) if blocks <= _MAX_BLOCKS else bytes(len(chunk))
        elif chunk:
            content, room = _png_text(name, chunk, room)
        if content != chunk:
            checksum = zlib.crc32(content, zlib.crc32(name)).to_bytes(4, "big")
            yield _Edit(start - 8, end + 4, len(content).to_bytes(4, "big") + name + content + checksum)


def _png_text(name: bytes, chunk: bytes, room: int) -> tuple[bytes, int]:
    """Clean a chunk of text; compressed text may take *room* bytes, and what is left of that is returned too."""
    keyword, separator, rest = chunk.partition(b"\0")
    if not separator or not _may_be_private(keyword):
        return chunk, room
    compressed = name == b"zTXt"
    head = 1 if compressed else 0
    if name == b"iTXt":
        compressed = rest[:1] == b"\1"
        language = rest.find(b"\0", 2)
        head = rest.find(b"\0", language + 1) + 1 if language >= 0 else 0
        if head == 0:
            return chunk, room
    before, text = keyword + b"\0" + rest[:head], rest[head:]
    if not compressed:
        return before + _clean_png_text(keyword, text), room
    try:
        inflater = zlib.decompressobj()
        plain = inflater.decompress(text, room) if room else b""
    except zlib.error:
        return chunk, room
    room -= len(plain)
    # Text that takes too much room is a bomb, and goes.
    cleaned = _clean_png_text(keyword, plain) if room else b""
    return (chunk if room and cleaned == plain else before + zlib.compress(cleaned, 9)), room


def _may_be_private(keyword: bytes) -> bool:
    return keyword == _XMP_KEYWORD or keyword.startswith(_RAW_PROFILE) or _speaks_of_private(keyword)


def _clean_png_text(keyword: bytes, text: bytes) -> bytes:
    if keyword == _XMP_KEYWORD:
        return _clean_xmp(text)
    if not keyword.startswith(_RAW_PROFILE):
        return b" " * len(text)
    match = _RAW_PROFILE_TEXT.fullmatch(text)
    if not match:
        return text
    digits = b"".join(match[1].split())
    raw = bytes.fromhex(digits[: len(digits) & ~1].decode("ascii"))
    cleaned = _clean_xmp(raw) if b"<" in raw[:64] and not raw.startswith(b"Exif\0") else _clean_exif(raw)
    if cleaned == raw:
        return text
    fresh = iter(cleaned.hex())
    body = re.sub(rb"[0-9a-fA-F]", lambda digit: next(fresh, digit[0].decode()).encode(), match[1])
    return text[: match.start(1)] + body + text[match.end(1) :]


# WebP


def _webp(data: bytes) -> Iterator[_Edit]:
    for name, start, end in webp_chunks(data):
        if name == b"EXIF":
            yield from _scatter(data, [(start, end)], _clean_exif)
        elif name == b"XMP ":
            yield from _scatter(data, [(start, end)], _clean_xmp)


# GIF

_GIF_XMP: Final = b"\x0bXMP DataXMP"
_GIF_XMP_TRAILER: Final = b"\x01" + bytes(range(255, -1, -1)) + b"\0"


def _gif(data: bytes) -> Iterator[_Edit]:
    for name, start, end in gif_blocks(data):
        if name != b"!\xff" or not data.startswith(_GIF_XMP, start):
            continue
        begin = start + len(_GIF_XMP)
        if data.endswith(_GIF_XMP_TRAILER, begin, end):
            # The packet stands there as it is; wherever a reader lands, the trailer leads it out.
            yield from _scatter(data, [(begin, end - len(_GIF_XMP_TRAILER))], _clean_xmp)
            continue
        pieces = []
        while data[begin]:
            pieces.append((begin + 1, begin + 1 + data[begin]))
            begin += 1 + data[begin]
        yield from _scatter(data, pieces, _clean_xmp)


# AVIF

_MAX_ITEMS: Final = 16


def _avif(data: bytes) -> Iterator[_Edit]:
    boxes = list(bmff_boxes(data, 0, len(data)))
    for meta in _avif_metas(data, boxes):
        children = bmff_meta(data, meta)
        types = _avif_item_types(data, children.get(b"iinf"))
        places = [place for place in (*boxes, *children.values()) if place.name in {b"mdat", b"idat"}]
        private: list[tuple[bytes, tuple[tuple[int, int], ...]]] = []
        picture: list[tuple[int, int]] = []
        for item in bmff_items(data, children):
            kind = types.get(item.id, b"")
            if kind in {b"Exif", b"xmp"} and len(private) < _MAX_ITEMS and len(item.extents) < _MAX_ITEMS:
                private.append((kind, item.extents))
            else:
                picture += item.extents
        for kind, extents in private:
            if all(_is_apart(extent, places, picture) for extent in extents):
                yield from _scatter(data, extents, _clean_xmp if kind == b"xmp" else _clean_avif_exif)


def _avif_metas(data: bytes, boxes: Iterable[Part]) -> Iterator[Part]:
    """Find the ``meta`` boxes of the file and, in an animation, of its tracks."""
    for box in boxes:
        if box.name == b"meta":
            yield box
        elif box.name == b"moov":
            for track in bmff_boxes(data, box.start, box.end):
                if track.name == b"trak":
                    yield from (part for part in bmff_boxes(data, *track[1:]) if part.name == b"meta")


def _avif_item_types(data: bytes, part: Part | None) -> dict[int, bytes]:
    """The type of each item, ``xmp`` for those of XMP."""
    types: dict[int, bytes] = {}
    if part is None:
        return types
    fields = Fields(data, part)
    fields.take(2 if fields.take(4) >> 24 == 0 else 4)
    for entry in bmff_boxes(data, fields.position, part.end):
        fields = Fields(data, entry)
        version = fields.take(4) >> 24
        if entry.name != b"infe" or version < 2:
            continue
        item = fields.take(2 if version == 2 else 4)
        fields.take(2)
        kind = fields.take(4).to_bytes(4, "big")
        fields.text()
        if kind == b"mime" and fields.text() == b"application/rdf+xml":
            kind = b"xmp"
        types[item] = kind
    return types


def _is_apart(extent: tuple[int, int], places: list[Part], picture: list[tuple[int, int]]) -> bool:
    """Whether an item's bytes are where items are, and none of them is the picture's."""
    start, end = extent
    return any(place.start <= start and end <= place.end for place in places) and not any(
        start < stop and begin < end for begin, stop in picture
    )


def _clean_avif_exif(item: bytes) -> bytes:
    """An item of EXIF says first how many bytes there are before the block."""
    skip = 4 + int.from_bytes(item[:4], "big")
    if skip >= len(item):
        skip = min(4, len(item))
    block = item[skip:]
    cleaned = _clean_exif(block)
    return item if cleaned is block else item[:skip] + cleaned


_FINDERS: Final[dict[str, Callable[[bytes], Iterator[_Edit]]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "AVIF": _avif,
}
