"""A simulated bilasolur.is: ASP.NET WebForms search, result pages, details pages, photos, and their oddities.

In process::

    with SimulatedBilasolur(cars=40, photos=5) as site:
        site.base_url, site.cars[0].price, site.served.counts["photo"]
        site.sell(site.cars[3].cid)

As a process of its own, steered through ``/_control/`` (see server.py) or by `server.Remote`::

    python -m tests.dealers.bilasolur --port 0 --cars 40 --photos 5 --labelled

What it does as the real site was seen to do: a POST needs a ``__VIEWSTATE`` that a page view gave out
and the whole form, and ends at ``SearchResults.aspx?page=1&id=<GUID>``; an unknown GUID goes to the home
page; **a page past the last one repeats the last page's cars, with a link to the page after it, for
ever**; advertisements stand among the cards; a sold car's page says so with status 200; a photo is named
by ``c`` and ``p``, whatever ``w`` and ``s`` are, and may stop answering until a page that shows it was
rendered again.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import hashlib
import html
import itertools
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from tests.dealers import cars as invented
from tests.dealers.cars import Car, Photo
from tests.dealers.faults import Response, apply_step, page
from tests.dealers.photos import KINDS, PhotoFactory
from tests.dealers.server import Request, SimulatedSite, serve_until_stopped

PREFIX = "ctl00$contentSearchEngine$ctl00$"
GENERATOR = "CA0B0334"
SELECTS = {
    "search_vf": ("Verð frá", range(500_000, 10_500_000, 500_000)),
    "search_vt": ("Verð til", range(500_000, 10_500_000, 500_000)),
    "search_arf": ("Árgerð frá", range(2026, 1989, -1)),
    "search_art": ("Árgerð til", range(2026, 1989, -1)),
    "search_ef": ("Ekinn frá", range(10_000, 210_000, 10_000)),
    "search_et": ("Ekinn til", range(10_000, 210_000, 10_000)),
}
"""The selects besides the make. They have to come along in a POST; the search does not filter by them."""
HIDDEN = ("src_f1_hidden", "src_g1_hidden")
FORM_FIELDS = {"__EVENTTARGET", "__EVENTARGUMENT", *(PREFIX + f for f in ("search_f1", *SELECTS, *HIDDEN))}
"""What has to come along in a POST besides the two checked by value and the button."""
VIEWSTATE_SECONDS = 1200.0
CARD_PHOTOS = 3
GONE = "Engar upplýsingar fundust um ökutæki."
NOTHING_FOUND = "Engar niðurstöður"
KINDS_BY_ROUTE = {
    "/": "home",
    "/default.aspx": "home",
    "/section.aspx": "home",
    "/searchresults.aspx": "results",
    "/cardetails.aspx": "details",
    "/carimage.aspx": "photo",
    "/robots.txt": "robots",
}


NEW_LAYOUT = (
    ("sr-item", "vehicle-tile"),
    ("sr-link", "vehicle-link"),
    ("car-", "vehicle-"),
    ("CarImage.aspx", "media.ashx"),
    ("tech-details", "facts"),
    ("hestöfl", "hö"),
)
"""Step ``layout``: the site was redesigned, so nothing is found where it was."""
GARBAGE = (
    ("hestöfl", "000000000000000000000 hestöfl"),
    ("Síðast uppfært ", "Síðast uppfært 31.2."),
    ("Innanbæjareyðsla ", "Innanbæjareyðsla ∞,"),
    ("Raðnúmer", "Raðnúmer ²"),
    (" dyra", "² dyra"),
    ("CarImage.aspx?", "CarImage.aspx?p=²&amp;c=[::1&amp;"),
)
"""Step ``garbage``: values in a details page that make a careless parser raise."""


@dataclasses.dataclass(slots=True)
class Search:
    number: int
    """The ``schid`` in the links of its results."""
    make: int | None
    """The make's number, None for all."""


class SimulatedBilasolur(SimulatedSite):
    """The site. Every argument is also an attribute and may be changed while it runs.

    Args:
        cars: how many there are at first.
        photos: how many each of them has.
        per_page: cars on a result page.
        ads_every: an advertisement card after so many cars; 0 for none.
        seed: another seed, other cars.
        photo_bytes_average: about how big a photo of full size is.
        labelled: draw each car's name on its photos.
        photo_ttl: seconds that a photo's address works after a page showing it was rendered; None for ever.
        expired_as: the fault step a dead address answers with: "404", "403", "html200", "placeholder".
        last_page_links_on: False: the last page has no next link.
        endless: every page past the last one is full of cars that were never seen before.
        disallow: paths that robots.txt forbids.
    """

    first_page = "page=1&"
    """What the address of the first result page has before the search's ``id``."""
    page_steps: ClassVar = {"layout": NEW_LAYOUT, "garbage": GARBAGE}
    settable = SimulatedSite.settable | {
        "per_page",
        "ads_every",
        "photo_ttl",
        "expired_as",
        "last_page_links_on",
        "endless",
        "disallow",
    }
    orders = SimulatedSite.orders | {
        "sell",
        "change_price",
        "relist",
        "set_car",
        "set_photo",
        "add_photo",
        "add_car",
        "renumber_photos",
        "expire_all",
        "photo_fault",
        "card_fault",
    }

    def __init__(
        self,
        *,
        cars: int = 40,
        photos: int = 3,
        per_page: int = 40,
        ads_every: int = 10,
        seed: int = 1,
        photo_bytes_average: int = 60_000,
        labelled: bool = False,
        photo_ttl: float | None = None,
        expired_as: str = "404",
        last_page_links_on: bool = True,
        endless: bool = False,
        disallow: Iterable[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self.per_page = per_page
        self.ads_every = ads_every
        self.photo_ttl = photo_ttl
        self.expired_as = expired_as
        self.last_page_links_on = last_page_links_on
        self.endless = endless
        self.disallow = list(disallow)
        self.factory = PhotoFactory(photo_bytes_average, labelled=labelled)
        self.cars: list[Car] = []
        """The truth, in the order of the results; change a car's fields at will."""
        self._photos_each = photos
        self._seed = seed
        self._by_cid: dict[int, Car] = {}
        self._photo_index: dict[tuple[int, int], tuple[Car, Photo]] = {}
        self._generation = 0
        self._card_faults: dict[int, str] = {}
        self._viewstates: dict[str, float] = {}
        self._searches: dict[str, Search] = {}
        self._numbers = itertools.count(1)
        self._rendered: dict[tuple[int, int], float] = {}
        self._expired_at = float("-inf")
        for _ in range(cars):
            self.add_car()

    # Orders

    def car(self, cid: int) -> Car:
        """The car with that *cid*. Raises KeyError."""
        return self._by_cid[cid]

    def add_car(self) -> int:
        """One more car, at the end of the results; its cid."""
        car = self._make(len(self.cars))
        self.cars.append(car)
        return car.cid

    def sell(self, cid: int) -> None:
        """The car leaves the results and its page says that nothing was found."""
        self.car(cid).sold = True

    def relist(self, cid: int) -> None:
        """The car comes (back) with a new ``sid``."""
        self.car(cid).sold = False
        self.car(cid).sid += 1_000_000

    def change_price(self, cid: int, price: int | None, before_offer: int | None = None) -> None:
        self.set_car(cid, price=price, price_before_offer=before_offer)

    def set_car(self, cid: int, **fields: Any) -> None:
        """Change any field of a car: ``make="../../etc"``. Raises AttributeError for an unknown one."""
        for name, value in fields.items():
            setattr(self.car(cid), name, value)

    def add_photo(self, cid: int) -> int:
        """One more photo at the end; its id."""
        car = self.car(cid)
        photo = invented.append_photo(car, self._seed, self._generation)
        self._photo_index[cid, photo.p] = car, photo
        return photo.p

    def set_photo(self, c: int, p: int | None, *, kind: str = "jpeg", src: str | None = None) -> None:
        """Serve a photo, or with *p* None each of the car's, as *kind*, a key of `photos.KINDS`.

        Pages print *src*, word for word, as its address; None stands for the true one.
        """
        if kind not in KINDS:
            raise ValueError(f"unknown kind of photo {kind!r}")
        for photo in self.car(c).photos:
            if p in {None, photo.p}:
                photo.kind, photo.src = kind, src

    def renumber_photos(self) -> None:
        """Every photo gets a new id for the same bytes; the old addresses answer 404."""
        self._generation += 1
        self._photo_index.clear()
        for car in list(self._by_cid.values()):
            for photo in car.photos:
                photo.p += invented.PHOTO_IDS_PER_GENERATION
                self._photo_index[car.cid, photo.p] = car, photo

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

    def photo_bytes(self, c: int, p: int, w: int | None = None) -> bytes:
        """What the site serves for that photo when nothing goes wrong. Raises KeyError."""
        return b"".join(self._photo_parts(c, p, w)[0])

    def truth(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(car) | {"identities": car.identities} for car in list(self.cars)]

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
        if kind == "home" and request.method == "POST":
            return "search", ""
        return kind, ""

    def answer(self, kind: str, which: str, request: Request) -> Response:
        answers: dict[str, Callable[[str, Request], Response]] = {
            "photo": self._photo,
            "details": self._details,
            "results": self._results,
            "search": self._search,
            "home": self._home,
            "robots": self._robots,
        }
        if kind in answers:
            return answers[kind](which, request)
        return page("404", "Síðan fannst ekki.", status=404)

    def _command(self, command: str, order: dict[str, Any], request: Request) -> Any:
        if command == "photo":
            query = request.query
            w = int(query["w"]) if query.get("w") else None
            parts, content_type = self._photo_parts(int(query["c"]), int(query["p"]), w)
            return Response(body=parts, content_type=content_type)
        return super()._command(command, order, request)

    def _make(self, number: int) -> Car:
        car = invented.make_car(number, self._photos_each, self._seed)
        self._by_cid[car.cid] = car
        self._photo_index.update({(car.cid, photo.p): (car, photo) for photo in car.photos})
        return car

    # Pages

    def _robots(self, _which: str, _request: Request) -> Response:
        lines = ["User-agent: *", *(f"Disallow: {path}" for path in self.disallow or [""])]
        return Response(body="\n".join(lines) + "\n", content_type="text/plain")

    def _home(self, _which: str, _request: Request) -> Response:
        text = hashlib.sha256(f"{self._seed}/{next(self._numbers)}".encode()).digest() * 4
        viewstate = base64.b64encode(text).decode()
        self._viewstates[viewstate] = time.monotonic()
        makes = "".join(
            f'<option value="{number}">{html.escape(make)}</option>' for make, (number, _) in invented.MAKES.items()
        )
        selects = "".join(
            f'<select name="{PREFIX}{name}"><option selected="selected" value="-1">{label}</option>'
            + "".join(f'<option value="{value}">{value}</option>' for value in values)
            + "</select>\n"
            for name, (label, values) in SELECTS.items()
        )
        hidden = "".join(f'<input type="hidden" name="{PREFIX}{name}" value="" />\n' for name in HIDDEN)
        return _page(
            "Bílasölur.is - Notaðir bílar og nýir",
            f"""<form method="post" action="./" id="aspnetForm">
<div class="aspNetHidden">
<input type="hidden" name="__EVENTTARGET" id="__EVENTTARGET" value="" />
<input type="hidden" name="__EVENTARGUMENT" id="__EVENTARGUMENT" value="" />
<input type="hidden" name="__VIEWSTATE" id="__VIEWSTATE" value="{viewstate}" />
<input type="hidden" name="__VIEWSTATEGENERATOR" id="__VIEWSTATEGENERATOR" value="{GENERATOR}" />
</div>
<select name="{PREFIX}search_f1">
<option selected="selected" value="-1">Allir framleiðendur</option>{makes}</select>
{selects}{hidden}<input type="submit" name="{PREFIX}btnSearch" value="Leita" class="btn-search" />
</form>""",
        )

    def _search(self, which: str, request: Request) -> Response:
        form = request.form
        issued = self._viewstates.get(form.get("__VIEWSTATE", ""), float("-inf"))
        if time.monotonic() - issued > VIEWSTATE_SECONDS or form.get("__VIEWSTATEGENERATOR") != GENERATOR:
            return _server_error("Validation of viewstate MAC failed.")
        if missing := FORM_FIELDS - form.keys():
            return _server_error(f"Invalid postback or callback argument. {min(missing)}")
        if f"{PREFIX}btnSearch" not in form:
            return self._home(which, request)  # no button was pressed: WebForms shows the page again
        chosen = form[f"{PREFIX}search_f1"]
        if chosen != "-1" and chosen not in {str(number) for number, _ in invented.MAKES.values()}:
            return _server_error("Invalid postback or callback argument. search_f1")
        return self._new_search(None if chosen == "-1" else int(chosen))

    def _new_search(self, make: int | None) -> Response:
        """Store a search and lead to its first page."""
        number = next(self._numbers)
        guid = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self._seed}/{number}"))
        self._searches[guid] = Search(number, make)
        return _redirect(f"/SearchResults.aspx?{self.first_page}id={guid}")

    def _results(self, which: str, request: Request) -> Response:
        guid = request.query.get("id", "")
        search = self._searches.get(guid.lower())
        if search is None:
            return _redirect("/")
        return self._result_page(search, guid, which)

    def _result_page(self, search: Search, guid: str, which: str) -> Response:
        asked = max(1, int(which) if which.isdecimal() else 1)
        found = [car for car in list(self.cars) if not car.sold and _is_of(car, search.make)]
        if not found:
            return _page("Leitarniðurstöður", f'<div class="search-result"><p>{NOTHING_FOUND}</p></div>')
        last = -(-len(found) // self.per_page)
        shown = min(asked, last)
        on_page = found[(shown - 1) * self.per_page : shown * self.per_page]
        if self.endless and asked > last:
            first = len(self.cars) + (asked - last - 1) * self.per_page
            on_page = [self._known_or_made(number) for number in range(first, first + self.per_page)]
        cards = []
        for place, car in enumerate(on_page, 1):
            cards.append(self._card(car, search.number, asked))
            if self.ads_every and place % self.ads_every == 0:
                cards.append(_AD_CARDS[place // self.ads_every % len(_AD_CARDS)])
        return _page(
            "Leitarniðurstöður",
            f'<div class="search-result">\n{"".join(cards)}</div>\n{self._paging(asked, last, guid)}',
        )

    def _paging(self, asked: int, last: int, guid: str) -> str:
        """What leads from a result page to the others."""
        arrow = '<i class="fa fa-angle-{}"></i>'
        cells = []
        if asked > 1:
            cells.append(_link(f"SearchResults.aspx?page={asked - 1}&id={guid}", arrow.format("left")))
        cells.append(f"<span>{asked}</span>")
        if asked < last or self.last_page_links_on or self.endless:
            cells.append(_link(f"SearchResults.aspx?page={asked + 1}&id={guid}", arrow.format("right")))
        paging = "".join(f'<div class="pagingCell">{cell}</div>' for cell in cells)
        return f'<div class="paging">{paging}</div>'

    def _known_or_made(self, number: int) -> Car:
        cid = invented.FIRST_CID + invented.CID_STEP * number
        return self._by_cid.get(cid) or self._make(number)

    def _card(self, car: Car, schid: int, page_number: int) -> str:
        fault = self._card_faults.get(car.cid, "")
        cid = "" if fault == "no-cid" else f"&cid={car.cid}"
        link = f"CarDetails.aspx?bid={car.bid}{cid}&sid={car.sid}&schid={schid}&schpage={page_number}"
        photos = "".join(
            self._image(car, photo, (400, 784)[place % 2], "swiper-slide")
            for place, photo in enumerate(car.photos[:CARD_PHOTOS])
        )
        first, second, price = _when_and_fuel(car), _distance_and_gears(car), price_of(car)
        make, model = html.escape(car.make.upper()), html.escape(car.model)
        if fault == "garbage":
            first, second, price = "13/20x9 · ¿", "∞ km. · ", "kr. 2.99O.000,- / ²"
        text = f"""<div class="car-info">
<div class="car-make-and-model"><span class="car-make">{make}</span> {model}</div>
<div class="tech-details"><div>{first}</div><div>{second}</div></div>
<div class="car-price">{price}</div>
</div>"""
        if fault == "bare":
            photos = text = ""
        return f"""<div class="sr-item">
<a class="sr-link" href="{html.escape(link)}">
<div class="swiper-container"><div class="swiper-wrapper">{photos}</div></div>
{text}
</a>
</div>
"""

    def _details(self, which: str, _request: Request) -> Response:
        number = invented.number_of(int(which)) if which.isdecimal() else None
        car = self._by_cid.get(int(which)) if number is not None else None
        if car is None or car.sold:
            return _page("Bíll", f'<div class="car-details"><p>{GONE}</p></div>')
        # Each photo twice, as a slider and its thumbnails have it: one photo, two widths.
        slides = "".join(self._image(car, photo, 784, "slide") for photo in car.photos)
        thumbs = "".join(self._image(car, photo, 400, "thumb") for photo in car.photos)
        consumption = car.city_consumption
        engine = [
            car.fuel,
            f"{car.horsepower} hestöfl",
            consumption and f"Innanbæjareyðsla {consumption:.1f} l/100km".replace(".", ","),
        ]
        sections = {
            "Vél": [line for line in engine if line],
            "Drif og skipting": [car.drivetrain, car.transmission],
            "Yfirbygging": [car.body, f"{car.doors} dyra", f"{car.seats} manna", f"Litur: {car.colour}"],
            "Hjólabúnaður": [car.tyres],
        }
        blocks = "".join(_info_block(title, lines) for title, lines in sections.items())
        make, model = html.escape(car.make.upper()), html.escape(car.model)
        when = f"{car.month}/{car.year}" if car.month else str(car.year)
        updated = f"{car.updated.day}.{car.updated.month}.{car.updated.year}"
        return _page(
            f"{make} {model}",
            f"""<div class="car-details">
<div class="gallery">
{slides}</div>
<div class="thumbs">
{thumbs}</div>
<h1 class="car-make-and-model"><span class="car-make">{make}</span> {model}</h1>
<div class="car-price">{price_of(car)}</div>
<div class="tech-details"><div>{_when_and_fuel(car)}</div><div>{_distance_and_gears(car)}</div></div>
<div class="info-line">Raðnúmer {car.cid}</div>
<div class="info-line">Nýskráning {when}</div>
<div class="info-line">Síðast uppfært {updated}</div>
{blocks}<div class="description"><h3>Nánari upplýsingar</h3><p>{html.escape(car.description)}</p></div>
<div class="dealer"><h3>Söluaðili</h3><div class="dealer-name">{html.escape(car.dealer_name)}</div></div>
</div>""",
        )

    # Photos

    def _image(self, car: Car, photo: Photo, w: int, css_class: str) -> str:
        """A photo in a page, which makes its address (again) a living one."""
        self._rendered[car.cid, photo.p] = time.monotonic()
        address = f"CarImage.aspx?s={car.bid}&c={car.cid}&p={photo.p}&w={w}" if photo.src is None else photo.src
        return f'<img class="{css_class}" src="{html.escape(address)}" alt="">\n'

    def _photo(self, which: str, request: Request) -> Response:
        c, _, p = which.partition("/")
        w = request.query.get("w", "")
        try:
            parts, content_type = self._photo_parts(int(c), int(p), int(w) if w.isdecimal() else None)
        except (KeyError, ValueError):
            return page("404", "Myndin fannst ekki.", status=404)
        if self._is_dead(int(c), int(p)):
            return apply_step(self.expired_as, Response)
        return Response(body=parts, content_type=content_type)

    def _is_dead(self, c: int, p: int) -> bool:
        if self.photo_ttl is None and self._expired_at == float("-inf"):
            return False
        rendered = self._rendered.get((c, p), float("-inf"))
        outlived = self.photo_ttl is not None and time.monotonic() - rendered > self.photo_ttl
        return outlived or rendered <= self._expired_at

    def _photo_parts(self, c: int, p: int, w: int | None) -> tuple[tuple[bytes, ...], str]:
        car, photo = self._photo_index[c, p]
        return self.factory.photo(photo.name, car.look, photo.view, w, photo.kind)


# Markup

_AD_CARDS = (
    '<div class="sr-item"><div class="ad"><img src="/images/auglysing.png" alt="Auglýsing"></div></div>\n',
    '<div class="sr-item"><a class="sr-link"><div class="car-make">Auglýsing</div></a></div>\n',
    '<div class="sr-item"><a class="ad-link" href="/Ad.aspx?id=3"><div>Bílalán til sölu</div></a></div>\n',
)


def _page(title: str, content: str) -> Response:
    body = f"""<!DOCTYPE html>
<html lang="is">
<head><meta charset="utf-8"><title>{title}</title></head>
<body>
<div class="header"><a href="/"><img src="/images/logo.png" alt="Bílasölur"></a></div>
{content}
<div class="footer">© Bílasölur</div>
</body>
</html>
"""
    # A lone surrogate in a hostile name must reach the page as something, as it would from the real server.
    return Response(body=body.encode("utf-8", "replace"))


def _info_block(title: str, lines: list[str]) -> str:
    divs = "".join(f"<div>{html.escape(line)}</div>" for line in lines)
    return f'<div class="info-block"><h3>{title}</h3>{divs}</div>\n'


def _link(address: str, content: str) -> str:
    return f'<a href="{html.escape(address)}">{content}</a>'


def _redirect(address: str) -> Response:
    body = f"<html><head><title>Object moved</title></head><body>{_link(address, 'Object moved')}</body></html>"
    return Response(status=302, headers=(("Location", address),), body=body)


def _server_error(reason: str) -> Response:
    return page("Server Error in '/' Application.", html.escape(reason), status=500)


def _is_of(car: Car, make: int | None) -> bool:
    return make is None or list(invented.MAKES.values())[car.number % len(invented.MAKES)][0] == make


def _krona(amount: int) -> str:
    return f"kr. {amount:,}".replace(",", ".")


def price_of(car: Car) -> str:
    """The price in the words the site has for it (HTML)."""
    if car.price is None:
        return "Tilboð óskast"
    price = _krona(car.price)
    if car.price_before_offer is not None:
        old = f'<span class="old-price">{_krona(car.price_before_offer)}</span>'
        return f"Tilboð {old} {price}"
    if car.price_excludes_vat:
        return f"{price} án vsk."
    if car.number % 7 == 1:
        return f"Flott verð {price}"
    if car.number % 7 == 5:
        return price.replace(" ", "&nbsp;")
    return price


def _when_and_fuel(car: Car) -> str:
    when = f"{car.month}/{car.year}" if car.month else str(car.year)
    return html.escape(" · ".join(filter(None, (when, car.fuel))))


def distance_of(car: Car) -> str:
    """The distance in the words the site has for it, "" where it does not tell."""
    if car.is_new:
        distance = "Nýtt ökutæki"
    elif car.kilometers is None:
        distance = ""
    elif car.kilometers % 1000 == 0:
        distance = f"{car.kilometers // 1000} þ.km"
    else:
        distance = f"{car.kilometers:,} km.".replace(",", ".")
    if car.number % 4 == 2:
        distance = distance.replace(" ", "\N{NO-BREAK SPACE}")
    return distance


def _distance_and_gears(car: Car) -> str:
    return html.escape(" · ".join(filter(None, (distance_of(car), car.transmission))))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.dealers.bilasolur")
    add = parser.add_argument
    add("--port", type=int, default=0, help="0: any free one, which the printed JSON line names")
    add("--cars", type=int, default=40)
    add("--photos", type=int, default=3, help="photos of each car")
    add("--per-page", type=int, default=40)
    add("--ads-every", type=int, default=10, help="an advertisement after so many cars, 0 for none")
    add("--seed", type=int, default=1)
    add("--photo-bytes-average", type=int, default=60_000, help="of a photo at full size")
    add("--labelled", action="store_true", help="write each car's name on its photos")
    add("--photo-ttl", type=float, help="seconds that a photo's address works after a page view")
    add("--expired-as", default="404", help="what a dead address answers: 404, 403, html200, placeholder")
    add("--endless", action="store_true", help="there is always one more page of new cars")
    add("--stop-with-stdin", action="store_true", help="end when standard input ends")
    options = vars(parser.parse_args(argv))
    stop_with_stdin = options.pop("stop_with_stdin")
    site = SimulatedBilasolur(**options)
    if not site.factory.labelled:
        site.factory.draw_all()
    serve_until_stopped(site, stop_with_stdin=stop_with_stdin)


if __name__ == "__main__":
    main()
