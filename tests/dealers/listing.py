"""What the simulated dealers share, and those of cards: pages, photos, and what may be wrong with a card.

A site writes ``results`` (its page of cards), ``card`` and ``photo_tags``, and says what its cards tell::

    with SimulatedHekla(cars=40, photos=1) as site:
        site.sell(site.cars[3].cid)          # it leaves the list, and its own page answers 404
        site.set_card(cid, title="x" * 5000) # parts of a card, word for word as HTML
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from tests.dealers import cars as invented
from tests.dealers.cars import Car, Photo
from tests.dealers.faults import page
from tests.dealers.photos import KINDS, PhotoFactory
from tests.dealers.server import SimulatedSite
from tests.http_server import Request, Response

WIDTHS = (400, 1280)
T = TypeVar("T")


class SimulatedDealer(SimulatedSite):
    """A dealer with cars and photos. Every argument is also an attribute and may be changed while the site runs.

    Args:
        cars: how many there are at first.
        photos: how many each of them has; two numbers: from the first to the second.
        per_page: cars on a result page.
        ads_every: an advertisement card after so many cars; 0 for none.
        seed: another seed, other cars.
        photo_bytes_average: about how big a photo of full size is.
        labelled: draw each car's name on its photos.
        disallow: paths that robots.txt forbids.
    """

    def __init__(
        self,
        *,
        cars: int = 10,
        photos: int | tuple[int, int] = 1,
        per_page: int = 40,
        ads_every: int = 4,
        seed: int = 1,
        photo_bytes_average: int = 20_000,
        labelled: bool = False,
        disallow: Iterable[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self.per_page = per_page
        self.ads_every = ads_every
        self.disallow = list(disallow)
        self.factory = PhotoFactory(photo_bytes_average, labelled=labelled)
        self.cars: list[Car] = []
        """The truth, in the order of the results; change a car's fields at will."""
        self._all: dict[int, Car] = {}
        self._photos_each, self._seed = photos, seed
        for _ in range(cars):
            self.add_car()

    def _make(self, number: int) -> Car:
        car = invented.make_car(number, self._photos_each, self._seed)
        self._all[car.cid] = car
        return car

    # Orders

    def car(self, cid: int) -> Car:
        """The car with that *cid*. Raises KeyError."""
        return self._all[cid]

    def add_car(self) -> int:
        """One more car, at the end of the results; its cid."""
        self.cars.append(self._make(len(self.cars)))
        return self.cars[-1].cid

    def sell(self, cid: int) -> None:
        """The car leaves the results, and its own page says so."""
        self.car(cid).sold = True

    def set_car(self, cid: int, **fields: Any) -> None:
        """Change any field of a car: ``make="../../etc"``. Raises AttributeError for an unknown one."""
        for name, value in fields.items():
            setattr(self.car(cid), name, value)

    def set_photo(self, c: int, p: int | None, *, kind: str = "jpeg", src: str | None = None) -> None:
        """Serve a photo, or with *p* None each of the car's, as *kind*, a key of `photos.KINDS`.

        Pages print *src*, word for word, as its address; None stands for the true one.
        """
        if kind not in KINDS:
            raise ValueError(f"unknown kind of photo {kind!r}")
        for photo in self.car(c).photos:
            if p in {None, photo.p}:
                photo.kind, photo.src = kind, src

    def photo_bytes(self, c: int, p: int, w: int | None = None) -> bytes:
        """What is served for that photo when nothing goes wrong. Raises KeyError."""
        return b"".join(self._photo_parts(c, p, w)[0])

    def truth(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(car) | {"identities": car.identities} for car in list(self.cars)]

    # The site

    def _photo_parts(self, c: int, p: int, w: int | None) -> tuple[tuple[bytes, ...], str]:
        car = self.car(c)
        photo = next((each for each in car.photos if each.p == p), None)
        if photo is None:
            raise KeyError(p)
        return self.factory.photo(photo.name, car.look, photo.view, w, photo.kind)

    def _photo(self, which: str, request: Request) -> Response:
        c, _, p = which.partition("/")
        w = request.query.get("w", "")
        try:
            parts, content_type = self._photo_parts(int(c), int(p), int(w) if w.isdecimal() else None)
        except (KeyError, ValueError):
            return page("404", "Myndin fannst ekki.", status=404)
        return Response(body=parts, content_type=content_type)

    def _robots(self, _which: str = "", _request: Request | None = None) -> Response:
        lines = ["User-agent: *", *(f"Disallow: {path}" for path in self.disallow or [""])]
        return Response(body="\n".join(lines) + "\n", content_type="text/plain")

    def _with_ads(self, cards: Iterable[T], ads: tuple[T, ...]) -> list[T]:
        """The cards of a page, an advertisement after each `ads_every` of them."""
        shown = []
        for place, card in enumerate(cards, 1):
            shown.append(card)
            if self.ads_every and place % self.ads_every == 0:
                shown.append(ads[place // self.ads_every % len(ads)])
        return shown


class SimulatedListing(SimulatedDealer):
    """A site of result pages with cards.

    Args:
        past_end: what a page past the last one is: "repeat" (of the last), "empty" or "404".
        sold_as: the status of a sold car's own page.
        pager: what leads to the other pages: "own" (as the site has it) or a key of `PAGERS`.
        options: those of every dealer.
    """

    results_path: ClassVar[str]
    """Of the first result page, with its slash."""
    car_path: ClassVar[str]
    """Of a car's own page, up to its id."""
    title: ClassVar[str]
    ads: ClassVar[tuple[str, ...]]

    def __init__(self, *, past_end: str = "repeat", sold_as: int = 404, pager: str = "own", **options: Any) -> None:
        super().__init__(**options)
        self.past_end = past_end
        self.sold_as = sold_as
        self.pager = pager
        self._card_parts: dict[int, dict[str, str]] = {}
        self.max_asked_page = 0

    # What a site writes

    def results(self, cards: str, number: int, last: int) -> str:
        """The page's body; *number* is the page that was asked for."""
        raise NotImplementedError

    def card(self, parts: dict[str, str]) -> str:
        """The card of these parts (HTML): title, price, when, distance, fuel, gears, drive, photos, link."""
        raise NotImplementedError

    def parts(self, car: Car) -> dict[str, str]:
        """The parts of the car's card as the site prints them (HTML)."""
        raise NotImplementedError

    def shown_photos(self, car: Car) -> list[Photo]:
        """Those that the card shows."""
        return car.photos[:1]

    def photo_address(self, car: Car, photo: Photo) -> str:
        """The whole address at which a crawl is to ask for the photo, of those that the card offers."""
        raise NotImplementedError

    # Orders

    def drop(self, cid: int) -> None:
        """The car leaves the results; its own page lives on."""
        self.cars = [car for car in self.cars if car.cid != cid]

    def set_card(self, cid: int, **parts: str) -> None:
        """Print these parts of a car's card word for word, as HTML; none: as they are."""
        self._card_parts[cid] = parts

    def identity(self, car: Car, photo: Photo) -> str:
        """The identity of a photo: the car's id and a digest of the path, sizes apart."""
        path = urlsplit(self.photo_address(car, photo)).path
        return f"{car.cid}/{hashlib.sha256(path.encode()).hexdigest()[:24]}"

    # The site

    def classify(self, request: Request) -> tuple[str, str]:
        route = request.route
        if route == "/robots.txt":
            return "robots", ""
        if route.rstrip("/") == self.results_path.rstrip("/"):
            return "results", request.query.get("page", "1")
        if route.startswith(self.car_path):
            return "details", route.removeprefix(self.car_path)
        name = route.rpartition("/")[2]
        if name.endswith(".jpg") and name.count("-") == 1:
            return "photo", name.removesuffix(".jpg").replace("-", "/")
        return "other", ""

    def answer(self, kind: str, which: str, request: Request) -> Response:
        if kind == "robots":
            return self._robots()
        if kind == "results" and which.isdecimal():
            return self._results(int(which))
        if kind == "details" and which.isdecimal() and int(which) in self._all:
            return self._details(self._all[int(which)])
        if kind == "photo":
            return self._photo(which, request)
        return page("404", "Síðan fannst ekki.", status=404)

    def _results(self, asked: int) -> Response:
        self.max_asked_page = max(self.max_asked_page, asked)
        found = [car for car in list(self.cars) if not car.sold]
        last = max(1, -(-len(found) // self.per_page))
        if asked > last and self.past_end == "404":
            return page("404", "Síðan fannst ekki.", status=404)
        shown = last if asked > last and self.past_end == "repeat" else asked
        on_page = found[(shown - 1) * self.per_page : shown * self.per_page]
        cards = self._with_ads((self.card(self.told(car)) for car in on_page), self.ads)
        body = self.results("\n".join(cards), asked, last)
        if self.pager != "own":
            following = asked + 1 if asked < last else None
            body += PAGERS[self.pager](f"{self.results_path}?page={{}}", asked, last, following)
        return self._page(self.title.format(asked), body)

    def told(self, car: Car) -> dict[str, Any]:
        """The parts of a car's card, with what `set_card` has put in their place."""
        return self.parts(car) | {"link": self.link(car)} | self._card_parts.get(car.cid, {})

    def link(self, car: Car) -> str:
        """The address of the car's own page, as a card prints it."""
        return f"{self.car_path}{car.cid}"

    def _details(self, car: Car) -> Response:
        """Nothing is known of these pages but that they are there."""
        if car.sold:
            return page(str(self.sold_as), "Síðan fannst ekki.", status=self.sold_as)
        return self._page(html.escape(car.model), f"<h1>{html.escape(f'{car.make} {car.model}')}</h1>")

    @staticmethod
    def _page(title: str, body: str) -> Response:
        head = f'<head><meta charset="utf-8"><title>{title}</title></head>'
        return Response(body=f'<!DOCTYPE html>\n<html lang="is">{head}\n<body>\n{body}\n</body></html>\n'.encode())


def _numbers(address: str, _asked: int, last: int, _following: int | None) -> str:
    links = "".join(f'<li><a href="{html.escape(address.format(n))}">{n}</a></li>' for n in range(1, last + 1))
    return f"<ul>{links}</ul>"


def _link(inner: str, attributes: str = "") -> Callable[[str, int, int, int | None], str]:
    def pager(address: str, _asked: int, _last: int, following: int | None) -> str:
        return f'<a {attributes} href="{html.escape(address.format(following))}">{inner}</a>' if following else ""

    return pager


def _button(address: str, _asked: int, _last: int, following: int | None) -> str:
    action = html.escape(address.partition("?")[0])
    button = f'<button name="page" value="{following}">Sjá meira</button>' if following else ""
    return f'<form action="{action}">{button}</form>'


def _hidden(address: str, _asked: int, _last: int, following: int | None) -> str:
    action, field = html.escape(address.partition("?")[0]), f'<input type="hidden" name="page" value="{following}">'
    return f'<form action="{action}">{field}<button>Næsta</button></form>' if following else ""


def _of(_address: str, asked: int, last: int, _following: int | None) -> str:
    return f'<div class="pagination"><b>{min(asked, last)}</b> / <b>{last}</b></div>'


PAGERS: dict[str, Callable[[str, int, int, int | None], str]] = {
    "none": lambda *_: "",
    "numbers": _numbers,
    "text": _link("Næsta síða"),
    "label": _link('<svg class="i-12"></svg>', 'aria-label="Next"'),
    "address": _link('<i class="x"></i>'),
    "button": _button,
    "hidden": _hidden,
    "of": _of,
    "always last": lambda _address, asked, _last, _following: f'<p class="pages">{asked} / {asked}</p>',
}
"""What may lead from page to page: of the list's address, the page, the last page and the next one (or None) HTML."""


def dotted(number: int) -> str:
    """``6.290.000``."""
    return f"{number:,}".replace(",", ".")
