"""The SQL of ``scrapy storage tiers``: what is stored where, how often it is viewed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import and_, case, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from carscraper.db.models import AccessLog, CarImageRow, CarListing, ImageViews
from carscraper.db.queries import chunks, lock_covers, set_cover, stored_urls, utcnow

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from datetime import datetime

    from sqlalchemy import Connection, Engine, Table

_listings = cast("Table", CarListing.__table__)
_images = cast("Table", CarImageRow.__table__)
_views = cast("Table", ImageViews.__table__)
_logs = cast("Table", AccessLog.__table__)

# Without coalesce() SQLite takes the index on the status, and reads all that was ever stored.
_STORED = and_(func.coalesce(_images.c.status, "") == "stored", _images.c.key.is_not(None))
_PAGE = 500  # rows of one answer


@dataclass(frozen=True, slots=True)
class Total:
    """How much is in one store."""

    objects: int = 0
    bytes: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None


@dataclass(frozen=True, slots=True)
class Views:
    """What the access logs said in all."""

    views: int = 0
    hits: int = 0
    misses: int = 0
    keys: int = 0
    """Photos that were viewed at all."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored photo: one of the rows that have its key."""

    key: str
    store: str
    sha256: str | None
    bytes: int | None
    content_type: str | None
    source: str
    external_id: str
    source_url: str
    last_viewed_at: datetime | None
    views: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Views of one photo that are to be added."""

    hits: int
    misses: int
    last: datetime
    """UTC without a zone."""


def totals(connection: Connection) -> dict[str, Total]:
    """Give what is stored by store (``s3://bucket`` or ``folder``); a key that several rows have counts once."""
    each_key = (
        select(
            _images.c.store,
            _images.c.key,
            func.max(_images.c.bytes).label("bytes"),
            func.max(_images.c.stored_at).label("stored_at"),
        )
        .where(_images.c.status == "stored", _images.c.key.is_not(None))
        .group_by(_images.c.store, _images.c.key)
        .subquery()
    )
    query = select(
        each_key.c.store,
        func.count(),
        func.coalesce(func.sum(each_key.c.bytes), 0),
        func.min(each_key.c.stored_at),
        func.max(each_key.c.stored_at),
    ).group_by(each_key.c.store)
    return {row[0] or "": Total(row[1], int(row[2]), row[3], row[4]) for row in connection.execute(query)}


def all_views(connection: Connection) -> Views:
    """Give the sums over all photos."""
    columns = [func.coalesce(func.sum(_views.c[name]), 0) for name in ("views", "hits", "misses")]
    row = connection.execute(select(*columns, func.count())).one()
    return Views(*(int(number) for number in row))


_KEPT: Any = (
    select(
        *(_images.c[name] for name in ("key", "store", "sha256", "bytes", "content_type")),
        func.coalesce(_listings.c.source, ""),
        func.coalesce(_listings.c.external_id, ""),
        _images.c.source_url,
        _views.c.last_viewed_at,
        func.coalesce(_views.c.views, 0),
    )
    .join(_listings, _listings.c.id == _images.c.listing_id)
    .join(_views, _views.c.key == _images.c.key, isouter=True)
)


def kept(connection: Connection, keys: Iterable[str]) -> dict[str, Kept]:
    """Give what is stored under *keys*."""
    found: dict[str, Kept] = {}
    for chunk in chunks(sorted(set(keys))):
        for row in connection.execute(_KEPT.where(_images.c.key.in_(chunk), _STORED).order_by(_images.c.id)):
            found.setdefault(row[0], Kept(*row))
    return found


def to_promote(engine: Engine, store: str, *, by: str) -> Generator[list[Kept]]:
    """Give the photos of *store* in pages: by ``views`` the most viewed first, by ``newest`` the last stored.

    Photos that were never viewed are not among the most viewed.
    """
    first = select(func.min(_images.c.id)).where(_images.c.store == store, _STORED).group_by(_images.c.key)
    query = _KEPT.where(_images.c.id.in_(first))
    if by == "views":
        query = query.where(_views.c.views > 0)
        query = query.order_by(_views.c.views.desc(), _views.c.last_viewed_at.desc(), _images.c.key)
    else:
        query = query.order_by(_images.c.stored_at.desc(), _images.c.id.desc())
    # SQLite: a reader that holds up no writer for as long as it takes.
    with (
        engine.connect().execution_options(sqlite_begin="DEFERRED", stream_results=True, yield_per=_PAGE) as connection,
        connection.execute(query) as result,
    ):
        for page in result.partitions(_PAGE):
            yield [Kept(*row) for row in page]


# --- writes -----------------------------------------------------------------------------------------------------


def move_to_bucket(connection: Connection, old: Kept, *, store: str, key: str, url: str) -> bool:
    """Write that what was in the folder is in the bucket; the cars show its permanent URL.

    Returns:
        False if the rows have changed meanwhile.
    """
    where = and_(_images.c.key == old.key, _images.c.store == "folder", _images.c.sha256 == old.sha256, _STORED)
    listing_ids = sorted(connection.execute(select(_images.c.listing_id).where(where).distinct()).scalars())
    shown = lock_covers(connection, listing_ids)
    number = connection.execute(update(_images).where(where).values(store=store, key=key, url=url)).rowcount
    for listing_id, urls in stored_urls(connection, listing_ids).items():
        if shown.get(listing_id) != urls[0]:
            set_cover(connection, listing_id, urls[0])
    if number and key != old.key:
        row = connection.execute(select(_views).where(_views.c.key == old.key)).first()
        if row and row.views:
            _add(connection, {key: Seen(row.hits, row.misses, row.last_viewed_at)})
            connection.execute(update(_views).where(_views.c.key == old.key).values(views=0, hits=0, misses=0))
    return bool(number)


def position(connection: Connection, fingerprint: str) -> int:
    """Give how many bytes of an access log are counted."""
    found: int | None = connection.execute(select(_logs.c.position).where(_logs.c.fingerprint == fingerprint)).scalar()
    return found or 0


def add_views(connection: Connection, fingerprint: str, start: int, end: int, seen: Mapping[str, Seen]) -> bool:
    """Add what the bytes *start* to *end* of an access log say, once.

    Returns:
        False if somebody else has counted them meanwhile: nothing was added.
    """
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    now = utcnow()
    # Whoever comes second waits here for the first one's commit.
    connection.execute(
        dialect.insert(_logs).values(fingerprint=fingerprint, position=0, counted_at=now).on_conflict_do_nothing()
    )
    moved = connection.execute(
        update(_logs)
        .where(_logs.c.fingerprint == fingerprint, _logs.c.position == start)
        .values(position=end, counted_at=now)
    ).rowcount
    if moved:
        _add(connection, seen)
    return bool(moved)


def record_view(engine: Engine, key: str, *, hit: bool) -> None:
    """Add one view of *key*, for a program that hands out photos itself."""
    with engine.begin() as connection:
        _add(connection, {key: Seen(int(hit), int(not hit), utcnow())})


def _add(connection: Connection, seen: Mapping[str, Seen]) -> None:
    if not seen:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    new: Any = dialect.insert(_views)
    more, last = new.excluded, _views.c.last_viewed_at
    upsert = new.on_conflict_do_update(
        index_elements=["key"],
        set_={
            **{name: _views.c[name] + more[name] for name in ("views", "hits", "misses")},
            "last_viewed_at": case((last > more.last_viewed_at, last), else_=more.last_viewed_at),
        },
    )
    rows = [
        {
            "key": key,
            "views": each.hits + each.misses,
            "hits": each.hits,
            "misses": each.misses,
            "last_viewed_at": each.last,
        }
        for key, each in sorted(seen.items())  # the same order for all writers: nobody waits in a ring
    ]
    connection.execute(upsert, rows)
