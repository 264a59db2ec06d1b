"""Connecting to PostgreSQL: what the user says is kept, and a pooler in front must keep sessions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import text

from carscraper.db import engine as module
from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.db.locks import open_locks
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from carscraper.queue import address
from tests.commands import call

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


def test_a_pool_without_a_second_connection_is_one_sentence(
    pooled: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_CONNECT", 0.5)
    with pytest.raises(DatabaseUnavailableError, match="had no second connection"):
        shown(pooled("session", default_pool_size=1), "application_name")


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
