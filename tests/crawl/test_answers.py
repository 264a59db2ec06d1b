"""What servers send that they should not: odd headers, lying lengths, redirects to nowhere, late addresses."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.crawl.world import last_words, verdict
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.http_server import Response

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crawl.world import World
    from tests.http_server import Request


Change = Callable[[Response], Response]


class Odd(SimulatedBilasolur):
    """A site whose answers of some kinds are changed: the first page or photo by the first change, and so on."""

    def __init__(self, *changes: Change, kinds: tuple[str, ...], **options: Any) -> None:
        super().__init__(**{"cars": 4, "photos": 2, "photo_bytes_average": 20_000} | options)
        self._changes = changes
        self._kinds = kinds
        self._known: dict[tuple[str, str], int] = {}

    def answer(self, kind: str, which: str, request: Request) -> Response:
        response = super().answer(kind, which, request)
        if kind not in self._kinds:
            return response
        number = self._known.setdefault((kind, which), len(self._known))
        return self._changes[number % len(self._changes)](response)


PAGES = ("home", "search", "results", "details")


def all_is_stored(world: World) -> None:
    images = world.images()
    assert {(row["status"], row["reason"]) for row in images.values()} == {("stored", None)}
    assert len(images) == 8
    for car in world.site.cars:
        assert [world.kept_file(row) for row in world.images_of(car)] == [world.served(car, n) for n in range(2)]


def header(name: str, value: str) -> Change:
    def change(response: Response) -> Response:
        response.headers += ((name, value),)
        return response

    return change


def status(number: int, **headers: str) -> Change:
    def change(response: Response) -> Response:
        size = len(b"".join(response.parts))
        response.status = number
        response.headers += tuple(
            (name.replace("_", "-"), value.format(n=size, last=size - 1)) for name, value in headers.items()
        )
        return response

    return change


# ── Success in other numbers


def test_any_success_with_a_whole_photo_is_kept(new_world: Callable[..., World]) -> None:
    changes = [
        status(201),
        status(203),
        status(206, Content_Range="bytes 0-{last}/{n}"),
        status(206, Content_Range="bytes 0-{last}/*"),
        status(206),
    ]
    world = new_world(site=Odd(*changes, kinds=("photo",)))
    world.crawl()
    all_is_stored(world)
    assert world.asked("photo") == 8


def test_a_part_of_a_photo_is_not_kept(new_world: Callable[..., World]) -> None:
    """Whole as a file, and not all that there is."""
    world = new_world(site=Odd(status(206, Content_Range="bytes 0-{last}/9999999"), kinds=("photo",)))
    done = world.crawl(code=3)
    assert "8 photos failed (8 truncated)" in last_words(done)


# ── Lengths and encodings that lie


def gzipped(*, announced: int = 0, trailer: bool = True) -> Change:
    def change(response: Response) -> Response:
        packed = gzip.compress(b"".join(response.parts))
        if not trailer:
            packed = packed[:-8]
        response.headers += (("Content-Encoding", "gzip"),)
        response.body = packed + bytes(announced)
        response.cut_at = len(packed)
        return response

    return change


def too_long(response: Response) -> Response:
    """The whole answer, and a length that promises more."""
    body = b"".join(response.parts)
    response.body, response.cut_at = body + bytes(100), len(body)
    return response


def labelled_gzip(response: Response) -> Response:
    response.headers += (("Content-Encoding", "gzip"),)
    return response


def test_what_is_whole_is_kept_whatever_its_header_says(new_world: Callable[..., World]) -> None:
    odd = header("Content-Encoding", "utf-8"), header("Content-Encoding", "br")
    photos = gzipped(announced=1000), gzipped(trailer=False), too_long, labelled_gzip, *odd
    world = new_world(site=Odd(*photos, kinds=("photo",)))
    done = world.crawl()
    assert " ERROR: " not in done.stderr
    all_is_stored(world)
    assert world.asked("photo") == 8


def test_pages_that_are_whole_are_read_whatever_their_header_says(new_world: Callable[..., World]) -> None:
    world = new_world(site=Odd(gzipped(announced=1000), labelled_gzip, kinds=PAGES))
    done = world.crawl()
    assert " ERROR: " not in done.stderr
    all_is_stored(world)
    assert world.asked("details") == 4


def test_what_was_cut_is_asked_for_again(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4)
    for kind in ("details", "photo"):
        world.site.fault(kind, ["half", "half", "ok"], each=True)
    world.crawl()
    all_is_stored(world)
    assert (world.asked("details"), world.asked("photo")) == (12, 24)


# ── Odd headers


def test_an_odd_header_costs_nothing(new_world: Callable[..., World]) -> None:
    headers = [
        header("X-Powered-By ", "ASP.NET"),
        header("X (y)", "z"),
        header("Transfer-Encoding", "identity"),
        header("Set-Cookie", "a=" + 20_000 * "x"),
        header("X-Long", 100_000 * "x"),
    ]
    world = new_world(site=Odd(*headers, kinds=("photo", *PAGES)))
    done = world.crawl()
    assert " ERROR: " not in done.stderr
    all_is_stored(world)
    assert (world.asked("photo"), world.asked("details")) == (8, 4)


def test_a_header_that_costs_its_answer_is_said_in_words(new_world: Callable[..., World]) -> None:
    headers = [
        header("Transfer-Encoding", "x-secret"),
        header("X-Endless", 300_000 * "x"),
        header("Content-Length", "7"),
    ]
    world = new_world(site=Odd(*headers, kinds=("details",), cars=3))
    done = world.crawl(code=3)
    for words in (
        "the answer has the unknown Transfer-Encoding b'x-secret'",
        "a header of the answer has more than 256 kB",
        "Content-Length",
    ):
        assert words in done.stderr
    assert "3 details pages unreadable or missing" in last_words(done)
    assert len(world.listings()) == 3


# ── Redirects


def to(location: str) -> Change:
    def change(response: Response) -> Response:
        return Response(status=302, headers=(("Location", location),))

    return change


def test_a_redirect_to_nowhere_is_one_failure(new_world: Callable[..., World]) -> None:
    """Without a target, with an empty one, in a circle, and ever further."""
    further = iter(range(1000))
    changes = [
        lambda _: Response(status=302),
        to(""),
        to(" "),
        to("/CarImage.aspx?s=1&c=1&p=1&w=1"),
        lambda response: to(f"/CarImage.aspx?s=1&c=2&p=1&w={next(further)}")(response),  # noqa: PLW0108 - another each
    ]
    world = new_world(site=Odd(*changes, kinds=("photo",), cars=1, photos=5))
    done = world.crawl(code=3)
    assert "5 photos failed (5 http-302)" in last_words(done)
    assert world.asked("photo") <= 1 + 1 + 1 + 4 + 6


def test_a_page_that_leads_to_itself(new_world: Callable[..., World]) -> None:
    world = new_world(site=Odd(to(""), kinds=("home",)))
    done = world.crawl(code=4)
    assert "can't be reached (HTTP 302)" in verdict(done)
    assert world.asked("home") == 1


# ── Addresses


def based(base: str) -> Change:
    """Behind all links."""

    def change(response: Response) -> Response:
        text = b"".join(response.parts).decode()
        late = f'<!-- <base href="/no"> {5000 * "x"} > --><base href="{base}"></body>'
        assert "</body>" in text
        response.body = text.replace("</body>", late, 1)
        return response

    return change


def test_a_base_address_counts_wherever_it_stands(new_world: Callable[..., World]) -> None:
    """The pages are in another folder than they seem to be."""

    class Elsewhere(SimulatedBilasolur):
        def classify(self, request: Request) -> tuple[str, str]:
            if request.route.startswith("/is/carimage.aspx"):
                request.route = request.route.removeprefix("/is")
                self.moved += 1
            return super().classify(request)

        def answer(self, kind: str, which: str, request: Request) -> Response:
            response = super().answer(kind, which, request)
            if kind in {"results", "details"}:
                text = b"".join(response.parts).decode().replace('href="/', 'href="')
                response.body = re.sub('src="[^"]*CarImage', 'src="CarImage', text)
                response = based("/is/" if kind == "details" else "/")(response)
            return response

        moved = 0

    world = new_world(site=Elsewhere(cars=4, photos=2, photo_bytes_average=20_000))
    world.crawl()
    all_is_stored(world)
    assert world.site.moved == 8


def test_a_base_address_elsewhere_leads_nobody_away(new_world: Callable[..., World]) -> None:
    other = new_world().site
    world = new_world(site=Odd(based(other.base_url + "/"), kinds=("results",)))
    done = world.crawl(code=4)
    assert "has no car that can be read" in verdict(done)
    assert not other.served.requests


# ── Nobody else is asked

_WALL = """
import os, socket, time

def note(what):
    with open(os.environ["WALL"], "a") as file:
        file.write(f"{what}\\n")

def inside(host):
    return host in (None, "", b"", "localhost") or str(host).startswith("127.") or str(host) == "::1"

_connect, _getaddrinfo = socket.socket.connect, socket.getaddrinfo

def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not inside(address[0]):
        note(address)
        time.sleep(3600)
    return _connect(self, address)

def getaddrinfo(host, *arguments, **named):
    if not inside(host):
        note(host)
        time.sleep(3600)
    return _getaddrinfo(host, *arguments, **named)

socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
"""


def test_a_crawl_with_cookies_asks_nobody_else(new_world: Callable[..., World], tmp_path: Path) -> None:
    """The way out never answers, and no list was ever fetched."""
    (tmp_path / "wall").mkdir()
    (tmp_path / "wall" / "sitecustomize.py").write_text(_WALL)
    cookie = header("Set-Cookie", "ASP.NET_SessionId=abc; path=/; HttpOnly")
    world = new_world(site=Odd(cookie, kinds=("photo", *PAGES)))
    asked = tmp_path / "asked"
    done = world.crawl(
        env={
            "PYTHONPATH": f"{tmp_path / 'wall'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "WALL": str(asked),
            "HOME": str(tmp_path / "home"),
            "XDG_CACHE_HOME": str(tmp_path / "cold"),
        },
        timeout=40,
    )
    assert not asked.exists(), asked.read_text()
    assert "publicsuffix" not in done.stderr
    all_is_stored(world)
