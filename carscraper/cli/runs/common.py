"""What the verbs of ``scrapy runs`` share: runs as they are now."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from carscraper.db import runs
from carscraper.db.locks import open_locks
from carscraper.exceptions import ConfigurationError
from carscraper.runs.record import RunRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from carscraper.cli.verb import Context
    from carscraper.settings import Secret

_TIMEOUT = 10.0  # seconds


@contextlib.contextmanager
def open_runs(context: Context) -> Iterator[Connection]:
    """Open the database; runs that died without a word are known as interrupted.

    Raises:
        ConfigurationError: it can't be reached, or has no tables of this program.
    """
    secret: Secret = context.settings["DATABASE_URL"]
    with context.database(create=False) as engine:
        with engine.connect().execution_options(sqlite_begin="DEFERRED") as connection:
            locked = runs.locked(connection)
        for name in locked:
            locks = open_locks(secret.reveal(), timeout=_TIMEOUT)
            try:
                if locks.take(name):
                    with engine.begin() as connection:
                        runs.interrupt(connection, name)
            finally:
                locks.close()
        with engine.connect().execution_options(sqlite_begin="DEFERRED") as connection:
            yield connection


def find(connection: Connection, run_id: str) -> RunRecord:
    """Return the run with this row id, or else the newest with this job id; ``latest`` is the newest of all.

    Raises:
        ConfigurationError: there is none.
    """
    found = runs.get(connection, run_id)
    if found is None and run_id == runs.LATEST:
        raise ConfigurationError("There is no run yet.")
    if found is None:
        raise ConfigurationError(f"There is no run {run_id!r}; `scrapy runs list` shows the ids.")
    return RunRecord(**found)
