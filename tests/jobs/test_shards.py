"""The parts of a backfill: disjoint, together everything, and the same ones tomorrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy

from carscraper.backfill.options import Options, Shard
from carscraper.db import schema, work
from carscraper.db.engine import open_engine
from carscraper.db.models import CarListing
from carscraper.exceptions import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Engine

PARTS = 5


def listed(engine: Engine, shard: Shard | None) -> list[int]:
    with engine.begin() as connection:
        return [row.row_id for row in work.listed(connection, None, include_inactive=True, shard=shard)]


def add(engine: Engine, *numbers: int) -> None:
    rows = [{"source": "Bilasolur", "external_id": str(n), "url": f"https://bilasolur.is/{n}"} for n in numbers]
    with engine.begin() as connection:
        connection.execute(sqlalchemy.insert(CarListing.__table__), rows)


def test_every_car_is_in_one_part_and_stays_there(database_url: str) -> None:
    engine = open_engine(database_url, timeout=20)
    schema.ensure(engine)
    add(engine, *range(103))
    parts = [listed(engine, Shard(number, PARTS)) for number in range(PARTS)]
    assert sorted(row for part in parts for row in part) == sorted(listed(engine, None)) == list(range(1, 104))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    add(engine, *range(200, 220))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE car_listings SET external_id = 'x' || external_id WHERE id % 2 = 0"))
        connection.execute(sqlalchemy.text("DELETE FROM car_listings WHERE id < 10"))
    for number, part in enumerate(parts):
        later = set(listed(engine, Shard(number, PARTS)))
        assert {row for row in part if row >= 10} <= later
    engine.dispose()


def test_every_folder_of_a_manifest_is_in_one_part() -> None:
    folders = [f"3483/{number}" for number in range(500)]
    parts = [[folder for folder in folders if Shard(number, PARTS).has(folder)] for number in range(PARTS)]
    assert sorted(folder for part in parts for folder in part) == sorted(folders)
    assert min(map(len, parts)) > 60


def test_what_is_written() -> None:
    assert Options.read({"shard": "3/16"}, {}).shard == Shard(2, 16)
    assert Options.read({"shard": "1/1"}, {}).shard == Shard(0, 1)
    assert Options.read({}, {}).shard is None
    for wrong in ("0/16", "17/16", "3", "3/", "a/b", "-1/2", "3/16\n", "1/0"):
        with pytest.raises(ConfigurationError, match="write which of how many, such as 3/16"):
            Options.read({"shard": wrong}, {})
