"""Procrastinate, as it is used here. Importing it takes a while: only workers and ``scrapy enqueue`` do."""

from __future__ import annotations

import asyncio
import importlib.resources
import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.schema import SchemaManager

from carscraper.db import queue
from carscraper.exceptions import DatabaseUnavailableError
from carscraper.jobs.job import PRIORITIES, TASK, Job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import LiteralString

    from procrastinate.connector import Notify
    from sqlalchemy import Engine

T = TypeVar("T")

_PAUSE = 1.0  # seconds before a database that is away is asked again
_LAST_TRIES = 10.0  # seconds that a worker who is being stopped goes on asking


def ensure_tables(engine: Engine) -> None:
    """Make the queue's tables, or bring them to this procrastinate's version.

    Raises:
        ConfigurationError: they are another program's, newer, or may not be made by this role.
    """
    folder = importlib.resources.files("procrastinate.sql") / "migrations"
    scripts = sorted(each.name for each in folder.iterdir() if each.name.endswith(".sql"))
    migrations = [(name, folder.joinpath(name).read_text("utf-8")) for name in scripts]
    queue.ensure(engine, SchemaManager.get_schema(), migrations)


class PatientConnector(PsycopgConnector):
    """Waits for a database that is away, where procrastinate would end the worker and leave its crawls alone."""

    def __init__(self, arguments: dict[str, Any], *, on_away: Callable[[str], None], most: int) -> None:
        """Take what psycopg connects with, who hears of each failure, and the most connections."""
        super().__init__(conninfo="", kwargs=arguments, min_size=1, max_size=most, timeout=10)
        self._on_away = on_away
        self._until = float("inf")

    def hurry(self) -> None:
        """Wait no longer than it takes to end in good order."""
        self._until = time.monotonic() + _LAST_TRIES

    async def execute_query_async(self, query: LiteralString, **arguments: Any) -> None:
        """Run a statement."""
        await self._patiently(super().execute_query_async, query, arguments)

    async def execute_query_one_async(self, query: LiteralString, **arguments: Any) -> dict[str, Any]:
        """Run a statement that gives a row."""
        return await self._patiently(super().execute_query_one_async, query, arguments)

    async def execute_query_all_async(self, query: LiteralString, **arguments: Any) -> list[dict[str, Any]]:
        """Run a statement that gives rows."""
        return await self._patiently(super().execute_query_all_async, query, arguments)

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """Hear of new jobs at once; while nothing is heard, they are looked for."""
        names = list(channels)
        await self._patiently(super().listen_notify, on_notification, {"channels": names})

    async def _patiently(self, call: Callable[..., Awaitable[T]], first: Any, arguments: dict[str, Any]) -> T:
        while True:
            try:
                return await call(first, **arguments)
            except ConnectorException as error:
                if not queue.is_away(error.__cause__) or time.monotonic() > self._until:
                    raise
                self._on_away(str(error.__cause__).strip().partition("\n")[0])
            await asyncio.sleep(_PAUSE)


def defer(database_url: str, jobs: Iterable[tuple[Job, str | None, str]]) -> list[int | None]:
    """Put jobs into the queue.

    Args:
        database_url: as ``DATABASE_URL``.
        jobs: each with its dealer's source, if it has one, and its queue.

    Returns:
        Their numbers; ``None`` for one that waits there already.

    Raises:
        DatabaseUnavailableError: the database does not take them.
    """
    arguments = queue.connect_arguments(database_url)
    app = App(connector=SyncPsycopgConnector(conninfo="", kwargs=arguments, min_size=1, max_size=1, timeout=10))
    numbers: list[int | None] = []
    try:
        with app.open():
            for job, source, name in jobs:
                try:
                    numbers.append(configure(app, job, source, name).defer(**job.args()))
                except AlreadyEnqueued:
                    numbers.append(None)
    except ConnectorException as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise DatabaseUnavailableError(f"The database of DATABASE_URL refuses: {reason}") from None
    return numbers


def options_of(job: Job, source: str | None, name: str) -> dict[str, Any]:
    """Give how procrastinate is to keep a job."""
    return {
        "lock": job.lock(source),
        "queueing_lock": job.queueing_lock,
        "queue": name,
        "priority": PRIORITIES.get(name, 0),
    }


def configure(app: App, job: Job, source: str | None, name: str) -> Any:
    """Give procrastinate's form of a job that is still to be put into the queue."""
    return app.configure_task(TASK, **options_of(job, source, name))


def quieten() -> None:
    """Let procrastinate's log have only what is not said here: every crawl that fails is a traceback there."""
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    logging.getLogger("procrastinate").addFilter(_is_news)
    for handled in ("procrastinate.worker", "procrastinate.worker.worker"):
        logging.getLogger(handled).addFilter(_is_news)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def _is_news(record: logging.LogRecord) -> bool:
    return not str(getattr(record, "action", "")).startswith(("job_error", "job_aborted"))
