"""Names of objects: safe whatever a page says, one car never under another's."""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import unquote, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from carscraper.storage.client import S3Options
from carscraper.storage.keys import (
    KeyParts,
    image_key,
    key_of,
    normalise_prefix,
    parse_key,
    parse_thumbnail,
    permanent_url,
    thumbnail_key,
)

SHA256 = hashlib.sha256(b"photo").hexdigest()
CAR: dict[str, Any] = {
    "spider": "bilasolur",
    "year": 2019,
    "make": "Toyota",
    "model": "Yaris",
    "external_id": "296487",
    "sha256": SHA256,
    "extension": "jpg",
}
HOSTILE = st.one_of(
    st.none(),
    st.text(),
    st.text(alphabet=st.characters()),
    st.sampled_from(
        [
            *("../../etc", "..", ".", "/", "\\", "a/b", "a\nb", "a\x00b", "🚗", "þð" * 3000, "%2e%2e%2f", "\ud800"),
            *("x" * 5000, "=cmd()", "__", "-", " ", "CON", "ﬁ", "\uff21", "İ", "ß"),
        ]
    ),
)


def test_the_scheme() -> None:
    for changes, folder in [
        ({}, "bilasolur/2019/toyota/yaris"),
        ({"year": None}, "bilasolur/unknown/toyota/yaris"),
        ({"make": None, "model": None}, "bilasolur/2019/unknown/unknown"),
        ({"make": "VW", "model": "ID.5 GTX"}, "bilasolur/2019/volkswagen/id-5-gtx"),
        ({"make": "M.BENZ"}, "bilasolur/2019/mercedes-benz/yaris"),
        ({"model": "Þórður Ægir Ölaf"}, "bilasolur/2019/toyota/thordur-aegir-olaf"),
        ({"make": "../../etc", "model": "a/b\n🚗"}, "bilasolur/2019/etc/a-b"),
    ]:
        assert image_key(**{**CAR, **changes}) == f"{folder}/296487_{SHA256[:12]}.jpg"
    assert image_key(**{**CAR, "extension": "webp"}).endswith(".webp")


@given(make=HOSTILE, model=HOSTILE, external_id=HOSTILE.filter(lambda text: text is not None))
def test_any_car_has_a_safe_key(make: str | None, model: str | None, external_id: str) -> None:
    key = image_key(**{**CAR, "make": make, "model": model, "external_id": external_id})
    assert len(key.encode()) <= 1024
    *parts, name = key.split("/")
    assert len(parts) == 4
    for part in parts:
        assert re.fullmatch(r"[a-z0-9-]{1,60}", part)
    assert re.fullmatch(r"[a-z0-9-]{1,60}_[0-9a-f]{12}\.jpg", name)


@given(one=st.text(min_size=1), other=st.text(min_size=1))
def test_two_cars_never_share_a_key(one: str, other: str) -> None:
    if one != other:
        assert image_key(**{**CAR, "external_id": one}) != image_key(**{**CAR, "external_id": other})


def test_ids_that_look_alike() -> None:
    for one, other in [("A1", "a1"), ("a 1", "a-1"), ("1", "01"), ("é", "e"), ("x" * 41, "x" * 42), ("1\n", "1")]:
        assert image_key(**{**CAR, "external_id": one}) != image_key(**{**CAR, "external_id": other}), one


def test_a_prefix_ends_with_one_slash() -> None:
    for prefix, normal in [(None, ""), ("/", ""), ("cars", "cars/"), ("cars/", "cars/"), ("//cars//is/", "cars/is/")]:
        assert normalise_prefix(prefix) == normal
        assert normalise_prefix(normal) == normal


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_permanent_url_names_exactly_its_key(key: str) -> None:
    url = permanent_url(key, "https://img.example.is/")
    parts = urlsplit(url)
    assert url.isascii()
    assert (parts.query, parts.fragment) == ("", "")
    assert unquote(parts.path) == f"/{key}"


def test_what_stands_before_the_key() -> None:
    public, server = {"public_url": "https://img.example.is/"}, {"endpoint": "http://127.0.0.1:9000/"}
    for options, base in [
        ({}, "https://b.s3.eu-north-1.amazonaws.com"),
        ({"region": "cn-north-1"}, "https://b.s3.cn-north-1.amazonaws.com.cn"),
        ({"bucket": "b.c"}, "https://s3.eu-north-1.amazonaws.com/b.c"),
        ({"addressing_style": "path"}, "https://s3.eu-north-1.amazonaws.com/b"),
        (
            {"endpoint": "https://s3.dualstack.eu-north-1.amazonaws.com"},
            "https://b.s3.dualstack.eu-north-1.amazonaws.com",
        ),
        (
            {"endpoint": "https://vpce-1.s3.eu-north-1.vpce.amazonaws.com"},
            "https://vpce-1.s3.eu-north-1.vpce.amazonaws.com/b",
        ),
        ({"endpoint": "https://s3.example/x"}, "https://s3.example/x/b"),
        ({"endpoint": "https://s3.example", "addressing_style": "virtual"}, "https://b.s3.example"),
        ({"endpoint": "http://[::1]:9000", "addressing_style": "virtual"}, "http://[::1]:9000/b"),
        (server, "http://127.0.0.1:9000/b"),
        (public, "https://img.example.is"),
        (public | server, "https://img.example.is"),
    ]:
        known: dict[str, Any] = {"bucket": "b", "region": "eu-north-1", **options}
        its = S3Options(**known)
        assert its.base == base, options
        if not its.public_url:
            assert key_of(f"{base}/a.jpg", its.published) == "a.jpg", options


def test_a_thumbnail_is_beside_not_among_the_photos() -> None:
    key = image_key(**CAR)
    assert thumbnail_key("small", key) == f"thumbnails/small/{key}"


PHOTO = image_key(**CAR)
THUMBNAIL = thumbnail_key("small", PHOTO)


class TestParseKey:
    def test_every_key_we_make_is_read(self) -> None:
        for changes in ({}, {"year": None}, {"make": None, "model": None}, {"spider": "br"}):
            name = image_key(**{**CAR, **changes})
            parts = parse_key(name)
            assert isinstance(parts, KeyParts)
            folder = f"{parts.spider}/{parts.year or 'unknown'}/{parts.make}/{parts.model}"
            assert f"{folder}/{parts.external_id}_{parts.hash}.{parts.extension}" == name
            assert parse_key(f"cars/is/{name}", "cars/is/") == parts

    def test_an_odd_external_id(self) -> None:
        odd = image_key(
            spider="br", year=None, make=None, model=None, external_id="A/1_b þ", sha256="f" * 64, extension="avif"
        )
        parts = parse_key(odd)
        assert parts
        assert (parts.year, parts.make, parts.hash, parts.extension) == (None, "unknown", "f" * 12, "avif")

    def test_what_is_no_photo(self) -> None:
        for name in (
            "",
            "bilasolur/2019/kia/rio/1_0123456789ab.jpg/",
            "bilasolur/2019/kia/rio/1_0123456789ab",
            "bilasolur/2019/kia/rio/1_0123456789AB.jpg",
            "bilasolur/2019/kia/rio/1_0123456789.jpg",
            "bilasolur/2019/kia/rio/_0123456789ab.jpg",
            "bilasolur/0/kia/rio/1_0123456789ab.jpg",
            "bilasolur/2019/Kia/rio/1_0123456789ab.jpg",
            "bilasolur/2019//rio/1_0123456789ab.jpg",
            "bilasolur/2019/kia/rio/1_0123456789ab.jpg\n",
            "thumbnails/2019/kia/rio/1_0123456789ab.jpg",
            "x/bilasolur/2019/kia/rio/1_0123456789ab.jpg",
            THUMBNAIL,
            "_test/probe",
            "notes þ.txt",
        ):
            assert parse_key(name) is None, name

    def test_another_prefix(self) -> None:
        assert parse_key(f"boats/{PHOTO}", "cars/") is None
        assert parse_thumbnail(f"boats/{THUMBNAIL}", "cars/") is None

    def test_thumbnails(self) -> None:
        assert parse_thumbnail(f"cars/{THUMBNAIL}", "cars/") == ("small", PHOTO)
        assert parse_thumbnail(PHOTO) is None
