"""The SQL of ``scrapy checkdealers``: what crawls could read of their cars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import insert, select, update

from carscraper.db.models import dealer_fill
from carscraper.field_coverage import Drop, FieldCoverage, drops

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection, Row, Select


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What one crawl could read."""

    source: str
    finished_at: datetime
    """UTC, without a zone."""
    coverage: FieldCoverage
    complete: bool
    """It ended by itself, saw the whole site and did not fail."""
    why: str | None = None
    """Why it failed, its own sentence."""
    good: bool = True
    """Later crawls are measured by it; before it is written: its cars have the fields that are expected."""
    id: int | None = None


def write_coverage(connection: Connection, record: Record) -> list[Drop]:
    """Write what a crawl could read.

    A complete crawl whose cars have what is expected is good unless a field fell against the last good one: else a
    changed page would be the measure of the next crawl, and show once only.

    Returns:
        The fields that fell.
    """
    measure = last(connection, record.source, good=True)
    fallen = drops(measure.coverage, record.coverage) if measure else []
    connection.execute(
        insert(dealer_fill).values(
            source=record.source,
            finished_at=record.finished_at,
            cars=record.coverage.cars,
            fields=record.coverage.to_json(),
            complete=record.complete,
            good=record.good and record.complete and not fallen,
            why=record.why,
        )
    )
    return fallen


def last(
    connection: Connection,
    source: str,
    *,
    good: bool = False,
    before: int | None = None,
) -> Record | None:
    """Return the last crawl of *source*.

    Args:
        connection: in a transaction of the caller.
        source: as in ``car_listings``.
        good: only those that others are measured by.
        before: only those written before this one.
    """
    query: Select[tuple[object, ...]] = select(dealer_fill).where(dealer_fill.c.source == source)
    if good:
        query = query.where(dealer_fill.c.good)
    if before is not None:
        query = query.where(dealer_fill.c.id < before)
    row = connection.execute(query.order_by(dealer_fill.c.id.desc()).limit(1)).first()
    return _record(row) if row else None


def accept(connection: Connection, record_id: int) -> None:
    """Measure later crawls by this one."""
    connection.execute(update(dealer_fill).where(dealer_fill.c.id == record_id).values(good=True))


def _record(row: Row[tuple[object, ...]]) -> Record:
    return Record(
        id=row.id,
        source=row.source,
        finished_at=row.finished_at,
        coverage=FieldCoverage.from_json(row.cars, row.fields),
        complete=row.complete,
        why=row.why,
        good=row.good,
    )
