"""Archives, tables and words that outsiders came with: odd files, gone cars in two rows, spellings of a source."""

from __future__ import annotations

import csv
import gzip
import json
import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.items import utcnow
from tests import services
from tests.crawl.archives import ALLOWED, Archive, start_backfill, write_lines
from tests.crawl.archives import backfill as backfill_archive
from tests.crawl.legacy import Legacy, upgrade
from tests.crawl.test_backfill import backfill, hekla, photo_of, row_of
from tests.crawl.test_old_tables import summary
from tests.crawl.world import World, last_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def world(archive: Archive, rclone_s3: services.S3, sqlite_url: str, tmp_path: Path) -> World:
    site: Any = archive
    return World(site=site, folder=tmp_path, database_url=sqlite_url, env=rclone_s3.env)


# ── Manifests ─────────────────────────────────────────────────────────────────────────────────────


def test_a_sample_may_be_the_first_command(world: World, archive: Archive, database_url: str) -> None:
    """The user's database and the sample's are made at the same time."""
    world.database_url = database_url
    manifest = write_lines(world.folder / "photos.jsonl", [archive.url(f"1/2/{number}.jpg") for number in range(5)])
    manifest.write_text(json.dumps(manifest.read_text().split()))
    manifest = manifest.rename(world.folder / "photos.json")
    done = backfill_archive(world, manifest, sample=2, alone=True)
    assert verdict(done) == "backfill: success. A sample of 2 photos, of which nothing is kept."


def test_odd_files_of_a_folder_cost_themselves_and_are_all_told(
    world: World, archive: Archive, rclone_s3: services.S3
) -> None:
    folder, addresses = world.folder / "lots", [archive.url(f"1/2/i{number}.jpg") for number in range(5)]
    names = ("lot_\udce9_images.json", "lot_a\nb_images.json", "lot_1_images.jsonl", "sub/lot_2_images.json")
    for name, address in zip((*names, ".old/lot_3_images.json"), addresses, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(address) if name.endswith("jsonl") else json.dumps([address]))
    (folder / "linked").symlink_to(folder / "sub", target_is_directory=True)
    (folder / "lot_\udcff_images.json").write_text("{")
    (folder / "lot_4_images.jsonl").touch()
    os.mkfifo(folder / "lot_5_images.json")
    many = [{"url": archive.url(f"9/{number}.jpg"), "note": os.urandom(600).hex()} for number in range(40)]
    whole = gzip.compress("".join(f"{json.dumps(each)}\n" for each in many).encode())
    (folder / "lot_6_images.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    for rehearsal in ({"dry_run": "true"}, {}):
        done = backfill_archive(world, folder, code=3, report="report.csv", **rehearsal)
        assert "3 files of the manifest unreadable" in last_words(done)
        assert "2 names in the manifest's folder passed over" in last_words(done)
        assert done.lines("passed over in its folder, 2 in all: 1 hidden folder, 1 pipe, socket or device")
        with (world.folder / "report.csv").open() as file:
            told = {row["identity"]: row["reason"] for row in csv.DictReader(file)}
        assert told["lot_4_images.jsonl"] == "is empty; get it anew"
        assert "is a broken gzip file" in told["lot_6_images.jsonl.gz"]
        assert "is no whole JSON document" in told["lot_\\udcff_images.json"]
    kept = {row["source_url"] for row in world.images().values() if row["status"] == "stored"}
    assert {*addresses[:4]} == {url for url in kept if "/1/2/" in url}
    assert 15 <= sum("/9/" in url for url in kept) < 40
    assert len(rclone_s3.keys()) == len(kept)


def test_a_manifest_that_is_a_pipe_is_one_sentence(world: World) -> None:
    os.mkfifo(world.folder / "photos.json")
    done = backfill_archive(world, world.folder / "photos.json", code=4, timeout=20)
    assert "is no regular file; write what comes out of it to a file, and name that." in verdict(done)


def test_a_sample_says_nothing_of_photos_that_failed_before(world: World, archive: Archive) -> None:
    archive.fault("photo:/auctionimages/1/dead.jpg", ["404"], sticky=True)
    urls = [archive.url(f"1/{name}.jpg") for name in ("dead", "a", "b", "c")]
    (world.folder / "photos.json").write_text(json.dumps(urls))
    backfill_archive(world, world.folder / "photos.json", code=3)
    done = backfill_archive(world, world.folder / "photos.json", sample=2)
    assert verdict(done) == "backfill: success. A sample of 0 photos, of which nothing is kept."


def test_what_was_in_the_spool_for_a_while_is_stored_in_the_table_too(
    world: World, archive: Archive, s3: services.S3, s3_proxy: services.S3Proxy
) -> None:
    world.env = s3.via(s3_proxy).env | {"S3_MAX_RETRIES": "1"}
    archive.photo_latency = 0.2
    urls = [archive.url(f"1/{number}.jpg") for number in range(150)]
    (world.folder / "photos.json").write_text(json.dumps(urls))
    s3_proxy.down()
    with start_backfill(world, world.folder / "photos.json") as running:
        running.wait_for_log("Store away")
        time.sleep(1)
        s3_proxy.up()
        done = running.wait(60)
    assert done.returncode == 0, done
    assert "uploaded from the spool" in last_words(done)
    row = next(line for line in done.stdout.splitlines() if "│ Archive │" in line)
    assert [cell.strip() for cell in row.split("│")[2:7]] == ["150", "150", "0", "0", "0"]


# ── Old tables ────────────────────────────────────────────────────────────────────────────────────


def test_a_dry_run_of_rows_that_name_no_car_is_partial_like_the_run(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    world = new_world(cars=1, photos=1, env=rclone_s3.env)
    legacy = Legacy(world)
    legacy.add(**row_of(world.site.cars[0], 1))
    legacy.add(**row_of(world.site.cars[0], 2, url="https://bilasolur.is/?page=1", image_url=None))
    upgrade(world)
    for rehearsal in ({"dry_run": "true"}, {}):
        done = backfill(world, code=3, **rehearsal)
        assert "1 row without an id or an address that names the car" in last_words(done)


@pytest.mark.parametrize("is_active", [True, False])
def test_a_gone_car_in_two_rows_is_done_with_in_one_run(
    new_world: Callable[..., World], database_url: str, is_active: bool
) -> None:
    """Of the rows the one seen last stands for the car, also if somebody took that for sold."""
    world = new_world(cars=6, photos=1, database_url=database_url)
    sold, *_ = world.site.cars
    world.site.sell(sold.cid)
    legacy = Legacy(world)
    for number, car in enumerate(world.site.cars):
        legacy.add(**row_of(car, number, image_url=photo_of(car)))
    legacy.add(**row_of(sold, 98, image_url=photo_of(sold), last_seen_at=utcnow() - timedelta(days=90)))
    upgrade(world)
    if not is_active:
        world.sql("UPDATE car_listings SET is_active = false WHERE external_id = :cid", cid=str(sold.cid))
    world.site.expire_all()
    done = backfill(world, limit=0)
    assert summary(done)[1]["of gone cars"] == 1
    rows = [row for row in world.sql("SELECT * FROM car_listings ORDER BY id") if f"cid={sold.cid}&" in row["url"]]
    assert [bool(row["is_active"]) for row in rows] == [False, False]
    assert None not in [row["gone_at"] for row in rows]
    world.site.reset()
    backfill(world, limit=0)
    assert world.site.served.requests == []


def test_the_dealers_host_is_a_spelling_of_its_source(new_world: Callable[..., World], s3: services.S3) -> None:
    world = new_world(cars=4, photos=1, env=s3.env)
    legacy = Legacy(world)
    spellings = ("bilasolur.is", "www.Bilasolur.is", "https://bilasolur.is/", "BÍLASÖLUR.IS")
    for number, (car, source) in enumerate(zip(world.site.cars, spellings, strict=True)):
        legacy.add(**row_of(car, number, source=source))
    upgrade(world)
    done = backfill(world, sources="bilasolur.is")
    assert summary(done) == (4, {"done": 4})
    assert {row["source"] for row in world.listings().values()} == {"Bilasolur"}


def test_of_a_source_without_a_spider_the_parameter_that_names_a_car_is_its_id(
    new_world: Callable[..., World], s3: services.S3
) -> None:
    world = new_world(cars=3, photos=1, env=s3.env)
    legacy = Legacy(world)
    addresses = ("bill.php?CID=71&schpage=5", "2019/bill.php?k=304&amp;cid=72", "bill.php?id=73&page=6")
    for number, (car, address) in enumerate(zip(world.site.cars, addresses, strict=True)):
        legacy.add(**hekla(world, car, number, source="Netbílar", url=f"https://netbilar.is/{address}"))
    upgrade(world)
    backfill(world, limit=0)
    assert {row["external_id"] for row in world.listings().values()} == {"71", "72", "73"}


def test_an_address_with_a_user_in_it_is_final_and_is_not_asked_for(
    new_world: Callable[..., World], s3: services.S3
) -> None:
    world = new_world(cars=3, photos=1, env=s3.env | {"IMAGES_ALLOWED_HOSTS": ALLOWED["IMAGES_ALLOWED_HOSTS"]})
    legacy = Legacy(world)
    rows = [hekla(world, car, number, source="Toyota") for number, car in enumerate(world.site.cars)]
    rows[0]["image_url"] = rows[0]["image_url"].replace("http://", "http://me:secret@")
    legacy.add_all(rows)
    upgrade(world)
    backfill(world, limit=0, code=3)
    world.site.reset()
    done = backfill(world, limit=0)
    assert "2 of 3 photos of cars for sale are stored (not stored: 1 bad-address final)" in verdict(done)
    assert "secret" not in done.stdout + done.stderr
    assert world.site.served.requests == []
