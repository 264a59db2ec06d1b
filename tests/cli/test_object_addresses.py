"""``presign`` and ``url``: addresses that answer, for how long, and keys that come back as they went."""

from __future__ import annotations

import datetime as dt
import json
import shlex
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from carscraper.console import duration, in_words
from tests import services
from tests.cli.test_objects import KEY, PHOTO, _here, moto, photo, watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Storage

__all__ = ["_here", "moto", "photo", "watched"]  # fixtures
NASTY = [
    "a b.jpg",
    "a+b.jpg",
    "100%.jpg",
    "a%20b%2Fc.jpg",
    "Þór/þæö.jpg",
    "a#b.jpg",
    "a?b=c.jpg",
    "a&b=c;d.jpg",
    "a'b.jpg",
    'a"b.jpg',
    ".hidden/..x.jpg",
    "...jpg",
    "-x.jpg",
    "a\\b.jpg",
    "~$@!*()[]{}<>|^`,:=.jpg",
    "🚗.jpg",
    "e\u0301.jpg",  # not the same key as é.jpg
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.jpg",
]
# rclone serves a folder: it refuses names that a folder can't hold.
NOT_ON_RCLONE = ["a//b.jpg", "/a.jpg", "a///b//c.jpg"]


def test_lengths_of_time(storage: Storage) -> None:
    for text, length in [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("1h", timedelta(hours=1)),
        ("30d", timedelta(days=30)),
        ("2W", timedelta(weeks=2)),
        (" 1h ", timedelta(hours=1)),
    ]:
        assert duration(text) == length
        assert duration(in_words(length)) == length
    for text in ("", "1", "h", "-1h", "1.5h", "1 h", "0s", "1y", "٣h", "9999999999w", "1h30m", "1h\n2"):
        assert "argument --expires: " in storage("presign", "k", f"--expires={text}", code=2).err, text


def test_presign(storage: Storage, s3: services.S3) -> None:
    storage.settings = s3.env
    s3.put("a þ+.jpg", PHOTO)
    said = storage("presign", "a þ+.jpg")
    assert urllib.request.urlopen(said.out.strip(), timeout=5).read() == PHOTO
    assert "X-Amz-Expires=3600" in said.out
    assert said.err == ""
    found = storage("presign", "a þ+.jpg", "--expires", "7d", "--json").data
    assert found["method"] == "GET"
    assert found["headers"] == {}
    left = dt.datetime.fromisoformat(found["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)


def test_presign_asks_nobody(storage: Storage, moto: services.S3, watched: services.S3Proxy) -> None:
    storage("presign", KEY)
    storage("url", KEY)
    assert watched.count() == 0


@pytest.mark.parametrize("words", [["--content-type", "image/webp"], []])
def test_presign_for_writing(storage: Storage, s3: services.S3, photo: Path, words: list[str]) -> None:
    storage.settings = s3.env
    kind = words[1] if words else "image/jpeg"
    url, line = storage("presign", "it's a þ.jpg", "--put", *words).out.splitlines()
    assert url in line
    command = shlex.split(line)
    assert command[:4] == ["curl", "--fail", "--upload-file", "FILE"]
    assert command[4:] == ["--header", f"Content-Type: {kind}", url]
    request = urllib.request.Request(url, data=PHOTO, method="PUT", headers={"Content-Type": kind})
    urllib.request.urlopen(request, timeout=5).close()
    assert s3.objects() == {"it's a þ.jpg": PHOTO}
    assert storage("presign", KEY, "--put", "--json", *words).data["headers"] == {"Content-Type": kind}


def test_url(storage: Storage) -> None:
    for settings, base in [
        ({}, "https://car-photos.s3.eu-north-1.amazonaws.com"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "http://127.0.0.1:1/car-photos"),
        ({"IMAGES_PUBLIC_URL": "https://img.example.is/x/"}, "https://img.example.is/x"),
    ]:
        storage.settings = {"AWS_S3_BUCKET": "car-photos", **settings}
        assert storage("url", "a b/100%þ?.jpg").out == f"{base}/a%20b/100%25%C3%BE%3F.jpg\n"
        assert storage("url", "k", "--json").data == {"key": "k", "url": f"{base}/k"}


def test_keys_that_are_none(storage: Storage) -> None:
    for verb in ("get", "presign", "url"):
        for key in ("", "a" * 1025, "a\0b", "a\udce9b"):
            said = storage(verb, key, settings={"AWS_S3_BUCKET": "car-photos"}, code=2)
            assert "argument KEY: the key " in said.err, (verb, key)


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read())


@pytest.fixture
def public(moto: services.S3) -> Iterator[services.S3]:
    """Moto's bucket, open to readers: its permanent addresses answer to anybody."""
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{moto.bucket}/*",
    }
    moto.client.put_bucket_policy(
        Bucket=moto.bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    yield moto
    moto.client.delete_bucket_policy(Bucket=moto.bucket)


def round_trip(storage: Storage, s3: services.S3, photo: Path, keys: list[str], *, public: bool) -> None:
    """Each key with bytes of its own, so that one can't stand in for another."""
    bodies = {key: PHOTO + f"after its end: {number}".encode() for number, key in enumerate(keys)}
    for key, body in bodies.items():
        photo.write_bytes(body)
        address = storage("put", photo, "--", key).out.strip()
        assert address == storage("url", "--", key).out.strip()
        assert address.isascii()
        if public:
            assert fetched(address) == body
        assert fetched(storage("presign", "--", key).out.strip()) == body
    assert s3.objects() == bodies
    bodies_left = dict(bodies)
    for key, body in bodies.items():
        storage("get", "--output", "back", "--force", "--no-ledger", "--", key)
        assert Path("back").read_bytes() == body
        storage("delete", "--yes", "--", key)
        del bodies_left[key]
        assert set(s3.keys()) == set(bodies_left)


def test_every_key_goes_round(
    storage: Storage, public: services.S3, rclone_s3: services.S3, photo: Path, sqlite_url: str
) -> None:
    round_trip(storage, public, photo, NASTY + NOT_ON_RCLONE, public=True)
    storage.settings = {**rclone_s3.env, "DATABASE_URL": sqlite_url}
    round_trip(storage, rclone_s3, photo, NASTY, public=False)
    photo.write_bytes(PHOTO)
    for key in NOT_ON_RCLONE:
        said = storage("put", photo, key, code=4)
        assert said.err == f"The server does not take {key!r} as a key (400): choose another.\n"
    assert rclone_s3.keys() == []
