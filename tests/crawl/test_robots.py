"""``robots.txt`` as RFC 9309 has it, and its ``Crawl-delay``."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from tests.crawl.world import last_words, verdict
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.http_server import Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.crawl.world import World
    from tests.http_server import Request


class Asking(SimulatedBilasolur):
    """A site with a ``robots.txt`` of its own."""

    def __init__(self, robots: str, *, status: int = 200, **options: Any) -> None:
        super().__init__(**{"cars": 3, "photos": 2, "photo_bytes_average": 20_000} | options)
        for car in self.cars:
            for photo in car.photos:
                self.photo_bytes(car.cid, photo.p, 1280)  # made now: it takes a while, and others would wait for it
        self._text = robots
        self._status = status

    def answer(self, kind: str, which: str, request: Request) -> Response:
        if kind == "robots":
            return Response(status=self._status, body=self._text, content_type="text/plain")
        return super().answer(kind, which, request)


def test_robots_txt_is_obeyed(new_world: Callable[..., World]) -> None:
    world = new_world(cars=3, photos=2, disallow=["/CarImage.aspx"])
    done = world.crawl(code=3)
    assert world.asked("photo") == 0
    assert {(row["status"], row["reason"]) for row in world.images().values()} == {("failed", "robots-txt")}
    assert "6 photos failed (6 robots-txt)" in last_words(done)
    assert len(world.listings()) == 3

    world.site.disallow = ["/"]
    world.site.reset()
    done = world.crawl(code=4)
    assert world.site.served.counts == {"robots": 1}
    failed, waiting = last_words(done).splitlines()
    assert "bilasolur: failed. " in failed
    assert "robots.txt" in failed
    assert waiting.endswith("bilasolur: not kept: 6 photos failed (6 robots-txt).")


def test_no_answer_is_a_no(new_world: Callable[..., World]) -> None:
    world = new_world(cars=3)
    for step, words, settings in (
        ("503", "answers HTTP 503", {"RETRY_TIMES": 1}),
        ("never", "took longer than", {"RETRY_TIMES": 0, "DOWNLOAD_TIMEOUT": 1}),
    ):
        world.site.fault("robots", [step], sticky=True)
        world.site.reset()
        done = world.crawl(code=4, settings=settings)
        assert world.site.served.counts == {"robots": settings["RETRY_TIMES"] + 1}
        assert "can't be reached (robots.txt of 127.0.0.1:" in verdict(done)
        assert words in verdict(done)
        assert "nothing may be fetched (RFC 9309)" in verdict(done)
    assert not world.listings()


def test_no_file_is_a_yes_whatever_the_error_page_says(new_world: Callable[..., World]) -> None:
    for status in (404, 403):
        world = new_world(site=Asking("User-agent: *\nDisallow: /\n", status=status, cars=1))
        world.crawl()
        assert world.asked("results")


def test_the_photos_host_does_not_answer_for_its_robots_txt(new_world: Callable[..., World]) -> None:
    """The cars are kept and the crawl says so; the photos come another day."""
    photos = new_world(cars=3).site
    photos.fault("robots", ["503"], sticky=True)
    photos.page_latency = 0.7  # all photos wait for the one file

    class Pages(SimulatedBilasolur):
        def answer(self, kind: str, which: str, request: Request) -> Response:
            response = super().answer(kind, which, request)
            if kind in {"results", "details"}:
                text = b"".join(response.parts).decode()
                response.body = re.sub('src="[^"]*CarImage', f'src="{photos.base_url}/CarImage', text)
            return response

    world = new_world(
        site=Pages(cars=3, photos=2, photo_bytes_average=20_000),
        env={"IMAGES_ALLOWED_HOSTS": photos.base_url.removeprefix("http://")},
    )
    done = world.crawl(code=3, settings={"RETRY_TIMES": 0})
    assert len(world.listings()) == 3
    assert "6 photos failed (6 robots-unreachable)" in last_words(done)
    assert done.stderr.count("nothing may be fetched (RFC 9309); try again later") == 1
    assert not photos.served.counts["photo"]

    photos.clear_faults()
    world.crawl()
    assert {row["status"] for row in world.images().values()} == {"stored"}


def gaps(site: SimulatedBilasolur) -> list[float]:
    times = [asked.time for asked in site.served.requests]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_crawl_delay_is_kept_by_pages_and_photos_together(new_world: Callable[..., World]) -> None:
    world = new_world(site=Asking("User-agent: *\nCrawl-delay: 0.6\n", cars=2))
    done = world.crawl(settings={"AUTOTHROTTLE_ENABLED": "true"})
    assert world.asked("photo") == 4
    assert min(gaps(world.site)) > 0.5
    assert "asks for 0.6 s between two requests" in done.stderr


def test_an_absurd_crawl_delay_is_bounded_and_said(new_world: Callable[..., World]) -> None:
    world = new_world(site=Asking("User-agent: carscraper\nCrawl-delay: 86400\n", cars=1))
    done = world.crawl(settings={"RETRY_AFTER_MAX": 0.4})
    assert world.asked("photo") == 2
    assert min(gaps(world.site)) > 0.3
    assert "asks for 86400 s between two requests; taken as 0.4 s (RETRY_AFTER_MAX)" in done.stderr
