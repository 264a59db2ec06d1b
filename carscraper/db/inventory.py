"""The SQL of an audit: the ledger beside the bucket's list.

The list goes into a temporary table of the database, and what is in one and not in the other comes of joins, so that
memory stays flat whatever there is. No transaction is held for longer than one statement takes.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    and_,
    distinct,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError

from carscraper.db.engine import INSUFFICIENT_PRIVILEGE
from carscraper.db.models import crawl_runs, images, listings
from carscraper.db.repairs import COLUMNS, PhotoRow, reading
from carscraper.db.rules import chunks
from carscraper.exceptions import ConfigurationError
from carscraper.items import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection, Engine, Select


_temporary = MetaData()
_OF_THUMBNAILS = text("photo IS NOT NULL")
_objects = Table(
    "audit_objects",
    _temporary,
    Column("name", Text, primary_key=True),
    Column("photo", Text),
    Column("size", BigInteger, nullable=False),
    Column("modified", Float, nullable=False),
    Index("ix_audit_objects_photo", "photo", postgresql_where=_OF_THUMBNAILS, sqlite_where=_OF_THUMBNAILS),
    prefixes=["TEMPORARY"],
)
# Several times as fast as an INSERT for each object.
_INSERT_ARRAYS = text(
    "INSERT INTO audit_objects (name, photo, size, modified) SELECT * FROM unnest("
    "CAST(:name AS text[]), CAST(:photo AS text[]), CAST(:size AS bigint[]), CAST(:modified AS float8[]))"
)
_suspects = Table(
    "audit_suspects",
    _temporary,
    Column("id", Integer, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("row_id", BigInteger),
    Column("listing_id", BigInteger),
    Column("shows", Text),
    Column("photo", Text),
    Column("modified", Float),
    Column("finding", Text),
    Index("ix_audit_suspects_key", "key"),
    prefixes=["TEMPORARY"],
)

BY_KEY = ("missing", "size", "checksum")
"""Reasons that are about an object and all rows with its key."""

_PAGE = 2_000  # rows read at a time


class Suspect(NamedTuple):
    """What may be a fault."""

    id: int
    reason: str
    key: str
    """The object's name; for what names none, ``car_images/id`` or ``source/external id``."""
    row_id: int | None
    listing_id: int | None
    shows: str | None
    """The address that a car shows; of an output, its run."""
    photo: str | None
    """Of a thumbnail."""
    modified: float | None


_SUSPECT = [_suspects.c[name] for name in Suspect._fields]
_NO_KEY = or_(images.c.key.is_(None), images.c.key == "")
# Without coalesce() SQLite takes the index on the status, and reads all that was ever stored.
_STORED = func.coalesce(images.c.status, "") == Status.STORED


class Comparison:
    """The ledger's rows of one store beside the list of its objects, on one connection."""

    def __init__(self, connection: Connection, store: str, prefix: str) -> None:
        """Take a connection of :func:`reading`; the rows are those in *store* whose keys begin with *prefix*.

        Raises:
            ConfigurationError: this role of PostgreSQL may not make a temporary table.
        """
        self._connection = connection
        self._store = store
        self._here = and_(images.c.store == store, images.c.key.is_not(None), images.c.key != "")
        if prefix:
            self._here = and_(self._here, func.substr(images.c.key, 1, len(prefix)) == prefix)
        try:
            with connection.begin():
                _temporary.create_all(connection, checkfirst=False)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
                raise
            url = connection.engine.url
            raise ConfigurationError(
                "The audit needs a temporary table, which the role of DATABASE_URL may not make: run "
                f'GRANT TEMPORARY ON DATABASE "{url.database}" TO "{url.username}" as the database\'s owner.'
            ) from None

    def add(self, objects: list[dict[str, Any]]) -> None:
        """Add objects of the list: ``name``, ``photo`` (of a thumbnail), ``size``, ``modified``; each name once."""
        if not objects:
            return
        with self._connection.begin():
            if self._connection.dialect.name == "postgresql":
                arrays = {name: [each[name] for each in objects] for name in objects[0]}
                self._connection.execute(_INSERT_ARRAYS, arrays)
            else:
                self._connection.execute(insert(_objects), objects)

    def count(self) -> dict[str, int]:
        """Return how many ``rows`` are stored here, and how many different ``keys`` they have whose object is there."""
        with self._connection.begin():
            if self._connection.dialect.name == "postgresql":
                self._connection.exec_driver_sql("ANALYZE audit_objects")
            counted = select(func.count()).select_from(images)
            rows = self._connection.scalar(counted.where(_STORED, self._here)) or 0
            rows += self._connection.scalar(counted.where(_STORED, self._nowhere())) or 0
            there = select(func.count(distinct(images.c.key))).join(_objects, _objects.c.name == images.c.key)
            keys = self._connection.scalar(there.where(_STORED, self._here)) or 0
        return {"rows": rows, "keys": keys}

    def _nowhere(self) -> Any:
        """Return the condition for stored rows that name no object, or no store."""
        return or_(and_(images.c.store == self._store, _NO_KEY), images.c.store.is_(None))

    # --- the joins ---

    def find_objects(self) -> None:
        """Find stored rows without their object, and objects of another size."""
        there = exists().where(_objects.c.name == images.c.key)
        missing = select(literal("missing"), images.c.key).where(_STORED, self._here, ~there)
        size = select(literal("size"), images.c.key).join(_objects, _objects.c.name == images.c.key)
        size = size.where(_STORED, self._here, images.c.bytes != _objects.c.size)
        with self._connection.begin():
            for query in (missing, size):
                ordered = query.distinct().order_by(images.c.key)
                self._connection.execute(insert(_suspects).from_select(["reason", "key"], ordered))

    def unnamed(self) -> Iterator[list[Any]]:
        """Return name, photo and time of the objects that no row names, stored or not: a row keeps its key.

        Thumbnails only if their photo is not there and no row names it.
        """
        here = or_(images.c.store == self._store, images.c.store.is_(None))
        named = or_(*(exists().where(images.c.key == name, here) for name in (_objects.c.name, _objects.c.photo)))
        photo = _objects.alias("photo")
        alone = and_(~named, ~exists().where(photo.c.name == _objects.c.photo))
        query = select(_objects.c.name, _objects.c.photo, _objects.c.modified).where(alone).order_by(_objects.c.name)
        yield from self._pages(query, _objects.c.name)

    def find_missing_thumbnails(self, folder: str, prefix: str) -> None:
        """Find photos that are there without their thumbnail below *folder*; *prefix* is ``S3_PREFIX``."""
        thumbnail = literal(folder).concat(func.substr(_objects.c.name, len(prefix) + 1))
        small = _objects.alias("small")
        rows = exists().where(images.c.key == _objects.c.name, _STORED, self._here)
        query = select(literal("no-thumbnail"), thumbnail, _objects.c.name).where(
            rows, ~exists().where(small.c.name == thumbnail)
        )
        with self._connection.begin():
            self._connection.execute(insert(_suspects).from_select(["reason", "key", "photo"], query))

    def find_thumbnails(self, folder: str) -> None:
        """Suspect every thumbnail below *folder* whose photo is there, so that it is read."""
        rows = exists().where(images.c.key == _objects.c.photo, _STORED, self._here)
        below = func.substr(_objects.c.name, 1, len(folder)) == folder
        query = select(literal("bad-thumbnail"), _objects.c.name, _objects.c.photo).where(below, rows)
        with self._connection.begin():
            self._connection.execute(insert(_suspects).from_select(["reason", "key", "photo"], query))

    def find_outputs(self, *reasons: str) -> None:
        """Suspect for *reasons* every file that a run says it has uploaded: where outputs are is not listed."""
        query = (
            select(crawl_runs.c.id, crawl_runs.c.output)
            .where(crawl_runs.c.output.like("%s3://%"))
            .order_by(crawl_runs.c.id)
        )
        for page in self._pages(query, crawl_runs.c.id):
            self.suspect(
                {"reason": reason, "key": url, "shows": str(row.id)}
                for reason in reasons
                for row in page
                for url in json.loads(row.output).get("s3Urls", ())
            )

    def find_rows(self, base: str, wrong: Callable[[PhotoRow], Iterable[str]]) -> None:
        """Find rows that are wrong in themselves: *wrong* says why of those that do not have *base* and key as URL."""
        usual = images.c.url == literal(f"{base}/").concat(images.c.key)
        as_it_should = and_(func.coalesce(images.c.sha256, "") != "", images.c.url.is_not(None), usual)
        odd = or_(and_(self._here, ~as_it_should), self._nowhere())
        query = select(*COLUMNS).where(_STORED, odd).order_by(images.c.id)
        for page in self._pages(query, images.c.id):
            entries = [PhotoRow._make(row) for row in page]
            self.suspect(
                {"reason": reason, "key": entry.key or f"car_images/{entry.id}", "row_id": entry.id}
                for entry in entries
                for reason in wrong(entry)
            )

    def find_covers(self, is_ours: Callable[[str], bool]) -> None:
        """Find cars with photos here that show a temporary address, which *is_ours* denies."""
        of_car = and_(images.c.listing_id == listings.c.id, _STORED)
        query = (
            select(listings.c.id, listings.c.source, listings.c.external_id, listings.c.image_url)
            .where(
                listings.c.image_url != "",
                exists().where(of_car, images.c.store == self._store),
                ~exists().where(of_car, images.c.url == listings.c.image_url),
            )
            .order_by(listings.c.id)
        )
        for page in self._pages(query, listings.c.id):
            self.suspect(
                {
                    "reason": "temporary-cover",
                    "key": f"{row.source}/{row.external_id}",
                    "listing_id": row.id,
                    "shows": row.image_url,
                }
                for row in page
                if not is_ours(row.image_url)
            )

    def suspect(self, suspects: Iterable[dict[str, Any]]) -> None:
        """Note what may be a fault: fields of :class:`Suspect` without the id."""
        nothing = dict.fromkeys(Suspect._fields[3:])
        rows = [nothing | each for each in suspects]
        if rows:
            with self._connection.begin():
                self._connection.execute(insert(_suspects), rows)

    def _pages(self, query: Select[Any], column: Any, size: int = _PAGE) -> Iterator[list[Any]]:
        """Read the rows of *query*, which is in the order of *column*, its first one: a transaction a page."""
        after = None
        while True:
            with self._connection.begin():
                page = query if after is None else query.where(column > after)
                rows = list(self._connection.execute(page.limit(size)))
            if rows:
                yield rows
            if len(rows) < size:
                return
            after = rows[-1][0]

    # --- what is found ---

    def suspects(self, size: int) -> Iterator[list[Suspect]]:
        """Return what may be a fault, in groups of *size*."""
        query = select(*_SUSPECT).order_by(_suspects.c.id)
        for page in self._pages(query, _suspects.c.id, size):
            yield [Suspect._make(row) for row in page]

    def confirm(self, findings: dict[int, dict[str, Any]], cleared: Iterable[int]) -> None:
        """Keep the *findings* of a second look, by the suspects' ids; forget suspects that are as they should be."""
        with self._connection.begin():
            for suspect_id, finding in findings.items():
                values = {"reason": finding["reason"], "finding": json.dumps(finding)}
                self._connection.execute(update(_suspects).where(_suspects.c.id == suspect_id).values(values))
            for chunk in chunks(sorted(cleared)):
                self._connection.execute(_suspects.delete().where(_suspects.c.id.in_(chunk)))

    def findings(self, *reasons: str) -> Iterator[dict[str, Any]]:
        """Return what was confirmed for *reasons*, in their order."""
        for reason in reasons:
            found = and_(_suspects.c.reason == reason, _suspects.c.finding.is_not(None))
            query = select(_suspects.c.id, _suspects.c.finding).where(found).order_by(_suspects.c.id)
            for page in self._pages(query, _suspects.c.id):
                yield from (json.loads(row.finding) for row in page)

    def faulty_keys(self) -> int:
        """Return how many keys whose object is there have a suspect row, or are suspects themselves."""
        of_rows = or_(_suspects.c.row_id.is_not(None), _suspects.c.reason.in_([*BY_KEY, "unreadable"]))
        query = select(func.count(distinct(_suspects.c.key))).join(_objects, _objects.c.name == _suspects.c.key)
        query = query.join(images, images.c.key == _suspects.c.key).where(of_rows, _STORED, self._here)
        with self._connection.begin():
            return self._connection.scalar(query) or 0

    def matches(self, size: int, *, sample: int = 0, unsuspected: bool = False) -> Iterator[list[str]]:
        """Return the keys of stored rows whose object is there and has the right size, in groups of *size*.

        Args:
            size: of a group.
            sample: only as many, chosen at random.
            unsuspected: without those in whose rows something else is wrong.
        """
        rows = exists().where(images.c.key == _objects.c.name, _STORED, self._here)
        reasons = _suspects.c.key == _objects.c.name
        if not unsuspected:
            reasons = and_(reasons, _suspects.c.reason.in_(BY_KEY))
        query = select(_objects.c.name).where(rows, ~exists().where(reasons))
        if not sample:
            for page in self._pages(query.order_by(_objects.c.name), _objects.c.name, size):
                yield [row.name for row in page]
            return
        with self._connection.begin():
            chosen = list(self._connection.execute(query.order_by(func.random()).limit(sample)).scalars())
        for start in range(0, len(chosen), size):
            yield chosen[start : start + size]

    # --- a second look ---

    @contextlib.contextmanager
    def looking(self) -> Iterator[Connection]:
        """Begin a transaction in which the functions below see the same state."""
        with self._connection.begin():
            yield self._connection

    def stored_rows(self, keys: Iterable[str]) -> dict[str, list[PhotoRow]]:
        """Return the rows that are stored here under each of *keys*, as they are now."""
        found: dict[str, list[PhotoRow]] = {}
        for chunk in chunks(sorted(set(keys))):
            query = select(*COLUMNS).where(images.c.key.in_(chunk), images.c.store == self._store, _STORED)
            for row in self._connection.execute(query.order_by(images.c.id)):
                found.setdefault(row.key, []).append(PhotoRow._make(row))
        return found

    def thumbnails(self, photos: Iterable[str]) -> dict[str, list[str]]:
        """Return the names of the listed thumbnails of each of *photos*."""
        found: dict[str, list[str]] = {}
        for chunk in chunks(sorted(set(photos))):
            query = select(_objects.c.photo, _objects.c.name).where(_objects.c.photo.in_(chunk))
            for photo, name in self._connection.execute(query.order_by(_objects.c.name)):
                found.setdefault(photo, []).append(name)
        return found


@contextlib.contextmanager
def comparing(engine: Engine, store: str, prefix: str) -> Iterator[Comparison]:
    """Open a comparison; its temporary tables go with the connection."""
    connection = reading(engine)
    try:
        yield Comparison(connection, store, prefix)
    finally:
        connection.invalidate()  # not back into the pool, with its tables
        connection.close()


def elsewhere(connection: Connection, store: str, prefix: str) -> dict[str, int]:
    """Count what is stored in other stores, and in *store* outside *prefix* (under the name ``outside``)."""
    counted = select(images.c.store, func.count()).where(images.c.status == Status.STORED)
    query = counted.where(images.c.store != store).group_by(images.c.store)
    found = {str(name): number for name, number in connection.execute(query)}
    if prefix:
        below = func.substr(images.c.key, 1, len(prefix)) == prefix
        query = counted.where(images.c.store == store, images.c.key != "", ~below).group_by(images.c.store)
        found.update(("outside", number) for _, number in connection.execute(query))
    return found
