"""Bringing the tables to this program's version: Alembic's migrations, run from inside the package."""

from __future__ import annotations

import contextlib
import importlib.resources
import logging
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import false, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError

from carscraper.db import models
from carscraper.db.engine import INSUFFICIENT_PRIVILEGE
from carscraper.exceptions import ConfigurationError, SchemaOutdatedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.resources.abc import Traversable

    from alembic.config import Config
    from sqlalchemy import Connection, Engine, Row

logger = logging.getLogger(__name__)

HEAD = "0008"
"""The version this program needs: the last migration's. A test holds the two together."""

_LOCK = 0x63617273  # "cars": any number, the same in every carscraper
_ALEMBIC = threading.Lock()  # it keeps the migration under way in globals: a process makes one database at a time


def alembic_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration for this package's migrations, to be run on *connection*."""
    # Alembic takes 0.2 s to import: only for the few times that tables are made.
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "carscraper.db:migrations")
    config.attributes["connection"] = connection
    return config


def current(connection: Connection) -> str | None:
    """Return the version the database has, ``None`` if it was never migrated."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Create or upgrade the tables in one transaction; rows and ids survive.

    Two that do it at once wait for each other.

    Returns:
        The version before (``None``: none) and after.

    Raises:
        ConfigurationError: this role of PostgreSQL may not do that.
    """
    try:
        versions = _upgrade(engine)
        with engine.begin() as connection:
            _give_sequences(connection)
            set_sequences(connection)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise
        reason = str(error.orig).strip().partition("\n")[0]
        raise ConfigurationError(
            f"The role of DATABASE_URL may not create or change the tables ({reason}): "
            "run `scrapy database upgrade` as the role that owns them."
        ) from None
    return versions


_SEQUENCES = text(
    "SELECT relname AS table, quote_ident(nspname) || '.' || quote_ident(relname || '_id_seq') AS usual, "
    "attidentity <> '' OR pg_attrdef.oid IS NOT NULL AS given, pg_get_expr(adbin, adrelid) AS value, "
    "CASE WHEN attidentity <> '' "
    "THEN pg_get_serial_sequence(quote_ident(nspname) || '.' || quote_ident(relname), 'id') "
    "ELSE (SELECT min(refobjid::regclass::text) FROM pg_depend JOIN pg_class AS it ON it.oid = refobjid "
    "WHERE classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid AND relkind = 'S') END AS sequence "
    "FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace JOIN pg_attribute ON attrelid = pg_class.oid "
    "LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
    "WHERE attname = 'id' AND pg_class.oid = ANY (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) name) "
    "ORDER BY 1"
)


def _sequences(connection: Connection) -> Sequence[Row[Any]]:
    """List what gives each table's ``id`` its values in PostgreSQL, whoever owns it."""
    tables = [table.name for table in models.Base.metadata.sorted_tables if "id" in table.c]
    return connection.execute(_SEQUENCES, {"tables": tables}).all()


def set_sequences(connection: Connection) -> int:
    """Set PostgreSQL's sequences that are behind their tables, as COPY or a restored dump may leave them.

    By ``nextval``, which the role that crawls may call, and which never takes one back.

    Returns:
        How many were behind.
    """
    if connection.dialect.name != "postgresql":
        return 0
    behind = 0
    for each in _sequences(connection):
        if each.sequence is None:
            continue
        gap = f"SELECT (SELECT max(id) FROM {each.table}) - coalesce(pg_sequence_last_value(:sequence), 0)"  # noqa: S608
        missing = connection.execute(text(gap), {"sequence": each.sequence}).scalar() or 0
        if missing > 0:
            advance = text("SELECT max(nextval(:sequence)) FROM generate_series(1, :missing)")
            last = connection.execute(advance, {"sequence": each.sequence, "missing": missing}).scalar()
            logger.warning("The sequence of %s was behind its table; it is at %s now", each.table, last)
            behind += 1
    return behind


def _give_sequences(connection: Connection) -> None:
    """Give each ``id`` that has lost its default, as tools that copy tables do it, a sequence."""
    if connection.dialect.name != "postgresql":
        return
    for each in _sequences(connection):
        if not each.given:
            connection.exec_driver_sql(f"CREATE SEQUENCE IF NOT EXISTS {each.usual}")
            connection.exec_driver_sql(f"ALTER SEQUENCE {each.usual} OWNED BY {each.table}.id")
            connection.exec_driver_sql(f"ALTER TABLE {each.table} ALTER id SET DEFAULT nextval('{each.usual}')")
            logger.warning("The column id of %s had lost its default; it is the sequence %s now", *each[:2])
        elif each.sequence is None:
            logger.warning(
                "The column id of %s has the default %s, which is no sequence that can be set: see to it that it gives "
                "numbers that no row has",
                *(each.table, each.value),
            )


def try_writing(connection: Connection) -> None:
    """Write nothing into any table: what the database would refuse in the middle of a crawl, it refuses now."""
    for table in models.Base.metadata.sorted_tables:
        columns = [column for column in table.c if not column.primary_key]
        nothing = select(*columns).where(false())
        connection.execute(insert(table).from_select([column.name for column in columns], nothing))
        connection.execute(update(table).where(false()).values({column: column for column in columns}))


def _upgrade(engine: Engine) -> tuple[str | None, str]:
    from alembic import command  # noqa: PLC0415 - see above

    with _ALEMBIC, engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        before = current(connection)
        config = alembic_config(connection)
        with _migrations() as folder:
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
            command.upgrade(config, "head")
        return before, HEAD


@contextlib.contextmanager
def _migrations() -> Iterator[Path]:
    """Yield the folder with the migrations: a copy if this package is imported from a zip, as scrapyd's eggs are.

    Alembic reads them as files, and asks ``importlib.resources.as_file`` for them, which takes folders only since
    Python 3.12.
    """
    found = importlib.resources.files("carscraper.db").joinpath("migrations")
    if isinstance(found, Path):
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="carscraper-migrations-") as folder:
        _copy_modules(found, Path(folder))
        yield Path(folder)


def _copy_modules(source: Traversable, target: Path) -> None:
    for each in source.iterdir():
        if each.is_dir():
            (target / each.name).mkdir()
            _copy_modules(each, target / each.name)
        elif each.name.endswith(".py"):
            (target / each.name).write_bytes(each.read_bytes())


def ensure(engine: Engine, *, create: bool = True) -> None:
    """Create the tables in an empty database (if *create*); refuse any other schema than this program's.

    Raises:
        SchemaOutdatedError: the tables are older or newer; the sentence names the command that helps.
    """
    with engine.connect() as connection:
        # In this order: another crawl may create the tables between the two looks.
        tables = set(inspect(connection).get_table_names())
        found = current(connection)
    if found == HEAD:
        if missing := set(models.Base.metadata.tables) - tables:
            raise SchemaOutdatedError(
                f"The database lacks the table {', '.join(sorted(missing))}, though its version is this program's: "
                "restore the database from a backup."
            )
        return
    if found is None and not tables & {"car_listings", "car_images", "price_changes"}:
        if not create:
            raise SchemaOutdatedError("The database has no tables yet: run a crawl first.")
        upgrade(engine)
        return
    if found is not None and found > HEAD:
        raise SchemaOutdatedError(
            f"The database's tables ({found}) are newer than this program ({HEAD}): update carscraper."
        )
    raise SchemaOutdatedError(
        f"The database's tables are older ({found or 'from another program'}) than this program ({HEAD}): "
        "make a backup, then run `scrapy database upgrade`; rows and ids are kept."
    )
