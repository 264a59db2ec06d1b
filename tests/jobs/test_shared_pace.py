"""Two crawls of one dealer on two machines are no ruder than one."""

from __future__ import annotations

import asyncio
import itertools
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from scrapy.exceptions import NotConfigured
from scrapy.http import Request

from carscraper.middlewares.pace import SharedPaceMiddleware
from tests import services
from tests.fakes import make_crawler

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.jobs.conftest import Fleet

DELAY, PHOTO_DELAY = 0.3, 0.05
"""Seconds: ``DOWNLOAD_DELAY``, ``IMAGES_DOWNLOAD_DELAY``."""
PAUSE = 3
SETTINGS: dict[str, Any] = {
    "DOWNLOAD_DELAY": DELAY,
    "IMAGES_DOWNLOAD_DELAY": PHOTO_DELAY,
    "AUTOTHROTTLE_ENABLED": "false",
    "RETRY_BACKOFF": 0.05,
    "CRAWL_LOCK": "false",
    "SHARED_PACE": "true",
}
AT_ONCE = 8
"""Photos that may be on their way between their moment and the dealer: ``IMAGES_CONCURRENCY``."""


def times(fleet: Fleet, *, photos: bool) -> list[float]:
    return [asked.time for asked in fleet.site.served.requests if (asked.kind == "photo") is photos]


def test_two_crawls_share_a_rate_and_a_pause(new_fleet: Callable[..., Fleet]) -> None:
    fleet = new_fleet(cars=16, photos=10, photo_bytes_average=4_000)
    fleet.site.fault("details", ["ok", "ok", "ok", f"503:{PAUSE}"])
    # Different cars, so that one does not spare the other its photos.
    makes = sorted({car.make for car in fleet.site.cars})  # type: ignore[attr-defined]
    crawls = [
        services.start_crawl(
            "bilasolur",
            cwd=fleet.folder,
            env={"DATABASE_URL": fleet.database_url, "OUTPUTS_DIR": ""},
            settings=SETTINGS,
            spider_arguments={"base_url": fleet.site.base_url, "makes": ",".join(some)},
        )
        for some in (makes[::2], makes[1::2])
    ]
    for crawl in crawls:
        with crawl:
            done = crawl.wait(90)
            assert done.returncode == 0, done
            assert "pace is out of reach" not in done.stderr
    assert fleet.rows("SELECT count(*) FROM car_images WHERE status = 'stored'") == [(160,)]
    assert {row.slot for row in fleet.rows("SELECT slot FROM dealer_pace")} == {"127.0.0.1", "images-Bilasolur"}

    photos, pages = times(fleet, photos=True), times(fleet, photos=False)
    paused = next(asked.time for asked in fleet.site.served.requests if asked.status == 503)
    # What had its moment before the other crawl heard of the pause is on its way.
    assert not [time for time in pages if paused + 1 < time < paused + PAUSE - 0.1], "the pause is both crawls'"
    assert not [time for time in photos if paused + 1 < time < paused + PAUSE - 0.1]
    for moments, delay, slack in ((photos, PHOTO_DELAY, AT_ONCE), (pages, DELAY, 3)):
        for begin, end in itertools.combinations(range(len(moments)), 2):
            most = (moments[end] - moments[begin]) / delay + slack
            assert end - begin <= most, f"{end - begin} requests in {moments[end] - moments[begin]:.2f} s"


def test_with_sqlite_a_crawl_keeps_its_own_pace(sqlite_url: str) -> None:
    with pytest.raises(NotConfigured, match="SHARED_PACE is of use with PostgreSQL only"):
        SharedPaceMiddleware.from_crawler(make_crawler(SHARED_PACE="true", DATABASE_URL=sqlite_url))
    with pytest.raises(NotConfigured):
        SharedPaceMiddleware.from_crawler(make_crawler(SHARED_PACE="false", DATABASE_URL="postgresql://h/d"))


def test_without_its_database_a_crawl_is_not_held_up() -> None:
    """Scrapy's own delay holds below."""
    crawler = make_crawler(SHARED_PACE="true", DATABASE_URL="postgresql://nobody@127.0.0.1:1/cars", DOWNLOAD_DELAY=5)
    slot = SimpleNamespace(delay=5.0)
    crawler.engine.downloader = SimpleNamespace(get_slot_key=lambda _: "bilasolur.is", slots={"bilasolur.is": slot})
    middleware = SharedPaceMiddleware.from_crawler(crawler)

    async def ask() -> float:
        begin = time.monotonic()
        for _ in range(3):
            await middleware.process_request(Request("https://bilasolur.is/"))
        middleware.host_paused("bilasolur.is", 60)
        await asyncio.sleep(0)
        return time.monotonic() - begin

    assert asyncio.run(ask()) < 4
    middleware._close()
