"""Connecting to PostgreSQL: what the user says is kept, and a pooler in front must keep sessions."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import text

from carscraper.db import engine as module
from carscraper.db import schema
from carscraper.db.engine import explained_database, open_engine
from carscraper.db.locks import open_locks
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from carscraper.queue import address
from tests.commands import call
from tests.db.test_errors import with_ledger
from tests.services import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.services import PostgresCluster

SHARED = r"gives a connection to another client after each transaction.*set pool_mode = session .*PgBouncer"
LOCKED = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


def shown(url: str, *names: str, read_only: bool = False) -> list[str]:
    """Settings of a connection as carscraper makes it."""
    engine = open_engine(url, timeout=20, read_only=read_only)
    try:
        with engine.connect() as connection:
            return [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]
    finally:
        engine.dispose()


# --- poolers ------------------------------------------------------------------------------------------------------


def test_session_mode_is_as_good_as_the_server_itself(pooled: Callable[..., str]) -> None:
    url = pooled("session", default_pool_size=2)
    names = "application_name", "statement_timeout", "default_transaction_read_only"
    assert shown(url, *names, read_only=True) == ["carscraper", "20s", "on"]
    assert shown(url, *names) == ["carscraper", "20s", "off"], "nothing is left of the one before"
    for _ in range(2):  # over the same connections of the pool
        engine = open_engine(url, timeout=20)
        schema.ensure(engine)
        with engine.connect() as connection:
            for number in range(20):  # from the sixth on they are prepared
                if number == 10:
                    connection.exec_driver_sql("DISCARD PLANS")
                assert connection.execute(text("SELECT CAST(:n AS int)"), {"n": number}).scalar() == number
        engine.dispose()


def test_what_others_left_in_a_session_is_cleared_up(
    pooled: Callable[..., str], postgres: PostgresCluster, postgres_url: str
) -> None:
    url = pooled("session", server_reset_query="")
    with psycopg.connect(address(url), autocommit=True, prepare_threshold=0) as connection:
        connection.execute("SELECT pg_advisory_lock(1)")
    assert postgres.execute(LOCKED, postgres.database_of(postgres_url)) == [(1,)]
    engine = open_engine(url, timeout=5)
    with engine.connect() as connected:
        for number in range(10):  # from the sixth on it is prepared, under the name that is there already
            assert connected.execute(text("SELECT CAST(:n AS int)"), {"n": number}).scalar() == number
    engine.dispose()
    assert postgres.execute(LOCKED, postgres.database_of(postgres_url)) == [(0,)]


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("busy", [False, True])
def test_a_pooler_that_shares_connections_is_refused(
    mode: str,
    busy: bool,
    pooled: Callable[..., str],
    postgres: PostgresCluster,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the second connection is served by another session than the first one was, as in a busy pool."""
    url = pooled(mode, server_round_robin=int(busy))
    if busy:
        monkeypatch.setattr(module, "_LONGEST_CONNECT", 0.5)
        several = [psycopg.connect(address(url), autocommit=True) for _ in range(3)]
        for each in several:  # at the same time, so that the pool has a session for each
            each.pgconn.send_query(b"SELECT pg_sleep(0.2)")
        for each in several:
            while each.pgconn.get_result():
                pass
            each.close()
    for read_only in (False, True):
        with pytest.raises(ConfigurationError, match=SHARED):
            shown(url, "application_name", read_only=read_only)
    locks = open_locks(url, timeout=5)
    with pytest.raises(ConfigurationError, match=SHARED):
        locks.take("BR")
    locks.close()
    assert postgres.execute(LOCKED, postgres.database_of(postgres_url)) == [(0,)]
    with psycopg.connect(address(url), autocommit=True) as connection:
        left = "SELECT current_setting('default_transaction_read_only'), current_setting('statement_timeout')"
        assert connection.execute(left).fetchone() == ("off", "0"), "nothing is set for those who share it"


def test_a_pool_with_fewer_connections_than_a_crawl_needs_is_one_sentence(
    pooled: Callable[..., str], postgres: PostgresCluster, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, and whose limit it is: the pool's or the server's."""
    monkeypatch.setattr(module, "_LONGEST_CONNECT", 0.5)
    with_ledger(pooled("session", default_pool_size=5), lambda ledger: ledger.open())
    for size in (1, 3, 4):
        url = pooled("session", default_pool_size=size)
        said = f"gave {size} connections of 5 within 0.5 s, and a crawl needs five: raise its pool_size"
        with pytest.raises(DatabaseUnavailableError, match=said):
            with_ledger(url, lambda ledger: ledger.open())
        taken = [psycopg.connect(address(url), autocommit=True) for _ in range(size)]
        for each in taken:
            each.execute("SELECT 1")
        locks = open_locks(url, timeout=5)
        with pytest.raises(DatabaseUnavailableError, match=r"refuses \(no answer within 0 s\): .* pool_size"):
            locks.take("BR")
        locks.close()
        for each in taken:
            each.close()
    url = pooled("session")
    [(most,)] = postgres.execute(
        "SELECT current_setting('max_connections')::int - count(*) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    taken = [psycopg.connect(address(postgres_url)) for _ in range(most - 3)]
    with pytest.raises(DatabaseUnavailableError, match=r"gave . connections of 5 .*: the server has no more"):
        with_ledger(url, lambda ledger: ledger.open())
    for each in taken:
        each.close()


def test_a_database_that_is_not_in_utf8_is_refused(
    pooled: Callable[..., str], postgres: PostgresCluster, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, through = postgres.database_of(postgres_url), pooled("session")
    for encoding in ("SQL_ASCII", "LATIN1"):
        narrow = f"{name}_{encoding.lower()}"
        postgres.execute(f"CREATE DATABASE {narrow} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        for url in (postgres_url, through, f"{through}&client_encoding=latin1"):
            settings = {"DATABASE_URL": url.replace(name, narrow)}
            said = call("database", "upgrade", settings=settings, capsys=capsys, code=4)
            assert said.err.startswith(f"The database of DATABASE_URL is in {encoding}; make one in UTF-8 ("), (
                url,
                said,
            )
        assert postgres.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", narrow) == []
        postgres.drop_database(narrow)


WAYS = {
    "options=-cno_such=1": "unrecognized configuration parameter .*: correct that option in DATABASE_URL",
    "no_such=1": "invalid connection option .*: correct that option in DATABASE_URL",
    "connect_timeout=soon": "bad value .*connect_timeout.*: correct that option in DATABASE_URL",
    "sslmode=sometimes": "invalid sslmode value.*: correct that option in DATABASE_URL",
    "target_session_attrs=read-only": "session is not read-only.*: name the server that target_session_attrs asks for",
    "options=-cstatement_timeout=1": "57014: .*: .*a statement_timeout of your own",
}
"""Ways of connecting that are refused, and the cure that is said."""


def test_a_way_of_connecting_that_is_refused_has_its_own_cure(
    pooled: Callable[..., str], postgres: PostgresCluster, postgres_url: str
) -> None:
    for query, said in WAYS.items():
        with pytest.raises((ConfigurationError, DatabaseUnavailableError), match=said), explained_database():
            open_locks(with_query(postgres_url, query), timeout=5).take("BR")
    with pytest.raises(DatabaseUnavailableError, match=r"startup parameter.*: leave options out .*ALTER ROLE"):
        open_locks(with_query(pooled("session"), "options=-csearch_path=mine"), timeout=5).take("BR")
    path = postgres.folder / "data" / "pg_hba.conf"
    before, name = path.read_text(), postgres.database_of(postgres_url)
    role = f"way_{name}"
    postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    url = postgres_url.replace("//carscraper@", f"//{role}@")
    try:
        for line, said in {
            "scram-sha-256": "no password supplied.*: put the password into DATABASE_URL",
            "reject": "pg_hba.conf rejects .*: correct user and database in DATABASE_URL, or let pg_hba.conf",
        }.items():
            path.write_text(f"local {name} {role} {line}\n{before}")
            postgres.execute("SELECT pg_reload_conf()")
            wait_until(partial(refused, url, said), 5, said)
    finally:
        path.write_text(before)
        postgres.execute("SELECT pg_reload_conf()")
        postgres.execute(f"DROP ROLE {role}")


def refused(url: str, said: str) -> bool:
    """Return whether it is refused so; the server reads its file a moment after it is told to."""
    try:
        open_locks(url, timeout=5).take("BR")
    except DatabaseUnavailableError as error:
        return re.search(said, str(error)) is not None
    return False


# --- what the user says -------------------------------------------------------------------------------------------


def with_query(url: str, query: str) -> str:
    return f"{url}&{query}"


def test_what_the_user_says_is_kept(postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = postgres_url.partition("host=")[2]
    name = postgres_url.partition("@/")[2].partition("?")[0]
    (tmp_path / "services").write_text(
        f"[cars]\nhost={Path(folder.replace('%2F', '/'))}\nuser=carscraper\ndbname={name}\n"
        "application_name=service\noptions=-c work_mem=5MB\n"
    )
    options = quote("-c statement_timeout=7s -c work_mem=5MB")
    cases: list[tuple[str, dict[str, str], str, str]] = [
        (postgres_url, {}, "application_name", "carscraper"),
        (with_query(postgres_url, "application_name=me"), {}, "application_name", "me"),
        (postgres_url, {"PGAPPNAME": "me"}, "application_name", "me"),
        (postgres_url, {}, "statement_timeout", "20s"),
        (with_query(postgres_url, f"options={options}"), {}, "statement_timeout", "7s"),
        (with_query(postgres_url, f"options={options}"), {}, "work_mem", "5MB"),
        (postgres_url, {"PGOPTIONS": "-c statement_timeout=7s"}, "statement_timeout", "7s"),
        (postgres_url, {"PGOPTIONS": "-c work_mem=5MB"}, "statement_timeout", "20s"),
        (postgres_url, {"PGCLIENTENCODING": "LATIN1"}, "client_encoding", "UTF8"),
        (with_query(postgres_url, "client_encoding=latin1"), {}, "client_encoding", "UTF8"),
        ("postgresql:///?service=cars", {"PGSERVICEFILE": f"{tmp_path}/services"}, "application_name", "service"),
        ("postgresql:///", {"PGSERVICE": "cars", "PGSERVICEFILE": f"{tmp_path}/services"}, "work_mem", "5MB"),
        (f"postgresql://carscraper@%2Fnowhere,{folder}/{name}", {}, "application_name", "carscraper"),
        (f"postgresql://carscraper@%2Fnowhere:1,{folder}:5432/{name}", {}, "application_name", "carscraper"),
        (f"{postgres_url}&host=%2Fnowhere&target_session_attrs=read-write", {}, "application_name", "carscraper"),
    ]
    for url, environment, setting, value in cases:
        with monkeypatch.context() as patch:
            for key, word in environment.items():
                patch.setenv(key, word)
            assert shown(url, setting) == [value], (url, environment)
            with psycopg.connect(address(url)) as queue:
                found = queue.execute("SELECT current_setting(%s)", [setting]).fetchone()
            if setting != "statement_timeout":
                assert found == (value,), ("the queue", url, environment)


def test_how_the_user_wants_to_connect_is_kept(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def found(url: str) -> list[str | None]:
        engine = open_engine(url, timeout=5)
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            said, password = driver.info.get_parameters(), driver.info.password
        engine.dispose()
        return [*map(said.get, ("connect_timeout", "keepalives_idle", "sslmode")), password]

    assert found(postgres_url) == ["5", "10", None, ""]
    said = "connect_timeout=33&keepalives_idle=60&sslmode=allow"
    assert found(with_query(postgres_url, said)) == ["33", "60", "allow", ""]
    (tmp_path / "passwords").write_text("*:*:*:*:geheim")
    (tmp_path / "passwords").chmod(0o600)
    for name, value in {"CONNECT_TIMEOUT": "44", "SSLMODE": "allow", "PASSFILE": f"{tmp_path}/passwords"}.items():
        monkeypatch.setenv(f"PG{name}", value)
    assert found(postgres_url) == ["44", "10", "allow", "geheim"]


@pytest.mark.parametrize("said", ["url", "environment", "role", "role behind a pooler"])
def test_a_schema_of_ones_own(
    said: str,
    postgres: PostgresCluster,
    postgres_url: str,
    pooled: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its tables are made and found there, whatever is in ``public``."""
    database = postgres.database_of(postgres_url)
    schema.ensure(first := open_engine(postgres_url, timeout=20))
    first.dispose()
    postgres.execute("DROP TABLE price_changes", database)
    postgres.execute("CREATE SCHEMA mine", database)
    url = postgres_url
    if said == "url":
        url = with_query(url, f"options={quote('-csearch_path=mine')}")
    elif said == "environment":
        monkeypatch.setenv("PGOPTIONS", "-c search_path=mine")
    else:
        postgres.execute(f"ALTER ROLE carscraper IN DATABASE {database} SET search_path = mine", database)
        url = pooled("session") if "pooler" in said else url
    for _ in range(2):  # made, then found
        schema.ensure(engine := open_engine(url, timeout=20))
        engine.dispose()
    found = postgres.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'price_changes'", database)
    assert found == [("mine",)]
