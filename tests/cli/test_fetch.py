"""``scrapy storage get --into``: many objects at once, each checked, and only those that are not there yet."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from carscraper.storage.keys import image_key
from tests import services
from tests.cli.shop import Shop, each_server_and_database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Storage


def photo(number: int, spider: str = "bilasolur") -> tuple[str, bytes]:
    data = f"photo {number} of {spider}".encode()
    digest = hashlib.sha256(data).hexdigest()
    car = {"spider": spider, "year": 2019, "make": "kia", "model": "rio", "external_id": str(number)}
    return "cars/" + image_key(**car, sha256=digest, extension="jpg"), data  # type: ignore[arg-type]


def in_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@each_server_and_database
def test_many_go_into_a_folder_and_what_is_there_is_not_read_again(
    storage: Storage, new_shop: Callable[..., Shop], s3: services.S3, database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "into"
    known, others = dict(photo(number) for number in range(30)), dict(photo(number, "br") for number in range(5))
    notes = {"cars/a note þ+%.txt": b"note", "outputs/20261130_030000_br-1/run.log": b"log"}
    with services.S3Proxy(s3.endpoint) as proxy:
        shop = new_shop(s3.via(proxy), database_url, "cars/")
        for number, (key, data) in enumerate(known.items()):
            shop.add(str(number), key, data=data)
        for key, data in (others | notes).items():
            s3.put(key, data)

        def asked() -> list[str]:
            found = sorted(each.key for each in proxy.requests if each.method == "GET" and each.key)
            proxy.forget()
            return found

        got = storage("get", "--into", folder, "--car", "Bilasolur/7", "--json").data
        key = list(known)[7]
        assert (in_folder(folder), got["read"], got["checked"]["ledger"]) == ({key: known[key]}, 1, 1)
        asked()
        got = storage("get", "--prefix", "", "--into", folder, "--json").data
        everything = known | others | notes
        assert in_folder(folder) == everything
        assert proxy.max_parallel > 1
        assert asked() == sorted(everything.keys() - {key})
        assert (got["read"], got["there"], got["failed"]) == (36, 1, {})
        assert got["checked"] == {"ledger": 30, "name": 5, "server": 2, "nothing": 0}
        # Again: one is gone, one was changed; nothing else is read, and what somebody changed is his.
        gone, changed = next(iter(others)), next(iter(known))
        (folder / gone).unlink()
        (folder / changed).write_bytes(b"mine")
        said = storage("get", "--prefix", "cars/", "--into", folder, code=3)
        assert asked() == sorted([gone, changed])
        assert f"not had: {changed} (a file with other bytes is there (--force replaces it))\n" in said.err
        assert in_folder(folder) == everything | {changed: b"mine"}
        storage("get", "--source", "bilasolur", "--into", folder, "--force")
        assert asked() == [changed]
        assert in_folder(folder) == everything
        # Names from a file; one that is not there, one that the ledger and one that its name contradicts.
        s3.put(changed, b"other bytes")
        s3.put(gone, b"other bytes")
        names = tmp_path / "names.txt"
        names.write_text("\n".join([changed, "", gone, key, "cars/none.jpg", "../../up.jpg", "/root.jpg"]), "utf-8")
        said = storage("get", "--from", names, "--into", tmp_path / "second", "--json", code=3)
        assert said.data["failed"] == {
            changed: "its SHA-256 is not the ledger's",
            gone: "its SHA-256 is not that of its name",
            "cars/none.jpg": "the bucket does not have it",
            "../../up.jpg": "no file can have a name that has a part '..', which browsers take out of an address",
            "/root.jpg": "no file can have a name that begins with a slash",
        }
        assert list(in_folder(tmp_path / "second")) == [key]


def test_a_server_that_goes_away_and_a_folder_that_can_not_be_written(
    storage: Storage, moto_s3: services.S3, proxy: services.S3Proxy, tmp_path: Path
) -> None:
    storage.settings = moto_s3.via(proxy).env
    everything = dict(photo(number) for number in range(60))
    for key, data in everything.items():
        moto_s3.put(key, data)
    for status, code, given in [(403, "AccessDenied", 0), (503, "SlowDown", 20)]:
        with proxy.fail(status, code, methods="GET", path="kia", skip=given):
            said = storage("get", "--prefix", "", "--into", tmp_path / "into", "--no-ledger", code=3 if given else 4)
        words = "503" if given else code
        assert f"S3 gave none of 20 objects in a row ({words}): try again later; `scrapy storage get KEY`" in said.err
        assert said.err.endswith("The same command reads what is left.\n") == (given > 0)
    there = in_folder(tmp_path / "into")
    assert 10 < len(there) < 60
    said = storage("get", "--prefix", "", "--into", tmp_path / "into", "--no-ledger")
    assert f"{60 - len(there)} objects read, {len(there)} there already, 0 not had" in said.out
    assert in_folder(tmp_path / "into") == everything
    (tmp_path / "file").write_bytes(b"")
    for words, says in [
        (["--prefix", ""], "Say where the objects go: --into DIR."),
        ([], "Say what to get: a KEY; or --prefix"),
        (["--into", tmp_path / "x"], "--into goes with a KEY, or with one of --prefix"),
        (["key", "--source", "br", "--into", tmp_path / "x"], "--into goes with a KEY, or with one of --prefix"),
        (["key", "--output", "x", "--into", tmp_path / "x"], "--output is for one object, --into for many"),
        (["key", "--into", tmp_path / "file"], "is no folder: name another"),
        (["--prefix", "none/", "--into", tmp_path / "x"], "has nothing like that"),
        (["--from", tmp_path / "none", "--into", tmp_path / "x"], "can't be read (No such file or directory)"),
    ]:
        assert says in storage("get", *words, "--no-ledger", code=4).err, words
