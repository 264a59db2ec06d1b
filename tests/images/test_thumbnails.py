from __future__ import annotations

import struct
import zlib
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from carscraper.exceptions import ImageRejectedError
from carscraper.images.thumbnails import thumbnail
from tests.images import GPS_XMP, SIZE, encode, photos, picture, tiff


def opened(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data), formats=["JPEG"])
    image.load()
    return image


def near(pixel: object, colour: tuple[int, int, int], by: int = 24) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= by for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("name", photos())
def test_every_kind_of_photo_has_a_thumbnail(name: str) -> None:
    data = photos()[name][1]
    small = opened(thumbnail(data, (36, 36)))
    assert small.mode == "RGB"
    turned = "exif" in name or name in {"webp-alpha", "avif-alpha"}
    assert small.size == ((24, 36) if turned else (36, 24))
    corner = small.getpixel((small.width - 3, 2) if turned else (2, 2))
    grey = name == "jpeg-grey"
    assert near(corner, (80, 80, 80) if grey else (220, 20, 20), 40), corner
    assert len(small.getexif()) == 0
    assert not {"exif", "xmp", "icc_profile", "comment"} & set(small.info)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(orientation: int) -> None:
    base = picture(size=(160, 80))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = base.transpose(undo[orientation]) if orientation in undo else base
    data = encode("JPEG", stored, exif=b"Exif\0\0" + tiff(orientation=orientation))
    small = opened(thumbnail(data, (60, 60)))
    assert small.size == (60, 30)
    assert near(small.getpixel((4, 2)), (220, 20, 20))


def test_never_enlarged() -> None:
    assert opened(thumbnail(encode("JPEG"), (1000, 1000))).size == SIZE
    assert opened(thumbnail(encode("PNG"), (1000, 20))).size == (30, 20)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "AVIF", "GIF"])
def test_white_behind_what_is_transparent(image_format: str) -> None:
    image = Image.new("RGBA", (100, 80), (0, 0, 0, 0))
    image.paste((0, 0, 255, 255), (50, 0, 100, 80))
    small = opened(thumbnail(encode(image_format, image), (50, 40)))
    assert near(small.getpixel((5, 5)), (255, 255, 255))
    assert near(small.getpixel((45, 20)), (0, 0, 255))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_modes_of_a_png(mode: str) -> None:
    assert opened(thumbnail(encode("PNG", picture(mode)), (30, 30))).mode == "RGB"


def test_palette_and_rgb_with_one_transparent_colour() -> None:
    image = Image.new("RGB", (60, 40), (1, 2, 3))
    small = opened(thumbnail(encode("PNG", image, transparency=(1, 2, 3)), (30, 30)))
    assert near(small.getpixel((3, 3)), (255, 255, 255))
    palette = Image.new("P", (60, 40), 0)
    small = opened(thumbnail(encode("PNG", palette, transparency=0), (30, 30)))
    assert near(small.getpixel((3, 3)), (255, 255, 255))


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (32768, 128), (65535, 255)])
def test_sixteen_bits(value: int, grey: int) -> None:
    small = opened(thumbnail(encode("PNG", Image.new("I;16", (60, 40), value)), (30, 30)))
    assert near(small.getpixel((10, 10)), (grey, grey, grey), 3)


def test_cmyk_is_not_a_negative() -> None:
    small = opened(thumbnail(encode("JPEG", Image.new("CMYK", (60, 40), (0, 0, 0, 0))), (30, 30)))
    assert near(small.getpixel((10, 10)), (255, 255, 255))


def test_colours_by_the_photos_own_profile() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    plain = encode("JPEG", Image.new("RGB", (60, 40), (100, 150, 50)))
    for profile in (lab, b"damaged", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        small = opened(thumbnail(encode("JPEG", Image.open(BytesIO(plain)), icc_profile=profile), (30, 30)))
        assert small.mode == "RGB"
        assert "icc_profile" not in small.info


def test_metadata_stays_behind() -> None:
    data = encode("JPEG", exif=b"Exif\0\0" + tiff(), xmp=GPS_XMP, comment=b"secret comment")
    small = thumbnail(data, (30, 30))
    for word in (b"Exif", b"adobe", b"secret", b"Canon"):
        assert word not in small


def test_the_same_bytes_every_time() -> None:
    data = encode("WEBP")
    assert thumbnail(data, (30, 30)) == thumbnail(data, (30, 30))


# What has no thumbnail


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(ImageRejectedError) as caught:
        thumbnail(data, (30, 30), **options)
    return caught.value.reason


def test_refusals() -> None:
    assert reason(b"") == "empty"
    assert reason(b"<html>") == "not-an-image"
    assert reason(encode("EPS")) == "not-an-image"
    assert reason(encode("TIFF")) == "not-an-image"
    assert reason(encode("JPEG")[:-300]) == "truncated"
    assert reason(encode("JPEG"), max_pixels=100) == "too-large"


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    assert reason(bomb) == "too-large"
    # Above Pillow's own limits too, whatever the caller allows.
    assert reason(bomb, max_pixels=10**10) == "too-large"


def test_whole_in_its_structure_but_not_to_be_decoded() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60, 40, 8, 2, 0, 0, 0))
    broken = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"no deflate") + chunk(b"IEND", b"")
    assert reason(broken) == "truncated"
    short = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(90))) + chunk(b"IEND", b"")
    assert reason(short) == "truncated"


@pytest.mark.parametrize("name", ["jpeg-exif", "png-exif", "webp-alpha", "gif-animated", "avif-alpha"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_mutated_photos_have_a_thumbnail_or_are_rejected(name: str, data: st.DataObject) -> None:
    mutated = bytearray(photos()[name][1])
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(8, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    try:
        small = thumbnail(bytes(mutated), (30, 30), max_pixels=100_000)
    except ImageRejectedError:
        return
    assert max(opened(small).size) <= 30
