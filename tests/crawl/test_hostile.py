"""Addresses that expire or lead inside, a dealer that asks for patience, names that were written to do harm."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests import services
from tests.crawl.world import KEY, World, last_words, verdict
from tests.http_server import HttpServer, Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.dealers.cars import Car


# ── Addresses that expire ─────────────────────────────────────────────────────────────────────────


def test_an_expired_address_costs_one_visit_to_the_cars_page(new_world: Callable[..., World]) -> None:
    modes = ("404", "403", "401", "html200")
    world = new_world(cars=2 * len(modes), photos=3)
    for number, car in enumerate(world.site.cars):
        for photo in car.photos:
            world.site.photo_fault(car.cid, photo.p, [modes[number % len(modes)]])
    done = world.crawl()
    assert {row["status"] for row in world.images().values()} == {"stored"}
    assert "24 photos stored" in verdict(done)
    assert world.asked("details") == 2 * 8, "once for the car, once for fresh addresses"
    assert world.asked("photo") == 2 * 24


@pytest.mark.parametrize("page", ["maintenance", "500", "login"])
def test_without_the_word_of_the_cars_page_no_photo_is_given_up(new_world: Callable[..., World], page: str) -> None:
    world = new_world(cars=2, photos=2)
    car = world.site.cars[0]
    for photo, mode in zip(car.photos, ("404", "html200"), strict=True):
        world.site.photo_fault(car.cid, photo.p, [mode], sticky=True)
    world.site.fault(f"details:{car.cid}", ["ok", page], sticky=True)
    done = world.crawl(code=3, settings={"RETRY_TIMES": 0})
    assert "2 photos failed (2 no-fresh-address)" in last_words(done)
    world.site.clear_faults()
    world.crawl()
    assert {row["status"] for row in world.images().values()} == {"stored"}


def test_a_fresh_address_that_does_not_answer_is_asked_again_later(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    car = world.site.cars[0]
    world.site.photo_fault(car.cid, car.photos[0].p, ["404", "never"], sticky=True)
    done = world.crawl(code=3, settings={"RETRY_TIMES": 0, "DOWNLOAD_TIMEOUT": 1})
    assert "1 photo failed (1 timeout)" in last_words(done)
    world.site.clear_faults()
    world.crawl()
    assert world.image(car)["status"] == "stored"


def test_photos_without_a_delay_are_no_more_at_once_than_the_setting_says(new_world: Callable[..., World]) -> None:
    world = new_world(cars=6, photos=8)
    world.site.fault("photo", ["slow:0.1"], sticky=True)
    world.crawl(settings={"IMAGES_DOWNLOAD_DELAY": 0, "IMAGES_CONCURRENCY": 3})
    assert world.site.served.max_concurrent_photos == 3


def test_addresses_that_die_after_a_while_are_kept_alive_by_a_visit(new_world: Callable[..., World]) -> None:
    """In the middle of the crawl the site forgets every address, until a page that shows it is asked for again."""
    world = new_world(cars=6, photos=5)
    site, serve, asked = world.site, world.site._photo, itertools.count()

    def photo(which: str, request: Any) -> Any:
        if next(asked) == 10:
            site.expire_all("404")
        return serve(which, request)

    site._photo = photo  # type: ignore[method-assign]
    done = world.crawl(settings={"IMAGES_CONCURRENCY": 2})
    assert {row["status"] for row in world.images().values()} == {"stored"}
    assert "30 photos stored" in verdict(done)
    assert world.site.served.statuses("photo").get(404, 0) > 0
    assert world.asked("details") <= 2 * 6


def test_all_addresses_dead_between_two_crawls_are_nothing(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=2)
    world.crawl()
    for mode in ("404", "placeholder"):
        world.site.expire_all(mode)
        world.crawl()
    assert {row["status"] for row in world.images().values()} == {"stored"}
    assert world.asked("photo") == 8


# ── A dealer that asks for patience ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", ["429", "503"])
def test_retry_after_is_honoured_by_the_whole_host(new_world: Callable[..., World], status: str) -> None:
    world = new_world(cars=12, photos=2)
    first = world.site.cars[0]
    world.site.photo_fault(first.cid, first.photos[0].p, [f"{status}:2"])
    done = world.crawl(settings={"IMAGES_CONCURRENCY": 2})
    assert "24 photos stored" in verdict(done)
    asked = [each for each in world.site.served.requests if each.kind == "photo"]
    refused = next(each for each in asked if each.status == int(status))
    again = [each for each in asked if each.path == refused.path and each.time > refused.time]
    assert len(again) == 1
    assert 2.0 <= again[0].time - refused.time < 6
    others = [each.time - refused.time for each in world.site.served.requests if each.time > refused.time]
    assert not [seconds for seconds in others if 0.5 < seconds < 1.9], "the host was left in peace"


def test_a_pause_that_is_too_long_fails_the_photo_only(new_world: Callable[..., World]) -> None:
    world = new_world(cars=3, photos=1)
    car = world.site.cars[0]
    world.site.photo_fault(car.cid, None, ["503:3600"], sticky=True)
    done = world.crawl(code=3)
    assert done.seconds < 30
    assert world.image(car)["reason"] == "http-503"
    assert len([row for row in world.images().values() if row["status"] == "stored"]) == 2


def test_a_photo_server_that_stumbles_is_asked_again(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=1)
    steps = (["500"], ["503", "502"], ["reset"], ["half"])
    for car, step in zip(world.site.cars, steps, strict=True):
        world.site.photo_fault(car.cid, None, step)
    done = world.crawl()
    assert "4 photos stored" in verdict(done)
    assert world.asked("photo") == 4 + 5


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────

NAMES = {
    "path": ("../../etc", "../../../passwd"),
    "slashes": ("a/b\\c", "//evil//x"),
    "line": ("Toyota\n2026-01-01 00:00:00 [carscraper] INFO: forged", "x\r\nforged: line"),
    "emoji": ("🚗🚗", "🏎️ 3000"),
    "long": ("x" * 5000, "y z " * 1300),
    "icelandic": ("Þórðarbíll Æði", "Ölfusárbrú ðþæö"),
    "nul": ("To\x00yota", "Ya\x00ris \x1b[31m"),
    "sql": ("'; DROP TABLE car_listings; --", '" OR 1=1'),
    "html": ("<script>alert(1)</script>", "<b>&amp;</b>"),
    "formula": ("=cmd|' /C calc'!A0", "+1-2@x"),
    "surrogate": ("Kia\ud800", "\udfff"),
    "percent": ("%2e%2e%2f", "%s%n%d {0} {x!r}"),
    "nothing": ("", ""),
    "dots": ("..", "."),
}


def test_hostile_names_stay_in_their_columns_and_keys_in_their_scheme(
    new_world: Callable[..., World], database_url: str, rclone_s3: services.S3
) -> None:
    world = new_world(cars=len(NAMES), photos=1, database_url=database_url, env=rclone_s3.env)
    cars = dict(zip(NAMES, world.site.cars, strict=True))
    for name, car in cars.items():
        make, model = NAMES[name]
        world.site.set_car(car.cid, make=make, model=model, description=f"{make} {model}")
    # Three of the names leave no make, which is fewer cars with one than is expected.
    done = world.crawl(settings={"LOG_LEVEL": "DEBUG", "MONITOR_IGNORE_FIELDS": "bilasolur.make"})
    assert f"success. {len(NAMES)} cars" in verdict(done)
    rows, images = world.listings(), world.images()
    assert len(rows) == len(images) == len(NAMES)
    keys = {row["key"] for row in images.values()}
    assert len(keys) == len(NAMES)
    assert set(rclone_s3.keys()) == keys
    for key in keys:
        assert KEY.fullmatch(key)
        assert len(key) < 250
    assert images[cars["icelandic"].identities[0]]["key"].split("/")[2:4] == ["thordarbill-aedi", "olfusarbru-dthaeo"]
    assert images[cars["path"].identities[0]]["key"].split("/")[2:4] == ["etc", "passwd"]
    assert images[cars["emoji"].identities[0]]["key"].split("/")[2] == "unknown"
    for name, row in ((name, rows[str(car.cid)]) for name, car in cars.items()):
        for column in ("make", "model", "title", "display_make", "display_name", "description"):
            text = row[column]
            assert text is None or not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", text), (name, column)
            assert text is None or 0 < len(text) <= 20_000
        assert len(row["make"] or "") <= 300
    assert rows[str(cars["sql"].cid)]["make"].upper().endswith("DROP TABLE CAR_LISTINGS; --")
    # No line of the log was written by the site.
    assert not [line for line in done.stderr.splitlines() if line.startswith(("2026-01-01 00:00:00", "forged"))]
    assert "\x1b" not in done.stderr
    assert "\x00" not in done.stderr
    # Objects stay below the bucket.
    assert rclone_s3.folder is not None
    assert {path.name for path in rclone_s3.folder.parent.iterdir()} == {rclone_s3.bucket}


# ── Addresses that lead inside ────────────────────────────────────────────────────────────────────


class Listener:
    """A service inside the network: it counts who knocks."""

    def __init__(self, family: int, host: str) -> None:
        self._socket = socket.socket(family)
        self._socket.bind((host, 0))
        self._socket.listen(50)
        self.port: int = self._socket.getsockname()[1]
        self.contacts = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.contacts += 1
                connection.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def inside() -> Iterator[Listener]:
    listener = Listener(socket.AF_INET, "127.0.0.1")
    yield listener
    listener.close()


@pytest.fixture
def inside_v6() -> Iterator[Listener | None]:
    try:
        listener = Listener(socket.AF_INET6, "::1")
    except OSError:
        yield None  # a machine without IPv6: the address is refused all the same
        return
    yield listener
    listener.close()


def test_photos_inside_the_network_are_never_asked_for(
    new_world: Callable[..., World], inside: Listener, inside_v6: Listener | None
) -> None:
    port = inside.port
    port6 = inside_v6.port if inside_v6 else port
    addresses = [
        f"http://127.0.0.1:{port}/x.jpg",
        f"//127.0.0.1:{port}/x.jpg",
        f"http://localhost:{port}/x.jpg",
        f"http://LOCALHOST:{port}/x.jpg",
        f"http://127.1:{port}/x.jpg",
        f"http://2130706433:{port}/x.jpg",
        f"http://0x7f000001:{port}/x.jpg",
        f"http://0177.0.0.1:{port}/x.jpg",
        f"http://127.8.9.10:{port}/x.jpg",
        f"http://0.0.0.0:{port}/x.jpg",
        f"http://[::1]:{port6}/x.jpg",
        f"http://[::ffff:127.0.0.1]:{port}/x.jpg",
        f"http://[::ffff:7f00:1]:{port}/x.jpg",
        f"http://①②⑦.0.0.1:{port}/x.jpg",
        f"https://127.0.0.1:{port}/x.jpg",
        "http://10.0.0.1/x.jpg",
        "http://192.168.1.1/x.jpg",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://[64:ff9b::7f00:1]/x.jpg",
    ]
    world = new_world(cars=len(addresses) + 2, photos=1)
    for car, address in zip(world.site.cars, addresses, strict=False):
        world.site.set_photo(car.cid, None, src=address)
    *_, redirected, twice = world.site.cars
    world.site.photo_fault(redirected.cid, None, [f"redirect:http://127.0.0.1:{port}/x.jpg"], sticky=True)
    world.site.photo_fault(twice.cid, None, [f"redirect:http://2130706433:{port}/x.jpg"], sticky=True)
    done = world.crawl(code=3, settings={"RETRY_TIMES": 1, "DOWNLOAD_TIMEOUT": 4})
    assert inside.contacts == 0
    assert inside_v6 is None or inside_v6.contacts == 0
    rows = world.sql("SELECT source_url, status, reason FROM car_images")
    assert len(rows) == len(addresses) + 2
    assert [dict(row) for row in rows if (row["status"], row["reason"]) != ("failed", "blocked-address")] == []
    assert f"{len(addresses) + 2} blocked-address" in last_words(done)
    assert len(world.listings()) == len(addresses) + 2


def test_a_listed_host_may_be_inside(new_world: Callable[..., World], new_site: Callable[..., Any]) -> None:
    world = new_world(cars=3, photos=1)
    other, third = new_site(cars=3, photos=1, seed=2), new_site(cars=3, photos=1, seed=3)
    first, second, redirected = world.site.cars

    def address(site: Any, car: Car) -> str:
        return f"{site.base_url}/CarImage.aspx?s=1&c={car.cid}&p={car.photos[0].p}&w=400"

    world.site.set_photo(first.cid, None, src=address(other, first))
    world.site.set_photo(second.cid, None, src=address(third, second))
    world.site.photo_fault(redirected.cid, None, [f"redirect:{address(other, redirected)}"], sticky=True)
    world.crawl(code=3, settings={"IMAGES_ALLOWED_HOSTS": f"img.example.is, 127.0.0.1:{other.port}"})
    assert world.image(first)["status"] == "stored"
    assert world.kept_file(world.image(first)) == other.photo_bytes(first.cid, first.photos[0].p, 1280)
    assert world.image(redirected)["status"] == "stored"
    assert world.image(second)["reason"] == "blocked-address"
    assert (other.served.counts["photo"], third.served.counts["photo"]) == (2, 0)


BAD_ADDRESSES = {
    "file": ("file:///etc/passwd", "bad-address"),
    "ftp": ("ftp://127.0.0.1/x.jpg", "bad-address"),
    "s3": ("s3://bucket/x.jpg", "bad-address"),
    "javascript": ("javascript:alert(1)", "bad-address"),
    "backslash": ("https:\\\\evil.example\\x.jpg", "bad-address"),
    "user": ("http://bilasolur.is@evil.example/x.jpg", "bad-address"),
    "port": ("http://bilasolur.is:99999/x.jpg", "bad-address"),
    "brackets": ("http://[::1/x.jpg", "bad-address"),
    "brackets around a name": ("http://[evil]/x.jpg", "bad-address"),
}


def test_an_address_that_is_none_is_refused_and_kept_as_it_was(new_world: Callable[..., World]) -> None:
    world = new_world(cars=len(BAD_ADDRESSES) + 1, photos=2)
    cars = dict(zip(BAD_ADDRESSES, world.site.cars, strict=False))
    for name, car in cars.items():
        world.site.set_photo(car.cid, car.photos[0].p, src=BAD_ADDRESSES[name][0])
    lazy = world.site.cars[-1]
    world.site.set_photo(lazy.cid, lazy.photos[0].p, src="data:image/gif;base64,R0lGODlhAQABAAAAACw=")
    done = world.crawl(code=3, settings={"RETRY_TIMES": 1})
    found = {}
    for name, car in cars.items():
        assert world.images()[car.identities[1]]["status"] == "stored"
        found[name] = [
            (row["source_url"], row["reason"]) for row in world.images_of(car) if row["identity"] not in car.identities
        ]
    assert found == {name: [wrong] for name, wrong in BAD_ADDRESSES.items()}
    assert [row["status"] for row in world.images_of(lazy)] == ["stored"]
    assert f"{len(BAD_ADDRESSES)} bad-address" in last_words(done)


def test_another_host_of_the_dealer_is_asked_for_its_photos(new_world: Callable[..., World]) -> None:
    """Some dealers keep their photos elsewhere: no silent filter by domain, and no identity but the address."""
    picture = io.BytesIO()
    Image.new("RGB", (640, 480), (30, 90, 200)).save(picture, "JPEG")

    def answer(request: Request) -> Response:
        status = 200 if request.target == "/a%20photo.jpg" else 404
        return Response(status=status, body=picture.getvalue(), content_type="image/jpeg")

    with HttpServer(answer) as server:
        world = new_world(cars=1, photos=1)
        (car,) = world.site.cars
        world.site.set_photo(car.cid, None, src=f"{server.base_url}/a photo.jpg")
        world.crawl(settings={"IMAGES_ALLOWED_HOSTS": "127.0.0.1"})
        (row,) = world.images_of(car)
        assert (row["status"], row["width"], row["height"]) == ("stored", 640, 480)
        assert row["identity"].startswith("url:")
        world.site.reset()
        world.crawl(settings={"IMAGES_ALLOWED_HOSTS": "127.0.0.1", "DETAILS_MAX_AGE_DAYS": 0})
        assert len(world.images()) == 1
