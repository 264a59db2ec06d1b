"""What a backfill asks of the ledger and tells it: functions of a connection, like those of ``db.photos``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import and_, case, false, func, or_, select, true, update

from carscraper.db.models import images, listings
from carscraper.db.photos import KnownImage, known
from carscraper.db.repairs import lose
from carscraper.db.rules import ARCHIVE, CRAWL, HAVE_BYTES, RetryRules, chunks, due_condition, of_cars
from carscraper.items import CarItem, Reason, Status, utcnow

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class ListedCar:
    """A row of ``car_listings`` and how its photos stand."""

    row_id: int
    source: str | None
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
    include_inactive: bool,
    retry: RetryRules = CRAWL,
    also: Collection[int] = (),
    *,
    archive: bool = False,
) -> list[ListedCar]:
    """List the cars that a backfill may have to do with.

    Active cars first, of these the ones of which no photo has failed yet, then those whose photo addresses are newest:
    these are the soonest to be lost that can still be had.

    Args:
        connection: in a transaction of the caller.
        include_inactive: cars that are not for sale any more, too.
        retry: when a photo is due again.
        also: rows that are listed though they are not active, unless the site itself has said that the car is gone.
        archive: those of an archive, which are never active, too.
    """

    def number(condition: Any) -> Any:
        return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)

    seen_at: Any = func.coalesce(listings.c.scraped_at, listings.c.last_seen_at, listings.c.first_seen_at)
    failed = number(images.c.status.not_in(HAVE_BYTES) & (images.c.attempts > 0))
    query = (
        select(
            listings.c.id,
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
        .group_by(listings.c.id)
        .order_by(listings.c.is_active.desc(), failed > 0, seen_at.is_(None), seen_at.desc(), listings.c.id.desc())
    )
    if include_inactive:
        return [ListedCar(*row) for row in connection.execute(query)]
    named = listings.c.source == ARCHIVE if archive else false()
    found = [ListedCar(*row) for row in connection.execute(query.where(or_(listings.c.is_active, named)))]
    for chunk in chunks(sorted(also)):
        these = query.where(listings.c.id.in_(chunk), listings.c.is_active.is_not(true()), listings.c.gone_at.is_(None))
        found += [ListedCar(*row) for row in connection.execute(these)]
    return found


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


class OldRow(NamedTuple):
    """A row of ``car_listings`` as an older program may have left it; ``""`` where it has nothing."""

    row_id: int
    source: str | None
    external_id: str | None
    url: str
    image_url: str
    is_active: bool


def old_rows(connection: Connection, sources: list[str]) -> list[OldRow]:
    """List the rows without an external id, or of others than *sources*: those of cars for sale, seen last, first."""
    last: Any = listings.c.last_seen_at
    columns = (func.coalesce(listings.c[name], "") for name in ("url", "image_url"))
    query = (
        select(listings.c.id, listings.c.source, listings.c.external_id, *columns, listings.c.is_active)
        .where(or_(listings.c.external_id.is_(None), listings.c.source.is_(None), listings.c.source.not_in(sources)))
        .order_by(listings.c.is_active.desc(), last.is_(None), last.desc(), listings.c.id.desc())
    )
    return [OldRow._make(row) for row in connection.execute(query)]


def sources(connection: Connection) -> dict[str | None, int]:
    """Return how many rows each source has."""
    query = select(listings.c.source, func.count()).group_by(listings.c.source)
    return {row.source: row[1] for row in connection.execute(query)}


@dataclass(frozen=True, slots=True)
class Names:
    """Which cars old rows are of."""

    given: dict[int, tuple[str, str]]
    """Source and external id that rows have now, by row id."""
    second: dict[int, int]
    """Rows of a car that another row stands for, which they name."""


def free_names(connection: Connection, cars: dict[int, tuple[str, str]]) -> Names:
    """Return which of *cars*, by row id, no other row has.

    The earlier scraper could keep one car under several addresses: the first of them gets the name, the others stay as
    they are, without one.
    """
    holders = {}
    for these in of_cars(cars.values()):
        taken = select(listings.c.source, listings.c.external_id, listings.c.id).where(these)
        holders.update({(row.source, row.external_id): row.id for row in connection.execute(taken)})
    given, second = {}, {}
    for row_id, car in cars.items():
        holder = holders.setdefault(car, row_id)
        if holder != row_id:
            second[row_id] = holder
        else:
            given[row_id] = car
    return Names(given, second)


def give_names(connection: Connection, cars: dict[int, tuple[str, str]]) -> Names:
    """Write the source and the external id of rows, as far as they are free; return what became of each."""
    names = free_names(connection, cars)
    for row_id, (source, external_id) in sorted(names.given.items()):
        values = {"source": source, "external_id": external_id}
        this = update(listings).where(listings.c.id == row_id)
        changed = or_(listings.c.source.is_distinct_from(source), listings.c.external_id.is_distinct_from(external_id))
        connection.execute(this.where(changed).values(values))
    return names


class Archived(NamedTuple):
    """How a photo of an archive stands."""

    status: str
    reason: str | None
    due: bool
    """Not stored, and it may be tried again now."""
    source_url: str
    attempts: int

    @property
    def is_kept(self) -> bool:
        """Its bytes are in the store."""
        return self.status in HAVE_BYTES


class Holder(NamedTuple):
    """A photo that an object is of."""

    key: str
    source: str
    external_id: str
    identity: str


def holders(connection: Connection, keys: list[str]) -> list[Holder]:
    """Return the photos whose rows name one of *keys*, in whatever store."""
    columns = (images.c.key, listings.c.source, listings.c.external_id, images.c.identity)
    query = select(*columns).join(listings, listings.c.id == images.c.listing_id)
    return [Holder(*row) for chunk in chunks(keys) for row in connection.execute(query.where(images.c.key.in_(chunk)))]


def archived(
    connection: Connection, source: str, photos: list[tuple[str, str]], retry: RetryRules = CRAWL
) -> dict[tuple[str, str], Archived]:
    """Return how those of ``(external_id, identity)`` stand that have a row."""
    found = {}
    due = due_condition(utcnow(), retry).label("due")
    columns = (images.c.status, images.c.reason, due, images.c.source_url, images.c.attempts)
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
