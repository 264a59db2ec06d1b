"""``get``, ``put``, ``presign``, ``url``: what they give, what they refuse, and keys that come back as they went."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert

from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.db.models import CarImageRow, CarListing
from tests import services
from tests.images import photos

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Storage

PHOTO = photos()["jpeg"][1]
KEY = "cars/a.jpg"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.bin"  # the name says nothing: bytes decide
    path.write_bytes(PHOTO)
    return path


@pytest.fixture
def watched(storage: Storage, moto: services.S3, proxy: services.S3Proxy) -> services.S3Proxy:
    """What is between the verbs and moto's bucket."""
    storage.settings |= moto.via(proxy).env
    return proxy


@pytest.fixture
def moto(storage: Storage, moto_s3: services.S3, sqlite_url: str) -> services.S3:
    storage.settings = {**moto_s3.env, "DATABASE_URL": sqlite_url}
    return moto_s3


def enter(url: str, bucket: str, key: str, data: bytes, *, status: str = "stored") -> None:
    """Makes the ledger say that *key* has these bytes."""
    engine = open_engine(url, timeout=5)
    schema.ensure(engine)
    now = datetime.now(UTC).replace(tzinfo=None)
    with engine.begin() as connection:
        listing: Any = connection.execute(
            insert(CarListing).values(source="Bilasolur", external_id=hashlib.md5(key.encode() + data).hexdigest())
        )
        connection.execute(
            insert(CarImageRow).values(
                listing_id=listing.inserted_primary_key[0],
                position=0,
                identity="1/1",
                source_url="https://example.is/1.jpg",
                status=status,
                store=f"s3://{bucket}",
                key=key,
                sha256=hashlib.sha256(data).hexdigest(),
                first_seen_at=now,
            )
        )
    engine.dispose()


# --- put --------------------------------------------------------------------------------------------------------


def test_put_prints_the_permanent_address(storage: Storage, s3: services.S3, photo: Path) -> None:
    storage.settings = s3.env
    said = storage("put", photo, "cars/þ a.jpg")
    assert said.out == f"{s3.endpoint}/{s3.bucket}/cars/%C3%BE%20a.jpg\n"
    assert said.err == ""
    data, headers = s3.get("cars/þ a.jpg")
    assert data == PHOTO
    assert headers["content-type"] == "image/jpeg"


def test_put_with_what_is_configured(storage: Storage, moto: services.S3, photo: Path) -> None:
    storage.settings |= {"S3_STORAGE_CLASS": "STANDARD_IA", "S3_SSE": "AES256", "IMAGES_PUBLIC_URL": "https://img.is/"}
    found = storage("put", photo, KEY, "--json").data
    assert found == {
        "key": KEY,
        "url": "https://img.is/cars/a.jpg",
        "bytes": len(PHOTO),
        "content_type": "image/jpeg",
        "sha256": hashlib.sha256(PHOTO).hexdigest(),
        "replaced": False,
        "dry_run": False,
    }
    head = moto.client.head_object(Bucket=moto.bucket, Key=KEY)
    assert (head["StorageClass"], head["ServerSideEncryption"]) == ("STANDARD_IA", "AES256")
    assert head["CacheControl"] == "public, max-age=31536000, immutable"


def test_the_type_is_that_of_the_bytes(storage: Storage, moto: services.S3, tmp_path: Path) -> None:
    for kind in ("png", "webp", "avif"):
        (tmp_path / "x.jpg").write_bytes(photos()[kind][1])
        storage("put", "x.jpg", f"{kind}.jpg")
        assert moto.get(f"{kind}.jpg")[1]["content-type"] == f"image/{kind}"


def test_what_is_no_photo(storage: Storage, moto: services.S3, tmp_path: Path) -> None:
    for name, content, content_type in [
        ("page.html", b"<html>hi</html>", "text/html"),
        ("notes", b"\x00\x01\x02", "application/octet-stream"),
        ("cut.jpg", PHOTO[:500], "image/jpeg"),
    ]:
        (tmp_path / name).write_bytes(content)
        said = storage("put", name, name, code=4)
        assert said.err.startswith(f"{name} is no photo a crawl would keep (")
        assert said.err.endswith("): say --any to put it all the same.\n")
        assert name not in moto.objects()
        storage("put", name, name, "--any")
        headers = moto.get(name)[1]
        assert headers["content-type"].split(";", maxsplit=1)[0] == content_type
        assert "cache-control" not in headers


def test_put_replaces_nothing_unasked(storage: Storage, moto: services.S3, photo: Path, sqlite_url: str) -> None:
    moto.put(KEY, b"old")
    said = storage("put", photo, KEY, code=4)
    assert said.err == (
        "cars/a.jpg is there already: say --force to replace it. A CDN, and whoever has seen it, may go on showing the "
        "old one: `scrapy storage invalidate`.\n"
    )
    assert moto.objects() == {KEY: b"old"}
    enter(sqlite_url, moto.bucket, KEY, b"old")
    said = storage("put", photo, KEY, "--force")
    assert "`scrapy storage invalidate cars/a.jpg`" in said.err
    assert "The ledger has another checksum for this key" in said.err
    assert moto.objects() == {KEY: PHOTO}


def test_put_where_nobody_may_look(storage: Storage, moto: services.S3, watched: services.S3Proxy, photo: Path) -> None:
    watched.fail(403, "AccessDenied", methods=["HEAD", "GET"])
    said = storage("put", photo, KEY, code=4)
    assert said.err == (
        f"Whether cars/a.jpg is there already can't be seen: S3 refuses s3:ListBucket on the bucket {moto.bucket} "
        "(AccessDenied: AccessDenied, said by the test): allow s3:ListBucket. --force puts it without a look.\n"
    )
    storage("put", photo, KEY, "--force")
    assert moto.objects() == {KEY: PHOTO}


def test_put_rehearsed(storage: Storage, moto: services.S3, watched: services.S3Proxy, photo: Path) -> None:
    said = storage("put", photo, KEY, "--dry-run")
    assert watched.counts() == {"HEAD": 1}
    assert said.out.startswith(f"would put {photo} (")
    assert said.out.endswith(f"/{moto.bucket}/cars/a.jpg\n")
    assert moto.keys() == []


def test_keys_that_put_refuses(storage: Storage, moto: services.S3, photo: Path) -> None:
    for key in ("", "a" * 1025, "../a.jpg", "a/./b.jpg", "a\tb.jpg", "a\nb.jpg", "a/"):
        said = storage("put", photo, key, code=None)
        assert said.code in {2, 4}, key
        assert "key" in said.err.strip().splitlines()[-1], key
    assert moto.keys() == []


def test_put_says_what_a_crawl_would_have_cut_out(storage: Storage, moto: services.S3, tmp_path: Path) -> None:
    data = photos()["jpeg-exif"][1]
    (tmp_path / "gps.jpg").write_bytes(data)
    assert "a crawl would have cut out" in storage("put", "gps.jpg", KEY).err
    assert moto.objects() == {KEY: data}


def test_put_outside_the_prefix(storage: Storage, moto: services.S3, photo: Path) -> None:
    storage.settings |= {"S3_PREFIX": "is"}
    assert "outside S3_PREFIX=is/" in storage("put", photo, KEY).err
    assert storage("put", photo, "is/a.jpg").err == ""
    assert moto.keys() == [KEY, "is/a.jpg"]


# --- get --------------------------------------------------------------------------------------------------------


class Screen(io.TextIOWrapper):
    """A stdout that is a terminal, or is none."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(), "utf-8")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def seen(self) -> bytes:
        self.flush()
        raw: Any = self.buffer
        return bytes(raw.getvalue())


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def use(*, terminal: bool) -> Screen:
        made = Screen(terminal=terminal)
        monkeypatch.setattr(sys, "stdout", made)
        return made

    return use  # type: ignore[return-value]


def test_get_into_a_pipe(storage: Storage, moto: services.S3, screen: Any) -> None:
    moto.put(KEY, PHOTO)
    pipe = screen(terminal=False)
    assert "Not compared with the ledger: " in storage("get", KEY).err
    assert pipe.seen == PHOTO
    assert not Path("a.jpg").exists()


def test_get_at_a_terminal(storage: Storage, moto: services.S3, screen: Any) -> None:
    moto.put(KEY, PHOTO, ContentType="image/jpeg")
    terminal = screen(terminal=True)
    storage("get", KEY)
    assert Path("a.jpg").read_bytes() == PHOTO
    assert terminal.seen.decode().startswith("cars/a.jpg → a.jpg (")
    terminal = screen(terminal=True)
    storage("get", KEY, "--output", "-")
    assert terminal.seen == PHOTO


def test_get_into_a_file(storage: Storage, moto: services.S3, database_url: str) -> None:
    moto.put(KEY, PHOTO, ContentType="image/jpeg")
    storage.settings["DATABASE_URL"] = database_url
    enter(database_url, moto.bucket, KEY, PHOTO)
    enter(database_url, "another-bucket", KEY, b"not these")
    enter(database_url, moto.bucket, KEY, b"these failed", status="failed")
    found = storage("get", KEY, "--output", "new/folder/x.jpg", "--json").data
    assert found == {
        "key": KEY,
        "file": "new/folder/x.jpg",
        "bytes": len(PHOTO),
        "content_type": "image/jpeg",
        "sha256": hashlib.sha256(PHOTO).hexdigest(),
        "in_ledger": True,
    }
    assert Path("new/folder/x.jpg").read_bytes() == PHOTO
    said = storage("get", KEY, "--output", "new")
    assert said.out.endswith(", image/jpeg, SHA-256 as in the ledger)\n")
    assert Path("new/a.jpg").read_bytes() == PHOTO


def test_get_refuses_what_the_ledger_does_not_know(
    storage: Storage, moto: services.S3, sqlite_url: str, screen: Any
) -> None:
    moto.put(KEY, PHOTO[:-1] + b"x")
    enter(sqlite_url, moto.bucket, KEY, PHOTO)
    said = storage("get", KEY, "--output", "x.jpg", code=4)
    assert said.err.startswith("cars/a.jpg does not hold what the ledger says (SHA-256 ")
    assert "nothing was written" in said.err
    assert not Path("x.jpg").exists()
    pipe = screen(terminal=False)
    storage("get", KEY, code=4)
    assert pipe.seen == b""
    storage("get", KEY, "--no-ledger", "--output", "x.jpg")
    assert Path("x.jpg").read_bytes() == PHOTO[:-1] + b"x"


def test_get_notices_a_flipped_byte_without_a_ledger(
    storage: Storage, moto: services.S3, watched: services.S3Proxy
) -> None:
    moto.put(KEY, PHOTO)
    watched.flip(at=100, methods="GET", times=1)
    assert "do not fit the server's checksum" in storage("get", KEY, "--output", "x.jpg", code=4).err
    assert not Path("x.jpg").exists()


def test_get_replaces_nothing_unasked(
    storage: Storage, moto: services.S3, watched: services.S3Proxy, tmp_path: Path
) -> None:
    moto.put(KEY, PHOTO)
    Path("a.jpg").write_bytes(b"mine")
    said = storage("get", KEY, "--output", "a.jpg", code=4)
    assert watched.count() == 0, "it is said before anything is fetched"
    storage.settings |= moto.env
    assert said.err == "a.jpg is there already: say --force to replace it, or choose another by --output.\n"
    assert Path("a.jpg").read_bytes() == b"mine"
    storage("get", KEY, "--output", "a.jpg", "--force")
    assert Path("a.jpg").read_bytes() == PHOTO


def test_get_spares_what_is_no_plain_file(storage: Storage, moto: services.S3) -> None:
    moto.put(KEY, PHOTO)
    os.mkfifo("pipe")
    assert "pipe is there and no plain file" in storage("get", KEY, "--output", "pipe", "--force", code=4).err
    Path("dangling").symlink_to("nowhere")
    assert "no plain file" in storage("get", KEY, "--output", "dangling", "--force", code=4).err


def test_get_of_nothing(storage: Storage, s3: services.S3) -> None:
    storage.settings = s3.env
    said = storage("get", KEY, "--no-ledger", code=4)
    assert said.err == f"The bucket {s3.bucket} has no cars/a.jpg; `scrapy storage list` shows what it has.\n"
    storage.settings |= {"S3_PREFIX": "is"}
    said = storage("get", KEY, "--no-ledger", code=4)
    assert "a KEY is the whole name, with S3_PREFIX=is/ where it has it" in said.err
    storage.settings |= {"AWS_S3_BUCKET": "no-such-bucket"}
    assert "NoSuchBucket: " in storage("get", KEY, "--no-ledger", code=4).err


def test_what_makes_no_sense(storage: Storage, moto: services.S3, photo: Path, screen: Any) -> None:
    screen(terminal=True)
    moto.put(KEY, PHOTO)
    Path("file").write_bytes(b"")
    for words, code, said in [
        (["get", "a/"], 4, "has no file name: say --output FILE"),
        (["get", "a/.."], 4, "has no file name: say --output FILE"),
        (["get", KEY, "--json", "--output", "-"], 4, "--json and the bytes can't both"),
        (["get", KEY, "--output", "file/x.jpg"], 4, "file/x.jpg can't be written (File exists)."),
        (["put", "nothing.jpg", KEY], 4, "can't be read (No such file"),
        (["put", ".", KEY], 4, "can't be read (Is a directory"),
        (["put", "a\0b", KEY], 4, "can't be read ("),
        (["presign", KEY, "--expires", "8d"], 2, "can be signed for 7d at most, not for 8d"),
        (["presign", KEY, "--content-type", "image/jpeg"], 4, "belongs to --put"),
        (["presign", KEY, "--put", "--content-type", "x\r\ny: z/a"], 2, "is no content type"),
    ]:
        assert said in storage(*words, code=code).err, words
    assert "the address ends with them" in storage("presign", KEY, settings={"AWS_SESSION_TOKEN": "token"}).err
