"""What a backfill asks of the ledger and tells it: functions of a connection, like those of ``db.photos``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import and_, case, false, func, or_, select, update

from carscraper.db.models import images, listings
from carscraper.db.photos import KnownImage, known
from carscraper.db.repairs import lose
from carscraper.db.rules import ARCHIVE, CRAWL, HAVE_BYTES, RetryRules, chunks, due_condition, of_cars
from carscraper.items import CarItem, Reason, Status, utcnow

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class ListedCar:
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


def listed_cars(
    connection: Connection,
    sources: list[str] | None,
    include_inactive: bool,
    retry: RetryRules = CRAWL,
) -> list[ListedCar]:
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

    seen_at: Any = func.coalesce(listings.c.scraped_at, listings.c.last_seen_at, listings.c.first_seen_at)
    query = (
        select(
            listings.c.id,
            listings.c.external_id.is_not(None),
            listings.c.source,
            listings.c.image_url,
            listings.c.is_active,
            func.count(images.c.id),
            number(
                images.c.status.not_in(HAVE_BYTES)
                & func.coalesce(images.c.reason, "").not_in((Reason.SPOOLED, Reason.DELETED))
            ),
            number(due_condition(utcnow(), retry)),
            number((images.c.status == Status.STORED) & (images.c.store == "folder")),
        )
        .join(images, images.c.listing_id == listings.c.id, isouter=True)
        .where(listings.c.source.is_not(None))
        .group_by(listings.c.id)
        .order_by(listings.c.is_active.desc(), seen_at.is_(None), seen_at.desc(), listings.c.id.desc())
    )
    if sources is not None:
        query = query.where(listings.c.source.in_(sources))
    if not include_inactive:
        # An archive's are never active: whoever names it means them.
        named = listings.c.source == ARCHIVE if ARCHIVE in (sources or ()) else false()
        query = query.where(or_(listings.c.is_active, named))
    return [ListedCar(*row) for row in connection.execute(query)]


_CAR_FIELDS = tuple(each.name for each in fields(CarItem) if each.name in listings.c)


def known_cars(connection: Connection, row_ids: list[int], retry: RetryRules = CRAWL) -> list[KnownCar]:
    """Return the cars *row_ids* in that order; those that are gone from the table since are left out."""
    found = {}
    for chunk in chunks(row_ids):
        rows = connection.execute(select(listings).where(listings.c.id.in_(chunk))).all()
        photos = known(connection, [(row.source, row.external_id) for row in rows], retry)
        for row, of_car in zip(rows, photos, strict=True):
            values = {name: getattr(row, name) for name in _CAR_FIELDS}
            item = CarItem(**values, seen=False)
            found[row.id] = KnownCar(row.id, item, row.image_url, row.is_active, of_car, row.last_seen_at)
    return [found[row_id] for row_id in row_ids if row_id in found]


def unseen_cars(
    connection: Connection, source: str, seen: frozenset[str], since: datetime, retry: RetryRules = CRAWL
) -> list[KnownCar]:
    """Return the cars of *source* with photos that are due, without those of the ids *seen*.

    Cars that were for sale after *since* only: what died earlier has been asked for often enough.
    """
    due = select(images.c.id).where(images.c.listing_id == listings.c.id, due_condition(utcnow(), retry))
    query = (
        select(listings.c.id, listings.c.external_id)
        .where(listings.c.source == source, listings.c.external_id.is_not(None), listings.c.last_seen_at > since)
        .where(due.exists())
        .order_by(listings.c.id)
    )
    rows = connection.execute(query).all()
    return known_cars(connection, [row.id for row in rows if row.external_id not in seen], retry)


def without_id(connection: Connection, sources: list[str] | None) -> list[tuple[int, str, str, str]]:
    """List rows without an external id: row id, source, address and the photo's address, the last seen first."""
    last: Any = listings.c.last_seen_at
    query = (
        select(listings.c.id, listings.c.source, listings.c.url, listings.c.image_url)
        .where(listings.c.external_id.is_(None), listings.c.source.is_not(None))
        .where(or_(listings.c.url.is_not(None), listings.c.image_url.is_not(None)))
        .order_by(listings.c.is_active.desc(), last.is_(None), last.desc(), listings.c.id.desc())
    )
    if sources is not None:
        query = query.where(listings.c.source.in_(sources))
    return [(row.id, row.source, row.url or "", row.image_url or "") for row in connection.execute(query)]


def free_ids(connection: Connection, external_ids: dict[int, str]) -> dict[int, str]:
    """Return those of *external_ids*, by row id, that no row has and that only one row is to get.

    The earlier scraper could keep one car under several addresses: the first of them gets the id, the others stay as
    they are, without one.
    """
    rows = {}
    for chunk in chunks(list(external_ids)):
        query = select(listings.c.id, listings.c.source).where(
            listings.c.id.in_(chunk), listings.c.external_id.is_(None)
        )
        rows.update({row.id: row.source for row in connection.execute(query)})
    wanted: dict[tuple[str, str], int] = {}
    for row_id, external_id in external_ids.items():
        if row_id in rows:
            wanted.setdefault((rows[row_id], external_id), row_id)
    for these in of_cars(wanted):
        taken = select(listings.c.source, listings.c.external_id).where(these)
        for source, external_id in connection.execute(taken).all():
            del wanted[source, external_id]
    return {row_id: external_id for (_, external_id), row_id in sorted(wanted.items())}


def give_ids(connection: Connection, external_ids: dict[int, str]) -> dict[int, str]:
    """Write the external ids of rows that have none, as far as they are free; give those that were written."""
    free = free_ids(connection, external_ids)
    for row_id, external_id in free.items():
        connection.execute(update(listings).where(listings.c.id == row_id).values(external_id=external_id))
    return free


class Archived(NamedTuple):
    """How a photo of an archive stands."""

    status: str
    reason: str | None
    due: bool
    """Not stored, and it may be tried again now."""
    source_url: str


def archived(
    connection: Connection, source: str, photos: list[tuple[str, str]], retry: RetryRules = CRAWL
) -> dict[tuple[str, str], Archived]:
    """Return how those of ``(external_id, identity)`` stand that have a row."""
    found = {}
    due = due_condition(utcnow(), retry).label("due")
    columns = (images.c.status, images.c.reason, due, images.c.source_url)
    asked = set(photos)
    for chunk in chunks(photos):
        external_ids, identities = ({pair[part] for pair in chunk} for part in (0, 1))
        query = (
            select(listings.c.external_id, images.c.identity, *columns)
            .join(images, images.c.listing_id == listings.c.id)
            .where(listings.c.source == source, listings.c.external_id.in_(external_ids))
            .where(images.c.identity.in_(identities))
        )
        for external_id, identity, *row in connection.execute(query):
            if (external_id, identity) in asked:
                found[external_id, identity] = Archived(*row)
    return found


def lose_images(connection: Connection, source: str, external_id: str, identities: list[str]) -> None:
    """Make pending what was stored in the folder and is not there any more, under whatever ids the car has it."""
    car = select(listings.c.id).where(listings.c.source == source, listings.c.external_id == external_id)
    in_folder = and_(images.c.listing_id.in_(car), images.c.store == "folder", images.c.identity.in_(identities))
    rows = connection.execute(select(images.c.id, images.c.key).where(in_folder))
    lose(connection, "folder", {row.id: row.key for row in rows})


def sizes(connection: Connection) -> Sizes:
    """Return averages over what is stored."""
    stored = images.c.status == Status.STORED
    row = connection.execute(
        select(func.avg(images.c.bytes), func.count(images.c.id), func.count(func.distinct(images.c.listing_id))).where(
            stored
        )
    ).one()
    return Sizes(float(row[0] or 0), row[1] / row[2] if row[2] else 0.0)
