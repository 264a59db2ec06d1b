"""One current row for each picture of a car, whatever ids its site gives to the photos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select, update

from carscraper.db.models import images
from carscraper.db.rules import HAVE_BYTES, chunks, is_answer
from carscraper.items import Reason, Status

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """Which photos of a car its site shows now."""

    identities: tuple[str, ...] = ()
    """In the page's order."""
    whole: bool = False
    """They are all that the site shows of the car."""
    another_car: bool = False
    """The id belonged to another car until now: what is not shown is a photo of that one."""


_SEVERAL_ROWS = select(
    *(images.c[name] for name in ("id", "listing_id", "identity", "position", "status", "reason", "source_sha256")),
    *(
        images.c[name]
        for name in ("sha256", "key", "url", "superseded_by", "failed_days", "failed_on", "first_seen_at")
    ),
).order_by(images.c.id)
_SUPERSEDE = (
    update(images)
    .where(images.c.id == bindparam("row_id"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in ("status", "reason", "key", "url", "superseded_by", "failed_days", "failed_on")
        }
    )
)
_STAYS = frozenset({Reason.DELETED, Reason.SPOOLED})
"""Reasons of rows that stay as they are, whatever the page shows."""


def supersede(connection: Connection, shown: dict[int, Shown]) -> dict[int, frozenset[str]]:
    """Let each picture of a car have one current row; the listings' rows are locked by the caller.

    A site may give its photos new ids. Of rows with the same bytes, as served or as stored (how an object was served
    that was found in the store is not known), the one that is shown now is current (``stored``), the others are
    ``superseded`` by it and keep key, address and hashes. A photo that was never stored and is shown no more is
    superseded by the newer one that is stored and stands in its place; without such a one it is ``off-page``. When the
    id was given to another car, all photos of the car before are superseded, by none.

    Args:
        connection: in a transaction of the caller.
        shown: what the site shows, by listing id.

    Returns:
        For each listing the identities of its superseded rows.
    """
    rows: dict[int, list[Row[Any]]] = {listing_id: [] for listing_id in shown}
    for chunk in chunks(sorted(shown)):
        for row in connection.execute(_SEVERAL_ROWS.where(images.c.listing_id.in_(chunk))):
            rows[row.listing_id].append(row)
    changes = []
    superseded = {}
    for listing_id, photos in rows.items():
        after = _current_rows(photos, shown[listing_id].identities)
        if shown[listing_id].another_car:
            others = (row for row in photos if row.identity not in shown[listing_id].identities)
            after |= {row.id: _replaced(row, None) for row in others if row.reason not in _STAYS}
        elif shown[listing_id].whole:
            after |= _no_longer_shown(photos, shown[listing_id].identities, after)
        superseded[listing_id] = frozenset(
            row.identity for row in photos if after.get(row.id, {"status": row.status})["status"] == Status.SUPERSEDED
        )
        for row in photos:
            if row.id in after:
                values = {"reason": None, "superseded_by": None, "failed_days": 0, "failed_on": None}
                values |= {"key": row.key, "url": row.url} | after[row.id]
                if any(getattr(row, name) != value for name, value in values.items()):
                    changes.append({f"new_{name}": value for name, value in values.items()} | {"row_id": row.id})
    if changes:
        connection.execute(_SUPERSEDE, changes)
    return superseded


def _current_rows(photos: list[Row[Any]], shown: tuple[str, ...]) -> dict[int, dict[str, Any]]:
    """Return what becomes of rows that have the same bytes as others, by row id."""
    places = {identity: place for place, identity in enumerate(shown)}
    families: dict[str, list[Row[Any]]] = {}
    for row in photos:
        if row.status in HAVE_BYTES and row.key:
            same = {id(family): family for each in _hashes(row) for family in [families.get(each, [])]}
            joined = sorted([row, *(member for family in same.values() for member in family)], key=lambda each: each.id)
            families |= {each: joined for member in joined for each in _hashes(member)}
    after: dict[int, dict[str, Any]] = {}
    for family in {id(each): each for each in families.values()}.values():
        current = min(
            (row for row in family if row.identity in places), key=lambda row: places[row.identity], default=None
        )
        # Nobody knows what is shown: the newest, unless it was superseded already.
        current = current or next((row for row in reversed(family) if row.status == Status.STORED), None)
        if current:
            after |= {row.id: {"status": Status.SUPERSEDED, "superseded_by": current.id} for row in family}
            after[current.id] = {"status": Status.STORED}
    return after


def _hashes(row: Row[Any]) -> set[str]:
    return {row.source_sha256, row.sha256} - {None}


def _no_longer_shown(
    photos: list[Row[Any]], shown: tuple[str, ...], current: dict[int, dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Return what becomes of rows that were never stored and that the site does not show any more, by row id."""
    if not shown:
        return {}
    by_identity = {row.identity: row for row in photos}
    after: dict[int, dict[str, Any]] = {}
    for row in photos:
        if row.identity in shown or row.status in HAVE_BYTES or row.reason in _STAYS:
            continue
        in_place = by_identity.get(shown[row.position]) if row.position < len(shown) else None
        if in_place is not None and in_place.first_seen_at > row.first_seen_at:
            if in_place.status in HAVE_BYTES:
                newer = current.get(in_place.id, {}).get("superseded_by") or in_place.id
                after[row.id] = _replaced(row, newer)
            continue  # else it may still be stored
        # Of what says nothing of this address, or is a known picture, the old address may still give another one.
        if row.status == Status.FAILED and is_answer(row.reason) and row.reason != Reason.PLACEHOLDER:
            days = {"failed_days": row.failed_days, "failed_on": row.failed_on} if row.reason == Reason.OFF_PAGE else {}
            after[row.id] = {"status": Status.FAILED, "reason": Reason.OFF_PAGE} | days
    return after


def _replaced(row: Row[Any], by: int | None) -> dict[str, Any]:
    """Return what becomes of a row whose place another one has; a placeholder's object shows nothing of the car."""
    after: dict[str, Any] = {"status": Status.SUPERSEDED, "superseded_by": by}
    return after | ({"key": None, "url": None} if row.reason == Reason.PLACEHOLDER else {})
