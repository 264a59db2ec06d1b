"""The tables: made at first use, adopted from the earlier scraper, refused when they are another program's."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from carscraper.db import cars as car_rows
from carscraper.db import schema
from carscraper.db.engine import open_engine, parse_url
from carscraper.db.models import Base, CarImageRow, CarListing
from carscraper.db.rules import PlaceholderRules
from carscraper.exceptions import ConfigurationError, SchemaOutdatedError
from carscraper.items import CarImage, CarItem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

# The table of the earlier scraper, word for word as its users have it.
LEGACY = """
CREATE TABLE car_listings (
    id {serial} PRIMARY KEY,
    source text, title text, make text, model text, year int, price bigint, kilometers bigint,
    url text UNIQUE, description text, scraped_at timestamp, is_active {boolean}, last_seen_at timestamp,
    image_url text, display_make text, display_name text
)
"""
LEGACY_ROWS = [
    # id, source, url, price, image_url, scraped_at, last_seen_at
    (
        7,
        "Bilasolur",
        "https://bilasolur.is/CarDetails.aspx?bid=76&cid=296487&sid=1&schid=abc&schpage=2",
        1,
        "old",
        "2025-01-01",
        "2025-03-01",
    ),
    (
        8,
        "Bilasolur",
        "https://bilasolur.is/CarDetails.aspx?CID=296487&schid=def&schpage=9",
        2,
        "",
        "2025-02-01",
        "2025-02-02",
    ),
    (9, "Bilasolur", "https://bilasolur.is/CarDetails.aspx?schid=1&cid=5", 3, None, "2025-01-01", None),
    (10, "BR", "https://br.is/CarDetails.aspx?cid=5&schid=1", 4, "https://b.s3.amazonaws.com/x.jpg", None, None),
    (11, "Hekla", "https://www.hekla.is/is/bilar/notadir-bilar/view/5?cid=5", 5, "x", None, None),
    (12, "Bilasolur", "https://bilasolur.is/", 6, None, None, None),
    (13, "Bilasolur", None, 7, None, None, None),
    (40, None, "https://bilasolur.is/CarDetails.aspx?cid=40", 8, None, None, None),
]
IMAGE = "INSERT INTO car_images (listing_id, position, identity, source_url, status, attempts, first_seen_at)"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url, timeout=20)
    yield engine
    engine.dispose()


def make_legacy(engine: Engine) -> None:
    postgres = engine.dialect.name == "postgresql"
    ddl = LEGACY.format(
        serial="serial" if postgres else "integer", boolean=f"bool NOT NULL DEFAULT {'true' if postgres else '1'}"
    )
    named_columns = "id, source, url, price, image_url, scraped_at, last_seen_at, title, description, year"
    row = f"INSERT INTO car_listings ({named_columns})"
    with engine.begin() as connection:
        connection.execute(text(ddl))
        for values in LEGACY_ROWS:
            named = dict(zip("abcdefg", values, strict=True))
            connection.execute(text(f"{row} VALUES (:a, :b, :c, :d, :e, :f, :g, 'Þ', 'words', 2019)"), named)
        if postgres:
            connection.execute(text("SELECT setval('car_listings_id_seq', 40)"))


def rows(engine: Engine) -> list[dict[str, Any]]:
    with engine.begin() as connection:
        return [dict(row) for row in connection.execute(text("SELECT * FROM car_listings ORDER BY id")).mappings()]


def version(engine: Engine) -> str | None:
    with engine.begin() as connection:
        return schema.current(connection)


class TestEmptyDatabase:
    def test_it_is_made_at_first_use(self, engine: Engine) -> None:
        schema.ensure(engine)
        assert version(engine) == schema.HEAD
        assert {"car_listings", "car_images", "price_changes"} <= set(inspect(engine).get_table_names())

    def test_the_second_time_nothing_happens(self, engine: Engine) -> None:
        schema.ensure(engine)
        schema.ensure(engine)
        assert schema.upgrade(engine) == (schema.HEAD, schema.HEAD)

    def test_somebody_elses_other_tables_do_not_disturb(self, engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE customers (id integer)"))
        schema.ensure(engine)
        assert "customers" in inspect(engine).get_table_names()

    def test_many_at_once(self, database_url: str) -> None:
        def open_and_save(number: int) -> None:
            mine = open_engine(database_url, timeout=30)
            try:
                barrier.wait()
                schema.ensure(mine)
                with mine.begin() as connection:
                    car = CarItem(source="Bilasolur", external_id=str(number), url=f"https://x/{number}")
                    car_rows.save(connection, [car], PlaceholderRules())
            except Exception as error:
                errors.append(error)
            finally:
                mine.dispose()

        errors: list[Exception] = []
        barrier = threading.Barrier(4)
        threads = [threading.Thread(target=open_and_save, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        engine = open_engine(database_url, timeout=10)
        assert len(rows(engine)) == 4
        engine.dispose()

    def test_several_databases_at_once(self, tmp_path: Path) -> None:
        """As the sample of a backfill does it, with its own beside the user's."""
        engines = [open_engine(f"sqlite:///{tmp_path / str(number)}.db", timeout=30) for number in range(4)]
        with ThreadPoolExecutor(len(engines)) as threads:
            list(threads.map(schema.ensure, engines))
        assert [version(each) for each in engines] == [schema.HEAD] * len(engines)
        for each in engines:
            each.dispose()

    def test_tables_that_appear_between_two_looks_are_no_foreign_ones(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def another_crawl_is_faster(connection: Any) -> Any:
            found = look(connection)
            monkeypatch.setattr(schema, "inspect", look)
            if engine.dialect.name == "postgresql":  # SQLite's own lock keeps the other out meanwhile
                other = open_engine(str(engine.url.render_as_string(hide_password=False)), timeout=20)
                schema.upgrade(other)
                other.dispose()
            return found

        look = schema.inspect
        monkeypatch.setattr(schema, "inspect", another_crawl_is_faster)
        schema.ensure(engine)
        assert version(engine) == schema.HEAD


class TestRefusing:
    def test_the_earlier_scrapers_table(self, engine: Engine) -> None:
        make_legacy(engine)
        with pytest.raises(
            SchemaOutdatedError, match=r"backup, then run `scrapy database upgrade`; rows and ids are kept"
        ):
            schema.ensure(engine)
        assert version(engine) is None
        assert "external_id" not in rows(engine)[0]

    @pytest.mark.parametrize("table", ["car_images", "price_changes"])
    def test_a_part_of_ours(self, engine: Engine, table: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE TABLE {table} (id integer)"))
        with pytest.raises(SchemaOutdatedError, match="scrapy database upgrade"):
            schema.ensure(engine)

    def test_a_newer_programs(self, engine: Engine) -> None:
        schema.ensure(engine)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(SchemaOutdatedError, match=r"\(9999\) are newer .* update carscraper"):
            schema.ensure(engine)


class TestAdopting:
    def test_rows_ids_and_columns_survive(self, engine: Engine) -> None:
        make_legacy(engine)
        before = rows(engine)
        assert schema.upgrade(engine) == (None, schema.HEAD)
        after = rows(engine)
        assert len(before) == len(after) == len(LEGACY_ROWS)
        for old, new in zip(before, after, strict=True):
            assert {name: new[name] for name in old} == old
        schema.ensure(engine)

    def test_cars_of_roegg_sites_get_their_id_from_the_address(self, engine: Engine) -> None:
        make_legacy(engine)
        schema.upgrade(engine)
        ids = {row["id"]: row["external_id"] for row in rows(engine)}
        assert ids == {7: "296487", 8: None, 9: "5", 10: "5", 11: None, 12: None, 13: None, 40: None}, (
            "of two rows for one car the one that was seen last; other sites' addresses say something else"
        )

    def test_first_seen_is_what_is_known_of_it(self, engine: Engine) -> None:
        make_legacy(engine)
        schema.upgrade(engine)
        first = rows(engine)[0]["first_seen_at"]
        assert (
            first if isinstance(first, datetime) else datetime.fromisoformat(first)
        ).date().isoformat() == "2025-01-01"
        assert rows(engine)[3]["first_seen_at"] is None

    def test_upgrading_twice_is_once(self, engine: Engine) -> None:
        make_legacy(engine)
        schema.upgrade(engine)
        before = rows(engine)
        assert schema.upgrade(engine) == (schema.HEAD, schema.HEAD)
        assert rows(engine) == before

    def test_an_adopted_car_is_the_one_that_is_crawled(self, engine: Engine) -> None:
        make_legacy(engine)
        schema.upgrade(engine)
        url = "https://bilasolur.is/CarDetails.aspx?bid=76&cid=296487&sid=1"
        car = CarItem(source="Bilasolur", external_id="296487", url=url, price=2_990_000)
        new = CarItem(source="Bilasolur", external_id="77", url=f"{url}&x")
        with engine.begin() as connection:
            saved = car_rows.save(connection, [car, new], PlaceholderRules())
        assert [each.created for each in saved] == [False, True]
        after = {row["id"]: row for row in rows(engine)}
        assert len(after) == len(LEGACY_ROWS) + 1
        assert (after[7]["url"], after[7]["price"], after[7]["description"]) == (url, 2_990_000, "words")
        assert after[8]["price"] == 2

    def test_it_can_hold_photos(self, engine: Engine) -> None:
        make_legacy(engine)
        schema.upgrade(engine)
        with engine.begin() as connection:
            image = CarImage(identity="5/1", source_url="https://bilasolur.is/CarImage.aspx?c=5&p=1")
            item = CarItem(source="BR", external_id="5", url="https://br.is/CarDetails.aspx?cid=5", images=[image])
            car_rows.save(connection, [item], PlaceholderRules())
            assert connection.scalar(text("SELECT listing_id FROM car_images")) == 10


class TestModels:
    def test_models_and_migrations_are_the_same_schema(self, engine: Engine) -> None:
        schema.upgrade(engine)
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            )
            differences = compare_metadata(context, Base.metadata)
            if connection.dialect.name == "sqlite":
                # SQLAlchemy does not read what a column that was added later says about ON DELETE; see the next test.
                differences = [each for each in differences if each[0] not in {"add_fk", "remove_fk"}]
            assert differences == []

    def test_a_preferred_listing_that_somebody_deletes_leaves_the_others(self, engine: Engine) -> None:
        schema.ensure(engine)
        with engine.begin() as connection:
            for number in (1, 2):
                item = CarItem(source="B", external_id=str(number), url=f"u{number}")
                car_rows.save(connection, [item], PlaceholderRules())
            connection.execute(text("UPDATE car_listings SET same_as = 1 WHERE id = 2"))
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(text("UPDATE car_listings SET same_as = 99 WHERE id = 2"))
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM car_listings WHERE id = 1"))
            assert connection.execute(text("SELECT id, same_as FROM car_listings")).all() == [(2, None)]

    def test_every_field_has_its_column(self) -> None:
        columns = set(CarListing.__table__.columns.keys())
        of_this_run = {
            "images",
            "image_urls",
            "unchanged",
            "seen",
            "gone",
            "listing_id",
            "news",
            "imported",
            "shows_all",
        }
        assert {field.name for field in fields(CarItem)} - of_this_run <= columns
        columns = set(CarImageRow.__table__.columns.keys())
        assert {field.name for field in fields(CarImage)} - {
            "wanted_key",
            "may_link",
            "insist",
            "on_page",
            "seen_at",
        } <= columns

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO car_listings (source, external_id, url, is_active) VALUES ('B', '1', 'other', true)",
            "INSERT INTO car_listings (source, external_id, url, is_active) VALUES ('B', '2', 'u', true)",
            f"{IMAGE} VALUES (1, 0, '1/1', 'x', 'pending', 0, '2026-01-01')",
            f"{IMAGE} VALUES (99, 0, '1/1', 'x', 'pending', 0, '2026-01-01')",
        ],
    )
    def test_the_database_refuses_doubles_and_orphans(self, engine: Engine, statement: str) -> None:
        schema.ensure(engine)
        with engine.begin() as connection:
            image = CarImage(identity="1/1", source_url="x")
            car_rows.save(
                connection, [CarItem(source="B", external_id="1", url="u", images=[image])], PlaceholderRules()
            )
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(text(statement))


class TestEngine:
    @pytest.mark.parametrize(
        ("url", "driver"),
        [
            ("postgres://u:p@h/d", "postgresql+psycopg"),
            ("postgresql://u:p@h/d", "postgresql+psycopg"),
            ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg"),
            ("sqlite:///x.db", "sqlite"),
        ],
    )
    def test_drivers(self, url: str, driver: str) -> None:
        assert parse_url(url).drivername == driver

    @pytest.mark.parametrize(
        "url", ["", "hunter2", "postgresql://u:hunter2@h:port/d", "postgresql://u:hunter2@h:1,i:port/d", "://"]
    )
    def test_an_unreadable_address_is_one_sentence_without_the_secret(self, url: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            parse_url(url)
        assert "hunter2" not in str(caught.value)
        assert str(caught.value).startswith("DATABASE_URL can't be read")

    def test_sqlites_folder_is_made(self, tmp_path: Path) -> None:
        engine = open_engine(f"sqlite:///{tmp_path}/a/b/x.db", timeout=5)
        schema.ensure(engine)
        engine.dispose()
        assert (tmp_path / "a" / "b" / "x.db").exists()

    def test_a_folder_that_cannot_be_made_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("a file")
        with pytest.raises(ConfigurationError, match="whose folder can't be made"):
            open_engine(f"sqlite:///{tmp_path}/a/b/x.db", timeout=5)

    def test_sqlite_is_durable_and_strict(self, sqlite_url: str) -> None:
        engine = open_engine(sqlite_url, timeout=5)
        with engine.connect() as connection:
            found = [
                connection.execute(text(f"PRAGMA {name}")).scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
        engine.dispose()
        assert found == ["wal", 2, 1]


def test_the_needed_version_is_the_last_migrations() -> None:
    assert ScriptDirectory.from_config(schema.alembic_config()).get_current_head() == schema.HEAD
