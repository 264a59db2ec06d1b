"""The WebForms platform of Rögg ("Henry"), which bilasolur.is and several dealers run on.

Home → form POST → result pages → the car's own page. All selectors stand at the top of :class:`RoggSpider`, so
that a change on the live site costs one edit. What is known of it, and how sure, is in ``docs/sites/bilasolur.md``.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urljoin, urlsplit

from form2request import form2request
from scrapy import Request
from twisted.python.failure import Failure

from carscraper import parsing
from carscraper.base_spiders.base import why_no_page
from carscraper.base_spiders.pages import is_html, text_of, title_of
from carscraper.base_spiders.paging import parameters_of
from carscraper.base_spiders.rogg_details import CAR_PARAMETERS, RoggDetailsSpider
from carscraper.vehicles import make_slug, split_make_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from parsel import Selector
    from scrapy.http import Response

    from carscraper.base_spiders.cards import Card
    from carscraper.items import CarItem

logger = logging.getLogger(__name__)


class RoggSpider(RoggDetailsSpider):
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

    # DealerSpider
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

    _home_shows: tuple[str, list[str | None]] = ("", [])
    """The title of home, and its featured cars: where they are at the address of results, the search was forgotten."""

    # --- the search ---

    def start_search(self) -> Iterator[Request]:
        """Begin with the form: one search for everything, or one for each of ``makes``."""
        for make in self.searches():
            yield self._home(make)

    def searches(self) -> list[str | None]:
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
        if page == 1 and not self._is_results(response):
            return False
        if not super().is_result_page(response, page):
            return False
        shown = self._shown(response)
        # A small site may have all its cars at home, too: then the first page shows them as well.
        is_home = bool(shown) and self._home_shows == (title_of(response), shown)
        return not is_home or page == 1 or any(walk.last == {*shown} for walk in self._walks.values())

    def _shown(self, response: Response) -> list[str | None]:
        return [self.car_id(response.urljoin(href)) for _, href in self.select_cards(response)]

    def linked_cars(self, response: Response) -> set[str]:
        found = re.findall(r"CarDetails\.aspx\?[^\"'\s<>]+", response.text, re.IGNORECASE)
        return {car for url in found if (car := self.car_id(url))}

    def _is_results(self, response: Response) -> bool:
        """Return whether home has led to the results; where it is asked for results, cards are those."""
        if urlsplit(response.url).path.lower().endswith(self.results_page):
            return True
        return bool(self.home_path) and bool(response.css(f"{self.card} {self.card_link}"))

    async def parse_home(self, response: Response, make: str | None, tries: int) -> AsyncIterator[Any]:
        """Send the whole search form, as a browser does; some sites show the results at once."""
        if is_html(response) and self._is_results(response):
            async for each in self.parse_results(response, make):
                yield each
            return
        forms = self._forms(response)
        if not self._is_advanced(response.url):
            self._home_shows = (title_of(response), self._shown(response)) if is_html(response) else ("", [])
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
            self._without_search(make, str(error))
            return
        yield request.replace(
            callback=self.parse_results,
            errback=self.search_failed,
            cb_kwargs={"make": make, "page": 1, "tries": tries},
            priority=20,
        )

    def _without_search(self, make: str | None, why: str) -> None:
        """End the crawl; a list that was read in part is kept."""
        if not self.walk(make).url:
            self.fail(why)
        self.incomplete(f"The search could not be begun afresh. {why}")

    def _is_advanced(self, url: str) -> bool:
        return urlsplit(url).path.lower().endswith(self.advanced_path.lower())

    def _forms(self, response: Response) -> Any:
        return response.css(self.form) if is_html(response) else []

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
        make, tries = request.cb_kwargs["make"], request.cb_kwargs["tries"]
        is_form = request.callback == self.parse_home
        if not is_form and tries == 1 and not self.walk(make).url:
            logger.warning("The search was refused (%s); once more with a fresh form", why_no_page(failure))
            yield self._home(make, tries=2)
            return
        why = f"{request.url} can't be reached ({why_no_page(failure)})."
        if is_form and self._is_advanced(request.url):
            home = urljoin(self.base_url, self.home_path)
            why = (
                f"changed_days needs the advanced search form, and {why}"
                if self.changed_days
                else f"The search form ({self.form}) is neither on {home} nor on {request.url} "
                f"({why_no_page(failure)}): the site has changed or is closed."
            )
        self._without_search(make, why)

    # --- a card ---

    def read_card(self, response: Response, selector: Selector, link: str) -> CarItem:
        mark = selector.xpath("preceding-sibling::*[1]").css(self.card_mark) or selector.css(self.card_mark)
        if self.car_id(link) is None and mark:
            names = dict(zip(CAR_PARAMETERS, mark[0].attrib["name"].split("_")[1:], strict=False))
            link = self.car_page(names, self.base_url)
        item = super().read_card(response, selector, link)
        item.description = parsing.clean_text(text_of(selector.css(self.card_note)))
        return item

    def facts(self, card: Card) -> list[str]:
        """Return what the card says in a few words each, ``6/2019`` or ``45.000 km.``; the order varies."""
        return [part for text in card.texts(self.card_facts) for part in (text or "").split("·")]

    def get_make_model(self, card: Card) -> tuple[str | None, str | None]:
        return split_make_model(card.text(self.card_make), card.text(self.card_make_and_model))

    def get_price(self, card: Card) -> parsing.Price:
        return parsing.parse_price(card.text(self.card_price))

    def get_dealer_id(self, card: Card) -> str | None:
        return parameters_of(card.link).get("bid")


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
        super().configure()
        if not self.with_details:  # the fuel is on the cars' own pages
            self.expected = {name: share for name, share in self.expected.items() if name != "fuel"}

    def get_make_model(self, card: Card) -> tuple[str | None, str | None]:
        make, model = card.text(self.card_make), card.text(self.card_model)
        return split_make_model(make, " ".join(filter(None, (make, model))) if model else card.text(self.card_title))

    def get_year_month(self, card: Card) -> tuple[int | None, int | None]:
        return parsing.parse_year_month(card.text(self.card_year))

    def get_kilometers(self, card: Card) -> int | None:
        """Read the row ``Akstur``: ``29 þ.km.`` or ``Nýtt``."""
        rows = (row for row in card.texts(self.card_facts) if row and row.startswith(self.distance_label))
        return parsing.parse_kilometers(next(rows, None))


def _option(select: Any, make: str) -> str | None:
    """Find the option of a make, in whatever spelling the user writes it."""
    wanted = make_slug(make)
    for option in select.css("option"):
        if make_slug(" ".join(option.css("::text").getall())) == wanted:
            value: str | None = option.attrib.get("value")
            return value
    return None
