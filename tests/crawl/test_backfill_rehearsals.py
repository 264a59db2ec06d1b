"""A backfill that is only rehearsed: a dry run changes nothing, a sample leaves nothing behind."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from tests import services
from tests.crawl.legacy import Legacy, upgrade
from tests.crawl.test_backfill import backfill, row_of
from tests.crawl.world import World, verdict

if TYPE_CHECKING:
    from collections.abc import Callable


from tests.crawl.backfills import IN_FOLDER, NO_STORE, assert_one_sentence, files, rows, statuses, stored

ONLY_RCLONE = pytest.mark.parametrize("s3", ["rclone"], indirect=True)
"""For tests that look at the bucket's files."""


@ONLY_RCLONE
def test_a_dry_run_says_what_would_be_done_and_changes_nothing(
    new_world: Callable[..., World], database_url: str, s3: services.S3, s3_proxy: services.S3Proxy
) -> None:
    world = new_world(cars=4, photos=3, database_url=database_url, env=s3.via(s3_proxy).env)
    s3_proxy.down()
    world.crawl(limit=1, code=3)
    s3_proxy.up()
    s3.put("bilasolur/old.jpg", b"old")
    world.crawl(env=NO_STORE)
    assert statuses(world) == {("pending", "spooled"): 3, ("pending", None): 9}
    world.site.reset()
    s3_proxy.forget()
    table, before = rows(world), files(world.folder)
    assert sum(name.endswith(".upload") for name in before) == 3

    done = backfill(world, dry_run="true")

    assert files(world.folder) == before
    assert rows(world) == table
    assert s3_proxy.count() == 0
    assert world.site.served.requests == []
    row = next(line for line in done.stdout.splitlines() if "│ Bilasolur │" in line)
    assert re.findall(r"[\d.]+", row)[:5] == ["3", "3", "9", "9", "0"]  # cars, pages, photos, uploads, reads
    assert "12 requests to dealers, 9 to S3, 0.00 GB" in done.stdout
    assert re.search(r"at least [\d.]+ minutes", done.stdout)
    assert re.search(r"About [\d.]+ US dollars", done.stdout)
    assert "nothing was changed" in verdict(done)


@pytest.mark.parametrize("left", [("", "-wal", "-shm"), ("", "-wal")], ids=["killed", "copied"])
def test_a_dry_run_on_a_database_that_nobody_closed_makes_no_file(
    new_work: Callable[..., World], left: tuple[str, ...]
) -> None:
    world = new_work(cars=1)
    folder = world.folder / "left"
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(world.folder / "carscraper.db", isolation_level=None)) as writer:
        writer.execute("UPDATE car_listings SET title = 'Not in the main file yet'")
        for ending in left:
            shutil.copy(world.folder / f"carscraper.db{ending}", folder)
    world.database_url = f"sqlite:///{folder / 'carscraper.db'}"
    before = files(folder)
    backfill(world, dry_run="true")
    after = files(folder)
    assert after.keys() == before.keys()
    for name in ("carscraper.db", "carscraper.db-wal"):
        assert after[name] == before[name]


def test_a_dry_run_without_s3_speaks_of_no_request_to_it(new_work: Callable[..., World]) -> None:
    done = backfill(new_work(), dry_run="true", env=IN_FOLDER)
    assert "16 requests to dealers, 0 to S3" in done.stdout


@pytest.mark.parametrize("rehearsal", [{"dry_run": "true"}, {"sample": 3}])
def test_a_rehearsal_without_a_database_is_one_sentence(
    new_world: Callable[..., World], rclone_s3: services.S3, rehearsal: dict[str, Any]
) -> None:
    world = new_world(cars=1, env=rclone_s3.env)
    before = files(world.folder)
    assert_one_sentence(backfill(world, code=4, **rehearsal), "is not there: run a crawl first")
    assert files(world.folder) == before


def test_a_dry_run_of_an_older_schema_names_the_command(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1)
    Legacy(world).add_all([row_of(world.site.cars[0], 1)])
    before = files(world.folder)
    assert_one_sentence(backfill(world, code=4, dry_run="true"), "scrapy database upgrade")
    assert files(world.folder) == before


SAMPLED = "Sample: 3 photos stored, read back and found the same; 3 removed again."


@ONLY_RCLONE
@pytest.mark.parametrize("prefix", ["", "cars/is/"])
def test_a_sample_tries_some_photos_and_leaves_nothing_behind(
    new_work: Callable[..., World], s3: services.S3, s3_proxy: services.S3Proxy, prefix: str
) -> None:
    world = new_work(env=s3.via(s3_proxy).env | {"S3_PREFIX": prefix})
    temporary = world.folder / ".home" / "tmp"
    temporary.mkdir()
    table, before = rows(world), files(world.folder)
    done = backfill(world, sample=3, env={"TMPDIR": str(temporary)})
    assert files(world.folder) == before
    assert rows(world) == table
    assert list(temporary.iterdir()) == []
    assert s3.keys() == []
    assert SAMPLED in done.stdout
    assert world.asked("photo") == 3
    for method in ("PUT", "GET"):
        keys = {request.key for request in s3_proxy.requests if request.method == method and request.key}
        assert len(keys) == 3
        assert all(key.startswith(f"{prefix}_test/bilasolur/") for key in keys)


def test_a_sample_does_not_remove_what_was_in_the_bucket_before(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    """The photo of an older program, which a real run enters in the ledger."""
    world = new_world(cars=1, photos=1, env=rclone_s3.env)
    (car,) = world.site.cars
    rclone_s3.put("old/photo.jpg", world.served(car))
    Legacy(world).add_all([row_of(car, 1, image_url=f"{rclone_s3.endpoint}/{rclone_s3.bucket}/old/photo.jpg")])
    upgrade(world)
    backfill(world, sample=1, code=None)
    assert rclone_s3.keys() == ["old/photo.jpg"]


def test_a_sample_removes_its_thumbnails_too(new_work: Callable[..., World], rclone_s3: services.S3) -> None:
    world = new_work()
    backfill(world, sample=3, env={"IMAGES_THUMBS": '{"small": [320, 240]}'})
    assert rclone_s3.keys() == []


def test_a_sample_is_of_photos_that_are_not_stored_yet(new_work: Callable[..., World]) -> None:
    world = new_work(cars=1)
    backfill(world, limit=1)
    world.site.reset()
    done = backfill(world, sample=1)
    assert "Sample: 1 photos stored" in done.stdout
    assert world.asked("photo") == 1


def test_a_sample_of_photos_in_the_folder_asks_the_dealer_for_none(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    world = new_world(cars=1, photos=3, env=rclone_s3.env)
    world.crawl(env=IN_FOLDER)
    world.site.reset()
    table, before = rows(world), files(world.folder)
    done = backfill(world, sample=3)
    assert SAMPLED in done.stdout
    assert world.site.served.requests == []
    assert files(world.folder) == before
    assert rows(world) == table


def test_a_sample_of_none_is_no_real_run(new_work: Callable[..., World]) -> None:
    world = new_work(cars=1)
    backfill(world, sample=0, code=None)
    assert stored(world) == set()
