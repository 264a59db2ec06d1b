"""Bringing the tables to this program's version: Alembic's migrations, run from inside the package."""

from __future__ import annotations

import contextlib
import importlib.resources
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import false, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError

from carscraper.db import models
from carscraper.db.engine import INSUFFICIENT_PRIVILEGE
from carscraper.exceptions import ConfigurationError, SchemaOutdatedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

    from alembic.config import Config
    from sqlalchemy import Connection, Engine

logger = logging.getLogger(__name__)

HEAD = "0008"
"""The version this program needs: the last migration's. A test holds the two together."""

_LOCK = 0x63617273  # "cars": any number, the same in every carscraper


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


def set_sequences(connection: Connection) -> int:
    """Set PostgreSQL's sequences that are behind their tables, as COPY or a restored dump may leave them.

    By ``nextval``, which the role that crawls may call, and which never takes one back.

    Returns:
        How many were behind.
    """
    if connection.dialect.name != "postgresql":
        return 0
    behind = 0
    for table in models.Base.metadata.sorted_tables:
        if "id" not in table.c:
            continue
        sequence = f"pg_get_serial_sequence('{table}', 'id')"
        gap = text(f"SELECT (SELECT max(id) FROM {table}) - coalesce(pg_sequence_last_value({sequence}), 0)")  # noqa: S608
        missing = connection.execute(gap).scalar() or 0
        if missing > 0:
            advance = text(f"SELECT max(nextval({sequence})) FROM generate_series(1, :missing)")  # noqa: S608
            last = connection.execute(advance, {"missing": missing}).scalar()
            logger.warning("The sequence of %s was behind its table; it is at %s now", table, last)
            behind += 1
    return behind


def try_writing(connection: Connection) -> None:
    """Write nothing into any table: what the database would refuse in the middle of a crawl, it refuses now."""
    for table in models.Base.metadata.sorted_tables:
        columns = [column for column in table.c if not column.primary_key]
        nothing = select(*columns).where(false())
        connection.execute(insert(table).from_select([column.name for column in columns], nothing))
        connection.execute(update(table).where(false()).values({column: column for column in columns}))


def _upgrade(engine: Engine) -> tuple[str | None, str]:
    from alembic import command  # noqa: PLC0415 - see above

    with engine.begin() as connection:
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
