"""The photos of cars for sale by the ledger, and the days on which a photo failed."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from sqlalchemy import func, insert, select, update

from carscraper.db import cars as car_rows
from carscraper.db import coverage, schema
from carscraper.db import photos as photo_rows
from carscraper.db.engine import open_engine
from carscraper.db.models import CarImageRow, CarListing
from carscraper.db.rules import DECIDED_HERE, PlaceholderRules, RetryRules
from carscraper.items import CarImage, CarItem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine, Table

listings, images = (cast("Table", each.__table__) for each in (CarListing, CarImageRow))
SINCE = datetime(2026, 11, 30, 3)  # noqa: DTZ001 - as the tables hold it
LATER = SINCE + timedelta(minutes=5)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url, timeout=10)
    schema.ensure(made)
    yield made
    made.dispose()


def add(
    engine: Engine, number: int, *, car: int = 1, source: str = "Bilasolur", active: bool = True, **values: Any
) -> None:
    """Add *number* photos to a car."""
    row = {"status": "stored", "reason": None, "last_attempt_at": LATER, "stored_at": LATER} | values
    if row["status"] != "stored":
        row["stored_at"] = None
    with engine.begin() as connection:
        where = (listings.c.source == source, listings.c.external_id == str(car))
        listing = connection.execute(select(listings.c.id).where(*where)).scalar()
        if listing is None:
            about = {"source": source, "external_id": str(car), "url": f"{source}/{car}", "is_active": active}
            made = insert(listings).values(about | {"last_seen_at": LATER}).returning(listings.c.id)
            listing = connection.execute(made).scalar_one()
        first = connection.execute(select(func.count()).select_from(images)).scalar_one()
        for each in range(first, first + number):
            about = {"listing_id": listing, "position": each, "identity": f"{car}/{each}", "source_url": f"x/{each}"}
            connection.execute(insert(images).values(about | {"first_seen_at": LATER} | row))


def state(engine: Engine, *, sources: list[str] | None = None, partial: bool = False) -> coverage.ForSale:
    with engine.begin() as connection:
        return coverage.for_sale(connection, sources or ["Bilasolur"], SINCE, RetryRules(), partial)


def count(engine: Engine, since: datetime = SINCE) -> dict[tuple[str, int], int]:
    """Count the days; give how many failed photos have how many."""
    with engine.begin() as connection:
        coverage.count_days(connection, None, since)
        columns = (images.c.reason, images.c.failed_days)
        rows = connection.execute(select(*columns, func.count()).where(images.c.status == "failed").group_by(*columns))
        return {(reason, days): number for reason, days, number in rows}


def test_what_is_stored_and_why_the_others_are_not(engine: Engine) -> None:
    add(engine, 5)
    add(engine, 2, status="failed", reason="http-404", failed_days=2)
    add(engine, 1, status="failed", reason="http-404", failed_days=3)
    add(engine, 1, status="failed", reason="deleted")
    add(
        engine,
        1,
        status="failed",
        reason="bad-address",
        first_seen_at=SINCE - timedelta(days=1),
        last_attempt_at=None,
    )
    add(engine, 1, status="failed", reason="bad-address")
    add(engine, 1, status="pending", reason=None, last_attempt_at=None)
    add(engine, 1, status="pending", reason="spooled")
    add(engine, 1, status="pending", reason="limit", last_attempt_at=None)
    add(engine, 4, status="superseded")
    add(engine, 9, car=2, active=False)
    add(engine, 2, car=2, active=False, status="failed", reason="timeout")
    add(engine, 3, car=2, active=False, status="failed", reason="timeout", last_attempt_at=SINCE - timedelta(days=1))
    add(engine, 7, car=3, source="BR", status="failed", reason="timeout")
    found = state(engine)
    assert (found.photos, found.stored) == (14, 5)
    assert found.due == {"http-404": 2, "bad-address": 1, "not-fetched": 1, "spooled": 1}
    assert found.final == {"http-404": 1, "bad-address": 1}
    assert found.left == {"deleted": 1, "limit": 1}
    assert found.not_for_sale == {"timeout": 2}
    assert found.unstored == {
        "http-404": 3,
        "bad-address": 2,
        "not-fetched": 1,
        "spooled": 1,
        "deleted": 1,
        "limit": 1,
    }
    assert state(engine, sources=["BR"]).due == {"timeout": 7}


def test_a_part_of_the_cars_answers_for_what_it_saw(engine: Engine) -> None:
    add(engine, 3, status="failed", reason="timeout")
    add(engine, 4, car=2, status="failed", reason="timeout", last_attempt_at=SINCE - timedelta(days=1))
    with engine.begin() as connection:
        old = {"last_seen_at": SINCE - timedelta(days=1)}
        connection.execute(update(listings).where(listings.c.external_id == "2").values(old))
    assert state(engine).due == {"timeout": 7}
    found = state(engine, partial=True)
    assert (found.due, found.left) == ({"timeout": 3}, {"not-visited": 4})


@pytest.mark.parametrize(
    "reason", ["http-404", "http-410", "http-403", "not-an-image", "placeholder", "truncated", "robots-txt"]
)
def test_a_day_is_counted_once(engine: Engine, reason: str) -> None:
    add(engine, 9)
    add(engine, 1, status="failed", reason=reason)
    assert count(engine) == {(reason, 1): 1}
    assert count(engine) == {(reason, 1): 1}, "a second run on the same day"
    tomorrow = SINCE + timedelta(hours=23, minutes=50)
    assert count(engine, tomorrow) == {(reason, 1): 1}, "it was not asked for"
    with engine.begin() as connection:
        connection.execute(update(images).values(last_attempt_at=tomorrow))
    assert count(engine, tomorrow) == {(reason, 2): 1}
    with engine.begin() as connection:
        assert connection.execute(select(images.c.failed_on).where(images.c.status == "failed")).scalar() == date(
            2026, 12, 1
        )


@pytest.mark.parametrize(
    "reason", ["timeout", "http-503", "http-429", "http-408", "unreachable", "error", *sorted(DECIDED_HERE)]
)
def test_what_says_nothing_of_the_photo_is_never_final_by_days(engine: Engine, reason: str) -> None:
    add(engine, 9)
    add(engine, 1, status="failed", reason=reason)
    assert count(engine) == {(reason, 0): 1}


def test_nothing_is_counted_when_most_photos_failed(engine: Engine) -> None:
    add(engine, 4)
    add(engine, 6, status="failed", reason="not-an-image", failed_days=2, failed_on=date(2026, 11, 29))
    add(engine, 1, status="failed", reason="http-404")
    add(engine, 9, car=2, source="BR")
    add(engine, 1, car=2, source="BR", status="failed", reason="http-404")
    assert count(engine) == {("not-an-image", 2): 6, ("http-404", 0): 1, ("http-404", 1): 1}


def test_nothing_is_counted_when_most_of_the_new_photos_failed(engine: Engine) -> None:
    add(engine, 200, stored_at=SINCE - timedelta(days=3), last_attempt_at=SINCE - timedelta(days=3))
    add(engine, 2, status="failed", reason="http-404", failed_days=2, failed_on=date(2026, 11, 29))
    add(engine, 6, car=2, status="failed", reason="http-404")
    add(engine, 3, car=2)
    assert count(engine) == {("http-404", 2): 2, ("http-404", 0): 6}
    add(engine, 5, car=2)
    assert count(engine) == {("http-404", 3): 2, ("http-404", 1): 6}, "6 of 14 new ones"


def test_what_fails_every_night_is_no_bad_night(engine: Engine) -> None:
    before = SINCE - timedelta(days=3)
    add(engine, 20, stored_at=before, last_attempt_at=before)
    add(engine, 5, status="failed", reason="http-404", first_seen_at=before)
    assert count(engine) == {("http-404", 1): 5}


def test_nothing_is_counted_when_most_photos_of_one_dealer_of_many_failed(engine: Engine) -> None:
    add(engine, 30)
    for car in (2, 3, 4):
        add(engine, 3, car=car, status="failed", reason="http-404")
    with engine.begin() as connection:
        connection.execute(update(listings).where(listings.c.external_id != "1").values(dealer_id="76"))
    assert count(engine) == {("http-404", 0): 9}
    add(engine, 10, car=4)
    assert count(engine) == {("http-404", 1): 9}


def photo(**values: Any) -> CarImage:
    values = {"identity": "1/1", "source_url": "https://b.is/CarImage.aspx?c=1&p=1", "attempts": 1} | values
    return CarImage(**{"status": "failed", "reason": "http-404", "bytes": None} | values)


@pytest.mark.parametrize(
    ("again", "days"),
    [
        (photo(), 2),
        (photo(source_url="https://b.is/CarImage.aspx?s=9&c=1&p=1&w=784"), 2),
        (photo(source_url="https://new.is/CarImage.aspx?c=1&p=1"), 0),
        (photo(reason="not-an-image"), 0),
        (photo(reason="timeout"), 0),
        (photo(attempts=0, status="pending", reason=None), 2),
        (photo(status="stored", reason=None, key="a.jpg", store="folder", sha256="0" * 64), 0),
    ],
)
def test_another_answer_or_address_begins_anew(engine: Engine, again: CarImage, days: int) -> None:
    def save(image: CarImage) -> None:
        car = CarItem(source="Bilasolur", external_id="1", url="https://b.is/1", images=[image])
        with engine.begin() as connection:
            car_rows.save(connection, [car], PlaceholderRules())

    save(photo())
    with engine.begin() as connection:
        connection.execute(update(images).values(failed_days=2, failed_on=date(2026, 11, 29)))
    save(again)
    with engine.begin() as connection:
        row = connection.execute(select(images)).one()
    assert (row.failed_days, row.failed_on) == (days, date(2026, 11, 29) if days else None)


def test_a_car_of_a_page_with_what_the_ledger_knows(engine: Engine) -> None:
    add(engine, 2, key="a.jpg", url="https://cdn/a.jpg")
    add(engine, 1, status="failed", reason="deleted", key="b.jpg", url="https://cdn/b.jpg")
    add(engine, 1, status="superseded")
    add(engine, 1, car=2, status="failed", reason="http-404")
    with engine.begin() as connection:
        found = photo_rows.shown(connection, "Bilasolur", ["1", "2", "3"])
    assert [(each.status, each.reason, each.key, each.url) for each in found["1"]] == [
        ("stored", None, "a.jpg", "https://cdn/a.jpg"),
        ("stored", None, "a.jpg", "https://cdn/a.jpg"),
        ("failed", "deleted", None, None),
    ]
    assert [each.reason for each in found["2"]] == ["http-404"]
    assert "3" not in found
