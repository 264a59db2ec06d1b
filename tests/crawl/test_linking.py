"""One car at many sites: linked right, each photo kept once, and asked for as rarely as can be."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from carscraper.db.models import CarImageRow, CarListing
from tests.crawl.world import World
from tests.dealers import cars as invented
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.dealers.br import SimulatedBr
from tests.dealers.brimborg import SimulatedBrimborg
from tests.dealers.hekla import SimulatedHekla

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests import services
    from tests.dealers.listing import SimulatedListing

CARS = 60
PHOTOS = 2
OTHER_IDS = 500_000
"""What sites that are not on the Rögg platform add to a car's id, so that theirs are others."""
ORDERS = {"sqlite": ("br", "hekla", "brimborg", "bilasolur"), "postgresql": ("bilasolur", "brimborg", "hekla", "br")}


def dealer_of(number: int) -> str:
    return ("br", "hekla", "brimborg")[number * 3 // CARS]


def take(site: SimulatedListing, dealer: str) -> SimulatedListing:
    """Leave the site the cars of its dealer, under ids of its own; what their photos show stays."""
    site.cars = [
        dataclasses.replace(car, cid=car.cid + OTHER_IDS) for car in site.cars if dealer_of(car.number) == dealer
    ]
    site._all = {car.cid: car for car in site.cars}
    return site


@pytest.fixture
def sites(new_site: Callable[..., Any]) -> dict[str, Any]:
    """Four sites of the same cars: the aggregator has all, each dealer a third."""
    rogg = {"cars": CARS, "photos": PHOTOS, "photo_bytes_average": 20_000}
    br = SimulatedBr(**rogg)
    br.cars = [car for car in br.cars if dealer_of(car.number) == "br"]
    return {
        "bilasolur": new_site(SimulatedBilasolur(**rogg)),
        "br": new_site(br),
        "hekla": new_site(take(SimulatedHekla(cars=CARS), "hekla")),
        "brimborg": new_site(take(SimulatedBrimborg(cars=CARS), "brimborg")),
    }


def number_of(row: Any) -> int:
    """Which of the invented cars a listing is."""
    number = invented.number_of(int(row["external_id"]) - (OTHER_IDS if row["source"] in {"Hekla", "Brimborg"} else 0))
    assert number is not None
    return number


def listings(world: World) -> list[Any]:
    return world.sql(sqlalchemy.select(CarListing.__table__).order_by(CarListing.id))


def pairs(world: World) -> dict[int, tuple[str, str]]:
    """By car: the site whose listing points to another, and where that is; two cars linked as one fail here."""
    rows = {row["id"]: row for row in listings(world)}
    found = {}
    for row in rows.values():
        if row["same_as"] is not None:
            preferred = rows[row["same_as"]]
            assert number_of(row) == number_of(preferred), (row, preferred)
            assert preferred["same_as"] is None
            assert number_of(row) not in found
            found[number_of(row)] = (row["source"], preferred["source"])
    return found


def test_the_cars_of_four_sites_are_linked_right_and_each_photo_is_stored_once(
    sites: dict[str, Any],
    database_url: str,
    rclone_s3: services.S3,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    order = ORDERS[request.node.callspec.params["database_url"]]
    world = World(site=sites["bilasolur"], folder=tmp_path, database_url=database_url, env=rclone_s3.env)
    asked = {}
    for spider in order:
        world.site = sites[spider]
        world.crawl(spider=spider)
        asked[spider] = world.asked("photo")

    rows = listings(world)
    assert len(rows) == 2 * CARS
    names = {"br": "BR", "hekla": "Hekla", "brimborg": "Brimborg"}
    # All, no other, and the dealer's own is always the preferred one.
    assert pairs(world) == {number: ("Bilasolur", names[dealer_of(number)]) for number in range(CARS)}
    assert not any(row["link_due"] for row in rows)

    # Hekla shows every third of its photos in another size: other bytes, so another photo.
    in_another_size = {car.number for car in sites["hekla"].cars if car.number % 3 == 0}
    of_dealers = {dealer: list(map(dealer_of, range(CARS))).count(dealer) for dealer in names}
    images = world.sql(sqlalchemy.select(CarImageRow.__table__))
    assert {row["status"] for row in images} == {"stored"}
    assert len(images) == PHOTOS * (CARS + of_dealers["br"]) + of_dealers["hekla"] + of_dealers["brimborg"]
    different = {row["sha256"] for row in images}
    assert len(different) == PHOTOS * CARS + len(in_another_size)
    objects = rclone_s3.objects()
    assert objects.keys() == {row["key"] for row in images}
    assert len(objects) == len(different)

    # What br.is shares with bilasolur.is was asked for at one of the two, whichever was first.
    assert asked["br"] + asked["bilasolur"] == PHOTOS * CARS
    assert asked["bilasolur" if order[0] == "br" else "br"] == PHOTOS * (CARS - of_dealers["br"]) * (order[0] == "br")
    assert {dealer: asked[dealer] for dealer in ("hekla", "brimborg")} == {
        dealer: of_dealers[dealer] for dealer in ("hekla", "brimborg")
    }
    # Only the photos of cars that nothing else had linked were looked at.
    (compared,) = world.sql("SELECT count(*) AS number FROM image_likeness")
    assert len(in_another_size) < compared["number"] < 6 * len(in_another_size)


def test_what_a_crawl_could_not_link_the_next_one_links(sites: dict[str, Any], sqlite_url: str, tmp_path: Path) -> None:
    """Whatever dealer it is of; and a sold car makes way for its other listing."""
    for site in sites.values():
        site.cars = [car for car in site.cars if car.number % 6 == 0]
    world = World(site=sites["bilasolur"], folder=tmp_path, database_url=sqlite_url)
    for spider in ("bilasolur", "br", "brimborg"):
        world.site = sites[spider]
        # As if each had been killed after its last car.
        world.crawl(spider=spider, settings={"LINK_SAME_CARS": "false"})
    assert pairs(world) == {}
    world.site = sites["hekla"]
    done = world.crawl(spider="hekla")
    assert len(pairs(world)) == CARS // 6, done

    sold = sites["br"].cars[0]
    sites["br"].sell(sold.cid)
    world.site = sites["br"]
    world.crawl(spider="br")
    assert pairs(world)[sold.number] == ("BR", "Bilasolur")
    assert len(pairs(world)) == CARS // 6

    before = listings(world)
    world.crawl(spider="br")
    unchanged = ("id", "same_as", "is_active", "link_due")
    assert [[row[name] for name in unchanged] for row in listings(world)] == [
        [row[name] for name in unchanged] for row in before
    ]
