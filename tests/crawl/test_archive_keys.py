"""Two photos with one key, in one run or in several; keys of others; addresses that are corrected; a limit."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.crawl.archives import Archive, backfill, write_lines
from tests.crawl.world import World, last_words, verdict

if TYPE_CHECKING:
    from pathlib import Path

    from tests import services


@pytest.fixture
def world(
    archive: Archive, rclone_s3: services.S3, s3_proxy: services.S3Proxy, sqlite_url: str, tmp_path: Path
) -> World:
    site: Any = archive
    return World(site=site, folder=tmp_path, database_url=sqlite_url, env=rclone_s3.via(s3_proxy).env)


@pytest.fixture
def s3(rclone_s3: services.S3) -> services.S3:
    return rclone_s3


def manifest(world: World, *entries: tuple[str, str]) -> Path:
    return write_lines(world.folder / "photos.jsonl", [{"url": url, "key": key} for url, key in entries])


def report(world: World) -> dict[str, str]:
    with (world.folder / "report.csv").open() as file:
        return {row["identity"]: row["reason"] for row in csv.DictReader(file)}


def test_a_photo_whose_address_is_signed_anew_is_the_same(world: World, archive: Archive) -> None:
    def query(number: int) -> str:
        return f"?X-Amz-Date=2026113{number}T000000Z&X-Amz-Signature={number:064}"

    def signed(number: int) -> Path:
        return manifest(world, *[(archive.url(f"x/{each}.jpg") + query(number), f"k/{each}.jpg") for each in (1, 2)])

    archive.fault(f"photo:/auctionimages/x/2.jpg{query(0)}", ["403"], sticky=True)
    backfill(world, signed(0), code=3)
    assert "1 photo stored" in verdict(backfill(world, signed(1))), "what had failed is asked for anew"
    archive.reset()
    assert "2 known before" in verdict(backfill(world, signed(2)))
    assert archive.served.counts["photo"] == 0


def test_of_two_manifests_with_one_key_both_photos_are_kept(world: World, archive: Archive, s3: services.S3) -> None:
    first, other = archive.url("x/1.jpg"), archive.url("y/1.jpg")
    moved = first.replace("127.0.0.1", "localhost")
    backfill(world, manifest(world, (first, "k/1.jpg")))
    done = backfill(world, manifest(world, (other, "k/1.jpg"), (moved, "k/1.jpg")))
    assert "1 photo stored" in verdict(done)
    assert "1 linked" in verdict(done)
    assert "2 entries with the key of another address" in verdict(done)
    told = done.lines("has the key of")
    assert len(told) == 2
    assert f"{other!r} has the key of {first!r}, 'k/1.jpg'" in told[0]
    own = next(name for name in s3.objects() if re.fullmatch(r"k/1-[0-9a-f]{8}\.jpg", name))
    photos = {path: archive.photo(f"/auctionimages/{path}") for path in ("x/1.jpg", "y/1.jpg")}
    assert s3.objects() == {"k/1.jpg": photos["x/1.jpg"], own: photos["y/1.jpg"]}
    assert {row["source_url"] for row in world.images().values()} == {first, other, moved}
    # It is remembered, whatever comes first, and said once.
    archive.reset()
    for entries in ([other, moved], [moved, other, first], [first]):
        done = backfill(world, manifest(world, *[(url, "k/1.jpg") for url in entries]))
        assert f"{len(entries)} known before" in verdict(done)
        assert not done.lines("has the key of")
    assert archive.served.requests == []
    # A lost database changes nothing, whichever manifest comes first.
    (world.folder / "carscraper.db").unlink()
    for url, key in ((other, own), (first, "k/1.jpg")):
        done = backfill(world, manifest(world, (url, "k/1.jpg")))
        assert "1 photo found in the store and entered" in verdict(done)
        assert {row["source_url"]: row["key"] for row in world.images().values()}[url] == key
    assert archive.served.requests == []


def test_an_own_key_that_another_entry_names_is_no_reason_to_drop_a_photo(
    world: World, archive: Archive, s3: services.S3
) -> None:
    urls = [archive.url(f"{number}/1.jpg") for number in range(3)]
    backfill(world, manifest(world, (urls[0], "k/1.jpg"), (urls[1], "k/1.jpg")))
    (own,) = set(s3.keys()) - {"k/1.jpg"}
    world.sql("DELETE FROM car_images WHERE identity = :own", own=own)
    backfill(world, manifest(world, (urls[2], own), (urls[0], "k/1.jpg"), (urls[1], "k/1.jpg")))
    photos = {archive.photo(f"/auctionimages/{number}/1.jpg") for number in range(3)}
    assert set(s3.objects().values()) >= photos - {archive.photo("/auctionimages/2/1.jpg")}
    assert {row["source_url"] for row in world.images().values()} == set(urls)


@pytest.mark.parametrize("corrected", ["z/right.jpg", "z/wrong.jpg?v=2"])
def test_a_dead_address_does_not_keep_the_corrected_one_out(
    world: World, archive: Archive, s3: services.S3, corrected: str
) -> None:
    good = [(archive.url(f"g/{number}.jpg"), f"g/{number}.jpg") for number in range(3)]
    archive.fault("photo:/auctionimages/z/wrong.jpg", ["404"], sticky=True)
    wrong = (archive.url("z/wrong.jpg"), "z/1.jpg")
    backfill(world, manifest(world, wrong, *good), code=3)
    archive.reset()
    backfill(world, manifest(world, wrong, *good))
    assert archive.served.requests == [], "it is final"
    done = backfill(world, manifest(world, (archive.url(corrected), "z/1.jpg"), *good))
    assert "1 photo stored" in verdict(done)
    assert s3.objects()["z/1.jpg"] == archive.photo(f"/auctionimages/{corrected}")
    row = world.images()["z/1.jpg"]
    assert (row["status"], row["source_url"], row["failed_days"]) == ("stored", archive.url(corrected), 0)


def test_dead_addresses_at_its_start_do_not_end_a_manifest(world: World, archive: Archive) -> None:
    dead = [archive.url(f"dead/{number}.jpg") for number in range(70)]
    good = [archive.url(f"good/{number}.jpg") for number in range(8)]
    for number in range(70):
        archive.fault(f"photo:/auctionimages/dead/{number}.jpg", ["404"], sticky=True)
    listed = write_lines(world.folder / "photos.jsonl", [{"url": url} for url in (*dead, *good)])
    asked = []
    for left in ("28 photos left by the limit", "53 photos left by the limit"):
        archive.reset()
        done = backfill(world, listed, limit=5, code=3)
        assert left in last_words(done)
        asked.append({path.removeprefix("/auctionimages/") for path in archive.served.photos})
    first = {f"dead/{number}.jpg" for number in range(50)}
    assert asked[0] == first, "a source is left after fifty in a row"
    second = {f"dead/{number}.jpg" for number in range(50, 70)} | {f"good/{number}.jpg" for number in range(5)}
    assert asked[1] == second, "what has failed comes last"
    archive.reset()
    done = backfill(world, listed, limit=5, code=3)
    assert "3 photos stored" in last_words(done)
    assert "8 of 78 photos of the archive are stored" in last_words(done)


@pytest.mark.parametrize(("prefix", "outputs"), [("", "outputs/"), ("cars/", "cars/outputs/")])
def test_keys_in_the_folders_of_others_are_refused_by_name(
    world: World, archive: Archive, s3: services.S3, prefix: str, outputs: str
) -> None:
    world.env |= {"S3_PREFIX": prefix, "S3_OUTPUT_PREFIX": outputs}
    taken = ["_test/1.jpg", "outputs/1.jpg", "thumbnails/small/1.jpg"]
    keys = [*taken, "a/_test/1.jpg", "outputs-of-1999/1.jpg"]
    for run in ({"dry_run": "true"}, {}):
        done = backfill(
            world,
            manifest(world, *[(archive.url(f"{key[0]}/1.jpg"), key) for key in keys]),
            code=3,
            report="report.csv",
            **run,
        )
        for number, key in enumerate(taken, 1):
            folder = key.partition("/")[0]
            said = f"{key!r} is in {folder}/, which is not for photos; give it another key"
            assert done.lines(f"photos.jsonl:{number}: bad key: {said}")
            assert said in report(world)[f"photos.jsonl:{number}"]
        assert "3 entries unreadable in the manifest" in last_words(done)
    assert s3.keys() == [f"{prefix}{key}" for key in keys[3:]]


def test_garbage_in_the_bucket_is_no_photo(world: World, archive: Archive, s3: services.S3) -> None:
    names = ["a/page.jpg", "a/cut.jpg", "a/short.jpg", "a/whole.jpg", "a/no-end.jpg"]
    photos = {name: archive.photo(f"/auctionimages/{name}") for name in names}
    there = {
        "a/page.jpg": b"<html>" + b" " * 200 + b"</html>",
        "a/cut.jpg": photos["a/cut.jpg"][: len(photos["a/cut.jpg"]) // 2],
        "a/short.jpg": b"<html>sorry</html>",
        "a/whole.jpg": photos["a/whole.jpg"],
        "a/no-end.jpg": photos["a/no-end.jpg"].removesuffix(b"\xff\xd9"),
    }
    for name, data in there.items():
        s3.put(name, data)
    listed = write_lines(world.folder / "photos.jsonl", [{"url": archive.url(name)} for name in names])
    done = backfill(world, listed)
    assert "1 photo stored" in verdict(done)
    assert "4 photos found in the store and entered" in verdict(done)
    assert set(archive.served.photos) == {"/auctionimages/a/short.jpg"}
    done = world.command("storage", "audit", "--deep")
    assert done.returncode == 3
    wrong = {line.split()[1] for line in done.stdout.splitlines() if "the object is no whole photo" in line}
    assert wrong == {"a/page.jpg", "a/cut.jpg"}
    done = world.command("storage", "audit", "--fix", "--yes")
    assert done.returncode == 0, done
    assert "photos pending again 2" in done.stdout
    assert "checksums 2" in done.stdout
    statuses = {name: row["status"] for name, row in world.images().items()}
    assert statuses == {name: "pending" if name in wrong else "stored" for name in names}
    archive.reset()
    done = backfill(world, listed)
    assert set(archive.served.photos) == {f"/auctionimages/{name}" for name in wrong}
    assert s3.objects() == photos | {"a/no-end.jpg": there["a/no-end.jpg"]}
    assert world.command("storage", "audit", "--deep").returncode == 0


@pytest.mark.parametrize("may_list", [True, False])
def test_the_object_of_a_dealers_car_is_not_the_archives(
    world: World, archive: Archive, s3: services.S3, s3_proxy: services.S3Proxy, may_list: bool
) -> None:
    key = "bilasolur/1.jpg"
    backfill(world, manifest(world, (archive.url("car.jpg"), key)))
    world.sql("UPDATE car_listings SET source = 'Bilasolur', external_id = '7', url = 'https://bilasolur.is/7'")
    world.sql("UPDATE car_images SET identity = '7/1'")
    entries = manifest(world, (archive.url("old.jpg"), key))
    if may_list:
        done = backfill(world, entries)
    else:
        with s3_proxy.fail(403, "AccessDenied", methods="GET"):
            done = backfill(world, entries)
    assert "1 photo stored" in verdict(done)
    (line,) = done.lines("has the key of")
    assert "has the key of 'Bilasolur 7', 'bilasolur/1.jpg'" in line
    found = s3.objects()
    assert found.pop(key) == archive.photo("/auctionimages/car.jpg")
    assert list(found.values()) == [archive.photo("/auctionimages/old.jpg")]
    archive.reset()
    assert "1 known before" in verdict(backfill(world, entries))
    assert archive.served.requests == []
