"""Bringing the tables to this program's version: Alembic's migrations, run from inside the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from carscraper.exceptions import SchemaOutdatedError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_LOCK = 0x63617273  # "cars": any number, the same in every carscraper


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "carscraper.db:migrations")
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """Give the version this program needs."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def current(connection: Connection) -> str | None:
    """Give the version the database has, ``None`` if it was never migrated."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Create or upgrade the tables in one transaction; rows and ids survive.

    Two that do it at once wait for each other.

    Returns:
        The version before (``None``: none) and after.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        before = current(connection)
        command.upgrade(_config(connection), "head")
        return before, head()


def ensure(engine: Engine) -> None:
    """Create the tables in an empty database; refuse any other schema than this program's.

    Raises:
        SchemaOutdatedError: the tables are older or newer; the sentence names the command that helps.
    """
    with engine.connect() as connection:
        # In this order: another crawl may create the tables between the two looks.
        tables = set(inspect(connection).get_table_names())
        found = current(connection)
    needed = head()
    if found == needed:
        return
    if found is None and not tables & {"car_listings", "car_images", "price_changes"}:
        upgrade(engine)
        return
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found is not None and found not in known:
        raise SchemaOutdatedError(
            f"The database's tables ({found}) are newer than this program ({needed}): update carscraper."
        )
    raise SchemaOutdatedError(
        f"The database's tables are older ({found or 'from another program'}) than this program ({needed}): "
        "make a backup, then run `scrapy database upgrade`; rows and ids are kept."
    )
