"""The SQL of ``crawl_runs``. A run is a dictionary here, with the fields of ``runs.record.RunRecord``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import func, insert, select, update

from carscraper.db.models import CarImageRow, CarListing, CrawlRun

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection, Row, Select, Table

    from carscraper.db.locks import Locks

_runs = cast("Table", CrawlRun.__table__)
_JSON = ("arguments", "settings", "images_failed", "images_unstored", "monitors", "output")
_LARGEST_ID = 2**63 - 1
_RUNNING, _INTERRUPTED = "running", "interrupted"


def lock_name(run_id: int) -> str:
    """Name the lock that a run holds for as long as it lives."""
    return f"run-{run_id}"


def start(connection: Connection, run: Mapping[str, Any], locks: Locks | None = None) -> int:
    """Write the row of a run that begins, or of one that ended before it began.

    Args:
        connection: in a transaction of the caller.
        run: its fields; without ``id``.
        locks: take the run's own lock before anybody can see the row.

    Returns:
        The row's id.
    """
    result = connection.execute(insert(_runs).values(_columns(run)).returning(_runs.c.id))
    run_id: int = result.scalar_one()
    if locks:
        locks.acquire(lock_name(run_id))
    return run_id


def finish(connection: Connection, run: Mapping[str, Any]) -> None:
    """Write how it ended, whatever was thought of it meanwhile."""
    connection.execute(update(_runs).where(_runs.c.id == run["id"]).values(_columns(run)))


def save_output(connection: Connection, run_id: int, output: Mapping[str, Any]) -> None:
    """Write what became of its files."""
    connection.execute(update(_runs).where(_runs.c.id == run_id).values(output=json.dumps(output, default=str)))


def listed(
    connection: Connection, *, spider: str | None = None, status: str | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Give runs, the newest first."""
    query: Select[Any] = select(_runs)
    if spider is not None:
        query = query.where(_runs.c.spider == spider)
    if status is not None:
        query = query.where(_runs.c.status == status)
    return _all(connection, query.order_by(_runs.c.started_at.desc(), _runs.c.id.desc()).limit(limit))


def get(connection: Connection, run_id: str) -> dict[str, Any] | None:
    """Give the run with this row id, or else the newest with this job id."""
    if run_id.isascii() and run_id.isdigit() and int(run_id) <= _LARGEST_ID:
        found = _all(connection, select(_runs).where(_runs.c.id == int(run_id)))
        if found:
            return found[0]
    found = _all(connection, select(_runs).where(_runs.c.job_id == run_id).order_by(_runs.c.id.desc()).limit(1))
    return found[0] if found else None


def earlier(connection: Connection, run: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
    """Give the last runs that *run* can be measured by, the newest first.

    Those of the same spider with the same arguments that saw the whole site and did not fail.
    """
    query = (
        select(_runs)
        .where(
            _runs.c.spider == run["spider"],
            _runs.c.arguments == _columns(run)["arguments"],
            _runs.c.complete,
            _runs.c.status.in_(("success", "partial")),
        )
        .order_by(_runs.c.started_at.desc(), _runs.c.id.desc())
        .limit(limit)
    )
    if run.get("id") is not None:
        query = query.where(_runs.c.id != run["id"])
    return _all(connection, query)


def in_folder(connection: Connection, source: str | None) -> int:
    """Return how many photos of the cars for sale of *source* (``None``: of all) are stored in the folder only."""
    query = (
        select(func.count())
        .select_from(CarImageRow)
        .join(CarListing, CarListing.id == CarImageRow.listing_id)
        .where(CarImageRow.status == "stored", CarImageRow.store == "folder", CarListing.is_active)
    )
    if source is not None:
        query = query.where(CarListing.source == source)
    return connection.execute(query).scalar_one()


def under_way(connection: Connection, source: str) -> dict[str, Any] | None:
    """Give the run of *source* that is under way."""
    query = select(_runs).where(_runs.c.source == source, _runs.c.status == _RUNNING)
    found = _all(connection, query.order_by(_runs.c.id.desc()).limit(1))
    return found[0] if found else None


def dead(connection: Connection, locks: Locks) -> list[int]:
    """Give the rows of runs that are under way, as their rows say, while nobody holds their locks."""
    ids = list(connection.execute(select(_runs.c.id).where(_runs.c.status == _RUNNING)).scalars())
    held = locks.held([lock_name(each) for each in ids]) if ids else set()
    return [each for each in ids if lock_name(each) not in held]


def interrupt(connection: Connection, ids: Iterable[int], locks: Locks) -> list[dict[str, Any]]:
    """Write of runs that they never came to their end; give those of which it was not known."""
    written = []
    for run_id in ids:
        # One that has just come to its end, after it was looked at, is left as it is.
        where = (_runs.c.id == run_id, _runs.c.status == _RUNNING)
        if connection.execute(update(_runs).where(*where).values(status=_INTERRUPTED)).rowcount:
            written += _all(connection, select(_runs).where(_runs.c.id == run_id))
        if locks.acquire(lock_name(run_id)):  # so that no file is left of it
            locks.release(lock_name(run_id))
    return written


def _columns(run: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in run.items() if name != "id"}
    for name in _JSON:
        if name in values:
            values[name] = json.dumps(values[name], sort_keys=True, default=str)
    return values


def _all(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    return [_run(row) for row in connection.execute(query)]


def _run(row: Row[Any]) -> dict[str, Any]:
    run = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    for name in _JSON:
        run[name] = json.loads(run[name])
    return run
