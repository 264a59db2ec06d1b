"""How much of the cars' photos is stored, by the ledger: functions of a connection, like those of ``db.queries``."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import and_, case, func, select
from sqlalchemy.exc import DBAPIError

from carscraper.db.models import CarImageRow, CarListing
from carscraper.db.queries import HAVE_BYTES
from carscraper.exceptions import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from sqlalchemy import Connection, Table

_listings = cast("Table", CarListing.__table__)
_images = cast("Table", CarImageRow.__table__)

NOT_WANTED = ("placeholder", "deleted")
"""Reasons of rows that are no photos: a dealer's picture for none, and what somebody has deleted."""


@dataclass(frozen=True, slots=True)
class Photos:
    """Photos that stand alike in the ledger."""

    status: str
    reason: str | None
    """Why they are not stored."""
    store: str | None
    """Where they are, for those that are stored: ``s3://bucket`` or ``folder``."""
    photos: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How the active cars' photos stand, without those of ``NOT_WANTED``."""

    cars: int
    """Active cars."""
    with_photos: int
    """Those of them that the dealer shows with photos."""
    complete: int
    """Those of them whose photos are all stored."""
    photos_per_car: dict[int, int] = field(default_factory=dict)
    """How many active cars have so many stored photos, for cars that have one at least."""

    @property
    def share_complete(self) -> float | None:
        """The share of the cars with photos whose photos are all stored; ``None`` without such cars."""
        return self.complete / self.with_photos if self.with_photos else None

    @property
    def mean(self) -> float | None:
        """Stored photos of a car that has any, on average."""
        cars = sum(self.photos_per_car.values())
        return sum(photos * number for photos, number in self.photos_per_car.items()) / cars if cars else None

    @property
    def median(self) -> float | None:
        """Stored photos of the car in the middle, of those that have any.

        >>> Coverage(cars=4, with_photos=4, complete=4, photos_per_car={1: 2, 8: 1, 10: 1}).median
        4.5
        """
        cars = sum(self.photos_per_car.values())
        if not cars:
            return None
        return (self._photos_of((cars - 1) // 2) + self._photos_of(cars // 2)) / 2

    def _photos_of(self, place: int) -> int:
        """Give the stored photos of the car at *place*, the one with the fewest first."""
        passed = 0
        for photos, cars in sorted(self.photos_per_car.items()):
            passed += cars
            if passed > place:
                return photos
        raise IndexError(place)


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Turn a database that does not answer inside into a sentence.

    Raises:
        DatabaseUnavailableError: with the driver's own words.
    """
    try:
        yield
    except DBAPIError as error:
        said = (str(error.orig).strip().splitlines() or ["no reason given"])[0]
        raise DatabaseUnavailableError(f"The database of DATABASE_URL does not answer: {said}.") from error


def by_status(connection: Connection) -> list[Photos]:
    """Count the photos of all cars by status, reason and store."""
    # A row that failed later (a placeholder) keeps its key and store; it is not stored there as a photo.
    store = case((_images.c.status.in_(HAVE_BYTES), _images.c.store))
    query = (
        select(_images.c.status, _images.c.reason, store.label("at"), func.count())
        .group_by(_images.c.status, _images.c.reason, store)
        .order_by(_images.c.status.desc(), func.count().desc(), _images.c.reason, "at")
    )
    return [Photos(*row) for row in connection.execute(query)]


def coverage(connection: Connection) -> Coverage:
    """Count the active cars by how their photos stand."""
    stored: Any = func.coalesce(func.sum(case((_images.c.status == "stored", 1), else_=0)), 0)
    is_photo = and_(func.coalesce(_images.c.reason, "").not_in(NOT_WANTED), _images.c.status != "superseded")
    each = (
        select(func.count(_images.c.id).label("photos"), stored.label("stored"))
        .select_from(_listings.join(_images, and_(_images.c.listing_id == _listings.c.id, is_photo), isouter=True))
        .where(_listings.c.is_active)
        .group_by(_listings.c.id)
        .subquery()
    )
    # As many rows as there are different numbers of photos, not as many as there are cars.
    query = select(each.c.photos, each.c.stored, func.count()).group_by(each.c.photos, each.c.stored)
    cars = with_photos = complete = 0
    per_car: dict[int, int] = {}
    for photos, have, number in connection.execute(query):
        cars += number
        with_photos += number if photos else 0
        complete += number if photos and int(have) == photos else 0
        if have:
            per_car[int(have)] = per_car.get(int(have), 0) + number
    return Coverage(cars=cars, with_photos=with_photos, complete=complete, photos_per_car=dict(sorted(per_car.items())))


def stored_since(connection: Connection, store: str, since: datetime) -> int:
    """Count the photos that were stored in *store* since then (UTC, without a zone)."""
    query = select(func.count()).where(
        _images.c.status == "stored", _images.c.store == store, _images.c.stored_at >= since
    )
    return connection.execute(query).scalar_one()
