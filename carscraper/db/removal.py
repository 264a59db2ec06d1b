"""The SQL of ``scrapy storage delete``: tombstones, and what they take with them.

A photo that somebody had deleted keeps its row as a tombstone (``failed``, ``deleted``): its identity and the SHA-256
of its bytes keep crawls from fetching it again. The row has its key until the object is confirmed gone, so that a
deletion which was cut off can be finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, or_, select, update

from carscraper.db.models import images, listings
from carscraper.db.placeholders import lock_covers, set_cover, stored_urls
from carscraper.db.rules import chunks
from carscraper.exceptions import ConfigurationError
from carscraper.items import Reason, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection


_TOMBSTONE = and_(images.c.status == Status.FAILED, images.c.reason == Reason.DELETED)
_LIVE = func.coalesce(images.c.reason, "") != "deleted"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of ``car_images`` and whose it is."""

    row_id: int
    listing_id: int
    source: str
    external_id: str
    identity: str
    status: str
    reason: str | None
    store: str | None
    key: str | None
    bytes: int | None
    source_sha256: str | None

    @property
    def car(self) -> str:
        """``SOURCE/ID``."""
        return f"{self.source}/{self.external_id}"

    @property
    def is_tombstone(self) -> bool:
        """It was deleted, though perhaps not to the end."""
        return self.reason == "deleted"


_ROWS = (
    select(
        images.c.id,
        images.c.listing_id,
        func.coalesce(listings.c.source, ""),
        func.coalesce(listings.c.external_id, ""),
        *(images.c[name] for name in ("identity", "status", "reason", "store", "key", "bytes", "source_sha256")),
    )
    .join(listings, listings.c.id == images.c.listing_id)
    .order_by(images.c.listing_id, images.c.position, images.c.id)
)


def rows_of_keys(connection: Connection, keys: Iterable[str]) -> list[Row]:
    """Return every photo that has one of *keys*: those with the same bytes share one."""
    return [
        Row(*row)
        for chunk in chunks(sorted(set(keys)))
        for row in connection.execute(_ROWS.where(images.c.key.in_(chunk)))
    ]


def listing_of(connection: Connection, source: str, external_id: str) -> int:
    """Return the id of a car's row.

    Raises:
        ConfigurationError: no such car is known.
    """
    query = select(listings.c.id).where(listings.c.source == source, listings.c.external_id == external_id)
    found: int | None = connection.execute(query).scalar()
    if found is None:
        raise ConfigurationError(f"The ledger knows no car {source}/{external_id}: write it as SOURCE/ID.")
    return found


def rows_of_cars(connection: Connection, listing_ids: Iterable[int]) -> list[Row]:
    """Return every photo of these cars, whatever its state."""
    return [
        Row(*row)
        for chunk in chunks(sorted(set(listing_ids)))
        for row in connection.execute(_ROWS.where(images.c.listing_id.in_(chunk)))
    ]


def everything_of(connection: Connection, keys: Iterable[str], listing_ids: Iterable[int]) -> list[Row]:
    """Return every photo that goes with *keys* and with the cars *listing_ids*: no picture is deleted by half.

    Those with the same key, and those that they have superseded, which may be under other keys.
    """
    rows = {row.row_id: row for row in rows_of_cars(connection, listing_ids)}
    names = set(keys) | {row.key for row in rows.values() if row.key}
    while True:
        frontier = {row.row_id: row for row in rows_of_keys(connection, names)}
        while new := {each: row for each, row in frontier.items() if each not in rows}:
            rows |= new
            frontier = {
                each[0]: Row(*each)
                for chunk in chunks(sorted(new))
                for each in connection.execute(_ROWS.where(images.c.superseded_by.in_(chunk)))
            }
        more = {row.key for row in rows.values() if row.key}
        if more <= names:
            return list(rows.values())
        names |= more


def unfinished(connection: Connection) -> list[str]:
    """Return the keys of deletions that were cut off."""
    query = select(images.c.key).where(_TOMBSTONE, images.c.key.is_not(None)).distinct().order_by(images.c.key)
    return list(connection.execute(query).scalars())


def kept_elsewhere(connection: Connection, hashes: Iterable[str], keys: Iterable[str]) -> list[Row]:
    """Return stored photos with the bytes of *hashes* under other keys than *keys*."""
    without = set(keys)
    return [
        row
        for chunk in chunks(sorted(set(hashes)))
        for each in connection.execute(
            _ROWS.where(images.c.source_sha256.in_(chunk), func.coalesce(images.c.status, "") == Status.STORED)
        )
        if (row := Row(*each)).key not in without
    ]


# --- writes -----------------------------------------------------------------------------------------------------


def deleted_with(connection: Connection, sha256: str) -> list[Row]:
    """Return the tombstones of photos with these bytes, as they were stored or as they were served."""
    return [
        Row(*row)
        for row in connection.execute(
            _ROWS.where(_TOMBSTONE, or_(images.c.sha256 == sha256, images.c.source_sha256 == sha256))
        )
    ]


def mark_deleted(
    connection: Connection, keys: Iterable[str], listing_ids: Iterable[int], key_of: Callable[[str], str | None]
) -> list[Row]:
    """Make tombstones of all photos with one of *keys* and of all photos of the cars *listing_ids*.

    The covers move on: to the next stored photo's permanent URL, to none if there is no such photo.

    Args:
        keys: as in the rows.
        listing_ids: of the cars.
        key_of: gives the key that a permanent URL names, ``None`` for any other address.

    Returns:
        The rows that are tombstones now, those with a key being the ones whose objects are to go.
    """
    whole = sorted(set(listing_ids))
    asked = set(keys)
    concerned = {row.listing_id for row in everything_of(connection, asked, whole)} | set(whole)
    shown = lock_covers(connection, sorted(concerned))
    # Once more: until now a crawl could still have written.
    rows = {row.row_id: row for row in everything_of(connection, asked, whole)}
    these = asked | {row.key for row in rows.values() if row.key}
    dead = _addresses(connection, list(rows))
    for chunk in chunks(sorted(rows)):
        connection.execute(
            update(images)
            .where(images.c.id.in_(chunk), _LIVE)
            .values(status=Status.FAILED, reason=Reason.DELETED, url=None, stored_at=None, superseded_by=None)
        )
    left = stored_urls(connection, sorted(shown))
    with_others = _with_other_photos(connection, sorted(shown))
    for listing_id, current in sorted(shown.items()):
        if not current:
            continue
        if current in dead or key_of(current) in these or listing_id not in with_others:
            set_cover(connection, listing_id, next(iter(left.get(listing_id, ())), None))
    return list(rows.values())


def _addresses(connection: Connection, row_ids: list[int]) -> set[str]:
    """Return the addresses, permanent and temporary, of the photos *row_ids*."""
    found: set[str] = set()
    for chunk in chunks(sorted(row_ids)):
        for row in connection.execute(select(images.c.url, images.c.source_url).where(images.c.id.in_(chunk))):
            found.update(address for address in row if address)
    return found


def _with_other_photos(connection: Connection, listing_ids: list[int]) -> set[int]:
    """Return which cars have photos that are no tombstones."""
    found: set[int] = set()
    for chunk in chunks(listing_ids):
        query = select(images.c.listing_id).where(images.c.listing_id.in_(chunk), _LIVE).distinct()
        found.update(connection.execute(query).scalars())
    return found


def clear_keys(connection: Connection, keys: Iterable[str], key_of: Callable[[str], str | None]) -> None:
    """Write that the objects of *keys* are gone; a crawl that linked one of them meanwhile has a tombstone, too."""
    these = sorted(set(keys))
    mark_deleted(connection, these, (), key_of)
    for chunk in chunks(these):
        connection.execute(update(images).where(images.c.key.in_(chunk), _TOMBSTONE).values(key=None, store=None))


def tombstones_of(connection: Connection, listing_ids: Iterable[int]) -> list[Row]:
    """Return the tombstones of these cars, and those of the same bytes on other cars: they hold together."""
    own = [row for row in rows_of_cars(connection, listing_ids) if row.is_tombstone]
    rows = {row.row_id: row for row in own}
    for chunk in chunks(sorted({row.source_sha256 for row in own if row.source_sha256})):
        for each in connection.execute(_ROWS.where(images.c.source_sha256.in_(chunk), _TOMBSTONE)):
            rows.setdefault(each[0], Row(*each))
    return list(rows.values())


def undelete(connection: Connection, row_ids: Iterable[int]) -> int:
    """Let the photos of these tombstones be fetched again; give how many there were.

    Their hashes go too: nothing is known of what the dealer will serve.
    """
    number = 0
    nothing: dict[str, Any] = dict.fromkeys(
        ("reason", "sha256", "source_sha256", "width", "height", "content_type", "last_attempt_at")
    )
    for chunk in chunks(sorted(set(row_ids))):
        number += connection.execute(
            update(images)
            .where(images.c.id.in_(chunk), _TOMBSTONE, images.c.key.is_(None))
            .values(status=Status.PENDING, attempts=0, **nothing)
        ).rowcount
    return number
