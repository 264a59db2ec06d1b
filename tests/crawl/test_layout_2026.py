"""The site as it is in 2026: a whole stock, every field, and what stands in the way of reading them."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from tests.crawl.world import World, truth_of, verdict

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_stock_of_110_cars_comes_whole_with_every_photo_and_field(new_world: Callable[..., World]) -> None:
    world = new_world(cars=110, photos=(1, 5), photo_bytes_average=9_000, layout="2026")
    photos = sum(len(car.photos) for car in world.site.cars)
    done = world.crawl()

    assert verdict(done).startswith(f"bilasolur: success. 110 cars (110 new, 0 gone); {photos} photos stored")
    rows, images = world.listings(), world.images()
    assert rows.keys() == {str(car.cid) for car in world.site.cars}
    for car in world.site.cars:
        truth = truth_of(car, world.site.base_url, "2026")
        assert {name: rows[str(car.cid)][name] for name in truth} == truth
    assert images.keys() == {identity for car in world.site.cars for identity in car.identities}
    assert {row["status"] for row in images.values()} == {"stored"}


def test_what_a_seller_writes_is_no_fact_of_the_car(new_world: Callable[..., World]) -> None:
    world = new_world(cars=3, photos=1, layout="2026")
    traps = "Um 400 hestöfl eftir breytingu, 7 manna bíll, ekinn 1.000 km, Fjórhjóladrif. Verð áður kr. 99.990.000"
    for car in world.site.cars:
        car.horsepower = None
        car.description = car.short_note = traps
        car.price, car.price_before_offer = 1_990_000, None
    bare = world.site.cars[2]
    bare.kilometers, bare.hours, bare.is_new = None, 270, False
    world.crawl()
    for car in world.site.cars:
        truth = truth_of(car, world.site.base_url, "2026")
        assert {name: world.listing(car)[name] for name in truth} == truth
    assert world.listing(bare)["kilometers"] is None
    assert {row["horsepower"] for row in world.listings().values()} == {None}


def test_a_price_before_an_offer_is_on_the_page_and_the_card(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=1, layout="2026")
    on_page, on_card, *_ = world.site.cars
    for car in (on_page, on_card):
        world.site.change_price(car.cid, 6_990_000, before_offer=7_590_000)
    world.crawl()
    for car in (on_page, on_card):
        row = world.listing(car)
        assert (row["price"], row["price_before_offer"]) == (6_990_000, 7_590_000)


def test_a_card_whose_link_names_no_car_is_read_by_its_anchor(new_world: Callable[..., World]) -> None:
    world = new_world(cars=6, photos=1, layout="2026", ads_every=1)
    car = world.site.cars[3]
    world.site.card_fault(car.cid, "no-cid")
    world.crawl()
    truth = truth_of(car, world.site.base_url, "2026")
    assert {name: world.listing(car)[name] for name in truth} == truth


def test_the_site_may_change_from_one_layout_to_the_other(new_world: Callable[..., World]) -> None:
    world = new_world(cars=12, photos=2, layout="2019")
    world.crawl()
    before = world.images()
    world.site.layout, world.site.forms = "2026", ["advanced"]
    done = world.crawl(code=3)
    assert "partial. 12 cars (0 new, 0 gone); 0 photos stored" in done.stderr
    assert "fall.page.body" in verdict(done), "the new pages do not say it, and nothing else is missing"
    assert world.images().keys() == before.keys()
    for car in world.site.cars:
        truth = truth_of(car, world.site.base_url, "2026") | {"body": car.body.lower()}
        row = world.listing(car)
        assert {name: row[name] for name in truth} == truth
        assert isinstance(row["source_updated_at"], dt.date)
