"""Opening a database: one way for SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import sqlite3
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from carscraper.db.errors import explain
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

INSUFFICIENT_PRIVILEGE = "42501"
"""PostgreSQL's SQLSTATE for what a role may not do."""

# libpq's way to write several hosts, with their ports.
_SEVERAL_HOSTS = re.compile(r"(postgres[^/?]*://)([^/?]*@)?([^/?@]*,[^/?@]*)([^?]*)\??(.*)")
_LONGEST_CONNECT = 10  # seconds


def parse_url(database_url: str) -> URL:
    """Return the SQLAlchemy URL; ``postgres://`` and ``postgresql://`` mean psycopg 3.

    >>> parse_url("postgres://me@one:5432,two:5433/cars?sslmode=require").query["host"]
    ('one:5432', 'two:5433')

    Raises:
        ConfigurationError: it can't be read.
    """
    if several := _SEVERAL_HOSTS.fullmatch(database_url):
        start, user, hosts, path, query = several.groups("")
        words = [*(f"host={each}" for each in hosts.split(",")), query]
        database_url = f"{start}{user}{path}?{'&'.join(filter(None, words))}"
    try:
        url = make_url(database_url)
        if url.drivername in {"postgres", "postgresql"}:
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() == "postgresql":
            url.get_dialect()().create_connect_args(url)  # reads hosts and ports
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "DATABASE_URL can't be read; write sqlite:///file.db or postgresql://user:password@host/name "
            "(percent-encode special characters of the password)."
        ) from None
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


def open_engine(database_url: str, *, timeout: float, read_only: bool = False, connections: int = 2) -> Engine:
    """Open the database; nothing is connected yet.

    Args:
        database_url: as ``DATABASE_URL``.
        timeout: seconds to wait for a connection or a lock.
        read_only: refuse every write; of SQLite's file not a byte changes.
        connections: that a pooler in front must have at the same time.

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
        connect_args=_arguments(url, timeout),
    )
    wanted = {"statement_timeout": f"{timeout * 1000:.0f}"} | (
        {"default_transaction_read_only": "on"} if read_only else {}
    )
    looked_at = False

    @event.listens_for(engine, "do_connect")
    def _connect(dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        nonlocal looked_at
        connection = dialect.connect(*arguments, **options)
        try:
            connection.autocommit = True
            if _is_pooled(connection, min(_LONGEST_CONNECT, timeout)):
                if not looked_at:
                    _check_pooler(connection, lambda: dialect.connect(*arguments, **options), connections - 1)
                looked_at = True
                # What others may have left in the session, where the pooler clears nothing up.
                connection.execute("SELECT pg_advisory_unlock_all(); DEALLOCATE ALL")
            # Not among the options of the start, which PgBouncer refuses.
            for name, value in wanted.items():
                connection.execute(_SET, {"name": name, "value": value})
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    return engine


_SET = "SELECT set_config(name, %(value)s, false) FROM pg_settings WHERE name = %(name)s AND source <> 'client'"
"""Changes a setting that the user has not given himself, by ``options`` or ``PGOPTIONS``."""


def _arguments(url: URL, timeout: float) -> dict[str, Any]:
    """Return what libpq is told beside *url*: ours, where neither that nor the environment says anything."""
    from psycopg.pq import Conninfo  # noqa: PLC0415 - SQLite does without

    ours = {
        "fallback_application_name": "carscraper",
        "connect_timeout": max(2, min(_LONGEST_CONNECT, int(timeout))),
        # A server that vanished without a word is noticed after about half a minute.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    environment = {each.keyword.decode() for each in Conninfo.get_defaults() if each.val}
    return {name: value for name, value in ours.items() if name not in environment.union(url.query)} | {
        "client_encoding": "UTF8"  # what dealers write has no place in another
    }


def conninfo(url: URL, timeout: float) -> str:
    """Return what another program than SQLAlchemy connects with.

    Raises:
        ConfigurationError: the URL has an option that libpq does not know.
    """
    from psycopg import ProgrammingError  # noqa: PLC0415 - see above
    from psycopg.conninfo import make_conninfo  # noqa: PLC0415

    _, said = url.get_dialect()().create_connect_args(url)
    try:
        return make_conninfo(**{**said, **_arguments(url, timeout)})
    except ProgrammingError as error:
        raise ConfigurationError(f"DATABASE_URL can't be read ({error}); correct that option.") from None


def _is_pooled(connection: Any, patience: float) -> bool:
    """Return whether a pooler is in front of the server.

    Raises:
        ConfigurationError: the database can't hold what dealers write.
        psycopg.Error: there was no answer within *patience* seconds: a pooler connects before it has a connection.
    """
    from psycopg import OperationalError  # noqa: PLC0415 - see above
    from psycopg.errors import error_from_result  # noqa: PLC0415

    connection.pgconn.send_query(b"SELECT pg_backend_pid(), current_setting('server_encoding')")
    _wait([connection], lambda: not connection.pgconn.is_busy(), patience)
    if connection.pgconn.is_busy():
        raise OperationalError(f"no answer within {patience:.0f} s")
    result = connection.pgconn.get_result()
    while connection.pgconn.get_result():
        pass
    if not result.ntuples:
        raise error_from_result(result)
    backend, encoding = (result.get_value(0, column).decode() for column in range(2))
    if encoding != "UTF8":
        # SQL_ASCII gives bytes for text, and LATIN1 has no place for what dealers write.
        raise ConfigurationError(
            f"The database of DATABASE_URL is in {encoding}; make one in UTF-8 "
            "(createdb --encoding=UTF8 --template=template0) and name that."
        )
    return bool(int(backend) != connection.info.backend_pid)  # a pooler makes its own numbers up


def _wait(connections: Sequence[Any], over: Callable[[], bool], patience: float) -> None:
    """Read what arrives on *connections* until it is *over*, for no longer than *patience* seconds."""
    deadline = time.monotonic() + patience
    with selectors.DefaultSelector() as selector:
        for each in connections:
            selector.register(each, selectors.EVENT_READ, each.pgconn)
        while not over() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                key.data.consume_input()


def _has_answered(pgconn: Any) -> bool:
    while not pgconn.is_busy():
        if not pgconn.get_result():
            return True
    return False


_FULL = (
    "SELECT count(*) >= current_setting('max_connections')::int "
    "- current_setting('superuser_reserved_connections')::int "
    "FROM pg_stat_activity WHERE backend_type = 'client backend'"
)


def _check_pooler(connection: Any, connect: Callable[[], Any], more: int) -> None:
    """See that a pooler leaves *connection* alone with its server session, as locks and settings need it.

    It does so if what the server tells a session that idles arrives: between two transactions a pooler that shares its
    connections has nobody to hand that to, whatever else goes on in it. And see that it has *more* beside that one.

    Raises:
        ConfigurationError: it does not.
        DatabaseUnavailableError: it has fewer connections left.
    """
    channel = f"carscraper_{uuid.uuid4().hex}"
    connection.execute(f"LISTEN {channel}")
    heard = is_shared = False
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(contextlib.closing(connect())) for _ in range(more)]
        waiting = list(others)

        def over() -> bool:
            nonlocal heard, is_shared
            waiting[:] = [each for each in waiting if not _has_answered(each.pgconn)]
            heard = heard or bool(connection.pgconn.notifies())
            is_shared = is_shared or bool(others[0].pgconn.notifies())  # which never listened
            return is_shared or (heard and not waiting)

        for each in others:  # not waited for: a pool that is full holds them up
            each.pgconn.send_query(f"NOTIFY {channel}".encode())
        _wait([connection, *others], over, _LONGEST_CONNECT)
        short = len(waiting) if heard or others[0] in waiting else 0
    if short and not is_shared:
        full = connection.execute(_FULL).fetchone()[0]
        raise DatabaseUnavailableError(
            f"The pooler in front of the database of DATABASE_URL gave {1 + more - short} connections of {1 + more} "
            f"within {_LONGEST_CONNECT} s, and a crawl needs five: "
            + ("the server has no more, raise its max_connections." if full else "raise its pool_size (PgBouncer).")
        )
    connection.execute(f"UNLISTEN {channel}")
    if is_shared or not heard:
        raise ConfigurationError(
            "The pooler in front of the database of DATABASE_URL gives a connection to another client after each "
            "transaction, so that the lock of a crawl would stay behind in it: set pool_mode = session for this "
            "database (PgBouncer), or name the server itself."
        )


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
