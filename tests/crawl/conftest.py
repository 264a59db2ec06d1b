"""Fixtures for tests that crawl."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.crawl.world import World
from tests.dealers.bilasolur import SimulatedBilasolur

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def new_site() -> Iterator[Callable[..., SimulatedBilasolur]]:
    """Starts simulated sites that end with the test, in which none of them may have made a mistake itself."""
    sites = []
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> SimulatedBilasolur:
            site = SimulatedBilasolur(**{"cars": 10, "photos": 2, "photo_bytes_average": 20_000} | options)
            sites.append(stack.enter_context(site))
            return site

        yield start
    for site in sites:
        assert site.errors == []


@pytest.fixture
def new_world(tmp_path: Path, sqlite_url: str, new_site: Callable[..., SimulatedBilasolur]) -> Callable[..., World]:
    """A site with these options, SQLite, and photos in a folder."""

    def make(*, database_url: str = sqlite_url, env: dict[str, str] | None = None, **options: Any) -> World:
        return World(site=new_site(**options), folder=tmp_path, database_url=database_url, env=env or {})

    return make
