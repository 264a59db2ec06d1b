"""`scrapy storage audit`: each fault is found and nothing else, mended without deleting, deleted when asked."""

from __future__ import annotations

import io
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from sqlalchemy import delete, insert, select, update

from carscraper.db import inventory
from carscraper.db.models import CrawlRun
from carscraper.maintenance import audit as audit_module
from carscraper.maintenance import repair as repair_module
from carscraper.maintenance.audit import WORDS
from tests.crawl.conftest import new_site, new_world
from tests.maintenance.stock import OLD, TEMPORARY, Disorder, Stock, images, picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests import services
    from tests.cli.conftest import Storage
    from tests.commands import Said
    from tests.crawl.world import World

__all__ = ["new_site", "new_world"]  # fixtures
CLEAN = "missing (+) 0, orphaned (-) 0, differing (*) 0, wrong (!) 0.\n"


@pytest.fixture
def stock(storage: Storage, sqlite_url: str, rclone_s3: services.S3) -> Stock:
    made = Stock(sqlite_url, rclone_s3)
    storage.settings = made.settings
    return made


def findings(said: Said) -> list[str]:
    return [line for line in said.out.splitlines() if line[:2] in {"= ", "+ ", "- ", "* ", "! "}]


def marks(said: Said) -> list[tuple[str, str]]:
    return sorted((line[0], line[2:].split(" (")[0]) for line in findings(said))


def summary(said: Said) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said.out.splitlines()[-1])["summary"]
    return found


def test_in_order_is_clean(stock: Stock, storage: Storage) -> None:
    keys = stock.cars(3)
    said = storage("audit")
    assert findings(said) == []
    assert said.out.splitlines()[-1] == (f"Rows 6, objects 6, thumbnails 0: as they should be (=) 6, {CLEAN}".rstrip())
    assert marks(storage("audit", "--all")) == sorted(("=", key) for key in keys)
    assert storage("audit", "--all", "--deep").out.splitlines()[-2] == ("Read to compare their SHA-256: 6.")


@pytest.mark.parametrize(
    ("database", "server", "prefix"),
    [("sqlite", "rclone", ""), ("postgres", "rclone", "cars/is/"), ("sqlite", "moto", "cars/is/")],
)
def test_each_fault_is_found_and_nothing_else(
    storage: Storage, database: str, server: str, prefix: str, request: pytest.FixtureRequest
) -> None:
    stock = Stock(request.getfixturevalue(f"{database}_url"), request.getfixturevalue(f"{server}_s3"), prefix)
    storage.settings = stock.settings
    grace = "1h"
    if server == "moto":  # all its objects are new
        stock.put = lambda name, data, age=0, put=stock.put: None if age == 60 else put(name, data)  # type: ignore[method-assign]
        grace = "1s"
    disorder = Disorder(stock)
    if server == "moto":
        threading.Event().wait(1.5)
    before = stock.everything()
    said = storage("audit", "--grace", grace, code=3)
    assert marks(said) == sorted(disorder.expected)
    assert "Stored in folder, not looked at: 1." in said.out
    assert "left alone: 2." in said.out
    assert stock.everything() == before
    machine = storage("audit", "--grace", grace, "--json", code=3)
    lines = [json.loads(line) for line in machine.out.splitlines()]
    assert sorted((line["mark"], line["key"]) for line in lines[:-1]) == sorted(disorder.expected)
    assert {line["reason"] for line in lines[:-1]} <= set(WORDS)
    assert lines[-1]["summary"]["missing"] == 1
    assert lines[-1]["summary"]["wrong"] == 7


def test_the_order_of_the_server_is_no_matter(stock: Stock, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a/b.jpg", "a-b.jpg", "a.jpg", "ab.jpg", "A.jpg", "þ/x.jpg", "a/\U0001f600.jpg", "a/\ufffd.jpg"]
    listing_id = stock.car("1")
    for number, name in enumerate(names):
        stock.put(name, b"bytes")
        stock.row(listing_id, f"1/{number}", **stock.stored(b"bytes", name))
    real = audit_module.list_objects
    monkeypatch.setattr(audit_module, "list_objects", lambda *given: reversed(list(real(*given))))
    monkeypatch.setattr(audit_module.objects, "look", None)  # nothing even looks like a fault
    assert summary(storage("audit", "--json"))["same"] == len(names)


def test_changed_bytes_of_the_same_size_need_reading(stock: Stock, storage: Storage, tmp_path: Path) -> None:
    keys = stock.cars(20)
    stock.put(keys[7], b"Photo 1 of 4")
    assert findings(storage("audit")) == []
    said = storage("audit", "--deep", "--report", tmp_path / "report.txt", code=3)
    assert marks(said) == [("*", keys[7])]
    assert "another SHA-256 than the row says" in said.out
    assert (tmp_path / "report.txt").read_text().splitlines() == findings(said)
    # A sample as large as the bucket finds it, too; a smaller one reads no more than it says.
    assert marks(storage("audit", "--sample", 40, code=3)) == [("*", keys[7])]
    assert summary(storage("audit", "--sample", 5, "--json", code=None))["read"] == 5


def test_what_cannot_be_read(stock: Stock, storage: Storage) -> None:
    from tests.services import S3Proxy

    keys = stock.cars(2)
    with S3Proxy(stock.s3.endpoint) as proxy:
        storage.settings = stock.settings | stock.s3.via(proxy).env
        proxy.fail(403, "InvalidObjectState", methods="GET", path=keys[1].rsplit("/", 1)[1])
        said = storage("audit", "--deep", code=3)
    assert ("!", keys[1]) in marks(said)
    assert "the object can't be read: InvalidObjectState" in said.out


def test_a_crawl_meanwhile_makes_no_fault(stock: Stock, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    stock.cars(2)
    lost = stock.key(b"late", "2")
    stock.put(stock.key(b"entered", "1"), b"entered")
    real = inventory.Comparison.find_objects

    def find_objects(*given: Any) -> Any:
        # After the list: one more photo is put and its row written; the row of a listed one comes after the look at it.
        stock.s3.put(lost, b"late")
        stock.row(2, "2/50", **stock.stored(b"late", lost))
        found = real(*given)
        stock.row(1, "1/51", **stock.stored(b"entered", stock.key(b"entered", "1")))
        return found

    monkeypatch.setattr(inventory.Comparison, "find_objects", find_objects)
    said = storage("audit")
    assert findings(said) == []


def test_it_asks_before_it_mends(stock: Stock, storage: Storage) -> None:
    Disorder(stock)
    before = stock.everything()
    assert "Nobody is there to answer" in storage("audit", "--fix", code=4).err
    storage.answer = "n"
    assert "Nothing was changed." in storage("audit", "--fix", code=3).err
    assert "fetched again (2)" in storage("audit", "--fix", "--dry-run", code=3).err
    assert stock.everything() == before


def test_mending(stock: Stock, storage: Storage) -> None:
    disorder = Disorder(stock)
    keys = disorder.keys
    objects = stock.s3.objects()
    said = storage("audit", "--grace", "1h", "--fix", "--yes", code=3)
    assert "photos pending again 3, orphans registered 1" in said.out
    assert "scrapy crawl backfill" in said.out
    assert f"left: {disorder.thumbnail} (orphan-thumbnail)" in said.err
    assert stock.s3.objects() == objects, "nothing is deleted"
    for identity in ("1/0", "2/0", "1/99"):
        row = stock.only(identity=identity)
        assert (row.status, row.reason, row.key, row.url, row.store) == ("pending", None, None, None, None)
    assert stock.cover("1") == f"{stock.base}/{keys[1]}", "the next stored photo, not the dealer's address"
    assert stock.only(identity="3/0").sha256
    for identity, key in (("4/0", keys[6]), ("5/0", keys[8]), ("6/0", keys[10]), ("9/0", keys[16])):
        row = stock.only(identity=identity)
        assert (row.url, row.store) == (f"{stock.base}/{key}", stock.store)
    assert stock.cover("10") == f"{stock.base}/{keys[18]}"
    entered = stock.only(key=disorder.orphan)
    assert (entered.status, entered.identity[:7], entered.position) == ("stored", "object/", 2)
    # What is left: the thumbnail, and the object with other bytes than its name says, which no row claims now.
    assert marks(storage("audit", "--grace", "1h", code=3)) == [("-", keys[2]), ("-", disorder.thumbnail)]


def test_a_picture_under_another_name_is_told_and_left_alone(stock: Stock, storage: Storage) -> None:
    stock.cars(1)
    strangers = [f"{stock.prefix}auctionimages/77/1.JPG", f"{stock.prefix}orphan.jpg"]
    for name in strangers:
        stock.put(name, picture("stranger"))
    assert marks(storage("audit", code=3)) == [("-", name) for name in strangers]
    said = storage("audit", "--fix", "--yes", code=3)
    assert "orphans registered 0" in said.out
    storage("audit", "--delete-orphans", "--older-than", "1s", "--yes", code=3)
    assert set(strangers) <= set(stock.s3.keys())


def test_thumbnails_and_outputs_are_part_of_it(stock: Stock, storage: Storage) -> None:
    """A missing thumbnail is made again from its photo; a missing output is named with the command that uploads it."""
    listing_id = stock.car("1")
    keys = [stock.photo(listing_id, "1", number, picture(f"{number}")) for number in range(3)]
    stock.put(stock.thumbnail(keys[0]), b"small")
    there, missing = "outputs/run-1/items.jl.gz", "outputs/run-1/log.txt"
    stock.put(there, b"items")
    output = {"s3Urls": [f"s3://{stock.s3.bucket}/{name}" for name in (there, missing)], "filesUploaded": 2}
    run = {"spider": "bilasolur", "job_id": "j", "version": "1", "host": "h", "status": "success", "started_at": OLD}
    with stock.engine.begin() as connection:
        connection.execute(insert(CrawlRun.__table__).values(**run, output=json.dumps(output)))
    storage.settings = stock.settings | {"IMAGES_THUMBS": '{"small": [32, 24]}'}
    said = storage("audit", code=3)
    lost = f"s3://{stock.s3.bucket}/{missing}"
    thumbnails = [stock.thumbnail(key) for key in keys[1:]]
    assert marks(said) == sorted(("+", name) for name in (*thumbnails, lost))
    assert "as they should be (=) 3, missing (+) 3" in said.out
    assert "make missing thumbnails (2)" in storage("audit", "--fix", "--dry-run", code=3).err
    said = storage("audit", "--fix", "--yes", code=3)
    assert f"left: {lost} (no-output: scrapy runs upload 1)" in said.err
    assert "thumbnails 2; left 1." in said.out
    with Image.open(io.BytesIO(stock.s3.objects()[thumbnails[0]])) as made:
        assert made.format == "JPEG"
        assert max(made.size) == 32
    stock.s3.put(missing, b"log")
    assert findings(storage("audit")) == []


def test_mending_on_both_databases(storage: Storage, database_url: str, moto_s3: services.S3) -> None:
    stock = Stock(database_url, moto_s3)
    storage.settings = stock.settings
    keys = stock.cars(3, photos=1)
    stock.remove(keys[0])
    stock.change(keys[1], url=TEMPORARY)
    stock.change_car(3, image_url=TEMPORARY)
    said = storage("audit", "--fix", "--yes", "--json")
    assert json.loads(said.out.splitlines()[-1])["fixed"] == {
        "pending": 1,
        "addresses": 1,
        "hashes": 0,
        "covers": 1,
        "registered": 0,
        "thumbnails": 0,
        "left": 0,
    }
    assert stock.cover("1") is None
    assert stock.only(identity="1/0").status == "pending"
    assert findings(storage("audit")) == []


def test_a_wrong_server_loses_nothing(stock: Stock, storage: Storage) -> None:
    for key in stock.cars(3):
        stock.remove(key)
    before = stock.everything()
    said = storage("audit", "--fix", "--yes", code=4)
    assert "Not one of the photos" in said.err
    assert stock.everything() == before
    storage("audit", "--fix", "--yes", "--even-if-all")
    assert {row.status for row in stock.rows()} == {"pending"}


class TestDeleting:
    @pytest.fixture
    def orphans(self, stock: Stock) -> list[str]:
        keys = stock.cars(2)
        old = [stock.key(b"%d" % number, "1") for number in range(3)]
        for name in old:
            stock.put(name, name.encode())
        stock.put(stock.thumbnail(old[0]), b"small")
        stock.put(stock.thumbnail(stock.key(b"gone", "1")), b"small")
        stock.put(stock.key(b"new", "1"), b"new", age=86_400 * 20)
        stock.put("notes.txt", b"notes")
        stock.put(stock.thumbnail(keys[0]), b"small")
        return [*old, stock.thumbnail(old[0]), stock.thumbnail(stock.key(b"gone", "1"))]

    def test_old_orphans_and_their_thumbnails(self, stock: Stock, storage: Storage, orphans: list[str]) -> None:
        before = stock.everything()
        said = storage("audit", "--delete-orphans", "--dry-run", code=3)
        assert "would delete orphans older than 30d: 4 (5 objects)" in said.err
        storage.answer = "n"
        storage("audit", "--delete-orphans", code=3)
        assert stock.everything() == before
        storage.answer = "y"
        said = storage("audit", "--delete-orphans", code=3)
        assert "Objects deleted 5, refused 0." in said.out
        assert set(before[2]) - set(stock.s3.objects()) == set(orphans)
        assert stock.everything()[:2] == before[:2]
        storage("audit", "--delete-orphans", "--older-than", "2w", "--yes")
        assert stock.key(b"new", "1") not in stock.s3.objects()
        assert findings(storage("audit")) == []

    def test_a_second_look(
        self, stock: Stock, storage: Storage, orphans: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A crawl puts one of them again and writes the row of another after the audit has found them."""
        real = repair_module.OrphanRemoval.run

        def run(self: Any, comparison: Any) -> Any:
            stock.put(orphans[0], b"0", age=0)
            stock.row(1, "1/77", **stock.stored(b"1", orphans[1]))
            yield from real(self, comparison)

        monkeypatch.setattr(repair_module.OrphanRemoval, "run", run)
        storage("audit", "--delete-orphans", "--yes", code=3)
        assert {orphans[0], orphans[1]} <= set(stock.s3.objects())
        assert orphans[2] not in stock.s3.objects()

    def test_a_row_written_just_then_is_pending_again(
        self, stock: Stock, storage: Storage, orphans: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = repair_module.objects.remove_many

        def delete(*given: Any) -> dict[str, str]:
            stock.row(1, "1/77", **stock.stored(b"1", orphans[1]))
            return real(*given)

        monkeypatch.setattr(repair_module.objects, "remove_many", delete)
        said = storage("audit", "--delete-orphans", "--yes", code=3)
        assert "Named by a row just then, pending again: 1." in said.out
        assert stock.only(identity="1/77").status == "pending"


def test_wrong_words(stock: Stock, storage: Storage) -> None:
    for words, code, sentence in [
        (["--grace", "soon"], 2, "no length of time"),
        (["--sample", "0"], 2, "no whole number of at least 1"),
        (["--deep", "--sample", "3"], 2, "not allowed with"),
        (["--fix", "--delete-orphans"], 2, "not allowed with"),
        (["--older-than", "1d"], 4, "--older-than belongs to --delete-orphans"),
        (["--report", "/nowhere/report"], 4, "can't be written"),
    ]:
        assert sentence in storage("audit", *words, code=code).err, words


def test_what_a_user_can_cause(stock: Stock, storage: Storage, tmp_path: Path) -> None:
    missing = {"DATABASE_URL": f"sqlite:///{tmp_path / 'no.db'}"}
    assert "run a crawl first" in storage("audit", settings=missing, code=4).err
    assert not (tmp_path / "no.db").exists()
    assert "NoSuchBucket" in storage("audit", settings={"AWS_S3_BUCKET": "no-such-bucket"}, code=4).err


def test_a_crawl_is_not_kept_from_writing(stock: Stock, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    stock.cars(3)
    stock.change(stock.rows()[0].key, url=None)
    monkeypatch.setattr(inventory, "_PAGE", 1)
    real = inventory.Comparison.confirm

    def confirm(*given: Any) -> None:
        stock.row(1, "1/100")  # by another connection, while the audit goes through its findings
        real(*given)

    monkeypatch.setattr(inventory.Comparison, "confirm", confirm)
    assert len(findings(storage("audit", code=3))) == 1
    assert stock.only(identity="1/100")


def test_the_backfill_fetches_what_was_missing(
    storage: Storage, new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    """A real crawl into the bucket, a loss, the mending, and the command that it names."""
    world = new_world(cars=3, photos=2, env=rclone_s3.env)
    world.crawl()
    storage.settings = {**rclone_s3.env, "DATABASE_URL": world.database_url}
    whole = rclone_s3.objects()
    assert storage("audit", "--deep").out.endswith("as they should be (=) 6, " + CLEAN)
    lost, damaged, *_ = whole
    rclone_s3.delete(lost)
    rclone_s3.put(damaged, whole[damaged][:-1])
    # The command that moves orphans back in finds whose photo one is by what the object carries.
    said = storage("audit", "--fix", "--yes")
    assert "photos pending again 2" in said.out
    assert "scrapy crawl backfill -a limit=0 -a include_inactive=true" in said.out
    world.crawl(spider="backfill", limit="0", include_inactive="true")
    assert rclone_s3.objects() == whole
    assert storage("audit", "--deep").out.endswith("as they should be (=) 6, " + CLEAN)
    # Rows that are gone (a restored backup) come back from the bucket alone, under the identities of a crawl, which
    # takes them for its own: no photo is asked for, and none has a second row.
    before = world.sql(select(images.c.identity, images.c.key).order_by(images.c.key))
    world.sql(delete(images).where(images.c.key == damaged))
    world.sql(update(images).where(images.c.key == lost).values(status="pending", key=None, sha256=None))
    storage("discover", "--yes")
    assert world.sql(select(images.c.identity, images.c.key).order_by(images.c.key)) == before
    asked = world.asked("photo")
    world.crawl(settings={"DETAILS_MAX_AGE_DAYS": 0})
    assert world.asked("photo") == asked
    assert world.sql(select(images.c.identity, images.c.key).order_by(images.c.key)) == before
    assert storage("audit", "--deep").out.endswith("as they should be (=) 6, " + CLEAN)
