"""S3 away, busy, slow, broken or refusing: no photo is lost, and the last lines and the exit code tell the truth."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.helpers import World, assert_nothing_lost, photo_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.services import Fault, S3Proxy


def every(number: int, fault: Fault) -> Fault:
    """Let only each *number*-th request meet the fault."""
    takes, seen = fault._takes, iter(range(10**9))

    def now_and_then(method: str, path: str) -> bool:
        return method == "PUT" and next(seen) % number == 0 and takes(method, path)

    fault._takes = now_and_then  # type: ignore[method-assign]
    return fault


# ── Away


def test_away_from_the_start(world: World) -> None:
    photos = photo_count(world.site)
    world.proxy.down()
    done = world.crawl()
    assert done.code == 3, done
    assert f"{photos} photos in the spool" in done.said
    assert "20 cars" in done.said
    assert done.count("Store away") == 1
    done.no_errors()
    assert world.statuses() == {("pending", "spooled"): photos}
    assert len(world.spooled_uploads()) == photos
    assert_nothing_lost(world)

    # Still away: nothing new is seen, and all is still not kept.
    world.site.reset()
    done = world.crawl()
    assert done.code == 3, done
    assert f"{photos} photos in the spool" in done.said
    assert world.photos_served() == 0

    world.proxy.up()
    done = world.finish()
    assert world.photos_served() == 0, "the dealer was asked for photos that were in the spool"
    assert world.puts(200) == photos
    done.no_errors()


def test_away_for_some_seconds(world: World) -> None:
    world.site.photo_latency = 0.1
    with world.start(S3_MAX_RETRIES=1) as running:
        world.wait_for_puts(20, running)
        world.proxy.down()
        running.wait_for_log("Store away")
        time.sleep(2)
        world.proxy.up()
        done = running.wait()
    assert done.returncode == 0, done
    assert done.lines("Store back")
    assert not done.lines(" ERROR: ")
    assert not world.spooled_uploads()
    assert world.photos_served() == photo_count(world.site)
    assert_nothing_lost(world, complete=True)


# ── Busy, slow, broken


# Once the store counts as away, only one request a second meets them: all must be over within its last chance.
TROUBLES: dict[str, Callable[[S3Proxy], list[Fault]]] = {
    "every second, later every third is told to slow down": lambda proxy: [
        every(2, proxy.fail(503, "SlowDown", times=30)),
        every(3, proxy.fail(503, "SlowDown")),
    ],
    "bursts of errors": lambda proxy: [
        proxy.fail(500, "InternalError", methods="PUT", skip=5, times=3),
        proxy.fail(502, "BadGateway", methods="PUT", skip=30, times=3),
        proxy.fail(504, "GatewayTimeout", methods="PUT", skip=60, times=3),
    ],
    "resets before and inside the body": lambda proxy: [
        proxy.reset(methods="PUT", times=4),
        proxy.reset(methods="PUT", after=2000, skip=20, times=4),
    ],
    "answers that are lost": lambda proxy: [every(4, proxy.lose_reply(methods="PUT"))],
    "latency": lambda proxy: [proxy.delay(0.4, methods="PUT")],
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_that_passes(world: World, trouble: str) -> None:
    with ExitStack() as stack:
        for fault in TROUBLES[trouble](world.proxy):
            stack.enter_context(fault)
        done = world.crawl(alone=True)  # with the whole time that a store may be away
        assert any(request.fault for request in world.proxy.requests)
    assert done.code == 0, done
    done.no_errors()
    assert world.photos_served() == photo_count(world.site)
    assert not world.spooled_uploads()
    assert_nothing_lost(world, complete=True)


@pytest.mark.parametrize("kind", ["hang", "trickle"])
def test_a_server_that_does_not_come_to_an_end(world: World, kind: str) -> None:
    """Neither holds up pages or other photos for longer than ``S3_UPLOAD_TIMEOUT``."""
    options: dict[str, Any] = {"methods": "PUT", "skip": 10, "times": 8}
    fault = world.proxy.hang(**options) if kind == "hang" else world.proxy.trickle(0.2, **options)
    with fault:
        done = world.crawl(alone=True, S3_UPLOAD_TIMEOUT=2)
        assert fault.hits == 8
    assert done.code == 0, done
    assert done.crawl.seconds < 25
    done.no_errors()
    assert_nothing_lost(world, complete=True)


def test_all_uploads_hang(world: World) -> None:
    """The cars are kept, the photos wait, and the crawl ends."""
    with world.proxy.hang(methods="PUT", skip=10):
        done = world.crawl(alone=True, S3_UPLOAD_TIMEOUT=2)
    assert done.code == 3, done
    assert "photos in the spool" in done.said
    assert_nothing_lost(world)
    have = world.stored()
    world.site.reset()
    world.finish(have=have)
    assert world.photos_served() == 0


# ── Refusing


REFUSALS = {
    "InvalidAccessKeyId": (403, "AWS_ACCESS_KEY_ID"),
    "ExpiredToken": (400, "AWS_SESSION_TOKEN"),
    "AccessDenied": (403, "s3:PutObject"),
    "NoSuchBucket": (404, "AWS_S3_BUCKET"),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_refused_halfway(world: World, code: str) -> None:
    status, cure = REFUSALS[code]
    world.site.photo_latency = 0.02
    with world.proxy.fail(status, code, methods={"PUT", "HEAD", "GET"}, skip=40):
        done = world.crawl()
    assert done.code == 4, done
    assert code in done.said
    assert cure in done.said
    assert done.said.count("failed.") == 1
    assert done.count(code) == 1, "one message, not one a photo"
    assert "Traceback" not in done.crawl.stderr
    statuses = world.statuses()
    assert statuses["stored", None] >= 30
    assert {status for status, _ in statuses} == {"stored", "pending"}
    assert statuses["pending", "spooled"] == len(world.spooled_uploads()) > 0
    assert_nothing_lost(world)
    have = world.stored()
    spooled = statuses["pending", "spooled"]
    world.site.reset()
    if code in {"InvalidAccessKeyId", "AccessDenied"}:
        return  # the rest is the same for all, and crawls take their time
    world.finish(have=have)
    assert world.photos_served() == photo_count(world.site) - len(have) - spooled


def test_a_full_spool(world: World) -> None:
    """Photos beyond it stay pending: the next crawl asks for them again."""
    world.proxy.down()
    done = world.crawl(SPOOL_MAX_BYTES=100_000)
    assert done.code == 3, done
    statuses = world.statuses()
    assert statuses["pending", "spooled"] > 0
    assert statuses["pending", "store-error"] > 0
    assert statuses.total() == photo_count(world.site)
    assert f"{statuses['pending', 'spooled']} photos in the spool" in done.said
    assert f"{statuses['pending', 'store-error']} photos not fetched" in done.said
    assert sum(path.stat().st_size for path in world.spooled_uploads()) <= 100_000
    assert_nothing_lost(world)
    world.proxy.up()
    world.site.reset()
    world.finish()
    assert world.photos_served() == statuses["pending", "store-error"]


def test_a_spool_that_is_lost_or_damaged(world: World) -> None:
    """What is gone is asked for again, damaged bytes are never uploaded, and what has no car holds nothing up."""
    world.proxy.down()
    assert world.crawl().code == 3
    content = world.spooled_uploads()[-1].read_bytes()
    for path in world.spooled_uploads()[:50]:
        path.unlink()  # a container's disk is gone with it
    first, second, *_ = world.spooled_uploads()
    first.write_bytes(first.read_bytes()[:-1] + b"!")
    second.write_bytes(b"damaged")
    world.proxy.up()
    world.site.reset()
    done = world.crawl()
    assert done.code == 3, done
    assert "2 photos not fetched" in done.said
    assert world.photos_served() == 50
    assert_nothing_lost(world)
    world.finish()
    assert world.photos_served() == 52

    # Killed before its car was written, and the car is sold since.
    first.write_bytes(content.replace(b'"external_id": "', b'"external_id": "9'))
    done = world.crawl(S3_UPLOAD_TIMEOUT=30)
    assert done.code == 0, done
    assert done.crawl.seconds < 15


def test_a_key_that_may_only_put(world: World) -> None:
    with world.proxy.fail(403, "AccessDenied", methods={"HEAD", "GET"}):
        done = world.crawl()
    assert done.code == 0, done
    done.no_errors()
    assert_nothing_lost(world, complete=True)


def test_a_key_that_may_do_nothing(world: World) -> None:
    """It is found out with the first photo, and the crawl ends there."""
    with world.proxy.fail(403, "AccessDenied"):
        done = world.crawl()
    assert done.code == 4, done
    assert "s3:PutObject" in done.said
    assert done.count("s3:PutObject") == 1
    assert world.photos_served() < photo_count(world.site)
    assert world.statuses()["stored", None] == 0
    world.finish()
