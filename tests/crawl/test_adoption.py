"""An existing ``car_listings`` of the earlier scraper is adopted: rows, ids and columns survive."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import sqlalchemy

from carscraper.db.models import CarListing
from carscraper.db.schema import HEAD
from tests.crawl.legacy import OLD, Legacy, old_url, upgrade
from tests.crawl.world import World, last_words, truth_of, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests import services


@pytest.fixture
def legacy(new_world: Callable[..., World], database_url: str) -> Legacy:
    return Legacy(new_world(cars=6, photos=2, database_url=database_url))


def test_an_older_schema_refuses_and_names_the_command(legacy: Legacy) -> None:
    legacy.add(url=old_url(legacy.world, 1), title="Old")
    before = legacy.rows()
    done = legacy.world.crawl(code=4)
    assert "scrapy database upgrade" in verdict(done)
    assert len(last_words(done).splitlines()) == 1
    assert legacy.world.site.served.requests == []
    assert legacy.rows() == before
    version = legacy.world.command("database", "version")
    assert version.stdout == f"version none; this program needs {HEAD}: run `scrapy database upgrade`\n"


def test_a_dry_run_changes_nothing_and_json_is_for_machines(legacy: Legacy) -> None:
    legacy.add(url=old_url(legacy.world, 1))
    before = legacy.rows()
    assert json.loads(upgrade(legacy.world, "--dry-run", "--json").stdout) == {
        "before": None,
        "version": None,
        "needed": HEAD,
    }
    done = upgrade(legacy.world, "--json")
    assert json.loads(done.stdout) == {"before": None, "version": HEAD, "needed": HEAD}
    # Again: nothing to do.
    assert upgrade(legacy.world).stdout == f"version {HEAD}\n"
    assert json.loads(legacy.world.command("database", "version", "--json").stdout)["version"] == HEAD
    assert legacy.rows() == before


def test_rows_ids_and_columns_survive_and_the_crawl_goes_on_with_them(legacy: Legacy) -> None:
    world = legacy.world
    listed, twice, foreign, canonical, taken, new = world.site.cars
    about = {"title": "Old title", "make": "OLD", "model": "Old", "description": "old words", "price": 123_000}
    ids = {
        "listed": legacy.add(url=old_url(world, listed.cid), **about, image_url="", year=1999),
        "first of two": legacy.add(
            url=old_url(world, twice.cid, 1), last_seen_at=OLD - timedelta(days=9), price=100_000
        ),
        "second of two": legacy.add(url=old_url(world, twice.cid, 2), price=200_000),
        "third of two": legacy.add(url=old_url(world, twice.cid, 3), last_seen_at=None),
        "canonical": legacy.add(
            url=f"{world.site.base_url}/CarDetails.aspx?bid={canonical.bid}&cid={canonical.cid}&sid={canonical.sid}"
        ),
        "address taken": legacy.add(
            url=f"{world.site.base_url}/CarDetails.aspx?bid={taken.bid}&cid={taken.cid}&sid={taken.sid}",
            last_seen_at=OLD - timedelta(days=1),
        ),
        "its holder": legacy.add(url=old_url(world, taken.cid)),
        "gone": legacy.add(url=old_url(world, 999_999), title="Sold long ago"),
        "inactive": legacy.add(url=old_url(world, 888_888), is_active=False),
        "other source": legacy.add(url="https://www.hekla.is/is/bilar/notadir-bilar/view/1", source="Hekla"),
        "same id elsewhere": legacy.add(
            url=f"https://bilaland.is/CarDetails.aspx?cid={foreign.cid}", source="Bilaland"
        ),
        "no address": legacy.add(url=None, title="Nobody knows"),
        "no id": legacy.add(url=f"{world.site.base_url}/Section.aspx?s=1"),
    }
    before = legacy.rows()
    upgrade(world)
    assert legacy.rows() == before
    rows = world.listings()
    assert rows[str(listed.cid)]["id"] == ids["listed"]
    assert rows[str(twice.cid)]["id"] == ids["second of two"], "the one that was seen last"
    assert rows["999999"]["first_seen_at"] == OLD

    done = world.crawl()
    assert "6 cars (2 new, 1 gone)" in verdict(done)
    after = {row["id"]: row for row in world.sql(sqlalchemy.select(CarListing.__table__))}
    assert after.keys() >= set(ids.values())
    assert len(after) == len(ids) + 2
    assert after[ids["its holder"]]["price"] == taken.price
    assert after[ids["its holder"]]["url"] == before[ids["its holder"]]["url"], "the good address is another row's"
    for car, row_id in ((listed, ids["listed"]), (twice, ids["second of two"]), (canonical, ids["canonical"])):
        truth = truth_of(car, world.site.base_url)
        assert {name: after[row_id][name] for name in truth} == truth
        assert after[row_id]["first_seen_at"] == OLD
        same = [row for row in after.values() if row["external_id"] == str(car.cid) and row["source"] == "Bilasolur"]
        assert len(same) == 1
    assert world.listing(new)["id"] not in ids.values()
    assert not after[ids["gone"]]["is_active"]
    touched = {"listed", "second of two", "canonical", "its holder", "gone"}
    for name in ids.keys() - touched:
        assert {column: after[ids[name]][column] for column in before[ids[name]]} == before[ids[name]], name
    # Prices that changed since then are changes like any other.
    changes = {change["listing_id"]: (change["old_price"], change["new_price"]) for change in world.price_changes()}
    assert changes[ids["listed"]] == (123_000, listed.price)
    # A second crawl finds nothing to do.
    world.site.reset()
    done = world.crawl()
    assert (world.asked("details"), world.asked("photo")) == (0, 0)
    assert "6 cars (0 new, 0 gone)" in verdict(done)


def test_picture_addresses_of_the_earlier_scraper(legacy: Legacy, rclone_s3: services.S3) -> None:
    """Expired, malformed and empty ones give way; a permanent one on S3 stays, also while S3 is off."""
    world = legacy.world
    expired, malformed, on_s3, empty, nothing, _ = world.site.cars
    permanent = "https://old-bucket.s3.eu-north-1.amazonaws.com/bilasolur/1.jpg"
    given = [
        (expired, f"{world.site.base_url}/CarImage.aspx?s=16&c={expired.cid}&p=1&w=400"),
        (malformed, f"https://bilasolur.isCarImage.aspx?s=16&c={malformed.cid}&p=3777561&w=784"),
        (on_s3, permanent),
        (empty, ""),
        (nothing, None),
    ]
    for number, (car, image_url) in enumerate(given):
        legacy.add(url=old_url(world, car.cid, number), image_url=image_url)
    upgrade(world)
    world.crawl()
    for car, _image_url in given:
        row = world.listing(car)
        temporary = world.image(car)["source_url"]
        assert row["image_url"] == (permanent if car is on_s3 else temporary)
    # With S3 every car with a photo there shows that one.
    for car, _image_url in given:
        world.site.add_photo(car.cid)
    world.crawl(env=rclone_s3.env)
    for car, _image_url in given:
        assert world.listing(car)["image_url"].startswith(f"{rclone_s3.endpoint}/{rclone_s3.bucket}/bilasolur/")


def test_an_empty_database_is_created_at_first_use_and_newer_tables_are_refused(
    new_world: Callable[..., World],
) -> None:
    world = new_world(cars=1, photos=0)
    world.crawl()
    assert upgrade(world).stdout == f"version {HEAD}\n"
    world.sql("UPDATE alembic_version SET version_num = '9999'")
    world.site.reset()
    done = world.crawl(code=4)
    assert "newer than this program" in verdict(done)
    assert world.site.served.requests == []


def test_the_command_says_what_is_wrong(new_world: Callable[..., World]) -> None:
    world = new_world(cars=0)
    done = world.command("database", "upgrade", env={"DATABASE_URL": "postgresql://cars:s3cr3t-w0rd@127.0.0.1:1/cars"})
    assert done.returncode == 4
    assert "DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cr3t" not in done.stderr + done.stdout
    done = world.command("database", "downgrade")
    assert done.returncode == 2
    assert "invalid choice: 'downgrade' (choose from 'upgrade', 'version')" in done.stderr
