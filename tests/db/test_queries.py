"""The ledger's SQL over both databases: what a save may change, and what it must never."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, event, func, insert, select, text, update

from carscraper.db import cars as car_rows
from carscraper.db import photos as photo_rows
from carscraper.db import placeholders, rules, schema
from carscraper.db.engine import open_engine
from carscraper.db.models import CarImageRow, CarListing, PriceChange
from carscraper.db.opening import Saved
from carscraper.db.rules import DECIDED_HERE, FINAL_BY_DAYS, PlaceholderRules, RetryRules
from carscraper.items import CarImage, CarItem, GoneCar
from carscraper.spiders.backfill import BackfillSpider

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

listings: Any = CarListing.__table__
images: Any = CarImageRow.__table__
price_changes: Any = PriceChange.__table__

S3 = "s3://car-photos"
SOURCE = "Bilasolur"
OFF = PlaceholderRules(families=0)


def url_of(external_id: str) -> str:
    return f"https://bilasolur.is/CarDetails.aspx?bid=76&cid={external_id}&sid=1"


def car(external_id: str = "1", **changes: Any) -> CarItem:
    known: dict[str, Any] = {"source": SOURCE, "external_id": external_id, "url": url_of(external_id)}
    return CarItem(**{**known, **changes})


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pending(photo: str = "1/1", **changes: Any) -> CarImage:
    address = f"https://bilasolur.is/CarImage.aspx?c={photo.replace('/', '&p=')}&w=1280"
    return CarImage(**{"identity": photo, "source_url": address, **changes})


def stored(photo: str = "1/1", content: str = "", **changes: Any) -> CarImage:
    served = sha256(content or photo)
    known: dict[str, Any] = {
        "status": "stored",
        "attempts": 1,
        "store": S3,
        "key": f"bilasolur/{photo}_{served[:12]}.jpg",
        "url": f"https://img.example.is/bilasolur/{photo}_{served[:12]}.jpg",
        "sha256": sha256(f"kept {content or photo}"),
        "source_sha256": served,
        "bytes": 1000,
        "width": 1280,
        "height": 853,
        "content_type": "image/jpeg",
    }
    return pending(photo, **{**known, **changes})


def failed(photo: str = "1/1", reason: str = "http-404", **changes: Any) -> CarImage:
    return pending(photo, **{"status": "failed", "reason": reason, "attempts": 1, **changes})


class Ledger:
    """A database with tables, and short ways to use it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def save(self, *items: CarItem | GoneCar, rules: PlaceholderRules | None = None) -> list[Saved]:
        with self.engine.begin() as connection:
            return car_rows.save(connection, list(items), rules or PlaceholderRules())

    def ask(self, function: Any, *arguments: Any) -> Any:
        with self.engine.begin() as connection:
            return function(connection, *arguments)

    def rows(self, table: Any = listings, **where: Any) -> list[Any]:
        query = select(table).order_by(table.c.id)
        for name, value in where.items():
            query = query.where(table.c[name] == value)
        with self.engine.begin() as connection:
            return list(connection.execute(query).all())

    def row(self, table: Any = listings, **where: Any) -> Any:
        (row,) = self.rows(table, **where)
        return row

    def change(self, table: Any, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(update(table).values(**values))

    def add_legacy(self, **values: Any) -> int:
        with self.engine.begin() as connection:
            connection.execute(insert(listings).values(**values))
        return int(self.rows()[-1].id)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def one_ledger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One database of each kind for the whole module: the migrations take longer than most tests."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('queries') / 'carscraper.db'}"
    else:
        url = request.getfixturevalue("postgres").create_database()
    engine = open_engine(url, timeout=20)
    schema.ensure(engine)
    yield Ledger(engine)
    engine.dispose()


@pytest.fixture
def ledger(one_ledger: Ledger) -> Ledger:
    """An empty one."""
    with one_ledger.engine.begin() as connection:
        connection.execute(delete(listings))  # the others follow
    return one_ledger


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def recently(when: datetime | None) -> bool:
    return when is not None and abs(when - now()) < timedelta(seconds=30)


# --- the car's row ----------------------------------------------------------------------------------------------


FULL: dict[str, Any] = {
    "title": "Škoda Þór",
    "make": "Skoda",
    "model": "Octavia",
    "year": 2019,
    "registration_month": 6,
    "price": 2_990_000,
    "price_before_offer": 3_490_000,
    "price_excludes_vat": False,
    "kilometers": 45_000,
    "fuel": "petrol",
    "transmission": "manual",
    "drivetrain": "fwd",
    "colour": "hvítur",
    "body": "jeppi",
    "doors": 5,
    "seats": 5,
    "horsepower": 150,
    "city_consumption": 5.3,
    "registration_plate": "AB123",
    "dealer_id": "76",
    "dealer_name": "Bílasala",
    "description": "Góður bíll; DROP TABLE car_listings",
    "source_updated_at": date(2026, 2, 2),
    "display_make": "Škoda",
    "display_name": "Octavia",
    "card_hash": "ab",
    "details_at": datetime(2026, 2, 3, 4, 5, 6),  # noqa: DTZ001 - as the tables hold it
}


class TestCar:
    def test_every_field_is_written(self, ledger: Ledger) -> None:
        assert ledger.save(car(**FULL)) == [Saved(created=True)]
        row = ledger.row()
        assert {name: getattr(row, name) for name in FULL} == FULL
        named = {field.name for field in dataclasses.fields(CarItem)}
        assert named - set(FULL) == {
            *("source", "external_id", "url", "images", "image_urls"),
            *("unchanged", "seen", "gone", "listing_id", "imported", "shows_all"),  # about this run only
        }
        assert (row.source, row.external_id, row.url) == (SOURCE, "1", url_of("1"))
        assert row.is_active
        assert all(map(recently, (row.first_seen_at, row.last_seen_at, row.scraped_at)))

    def test_none_overwrites_nothing(self, ledger: Ledger) -> None:
        ledger.save(car(**FULL))
        assert ledger.save(car()) == [Saved()]
        row = ledger.row()
        kept = FULL | {"card_hash": None}  # but for this: the next crawl reads the details again
        assert {name: getattr(row, name) for name in kept} == kept

    def test_a_card_that_changes_and_changes_back_is_read_again(self, ledger: Ledger) -> None:
        """Between the two its details page did not come: what the second card said is only half written."""
        ledger.save(car(card_hash="first", price=1_000_000))
        ledger.save(car(card_hash=None, price=900_000))
        state = ledger.ask(car_rows.card_states, SOURCE, ["1"])["1"]
        assert not state.shows("first", url_of("1"))

    def test_a_new_value_overwrites(self, ledger: Ledger) -> None:
        ledger.save(car(**FULL))
        ledger.change(listings, first_seen_at=datetime(2020, 1, 1))  # noqa: DTZ001
        changed = {"title": "x", "kilometers": 46_000, "year": 2020, "card_hash": "cd", "colour": "blár"}
        ledger.save(car(**changed))
        row = ledger.row()
        assert {name: getattr(row, name) for name in changed} == changed
        assert row.first_seen_at.year == 2020
        assert recently(row.last_seen_at)

    def test_hostile_text_is_text(self, ledger: Ledger) -> None:
        hostile = "'); DROP TABLE car_listings; --\n%s {0} \\ \U0001f697"
        ledger.save(car(title=hostile, make=hostile, model=hostile * 100))
        assert ledger.row().model == hostile * 100

    def test_what_is_told_of_a_known_car_is_new_or_not(self, ledger: Ledger) -> None:
        ledger.save(car(**FULL))
        later = datetime(2026, 3, 3)  # noqa: DTZ001 - as the tables hold it
        cases: list[tuple[dict[str, Any], bool]] = [
            ({}, False),
            ({"details_at": later}, False),
            ({"card_hash": "cd"}, True),
            ({"kilometers": FULL["kilometers"] + 1}, True),
            ({"kilometers": FULL["kilometers"] + 1}, False),
            ({"kilometers": None, "price": None}, False),
            ({"price_before_offer": 9_000_000}, True),
            ({"images": [stored("1/1")]}, False),
            ({"kilometers": 1, "seen": False}, False),
        ]
        told = dict(FULL)
        for changes, changed in cases:
            told |= {name: value for name, value in changes.items() if value is not None and name != "seen"}
            (saved,) = ledger.save(car(**{**told, **changes}))
            assert saved.changed is changed, changes

    def test_results_are_in_the_items_order(self, ledger: Ledger) -> None:
        ledger.save(car("5", price=1))
        saved = ledger.save(car("9"), car("5", price=2), GoneCar(source=SOURCE, external_id="5", url="u"), car("1"))
        assert saved == [
            Saved(created=True),
            Saved(changed=True, price_changed=True),
            Saved(changed=True),
            Saved(created=True),
        ]

    def test_the_same_car_twice_in_one_group(self, ledger: Ledger) -> None:
        saved = ledger.save(
            car(price=3_000_000, title="old", images=[stored("1/1")]),
            car("2"),
            car(price=2_900_000, images=[stored("1/1"), stored("1/2")]),
        )
        assert saved == [Saved(created=True), Saved(created=True), Saved(changed=True, price_changed=True)]
        row = ledger.row(external_id="1")
        assert (row.price, row.title) == (2_900_000, "old")
        assert [image.identity for image in ledger.rows(images)] == ["1/1", "1/2"]
        assert len(ledger.rows(price_changes)) == 1

    def test_the_same_id_at_two_sources_is_two_cars(self, ledger: Ledger) -> None:
        ledger.save(car(), car(source="BR", url="https://br.is/CarDetails.aspx?cid=1"))
        assert len(ledger.rows()) == 2

    def test_more_cars_than_one_list_of_values_takes(self, ledger: Ledger) -> None:
        cars = [car(str(n), images=[stored(f"{n}/1")]) for n in range(rules._CHUNK * 2 + 5)]
        saved = ledger.save(*cars, rules=OFF)
        assert all(each.created for each in saved)
        assert len(ledger.rows()) == len(ledger.rows(images)) == len(cars)
        ids = [each.external_id for each in cars]
        assert set(ledger.ask(car_rows.card_states, SOURCE, ids)) == set(ids)
        assert all(ledger.ask(photo_rows.known, [(SOURCE, each) for each in ids]))

    def test_nothing_is_nothing(self, ledger: Ledger) -> None:
        assert ledger.save() == []
        assert ledger.ask(car_rows.card_states, SOURCE, []) == {}
        assert ledger.ask(photo_rows.known, []) == []
        assert ledger.ask(placeholders.known_bytes, [], PlaceholderRules()) == []


class TestPrice:
    def test_a_change_is_noted(self, ledger: Ledger) -> None:
        ledger.save(car(price=3_000_000))
        assert ledger.save(car(price=2_800_000)) == [Saved(changed=True, price_changed=True)]
        assert ledger.save(car(price=2_800_000)) == [Saved()]
        change = ledger.row(price_changes)
        assert (change.listing_id, change.old_price, change.new_price) == (ledger.row().id, 3_000_000, 2_800_000)
        assert recently(change.changed_at)

    @pytest.mark.parametrize(("before", "after"), [(None, 3_000_000), (3_000_000, None), (None, None)])
    def test_an_unknown_price_is_no_change(self, ledger: Ledger, before: int | None, after: int | None) -> None:
        ledger.save(car(price=before))
        assert ledger.save(car(price=after)) == [Saved(changed=after is not None)]
        assert ledger.rows(price_changes) == []
        assert ledger.row().price == (after or before)

    def test_a_new_price_ends_the_offer(self, ledger: Ledger) -> None:
        ledger.save(car(price=2_800_000, price_before_offer=3_000_000, price_excludes_vat=True))
        ledger.save(car(price=2_800_000))
        row = ledger.row()
        assert (row.price, row.price_before_offer, row.price_excludes_vat) == (2_800_000, None, None)

    def test_no_price_leaves_the_offer(self, ledger: Ledger) -> None:
        ledger.save(car(price=2_800_000, price_before_offer=3_000_000, price_excludes_vat=True))
        ledger.save(car())
        row = ledger.row()
        assert (row.price, row.price_before_offer, row.price_excludes_vat) == (2_800_000, 3_000_000, True)

    def test_prices_beyond_32_bits(self, ledger: Ledger) -> None:
        ledger.save(car(price=5_000_000_000))
        ledger.save(car(price=6_000_000_000))
        assert ledger.row(price_changes).new_price == 6_000_000_000


class TestAddress:
    def test_it_follows_the_page(self, ledger: Ledger) -> None:
        ledger.save(car())
        ledger.save(car(url=url_of("1") + "2"))
        assert ledger.row().url == url_of("1") + "2"

    def test_an_old_row_without_an_id_is_adopted(self, ledger: Ledger) -> None:
        old = ledger.add_legacy(
            source=SOURCE, url=url_of("1"), price=3_000_000, description="old", image_url="x", is_active=False
        )
        assert ledger.save(car(price=2_900_000))[0].price_changed
        row = ledger.row()
        assert (row.id, row.external_id, row.description, row.is_active) == (old, "1", "old", True)

    def test_an_old_row_without_a_source_too(self, ledger: Ledger) -> None:
        old = ledger.add_legacy(url=url_of("1"))
        ledger.save(car())
        assert (ledger.row().id, ledger.row().source) == (old, SOURCE)

    def test_an_old_row_of_another_source_is_not(self, ledger: Ledger) -> None:
        ledger.add_legacy(source="Hekla", url=url_of("1"))
        assert ledger.save(car()) == [Saved(created=True)]
        assert [(row.source, row.external_id) for row in ledger.rows()] == [("Hekla", None), (SOURCE, "1")]
        assert ledger.rows()[0].url == url_of("1")

    @pytest.mark.parametrize("together", [True, False])
    def test_two_cars_under_one_address_are_both_kept(self, ledger: Ledger, together: bool) -> None:
        cars = [car("1", url=url_of("x")), car("2", url=url_of("x"))]
        for group in [cars] if together else [[each] for each in cars]:
            ledger.save(*group)
        for again in (["1", "2"], ["2", "1"], ["2"]):
            ledger.save(*(car(each, url=url_of("x")) for each in again))
        rows = ledger.rows()
        assert [(row.external_id, row.url) for row in rows] == [("1", url_of("x")), ("2", f"{url_of('x')}#2")]

    def test_an_address_that_another_car_has_is_not_taken_from_it(self, ledger: Ledger) -> None:
        ledger.save(car("1"), car("2"))
        ledger.save(car("2", url=url_of("1"), title="new"))
        assert [row.url for row in ledger.rows()] == [url_of("1"), url_of("2")]
        assert ledger.row(external_id="2").title == "new"

    def test_two_cars_that_change_addresses_or_want_the_same(self, ledger: Ledger) -> None:
        ledger.save(car("1"), car("2"), car("3"))
        ledger.save(car("1", url=url_of("2")), car("2", url=url_of("1")))
        ledger.save(car("2", url=url_of("new")), car("3", url=url_of("new")))
        urls = [row.url for row in ledger.rows()]
        assert urls[0] == url_of("1")
        assert sorted(urls[1:]) in ([url_of("2"), url_of("new")], [url_of("3"), url_of("new")])


class TestGone:
    def gone(self, external_id: str = "1") -> GoneCar:
        return GoneCar(source=SOURCE, external_id=external_id, url=url_of(external_id))

    def test_gone_and_listed_again(self, ledger: Ledger) -> None:
        ledger.save(car("1", price=3_000_000), car("2"))
        ledger.save(self.gone())
        row = ledger.row(external_id="1")
        assert (row.is_active, row.price) == (False, 3_000_000)
        assert recently(row.gone_at)
        assert ledger.row(external_id="2").is_active
        ledger.save(car("1"))
        row = ledger.row(external_id="1")
        assert (row.is_active, row.gone_at) == (True, None)

    def test_gone_twice_keeps_the_first_time(self, ledger: Ledger) -> None:
        ledger.save(car())
        ledger.save(self.gone())
        first = ledger.row().gone_at
        ledger.save(self.gone())
        assert ledger.row().gone_at == first

    def test_an_unknown_car_is_no_error(self, ledger: Ledger) -> None:
        assert ledger.save(self.gone("404")) == [Saved()]
        assert ledger.rows() == []

    def test_active_cars_are_those_with_an_id_that_are_not_gone(self, ledger: Ledger) -> None:
        ledger.save(car("1"), car("2"), car("3"), car("4", source="BR", url="https://br.is/?cid=4"))
        ledger.add_legacy(source=SOURCE, url="https://bilasolur.is/old")
        ledger.save(self.gone("2"))
        with ledger.engine.begin() as connection:
            connection.execute(
                update(listings).where(listings.c.external_id == "3").values(last_seen_at=datetime(2020, 1, 1))  # noqa: DTZ001
            )
        found = ledger.ask(car_rows.active, SOURCE)
        assert [(each.external_id, each.url) for each in found] == [("3", url_of("3")), ("1", url_of("1"))]


# --- photos -----------------------------------------------------------------------------------------------------


def outcome(row: Any) -> tuple[Any, ...]:
    return row.status, row.reason, row.store, row.key, row.url, row.source_sha256


BEFORE: dict[str, CarImage] = {
    "stored": stored(),
    "stored in a folder": stored(store="folder", key="a.jpg", url=None),
    "failed for good": failed(reason="http-404"),
    "failed for now": failed(reason="timeout"),
    "placeholder": stored(status="failed", reason="placeholder"),
    "pending": pending(),
    "spooled": stored(status="pending", reason="spooled"),
    "store error": pending(reason="store-error", attempts=1),
}
AFTER: dict[str, CarImage] = {
    "stored": stored(content="new"),
    "stored in a folder": stored(content="new", store="folder", key="b.jpg", url=None),
    "failed": failed(reason="http-403"),
    "failed, not tried": failed(reason="bad-address", attempts=0),
    "pending": pending(),
    "spooled": stored(content="new", status="pending", reason="spooled"),
    "store error": pending(reason="store-error", attempts=1),
}
# What becomes of the row: "old" keeps everything, "new" takes everything, "bytes" keeps what describes the bytes.
MATRIX = {
    "stored": {"stored": "old", "stored in a folder": "new"} | dict.fromkeys(list(AFTER)[2:], "old"),
    "stored in a folder": {"stored": "new", "stored in a folder": "old"} | dict.fromkeys(list(AFTER)[2:], "old"),
    **{
        name: {
            "stored": "new",
            "stored in a folder": "new",
            "failed": "bytes",
            "failed, not tried": "old",
            "pending": "old",
            "spooled": "new",
            "store error": "bytes",
        }
        for name in list(BEFORE)[2:]
    },
}


class TestPhoto:
    def test_a_photo_is_never_downgraded(self, ledger: Ledger) -> None:
        cases = [(before, after) for before in BEFORE for after in AFTER]
        identities = [f"1/{number}" for number in range(len(cases))]
        olds = [
            dataclasses.replace(BEFORE[before], identity=name)
            for (before, _), name in zip(cases, identities, strict=True)
        ]
        news = [
            dataclasses.replace(AFTER[after], identity=name) for (_, after), name in zip(cases, identities, strict=True)
        ]
        # Each on a car of its own: of the same bytes on one car only one row would stay current.
        ledger.save(*(car(f"{number:03}", images=[old]) for number, old in enumerate(olds)), rules=OFF)
        earlier = ledger.rows(images)
        ledger.save(*(car(f"{number:03}", images=[new]) for number, new in enumerate(news)), rules=OFF)
        later = ledger.rows(images)
        for case, old, new, was, row in zip(cases, olds, news, earlier, later, strict=True):
            expected = {
                "old": outcome(old),
                "new": outcome(new),
                "bytes": (new.status, new.reason, *outcome(old)[2:]),
            }[MATRIX[case[0]][case[1]]]
            assert outcome(row) == expected, case
            assert row.first_seen_at == was.first_seen_at
            assert (row.stored_at is None) == (row.status != "stored"), case
            assert row.stored_at == was.stored_at or expected != outcome(old), case

    def test_every_field_is_written(self, ledger: Ledger) -> None:
        photo = stored(position=3)
        ledger.save(car(images=[photo]))
        row = ledger.row(images)
        expected = dataclasses.asdict(photo)
        del expected["wanted_key"], expected["insist"], expected["on_page"], expected["seen_at"]  # about this run only
        assert {name: getattr(row, name) for name in expected} == expected
        assert all(map(recently, (row.first_seen_at, row.last_attempt_at, row.stored_at)))
        assert row.listing_id == ledger.row().id

    def test_attempts_of_all_runs_are_counted(self, ledger: Ledger) -> None:
        for attempts in (1, 2, 1):
            ledger.save(car(images=[failed(reason="timeout", attempts=attempts)]))
        assert ledger.row(images).attempts == 4
        ledger.save(car(images=[failed(reason="timeout", attempts=0)]))
        assert ledger.row(images).attempts == 4

    def test_not_tried_has_no_time_of_an_attempt(self, ledger: Ledger) -> None:
        ledger.save(car(images=[pending()]))
        assert ledger.row(images).last_attempt_at is None

    def test_the_newest_address_and_place_are_kept(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored()]))
        ledger.save(car(images=[pending(source_url="https://bilasolur.is/new", position=5)]))
        row = ledger.row(images)
        assert (row.source_url, row.position, row.status) == ("https://bilasolur.is/new", 5, "stored")
        assert row.key == stored().key

    def test_one_that_is_no_longer_on_the_page_stays(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored("1/1"), stored("1/2")]))
        ledger.save(car(images=[stored("1/2")]))
        ledger.save(car())
        assert len(ledger.rows(images)) == 2

    def test_the_same_identity_twice_on_a_page_is_one_row(self, ledger: Ledger) -> None:
        ledger.save(car(images=[pending(position=0), stored(position=1)]))
        assert len(ledger.rows(images)) == 1

    def test_the_same_photo_of_two_cars_is_two_rows(self, ledger: Ledger) -> None:
        ledger.save(car("1", images=[stored("9/9")]), car("2", images=[stored("9/9")]))
        assert len(ledger.rows(images)) == 2


class TestDue:
    def test_which_photos_are_tried_again(self, ledger: Ledger) -> None:
        cases: list[tuple[CarImage, bool]] = [
            (stored(), False),
            (pending(), True),
            (pending(reason="store-error"), True),
            (stored(status="pending", reason="spooled"), False),
            *((failed(reason=reason), False) for reason in sorted(DECIDED_HERE - {"car-gone"})),
            *((failed(reason=reason), True) for reason in sorted(FINAL_BY_DAYS)),
            *((failed(reason=reason), True) for reason in ("timeout", "http-403", "http-503", "error")),
            *((failed(reason="timeout", attempts=attempts), True) for attempts in (3, 4, 400)),
        ]
        ids = [f"{number:02}" for number in range(len(cases))]
        photos = [dataclasses.replace(photo, identity="photo") for photo, _ in cases]
        ledger.save(*(car(each, images=[photo]) for each, photo in zip(ids, photos, strict=True)), rules=OFF)
        for hours_ago in (0, 100):
            ledger.change(images, last_attempt_at=now() - timedelta(hours=hours_ago))
            states = ledger.ask(car_rows.card_states, SOURCE, ids)
            known = ledger.ask(photo_rows.known, [(SOURCE, each) for each in ids])
            for car_id, (photo, due), found in zip(ids, cases, known, strict=True):
                case = (photo.status, photo.reason, photo.attempts, hours_ago)
                assert (states[car_id].images_due, found["photo"].due) == (due, due), case

    def test_a_gone_cars_photos_are_due_once_it_is_listed_again(self, ledger: Ledger) -> None:
        """The list shows the car, so its page is read; the pipeline ends the verdict when it sees the photo there."""
        ledger.save(car(images=[failed(reason="car-gone")]))
        (known,) = ledger.ask(photo_rows.known, [(SOURCE, "1")])
        assert ledger.ask(car_rows.card_states, SOURCE, ["1"])["1"].images_due
        assert not known["1/1"].due

    @pytest.mark.parametrize(
        ("attempts", "hours_ago", "due"),
        [(3, 0, True), (4, 0, False), (4, 19, False), (4, 23.8, True), (400, 25, True)],
    )
    def test_a_backfill_pauses(self, ledger: Ledger, attempts: int, hours_ago: float, due: bool) -> None:
        ledger.save(car(images=[failed(reason="http-404", attempts=attempts)], card_hash="ab"))
        ledger.change(images, last_attempt_at=now() - timedelta(hours=hours_ago))
        retry = RetryRules(pause=BackfillSpider.retry_pause)
        (known,) = ledger.ask(photo_rows.known, [(SOURCE, "1")], retry)
        assert known["1/1"].due is due

    @pytest.mark.parametrize(("days", "due"), [(0, True), (2, True), (3, False), (9, False)])
    def test_nobody_asks_again_for_what_is_final(self, ledger: Ledger, days: int, due: bool) -> None:
        ledger.save(car(images=[failed(reason="http-404")], card_hash="ab"))
        ledger.change(images, failed_days=days)
        assert ledger.ask(car_rows.card_states, SOURCE, ["1"])["1"].images_due is due
        more = RetryRules(final_after=10)
        assert ledger.ask(car_rows.card_states, SOURCE, ["1"], more)["1"].images_due

    def test_one_due_photo_makes_the_car_due(self, ledger: Ledger) -> None:
        ledger.save(
            car("1", images=[stored("1/1"), failed("1/2", "timeout")]), car("2", images=[stored("2/1")]), car("3")
        )
        states = ledger.ask(car_rows.card_states, SOURCE, ["1", "2", "3", "404"])
        assert {name: state.images_due for name, state in states.items()} == {"1": True, "2": False, "3": False}

    def test_which_fields_are_known(self, ledger: Ledger) -> None:
        ledger.save(car("1", images=[stored("1/1")], make="Kia", kilometers=0), car("2", fuel="petrol", model="Rio"))
        states = ledger.ask(car_rows.card_states, SOURCE, ["1", "2"])
        assert states["1"].fields == {"photo", "make", "kilometers"}
        assert states["2"].fields == {"fuel"}

    def test_a_gone_car_is_as_good_as_new(self, ledger: Ledger) -> None:
        ledger.save(car(), GoneCar(source=SOURCE, external_id="1", url=url_of("1")))
        assert ledger.ask(car_rows.card_states, SOURCE, ["1"]) == {}

    def test_other_sources_do_not_count(self, ledger: Ledger) -> None:
        ledger.save(car(source="BR"))
        assert ledger.ask(car_rows.card_states, SOURCE, ["1"]) == {}
        assert ledger.ask(photo_rows.known, [(SOURCE, "1"), ("BR", "1"), (SOURCE, "1")]) == [{}, {}, {}]

    def test_known_images_come_in_the_order_of_the_question(self, ledger: Ledger) -> None:
        ledger.save(*(car(str(n), images=[stored(f"{n}/1")]) for n in range(3)))
        found = ledger.ask(photo_rows.known, [(SOURCE, "2"), (SOURCE, "404"), (SOURCE, "0"), (SOURCE, "2")])
        assert [list(each) for each in found] == [["2/1"], [], ["0/1"], ["2/1"]]
        image = found[0]["2/1"].image
        assert image == stored("2/1")


class TestKnownBytes:
    def ask(self, ledger: Ledger, *asked: tuple[str, str], **rules: Any) -> list[Any]:
        found: list[Any] = ledger.ask(placeholders.known_bytes, list(asked), PlaceholderRules(**rules))
        return found

    def test_a_stored_photo_with_these_bytes(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored("1/1", "x")]))
        known, unknown = self.ask(ledger, (sha256("x"), S3), (sha256("y"), S3))
        assert (known.image.key, known.image.url, known.placeholder) == (
            stored("1/1", "x").key,
            stored("1/1", "x").url,
            False,
        )
        assert unknown is None

    def test_only_in_the_asked_store(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored("1/1", "x")]))
        assert self.ask(ledger, (sha256("x"), "folder"), (sha256("x"), "s3://other")) == [None, None]
        ledger.save(car("2", images=[stored("2/1", "x", store="folder", key="f.jpg")]))
        in_folder, in_s3 = self.ask(ledger, (sha256("x"), "folder"), (sha256("x"), S3))
        assert (in_folder.image.key, in_s3.image.key) == ("f.jpg", stored("1/1", "x").key)

    @pytest.mark.parametrize("photo", [failed(), pending(), stored(status="pending", reason="spooled")])
    def test_what_is_not_stored_is_not_known(self, ledger: Ledger, photo: CarImage) -> None:
        ledger.save(car(images=[dataclasses.replace(photo, source_sha256=sha256("x"))]))
        assert self.ask(ledger, (sha256("x"), S3)) == [None]

    def test_a_placeholder_and_its_release(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored("1/1", "x", status="failed", reason="placeholder")]))
        (known,) = self.ask(ledger, (sha256("x"), S3))
        assert not known.placeholder, "on one car"
        ledger.save(car("2", images=[stored("2/1", "x", status="failed", reason="placeholder")]))
        (known,) = self.ask(ledger, (sha256("x"), S3))
        assert known.placeholder
        (known,) = self.ask(ledger, (sha256("x"), S3), released=frozenset({sha256("x")}))
        assert not known.placeholder
        assert known.image.key == stored("1/1", "x").key, "its object is still there: no upload"
        (known,) = self.ask(ledger, (sha256("x"), S3), families=0)
        assert not known.placeholder


class TestPlaceholders:
    def cars(self, *families: tuple[str, str], content: str = "no photo yet") -> list[CarItem]:
        return [
            car(str(n), make=make, model=model, images=[stored(f"{n}/1", content)])
            for n, (make, model) in enumerate(families)
        ]

    def statuses(self, ledger: Ledger) -> list[tuple[str, str | None]]:
        return [(row.status, row.reason) for row in ledger.rows(images)]

    UNRELATED = (("Kia", "Ceed"), ("Toyota", "Yaris Hybrid"), ("Skoda", "Octavia"))

    @pytest.mark.parametrize("together", [True, False])
    def test_the_same_bytes_on_three_unrelated_cars(self, ledger: Ledger, together: bool) -> None:
        cars = self.cars(*self.UNRELATED)
        for group in [cars] if together else [[each] for each in cars]:
            ledger.save(*group)
        assert self.statuses(ledger) == [("failed", "placeholder")] * 3, "the earlier ones too"
        assert all(row.key and row.source_sha256 for row in ledger.rows(images)), "the objects stay"

    @pytest.mark.parametrize(
        "families",
        [
            UNRELATED[:2],
            # One car of a dealer's stock photo, in many trims.
            (("Kia", "Ceed GT"), ("Kia", "Ceed LX"), ("KIA", "ceed"), ("Kia", "Ceed SW 1.6")),
            (("Kia", "Ceed"), ("Kia", "Ceed GT"), ("Kia", "Rio"), ("Kia", "RIO X")),
            ((None, None), (None, None), (None, None)),
        ],
    )
    def test_related_cars_may_share_a_photo(self, ledger: Ledger, families: Any) -> None:
        ledger.save(*self.cars(*families))
        assert set(self.statuses(ledger)) == {("stored", None)}

    def test_the_same_car_with_many_photos_of_the_same_bytes(self, ledger: Ledger) -> None:
        ledger.save(car(make="Kia", model="Ceed", images=[stored(f"1/{n}", "x") for n in range(5)]))
        assert self.statuses(ledger) == [("stored", None), *[("superseded", None)] * 4]

    def test_other_photos_of_these_cars_stay(self, ledger: Ledger) -> None:
        cars = self.cars(*self.UNRELATED)
        for each in cars:
            each.images.append(stored(f"{each.external_id}/2", position=1))
        ledger.save(*cars)
        assert len(ledger.rows(images, status="stored")) == 3

    @pytest.mark.parametrize(
        "rules", [OFF, PlaceholderRules(families=4), PlaceholderRules(released=frozenset({sha256("no photo yet")}))]
    )
    def test_switched_off_stricter_or_released(self, ledger: Ledger, rules: PlaceholderRules) -> None:
        ledger.save(*self.cars(*self.UNRELATED), rules=rules)
        assert set(self.statuses(ledger)) == {("stored", None)}

    def test_a_car_is_not_shown_with_a_placeholder(self, ledger: Ledger) -> None:
        cars = self.cars(*self.UNRELATED)
        cars[0].images.append(stored("0/2", position=1))
        ledger.save(*cars[:2])
        assert [row.image_url for row in ledger.rows()] == [each.images[0].url for each in cars[:2]]
        ledger.save(cars[2])
        first, second, third = ledger.rows()
        assert first.image_url == cars[0].images[1].url, "its next photo"
        assert second.image_url is None
        assert third.image_url == cars[2].images[0].source_url, "nothing permanent is left"
        ledger.save(*self.cars(*self.UNRELATED)[1:2])
        placeholder_url = cars[1].images[0].url
        assert placeholder_url not in [row.image_url for row in ledger.rows()]


class TestCover:
    TEMPORARY = pending().source_url
    PERMANENT = "https://b.s3.eu-north-1.amazonaws.com/old.jpg"

    CASES: tuple[tuple[str | None, list[CarImage], str | None], ...] = (
        (None, [], None),
        (None, [pending()], TEMPORARY),
        ("https://bilasolur.is/CarImage.aspx?s=1&c=1&p=9&w=400", [pending()], TEMPORARY),
        ("https://bilasolur.isCarImage.aspx?s=16&c=1&p=9&w=784", [pending()], TEMPORARY),
        ("https://bilasolur.is/expired.jpg", [pending()], TEMPORARY),
        ("https://[broken", [pending()], TEMPORARY),
        ("", [pending()], TEMPORARY),
        (
            "https://bilasolur.is/CarImage.aspx?s=1&c=1&p=9&w=400",
            [],
            "https://bilasolur.is/CarImage.aspx?s=1&c=1&p=9&w=400",
        ),
        (PERMANENT, [], PERMANENT),
        (PERMANENT, [pending()], PERMANENT),
        (PERMANENT, [failed()], PERMANENT),
        (PERMANENT, [stored(status="pending", reason="spooled")], PERMANENT),
        (PERMANENT, [stored(url=None, store="folder")], PERMANENT),
        (PERMANENT, [stored()], stored().url),
        (None, [failed("1/1"), stored("1/2", position=1), stored("1/3", position=2)], stored("1/2").url),
        (None, [stored("1/3", position=2), stored("1/2", position=1)], stored("1/2").url),
        (None, [stored(url=None, store="folder")], TEMPORARY),
    )

    def test_what_a_car_is_shown_with(self, ledger: Ledger) -> None:
        for number, (current, _, _) in enumerate(self.CASES):
            ledger.add_legacy(source=SOURCE, external_id=f"{number:02}", url=url_of(f"{number:02}"), image_url=current)
        shown = [[dataclasses.replace(photo) for photo in photos] for _, photos, _ in self.CASES]
        ledger.save(*(car(f"{number:02}", images=photos) for number, photos in enumerate(shown)), rules=OFF)
        for row, (current, photos, expected) in zip(ledger.rows(), self.CASES, strict=True):
            assert row.image_url == expected, (current, photos)

    def test_once_permanent_always_permanent(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored()]))
        for photos in ([pending()], [failed()], [], [pending("1/2")], [failed("1/2")]):
            ledger.save(car(images=photos))
            assert ledger.row().image_url == stored().url


class TestOpened:
    def test_a_car_is_read_again_until_it_is_closed(self, ledger: Ledger) -> None:
        item = car(card_hash="ab", details_at=FULL["details_at"], images=[pending("1/1"), pending("1/2", position=1)])
        (opened,) = ledger.ask(car_rows.open_cars, [item], OFF)
        assert [row.status for row in ledger.rows(images)] == ["pending", "pending"], "what was seen has a row"
        assert ledger.row().image_url == item.images[0].source_url
        outcomes = [stored("1/1"), failed("1/2", position=1)]
        for image in outcomes:
            assert not ledger.ask(car_rows.card_states, SOURCE, ["1"])["1"].shows("ab", item.url)
            ledger.ask(photo_rows.write, [(opened.listing_id, image)], OFF)
        assert [outcome(row) for row in ledger.rows(images)] == [outcome(image) for image in outcomes]
        assert [row.attempts for row in ledger.rows(images)] == [1, 1]
        assert (ledger.row().image_url, ledger.row().details_at) == (stored("1/1").url, None)
        item = dataclasses.replace(item, listing_id=opened.listing_id, images=outcomes)
        assert ledger.save(item) == [Saved()]
        assert ledger.ask(car_rows.card_states, SOURCE, ["1"])["1"].shows("ab", item.url)
        assert ledger.row().details_at == FULL["details_at"]
        assert [row.attempts for row in ledger.rows(images)] == [1, 1], "closing writes no photo"

    def test_photos_leave_with_what_is_known_of_them(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored("1/1"), failed("1/2", "timeout"), failed("1/3", "blocked-address")]))
        shown = [pending(each) for each in ("1/1", "1/3", "1/4")]
        (opened,) = ledger.ask(car_rows.open_cars, [car(images=shown)], OFF)
        assert {each.identity: (each.status, each.on_page) for each in opened.images} == {
            "1/1": ("stored", True),
            "1/3": ("failed", True),
            "1/4": ("pending", True),
            "1/2": ("pending", False),  # due, and the page does not show it
        }
        assert opened.images[0].key == stored("1/1").key
        assert opened.known == {"1/1", "1/2", "1/3"}
        assert [image.status for image in shown] == ["pending"] * 3, "a transaction may be repeated"


class TestImageStored:
    def test_a_photo_from_the_spool(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored(status="pending", reason="spooled"), pending("1/2", position=1)]))
        assert ledger.ask(photo_rows.unspooled, SOURCE, "1", stored(attempts=0), OFF)
        row, other = ledger.rows(images)
        assert outcome(row) == outcome(stored())
        assert recently(row.stored_at)
        assert row.attempts == 1
        assert other.status == "pending"
        assert ledger.row().image_url == stored().url

    @pytest.mark.parametrize("external_id", ["1", "404"])
    def test_a_row_that_is_not_there_yet(self, ledger: Ledger, external_id: str) -> None:
        ledger.save(car())
        assert not ledger.ask(photo_rows.unspooled, SOURCE, external_id, stored(attempts=0), OFF)

    def test_a_stored_photo_stays_as_it_is(self, ledger: Ledger) -> None:
        ledger.save(car(images=[stored()]))
        assert ledger.ask(photo_rows.unspooled, SOURCE, "1", stored(content="other", attempts=0), OFF)
        assert outcome(ledger.row(images)) == outcome(stored())

    def test_a_placeholder_is_one_out_of_the_spool_too(self, ledger: Ledger) -> None:
        spooled = {"status": "pending", "reason": "spooled"}
        for number, make in enumerate(("Kia", "Volvo", "Ford")):
            photo = stored(f"{number}/1", "no photo yet", **spooled)
            ledger.save(car(str(number), make=make, model="X", images=[photo]))
        for _ in range(2):
            for number in range(3):
                photo = stored(f"{number}/1", "no photo yet", attempts=0)
                assert ledger.ask(photo_rows.unspooled, SOURCE, str(number), photo, PlaceholderRules())
            assert {row.reason for row in ledger.rows(images)} == {"placeholder"}
        for row in ledger.rows():
            assert "img.example.is" not in (row.image_url or "")
        released = PlaceholderRules(released=frozenset({sha256("no photo yet")}))
        assert ledger.ask(photo_rows.unspooled, SOURCE, "0", stored("0/1", "no photo yet", attempts=0), released)
        assert ledger.row(images, status="stored").identity == "0/1"


class TestSaveImages:
    def test_bytes_that_only_wait_replace_no_stored_photo(self, ledger: Ledger) -> None:
        (saved,) = ledger.save(car(images=[stored(store="folder", url=None)]))
        waiting = stored(status="pending", reason="spooled")
        ledger.ask(photo_rows.write, [(saved.listing_id, waiting)], OFF)
        assert ledger.row(images).store == "folder"
        assert ledger.row(images).status == "stored"
        ledger.ask(photo_rows.write, [(saved.listing_id, stored())], OFF)
        assert outcome(ledger.row(images)) == outcome(stored())


def test_covers_are_found_by_their_cars(tmp_path: Path) -> None:
    """Not by their status: that would read every photo that was ever stored, for each group of photos."""
    engine = open_engine(f"sqlite:///{tmp_path / 'plan.db'}", timeout=20)
    schema.ensure(engine)
    plans = []
    with engine.begin() as connection:
        event.listen(connection, "before_cursor_execute", lambda *call: plans.append((call[2], call[3])), named=False)
        connection.execute(placeholders._STORED_URLS, {"listing_ids": [1, 2]})
        ((statement, parameters),) = plans
        plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all())
    engine.dispose()
    assert "uq_car_images_listing_id_identity" in plan or "sqlite_autoindex_car_images" in plan, plan
    assert "ix_car_images_status" not in plan


# --- many at once -----------------------------------------------------------------------------------------------


def test_two_crawls_save_the_same_cars(ledger: Ledger) -> None:
    def crawl(order: int) -> None:
        for start in range(0, 40, 10):
            group = [car(str(n), images=[stored(f"{n}/{p}") for p in range(3)]) for n in range(start, start + 10)]
            for _ in range(9):  # as the ledger does
                try:
                    ledger.save(*group[::order], rules=OFF)
                except Exception as error:
                    last = error
                else:
                    break
            else:
                errors.append(last)

    errors: list[Exception] = []
    threads = [threading.Thread(target=crawl, args=(order,)) for order in (1, -1, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(ledger.rows()) == 40
    assert len(ledger.rows(images)) == 120


def test_how_long_ten_thousand_photos_take(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    cars = [
        car(str(n), make=f"Make {n % 40}", model=f"Model {n}", images=[stored(f"{n}/{p}") for p in range(10)])
        for n in range(1000)
    ]
    begin = time.perf_counter()
    for start in range(0, 1000, 100):
        ledger.save(*cars[start : start + 100])
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    ledger.save(*cars[:100])
    again = time.perf_counter() - begin
    with ledger.engine.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(images)) == 10_000
        assert connection.scalar(text("SELECT count(*) FROM price_changes")) == 0
    with capsys.disabled():
        name = ledger.engine.dialect.name
        print(f"\n10,000 photos of 1,000 cars, {name}: {first:.2f} s; 100 of these cars again: {again:.2f} s")
