"""The SQL of registering objects: which cars there are, and rows for photos that have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from carscraper.db.models import images, listings
from carscraper.db.rules import of_cars, utcnow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from carscraper.items import CarImage


@dataclass(frozen=True, slots=True)
class CarRow:
    """A row of ``car_listings`` that names its car."""

    listing_id: int
    source: str
    external_id: str


def sources(connection: Connection) -> list[str]:
    """Return the sources that have cars."""
    query = select(listings.c.source).where(listings.c.source.is_not(None)).distinct().order_by(listings.c.source)
    return list(connection.execute(query).scalars())


def cars(connection: Connection, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], CarRow]:
    """Return those of the cars ``(source, external id)`` that have a row."""
    found = {}
    for these in of_cars(wanted):
        query = select(listings.c.id, listings.c.source, listings.c.external_id).where(these)
        for row in connection.execute(query):
            found[row.source, row.external_id] = CarRow(*row)
    return found


def create_car(
    connection: Connection, source: str, external_id: str, *, make: str | None, model: str | None, year: int | None
) -> CarRow:
    """Make an inactive row for a car of which nothing but a photo is known; one that is there stays as it is."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    values: dict[str, Any] = {"source": source, "external_id": external_id, "make": make, "model": model, "year": year}
    values |= {"is_active": False, "first_seen_at": utcnow()}
    statement = dialect.insert(listings).values(values)
    connection.execute(statement.on_conflict_do_nothing(index_elements=["source", "external_id"]))
    return cars(connection, [(source, external_id)])[source, external_id]


def announce(connection: Connection, photos: Iterable[tuple[int, CarImage]]) -> None:
    """Make rows for photos, each with its listing's id, that have none: as those of a photo that is to be fetched.

    ``db.photos.write`` writes into them what became of the photos.
    """
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    names = ("identity", "source_url", "position")
    common = {"status": "pending", "first_seen_at": utcnow()}
    rows = [
        {"listing_id": listing_id} | {name: getattr(image, name) for name in names} | common
        for listing_id, image in photos
    ]
    statement = dialect.insert(images).on_conflict_do_nothing(index_elements=["listing_id", "identity"])
    connection.execute(statement, rows)
