"""The world of a crawl on which faults are let loose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import services
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.faults.helpers import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def site() -> Iterator[SimulatedBilasolur]:
    """20 cars with 6 photos each on two pages."""
    with SimulatedBilasolur(cars=20, photos=6, per_page=10, photo_bytes_average=12_000) as running:
        yield running


@pytest.fixture
def make_world(site: SimulatedBilasolur, rclone: services.RcloneS3, tmp_path: Path) -> Iterator[Callable[[str], World]]:
    with services.S3Proxy(rclone.endpoint) as proxy:
        yield lambda url: World(site=site, database_url=url, s3=rclone.bucket(), proxy=proxy, folder=tmp_path)


@pytest.fixture
def world(make_world: Callable[[str], World], sqlite_url: str) -> World:
    """With SQLite: where the fault has nothing to do with the database."""
    return make_world(sqlite_url)


@pytest.fixture
def either_world(make_world: Callable[[str], World], database_url: str) -> World:
    """With SQLite and with PostgreSQL."""
    return make_world(database_url)


@pytest.fixture
def postgres_world(make_world: Callable[[str], World], postgres_url: str) -> World:
    """With PostgreSQL."""
    return make_world(postgres_url)
