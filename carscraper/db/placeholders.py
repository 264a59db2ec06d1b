"""Bytes that a dealer served before, pictures that are no photos, and what cars are shown with.

Functions of a connection, each in a transaction of its caller.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, exists, func, or_, select, update

from carscraper.db.models import images, listings
from carscraper.db.rules import HAVE_BYTES, chunks
from carscraper.items import CarImage, Reason, Status

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

    from carscraper.db.rules import PlaceholderRules

IMAGE_FIELDS = tuple(field.name for field in fields(CarImage) if field.name in images.c)
"""What a photo's row and an item say of it alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownBytes:
    """What is known of bytes that a dealer served."""

    image: CarImage | None
    """A stored photo with these bytes in the asked store."""
    placeholder: bool
    deleted: bool = False
    """Somebody had a photo with these bytes deleted: they are not kept again."""


# Statements that run for nearly every photo are built once: building one costs more than SQLite takes to run it.
_hashes: Any = bindparam("hashes", expanding=True)
_listing_ids: Any = bindparam("listing_ids", expanding=True)
# A tombstone has no key any more.
_OF_USE = or_(images.c.key.is_not(None), images.c.reason == Reason.DELETED)
_SEEN_HASHES = select(images.c.source_sha256).where(images.c.source_sha256.in_(_hashes), _OF_USE)
_SEVERAL = (
    select(images.c.source_sha256)
    .where(images.c.source_sha256.in_(_hashes))
    .group_by(images.c.source_sha256)
    .having(func.count() >= bindparam("families"))
)
_LOCK_COVERS = (
    select(listings.c.id, listings.c.image_url)
    .where(listings.c.id.in_(_listing_ids))
    .order_by(listings.c.source, listings.c.external_id)  # the order of save(): nobody waits in a ring
    .with_for_update()
)
_URLS = (
    select(images.c.listing_id, images.c.url)
    .where(images.c.listing_id.in_(_listing_ids), images.c.url.is_not(None))
    .order_by(images.c.listing_id, images.c.status, images.c.position, images.c.id)
)
_successor = images.alias("successor")
# Where the newer row of a picture has no URL (it is in a folder), that of the older one still shows it.
_SHOWS_THE_SAME = and_(
    images.c.status == Status.SUPERSEDED,
    exists().where(_successor.c.id == images.c.superseded_by, _successor.c.status == Status.STORED),
)
# Without coalesce() SQLite takes the index on the status, and reads all that was ever stored.
_STORED_URLS = _URLS.where(or_(func.coalesce(images.c.status, "") == Status.STORED, _SHOWS_THE_SAME))
_SET_COVER = update(listings).where(listings.c.id == bindparam("listing")).values(image_url=bindparam("cover"))


def image_of(row: Row[Any]) -> CarImage:
    """Return a row of ``car_images`` as an item."""
    return CarImage(**{name: getattr(row, name) for name in IMAGE_FIELDS})


def known_bytes(
    connection: Connection, asked: list[tuple[str, str]], rules: PlaceholderRules
) -> list[KnownBytes | None]:
    """Return for each ``(source_sha256, location)`` a stored photo with these bytes, or that they are a placeholder.

    Rows of a placeholder can be many; one of each kind is enough.
    """
    hashes = sorted({source_sha256 for source_sha256, _ in asked})
    kinds: list[Any] = []
    for chunk in chunks(_seen_hashes(connection, hashes)):
        one_of_each = (
            select(func.min(images.c.id))
            .where(images.c.source_sha256.in_(chunk), _OF_USE)
            .group_by(images.c.source_sha256, images.c.status, images.c.reason, images.c.store)
        )
        kinds.extend(connection.execute(select(images).where(images.c.id.in_(one_of_each))))
    marked = {row.source_sha256 for row in kinds if row.reason == Reason.PLACEHOLDER} - rules.released
    placeholders = _on_several_cars(connection, sorted(marked))
    deleted = {row.source_sha256 for row in kinds if row.reason == Reason.DELETED}
    # A released placeholder's object is still there: its row counts as stored.
    stored = {
        (row.source_sha256, row.store): image_of(row)
        for row in kinds
        if row.status == Status.STORED or row.reason == Reason.PLACEHOLDER
    }
    answers: list[KnownBytes | None] = []
    for source_sha256, location in asked:
        image = stored.get((source_sha256, location))
        placeholder = bool(rules.families) and source_sha256 in placeholders
        gone = source_sha256 in deleted
        known = KnownBytes(image=image, placeholder=placeholder, deleted=gone) if image or placeholder or gone else None
        answers.append(known)
    return answers


def _on_several_cars(connection: Connection, placeholders: list[str]) -> set[str]:
    """Leave out a picture that one car alone has still: for a night its site sent it for every car."""
    found: set[str] = set()
    for chunk in chunks(placeholders):
        query = (
            select(images.c.source_sha256)
            .where(images.c.source_sha256.in_(chunk), images.c.reason == Reason.PLACEHOLDER)
            .group_by(images.c.source_sha256)
            .having(func.count(images.c.listing_id.distinct()) > 1)
        )
        found.update(connection.execute(query).scalars())
    return found


def _seen_hashes(connection: Connection, hashes: list[str]) -> list[str]:
    """Leave out what was never served before, which is nearly all of a first crawl."""
    seen: set[str] = set()
    for chunk in chunks(hashes):
        seen.update(connection.execute(_SEEN_HASHES, {"hashes": chunk}).scalars())
    return sorted(seen)


def lock_covers(connection: Connection, listing_ids: list[int]) -> dict[int, str | None]:
    """Return the pictures that cars show, and keep other writers from these cars until the commit."""
    shown: dict[int, str | None] = {}
    for chunk in chunks(listing_ids):
        shown.update((row.id, row.image_url) for row in connection.execute(_LOCK_COVERS, {"listing_ids": chunk}))
    return shown


def set_cover(connection: Connection, listing_id: int, url: str | None) -> None:
    """Let a car show the picture at *url*, or none."""
    connection.execute(_SET_COVER, {"listing": listing_id, "cover": url})


def stored_urls(connection: Connection, listing_ids: list[int]) -> dict[int, list[str]]:
    """Return the permanent URLs of each car's stored photos, the first photo's first.

    Those of superseded rows whose picture is stored again come last.
    """
    covers: dict[int, list[str]] = {}
    for chunk in chunks(listing_ids):
        for listing_id, url in connection.execute(_STORED_URLS, {"listing_ids": chunk}):
            covers.setdefault(listing_id, []).append(url)
    return covers


def find_placeholders(connection: Connection, hashes: set[str], rules: PlaceholderRules) -> int:
    """Mark the bytes of *hashes* that several unrelated cars show as placeholders, on every car.

    The objects stay, and so do the rows' keys: should it prove a photo after all, ``IMAGES_NOT_PLACEHOLDERS`` brings
    it back without an upload.

    Returns:
        How many photos are no longer stored ones.
    """
    if not rules.families:
        return 0
    families: dict[str, set[tuple[str, str]]] = {}
    for chunk in chunks(sorted(hashes - rules.released)):
        several = connection.execute(_SEVERAL, {"hashes": chunk, "families": rules.families}).scalars().all()
        if not several:
            continue
        query = (
            select(images.c.source_sha256, listings.c.make, listings.c.model, listings.c.id)
            .join(listings, listings.c.id == images.c.listing_id)
            .where(images.c.source_sha256.in_(several))
            .distinct()
        )
        for source_sha256, make, model, _ in connection.execute(query):
            family = ((make or "").lower(), ((model or "").lower().split() or [""])[0])
            families.setdefault(source_sha256, set()).add(family)
    found = sorted(name for name, cars in families.items() if len(cars) >= rules.families)
    if not found:
        return 0
    marked = and_(images.c.source_sha256.in_(found), images.c.status.in_(HAVE_BYTES), images.c.key.is_not(None))
    shown = (
        select(listings.c.id)
        .join(images, listings.c.id == images.c.listing_id)
        .where(marked, listings.c.image_url == images.c.url)
        .order_by(listings.c.id)
    )
    listing_ids = list(dict.fromkeys(connection.execute(shown).scalars()))
    values: dict[str, Any] = {"status": Status.FAILED, "reason": Reason.PLACEHOLDER}
    values |= {"failed_days": 0, "failed_on": None, "superseded_by": None}
    number = connection.execute(update(images).where(marked).values(values)).rowcount
    covers = stored_urls(connection, listing_ids)
    for listing_id in listing_ids:
        cover = next(iter(covers.get(listing_id, ())), None)
        connection.execute(update(listings).where(listings.c.id == listing_id).values(image_url=cover))
    _unlink_later(connection, found)
    return number


def _unlink_later(connection: Connection, placeholders: list[str]) -> None:
    """Let the next linking look at cars again that may be linked by what proved to be a placeholder."""
    showing = (
        select(listings.c.id)
        .where(listings.c.id.in_(select(images.c.listing_id).where(images.c.source_sha256.in_(placeholders))))
        .where(listings.c.link_due.is_(False))
        .order_by(listings.c.source, listings.c.external_id)
        .with_for_update()
    )
    for chunk in chunks(connection.execute(showing).scalars().all()):
        connection.execute(update(listings).where(listings.c.id.in_(chunk)).values(link_due=True))
