"""A backfill that is killed, stopped, or loses its database or its store for a while ends complete all the same."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests import services
from tests.crawl import world as crawls
from tests.crawl.legacy import Legacy, old_url, upgrade
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.faults.helpers import Ended, World, assert_nothing_lost, digest, photo_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.services import PostgresCluster

IN_FLIGHT = 8
"""``IMAGES_MAX_IN_FLIGHT``."""
KILLS = 5


class Backfilled(World):
    """A database of the earlier scraper at a dealer whose old photo addresses have all expired."""

    def start(self, *, env: Mapping[str, str] | None = None, **settings: Any) -> services.RunningCrawl:
        return services.start_crawl("backfill", **self._backfill(settings, env or {}))

    def crawl(
        self, *, timeout: float = 60, env: Mapping[str, str] | None = None, alone: bool = False, **settings: Any
    ) -> Ended:
        options = self._backfill(settings, env or {})
        return ended(services.crawl("backfill", timeout=timeout, alone=alone, **options))

    def _backfill(self, settings: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
        options = self._options({"IMAGES_MAX_IN_FLIGHT": IN_FLIGHT} | dict(settings), env)
        options["spider_arguments"]["limit"] = 0
        return options

    def assert_no_false_rows(self) -> None:
        """What must hold at any moment: no photo has two rows, and what is stored, says its row, is in the bucket."""
        assert self.s3.folder
        rows = self.rows("SELECT listing_id, identity, status, key, sha256 FROM car_images")
        assert len({(row.listing_id, row.identity) for row in rows}) == len(rows)
        for row in rows:
            if row.status == "stored":
                assert digest((self.s3.folder / row.key).read_bytes()) == row.sha256
            else:
                assert row.status == "pending"

    def assert_each_kept_once(self) -> None:
        """Every photo of every car is stored: one row and one object each."""
        photos = photo_count(self.site)
        assert_nothing_lost(self, complete=True)
        assert self.statuses() == {("stored", None): photos}
        assert len(self.s3.keys()) == photos


def ended(crawl: services.CompletedCrawl) -> Ended:
    lines = [line.partition("backfill: ")[2] for line in crawl.lines("[carscraper.extensions.verdict]")]
    return Ended(crawl, crawl.returncode, " | ".join(lines))


@pytest.fixture
def site() -> Iterator[SimulatedBilasolur]:
    with SimulatedBilasolur(cars=60, photos=4, photo_bytes_average=12_000) as running:
        yield running


@pytest.fixture
def make_world(
    site: SimulatedBilasolur, rclone: services.RcloneS3, tmp_path: Path
) -> Iterator[Callable[[str], Backfilled]]:
    with services.S3Proxy(rclone.endpoint) as proxy:

        def make(url: str) -> Backfilled:
            site.photo_latency = 0.12
            legacy(crawls.World(site=site, folder=tmp_path, database_url=url))
            return Backfilled(site=site, database_url=url, s3=rclone.bucket(), proxy=proxy, folder=tmp_path)

        yield make


def legacy(world: crawls.World) -> None:
    """A row of the earlier scraper for every car, without a photo that could still be had from it."""
    Legacy(world).add_all(
        {
            "source": "Bilasolur",
            "url": old_url(world, car.cid),
            "make": car.make,
            "model": car.model,
            "image_url": f"{world.site.base_url}/CarImage.aspx?s=16&c={car.cid}&p={car.photos[0].p}&w=784",
            "is_active": True,
        }
        for car in world.site.cars
    )
    upgrade(world)
    world.site.expire_all()


def test_killed_again_and_again_at_random_moments(either_world: Backfilled) -> None:
    """While it starts or among the photos; the same command goes on each time."""
    world = either_world
    dice = random.Random(20261126)
    for _ in range(KILLS):
        served = world.photos_served()
        # 1.1 s among photos in all: at 8 in 0.12 s not enough for 240, however fast the machine is.
        among_photos = dice.random() < 0.8
        with world.start() as running:
            if among_photos:
                services.wait_until(lambda: world.photos_served() > served, 30, "a photo")  # noqa: B023
            time.sleep(dice.uniform(0, 0.9 if among_photos else 1.5))
            running.kill()
            assert running.wait(10).returncode == -9, "it was done before it could be killed"
        world.assert_no_false_rows()
    have = world.stored()
    assert 0 < len(have) < photo_count(world.site)
    world.finish(have=have)
    world.assert_each_kept_once()
    assert world.photos_served() <= photo_count(world.site) + KILLS * IN_FLIGHT
    stored = Counter(r.path for r in world.proxy.requests if r.method == "PUT" and r.status == 200)
    assert stored.total() - len(stored) <= KILLS * IN_FLIGHT, "what was safe was stored again"


def test_a_signal_finishes_what_is_in_flight_and_the_same_command_goes_on(world: Backfilled) -> None:
    with world.start() as running:
        world.wait_for_photos(40, running)
        running.terminate()
        done = ended(running.wait(20))
    assert done.code == 3, done
    assert "stopped on request; the same command goes on where this one ended" in done.said
    done.no_errors()
    have = world.stored()
    assert len(have) == world.photos_served() < photo_count(world.site), "what was in flight was finished"
    world.assert_no_false_rows()
    world.finish(have=have)
    world.assert_each_kept_once()
    assert world.photos_served() == photo_count(world.site), "no photo was asked for twice"


def test_a_signal_while_photos_of_the_folder_are_uploaded(world: Backfilled) -> None:
    world.site.photo_latency = 0
    done = world.crawl(env={"USE_S3_STORAGE": "false"})
    assert done.code == 0, done
    world.site.reset()
    with world.start() as running, world.proxy.delay(0.1, methods="PUT"):
        world.wait_for_puts(40, running)
        running.terminate()
        done = ended(running.wait(20))
    assert done.code == 3, done
    assert "the same command goes on where this one ended" in done.said
    done.no_errors()
    moved = len(world.s3.keys())
    assert 40 <= moved < photo_count(world.site)
    assert world.rows("SELECT count(*) FROM car_images WHERE store LIKE 's3:%'") == [(moved,)]
    world.finish(have=world.stored())
    world.assert_each_kept_once()
    assert world.photos_served() == 0, "nothing was asked of the dealer"


def assert_nobody_noticed(world: Backfilled, done: services.CompletedCrawl) -> None:
    assert done.returncode == 0, done
    ended(done).no_errors()
    world.assert_each_kept_once()
    assert not world.spooled_cars()
    assert not world.spooled_uploads()
    assert world.photos_served() == photo_count(world.site), "no photo was asked for twice"


def test_the_database_is_away_for_some_seconds(postgres: PostgresCluster, postgres_world: Backfilled) -> None:
    world = postgres_world
    with world.start() as running:
        world.wait_for_puts(60, running)
        postgres.stop(sudden=True)
        running.wait_for_log("Database away")
        time.sleep(2)
        postgres.start()
        done = running.wait()
    assert_nobody_noticed(world, done)


def test_the_store_is_away_for_some_seconds(world: Backfilled) -> None:
    with world.start(S3_MAX_RETRIES=1) as running:
        world.wait_for_puts(60, running)
        world.proxy.down()
        running.wait_for_log("Store away")
        time.sleep(2)
        world.proxy.up()
        done = running.wait()
    assert done.lines("Store back")
    assert_nobody_noticed(world, done)
