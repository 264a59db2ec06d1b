from __future__ import annotations

import contextlib
import struct
import zlib
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from carscraper.storage.inspection import inspect
from carscraper.storage.metadata import strip_private
from tests.storage import (
    GPS_XMP,
    PLAIN_XMP,
    SIZE,
    encode,
    photos,
    picture,
    pixels,
    segment,
    tiff,
    with_segments,
)

SECRETS = (b"MAKERNOTE", b"Jonsson", b"SN1234567", b"L77\0", b"ASCII\0\0\0GPS", b"GPSLatitude", b"64,8.7N")
CAPABLE: dict[str, dict[str, Any]] = {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}, "AVIF": {}}


def exif(data: bytes) -> Image.Exif:
    with Image.open(BytesIO(data)) as image:
        image.load()
        return image.getexif()


def same_object(data: bytes, image_format: str) -> bool:
    return strip_private(data, image_format) is data


def assert_clean(data: bytes, image_format: str, *, same_length: bool = True) -> bytes:
    """Strip and look at everything that has to be true afterwards; returns what is left."""
    clean = strip_private(data, image_format)
    assert clean != data
    assert pixels(clean) == pixels(data)
    if same_length:
        assert len(clean) == len(data)
    for secret in SECRETS:
        assert secret not in clean
    look = {"min_width": 1, "min_height": 1, "max_pixels": 10**6, "max_bytes": 10**7}
    assert inspect(clean, **look) == inspect(data, **look)
    left, before = exif(clean), exif(data)
    assert left.get(0x0112) == before.get(0x0112)
    assert left.get_ifd(0x8825) == {}
    assert 0x8825 not in left
    details = left.get_ifd(0x8769)
    assert not {0x927C, 0xA430, 0xA431, 0xA435} & set(details)
    for tag in (0x010F, 0xC62E):
        assert left.get(tag) == before.get(tag)
    for tag in (0x9003, 0x920A, 0xA434):
        assert details.get(tag) == before.get_ifd(0x8769).get(tag)
    assert same_object(clean, image_format)
    return clean


# Every container


@pytest.mark.parametrize("name", [name for name in photos() if "exif" not in name and "alpha" not in name])
def test_a_photo_without_private_metadata_is_the_same_object(name: str) -> None:
    image_format, data = photos()[name]
    if name == "avif-animated":
        assert_clean(data, image_format)
    else:
        assert same_object(data, image_format)


@pytest.mark.parametrize("image_format", CAPABLE)
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_cleaned_in_every_container(image_format: str, order: str) -> None:
    data = encode(image_format, **CAPABLE[image_format], exif=b"Exif\0\0" + tiff(order=order))
    assert_clean(data, image_format)
    plain = tiff(order=order, private=False)
    assert same_object(encode(image_format, **CAPABLE[image_format], exif=b"Exif\0\0" + plain), image_format)


@pytest.mark.parametrize("image_format", CAPABLE)
def test_exif_as_pillow_writes_it(image_format: str) -> None:
    block = Image.Exif()
    block[0x0112] = 8 if image_format != "AVIF" else 1
    block[0x010F] = "Nikon"
    block[0x8825] = {1: "N", 2: (64.0, 8.0, 43.0), 29: "2026:11:20"}
    block[0x8769] = {0x9003: "2026:11:20 10:00:00", 0xA431: "SN1234567", 0xA434: "50 mm"}
    clean = assert_clean(encode(image_format, exif=block), image_format)
    assert exif(clean)[0x010F] == "Nikon"
    assert b"2026:11:20\0" not in clean.replace(b"2026:11:20 10", b"")


@pytest.mark.parametrize("image_format", CAPABLE)
def test_xmp_is_emptied_in_every_container(image_format: str) -> None:
    data = encode(image_format, **CAPABLE[image_format], xmp=GPS_XMP)
    assert b"GPSLatitude" in data or image_format == "PNG"
    if image_format == "PNG":
        data = png_with(data, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + GPS_XMP)
    clean = assert_clean(data, image_format)
    with Image.open(BytesIO(clean)) as image:
        image.load()
        assert len(image.info["xmp"]) == len(GPS_XMP)
        assert image.getxmp() == {"xmpmeta": {}} or not any("GPS" in text for text in str(image.getxmp()).split())
    plain = data.replace(b"GPSLatitude", b"ColorSpace1") if image_format != "PNG" else encode("PNG")
    assert same_object(plain, image_format)


def test_unknown_formats_are_left_alone() -> None:
    assert same_object(b"whatever", "HEIC")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
@pytest.mark.parametrize("data", [b"", b"x", b"\xff\xd8\xff", bytes(100), b"RIFF\0\0\0\0WEBP"])
def test_odd_data_is_left_alone(image_format: str, data: bytes) -> None:
    assert same_object(data, image_format)


# JPEG


def jpeg_with_exif(block: bytes) -> bytes:
    return with_segments(encode("JPEG"), segment(0xE1, b"Exif\0\0" + block))


def test_every_orientation_is_kept() -> None:
    for orientation in range(1, 9):
        clean = assert_clean(jpeg_with_exif(tiff(orientation=orientation)), "JPEG")
        assert exif(clean)[0x0112] == orientation


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_thumbnail_stays_but_not_its_own_exif(order: str) -> None:
    plain = encode("JPEG", picture(size=(32, 24)))
    clean = assert_clean(jpeg_with_exif(tiff(order=order, thumbnail=plain)), "JPEG")
    assert plain in clean
    nested = with_segments(plain, segment(0xE1, b"Exif\0\0" + tiff(order=order)))
    clean = assert_clean(jpeg_with_exif(tiff(order=order, thumbnail=nested)), "JPEG")
    assert plain[2:] in clean
    only_nested = jpeg_with_exif(tiff(order=order, thumbnail=nested, private=False))
    assert_clean(only_nested, "JPEG")


def test_xmp_within_exif() -> None:
    clean = assert_clean(jpeg_with_exif(tiff(xmp=GPS_XMP)), "JPEG")
    assert 0x02BC not in exif(clean)
    assert_clean(jpeg_with_exif(tiff(xmp=GPS_XMP, private=False)), "JPEG")
    assert same_object(jpeg_with_exif(tiff(xmp=PLAIN_XMP, private=False)), "JPEG")


def test_xmp_in_utf16() -> None:
    header = b"http://ns.adobe.com/xap/1.0/\0"
    text = GPS_XMP.decode().encode("utf-16-le")
    clean = strip_private(with_segments(encode("JPEG"), segment(0xE1, header + text)), "JPEG")
    assert "GPS".encode("utf-16-le") not in clean


def test_extended_xmp_whose_words_are_cut_between_segments() -> None:
    head = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32
    at = GPS_XMP.index(b"GPSLat") + 2
    parts = [GPS_XMP[:at], GPS_XMP[at:]]
    segments = [
        segment(0xE1, head + struct.pack(">II", len(GPS_XMP), offset) + part)
        for offset, part in zip((0, at), parts, strict=True)
    ]
    assert_clean(with_segments(encode("JPEG"), *segments), "JPEG")


def test_copies_among_photoshop_resources() -> None:
    def resource(number: int, content: bytes) -> bytes:
        padded = content + bytes(len(content) % 2)
        return b"8BIM" + struct.pack(">HHI", number, 0, len(content)) + padded

    iptc = resource(0x0404, b"\x1c\x02\x78\0\x05hello")
    resources = [iptc, resource(0x0422, tiff()), resource(0x0424, GPS_XMP), resource(0x03ED, bytes(16))]
    data = with_segments(encode("JPEG"), segment(0xED, b"Photoshop 3.0\0" + b"".join(resources)))
    assert iptc in assert_clean(data, "JPEG")


def test_exif_that_goes_on_in_a_second_segment() -> None:
    block = tiff(thumbnail=encode("JPEG", picture(size=(32, 24))))
    for cut in (300, 400, len(block) - 100):
        pieces = [segment(0xE1, b"Exif\0\0" + piece) for piece in (block[:cut], block[cut:])]
        assert_clean(with_segments(encode("JPEG"), *pieces), "JPEG")


def test_two_exif_segments_of_their_own() -> None:
    pieces = [segment(0xE1, b"Exif\0\0" + tiff(order=order)) for order in "<>"]
    clean = strip_private(with_segments(encode("JPEG"), *pieces), "JPEG")
    assert not any(secret in clean for secret in SECRETS)


@pytest.mark.parametrize("base", ["jpeg", "jpeg-progressive", "jpeg-cmyk", "jpeg-restarts"])
def test_every_kind_of_jpeg(base: str) -> None:
    assert_clean(with_segments(photos()[base][1], segment(0xE1, b"Exif\0\0" + tiff())), "JPEG")


def test_the_second_picture_and_the_video_after_the_first() -> None:
    with_gps = jpeg_with_exif(tiff())
    both = encode("JPEG") + with_gps
    both = with_segments(both, segment(0xE2, b"MPF\0nothing in it"))
    clean = strip_private(both, "JPEG")
    assert len(clean) == len(both)
    assert not any(secret in clean for secret in SECRETS)
    assert pixels(clean[clean.rindex(b"\xff\xd8\xff\xe1") :]) == pixels(with_gps)

    video = b"\0\0\0\x14ftypmp42\0\0\0\0mp42" + b"\0\0\0\x20udta" + b"\xa9xyz\0\x12\x15\xc7+64.1462-021.9426/"
    moving = encode("JPEG") + video
    clean = strip_private(moving, "JPEG")
    assert b"64.1462" not in clean
    assert len(clean) == len(moving)
    assert same_object(clean, "JPEG")
    assert same_object(moving.replace(b"\xa9xyz", b"name"), "JPEG")


# EXIF blocks that are damaged or hostile


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged EXIF
def test_what_can_not_be_followed_is_emptied_but_for_the_orientation() -> None:
    block = tiff()
    cut_in_ifd0 = block[: 8 + 2 + 12 * 4 + 6]
    assert b"\x88\x25" in cut_in_ifd0
    data = jpeg_with_exif(cut_in_ifd0)
    clean = strip_private(data, "JPEG")
    assert len(clean) == len(data)
    assert pixels(clean) == pixels(data)
    assert dict(exif(clean)) == {0x0112: 6}
    assert same_object(clean, "JPEG")


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged EXIF
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_way_to_cut_an_exif_block(order: str) -> None:
    block = tiff(order=order, thumbnail=encode("JPEG", picture(size=(8, 8))))
    at = block.index(b"Jon")
    for length in range(len(block)):
        clean = strip_private(jpeg_with_exif(block[:length]), "JPEG")
        if length > at + 40:
            assert not any(secret in clean for secret in SECRETS)
        left = exif(clean) if length > 40 else {}
        assert 0x8825 not in left
        assert same_object(clean, "JPEG")


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged EXIF
def test_a_table_that_leads_to_itself_and_tables_over_each_other() -> None:
    block = bytearray(tiff())
    count = struct.unpack_from(">H", block, 8)[0]
    struct.pack_into(">I", block, 10 + 12 * count, 8)
    assert_clean(jpeg_with_exif(bytes(block)), "JPEG")
    struct.pack_into(">I", block, 10 + 12 * count, 14)
    clean = strip_private(jpeg_with_exif(bytes(block)), "JPEG")
    assert exif(clean).get_ifd(0x8825) == {}
    assert exif(clean)[0x0112] == 6


@pytest.mark.parametrize("order", ["<", ">"])
def test_offsets_of_tables_that_are_nowhere(order: str) -> None:
    for offset in (0, 3, 7, 0xFFFF, 0xFFFFFFFF):
        block = bytearray(tiff(order=order))
        at = block.index(struct.pack(order + "HHI", 0x8825, 4, 1))
        struct.pack_into(order + "I", block, at + 8, offset)
        clean = strip_private(jpeg_with_exif(bytes(block)), "JPEG")
        assert 0x8825 not in exif(clean)
        assert exif(clean)[0x0112] == 6
        first = bytearray(tiff(order=order))
        struct.pack_into(order + "I", first, 4, offset)
        clean = strip_private(jpeg_with_exif(bytes(first)), "JPEG")
        assert b"SN1234567" not in clean
        assert b"ASCII\0\0\0GPS" not in clean


def test_a_gps_entry_that_no_table_leads_to() -> None:
    block = tiff(private=False) + b"\x88\x25\0\x04\0\0\0\x01\0\0\0\x08"
    clean = strip_private(jpeg_with_exif(block), "JPEG")
    assert b"\x88\x25" not in clean
    assert exif(clean)[0x0112] == 6


def test_gps_of_the_64_bit_kind_and_behind_wrong_magic() -> None:
    wide = b"MM\0\x2b\0\x08\0\0" + struct.pack(">QQ", 16, 1) + struct.pack(">HHQQ", 0x8825, 16, 1, 60) + bytes(60)
    clean = strip_private(jpeg_with_exif(wide), "JPEG")
    assert b"\x88\x25" not in clean
    swapped = bytearray(tiff())
    swapped[2:4] = b"\x2a\0"
    assert_clean(jpeg_with_exif(bytes(swapped)), "JPEG")
    assert same_object(jpeg_with_exif(b"nothing of the kind"), "JPEG")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_hostile_blocks_cost_little(image_format: str) -> None:
    tables = b"".join(struct.pack(">HHI", 0x8825, 4, 65535) + struct.pack(">I", 8) for _ in range(5000))
    bomb = b"MM\0*\0\0\0\x08" + struct.pack(">H", 5000) + tables + bytes(4)
    data = encode(image_format, exif=b"Exif\0\0" + bomb)
    clean = strip_private(data, image_format)
    assert b"\x88\x25" not in clean
    assert len(clean) == len(data)


# PNG


def png_with(data: bytes, name: bytes, content: bytes) -> bytes:
    chunk = struct.pack(">I", len(content)) + name + content
    return data[:33] + chunk + struct.pack(">I", zlib.crc32(name + content)) + data[33:]


def test_checksums_of_a_png_are_right_afterwards() -> None:
    clean = assert_clean(encode("PNG", exif=tiff()), "PNG")
    at = clean.index(b"eXIf")
    length = struct.unpack_from(">I", clean, at - 4)[0]
    assert zlib.crc32(clean[at : at + 4 + length]) == struct.unpack_from(">I", clean, at + 4 + length)[0]


def test_compressed_text_of_a_png() -> None:
    itxt = b"XML:com.adobe.xmp\0\1\0\0\0"
    clean = assert_clean(png_with(encode("PNG"), b"iTXt", itxt + zlib.compress(GPS_XMP)), "PNG", same_length=False)
    with Image.open(BytesIO(clean)) as image:
        image.load()
        assert "GPS" not in str(image.info)
    assert same_object(png_with(encode("PNG"), b"iTXt", itxt + zlib.compress(PLAIN_XMP)), "PNG")


@pytest.mark.parametrize("kind", [b"exif", b"APP1"])
@pytest.mark.parametrize("compressed", [False, True])
def test_raw_profiles_as_imagemagick_writes_them(kind: bytes, compressed: bool) -> None:
    raw = b"Exif\0\0" + tiff()
    digits = raw.hex().encode()
    lines = b"\n".join(digits[index : index + 72] for index in range(0, len(digits), 72))
    text = b"\n" + kind + b"\n    " + str(len(raw)).encode() + b"\n" + lines + b"\n"
    keyword = b"Raw profile type " + kind + b"\0"
    name, content = (b"zTXt", keyword + b"\0" + zlib.compress(text)) if compressed else (b"tEXt", keyword + text)
    data = png_with(encode("PNG"), name, content)
    clean = assert_clean(data, "PNG", same_length=not compressed)
    assert b"Jon Jonsson".hex().encode() not in clean


def test_plain_text_of_a_png() -> None:
    data = png_with(encode("PNG"), b"tEXt", b"exif:GPSLatitude\x0064/1, 8/1")
    clean = strip_private(data, "PNG")
    assert b"64/1" not in clean
    assert same_object(png_with(encode("PNG"), b"tEXt", b"Comment\0has a GPS receiver"), "PNG")


def test_odd_text_of_a_png() -> None:
    for name, content in [
        (b"tEXt", b"Raw profile type exif\0not hex at all"),
        (b"tEXt", b"Raw profile type exif\0\nexif\n 3\n" + b" " * 100_000 + b"!"),
        (b"zTXt", b"Raw profile type exif\0\0not deflate"),
        (b"iTXt", b"XML:com.adobe.xmp\0\0"),
        (b"iTXt", b"XML:com.adobe.xmp"),
    ]:
        assert same_object(png_with(encode("PNG"), name, content), "PNG")
    empty = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"", 1)
    assert same_object(png_with(encode("PNG"), b"iTXt", empty), "PNG")
    bomb = zlib.compress(bytes(20_000_000), 9)
    data = png_with(encode("PNG"), b"zTXt", b"Raw profile type exif\0\0" + bomb)
    clean = strip_private(data, "PNG")
    assert len(clean) < len(data) - 10_000
    assert pixels(clean) == pixels(encode("PNG"))
    assert same_object(clean, "PNG")


def test_no_photo_has_many_exif_blocks() -> None:
    plain = tiff(private=False)
    for block in (tiff(), plain):
        data = with_segments(encode("JPEG"), *[segment(0xE1, b"Exif\0\0" + block)] * 9)
        clean = strip_private(data, "JPEG")
        assert not any(secret in clean for secret in SECRETS)
        assert clean.count(b"Canon") == 8
        assert same_object(clean, "JPEG")
        data = encode("PNG")
        for _ in range(9):
            data = png_with(data, b"eXIf", block)
        assert strip_private(data, "PNG").count(b"Canon") == 8


# GIF


def test_xmp_of_a_gif() -> None:
    data = encode("GIF")
    end = data.rindex(b";")
    magic = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    raw = data[:end] + b"!\xff\x0bXMP DataXMP" + GPS_XMP + magic + data[end:]
    assert_clean(raw, "GIF")
    blocks = b"".join(
        bytes([len(piece)]) + piece for piece in (GPS_XMP[at : at + 100] for at in range(0, len(GPS_XMP), 100))
    )
    assert_clean(data[:end] + b"!\xff\x0bXMP DataXMP" + blocks + b"\0" + data[end:], "GIF")
    assert same_object(data[:end] + b"!\xff\x0bXMP DataXMP" + PLAIN_XMP + magic + data[end:], "GIF")


# AVIF


def test_an_avif_item_that_lies_over_the_picture_is_left_alone() -> None:
    data = encode("AVIF", exif=tiff())
    at = data.index(b"infe", data.index(b"infe") + 4)
    assert data[at + 12 : at + 16] == b"Exif"
    av01 = data.index(b"av01", data.index(b"infe"))
    swapped = bytearray(data)
    swapped[av01 : av01 + 4], swapped[at + 12 : at + 16] = b"Exif", b"av01"
    assert same_object(bytes(swapped), "AVIF")


# Properties


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged EXIF
@pytest.mark.parametrize("image_format", CAPABLE)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_blocks_never_raise_and_a_second_time_changes_nothing(image_format: str, data: st.DataObject) -> None:
    order = data.draw(st.sampled_from("<>"))
    thumbnail = with_segments(encode("JPEG", picture(size=(8, 8))), segment(0xE1, b"Exif\0\0" + tiff(order=order)))
    block = bytearray(tiff(order=order, thumbnail=data.draw(st.sampled_from([b"", thumbnail])), xmp=GPS_XMP))
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(block) - 1) | st.integers(0, 200))
        block[at] = data.draw(st.sampled_from([0, 8, 14, 0x88, 0x25, 0xFF]) | st.integers(0, 255))
    options: dict[str, Any] = {} if image_format == "AVIF" else {"exif": b"Exif\0\0" + bytes(block)}
    if image_format == "AVIF":  # Its encoder parses the block, so the block goes in afterwards.
        base = encode("AVIF", exif=tiff(thumbnail=thumbnail, xmp=GPS_XMP, order=order))
        at = base.index(b"II*\0" if order == "<" else b"MM\0*")
        photo = base[:at] + bytes(block)[: len(base) - at] + base[at + len(block) :]
    else:
        photo = encode(image_format, **options)
    clean = strip_private(photo, image_format)
    assert len(clean) == len(photo)
    assert strip_private(clean, image_format) is clean
    if image_format != "AVIF":
        assert pixels(clean) == pixels(photo)
        left = exif(clean) if image_format == "JPEG" else Image.Exif()
        with contextlib.suppress(OSError, SyntaxError, TypeError, ValueError, struct.error, KeyError, IndexError):
            assert left.get_ifd(0x8825) == {}
            assert not {0x8825, 0x927C, 0xA430, 0xA431, 0xA435} & {*left, *left.get_ifd(0x8769)}


@pytest.mark.parametrize("name", photos())
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_mutated_photos_never_raise(name: str, data: st.DataObject) -> None:
    image_format, photo = photos()[name]
    mutated = bytearray(photo)
    for _ in range(data.draw(st.integers(1, 5))):
        mutated[data.draw(st.integers(0, min(500, len(mutated) - 1)))] = data.draw(st.integers(0, 255))
    clean = strip_private(bytes(mutated), image_format)
    assert strip_private(clean, image_format) is clean


def test_the_size_is_what_it_was() -> None:
    for image_format, data in photos().values():
        assert len(strip_private(data, image_format)) == len(data)
        with Image.open(BytesIO(strip_private(data, image_format))) as image:
            assert image.size == SIZE
