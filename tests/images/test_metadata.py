from __future__ import annotations

import json
import subprocess
import sysconfig
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from carscraper.exceptions import ImageRejectedError
from carscraper.images.containers import avif_items, boxes, meta_boxes
from carscraper.images.inspection import Photo, inspect
from carscraper.images.metadata import orientation_of, strip_metadata, with_end
from carscraper.images.thumbnails import thumbnail
from tests.images import GPS_XMP, encode, photos, picture, pixels, segment, tiff, with_segments

CASES = sorted((Path(__file__).parent / "cases").iterdir())
"""Small files that an earlier version got wrong; the coordinates in them are those of a public square."""
WITHOUT_END = {"09-jpeg-no-eoi-samsung-trailer.jpg", "09-png-no-iend.png"}
SECRETS = (b"MAKERNOTE", b"Jonsson", b"SN1234567", b"Canon", b"GPS", b"64,8.7N", b"2026:11:20", b"hello")
CARRIERS: dict[str, dict[str, Any]] = {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}, "AVIF": {}}
ICC = b"ICC profile bytes " * 5000


def look(data: bytes) -> Photo:
    return inspect(data, min_width=1, min_height=1, max_pixels=10**8, max_bytes=10**8)


def stripped(data: bytes) -> bytes:
    """The photo as it is stored, after a look at what must be true of every one."""
    photo = look(data)
    kept = strip_metadata(data, photo.format)
    assert look(kept) == photo
    assert strip_metadata(kept, photo.format) is kept, "a second pass changes something"
    return kept


def orientation(data: bytes) -> int:
    with Image.open(BytesIO(data)) as image:
        image.load()
        return int(image.getexif().get(0x0112, 1))


# --- every container ---


@pytest.mark.parametrize("name", photos())
def test_the_picture_stays_and_nothing_else(name: str) -> None:
    data = photos()[name][1]
    kept = stripped(data)
    assert pixels(kept) == pixels(data)
    assert not [secret for secret in SECRETS if secret in kept]
    assert orientation(kept) == orientation(data)


def test_a_photo_that_only_draws_is_the_same_object() -> None:
    for name in ("jpeg", "jpeg-progressive", "jpeg-restarts", "png", "png-animated", "gif", "webp", "webp-animated"):
        image_format, data = photos()[name]
        assert strip_metadata(data, image_format) is data, name


@pytest.mark.parametrize("image_format", CARRIERS)
def test_every_orientation_of_either_byte_order_is_kept(image_format: str) -> None:
    for order in "<>":
        for number in range(1, 9):
            block = b"Exif\0\0" + tiff(order=order, orientation=number)
            data = encode(image_format, **CARRIERS[image_format], exif=block)
            kept = stripped(data)
            assert orientation(kept) == orientation(data) == number, (order, number)
            assert not [secret for secret in SECRETS if secret in kept]


@pytest.mark.parametrize("image_format", CARRIERS)
def test_the_colour_profile_is_kept(image_format: str) -> None:
    data = encode(image_format, **CARRIERS[image_format], icc_profile=ICC, exif=b"Exif\0\0" + tiff(), xmp=GPS_XMP)
    with Image.open(BytesIO(stripped(data))) as image:
        assert image.info["icc_profile"] == ICC
        assert "xmp" not in image.info or not image.info["xmp"].strip(b"\0")


def test_animation_is_kept() -> None:
    frames = [picture().rotate(angle) for angle in (90, 180)]
    moving: dict[str, Any] = {"save_all": True, "append_images": frames, "duration": [100, 200, 300], "loop": 3}
    for image_format, more in (("GIF", {"comment": b"hello"}), ("WEBP", {"xmp": GPS_XMP}), ("PNG", {})):
        data = encode(image_format, **moving, **more)
        kept = stripped(data)
        assert pixels(kept) == pixels(data), image_format
        with Image.open(BytesIO(kept)) as image:
            assert (image.n_frames, image.info.get("loop")) == (3, 3), image_format  # type: ignore[attr-defined]


# --- JPEG ---


def test_every_other_segment_of_a_jpeg_goes_wherever_it_stands() -> None:
    plain = encode("JPEG")
    scan = plain.index(b"\xff\xda")
    for marker in (*range(0xE0, 0xF0), 0xFE):
        secret = segment(marker, b"SN1234567 anything")
        for data in (with_segments(plain, secret), plain[:scan] + secret + plain[scan:]):
            assert stripped(data) == plain, hex(marker)
    assert stripped(plain + b"SN1234567") == plain
    second = encode("MPO", save_all=True, append_images=[picture(size=(30, 20))])
    assert stripped(second).count(b"\xff\xd8") == 1


def test_the_thumbnail_within_jfif_goes() -> None:
    plain = encode("JPEG")
    data = plain.replace(plain[2:20], segment(0xE0, plain[6:18] + b"\x01\x01RGB"))
    assert stripped(data) == plain


def test_an_exif_block_that_can_not_be_read_has_no_orientation() -> None:
    whole = tiff()
    assert orientation_of(whole) == 6
    assert orientation_of(b"") == 1
    assert orientation_of(tiff(orientation=9)) == 1
    for length in range(len(whole)):
        assert orientation_of(whole[:length]) in {1, 6}
        stripped(with_segments(encode("JPEG"), segment(0xE1, b"Exif\0\0" + whole[:length])))


# --- AVIF ---


def test_an_avif_keeps_its_length() -> None:
    data = encode("AVIF", exif=b"Exif\0\0" + tiff(), xmp=GPS_XMP)
    for tail in (b"", b"\0\0\0\x14uuidSN1234567xxx", b"\0\0\0\x14freeSN1234567xxx"):
        kept = stripped(data + tail)
        assert len(kept) == len(data + tail)
        assert pixels(kept) == pixels(data)
        assert not [secret for secret in SECRETS if secret in kept]


def test_an_avif_item_that_lies_over_the_picture_does_not_erase_it() -> None:
    data = encode("AVIF", exif=b"Exif\0\0" + tiff())
    meta = next(box for box in boxes(data, 0, len(data)) if box.name == b"meta")
    begin = {item.type: item.extents[0][0] for item in avif_items(data, meta_boxes(data, meta))}
    hostile = data.replace(begin[b"Exif"].to_bytes(4, "big"), begin[b"av01"].to_bytes(4, "big"))
    assert hostile != data
    assert strip_metadata(hostile, "AVIF")[begin[b"av01"] :] == data[begin[b"av01"] :]


# --- real files ---


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_files_that_failed(path: Path) -> None:
    data = path.read_bytes()
    if path.name in WITHOUT_END:
        with pytest.raises(ImageRejectedError, match="truncated"):
            look(data)
        shown, data = data, with_end(data)
        assert pixels(data) == pixels(shown)
        with pytest.raises(ImageRejectedError, match="cut off"):
            with_end(data[: len(data) * 3 // 4])
    kept = stripped(data)
    if path.name != "08-webp-exif-size.webp":  # Pillow does not open it as it is served; browsers do
        assert pixels(kept) == pixels(data)
    assert orientation(kept) == {"01": 6, "06": 6}.get(path.name[:2], 1)
    upright = Image.open(BytesIO(thumbnail(data, (100, 100)))).size
    width, height = look(data).width, look(data).height
    assert (upright[0] > upright[1]) == ((width > height) != (orientation(kept) > 4))


def test_the_real_files_of_this_machine(tmp_path: Path) -> None:
    """What Debian's and PyPI's packages ship: pixels as before, and exiftool finds nothing private in what is kept."""
    roots = (Path("/usr/share"), Path(sysconfig.get_path("purelib")))
    wanted = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif"}
    paths = sorted({path for root in roots for path in root.rglob("*.*") if path.suffix.lower() in wanted})
    kept_files = tmp_path / "kept"
    kept_files.mkdir()
    for number, path in enumerate([*CASES, *paths[:: max(1, len(paths) // 150)]]):
        data = path.read_bytes()
        try:
            data = data if path.name not in WITHOUT_END else with_end(data)
            kept = stripped(data)
        except ImageRejectedError:
            continue
        try:
            before = pixels(data)
        except Exception:
            before = pixels(kept)  # what Pillow can't read as it is
        assert pixels(kept) == before, path
        (kept_files / f"{number}{path.suffix}").write_bytes(kept)
    assert len(list(kept_files.iterdir())) >= len(CASES)
    command = ["exiftool", "-json", "-G1", "-all", "-unknown", "--ICC_Profile:all", str(kept_files)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    private = ("gps", "serial", "owner", "artist", "author", "creator", "address", "comment", "xmp", "iptc", "maker")
    for photo in json.loads(found.stdout):
        tags = [tag for tag in photo if any(word in tag.lower() for word in private)]
        assert not tags, photo


# --- hostile files ---


@pytest.mark.parametrize("name", photos())
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_mutated_photos_are_stripped_or_rejected(name: str, data: st.DataObject) -> None:
    mutated = bytearray(photos()[name][1])
    for _ in range(data.draw(st.integers(1, 5))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    try:
        photo = look(bytes(mutated))
        kept = strip_metadata(bytes(mutated), photo.format)
    except ImageRejectedError:
        return
    assert strip_metadata(kept, photo.format) is kept
