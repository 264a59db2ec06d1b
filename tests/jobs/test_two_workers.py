"""Two workers on one backfill: no photo twice, and what a killed one leaves the other finishes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tests import services
from tests.crawl.legacy import Legacy, old_url, upgrade
from tests.crawl.world import World
from tests.jobs.conftest import alive, ended, parents

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.jobs.conftest import Fleet

CARS, PHOTOS, SHARDS = 24, 4, 3
AT_ONCE = 2
"""Photos that a crawl fetches at the same time."""
IN_FLIGHT = 4
"""Photos between the start of their download and their row."""


def fill(fleet: Fleet) -> None:
    """The earlier scraper's rows of all cars of the dealer."""
    world = World(site=fleet.site, folder=fleet.folder, database_url=fleet.database_url)  # type: ignore[arg-type]
    site: Any = fleet.site
    Legacy(world).add_all(
        {"source": "Bilasolur", "url": old_url(world, car.cid), "make": car.make, "model": car.model, "is_active": True}
        for car in site.cars
    )
    upgrade(world)


def stored(fleet: Fleet) -> set[str]:
    return {row.identity for row in fleet.rows("SELECT identity FROM car_images WHERE status = 'stored'")}


def test_kill_9_of_one_of_two_workers(new_fleet: Callable[..., Fleet]) -> None:
    settings = {"IMAGES_CONCURRENCY": AT_ONCE, "IMAGES_MAX_IN_FLIGHT": IN_FLIGHT, "IMAGES_DOWNLOAD_DELAY": 0.02}
    fleet = new_fleet(settings, cars=CARS, photos=PHOTOS)
    fill(fleet)
    said = fleet.enqueue("backfill", "--shards", SHARDS, "-a", "limit=0").out
    assert len(said.splitlines()) == SHARDS
    assert "shard=3/3" in said
    workers = [fleet.worker(), fleet.worker()]
    fleet.site.photo_latency = 0.15
    seen = fleet.wait(lambda found: len([each for each in found["running"] if each["pid"]]) == 2)
    assert len({each["worker"] for each in seen["running"]}) == 2, "each has one"
    services.wait_until(lambda: len(stored(fleet)) >= 8, 60)

    victim = next(each for each in seen["workers"] if each["pid"] == workers[0].pid)
    taken = next(each for each in seen["running"] if each["worker"] == victim["worker"])
    assert parents(taken["pid"]) == workers[0].pid
    safe, asked = stored(fleet), Counter(fleet.site.served.photos)
    workers[0].kill()
    workers[0].wait(10)
    services.wait_until(lambda: not alive(taken["pid"]), 5, "the killed worker's crawl to die with it")

    fleet.wait(lambda found: found["counts"] == {"succeeded": SHARDS})
    workers[1].terminate()
    log = ended(workers[1].wait(20)).stderr
    assert f"job {taken['job']}: backfill" in log
    assert "its worker is gone; it waits again" in log
    assert len(stored(fleet)) == CARS * PHOTOS
    again = {photo: number for photo, number in fleet.site.served.photos.items() if number > 1}
    assert not set(again) & safe, "photos that were safe were asked for again"
    assert len(again) <= IN_FLIGHT, "more than was in flight at the kill was asked for again"
    assert all(number == 2 and asked[photo] for photo, number in again.items())
    assert fleet.rows("SELECT outcome, count(*) FROM queue_tries GROUP BY outcome ORDER BY outcome") == [
        ("lost", 1),
        ("success", SHARDS),
    ]
    assert fleet.crawls() == []
    assert fleet.queue()["workers"] == []
