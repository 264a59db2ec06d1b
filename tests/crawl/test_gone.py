"""A page that says "gone" is a word, not yet a fact: no car is marked and no photo given up by one site's bad night."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.crawl.test_site_changes import active, drop
from tests.crawl.world import World, last_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable


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
