"""The SQL of linking. ``car_listings.same_as`` points from each listing of a car to its preferred one.

It follows from what the tables say about the cars around a listing, whatever was linked before: who evaluates a listing
again comes to the same result, so a run that was cut off, or two at once, do no harm. Every write that may make or undo
a link sets ``link_due``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import exists, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from carscraper.db.models import images, listings
from carscraper.db.rules import chunks, of_cars
from carscraper.items import Status
from carscraper.linking.neighbourhood import MOST_PHOTOS, Neighbourhood, phashes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

_LOCK: Final = 0x63617274  # one linking at a time; any number, the same in every carscraper
_TRIES: Final = 3
_DUE = listings.c.link_due & listings.c.external_id.is_not(None) & listings.c.source.is_not(None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Linked:
    """What a linking did."""

    linked: int = 0
    """Listings that point to another one now and did not before, or to another one than before."""
    unlinked: int = 0
    """Listings that pointed to another one and stand alone now, or are the preferred ones."""


@dataclass(frozen=True, slots=True)
class StoredPhoto:
    """A photo whose perceptual hash is not known yet."""

    sha256: str
    key: str


# --- what is due ----------------------------------------------------------------------------------------------------


def due(connection: Connection, after: int, limit: int) -> list[int]:
    """Return listings to look at, in the order of their ids, from the one behind *after* on."""
    query = select(listings.c.id).where(_DUE, listings.c.id > after).order_by(listings.c.id).limit(limit)
    return list(connection.execute(query).scalars())


def settle_alone(connection: Connection, limit: int) -> int | None:
    """Clear ``link_due`` of at most *limit* listings where all are of one site.

    Returns:
        How many; ``None`` if there are several sites.
    """
    # Each by itself is a look into the index; both in one SELECT make SQLite read it all.
    one, other = (connection.execute(select(end(listings.c.source))).scalar() for end in (func.min, func.max))
    if one != other:
        return None
    these = (
        select(listings.c.id)
        .where(_DUE, listings.c.source == one)  # another site's first car may come at this moment
        .order_by(listings.c.source, listings.c.external_id)
        .limit(limit)
        .with_for_update()
    )
    ids = list(connection.execute(these).scalars())
    _settle(connection, ids)
    return len(ids)


def _settle(connection: Connection, ids: Iterable[int]) -> None:
    for chunk in chunks(sorted(ids)):
        connection.execute(update(listings).where(listings.c.id.in_(chunk)).values(link_due=False))


# --- perceptual hashes -----------------------------------------------------------------------------------------------


def to_compare(connection: Connection, ids: list[int], location: str, max_bytes: int) -> dict[int, list[StoredPhoto]]:
    """Return the photos whose perceptual hashes would tell whether *ids* are of the same cars as other listings.

    Only of cars that could be the same and are not linked by anything else, only those in the store *location*, and
    only the first :data:`MOST_PHOTOS` of each car.

    Returns:
        By those of *ids* that wait for them: their own photos, and those of the others; hashes that are known already
        are left out.
    """
    undecided = Neighbourhood(connection, ids).undecided()
    photos: dict[int, list[StoredPhoto]] = defaultdict(list)
    for chunk in chunks(sorted(undecided.keys() | set().union(*undecided.values()))):
        query = (
            select(images.c.listing_id, images.c.sha256, images.c.key)
            .where(images.c.listing_id.in_(chunk), images.c.position < MOST_PHOTOS)
            .where(images.c.store == location, images.c.key.is_not(None), images.c.sha256.is_not(None))
            .where(func.coalesce(images.c.status, "") == Status.STORED, func.coalesce(images.c.bytes, 0) <= max_bytes)
            .where(~exists().where(phashes.c.sha256 == images.c.sha256))
            .order_by(images.c.listing_id, images.c.position)
        )
        for listing_id, sha256, key in connection.execute(query):
            photos[listing_id].append(StoredPhoto(sha256, key))
    return {
        car_id: wanted
        for car_id, others in sorted(undecided.items())
        if (wanted := [photo for each in (car_id, *sorted(others)) for photo in photos.get(each, ())])
    }


def save_hashes(connection: Connection, found: dict[str, str | None]) -> None:
    """Keep perceptual hashes by the SHA-256 of the bytes; ``None`` for a picture that says nothing."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    rows = [{"sha256": sha256, "phash": phash} for sha256, phash in sorted(found.items())]
    if rows:
        connection.execute(dialect.insert(phashes).on_conflict_do_nothing(index_elements=["sha256"]), rows)


# --- linking --------------------------------------------------------------------------------------------------------


def link(connection: Connection, ids: list[int], undecided: frozenset[int] = frozenset()) -> Linked:
    """Link the listings *ids* and those around them as the tables say now.

    Args:
        connection: in a transaction that may write.
        ids: they are due no more afterwards ...
        undecided: ... but for these, whose photos could not be compared.
    """
    if connection.dialect.name == "sqlite":  # has one writer at a time
        return _write(connection, Neighbourhood(connection, ids), ids, undecided)
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    for _ in range(_TRIES):
        seen = Neighbourhood(connection, ids)
        with connection.begin_nested() as attempt:
            # In the order in which all writers do it: nobody waits in a ring.
            for these in of_cars((car.source, car.external_id) for car in seen.cars.values()):
                order = (listings.c.source, listings.c.external_id)
                connection.execute(select(listings.c.id).where(these).order_by(*order).with_for_update())
            # Nobody changes these now; what another crawl has changed before is taken as it is.
            around = Neighbourhood(connection, ids)
            if around.cars.keys() <= seen.cars.keys():
                return _write(connection, around, ids, undecided)
            attempt.rollback()
    return Linked()  # too much going on here: they stay due


def _write(connection: Connection, around: Neighbourhood, ids: list[int], undecided: frozenset[int]) -> Linked:
    changes = around.changes()
    before = {car.id: car.same_as for car in around.cars.values()}
    for car_id, same_as in changes.items():
        connection.execute(update(listings).where(listings.c.id == car_id).values(same_as=same_as))
    _settle(connection, set(ids) - undecided)
    linked = sum(same_as is not None for same_as in changes.values())
    unlinked = sum(same_as is None and before[car_id] is not None for car_id, same_as in changes.items())
    return Linked(linked=linked, unlinked=unlinked)
