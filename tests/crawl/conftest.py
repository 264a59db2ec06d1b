"""Fixtures for tests that crawl."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.crawl.archives import Archive
from tests.crawl.backfills import NO_STORE
from tests.crawl.world import World
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.runs.webhook import Webhook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests import services
    from tests.dealers.server import SimulatedSite


@pytest.fixture
def new_site() -> Iterator[Callable[..., Any]]:
    """Starts simulated sites that end with the test, in which none of them may have made a mistake itself."""
    sites = []
    with contextlib.ExitStack() as stack:

        def start(site: SimulatedSite | None = None, **options: Any) -> SimulatedSite:
            """Start *site*, or without it a `SimulatedBilasolur` with these options."""
            if site is None:
                site = SimulatedBilasolur(**{"cars": 10, "photos": 2, "photo_bytes_average": 20_000} | options)
            sites.append(stack.enter_context(site))
            return site

        yield start
    for site in sites:
        assert site.errors == []


@pytest.fixture
def new_world(tmp_path: Path, sqlite_url: str, new_site: Callable[..., Any]) -> Callable[..., World]:
    """The site ``site=`` of the spider ``spider=``, else a bilasolur with these options; SQLite; photos in a folder."""

    def make(
        *, database_url: str = sqlite_url, env: dict[str, str] | None = None, spider: str = "bilasolur", **options: Any
    ) -> World:
        site = new_site(**options)
        return World(site=site, folder=tmp_path, database_url=database_url, env=env or {}, spider=spider)

    return make


@pytest.fixture
def new_work(new_world: Callable[..., World], rclone_s3: services.S3) -> Callable[..., World]:
    """Cars with three photos each that a crawl without a store has noted; S3 is on since."""

    def make(**options: Any) -> World:
        world = new_world(**{"cars": 4, "photos": 3, "env": rclone_s3.env} | options)
        world.crawl(env=NO_STORE)
        world.site.reset()
        return world

    return make


@pytest.fixture
def archive() -> Iterator[Archive]:
    with Archive() as running:
        yield running
    assert running.errors == []


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as running:
        yield running
