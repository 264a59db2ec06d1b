"""What a run says at its end is what the ledger holds, and no answer of one night is the last word on a photo."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, select, update

from carscraper.db.models import CarImageRow
from tests.crawl.test_site_changes import drop
from tests.crawl.world import World, last_words, verdict
from tests.dealers.bilasolur import SimulatedBilasolur

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.http_server import Request, Response

table: Any = CarImageRow.__table__


def newest(world: World) -> Any:
    (row,) = world.sql("SELECT * FROM crawl_runs ORDER BY id DESC LIMIT 1")
    return row


def a_day_passes(world: World) -> None:
    """All that was done to photos was done a day earlier."""
    day = timedelta(days=1)
    for row in world.sql(select(table)):
        values = {name: row[name] - day for name in ("failed_on", "last_attempt_at", "stored_at") if row[name]}
        world.sql(update(table).where(table.c.id == row["id"]).values(values | {"position": row["position"]}))


@pytest.mark.parametrize("answer", ["html200", "404"])
def test_after_bad_nights_the_ordinary_crawl_stores_every_photo(new_world: Callable[..., World], answer: str) -> None:
    world = new_world(cars=4, photos=2)
    world.site.fault("photo", [answer], sticky=True)
    for _ in range(2):
        done = world.crawl(code=3, settings={"MONITOR_MIN_STORED": 0.5, "IMAGES_FINAL_AFTER": 1})
        assert "; 0 of 8 photos of cars for sale are stored (not stored: 8 " in last_words(done)
        assert "not kept: 8 photos failed" in last_words(done)
        assert "limit not kept: min_stored: 0 of 8 photos of cars for sale are stored (0 %)" in last_words(done)
        row = newest(world)
        assert (row["status"], row["images_for_sale"], row["images_for_sale_stored"]) == ("partial", 8, 0)
        assert sum(json.loads(row["images_unstored"]).values()) == 8
        assert [line.split(":")[0] for line in row["why"].split("\n")[1:]] == ["not kept", "limit not kept"]
        assert {row["failed_days"] for row in world.images().values()} == {0}, "it is the site, not the photos"
        a_day_passes(world)
    world.site.clear_faults()
    done = world.crawl(settings={"MONITOR_MIN_STORED": 1})
    assert verdict(done).endswith("0 linked, 0 known before; 8 of 8 photos of cars for sale are stored.")
    assert {row["status"] for row in world.images().values()} == {"stored"}


def test_the_same_answer_on_three_days_is_final_and_a_steady_site_gives_a_steady_0(
    new_world: Callable[..., World],
) -> None:
    world = new_world(cars=4, photos=3)
    car = world.site.cars[0]
    world.site.photo_fault(car.cid, car.photos[1].p, ["404"], sticky=True)
    for day in (1, 2):
        done = world.crawl(code=3)
        assert "11 of 12 photos of cars for sale are stored (not stored: 1 http-404)." in last_words(done)
        assert "not kept: 1 photo failed (1 http-404)." in last_words(done)
        assert world.image(car, 1)["failed_days"] == day
        a_day_passes(world)
    done = world.crawl()
    assert verdict(done).endswith("11 of 12 photos of cars for sale are stored (not stored: 1 http-404 final).")
    world.site.reset()
    done = world.crawl()
    assert (world.asked("photo"), world.asked("details")) == (0, 0), "nobody asks for it any more"
    assert verdict(done).endswith("11 of 12 photos of cars for sale are stored (not stored: 1 http-404 final).")
    assert json.loads(newest(world)["images_unstored"]) == {"http-404": 1}
    assert newest(world)["status"] == "success"


def test_a_photo_that_its_page_shows_no_more_is_asked_for_until_the_answer_is_final(
    new_world: Callable[..., World],
) -> None:
    world = new_world(cars=4, photos=3)
    car = world.site.cars[0]
    lost = car.photos[1:]
    for photo in lost:
        world.site.photo_fault(car.cid, photo.p, ["404"], sticky=True)
    world.crawl(code=3, settings={"IMAGES_FINAL_AFTER": 2})
    del car.photos[1:]
    # Another answer than the first day's: its days are counted anew.
    for code, stand in ((3, "2 off-page"), (0, "2 off-page final")):
        a_day_passes(world)
        world.site.reset()
        done = world.crawl(code=code, settings={"IMAGES_FINAL_AFTER": 2})
        assert world.asked("photo") >= 2, "at their last addresses"
        assert f"10 of 12 photos of cars for sale are stored (not stored: {stand})" in last_words(done)
    a_day_passes(world)
    world.site.reset()
    world.crawl(settings={"IMAGES_FINAL_AFTER": 2})
    assert world.asked("photo") == 0


def test_a_part_of_the_site_answers_for_its_own_cars_only(new_world: Callable[..., World]) -> None:
    world = new_world(cars=6, photos=2)
    world.site.fault("photo", ["503"], sticky=True)
    world.crawl(code=3, settings={"RETRY_TIMES": 0})
    world.site.clear_faults()
    done = world.crawl(limit=2)
    assert "4 of 12 photos of cars for sale are stored (not stored: 8 not-visited)." in verdict(done)
    world.site.fault("photo", ["404"], sticky=True)
    done = world.crawl(limit=3, code=3)
    assert "not kept: 2 photos failed (2 http-404)." in last_words(done)


def test_cars_whose_photos_rows_were_lost_get_their_photos_again(new_world: Callable[..., World]) -> None:
    world = new_world(cars=3, photos=2)
    world.crawl()
    world.sql(delete(table).where(table.c.id > 0))
    done = world.crawl()
    assert "6 photos stored" in verdict(done)
    assert verdict(done).endswith("6 of 6 photos of cars for sale are stored.")
    assert world.images().keys() == {identity for car in world.site.cars for identity in car.identities}
    assert world.asked("details") == 2 * 3
    done = world.crawl()
    assert "6 known before" in verdict(done)


def test_photos_that_are_stored_nowhere_are_no_failure(new_world: Callable[..., World]) -> None:
    world = new_world(cars=3, photos=2, env={"IMAGES_STORE": ""})
    for _ in range(2):
        done = world.crawl()
        assert verdict(done).endswith("; photos are stored nowhere (USE_S3_STORAGE is off and IMAGES_STORE is empty).")
    assert newest(world)["images_for_sale"] is None


def test_a_crawl_that_fails_says_it_too(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=2)
    world.crawl()
    world.site.fault("results", ["layout"], sticky=True)
    done = world.crawl(code=4)
    assert verdict(done).startswith("bilasolur: failed. ")
    assert verdict(done).endswith(" 8 of 8 photos of cars for sale are stored.")
    row = newest(world)
    assert (row["status"], row["images_for_sale"], row["images_for_sale_stored"]) == ("failed", 8, 8)
    assert row["why"].endswith(" 8 of 8 photos of cars for sale are stored.")


# ── Cars that the crawl does not see any more ─────────────────────────────────────────────────────


@pytest.fixture
def after_a_bad_night(new_world: Callable[..., World], database_url: str) -> World:
    """Six cars with two photos each, none of which came."""
    world = new_world(cars=6, photos=2, database_url=database_url)
    world.site.fault("photo", ["html200"], sticky=True)
    world.crawl(code=3)
    world.site.clear_faults()
    a_day_passes(world)
    return world


def test_a_car_that_is_sold_after_a_bad_night_keeps_its_photos(after_a_bad_night: World) -> None:
    world = after_a_bad_night
    sold = world.site.cars[0]
    world.site.sell(sold.cid)
    world.crawl(limit=1)
    assert {row["status"] for row in world.images_of(sold)} == {"failed"}, "none of this crawl's business"
    done = world.crawl()
    assert not world.listing(sold)["is_active"]
    assert {row["status"] for row in world.images().values()} == {"stored"}
    assert verdict(done).endswith("10 of 10 photos of cars for sale are stored.")


def test_photos_of_a_sold_car_are_asked_for_until_the_answer_is_final(after_a_bad_night: World) -> None:
    world = after_a_bad_night
    sold = world.site.cars[0]
    world.site.sell(sold.cid)
    world.site.photo_fault(sold.cid, None, ["503"], sticky=True)
    done = world.crawl(code=3, settings={"RETRY_TIMES": 0})
    assert not world.listing(sold)["is_active"]
    said = "not kept: 2 photos of cars that are sold failed, asked for until the answer is final"
    assert f"{said} (2 http-503)." in last_words(done)
    assert "10 of 10 photos of cars for sale are stored" in last_words(done)
    world.site.photo_fault(sold.cid, None, ["404"], sticky=True)
    for _ in (1, 2):
        a_day_passes(world)
        done = world.crawl(code=3)
        assert f"{said} (2 no-fresh-address)." in last_words(done)
    a_day_passes(world)
    assert verdict(world.crawl()).endswith("10 of 10 photos of cars for sale are stored.")
    world.site.reset()
    world.crawl()
    assert (world.asked("photo"), world.asked("details")) == (0, 0)


def test_a_car_off_the_list_gets_its_photos_at_fresh_addresses(after_a_bad_night: World) -> None:
    world = after_a_bad_night
    unlisted, unanswered, *_ = world.site.cars
    world.site.expire_all()
    drop(world, unlisted, unanswered)
    world.site.fault(f"details:{unanswered.cid}", ["never"], sticky=True)
    done = world.crawl(code=3, settings={"DOWNLOAD_TIMEOUT": 1, "RETRY_TIMES": 0})
    assert {row["status"] for row in world.images_of(unlisted)} == {"stored"}
    assert world.listing(unlisted)["is_active"]
    assert "1 missing car for sale still, as the page does not come" in last_words(done)


# ── One picture for all ───────────────────────────────────────────────────────────────────────────


def test_a_night_of_one_picture_and_new_ids_leaves_nothing_to_be_had(new_world: Callable[..., World]) -> None:
    world = new_world(cars=6, photos=2)
    world.site.fault("photo", ["placeholder"], sticky=True)
    world.crawl(code=3)
    world.site.clear_faults()
    a_day_passes(world)
    world.site.renumber_photos()
    world.crawl()
    assert verdict(world.crawl()).endswith("12 of 12 photos of cars for sale are stored.")


class OneForAll(SimulatedBilasolur):
    """A site that can send the first car's first photo for every one."""

    one_for_all = False

    def _photo(self, which: str, request: Request) -> Response:
        first = self.cars[0]
        return super()._photo(f"{first.cid}/{first.photos[0].p}" if self.one_for_all else which, request)


def test_a_photo_that_came_for_every_car_is_kept_for_its_own(new_world: Callable[..., World]) -> None:
    world = new_world(site=OneForAll(cars=5, photos=2))
    world.site.one_for_all = True
    world.crawl(code=3)
    world.site.one_for_all = False
    for _ in range(2):
        a_day_passes(world)
        done = world.crawl(code=None)
    assert verdict(done).endswith("10 of 10 photos of cars for sale are stored.")
    assert len({row["sha256"] for row in world.images().values()}) == 10


def test_pictures_that_a_car_shows_twice_and_that_prove_placeholders_are_fetched_again(
    new_world: Callable[..., World],
) -> None:
    world = new_world(cars=6, photos=4)
    world.site.fault("photo", ["placeholder"], sticky=True)
    world.crawl(code=3)
    world.site.clear_faults()
    for _ in range(2):
        a_day_passes(world)
        done = world.crawl(code=None)
    assert verdict(done).endswith("24 of 24 photos of cars for sale are stored.")
    assert len({row["sha256"] for row in world.images().values()}) == 24
