"""Whose photo an object is, and whether its bytes are what its name says."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.db.engine import open_engine
from carscraper.db.rules import PlaceholderRules
from carscraper.maintenance.register import Candidate, Dealer, ObjectOutcome, PhotoRules, Register
from carscraper.storage.client import S3Options
from carscraper.storage.keys import image_key
from carscraper.storage.objects import THREADS, in_order
from tests.db.test_repairs import NO_BUCKET, Rows
from tests.maintenance.stock import picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

RULES = PhotoRules(
    inspection={"min_width": 200, "min_height": 150, "max_pixels": 10**7, "max_bytes": 10**6},
    placeholders=PlaceholderRules(families=3),
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


OPTIONS = S3Options(bucket="cars", region="r", public_url="https://img.example.is")
DEALERS = {
    "bilasolur": Dealer(source="Bilasolur", identity=lambda address, car: f"{car}/{address[-1]}"),
    "hekla": Dealer(source="Hekla"),
    "br": Dealer(source="not this one"),
}
CARRIED = {"source": "Bilasolur", "external-id": "1", "source-url": "https://bilasolur.is/CarImage.aspx?c=1&p=5"}


@pytest.fixture
def register(stock: Rows, engine: Engine) -> Register:
    stock.car("1")
    stock.car("7", source="BR")
    return Register(None, engine, OPTIONS, RULES, dealers=DEALERS)


def enter(engine: Engine, register: Register, *candidates: Any) -> list[str]:
    assert all(isinstance(each, Candidate) for each in candidates), candidates
    with engine.begin() as connection:
        return [each.what for each in register.write_rows(connection, candidates)]


class TestExamining:
    def test_whose_photo_it_is(self, register: Register) -> None:
        """By the name, and by what the object carries as far as it agrees with the name."""
        for name, carried, car in [
            (key("a"), None, ("Bilasolur", "1")),
            (key("a", "7", "br"), None, ("BR", "7")),  # as the database spells it
            (key("a", "9", "hekla"), None, ("Hekla", "9")),  # as its spider says
            (key("a", spider="bilaland"), {"source": "B%C3%ADlaland", "external-id": "1"}, ("Bílaland", "1")),
            (key("a"), {"source": "Hekla", "external-id": "2"}, ("Bilasolur", "1")),
        ]:
            photo = register.examine(name, picture("a"), carried)
            assert isinstance(photo, Candidate), name
            found = photo.photo
            assert (photo.car, found.width, found.height, found.bytes) == (car, 240, 160, len(picture("a")))
        photo = register.examine(key("a"), picture("a"), CARRIED)
        assert isinstance(photo, Candidate)
        assert (photo.photo.source_url, photo.photo.identity) == (CARRIED["source-url"], "1/5")

    def test_what_is_none(self, register: Register) -> None:
        for name, data, what in [
            (key("a"), picture("b"), "other-bytes"),
            (key("a"), picture("a")[:-40], "not-a-photo"),
            (key("a"), b"", "not-a-photo"),
            (key("a", "1", "nobody"), picture("a"), "unknown-car"),
            ("a.jpg", picture("a"), "foreign"),
        ]:
            found = register.examine(name, data)
            assert isinstance(found, ObjectOutcome), name
            assert found.what == what


class TestRows:
    def test_the_same_twice_at_once_and_one_after_the_other(
        self, stock: Rows, engine: Engine, register: Register
    ) -> None:
        photo = register.examine(key("a"), picture("a"))
        assert enter(engine, register, photo, photo) == ["registered", "known"]
        assert enter(engine, register, photo, photo) == ["known", "known"]
        assert stock.only().position == 0

    def test_a_stored_photo_is_never_replaced(self, stock: Rows, engine: Engine, register: Register) -> None:
        stored = stock.photo(1, "1", 0)
        enter(engine, register, register.examine(key("a"), picture("a")))
        assert stock.only(id=1).key == stored
        assert stock.only(key=key("a")).position == 1
        assert stock.cover("1") == f"{stock.base}/{stored}"

    def test_a_row_in_the_folder_moves(self, stock: Rows, engine: Engine, register: Register) -> None:
        served = "f" * 64
        values = stock.stored(picture("a"), "a.jpg") | {"store": "folder", "url": None, "source_sha256": served}
        stock.row(1, "1/9", **values)
        enter(engine, register, register.examine(key("a"), picture("a")))
        row = stock.only()
        assert (row.store, row.key, row.url) == ("s3://cars", key("a"), f"https://img.example.is/{key('a')}")
        assert row.source_sha256 == served, "how it was served stays known"

    def test_no_second_row_for_a_picture_that_the_car_has(
        self, stock: Rows, engine: Engine, register: Register
    ) -> None:
        """The same bytes under another name, and the same photo of the dealer's with the bytes of another day."""
        stock.row(1, "1/5", source_url=CARRIED["source-url"], **stock.stored(picture("a"), "old/a.jpg"))
        before = stock.rows()
        same_bytes = register.examine(key("a"), picture("a"))
        same_photo = register.examine(key("b"), picture("b"), CARRIED)
        same_identity = register.examine(
            key("c"), picture("c"), CARRIED | {"source-url": "https://bilasolur.is/new?p=5"}
        )
        assert enter(engine, register, same_bytes, same_photo, same_identity) == ["duplicate"] * 3
        assert stock.rows() == before

    def test_a_new_row_has_the_identity_that_a_crawl_gives(
        self, stock: Rows, engine: Engine, register: Register
    ) -> None:
        named, unnamed = register.examine(key("a"), picture("a"), CARRIED), register.examine(key("b"), picture("b"))
        assert enter(engine, register, named, unnamed) == ["registered"] * 2
        row = stock.only(key=key("a"))
        assert (row.identity, row.source_url) == ("1/5", CARRIED["source-url"])
        assert stock.only(key=key("b")).identity.startswith("object/")

    def test_a_dry_run_writes_nothing(self, stock: Rows, engine: Engine) -> None:
        dry = Register(None, engine, OPTIONS, RULES, dealers=DEALERS, dry_run=True)
        stock.car("1")
        photos = [dry.examine(key("a"), picture("a")), dry.examine(key("b", "99"), picture("b"))]
        assert enter(engine, dry, *photos) == ["registered", "unknown-car"]
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
            for number in in_order(pool, work, source()):
                assert taken <= number + 2 * THREADS
        assert number == 50

    def test_what_fails_is_raised_and_the_rest_is_left(self) -> None:
        done = []

        def work(number: int) -> None:
            if number == 3:
                raise ValueError(number)
            done.append(number)
            time.sleep(0.005)

        with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="3"):
            list(in_order(pool, work, range(100)))
        assert len(done) < 30
