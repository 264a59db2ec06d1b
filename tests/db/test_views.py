"""The tables of views come to a database of version 0001 without touching a row."""

from __future__ import annotations

from alembic import command
from sqlalchemy import inspect, text

from carscraper.db import schema, tiers
from carscraper.db.engine import open_engine


def test_an_upgrade_from_version_0001_keeps_rows_and_adds_the_tables(database_url: str) -> None:
    engine = open_engine(database_url, timeout=20)
    with engine.begin() as connection:
        command.upgrade(schema.alembic_config(connection), "0001")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO car_listings (source, external_id, url) VALUES ('B', '1', 'u')"))
    assert not inspect(engine).has_table("image_views")
    assert schema.upgrade(engine) == ("0001", schema.HEAD)
    tiers.record_view(engine, "a.jpg", hit=False)
    tiers.record_view(engine, "a.jpg", hit=True)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT id, external_id FROM car_listings")).all() == [(1, "1")]
        assert tiers.all_views(connection) == tiers.Views(views=2, hits=1, misses=1, keys=1)
    engine.dispose()
