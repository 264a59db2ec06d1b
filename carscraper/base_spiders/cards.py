"""A site whose cars stand as cards on result pages that follow each other.

A subclass says where things are (CSS, under ``# CardSpider``) and overrides the ``get_…`` methods of what its cards
write in their own way. What every site needs is here: advertisements are skipped, a card that can't be read is counted
and the crawl goes on, a page without any car ends the crawl with the name of the missing selector, and the last page
is noticed even where a site repeats it for ever.
"""

from __future__ import annotations

import hashlib
import logging
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from scrapy import Request

from carscraper import parsing
from carscraper.base_spiders.base import by_address, forget_tree, is_web_address, reason_of
from carscraper.base_spiders.dealer import DealerSpider
from carscraper.items import CarImage, CarItem
from carscraper.vehicles import canonical, make_slug, split_title

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import ClassVar

    from parsel import Selector
    from scrapy.http import Response
    from twisted.python.failure import Failure

    from carscraper.parsing import Price

logger = logging.getLogger(__name__)

# Parameters of a photo's address that say how it is shown, not which photo it is.
_RENDITION = frozenset(
    {"w", "h", "width", "height", "size", "q", "quality", "fit", "crop", "format", "fm", "dpr", "auto"}
)


class Card:
    """A card as the ``get_…`` methods see it: its texts, each looked up once."""

    __slots__ = ("_texts", "link", "selector")

    def __init__(self, selector: Selector, link: str) -> None:
        self.selector = selector
        self.link = link
        """The whole address of the car's own page."""
        self._texts: dict[str, list[str | None]] = {}

    def texts(self, css: str) -> list[str | None]:
        """Give the text of each element at *css*."""
        if css not in self._texts:
            self._texts[css] = [text_of(each) for each in self.selector.css(css)]
        return self._texts[css]

    def text(self, css: str = "", number: int = 0) -> str | None:
        """Give the text of the element *number* at *css*, or of the whole card; ``None`` if it is not there."""
        if css:
            found = self.texts(css)
            return found[number] if number < len(found) else None
        if "" not in self._texts:
            self._texts[""] = [text_of(self.selector)]
        return self._texts[""][0]


class CardSpider(DealerSpider):
    """A site of result pages with cards."""

    results_path: ClassVar[str] = ""
    """Of the first result page, below the site's address."""
    card: ClassVar[str]
    """A car on a result page."""
    card_link: ClassVar[str]
    """In a card, the link to the car's own page. A card without one is an advertisement."""
    card_images: ClassVar[str] = "img"
    next_page: ClassVar[str] = ""
    """The link to the next page, or something inside it; empty: pages are numbered, ``?page=2``."""
    no_results: ClassVar[str] = ""
    """What the page of an empty search says."""

    # --- the search ---

    def start_search(self) -> Iterator[Request]:
        """Begin at the first result page."""
        yield Request(
            urljoin(self.base_url, self.results_path),
            callback=self.parse_results,
            errback=self.search_failed,
            dont_filter=True,
            priority=20,
        )

    def search_failed(self, failure: Failure) -> Iterator[Request]:
        """End the crawl: without its first page the site counts as unreachable."""
        self.fail(f"{failure.request.url} can't be reached ({reason_of(failure)}).")  # type: ignore[attr-defined]

    def searches(self) -> list[str | None]:
        """Name the searches of this crawl, each by its make; ``None`` stands for everything."""
        return [None]

    # --- result pages ---

    async def parse_results(
        self, response: Response, make: str | None = None, page: int = 1, tries: int = 1
    ) -> AsyncIterator[CarItem | Request]:
        """Read one result page; go on until a page adds no new car."""
        cards, unreadable = self.read_cards(response)
        if not cards and (unreadable or not self._may_be_empty(response, page)):
            self.fail(
                f"Result page {page} ({response.url}) has no car that can be read "
                f"({self.card} with {self.card_link}): the site has changed or shows something else."
            )
        if not cards and page == 1 and not self.makes:
            self.fail(f"The search of the whole site found nothing ({response.url}).")
        if cards:
            self.count("pages/results")
        new = [card for card in cards if card.external_id not in self.seen]
        for result in await self.follow_cards([card for card in cards if self._is_asked_for(card)]):
            yield result
        self.seen.update(card.external_id for card in new)
        following = self.next_request(response, make, page) if new else None
        forget_tree(response)
        if following:
            yield following
            return
        self._finished_searches += 1
        if self._finished_searches == len(self.searches()):
            for request in await self.conclude():
                yield request

    _finished_searches = 0

    def _may_be_empty(self, response: Response, page: int) -> bool:
        """Tell whether a page without cars is the site's word, not a change of it."""
        return self.says_empty(response) or (page > 1 and not self.next_page)

    def _is_asked_for(self, card: CarItem) -> bool:
        """Tell whether the card is of one of ``makes``, where the site itself was asked for all."""
        return not self.makes or self.searches() != [None] or make_slug(card.make) in map(make_slug, self.makes)

    def read_cards(self, response: Response) -> tuple[list[CarItem], int]:
        """Read every card of the page.

        Returns:
            The cars, and how many cards could not be read.
        """
        cards = []
        unreadable = 0
        for selector in response.css(self.card):
            if not selector.css(self.card_link):
                continue  # an advertisement
            try:
                card = self.read_card(response, selector)
            except Exception as error:
                unreadable += 1
                self.count("cards/failed")
                logger.warning("A card of %r can't be read (%s: %s)", response.url, type(error).__name__, error)
                continue
            cards.append(card)
        if unreadable:
            self.is_partial = True
        return cards, unreadable

    def says_empty(self, response: Response) -> bool:
        """Tell whether the page says that there is no car."""
        return bool(self.no_results) and says(response, self.no_results)

    def next_request(self, response: Response, make: str | None, page: int) -> Request | None:
        """Ask for the page after this one; ``None`` at the end, or where the crawl's arguments end it."""
        address = self._next_address(response, page)
        if not address or (self.limit and self.taken >= self.limit) or page == self.max_pages:
            return None
        if page >= self.settings.getint("CRAWL_MAX_PAGES"):
            self.is_partial = True
            self.count("pages/capped")
            logger.warning("Stopped after %d result pages (CRAWL_MAX_PAGES)", page)
            return None
        return Request(
            address,
            callback=self.parse_results,
            errback=self.page_failed,
            cb_kwargs={"make": make, "page": page + 1},
            dont_filter=True,  # an arrow that points at its own page must end the search, not lose it
            priority=10,  # the list first: while it is read it shifts little
        )

    def _next_address(self, response: Response, page: int) -> str | None:
        if not self.next_page:
            parts = urlsplit(response.url)
            query = dict(parse_qsl(parts.query)) | {"page": str(page + 1)}
            return parts._replace(query=urlencode(query)).geturl()
        # :has() would need the paging cell to hold nothing else; the ancestor is what the arrow belongs to.
        href = response.css(self.next_page).xpath("ancestor-or-self::a[@href][1]/@href").get()
        return response.urljoin(href) if href else None

    def page_failed(self, failure: Failure) -> None:
        """Count a result page that does not come: what follows it is unknown, so nothing is concluded."""
        self.is_partial = True
        self.count("pages/failed")
        url = failure.request.url  # type: ignore[attr-defined]
        logger.error("Result page does not come: %r (%s); the pages after it were not seen", url, reason_of(failure))

    # --- a card ---

    def read_card(self, response: Response, selector: Selector) -> CarItem:
        """Read a result card.

        Raises:
            ValueError: its link does not name a car.
        """
        card = Card(selector, response.urljoin(selector.css(self.card_link).attrib["href"]))
        external_id = self.car_id(card.link)
        if external_id is None:
            raise ValueError(f"no car in {card.link!r}")
        year, month = self.get_year_month(card)
        price = self.get_price(card)
        vehicle = canonical(*self.get_make_model(card))
        images = self.images_of(response, selector.css(self.card_images), external_id)
        seen = [card.text() or "", *(image.identity for image in images)]
        return CarItem(
            source=self.source,
            external_id=external_id,
            url=self.own_url(card.link),
            title=" ".join(part for part in (vehicle.display_make, vehicle.display_name) if part) or None,
            make=vehicle.make,
            model=vehicle.model,
            display_make=vehicle.display_make,
            display_name=vehicle.display_name,
            year=year,
            registration_month=month,
            price=price.amount,
            price_before_offer=price.before_offer,
            price_excludes_vat=price.excludes_vat,
            kilometers=self.get_kilometers(card),
            fuel=self.get_fuel(card),
            transmission=self.get_transmission(card),
            drivetrain=self.get_drivetrain(card),
            dealer_id=self.get_dealer_id(card),
            images=images,
            image_urls=[image.source_url for image in images],
            # What a person sees on the card; addresses vary with the search and do not count.
            card_hash=hashlib.sha256("\n".join(seen).encode("utf-8", "replace")).hexdigest()[:32],
        )

    def own_url(self, link: str) -> str:
        """Give the lasting address of the car's page that a card links to."""
        return self.canonical_url(link)

    # One method a field; what they give is ``None`` where the card does not say.

    def get_make_model(self, card: Card) -> tuple[str | None, str | None]:
        """Read make and model from the beginning of the card's text."""
        return split_title(card.text())

    def get_year_month(self, card: Card) -> tuple[int | None, int | None]:
        """Read the year, and the month of the first registration."""
        return parsing.parse_year_month(card.text())

    def get_kilometers(self, card: Card) -> int | None:
        """Read the distance driven."""
        return parsing.parse_kilometers(card.text())

    def get_price(self, card: Card) -> Price:
        """Read the price, and the one before an offer."""
        return parsing.parse_price(card.text())

    def get_fuel(self, card: Card) -> str | None:
        """Read what the car runs on."""
        return parsing.parse_fuel(card.text())

    def get_transmission(self, card: Card) -> str | None:
        """Read the kind of gear."""
        return parsing.parse_transmission(card.text())

    def get_drivetrain(self, card: Card) -> str | None:
        """Read which wheels are driven."""
        return parsing.parse_drivetrain(card.text())

    def get_dealer_id(self, card: Card) -> str | None:
        """Read whose car it is, where a site shows cars of several dealers."""
        return None

    # --- photos ---

    def images_of(self, response: Response, pictures: Any, external_id: str) -> list[CarImage]:
        """Give the photos that *pictures*, elements of the page, show of the car *external_id*."""
        images: dict[str, CarImage] = {}
        for picture in pictures:
            address = self.picture_address(picture)
            image = self.image(response.urljoin, address, external_id) if address else None
            if image and image.identity not in images:
                image.position = len(images)
                images[image.identity] = image
        return list(images.values())

    def picture_address(self, picture: Selector) -> str | None:
        """Read a picture's address. Until it is loaded, a lazy picture has a stand-in as its ``src``."""
        largest = _largest(picture.attrib.get("data-srcset") or picture.attrib.get("srcset") or "")
        addresses = (picture.attrib.get("data-src", ""), largest, picture.attrib.get("src", ""))
        stripped = (address.strip() for address in addresses)
        return next((each for each in stripped if each and not is_stand_in(each)), None)

    def image(self, join: Any, address: str, external_id: str) -> CarImage | None:
        """Make of an address the photo it names, by its path and what else is not a matter of size.

        An ambiguous address is refused with the raw text kept.
        """
        refused = CarImage(identity=by_address(address), source_url=address, status="failed", reason="bad-address")
        try:
            url = join(address)
            parts = urlsplit(url)
            if "\\" in address or "@" in parts.netloc or not is_web_address(url):
                return refused
        except ValueError:  # brackets that hold no IPv6 address, and the like
            return refused
        query = sorted((name, value) for name, value in parse_qsl(parts.query) if name.lower() not in _RENDITION)
        lasting = f"{parts.path}?{urlencode(query)}" if query else parts.path
        digest = hashlib.sha256(lasting.encode("utf-8", "replace")).hexdigest()[:24]
        return CarImage(identity=f"{external_id}/{digest}", source_url=url)


def is_stand_in(address: str) -> bool:
    """Tell whether an address is what a page shows until the photo is loaded.

    >>> [is_stand_in(each) for each in ("data:image/gif;base64,R0", "/img/placeholder.svg", "/photos/1.jpg")]
    [True, True, False]
    """
    name = re.split("[?#]", address, maxsplit=1)[0].rpartition("/")[2].lower()
    return address.lower().startswith("data:") or "placeholder" in name or name.endswith(".svg")


def _largest(srcset: str) -> str:
    """Give the address of the largest picture of a ``srcset``.

    >>> _largest("/a.jpg?w=400 400w, /a.jpg?w=1280 1280w"), _largest("/a.jpg, /b.jpg 2x"), _largest("")
    ('/a.jpg?w=1280', '/b.jpg', '')
    """
    found: list[tuple[float, str]] = []
    for address, size in re.findall(r"([^\s,]\S*[^\s,]|[^\s,])(?:\s+([0-9.]+)[wx])?\s*(?:,|$)", srcset):
        found.append((float(size or 1), address))
    return max(found, default=(0.0, ""), key=lambda each: each[0])[1]


# --- reading pages ---


def text_of(selector: Any) -> str | None:
    """Give the text of an element, or of the first of several, words apart."""
    first: Any = selector[:1] if isinstance(selector, list) else selector
    return parsing.clean_text(" ".join(first.css("::text").getall()))


def visible_text(response: Response) -> str:
    """Give the page's text a line for each element, without scripts, styles and the options of a search form."""
    path = "//body//text()[not(ancestor::script or ancestor::style or ancestor::select or ancestor::noscript)]"
    lines = (parsing.clean_text(text) for text in response.xpath(path).getall())
    return "\n".join(line for line in lines if line)


def says(response: Response, words: str) -> bool:
    """Tell whether a person sees *words* on the page."""
    return words in " ".join(visible_text(response).split())
