"""What a backfill is told: how much, of whom, and which photos."""

from __future__ import annotations

import asyncio
import csv
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from carscraper.db.models import CarListing
from carscraper.items import CarItem
from carscraper.spiders.backfill import BackfillSpider
from tests import services
from tests.crawl.backfills import IN_FOLDER, assert_one_sentence, rows, statuses, stored
from tests.crawl.legacy import Legacy, upgrade
from tests.crawl.test_backfill import backfill, hekla, photo_of, row_of
from tests.crawl.world import World, last_words, verdict
from tests.fakes import make_crawler

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.dealers.bilasolur import SimulatedBilasolur


def folders(s3: services.S3) -> Counter[str]:
    """How many objects below each first part of their keys."""
    return Counter(key.partition("/")[0] for key in s3.objects())


# ── limit ─────────────────────────────────────────────────────────────────────────────────────────


def test_limit_counts_photos_and_the_next_runs_go_on(
    new_world: Callable[..., World], database_url: str, rclone_s3: services.S3
) -> None:
    world = new_world(cars=4, photos=3, database_url=database_url, env=rclone_s3.env)
    Legacy(world).add_all(row_of(car, number) for number, car in enumerate(world.site.cars))
    upgrade(world)
    for photos in (5, 10, 12):
        done = backfill(world, limit=5)
        assert world.asked("photo") == len(stored(world)) == photos
        if photos < 12:
            assert {status for status in statuses(world) if status[0] != "stored"} == {("pending", "limit")}
            assert re.search(r"\d photos? left by the limit", verdict(done))
    assert set(world.site.served.photos.values()) == {1}
    assert len(rclone_s3.keys()) == 12
    world.site.reset()
    backfill(world, limit=5)
    assert world.site.served.requests == []


@pytest.mark.parametrize(("limit", "photos"), [({}, 100), ({"limit": 0}, 105)])
def test_the_default_limit_is_a_hundred_and_zero_is_none(
    new_work: Callable[..., World], limit: dict[str, int], photos: int
) -> None:
    world = new_work(cars=35)
    backfill(world, settings={"DOWNLOAD_TIMEOUT": 60}, **limit)
    assert world.asked("photo") == len(stored(world)) == photos


def test_photos_of_a_gone_car_that_the_limit_left_are_kept_by_the_next_run(new_work: Callable[..., World]) -> None:
    """Their addresses still answer."""
    world = new_work(cars=1)
    world.site.sell(world.site.cars[0].cid)
    backfill(world, limit=2)
    assert len(stored(world)) == 2
    backfill(world, limit=2)
    assert len(stored(world)) == 3


# ── sources ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def two_dealers(new_world: Callable[..., World], rclone_s3: services.S3) -> World:
    """Three cars of Bilasolur and three of Hekla, as the earlier scraper left them."""
    world = new_world(cars=6, photos=2, env=rclone_s3.env)
    own, others = world.site.cars[:3], world.site.cars[3:]
    legacy = Legacy(world)
    legacy.add_all(row_of(car, number) for number, car in enumerate(own))
    legacy.add_all(hekla(world, car, number) for number, car in enumerate(others))
    upgrade(world)
    return world


@pytest.fixture
def two_sites(
    new_world: Callable[..., World], new_site: Callable[..., SimulatedBilasolur], rclone_s3: services.S3
) -> tuple[World, SimulatedBilasolur]:
    """Bilasolur with 48 photos, and a server of its own for the 16 of Hekla."""
    world = new_world(cars=16, photos=3, env=rclone_s3.env)
    other = new_site(cars=16, photos=1, seed=2)
    legacy = Legacy(world)
    legacy.add_all(row_of(car, number) for number, car in enumerate(world.site.cars))
    address = f"{other.base_url}/"
    legacy.add_all(
        hekla(world, car, number, image_url=photo_of(car, host=address)) for number, car in enumerate(other.cars)
    )
    upgrade(world)
    return world, other


@pytest.mark.parametrize(
    ("sources", "prefixes"), [("HEKLA,", {"hekla"}), ("bilasolur", {"bilasolur"}), ("", {"hekla", "bilasolur"})]
)
def test_sources_are_those_only_in_any_spelling(
    two_dealers: World, rclone_s3: services.S3, sources: str, prefixes: set[str]
) -> None:
    backfill(two_dealers, sources=sources)
    assert folders(rclone_s3).keys() == prefixes
    assert two_dealers.asked("details") == (3 if "bilasolur" in prefixes else 0)


def test_limit_is_for_each_source(two_dealers: World, rclone_s3: services.S3) -> None:
    backfill(two_dealers, limit=2)
    assert folders(rclone_s3) == {"hekla": 2, "bilasolur": 2}


def test_a_dealer_that_does_not_answer_holds_up_no_other(sqlite_url: str) -> None:
    spider: Any = BackfillSpider.from_crawler(make_crawler(DATABASE_URL=sqlite_url))
    cars = [
        {"source": source, "external_id": str(number), "url": f"https://a.is/{source}?cid={number}", "image_url": photo}
        for number, photo in enumerate(f"https://a.is/{number}.jpg" for number in range(20))
        for source in ("Bilasolur", "Hekla")
    ]

    async def run() -> None:
        await spider.ledger.open()
        engine = sqlalchemy.create_engine(sqlite_url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.insert(CarListing), cars)
        feed, pages, items = spider.start(), [], []
        while len(items) < 20:
            each = await asyncio.wait_for(anext(feed), 5)
            item = each if isinstance(each, CarItem) else each.cb_kwargs.get("item")
            if item:
                items.append(item)
                asyncio.get_running_loop().call_later(0.001, spider._item_left, item)
            else:
                pages.append(each)  # and nothing comes of it
        assert {item.source for item in items} == {"Hekla"}
        assert 0 < len(pages) < 20
        await feed.aclose()
        spider.ledger.close()

    asyncio.run(run())


def test_slow_photos_of_one_dealer_hold_up_no_other(two_sites: tuple[World, SimulatedBilasolur]) -> None:
    slow, quick = two_sites
    slow.site.photo_latency = 1
    for car in slow.site.cars:
        car.description = "Gott eintak. " * 5000  # pages as long as real ones: Scrapy holds back when many are in work
    backfill(slow, limit=0, env={"IMAGES_ALLOWED_HOSTS": "127.0.0.1"}, settings={"IMAGES_CONCURRENCY": 8})
    ended = [max(one.time for one in site.served.requests if one.kind == "photo") for site in (slow.site, quick)]
    began = min(one.time for one in slow.site.served.requests if one.kind == "photo")
    assert len(stored(slow)) == 64
    assert ended[1] - began < (ended[0] - began) / 2


# ── only, include_inactive ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["missing", "temporary", "failed", "local"])
def test_only_selects_its_own_rows(new_world: Callable[..., World], rclone_s3: services.S3, kind: str) -> None:
    world = new_world(cars=4, photos=1, env=rclone_s3.env)
    missing, temporary, failed, local = world.site.cars
    world.site.photo_fault(failed.cid, None, ["403"], sticky=True)
    world.crawl(env=IN_FOLDER, code=3)
    unknown = "DELETE FROM car_images WHERE listing_id IN (SELECT id FROM car_listings WHERE external_id IN (:a, :b))"
    world.sql(unknown, a=str(missing.cid), b=str(temporary.cid))
    show = "UPDATE car_listings SET image_url = :url WHERE external_id = :car"
    world.sql(show, url="", car=str(missing.cid))
    world.sql(show, url=f"{rclone_s3.endpoint}/{rclone_s3.bucket}/cover.jpg", car=str(failed.cid))
    world.site.clear_faults()
    world.site.reset()
    car = {"missing": missing, "temporary": temporary, "failed": failed, "local": local}[kind]

    backfill(world, only=kind)

    in_bucket = f"s3://{rclone_s3.bucket}"
    assert {identity for identity, row in world.images().items() if row["store"] == in_bucket} == {*car.identities}
    expected = {} if kind == "local" else dict.fromkeys(car.identities, 1)
    assert world.site.served.photos == expected
    assert world.asked("details") == len(expected)


def test_only_failed_asks_again_for_what_was_given_up_and_nothing_else_does(new_work: Callable[..., World]) -> None:
    world = new_work(cars=2)
    car = world.site.cars[0]
    world.site.photo_fault(car.cid, car.photos[1].p, ["404"], sticky=True)
    done = backfill(world, code=3)
    assert "1 photo failed (1 http-404)" in last_words(done)
    assert (world.image(car, 1)["status"], world.image(car, 1)["reason"]) == ("failed", "http-404")
    world.sql("UPDATE car_images SET failed_days = 3 WHERE status = 'failed'")
    world.site.clear_faults()
    world.site.reset()
    backfill(world)
    assert world.site.served.requests == []
    backfill(world, only="failed")
    assert world.site.served.photos == {car.identities[1]: 1}
    assert world.image(car, 1)["status"] == "stored"


def test_only_failed_leaves_what_waits_in_the_spool_alone(
    new_world: Callable[..., World], rclone: services.RcloneS3, rclone_s3: services.S3
) -> None:
    world = new_world(cars=2, photos=2, env=rclone_s3.env)
    rclone.stop()
    world.crawl(code=3)
    assert statuses(world) == {("pending", "spooled"): 4}
    world.site.reset()
    backfill(world, only="failed", code=3)
    assert world.asked("photo") == 0
    rclone.start()
    backfill(world, only="failed")
    assert world.asked("photo") == 0
    assert len(stored(world)) == 4


def test_inactive_cars_are_left_alone_unless_asked_for(new_work: Callable[..., World]) -> None:
    world = new_work(cars=3)
    active, listed, sold = world.site.cars
    world.site.sell(sold.cid)
    world.sql("UPDATE car_listings SET is_active = false WHERE external_id <> :car", car=str(active.cid))
    backfill(world)
    assert stored(world) == {*active.identities}
    assert world.asked("details") == 1
    backfill(world, include_inactive="true")
    assert stored(world) == {*active.identities, *listed.identities, *sold.identities}
    assert world.listing(listed)["is_active"], "its page shows it"
    assert not world.listing(sold)["is_active"]


def test_a_dry_run_knows_cars_that_have_no_id_yet(two_dealers: World) -> None:
    done = backfill(two_dealers, dry_run="true")
    assert "│ Bilasolur │" in done.stdout
    assert "│ Hekla" in done.stdout


# ── Photos in the folder ──────────────────────────────────────────────────────────────────────────


def test_photos_in_the_folder_are_uploaded_without_asking_the_dealer(
    new_world: Callable[..., World], database_url: str, rclone_s3: services.S3
) -> None:
    world = new_world(cars=3, photos=2, database_url=database_url, env=rclone_s3.env)
    world.crawl(env=IN_FOLDER)
    keys = {identity: row["key"] for identity, row in world.images().items()}
    world.site.reset()
    backfill(world, limit=4)
    assert len(rclone_s3.keys()) == 4
    done = backfill(world)
    assert "2 photos stored" in verdict(done)
    assert world.site.served.requests == []
    assert {identity: row["key"] for identity, row in world.images().items()} == keys
    for car in world.site.cars:
        for number, row in enumerate(world.images_of(car)):
            assert (row["status"], row["store"]) == ("stored", f"s3://{rclone_s3.bucket}")
            assert row["url"] == f"{rclone_s3.endpoint}/{rclone_s3.bucket}/{row['key']}"
            assert rclone_s3.get(row["key"])[0] == world.served(car, number)
        assert world.listing(car)["image_url"] == world.image(car)["url"]


def test_a_file_that_is_lost_or_damaged_is_fetched_from_the_dealer(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    world = new_world(cars=2, photos=3, env=rclone_s3.env)
    world.crawl(env=IN_FOLDER)
    (first, second), folder = world.site.cars, world.folder / "var/images"
    (folder / world.image(first, 1)["key"]).unlink()
    damaged = folder / world.image(second, 2)["key"]
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"!" * 9)
    world.site.reset()
    backfill(world)
    assert world.site.served.photos == {first.identities[1]: 1, second.identities[2]: 1}
    for car in world.site.cars:
        for number, row in enumerate(world.images_of(car)):
            assert (row["status"], row["store"]) == ("stored", f"s3://{rclone_s3.bucket}")
            assert rclone_s3.get(row["key"])[0] == world.served(car, number)


def test_a_lost_file_of_a_gone_car_is_fetched_while_its_address_answers(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    world = new_world(cars=1, photos=3, env=rclone_s3.env)
    world.crawl(env=IN_FOLDER)
    (car,) = world.site.cars
    (world.folder / "var/images" / world.image(car, 2)["key"]).unlink()
    world.site.sell(car.cid)
    backfill(world)
    assert not world.listing(car)["is_active"]
    assert len(stored(world)) == len(rclone_s3.keys()) == 3


def test_stored_photos_beside_a_lost_file_do_not_count_for_the_limit(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    world = new_world(cars=1, photos=4, env=rclone_s3.env)
    world.crawl(env=IN_FOLDER)
    (car,) = world.site.cars
    for number in (2, 3):
        (world.folder / "var/images" / world.image(car, number)["key"]).unlink()
    backfill(world, limit=6)  # two uploads, two files that are not there, two photos of the dealer
    assert len(rclone_s3.keys()) == 4


# ── Mistakes, and the report ──────────────────────────────────────────────────────────────────────

MISTAKES: dict[str, dict[str, Any]] = {
    "sources names 'Toyota'": {"sources": "Hekla,Toyota"},
    "only is 'lost'": {"only": "lost"},
    "limit is 'abc'": {"limit": "abc"},
    "sample is '-1'": {"sample": "-1"},
    "include_inactive is 'maybe'": {"include_inactive": "maybe"},
    "manifest is empty; write its value, or leave manifest out": {"manifest": ""},
    "thumbs is about a manifest": {"thumbs": "false"},
    "strip_prefix is about a manifest": {"strip_prefix": ""},
    "no argument colour": {"colour": "red"},
    "dry_run and sample exclude each other": {"sample": 3, "dry_run": "true"},
    "report=nowhere/failures.csv can't be written": {"report": "nowhere/failures.csv"},
}


def test_a_wrong_argument_is_one_sentence(new_work: Callable[..., World], subtests: pytest.Subtests) -> None:
    world = new_work(cars=1)
    before = rows(world)
    for named, arguments in MISTAKES.items():
        with subtests.test(named):
            assert_one_sentence(backfill(world, code=4, **arguments), named)
            assert world.site.served.requests == []
            assert rows(world) == before


def test_the_report_holds_no_formula(new_world: Callable[..., World], rclone_s3: services.S3) -> None:
    world = new_world(cars=4, photos=1, env=rclone_s3.env)
    formulas = ['=HYPERLINK("https://a.is")', "+1", "-1", "@SUM(1)"]
    dead = f"{world.site.base_url}/CarImage.aspx?s=1&c=2&p=3"
    legacy = Legacy(world)
    for number, (car, formula) in enumerate(zip(world.site.cars, formulas, strict=True)):
        about = {"make": formula, "title": formula, "url": f"{formula}/view/-{number}"}
        legacy.add(**hekla(world, car, number, image_url=dead) | about)
    upgrade(world)
    backfill(world, code=3, report="failures.csv")
    with (world.folder / "failures.csv").open(newline="", encoding="utf-8") as file:
        failures = list(csv.DictReader(file))
    assert sorted(row["car"] for row in failures) == sorted(f"'{f}/view/-{n}" for n, f in enumerate(formulas))
    assert sorted(row["external_id"] for row in failures) == [f"'-{number}" for number in range(4)]


# ── Faults ────────────────────────────────────────────────────────────────────────────────────────

ANSWERS = {
    "404": (["404"], ("failed", "http-404")),
    "403": (["403"], ("failed", "http-403")),
    "429 with Retry-After": (["429:1", "ok"], ("stored", None)),
    "500, then 200": (["500", "ok"], ("stored", None)),
    "HTML with 200": (["html200"], ("failed", "not-an-image")),
}


def test_each_answer_of_a_photo_has_its_outcome(new_work: Callable[..., World]) -> None:
    world = new_work(cars=len(ANSWERS) + 1, photos=1)
    cars = dict(zip(ANSWERS, world.site.cars, strict=False))
    for name, (steps, _) in ANSWERS.items():
        world.site.photo_fault(cars[name].cid, None, steps, sticky=True)
    done = backfill(world, code=3, report="failures.csv")
    for name, (_, outcome) in ANSWERS.items():
        row = world.image(cars[name])
        assert (row["status"], row["reason"]) == outcome, name
    assert "3 photos failed" in last_words(done)
    with (world.folder / "failures.csv").open() as file:
        assert {row["reason"] for row in csv.DictReader(file)} == {"http-404", "http-403", "not-an-image"}
    asked = [one for one in world.site.served.requests if one.kind == "photo" and "429" in one.step]
    again = [one for one in world.site.served.requests if one.path == asked[0].path][1]
    assert again.time - asked[0].time >= 1
    world.site.clear_faults()
    world.site.reset()
    backfill(world)
    again = {cars[name].identities[0]: 1 for name, (_, (status, _)) in ANSWERS.items() if status == "failed"}
    assert world.site.served.photos == again, "no answer is for good after one run"
    assert statuses(world) == {("stored", None): len(ANSWERS) + 1}
