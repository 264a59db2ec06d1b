"""Markets; the facts of their dealers are those of their spiders, which a crawl has loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scrapy.spiderloader import SpiderLoader

from carscraper.db import schema
from carscraper.db.engine import open_engine
from tests.fakes import make_settings
from tests.linking.market import Market

if TYPE_CHECKING:
    from collections.abc import Iterator

SpiderLoader.from_settings(make_settings())


@pytest.fixture
def market(database_url: str) -> Iterator[Market]:
    engine = open_engine(database_url, timeout=20)
    schema.ensure(engine)
    yield Market(engine)
    engine.dispose()


@pytest.fixture
def quick(sqlite_url: str) -> Iterator[Market]:
    """For rules that are Python's, not the database's."""
    engine = open_engine(sqlite_url, timeout=20)
    schema.ensure(engine)
    yield Market(engine)
    engine.dispose()
