"""The table of the earlier scraper, and what is put there."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests import services
    from tests.crawl.world import World

COLUMNS = """
    source text, title text, make text, model text, year integer, price bigint, kilometers bigint, url text UNIQUE,
    description text, scraped_at timestamp, is_active boolean NOT NULL DEFAULT true, last_seen_at timestamp,
    image_url text, display_make text, display_name text
"""
"""As in the earlier scraper, the id aside."""

OLD = datetime(2025, 11, 3, 4, 5, 6)  # noqa: DTZ001 - times in the tables are UTC without a zone


class Legacy:
    """The table of the earlier scraper in the world's database."""

    def __init__(self, world: World) -> None:
        self.world = world
        is_postgres = world.database_url.startswith("postgresql")
        key = "id serial PRIMARY KEY" if is_postgres else "id integer PRIMARY KEY AUTOINCREMENT"
        world.sql(f"CREATE TABLE car_listings ({key}, {COLUMNS})")
        self.table = sqlalchemy.Table("car_listings", sqlalchemy.MetaData(), autoload_with=self._engine())

    def _engine(self) -> sqlalchemy.Engine:
        return sqlalchemy.create_engine(self.world.database_url, poolclass=sqlalchemy.NullPool)

    def add(self, **values: Any) -> int:
        row = {"source": "Bilasolur", "scraped_at": OLD, "last_seen_at": OLD, "is_active": True} | values
        (added,) = self.world.sql(sqlalchemy.insert(self.table).values(row).returning(self.table.c.id))
        found: int = added["id"]
        return found

    def add_all(self, rows: Iterable[dict[str, Any]]) -> None:
        columns = self.table.c.keys()
        filled = [{name: row.get(name) for name in columns if name != "id"} for row in rows]
        with self._engine().begin() as connection:
            connection.execute(sqlalchemy.insert(self.table), filled)

    def rows(self) -> dict[int, dict[str, Any]]:
        """Every row by id, with the earlier scraper's columns only."""
        return {row["id"]: dict(row) for row in self.world.sql(sqlalchemy.select(self.table))}


def old_url(world: World, cid: int, number: int = 1) -> str:
    """An address as the earlier scraper kept it: with the search and the page in which it was found."""
    return f"{world.site.base_url}/CarDetails.aspx?bid=76&cid={cid}&sid=400001&schid={7000 + number}&schpage={number}"


def upgrade(world: World, *options: str) -> services.CompletedCrawl:
    done = world.command("database", "upgrade", *options)
    assert done.returncode == 0, done
    return done
