"""Askja from its React-like site to S3 and the database, in a real headless Chromium."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from carscraper import __version__
from carscraper.base_spiders.chromium import find_chromium
from carscraper.exceptions import ConfigurationError
from tests import services
from tests.conftest import service
from tests.crawl.world import DISPLAY_MAKES, IMPOLITE, World, keys_of, last_words, make_of, model_of, verdict
from tests.dealers.askja import SimulatedAskja

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.dealers.cars import Car

MISSING = "card = 'div.vehicle' with card_link = \"a.vehicle__image[href*='/soluskra?']\""


@contextlib.contextmanager
def chromium() -> Iterator[str]:
    try:
        yield find_chromium(None)
    except ConfigurationError as error:
        raise services.MissingService(str(error)) from None


@pytest.fixture(autouse=True)
def program() -> Iterator[str]:
    with service(chromium) as found:
        yield found


@pytest.fixture
def askja_world(new_world: Callable[..., World]) -> Callable[..., World]:
    def make(*, env: dict[str, str] | None = None, **options: Any) -> World:
        return new_world(site=SimulatedAskja(**options), spider="askja", env=env)

    return make


def truth_of(site: SimulatedAskja, car: Car) -> dict[str, Any]:
    model = model_of(car)[0]
    return {
        "source": "Askja",
        "external_id": str(car.cid),
        "url": f"{site.base_url}{site.link(car)}",
        "title": f"{DISPLAY_MAKES.get(car.make, car.make)} {model}",
        "make": make_of(car)[0],
        "model": model,
        "year": car.year,
        "price": car.price,
        "price_before_offer": car.price_before_offer,
        "kilometers": car.kilometers and car.kilometers // 1000 * 1000,
        "is_active": True,
        "gone_at": None,
    }


def test_every_car_and_every_photo_is_kept_and_the_second_crawl_costs_the_list_only(
    askja_world: Callable[..., World], new_site: Callable[..., Any], rclone_s3: services.S3
) -> None:
    other = new_site(SimulatedAskja(cars=2))
    world = askja_world(cars=20, photos=2, abroad=other.base_url, env=rclone_s3.env)
    site = world.site
    done = world.crawl()

    assert "askja: success. 20 cars (20 new, 0 gone); 20 photos stored" in verdict(done)
    rows, images, objects = world.listings(), world.images(), rclone_s3.objects()
    assert rows.keys() == {str(car.cid) for car in site.cars}
    for car in site.cars:
        truth = truth_of(site, car)
        row = rows[truth["external_id"]]
        assert {column: row[column] for column in truth} == truth
        image = images[site.identity(car, car.photos[0])]
        served = site.photo_bytes(car.cid, car.photos[0].p, 784)
        digest = hashlib.sha256(served).hexdigest()
        assert (image["status"], image["sha256"]) == ("stored", digest)
        assert image["key"] == f"askja/{car.year}/{make_of(car)[1]}/{model_of(car)[1]}/{car.cid}_{digest[:12]}.jpg"
        assert keys_of("askja").fullmatch(image["key"])
        assert objects[image["key"]] == served
        assert row["image_url"] == image["url"]
    assert len(images) == len(objects) == 20
    # One page, one script; the list by the button; each photo once, though cards have it as their background. Nothing
    # but text is loaded by the browser, and nothing of another site: not by a script, a frame, a redirect or a web
    # socket. Whatever port of this machine they name, they end here.
    assert other.served.requests == []
    asked = [each for each in site.served.requests if each.kind != "other"]
    kinds = Counter(each.kind for each in asked)
    assert kinds == {"robots": 1, "results": 1, "script": 1, "style": 1, "list": 3, "photo": 20}
    assert {each.user_agent for each in asked} == {f"carscraper/{__version__} (car listings with photos)"}
    led_astray = {each.path for each in site.served.requests if each.kind == "other"}
    assert led_astray <= {"/elsewhere", "/redirected", "/socket"}

    sold, cheaper = site.cars[0], site.cars[1]
    site.sell(sold.cid)
    site.set_car(cheaper.cid, price=cheaper.price - 100_000)
    site.reset()
    done = world.crawl()
    assert "success. 19 cars (0 new, 0 gone); 0 photos stored" in verdict(done)
    assert world.asked("photo") == 0
    assert world.asked("details") == 1
    after = world.listings()
    assert after[str(sold.cid)] == rows[str(sold.cid)], "such a site has a page for every address: that proves nothing"
    assert [change["new_price"] for change in world.price_changes()] == [cheaper.price]
    assert world.images() == images


def test_what_the_site_shows_in_place_of_its_list_concludes_nothing(askja_world: Callable[..., World]) -> None:
    world = askja_world(cars=12, photos=1)
    site = world.site
    world.crawl()
    before = world.listings()
    assert len(before) == 12
    site.sell(site.cars[11].cid)
    # The button breaks in the middle.
    site.fault("list:8", ["500"], sticky=True)
    site.reset()
    done = world.crawl(code=3, settings={"RETRY_TIMES": 1})
    assert "partial. 8 cars (0 new, 0 gone)" in last_words(done)
    assert "was not seen to its end: " in last_words(done)
    assert "offset=8' answers HTTP 500" in last_words(done)
    assert (world.asked("list"), world.asked("details")) == (3, 0)
    before = world.listings()
    # Another layout; a page that is forbidden what it shows.
    site.clear_faults()
    site.fault("script", ["links"], sticky=True)
    done = world.crawl(code=4, settings={"RETRY_TIMES": 0})
    assert MISSING in verdict(done)
    assert site.base_url in verdict(done)
    site.clear_faults()
    site.disallow = ["/api/"]
    site.reset()
    done = world.crawl(code=4, settings={"RETRY_TIMES": 0})
    assert MISSING in verdict(done)
    assert world.asked("list") == 0
    (line,) = done.lines("The page wanted and did not get")
    assert "/api/vehicles?offset=0' (robots.txt)" in line
    assert world.listings() == before


def test_the_list_is_asked_for_no_longer_than_needed(askja_world: Callable[..., World]) -> None:
    world = askja_world(cars=30, photos=1)
    world.crawl(limit=9)
    assert len(world.listings()) == 9
    assert world.asked("list") == 2
    world.site.fault("script", ["endless"], sticky=True)
    world.site.reset()
    done = world.crawl(code=3, settings={"CRAWL_MAX_PAGES": 5, "IMAGES_STORE": ""})
    assert "1 search stopped by CRAWL_MAX_PAGES" in last_words(done)
    assert (world.asked("list"), world.asked("details")) == (5, 0)
    assert len(world.listings()) == 40


def test_a_page_that_never_answers_is_given_up(askja_world: Callable[..., World]) -> None:
    world = askja_world(cars=1)
    world.site.fault("results", ["never"], sticky=True)
    done = world.crawl(code=4, settings={"DOWNLOAD_TIMEOUT": 1, "RETRY_TIMES": 1})
    assert "can't be reached (Timeout 1000ms exceeded" in verdict(done)
    assert world.asked("results") == 2


def test_without_a_browser_no_page_is_asked_for(askja_world: Callable[..., World]) -> None:
    world = askja_world(cars=1)
    for path, words in (("/nowhere/chromium", "no such program"), ("/bin/false", "(/bin/false) can't be started")):
        done = world.crawl(code=4, settings={"CHROMIUM_PATH": path})
        assert words in verdict(done)
        assert len(last_words(done).splitlines()) == 1
        assert done.seconds < 20
    assert set(world.site.served.counts) <= {"robots"}


# ── Processes ─────────────────────────────────────────────────────────────────────────────────────


def runs(process: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_the_browser_ends_with_the_crawl(askja_world: Callable[..., World], how: str) -> None:
    world = askja_world(cars=30, photos=1)
    world.site.fault("list:16", ["never"], sticky=True)
    with services.start_crawl(
        "askja",
        cwd=world.folder,
        env={"DATABASE_URL": world.database_url},
        settings=IMPOLITE | {"DOWNLOAD_TIMEOUT": 60},
        spider_arguments={"base_url": world.site.base_url},
    ) as running:
        services.wait_until(lambda: world.asked("list") == 3, 30)
        family = services.family(running.pid)[1:]
        commands = [Path(f"/proc/{process}/cmdline").read_bytes() for process in family]
        assert any(b"--type=renderer" in command for command in commands)
        assert sum(b"--headless" in command and b"--type=" not in command for command in commands) == 1, "one browser"
        began = time.monotonic()
        getattr(running, how)()
        done = running.wait(20)
    if how == "terminate":
        assert time.monotonic() - began < 8
        assert done.returncode == 3
        assert re.search(r"askja: partial\. 16 cars \(16 new", last_words(done))
        assert "stopped on request" in verdict(done)
        assert "Traceback" not in done.stderr
        assert len(world.listings()) == 16
    services.wait_until(lambda: not any(map(runs, family)), 10, "the end of the browser")
