"""Perceptual hashes: the same for one photo however it was encoded, another for another photo, none for nothing."""

from __future__ import annotations

from io import BytesIO
from itertools import combinations, product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from carscraper.linking.rules import NEAR, perceptual_hash
from tests.dealers.photos import COLOURS, Look, PhotoFactory
from tests.images import encode, photos, tiff

FACTORY = PhotoFactory(20_000)
VIEWS = [
    (Look(colour, body), view)
    for colour in list(COLOURS)[:3]
    for body in ("Fólksbíll", "Sendibíll")
    for view in (0, 2, 4)
]


def served(look: Look, view: int, w: int = 1280, kind: str = "jpeg") -> bytes:
    return b"".join(FACTORY.photo(f"{look}/{view}/{w}", look, view, w, kind)[0])


def apart(one: str | None, other: str | None) -> int:
    assert one is not None
    assert other is not None
    assert len(one) == len(other) == 16
    return (int(one, 16) ^ int(other, 16)).bit_count()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_whatever_the_format_and_size() -> None:
    look, view = VIEWS[0]
    photo = served(look, view)
    whole = perceptual_hash(photo)
    for kind, width in product(("JPEG", "PNG", "WEBP", "AVIF", "GIF"), (400, 784)):
        small = Image.open(BytesIO(photo)).resize((width, round(width * 853 / 1280)))
        assert apart(whole, perceptual_hash(encoded(small, kind))) <= NEAR, (kind, width)
    for kind in ("jpeg-progressive", "jpeg-cmyk", "jpeg-rotated"):
        assert apart(whole, perceptual_hash(served(look, view, 784, kind))) <= NEAR, kind


def test_one_photo_is_near_and_another_view_is_far() -> None:
    hashes = {}
    for look, view in VIEWS:
        whole = Image.open(BytesIO(served(look, view)))
        versions = [
            served(look, view),
            served(look, view, 400),
            encoded(ImageEnhance.Brightness(whole).enhance(1.1).resize((640, 426)), "JPEG", quality=50),
            encoded(whole.crop((13, 9, 1267, 844)), "WEBP", quality=60),
        ]
        found = [perceptual_hash(each) for each in versions]
        assert max(apart(found[0], each) for each in found) <= NEAR, (look, view)
        hashes[look, view] = found[0]
    for (one, a), (other, b) in combinations(hashes.items(), 2):
        if one[1] != other[1]:
            assert apart(a, b) > NEAR + 4, (one, other)


def test_an_empty_picture_says_nothing() -> None:
    for colour in ("white", "black", (200, 201, 202)):
        assert perceptual_hash(encoded(Image.new("RGB", (400, 300), colour), "JPEG")) is None, colour


def test_a_photo_that_would_take_too_much_memory_says_nothing() -> None:
    photo = served(*VIEWS[0], w=784)
    assert perceptual_hash(photo) is not None
    assert perceptual_hash(photo, max_pixels=784 * 522 - 1) is None


def test_every_kind_of_photo_has_one() -> None:
    for name, (_, data) in photos().items():
        found = perceptual_hash(data)
        assert found is None or int(found, 16) >= 0, name


def test_turned_by_its_metadata() -> None:
    upright = Image.open(BytesIO(served(*VIEWS[1])))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    data = encode("JPEG", turned, exif=b"Exif\0\0" + tiff(orientation=6))
    assert apart(perceptual_hash(served(*VIEWS[1])), perceptual_hash(data)) <= NEAR


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 3000))
def test_no_bytes_raise(tail: bytes, cut: int) -> None:
    assert perceptual_hash(tail) is None
    perceptual_hash(served(*VIEWS[2], w=400)[:cut] + tail)
