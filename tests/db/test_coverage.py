"""How much of the cars' photos is stored, over both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert

from carscraper.db import coverage, schema
from carscraper.db.coverage import Coverage, Photos
from carscraper.db.engine import explained_database, open_engine
from carscraper.db.models import CarImageRow, CarListing
from carscraper.exceptions import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

    from tests import services

S3 = "s3://car-photos"
NOW = datetime.now(UTC).replace(tzinfo=None)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    found = open_engine(database_url, timeout=10)
    schema.ensure(found)
    yield found
    found.dispose()


def add(connection: Connection, number: int, *photos: tuple[str, str | None], active: bool = True) -> None:
    """Enters a car with photos of such statuses and reasons."""
    car = {"source": "Bilasolur", "external_id": str(number), "url": f"https://x/{number}", "is_active": active}
    listing: Any = connection.execute(insert(CarListing).values(**car).returning(CarListing.id)).scalar()
    for position, (status, reason) in enumerate(photos):
        stored = status == "stored"
        row = {
            "listing_id": listing,
            "position": position,
            "identity": f"{number}/{position}",
            "source_url": "https://x",
            "status": status,
            "reason": reason,
            "store": S3 if stored or reason == "placeholder" else None,
            "stored_at": NOW - timedelta(days=position) if stored else None,
            "first_seen_at": NOW,
        }
        connection.execute(insert(CarImageRow).values(**row))


STORED = ("stored", None)


def test_the_active_cars(engine: Engine) -> None:
    with engine.begin() as connection:
        add(connection, 1, STORED, STORED, STORED)
        add(connection, 2, STORED, ("failed", "http-404"))
        add(connection, 3, ("pending", None), ("pending", "spooled"))
        add(connection, 4)
        add(connection, 5, STORED, ("failed", "placeholder"), ("failed", "deleted"))
        add(connection, 6, ("failed", "placeholder"))
        add(connection, 7, STORED, STORED, active=False)
        found = coverage.coverage(connection)
    assert found == Coverage(cars=6, with_photos=4, complete=2, photos_per_car={1: 2, 3: 1})
    assert found.share_complete == 0.5
    assert found.mean == pytest.approx(5 / 3)
    assert found.median == 1


def test_no_cars(engine: Engine) -> None:
    with engine.begin() as connection:
        found = coverage.coverage(connection)
        assert coverage.by_status(connection) == []
    assert (found.cars, found.share_complete, found.mean, found.median) == (0, None, None, None)


def test_photos_by_status_reason_and_store(engine: Engine) -> None:
    with engine.begin() as connection:
        add(connection, 1, STORED, STORED, ("failed", "http-404"), ("pending", None))
        add(connection, 2, ("failed", "placeholder"), ("failed", "http-404"), ("failed", "placeholder"), active=False)
        found = coverage.by_status(connection)
    assert found == [
        Photos("stored", None, S3, 2),
        Photos("pending", None, None, 1),
        Photos("failed", "http-404", None, 2),
        Photos("failed", "placeholder", None, 2),
    ]


def test_stored_since(engine: Engine) -> None:
    with engine.begin() as connection:
        add(connection, 1, STORED, STORED, STORED, ("pending", None))
        assert coverage.stored_since(connection, S3, NOW - timedelta(days=1, hours=1)) == 2
        assert coverage.stored_since(connection, "folder", NOW - timedelta(days=9)) == 0


@pytest.mark.parametrize(
    ("per_car", "median"),
    [({5: 1}, 5), ({1: 1, 2: 1}, 1.5), ({1: 3, 9: 2}, 1), ({1: 2, 9: 3}, 9), ({1: 2, 9: 2}, 5)],
)
def test_median(per_car: dict[int, int], median: float) -> None:
    assert Coverage(cars=9, with_photos=9, complete=9, photos_per_car=per_car).median == median


def test_a_database_that_is_away_is_a_sentence(postgres: services.PostgresCluster, postgres_url: str) -> None:
    engine = open_engine(postgres_url, timeout=2)
    postgres.stop()
    with pytest.raises(DatabaseUnavailableError, match="can't be reached"), explained_database():
        engine.connect()
    engine.dispose()
