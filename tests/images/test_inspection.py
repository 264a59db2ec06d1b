from __future__ import annotations

import contextlib
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carscraper.exceptions import ImageRejectedError
from carscraper.images.inspection import Photo, inspect
from carscraper.images.metadata import strip_metadata
from tests.images import SIZE, encode, photos, picture, pixels, segment, tiff, with_segments

TYPES = {
    "JPEG": ("image/jpeg", "jpg"),
    "PNG": ("image/png", "png"),
    "WEBP": ("image/webp", "webp"),
    "GIF": ("image/gif", "gif"),
    "AVIF": ("image/avif", "avif"),
}


def look(data: bytes, **limits: int) -> Photo:
    options: dict[str, Any] = {"min_width": 1, "min_height": 1, "max_pixels": 10**6, "max_bytes": 10**6}
    return inspect(data, **{**options, **limits})


def reason(data: bytes, **limits: int) -> str:
    with pytest.raises(ImageRejectedError) as caught:
        look(data, **limits)
    assert caught.value.detail
    return caught.value.reason


def box(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", 8 + len(payload)) + name + payload


def chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def png(width: int, height: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", photos())
def test_every_kind_of_photo_is_known_by_its_bytes(name: str) -> None:
    image_format, data = photos()[name]
    photo = look(data)
    assert photo == Photo(image_format, *SIZE)
    assert (photo.content_type, photo.extension) == TYPES[image_format]


@pytest.mark.parametrize("name", photos())
def test_no_strict_prefix_is_whole(name: str) -> None:
    data = photos()[name][1]
    assert reason(b"") == "empty"
    reasons = set()
    for length in range(40, len(data)):
        try:
            look(data[:length])
        except ImageRejectedError as error:
            reasons.add(error.reason)
        else:  # a GIF needs no trailer
            assert name.startswith("gif")
            assert pixels(strip_metadata(data[:length], "GIF"))[0] == pixels(data)[0]
    assert reasons == {"truncated"}
    assert {reason(data[:length]) for length in range(1, 40)} <= {"truncated", "not-an-image"}


@pytest.mark.parametrize("name", photos())
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_mutated_photos_are_photos_or_rejected(name: str, data: st.DataObject) -> None:
    mutated = bytearray(photos()[name][1])
    for _ in range(data.draw(st.integers(1, 5))):
        reach = data.draw(st.sampled_from([64, 400, len(mutated)]))
        at = data.draw(st.integers(0, min(reach, len(mutated)) - 1))
        mutated[at] = data.draw(st.sampled_from([0, 1, 0x3B, 0x7F, 0x80, 0xD9, 0xFF]) | st.integers(0, 255))
    cut = data.draw(st.integers(0, len(mutated)) | st.just(len(mutated)))
    with contextlib.suppress(ImageRejectedError):
        found = look(bytes(mutated[:cut]))
        assert 0 < found.width * found.height <= 10**6


MAGIC = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"RIFF\x40\0\0\0WEBP",
    b"\0\0\0\x14ftypavif\0\0\0\0avif",
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(MAGIC), st.binary(max_size=300))
def test_random_bytes_are_never_anything_but_rejected_or_a_photo(magic: bytes, rest: bytes) -> None:
    with contextlib.suppress(ImageRejectedError):
        look(magic + rest)


NO_PHOTOS = [
    *(b"x", b"\0", b"[]", b'{"error": "expired"}', b"Service unavailable\n", b"%PDF-1.7\n", bytes(4000)),
    b"<!DOCTYPE html><html><body>Not here</body></html>",
    b"\xef\xbb\xbf\r\n <html></html>",
    b'<?xml version="1.0"?>\n<!-- a -->\n<svg xmlns="http://www.w3.org/2000/svg" width="800"/>',
    b'<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 800 600\n",
    *(b"\xc5\xd0\xd3\xc6" + bytes(40), b"\0\0\x01\0\x01\0\x10\x10" + bytes(40)),
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
    b"\0\0\0\x18ftypisom\0\0\0\0isommp41" + bytes(40),
    b"RIFF\x10\0\0\0AVI LIST" + bytes(40),
    *(b"\x1f\x8b\x08" + bytes(20), b"PK\x03\x04" + bytes(20), b"\xff\x0a" + bytes(20)),
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\xd8\x00\x00" + bytes(20)),
    *(encode(kind) for kind in ("BMP", "TIFF", "ICO", "PPM", "EPS")),
]


def test_what_is_no_photo() -> None:
    for data in NO_PHOTOS:
        assert reason(data) == "not-an-image", data[:12]
    for data, what in [  # for the log
        *((b"<html>", "HTML"), (b"<svg >", "SVG"), (b"%!PS", "PostScript"), (b"Sorry", "text"), (b"{}", "JSON")),
        (encode("BMP"), "BMP"),
    ]:
        with pytest.raises(ImageRejectedError, match=what):
            look(data)


# Sizes


def test_the_smallest_size_holds_lying_and_standing() -> None:
    limits = {"min_width": 200, "min_height": 150}
    for size in [(200, 150), (150, 200), (1280, 853), (853, 1280)]:
        assert (look(encode("JPEG", picture(size=size)), max_pixels=10**7, **limits).width) == size[0]
    for size in [(199, 150), (200, 149), (149, 200), (1280, 149), (160, 160)]:
        assert reason(encode("JPEG", picture(size=size)), **limits) == "too-small"


def test_too_many_pixels_or_bytes() -> None:
    data = photos()["jpeg"][1]
    assert reason(data, max_bytes=len(data) - 1) == "too-large"
    assert look(data, max_bytes=len(data)).format == "JPEG"
    for image_format, photo in photos().values():
        assert reason(photo, max_pixels=SIZE[0] * SIZE[1] - 1) == "too-large", image_format


def test_a_pixel_bomb_is_refused_by_its_header() -> None:
    row = bytes(2500 + 1)
    deflate = zlib.compressobj(9)
    bomb = png(20_000, 20_000, b"".join(deflate.compress(row) for _ in range(20_000)) + deflate.flush())
    assert len(bomb) < 200_000
    assert reason(bomb, max_pixels=40_000_000) == "too-large"
    assert reason(bomb[:60], max_pixels=40_000_000) == "too-large"


def test_a_gif_frame_larger_than_its_screen_counts() -> None:
    data = bytearray(encode("GIF", picture("L")))
    data[6:10] = b"\x01\0\x01\0"
    assert (look(bytes(data)).width, look(bytes(data)).height) == SIZE
    assert reason(bytes(data), max_pixels=SIZE[0] * SIZE[1] - 1) == "too-large"


def test_a_size_of_nothing() -> None:
    assert reason(png(0, 10, b"x")) == "not-an-image"


# JPEG


def test_a_jpeg_cut_where_only_its_thumbnail_has_an_end_marker() -> None:
    thumbnail = encode("JPEG", picture(size=(32, 24)))
    data = with_segments(encode("JPEG"), segment(0xE1, b"Exif\0\0" + tiff(thumbnail=thumbnail)))
    assert look(data).width == SIZE[0]
    end = data.index(b"\xff\xd9") + 2
    assert data[:end].endswith(thumbnail)
    assert reason(data[:end]) == "truncated"
    assert reason(data[: len(data) // 2]) == "truncated"
    assert reason(data[:-2]) == "truncated"
    assert reason(data[:-2] + bytes(5000)) == "truncated"


def test_a_jpeg_with_something_after_its_end() -> None:
    for name in ("jpeg", "jpeg-progressive", "jpeg-restarts"):
        data = photos()[name][1]
        for trailer in (b"\0", bytes(4096), b"\n", b"\xff" * 7, b"<!-- cache -->", b"\xff\xd9\xff\xd9"):
            assert look(data + trailer).format == "JPEG", (name, trailer)
        for length in (len(data) // 2, len(data) - 40):
            assert reason(data[:length] + b"\r\n<html>502 Bad Gateway</html>") == "truncated", name
        assert reason(photos()["jpeg-progressive"][1][:-200] + data) == "truncated", name


def test_a_jpeg_with_its_second_picture_and_its_fill_bytes() -> None:
    data = encode("MPO", save_all=True, append_images=[picture(size=(30, 20))])
    assert (look(data).width, look(data).height) == SIZE
    plain = encode("JPEG")
    assert look(plain[:2] + b"\xff\xff\xff" + plain[2:]).width == SIZE[0]
    tables = plain.index(b"\xff\xdb")
    assert look(plain[:tables] + b"\0\0" + plain[tables:]).width == SIZE[0]


def test_all_frame_headers_say_the_size() -> None:
    plain = encode("JPEG")
    at = plain.index(b"\xff\xc0")
    for marker in (0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCF):
        assert look(plain[: at + 1] + bytes([marker]) + plain[at + 2 :]).height == SIZE[1]


def test_odd_jpegs() -> None:
    plain = encode("JPEG")
    at = plain.index(b"\xff\xc0")
    scan = plain.index(b"\xff\xda")
    header = plain[at : at + 19]
    assert reason(plain[:at] + header + plain[at:]) == "not-an-image"
    assert reason(plain[:at] + plain[at + 19 :]) == "not-an-image"
    assert reason(plain[:scan] + b"\xff\xd9") == "truncated"
    assert reason(plain[: scan + 14] + b"\xff\xd9") == "truncated"
    assert reason(with_segments(plain, b"\xff\xe0\0\0")) == "not-an-image"
    assert reason(with_segments(plain, segment(0xFE, b"") * 20_001)) == "not-an-image"
    assert reason(plain[: at + 5] + b"\0\0" + plain[at + 7 :]) == "not-an-image"


# The others


def test_padding_after_the_end() -> None:
    for name in ("png", "gif", "webp", "gif-animated"):
        assert look(photos()[name][1] + b"\0\n") == look(photos()[name][1]), name


def test_a_damaged_png() -> None:
    data = bytearray(photos()["png"][1])
    data[len(data) // 2] ^= 1
    assert reason(bytes(data)) == "truncated"
    assert reason(png(8, 8, b"")) == "not-an-image"
    assert reason(b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b"") + bytes(20)) == "not-an-image"


def test_an_empty_gif() -> None:
    assert reason(b"GIF89a\x48\0\x30\0\0\0\0;") == "not-an-image"
    assert reason(b"GIF89a\x48\0\x30\0\0\0\0x" + bytes(30)) == "not-an-image"
    assert reason(b"GIF89a\x48\0\x30\0\0\0\0!\xfe" + b"\x01a" * 600_000) == "too-large"
    assert reason(b"GIF89a\x48\0\x30\0\0\0\0!\xfe" + b"\x01a" * 600_000, max_bytes=10**7) == "truncated"


def test_a_webp_without_a_picture() -> None:
    exif = b"EXIF\x04\0\0\0abcd"
    assert reason(b"RIFF" + struct.pack("<I", 4 + len(exif)) + b"WEBP" + exif) == "truncated"


def test_an_avif_by_its_compatible_brand() -> None:
    data = encode("AVIF")
    assert data[8:12] == b"avif"
    assert look(data[:8] + b"mif1" + data[12:]).format == "AVIF"


def test_an_avif_whose_data_box_goes_to_the_end_of_the_file() -> None:
    data = encode("AVIF")
    at = data.index(b"mdat") - 4
    open_ended = data[:at] + bytes(4) + data[at + 4 :]
    assert look(open_ended).width == SIZE[0]
    assert reason(open_ended[:-1]) == "truncated"


def test_an_avif_of_many_boxes_or_none() -> None:
    head = box(b"ftyp", b"avif\0\0\0\0avif")
    assert reason(head) == "truncated"
    assert reason(head + box(b"free", b"") * 20_001) == "not-an-image"
    assert reason(head + box(b"meta", b"\0\0\0\0")) == "truncated"
    assert reason(head + box(b"mdat", b"xx")) == "truncated"
