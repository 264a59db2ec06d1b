"""A migration of an archive meets odd files, lost databases and refusals: what it keeps, what it asks, what it says."""

from __future__ import annotations

import csv
import json
import os
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests import services
from tests.crawl.archives import KEYS, Archive, backfill, start_backfill, write_lines
from tests.crawl.world import World, last_words, verdict

if TYPE_CHECKING:
    from pathlib import Path

ONLY_RCLONE = pytest.mark.parametrize("s3", ["rclone"], indirect=True)


@pytest.fixture
def world(archive: Archive, s3: services.S3, s3_proxy: services.S3Proxy, sqlite_url: str, tmp_path: Path) -> World:
    env = s3.via(s3_proxy).env | {"S3_PREFIX": "old/"}
    site: Any = archive
    return World(site=site, folder=tmp_path, database_url=sqlite_url, env=env)


def entry(archive: Archive, lot: int, number: int) -> dict[str, str]:
    return {
        "image_url": archive.url(f"3483/{lot}/i{number}.jpg"),
        "thumb_url": archive.url(f"3483/{lot}/t{number}.jpg"),
        "url": f"{archive.base_url}/lot/{lot}",
    }


def lot_files(folder: Path, archive: Archive, **others: str) -> Path:
    """Two lots with two photos each and their thumbnails, and files with these texts."""
    lots = {f"lot_{lot}_images": json.dumps([entry(archive, lot, number) for number in (0, 1)]) for lot in (1, 9)}
    (folder / "lots").mkdir()
    for name, text in (lots | others).items():
        (folder / "lots" / f"{name}.json").write_text(text)
    return folder / "lots"


PHOTOS = [f"3483/{lot}/i{number}.jpg" for lot in (1, 9) for number in (0, 1)]
THUMBS = [f"3483/{lot}/t{number}.jpg" for lot in (1, 9) for number in (0, 1)]


def test_damaged_lot_files_cost_themselves_and_are_all_told(world: World, archive: Archive, s3: services.S3) -> None:
    cut = json.dumps([entry(archive, 2, 0), entry(archive, 2, 1)])[:-60]
    damaged = {"lot_2_images": cut, "lot_3_images": "", "lot_4_images": '{"note": "no images"}'}
    manifest = lot_files(world.folder, archive, **damaged)
    told = {
        "lot_2_images.json": "is no whole JSON document",
        "lot_3_images.json": "is empty",
        "lot_4_images.json": "has no list of photos",
    }
    for rehearsal in ({"dry_run": "true"}, {}):
        done = backfill(world, manifest, code=3, report="report.csv", **rehearsal)
        assert "not kept: 3 files of the manifest unreadable." in last_words(done)
        for name, why in told.items():
            assert f"not complete: {name} {why}" in last_words(done), rehearsal
        with (world.folder / "report.csv").open() as file:
            rows = {row["identity"]: row["reason"] for row in csv.DictReader(file)}
        assert {name: why in rows[name] for name, why in told.items()} == dict.fromkeys(told, True)
        assert len(rows) == 3
    whole = ["3483/2/i0.jpg", "3483/2/t0.jpg"]
    assert s3.keys() == sorted(f"old/{key}" for key in (*PHOTOS, *THUMBS, *whole))
    assert "10 of 10 photos of the archive are stored." in last_words(done)


def test_thumbnails_are_photos_under_their_own_addresses_keys(world: World, archive: Archive, s3: services.S3) -> None:
    """They are smaller than the smallest photo that a dealer's may be; the lot's page is asked by nobody."""
    manifest = lot_files(world.folder, archive)
    done = backfill(world, manifest, thumbs="false")
    assert "4 photos stored" in verdict(done)
    assert "4 thumbnails left out" in verdict(done)
    assert s3.keys() == sorted(f"old/{key}" for key in PHOTOS)
    done = backfill(world, manifest)
    assert "4 photos stored" in verdict(done)
    assert verdict(done).endswith("4 known before; 8 of 8 photos of the archive are stored.")
    assert s3.objects() == {f"old/{key}": archive.photo(f"/auctionimages/{key}") for key in (*PHOTOS, *THUMBS)}
    assert sum(archive.served.photos.values()) == 8
    assert {each.path for each in archive.served.requests} == {"/robots.txt", *archive.served.photos}
    for listing in world.listings().values():
        assert re.search(r"/i0\.jpg$", listing["image_url"])


def test_with_a_lost_database_the_bucket_is_asked_and_not_the_archive(
    world: World, archive: Archive, s3: services.S3, s3_proxy: services.S3Proxy
) -> None:
    keys = ["a.jpg", "3483/1 þ/mynd & 50%.jpg", *(f"3483/{number // 7}/i{number}.jpg" for number in range(1200))]
    entries = [{"url": archive.url(str(number)), "key": key} for number, key in enumerate(keys)]
    manifest = write_lines(world.folder / "photos.jsonl", entries)
    photo = archive.photo("/auctionimages/7")
    for key in keys[3:]:
        s3.put(f"old/{key}", photo)
    for other in ("a/b.jpg", "old/3483/0/i0.jpg.bak", "old/zz.jpg"):
        s3.put(other, photo)
    s3.put(f"old/{keys[2]}", b"")  # of no use
    backfill(world, write_lines(world.folder / "two.jsonl", entries[:2]))
    (world.folder / "carscraper.db").unlink()
    s3_proxy.forget()
    archive.reset()
    done = backfill(world, manifest, dry_run="true")
    assert "1 requests to dealers, 1 to S3" in done.stdout
    done = backfill(world, manifest)
    assert "1 photo stored" in verdict(done)
    assert "1201 photos found in the store and entered; 1202 of 1202 photos of the archive" in verdict(done)
    assert list(archive.served.photos) == ["/auctionimages/2"]
    assert s3_proxy.count("GET") <= 2 * 6, "a page for a thousand, and a look for each gap"
    row = world.images()[keys[1]]
    assert (row["status"], row["key"], row["bytes"]) == ("stored", f"old/{keys[1]}", row["bytes"])
    assert row["url"].endswith("/old/3483/1%20%C3%BE/mynd%20%26%2050%25.jpg")
    assert "0 photos stored (0.0 MB), 0 linked, 1202 known before; 1202 of" in verdict(backfill(world, manifest))


def test_who_may_not_list_fetches_again(
    world: World, archive: Archive, s3: services.S3, s3_proxy: services.S3Proxy
) -> None:
    manifest = lot_files(world.folder, archive)
    backfill(world, manifest)
    (world.folder / "carscraper.db").unlink()
    with s3_proxy.fail(403, "AccessDenied", methods="GET"):
        done = backfill(world, manifest)
    assert done.lines("is fetched again, it can't be listed: S3 refuses s3:ListBucket on the bucket")
    assert "8 photos stored" in verdict(done)


def test_a_folder_is_asked_like_a_bucket(world: World, archive: Archive) -> None:
    manifest = lot_files(world.folder, archive)
    world.env = {"USE_S3_STORAGE": "false"}
    backfill(world, manifest)
    (world.folder / "carscraper.db").unlink()
    archive.reset()
    assert "8 photos found in the store that would be entered" in verdict(backfill(world, manifest, dry_run="true"))
    assert "8 photos found in the store and entered" in verdict(backfill(world, manifest))
    assert archive.served.requests == []


def test_two_addresses_with_one_key(world: World, archive: Archive, s3: services.S3) -> None:
    key, far = "3483/1/i0.jpg", "3483/2/i0.jpg"
    entries = [
        {"image_url": archive.url(key)},
        {"image_url": archive.url(key).replace("127.0.0.1", "localhost")},  # the same bytes
        {"image_url": archive.url(key)},  # the same address
        {"image_url": archive.url("other/1.jpg"), "key": key},  # other bytes
        {"image_url": archive.url("other/2.jpg"), "key": far},
        *[{"image_url": archive.url(KEYS[0])}] * 1000,  # another piece of the manifest
        {"image_url": archive.url("other/3.jpg"), "key": far},
        {"image_url": archive.url("other/4.jpg"), "key": long_key("x")},
        {"image_url": archive.url("other/5.jpg"), "key": long_key("x")},
    ]
    manifest = write_lines(world.folder / "photos.jsonl", entries)
    done = backfill(world, manifest, code=3, report="report.csv")
    assert "6 photos stored" in verdict_line(done)
    assert "1 linked" in verdict_line(done)
    assert "3 entries with the key of another address" in verdict_line(done)
    told = done.lines("has the key of")
    assert len(told) == 3
    for line, address, other in (
        (told[0], entries[1]["image_url"], entries[0]["image_url"]),
        (told[1], entries[3]["image_url"], entries[0]["image_url"]),
        (told[2], entries[1005]["image_url"], entries[4]["image_url"]),
    ):
        assert f"{address!r} has the key of {other!r}" in line
    found = s3.objects()
    assert found[f"old/{key}"] == archive.photo(f"/auctionimages/{key}")
    own = [name for name in found if re.search(r"/i0-[0-9a-f]{8}\.jpg$", name)]
    assert {found[name] for name in own} == {archive.photo(f"/auctionimages/other/{number}.jpg") for number in (1, 3)}
    with (world.folder / "report.csv").open() as file:
        (failed,) = csv.DictReader(file)
    assert (failed["identity"], failed["image"]) == ("photos.jsonl:1008", entries[-1]["image_url"])
    assert failed["reason"].startswith("bad key: it has more than 900 bytes, and '")
    archive.reset()
    backfill(world, manifest, code=3)
    assert archive.served.requests == []


def long_key(name: str) -> str:
    return "/".join([name * 250] * 3 + [name * 140 + ".jpg"])


def verdict_line(done: services.CompletedCrawl) -> str:
    return last_words(done).splitlines()[0]


@ONLY_RCLONE
def test_a_limit_says_what_is_left(world: World, archive: Archive) -> None:
    manifest = lot_files(world.folder, archive)
    for stored, known, left in ((3, 0, 5), (3, 3, 2), (2, 6, 0)):
        done = backfill(world, manifest, limit=3)
        assert f"{stored} photos stored" in verdict(done)
        assert f"{known} known before" in verdict(done)
        assert (f"{left} photos left by the limit" in verdict(done)) == bool(left)
        row = next(line for line in done.stdout.splitlines() if "│ Archive │" in line)
        assert re.findall(r"\d+", row) == [str(each) for each in (8, stored, known, left, 0, 0)]


@ONLY_RCLONE
def test_of_two_runs_of_one_manifest_the_second_says_so_and_ends(world: World, archive: Archive) -> None:
    manifest = lot_files(world.folder, archive)
    archive.photo_latency = 2.5
    with start_backfill(world, manifest) as running:
        services.wait_until(lambda: world.asked("photo") > 0 or not running.running, 30, "a photo")
        done = backfill(world, manifest)
        assert re.search(r"backfill: skipped\. Another crawl of backfill is under way: run 1 on ", verdict(done))
        first = running.wait(20)
    assert first.returncode == 0, first
    assert sum(archive.served.photos.values()) == 8


def test_the_first_command_needs_no_crawl_and_a_sample_speaks_of_samples(
    world: World, archive: Archive, s3: services.S3, s3_proxy: services.S3Proxy
) -> None:
    manifest = lot_files(world.folder, archive)
    done = backfill(world, manifest, dry_run="true")
    assert "8 requests to dealers, 8 to S3" in done.stdout
    (world.folder / "carscraper.db").unlink()
    done = backfill(world, manifest, sample=3, alone=True)  # also the first command: two databases are made at once
    assert "Sample: 3 photos stored, read back and found the same; 3 removed again." in done.stdout
    assert "Backfill" not in done.stdout
    assert verdict(done) == "backfill: success. A sample of 3 photos, of which nothing is kept."
    assert s3.keys() == []
    with s3_proxy.fail(403, "AccessDenied", methods="GET", path="_test/3483"):
        done = backfill(world, manifest, sample=1, code=4)
    assert "can't be read back: S3 refuses s3:GetObject on the bucket" in last_words(done)
    assert s3.keys() == [], "it is removed all the same"
    with s3_proxy.fail(403, "AccessDenied", methods="POST"):
        done = backfill(world, manifest, sample=2, code=4)
    left = [f"old/_test/{key}" for key in ("3483/1/i0.jpg", "3483/1/t0.jpg")]
    assert s3.keys() == left
    assert "can't be removed: S3 refuses s3:DeleteObject on the bucket" in last_words(done)
    assert re.search(f"not complete: ({'|'.join((', '.join(left), ', '.join(left[::-1])))}) stay", last_words(done))
    if not s3.folder:
        return
    hour_ago = time.time() - 3600
    os.utime(s3.folder / left[0], (hour_ago, hour_ago))
    time.sleep(1.1)  # rclone's cache
    done = backfill(world, write_lines(world.folder / "none.csv", ["url"]), sample=1)
    assert s3.keys() == left[1:], "the other may be of one that is under way"
    assert done.lines(f"Removed {left[0]}, which an earlier sample had left")


@ONLY_RCLONE
def test_the_time_left_is_told_of_lot_files_too(world: World, archive: Archive) -> None:
    (world.folder / "lots").mkdir()
    lots, photos = 120, 20
    for lot in range(lots):
        entries = [{"image_url": archive.url(f"{lot}/i{number}.jpg")} for number in range(photos)]
        (world.folder / "lots" / f"lot_{lot}_images.json").write_text(json.dumps(entries))
    archive.photo_latency = 0.02
    settings = {"IMAGES_DOWNLOAD_DELAY": 0, "IMAGES_CONCURRENCY": 8, "PROGRESS_INTERVAL": 1}
    done = backfill(world, world.folder / "lots", settings=settings, alone=True)
    pattern = r"([\d,]+) of ([\d,]+) photos \((\d+)%\), [\d.]+ MB, \d+ photos a minute(?:, (\d+) (\w+) left)?"
    told = [match.groups() for line in done.lines("backfill: ") if (match := re.search(pattern, line))]
    assert len(told) >= 3, done
    total = lots * photos
    for second, (number, of, share, left, unit) in enumerate(told, 1):
        count = int(number.replace(",", ""))
        assert int(share) == pytest.approx(100 * count / total, abs=20)
        assert int(of.replace(",", "")) == pytest.approx(total, rel=0.2)
        if count >= total / 3 and unit == "seconds":  # a machine that is busy is slow at first
            actual = len(told) + 0.5 - second
            assert actual / 2 - 2 < int(left) < 2 * actual + 2, told
    assert " of 0 " not in done.stderr + done.stdout
