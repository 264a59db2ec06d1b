"""Whose an error of the database is: the row's own, a lost race, the database's, or a sequence's."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, event, text

from carscraper.db import cars as car_rows
from carscraper.db import runs, schema
from carscraper.db.engine import open_engine
from carscraper.db.ledger import Ledger
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from tests.db.ledger import car, pending

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from carscraper.db.opening import Saved
    from tests.services import PostgresCluster

# A trigger's error is as real for the program as the server's own; each stands for a car with this title.
REFUSING = """
CREATE SEQUENCE tries;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        words text[] := string_to_array(NEW.title, ' ');
    BEGIN
        IF words[1] = 'raise' AND (words[3] = 'always' OR nextval('tries') = 1) THEN
            RAISE EXCEPTION 'refused' USING ERRCODE = words[2];
        END IF;
        RETURN NEW;
    END
$$;
CREATE TRIGGER refuse BEFORE INSERT ON car_listings FOR EACH ROW EXECUTE FUNCTION refuse()
"""
ROW, REPEATED, DATABASE = "the row's own", "repeated", "the database's"
CODES = {
    ROW: "22000 22001 22003 22021 22P05 23000 23502 23503 23505 23514 23P01 54000 P0001",
    REPEATED: "23505 40001 40P01",
    DATABASE: "08006 0A000 2200H 25006 28000 28P01 3D000 40001 40P01 42501 42P01 42703 53100 53200 53300 54001 55000 "
    "55P03 57014 57P01 57P03 58030 XX000 XX001 ZZ999",
}
NOBODYS = random.Random(7)  # text that can't be compressed
OWN_VALUES: dict[str, dict[str, Any]] = {
    "a number that no column holds": {"price": 2**70},
    "half a letter": {"title": "\ud800"},
    "a NUL": {"title": "a\0b"},
    "an address that no index holds": {"url": "".join(chr(NOBODYS.randrange(192, 9000)) for _ in range(9000))},
}


def with_ledger(url: str, work: Callable[[Ledger], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Do *work* with a ledger that does not wait."""

    async def go() -> Any:
        ledger = Ledger(url, timeout=10, **{"patience": 0, **options})
        try:
            await ledger.open()
            return await work(ledger)
        finally:
            ledger.close()

    return asyncio.run(go())


async def open_two(ledger: Ledger, **bad: Any) -> str:
    """Open a car with *bad* values and another one at once; returns whose the error is."""
    number = str(NOBODYS.random())
    items = [car(f"{number}a", **bad), car(f"{number}b")]
    done: list[Any] = await asyncio.gather(*(ledger.open_car(item) for item in items), return_exceptions=True)
    if any(isinstance(each, DatabaseUnavailableError) for each in done):
        assert all(isinstance(each, DatabaseUnavailableError) for each in done)
        code = str(bad.get("title")).split(" ")[1]
        assert f"({code}: refused)" in str(done[0]), done[0]
        return DATABASE
    results: list[Saved] = done
    assert results[1].created, "the other car is written"
    return REPEATED if results[0].error is None else ROW


def test_whose_each_error_of_postgresql_is(postgres_url: str) -> None:
    make_tables(postgres_url)
    run(postgres_url, REFUSING)

    async def try_all(ledger: Ledger) -> list[str]:
        wrong = []
        for expected, codes in CODES.items():
            for code in codes.split():
                often = "once" if expected == REPEATED else "always"
                await ledger.write(lambda connection: connection.execute(text("SELECT setval('tries', 1, false)")))
                found = await open_two(ledger, title=f"raise {code} {often}")
                wrong += [f"{code} is {found}, not {expected}"] if found != expected else []
        return wrong + await try_own_values(ledger)

    assert with_ledger(postgres_url, try_all) == []


def test_a_trigger_that_refuses_all_is_the_databases(postgres_url: str) -> None:
    make_tables(postgres_url)
    run(postgres_url, REFUSING)

    async def open_all(ledger: Ledger) -> None:
        for number in range(5):
            assert (await ledger.open_car(car(f"{number}", title="raise P0001 always"))).raised
        with pytest.raises(DatabaseUnavailableError, match=r"refuses \(P0001: refused\): see to the trigger"):
            await ledger.open_car(car("last", title="raise P0001 always"))
        await ledger.open_car(car("good"))
        assert (await ledger.open_car(car("last", title="raise P0001 always"))).raised

    with_ledger(postgres_url, open_all)


def test_values_that_sqlite_does_not_take_are_the_rows(sqlite_url: str) -> None:
    assert with_ledger(sqlite_url, try_own_values) == ["a NUL", "an address that no index holds"], "it takes these"


async def try_own_values(ledger: Ledger) -> list[str]:
    return [name for name, values in OWN_VALUES.items() if await open_two(ledger, **values) != ROW]


def make_tables(url: str) -> None:
    engine = open_engine(url, timeout=20)
    schema.ensure(engine)
    engine.dispose()


def run(url: str, *statements: str) -> None:
    """As another program."""
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def scribble(path: Path) -> None:
    """As a disk does that is worn out."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


# What is said; a statement of each of the ledger's connections; what happens to the file.
OF_SQLITE: list[tuple[str, str, Callable[[Path], object]]] = [
    ("SQLITE_FULL: database or disk is full", "PRAGMA max_page_count = 1", lambda _: None),
    ("SQLITE_READONLY: attempt to write a readonly database", "PRAGMA query_only = ON", lambda _: None),
    ("SQLITE_ERROR: no such table", "", lambda path: run(f"sqlite:///{path}", "DROP TABLE car_images")),
    ("SQLITE_READONLY_DBMOVED: the file was removed or replaced", "", Path.unlink),
    ("SQLITE_CORRUPT: database disk image is malformed", "", scribble),
]


@pytest.mark.parametrize(("said", "statement", "fault"), OF_SQLITE)
def test_what_sqlite_refuses_is_the_databases(
    tmp_path: Path, sqlite_url: str, said: str, statement: str, fault: Callable[[Path], object]
) -> None:
    async def refuse(ledger: Ledger) -> None:
        many = [car(str(number), images=[pending(f"{number}/1")], description="x" * 5000) for number in range(40)]
        await asyncio.gather(*(ledger.open_car(each) for each in many))
        (await ledger.read(lambda each: each.connection.dbapi_connection)).execute(statement)
        event.listen(ledger._engine, "connect", lambda connection, _: connection.execute(statement))
        fault(tmp_path / "carscraper.db")
        new = car("new", images=[pending("new/1")], description="x" * 50_000)
        with pytest.raises(DatabaseUnavailableError, match=rf"refuses \({said}.*\): .*\.$"):
            await ledger.open_car(new)

    with_ledger(sqlite_url, refuse)


# ── Sequences ─────────────────────────────────────────────────────────────────────────────────────

RESTORED = """
INSERT INTO car_listings (id, source, external_id, url) SELECT n, 'B', n, n FROM generate_series(1, 50) n;
INSERT INTO car_images (id, listing_id, position, identity, source_url, status, first_seen_at)
    SELECT n, n, 0, n || '/1', 'x', 'pending', now() FROM generate_series(1, 50) n;
INSERT INTO crawl_runs (id, spider, job_id, version, host, started_at, status)
    SELECT n, 'b', '', '', '', now(), 'success' FROM generate_series(1, 50) n
"""
"""As COPY leaves the tables: with rows, and sequences that know nothing of them."""
TABLES = "car_images", "car_listings", "crawl_runs"


def test_a_sequence_behind_its_table_is_set_and_the_write_repeated(
    postgres: PostgresCluster, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By a role that may not do more than take a sequence's next number."""
    make_tables(postgres_url)
    run(postgres_url, RESTORED)
    role = f"crawl_{postgres.database_of(postgres_url)}"
    run(
        postgres_url,
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
    )

    async def write(ledger: Ledger) -> tuple[list[Saved], int]:
        items = [car(f"new{number}", images=[pending(f"new{number}/1")]) for number in range(20)]
        opened = await asyncio.gather(*(ledger.open_car(item) for item in items))
        begun = {"spider": "b", "job_id": "", "version": "", "host": "", "started_at": car_rows.utcnow(), "status": "x"}
        return opened, await ledger.write(runs.start, begun)

    try:
        opened, run_id = with_ledger(postgres_url.replace("//carscraper@", f"//{role}@"), write)
    finally:
        run(postgres_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert all(each.created and each.error is None for each in opened), opened
    assert {each.listing_id for each in opened} == set(range(51, 71))
    assert run_id == 51
    behind = sorted(record.getMessage() for record in caplog.records if "sequence" in record.getMessage())
    assert behind == [f"The sequence of {table} was behind its table; it is at 50 now" for table in TABLES]


def test_an_upgrade_sets_the_sequences(postgres_url: str) -> None:
    make_tables(postgres_url)
    run(postgres_url, RESTORED)
    engine = open_engine(postgres_url, timeout=20)
    assert schema.upgrade(engine) == (schema.HEAD, schema.HEAD)
    with engine.connect() as connection:
        assert schema.set_sequences(connection) == 0
        names = [f"pg_sequence_last_value('{table}_id_seq')" for table in ("car_listings", "car_images", "crawl_runs")]
        assert connection.execute(text(f"SELECT {', '.join(names)}")).one() == (50, 50, 50)
        assert connection.execute(text("SELECT pg_sequence_last_value('price_changes_id_seq')")).scalar() is None
    engine.dispose()


def test_whose_a_sequence_is_does_not_matter(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is the one of the column's default; what can't be set is named."""
    make_tables(postgres_url)
    run(
        postgres_url,
        RESTORED,
        "ALTER SEQUENCE car_listings_id_seq OWNED BY NONE",
        "CREATE SEQUENCE others",
        "ALTER TABLE car_images ALTER id SET DEFAULT nextval('others')",
        "CREATE FUNCTION number() RETURNS bigint LANGUAGE sql AS 'SELECT 99::bigint'",
        "ALTER TABLE crawl_runs ALTER id SET DEFAULT number()",
    )
    engine = open_engine(postgres_url, timeout=20)
    schema.upgrade(engine)
    engine.dispose()
    item = car("new", images=[pending("new/1")])
    assert with_ledger(postgres_url, lambda ledger: ledger.open_car(item)).listing_id == 51
    said = [record.getMessage() for record in caplog.records if record.name == schema.__name__]
    assert said[0].startswith("The column id of crawl_runs has the default number(), which is no sequence that can be")
    assert said[1:] == [f"The sequence of {each} was behind its table; it is at 50 now" for each in TABLES[:2]]
    begun = {"spider": "b", "job_id": "", "version": "", "host": "", "started_at": car_rows.utcnow(), "status": "x"}
    with_ledger(postgres_url, lambda ledger: ledger.write(runs.start, begun))
    with pytest.raises(DatabaseUnavailableError, match=r"refuses \(23505: .*\): run `scrapy database upgrade`"):
        with_ledger(postgres_url, lambda ledger: ledger.write(runs.start, begun))


def test_a_default_that_was_lost_is_the_databases(postgres_url: str) -> None:
    """As tools that copy tables lose them; an upgrade gives an id its own back."""
    make_tables(postgres_url)
    run(postgres_url, RESTORED)
    item = car("new", images=[pending("new/1")])
    refused = r"refuses \(23502: .*\): run `scrapy database upgrade`, which gives a column id its numbers back; give "
    for lose, cure in {
        "ALTER TABLE car_images ALTER id DROP DEFAULT": "",
        "ALTER TABLE car_listings ALTER id DROP DEFAULT; DROP SEQUENCE car_listings_id_seq": "",
        "ALTER TABLE car_images ADD n int NOT NULL DEFAULT 1; ALTER TABLE car_images ALTER n DROP DEFAULT": (
            "ALTER TABLE car_images ALTER n SET DEFAULT 1"
        ),
    }.items():
        run(postgres_url, *lose.split("; "))
        with pytest.raises(DatabaseUnavailableError, match=refused):
            with_ledger(postgres_url, lambda ledger: ledger.open_car(item))
        run(postgres_url, *filter(None, [cure]))
        engine = open_engine(postgres_url, timeout=20)
        schema.upgrade(engine)
        engine.dispose()
    assert with_ledger(postgres_url, lambda ledger: ledger.open_car(item)).created


# ── At the start ──────────────────────────────────────────────────────────────────────────────────


def test_what_refuses_a_crawl_refuses_it_at_once(postgres: PostgresCluster, postgres_url: str) -> None:
    make_tables(postgres_url)
    name = postgres.database_of(postgres_url)
    cases = [
        ('ALTER DATABASE "{}" SET default_transaction_read_only = on', "refuses \\(25006: .*\\): name the primary"),
        ("ALTER TABLE car_images RENAME COLUMN reason TO x", "refuses \\(42703: .*\\): a table or column"),
        ("ALTER TABLE car_images RENAME TO x", "lacks the table car_images"),
    ]
    for statement, said in cases:
        postgres.execute(statement.format(name), name)
        with pytest.raises(ConfigurationError, match=said):
            with_ledger(postgres_url, lambda ledger: ledger.open(), patience=60)
        with_ledger(postgres_url, lambda ledger: ledger.open(), read_only=True) if "25006" in said else None
        postgres.execute(f'ALTER DATABASE "{name}" RESET ALL')
