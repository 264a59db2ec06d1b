"""Opening a database: one way for SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from carscraper.db.errors import explain
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

INSUFFICIENT_PRIVILEGE = "42501"
"""PostgreSQL's SQLSTATE for what a role may not do."""


def parse_url(database_url: str) -> URL:
    """Return the SQLAlchemy URL; ``postgres://`` and ``postgresql://`` mean psycopg 3.

    Raises:
        ConfigurationError: it can't be read.
    """
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "DATABASE_URL can't be read; write sqlite:///file.db or postgresql://user:password@host/name "
            "(percent-encode special characters of the password)."
        ) from None
    if url.drivername in {"postgres", "postgresql"}:
        url = url.set(drivername="postgresql+psycopg")
    return url


def show_database(url: URL) -> str:
    """Return of a database its driver, host, port and name, and nothing else: its address may hold secrets anywhere.

    >>> show_database(make_url("postgresql+psycopg://me:pw@db.example.is:5433/cars?password=pw"))
    'postgresql+psycopg://db.example.is:5433/cars'
    """
    hosts = url.query.get("host", url.host or "")
    host = hosts if isinstance(hosts, str) else ",".join(hosts)
    return f"{url.drivername}://{host}{f':{url.port}' if url.port else ''}/{url.database or ''}"


def is_there(database_url: str) -> bool:
    """Return whether there can be tables: false for an SQLite file that nobody has made yet.

    Raises:
        ConfigurationError: the URL can't be read.
    """
    url = parse_url(database_url)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()


@contextlib.contextmanager
def explained_database() -> Iterator[None]:
    """Turn what the database refuses into one sentence.

    Raises:
        DatabaseUnavailableError: with the database's own code and first line, and the fix.
    """
    try:
        yield
    except DBAPIError as error:
        raise DatabaseUnavailableError(explain(error)) from None


def open_engine(database_url: str, *, timeout: float, read_only: bool = False) -> Engine:
    """Open the database; nothing is connected yet.

    Args:
        database_url: as ``DATABASE_URL``.
        timeout: seconds to wait for a connection or a lock.
        read_only: refuse every write; of SQLite's file not a byte changes.

    Raises:
        ConfigurationError: the URL can't be read, or SQLite's folder can't be made.
    """
    url = parse_url(database_url)
    if url.get_backend_name() == "sqlite":
        return _read_sqlite(url, timeout) if read_only else _open_sqlite(url, timeout)
    engine = create_engine(
        url,
        pool_pre_ping=True,  # a restarted server must cost a reconnection, not a car
        pool_size=4,
        connect_args={
            "connect_timeout": max(2, min(10, int(timeout))),
            "application_name": "carscraper",
            "options": f"-c statement_timeout={int(timeout * 1000)}"
            + (" -c default_transaction_read_only=on" if read_only else ""),
            # A server that vanished without a word is noticed after about half a minute.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        },
    )

    @event.listens_for(engine, "do_connect")
    def _connect(dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        connection = dialect.connect(*arguments, **options)
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            # SQL_ASCII gives bytes for text, and LATIN1 has no place for what dealers write.
            connection.close()
            raise ConfigurationError(
                f"The database of DATABASE_URL is in {encoding}; make one in UTF-8 "
                "(createdb --encoding=UTF8 --template=template0) and name that."
            )
        return connection

    return engine


def _read_sqlite(url: URL, timeout: float) -> Engine:
    path = Path(url.database or "")
    if not path.is_file():
        raise ConfigurationError(f"DATABASE_URL names {path}, which is not there: run a crawl first.")
    wal, shm = (path.with_name(f"{path.name}-{kind}") for kind in ("wal", "shm"))
    mode, copy = "mode=ro", None
    if not (wal.exists() and wal.stat().st_size):
        mode += "&immutable=1"  # else a reader makes files beside the database, too
    elif not shm.exists():
        # Nobody has it open, and what was written last is still beside it: a reader would have to clear that up.
        copy = tempfile.TemporaryDirectory(prefix="carscraper-read-")
        for each in (path, wal):
            shutil.copy(each, copy.name)
        path = Path(copy.name) / path.name

    def connect() -> sqlite3.Connection:
        address = f"file:{quote(str(path.resolve()))}?{mode}"
        return sqlite3.connect(address, uri=True, timeout=timeout, check_same_thread=False)

    engine = create_engine(url, creator=connect)
    if copy:
        event.listen(engine, "engine_disposed", lambda _: copy.cleanup())
    return engine


def _use_wal(connection: sqlite3.Connection, timeout: float) -> None:
    """Switch to WAL; SQLite itself does not wait for another who does so at the same moment."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _open_sqlite(url: URL, timeout: float) -> Engine:
    if url.database and url.database != ":memory:":
        try:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"DATABASE_URL names {url.database}, whose folder can't be made ({error.strerror}); choose another."
            ) from error
    engine = create_engine(url, connect_args={"timeout": timeout, "check_same_thread": False})
    opened: list[os.stat_result] = []

    @event.listens_for(engine, "do_connect")
    @event.listens_for(engine, "checkout")
    def _look(*_: Any) -> None:
        # SQLite goes on writing into a file that has no name any more; rows there are lost with the process.
        with contextlib.suppress(OSError):
            if not opened or os.path.samestat(opened[0], os.stat(url.database or "")):  # noqa: PTH116 - each transaction
                return
        error = sqlite3.OperationalError("the file was removed or replaced")
        error.sqlite_errorname = "SQLITE_READONLY_DBMOVED"
        raise error

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        _use_wal(connection, timeout)
        connection.execute("PRAGMA synchronous=FULL")  # a committed row outlives a power cut, also in WAL
        connection.execute("PRAGMA foreign_keys=ON")
        with contextlib.suppress(OSError):  # in memory
            opened[:] = opened or [os.stat(url.database or "")]  # noqa: PTH116 - as above

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # A transaction that reads first and writes later fails with "locked" when another writer came between;
        # IMMEDIATE queues instead (measured: 432 of 480 failed, 0 of 480 with this). One that only reads says so.
        immediate = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
        connection.exec_driver_sql(f"BEGIN {immediate}")

    return engine
