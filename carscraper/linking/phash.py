"""Perceptual hashes: nearly equal photos, such as the one that two sites show in two sizes, have nearly equal ones."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from typing import Final

from PIL import Image

from carscraper.exceptions import ImageRejectedError
from carscraper.images.thumbnails import thumbnail

NEAR: Final = 8
"""Of 64 bits: as far as the same photo was, scaled, cropped and encoded anew (measured)."""

_SMALL: Final = (256, 256)
_FLAT: Final = 24  # of 256 shades of grey: between darkest and lightest


def is_installed() -> bool:
    """Return whether the extra ``carscraper[linking]`` is here, which brings numpy and scipy."""
    return find_spec("imagehash") is not None


def perceptual_hash(data: bytes, *, max_pixels: int = 16_000_000) -> str | None:
    """Return 64 bits as 16 hexadecimal digits; the more bits differ, the less two photos look alike.

    The same photo scaled, encoded anew or turned upright differs in :data:`NEAR` bits at most (measured on the tests'
    photos at three widths, at quality 50 and cropped by a hundredth). ``None`` for what can't be decoded, has more than
    *max_pixels*, or shows next to nothing: an empty picture would look like every other one. It takes milliseconds:
    call it in a thread.
    """
    import imagehash  # noqa: PLC0415 - takes 0.1 s and 50 MB: only for crawls that have photos to compare

    try:
        small = thumbnail(data, _SMALL, max_pixels=max_pixels, quality=90)
    except ImageRejectedError:
        return None
    with Image.open(BytesIO(small), formats=("JPEG",)) as picture:
        grey = picture.convert("L")
    shades = [shade for shade, pixels in enumerate(grey.histogram()) if pixels]
    if shades[-1] - shades[0] < _FLAT:
        return None
    return str(imagehash.phash(grey))
