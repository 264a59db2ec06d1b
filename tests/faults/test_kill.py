"""``kill -9`` at any moment: the next crawl ends complete, fetches little again and stores nothing twice."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests import services
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.faults.helpers import IN_FLIGHT, World, assert_nothing_lost, photo_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def kill_when(world: World, moment: Callable[[services.RunningCrawl], None]) -> None:
    """Crawl, kill at the moment, look what is there, crawl once more."""
    with world.start() as running:
        moment(running)
        running.kill()
        assert running.wait(10).returncode == -9
    have = world.stored()
    assert len(have) < photo_count(world.site), "killed too late to show anything"
    assert_nothing_lost(world)
    world.finish(have=have)
    assert world.photos_served() - photo_count(world.site) <= IN_FLIGHT, "more than was in flight was fetched again"
    stored = [request.path for request in world.proxy.requests if request.method == "PUT" and request.status == 200]
    assert len(set(stored)) == photo_count(world.site)
    again = Counter(stored).total() - len(set(stored))
    assert again <= photo_count(world.site) - len(have), "what was safe was stored again"


@pytest.mark.parametrize("photos", [1, 70])
def test_killed_after_so_many_photos_were_asked_for(either_world: World, photos: int) -> None:
    either_world.site.photo_latency = 0.02
    kill_when(either_world, lambda running: either_world.wait_for_photos(photos, running))


def test_killed_while_photos_are_being_stored(world: World) -> None:
    world.proxy.delay(1, methods="PUT", skip=30)

    def uploads_hang(running: services.RunningCrawl) -> None:
        services.wait_until(lambda: any(r.fault and not r.answered for r in list(world.proxy.requests)), 30)

    kill_when(world, uploads_hang)


def test_killed_when_the_database_file_grows(world: World, tmp_path: Path) -> None:
    def written(running: services.RunningCrawl) -> None:
        wal = tmp_path / "carscraper.db-wal"
        world.wait_for_puts(12, running)
        size = wal.stat().st_size
        deadline = time.monotonic() + 10
        while wal.stat().st_size == size and time.monotonic() < deadline:
            pass

    world.site.photo_latency = 0.02
    kill_when(world, written)


def test_killed_when_the_server_commits(postgres_world: World) -> None:
    def written(running: services.RunningCrawl) -> None:
        services.wait_until(
            lambda: postgres_world.puts(200) and postgres_world.rows("SELECT 1 FROM car_images LIMIT 1"), 30
        )

    postgres_world.site.photo_latency = 0.05
    kill_when(postgres_world, written)


def test_killed_again_and_again_at_random_moments(either_world: World) -> None:
    """Each crawl takes up what the last one left."""
    world = either_world
    world.site.photo_latency = 0.05
    dice = random.Random(20261120)
    for _ in range(3):
        served = world.photos_served()
        with world.start() as running:
            services.wait_until(lambda: world.photos_served() > served or not running.running, 30)  # noqa: B023
            time.sleep(dice.uniform(0, 0.5))
            running.kill()
            assert running.wait(10).returncode in {-9, 0}
        assert_nothing_lost(world)
    world.finish(have=world.stored())


class TestBound:
    """What a kill costs does not grow with the crawl."""

    @pytest.fixture
    def site(self) -> Iterator[SimulatedBilasolur]:
        with SimulatedBilasolur(cars=40, photos=6, per_page=40, photo_bytes_average=12_000) as running:
            yield running

    def test_only_what_was_in_flight_is_fetched_again(self, world: World) -> None:
        with world.start(IMAGES_DOWNLOAD_DELAY=0.01) as running:
            world.wait_for_photos(180, running)
            running.kill()
            running.wait(10)
        have = world.stored()
        assert 180 - len(have) <= IN_FLIGHT, "of 180 photos that were asked for"
        done = world.finish(have=have)
        assert world.photos_served() - photo_count(world.site) <= IN_FLIGHT, done
