"""Named locks that their holder's death releases, whatever it dies of.

PostgreSQL: session advisory locks, on a connection of their own. SQLite: ``flock`` on a file for each name in
``<database file>.locks/``; nothing in it is data, and it may be removed while nobody crawls. A pooler that lends a
connection to PostgreSQL for one transaction only (PgBouncer's ``transaction`` mode) gives no session to lock with.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from carscraper.db.engine import explained, open_engine, parse_url
from carscraper.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection

_MEMORY = ":memory:"
# Somebody who looks whether a file is locked has it for some microseconds.
_TRIES = 5
_PAUSE = 0.02  # seconds
# Of the lock's session: a client whose machine vanished is noticed after a minute instead of two hours, and the
# server's own patience with idle clients does not count. Those that the server does not know are left out.
_SESSION = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "idle_session_timeout": "0",
}


class Locks(Protocol):
    """The locks of one holder. Not for several threads at the same time.

    Every method raises ``DatabaseUnavailableError`` if PostgreSQL does not answer, ``ConfigurationError`` if the
    folder of the locks can't be used.
    """

    def acquire(self, name: str) -> bool:
        """Take *name*, without waiting; false if another has it. Who has it already, has it."""
        ...

    def release(self, name: str) -> None:
        """Give *name* back, if it is held."""
        ...

    def held(self, names: Iterable[str]) -> set[str]:
        """Tell which of *names* anybody holds, without taking them."""
        ...

    def renew(self) -> set[str]:
        """Take again what a broken connection has lost; give the names that another has by now."""
        ...

    def close(self) -> None:
        """Give all back."""
        ...


def open_locks(database_url: str, *, timeout: float) -> Locks:
    """Give the locks beside the database; nothing is connected or made yet.

    Args:
        database_url: as ``DATABASE_URL``.
        timeout: seconds PostgreSQL may take for an answer.

    Raises:
        ConfigurationError: the URL can't be read.
    """
    url = parse_url(database_url)
    if url.get_backend_name() != "sqlite":
        return PostgresLocks(database_url, timeout=timeout)
    path = url.database or _MEMORY
    # A database in memory is this process's alone.
    return FileLocks(None if path == _MEMORY else Path(f"{Path(path).resolve()}.locks"))


def _number(name: str) -> int:
    """Give the signed 64-bit number that PostgreSQL knows *name* by."""
    return int.from_bytes(hashlib.sha256(f"carscraper:{name}".encode()).digest()[:8], signed=True)


class PostgresLocks:
    """Session advisory locks."""

    def __init__(self, database_url: str, *, timeout: float) -> None:
        """Take plain values; nothing is connected yet."""
        engine = open_engine(database_url, timeout=timeout)
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")  # never idle inside a transaction
        self._connection: Connection | None = None
        self._wanted: set[str] = set()
        self._got: set[str] = set()

    def acquire(self, name: str) -> bool:
        """Take *name*."""
        if name in self._got:
            return True
        with explained():
            if self._try(name):
                self._wanted.add(name)
        return name in self._got

    def release(self, name: str) -> None:
        """Give *name* back."""
        self._wanted.discard(name)
        if name in self._got:
            self._got.discard(name)
            with explained():
                self._connect().execute(text("SELECT pg_advisory_unlock(:number)"), {"number": _number(name)})

    def held(self, names: Iterable[str]) -> set[str]:
        """Tell which of *names* anybody holds."""
        query = text(
            "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks "
            "WHERE locktype = 'advisory' AND objsubid = 1 AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        with explained():
            numbers = set(self._connect().execute(query).scalars())
        return {name for name in names if _number(name) in numbers}

    def renew(self) -> set[str]:
        """Take again what was lost with the connection."""
        if not self._wanted:
            return set()
        with explained():
            try:
                self._connect().execute(text("SELECT 1"))
            except DBAPIError:
                self._drop()
            for name in self._wanted - self._got:
                self._try(name)
        return self._wanted - self._got

    def close(self) -> None:
        """Give all back, and end the session."""
        self._wanted.clear()
        if self._got and self._connection is not None:
            # The session's end would do it too, a moment later: too late for a crawl that is started at once.
            with contextlib.suppress(DBAPIError):
                self._connection.execute(text("SELECT pg_advisory_unlock_all()"))
        self._drop()
        self._engine.dispose()

    def _try(self, name: str) -> bool:
        query = text("SELECT pg_try_advisory_lock(:number)")
        if self._connect().execute(query, {"number": _number(name)}).scalar():
            self._got.add(name)
        return name in self._got

    def _connect(self) -> Connection:
        if self._connection is None or self._connection.invalidated:
            self._drop()
            self._connection = self._engine.connect()
            for name, value in _SESSION.items():
                self._connection.execute(
                    text("SELECT set_config(name, :value, false) FROM pg_settings WHERE name = :name"),
                    {"name": name, "value": value},
                )
        return self._connection

    def _drop(self) -> None:
        self._got.clear()
        if self._connection is not None:
            with contextlib.suppress(DBAPIError):
                self._connection.invalidate()  # not back into the pool: its locks would go on with it
            self._connection.close()
            self._connection = None


class FileLocks:
    """Files under ``flock``, which the kernel releases with the process."""

    def __init__(self, folder: Path | None) -> None:
        """Take the folder; it is made when it is needed. ``None``: nobody else can be there."""
        self._folder = folder
        self._files: dict[str, int] = {}

    def acquire(self, name: str) -> bool:
        """Take *name*."""
        if name in self._files:
            return True
        if self._folder is None:
            self._files[name] = -1
            return True
        with self._usable(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for number in range(_TRIES):
                if number:
                    time.sleep(_PAUSE)
                file = self._open(name, os.O_RDWR | os.O_CREAT)
                if file is not None and self._lock(file, fcntl.LOCK_EX) and self._is_at(file, name):
                    self._files[name] = file
                    return True
                if file is not None:
                    os.close(file)
        return False

    def release(self, name: str) -> None:
        """Give *name* back, and leave no file."""
        file = self._files.pop(name, -1)
        if file >= 0:
            self._path(name).unlink(missing_ok=True)  # while it is locked: who opened it before sees that it is gone
            os.close(file)

    def held(self, names: Iterable[str]) -> set[str]:
        """Tell which of *names* anybody holds."""
        found = set()
        for name in names:
            if self._folder is None:
                found |= {name} & self._files.keys()
                continue
            with self._usable(self._folder):
                file = self._open(name, os.O_RDONLY)
                if file is not None:
                    if not self._lock(file, fcntl.LOCK_SH):
                        found.add(name)
                    os.close(file)
        return found

    def renew(self) -> set[str]:
        """Nothing breaks here."""
        return set()

    def close(self) -> None:
        """Give all back."""
        for name in list(self._files):
            self.release(name)

    def _path(self, name: str) -> Path:
        assert self._folder
        return self._folder / f"{quote(name, safe='')}.lock"

    def _open(self, name: str, flags: int) -> int | None:
        try:
            return os.open(self._path(name), flags, 0o666)
        except FileNotFoundError:
            return None  # nobody ever held it, or the folder was removed a moment ago

    @staticmethod
    def _lock(file: int, how: int) -> bool:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _is_at(self, file: int, name: str) -> bool:
        """Tell whether *file* is still the one that others will open."""
        try:
            return os.path.samestat(os.fstat(file), self._path(name).stat())
        except FileNotFoundError:
            return False

    @staticmethod
    @contextlib.contextmanager
    def _usable(folder: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigurationError(
                f"The locks beside the database can't be used ({folder}: {error.strerror}); put the database of "
                "DATABASE_URL into a folder that this user may write, on a local disk."
            ) from None
