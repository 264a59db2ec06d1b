"""Servers that speak S3 in part: what a verb calls whole, gone or right was seen, and what was not is named."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.storage.keys import thumbnail_key
from tests import services
from tests.cli.in_front import Odd
from tests.cli.shop import Shop, tombstone
from tests.cli.test_fetch import in_folder, photo
from tests.cli.test_thumbnails import PHOTO
from tests.cli.test_thumbnails import key as photo_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Storage


@pytest.fixture
def odd(storage: Storage, shop: Shop, moto_s3: services.S3) -> Iterator[Odd]:
    """In front of the shop's bucket, without any oddity yet."""
    with Odd(moto_s3) as server:
        storage.settings = shop.settings | replace(moto_s3, endpoint=server.base_url).env
        yield server


# --- lists ------------------------------------------------------------------------------------------------------

THUMBS = {"IMAGES_THUMBS": '{"small": [32, 24]}'}


@pytest.mark.parametrize("way", ["v2 without token", "v1", "v1 with marker"])
def test_a_list_without_tokens_is_read_to_its_end(
    storage: Storage, odd: Odd, shop: Shop, moto_s3: services.S3, tmp_path: Path, way: str
) -> None:
    everything = {photo_key(number): PHOTO for number in range(5)} | {"a b/þ+%.txt": b"note"}
    for name, data in everything.items():
        moto_s3.put(name, data)
    odd.way = way
    names = sorted(everything)
    assert [line.split("  ")[-1] for line in storage("list").out.splitlines()] == names
    assert storage("stats", "--json").data["objects"] == 6
    storage("get", "--prefix", "", "--into", tmp_path / "into")
    assert in_folder(tmp_path / "into") == everything
    assert "orphaned (-) 5" in storage("audit", code=3).out
    assert storage("thumbnails", "--json", settings=THUMBS, code=3).data["photos"] == 5
    assert storage("discover", "--dry-run", code=None).out.count("br/2019/kia/rio/") == 5


@pytest.mark.parametrize("way", ["no way", "loop"])
def test_a_list_that_does_not_end_is_no_list(
    storage: Storage, odd: Odd, moto_s3: services.S3, tmp_path: Path, way: str
) -> None:
    for number in range(5):
        moto_s3.put(photo_key(number), PHOTO)
    odd.way = way
    how = {"no way": "breaks off", "loop": "begins anew"}[way]
    said = f"The list of the bucket {moto_s3.bucket} {how} before its end, so what is there is not known"
    for words in (["list"], ["stats"], ["audit"], ["discover", "--dry-run"], ["thumbnails"]):
        heard = storage(*words, settings=THUMBS, code=4)
        assert said in heard.err, words
        assert heard.err.count("\n") == 1, heard
    assert said in storage("get", "--prefix", "", "--into", tmp_path / "into", code=4).err


def test_versions_without_markers_are_all_found(storage: Storage, odd: Odd, moto_s3: services.S3) -> None:
    moto_s3.client.put_bucket_versioning(Bucket=moto_s3.bucket, VersioningConfiguration={"Status": "Enabled"})
    for number in range(5):
        moto_s3.put("cars/note.txt", b"%d" % number)
    whole = storage("versions", "cars/note.txt", "--json").data["versions"]
    assert len(whole) == 5
    odd.way = "v2 without token"
    assert storage("versions", "cars/note.txt", "--json").data["versions"] == whole
    odd.way = "loop"
    assert "begins anew before its end" in storage("versions", "cars/note.txt", code=4).err


def test_what_a_server_without_lists_should_do(storage: Storage, odd: Odd, proxy: services.S3Proxy) -> None:
    with proxy.fail(501, "NotImplemented", methods="GET"):
        said = storage("list", settings={"AWS_ENDPOINT_URL": proxy.endpoint}, code=4).err
    assert "(NotImplemented: " in said
    assert "S3_TAGS" not in said


# --- get --into -------------------------------------------------------------------------------------------------


def test_keys_that_become_one_file(storage: Storage, shop: Shop, moto_s3: services.S3, tmp_path: Path) -> None:
    everything = {"cars/a/x.txt": b"one", "cars//a/x.txt": b"two", "cars///a/x.txt": b"one", "cars/a/X.txt": b"three"}
    for name, data in everything.items():
        moto_s3.put(name, data)
    for words in ([], ["--force"]):
        said = storage("get", "--prefix", "cars", "--into", tmp_path / "into", "--json", *words, code=3).data
        lost = {name for name in said["failed"] if "/a/x" in name}
        assert len(lost) == 2
        assert set(said["failed"].values()) == {"its file is that of another key: get it alone, --output FILE"}
        (had,) = everything.keys() - lost - {"cars/a/X.txt"}
        there = in_folder(tmp_path / "into")
        assert there["cars/a/x.txt"] == everything[had]
        assert not [name for name in there if "Case" in name]


def test_keys_that_differ_by_case_where_files_do_not(
    storage: Storage, shop: Shop, moto_s3: services.S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.exists
    # The probe's name in the other case: as a file system of a Mac or a USB stick finds it.
    monkeypatch.setattr(Path, "exists", lambda path: path.name.startswith(".cASE-") or real(path))
    for name in ("cars/X.txt", "cars/x.txt", "cars/y.txt"):
        moto_s3.put(name, name.encode())
    said = storage("get", "--prefix", "cars", "--into", tmp_path / "into", code=3)
    assert "not had: cars/x.txt (its file is that of another key: get it alone, --output FILE)\n" in said.err
    assert in_folder(tmp_path / "into") == {name: name.encode() for name in ("cars/X.txt", "cars/y.txt")}


def test_a_photo_that_the_bucket_has_lost_is_named(
    storage: Storage, shop: Shop, moto_s3: services.S3, tmp_path: Path
) -> None:
    (kept, data), (lost, other), (elsewhere, third) = photo(1), photo(2), photo(3)
    storage.settings |= {"S3_PREFIX": "cars"}
    shop.add("1", kept, data=data)
    shop.add("2", lost, data=other)
    shop.add("3", elsewhere, data=third, store="s3://another-bucket")
    moto_s3.delete(lost)
    said = storage("get", "--source", "Bilasolur", "--into", tmp_path / "into", code=3)
    assert f"not had: {lost} (the bucket does not have it)\n" in said.err
    assert "1 object read, 0 there already, 1 not had" in said.out
    assert in_folder(tmp_path / "into") == {kept: data}
    moto_s3.delete(kept)
    said = storage("get", "--source", "bilasolur", "--into", tmp_path / "none", "--json", code=3)
    assert said.data["failed"].keys() == {kept, lost}
    assert "has nothing like that" in storage("get", "--source", "br", "--into", tmp_path / "none", code=4).err


# --- delete -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [501, 405])
def test_versions_that_no_list_shows(storage: Storage, odd: Odd, shop: Shop, moto_s3: services.S3, status: int) -> None:
    moto_s3.client.put_bucket_versioning(Bucket=moto_s3.bucket, VersioningConfiguration={"Status": "Enabled"})
    shop.add("1", "x/1_a.jpg", "x/1_b.jpg")
    odd.no_versions = status
    for verb in ("versions", "restore"):
        said = storage(verb, "x/1_a.jpg", code=4).err
        assert f"The server of the bucket {moto_s3.bucket} lists no versions (" in said
        assert "Whether it has kept any of x/1_a.jpg is not known." in said
    assert "lists no versions" in storage("delete", "x/1_a.jpg", "--all-versions", "--dry-run").out
    said = storage("delete", "x/1_a.jpg", "--all-versions", "--yes", code=3)
    assert "lists no versions (" in said.err
    assert "The old versions of x/1_a.jpg are still there" in said.err
    assert "removes them for good" not in said.out + said.err
    assert tombstone(shop.images()[0])
    assert moto_s3.keys() == ["x/1_b.jpg"]


def test_a_delete_that_deletes_nothing(storage: Storage, odd: Odd, shop: Shop, moto_s3: services.S3) -> None:
    shop.add("1", "x/1_a.jpg", "x/1_b.jpg")
    odd.keeps_all = True
    for words in (["x/1_a.jpg"], ["--finish"]):
        said = storage("delete", *words, "--yes", code=3)
        assert (
            "Still there: x/1_a.jpg (the server said that it is deleted, and has it: retention or a cache" in said.err
        )
        assert said.out.startswith("Not finished: marked as deleted "), said.out
        assert tombstone(shop.images()[0], finished=False)
    odd.keeps_all = False
    storage("delete", "--finish", "--yes")
    assert tombstone(shop.images()[0])
    assert moto_s3.keys() == ["x/1_b.jpg"]


def test_versions_and_orphans_that_a_delete_leaves(
    storage: Storage, odd: Odd, shop: Shop, moto_s3: services.S3
) -> None:
    moto_s3.client.put_bucket_versioning(Bucket=moto_s3.bucket, VersioningConfiguration={"Status": "Enabled"})
    shop.add("1", "x/1_a.jpg")
    moto_s3.put("x/1_a.jpg", b"another version")
    odd.keeps_all = True
    said = storage("delete", "x/1_a.jpg", "--all-versions", "--yes", code=3)
    assert "Still there: x/1_a.jpg (the server said that they are deleted, and has 2 versions: retention" in said.err
    moto_s3.put(photo_key(1), PHOTO)
    time.sleep(2.1)
    said = storage("audit", "--delete-orphans", "--older-than", "1s", "--yes", code=3)
    assert f"left: {photo_key(1)} (the server said that it is deleted, and has it: retention or a cache" in said.err
    assert "Objects deleted 0, refused 1." in said.out


# --- bytes ------------------------------------------------------------------------------------------------------


def test_etags_that_are_no_md5(
    storage: Storage, odd: Odd, moto_s3: services.S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd.odd_etags = True
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(PHOTO)
    storage("put", "a.jpg", "cars/a.jpg")
    said = storage("get", "cars/a.jpg", "--output", "b.jpg")
    assert "The ETag of cars/a.jpg is not the MD5 of its bytes; read twice, they are the same." in said.err
    assert (tmp_path / "b.jpg").read_bytes() == PHOTO
    key, data = photo(1)
    moto_s3.put(key, data)
    said = storage("get", "--prefix", "", "--into", tmp_path / "into", settings={"S3_PREFIX": "cars"})
    assert in_folder(tmp_path / "into") == {"cars/a.jpg": PHOTO, key: data}
    assert "Of 1 object the ETag is no MD5: read twice, the bytes are the same." in said.err
    moto_s3.put(photo_key(1), PHOTO)
    storage("thumbnails", "br", "--make", "--yes", settings=THUMBS)
    assert thumbnail_key("small", photo_key(1)) in moto_s3.objects()


def test_no_thumbnail_is_made_of_what_is_not_the_photo(
    storage: Storage, odd: Odd, moto_s3: services.S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, overwritten = photo_key(1), photo_key(2, b"what was stored")
    for name in (gone, overwritten):
        moto_s3.put(name, PHOTO)
    passed_on = odd.passed_on

    def without(request: Any, path: str) -> Any:
        if gone in path:
            return type(passed_on(request, path))(404, "<Error><Code>NoSuchKey</Code></Error>", "application/xml")
        return passed_on(request, path)

    monkeypatch.setattr(odd, "passed_on", without)
    said = storage("thumbnails", "--make", "--yes", settings=THUMBS, code=3)
    assert f"left: {thumbnail_key('small', gone)} (gone: the bucket lists {gone} and does not have it)" in said.err
    assert f"(other-bytes: the SHA-256 of {overwritten} is not that of its name)" in said.err
    assert said.out == "Photos 2; thumbnails missing 2, made 0.\n"
    assert sorted(moto_s3.keys()) == sorted([gone, overwritten])
