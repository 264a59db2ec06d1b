"""Keep of a photo's file what draws the picture, byte for byte, and nothing else.

A list of what stays, not a hunt for what must go: positions, serial numbers, names and notes stand in more places than
anybody knows. What stays is the coded picture, its colours (ICC profile and the like), animation, and the orientation,
alone in an EXIF block of its own. The date and the model of the camera go with the rest. Only an AVIF keeps its length:
its boxes point at each other, so what goes is overwritten.
"""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Final

from PIL import Image

from carscraper.exceptions import ImageRejectedError
from carscraper.images.containers import (
    EOI,
    PARTS,
    PNG,
    SCAN,
    Part,
    avif_items,
    boxes,
    gif_screen_end,
    meta_boxes,
    png_parts,
    riff_chunks,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_ORIENTATION: Final = 0x0112
_UPRIGHT: Final = 1


def strip_metadata(data: bytes, image_format: str, parts: Sequence[Part] | None = None) -> bytes:
    """Return *data* without what does not draw the picture; the same object if there is nothing of that kind.

    Args:
        data: a photo that :func:`~carscraper.images.inspection.inspect` has accepted.
        image_format: its ``Photo.format``.
        parts: its ``Photo.parts``; without them its file is walked once more.

    Raises:
        ImageRejectedError: the file can't be followed to its end.
    """
    stripped = _STRIPPERS[image_format](data, parts or list(PARTS[image_format](data)))
    return data if stripped == data else stripped


def orientation_of(exif: bytes) -> int:
    """Return the orientation in an EXIF block, 1 to 8; 1 (upright) where it says none or is damaged."""
    block = Image.Exif()
    try:
        block.load(exif)
        value = block.get(_ORIENTATION)
    except MemoryError:
        raise  # which says nothing about the photo
    except Exception:  # Pillow raises whatever it likes for a damaged block.
        return _UPRIGHT
    return value if isinstance(value, int) and _UPRIGHT < value <= 8 else _UPRIGHT


def _tiff(orientation: int) -> bytes:
    """Return an EXIF block that holds the orientation alone, without the ``Exif`` in front that a JPEG has."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)


# --- JPEG -----------------------------------------------------------------------------------------------------------

_APP0, _APP1, _APP2, _APP14 = b"\xe0", b"\xe1", b"\xe2", b"\xee"
_TABLES: Final = frozenset(bytes([marker]) for marker in range(0xC0, 0xE0))
"""Frames, scans, their tables, restarts and the end."""


def _jpeg(data: bytes, parts: Sequence[Part]) -> bytes:
    pieces = [data[:2]]
    wanted = {_APP0: b"JFIF\0", _APP14: b"Adobe"}
    for part in parts:
        content = data[part.start : part.end]
        if part.name in _TABLES or part.name == SCAN or (part.name == _APP2 and content.startswith(b"ICC_PROFILE\0")):
            pieces.append(data[part.begin : part.end])
        elif part.name in wanted and content.startswith(wanted[part.name]):
            del wanted[part.name]  # the first one counts
            # What follows in a JFIF is its thumbnail.
            content = content[:12] + b"\0\0" if part.name == _APP0 else content[:12]
            pieces.append(_segment(part.name, content))
    orientation = _jpeg_orientation(data, parts)
    if orientation != _UPRIGHT:
        # Behind JFIF, which has to be first.
        pieces.insert(1 if _APP0 in wanted else 2, _segment(_APP1, b"Exif\0\0" + _tiff(orientation)))
    return b"".join(pieces)


def _segment(name: bytes, content: bytes) -> bytes:
    return struct.pack(">ccH", b"\xff", name, len(content) + 2) + content


def _jpeg_orientation(data: bytes, parts: Sequence[Part]) -> int:
    blocks = (data[part.start : part.end] for part in parts if part.name == _APP1)
    return next((orientation_of(block) for block in blocks if block.startswith(b"Exif\0")), _UPRIGHT)


# --- PNG ------------------------------------------------------------------------------------------------------------

_PNG_DRAWS: Final = frozenset(
    {b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs"}
    | {b"acTL", b"fcTL", b"fdAT"}
)


def _png(data: bytes, parts: Sequence[Part]) -> bytes:
    pieces = [PNG]
    orientation = _UPRIGHT
    for part in parts:
        if part.name == b"eXIf" and orientation == _UPRIGHT:
            orientation = orientation_of(data[part.start : part.end - 4])
            if orientation != _UPRIGHT:
                chunk = b"eXIf" + _tiff(orientation)
                pieces.append(struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)))
        elif part.name in _PNG_DRAWS or not part.name[0] & 0x20:  # an upper case letter: critical
            pieces.append(data[part.begin : part.end])
    return b"".join(pieces)


# --- WebP -----------------------------------------------------------------------------------------------------------

_WEBP_DRAWS: Final = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"})
_FRAME_HEADER: Final = 16  # bytes of an ANMF before its own chunks
_HAS_EXIF, _HAS_XMP = 0x08, 0x04


def _webp(data: bytes, parts: Sequence[Part]) -> bytes:
    blocks = (data[part.start : part.end] for part in parts if part.name == b"EXIF")
    orientation = orientation_of(next(blocks, b""))
    body = b"".join(_webp_chunks(data, parts, _HAS_EXIF if orientation != _UPRIGHT else 0))
    if orientation != _UPRIGHT:
        body += _chunk(b"EXIF", _tiff(orientation))
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _webp_chunks(data: bytes, parts: Iterable[Part], exif: int) -> Iterator[bytes]:
    for name, _, start, end in parts:
        content = data[start:end]
        if name == b"VP8X":
            yield _chunk(name, bytes([content[0] & ~(_HAS_EXIF | _HAS_XMP) | exif]) + content[1:])
        elif name == b"ANMF":
            inner = riff_chunks(data, start + _FRAME_HEADER, end)
            yield _chunk(name, content[:_FRAME_HEADER] + b"".join(_webp_chunks(data, inner, 0)))
        elif name in _WEBP_DRAWS:
            yield _chunk(name, content)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


# --- GIF ------------------------------------------------------------------------------------------------------------

_CONTROL, _TEXT, _APPLICATION = b"!\xf9", b"!\x01", b"!\xff"
_APPLICATIONS: Final = (b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012")
"""How often an animation runs, and the colours."""


def _gif(data: bytes, parts: Sequence[Part]) -> bytes:
    pieces = [data[: gif_screen_end(data)]]
    control = b""
    for part in parts:
        whole = data[part.begin : part.end]
        if part.name == _CONTROL:
            control = whole  # of the picture, or the text that no browser draws, that follows
        elif part.name == b",":
            pieces += control, whole
            control = b""
        elif part.name == _TEXT:
            control = b""
        elif part.name == _APPLICATION and data[part.start + 1 : part.start + 12] in _APPLICATIONS:
            pieces.append(whole)
    return b"".join((*pieces, b";"))


# --- AVIF -----------------------------------------------------------------------------------------------------------

_AVIF_PICTURES: Final = frozenset({b"av01", b"grid", b"iovl", b"iden", b"tmap", b"sato"})
_AVIF_DRAWS: Final[dict[bytes, frozenset[bytes]]] = {
    b"": frozenset({b"ftyp", b"styp", b"meta", b"moov", b"moof", b"mdat", b"sidx", b"mfra"}),
    b"meta": frozenset({b"hdlr", b"pitm", b"iloc", b"iinf", b"iref", b"iprp", b"idat", b"dinf", b"grpl"}),
    b"iprp": frozenset({b"ipco", b"ipma"}),
    b"ipco": frozenset(
        {b"ispe", b"pixi", b"av1C", b"colr", b"pasp", b"clap", b"irot", b"imir", b"auxC", b"a1op", b"a1lx", b"lsel"}
        | {b"clli", b"mdcv", b"cclv", b"amve", b"reve", b"ndwt"}
    ),
    b"moov": frozenset({b"mvhd", b"trak", b"mvex"}),
    b"trak": frozenset({b"tkhd", b"edts", b"mdia", b"tref", b"trgr"}),
}
"""In the file itself and in each of the boxes that are looked into: the boxes that stay."""
_EMPTY_EXIF: Final = bytes(4) + b"MM\0\x2a\0\0\0\x08" + bytes(6)
"""libavif reads no file whose EXIF is nothing at all."""


def _avif(data: bytes, parts: Sequence[Part]) -> bytes:
    stripped = bytearray(data)
    metas = _blank_boxes(data, stripped, parts)
    items = [item for children in metas for item in avif_items(data, children)]
    for item in items:
        content = _EMPTY_EXIF if item.type == b"Exif" else b""
        for begin, end in item.extents:
            stripped[begin:end] = content[: end - begin].ljust(end - begin, b"\0")
            content = content[end - begin :]
    for item in items:
        if item.type in _AVIF_PICTURES:
            for begin, end in item.extents:
                stripped[begin:end] = data[begin:end]
    return bytes(stripped)


def _blank_boxes(data: bytes, stripped: bytearray, parts: Sequence[Part], parent: bytes = b"") -> list[list[Part]]:
    """Overwrite the boxes that do not draw; returns what is in each ``meta`` of the file.

    Of a still picture the data boxes are overwritten, too: its items say which pieces of them draw. A sequence has
    tables of its own for them.
    """
    metas = []
    is_still = not any(part.name in {b"moov", b"moof"} for part in parts)
    for part in parts:
        if part.name not in _AVIF_DRAWS[parent]:
            stripped[part.begin + 4 : part.begin + 8] = b"free"
            stripped[part.start : part.end] = bytes(part.end - part.start)
        elif part.name == b"meta":
            children = meta_boxes(data, part)
            metas.append(children)
            _blank_boxes(data, stripped, children, part.name)
        elif part.name in _AVIF_DRAWS:
            _blank_boxes(data, stripped, list(boxes(data, part.start, part.end)), part.name)
        elif part.name == b"idat" or (part.name == b"mdat" and is_still):
            stripped[part.start : part.end] = bytes(part.end - part.start)
    return metas


_STRIPPERS: Final = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "AVIF": _avif}


# --- a file without its end -------------------------------------------------------------------------------------------

_IEND: Final = b"\0\0\0\0IEND\xaeB`\x82"


def with_end(data: bytes) -> bytes:
    """Return a JPEG or PNG that lacks its end marker with one, if the whole picture is there.

    Some cameras and programs leave it out, and every browser shows the picture. Decodes it, a JPEG some twenty times:
    call it in a thread, and only for bytes that came twice; a download that was cut off would differ.

    Raises:
        ImageRejectedError: a part of the picture is missing, or it is another format.
    """
    if data.startswith(PNG):
        pieces = [PNG]
        with suppress(ImageRejectedError):  # where it ends
            pieces.extend(data[part.begin : part.end] for part in png_parts(data))
        whole = b"".join((*pieces, _IEND))
        _pixels(whole)
        return whole
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_with_end(data)
    raise ImageRejectedError("truncated", "cut off")


_FILLERS: Final = tuple(byte * 64 for byte in (b"\x55", b"\xaa", b"\x39", b"\xc6", b"\x00"))


def _jpeg_with_end(data: bytes) -> bytes:
    # A decoder that lacks pixels takes what is put behind the data for them: different things, different pictures.
    pixels, *others = (_pixels(data + filler + b"\xff" + EOI) for filler in _FILLERS)
    if any(other != pixels for other in others):
        raise ImageRejectedError("truncated", "cut off, and a part of the picture is missing")
    # Nor can what follows the last pixels be told from them by its structure: the shortest beginning that still draws
    # the same is the picture.
    shortest, longest = 2, len(data)
    while shortest < longest:
        middle = (shortest + longest) // 2
        try:
            same = _pixels(data[:middle] + _FILLERS[0] + b"\xff" + EOI) == pixels
        except ImageRejectedError:
            same = False
        shortest, longest = (shortest, middle) if same else (middle + 1, longest)
    return data[:longest] + b"\xff" + EOI


def _pixels(data: bytes) -> bytes:
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as picture:
            return picture.tobytes()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever they like for damaged data.
        raise ImageRejectedError("truncated", f"cut off, and a part of the picture is missing ({error})") from error
