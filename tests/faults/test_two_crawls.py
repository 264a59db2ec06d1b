"""Two crawls of the same source at once: exact counts, no double rows, no error that anybody sees."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from copy import deepcopy

import sqlalchemy

from carscraper.db.ledger import Ledger
from carscraper.items import CarImage, CarItem
from tests.faults.helpers import Ended, World, assert_nothing_lost, ended


def two_crawls(world: World) -> list[Ended]:
    with world.start(CRAWL_LOCK="false") as first, world.start(CRAWL_LOCK="false") as second:
        return [ended(first.wait()), ended(second.wait())]


def test_two_crawls_at_once(either_world: World) -> None:
    world = either_world
    for done in two_crawls(world):  # also the tables are made by both
        assert done.code == 0, done
        done.no_errors()
    assert_nothing_lost(world, complete=True)
    assert world.rows("SELECT count(*) FROM car_listings") == [(20,)]
    assert world.rows("SELECT count(*) FROM car_images") == [(120,)]
    assert world.rows("SELECT count(*) FROM price_changes") == [(0,)]

    priced = [car for car in world.site.cars if car.price]
    for car in priced[:8]:
        world.site.change_price(car.cid, car.price + 10_000)
    world.site.reset()
    for done in two_crawls(world):
        assert done.code == 0, done
        done.no_errors()
    assert world.photos_served() == 0
    assert_nothing_lost(world, complete=True)
    assert world.rows("SELECT count(*) FROM car_listings") == [(20,)]
    changes = world.rows("SELECT listing_id, new_price - old_price FROM price_changes")
    assert Counter(change for _, change in changes) == {10_000: 8}
    assert len({listing_id for listing_id, _ in changes}) == 8


CARS, PHOTOS, ROUNDS, WRITERS = 60, 4, 12, 4


def car(number: int, price: int) -> CarItem:
    external_id = f"{number:05d}"
    images = [
        CarImage(
            identity=f"{external_id}/{n}",
            source_url=f"https://bilasolur.is/CarImage.aspx?c={external_id}&p={n}",
            position=n,
            status="stored",
            attempts=1,
            store="s3://b",
            key=f"{external_id}_{n}.jpg",
            url=f"https://b.example/{external_id}_{n}.jpg",
            sha256=f"{number * 10 + n:064x}",
            source_sha256=f"{number * 10 + n:064x}" if n else f"{number % 5:064x}",  # some bytes on several cars
            bytes=1000,
            width=640,
            height=480,
            content_type="image/jpeg",
        )
        for n in range(PHOTOS)
    ]
    return CarItem(
        source="Bilasolur",
        external_id=external_id,
        url=f"https://bilasolur.is/CarDetails.aspx?cid={external_id}",
        make=f"Make{number % 7}",
        model="Model",
        price=price,
        images=images,
        image_urls=[image.source_url for image in images],
    )


def write(url: str, seed: int, errors: list[BaseException]) -> None:
    """One writer: the same cars in another order each time, in groups that overlap those of the others."""
    dice = random.Random(seed)

    async def work() -> None:
        ledger = Ledger(url, timeout=20, patience=20)
        await ledger.open()
        try:
            for number in range(ROUNDS):
                cars = [car(n, price=1_000_000 + number) for n in range(CARS)]
                dice.shuffle(cars)
                half = deepcopy(cars[: CARS // 2])
                saved = await asyncio.gather(*(ledger.save(item) for item in [*cars, *half]))
                assert not [one.error for one in saved if one.error]
        finally:
            ledger.close()

    try:
        asyncio.run(work())
    except BaseException as error:
        errors.append(error)


def test_four_writers_of_the_same_cars(database_url: str) -> None:
    """Neither deadlocks nor "locked", and nothing twice."""
    errors: list[BaseException] = []
    writers = [threading.Thread(target=write, args=(database_url, seed, errors)) for seed in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert not errors
    engine = sqlalchemy.create_engine(database_url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        listings = list(connection.execute(sqlalchemy.text("SELECT external_id, price FROM car_listings")))
        images = connection.scalar(sqlalchemy.text("SELECT count(*) FROM car_images"))
        attempts = connection.scalar(sqlalchemy.text("SELECT min(attempts) FROM car_images"))
    assert sorted(listing.external_id for listing in listings) == [f"{n:05d}" for n in range(CARS)]
    assert images == CARS * PHOTOS
    assert attempts >= 1
