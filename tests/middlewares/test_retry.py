"""Retries with patience: pauses, Retry-After for the whole host, an end that does not wait, refused addresses."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from scrapy.exceptions import CannotResolveHostError, DownloadTimeoutError, NotConfigured
from scrapy.http import Request, Response

from carscraper.exceptions import BlockedAddressError
from carscraper.middlewares import retry as retry_module
from carscraper.middlewares.retry import PatientRetryMiddleware
from carscraper.state import state_of
from tests.fakes import make_crawler, until

URL = "https://bilasolur.is/CarDetails.aspx?cid=1"


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = datetime(2026, 2, 2, 12, 0, 0, tzinfo=UTC)
        self.on_sleep: Any = None

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall.timestamp() + self.now - 1000

    async def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= retry_module._LOOK_EVERY
        self.now += seconds
        if self.on_sleep:
            self.on_sleep(self)
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry_module, "time", clock)
    monkeypatch.setattr(retry_module, "asyncio", SimpleNamespace(sleep=clock.sleep))
    return clock


class World:
    def __init__(self, clock: Clock, **settings: Any) -> None:
        self.clock = clock
        self.crawler = make_crawler(**settings)
        self.middleware = PatientRetryMiddleware.from_crawler(self.crawler)

    def response(self, request: Request, status: int = 503, **headers: str) -> tuple[Request | Response, float]:
        """What comes back, and the seconds that it took."""
        begin = self.clock.now
        response = Response(
            request.url, status=status, headers={name.replace("_", "-"): h for name, h in headers.items()}
        )
        result = asyncio.run(self.middleware.process_response(request, response))
        return result, self.clock.now - begin

    def exception(self, request: Request, error: Exception) -> tuple[Request | None, float]:
        begin = self.clock.now
        return asyncio.run(self.middleware.process_exception(request, error)), self.clock.now - begin

    def hold(self, request: Request) -> float:
        begin = self.clock.now
        assert asyncio.run(self.middleware.process_request(request)) is None
        return self.clock.now - begin


@pytest.fixture
def world(clock: Clock) -> World:
    return World(clock)


def pauses(world: World) -> tuple[list[float], Request | Response]:
    """The seconds before each retry of a request that always fails, and what comes of it in the end."""
    request: Request | Response = Request(URL)
    found = []
    while isinstance(request, Request):
        request, pause = world.response(request)
        found.append(round(pause, 2))
    return found, request


def test_pauses_grow_threefold_and_end(clock: Clock) -> None:
    for settings, expected in (
        ({}, [1, 3, 9, 0]),
        ({"RETRY_BACKOFF": "0"}, [0, 0, 0, 0]),
        ({"RETRY_BACKOFF": "0.5", "RETRY_TIMES": "1"}, [0.5, 0]),
        ({"RETRY_TIMES": "0"}, [0]),
    ):
        world = World(clock, **settings)
        found, response = pauses(world)
        assert (found, response.status) == (expected, 503), settings  # type: ignore[union-attr]
        assert world.crawler.stats.get_value("retry/max_reached") == 1


def test_broken_connections_wait_just_so(world: World) -> None:
    request: Request | None = Request(URL)
    found = []
    while request:
        request, pause = world.exception(request, DownloadTimeoutError())
        found.append(round(pause, 2))
    assert found == [1, 3, 9, 0]


def test_answers_that_may_get_better_and_others_that_pass_at_once(world: World) -> None:
    for status in (429, 500, 502, 503, 504, 522, 524, 408):
        request, pause = world.response(Request(URL), status)
        assert isinstance(request, Request), status
        assert pause == 1
    for status in (200, 301, 403, 404, 410):
        response, pause = world.response(Request(URL), status, Retry_After="60")
        assert isinstance(response, Response), status
        assert pause == world.hold(Request(URL)) == 0


def test_a_request_that_wants_no_retry_gets_none(world: World) -> None:
    response, pause = world.response(Request(URL, meta={"dont_retry": True}))
    assert isinstance(response, Response)
    assert pause == 0


def test_retries_can_be_switched_off(clock: Clock) -> None:
    with pytest.raises(NotConfigured):
        World(clock, RETRY_ENABLED=False)


# --- Retry-After ------------------------------------------------------------------------------------------------


def http_date(seconds: float) -> str:
    return format_datetime(datetime(2026, 2, 2, 12, 0, 0, tzinfo=UTC) + timedelta(seconds=seconds), usegmt=True)


GARBAGE = ("", "soon", "-5", "7.5", "1e3", "0x10", "²", "7 seconds", "Mon", "99/99/9999", "\x00")
ASKED = {"7": 7, " 7 ": 7, "0": 0, "120": 120, http_date(30): 30, http_date(-30): 0, "Fri, 99 Foo 2026 99:99:99 GMT": 1}


def test_the_pause_that_is_asked_for(clock: Clock) -> None:
    for value, seconds in (ASKED | dict.fromkeys(GARBAGE, 1)).items():
        clock.now = 1000.0
        request, pause = World(clock).response(Request(URL), 503, Retry_After=value)
        assert isinstance(request, Request), value
        assert pause == pytest.approx(seconds, abs=0.01), value


def test_one_that_is_too_long_fails_the_request_at_once(world: World) -> None:
    for value in ("121", "9" * 400, http_date(3600), "Fri, 31 Dec 9999 23:59:59 GMT"):
        response, pause = world.response(Request(URL), 503, Retry_After=value)
        assert isinstance(response, Response), value
        assert pause == world.hold(Request(URL)) == 0


def test_the_longest_pause_is_a_setting(clock: Clock) -> None:
    world = World(clock, RETRY_AFTER_MAX="5")
    assert isinstance(world.response(Request(URL), 503, Retry_After="6")[0], Response)
    assert isinstance(world.response(Request(URL), 503, Retry_After="5")[0], Request)


def test_the_whole_host_gets_the_pause_and_nobody_else(world: World) -> None:
    async def story() -> None:
        refused = asyncio.create_task(
            world.middleware.process_response(Request(URL), Response(URL, status=429, headers={"Retry-After": "10"}))
        )
        await until(lambda: world.middleware._paused_until)
        begin = world.clock.now
        await world.middleware.process_request(Request("https://images.bilasolur.is/x"))
        await world.middleware.process_request(Request("https://bilasolur.is:8443/x"))
        assert world.clock.now - begin < 1, "another host, another port"
        await world.middleware.process_request(Request("https://bilasolur.is/CarImage.aspx?c=1&p=2"))
        assert world.clock.now >= 1010
        assert isinstance(await refused, Request)

    asyncio.run(story())
    assert world.hold(Request(URL)) == 0, "the pause is over"
    assert world.crawler.stats.get_value("carscraper/retry_after") == 1


def test_ordinary_back_off_does_not_hold_the_host(world: World) -> None:
    world.response(Request(URL))
    assert world.hold(Request(URL)) == 0


# --- the end of the crawl ---------------------------------------------------------------------------------------


def stop_after(seconds: float, world: World) -> None:
    def stop(clock: Clock) -> None:
        if clock.now >= 1000 + seconds:
            world.crawler.engine.running = False

    world.clock.on_sleep = stop


def test_a_crawl_that_is_being_stopped_waits_no_longer(world: World) -> None:
    stop_after(2, world)
    response, pause = world.response(Request(URL), 503, Retry_After="100")
    assert isinstance(response, Response), "no retry any more"
    assert pause <= 2 + 2 * retry_module._LOOK_EVERY
    assert world.hold(Request(URL)) == 0, "nor is another request held"


def test_nor_after_a_broken_connection(world: World) -> None:
    request: Request | None = Request(URL, meta={"retry_times": 2})
    stop_after(1, world)
    assert request
    request, pause = world.exception(request, DownloadTimeoutError())
    assert request is None
    assert pause <= 1 + 2 * retry_module._LOOK_EVERY


# --- refused addresses ------------------------------------------------------------------------------------------


def test_a_refused_address_is_told_from_an_unknown_host(world: World) -> None:
    guard = state_of(world.crawler).addresses
    for url, host, port in (
        ("http://inside.is/x.jpg", "inside.is", 80),
        ("https://inside.is/x.jpg", "inside.is", 443),
        ("https://INSIDE.is:8080/x.jpg", "inside.is", 8080),
        ("http://[::1]/x.jpg", "::1", 80),
    ):
        request, _ = world.exception(Request(url), CannotResolveHostError("no address"))
        assert request is not None, "an unknown host is tried again"
        assert not guard.permits(host, port, "127.0.0.1")
        before = world.clock.now
        with pytest.raises(BlockedAddressError, match="private network"):
            world.exception(Request(url), CannotResolveHostError("no address"))
        assert world.clock.now == before, "and not tried again"


def test_a_refusal_says_nothing_about_other_errors(world: World) -> None:
    state_of(world.crawler).addresses.permits("bilasolur.is", 443, "127.0.0.1")
    assert world.exception(Request(URL), DownloadTimeoutError())[0] is not None


def test_a_mistake_of_ours_is_not_retried(world: World) -> None:
    assert world.exception(Request(URL), KeyError("x")) == (None, 0)
