"""The ledger as a list of what should be in the bucket: rows in key order, and what an audit may change in them.

Functions of a connection, like those of ``db.queries``; those that read more than fits into memory take the engine
and hold no transaction for long.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sqlalchemy import and_, collate, exists, func, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from carscraper.db.models import CarImageRow, CarListing
from carscraper.db.queries import chunks, lock_covers, of_cars, set_cover, stored_urls, utcnow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from sqlalchemy import Connection, Engine, Table

    from carscraper.items import CarImage

_listings = cast("Table", CarListing.__table__)
_images = cast("Table", CarImageRow.__table__)

_PAGE = 2_000  # rows read at a time
_LAST = "\U0010ffff"


class Entry(NamedTuple):
    """A row of ``car_images``, as an audit needs it."""

    id: int
    listing_id: int
    key: str | None
    store: str | None
    status: str
    bytes: int | None
    sha256: str | None
    url: str | None


class Cover(NamedTuple):
    """A car whose ``image_url`` is none of its stored photos' addresses."""

    listing_id: int
    source: str | None
    external_id: str | None
    image_url: str


@dataclass(frozen=True, slots=True)
class Car:
    """A row of ``car_listings`` that names its car."""

    listing_id: int
    source: str
    external_id: str
    url: str | None


_COLUMNS = (
    _images.c.id,
    _images.c.listing_id,
    _images.c.key,
    _images.c.store,
    _images.c.status,
    _images.c.bytes,
    _images.c.sha256,
    _images.c.url,
)
_NO_KEY = or_(_images.c.key.is_(None), _images.c.key == "")


def reading(engine: Engine) -> Connection:
    """Connect for questions only: on SQLite this keeps no crawl from writing."""
    return engine.connect().execution_options(sqlite_begin="DEFERRED")


# --- reading ----------------------------------------------------------------------------------------------------


def by_key(engine: Engine, store: str, prefix: str = "") -> Iterator[Entry]:
    """Give the rows whose photo is or was in *store* below *prefix*, in the order of their keys' UTF-8 bytes.

    Rows that are no longer stored keep their key if the object stays (a placeholder, one that waits in the spool).
    """
    if engine.dialect.name == "sqlite":
        yield from _by_key_in_pages(engine, store, prefix)
        return
    # The index on the key is in the order of the database's language: the server sorts once, and hands out pages.
    query = select(*_COLUMNS).where(_images.c.store == store, _images.c.key.is_not(None), _images.c.key != "")
    if prefix:
        query = query.where(func.substr(_images.c.key, 1, len(prefix)) == prefix)
    query = query.order_by(collate(_images.c.key, "C"), _images.c.id)
    with reading(engine).execution_options(stream_results=True, yield_per=_PAGE) as connection:
        for row in connection.execute(query):
            yield Entry._make(row)


def _by_key_in_pages(engine: Engine, store: str, prefix: str) -> Iterator[Entry]:
    """Read page by page: a transaction that stays open would keep SQLite's log from being written back."""
    after: tuple[str, int] = (prefix, 0)
    while True:
        # Only the comparison of pairs lets SQLite go on in the index where it was; its order is that of the bytes.
        query = (
            select(*_COLUMNS)
            .where(tuple_(_images.c.key, _images.c.id) > tuple_(*after), _images.c.store == store, _images.c.key != "")
            .order_by(_images.c.key, _images.c.id)
            .limit(_PAGE)
        )
        if prefix:
            query = query.where(_images.c.key < prefix + _LAST)
        with reading(engine) as connection:
            rows = [Entry._make(row) for row in connection.execute(query)]
        yield from rows
        if len(rows) < _PAGE:
            return
        after = (rows[-1].key or "", rows[-1].id)


def without_key(engine: Engine, store: str) -> Iterator[Entry]:
    """Give the rows that are stored in *store*, or nowhere, and name no object."""
    after = 0
    where = and_(_images.c.status == "stored", or_(and_(_images.c.store == store, _NO_KEY), _images.c.store.is_(None)))
    while True:
        query = select(*_COLUMNS).where(where, _images.c.id > after).order_by(_images.c.id).limit(_PAGE)
        with reading(engine) as connection:
            rows = [Entry._make(row) for row in connection.execute(query)]
        yield from rows
        if len(rows) < _PAGE:
            return
        after = rows[-1].id


def _is_stored(store: str | None) -> Any:
    # Without coalesce() SQLite takes the index on the status, and reads all that was ever stored.
    stored = [_images.c.listing_id == _listings.c.id, func.coalesce(_images.c.status, "") == "stored"]
    return and_(*stored, _images.c.store == store) if store else and_(*stored)


def odd_covers(engine: Engine, store: str) -> Iterator[Cover]:
    """Give the cars with photos in *store* that show a picture which is none of their stored photos."""
    after = 0
    while True:
        query = (
            select(_listings.c.id, _listings.c.source, _listings.c.external_id, _listings.c.image_url)
            .where(
                _listings.c.id > after,
                _listings.c.image_url != "",
                exists().where(_is_stored(store)),
                ~exists().where(_is_stored(None), _images.c.url == _listings.c.image_url),
            )
            .order_by(_listings.c.id)
            .limit(_PAGE)
        )
        with reading(engine) as connection:
            rows = [Cover._make(row) for row in connection.execute(query)]
        yield from rows
        if len(rows) < _PAGE:
            return
        after = rows[-1].listing_id


def covers_of(connection: Connection, listing_ids: Iterable[int]) -> dict[int, str | None]:
    """Give what these cars show."""
    found: dict[int, str | None] = {}
    for chunk in chunks(sorted(set(listing_ids))):
        query = select(_listings.c.id, _listings.c.image_url).where(_listings.c.id.in_(chunk))
        found.update((row.id, row.image_url) for row in connection.execute(query))
    return found


def entries(connection: Connection, row_ids: Iterable[int]) -> dict[int, Entry]:
    """Read rows again."""
    found: dict[int, Entry] = {}
    for chunk in chunks(sorted(set(row_ids))):
        rows = connection.execute(select(*_COLUMNS).where(_images.c.id.in_(chunk)))
        found.update((row.id, Entry._make(row)) for row in rows)
    return found


def known_keys(connection: Connection, store: str | None, keys: Iterable[str]) -> set[str]:
    """Give those of *keys* that a row names in *store*, or without saying where (``None``: in any store)."""
    found: set[str] = set()
    for chunk in chunks(sorted(set(keys))):
        query = select(_images.c.key).where(_images.c.key.in_(chunk))
        if store is not None:
            query = query.where(or_(_images.c.store == store, _images.c.store.is_(None)))
        found.update(connection.execute(query).scalars())
    return found


def folder_rows(connection: Connection, keys: Iterable[str]) -> dict[str, list[tuple[Car, Any]]]:
    """Give the rows that are in the folder under *keys*, each with its car."""
    found: dict[str, list[tuple[Car, Any]]] = {}
    cars = (_listings.c.source, _listings.c.external_id, _listings.c.url.label("page"))
    for chunk in chunks(sorted(set(keys))):
        query = (
            select(_images, *cars)
            .join(_listings, _listings.c.id == _images.c.listing_id)
            .where(_images.c.key.in_(chunk), _images.c.store == "folder")
            .order_by(_images.c.id)
        )
        for row in connection.execute(query):
            car = Car(row.listing_id, row.source or "", row.external_id or "", row.page)
            found.setdefault(row.key, []).append((car, row))
    return found


def elsewhere(connection: Connection, store: str, prefix: str) -> dict[str, int]:
    """Count what is stored in other stores, and in *store* outside *prefix* (under the name ``outside``)."""
    query = (
        select(_images.c.store, func.count())
        .where(_images.c.status == "stored", _images.c.store != store)
        .group_by(_images.c.store)
    )
    found = {str(name): number for name, number in connection.execute(query)}
    if prefix:
        outside = select(func.count()).where(
            _images.c.status == "stored",
            _images.c.store == store,
            _images.c.key != "",
            func.substr(_images.c.key, 1, len(prefix)) != prefix,
        )
        number = connection.execute(outside).scalar_one()
        found |= {"outside": number} if number else {}
    return found


# --- mending ----------------------------------------------------------------------------------------------------


def _is_in(store: str) -> Any:
    return and_(_images.c.status == "stored", or_(_images.c.store == store, _images.c.store.is_(None)))


def rows_of(connection: Connection, store: str, keys: Iterable[str]) -> dict[int, str | None]:
    """Give the ids of the rows that are stored in *store* under *keys*, each with its key."""
    found: dict[int, str | None] = {}
    for chunk in chunks(sorted(set(keys))):
        query = select(_images.c.id, _images.c.key).where(_images.c.key.in_(chunk), _is_in(store))
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
    listing_ids = {entry.listing_id for entry in entries(connection, rows).values()}
    shown = lock_covers(connection, sorted(listing_ids))
    lost: list[int] = []
    keys: set[str] = set()
    urls: dict[int, set[str | None]] = {}
    for chunk in chunks(sorted(rows)):
        for row in connection.execute(select(*_COLUMNS).where(_images.c.id.in_(chunk), _is_in(store))).all():
            if row.key == rows[row.id]:
                lost.append(row.id)
                keys.add(row.key or "")
                urls.setdefault(row.listing_id, set()).add(row.url)
    # The hash stays: should the object come back, `discover` knows whose it is.
    values = dict.fromkeys(("reason", "store", "key", "url", "stored_at", "last_attempt_at"))
    for chunk in chunks(lost):
        connection.execute(update(_images).where(_images.c.id.in_(chunk)).values(status="pending", **values))
    for chunk in chunks(sorted(keys - {""})):  # what is superseded has no other object than they
        also = and_(_images.c.key.in_(chunk), _images.c.store == store, _images.c.status == "superseded")
        connection.execute(update(_images).where(also).values(status="pending", superseded_by=None, **values))
    covers = stored_urls(connection, sorted(urls))
    for listing_id, gone in sorted(urls.items()):
        if shown.get(listing_id) in gone - {None}:
            set_cover(connection, listing_id, next(iter(covers.get(listing_id, ())), None))
    return lost


def set_urls(connection: Connection, store: str, urls: dict[int, tuple[str, str]]) -> int:
    """Give photos in *store* their address: *urls* has, by row id, the key that the row must have and the address.

    A car that showed the old address shows its first stored photo.

    Returns:
        How many rows were changed.
    """
    before = entries(connection, urls)
    shown = lock_covers(connection, sorted({entry.listing_id for entry in before.values()}))
    replaced: dict[int, set[str | None]] = {}
    number = 0
    for row_id, entry in sorted(before.items()):
        key, url = urls[row_id]
        this = update(_images).where(_images.c.id == row_id, _images.c.key == key, _is_in(store))
        if connection.execute(this.values(url=url, store=store)).rowcount:
            replaced.setdefault(entry.listing_id, set()).add(entry.url)
            number += 1
    covers = stored_urls(connection, sorted(replaced))
    for listing_id, old in replaced.items():
        if shown.get(listing_id) in old and listing_id in covers:
            set_cover(connection, listing_id, covers[listing_id][0])
    return number


def set_hashes(connection: Connection, hashes: dict[int, tuple[str, str, int]]) -> int:
    """Give stored rows without one their SHA-256: *hashes* has, by row id, the row's key, the hash and the bytes."""
    number = 0
    for row_id, (key, sha256, size) in sorted(hashes.items()):
        this = update(_images).where(_images.c.id == row_id, _images.c.key == key, _images.c.sha256.is_(None))
        source = func.coalesce(_images.c.source_sha256, sha256)
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


# --- entering ---------------------------------------------------------------------------------------------------


def sources(connection: Connection) -> list[str]:
    """List the sources that have cars."""
    query = select(_listings.c.source).where(_listings.c.source.is_not(None)).distinct().order_by(_listings.c.source)
    return list(connection.execute(query).scalars())


def cars(connection: Connection, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Car]:
    """Give those of the cars ``(source, external id)`` that have a row."""
    found = {}
    columns = (_listings.c.id, _listings.c.source, _listings.c.external_id, _listings.c.url)
    for these in of_cars(wanted):
        for row in connection.execute(select(*columns).where(these)):
            found[row.source, row.external_id] = Car(*row)
    return found


def create_car(
    connection: Connection, source: str, external_id: str, *, make: str | None, model: str | None, year: int | None
) -> Car:
    """Make an inactive row for a car of which nothing but a photo is known; one that is there stays as it is."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    values: dict[str, Any] = {"source": source, "external_id": external_id, "make": make, "model": model, "year": year}
    values |= {"is_active": False, "first_seen_at": utcnow()}
    statement = dialect.insert(_listings).values(values)
    connection.execute(statement.on_conflict_do_nothing(index_elements=["source", "external_id"]))
    return cars(connection, [(source, external_id)])[source, external_id]


def announce(connection: Connection, photos: Iterable[tuple[int, CarImage]]) -> None:
    """Make rows for photos, each with its listing's id, that have none: as those of a photo that is to be fetched.

    ``db.queries.save_images`` writes into them what became of the photos.
    """
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    names = ("identity", "source_url", "position")
    common = {"status": "pending", "first_seen_at": utcnow()}
    rows = [
        {"listing_id": listing_id} | {name: getattr(image, name) for name in names} | common
        for listing_id, image in photos
    ]
    statement = dialect.insert(_images).on_conflict_do_nothing(index_elements=["listing_id", "identity"])
    connection.execute(statement, rows)


# --- order ------------------------------------------------------------------------------------------------------


class Sorter:
    """Puts any number of records into the order of a text's UTF-8 bytes, in a temporary file.

    Not every S3 server lists in that order, and a thumbnail belongs beside its photo.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="carscraper-audit-")
        self._database = sqlite3.connect(Path(self._folder.name) / "sorted.db", isolation_level=None)
        # Nobody needs this file after a crash; 8 MB of it are held in memory.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-8000"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute(
            "CREATE TABLE records (place BLOB, again BLOB, size INTEGER, at REAL, PRIMARY KEY (place, again)) "
            "WITHOUT ROWID"
        )
        self._database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, kind TEXT, note TEXT)")
        self._database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self._folder.cleanup()

    def add(self, records: Iterable[tuple[str, str, int, float]]) -> None:
        """Take records: what they are sorted by, what comes second, and two numbers; the last of two alike counts."""
        rows = ((_bytes(place), _bytes(again), size, at) for place, again, size, at in records)
        self._database.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", rows)

    def records(self) -> Iterator[tuple[str, str, int, float]]:
        """Give them in order."""
        for place, again, size, at in self._database.execute("SELECT * FROM records ORDER BY place, again"):
            yield _text(place), _text(again), size, at

    def note(self, kind: str, note: Any) -> None:
        """Keep something for later, as JSON."""
        self._database.execute("INSERT INTO notes (kind, note) VALUES (?, ?)", (kind, json.dumps(note)))

    def notes(self, kind: str) -> Iterator[Any]:
        """Give what was kept of this kind, the first first."""
        for (note,) in self._database.execute("SELECT note FROM notes WHERE kind = ? ORDER BY id", (kind,)):
            yield json.loads(note)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
