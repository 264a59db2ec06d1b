"""One database of each kind; the facts of the dealers are those of their spiders, which a crawl has loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scrapy.spiderloader import SpiderLoader
from sqlalchemy import delete

from carscraper.db import schema
from carscraper.db.engine import open_engine
from tests.db.ledger import Ledger, listings
from tests.fakes import make_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

SpiderLoader.from_settings(make_settings())


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def one_ledger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One database of each kind for the whole module: the migrations take longer than most tests."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('queries') / 'carscraper.db'}"
    else:
        url = request.getfixturevalue("postgres").create_database()
    engine = open_engine(url, timeout=20)
    schema.ensure(engine)
    yield Ledger(engine)
    engine.dispose()


@pytest.fixture
def ledger(one_ledger: Ledger) -> Ledger:
    """An empty one."""
    with one_ledger.engine.begin() as connection:
        connection.execute(delete(listings))  # the others follow
    return one_ledger


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Of a database of the test's own."""
    engine = open_engine(database_url, timeout=20)
    schema.ensure(engine)
    yield engine
    engine.dispose()
