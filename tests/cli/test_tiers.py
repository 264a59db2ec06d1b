"""``scrapy storage tiers``: a hot folder before a cold bucket, and a photo is always in one of them."""

from __future__ import annotations

import gzip
import io
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from carscraper.db.models import AccessLog, CarImageRow, ImageViews
from carscraper.storage.keys import permanent_url
from tests import services
from tests.cli.shop import NO_BUCKET, Shop, each_server_and_database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Storage

HOSTILE = "cars/a b+c/100%25 þ#1?x=y&z_0123456789ab.jpg"


def hot(shop: Shop, key: str, *, days: float = 0, data: bytes | None = None) -> Path:
    path = shop.file(key, data or f"bytes of {key}".encode())
    then = time.time() - days * 86_400
    os.utime(path, (then, then))
    return path


def viewed(shop: Shop, key: str, *, times: int = 1, days: float = 0) -> None:
    last = (datetime.now(UTC) - timedelta(days=days)).replace(tzinfo=None)
    with shop.engine.begin() as connection:
        connection.execute(
            sqlalchemy.insert(ImageViews.__table__).values(
                key=key, views=times, hits=times, misses=0, last_viewed_at=last
            )
        )


def views(shop: Shop) -> dict[str, tuple[int, int, int]]:
    with shop.engine.begin() as connection:
        rows = connection.execute(sqlalchemy.select(ImageViews.__table__))
        return {row.key: (row.views, row.hits, row.misses) for row in rows if row.views}


# --- show -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_what_is_in_which(
    storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3, database_url: str
) -> None:
    shop = new_shop(moto_s3, database_url, "cars/")
    shop.add("1", "cars/x/1_a.jpg", "cars/x/1_b.jpg", "cars/x/1_c.jpg")
    shop.add("2", "cars/x/1_a.jpg", data=b"bytes of cars/x/1_a.jpg")  # the same object
    shop.add("3", "x/3_a.jpg", store="folder")
    shop.add("4", "x/4_lost.jpg", store="folder")
    (shop.folder / "x/4_lost.jpg").unlink()
    hot(shop, "cars/x/1_a.jpg", days=3)
    hot(shop, "cars/x/1_b.jpg", data=b"cut")
    shop.file("x/1_c.jpg", b"bytes of cars/x/1_c.jpg")
    shop.file("thumbnails/small/x/1_a.jpg", b"small")
    shop.file("notes\n.txt", b"mine")
    (shop.folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"?")
    shop.file(".part-abc", b"being written")
    viewed(shop, "cars/x/1_a.jpg", times=3)
    found = storage("tiers", "--json", settings={"IMAGES_STORE_MAX_BYTES": 50}).data
    assert found["tiers"] == {
        "hot": {"photos": 1, "bytes": 23},
        "cold": {"photos": 2, "bytes": 46},
        "local only": {"photos": 2, "bytes": 18 + 21},
    }
    assert found["missing"] == 1
    assert {kind: each["files"] for kind, each in found["files"].items()} == {
        "stale": 1,
        "thumbnail": 1,
        "damaged": 1,
        "unknown": 2,
    }
    used = sum(path.stat().st_size for path in shop.folder.rglob("*") if path.is_file()) - len(b"being written")
    assert (found["used_bytes"], found["over_limit"]) == (used, used - 50)
    assert (found["views"], found["hits"], found["hit_rate"]) == (3, 3, 1.0)
    text = storage("tiers").out
    assert "hot              1   23 B  S3 and the folder" in text
    assert "notes\\n.txt" in text
    assert "1 photos that only the folder should have are not there or damaged." in text


def test_an_empty_world(storage: Storage, new_shop: Callable[..., Shop]) -> None:
    new_shop()
    assert "No views were counted yet" in storage("tiers").out
    assert "IMAGES_STORE is empty" in storage("tiers", settings={"IMAGES_STORE": ""}, code=4).err


# --- demote -----------------------------------------------------------------------------------------------------


@each_server_and_database
def test_only_what_is_cold_leaves(
    storage: Storage, new_shop: Callable[..., Shop], s3: services.S3, database_url: str
) -> None:
    shop = new_shop(s3, database_url)
    keys = ["x/old.jpg", "x/viewed.jpg", "x/new.jpg", HOSTILE]
    shop.add("1", *keys)
    for key in keys:
        hot(shop, key, days=1 if "new" in key else 40)
    viewed(shop, "x/viewed.jpg", days=29)
    hot(shop, "x/nobodys.jpg", days=99)
    before = shop.images()
    plan = storage("tiers", "--demote", "--dry-run", "--json").data
    assert plan["demoted"]["photos"] == 2
    assert len(shop.files()) == 5
    assert "Nobody is there to answer" in storage("tiers", "--demote", code=4).err
    storage.answer = "n"
    storage("tiers", "--demote", code=4)
    assert len(shop.files()) == 5
    said = storage("tiers", "--demote", "--yes")
    assert said.out.startswith("Demoted: 2 photos (")
    assert shop.files() == ["x/new.jpg", "x/nobodys.jpg", "x/viewed.jpg"]
    assert sorted(s3.keys()) == sorted(keys)
    assert shop.images() == before, "the permanent URL stays"
    storage("tiers", "--demote", "--cold-days", 0, "--yes")
    assert shop.files() == ["x/nobodys.jpg"]


def test_nothing_leaves_that_s3_does_not_have_unharmed(
    storage: Storage, new_shop: Callable[..., Shop], s3: services.S3
) -> None:
    shop = new_shop(s3)
    keys = [f"x/{name}.jpg" for name in ("good", "gone", "other", "shorter", "elsewhere", "unknown")]
    shop.add("1", *keys[:4])
    shop.add("2", keys[4], store="s3://another")
    shop.add("3", keys[5], sha256=None)
    for key in keys:
        hot(shop, key, days=40)
    s3.delete(keys[1])
    s3.put(keys[2], b"Bytes of x/other.jpg")
    s3.put(keys[3], b"bytes of")
    said = storage("tiers", "--demote", "--yes", "--json", code=3)
    assert shop.files() == sorted(keys[1:])
    assert {each["name"]: each["why"] for each in said.data["demoted"]["failures"]} == {
        keys[1]: "S3 does not have it: this is the only copy",
        keys[2]: "its object has other bytes than the ledger says",
        keys[3]: "its object has other bytes than the ledger says",
        keys[4]: f"it is in s3://another, not in s3://{s3.bucket}",
        keys[5]: "the ledger has no checksum of it",
    }
    assert "Stays as it is: x/gone.jpg (S3 does not have it: this is the only copy)" in said.err


def test_a_byte_that_flips_on_the_way_keeps_the_copy(
    storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3
) -> None:
    with services.S3Proxy(moto_s3.endpoint) as proxy:
        shop = new_shop(moto_s3.via(proxy))
        shop.add("1", "x/a.jpg")
        hot(shop, "x/a.jpg", days=40)
        with proxy.flip(at=3, methods="GET", path=r"x/a\.jpg"):
            storage("tiers", "--demote", "--yes", code=3)
        assert shop.files() == ["x/a.jpg"]
        storage("tiers", "--demote", "--yes")
        assert shop.files() == []


@each_server_and_database
@pytest.mark.parametrize("prefix", ["", "cars/"])
def test_what_only_the_folder_has_goes_to_s3_first(
    storage: Storage, new_shop: Callable[..., Shop], s3: services.S3, database_url: str, prefix: str
) -> None:
    shop = new_shop(s3, database_url, prefix)
    shop.add("1", "x/1_a.jpg", "x/1_b.jpg", store="folder", url=None, content_type="image/jpeg")
    shop.add("2", "x/1_a.jpg", data=b"bytes of x/1_a.jpg", store="folder", url=None)
    hot(shop, "x/1_a.jpg", days=40)
    hot(shop, "x/1_b.jpg", days=40, data=b"bytes of x/1_B.jpg")
    shop.file("thumbnails/small/x/1_a.jpg", b"small")
    viewed(shop, "x/1_a.jpg", times=7, days=35)
    assert shop.cover("2") == "https://bilasolur.is/CarImage.aspx?c=2&p=0"
    said = storage("tiers", "--demote", "--yes", "--json", code=3).data["demoted"]
    assert (said["photos"], said["uploaded"]) == (1, 1)
    assert said["failures"] == [{"name": "x/1_b.jpg", "why": "its bytes are not those of the ledger"}]
    assert shop.files() == ["x/1_b.jpg"]
    assert s3.objects() == {
        f"{prefix}x/1_a.jpg": b"bytes of x/1_a.jpg",
        f"{prefix}thumbnails/small/x/1_a.jpg": b"small",
    }
    assert s3.get(f"{prefix}x/1_a.jpg")[1]["content-type"] == "image/jpeg"
    url = f"https://img.example.is/{prefix}x/1_a.jpg"
    first, second, shared = shop.images()
    for row in (first, shared):
        assert (row.store, row.key, row.url) == (f"s3://{s3.bucket}", f"{prefix}x/1_a.jpg", url)
    assert (second.store, second.key) == ("folder", "x/1_b.jpg")
    assert shop.cover("1") == shop.cover("2") == url
    assert views(shop) == {f"{prefix}x/1_a.jpg": (7, 7, 0)}


def test_what_s3_refuses_stays(storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3) -> None:
    with services.S3Proxy(moto_s3.endpoint) as proxy:
        shop = new_shop(moto_s3.via(proxy))
        shop.add("1", "x/1_a.jpg", store="folder")
        hot(shop, "x/1_a.jpg", days=40)
        with proxy.fail(403, "AccessDenied", methods="PUT"):
            said = storage("tiers", "--demote", "--yes", code=4)
        assert "AccessDenied" in said.err
        assert shop.files() == ["x/1_a.jpg"]
        assert shop.images()[0].store == "folder"
        # The object is there, the answer is lost for good, the row not moved: the next run does the rest.
        with proxy.lose_reply(methods="PUT"):
            storage("tiers", "--demote", "--yes", code=4, settings={"S3_MAX_RETRIES": 1})
        assert shop.files() == ["x/1_a.jpg"]
        storage("tiers", "--demote", "--yes")
        assert shop.files() == []
        assert shop.images()[0].store == f"s3://{moto_s3.bucket}"


def test_at_every_moment_a_photo_is_somewhere(
    storage: Storage, new_shop: Callable[..., Shop], rclone_s3: services.S3, tmp_path: Path
) -> None:
    """It is killed again and again while it uploads and removes; whoever looks never misses a photo."""
    with services.S3Proxy(rclone_s3.endpoint) as proxy:
        shop = new_shop(rclone_s3.via(proxy))
        keys = [f"x/{number:02d}.jpg" for number in range(40)]
        shop.add("1", *keys, store="folder")
        for key in keys:
            hot(shop, key, days=40)
        missing: list[str] = []
        stop = threading.Event()

        def is_whole(place: Path, key: str) -> bool:
            try:
                return place.read_bytes() == f"bytes of {key}".encode()
            except FileNotFoundError:
                return False

        def watch() -> None:
            assert rclone_s3.folder
            while not stop.is_set():
                for key in keys:
                    places = [shop.folder / key, rclone_s3.folder / key]
                    # In this order: it moves from the first to the second.
                    held = any(is_whole(place, key) for place in places)
                    if not held and not places[1].exists():
                        missing.append(key)

        watcher = threading.Thread(target=watch)
        watcher.start()
        env = {name: str(value) for name, value in storage.settings.items()}
        try:
            for after in (3, 25):
                proxy.forget()
                with (
                    proxy.delay(0.02, methods="PUT|GET"),
                    services.start_scrapy("storage", "tiers", "--demote", "--yes", cwd=tmp_path, env=env) as running,
                ):
                    services.wait_until(lambda after=after: proxy.count() > after, 30, "it to be at work")
                    running.send_signal(signal.SIGKILL)
                    running.wait(30)
            storage("tiers", "--demote", "--yes")
        finally:
            stop.set()
            watcher.join()
        assert missing == []
        assert shop.files() == []
        assert rclone_s3.objects() == {key: f"bytes of {key}".encode() for key in keys}
        assert {row.store for row in shop.images()} == {f"s3://{rclone_s3.bucket}"}


# --- promote ----------------------------------------------------------------------------------------------------


@each_server_and_database
def test_the_most_viewed_and_the_newest(
    storage: Storage, new_shop: Callable[..., Shop], s3: services.S3, database_url: str
) -> None:
    shop = new_shop(s3, database_url)
    keys = ["x/0.jpg", "x/1.jpg", "x/2.jpg", HOSTILE, "x/4.jpg"]
    shop.add("1", *keys)
    shop.add("2", "x/2.jpg", data=b"bytes of x/2.jpg")
    for number, key in enumerate(keys[:4]):
        viewed(shop, key, times=number + 1)
    table: Any = CarImageRow.__table__
    with shop.engine.begin() as connection:
        for number, key in enumerate(keys):
            at = datetime(2026, 1, 1 + number)  # noqa: DTZ001 - as the tables hold it
            connection.execute(sqlalchemy.update(table).where(table.c.key == key).values(stored_at=at))
    before = shop.images()
    assert storage("tiers", "--promote", 2, "--dry-run", "--json").data["promoted"]["photos"] == 2
    assert shop.files() == []
    storage("tiers", "--promote", 2)
    assert shop.files() == sorted([HOSTILE, "x/2.jpg"])
    assert (shop.folder / HOSTILE).read_bytes() == f"bytes of {HOSTILE}".encode()
    said = storage("tiers", "--promote", 1, "--by", "newest")
    assert said.out == "Promoted: 1 photo (16 B), the newest.\n"
    assert shop.files() == sorted([HOSTILE, "x/2.jpg", "x/4.jpg"])
    assert storage("tiers", "--promote", 9, "--json").data["promoted"]["photos"] == 2, "the unviewed are not among them"
    assert len(shop.files()) == 5
    assert shop.images() == before, "the permanent URL stays"
    assert storage("tiers", "--json").data["tiers"]["cold"]["photos"] == 0


def test_never_beyond_the_limit(storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3) -> None:
    shop = new_shop(moto_s3)
    keys = [f"x/{number}.jpg" for number in range(6)]
    shop.add("1", *keys)  # 16 bytes each
    said = storage("tiers", "--promote-bytes", "40B", "--by", "newest", "--json").data
    assert (said["promoted"]["photos"], said["promoted"]["full"]) == (2, False)
    said = storage("tiers", "--promote", 6, "--by", "newest", "--max-bytes", 70)
    assert "The folder holds no more (limit 70 B)" in said.out
    assert len(shop.files()) == 4
    settings = {"IMAGES_STORE_MAX_BYTES": "81"}
    assert storage("tiers", "--promote", 6, "--by", "newest", "--json", settings=settings).data["promoted"]["full"]
    assert len(shop.files()) == 5


def test_only_good_bytes_enter_and_nobody_sees_a_part(
    storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = new_shop(moto_s3)
    shop.add("1", "x/good.jpg", "x/gone.jpg", "x/other.jpg", "x/longer.jpg", "../out.jpg")
    moto_s3.delete("x/gone.jpg")
    moto_s3.put("x/other.jpg", b"Bytes of x/other.jpg")
    moto_s3.put("x/longer.jpg", b"bytes of x/longer.jpg and more")
    said = storage("tiers", "--promote", 9, "--by", "newest", "--json", code=3).data["promoted"]
    assert {each["name"]: each["why"] for each in said["failures"]} == {
        "x/gone.jpg": "S3 does not have it",
        "x/other.jpg": "its object has other bytes than the ledger says",
        "x/longer.jpg": "its object can't be read (more than 21 bytes)",
    }
    assert shop.files() == ["x/good.jpg"]
    assert not (shop.folder.parent / "out.jpg").exists()
    (shop.folder / "x/good.jpg").unlink()
    seen = []
    real = os.fsync

    def look(descriptor: int) -> None:
        seen.append([name for name in shop.files() if not name.rpartition("/")[2].startswith(".")])
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    storage("tiers", "--promote", 1, "--by", "newest", code=None)
    assert seen[0] == [], "its name is there when its bytes are"
    assert shop.files() == ["x/good.jpg"]


def test_what_is_deleted_meanwhile_does_not_stay(
    storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    from carscraper.upkeep import tiers

    shop = new_shop(moto_s3)
    shop.add("1", "x/a.jpg", "x/b.jpg")
    real = tiers.write_atomically

    def write(path: Path, data: bytes) -> None:
        real(path, data)
        table: Any = CarImageRow.__table__
        with shop.engine.begin() as connection:
            gone = sqlalchemy.update(table).where(table.c.key == "x/a.jpg")
            connection.execute(gone.values(status="failed", reason="deleted"))

    monkeypatch.setattr(tiers, "write_atomically", write)
    assert storage("tiers", "--promote", 2, "--by", "newest", "--json").data["promoted"]["photos"] == 1
    assert shop.files() == ["x/b.jpg"]


# --- the limit --------------------------------------------------------------------------------------------------


def test_beyond_the_limit_the_least_recently_viewed_leave_first(
    storage: Storage, new_shop: Callable[..., Shop], s3: services.S3
) -> None:
    shop = new_shop(s3)
    keys = [f"x/{number}.jpg" for number in range(6)]  # 16 bytes each
    shop.add("1", *keys)
    shop.add("2", "x/own.jpg", store="folder")  # 18 bytes
    for number, key in enumerate(keys):
        hot(shop, key, days=20 - number)
    viewed(shop, "x/0.jpg", days=1)
    assert "--enforce needs a limit" in storage("tiers", "--enforce", "--yes", code=4).err
    plan = storage("tiers", "--enforce", "--max-bytes", 70, "--dry-run", "--json").data["enforced"]
    assert (plan["photos"], plan["bytes"]) == (3, 48)
    storage("tiers", "--enforce", "--max-bytes", 70, "--yes")
    assert shop.files() == ["x/0.jpg", "x/4.jpg", "x/5.jpg", "x/own.jpg"]
    said = storage("tiers", "--enforce", "--max-bytes", 10, "--yes", code=3)
    assert shop.files() == ["x/own.jpg"], "the only copy of it"
    assert "8 B more than its limit" in said.err
    storage("tiers", "--enforce", "--max-bytes", 10, "--demote", "--cold-days", 0, "--yes")
    assert shop.files() == []


@pytest.mark.parametrize(
    "words",
    [
        ("--max-bytes", "5 bananas"),
        ("--max-bytes", "-1"),
        ("--promote-bytes", "1IB"),
        ("--cold-days", "-1"),
        ("--cold-days", "1.5"),
        ("--promote", "0"),
        ("--promote", "many"),
        ("--by", "size"),
    ],
)
def test_what_is_typed_must_make_sense(storage: Storage, words: tuple[str, str]) -> None:
    assert "Traceback" not in storage("tiers", *words, code=2).err


def test_demoting_needs_a_bucket(storage: Storage, new_shop: Callable[..., Shop]) -> None:
    shop = new_shop()
    shop.add("1", "x/a.jpg")
    hot(shop, "x/a.jpg", days=40)
    assert NO_BUCKET in storage("tiers", "--demote", "--yes", code=4).err
    assert shop.files() == ["x/a.jpg"]


# --- counting ---------------------------------------------------------------------------------------------------


def line(
    key: str, *, status: int = 200, method: str = "GET", at: str = "20/Nov/2026:10:00:00 +0000", ip: str = ""
) -> str:
    path = permanent_url(key, "")
    return f'{ip or "192.0.2.1"} - - [{at}] "{method} {path} HTTP/1.1" {status} 1234 "-" "Mozilla/5.0 (\\"x\\")"\n'


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_views_are_counted_once_whatever_happens_to_the_log(
    storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3, database_url: str, tmp_path: Path
) -> None:
    shop = new_shop(moto_s3, database_url)
    shop.add("1", "x/a.jpg", HOSTILE)
    hot(shop, "x/a.jpg")
    log = tmp_path / "access.log"
    log.write_text(line("x/a.jpg") + line(HOSTILE) + line("x/a.jpg", status=304) + line("x/a.jpg", status=206))
    assert storage("tiers", "--count", log, "--dry-run", "--json").data["counted"][0]["views"] == 4
    assert views(shop) == {}
    said = storage("tiers", "--count", log)
    assert said.out == f"{log}: 4 views (3 hits, 1 misses) in 4 new lines; 0 about other things, 0 unreadable.\n"
    expected = {"x/a.jpg": (3, 3, 0), HOSTILE: (1, 0, 1)}
    assert views(shop) == expected
    storage("tiers", "--count", log)
    assert views(shop) == expected, "not twice"
    # It grows; the last line is not complete yet.
    with log.open("a") as file:
        file.write(line("x/a.jpg") + line("x/a.jpg")[:-5])
    storage("tiers", "--count", log)
    expected["x/a.jpg"] = (4, 4, 0)
    assert views(shop) == expected
    with log.open("a") as file:
        file.write(line("x/a.jpg")[-5:])
    # Rotated and compressed by logrotate, a new one is begun: nothing is lost, nothing is counted twice.
    rotated = tmp_path / "access.log.1"
    log.rename(rotated)
    log.write_text(line(HOSTILE, at="21/Nov/2026:00:00:01 +0100"))
    storage("tiers", "--count", rotated, log)
    expected = {"x/a.jpg": (5, 5, 0), HOSTILE: (2, 0, 2)}
    assert views(shop) == expected
    packed = tmp_path / "access.log.2.gz"
    packed.write_bytes(gzip.compress(rotated.read_bytes()))
    storage("tiers", "--count", packed, log)
    assert views(shop) == expected
    # copytruncate: the same file begins anew.
    log.write_text(line("x/a.jpg", at="21/Nov/2026:09:00:00 +0000"))
    storage("tiers", "--count", log)
    assert views(shop)["x/a.jpg"] == (6, 6, 0)
    with shop.engine.connect() as connection:
        assert connection.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(AccessLog.__table__)) == 3
        last = connection.scalar(sqlalchemy.select(ImageViews.__table__.c.last_viewed_at).filter_by(key=HOSTILE))
    assert last == datetime(2026, 11, 20, 23, 0, 1)  # noqa: DTZ001 - as the tables hold it
    assert storage("tiers", "--json").data["hit_rate"] == 0.75


def test_cloudfronts_logs(
    storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3, tmp_path: Path
) -> None:
    shop = new_shop(moto_s3)
    shop.add("1", "x/a.jpg", "x/þ b.jpg")
    hot(shop, "x/a.jpg")
    head = (
        "#Version: 1.0\n#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status x\n"
    )
    rows = [
        ("GET", "/x/a.jpg", 200),
        ("GET", "/x/%C3%BE%20b.jpg", 304),
        ("GET", "/x/a.jpg", 403),
        ("HEAD", "/x/a.jpg", 200),
        ("GET", "/favicon.ico", 200),
    ]
    packed = tmp_path / "E2QWRUHEXAMPLE.2026-11-20-10.abcd.gz"
    other = tmp_path / "E2QWRUHEXAMPLE.2026-11-20-11.efgh.gz"
    for number, path in enumerate((packed, other)):
        body = "".join(
            f"2026-11-2{number}\t10:00:0{number}\tKEF50\t1\t192.0.2.1\t{method}\td.cloudfront.net\t{stem}\t{status}\tx\n"
            for method, stem, status in rows
        )
        path.write_bytes(gzip.compress((head + body).encode()))
    said = storage("tiers", "--count", packed, other, packed, "--json").data["counted"]
    assert [(each["views"], each["hits"], each["others"], each["bad"]) for each in said] == [(2, 1, 3, 0)] * 2 + [
        (0, 0, 0, 0)
    ]
    assert views(shop) == {"x/a.jpg": (2, 2, 0), "x/þ b.jpg": (2, 0, 2)}


HOSTILE_LINES = [
    b"\x00\xff\xfe garbage\n",
    b"\n",
    b"a" * 300_000 + b"\n",
    b'1.1.1.1 - "] [" [20/Nov/2026:10:00:00 +0000] "GET /x/a.jpg HTTP/1.1" 200 1 "-" "-"\n',
    b'1.1.1.1 - - [99/Nov/2026:10:00:00 +0000] "GET /x/a.jpg HTTP/1.1" 200 1 "-" "-"\n',
    b'1.1.1.1 - - [20/Nov/0000:10:00:00 +9999] "GET /x/a.jpg HTTP/1.1" 200 1 "-" "-"\n',
    b'1.1.1.1 - - [20/Nov/2026:10:00:00 +0000] "GET /x/a.jpg%00 HTTP/1.1" 200 1 "-" "-"\n',
    b'1.1.1.1 - - [20/Nov/2026:10:00:00 +0000] "GET /%ff%fe HTTP/1.1" 200 1 "-" "-"\n',
    b'1.1.1.1 - - [20/Nov/2026:10:00:00 +0000] "GET /../../etc/passwd HTTP/1.1" 200 1 "-" "-"\n',
    b'1.1.1.1 - - [20/Nov/2026:10:00:00 +0000] "GET /\';DROP TABLE image_views;-- HTTP/1.1" 200 1 "-" "-"\n',
    b'1.1.1.1 - - [20/Nov/2026:10:00:00 +0000] "\\x16\\x03\\x01" 400 1 "-" "-"\n',
    b'1.1.1.1 - - [20/Nov/2026:10:00:00 +0000] "GET ' + b'\\"' * 20_000 + b"\n",
    b'1.1.1.1 - - [20/Nov/2026:10:00:00 +0000] "GET /' + b"%" * 20_000 + b' HTTP/1.1" 200 1 "-" "-"\n',
    b"\t" * 50_000 + b"\n",
    b"2026-13-45\t99:99:99\t\t\t\tGET\t\t/x/a.jpg\t200\n",
    b"#Fields: cs-uri-stem\n",
]


def test_hostile_lines_break_nothing(
    storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3, postgres_url: str, tmp_path: Path
) -> None:
    shop = new_shop(moto_s3, postgres_url)
    shop.add("1", "x/a.jpg")
    log = tmp_path / "access.log"
    good = [line("x/a.jpg").encode(), line("x/a.jpg", at="31/Dec/9999:23:59:59 +0000").encode()]
    good.append(b'::1 - bob [20/Nov/2026:10:00:00 +0000] "GET http://h:80/x/a.jpg?w=1 HTTP/1.1" 200 1\n')
    good.append(b'::1 - bob [20/Nov/2026:10:00:00 +0000] "GET /x\\x2Fa.jpg HTTP/1.1" 200 1 "-" "\\"\n')
    log.write_bytes(b"".join(good[:1] + HOSTILE_LINES + good[1:]))
    began = time.monotonic()
    said = storage("tiers", "--count", log, "--json").data["counted"][0]
    assert time.monotonic() - began < 5
    assert (said["views"], said["lines"]) == (4, 4 + len(HOSTILE_LINES))
    assert views(shop) == {"x/a.jpg": (4, 0, 4)}
    with shop.engine.connect() as connection:
        last = connection.scalar(sqlalchemy.select(ImageViews.__table__.c.last_viewed_at))
    assert last.year < 9999, "no clock makes a view of tomorrow"


def test_a_log_that_breaks_off_is_counted_so_far(
    storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3, tmp_path: Path
) -> None:
    shop = new_shop(moto_s3)
    shop.add("1", "x/a.jpg")
    whole = gzip.compress("".join(line("x/a.jpg", ip=f"192.0.2.{n % 250}") for n in range(5000)).encode())
    log = tmp_path / "access.log.gz"
    log.write_bytes(whole[: len(whole) // 2])
    said = storage("tiers", "--count", log, "--json", code=3)
    first = said.data["counted"][0]["views"]
    assert 0 < first < 5000
    assert "was not read to its end" in said.err
    log.write_bytes(whole)
    assert storage("tiers", "--count", log, "--json").data["counted"][0]["views"] == 5000 - first
    assert "There is no access log" in storage("tiers", "--count", tmp_path / "none.log", code=4).err
    (tmp_path / "empty.log").touch()
    assert storage("tiers", "--count", tmp_path / "empty.log", "--json").data["counted"][0]["lines"] == 0


def test_from_stdin_below_a_path_and_in_pieces(
    storage: Storage,
    new_shop: Callable[..., Shop],
    moto_s3: services.S3,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from carscraper.upkeep import tiers

    shop = new_shop(moto_s3)
    shop.add("1", "x/a.jpg")
    text = "".join(line("img/x/a.jpg") + line("x/a.jpg") for _ in range(10)).encode()
    monkeypatch.setattr(tiers, "_LINES", 3)
    settings = {"IMAGES_PUBLIC_URL": "https://example.is/img"}
    for expected in (10, 0):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        said = storage("tiers", "--count", "-", "--json", settings=settings).data["counted"][0]
        assert (said["views"], said["misses"]) == (expected, expected)
    assert views(shop) == {"x/a.jpg": (10, 0, 10)}


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_two_that_count_at_once_count_once(
    storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3, database_url: str
) -> None:
    from carscraper.upkeep import tiers

    shop = new_shop(moto_s3, database_url)
    shop.add("1", "x/a.jpg")
    text = (line("x/a.jpg") * 3000).encode()
    results: list[Any] = []
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait()
        results.append(tiers.count(shop.engine, shop.folder, "", io.BytesIO(text)))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.views for each in results) == [0, 0, 0, 3000]
    assert views(shop) == {"x/a.jpg": (3000, 0, 3000)}
    tiers.record_view(shop.engine, "x/a.jpg", hit=True)
    assert views(shop) == {"x/a.jpg": (3001, 1, 3000)}
