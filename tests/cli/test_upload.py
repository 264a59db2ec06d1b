"""`scrapy storage upload DIR`: a folder of photos moves to the bucket, nothing twice and nothing lost."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.storage import s3 as s3_module
from tests import services
from tests.upkeep.stock import Stock, picture

if TYPE_CHECKING:
    from tests.cli.conftest import Storage
    from tests.commands import Said


class Folder:
    """A folder as `IMAGES_STORE` is, and the ledger that says so."""

    def __init__(self, stock: Stock, path: Path) -> None:
        self.stock = stock
        self.path = path

    def write(self, name: str, data: bytes) -> str:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name

    def key(self, name: str, external_id: str = "1") -> str:
        return self.stock.key(picture(name), external_id).removeprefix(self.stock.prefix)

    def photo(self, name: str, external_id: str = "1", **values: Any) -> str:
        """A file, and nobody knows of it."""
        return self.write(self.key(name, external_id), picture(name))

    def stored(self, name: str, listing_id: int = 1, external_id: str = "1", **values: Any) -> str:
        """A photo that the ledger says is in the folder."""
        key = self.photo(name, external_id)
        row = self.stock.stored(picture(name), key) | {"store": "folder", "url": None} | values
        self.stock.row(listing_id, f"{external_id}/{name}", **row)
        return key

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.path.rglob("*") if path.is_file() and not path.is_symlink())
        return {path.relative_to(self.path).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def folder(storage: Storage, sqlite_url: str, rclone_s3: services.S3, tmp_path: Path) -> Folder:
    stock = Stock(sqlite_url, rclone_s3, "cars/")
    storage.settings = stock.settings
    made = Folder(stock, tmp_path / "images")
    made.path.mkdir()
    return made


def outcomes(said: Said) -> dict[str, str]:
    lines = [json.loads(line) for line in said.out.splitlines()]
    return {line["key"]: line["outcome"] for line in lines if "key" in line}


def test_the_row_moves_with_the_photo(storage: Storage, database_url: str, s3: services.S3, tmp_path: Path) -> None:
    stock = Stock(database_url, s3, "cars/")
    storage.settings = stock.settings
    folder = Folder(stock, tmp_path / "images")
    for car in ("1", "2"):
        stock.car(car, image_url="https://bilasolur.is/temporary")
    first, second = folder.stored("a"), folder.stored("b", position=1)
    # The same photo of another car, linked.
    stock.row(2, "2/a", **stock.stored(picture("a"), first) | {"store": "folder", "url": None})
    small = folder.write(f"thumbnails/small/{first}", picture("small"))
    new = folder.photo("c", "2")
    before = folder.files()
    said = storage("upload", folder.path, "--yes", settings={"USE_S3_STORAGE": "false"})
    size = sum(len(picture(name)) for name in "abc") / 1000
    assert said.out == (
        f"Photos uploaded 3 ({size:.1f} kB), new to the ledger 1, thumbnails 1; there already 0. "
        f"Set USE_S3_STORAGE=true and crawls put their photos into s3://{s3.bucket}/cars/, too.\n"
    )
    assert folder.files() == before, "local files are never deleted"
    assert s3.objects() == {f"cars/{name}": data for name, data in before.items()}
    assert f"cars/{small}" in s3.objects()
    for row in stock.rows():
        assert (row.status, row.store, row.url) == ("stored", stock.store, f"{stock.base}/{row.key}")
    assert [row.key for row in stock.rows(listing_id=2)] == [f"cars/{first}", f"cars/{new}"]
    assert stock.cover("1") == stock.cover("2") == f"{stock.base}/cars/{first}"
    _, headers = s3.get(f"cars/{second}")
    assert headers["content-type"] == "image/jpeg"
    assert (headers["x-amz-meta-source"], headers["x-amz-meta-external-id"]) == ("Bilasolur", "1")
    assert headers["x-amz-meta-source-url"] == "https://bilasolur.is/CarImage.aspx?c=1/b"
    rows = stock.everything()
    with services.S3Proxy(s3.endpoint) as proxy:
        again = storage("upload", folder.path, "--yes", settings=stock.s3.via(proxy).env)
        assert proxy.count("PUT", "GET", "POST") == 0, "nothing is asked for what is there"
    assert "Photos uploaded 0" in again.out
    assert "there already 3" in again.out
    assert "USE_S3_STORAGE" not in again.out
    assert stock.everything() == rows


def test_what_is_left_is_named(folder: Folder, storage: Storage, tmp_path: Path) -> None:
    stock = folder.stock
    stock.car("1")
    wanted = folder.stored("good")
    expected = {wanted: "uploaded"}
    damaged = folder.stored("damaged")
    folder.write(damaged, picture("something else"))
    expected[damaged] = "other-bytes"
    expected[folder.write(folder.key("cut"), picture("other"))] = "other-bytes"
    words = stock.key(b"<html>", "1").removeprefix("cars/")
    expected[folder.write(words, b"<html>")] = "not-a-photo"
    expected[folder.photo("stranger", "777")] = "unknown-car"
    expected[folder.write("notes.txt", b"notes")] = "foreign"
    expected[folder.write("deep/er/notes\n.txt", b"notes")] = "foreign"
    expected[folder.stored("placeholder", status="failed", reason="placeholder")] = "not-stored"
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "password").write_bytes(picture("secret"))
    outside = folder.key("secret")
    (folder.path / outside).symlink_to(secret / "password")
    (folder.path / "elsewhere").symlink_to(secret, target_is_directory=True)
    expected |= {outside: "symlink", "elsewhere": "symlink"}
    (folder.path / "thumbnails").mkdir()
    (folder.path / "thumbnails" / "small").symlink_to(secret, target_is_directory=True)
    os.mkfifo(folder.path / "pipe")
    expected["pipe"] = "not-a-file"
    folder.write("bilasolur/2019/.part-x1y2", b"begun")
    before = folder.files()
    assert outcomes(storage("upload", folder.path, "--dry-run", "--json", code=3)) == expected
    assert stock.s3.keys() == []
    said = storage("upload", folder.path, "--yes", "--json", code=3)
    assert outcomes(said) == expected
    assert stock.s3.keys() == [f"cars/{wanted}"]
    assert folder.files() == before
    assert stock.only(key=damaged).store == "folder", "for backfill to see"
    text = storage("upload", folder.path, "--yes", code=3).out
    assert "foreign: deep/er/notes\\n.txt" in text


def test_a_photo_that_the_ledger_does_not_want(folder: Folder, storage: Storage) -> None:
    folder.stock.car("1")
    sha256 = hashlib.sha256(picture("deleted")).hexdigest()
    folder.stock.row(1, "1/5", status="failed", reason="deleted", source_sha256=sha256)
    folder.photo("deleted")
    assert "deleted 1" in storage("upload", folder.path, "--yes").out
    assert folder.stock.s3.keys() == []


def test_it_asks_first(folder: Folder, storage: Storage) -> None:
    folder.stock.car("1")
    folder.stored("a")
    assert "Nobody is there to answer" in storage("upload", folder.path, code=4).err
    storage.answer = "n"
    storage("upload", folder.path, code=3)
    assert folder.stock.s3.keys() == []
    storage.answer = "y"
    storage("upload", folder.path)
    assert len(folder.stock.s3.keys()) == 1


@pytest.mark.parametrize("name", ["no-such-folder", "a-file"])
def test_no_folder(folder: Folder, storage: Storage, tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").write_text("x")
    said = storage("upload", tmp_path / name, "--yes", code=4)
    assert "can't be read" in said.err
    assert len(said.err.splitlines()) == 1


class TestTrouble:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(s3_module, "_FIRST_BACKOFF", 0.01)

    def test_a_bucket_that_refuses_midway(self, folder: Folder, storage: Storage) -> None:
        stock = folder.stock
        stock.car("1")
        keys = [folder.stored(str(number)) for number in range(40)]
        with services.S3Proxy(stock.s3.endpoint) as proxy:
            names = [key.rsplit("/", 1)[1] for key in keys]
            proxy.fail(403, "AccessDenied", methods="PUT", path=names[20])
            settings = stock.s3.via(proxy).env | {"S3_MAX_PARALLEL_UPLOADS": "2"}
            said = storage("upload", folder.path, "--yes", settings=settings, code=3)
        assert "AccessDenied" in said.err
        assert "run it again" in said.err
        there = set(stock.s3.keys())
        assert 0 < len(there) < 40
        assert {row.key for row in stock.rows(store=stock.store)} == there, "what is uploaded has its row"
        storage("upload", folder.path, "--yes")
        assert len(stock.rows(store=stock.store)) == len(stock.s3.keys()) == 40

    def test_no_bucket_at_all(self, folder: Folder, storage: Storage) -> None:
        folder.stock.car("1")
        folder.stored("a")
        assert (
            "AWS_S3_BUCKET"
            in storage("upload", folder.path, "--yes", settings={"AWS_S3_BUCKET": "no-such-bucket"}, code=4).err
        )
        nobody = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{services.free_port()}"}
        assert "S3 does not answer" in storage("upload", folder.path, "--yes", settings=nobody, code=4).err
        assert folder.stock.only(id=1).store == "folder"

    def test_killed_and_run_again(self, folder: Folder, tmp_path: Path) -> None:
        stock = folder.stock
        stock.car("1")
        for number in range(150):
            folder.stored(str(number))
        words = ("storage", "upload", folder.path, "--yes")
        with services.S3Proxy(stock.s3.endpoint) as proxy:
            env = stock.settings | stock.s3.via(proxy).env | {"S3_MAX_PARALLEL_UPLOADS": "2"}
            proxy.delay(0.02, methods="PUT")
            with services.start_scrapy(*words, cwd=tmp_path, env=env) as running:
                deadline = time.monotonic() + 30
                while len(stock.rows(store=stock.store)) < 40 and time.monotonic() < deadline:
                    time.sleep(0.02)
                running.kill()
            moved = {row.key for row in stock.rows(store=stock.store)}
            assert 40 <= len(moved) < 150
            assert moved <= set(stock.s3.keys()), "the object is there before its row says so"
            proxy.heal()
            proxy.forget()
            done = services.run_scrapy(*words, cwd=tmp_path, env=env)
            assert done.returncode == 0, done
            asked = [request.key for request in proxy.requests if request.method == "PUT"]
        assert len(asked) == len(set(asked)) == 150 - len(moved)
        assert not {key.partition("/")[2] for key in asked} & moved
        assert len(stock.rows(store=stock.store)) == len(stock.s3.keys()) == 150
