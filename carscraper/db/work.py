"""What a backfill asks of the ledger and tells it: functions of a connection, like those of ``db.queries``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import and_, case, func, or_, select, update

from carscraper.db.models import CarImageRow, CarListing
from carscraper.db.queries import (
    CRAWL,
    HAVE_BYTES,
    KnownImage,
    RetryRules,
    chunks,
    due_condition,
    image_of,
    known_images,
    of_cars,
    utcnow,
)
from carscraper.items import CarItem, Reason, Status

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection, Table

_listings = cast("Table", CarListing.__table__)
_images = cast("Table", CarImageRow.__table__)


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of ``car_listings`` and how its photos stand."""

    row_id: int
    has_id: bool
    """It names its car."""
    source: str
    image_url: str | None
    is_active: bool
    images: int
    """Photos with a row."""
    unsettled: int
    """Photos that are not stored, whatever the reason; those in the spool are safe, deleted ones are not wanted."""
    due: int
    """Those of them that may be tried again now."""
    in_folder: int
    """Photos that are stored in the folder."""


@dataclass(frozen=True, slots=True)
class KnownCar:
    """A car as the tables have it."""

    row_id: int
    item: CarItem
    """With ``seen`` false and without photos."""
    image_url: str | None
    is_active: bool
    images: dict[str, KnownImage] = field(default_factory=dict)
    last_seen_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """Averages over what is stored; 0 while nothing is."""

    bytes_per_photo: float
    photos_per_car: float


def listed(
    connection: Connection,
    sources: list[str] | None,
    include_inactive: bool,
    retry: RetryRules = CRAWL,
) -> list[Listed]:
    """List the cars of *sources* (``None``: all) that a backfill may have to do with.

    Active cars first, then those whose photo addresses are newest: these are the soonest to be lost that can still
    be had.

    Args:
        connection: in a transaction of the caller.
        sources: of the cars.
        include_inactive: cars that are not for sale any more, too.
        retry: when a photo is due again.
    """

    def number(condition: Any) -> Any:
        return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)

    seen_at: Any = func.coalesce(_listings.c.scraped_at, _listings.c.last_seen_at, _listings.c.first_seen_at)
    query = (
        select(
            _listings.c.id,
            _listings.c.external_id.is_not(None),
            _listings.c.source,
            _listings.c.image_url,
            _listings.c.is_active,
            func.count(_images.c.id),
            number(
                _images.c.status.not_in(HAVE_BYTES)
                & func.coalesce(_images.c.reason, "").not_in((Reason.SPOOLED, Reason.DELETED))
            ),
            number(due_condition(utcnow(), retry)),
            number((_images.c.status == Status.STORED) & (_images.c.store == "folder")),
        )
        .join(_images, _images.c.listing_id == _listings.c.id, isouter=True)
        .where(_listings.c.source.is_not(None))
        .group_by(_listings.c.id)
        .order_by(_listings.c.is_active.desc(), seen_at.is_(None), seen_at.desc(), _listings.c.id.desc())
    )
    if sources is not None:
        query = query.where(_listings.c.source.in_(sources))
    if not include_inactive:
        query = query.where(_listings.c.is_active)
    return [Listed(*row) for row in connection.execute(query)]


_CAR_FIELDS = tuple(each.name for each in fields(CarItem) if each.name in _listings.c)


def cars(connection: Connection, row_ids: list[int], retry: RetryRules = CRAWL) -> list[KnownCar]:
    """Return the cars *row_ids* in that order; those that are gone from the table since are left out."""
    found = {}
    for chunk in chunks(row_ids):
        rows = connection.execute(select(_listings).where(_listings.c.id.in_(chunk))).all()
        photos = known_images(connection, [(row.source, row.external_id) for row in rows], retry=retry)
        for row, images in zip(rows, photos, strict=True):
            values = {name: getattr(row, name) for name in _CAR_FIELDS}
            item = CarItem(**values, seen=False)
            found[row.id] = KnownCar(row.id, item, row.image_url, row.is_active, images, row.last_seen_at)
    return [found[row_id] for row_id in row_ids if row_id in found]


def unseen_cars(
    connection: Connection, source: str, seen: frozenset[str], since: datetime, retry: RetryRules = CRAWL
) -> list[KnownCar]:
    """Return the cars of *source* with photos that are due, without those of the ids *seen*.

    Cars that were for sale after *since* only: what died earlier has been asked for often enough.
    """
    due = select(_images.c.id).where(_images.c.listing_id == _listings.c.id, due_condition(utcnow(), retry))
    query = (
        select(_listings.c.id, _listings.c.external_id)
        .where(_listings.c.source == source, _listings.c.external_id.is_not(None), _listings.c.last_seen_at > since)
        .where(due.exists())
        .order_by(_listings.c.id)
    )
    rows = connection.execute(query).all()
    return cars(connection, [row.id for row in rows if row.external_id not in seen], retry)


def without_id(connection: Connection, sources: list[str] | None) -> list[tuple[int, str, str, str]]:
    """List rows without an external id: row id, source, address and the photo's address, the last seen first."""
    last: Any = _listings.c.last_seen_at
    query = (
        select(_listings.c.id, _listings.c.source, _listings.c.url, _listings.c.image_url)
        .where(_listings.c.external_id.is_(None), _listings.c.source.is_not(None))
        .where(or_(_listings.c.url.is_not(None), _listings.c.image_url.is_not(None)))
        .order_by(_listings.c.is_active.desc(), last.is_(None), last.desc(), _listings.c.id.desc())
    )
    if sources is not None:
        query = query.where(_listings.c.source.in_(sources))
    return [(row.id, row.source, row.url or "", row.image_url or "") for row in connection.execute(query)]


def free_ids(connection: Connection, external_ids: dict[int, str]) -> dict[int, str]:
    """Return those of *external_ids*, by row id, that no row has and that only one row is to get.

    The earlier scraper could keep one car under several addresses: the first of them gets the id, the others stay as
    they are, without one.
    """
    rows = {}
    for chunk in chunks(list(external_ids)):
        query = select(_listings.c.id, _listings.c.source).where(
            _listings.c.id.in_(chunk), _listings.c.external_id.is_(None)
        )
        rows.update({row.id: row.source for row in connection.execute(query)})
    wanted: dict[tuple[str, str], int] = {}
    for row_id, external_id in external_ids.items():
        if row_id in rows:
            wanted.setdefault((rows[row_id], external_id), row_id)
    for these in of_cars(wanted):
        taken = select(_listings.c.source, _listings.c.external_id).where(these)
        for source, external_id in connection.execute(taken).all():
            del wanted[source, external_id]
    return {row_id: external_id for (_, external_id), row_id in sorted(wanted.items())}


def give_ids(connection: Connection, external_ids: dict[int, str]) -> dict[int, str]:
    """Write the external ids of rows that have none, as far as they are free; give those that were written."""
    free = free_ids(connection, external_ids)
    for row_id, external_id in free.items():
        connection.execute(update(_listings).where(_listings.c.id == row_id).values(external_id=external_id))
    return free


def settled(
    connection: Connection, source: str, photos: list[tuple[str, str]], retry: RetryRules = CRAWL
) -> dict[tuple[str, str], str]:
    """Return the status of those of ``(external_id, identity)`` that need no work: stored, final, or not due yet."""
    found = {}
    due = due_condition(utcnow(), retry).label("due")
    asked = set(photos)
    for chunk in chunks(photos):
        external_ids, identities = ({pair[part] for pair in chunk} for part in (0, 1))
        query = (
            select(_listings.c.external_id, _images.c.identity, _images.c.status, due)
            .join(_images, _images.c.listing_id == _listings.c.id)
            .where(_listings.c.source == source, _listings.c.external_id.in_(external_ids))
            .where(_images.c.identity.in_(identities))
        )
        for external_id, identity, status, is_due in connection.execute(query):
            if not is_due and (external_id, identity) in asked:
                found[external_id, identity] = status
    return found


def known_among(
    connection: Connection, source: str, external_id: str, identities: list[str], retry: RetryRules = CRAWL
) -> dict[str, KnownImage]:
    """Return those of a car's photos that are named: a folder of an archive can hold any number."""
    found = {}
    for chunk in chunks(identities):
        query = (
            select(_images, due_condition(utcnow(), retry).label("due"))
            .join(_listings, _listings.c.id == _images.c.listing_id)
            .where(_listings.c.source == source, _listings.c.external_id == external_id)
            .where(_images.c.identity.in_(chunk))
        )
        for row in connection.execute(query):
            found[row.identity] = KnownImage(image=image_of(row), due=bool(row.due))
    return found


def lose_images(connection: Connection, listing_id: int, identities: list[str]) -> None:
    """Make pending what was stored in the folder and is not there any more, under whatever ids the car has it."""
    of_car = and_(_images.c.listing_id == listing_id, _images.c.store == "folder", _images.c.status.in_(HAVE_BYTES))
    keys = connection.execute(select(_images.c.key).where(of_car, _images.c.identity.in_(identities))).scalars().all()
    connection.execute(
        update(_images)
        .where(of_car, _images.c.key.in_(keys))
        .values(
            {"status": Status.PENDING}
            | dict.fromkeys(("reason", "store", "key", "url", "stored_at", "last_attempt_at", "superseded_by"))
        )
    )


def sizes(connection: Connection) -> Sizes:
    """Return averages over what is stored."""
    stored = _images.c.status == Status.STORED
    row = connection.execute(
        select(
            func.avg(_images.c.bytes), func.count(_images.c.id), func.count(func.distinct(_images.c.listing_id))
        ).where(stored)
    ).one()
    return Sizes(float(row[0] or 0), row[1] / row[2] if row[2] else 0.0)
