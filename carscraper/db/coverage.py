"""How much of the cars' photos is stored, by the ledger: functions of a connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, func, or_, select, true, update

from carscraper.db.models import crawl_runs, images, listings
from carscraper.db.rules import (
    ARCHIVE,
    DECIDED_HERE,
    FOR_GOOD,
    HAVE_BYTES,
    LEFT_ON_PURPOSE,
    RetryRules,
    becomes_final,
    chunks,
    is_dead,
)
from carscraper.items import Reason, Status

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import Connection

NOT_WANTED = (Reason.PLACEHOLDER, Reason.DELETED)
"""Reasons of rows that are no photos: a dealer's picture for none, and what somebody has deleted."""


@dataclass(frozen=True, slots=True)
class Photos:
    """Photos that stand alike in the ledger."""

    status: str
    reason: str | None
    """Why they are not stored."""
    store: str | None
    """Where they are, for those that are stored: ``s3://bucket`` or ``folder``."""
    photos: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How the active cars' photos stand, without those of ``NOT_WANTED``."""

    cars: int
    """Active cars."""
    with_photos: int
    """Those of them that the dealer shows with photos."""
    complete: int
    """Those of them whose photos are all stored."""
    photos_per_car: dict[int, int] = field(default_factory=dict)
    """How many active cars have so many stored photos, for cars that have one at least."""

    @property
    def share_complete(self) -> float | None:
        """The share of the cars with photos whose photos are all stored; ``None`` without such cars."""
        return self.complete / self.with_photos if self.with_photos else None

    @property
    def mean(self) -> float | None:
        """Stored photos of a car that has any, on average."""
        cars = sum(self.photos_per_car.values())
        return sum(photos * number for photos, number in self.photos_per_car.items()) / cars if cars else None

    @property
    def median(self) -> float | None:
        """Stored photos of the car in the middle, of those that have any.

        >>> Coverage(cars=4, with_photos=4, complete=4, photos_per_car={1: 2, 8: 1, 10: 1}).median
        4.5
        """
        cars = sum(self.photos_per_car.values())
        if not cars:
            return None
        return (self._photos_of((cars - 1) // 2) + self._photos_of(cars // 2)) / 2

    def _photos_of(self, place: int) -> int:
        """Return the stored photos of the car at *place*, the one with the fewest first."""
        passed = 0
        for photos, cars in sorted(self.photos_per_car.items()):
            passed += cars
            if passed > place:
                return photos
        raise IndexError(place)


def by_status(connection: Connection) -> list[Photos]:
    """Count the photos of all cars by status, reason and store."""
    # A row that failed later (a placeholder) keeps its key and store; it is not stored there as a photo.
    store = case((images.c.status.in_(HAVE_BYTES), images.c.store))
    query = (
        select(images.c.status, images.c.reason, store.label("at"), func.count())
        .group_by(images.c.status, images.c.reason, store)
        .order_by(images.c.status.desc(), func.count().desc(), images.c.reason, "at")
    )
    return [Photos(*row) for row in connection.execute(query)]


def coverage(connection: Connection) -> Coverage:
    """Count the active cars by how their photos stand."""
    stored: Any = func.coalesce(func.sum(case((images.c.status == Status.STORED, 1), else_=0)), 0)
    is_photo = and_(func.coalesce(images.c.reason, "").not_in(NOT_WANTED), images.c.status != Status.SUPERSEDED)
    each = (
        select(func.count(images.c.id).label("photos"), stored.label("stored"))
        .select_from(listings.join(images, and_(images.c.listing_id == listings.c.id, is_photo), isouter=True))
        .where(listings.c.is_active)
        .group_by(listings.c.id)
        .subquery()
    )
    # As many rows as there are different numbers of photos, not as many as there are cars.
    query = select(each.c.photos, each.c.stored, func.count()).group_by(each.c.photos, each.c.stored)
    cars = with_photos = complete = 0
    per_car: dict[int, int] = {}
    for photos, have, number in connection.execute(query):
        cars += number
        with_photos += number if photos else 0
        complete += number if photos and int(have) == photos else 0
        if have:
            per_car[int(have)] = per_car.get(int(have), 0) + number
    return Coverage(cars=cars, with_photos=with_photos, complete=complete, photos_per_car=dict(sorted(per_car.items())))


def stored_since(connection: Connection, store: str, since: datetime) -> int:
    """Count the photos that were stored in *store* since then (UTC, without a zone)."""
    query = select(func.count()).where(
        images.c.status == Status.STORED, images.c.store == store, images.c.stored_at >= since
    )
    return connection.execute(query).scalar_one()


# --- photos of cars for sale ------------------------------------------------------------------------------------

_NOT_STORED = (Status.FAILED, Status.PENDING, Status.SUPERSEDED)  # names the index on the status
_FEW = 3  # photos, or cars of one dealer; what fewer of them say of a night is chance


@dataclass(frozen=True, kw_only=True, slots=True)
class ForSale:
    """How the photos of the cars for sale stand at the end of a run."""

    what: str = "photos of cars for sale"
    photos: int = 0
    """All of them, without those that another row supersedes."""
    stored: int = 0
    due: dict[str, int] = field(default_factory=dict)
    """Not stored and to be asked for again, or refused in this run, by reason."""
    final: dict[str, int] = field(default_factory=dict)
    """Not stored, and nobody asks again, by reason."""
    left: dict[str, int] = field(default_factory=dict)
    """Not stored by intent, by reason: a limit of the run, or somebody's wish."""
    not_for_sale: dict[str, int] = field(default_factory=dict)
    """Photos of other cars that the run asked for and that are still to be had, by reason."""

    @property
    def unstored(self) -> dict[str, int]:
        """All that are not stored, by reason."""
        total: dict[str, int] = {}
        for part in (self.due, self.final, self.left):
            for reason, number in part.items():
                total[reason] = total.get(reason, 0) + number
        return total


def for_sale(
    connection: Connection, sources: list[str] | None, since: datetime, retry: RetryRules, partial: bool
) -> ForSale:
    """Count the photos of the active cars of *sources* (``None``: of all); of the archive alone, all of its.

    Args:
        connection: in a transaction of the caller.
        sources: of the cars.
        since: when the run began (UTC, without a zone).
        retry: after how many days a failure is final.
        partial: the run was to see a part of the cars only; photos of the others are none of its business.
    """
    of_sources = listings.c.source.is_not(None) if sources is None else listings.c.source.in_(sources)
    of_archive = sources == [ARCHIVE]
    active = listings.c.source == ARCHIVE if of_archive else listings.c.is_active
    joined = images.join(listings, listings.c.id == images.c.listing_id)
    # This needs an index alone, and the other question reads only what is not stored.
    total = select(func.count()).select_from(joined).where(of_sources, active)
    photos: int = connection.execute(total).scalar_one()
    tried = func.coalesce(images.c.last_attempt_at >= since, False)
    new = or_(tried, images.c.first_seen_at >= since)
    seen = or_(tried, func.coalesce(listings.c.last_seen_at >= since, False))
    at_once = or_(func.coalesce(images.c.reason.in_(DECIDED_HERE), False), images.c.failed_days >= FOR_GOOD)
    final = or_(at_once, images.c.failed_days >= retry.final_after)
    groups: list[Any] = [images.c.status, images.c.reason, final, at_once, active, tried, new, seen]
    labels = [each.label(f"group_{number}") for number, each in enumerate(groups)]
    query: Any = select(*labels, func.count()).select_from(joined)
    query = query.where(images.c.status.in_(_NOT_STORED), of_sources).group_by(*labels)
    parts: dict[str, dict[str, int]] = {name: {} for name in ("due", "final", "left", "not_for_sale")}
    stored = photos
    for status, cause, *flags, number in connection.execute(query):
        is_final, is_at_once, is_active, was_tried, is_new, was_seen = flags
        reason = cause or Reason.NOT_FETCHED
        stored -= number if is_active else 0
        if status == Status.SUPERSEDED:
            photos -= number if is_active else 0
            continue
        if is_active:
            # What is final at once is news once.
            kind = "final" if is_final and not (is_at_once and is_new) else "due"
            if reason == Reason.DELETED or reason in LEFT_ON_PURPOSE:
                kind = "left"
            elif kind == "due" and partial and not was_seen:
                kind, reason = "left", "not-visited"
        elif (
            was_tried and reason not in LEFT_ON_PURPOSE | {Reason.DELETED} and (reason in DECIDED_HERE or not is_final)
        ):
            kind = "not_for_sale"
        else:
            continue
        parts[kind][reason] = parts[kind].get(reason, 0) + number
    what = f"photos of {'the archive' if of_archive else 'cars for sale'}"
    return ForSale(what=what, photos=photos, stored=stored, **parts)


def count_days(
    connection: Connection, sources: list[str] | None, since: datetime, pages: Collection[str] | None = None
) -> None:
    """Count the day of the run that began at *since* for the photos that failed in it.

    A dead address of a source that is none of *pages* (``None``: all are) is final at once: it has no page of the car
    that could give another.

    Not for a source, or a dealer of an aggregator, of which most photos failed: that says something of the night, and
    nothing of the photos. Nor for photos that no run has seen before the newest that is stored: perhaps no new photo is
    served, and the older ones, which nobody asks for, tell nothing.
    """
    of_sources = listings.c.source.is_not(None) if sources is None else listings.c.source.in_(sources)
    failed = and_(
        images.c.listing_id == listings.c.id,
        becomes_final(),
        images.c.last_attempt_at >= since,
        or_(images.c.failed_on.is_(None), images.c.failed_on < since.date()),
    )
    is_new = (images.c.first_seen_at >= since).label("is_new")
    numbers = select(listings.c.source, is_new, func.count().label("photos"))
    numbers = numbers.where(failed, of_sources).group_by(listings.c.source, is_new)
    by_source: dict[str, list[Any]] = {}
    for row in connection.execute(numbers):
        by_source.setdefault(row.source, []).append(row)
    for source, rows in by_source.items():
        if _is_bad_night(connection, source, rows, since):
            continue
        others = func.coalesce(listings.c.dealer_id, "").not_in(_bad_dealers(connection, source, failed))
        this = and_(failed, listings.c.source == source, others, _seen_with_stored(connection, source))
        query = select(images.c.id).where(this).order_by(images.c.id)
        for chunk in chunks(connection.execute(query).scalars().all()):
            days: Any = images.c.failed_days + 1
            if pages is not None and source not in pages:
                days = case((is_dead(), FOR_GOOD), else_=days)
            values = {"failed_days": days, "failed_on": since.date()}
            connection.execute(update(images).where(images.c.id.in_(chunk)).values(values))


def _seen_with_stored(connection: Connection, source: str) -> Any:
    """Return the condition for photos that were first seen no later than in the run that saw the newest stored one."""
    newest = (
        select(func.max(images.c.first_seen_at))
        .select_from(images.join(listings, images.c.listing_id == listings.c.id))
        .where(listings.c.source == source, images.c.status.in_(HAVE_BYTES))
    )
    later = select(func.min(crawl_runs.c.started_at)).where(
        crawl_runs.c.source == source, crawl_runs.c.started_at > newest.scalar_subquery()
    )
    next_run = connection.execute(later).scalar()
    return true() if next_run is None else images.c.first_seen_at < next_run


def _bad_dealers(connection: Connection, source: str, failed: Any) -> list[str]:
    """Return the dealers of an aggregator with several cars of which most photos failed."""
    photos = func.count(images.c.id)
    most = (
        select(listings.c.dealer_id, photos)
        .where(failed, listings.c.source == source, listings.c.dealer_id.is_not(None))
        .group_by(listings.c.dealer_id)
        .having(func.count(listings.c.id.distinct()) >= _FEW)
    )
    numbers: dict[str, int] = dict(connection.execute(most).all())
    total = (
        select(listings.c.dealer_id, photos)
        .join(images, images.c.listing_id == listings.c.id)
        .where(listings.c.source == source, listings.c.is_active, listings.c.dealer_id.in_(numbers))
        .group_by(listings.c.dealer_id)
    )
    return [dealer for dealer, number in connection.execute(total) if 2 * numbers[dealer] > number]


def _is_bad_night(connection: Connection, source: str, rows: list[Any], since: datetime) -> bool:
    """Return whether most photos of a dealer failed: of all that he has, or of those that were new in this run.

    The second is for a dealer whose photos are nearly all stored: what is left to ask for is what failed before, and
    only new photos tell whether he answers as usual.
    """
    failed: int = sum(row.photos for row in rows)
    new: int = sum(row.photos for row in rows if row.is_new)
    number = select(func.count()).select_from(images.join(listings, images.c.listing_id == listings.c.id))
    number = number.where(listings.c.source == source)
    # An archive has no cars for sale.
    photos = connection.execute(number.where(listings.c.is_active)).scalar() or connection.execute(number).scalar_one()
    if 2 * failed > photos:
        return True
    if new < _FEW:
        return False
    asked = number.where(
        or_(
            and_(images.c.status == Status.STORED, images.c.stored_at >= since),
            and_(images.c.status != Status.STORED, images.c.first_seen_at >= since),
        )
    )
    return 2 * new > connection.execute(asked).scalar_one()
