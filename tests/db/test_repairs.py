"""What an audit may change in the ledger, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from carscraper.db import inventory, repairs
from carscraper.db.engine import open_engine
from tests import services
from tests.maintenance.stock import Stock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

NO_BUCKET = services.S3(
    endpoint="http://127.0.0.1:9", bucket="cars", region="r", access_key="", secret_key="", kind="none"
)
STORE = "s3://cars"


class Rows(Stock):
    """Rows without objects."""

    def put(self, name: str, data: bytes, **options: Any) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def stock(database_url: str) -> Rows:
    return Rows(database_url, NO_BUCKET)


@pytest.fixture
def engine(stock: Rows) -> Iterator[Engine]:
    made = open_engine(stock.url, timeout=5)
    yield made
    made.dispose()


def test_only_rows_of_this_store_below_the_prefix_are_compared(stock: Rows, engine: Engine) -> None:
    car = stock.car("1")
    for number, name in enumerate(["cars/1", "cars/2", "cars", "cars0", "car", "cars/\U0010fffd"]):
        stock.row(car, f"1/{number}", **stock.stored(b"x", name))
    stock.row(car, "1/x", **stock.stored(b"x", "cars/9") | {"store": "folder"})
    stock.row(car, "1/y", **stock.stored(b"x", "") | {"key": None})
    stock.row(car, "1/z", **stock.stored(b"x", "cars/p") | {"status": "failed", "reason": "placeholder"})
    with inventory.comparing(engine, STORE, "cars/") as comparison:
        comparison.add(
            [{"name": name, "kind": "photo", "photo": None, "size": 1, "modified": 0} for name in ("cars/1", "cars/p")]
        )
        assert comparison.count() == {"rows": 4, "keys": 1}
        comparison.find_objects()
        assert list(comparison.unnamed()) == []
        found = [(each.reason, each.key) for group in comparison.suspects(2) for each in group]
        assert sorted(found) == [("missing", "cars/2"), ("missing", "cars/\U0010fffd")]
    with engine.connect() as connection:
        assert inventory.elsewhere(connection, STORE, "cars/") == {"folder": 1, "outside": 3}
        assert inventory.elsewhere(connection, STORE, "") == {"folder": 1}


def test_a_reader_keeps_no_writer_waiting(sqlite_url: str, tmp_path: Path) -> None:
    stock = Rows(sqlite_url, NO_BUCKET)
    stock.cars(2)
    engine = open_engine(sqlite_url, timeout=0.2)
    with repairs.reading(engine) as connection:
        connection.execute(text("SELECT * FROM car_images")).all()
        with engine.begin() as other:
            other.execute(text("UPDATE car_images SET position = 9"))
    engine.dispose()


def test_only_cars_with_stored_photos_that_show_none_of_them(stock: Rows, engine: Engine) -> None:
    stock.cars(3)
    stock.change_car(1, image_url="https://bilasolur.is/temporary")
    stock.change_car(2, image_url=None)
    without = stock.car("9", image_url="https://bilasolur.is/temporary")
    stock.row(without, "9/0")
    elsewhere = stock.car("10", image_url="https://bilasolur.is/temporary")
    stock.row(elsewhere, "10/0", **stock.stored(b"x", "x") | {"store": "folder", "url": None})
    with inventory.comparing(engine, STORE, "") as comparison:
        comparison.find_covers(lambda _: False)
        (found,) = [each for group in comparison.suspects(9) for each in group]
        assert (found.listing_id, found.key, found.shows) == (1, "Bilasolur/1", "https://bilasolur.is/temporary")
    with engine.begin() as connection:
        assert repairs.set_covers(connection, {1: "something else", 2: "x"}) == 0
        assert repairs.set_covers(connection, {1: "https://bilasolur.is/temporary"}) == 1
    assert stock.cover("1") == stock.only(identity="1/0").url


class TestLose:
    def test_the_car_shows_the_next_one(self, stock: Rows, engine: Engine) -> None:
        first, second, *_ = stock.cars(2)
        with engine.begin() as connection:
            assert repairs.lose(connection, STORE, {1: first}) == [1]
        row = stock.only(identity="1/0")
        assert (row.status, row.reason, row.key, row.url, row.store) == ("pending", None, None, None, None)
        assert row.sha256, "so that it is known again should the object come back"
        assert row.source_url.startswith("https://bilasolur.is/")
        assert stock.cover("1") == f"{stock.base}/{second}"
        with engine.begin() as connection:
            repairs.lose(connection, STORE, {2: second})
        assert stock.cover("1") is None, "never the dealer's address"

    @pytest.mark.parametrize(
        "since", [{"key": "other"}, {"store": "folder"}, {"status": "failed"}], ids=["key", "store", "status"]
    )
    def test_what_has_changed_since_stays(self, stock: Rows, engine: Engine, since: dict[str, str]) -> None:
        key, *_ = stock.cars(1)
        stock.change(key, **since)
        before = stock.rows()
        with engine.begin() as connection:
            assert repairs.lose(connection, STORE, {1: key}) == []
        assert stock.rows() == before

    def test_another_cover_stays(self, stock: Rows, engine: Engine) -> None:
        key, *_ = stock.cars(1)
        stock.change_car(1, image_url="https://img.example.is/chosen.jpg")
        with engine.begin() as connection:
            repairs.lose(connection, STORE, {1: key})
        assert stock.cover("1") == "https://img.example.is/chosen.jpg"


def test_known_keys_and_rows(stock: Rows, engine: Engine) -> None:
    keys = stock.cars(1)
    stock.change(keys[1], store="folder", status="failed")
    with engine.connect() as connection:
        assert repairs.known_keys(connection, STORE, [*keys, "x"]) == {keys[0]}
        assert repairs.known_keys(connection, None, [*keys, "x"]) == set(keys)
        assert repairs.rows_of(connection, STORE, keys) == {1: keys[0]}
        assert repairs.sources(connection) == ["Bilasolur"]


def test_set_urls_and_hashes_only_where_the_key_is_still_the_same(stock: Rows, engine: Engine) -> None:
    first, second = stock.cars(1)
    stock.change(first, sha256=None, url=None)
    stock.change(second, sha256=None, url=None)
    with engine.begin() as connection:
        assert repairs.set_urls(connection, STORE, {1: (first, "new"), 2: ("other", "new")}) == 1
        assert repairs.set_hashes(connection, {1: (first, "ab", 3), 2: ("other", "ab", 3)}) == 1
    assert [(row.url, row.sha256) for row in stock.rows()] == [("new", "ab"), (None, None)]


def test_a_car_is_made_once(stock: Rows, engine: Engine) -> None:
    with engine.begin() as connection:
        first = repairs.create_car(connection, "Hekla", "7", make="Kia", model=None, year=2019)
        again = repairs.create_car(connection, "Hekla", "7", make="Other", model=None, year=1999)
    assert first == again
    row = stock.listing("7")
    assert row is not None
    assert (row.make, row.year, row.is_active, row.url) == ("Kia", 2019, False, None)
