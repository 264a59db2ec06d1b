"""The WebForms platform of Rögg ("Henry"), which bilasolur.is and several dealers run on.

Home → form POST → result pages → the car's own page. All selectors stand at the top of :class:`RoggSpider`, so
that a change on the live site costs one edit. What is known of it, and how sure, is in ``docs/sites/bilasolur.md``.
"""

from __future__ import annotations

import html
import logging
import re
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit

from form2request import form2request
from scrapy import Request
from scrapy.http import TextResponse
from twisted.python.failure import Failure

from carscraper import parsing
from carscraper.base_spiders.base import by_address, reason_of
from carscraper.base_spiders.cards import Card, CardSpider, says, set_vehicle, text_of, title_of, visible_text
from carscraper.items import CarImage, CarItem
from carscraper.vehicles import canonical, make_slug, split_make_model, split_title

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from typing import ClassVar

    from parsel import Selector
    from scrapy.http import Response

logger = logging.getLogger(__name__)

T = TypeVar("T")

_IDENTITY_PARAMETERS = ("s", "c", "p")
_CAR_PARAMETERS = ("bid", "cid", "sid")
_PERHAPS_PLUGGED = frozenset({"petrol/electric", "diesel/electric", "hybrid"})
_LEAST_PLUGGED = 5.0  # kWh; hybrids without a plug have one or two


class RoggSpider(CardSpider):
    """A site on the Rögg platform."""

    # Where things are.
    home_path = ""
    advanced_path = "SearchCars.aspx"
    results_page = "searchresults.aspx"
    form = "form:has([name$='btnSearch'])"
    make_select = "select[name$='search_f1']"
    days_select = "select[name$='search_modage']"
    number_field = "input[name$='search_cid']"
    submit = "[name$='btnSearch']"
    card_make = ".car-make"
    card_make_and_model = ".car-make-and-model"
    card_note = ".short-note, .car-make-and-model + div:not(.car-price):not(:has(div))"
    card_facts = ".tech-details > *"
    card_price = ".car-price"
    details_name = ".cd-make-and-model"
    details_price = ".cd-price"
    details_images = "img[src*='CarImage.aspx' i], img[data-src*='CarImage.aspx' i], img.cd-car-photo, img.swiper-slide"
    details_fuel = ".col-6.text-right .font-weight-bold"
    details_gears = ".col-6.font-weight-bold"
    description = (
        ".row.mt-3.text-overflow-ellipsis > div, .row.mt-3 > .col-12:only-child, .description p, .car-description p"
    )
    dealer_name = ".seller-name, a[href*='BilasalaDetails.aspx' i], .dealer-name"

    # DealerSpider
    gone_by_status = False  # the platform says it in words
    changes_within: ClassVar[tuple[int, ...]] = (1, 7, 30, 60, 90, 120)

    # CardSpider
    card = ".sr-item"
    card_link = "a.sr-link[href]"
    card_images = "img.swiper-slide, img[src*='CarImage.aspx' i], img[data-src*='CarImage.aspx' i]"
    card_mark = "a.car-anchor[name^='rnr_']"
    next_page = ".pagingCell .fa-angle-right"
    is_numbered = True

    # Words that the platform itself uses.
    no_results = "Engar niðurstöður"
    gone_texts = (
        "Engar upplýsingar fundust um ökutæki",
        "Ökutæki gæti verið selt eða finnst ekki af öðrum ástæðum",
    )
    number_label = "Raðnúmer"
    price_before = "Verð áður"
    plug_texts = ("Tegund hleðslutengils", "Tengill fyrir heimahleðslu")

    _home_shows: tuple[str, list[str | None]] = ("", [])
    """The title of home, and its featured cars: where they are at the address of results, the search was forgotten."""

    # --- the search ---

    def start_search(self) -> Iterator[Request]:
        """Begin with the form: one search for everything, or one for each of ``makes``."""
        for make in self.searches():
            yield self._home(make)

    def searches(self) -> list[str | None]:
        """One for everything, or one for each of ``makes``."""
        return [*self.makes] or [None]

    def _home(self, make: str | None, *, tries: int = 1, advanced: bool = False) -> Request:
        """Ask for the page with the search form; the times of changes are in the advanced one only."""
        return Request(
            urljoin(self.base_url, self.advanced_path if advanced or self.changed_days else self.home_path),
            callback=self.parse_home,
            errback=self.search_failed,
            cb_kwargs={"make": make, "tries": tries},
            dont_filter=True,  # each search needs a page state of its own
            priority=20,
        )

    def search_afresh(self, make: str | None) -> Request:
        """Begin the search once more: the site may have forgotten it, and leads home then."""
        return self._home(make, tries=2)

    def is_result_page(self, response: Response, page: int) -> bool:
        """Return whether *response* shows results of this search, not the cars that home shows."""
        if page == 1 and not self._is_results(response):
            return False
        if not super().is_result_page(response, page):
            return False
        shown = [self.car_id(response.urljoin(href)) for _, href in self._select_cards(response)]
        # A small site may have all its cars at home, too: then the first page shows them as well.
        is_home = bool(shown) and self._home_shows == (title_of(response), shown)
        return not is_home or page == 1 or any(walk.last == {*shown} for walk in self._walks.values())

    def linked_cars(self, response: Response) -> set[str | None]:
        """Return the ids of all cars that a page leads to, wherever their addresses stand."""
        text = response.text if isinstance(response, TextResponse) else ""
        return {self.car_id(found) for found in re.findall(r"CarDetails\.aspx\?[^\"'\s<>]+", text, re.IGNORECASE)} - {
            None
        }

    def _is_results(self, response: Response) -> bool:
        """Tell whether home has led to the results; where it is asked for results, cards are those."""
        if urlsplit(response.url).path.lower().endswith(self.results_page):
            return True
        return bool(self.home_path) and bool(response.css(f"{self.card} {self.card_link}"))

    async def parse_home(self, response: Response, make: str | None, tries: int) -> AsyncIterator[Any]:
        """Send the whole search form, as a browser does; some sites show the results at once."""
        if self._is_results(response):
            async for each in self.parse_results(response, make):
                yield each
            return
        forms = self._forms(response)
        if not self._is_advanced(response.url):
            cars = [self.car_id(response.urljoin(href)) for _, href in self._select_cards(response)]
            self._home_shows = title_of(response), cars
            if not forms:
                yield self._home(make, tries=tries, advanced=True)
                return
        chosen = {self.days_select: str(self.changed_days)} if self.changed_days else {}
        if make and forms:
            value = _option(forms[0].css(self.make_select), make)
            if value is None:
                self.fail(f"makes={make!r} is not among the makes of {response.url}; write them as the site does.")
            chosen[self.make_select] = value
        try:
            request = self._filled_form(response, chosen)
        except ValueError as error:
            if self.walk(make).url:
                self.incomplete(f"The search could not be begun afresh. {error}")
                return
            self.fail(str(error))
        yield request.replace(
            callback=self.parse_results,
            errback=self.search_failed,
            cb_kwargs={"make": make, "page": 1, "tries": tries},
            priority=20,
        )

    def _is_advanced(self, url: str) -> bool:
        return urlsplit(url).path.lower().endswith(self.advanced_path.lower())

    def _forms(self, response: Response) -> Any:
        return response.css(self.form) if isinstance(response, TextResponse) else []

    def _filled_form(self, response: Response, chosen: Mapping[str, str]) -> Request:
        """Return what a browser sends when the search form's button is pressed.

        Args:
            response: the page with the form.
            chosen: the value of each field that is not left as it is, by the field's selector.

        Raises:
            ValueError: the page has no such form, or the form no such field or choice.
        """
        forms = self._forms(response)
        if not forms:
            raise ValueError(
                f"The search form ({self.form}) is not on {response.url}: the site has changed or is closed."
            )
        # What the site has chosen beforehand would narrow the search.
        data: dict[str, str | None] = dict.fromkeys(forms[0].css("input[type=checkbox][checked]::attr(name)").getall())
        for select in forms[0].css("select[name]:has(option[value='-1'])"):
            data[select.attrib["name"]] = "-1"
        for selector, value in chosen.items():
            field = forms[0].css(selector)
            if not field or (field[0].root.tag == "select" and value not in field.css("option::attr(value)").getall()):
                raise ValueError(f"The search form on {response.url} offers no {value!r} in {selector}.")
            data[field[0].attrib["name"]] = value
        filled = form2request(forms[0], data, click=forms[0].css(self.submit)[0])
        request: Request = filled.to_scrapy(None, dont_filter=True)
        return request

    def find_car(
        self,
        external_id: str,
        callback: Callable[..., Any],
        errback: Callable[..., Any],
        cb_kwargs: dict[str, Any] | None = None,
    ) -> Request:
        """Return the first request of a search for one car by its number (*raðnúmer*).

        Args:
            external_id: the number.
            callback: called with the results page (of one car, or none: ``says_empty``), or with the car's own page
                if the site leads there (``car_id(response.url)``).
            errback: called with a failure when a page does not come or has no such form.
            cb_kwargs: further arguments of *callback*, and in the ``cb_kwargs`` of the failed request.
        """
        arguments = cb_kwargs or {}

        def ask(response: Response, **_: Any) -> Any:
            try:
                request = self._filled_form(response, {self.number_field: external_id})
            except ValueError as error:
                failure: Any = Failure(error)  # type: ignore[no-untyped-call]
                failure.request = response.request
                return errback(failure)
            return [request.replace(callback=callback, errback=errback, cb_kwargs=arguments)]

        url = urljoin(self.base_url, self.advanced_path)
        return Request(url, callback=ask, errback=errback, cb_kwargs=arguments, dont_filter=True)

    def search_failed(self, failure: Failure) -> Iterator[Request]:
        """Begin the search once more with a fresh page state; then the site counts as unreachable."""
        request: Request = failure.request  # type: ignore[attr-defined]
        arguments = request.cb_kwargs
        why = reason_of(failure)
        if self.walk(arguments["make"]).url:
            self.incomplete(f"The search could not be begun afresh: {request.url} can't be reached ({why}).")
            return
        if request.callback == self.parse_home and self._is_advanced(request.url):
            self.fail(
                f"changed_days needs the advanced search form, and {request.url} can't be reached ({why})."
                if self.changed_days
                else f"The search form ({self.form}) is neither on {urljoin(self.base_url, self.home_path)} "
                f"nor on {request.url} ({why}): the site has changed or is closed."
            )
        if arguments["tries"] > 1 or request.callback == self.parse_home:
            self.fail(f"{request.url} can't be reached ({why}).")
        logger.warning("The search was refused (%s); once more with a fresh form", why)
        yield self._home(arguments["make"], tries=arguments["tries"] + 1)

    # --- a card ---

    def read_card(self, response: Response, selector: Selector, link: str) -> CarItem:
        """Read a result card; an anchor right before it names the car as well as its link.

        Raises:
            ValueError: neither names a car.
        """
        mark = selector.xpath("preceding-sibling::*[1]").css(self.card_mark) or selector.css(self.card_mark)
        if self.car_id(link) is None and mark:
            names = dict(zip(_CAR_PARAMETERS, mark[0].attrib["name"].split("_")[1:], strict=False))
            link = self._car_url(names, self.base_url)
        item = super().read_card(response, selector, link)
        item.description = parsing.clean_text(text_of(selector.css(self.card_note)))
        return item

    def facts(self, card: Card) -> list[str]:
        """Return what the card says in a few words each, ``6/2019`` or ``45.000 km.``; the order varies."""
        return [part for text in card.texts(self.card_facts) for part in (text or "").split("·")]

    def get_make_model(self, card: Card) -> tuple[str | None, str | None]:
        """Read the make, and the model that follows it."""
        return split_make_model(card.text(self.card_make), card.text(self.card_make_and_model))

    def get_year_month(self, card: Card) -> tuple[int | None, int | None]:
        """Read ``6/2019``."""
        found = map(parsing.parse_year_month, self.facts(card))
        return next((each for each in found if each[0]), (None, None))

    def get_fuel(self, card: Card) -> str | None:
        """Read ``Bensín / Rafmagn``."""
        return _first(map(parsing.parse_fuel, self.facts(card)))

    def get_kilometers(self, card: Card) -> int | None:
        """Read ``45.000 km.`` or ``128 þ.km``; ``270 klst.`` are hours."""
        return _first(map(parsing.parse_kilometers, self.facts(card)))

    def get_transmission(self, card: Card) -> str | None:
        """Read ``Sjálfskipting``."""
        return _first(map(parsing.parse_transmission, self.facts(card)))

    def get_drivetrain(self, card: Card) -> str | None:
        """Read ``Fjórhjóladrif``."""
        return _first(map(parsing.parse_drivetrain, self.facts(card)))

    def get_price(self, card: Card) -> parsing.Price:
        """Read the price's own element."""
        return parsing.parse_price(card.text(self.card_price))

    def get_dealer_id(self, card: Card) -> str | None:
        """Read ``bid``."""
        return _parameters(card.link).get("bid")

    # --- addresses ---

    def own_url(self, link: str) -> str:
        """Keep to the crawl's own site, whatever host a card names."""
        return self._car_url(_parameters(link), self.base_url)

    def _car_url(self, parameters: dict[str, str], base_url: str) -> str:
        kept = {name: parameters[name] for name in _CAR_PARAMETERS if name in parameters}
        return f"{base_url}CarDetails.aspx?{urlencode(kept)}"

    def car_id(self, url: str) -> str | None:
        """Read ``cid``."""
        found = _parameters(url).get("cid", "")
        return found if found.isalnum() else None

    def car_of_image(self, address: str) -> str | None:
        """Read ``c``."""
        found = _parameters(address).get("c", "") if "carimage.aspx" in address.lower() else ""
        return found if found.isalnum() else None

    def canonical_url(self, url: str) -> str:
        """Keep only the parameters that name the car."""
        parts = urlsplit(url)
        return self._car_url(_parameters(url), f"{parts.scheme}://{parts.netloc}/")

    # --- photos ---

    def read_images(self, response: Response, external_id: str) -> list[CarImage]:
        """Read the car's photos from its own page; other cars' photos there (offers, "similar cars") are left out."""
        images = self.images_of(response, response.css(self.details_images), external_id)
        known = {image.identity for image in images}
        # Photos that stand elsewhere: in a <picture>, a link, a background, the data of a script.
        text = html.unescape(response.text).replace("\\/", "/") if isinstance(response, TextResponse) else ""
        for address in re.findall(r"[^\"'\s<>()=,]*CarImage\.aspx\?[^\"'\s<>()\\]+", text, re.IGNORECASE):
            image = self.image(response.urljoin, address, external_id)
            if image and image.identity.startswith(f"{external_id}/") and image.identity not in known:
                known.add(image.identity)
                image.position = len(images)
                images.append(image)
        return images

    def image(self, join: Any, address: str, external_id: str) -> CarImage | None:
        """Make of an address the photo it names; ``None`` if it is another car's.

        The identity of a photo is (c, p); spelling, width and every other parameter vary. An ambiguous address is
        refused with the raw text kept.
        """
        raw = html.unescape(address)
        refused = CarImage(identity=by_address(raw), source_url=raw, status="failed", reason="bad-address")
        try:
            if "\\" in raw or "@" in urlsplit(raw).netloc:
                return refused
            return self._image(join, raw, external_id)
        except ValueError:  # brackets that hold no IPv6 address, and the like
            return refused

    def _image(self, join: Any, raw: str, external_id: str) -> CarImage | None:
        # Older addresses were joined without a slash: https://bilasolur.isCarImage.aspx?…
        raw = re.sub(r"^(https?://[^/?#]*?)/*(CarImage\.aspx)", r"\1/\2", raw, flags=re.IGNORECASE)
        url = join(raw)
        parts = urlsplit(url)
        parameters = _parameters(url)
        if not parts.path.lower().endswith("carimage.aspx") or not {"c", "p"} <= parameters.keys():
            return CarImage(identity=by_address(url), source_url=url)
        if parameters["c"] != external_id:
            return None
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", parameters["p"]):
            # No id of a photo: a NUL or five kilobytes in the identity would cost the car its row.
            return CarImage(identity=by_address(url), source_url=url)
        query = {name: parameters[name] for name in _IDENTITY_PARAMETERS if name in parameters}
        query["w"] = str(self.settings.getint("IMAGES_WIDTH"))
        path = re.sub(r"/{2,}", "/", parts.path)
        source_url = f"{parts.scheme}://{parts.netloc}{quote(path, safe='/%')}?{urlencode(query)}"
        return CarImage(identity=f"{parameters['c']}/{parameters['p']}", source_url=source_url)

    # --- the car's own page ---

    def car_on(self, response: Response) -> str | None:
        """Return the number that the page shows, whatever its address names."""
        numbers = set(re.findall(rf"{self.number_label}\W{{0,9}}([0-9]{{5,9}})\b", visible_text(response)))
        return numbers.pop() if len(numbers) == 1 else super().car_on(response)

    def is_gone(self, response: Response) -> bool:
        """Return whether the page says that the car is sold or removed."""
        return any(says(response, words) for words in self.gone_texts)

    def parse_details(self, response: Response, item: CarItem) -> Iterator[CarItem]:
        """Add to *item* what the card does not say.

        Raises:
            ValueError: it is not this car's page (a login or maintenance page with status 200).
        """
        text = visible_text(response)
        images = self.read_images(response, item.external_id)
        if not images and any(image.identity.startswith(f"{item.external_id}/") for image in item.images):
            raise ValueError("no photo of the car is on its page, though its card shows some")
        if not images and item.external_id not in text and "hestöfl" not in text.lower():
            raise ValueError("neither the car's photos nor its number are on the page")
        # A seller's words about horsepower and wheels are no facts.
        lines = visible_text(response, without=self.description).split("\n")
        self._read_name_and_price(response, lines, item)
        self._read_facts(response, lines, item)
        item.horsepower = _labelled(lines, "Hestöfl", parsing.parse_horsepower) or _alone(
            lines, parsing.parse_horsepower
        )
        item.city_consumption = _labelled(lines, "Innanbæjareyðsla", parsing.parse_consumption)
        item.source_updated_at = _labelled(lines, "Síðast uppfært", parsing.parse_date)
        item.doors = _alone(lines, parsing.parse_doors)
        item.seats = _alone(lines, parsing.parse_seats)
        item.body = _labelled(lines, "Yfirbygging", parsing.parse_body) or _labelled(
            lines, "Flokkur", parsing.parse_body
        )
        item.colour = _labelled(lines, "Litur", parsing.parse_colour)
        notes = " ".join(response.css(self.description).css("::text").getall())
        item.description = parsing.clean_text(notes) or item.description
        item.dealer_name = text_of(response.css(self.dealer_name))
        item.registration_plate = parsing.parse_registration_plate(text)
        # What only the card shows was seen too.
        known = {image.identity for image in images}
        item.images = images + [image for image in item.images if image.identity not in known]
        for position, image in enumerate(item.images):
            image.position = position
        item.image_urls = [image.source_url for image in item.images]
        yield item

    def _read_name_and_price(self, response: Response, lines: list[str], item: CarItem) -> None:
        """Add to *item* the name and the price, as far as the card did not have them."""
        name = text_of(response.css(self.details_name))
        if item.make is None and name:
            set_vehicle(item, canonical(*split_title(name)))
        if item.price is None and (price := text_of(response.css(self.details_price))):
            found = parsing.parse_price(price)
            item.price, item.price_excludes_vat = found.amount, found.excludes_vat
            item.price_before_offer = found.before_offer
        before = _labelled(lines, self.price_before, lambda text: parsing.parse_price(text).amount)
        if before and item.price and item.price < before:
            item.price_before_offer = before

    def _read_facts(self, response: Response, lines: list[str], item: CarItem) -> None:
        """Add to *item* the facts that one layout has on the card and another on the page."""
        if item.registration_month is None:
            year, month = _labelled(lines, "(?:Ný)?skráning", _year_month) or (None, None)
            if year is not None and item.year in {None, year}:
                item.year, item.registration_month = year, month
        if item.kilometers is None:
            item.kilometers = _labelled(lines, "Akstur", parsing.parse_kilometers)
        if item.fuel is None:
            item.fuel = (
                _first(parsing.parse_fuel(each) for each in _texts(response, self.details_fuel))
                or _labelled(lines, "Eldsneyti", parsing.parse_fuel)
                or _labelled(lines, "Vél", parsing.parse_fuel)
            )
        if item.fuel in _PERHAPS_PLUGGED and self._has_plug(lines):
            item.fuel = "plug-in-hybrid"
        if item.transmission is None:
            item.transmission = _first(
                parsing.parse_transmission(each) for each in _texts(response, self.details_gears)
            ) or _alone(lines, parsing.parse_transmission, words=4)
        item.drivetrain = item.drivetrain or _alone(lines, parsing.parse_drivetrain, words=4)

    def _has_plug(self, lines: list[str]) -> bool:
        """Return whether the equipment names a plug, or a battery that is too large for a hybrid without one."""
        if any(line.startswith(self.plug_texts) for line in lines):
            return True
        capacity = _labelled(lines, "Stærð rafhlöðu", parsing.parse_kilowatt_hours)
        return capacity is not None and capacity >= _LEAST_PLUGGED


class RoggTileSpider(RoggSpider):
    """A dealer's own site on the platform: other cards, and a list that grows while one scrolls.

    What the scrolling fetches is taken to be further pages of ``SearchResults.aspx``: no browser is needed.
    """

    # Where things are.
    card_make = ".sr-title .sr-make"
    card_model = ".sr-title .sr-model"
    card_title = ".sr-title .title-text"
    card_year = ".sr-yr-pr .pull-left"
    card_price = ".sr-yr-pr .pull-right"
    card_facts = ".sr-item-info .sr-item-wrapper"
    distance_label = "Akstur"

    # CardSpider
    card_images = "figure img, img[src*='CarImage.aspx' i], img[data-src*='CarImage.aspx' i]"
    next_page = ""
    is_numbered = False  # nobody has seen it on a site that scrolls

    def configure(self) -> None:
        """Turn the arguments into attributes; the fuel is on the cars' own pages.

        Raises:
            ConfigurationError: an argument is unknown or wrong.
        """
        super().configure()
        if not self.with_details:
            self.expected = {name: share for name, share in self.expected.items() if name != "fuel"}

    def get_make_model(self, card: Card) -> tuple[str | None, str | None]:
        """Read make and model from elements of their own, else from the title."""
        make, model = card.text(self.card_make), card.text(self.card_model)
        return split_make_model(make, " ".join(filter(None, (make, model))) if model else card.text(self.card_title))

    def get_year_month(self, card: Card) -> tuple[int | None, int | None]:
        """Read ``4/2022``."""
        return parsing.parse_year_month(card.text(self.card_year))

    def get_kilometers(self, card: Card) -> int | None:
        """Read the row ``Akstur``: ``29 þ.km.`` or ``Nýtt``."""
        rows = (row for row in card.texts(self.card_facts) if row and row.startswith(self.distance_label))
        return parsing.parse_kilometers(next(rows, None))


def _parameters(url: str) -> dict[str, str]:
    """Give the query of *url* by lower-case name; of several values the first."""
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(html.unescape(urlsplit(url).query)):
        parameters.setdefault(name.lower().removeprefix("amp;"), value.strip())
    return parameters


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def _texts(response: Response, css: str) -> list[str]:
    """Return the text of each element at *css*."""
    return [text_of(each) or "" for each in response.css(css)]


def _year_month(text: str) -> tuple[int | None, int | None] | None:
    found = parsing.parse_year_month(text)
    return found if found[0] else None


def _labelled(lines: list[str], label: str, parse: Callable[[str], T | None]) -> T | None:
    """Read what follows *label*, a pattern, on its line or else on the next one.

    >>> _labelled(["Hestöfl frá", "Vél", "Hestöfl", "177 hö.", "Litur: Blár"], "Hestöfl", parsing.parse_horsepower)
    177
    >>> _labelled(["Litur: Blár"], "Litur", parsing.parse_colour)
    'blár'
    """
    for number, line in enumerate(lines):
        found = re.match(rf"{label}\b\s?:?\s?(.*)", line, re.IGNORECASE)
        if found:
            value = parse(found[1] or "".join(lines[number + 1 : number + 2]))
            if value is not None:
                return value
    return None


def _alone(lines: list[str], parse: Callable[[str], T | None], *, words: int = 2) -> T | None:
    """Read a fact that stands alone on its line, or with its number on the line before.

    A number alone says nothing, and neither does a fact in a sentence: a line of more than *words*.

    >>> lines = ["Um 400 hestöfl eftir breytingu", "5", "150", "hestöfl", "7 manna"]
    >>> _alone(lines, parsing.parse_horsepower), _alone(lines, parsing.parse_seats), _alone(lines, parsing.parse_doors)
    (150, 7, None)
    """
    for before, line in zip(["", *lines], lines, strict=False):
        if line.isdecimal():
            continue
        number = before if before.isdecimal() else ""
        for text in (line, f"{number} {line}") if number else (line,):
            value = parse(text) if len(text.split()) <= words else None
            if value is not None:
                return value
    return None


def _option(select: Any, make: str) -> str | None:
    """Find the option of a make, in whatever spelling the user writes it."""
    wanted = make_slug(make)
    for option in select.css("option"):
        if make_slug(" ".join(option.css("::text").getall())) == wanted:
            value: str | None = option.attrib.get("value")
            return value
    return None
