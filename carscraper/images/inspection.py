"""Is it a photo? Decided by the bytes alone: which format, whole or not, how large.

Nothing is decoded, so that a pixel bomb costs nothing. Whether the file is whole is not in its header (Pillow opens
half a JPEG): its parts are walked to the end.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Final

from PIL import Image

from carscraper.exceptions import ImageRejectedError
from carscraper.images.containers import (
    PARTS,
    PNG,
    SCAN,
    SOF,
    Part,
    avif_items,
    big_endian,
    little_endian,
    meta_boxes,
    not_an_image,
    truncated,
)

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings


@dataclass(frozen=True, slots=True)
class Photo:
    """What the bytes say about themselves."""

    format: str
    """``JPEG``, ``PNG``, ``WEBP``, ``GIF`` or ``AVIF``."""
    width: int
    """Pixels as stored, before any rotation that the metadata asks for."""
    height: int
    parts: list[Part] = field(default_factory=list, compare=False, repr=False)
    """The file's parts in their order, for :func:`~carscraper.images.metadata.strip_metadata`."""

    @property
    def content_type(self) -> str:
        """The media type, such as ``image/jpeg``."""
        return f"image/{self.format.lower()}"

    @property
    def extension(self) -> str:
        """The file name's extension without a dot: ``jpg``, ``png``, ``webp``, ``gif`` or ``avif``."""
        return "jpg" if self.format == "JPEG" else self.format.lower()


def limits_of(settings: BaseSettings) -> dict[str, int]:
    """Return the limits of :func:`inspect` that *settings* hold."""
    return {
        "min_width": settings.getint("IMAGES_MIN_WIDTH"),
        "min_height": settings.getint("IMAGES_MIN_HEIGHT"),
        "max_pixels": settings.getint("IMAGES_MAX_PIXELS"),
        "max_bytes": settings.getint("IMAGES_MAX_BYTES"),
    }


def inspect(data: bytes, *, min_width: int, min_height: int, max_pixels: int, max_bytes: int) -> Photo:
    """Return what *data* is.

    The smallest size holds for a photo lying or standing: its longer side is compared with the longer of the two
    minima, so that a rotation by EXIF makes no difference.

    Raises:
        ImageRejectedError: it is no whole photo of an accepted size; nothing else is ever raised.
    """
    if not data:
        raise ImageRejectedError("empty", "no bytes at all")
    if len(data) > max_bytes:
        raise ImageRejectedError("too-large", f"{len(data)} bytes, more than {max_bytes}")
    image_format = _format_of(data)
    parts: list[Part] = []
    width, height = _LOOKS[image_format](data, _noting(PARTS[image_format](data), parts), max_pixels)
    check_size(width, height, max_pixels)
    if min(width, height) < min(min_width, min_height) or max(width, height) < max(min_width, min_height):
        raise ImageRejectedError("too-small", f"{width}x{height} pixels, less than {min_width}x{min_height}")
    return Photo(image_format, width, height, parts)


def _noting(walk: Iterator[Part], parts: list[Part]) -> Iterator[Part]:
    for part in walk:
        parts.append(part)
        yield part


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture without pixels, or with too many of them."""
    if width * height == 0:
        not_an_image(f"its header says {width}x{height} pixels")
    if width * height > max_pixels:
        raise ImageRejectedError("too-large", f"{width}x{height} pixels, more than {max_pixels}")


def _size_by_pillow(data: bytes, image_format: str) -> tuple[int, int]:
    """Return the size that Pillow finds in the header."""
    try:
        with Image.open(BytesIO(data), formats=(image_format,)) as picture:
            return picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageRejectedError("too-large", str(error)) from error
    except MemoryError:
        raise  # which says nothing about the photo
    except Exception as error:  # Pillow's plugins raise whatever they like for damaged data.
        raise ImageRejectedError("not-an-image", f"a {image_format} with a damaged header ({error})") from error


# --- Is it whole, and how large? --------------------------------------------------------------------------------------


def _jpeg(data: bytes, parts: Iterator[Part], max_pixels: int) -> tuple[int, int]:
    sizes = []
    pixels = False
    for part in parts:
        if part.name in SOF:
            if part.end - part.start < 9 or part.end - part.start != 6 + 3 * data[part.start + 5]:
                not_an_image("a damaged JPEG frame header")
            sizes.append((big_endian(data, part.start + 3, 2), big_endian(data, part.start + 1, 2)))
            check_size(*sizes[-1], max_pixels)
        elif part.name == SCAN:
            if not sizes:
                not_an_image("JPEG picture data without a frame header")
            pixels = pixels or part.end > part.begin
    if len(sizes) != 1:
        not_an_image(f"a JPEG with {len(sizes)} frame headers")
    if not pixels:
        truncated("no picture data before the end marker")
    return sizes[0]


def _png(data: bytes, parts: Iterator[Part], max_pixels: int) -> tuple[int, int]:
    size = (0, 0)
    pixels = False
    view = memoryview(data)
    for number, part in enumerate(parts):
        if number == 0:
            if part.name != b"IHDR" or part.end - part.start != 17:
                not_an_image("a PNG that does not begin with its header")
            size = big_endian(data, part.start), big_endian(data, part.start + 4)
            check_size(*size, max_pixels)
        is_critical = part.name[0] & 0x20 == 0  # an upper case letter
        if is_critical and zlib.crc32(view[part.begin + 4 : part.end - 4]) != big_endian(data, part.end - 4):
            truncated(f"the checksum of its chunk {part.name!r} is wrong")
        pixels = pixels or (part.name == b"IDAT" and part.end - part.start > 4)
    if not pixels:
        not_an_image("a PNG without picture data")
    return size


def _webp(data: bytes, parts: Iterator[Part], max_pixels: int) -> tuple[int, int]:
    """Return the size: Pillow would make room for the whole canvas, twice, and refuse a damaged EXIF behind it."""
    canvas: tuple[int, int] | None = None
    picture = False
    for part in parts:
        size = _webp_size(data, part)
        if size:
            check_size(*size, max_pixels)
            canvas = canvas or size
        picture = picture or part.name in {b"VP8 ", b"VP8L", b"ANMF"}
    if not picture:
        truncated("a WebP without picture data")
    if not canvas:
        not_an_image("a WebP with a damaged header")
    return canvas


def _webp_size(data: bytes, part: Part) -> tuple[int, int] | None:
    start = part.start
    if part.name == b"VP8X" and part.end - start >= 10:
        return little_endian(data, start + 4, 3) + 1, little_endian(data, start + 7, 3) + 1
    if part.name == b"ANMF" and part.end - start >= 24:
        return little_endian(data, start + 6, 3) + 1, little_endian(data, start + 9, 3) + 1
    if part.name == b"VP8 " and data[start + 3 : start + 6] == b"\x9d\x01\x2a":
        if start + 10 + (little_endian(data, start, 3) >> 5) > part.end:
            truncated("the first partition is longer than the picture data")
        return little_endian(data, start + 6, 2) & 0x3FFF, little_endian(data, start + 8, 2) & 0x3FFF
    if part.name == b"VP8L" and data[start : start + 1] == b"\x2f":
        bits = little_endian(data, start + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _gif(data: bytes, parts: Iterator[Part], _max_pixels: int) -> tuple[int, int]:
    if b"," not in [part.name for part in parts]:
        not_an_image("a GIF without a picture")
    return _size_by_pillow(data, "GIF")  # a frame may be larger than the screen


def _avif(data: bytes, parts: Iterator[Part], _max_pixels: int) -> tuple[int, int]:
    metas = [box for box in parts if box.name == b"meta"]
    if not metas:
        truncated("ends before the box that says what is in it")
    if not any(end > begin for item in avif_items(data, meta_boxes(data, metas[0])) for begin, end in item.extents):
        truncated("ends before its picture data")
    return _size_by_pillow(data, "AVIF")


_LOOKS: Final[dict[str, Callable[[bytes, Iterator[Part], int], tuple[int, int]]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "AVIF": _avif,
}

# --- which format? ----------------------------------------------------------------------------------------------------

_MAGIC: Final = {b"\xff\xd8\xff": "JPEG", PNG: "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF"}
_OTHERS: Final = {
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "a PDF": rb"%PDF",
    "a BMP": rb"BM.{4}\0\0\0\0",
    "a TIFF": rb"II\*\0|MM\0\*",
    "a HEIC or a video": rb".{4}ftyp",
    "an archive": rb"\x1f\x8b|PK\x03\x04",
    "an SVG": rb"(?:\xef\xbb\xbf)?\s*<(?:[^>]*>\s*<){0,3}svg\b",
    "HTML or XML": rb"(?:\xef\xbb\xbf)?\s*<",
    "JSON": rb"(?:\xef\xbb\xbf)?\s*[{\[]",
    "text": rb"[\t\r\n -~\x80-\xff]{1,64}\Z",
}
"""What a server may send instead: for the log, which is where people look for the reason."""


def _format_of(data: bytes) -> str:
    """Return the format by the first bytes."""
    for magic, image_format in _MAGIC.items():
        if data.startswith(magic):
            return image_format
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and _is_avif(data):
        return "AVIF"
    if len(data) < 12 and any(magic.startswith(data[: len(magic)]) for magic in (*_MAGIC, b"RIFF")):
        truncated(f"only {len(data)} bytes")
    for name, pattern in _OTHERS.items():
        if re.match(pattern, data[: 64 if name == "text" else 512], re.IGNORECASE | re.DOTALL):
            not_an_image(f"looks like {name}")
    raise ImageRejectedError("not-an-image", f"begins like no known format: {data[:8].hex(' ')}")


def _is_avif(data: bytes) -> bool:
    """Return whether ``ftyp`` names AVIF as the file's own or as a compatible brand."""
    end = min(max(big_endian(data, 0), 12), len(data), 1024)
    return any(data[at : at + 4] in {b"avif", b"avis"} for at in (8, *range(16, end - 3, 4)))
