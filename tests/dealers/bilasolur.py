"""A simulated bilasolur.is: ASP.NET WebForms search, result pages, details pages, photos, and their oddities.

In process::

    with SimulatedBilasolur(cars=40, photos=5) as site:
        site.base_url, site.cars[0].price, site.served.counts["photo"]
        site.sell(site.cars[3].cid)

As a process of its own, steered through ``/_control/`` (see server.py) or by `server.Remote`::

    python -m tests.dealers.bilasolur --port 0 --cars 40 --photos 10-28 --layout 2026

What it does as the real site was seen to do: a POST needs a ``__VIEWSTATE`` that a page view gave out
and the whole form, and ends at ``SearchResults.aspx?page=1&id=<GUID>``; an unknown GUID goes to the home
page, where a few featured cars stand as cards; **a page past the last one repeats the last page's cars,
with a link to the page after it, for ever**; advertisements stand among the cards; a sold car's page says
so with status 200; a photo is named by ``c`` and ``p``, whatever ``w`` and ``s`` are, and may stop
answering until a page that shows it was rendered again.

The site was seen in two layouts. ``2019``: 40 cars a page, fuel and gears on the card, ``150 hestöfl``.
``2026``: 48 cars a page, an anchor ``rnr_<bid>_<cid>_<sid>`` before each card, distance, fuel and drive on
the card, icons from a font of the site's own, car pages with ``cd-`` classes, and the advanced search at
``SearchCars.aspx``, which finds one car by its number and the cars that changed within so many days.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import datetime as dt
import hashlib
import html
import itertools
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from tests.dealers import cars as invented
from tests.dealers.bilasolur_pages import AD_CARDS, CARDS, GONE, OWN_PAGES, PAGE_STEPS, link_to, paging, whole_page
from tests.dealers.bilasolur_search import (
    ADVANCED,
    ADVANCED_FIELDS,
    ADVANCED_SELECTS,
    FORM_FIELDS,
    GENERATOR,
    PREFIX,
    advanced_form,
    home_form,
)
from tests.dealers.cars import Car, Photo
from tests.dealers.faults import apply_step, page
from tests.dealers.listing import SimulatedDealer
from tests.dealers.server import serve_until_stopped
from tests.http_server import Request, Response

LAYOUT = "2026"
"""The layout of a site that is not told otherwise."""
PER_PAGE = {"2019": 40, "2026": 48}
FORMS = {"2019": ("home",), "2026": ("home", "advanced")}
SESSION = "ASP.NET_SessionId"
VIEWSTATE_SECONDS = 1200.0
NOTHING_FOUND = "Engar niðurstöður"
KINDS_BY_ROUTE = {
    "/": "home",
    "/default.aspx": "home",
    "/section.aspx": "home",
    "/searchresults.aspx": "results",
    "/searchcars.aspx": "advanced",
    "/cardetails.aspx": "details",
    "/carimage.aspx": "photo",
    "/robots.txt": "robots",
}


@dataclasses.dataclass(slots=True)
class Search:
    number: int
    """The ``schid`` in the links of its results."""
    make: int | None = None
    """The make's number, None for all."""
    cid: int | None = None
    """The one car that is looked for."""
    bid: int | None = None
    days: int | None = None
    """Changed within so many days."""


class SimulatedBilasolur(SimulatedDealer):
    """The site.

    Args:
        layout: "2019" or "2026".
        per_page: cars on a result page; None for the layout's 40 or 48.
        endless: every page past the last one is full of cars that were never seen before.
        featured: cards on the home page.
        forms: "home" and "advanced", the search forms that are there; None for those of the layout.
        cid_leads_to: what a search for one car's number leads to, "results" or "details".
        options: those of every dealer.
    """

    first_page = "page=1&"
    """What the address of the first result page has before the search's ``id``."""
    page_steps: ClassVar = PAGE_STEPS

    def __init__(
        self,
        *,
        layout: str = LAYOUT,
        per_page: int | None = None,
        endless: bool = False,
        featured: int = 4,
        forms: Iterable[str] | None = None,
        cid_leads_to: str = "results",
        **options: Any,
    ) -> None:
        usual = {"cars": 40, "photos": 3, "ads_every": 10, "photo_bytes_average": 60_000}
        super().__init__(per_page=per_page or PER_PAGE[layout], **usual | options)
        self.layout = layout
        self.expired_as = "404"
        self.endless = endless
        self.featured = featured
        self.forms = list(FORMS[layout] if forms is None else forms)
        self.cid_leads_to = cid_leads_to
        self.today = invented.TODAY
        self._generation = 0
        self._card_faults: dict[int, str] = {}
        self._viewstates: dict[str, float] = {}
        self._searches: dict[str, Search] = {}
        self._numbers = itertools.count(1)
        self._rendered: dict[tuple[int, int], float] = {}
        self._expired_at = float("-inf")

    # Orders

    def relist(self, cid: int) -> None:
        """The car comes (back) with a new ``sid``."""
        self.car(cid).sold = False
        self.car(cid).sid += 1_000_000

    def touch(self, cid: int) -> None:
        """The car is changed (or only said to be) today."""
        self.car(cid).updated = self.today

    def change_price(self, cid: int, price: int | None, before_offer: int | None = None) -> None:
        self.set_car(cid, price=price, price_before_offer=before_offer)

    def add_photo(self, cid: int) -> int:
        """One more photo at the end; its id."""
        car = self.car(cid)
        return invented.append_photo(car, self._seed, self._generation).p

    def renumber_photos(self) -> None:
        """Every photo gets a new id for the same bytes; the old addresses answer 404."""
        self._generation += 1
        for car in self._all.values():
            for photo in car.photos:
                photo.p += invented.PHOTO_IDS_PER_GENERATION

    def expire_all(self, mode: str = "404") -> None:
        """All photo addresses are dead, until a page that shows them is rendered again."""
        self.expired_as = mode
        self._expired_at = time.monotonic()

    def photo_fault(self, c: int, p: int | None, steps: list[str], sticky: bool = False) -> None:
        """Faults for one photo, or with *p* None for each photo of a car. For all photos: `fault`."""
        for photo in self.car(c).photos:
            if p in {None, photo.p}:
                self.fault(f"photo:{c}/{photo.p}", steps, sticky)

    def card_fault(self, cid: int, fault: str) -> None:
        """Spoil a card: "no-cid" in its link, "garbage" in its fields, "bare" (a link only); "" mends."""
        if fault not in {"", "no-cid", "garbage", "bare"}:
            raise ValueError(f"unknown card fault {fault!r}")
        self._card_faults[cid] = fault

    # The site

    def classify(self, request: Request) -> tuple[str, str]:
        kind = KINDS_BY_ROUTE.get(request.route, "other")
        if kind == "photo":
            query = request.query
            return kind, f"{query.get('c', '')}/{query.get('p', '')}"
        if kind == "details":
            return kind, request.query.get("cid", "")
        if kind == "results":
            return kind, request.query.get("page", "")
        if kind in {"home", "advanced"} and request.method == "POST":
            return "search", ""
        return kind, ""

    def answer(self, kind: str, which: str, request: Request) -> Response:
        answers: dict[str, Callable[[str, Request], Response]] = {
            "photo": self._photo,
            "details": self._details,
            "results": self._results,
            "search": self._search,
            "home": self._home,
            "advanced": self._advanced,
            "robots": self._robots,
        }
        if kind not in answers:
            return page("404", "Síðan fannst ekki.", status=404)
        response = answers[kind](which, request)
        if kind not in {"photo", "robots"} and SESSION not in request.header("Cookie"):
            session = hashlib.sha256(f"session {next(self._numbers)}".encode()).hexdigest()[:24]
            response.headers += (("Set-Cookie", f"{SESSION}={session}; path=/; HttpOnly; SameSite=Lax"),)
        return response

    # Pages

    def _home(self, _which: str, _request: Request) -> Response:
        search = home_form(self._viewstate()) if "home" in self.forms else ""
        on_sale = [car for car in list(self.cars) if not car.sold]
        featured = "".join(self._card(car, 0, 1) for car in on_sale[-self.featured :] if self.featured)
        content = f'{search}\n<div class="featured">\n{featured}</div>' if featured else search
        return whole_page("Bílasölur.is - Notaðir bílar og nýir", content)

    def _advanced(self, _which: str, _request: Request) -> Response:
        if "advanced" not in self.forms:
            return page("404", "Síðan fannst ekki.", status=404)
        return whole_page("Ítarleg leit", advanced_form(self._viewstate()))

    def _viewstate(self) -> str:
        text = hashlib.sha256(f"{self._seed}/{next(self._numbers)}".encode()).digest() * 4
        viewstate = base64.b64encode(text).decode()
        self._viewstates[viewstate] = time.monotonic()
        return viewstate

    def _search(self, which: str, request: Request) -> Response:
        form = request.form
        advanced = request.route == "/searchcars.aspx"
        prefix, fields = (ADVANCED, ADVANCED_FIELDS) if advanced else (PREFIX, FORM_FIELDS)
        if ("advanced" if advanced else "home") not in self.forms:
            return page("404", "Síðan fannst ekki.", status=404)
        issued = self._viewstates.get(form.get("__VIEWSTATE", ""), float("-inf"))
        if time.monotonic() - issued > VIEWSTATE_SECONDS or form.get("__VIEWSTATEGENERATOR") != GENERATOR:
            return _server_error("Validation of viewstate MAC failed.")
        if missing := fields - form.keys():
            return _server_error(f"Invalid postback or callback argument. {min(missing)}")
        if f"{prefix}btnSearch" not in form:  # no button was pressed: WebForms shows the page again
            return self._advanced(which, request) if advanced else self._home(which, request)
        chosen = form[f"{prefix}search_f1"]
        if chosen != "-1" and chosen not in {str(number) for number, _ in invented.MAKES.values()}:
            return _server_error("Invalid postback or callback argument. search_f1")
        make = None if chosen == "-1" else int(chosen)
        if not advanced:
            return self._new_search(make)

        def number(name: str) -> int | None:
            """What was chosen or written; what is not offered is silently ignored."""
            value = form.get(ADVANCED + name, "").strip()
            offered = ADVANCED_SELECTS.get(name, ("", ()))[1]
            known = not offered or value in map(str, offered)
            return int(value) if value.isdecimal() and known else None

        cid = number("search_cid")
        car = self._all.get(cid) if cid is not None else None
        if self.cid_leads_to == "details" and car is not None and not car.sold:
            return _redirect(f"/CarDetails.aspx?bid={car.bid}&cid={car.cid}&sid={car.sid}")
        return self._new_search(make, cid=cid, bid=number("search_btshid"), days=number("search_modage"))

    def _new_search(self, make: int | None, **what: int | None) -> Response:
        """Store a search and lead to its first page."""
        number = next(self._numbers)
        guid = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self._seed}/{number}"))
        self._searches[guid] = Search(number, make, **what)
        first_page = self.first_page if self.layout == "2019" else ""
        return _redirect(f"/SearchResults.aspx?{first_page}id={guid}")

    def _finds(self, search: Search, car: Car) -> bool:
        """Whether the car is a result of that search."""
        return (
            not car.sold
            and _is_of(car, search.make)
            and search.cid in {None, car.cid}
            and search.bid in {None, car.bid}
            and (search.days is None or self.today - car.updated <= dt.timedelta(days=search.days))
        )

    def _results(self, which: str, request: Request) -> Response:
        guid = request.query.get("id", "")
        search = self._searches.get(guid.lower())
        if search is None:
            return _redirect("/")
        return self._result_page(search, guid, which)

    def _result_page(self, search: Search, guid: str, which: str) -> Response:
        asked = max(1, int(which) if which.isdecimal() else 1)
        found = [car for car in list(self.cars) if self._finds(search, car)]
        if not found:
            return whole_page("Leitarniðurstöður", f'<div class="search-result"><p>{NOTHING_FOUND}</p></div>')
        last = -(-len(found) // self.per_page)
        shown = min(asked, last)
        on_page = found[(shown - 1) * self.per_page : shown * self.per_page]
        if self.endless and asked > last:
            first = len(self.cars) + (asked - last - 1) * self.per_page
            on_page = [self._known_or_made(number) for number in range(first, first + self.per_page)]
        cards = self._with_ads((self._card(car, search.number, asked) for car in on_page), AD_CARDS)
        return whole_page(
            "Leitarniðurstöður",
            f'<div class="search-result">\n{"".join(cards)}</div>\n{self._paging(asked, guid)}',
        )

    def _known_or_made(self, number: int) -> Car:
        cid = invented.FIRST_CID + invented.CID_STEP * number
        return self._all.get(cid) or self._make(number)

    def _paging(self, asked: int, guid: str) -> str:
        return paging(self.layout, asked, guid)

    def _card(self, car: Car, schid: int, page_number: int) -> str:
        link = self._link_of(car, schid, page_number)
        return CARDS[self.layout](car, link, self._image, self._card_faults.get(car.cid, ""))

    def _link_of(self, car: Car, schid: int, page_number: int) -> str:
        cid = "" if self._card_faults.get(car.cid) == "no-cid" else f"&cid={car.cid}"
        return f"CarDetails.aspx?bid={car.bid}{cid}&sid={car.sid}&schid={schid}&schpage={page_number}"

    def _details(self, which: str, _request: Request) -> Response:
        number = invented.number_of(int(which)) if which.isdecimal() else None
        car = self._all.get(int(which)) if number is not None else None
        if car is None or car.sold:
            words = GONE[self.layout == "2026" and car is not None and car.number % 2]
            return whole_page("Bíll", f'<div class="car-details"><p>{words}</p></div>')
        return OWN_PAGES[self.layout](car, self._image)

    # Photos

    def _image(self, car: Car, photo: Photo, w: int, css_class: str) -> str:
        """A photo in a page, which makes its address (again) a living one."""
        self._rendered[car.cid, photo.p] = time.monotonic()
        address = f"CarImage.aspx?s={car.bid}&c={car.cid}&p={photo.p}&w={w}" if photo.src is None else photo.src
        return f'<img class="{css_class}" src="{html.escape(address)}" alt="">\n'

    def _photo(self, which: str, request: Request) -> Response:
        response = super()._photo(which, request)
        if response.status == 200 and self._expired_at > float("-inf"):
            c, p = map(int, which.split("/"))
            if self._rendered.get((c, p), float("-inf")) <= self._expired_at:
                return apply_step(self.expired_as, Response)
        return response


def _redirect(address: str) -> Response:
    body = f"<html><head><title>Object moved</title></head><body>{link_to(address, 'Object moved')}</body></html>"
    return Response(status=302, headers=(("Location", address),), body=body)


def _server_error(reason: str) -> Response:
    return page("Server Error in '/' Application.", html.escape(reason), status=500)


def _is_of(car: Car, make: int | None) -> bool:
    return make is None or list(invented.MAKES.values())[car.number % len(invented.MAKES)][0] == make


def _photos(text: str) -> int | tuple[int, int]:
    least, _, most = text.partition("-")
    return (int(least), int(most)) if most else int(least)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.dealers.bilasolur")
    add = parser.add_argument
    add("--port", type=int, default=0, help="0: any free one, which the printed JSON line names")
    add("--cars", type=int, default=40)
    add("--photos", type=_photos, default=3, help="photos of each car, or the least and the most of them: 10-28")
    add("--layout", choices=PER_PAGE, default=LAYOUT)
    add("--per-page", type=int, help="cars on a result page; by default 40 or, in 2026, 48")
    add("--photo-bytes-average", type=int, default=60_000, help="of a photo at full size")
    add("--stop-with-stdin", action="store_true", help="end when standard input ends")
    options = vars(parser.parse_args(argv))
    stop_with_stdin = options.pop("stop_with_stdin")
    site = SimulatedBilasolur(**options)
    site.factory.draw_all()
    serve_until_stopped(site, stop_with_stdin=stop_with_stdin)


if __name__ == "__main__":
    main()
