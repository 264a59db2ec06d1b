"""Fields that vanish are noticed: on the first night by what is expected of a dealer, later by a fall."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.cli.used_cars import CARD, UsedCars
from tests.crawl.world import FUELS, World, last_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMAND = "`scrapy checkdealers` shows every field"
NO_PRICE = CARD.replace("6.290.000 kr.", "hafið samband")
NEVER = CARD.replace("<p>20.000</p>", "").replace("<p>Rafmagn</p>", "").replace("<img ", "<i ").replace("12.2023", "")
"""A card on which there is neither distance nor fuel nor year, nor a photo."""
HOOKS = {"kilometers": "get_kilometers", "fuel": "get_fuel", "year": "get_year_month", "photo": "card_images"}


@pytest.fixture
def used_cars() -> Iterator[UsedCars]:
    with UsedCars(cars=20) as site:
        yield site


@pytest.fixture
def hekla(used_cars: UsedCars, tmp_path: Path, sqlite_url: str) -> World:
    return World(site=used_cars, folder=tmp_path, database_url=sqlite_url, spider="hekla", env={"IMAGES_STORE": ""})


def monitors(world: World) -> dict[str, bool]:
    row = world.sql("SELECT * FROM crawl_runs ORDER BY id DESC LIMIT 1")[0]
    return {each["name"]: each["passed"] for each in json.loads(row["monitors"])}


def test_fields_that_no_car_has_make_the_first_crawl_partial_and_every_further_one(hekla: World) -> None:
    hekla.site.card = NEVER
    for night in range(2):
        lines = [line for line in last_words(hekla.crawl(code=3)).splitlines() if "expected." in line]
        assert len(lines) == len(HOOKS), night
        for field, hook in HOOKS.items():
            (line,) = [
                line for line in lines if f"expected.{field}: 0 of 20 cars have {field} (0 %), at least " in line
            ]
            assert f"see {hook} of HeklaSpider in " in line
            assert line.endswith(COMMAND)
        assert {name for name, passed in monitors(hekla).items() if not passed} == {
            f"expected.{name}" for name in HOOKS
        }
    (row,) = hekla.sql("SELECT * FROM crawl_runs WHERE id = 1")
    assert (row["status"], row["exit_code"]) == ("partial", 3)
    assert not hekla.sql("SELECT * FROM dealer_fill WHERE good"), "what lacks a field is nobody's measure"


def test_every_expectation_is_looked_at_and_met_by_a_healthy_stock(hekla: World) -> None:
    hekla.site.card = CARD
    assert verdict(hekla.crawl()).startswith("hekla: success. 20 cars")
    names = ("photo", "make", "year", "price", "kilometers", "fuel")
    assert monitors(hekla) == {f"expected.{name}": True for name in names}


def test_a_field_that_falls_is_named_until_it_is_accepted(hekla: World) -> None:
    # Above what is expected (17 of 20 have a price), and a third fewer than the day before have gears.
    hekla.site.card = CARD.replace("<p>Rafmagn</p>", "<p>Rafmagn</p><p>Sjálfskiptur</p>")
    hekla.crawl()
    hekla.site.card = CARD
    for _ in range(2):
        done = hekla.crawl(code=3)
        said = (
            "hekla: limit not kept: fall.transmission: transmission fell from 100 % to 0 % since the last good crawl: "
        )
        assert f"{said}see get_transmission of HeklaSpider in base_spiders/cards.py; {COMMAND}" in last_words(done)
        assert monitors(hekla)["fall.transmission"] is False
    hekla.command("checkdealers", "--sources", "hekla", "--accept")
    hekla.crawl()
    assert "fall.transmission" not in monitors(hekla)


def test_a_crawl_of_a_part_is_judged_too_if_it_is_large_enough(hekla: World) -> None:
    hekla.site.card = NO_PRICE
    assert "expected.price: 0 of 8 cars have price" in last_words(hekla.crawl(limit=8, code=3))
    hekla.crawl(limit=4)
    assert not monitors(hekla)


def test_a_dealer_or_a_field_can_be_ignored(hekla: World) -> None:
    hekla.site.card = NO_PRICE
    hekla.crawl(code=3, settings={"MONITOR_IGNORE_FIELDS": "br, hekla.fuel"})
    assert "expected.fuel" not in monitors(hekla)
    hekla.crawl(settings={"MONITOR_IGNORE_FIELDS": "hekla"})
    hekla.site.card = CARD
    hekla.crawl()
    hekla.site.card = NO_PRICE
    hekla.crawl(settings={"MONITOR_IGNORE_FIELDS": "br,hekla.price"})
    done = hekla.crawl(code=4, settings={"MONITOR_IGNORE_FIELDS": "hekle"})
    assert "MONITOR_IGNORE_FIELDS is 'hekle'; write dealers (askja, " in verdict(done)


def test_a_few_cars_without_a_field_are_ordinary(new_world: Callable[..., World]) -> None:
    world = new_world(cars=6, photos=1)
    world.site.cars[0].price = world.site.cars[1].kilometers = None
    for _ in range(2):
        world.crawl()
    assert all(monitors(world).values())


# --- a site whose cars have pages of their own -------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["2019", "2026"])
def test_distance_and_fuel_of_no_car_is_no_success(new_world: Callable[..., World], layout: str) -> None:
    world = new_world(cars=30, photos=1, layout=layout)
    without = (*FUELS, "km", "Nýtt")
    world.site.page_steps = {"changed": tuple((word, "…") for word in without if word)}
    for kind in ("results", "details"):
        world.site.fault(kind, ["changed"], sticky=True)
    words = last_words(world.crawl(code=3))
    for field in ("kilometers", "fuel"):
        assert re.search(rf"expected\.{field}: [0-9] of 30 cars have {field} \([0-9.]+ %\), at least ", words), words
        assert f"see get_{field} of BilasolurSpider in base_spiders/rogg.py" in words


def test_after_a_good_crawl_too(new_world: Callable[..., World]) -> None:
    world = new_world(cars=30, photos=1)
    world.crawl()
    world.site.page_steps = {"changed": (("car-price", "c-p"),)}
    world.site.fault("results", ["changed"], sticky=True)
    # A renamed class leaves a card's text as it was: the ledger has the price, and the card shows it no more.
    assert "fall.price: price fell from " in last_words(world.crawl(code=3))


def test_what_the_ledger_knows_of_an_unchanged_car_did_not_vanish(new_world: Callable[..., World]) -> None:
    world = new_world(cars=20, photos=1)
    for car in world.site.cars:
        car.fuel = None
    world.crawl(code=3)
    world.sql("UPDATE car_listings SET fuel = 'petrol'")  # as a car's own page may have said on an earlier visit
    world.crawl()
    assert monitors(world)["expected.fuel"] is True
