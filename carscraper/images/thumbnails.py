"""Make small copies of a photo: upright, RGB, without any metadata. Milliseconds of work: call it in a thread."""

from __future__ import annotations

from io import BytesIO
from typing import Final

from PIL import Image, ImageCms, UnidentifiedImageError

from carscraper.exceptions import ImageRejectedError
from carscraper.images.inspection import check_size, inspect
from carscraper.images.metadata import orientation_of, strip_metadata

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DRAFTED: Final = frozenset({"JPEG", "MPO"})
"""The others may keep their EXIF after the pixels, and are loaded before it is asked for."""
_SIDEWAYS: Final = frozenset({5, 6, 7, 8})


def thumbnail(data: bytes, size: tuple[int, int], *, max_pixels: int = 40_000_000, quality: int = 82) -> bytes:
    """Return a JPEG of the photo that fits in *size*, never larger than the photo itself.

    Of an animation the first frame, with white behind what is transparent, in sRGB as far as the photo says
    what its colours are. Raises ``ImageRejectedError`` for what is not a whole photo of at most *max_pixels* or
    can't be decoded, and nothing is decoded before that is known.
    """
    photo = inspect(data, min_width=1, min_height=1, max_pixels=max_pixels, max_bytes=len(data))
    output = BytesIO()
    try:
        # Pillow would turn it by XMP and by a PNG's text chunks, too; browsers go by what strip_metadata() leaves.
        with Image.open(BytesIO(strip_metadata(data, photo.format, photo.parts)), formats=(photo.format,)) as picture:
            check_size(*picture.size, max_pixels)  # the decoder might make more of it than its structure says
            _upright(picture, size).save(output, "JPEG", quality=quality, optimize=True)
    except (ImageRejectedError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageRejectedError("too-large", str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageRejectedError("not-an-image", f"a {photo.format} that can't be read") from error
    except Exception as error:  # Decoders raise whatever they like for damaged data.
        raise ImageRejectedError("truncated", f"a {photo.format} that can't be decoded: {error}") from error
    return output.getvalue()


def _upright(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.format not in _DRAFTED:
        picture.load()
    orientation = orientation_of(picture.info.get("exif", b""))
    profile = picture.info.get("icc_profile")
    box = (size[1], size[0]) if orientation in _SIDEWAYS else size
    # A JPEG is then decoded at a half, a quarter or an eighth of its size, whichever is still large enough.
    picture.draft(None, (box[0] * 2, box[1] * 2))
    picture.load()
    small = _opaque(picture)
    small.thumbnail(box, Image.Resampling.LANCZOS, reducing_gap=2.0)
    small = _srgb(small, profile)
    if orientation in _UPRIGHT:
        small = small.transpose(_UPRIGHT[orientation])
    small.info = {}  # Pillow would save a comment again.
    return small


def _opaque(picture: Image.Image) -> Image.Image:
    """Return the picture in one of the modes L, RGB and CMYK, on white where it is transparent."""
    if picture.mode.startswith("I"):  # 16 bit
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        ground = Image.new("RGB", layer.size, "white")
        ground.paste(layer, mask=layer.getchannel("A"))
        return ground
    return picture if picture.mode in {"L", "RGB", "CMYK"} else picture.convert("RGB")


def _srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to sRGB by the photo's own profile, which the copy will not carry."""
    if profile and b"sRGB" not in profile:
        try:
            converted = ImageCms.profileToProfile(
                picture,
                ImageCms.ImageCmsProfile(BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            converted = None
        if converted is not None:
            return converted
    return picture.convert("RGB")
