"""One lock for each source, which the death of its holder releases.

PostgreSQL: a session advisory lock on a connection of its own (``engine`` refuses a pooler that shares it). SQLite: a
file under ``flock`` in ``<database file>.locks/``. Whoever has the lock of a source knows that every run of it whose
row still says ``running`` is dead.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from filelock import FileLock, Timeout
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from carscraper.db.engine import explained_database, open_engine, parse_url
from carscraper.exceptions import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult, TextClause

_PAUSE = 0.1  # seconds between two tries
# A client whose machine vanished is noticed after a minute instead of two hours, and an idle one is left alone.
_PREPARE = text(
    "SELECT set_config(name, value, false) FROM pg_settings JOIN (VALUES ('tcp_keepalives_idle', '30'), "
    "('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '3'), ('idle_session_timeout', '0')) "
    "AS wanted (name, value) USING (name)"
)

_HOLDER = text(
    "SELECT pid, concat_ws(', ', nullif(application_name, ''), 'role ' || usename, 'from ' || host(client_addr), "
    "to_char(backend_start AT TIME ZONE 'UTC', '\"since\" YYYY-MM-DD HH24:MI \"UTC\"')) AS who "
    "FROM pg_locks JOIN pg_stat_activity USING (pid) JOIN pg_database ON oid = database "
    "WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pg_database.datname = current_database() "
    "AND (classid::bigint << 32) | objid::bigint = :number"
)


class Locks(Protocol):
    """The locks of one holder; not for several threads at the same time."""

    def take(self, name: str) -> bool:
        """Take *name* without waiting; false if another has it.

        Raises:
            DatabaseUnavailableError: PostgreSQL does not answer.
            ConfigurationError: the folder of the locks can't be used.
        """

    def explain(self, name: str) -> str:
        """Return who has *name*, and what to do if that is no run."""

    def close(self) -> None:
        """Release all."""


def acquire(locks: Locks, name: str, *, patience: float = 1.0) -> bool:
    """Take *name*; false if another has it for longer than *patience* seconds: who only looks has it for a moment."""
    deadline = time.monotonic() + patience
    while not (taken := locks.take(name)) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return taken


def open_locks(database_url: str, *, timeout: float) -> Locks:
    """Return the locks beside the database; nothing is connected or made yet.

    Args:
        database_url: as ``DATABASE_URL``.
        timeout: seconds PostgreSQL may take for an answer.

    Raises:
        ConfigurationError: the URL can't be read.
    """
    url = parse_url(database_url)
    if url.get_backend_name() != "sqlite":
        return PostgresLocks(database_url, timeout=timeout)
    in_memory = (url.database or ":memory:") == ":memory:"  # this process's alone
    return FileLocks(None if in_memory else Path(f"{Path(str(url.database)).resolve()}.locks"))


class PostgresLocks:
    """Session advisory locks."""

    def __init__(self, database_url: str, *, timeout: float) -> None:
        """Accept plain values; nothing is connected yet."""
        engine = open_engine(database_url, timeout=timeout)
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")  # never idle inside a transaction
        self._connection: Connection | None = None

    def take(self, name: str) -> bool:
        """Take *name*; who has it already, has it."""
        return bool(self._ask(text("SELECT pg_try_advisory_lock(:number)"), name).scalar())

    def explain(self, name: str) -> str:
        """Return who has *name*, and what to do if that is no run."""
        holder = self._ask(_HOLDER, name).mappings().first()
        if holder is None:
            return f"The lock of {name} was held until a moment ago: run this again."
        return (
            "The lock of {name} is held by session {pid} of PostgreSQL ({who}), and no run of it is under way: "
            "end that session (SELECT pg_terminate_backend({pid})), then run this again."
        ).format(name=name, **holder)

    def _ask(self, query: TextClause, name: str) -> CursorResult[Any]:
        number = int.from_bytes(hashlib.sha256(f"carscraper:{name}".encode()).digest()[:8], signed=True)
        with explained_database():
            if self._connection is None:
                self._connection = self._engine.connect()
                self._connection.execute(_PREPARE)
            return self._connection.execute(query, {"number": number})

    def close(self) -> None:
        """Release all, and end the session."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # The session's end would do it a moment later: too late for a crawl that is started at once.
            with contextlib.suppress(SQLAlchemyError):
                connection.execute(text("SELECT pg_advisory_unlock_all()"))
                connection.invalidate()  # not back into the pool
            connection.close()
        self._engine.dispose()


class FileLocks:
    """Files under ``flock``, which the kernel releases with the process."""

    def __init__(self, folder: Path | None) -> None:
        """Accept the folder, which is made when it is needed; ``None``: nobody else can be there."""
        self._folder = folder
        self._files: dict[str, FileLock] = {}

    def take(self, name: str) -> bool:
        """Take *name*; who has it already, has it."""
        if self._folder is None or name in self._files:
            return True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # A soft lock would outlive `kill -9`.
            lock = FileLock(self._path(name), mode=0o666, thread_local=False, fallback_to_soft=False)
            lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            raise ConfigurationError(
                f"The locks beside the database can't be used ({self._folder}: {error.strerror}); put the database of "
                "DATABASE_URL into a folder that this user may write, on a local disk."
            ) from None
        self._files[name] = lock
        return True

    def explain(self, name: str) -> str:
        """Return who has *name*, and what to do if that is no run."""
        return (
            f"The lock of {name}, {self._path(name)}, is held by a program that is no run under way: end it "
            "(`fuser -v` with that file shows it), then run this again."
        )

    def _path(self, name: str) -> Path:
        assert self._folder
        return self._folder / f"{quote(name, safe='')}.lock"

    def close(self) -> None:
        """Release all."""
        while self._files:
            self._files.popitem()[1].release()
