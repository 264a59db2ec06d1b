"""Whose photo an object is, and whether its bytes are what its name says."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from carscraper.db import inventory
from carscraper.db.engine import open_engine
from carscraper.db.queries import PlaceholderRules
from carscraper.storage.keys import image_key
from carscraper.upkeep.entry import Cars, Entering, Outcome, Photo, PhotoRules, examine, in_order
from tests.db.test_inventory import NO_BUCKET, Rows
from tests.upkeep.stock import picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

RULES = PhotoRules(
    min_width=200, min_height=150, max_pixels=10**7, max_bytes=10**6, placeholders=PlaceholderRules(families=3)
)


def key(name: str, external_id: str = "1", spider: str = "bilasolur") -> str:
    sha256 = hashlib.sha256(picture(name)).hexdigest()
    return image_key(
        spider=spider, year=2019, make="Kia", model="Rio", external_id=external_id, sha256=sha256, extension="jpg"
    )


@pytest.fixture
def stock(database_url: str) -> Rows:
    return Rows(database_url, NO_BUCKET)


@pytest.fixture
def engine(stock: Rows) -> Iterator[Engine]:
    made = open_engine(stock.url, timeout=5)
    yield made
    made.dispose()


@pytest.fixture
def cars(stock: Rows, engine: Engine) -> Cars:
    stock.car("1")
    stock.car("7", source="BR")
    return Cars(engine=engine, prefix="", named={"hekla": "Hekla", "br": "not this one"})


class TestWhose:
    def test_by_the_name(self, cars: Cars) -> None:
        assert (whose := cars.whose(key("a")))
        assert (whose.source, whose.external_id) == ("Bilasolur", "1")
        assert (whose := cars.whose(key("a", "7", "br")))
        assert whose.source == "BR", "as the database spells it"
        assert (whose := cars.whose(key("a", "9", "hekla")))
        assert whose.source == "Hekla", "as its spider says"
        assert cars.whose(key("a", "9", "nobody")) is None
        assert cars.whose("notes.txt") is None

    def test_what_an_object_carries_must_agree_with_its_name(self, cars: Cars) -> None:
        carried = {"source": "B%C3%ADlaland", "external-id": "1"}
        assert (whose := cars.whose(key("a", spider="bilaland"), carried))
        assert whose.source == "Bílaland"
        assert (whose := cars.whose(key("a"), {"source": "Hekla", "external-id": "2"}))
        assert (whose.source, whose.external_id) == ("Bilasolur", "1")

    def test_which_are_known(self, cars: Cars) -> None:
        names = [key("a"), key("a", "2"), key("a", "7", "br"), key("a", "ÁB 12"), "notes.txt"]
        assert cars.known(names) == {names[0], names[2]}
        assert cars.may_be_known(names) == {names[0], names[2], names[3]}


class TestExamine:
    def test_a_photo(self, cars: Cars) -> None:
        photo = examine(key("a"), picture("a"), {"source-url": "https://bilasolur.is/x"}, cars, RULES)
        assert isinstance(photo, Photo)
        assert (photo.width, photo.height, photo.size) == (240, 160, len(picture("a")))
        assert photo.source_url == "https://bilasolur.is/x"

    @pytest.mark.parametrize(
        ("name", "data", "what"),
        [
            (key("a"), picture("b"), "other-bytes"),
            (key("a"), picture("a")[:-40], "not-a-photo"),
            (key("a"), b"", "not-a-photo"),
            (key("a", "1", "nobody"), picture("a"), "unknown-car"),
            ("a.jpg", picture("a"), "foreign"),
        ],
    )
    def test_what_is_none(self, cars: Cars, name: str, data: bytes, what: str) -> None:
        found = examine(name, data, None, cars, RULES)
        assert isinstance(found, Outcome)
        assert found.what == what


class TestEntering:
    @pytest.fixture
    def entering(self) -> Entering:
        return Entering(location="s3://cars", base="https://img.example.is", rules=RULES.placeholders)

    def photo(self, cars: Cars, name: str, external_id: str = "1") -> Photo:
        found = examine(key(name, external_id), picture(name), None, cars, RULES)
        assert isinstance(found, Photo)
        return found

    def test_the_same_twice_at_once_and_one_after_the_other(
        self, stock: Rows, engine: Engine, cars: Cars, entering: Entering
    ) -> None:
        photo = self.photo(cars, "a")
        for _ in range(2):
            with engine.begin() as connection:
                found = entering.enter(connection, [photo, photo])
        assert [each.what for each in found] == ["known", "known"]
        assert stock.only().position == 0

    def test_a_stored_photo_is_never_replaced(
        self, stock: Rows, engine: Engine, cars: Cars, entering: Entering
    ) -> None:
        stored = stock.photo(1, "1", 0)
        photo = self.photo(cars, "a")
        with engine.begin() as connection:
            entering.enter(connection, [photo])
        assert stock.only(id=1).key == stored
        assert stock.only(key=photo.name).position == 1
        assert stock.cover("1") == f"{stock.base}/{stored}"

    def test_a_row_in_the_folder_moves(self, stock: Rows, engine: Engine, cars: Cars, entering: Entering) -> None:
        served = "f" * 64
        values = stock.stored(picture("a"), "a.jpg") | {"store": "folder", "url": None, "source_sha256": served}
        stock.row(1, "1/9", **values)
        photo = self.photo(cars, "a")
        with engine.begin() as connection:
            entering.enter(connection, [photo])
        row = stock.only()
        assert (row.store, row.key, row.url) == ("s3://cars", photo.name, f"https://img.example.is/{photo.name}")
        assert row.source_sha256 == served, "how it was served stays known"

    def test_foreseeing_writes_nothing(self, stock: Rows, engine: Engine, cars: Cars, entering: Entering) -> None:
        photos = [self.photo(cars, "a"), self.photo(cars, "b", "99")]
        with inventory.reading(engine) as connection:
            found = entering.foresee(connection, photos)
        assert [each.what for each in found] == ["entered", "unknown-car"]
        assert stock.rows() == []


class TestInOrder:
    def test_the_order_is_kept_and_little_is_taken_ahead(self) -> None:
        taken = 0
        under_way = threading.Semaphore(4)

        def source() -> Iterator[int]:
            nonlocal taken
            while taken < 50:
                taken += 1
                yield taken

        def work(number: int) -> int:
            assert under_way.acquire(blocking=False), "more at once than the pool has threads"
            time.sleep(0.001 * (number % 3))
            under_way.release()
            return number

        with ThreadPoolExecutor(4) as pool:
            for number in in_order(pool, work, source(), ahead=8):
                assert taken <= number + 8
        assert number == 50

    def test_what_fails_is_raised_and_the_rest_is_left(self) -> None:
        done = []

        def work(number: int) -> None:
            if number == 3:
                raise ValueError(number)
            done.append(number)
            time.sleep(0.005)

        with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="3"):
            list(in_order(pool, work, range(100), ahead=10))
        assert len(done) < 20
