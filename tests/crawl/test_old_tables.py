"""Tables that an older program has left in disorder: each car that can be had is had, each other row has a reason."""

from __future__ import annotations

import csv
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.crawl.backfills import stored
from tests.crawl.legacy import Legacy, upgrade
from tests.crawl.test_backfill import backfill, page_of, photo_of, row_of
from tests.crawl.world import World, last_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests import services
    from tests.dealers.cars import Car


def summary(done: services.CompletedCrawl) -> tuple[int, Counter[str]]:
    """How many rows there are, and how many of them became what."""
    found = re.search(r"^([\d,]+) rows: (.*)\.$", done.stdout, re.MULTILINE)
    assert found, done
    parts = (part.split(" ", 1) for part in found[2].split(", "))
    return int(found[1].replace(",", "")), Counter({words: int(number) for number, words in parts})


def report(world: World) -> list[dict[str, str]]:
    with (world.folder / "failures.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_without_an_address_or_a_source_is_of_the_car_that_its_photo_names(
    new_world: Callable[..., World], s3: services.S3, database_url: str
) -> None:
    world = new_world(cars=9, photos=2, env=s3.env, database_url=database_url)
    cars = world.site.cars
    legacy = Legacy(world)
    glued = "https://bilasolur.isCarDetails.aspx?bid=1&cid={}&sid=2"
    for number, (car, changes) in enumerate(
        zip(
            cars,
            [
                {"url": None},
                {"url": ""},
                {"url": "https://bilasolur.is/", "image_url": photo_of(cars[2], host="https://bilasolur.is")},
                {"url": f"CarDetails.aspx?cid={cars[3].cid}", "image_url": None, "source": None},
                {"url": glued.format(cars[4].cid), "image_url": None, "source": ""},
                {"url": None, "source": None},
                {"source": "BILASOLUR", "image_url": None},
                {"source": " bilasolur", "url": "http://[half"},
                {"url": f"https://bilasolur.is/CarDetails.aspx?bid=1&amp;cid={cars[8].cid}", "image_url": ""},
            ],
            strict=True,
        )
    ):
        legacy.add(**row_of(car, number, image_url=photo_of(car)) | changes)
    nowhere = [
        legacy.add(**row_of(cars[0], 99, url=url, image_url=None, source=source))
        for url, source in ((None, "Bilasolur"), ("https://bilasolur.is/?page=1", None), ("Section.aspx", "bilasolur"))
    ]
    upgrade(world)
    done = backfill(world, limit=0, code=3, sources="Bilasolur", report="failures.csv")
    assert stored(world) == {identity for car in cars for identity in car.identities}
    named = {car.cid: row for car in cars for row in [world.listing(car)]}
    assert {row["source"] for row in named.values()} == {"Bilasolur"}
    assert len(world.listings()) == len(cars) + len(nowhere), "no car has got a second row"
    assert summary(done) == (12, {"done": 9, "that name no car": 3})
    assert "3 rows without an id or an address that names the car" in last_words(done)
    assert {int(row["row"]): row["reason"] for row in report(world)} == dict.fromkeys(nowhere, "no-car")
    world.site.reset()
    done = backfill(world, limit=0, code=3)
    assert summary(done) == (12, {"known before": 9, "that name no car": 3})
    assert world.site.served.requests == []
    world.crawl()
    assert world.asked("photo") == 0
    assert len(world.listings()) == len(cars) + len(nowhere)


def test_of_two_rows_the_one_that_was_taken_for_sold_is_no_reason_to_lose_the_car(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    world = new_world(cars=1, photos=2, env=rclone_s3.env)
    (car,) = world.site.cars
    legacy = Legacy(world)
    legacy.add(**row_of(car, 1, is_active=False))
    legacy.add(**row_of(car, 2, last_seen_at=None))
    upgrade(world)
    done = backfill(world)
    assert stored(world) == {*car.identities}
    assert summary(done) == (2, {"done": 1, "second rows of a car": 1})


def toyota(world: World, car: Car, number: int, url: str, **values: Any) -> dict[str, Any]:
    """A row of a dealer without a spider; the simulated site serves its photo."""
    image_url = photo_of(car, host=f"{world.site.base_url}/")
    return row_of(car, number, source="Toyota", url=url, image_url=image_url) | values


def test_no_id_is_guessed_from_a_number_that_rows_share(new_world: Callable[..., World], s3: services.S3) -> None:
    world = new_world(cars=5, photos=1, env=s3.env)
    first, second, third, own, dead = world.site.cars
    world.site.photo_fault(dead.cid, None, ["404"], sticky=True)
    legacy = Legacy(world)
    rows = [
        toyota(world, first, 0, "https://toyota.is/notadir?page=1&mynd=a"),
        toyota(world, second, 1, "https://toyota.is/notadir?page=1&mynd=b"),
        toyota(world, third, 2, "https://toyota.is/notadir?mynd=c&page=1"),
        toyota(world, own, 3, "https://toyota.is/notadir/4711?page=1"),
        toyota(world, dead, 4, ""),
        toyota(world, dead, 5, "https://toyota.is/notadir/4712", image_url=None),
        row_of(dead, 6, source="Hekla", url="https://www.hekla.is/is/bilar/notadir-bilar/view/5"),
    ]
    for row in rows:
        legacy.add(**row)
    upgrade(world)
    done = backfill(world, limit=0, code=4, sources="Toyta")
    assert "sources names 'Toyta'; there are Archive, Askja," in verdict(done)
    assert ", Toyota." in verdict(done)
    assert world.site.served.requests == []
    done = backfill(world, limit=0, code=3, sources="toyota", report="failures.csv")
    ids = {row["image_url"]: row["external_id"] for row in world.listings().values() if row["source"] == "Toyota"}
    assert len({*ids.values()}) == 6
    kept = [row for row in world.images().values() if row["status"] == "stored"]
    assert sorted(world.site.photo_bytes(car.cid, car.photos[0].p, 784) for car in (first, second, third, own)) == (
        sorted(s3.get(row["key"])[0] for row in kept)
    )
    assert {row["key"].partition("/")[0] for row in kept} == {"toyota"}
    assert "4711" in ids.values()
    assert "1" not in ids.values()
    expected = {"done": 4, "with photos that are not kept": 1, "without a page and an address that could be asked": 1}
    assert summary(done) == (7, {**expected, "of other sources": 1})
    assert sorted(row["reason"] for row in report(world)) == ["http-404", "no-address"]


ROWS, CARS, SOLD = 1_000, 120, 15
URLS: dict[str, Callable[[Car, int], str | None]] = {
    "whole": page_of,
    "relative": lambda car, number: f"CarDetails.aspx?bid={car.bid}&cid={car.cid}&schid={number}",
    "glued": lambda car, number: f"https://bilasolur.isCarDetails.aspx?bid=1&cid={car.cid}&schid={number}",
    "escaped": lambda car, number: f"https://bilasolur.is/CarDetails.aspx?bid=1&amp;cid={car.cid}&amp;schid={number}",
    "home": lambda _, number: f"https://bilasolur.is/?page={number}",
    "blank": lambda _, number: " " * number,
    "broken": lambda _, number: f"http://[{number}",
    "script": lambda _, number: f"javascript:void({number})",
    "none": lambda *_: None,
}
IMAGES: dict[str, Callable[[Car], str | None]] = {
    "whole": photo_of,
    "glued": lambda car: photo_of(car, host="https://bilasolur.is"),
    "relative": lambda car: photo_of(car, host=""),
    "empty": lambda _: "",
    "none": lambda _: None,
}
NAMING = {"whole", "relative", "glued", "escaped"}
SOURCES = ("Bilasolur", "Bilasolur", "Bilasolur", "bilasolur", "BILASOLUR", " Bilasolur ", None, "")
FOREIGN = ("https://toyota.is/bill?page=1&m=", "https://toyota.is/notadir/2019?mynd=", "https://toyota.is/", "")


def disorder(world: World, dice: random.Random) -> tuple[list[dict[str, Any]], list[Car | None]]:
    """Rows of an old table, and the cars of the site that these name, of a dealer without a spider none."""
    rows: list[dict[str, Any]] = []
    cars: list[Car | None] = []
    photos = [(car, number) for car in world.site.cars for number in range(2)]
    dice.shuffle(photos)
    while len(rows) < ROWS:
        number, car = len(rows) + 1, dice.choice(world.site.cars)
        changes: dict[str, Any] = {"is_active": dice.random() < 0.9}
        if dice.random() < 0.15 and photos:
            car, place = photos.pop()
            letters = "".join(chr(ord("a") + int(digit)) for digit in str(number))
            start = dice.choice(FOREIGN)
            changes |= {"source": dice.choice(["Toyota", " Toyota "]), "url": f"{start}{letters}" if start else None}
            alive = photo_of(car, place, host=f"{world.site.base_url}/")
            changes["image_url"] = dice.choice([alive, alive, alive, alive.replace("&p=", "&p=9"), None])
            cars.append(None)
        else:
            url, image = dice.choice([*URLS]), dice.choice([*IMAGES])
            changes |= {"source": dice.choice(SOURCES), "url": URLS[url](car, number), "image_url": IMAGES[image](car)}
            cars.append(car if url in NAMING or image in NAMING else None)
        rows.append(row_of(car, number, **changes))
    return rows, cars


@pytest.mark.parametrize(("s3", "seed"), [("rclone", 1), ("moto", 2)], indirect=["s3"])
def test_of_a_thousand_rows_in_disorder_each_car_is_had_and_each_other_row_has_a_reason(
    new_world: Callable[..., World], s3: services.S3, seed: int
) -> None:
    world = new_world(cars=CARS, photos=2, env=s3.env, photo_bytes_average=4_000)
    rows, cars = disorder(world, random.Random(seed))
    Legacy(world).add_all(rows)
    upgrade(world)
    sold = world.site.cars[:SOLD]
    for car in sold:
        world.site.sell(car.cid)
    done = backfill(world, limit=0, code=3, report="failures.csv", timeout=200)

    active = {car.cid for car, row in zip(cars, rows, strict=True) if car and row["is_active"]}
    had = [car for car in world.site.cars if car.cid in active and not car.sold]
    assert len(had) > 0.9 * (CARS - SOLD)
    have = stored(world)
    assert {identity for car in had for identity in car.identities} <= have
    foreign = [row["image_url"] for row in rows if _is_foreign(row) and row["is_active"] and row["image_url"]]
    alive = Counter(world.site.photo_bytes(*found, 784) for found in map(_photo_at, foreign) if found)
    toyotas = {row["external_id"] for row in world.listings().values() if row["source"] == "Toyota"}
    kept = [row for row in world.images().values() if row["external_id"] in toyotas and row["status"] == "stored"]
    objects = [s3.get(row["key"])[0] for row in kept]
    assert Counter(objects) == alive, "each under the source's own name"

    reasons = {int(row["row"]): row["reason"] for row in report(world)}
    after = {row["id"]: row for row in world.listings().values()}
    assert len(after) == ROWS
    complete = {row["id"] for row in after.values() if row["external_id"] in {str(car.cid) for car in had}}
    for row_id, (row, car) in enumerate(zip(rows, cars, strict=True), 1):
        if row_id not in reasons:
            is_had = row_id in complete if not _is_foreign(row) else _photo_at(row["image_url"])
            assert is_had or not row["is_active"], (row, after[row_id])
        elif not _is_foreign(row):
            expected = {"second-row", "car-gone"} if car else {"no-car"}
            assert reasons[row_id] in expected, (row, reasons[row_id])
    total, fates = summary(done)
    assert total == fates.total() == ROWS
    assert fates["done"] >= len(had) + alive.total()
    assert Counter(reasons.values()).items() >= {"no-car": fates["that name no car"]}.items()
    # Once more: nothing is asked for that is there, and the counts add up again.
    world.site.reset()
    done = backfill(world, limit=0, code=3)
    assert {one.kind for one in world.site.served.requests} <= {"robots", "photo"}
    assert summary(done)[0] == summary(done)[1].total() == ROWS


def _is_foreign(row: dict[str, Any]) -> bool:
    return "Toyota" in (row["source"] or "")


def _photo_at(address: str | None) -> tuple[int, int] | None:
    """The car and the photo that an address of the simulated site names, if there is such a photo."""
    found = re.search(r"[?&]c=(\d+)&p=(\d+)", address or "")
    return (int(found[1]), int(found[2])) if found and not found[2].startswith("9") else None
