"""``scrapy crawl backfill -a manifest=…``: an archive that is no dealer is kept under the keys that it names."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from sqlalchemy import func, select

from carscraper.db.models import CarImageRow, CarListing
from tests import services
from tests.crawl.archives import KEYS, backfill, start_backfill, write_lines
from tests.crawl.world import World, last_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crawl.archives import Archive


@pytest.fixture
def world(archive: Archive, rclone_s3: services.S3, sqlite_url: str, tmp_path: Path) -> World:
    env = rclone_s3.env | {"S3_PREFIX": "archive/"}
    site: Any = archive  # of which a world needs the address and the log only
    return World(site=site, folder=tmp_path, database_url=sqlite_url, env=env)


def json_lines(folder: Path, urls: dict[str, str]) -> Path:
    return write_lines(folder / "photos.jsonl", ({"image_url": url} for url in urls.values()))


def csv_file(folder: Path, urls: dict[str, str]) -> Path:
    with (folder / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["lot", "url"], *([key.split("/")[1], url] for key, url in urls.items())])
    return folder / "photos.csv"


def json_file(folder: Path, urls: dict[str, str]) -> Path:
    (folder / "photos.json").write_text(json.dumps({"auction": 1, "images": [{"url": url} for url in urls.values()]}))
    return folder / "photos.json"


def lots(folder: Path, urls: dict[str, str]) -> Path:
    for key, url in urls.items():
        auction, lot, _ = key.split("/")
        path = folder / "lots" / auction / f"lot_{lot}_images.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        images = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps([*images, {"image_url": url, "thumb_url": url.replace(".jpg", "-small.jpg")}]))
    return folder / "lots"


@pytest.mark.parametrize("write", [json_lines, csv_file, json_file, lots])
def test_what_a_manifest_names_is_kept_as_served_under_its_path(
    world: World, archive: Archive, rclone_s3: services.S3, write: Callable[[Path, dict[str, str]], Path]
) -> None:
    manifest = write(world.folder, {key: archive.url(key) for key in KEYS})
    done = backfill(world, manifest, thumbs="false")
    assert "3 cars (3 new, 0 gone); 9 photos stored" in verdict(done)
    assert ("9 thumbnails left out" in verdict(done)) == (write is lots)
    assert verdict(done).endswith("9 of 9 photos of the archive are stored.")
    served = {f"archive/{key}": archive.photo(f"/auctionimages/{key}") for key in KEYS}
    assert rclone_s3.objects() == served
    images = world.images()
    assert images.keys() == set(KEYS)
    for key, row in images.items():
        assert (row["status"], row["reason"], row["attempts"]) == ("stored", None, 1)
        assert (row["key"], row["source_url"]) == (f"archive/{key}", archive.url(key))
        assert row["sha256"] == row["source_sha256"] == hashlib.sha256(served[row["key"]]).hexdigest()
        assert (row["bytes"], row["width"], row["height"]) == (len(served[row["key"]]), 320, 213)
        assert row["external_id"] == key.rpartition("/")[0]
    for lot, listing in world.listings().items():
        first = min(key for key in KEYS if key.startswith(f"{lot}/"))
        assert (listing["source"], listing["is_active"]) == ("Archive", False)
        assert listing["image_url"] == images[first]["url"]
    # All is there: not one request more.
    archive.reset()
    done = backfill(world, manifest, thumbs="false")
    assert "0 photos stored (0.0 MB), 0 linked, 9 known before" in verdict(done)
    assert archive.served.requests == []


def test_a_key_in_the_manifest_is_the_key(world: World, archive: Archive, rclone_s3: services.S3) -> None:
    entries = [{"url": archive.url(key), "key": f"cars/þór {number}.jpg"} for number, key in enumerate(KEYS[:3])]
    backfill(world, write_lines(world.folder / "keys.jsonl", entries))
    assert rclone_s3.objects() == {
        f"archive/cars/þór {number}.jpg": archive.photo(f"/auctionimages/{key}") for number, key in enumerate(KEYS[:3])
    }
    assert {row["external_id"] for row in world.images().values()} == {"cars"}


@pytest.mark.parametrize(
    ("strip_prefix", "key"), [("", f"auctionimages/{KEYS[0]}"), ("auctionimages/3483/", KEYS[0].removeprefix("3483/"))]
)
def test_another_prefix_is_stripped(
    world: World, archive: Archive, rclone_s3: services.S3, strip_prefix: str, key: str
) -> None:
    manifest = write_lines(world.folder / "photos.jsonl", [{"url": archive.url(KEYS[0])}])
    backfill(world, manifest, strip_prefix=strip_prefix)
    assert rclone_s3.keys() == [f"archive/{key}"]


def test_entries_that_are_no_photos_are_counted_and_the_others_kept(
    world: World, archive: Archive, rclone_s3: services.S3
) -> None:
    good = [{"url": archive.url(key)} for key in KEYS]
    bad = ["{", {"url": "ftp://127.0.0.1/x.jpg"}, {"lot": 7}, {"url": archive.url("1.jpg"), "key": "../1.jpg"}]
    manifest = write_lines(world.folder / "photos.jsonl", [*good[:4], *bad, *good[4:]])
    done = backfill(world, manifest, code=3)
    assert "4 entries unreadable in the manifest" in last_words(done)
    for number, why in enumerate(("bad JSON", "not a web address", "no url", "bad key"), 5):
        assert done.lines(f"photos.jsonl:{number}: {why}")
    assert rclone_s3.keys() == sorted(f"archive/{key}" for key in KEYS)


def test_dead_addresses_fail_alone_are_told_each_and_are_not_asked_for_again(world: World, archive: Archive) -> None:
    """No page of a car could give other ones."""
    dead = {KEYS[1]: "404", KEYS[4]: "403", KEYS[7]: "html200"}
    for key, fault in dead.items():
        archive.fault(f"photo:/auctionimages/{key}", [fault], sticky=True)
    manifest = write_lines(world.folder / "photos.jsonl", [{"url": archive.url(key)} for key in KEYS])
    done = backfill(world, manifest, code=3, report="failures.csv")
    reasons = {KEYS[1]: "http-404", KEYS[4]: "http-403", KEYS[7]: "not-an-image"}
    assert "3 photos failed (1 http-403, 1 http-404, 1 not-an-image)" in last_words(done)
    assert {key for key, row in world.images().items() if row["status"] == "stored"} == set(KEYS) - dead.keys()
    assert report(world) == reasons
    for asked in (set(), {f"/auctionimages/{key}" for key in dead}):
        archive.reset()
        only = {"only": "failed", "sources": "Archive"} if asked else {"manifest": manifest}
        done = backfill(world, code=0 if not asked else 3, report="failures.csv", **only)
        assert set(archive.served.photos) == asked
        if not asked:
            assert "0 linked, 6 known before; 6 of 9 photos of the archive are stored (not stored: 1" in verdict(done)
        assert report(world) == reasons
    # Once they are there, who insists gets them.
    archive.clear_faults()
    done = backfill(world, only="failed", sources="Archive")
    assert "3 photos stored" in verdict(done)
    assert "9 of 9 photos of the archive are stored." in verdict(done)


def report(world: World) -> dict[str, str]:
    """What ``failures.csv`` says, by key."""
    with (world.folder / "failures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} <= {"Archive"}
    return {row["identity"]: row["reason"] for row in rows}


def test_if_most_photos_fail_alike_it_is_the_archive_and_none_is_given_up(world: World, archive: Archive) -> None:
    for key in KEYS[2:]:
        archive.fault(f"photo:/auctionimages/{key}", ["403"], sticky=True)
    manifest = write_lines(world.folder / "photos.jsonl", [{"url": archive.url(key)} for key in KEYS])
    backfill(world, manifest, code=3)
    archive.clear_faults()
    done = backfill(world, manifest)
    assert "7 photos stored" in verdict(done)


def test_photos_stay_in_the_order_of_the_manifest_though_one_came_later(world: World, archive: Archive) -> None:
    archive.fault(f"photo:/auctionimages/{KEYS[1]}", ["404"])
    manifest = write_lines(world.folder / "photos.jsonl", [{"url": archive.url(key)} for key in KEYS[:3]])
    backfill(world, manifest, code=3)
    backfill(world, manifest)
    assert list(world.images()) == KEYS[:3]
    assert [row["position"] for row in world.images().values()] == [0, 1, 2]
    (listing,) = world.listings().values()
    assert listing["image_url"] == world.images()[KEYS[0]]["url"]


def test_a_lot_that_is_read_in_two_pieces_is_kept_whole(world: World, archive: Archive, rclone_s3: services.S3) -> None:
    """The ledger is asked of a thousand entries at a time; the second piece arrives while the first is under way."""
    near, far = [f"1/2/a{n}.jpg" for n in range(5)], [f"1/2/b{n}.jpg" for n in range(5)]
    for key in far:
        archive.fault(f"photo:/auctionimages/{key}", ["slow:0.5"])
    entries = [{"url": archive.url(key)} for key in (*near, *[near[0]] * 995, *far)]
    done = backfill(world, write_lines(world.folder / "photos.jsonl", entries))
    assert "10 photos stored" in verdict(done)
    assert rclone_s3.keys() == [f"archive/{key}" for key in (*near, *far)]


def test_a_manifest_that_is_not_there_is_one_sentence(world: World, archive: Archive) -> None:
    done = backfill(world, world.folder / "lost.jsonl", code=4)
    (line,) = last_words(done).splitlines()
    assert re.search(r"failed\. The manifest '.*lost\.jsonl' does not exist; write the path of a file", line)
    assert archive.served.requests == []


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(
    world: World, archive: Archive, rclone_s3: services.S3
) -> None:
    entries = [{"url": archive.url(key)} for key in KEYS]
    manifest = write_lines(world.folder / "photos.jsonl", entries)
    backfill(world, write_lines(world.folder / "some.jsonl", entries[:3]))
    before = files(world.folder), rclone_s3.objects()
    archive.reset()
    done = backfill(world, manifest, dry_run="true")
    assert "success. A rehearsal, nothing was changed." in verdict(done)
    assert "6 requests to dealers, 6 to S3" in done.stdout
    assert (files(world.folder), rclone_s3.objects()) == before
    assert archive.served.requests == []


def files(folder: Path) -> dict[str, bytes]:
    """What is in the crawls' folder, the S3 server's and their own output aside."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in found.items() if not re.match(r"s3|crawl-", str(name))}


def test_told_to_stop_it_goes_on_with_the_rest(world: World, archive: Archive, rclone_s3: services.S3) -> None:
    keys = [f"{number // 20}/{number}.jpg" for number in range(400)]
    manifest = write_lines(world.folder / "photos.jsonl", [{"url": archive.url(key)} for key in keys])
    archive.photo_latency = 0.1
    with start_backfill(world, manifest) as running:
        services.wait_until(lambda: world.asked("photo") >= 60 or not running.running, 30, "60 photos")
        running.terminate()
        done = running.wait(20)
    assert done.returncode == 3, done
    assert "stopped on request; the same command goes on" in last_words(done)
    assert 60 <= len(rclone_s3.keys()) == world.asked("photo") < 400, "what was in flight was finished"
    archive.photo_latency = 0
    backfill(world, manifest)
    assert world.asked("photo") == len(rclone_s3.keys()) == 400, "no photo was asked for twice"


class TestRealSize:
    """The archive for which this was planned, taken up again when some of its photos are left."""

    SECONDS, MEMORY = 50, 250e6  # of CPU: what else the machine does is not its fault

    def key(self, number: int) -> str:
        return f"3483/{number // self.in_a_folder}/i{number:06}.jpg"

    def write(self, path: Path, archive: Archive) -> Path:
        with path.open("w") as file:
            for number in range(self.lines):
                url = archive.url(self.key(number))
                file.write(f'{{"image_url": "{url}", "thumb_url": "{url}?thumb"}}\n')
        return path

    def fill(self, world: World, left: set[int]) -> None:
        """Copy the rows that a small run has left, as one that came this far would have."""
        ((listing,), (image,)) = ([dict(row) for row in rows.values()] for rows in (world.listings(), world.images()))
        del image["external_id"]
        numbers = [number for number in range(self.lines) if number not in left]
        lots = dict.fromkeys(self.key(number).rpartition("/")[0] for number in numbers)
        ids = {lot: row_id for row_id, lot in enumerate(lots, 2)}
        cars = [listing | {"id": ids[lot], "external_id": lot, "url": f"archive:{lot}"} for lot in lots]
        engine = sqlalchemy.create_engine(world.database_url)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.insert(CarListing), cars)
            for start in range(0, len(numbers), 10_000):
                rows = [self.image(image, number, ids) for number in numbers[start : start + 10_000]]
                connection.execute(sqlalchemy.insert(CarImageRow), rows)
        engine.dispose()

    def image(self, image: dict[str, Any], number: int, ids: dict[str, int]) -> dict[str, Any]:
        key = self.key(number)
        digest = hashlib.sha256(key.encode()).hexdigest()
        new = {"id": number + 2, "listing_id": ids[key.rpartition("/")[0]], "position": number}
        new |= {name: image[name].replace(image["identity"], key) for name in ("source_url", "key", "url")}
        return image | new | {"identity": key, "sha256": digest, "source_sha256": digest}

    @pytest.mark.timeout(300)
    @pytest.mark.parametrize(
        ("in_a_folder", "lines", "missing"),
        [(20, 256_694, 400), (5000, 20_000, 200)],
        ids=["a folder a lot", "a folder an auction"],
    )
    def test_it_is_taken_up_again_within_a_minute_in_little_memory(
        self, world: World, archive: Archive, rclone_s3: services.S3, in_a_folder: int, lines: int, missing: int
    ) -> None:
        self.in_a_folder, self.lines = in_a_folder, lines
        settings = {"IMAGES_DOWNLOAD_DELAY": 0, "IMAGES_CONCURRENCY": 32}
        manifest = self.write(world.folder / "archive.jsonl", archive)
        backfill(world, write_lines(world.folder / "one.jsonl", [{"url": archive.url("0/x/0.jpg")}]))
        # Some are the end of the manifest, where the earlier run was stopped; the others failed here and there.
        half = missing // 2
        left = {*range(lines - half, lines), *range(0, (lines - half) // half * half, (lines - half) // half)}
        assert len(left) == missing
        self.fill(world, left)
        archive.reset()
        done = backfill(world, manifest, thumbs="false", settings=settings, timeout=200, alone=True)
        assert f"{missing} photos stored" in verdict(done)
        assert f"{lines - missing} known before" in verdict(done)
        assert world.asked("photo") == missing
        assert len(rclone_s3.keys()) == 1 + missing
        (row,) = world.sql(
            select(func.count()).select_from(CarImageRow.__table__).where(CarImageRow.status == "stored")
        )
        assert row["count_1"] == 1 + lines
        assert done.cpu_seconds < self.SECONDS, done
        assert done.peak_memory < self.MEMORY, done
        print(f"{done.seconds:.1f} s, {done.peak_memory / 1e6:.0f} MB")
