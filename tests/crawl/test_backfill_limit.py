"""What ``limit`` counts: photos that are done. What can't be done now stands in nobody's way."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tests.crawl.backfills import NO_STORE, statuses, stored
from tests.crawl.legacy import OLD, Legacy, upgrade
from tests.crawl.test_backfill import backfill, row_of
from tests.crawl.world import World, last_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests import services

OBJECTS = 8


def table(world: World, s3: services.S3) -> None:
    """Rows of photos that are in the bucket and that the ledger does not know, and older ones of cars on the site."""
    kept, others = world.site.cars[:OBJECTS], world.site.cars[OBJECTS:]
    legacy = Legacy(world)
    for number, car in enumerate(kept):
        s3.put(f"old/{car.cid}.jpg", world.served(car))
        legacy.add(**row_of(car, number, image_url=f"{s3.endpoint}/{s3.bucket}/old/{car.cid}.jpg"))
    for number, car in enumerate(others, OBJECTS):
        legacy.add(**row_of(car, number, scraped_at=OLD - timedelta(days=9)))
    upgrade(world)


def test_objects_that_can_not_be_read_stand_in_nobodys_way(
    new_world: Callable[..., World], s3: services.S3, s3_proxy: services.S3Proxy
) -> None:
    env = s3.via(s3_proxy).env | {"IMAGES_PUBLIC_URL": f"{s3.endpoint}/{s3.bucket}"}
    world = new_world(cars=OBJECTS + 3, photos=2, env=env)
    table(world, s3)
    others = {identity for car in world.site.cars[OBJECTS:] for identity in car.identities}
    with s3_proxy.fail(403, "AccessDenied", methods="GET", path="/old/"):
        backfill(world, limit=4, code=3)
        assert len(stored(world) & others) == 4
        refused = sum(request.status == 403 for request in s3_proxy.requests)
        assert refused >= 1
        backfill(world, limit=4, code=3)
        assert stored(world) == others
    done = backfill(world, limit=4)
    assert "4 photos found in the store and entered" in last_words(done)
    assert "4 cars left for the next run" in last_words(done)
    backfill(world, limit=4)
    assert len(stored(world)) == len(others) + OBJECTS


def test_while_the_store_is_away_the_limit_is_for_what_can_be_had(
    new_world: Callable[..., World], rclone: services.RcloneS3, rclone_s3: services.S3
) -> None:
    world = new_world(cars=OBJECTS + 3, photos=2, env=rclone_s3.env)
    table(world, rclone_s3)
    rclone.stop()
    backfill(world, limit=4, code=3)
    assert statuses(world) == {("pending", "spooled"): 4}
    rclone.start()
    backfill(world, limit=0)
    assert statuses(world) == {("stored", None): OBJECTS + 6}


def test_photos_that_fail_do_not_count_and_come_last_the_next_time(
    new_world: Callable[..., World], s3: services.S3
) -> None:
    world = new_world(cars=6, photos=2, env=s3.env)
    world.crawl(env=NO_STORE)
    failing = world.site.cars[-2:]
    for car in failing:
        world.site.photo_fault(car.cid, None, ["404"], sticky=True)
    world.sql("UPDATE car_listings SET scraped_at = :old WHERE id < 5", old=OLD)
    backfill(world, limit=4, code=3)
    assert len(stored(world)) == 4
    world.site.reset()
    backfill(world, limit=4, code=0)
    assert len(stored(world)) == 8
    assert {int(identity.partition("/")[0]) for identity in world.site.served.photos}.isdisjoint(
        car.cid for car in failing
    ), "what has failed comes last"
