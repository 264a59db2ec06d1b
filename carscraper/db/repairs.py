"""What registering objects and an audit do to the ledger: functions of a connection, in a transaction of the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from carscraper.db.models import images, listings
from carscraper.db.placeholders import lock_covers, set_cover, stored_urls
from carscraper.db.rules import chunks, of_cars
from carscraper.items import Status, utcnow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection, Engine

    from carscraper.items import CarImage


class PhotoRow(NamedTuple):
    """A row of ``car_images``, as an audit needs it."""

    id: int
    listing_id: int
    key: str | None
    store: str | None
    status: str
    bytes: int | None
    sha256: str | None
    url: str | None


COLUMNS = [images.c[name] for name in PhotoRow._fields]


def reading(engine: Engine) -> Connection:
    """Connect for questions only: on SQLite this keeps no crawl from writing."""
    return engine.connect().execution_options(sqlite_begin="DEFERRED")


def covers_of(connection: Connection, listing_ids: Iterable[int]) -> dict[int, str | None]:
    """Return what these cars show."""
    found: dict[int, str | None] = {}
    for chunk in chunks(sorted(set(listing_ids))):
        query = select(listings.c.id, listings.c.image_url).where(listings.c.id.in_(chunk))
        found.update((row.id, row.image_url) for row in connection.execute(query))
    return found


def photo_rows(connection: Connection, row_ids: Iterable[int]) -> dict[int, PhotoRow]:
    """Read rows by their ids."""
    found: dict[int, PhotoRow] = {}
    for chunk in chunks(sorted(set(row_ids))):
        rows = connection.execute(select(*COLUMNS).where(images.c.id.in_(chunk)))
        found.update((row.id, PhotoRow._make(row)) for row in rows)
    return found


def known_keys(connection: Connection, store: str | None, keys: Iterable[str]) -> set[str]:
    """Return those of *keys* that a row names in *store*, or without saying where (``None``: in any store)."""
    found: set[str] = set()
    for chunk in chunks(sorted(set(keys))):
        query = select(images.c.key).where(images.c.key.in_(chunk))
        if store is not None:
            query = query.where(or_(images.c.store == store, images.c.store.is_(None)))
        found.update(connection.execute(query).scalars())
    return found


def _is_in(store: str) -> Any:
    return and_(images.c.status == Status.STORED, or_(images.c.store == store, images.c.store.is_(None)))


def stored_hashes(connection: Connection, store: str, keys: Iterable[str]) -> dict[str, set[str]]:
    """Return the SHA-256 that the stored rows of each key in *store* have, for those that have any."""
    found: dict[str, set[str]] = {}
    query = select(images.c.key, images.c.sha256).where(images.c.store == store, images.c.status == Status.STORED)
    for chunk in chunks(sorted(set(keys))):
        its = query.where(images.c.key.in_(chunk), images.c.sha256.is_not(None))
        for key, sha256 in connection.execute(its):
            found.setdefault(key, set()).add(sha256)
    return found


def stored_keys(connection: Connection, store: str, sources: Iterable[str]) -> Iterator[str]:
    """Return the keys of the photos that are stored in *store* for cars of *sources*, each once, in their order."""
    query = (
        select(images.c.key)
        .join(listings, listings.c.id == images.c.listing_id)
        .where(images.c.store == store, images.c.status == Status.STORED, images.c.key.is_not(None))
        .where(listings.c.source.in_(list(sources)))
        .distinct()
        .order_by(images.c.key)
    )
    yield from connection.execution_options(yield_per=1000).execute(query).scalars()


def rows_of(connection: Connection, store: str, keys: Iterable[str]) -> dict[int, str | None]:
    """Return the ids of the rows that are stored in *store* under *keys*, each with its key."""
    found: dict[int, str | None] = {}
    for chunk in chunks(sorted(set(keys))):
        query = select(images.c.id, images.c.key).where(images.c.key.in_(chunk), _is_in(store))
        found.update((row.id, row.key) for row in connection.execute(query))
    return found


def lose(connection: Connection, store: str, rows: dict[int, str | None]) -> list[int]:
    """Make photos pending that proved not to be in *store*, and let their cars show another one.

    Args:
        connection: in a transaction.
        store: where they were said to be.
        rows: their ids, each with the key that it had; one that has another by now stays as it is.

    Returns:
        The ids of the rows that were changed.
    """
    listing_ids = {entry.listing_id for entry in photo_rows(connection, rows).values()}
    shown = lock_covers(connection, sorted(listing_ids))
    lost: list[int] = []
    keys: set[str] = set()
    urls: dict[int, set[str | None]] = {}
    for chunk in chunks(sorted(rows)):
        for row in connection.execute(select(*COLUMNS).where(images.c.id.in_(chunk), _is_in(store))).all():
            if row.key == rows[row.id]:
                lost.append(row.id)
                keys.add(row.key or "")
                urls.setdefault(row.listing_id, set()).add(row.url)
    # The hash stays: should the object come back, `discover` knows whose it is.
    values = dict.fromkeys(("reason", "store", "key", "url", "stored_at", "last_attempt_at"))
    for chunk in chunks(lost):
        connection.execute(update(images).where(images.c.id.in_(chunk)).values(status=Status.PENDING, **values))
    for chunk in chunks(sorted(keys - {""})):  # what is superseded has no other object than they
        also = and_(images.c.key.in_(chunk), images.c.store == store, images.c.status == Status.SUPERSEDED)
        connection.execute(update(images).where(also).values(status=Status.PENDING, superseded_by=None, **values))
    covers = stored_urls(connection, sorted(urls))
    for listing_id, gone in sorted(urls.items()):
        if shown.get(listing_id) in gone - {None}:
            set_cover(connection, listing_id, next(iter(covers.get(listing_id, ())), None))
    return lost


def set_urls(connection: Connection, store: str, urls: dict[int, tuple[str, str]]) -> int:
    """Set the address of photos in *store*: *urls* has, by row id, the key that the row must have and the address.

    A car that showed the old address shows its first stored photo.

    Returns:
        How many rows were changed.
    """
    before = photo_rows(connection, urls)
    shown = lock_covers(connection, sorted({entry.listing_id for entry in before.values()}))
    replaced: dict[int, set[str | None]] = {}
    number = 0
    for row_id, entry in sorted(before.items()):
        key, url = urls[row_id]
        this = update(images).where(images.c.id == row_id, images.c.key == key, _is_in(store))
        if connection.execute(this.values(url=url, store=store)).rowcount:
            replaced.setdefault(entry.listing_id, set()).add(entry.url)
            number += 1
    covers = stored_urls(connection, sorted(replaced))
    for listing_id, old in replaced.items():
        if shown.get(listing_id) in old and listing_id in covers:
            set_cover(connection, listing_id, covers[listing_id][0])
    return number


def set_hashes(connection: Connection, hashes: dict[int, tuple[str, str, int]]) -> int:
    """Set the SHA-256 of stored rows that have none: *hashes* has, by row id, the row's key, the hash and the bytes.

    Returns:
        How many rows were changed.
    """
    number = 0
    for row_id, (key, sha256, size) in sorted(hashes.items()):
        this = update(images).where(images.c.id == row_id, images.c.key == key, images.c.sha256.is_(None))
        source = func.coalesce(images.c.source_sha256, sha256)
        number += connection.execute(this.values(sha256=sha256, source_sha256=source, bytes=size)).rowcount
    return number


def set_covers(connection: Connection, expected: dict[int, str]) -> int:
    """Let cars show their first stored photo if they still show what is *expected* of them, by listing id.

    Returns:
        How many cars were changed.
    """
    shown = lock_covers(connection, sorted(expected))
    covers = stored_urls(connection, sorted(expected))
    number = 0
    for listing_id, url in sorted(expected.items()):
        if shown.get(listing_id) == url and listing_id in covers:
            set_cover(connection, listing_id, covers[listing_id][0])
            number += 1
    return number


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


def named_cars(connection: Connection, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], CarRow]:
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
    return named_cars(connection, [(source, external_id)])[source, external_id]


def create_photos(connection: Connection, photos: Iterable[tuple[int, CarImage]]) -> None:
    """Make rows for photos, each with its listing's id, that have none: as those of a photo that is to be fetched.

    ``db.photos.write`` writes into them what became of the photos.
    """
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    names = ("identity", "source_url", "position")
    common = {"status": Status.PENDING, "first_seen_at": utcnow()}
    rows = [
        {"listing_id": listing_id} | {name: getattr(image, name) for name in names} | common
        for listing_id, image in photos
    ]
    statement = dialect.insert(images).on_conflict_do_nothing(index_elements=["listing_id", "identity"])
    connection.execute(statement, rows)
