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
import re
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from tests.dealers import cars as invented
from tests.dealers.cars import Car, Photo
from tests.dealers.faults import Response, apply_step, page
from tests.dealers.listing import SimulatedDealer
from tests.dealers.server import Request, serve_until_stopped

LAYOUT = "2026"
"""The layout of a site that is not told otherwise."""
PER_PAGE = {"2019": 40, "2026": 48}
FORMS = {"2019": ("home",), "2026": ("home", "advanced")}
PREFIX = "ctl00$contentSearchEngine$ctl00$"
ADVANCED = "ctl00$contentSearchEngine$searchCars$"
SESSION = "ASP.NET_SessionId"
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
ADVANCED_TEXTS = ("search_cid",)
ADVANCED_SELECTS: dict[str, tuple[str, Iterable[object]]] = {
    "search_g1": ("Gerð", ()),
    "search_btshid": ("Bílasala", invented.DEALERS),
    "search_modage": ("Breytt innan", (1, 7, 30, 60, 90, 120)),
    "search_vf": ("Verð frá (þús.)", range(500, 10_500, 500)),
    "search_vt": ("Verð til (þús.)", range(500, 10_500, 500)),
    "search_arf": ("Árgerð frá", range(2026, 1989, -1)),
    "search_art": ("Árgerð til", range(2026, 1989, -1)),
    "search_ef": ("Ekinn frá (þús.)", range(10, 210, 10)),
    "search_et": ("Ekinn til (þús.)", range(10, 210, 10)),
}
"""The selects of the advanced form besides the make."""
ADVANCED_BOXES = {
    "search_off": "Flott verð",
    "search_p": "Á staðnum",
    "search_fe": "Rafmagn",
    "search_fh": "Hybrid",
    "search_fph": "Plug-in hybrid",
    "search_ft_0": "Bensín",
    "search_ft_1": "Dísel",
    "search_drv_1": "Framhjóladrif",
    "search_drv_2": "Afturhjóladrif",
    "search_drv_4": "Fjórhjóladrif",
    "search_xma": "Beinskipting",
    "search_xmm": "Sjálfskipting",
}
"""Its checkboxes. The search filters by make, number, dealer and time of change; the others may come along."""
ADVANCED_FIELDS = {
    "__EVENTTARGET",
    "__EVENTARGUMENT",
    *(ADVANCED + name for name in ("search_f1", *ADVANCED_TEXTS, *ADVANCED_SELECTS)),
}
VIEWSTATE_SECONDS = 1200.0
CARD_PHOTOS = 3
GONE = "Engar upplýsingar fundust um ökutæki."
GONE_TOO = "Ökutæki gæti verið selt eða finnst ekki af öðrum ástæðum."
"""What the page of every other car says in 2026."""
NOTHING_FOUND = "Engar niðurstöður"
ARROWS = {"2019": '<i class="fa fa-angle-{}"></i>', "2026": '<i class="bisicon bi-chevron-{}"></i>'}
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


NEW_LAYOUT = (
    ("sr-item", "vehicle-tile"),
    ("sr-link", "vehicle-link"),
    ("car-", "vehicle-"),
    ("cd-", "vd-"),
    ("CarImage.aspx", "media.ashx"),
    ("tech-details", "facts"),
    ("hestöfl", "hö"),
    ("Hestöfl", "Afl"),
)
"""Step ``layout``: the site was redesigned, so nothing is found where it was."""
GARBAGE = (
    ("hestöfl", "000000000000000000000 hestöfl"),
    (" hö.", "000000000000000000000 hö."),
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
    make: int | None = None
    """The make's number, None for all."""
    cid: int | None = None
    """The one car that is looked for."""
    bid: int | None = None
    days: int | None = None
    """Changed within so many days."""


SAYS_GONE = (("<body>", f"<body><p>{GONE}</p>"), ("CarImage.aspx", "Ekkert.aspx"))
"""Step ``gone``: a details page says that there is no such car, whatever there is."""


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
    page_steps: ClassVar = {
        "layout": NEW_LAYOUT,
        "garbage": GARBAGE,
        "no-days": (("search_modage", "search_age"),),
        "gone": SAYS_GONE,
    }

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
        search = ""
        if "home" in self.forms:
            fields = "".join(_select(PREFIX + name, label, values) for name, (label, values) in SELECTS.items())
            fields += "".join(f'<input type="hidden" name="{PREFIX}{name}" value="" />\n' for name in HIDDEN)
            search = self._form("./", PREFIX, fields)
        on_sale = [car for car in list(self.cars) if not car.sold]
        featured = "".join(self._card(car, 0, 1) for car in on_sale[-self.featured :] if self.featured)
        content = f'{search}\n<div class="featured">\n{featured}</div>' if featured else search
        return _page("Bílasölur.is - Notaðir bílar og nýir", content)

    def _advanced(self, _which: str, _request: Request) -> Response:
        if "advanced" not in self.forms:
            return page("404", "Síðan fannst ekki.", status=404)
        fields = "".join(f'<input type="text" name="{ADVANCED}{name}" value="" />\n' for name in ADVANCED_TEXTS)
        fields += "".join(_select(ADVANCED + name, label, values) for name, (label, values) in ADVANCED_SELECTS.items())
        fields += "".join(
            f'<label><input type="checkbox" name="{ADVANCED}{name}" />{label}</label>\n'
            for name, label in ADVANCED_BOXES.items()
        )
        return _page("Ítarleg leit", self._form("./SearchCars.aspx", ADVANCED, fields))

    def _form(self, action: str, prefix: str, fields: str) -> str:
        """A form with what every page of WebForms has, the makes and the button."""
        text = hashlib.sha256(f"{self._seed}/{next(self._numbers)}".encode()).digest() * 4
        viewstate = base64.b64encode(text).decode()
        self._viewstates[viewstate] = time.monotonic()
        makes = "".join(
            f'<option value="{number}">{html.escape(make)}</option>' for make, (number, _) in invented.MAKES.items()
        )
        return f"""<form method="post" action="{action}" id="aspnetForm">
<div class="aspNetHidden">
<input type="hidden" name="__EVENTTARGET" id="__EVENTTARGET" value="" />
<input type="hidden" name="__EVENTARGUMENT" id="__EVENTARGUMENT" value="" />
<input type="hidden" name="__VIEWSTATE" id="__VIEWSTATE" value="{viewstate}" />
<input type="hidden" name="__VIEWSTATEGENERATOR" id="__VIEWSTATEGENERATOR" value="{GENERATOR}" />
</div>
<select name="{prefix}search_f1">
<option selected="selected" value="-1">Allir framleiðendur</option>{makes}</select>
{fields}<input type="submit" name="{prefix}btnSearch" value="Leita" class="btn-search" />
</form>"""

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
            return _page("Leitarniðurstöður", f'<div class="search-result"><p>{NOTHING_FOUND}</p></div>')
        last = -(-len(found) // self.per_page)
        shown = min(asked, last)
        on_page = found[(shown - 1) * self.per_page : shown * self.per_page]
        if self.endless and asked > last:
            first = len(self.cars) + (asked - last - 1) * self.per_page
            on_page = [self._known_or_made(number) for number in range(first, first + self.per_page)]
        cards = self._with_ads((self._card(car, search.number, asked) for car in on_page), _AD_CARDS)
        return _page(
            "Leitarniðurstöður",
            f'<div class="search-result">\n{"".join(cards)}</div>\n{self._paging(asked, last, guid)}',
        )

    def _paging(self, asked: int, last: int, guid: str) -> str:
        """What leads from a result page to the others."""
        arrow = ARROWS[self.layout]
        cells = []
        if asked > 1:
            cells.append(_link(f"SearchResults.aspx?page={asked - 1}&id={guid}", arrow.format("left")))
        cells.append(f"<span>{asked}</span>")
        cells.append(_link(f"SearchResults.aspx?page={asked + 1}&id={guid}", arrow.format("right")))  # for ever
        css = {"2019": "pagingCell", "2026": "sr-page"}[self.layout]
        paging = "".join(f'<div class="{css}">{cell}</div>' for cell in cells)
        if self.layout == "2026":
            sort = "javascript:__doPostBack('ctl00$contentCenter$sort$price','')"
            paging = _link(sort, '<i class="bisicon bi-sort"></i> Verð') + "\n" + paging
        return f'<div class="paging">{paging}</div>'

    def _known_or_made(self, number: int) -> Car:
        cid = invented.FIRST_CID + invented.CID_STEP * number
        return self._all.get(cid) or self._make(number)

    def _card(self, car: Car, schid: int, page_number: int) -> str:
        if self.layout == "2026":
            return self._card_of_2026(car, schid, page_number)
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
        car = self._all.get(int(which)) if number is not None else None
        if car is None or car.sold:
            words = GONE_TOO if self.layout == "2026" and car is not None and car.number % 2 else GONE
            return _page("Bíll", f'<div class="car-details"><p>{words}</p></div>')
        if self.layout == "2026":
            return self._details_of_2026(car)
        # Each photo twice, as a slider and its thumbnails have it: one photo, two widths.
        slides = "".join(self._image(car, photo, 784, "slide") for photo in car.photos)
        thumbs = "".join(self._image(car, photo, 400, "thumb") for photo in car.photos)
        consumption = car.city_consumption
        engine = [
            car.fuel,
            car.horsepower and f"{car.horsepower} hestöfl",
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
        updated = _day(car.updated)
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

    def _card_of_2026(self, car: Car, schid: int, page_number: int) -> str:
        fault = self._card_faults.get(car.cid, "")
        cid = "" if fault == "no-cid" else f"&cid={car.cid}"
        link = f"CarDetails.aspx?bid={car.bid}{cid}&sid={car.sid}&schid={schid}&schpage={page_number}"
        photos = "".join(self._image(car, photo, 784, "swiper-slide") for photo in car.photos[:CARD_PHOTOS])
        when = f"{car.month}/{car.year}" if car.month else str(car.year)
        facts = [" · ".join(filter(None, (when, distance_of(car)))), car.fuel_words, car.drivetrain]
        price = _spanned(price_of(car, offer=car.number % 2 == 1))
        pills = [("sale", "Tilboð")] if car.price_before_offer is not None else []
        pills += [("onsite", "Á staðnum")] if car.number % 3 == 0 else []
        if fault == "garbage":
            facts, price = ["13/20x9 · ∞ km.", "¿", "·"], "kr. <span>2.99O.000,- / ²</span>"
        rows = "".join(f"<div>{html.escape(fact)}</div>" for fact in facts if fact)
        badges = "".join(f'<span class="pill pill-{css}" title="{title}">{title}</span>' for css, title in pills)
        note = f'<div class="short-note">{html.escape(car.short_note)}</div>\n' if car.short_note else ""
        text = f"""<div class="car-make-and-model"><span class="car-make">{html.escape(car.make.upper())}</span> \
{html.escape(car.model)}</div>
{note}<div class="tech-details">{rows}</div>
<div class="car-price">{price}</div>
<div class="pills">{badges}</div>"""
        if fault == "bare":
            photos = text = ""
        return f"""<a class="car-anchor" name="rnr_{car.bid}_{car.cid}_{car.sid}"></a>
<div class="sr-item">
<a class="sr-link" href="{html.escape(link)}">
<div class="swiper-container"><div class="swiper-wrapper">{photos}</div></div>
{text}
</a>
</div>
"""

    def _details_of_2026(self, car: Car) -> Response:
        photos = "".join(self._image(car, photo, 1280, "pswp-popup-area cd-car-photo") for photo in car.photos)
        make, model = html.escape(car.make.upper()), html.escape(car.model)
        before = car.price_before_offer
        offer = (
            f'<div class="font-size-small text-overflow-ellipsis">Verð áður {_krona(before)}</div>' if before else ""
        )
        facts = [
            ("Nýskráning", f"{car.month}/{car.year}" if car.month else str(car.year)),
            ("Akstur", distance_of(car)),
            ("Litur", car.colour),
        ]
        shown = "".join(
            f'<div class="col-6">{label} <b>{html.escape(value)}</b></div>\n' for label, value in facts if value
        )
        fuel = html.escape(car.fuel_words or "")
        days = {"Skráð á söluskrá": car.listed, "Síðast uppfært": car.updated}
        dates = "".join(f'<div class="col-6">{label} {_day(day)}</div>\n' for label, day in days.items())
        note = f'<div class="col-12">{html.escape(car.description)}</div>' if car.description else ""
        note = f'<div class="row mt-3 text-overflow-ellipsis">{note}</div>\n' if note else ""
        blocks = "".join(
            f'<div class="cd-section-title">{title}</div>\n'
            + "".join(f'<div class="mb-1">{html.escape(line)}</div>\n' for line in lines)
            for title, lines in _equipment(car).items()
            if lines
        )
        return _page(
            f"{make} {model} - Bílasölur.is",
            f"""<div class="container">
<div class="row"><div class="col-12 cd-make-and-model"><span class="cd-make">{make}</span> {model}</div>
<div class="col-6 serial-number">Raðnúmer<br>{car.cid}</div>
<div class="col-6"><div class="cd-price">{_spanned(price_of(car, offer=False))}</div>
{offer}</div></div>
<div class="swiper-container"><div class="swiper-wrapper">
{photos}</div></div>
<div class="row">
{shown}<div class="col-6 text-right"><span class="font-weight-bold">{fuel}</span></div>
<div class="col-6 font-weight-bold">{car.transmission}</div>
<div class="col-6">Næsta skoðun {car.next_inspection}</div>
{dates}</div>
{note}{blocks}<div class="seller">
<div class="seller-name"><a href="BilasalaDetails.aspx?bid={car.bid}">{html.escape(car.dealer_name)}</a></div>
<div class="seller-address"><div>Sýnisgötu {car.bid}</div><div>999 Sýnisbæ</div></div>
</div>
</div>""",
        )

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


# Markup

_AD_CARDS = (
    '<div class="sr-item"><div class="ad"><img src="/images/auglysing.png" alt="Auglýsing"></div></div>\n',
    '<div class="sr-item"><a class="sr-link"><div class="car-make">Auglýsing</div></a></div>\n',
    '<div class="sr-item"><a class="ad-link" href="/Ad.aspx?id=3"><div>Bílalán til sölu</div></a></div>\n',
)


def _select(name: str, label: str, values: Iterable[object]) -> str:
    """A select that stands at "any"."""
    options = "".join(f'<option value="{value}">{value}</option>' for value in values)
    return f'<select name="{name}"><option selected="selected" value="-1">{label}</option>{options}</select>\n'


def _equipment(car: Car) -> dict[str, list[str]]:
    """The equipment of a car's page of 2026: titles and lines."""
    consumption = car.city_consumption
    engine = ["Hestöfl", f"{car.horsepower} hö."] if car.horsepower else []
    engine += ["Slagrými", "1.998 cc."] if consumption else []
    engine += [f"Innanbæjareyðsla {consumption:.1f} l / 100km".replace(".", ",", 1)] if consumption else []
    engine += [f"Módelár {car.year}"]
    charging = [f"Stærð rafhlöðu {car.battery_kwh} kWh"] if car.battery_kwh else []
    charging += [f"Drægni {car.range_km} km"] if car.range_km else []
    charging += ["Tegund hleðslutengils Type 2", "Tengill fyrir heimahleðslu"] if car.battery_kwh else []
    return {
        "Vél": engine,
        "Rafmagn": charging,
        "Drif": [car.drivetrain],
        "Hjólabúnaður": [car.tyres],
        "Farþegarými": [f"{car.seats} manna", f"{car.doors} dyra"],
    }


def _spanned(price: str) -> str:
    return re.sub(r"[\d.]{5,}", r"<span>\g<0></span>", price)


def _day(day: dt.date) -> str:
    return f"{day.day}.{day.month}.{day.year}"


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


def price_of(car: Car, *, offer: bool = True) -> str:
    """The price in the words the site has for it (HTML); without *offer* the one before an offer is left out."""
    if car.price is None:
        return "Tilboð óskast"
    price = _krona(car.price)
    if car.price_before_offer is not None and offer:
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
    elif car.hours is not None:
        distance = f"{car.hours} klst."
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
