"""S3 that accepts and never answers: what hangs must not hold what rescues."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests import services
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.faults.helpers import WIDTH, World, photo_count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMEOUT = 3
"""``S3_UPLOAD_TIMEOUT``, in seconds."""
IN_FLIGHT = 16
NARROW: dict[str, Any] = {
    "S3_UPLOAD_TIMEOUT": TIMEOUT,
    "S3_MAX_PARALLEL_UPLOADS": 2,
    "IMAGES_MAX_IN_FLIGHT": IN_FLIGHT,
}
"""Few uploads at a time and many photos behind them."""


@pytest.fixture
def site() -> Iterator[SimulatedBilasolur]:
    """80 cars with 3 photos each on four pages: a crawl that lasts while S3 hangs."""
    with SimulatedBilasolur(cars=80, photos=3, per_page=20, photo_bytes_average=12_000) as running:
        running.photo_latency = 0.15
        yield running


def test_s3_is_stopped_in_mid_crawl(world: World, rclone: services.RcloneS3) -> None:
    """Stopped with SIGSTOP: the kernel still accepts connections."""
    direct = {"AWS_ENDPOINT_URL": rclone.endpoint}
    world.site.page_latency = 0.8
    with world.start(env=direct, **NARROW) as running:
        services.wait_until(lambda: len(world.s3.keys()) >= 10, 90, "photos to be stored")
        rclone.freeze()
        stopped = time.monotonic()
        services.wait_until(world.spooled_uploads, TIMEOUT + 3, "the first file in the spool")
        services.wait_until(lambda: len(world.spooled_uploads()) >= IN_FLIGHT, 2, "all others in the spool")
        assert time.monotonic() - stopped < TIMEOUT + 4
        photos, pages = world.photos_served(), world.site.served.counts["details"]
        services.wait_until(lambda: world.photos_served() > photos + 3 * IN_FLIGHT, 20, "more photos to be asked for")
        assert world.site.served.counts["details"] > pages
        assert running.running, running.wait()
        running.kill()
    before = Counter(world.site.served.photos)
    rclone.thaw()
    world.site.photo_latency = world.site.page_latency = 0
    done = world.crawl(timeout=120, env=direct)
    assert done.code == 0, done
    again = sum(number - before[photo] for photo, number in world.site.served.photos.items() if before[photo])
    assert again <= IN_FLIGHT, "more than what was in flight was fetched again"
    assert world.statuses() == {("stored", None): photo_count(world.site)}
    objects = world.s3.objects()
    for row in world.rows("SELECT identity, key FROM car_images"):
        cid, p = map(int, row.identity.split("/"))
        assert objects[row.key] == world.site.photo_bytes(cid, p, WIDTH)
    assert not world.spooled_uploads()


def test_s3_hangs_to_the_end(world: World) -> None:
    """The crawl goes on into the spool, and its end comes within a bounded time and says so."""
    with world.proxy.hang(skip=20):
        done = world.crawl(timeout=180, alone=True, **NARROW)
        # The last chance of the store, the grace for threads that hang, and a machine that is busy.
        assert time.monotonic() - world.site.served.requests[-1].time < 10 + 3 + 10, done
    assert done.code == 3, done
    spooled = world.statuses()["pending", "spooled"]
    assert world.statuses() == {("stored", None): photo_count(world.site) - spooled, ("pending", "spooled"): spooled}
    assert spooled == len(world.spooled_uploads()) > 180
    assert f"{spooled} photos in the spool" in done.said
    assert done.count("Store away") == 1
    done.no_errors()
    world.site.reset()
    world.finish(have=world.stored())
    assert world.photos_served() == 0, "the dealer was asked for photos that were in the spool"


@pytest.mark.parametrize("s3", [True, False])
def test_a_spool_that_can_not_be_written_is_found_at_the_start(world: World, tmp_path: Path, s3: bool) -> None:
    (tmp_path / "file").write_text("no folder")
    done = world.crawl(SPOOL_DIR=tmp_path / "file" / "spool", env={} if s3 else {"USE_S3_STORAGE": "false"})
    assert done.code == 4, done
    assert "SPOOL_DIR" in done.said
    assert "can't be written (Not a directory)" in done.said
    assert done.said.count("failed.") == 1
    assert "Traceback" not in done.crawl.stderr
    assert not world.site.served.requests
    assert not world.proxy.requests
