"""A page that says "gone" is a word, not yet a fact: no car is marked and no photo given up by one site's bad night."""

from __future__ import annotations

import csv
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.items import utcnow
from tests.crawl.legacy import Legacy, upgrade
from tests.crawl.test_backfill import backfill, photo_of, row_of
from tests.crawl.test_site_changes import active, drop
from tests.crawl.world import World, last_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests import services
    from tests.dealers.cars import Car


# ── The crawl's lookups ───────────────────────────────────────────────────────────────────────────


def test_a_night_on_which_every_car_page_says_gone_marks_no_car(
    new_world: Callable[..., World], database_url: str
) -> None:
    world = new_world(cars=12, photos=1, database_url=database_url)
    world.crawl()
    missing = world.site.cars[:3]
    drop(world, *missing)
    world.site.fault("details", ["gone"], sticky=True)
    done = world.crawl(code=3)
    assert all(active(world).values())
    assert "no car was marked as gone" in last_words(done)
    world.site.clear_faults()
    world.site.sell(missing[0].cid)
    done = world.crawl()
    assert [name for name, is_active in active(world).items() if not is_active] == [str(missing[0].cid)]
    assert "(0 new, 1 gone)" in verdict(done)


def test_a_first_night_on_which_every_car_page_says_gone_is_partial_and_the_next_one_reads_them(
    new_world: Callable[..., World],
) -> None:
    world = new_world(cars=8, photos=5)
    world.site.fault("details", ["gone"], sticky=True)
    done = world.crawl(code=3)
    assert "said that the car is gone though it is on the list" in last_words(done)
    world.site.clear_faults()
    world.crawl()
    assert {row["status"] for row in world.images().values()} == {"stored"}
    assert len(world.images()) == 40


def test_one_listed_car_whose_page_says_gone_is_read_by_the_next_crawl(new_world: Callable[..., World]) -> None:
    world = new_world(cars=8, photos=5)
    world.crawl()
    car = world.site.cars[0]
    world.site.change_price(car.cid, 1_234_000)
    world.site.set_car(car.cid, horsepower=321)
    world.site.fault(f"details:{car.cid}", ["gone"])
    world.crawl()
    assert world.listing(car)["is_active"]
    world.crawl()
    assert world.listing(car)["horsepower"] == 321


# ── The backfill ──────────────────────────────────────────────────────────────────────────────────


def old_table(world: World, cars: list[Car] | None = None, **values: Any) -> None:
    """Rows of the earlier scraper, whose photo addresses have all expired."""
    Legacy(world).add_all(
        row_of(car, number, image_url=photo_of(car), **values) for number, car in enumerate(cars or world.site.cars)
    )
    upgrade(world)
    world.site.expire_all()


def statuses(world: World) -> Counter[tuple[str, str | None]]:
    return Counter((row["status"], row["reason"]) for row in world.images().values())


def test_a_backfill_that_hears_of_every_car_that_it_is_gone_fails_and_marks_none(
    new_world: Callable[..., World], database_url: str
) -> None:
    world = new_world(cars=12, photos=2, database_url=database_url)
    old_table(world)
    world.site.fault("details", ["gone"], sticky=True)
    done = backfill(world, limit=0, code=4)
    assert all(active(world).values())
    assert "The pages of 12 cars of Bilasolur say that they are gone, but" in last_words(done)
    assert ("failed", "car-gone") not in statuses(world)
    world.site.clear_faults()
    backfill(world, limit=0)
    assert all(active(world).values())
    assert statuses(world) == {("stored", None): 24}


def test_pages_that_say_gone_for_a_while_cost_nothing(new_world: Callable[..., World]) -> None:
    world = new_world(cars=20, photos=2)
    old_table(world)
    world.site.fault("details", [*["ok"] * 4, *["gone"] * 10])
    done = backfill(world, limit=0)
    assert all(active(world).values())
    assert "(0 new, 0 gone)" in verdict(done)
    assert statuses(world)["stored", None] == 40
    assert set(statuses(world)) <= {("stored", None), ("superseded", None)}


def test_cars_that_were_for_sale_yesterday_are_not_all_gone_today(new_world: Callable[..., World]) -> None:
    """The address of a car's page has changed, say: only the cars that home shows have one that leads to it."""
    world = new_world(cars=12, photos=1)
    world.crawl(env={"IMAGES_STORE": ""})
    for car in world.site.cars[:8]:
        world.site.fault(f"details:{car.cid}", ["gone"], sticky=True)
    world.site.expire_all()
    done = backfill(world, limit=0, code=4)
    assert all(active(world).values())
    assert "8 of 12 cars that a crawl saw for sale in the last 14 days" in last_words(done)


def test_an_old_table_of_which_all_is_sold_is_settled_in_one_run(new_world: Callable[..., World]) -> None:
    world = new_world(cars=14, photos=2, featured=3)
    sold = world.site.cars[:9]
    for car in sold:
        world.site.sell(car.cid)
    old_table(world, sold)
    done = backfill(world, limit=0, report="failures.csv")
    assert not any(active(world).values())
    assert "(0 new, 9 gone)" in verdict(done)
    assert "9 photos of gone cars not to be had" in verdict(done)
    assert statuses(world) == {("failed", "car-gone"): 9}
    with (world.folder / "failures.csv").open() as file:
        assert {row["reason"] for row in csv.DictReader(file)} == {"car-gone"}
    world.site.reset()
    backfill(world, limit=0, include_inactive="true")
    assert world.site.served.requests == []


def test_a_car_that_is_off_the_site_and_back_has_all_its_photos_in_the_end(new_world: Callable[..., World]) -> None:
    world = new_world(cars=6, photos=3)
    car = world.site.cars[0]
    world.crawl(env={"IMAGES_STORE": ""})
    world.site.sell(car.cid)
    world.site.expire_all()
    done = backfill(world, limit=0)
    assert [name for name, is_active in active(world).items() if not is_active] == [str(car.cid)]
    assert "3 photos of gone cars not to be had" in verdict(done)
    world.site.relist(car.cid)
    world.crawl()
    assert all(active(world).values())
    assert statuses(world) == {("stored", None): 18}


def test_a_car_that_an_earlier_version_marked_wrongly_is_whole_after_the_next_crawl(
    new_world: Callable[..., World], database_url: str
) -> None:
    world = new_world(cars=3, photos=2, database_url=database_url)
    world.crawl(env={"IMAGES_STORE": ""})
    world.sql(
        "UPDATE car_images SET status = 'failed', reason = 'car-gone', attempts = 9, last_attempt_at = :now",
        now=utcnow(),
    )
    world.crawl()
    assert statuses(world) == {("stored", None): 6}


# ── The search for a car's number ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("leads_to", ["results", "details"])
def test_a_car_whose_page_has_no_address_of_use_is_found_by_its_number(
    new_world: Callable[..., World], leads_to: str
) -> None:
    world = new_world(cars=5, photos=2, layout="2026", cid_leads_to=leads_to)
    glued, relative, empty, nothing, sold = world.site.cars
    legacy = Legacy(world)
    for number, (car, url) in enumerate(
        (
            (glued, f"https://bilasolur.isCarDetails.aspx?bid={glued.bid}&cid={glued.cid}"),
            (relative, f"CarDetails.aspx?bid={relative.bid}&cid={relative.cid}"),
            (empty, ""),
            (nothing, None),
            (sold, "/"),
        )
    ):
        image_url = f"https://bilasolur.isCarImage.aspx?s=16&c={car.cid}&p={car.photos[0].p}&w=784"
        legacy.add(**row_of(car, number, url=url, image_url=image_url))
    upgrade(world)
    world.site.expire_all()
    world.site.sell(sold.cid)
    done = backfill(world, limit=0)
    assert "(0 new, 1 gone)" in verdict(done)
    assert active(world) == {str(car.cid): car is not sold for car in world.site.cars}
    for car in (glued, relative, empty, nothing):
        assert [row["status"] for row in world.images_of(car)] == ["stored"] * 2
        assert world.listing(car)["details_at"] is not None
        assert f"cid={car.cid}" in world.listing(car)["url"]
    assert world.asked("search") == 4, "two without an address of use, and one that is sold, twice"
    world.site.reset()
    backfill(world, limit=0)
    assert world.site.served.requests == []


def test_a_car_whose_page_says_gone_is_looked_for_by_its_number(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=2, layout="2026")
    old_table(world)
    car, _, sold, *_ = world.site.cars
    world.site.fault(f"details:{car.cid}", ["gone"])
    world.site.sell(sold.cid)
    backfill(world, limit=0)
    assert active(world) == {str(each.cid): each is not sold for each in world.site.cars}
    assert world.asked("search") == 2
    assert statuses(world) == {("stored", None): 6, ("failed", "car-gone"): 1}


def test_where_the_site_has_no_such_search_the_page_is_asked_once_more(new_world: Callable[..., World]) -> None:
    world = new_world(cars=6, photos=1, layout="2019")
    old_table(world)
    for car in world.site.cars[:3]:
        world.site.sell(car.cid)
    done = backfill(world, limit=0)
    assert "(0 new, 3 gone)" in verdict(done)
    assert sum("SearchCars" in asked.path for asked in world.site.served.requests) <= 3
    assert world.asked("search") == 0


# ── New ids for the same bytes ────────────────────────────────────────────────────────────────────


def test_a_backfill_that_brings_every_photo_home_under_new_ids_is_a_success(
    new_world: Callable[..., World], database_url: str
) -> None:
    world = new_world(cars=4, photos=3, database_url=database_url)
    world.crawl(env={"IMAGES_STORE": ""})
    world.site.renumber_photos()
    done = backfill(world, limit=0, report="failures.csv")
    assert "12 photos stored" in verdict(done)
    assert statuses(world) == {("stored", None): 12, ("superseded", None): 12}
    for car in world.site.cars:
        rows = [row for row in world.images_of(car) if row["status"] == "stored"]
        assert [row["identity"] for row in rows] == car.identities
        assert {row["superseded_by"] for row in world.images_of(car)} == {None, *(row["id"] for row in rows)}
    with (world.folder / "failures.csv").open() as file:
        assert list(csv.DictReader(file)) == []
    world.site.reset()
    backfill(world, limit=0)
    assert world.site.served.requests == []
    world.crawl()
    assert world.asked("photo") == 0


def test_photos_that_are_no_longer_on_the_page_are_named(new_world: Callable[..., World]) -> None:
    world = new_world(cars=3, photos=4)
    car = world.site.cars[0]
    world.crawl(env={"IMAGES_STORE": ""})
    gone = car.identities[-1]
    car.photos.pop()
    world.site.renumber_photos()
    done = backfill(world, limit=0, code=3)
    assert "1 photo failed (1 off-page)" in last_words(done)
    assert (world.images()[gone]["status"], world.images()[gone]["reason"]) == ("failed", "off-page")
    assert statuses(world) == {("stored", None): 11, ("superseded", None): 11, ("failed", "off-page"): 1}


def test_photos_under_their_old_ids_again_are_current_again(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    world = new_world(cars=3, photos=3, env=rclone_s3.env)
    world.crawl()
    first = {car.cid: list(car.identities) for car in world.site.cars}
    world.site.renumber_photos()
    world.crawl()
    assert statuses(world) == {("stored", None): 9, ("superseded", None): 9}
    for car in world.site.cars:
        for photo, identity in zip(car.photos, first[car.cid], strict=True):
            photo.p = int(identity.partition("/")[2])
    world.site.reset()
    world.crawl()
    assert world.asked("photo") == 0, "their bytes are known"
    assert statuses(world) == {("stored", None): 9, ("superseded", None): 9}
    for car in world.site.cars:
        assert [row["identity"] for row in world.images_of(car) if row["status"] == "stored"] == first[car.cid]
        assert world.listing(car)["image_url"] == world.image(car)["url"]
    # Deleting the photo deletes the picture, under whatever ids.
    key = world.image(world.site.cars[0])["key"]
    done = world.command("storage", "delete", key, "--yes")
    assert done.returncode == 0, done
    left = rclone_s3.keys()
    assert len(left) == 8
    assert key not in left
    assert statuses(world) == {("stored", None): 8, ("superseded", None): 8, ("failed", "deleted"): 2}


def test_rows_that_name_no_car_are_said_in_the_last_line(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    legacy = Legacy(world)
    base = row_of(world.site.cars[0], 1)
    section = f"{world.site.base_url}/Section.aspx?s=1"
    unnamed = [base | {"url": None}, base | {"url": section}, base | {"url": None, "is_active": False}]
    legacy.add_all([base, *(row | {"image_url": None} for row in unnamed)])
    upgrade(world)
    assert "2 rows without an id or an address that names the car" in last_words(backfill(world, limit=0, code=3))


@pytest.mark.parametrize("page", ["redirect:/", "404", "gone"])
def test_a_car_that_the_search_shows_is_not_gone_whatever_its_page_says(
    new_world: Callable[..., World], page: str
) -> None:
    world = new_world(cars=6, photos=3, layout="2026")
    old_table(world)
    misled = world.site.cars[:2]
    for car in misled:
        world.site.fault(f"details:{car.cid}", [page], sticky=True)
    done = backfill(world, limit=0, code=3)
    assert "2 details pages unreadable or missing" in last_words(done)
    assert all(active(world).values())
    world.site.clear_faults()
    world.crawl()
    assert statuses(world)["stored", None] == 18


def test_a_page_that_leads_home_is_no_word_where_the_site_has_words(new_world: Callable[..., World]) -> None:
    world = new_world(cars=6, photos=3, layout="2019")
    old_table(world)
    for car in world.site.cars[:2]:
        world.site.fault(f"details:{car.cid}", ["redirect:/"], sticky=True)
    done = backfill(world, limit=0, code=3)
    assert "2 details pages unreadable or missing" in last_words(done)
    assert all(active(world).values())
    world.site.clear_faults()
    backfill(world, limit=0)
    assert statuses(world)["stored", None] == 18
