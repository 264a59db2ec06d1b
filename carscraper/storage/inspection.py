"""Is it a photo? Decided by the bytes alone: what they are, that they are whole, how large the picture is.

Nothing is decoded. A photo's structure says all of it: the segments of a JPEG, the chunks of a PNG or a WebP,
the blocks of a GIF, the boxes of an AVIF. So a pixel bomb costs nothing, and a photo a few microseconds where
decoding takes milliseconds. The walkers are public because ``storage.metadata`` walks the same structures.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, NoReturn

from carscraper.exceptions import ImageRejectedError

Buffer = bytes | bytearray


@dataclass(frozen=True, slots=True)
class Photo:
    """What the bytes say about themselves."""

    format: str
    """``JPEG``, ``PNG``, ``WEBP``, ``GIF`` or ``AVIF``."""
    content_type: str
    extension: str
    """Without a dot: ``jpg``, ``png``, ``webp``, ``gif`` or ``avif``."""
    width: int
    """Pixels as stored, before any rotation that the metadata asks for."""
    height: int


class Part(NamedTuple):
    """A segment, chunk or box: its payload is ``data[start:end]``."""

    name: bytes
    start: int
    end: int


class _Limits(NamedTuple):
    """The pixel cap, asked as soon as a header has been read."""

    max_pixels: int

    def check(self, width: int, height: int) -> None:
        if width <= 0 or height <= 0:
            _not_an_image(f"its header says {width}x{height} pixels")
        if width * height > self.max_pixels:
            raise ImageRejectedError("too-large", f"{width}x{height} pixels, more than {self.max_pixels}")


def inspect(data: bytes, *, min_width: int, min_height: int, max_pixels: int, max_bytes: int) -> Photo:
    """Return what *data* is, or raise ``ImageRejectedError``, and never anything else.

    The smallest size holds for a photo lying or standing: its longer side is compared with the longer of the
    two minima, so that a rotation by EXIF makes no difference.
    """
    if not data:
        raise ImageRejectedError("empty", "no bytes at all")
    if len(data) > max_bytes:
        raise ImageRejectedError("too-large", f"{len(data)} bytes, more than {max_bytes}")
    kind = _kind(data)
    width, height = kind.measure(data, _Limits(max_pixels))
    if min(width, height) < min(min_width, min_height) or max(width, height) < max(min_width, min_height):
        raise ImageRejectedError("too-small", f"{width}x{height} pixels, less than {min_width}x{min_height}")
    return Photo(kind.format, kind.content_type, kind.extension, width, height)


def _truncated(detail: str) -> NoReturn:
    raise ImageRejectedError("truncated", detail)


def _not_an_image(detail: str) -> NoReturn:
    raise ImageRejectedError("not-an-image", detail)


def _be16(data: Buffer, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _be32(data: Buffer, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def _le16(data: Buffer, at: int) -> int:
    return data[at] | data[at + 1] << 8


def _le24(data: Buffer, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def _le32(data: Buffer, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


# JPEG

_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL: Final = frozenset({0xC0, 0xC1, 0xC3, 0xC9, 0xCB})
_BARE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_SOI: Final = 0xD8
_EOI: Final = 0xD9
_SOS: Final = 0xDA
_MAX_SEGMENTS: Final = 20_000
_next_marker = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]").search
"""Finds a marker in the picture data, where 00, TEM and RST0 to RST7 after FF mean nothing."""


class Segment(NamedTuple):
    """A JPEG segment: its payload, after marker and length, is ``data[start:end]``."""

    marker: int
    start: int
    end: int


def jpeg_segments(data: Buffer, begin: int = 0) -> Iterator[Segment]:
    """Walk the segments after SOI at *begin*, picture data skipped, to EOI, the last one yielded.

    What stands inside a segment, such as an EXIF thumbnail, is never looked at. Raises ``ImageRejectedError``
    where the data ends too early or can't be followed.
    """
    size = len(data)
    position = begin + 2
    for _ in range(_MAX_SEGMENTS):
        if position + 2 > size:
            _truncated("ends before its end marker")
        if data[position] != 0xFF or not 0xC0 <= data[position + 1] <= 0xFE:
            # Fill bytes, or a few stray ones that every decoder skips.
            found = _next_marker(data, position)
            if not found:
                _truncated("ends before its end marker")
            position = found.start()
        marker = data[position + 1]
        position += 2
        if marker in _BARE:
            continue
        if marker == _EOI:
            yield Segment(marker, position, position)
            return
        if marker == _SOI:
            _truncated("another picture begins before this one's end marker")
        if position + 2 > size:
            _truncated("ends within a segment's length")
        end = position + _be16(data, position)
        if end < position + 2:
            _not_an_image("a JPEG segment is shorter than its own length field")
        if end > size:
            _truncated("ends within a segment")
        yield Segment(marker, position + 2, end)
        position = end
        if marker == _SOS:
            found = _next_marker(data, position)
            if not found:
                _truncated("ends before its end marker")
            position = found.start()
    _not_an_image(f"more than {_MAX_SEGMENTS} JPEG segments")


def _jpeg(data: bytes, limits: _Limits) -> tuple[int, int]:
    frame: Segment | None = None
    width = height = 0
    scan_end = 0
    for segment in jpeg_segments(data):
        marker, start, end = segment
        if marker in _SOF:
            if frame:
                _not_an_image("two frame headers in one JPEG")
            if end - start < 9 or end - start != 6 + 3 * data[start + 5]:
                _not_an_image("a damaged JPEG frame header")
            frame = segment
            height, width = _be16(data, start + 1), _be16(data, start + 3)
            limits.check(width, height)
        elif marker == _SOS:
            if not frame:
                _not_an_image("JPEG picture data without a frame header")
            scan_end = end
            components = data[start] if end > start else 0
            complete = frame.marker in _SEQUENTIAL and components == data[frame.start + 5]
            if complete and data.endswith(b"\xff\xd9"):
                break  # One scan holds the whole picture, and FF D9 can't occur within it.
    if not scan_end:
        _not_an_image("a JPEG without picture data")
    if data.startswith(b"\xff\xd9", scan_end):
        _truncated("no picture data before the end marker")
    return width, height


# PNG

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_CRITICAL: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_MAX_CHUNKS: Final = 100_000


def png_chunks(data: Buffer) -> Iterator[Part]:
    """Walk the chunks to IEND, the last one yielded; raises ``ImageRejectedError`` where the data ends early."""
    position = 8
    for _ in range(_MAX_CHUNKS):
        if position + 12 > len(data):
            _truncated("ends before the IEND chunk")
        start = position + 8
        end = start + _be32(data, position)
        if end + 4 > len(data):
            _truncated("ends within a chunk")
        name = bytes(data[position + 4 : start])
        yield Part(name, start, end)
        if name == b"IEND":
            return
        position = end + 4
    _not_an_image(f"more than {_MAX_CHUNKS} PNG chunks")


def _png(data: bytes, limits: _Limits) -> tuple[int, int]:
    width = height = 0
    pixels = False
    view = memoryview(data)
    for index, (name, start, end) in enumerate(png_chunks(data)):
        if index == 0:
            if name != b"IHDR" or end - start != 13:
                _not_an_image("a PNG that does not begin with its header")
            width, height = _be32(data, start), _be32(data, start + 4)
            if data[start + 8] not in _DEPTHS.get(data[start + 9], ()):
                _not_an_image("a PNG with an impossible bit depth or colour type")
            limits.check(width, height)
        if name in _CRITICAL and zlib.crc32(view[start - 4 : end]) != _be32(data, end):
            _truncated(f"the checksum of its {name.decode()} chunk is wrong")
        pixels = pixels or (name == b"IDAT" and end > start)
    if not pixels:
        _not_an_image("a PNG without picture data")
    return width, height


# WebP


def webp_chunks(data: Buffer) -> Iterator[Part]:
    """Walk the chunks of the RIFF container; raises ``ImageRejectedError`` where the data ends too early."""
    if len(data) < 12:
        _truncated("ends within the RIFF header")
    limit = 8 + _le32(data, 4)
    if limit > len(data):
        _truncated(f"{len(data)} of {limit} bytes")
    position = 12
    for _ in range(_MAX_CHUNKS):
        if position + 8 > limit:
            return
        start = position + 8
        end = start + _le32(data, position + 4)
        if end > limit:
            _truncated("ends within a chunk")
        yield Part(bytes(data[position : position + 4]), start, end)
        position = end + (end & 1)
    _not_an_image(f"more than {_MAX_CHUNKS} WebP chunks")


def _webp(data: bytes, limits: _Limits) -> tuple[int, int]:
    canvas: tuple[int, int] | None = None
    picture: tuple[int, int] | None = None
    for name, start, end in webp_chunks(data):
        size: tuple[int, int] | None = None
        if name == b"VP8X":
            if canvas or picture or end - start < 10:
                _not_an_image("a damaged WebP header")
            size = canvas = _le24(data, start + 4) + 1, _le24(data, start + 7) + 1
        elif name == b"ANMF":
            if end - start < 24:
                _truncated("an animation frame is too short")
            size = _le24(data, start + 6) + 1, _le24(data, start + 9) + 1
            picture = picture or size
        elif name in {b"VP8 ", b"VP8L"}:
            size = _webp_bitstream(data, name, start, end)
            picture = picture or size
        if size:
            limits.check(*size)
    if not picture:
        _truncated("a WebP without picture data")
    return canvas or picture


def _webp_bitstream(data: bytes, name: bytes, start: int, end: int) -> tuple[int, int]:
    if name == b"VP8 ":
        if end - start < 10 or data[start + 3 : start + 6] != b"\x9d\x01\x2a":
            _not_an_image("a damaged VP8 header")
        first_partition = _le24(data, start) >> 5
        if start + 10 + first_partition > end:
            _truncated("the first partition is longer than the picture data")
        return _le16(data, start + 6) & 0x3FFF, _le16(data, start + 8) & 0x3FFF
    if end - start < 5 or data[start] != 0x2F:
        _not_an_image("a damaged VP8L header")
    bits = _le32(data, start + 1)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


# GIF

_MAX_BLOCKS: Final = 500_000


def gif_blocks(data: Buffer) -> Iterator[Part]:
    """Walk the blocks to the trailer, named ``,`` for a frame, ``!`` and a label for an extension, or ``;``.

    A frame's payload begins with its descriptor, an extension's with its first sub-block's length. Raises
    ``ImageRejectedError`` where the data ends too early or can't be followed.
    """
    try:
        position = 13 + _table_size(data[10])
        budget = _MAX_BLOCKS
        while budget > 0:
            budget -= 1
            introducer = data[position]
            start = position + 1
            if introducer == 0x3B:
                yield Part(b";", start, start)
                return
            if introducer == 0x2C:
                name, position = b",", start + 10 + _table_size(data[start + 8])
            elif introducer == 0x21:
                name, start = bytes(data[position : position + 2]), start + 1
                position = start
            else:
                _not_an_image("a GIF with an unknown block")
            while (length := data[position]) and budget > 0:
                position += length + 1
                budget -= 1
            position += 1
            if budget > 0:
                yield Part(name, start, position)
    except IndexError:
        _truncated("ends before its trailer")
    _not_an_image(f"more than {_MAX_BLOCKS} GIF blocks")


def _table_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _gif(data: bytes, limits: _Limits) -> tuple[int, int]:
    if len(data) < 13:
        _truncated("ends within its header")
    width, height = _le16(data, 6), _le16(data, 8)
    frames = 0
    for name, start, _ in gif_blocks(data):
        if name != b",":
            continue
        left, top, wide, high = (_le16(data, start + offset) for offset in (0, 2, 4, 6))
        limits.check(max(width, left + wide), max(height, top + high))
        if not frames:  # The first frame may reach beyond the screen that the header speaks of.
            width, height = max(width, left + wide), max(height, top + high)
        frames += 1
    if not frames:
        _not_an_image("a GIF without a picture")
    limits.check(width, height)
    return width, height


# AVIF

_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
_MAX_BOXES: Final = 10_000


def bmff_boxes(data: Buffer, start: int, end: int) -> Iterator[Part]:
    """Walk the ISO-BMFF boxes in ``data[start:end]``; raises ``ImageRejectedError`` where one reaches beyond."""
    position = start
    for _ in range(_MAX_BOXES):
        if position == end:
            return
        if position + 8 > end:
            _truncated("ends within a box header")
        size, header = _be32(data, position), 8
        if size == 1:
            if position + 16 > end:
                _truncated("ends within a box header")
            size, header = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        elif size == 0:
            size = end - position
        if size < header:
            _not_an_image("a box is shorter than its own header")
        if position + size > end:
            _truncated("ends within a box")
        yield Part(bytes(data[position + 4 : position + 8]), position + header, position + size)
        position += size
    _not_an_image(f"more than {_MAX_BOXES} boxes")


class Fields:
    """Reads the big-endian fields of one box, one after the other, and never beyond its end."""

    def __init__(self, data: Buffer, part: Part) -> None:
        self._data = data
        self.position = part.start
        self._end = part.end

    def take(self, size: int) -> int:
        """The next *size* bytes as a number; none is 0."""
        end = self.position + size
        if end > self._end:
            _truncated("ends within a box's fields")
        value = int.from_bytes(self._data[self.position : end], "big")
        self.position = end
        return value

    def text(self) -> bytes:
        """The next bytes, to their NUL."""
        end = self._data.find(b"\0", self.position, self._end)
        if end < 0:
            end = self._end
        value = bytes(self._data[self.position : end])
        self.position = min(end + 1, self._end)
        return value


class Item(NamedTuple):
    """An item of a ``meta`` box: where its bytes are."""

    id: int
    extents: tuple[tuple[int, int], ...]
    """Begin and end in the file; an extent may be empty."""


def bmff_items(data: Buffer, children: dict[bytes, Part]) -> Iterator[Item]:
    """Read ``iloc``: the items that lie in this file; raises ``ImageRejectedError`` if one is not all there."""
    part = children.get(b"iloc")
    if part is None:
        return
    fields = Fields(data, part)
    version = fields.take(4) >> 24
    sizes = fields.take(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version in (1, 2) else 0
    budget = _MAX_BOXES
    for _ in range(fields.take(2 if version < 2 else 4)):
        item = fields.take(2 if version < 2 else 4)
        method = fields.take(2) & 15 if version in (1, 2) else 0
        fields.take(2)
        base = fields.take(base_size)
        extents = []
        for _ in range(fields.take(2)):
            budget -= 1
            if budget < 0:
                _not_an_image(f"more than {_MAX_BOXES} pieces of items")
            fields.take(index_size)
            begin = base + fields.take(offset_size)
            length = fields.take(length_size)
            limit = len(data)
            if method == 1 and b"idat" in children:
                begin, limit = children[b"idat"].start + begin, children[b"idat"].end
            end = begin + length if length else limit
            if method in (0, 1) and not begin <= end <= limit:
                _truncated("ends within an item's data")
            extents.append((begin, end))
        if method in (0, 1):
            yield Item(item, tuple(extents))


def bmff_children(data: Buffer, part: Part) -> dict[bytes, Part]:
    """The boxes directly inside *part*, the first of each name."""
    children: dict[bytes, Part] = {}
    for child in bmff_boxes(data, part.start, part.end):
        children.setdefault(child.name, child)
    return children


def bmff_meta(data: Buffer, part: Part) -> dict[bytes, Part]:
    """The boxes inside a ``meta`` box, which has four bytes of version and flags before them."""
    return bmff_children(data, Part(part.name, min(part.start + 4, part.end), part.end))


def _avif(data: bytes, limits: _Limits) -> tuple[int, int]:
    meta: Part | None = None
    payload = False
    for box in bmff_boxes(data, 0, len(data)):
        if box.name == b"meta" and meta is None:
            meta = box
        payload = payload or (box.name in {b"mdat", b"idat"} and box.end > box.start)
    if meta is None:
        _truncated("ends before the box that says what is in it")
    children = bmff_meta(data, meta)
    sizes, primary = _avif_sizes(data, children)
    for size in sizes.values():
        limits.check(*size)
    extents = [extent for item in bmff_items(data, children) for extent in item.extents]
    if not any(end > begin for begin, end in extents) or not (payload or b"idat" in children):
        _truncated("ends before its picture data")
    if not sizes:
        _not_an_image("an AVIF that does not say its size")
    if primary is not None and primary in sizes:
        return sizes[primary]
    return max(sizes.values(), key=lambda size: size[0] * size[1])


def _avif_sizes(data: bytes, children: dict[bytes, Part]) -> tuple[dict[int, tuple[int, int]], int | None]:
    """The size of each item, by its id (negative ids for sizes no item claims), and the primary item's id."""
    primary: int | None = None
    if b"pitm" in children:
        fields = Fields(data, children[b"pitm"])
        primary = fields.take(4 if fields.take(4) >> 24 else 2)
    sizes: dict[int, tuple[int, int]] = {}
    if b"iprp" not in children:
        return sizes, primary
    properties: dict[int, tuple[int, int]] = {}
    claims: list[Part] = []
    for part in bmff_boxes(data, children[b"iprp"].start, children[b"iprp"].end):
        if part.name == b"ipma":
            claims.append(part)
        elif part.name == b"ipco":
            for index, prop in enumerate(bmff_boxes(data, part.start, part.end), 1):
                if prop.name == b"ispe":
                    fields = Fields(data, prop)
                    fields.take(4)
                    properties[index] = sizes[-index] = fields.take(4), fields.take(4)
    for part in claims:
        fields = Fields(data, part)
        head = fields.take(4)
        for _ in range(min(fields.take(4), _MAX_BOXES)):
            item = fields.take(4 if head >> 24 else 2)
            for _ in range(fields.take(1)):
                index = fields.take(2) & 0x7FFF if head & 1 else fields.take(1) & 0x7F
                if index in properties:
                    sizes[item] = properties[index]
    return sizes, primary


# Which one is it?


class _Kind(NamedTuple):
    format: str
    content_type: str
    extension: str
    measure: Callable[[bytes, _Limits], tuple[int, int]]


_JPEG_KIND: Final = _Kind("JPEG", "image/jpeg", "jpg", _jpeg)
_PNG_KIND: Final = _Kind("PNG", "image/png", "png", _png)
_WEBP_KIND: Final = _Kind("WEBP", "image/webp", "webp", _webp)
_GIF_KIND: Final = _Kind("GIF", "image/gif", "gif", _gif)
_AVIF_KIND: Final = _Kind("AVIF", "image/avif", "avif", _avif)

_MAGIC: Final = (b"\xff\xd8\xff", _PNG, b"GIF87a", b"GIF89a", b"RIFF")
_OTHERS: Final = (
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "PostScript"),
    (re.compile(rb"%PDF"), "a PDF"),
    (re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL), "a BMP"),
    (re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"), "a TIFF"),
    (re.compile(rb"\0\0[\x01\x02]\0"), "an icon"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "a JPEG 2000"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL"),
    (re.compile(rb".{4}ftyp(?:hei|hev|mif1|msf1)", re.DOTALL), "a HEIC"),
    (re.compile(rb".{4}ftyp", re.DOTALL), "a video"),
    (re.compile(rb"\x1f\x8b|PK\x03\x04"), "an archive"),
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:[^>]*>\s*<){0,3}svg\b", re.IGNORECASE), "an SVG"),
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*<"), "HTML or XML"),
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*[{\[]"), "JSON"),
    (re.compile(rb"[\t\r\n -~\x80-\xff]{1,64}\Z"), "text"),
)


def _kind(data: bytes) -> _Kind:
    """Tell the format by the first bytes."""
    if data.startswith(b"\xff\xd8\xff"):
        return _JPEG_KIND
    if data.startswith(_PNG):
        return _PNG_KIND
    if data.startswith(b"RIFF") and (data[8:12] == b"WEBP" or len(data) < 12):
        return _WEBP_KIND
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _GIF_KIND
    if data[4:8] == b"ftyp" and _is_avif(data):
        return _AVIF_KIND
    if any(magic.startswith(data) for magic in _MAGIC):
        _truncated(f"only {len(data)} bytes")
    head = data[:512]
    for pattern, name in _OTHERS:
        if pattern.match(head[:64] if name == "text" else head):
            _not_an_image(f"looks like {name}")
    _not_an_image("begins like no picture that is known: " + head[:8].hex(" "))


def _is_avif(data: bytes) -> bool:
    """Whether ``ftyp`` names AVIF as its own or as a compatible brand."""
    end = min(max(_be32(data, 0), 12), len(data), 1024)
    brands = [data[8:12], *(data[begin:stop] for begin, stop in pairwise(range(16, end + 1, 4)))]
    return not _AVIF_BRANDS.isdisjoint(brands)
