"""The rows of photos: what is known of them, and what became of them.

Functions of a connection, each in a transaction of its caller.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlalchemy import Text, and_, bindparam, case, func, insert, or_, select, update

from carscraper.db.models import images, listings
from carscraper.db.placeholders import IMAGE_FIELDS, find_placeholders, image_of, lock_covers, set_cover, stored_urls
from carscraper.db.rules import (
    ARCHIVE,
    CRAWL,
    HAVE_BYTES,
    LEFT_ON_PURPOSE,
    RetryRules,
    chunks,
    due_condition,
    of_cars,
)
from carscraper.db.superseded import Shown, supersede
from carscraper.dealers import siblings
from carscraper.items import CarImage, Reason, Status, utcnow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from sqlalchemy import Connection

    from carscraper.db.rules import PlaceholderRules

OF_BYTES = ("store", "key", "url", "sha256", "source_sha256", "bytes", "width", "height", "content_type")
"""What describes the bytes; it changes only together with the status."""
# Not stored, and nobody may insist: the bytes are safe, or somebody had the photo deleted.
_SETTLED = frozenset({Reason.SPOOLED, Reason.DELETED})
# What no longer counts once the site shows the photo.
_ENDED_BY_SIGHT = frozenset({Reason.CAR_GONE, Reason.OFF_PAGE})


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownImage:
    """What the ledger knows of a photo."""

    image: CarImage
    due: bool
    """Not stored, and it may be tried again now."""
    row: CarImage | None = None
    """The car's own row; *image* may be what another site has of the photo."""

    def at_last_address(self) -> CarImage:
        """Return the photo as it is to be asked for when no page gives a newer address."""
        return CarImage(identity=self.image.identity, source_url=self.image.source_url, position=self.image.position)

    def is_wanted(self, *, insist: bool) -> bool:
        """Return whether it is to be fetched; *insist*: though it was given up."""
        given_up = self.image.status not in HAVE_BYTES and self.image.reason not in _SETTLED
        return self.due or (insist and given_up)


# --- questions ---


def known(
    connection: Connection, cars: list[tuple[str, str]], retry: RetryRules = CRAWL
) -> list[dict[str, KnownImage]]:
    """Return for each ``(source, external_id)`` of *cars* its photos by identity."""
    found: dict[tuple[str, str], dict[str, KnownImage]] = {car: {} for car in cars}
    for these in of_cars(car for car in found if car[1]):
        for car, photo in _read(connection, these, retry):
            found[car][photo.image.identity] = photo
    return [found[car] for car in cars]


def known_with_siblings(
    connection: Connection, cars: list[tuple[str, str]], retry: RetryRules = CRAWL
) -> list[dict[str, KnownImage]]:
    """Return the photos of *cars* by identity, with those of the same car at a site whose ids are the same.

    A photo that is not stored for the car itself is then as that site has it: stored, or deleted on request.
    """
    found: dict[tuple[str, str], dict[str, KnownImage]] = {car: {} for car in cars}
    for these in _with_siblings(found):
        for car, photo in _read(connection, these, retry):
            found.setdefault(car, {})[photo.image.identity] = photo
    return [_inherit(car, found) for car in cars]


def known_among(
    connection: Connection, car: tuple[str, str], identities: list[str], retry: RetryRules = CRAWL
) -> dict[str, KnownImage]:
    """Return those of a car's photos that are named: a folder of an archive can hold any number."""
    return {
        photo.image.identity: photo
        for of_car in of_cars([car])
        for chunk in chunks(identities)
        for _, photo in _read(connection, and_(of_car, images.c.identity.in_(chunk)), retry)
    }


def _read(connection: Connection, these: Any, retry: RetryRules) -> Iterator[tuple[tuple[str, str], KnownImage]]:
    query = (
        select(listings.c.source, listings.c.external_id, images, due_condition(utcnow(), retry).label("due"))
        .join(listings, listings.c.id == images.c.listing_id)
        .where(these)
    )
    for row in connection.execute(query):
        image = image_of(row)
        yield (row.source, row.external_id), KnownImage(image=image, due=bool(row.due), row=image)


def _with_siblings(cars: Iterable[tuple[str, str]]) -> Iterator[Any]:
    """Yield conditions that together hold for *cars* and those that have the same id at a site that shares it."""
    cars = list(cars)
    for sources in sorted({tuple(sorted(siblings(source))) for source, _ in cars} - {()}):
        shared = sorted({external_id for source, external_id in cars if source in sources and external_id})
        for chunk in chunks(shared):
            yield and_(listings.c.source.in_(sources), listings.c.external_id.in_(chunk))
    yield from of_cars(car for car in cars if car[1] and not siblings(car[0]))


def _inherit(car: tuple[str, str], everything: dict[tuple[str, str], dict[str, KnownImage]]) -> dict[str, KnownImage]:
    source, external_id = car
    photos = dict(everything[car])
    theirs: dict[str, CarImage] = {}
    for other in sorted(siblings(source) - {source}):
        for identity, known in everything.get((other, external_id), {}).items():
            deleted = known.image.reason == Reason.DELETED  # whatever another site has
            if deleted or (_has_bytes(known.image) and identity not in theirs):
                theirs[identity] = known.image
    for identity, image in theirs.items():
        own = photos.get(identity)
        settled = own and (_has_bytes(own.image) or own.image.reason == Reason.DELETED)
        if identity.startswith(f"{external_id}/") and not settled:
            photos[identity] = KnownImage(image=image, due=False, row=own.row if own else None)
    return photos


def _has_bytes(image: CarImage) -> bool:
    return image.status in HAVE_BYTES and image.key is not None


_OF_AN_ITEM = ("identity", "source_url", "position", "status", "reason", "store", "key", "url")


def shown(connection: Connection, source: str, external_ids: list[str]) -> dict[str, list[CarImage]]:
    """Return the photos of cars in their order, with what an item says of them: one question for a page of cars."""
    found: dict[str, list[CarImage]] = {}
    columns = [images.c[name] for name in _OF_AN_ITEM]
    for chunk in chunks(external_ids):
        query = (
            select(listings.c.external_id, *columns)
            .join(images, images.c.listing_id == listings.c.id)
            .where(listings.c.source == source, listings.c.external_id.in_(chunk))
            .where(images.c.status != Status.SUPERSEDED)
            .order_by(images.c.listing_id, images.c.position, images.c.id)
        )
        for external_id, *values in connection.execute(query):
            image = CarImage(**dict(zip(_OF_AN_ITEM, values, strict=True)))
            if image.reason == Reason.DELETED:
                image.key = image.url = None  # the row has its key until the object is gone
            found.setdefault(external_id, []).append(image)
    return found


# --- what is known goes before what a page says ---


def as_known(image: CarImage, known: KnownImage | None, *, seen: bool) -> CarImage:
    """Return *image* with what the ledger knows of it; as it is if it is new, or to be tried.

    Args:
        image: as the page shows it.
        known: its row.
        seen: the car was on its site in this run.
    """
    if image.attempts or known is None or known.is_wanted(insist=image.insist):
        return image
    row = known.image
    if _is_shown_anew(image, row, seen=seen):
        return image
    after: dict[str, Any] = {name: getattr(row, name) for name in (*OF_BYTES, "status", "reason")}
    if row.status == Status.SUPERSEDED and row.key:
        after["status"] = Status.STORED  # its bytes are; the site shows it again
    if row.reason == Reason.DELETED:
        after |= {"key": None, "url": None}  # the row has its key until the object is gone
    return replace(image, **after)


def _is_shown_anew(image: CarImage, row: CarImage, *, seen: bool) -> bool:
    """Return whether the site shows what it did not show when the photo was given up, or shows it elsewhere."""
    if row.reason in _ENDED_BY_SIGHT or (row.status == Status.SUPERSEDED and not row.key):
        return seen and image.on_page
    if row.status != Status.FAILED or row.reason in _SETTLED:
        return False
    return is_another_address(row.source_url, image.source_url)


def off_page(known: dict[str, KnownImage], shown: Iterable[CarImage]) -> list[CarImage]:
    """Return the photos that are due and that the car's page does not show any more, at their last addresses."""
    identities = {image.identity for image in shown}
    return [
        replace(each.at_last_address(), on_page=False)
        for identity, each in known.items()
        if each.due and identity not in identities
    ]


def is_another_address(known: str, shown: str) -> bool:
    """Return whether *shown* is another address of a photo than *known*, not another spelling of the same one.

    >>> is_another_address("https://b.is/CarImage.aspx?c=1&p=2&w=784", "https://b.is/CarImage.aspx?s=5&c=1&p=2")
    False
    >>> is_another_address("https://b.is/old/1.jpg", "https://b.is/new/1.jpg")
    True
    """
    try:
        one, other = urlsplit(known), urlsplit(shown)
        differs = (one.hostname, one.port, one.path) != (other.hostname, other.port, other.path)
    except ValueError:
        differs = known != shown
    return differs


# --- writes ---
# Statements that run for nearly every photo are built once: building one costs more than SQLite takes to run it.

_THIS = and_(images.c.listing_id == bindparam("listing"), images.c.identity == bindparam("photo"))
_NOT_DELETED = or_(images.c.reason.is_(None), images.c.reason != Reason.DELETED)
_TRIED: dict[str, Any] = {
    "attempts": images.c.attempts + bindparam("tries"),  # the row counts the tries of all runs
    "last_attempt_at": func.coalesce(bindparam("tried_at"), images.c.last_attempt_at),
    "source_url": func.coalesce(bindparam("address"), images.c.source_url),
}
_CAME = (
    update(images)
    .where(
        _THIS,
        # A stored photo only moves to another store, and only once it is safe there.
        or_(
            images.c.status != Status.STORED,
            and_(bindparam("new_status", type_=Text) == Status.STORED, images.c.store != bindparam("new_store")),
        ),
        # What somebody has deleted stays so, also for a crawl that had it in hand.
        _NOT_DELETED,
    )
    .values(
        {name: bindparam(f"new_{name}") for name in (*OF_BYTES, "status", "reason", "stored_at")}
        | {"failed_days": 0, "failed_on": None}
        | _TRIED
    )
)
_AGAIN = and_(images.c.status == Status.FAILED, images.c.reason == bindparam("new_reason", type_=Text))
_DID_NOT_COME = (
    update(images)
    .where(_THIS, images.c.status != Status.STORED, _NOT_DELETED)
    .values(
        {
            "status": bindparam("new_status"),
            "reason": bindparam("new_reason"),
            # The tombstone's bytes: lifted together.
            "source_sha256": func.coalesce(bindparam("deleted", type_=Text), images.c.source_sha256),
            # The days are counted at the end of a run, of the same answer only.
            "failed_days": case((_AGAIN, images.c.failed_days), else_=0),
            "failed_on": case((_AGAIN, images.c.failed_on)),
        }
        | _TRIED
    )
)
_MOVE = update(images).where(_THIS).values(position=bindparam("place"), source_url=bindparam("address"))
_LEAVE = update(images).where(_THIS).values(reason=bindparam("new_reason"))
_BEGIN_ANEW = update(images).where(_THIS).values(failed_days=0, failed_on=None)


def add(connection: Connection, photos: Iterable[tuple[int, CarImage]], now: datetime) -> None:
    """Make the rows of photos that have none, each with its listing's id; the listings' rows are locked."""
    rows = [
        {name: getattr(image, name) for name in IMAGE_FIELDS}
        | {
            "listing_id": listing_id,
            "first_seen_at": now,
            "last_attempt_at": now if image.attempts else None,
            "stored_at": now if image.status == Status.STORED else None,
        }
        for listing_id, image in photos
    ]
    if rows:
        connection.execute(insert(images), rows)


def move(connection: Connection, photos: Iterable[tuple[int, CarImage, CarImage]]) -> None:
    """Write where the page shows photos now, each with its listing's id and its row."""
    moved, left, anew = [], [], []
    for listing_id, image, row in photos:
        this = {"listing": listing_id, "photo": image.identity}
        place = image.position if image.on_page else row.position  # where it was when it was shown
        if (place, image.source_url) != (row.position, row.source_url):
            moved.append(this | {"place": place, "address": image.source_url})
        if is_another_address(row.source_url, image.source_url):
            anew.append(this)
        # One that was never tried says why it was not this time either.
        if (row.status, row.reason) == (Status.PENDING, None) and image.reason in LEFT_ON_PURPOSE:
            left.append(this | {"new_reason": image.reason})
    for statement, values in ((_MOVE, moved), (_LEAVE, left), (_BEGIN_ANEW, anew)):
        if values:
            connection.execute(statement, values)


def write(connection: Connection, photos: list[tuple[int, CarImage]], rules: PlaceholderRules) -> int:
    """Write what became of photos, each with its listing's id; their rows are there since the car was announced.

    A stored photo is never downgraded, a deleted one stays so.

    Returns:
        How many photos, of these and other cars, they showed to be placeholders.
    """
    now = utcnow()
    before = lock_covers(connection, sorted({listing_id for listing_id, _ in photos}))
    came, others = [], []
    for listing_id, image in photos:
        values: dict[str, Any] = {"listing": listing_id, "photo": image.identity, "address": image.source_url or None}
        values |= {"tries": image.attempts, "tried_at": now if image.attempts else None}
        values |= {"new_status": image.status, "new_reason": image.reason}
        if image.key is None:
            others.append(values | {"deleted": image.source_sha256 if image.reason == Reason.DELETED else None})
            continue
        values |= {f"new_{name}": getattr(image, name) for name in OF_BYTES}
        values |= {"new_stored_at": now if image.status == Status.STORED else None}
        came.append(values)
    if others:
        connection.execute(_DID_NOT_COME, others)
    if not came:
        return 0
    connection.execute(_CAME, came)
    found = find_placeholders(connection, hashes_of(image for _, image in photos), rules)
    for listing_id, urls in stored_urls(connection, sorted(before)).items():
        if before[listing_id] != urls[0]:
            set_cover(connection, listing_id, urls[0])
    return found


def hashes_of(photos: Iterable[CarImage]) -> set[str]:
    """Return the hashes of what the dealer served, of stored photos."""
    return {image.source_sha256 for image in photos if image.status == Status.STORED and image.source_sha256}


def set_url(connection: Connection, listing_id: int, key: str, url: str) -> None:
    """Write the address of a stored photo that had none: its folder is published by now."""
    these = and_(images.c.listing_id == listing_id, images.c.key == key, images.c.url.is_(None))
    connection.execute(update(images).where(these).values(url=url))


# --- the spool ---


def spooled(connection: Connection, sources: list[str] | None) -> list[tuple[int, str, str]]:
    """List the rows of photos that wait in a spool, of *sources* or of all: id, key and identity."""
    query = (
        select(images.c.id, images.c.key, images.c.identity)
        .join(listings, listings.c.id == images.c.listing_id)
        .where(images.c.status == Status.PENDING, images.c.reason == Reason.SPOOLED)
    )
    if sources is not None:
        query = query.where(listings.c.source.in_(sources))
    return [(row.id, row.key or "", row.identity) for row in connection.execute(query)]


def release(connection: Connection, row_ids: list[int]) -> None:
    """Let the photos *row_ids* be fetched again, unless they are stored by now: the spool that had them is gone."""
    for chunk in chunks(sorted(row_ids)):
        still = and_(images.c.id.in_(chunk), images.c.status == Status.PENDING, images.c.reason == Reason.SPOOLED)
        connection.execute(update(images).where(still).values(reason=None))


def unspooled(connection: Connection, source: str, external_id: str, image: CarImage, rules: PlaceholderRules) -> bool:
    """Write that *image*, which waited in the spool, is stored; true if its row was there."""
    row = (
        select(images.c.listing_id)
        .join(listings, listings.c.id == images.c.listing_id)
        .where(listings.c.source == source, listings.c.external_id == external_id)
        .where(images.c.identity == image.identity)
    )
    listing_id = connection.execute(row).scalar()
    if listing_id is None:
        return False
    write(connection, [(listing_id, replace(image, status=Status.STORED, reason=None))], rules)
    if source != ARCHIVE:
        supersede(connection, {listing_id: Shown()})
    # What could not be read back while it was in the spool can be compared now.
    connection.execute(update(listings).where(listings.c.id == listing_id).values(link_due=True))
    return True
