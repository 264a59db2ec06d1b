"""The SQL of ``crawl_runs``. A run is a dictionary here, with the fields of ``runs.record.RunRecord``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, select, update

from carscraper.db.models import CarImageRow, CarListing, crawl_runs
from carscraper.items import Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy import Connection, Row, Select

_JSON = ("arguments", "settings", "images_failed", "images_unstored", "monitors", "output")
LATEST = "latest"
_LARGEST_ID = 2**63 - 1
_RUNNING, _INTERRUPTED = "running", "interrupted"
_lock = func.coalesce(crawl_runs.c.source, crawl_runs.c.spider)
"""The name of the lock that a run holds: its source, or its spider if it has none."""


def start(connection: Connection, run: Mapping[str, Any]) -> int:
    """Write the row of a run that begins, or of one that ended before it began; return the row's id.

    Args:
        connection: in a transaction of the caller.
        run: its fields; without ``id``.
    """
    run_id: int = connection.execute(insert(crawl_runs).values(_columns(run)).returning(crawl_runs.c.id)).scalar_one()
    return run_id


def finish(connection: Connection, run: Mapping[str, Any]) -> None:
    """Write how it ended, whatever was thought of it meanwhile."""
    connection.execute(update(crawl_runs).where(crawl_runs.c.id == run["id"]).values(_columns(run)))


def listed(
    connection: Connection,
    *,
    spider: str | None = None,
    status: str | None = None,
    output: str | None = None,
    since: datetime | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Return runs, the newest first.

    Args:
        connection: to read by.
        spider: of this one.
        status: that ended like this.
        output: the upload of whose files ended like this.
        since: that began then or later (UTC, without a zone).
        limit: at most so many.
    """
    query: Select[Any] = select(crawl_runs)
    if since is not None:
        query = query.where(crawl_runs.c.started_at >= since)
    if spider is not None:
        query = query.where(crawl_runs.c.spider == spider)
    if status is not None:
        query = query.where(crawl_runs.c.status == status)
    if output is not None:  # within a value quotes are escaped
        query = query.where(crawl_runs.c.output.contains(f'"status": {json.dumps(output)}'))
    return _all(connection, query.order_by(crawl_runs.c.started_at.desc(), crawl_runs.c.id.desc()).limit(limit))


def find_run(connection: Connection, run_id: str) -> dict[str, Any] | None:
    """Return the run with this row id, or else the newest with this job id; ``latest`` is the newest of all."""
    if run_id == LATEST:
        return next(iter(listed(connection, limit=1)), None)
    if run_id.isascii() and run_id.isdigit() and int(run_id) <= _LARGEST_ID:
        found = _all(connection, select(crawl_runs).where(crawl_runs.c.id == int(run_id)))
        if found:
            return found[0]
    of_job = select(crawl_runs).where(crawl_runs.c.job_id == run_id)
    found = _all(connection, of_job.order_by(crawl_runs.c.id.desc()).limit(1))
    return found[0] if found else None


def earlier(connection: Connection, run: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
    """Return the last runs that *run* can be measured by, the newest first.

    Those of the same spider with the same arguments that saw the whole site and did not fail.
    """
    query = (
        select(crawl_runs)
        .where(
            crawl_runs.c.spider == run["spider"],
            crawl_runs.c.arguments == _columns(run)["arguments"],
            crawl_runs.c.complete,
            crawl_runs.c.status.in_(("success", "partial")),
        )
        .order_by(crawl_runs.c.started_at.desc(), crawl_runs.c.id.desc())
        .limit(limit)
    )
    if run.get("id") is not None:
        query = query.where(crawl_runs.c.id != run["id"])
    return _all(connection, query)


def in_folder(connection: Connection, source: str | None) -> int:
    """Return how many photos of the cars for sale of *source* (``None``: of all) are stored in the folder only."""
    query = (
        select(func.count())
        .select_from(CarImageRow)
        .join(CarListing, CarListing.id == CarImageRow.listing_id)
        .where(CarImageRow.status == Status.STORED, CarImageRow.store == "folder", CarListing.is_active)
    )
    if source is not None:
        query = query.where(CarListing.source == source)
    return connection.execute(query).scalar_one()


def under_way(connection: Connection, name: str) -> dict[str, Any] | None:
    """Return the run under way that holds the lock *name*."""
    return next(iter(_all(connection, _running(name).order_by(crawl_runs.c.id.desc()).limit(1))), None)


def locked(connection: Connection) -> list[str]:
    """Return the names of the locks that the runs under way hold, as their rows say."""
    found = connection.execute(select(_lock).where(crawl_runs.c.status == _RUNNING).distinct().order_by(_lock))
    return list(found.scalars())


def interrupt(connection: Connection, name: str) -> list[dict[str, Any]]:
    """Write that the runs under the lock *name*, which the caller has, never came to their end; return them."""
    dead = _all(connection, _running(name))
    ids = [each["id"] for each in dead]
    connection.execute(update(crawl_runs).where(crawl_runs.c.id.in_(ids)).values(status=_INTERRUPTED))
    return [each | {"status": _INTERRUPTED} for each in dead]


def _running(name: str) -> Select[Any]:
    return select(crawl_runs).where(_lock == name, crawl_runs.c.status == _RUNNING)


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
