"""What leaves a crawl as a file: feeds and the items of a repeat crawl; and Scrapy's commands that look at one page."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests import services
from tests.crawl.world import IMPOLITE, World
from tests.storage.amazon import REGION, Amazon

if TYPE_CHECKING:
    from collections.abc import Callable


def parse(world: World, *arguments: str) -> services.CompletedCrawl:
    """Run ``scrapy parse``, whose own callback Scrapy calls deprecated."""
    env = {"DATABASE_URL": world.database_url} | world.env
    with services.start_scrapy("parse", *arguments, cwd=world.folder, env=env) as running:
        return running.wait(120)


def items_of(world: World) -> dict[str, Any]:
    """The cars in the newest run's items file."""
    (row,) = world.sql("SELECT output FROM crawl_runs ORDER BY id DESC LIMIT 1")
    lines = gzip.decompress((Path(json.loads(row["output"])["folder"]) / "items.jsonl.gz").read_bytes()).splitlines()
    return {each["external_id"]: each for each in map(json.loads, lines)}


def test_a_repeat_crawl_says_of_each_photo_what_the_ledger_knows(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    world = new_world(cars=5, photos=5, env=rclone_s3.env)
    lost = world.site.cars[0]
    world.site.photo_fault(lost.cid, lost.photos[4].p, ["404"], sticky=True)
    world.crawl("-o", "first.csv", "-o", "first.json", settings={"IMAGES_FINAL_AFTER": 1})
    first = items_of(world)
    world.site.reset()
    world.crawl("-o", "again.csv", "-o", "again.json", settings={"IMAGES_FINAL_AFTER": 1})
    assert world.asked("details") == 0, "every card said nothing new"
    again = items_of(world)
    for cid, item in again.items():
        assert item["unchanged"]
        assert item["images"] == first[cid]["images"]
        rows = world.images_of(world.site.car(int(cid)))
        assert [(each["status"], each["url"], each["key"]) for each in item["images"]] == [
            (row["status"], row["url"], row["key"]) for row in rows
        ]
    assert {each["external_id"]: each for each in json.loads((world.folder / "again.json").read_text())} == again
    for name in ("first.csv", "again.csv"):
        text = (world.folder / name).read_text()
        assert "CarImage(" not in text
        assert "[" not in text
        rows = {row["external_id"]: row for row in csv.DictReader(text.splitlines())}
        assert rows.keys() == again.keys()
        for cid, row in rows.items():
            stored = [each for each in again[cid]["images"] if each["status"] == "stored"]
            assert row["image_urls"].split() == [each["url"] for each in stored]
            assert row["image_keys"].split() == [each["key"] for each in stored]
            assert (int(row["photos"]), int(row["photos_stored"])) == (5, len(stored))
        assert rows[str(lost.cid)]["image_statuses"] == "stored stored stored stored http-404"
        assert rows[str(lost.cid)]["make"] == world.listing(lost)["make"]


def test_a_csv_has_the_columns_that_were_asked_for_and_no_formula(new_world: Callable[..., World]) -> None:
    world = new_world(cars=2, photos=1)
    world.site.set_car(world.site.cars[0].cid, make="=HYPERLINK(1)", description="=1+1")
    world.crawl("-o", "cars.csv", settings={"FEED_EXPORT_FIELDS": "external_id,description,photos_stored"})
    rows = list(csv.DictReader((world.folder / "cars.csv").read_text().splitlines()))
    assert {tuple(row) for row in rows} == {("external_id", "description", "photos_stored")}
    assert {row["photos_stored"] for row in rows} == {"1"}
    assert "'=1+1" in {row["description"] for row in rows}


@pytest.mark.parametrize("named", ["", "bilasolur"])
def test_commands_that_look_at_one_page_work_for_a_local_site_and_leave_no_run(
    new_world: Callable[..., World], named: str
) -> None:
    world = new_world(cars=3, photos=2)
    car = world.site.cars[0]
    spider = [f"--spider={named}"] if named else []
    page = f"{world.site.base_url}/CarDetails.aspx?bid={car.bid}&cid={car.cid}&sid={car.sid}"
    fetched = world.command("fetch", "--nolog", *spider, page)
    assert str(car.cid) in fetched.stdout
    assert fetched.returncode == 0
    shown = world.command("shell", "--nolog", *spider, "-c", "response.status", page)
    assert shown.stdout.strip() == "200"
    if named:
        parsed = parse(world, "--nolog", *spider, page)
        assert f"'external_id': '{car.cid}'" in parsed.stdout
        assert f"c={car.cid}&p={car.photos[0].p}" in parsed.stdout
        form = f"{world.site.base_url}/SearchCars.aspx"  # home shows featured cars
        listed = parse(world, *spider, "-a", f"base_url={world.site.base_url}", form)
        assert "is no car's own page and has no car that can be read" in listed.stderr
    assert not list(world.folder.glob("*.db")), "no database was made"
    assert not (world.folder / "var/jobs").exists()


@pytest.mark.parametrize(
    ("spider", "sentence"),
    [
        ("askja", "`scrapy crawl askja -a limit=3`"),
        ("backfill", "`scrapy parse --spider=DEALER URL`"),
    ],
)
def test_where_there_is_no_page_to_parse_a_sentence_says_so(
    new_world: Callable[..., World], spider: str, sentence: str
) -> None:
    world = new_world(cars=1, photos=1)
    done = parse(world, f"--spider={spider}", world.site.base_url)
    assert sentence in done.stderr


def test_a_refused_address_is_said(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    world.site.fault("home", ["redirect:http://127.0.0.2:9/"], sticky=True)
    done = world.command("fetch", world.site.base_url)
    assert "127.0.0.2 is inside a private network" in done.stderr


def test_a_feed_that_can_not_be_written_is_said_before_anything_is_asked(new_world: Callable[..., World]) -> None:
    world = new_world(cars=2, photos=1)
    done = world.crawl("-o", "/proc/nowhere/cars.csv", code=4)
    assert "-o /proc/nowhere/cars.csv can't be written" in done.stderr
    assert world.asked("photo") == 0


def test_a_secret_in_an_address_is_read_percent_encoded_and_refused_otherwise(
    new_world: Callable[..., World], rclone: services.RcloneS3
) -> None:
    rclone.stop()
    rclone.access_key, rclone.secret_key = "AKIDQ7Z2M9X4", "Kv9/pW2z@R7:mL4+qT"
    rclone.start()
    bucket = rclone.bucket()
    world = new_world(cars=1, photos=1, env={"AWS_ENDPOINT_URL": bucket.endpoint})
    done = world.crawl("-o", f"s3://{rclone.access_key}:{quote(rclone.secret_key, safe='')}@{bucket.bucket}/cars.csv")
    assert "Stored csv feed" in done.stderr
    assert bucket.keys() == ["cars.csv"]
    world.site.reset()
    done = world.crawl("-o", f"s3://{rclone.access_key}:{rclone.secret_key}@{bucket.bucket}/cars.csv", code=4)
    assert "-o s3://… can't be read; write s3://bucket/file.csv" in done.stderr
    assert rclone.secret_key not in done.stderr
    assert world.site.served.requests == []


def test_a_feed_that_was_not_stored_is_no_success(new_world: Callable[..., World]) -> None:
    world = new_world(cars=2, photos=1)
    lost = "s3://user:password@bucket/cars.csv"
    done = services.crawl(
        "bilasolur",
        "-o",
        lost,
        cwd=world.folder,
        env={"DATABASE_URL": world.database_url},
        settings=IMPOLITE | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{services.free_port()}"},
        spider_arguments={"base_url": world.site.base_url},
    )
    assert done.returncode == 3, done
    assert "1 feed not stored" in done.stderr
    assert len(world.listings()) == 2


def test_a_feed_goes_where_photos_go_or_is_refused_in_a_sentence(
    new_world: Callable[..., World], moto_s3: services.S3, tmp_path: Path
) -> None:
    """To Amazon here, by a proxy and with an authority of one's own."""
    for name in ("car.photos", "other-cars"):
        moto_s3.client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    keys = {"AWS_ACCESS_KEY_ID": moto_s3.access_key, "AWS_SECRET_ACCESS_KEY": moto_s3.secret_key}
    with Amazon(tmp_path, moto_s3.endpoint) as amazon:
        world = new_world(cars=2, photos=1, env={**amazon.env, "AWS_S3_REGION": REGION})
        done = world.crawl("-o", "s3://other-cars/a/cars.json", env=keys)
        assert "Stored json feed (2 items)" in done.stderr
        other = replace(moto_s3, bucket="other-cars")
        assert other.keys() == ["a/cars.json"]
        assert len(json.loads(other.get("a/cars.json")[0])) == 2
        for bucket, said in (("no-such-cars", "NoSuchBucket"), ("car.photos", "its certificate is another host's")):
            done = world.crawl("-o", f"s3://{bucket}/cars.json", env=keys, code=3)
            (line,) = [line for line in done.stderr.splitlines() if " ERROR: " in line]
            assert f"in: s3://{bucket}/cars.json: S3 " in line
            assert said in line
            assert "Traceback" not in done.stderr
            assert "1 feed not stored" in done.stderr
        world.site.reset()
        done = world.crawl("-o", "s3://other-cars/cars.json", code=4)
        assert "failed. There are no credentials for S3" in done.stderr
        assert world.site.served.requests == []
