"""A site whose cars stand as cards on result pages.

A subclass says where things are (CSS, under ``# CardSpider``) and overrides the ``get_…`` methods of what its cards
write in their own way. Advertisements are skipped, a card that can't be read is counted and the crawl goes on, a page
whose cars all lack the same ends the crawl with the name of the attribute to change.
"""

from __future__ import annotations

import hashlib
import logging
import re
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urljoin, urlsplit

from carscraper import parsing, words
from carscraper.base_spiders import pages
from carscraper.base_spiders.listing import ListSpider
from carscraper.base_spiders.pages import first_of, join, number_images, says, text_of
from carscraper.base_spiders.paging import pagers
from carscraper.items import CARD_FIELD, CARD_FIELDS, CARD_SILENT, CARD_TEXT, CarImage, CarItem
from carscraper.vehicles import canonical, make_slug, split_title

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from parsel import Selector
    from scrapy.http import Response

    from carscraper.parsing import Price
    from carscraper.vehicles import Vehicle

logger = logging.getLogger(__name__)

MANY = 5
"""Cards that do not all lack the same by chance."""
_TITLE_LINES = 8  # of a card, among which the title is
# Where a title ends that has the facts on its line: "DEFENDER HSE 7/2020 181 000 km."
_BUTTON = re.compile(r"^(?:skoða|sjá)\b(?:\s+(?:bíl(?:inn)?|nánar)\b)?\s*", re.IGNORECASE)  # no Škoda
_FACTS = re.compile(
    r"(?:^|\s)(?=(?:0?[1-9]|1[0-2])\s?[/.]\s?(?:19|20)[0-9]{2}\b"
    r"|(?:19|20)[0-9]{2}\s+(?:[0-9][0-9. ]*\s?(?:km|þ)|nýt|sjálfsk|beinsk|bens|d[íi]s[ei]l|rafm|hybrid|plug|met|vetni)"
    r"|[0-9]{1,3}[. ][0-9]{3}\s?km|verð\b|tilboð\b|árgerð|ekinn?\b|akstur|sjálfskipt|beinskipt)",
    re.IGNORECASE,
)


class Card:
    """A card as the ``get_…`` methods see it: its texts, each looked up once."""

    def __init__(self, selector: Selector, link: str) -> None:
        self.selector = selector
        self.link = link
        """The whole address of the car's own page."""
        self._texts: dict[str, list[str | None]] = {}

    def texts(self, css: str = "") -> list[str | None]:
        """Return the text of each element at *css*; of the whole card without it."""
        if css not in self._texts:
            self._texts[css] = [text_of(each) for each in (self.selector.css(css) if css else [self.selector])]
        return self._texts[css]

    def text(self, css: str = "") -> str | None:
        """Return the text of the first element at *css*, or of the whole card; ``None`` if it is not there."""
        return next(iter(self.texts(css)), None)

    def lines(self) -> list[str]:
        """Return the card's text, a line for each of its elements."""
        return [text for each in self.selector.css("::text").getall() if (text := parsing.clean_text(each))]


class CardSpider(ListSpider):
    """A site of result pages with cards."""

    card: ClassVar[str] = ""
    """A car on a result page; empty: what is around a link to a car's page, see :func:`pages.guess_cards`."""
    card_link: ClassVar[str]
    """In a card, the link to the car's own page. A card without one is an advertisement."""
    car_in_address: ClassVar[str] = ""
    """What of the address of a car's page is the car's id: a pattern with one group, such as ``/bilar/(\\d+)``.
    Empty: its query, see :func:`pages.query_id`."""
    card_images: ClassVar[str] = "img"
    """In a card, the photos."""
    card_mark: ClassVar[str] = ""
    """What stands once for each car of a result page besides its card: a second count of them."""
    images_home: ClassVar[str] = ""
    """Where photos are whose address is a bare name; a site at another ``base_url`` has them itself."""
    details_images: str = ""
    """On the car's own page, the photos (pictures, or links to them). Set it if the page has more than the card."""
    gone_texts: tuple[str, ...] = ()
    """What the own page of a car says that is sold, where it does not answer 404."""

    # DealerSpider
    has_details = False
    gone_by_status = True

    def __init_subclass__(cls) -> None:
        """Let a dealer with photos on cars' own pages have details."""
        super().__init_subclass__()
        if "details_images" in vars(cls) and "has_details" not in vars(cls):
            cls.has_details = bool(cls.details_images)

    # --- the cards of a page ---

    def missing_sign(self) -> str:
        link = f"card_link = {self.card_link!r}"
        return f"card = {self.card!r} with {link}" if self.card else link

    def read_cards(self, response: Response) -> tuple[list[CarItem], int]:
        cards: list[CarItem] = []
        unreadable = 0
        known: dict[str, CarItem] = {}
        for selector, href in self.select_cards(response):
            try:
                card = self.read_card(response, selector, response.urljoin(href))
            except Exception as error:
                self.end_if_short(error)
                unreadable += 1
                self.count("cards/failed")
                logger.warning("A card of %r can't be read (%s: %s)", response.url, type(error).__name__, error)
                continue
            cards.append(card)
            other = known.setdefault(card.external_id, card)
            if other.url != card.url and other.title != card.title:  # one of them would be lost
                self.incomplete(f"Two cars have the id {card.external_id}, {other.url} and {card.url}: see car_id.")
        if unreadable:
            self.is_partial = True
        return cards, unreadable

    def select_cards(self, response: Response) -> Iterator[tuple[Selector, str]]:
        """Find the cards, each with its link; what links to no car of this site is an advertisement."""
        own = [link for link in response.css(self.card_link) if self.is_ours(join(response, link.attrib["href"]))]
        cars = {link.root: self.car_id(join(response, link.attrib["href"])) for link in own}
        if not self.card:
            yield from pages.guess_cards(own, cars, self._shows_photo)
            return
        pages.part_cards(response.css(self.card), cars)
        for selector in response.css(self.card):
            if link := next((each for each in selector.css(self.card_link) if each.root in cars), None):
                yield selector, link.attrib["href"]

    def _shows_photo(self, element: Selector) -> bool:
        """Return whether *element* has a photo, now or once it is loaded, and not icons only."""
        pictures = element.css(self.card_images)
        return any(
            self.picture_address(each) or "placeholder" in each.attrib.get("src", "").lower() for each in pictures
        )

    def check_page(self, response: Response, page: int, cards: list[CarItem], unreadable: int) -> None:
        if missing := self._missing_from_all(response, cards):
            self.fail(f"No car of result page {page} ({response.url}) has {missing}: the site has changed.")
        marks = len(response.css(self.card_mark)) if self.card_mark else 0
        read = len(cards) + unreadable
        if marks > read:
            self.incomplete(
                f"Result page {page} ({response.url}) has {marks} cars by card_mark = {self.card_mark!r} and {read} by "
                f"{self.missing_sign()}: it can't be read whole, the site has changed."
            )

    def _missing_from_all(self, response: Response, cards: list[CarItem]) -> str | None:
        """Return what no car of the page has: one without a price is ordinary, a page full of them another layout."""
        if len(cards) >= MANY:
            if not any(card.make for card in cards):
                return "a make (get_make_model)"
            if not any(card.model for card in cards):
                return "a model (get_make_model)"
            if not any(card.price or card.year or card.kilometers for card in cards):
                return "a price, a year or a distance (get_price, get_year_month, get_kilometers)"
        if len(cards) > 1 and not any(card.images for card in cards):
            shown = (picture for selector, _ in self.select_cards(response) for picture in selector.css("img"))
            if any(map(self.picture_address, shown)):
                return f"a photo (card_images = {self.card_images!r}), though there are pictures"
        return None

    def linked_cars(self, response: Response) -> set[str]:
        if not self.car_in_address:
            return set()
        urls = (join(response, href) for href in response.css("a::attr(href)").getall())
        return {car for url in urls if self.is_ours(url) and (car := self.car_id(url))}

    def number_of_pages(self, response: Response, page: int) -> int | None:
        if not (found := [*pagers(response, page)]):
            return None
        cards = {selector.root for selector, _ in self.select_cards(response)}  # which count their photos in this way
        own = (pages for each, pages in found if not {one.root for one in each.xpath("ancestor-or-self::*")} & cards)
        return next(own, None)

    def is_asked_for(self, card: CarItem) -> bool:
        """Return whether the card is of one of ``makes``, where the site itself was asked for all."""
        return not self.makes or self.searches() != [None] or make_slug(card.make) in map(make_slug, self.makes)

    # --- a card ---

    def read_card(self, response: Response, selector: Selector, link: str) -> CarItem:
        """Read a result card that links to the car's page at *link*.

        Raises:
            ValueError: the link does not name a car.
        """
        card = Card(selector, link)
        external_id = self.car_id(card.link)
        if external_id is None:
            raise ValueError(f"no car in {card.link!r} (car_in_address = {self.car_in_address!r})")
        year, month = self.get_year_month(card)
        price = self.get_price(card)
        return self.item_of(
            canonical(*self.get_make_model(card)),
            self.images_of(response, selector.css(self.card_images), external_id),
            shown=card.text() or "",
            external_id=external_id,
            url=self.own_url(card.link),
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
        )

    def item_of(self, vehicle: Vehicle, images: list[CarImage], *, shown: str, **fields: Any) -> CarItem:
        """Return a car made of what was read of it.

        Args:
            vehicle: its make and model.
            images: its photos, in their order.
            shown: in what a change shows; addresses vary with the search and do not belong there.
            fields: all others of ``CarItem``.
        """
        item = CarItem(source=self.source, **fields)
        set_images(item, images)
        set_vehicle(item, vehicle)
        seen = "\n".join([shown, *(image.identity for image in images)])
        # With the same text, what was read of it changes when a selector fails or is mended.
        read = ([getattr(item, name) for name in names] for names in CARD_FIELDS)
        parts = (CARD_SILENT if set(values) == {None} else _digest(repr(values), CARD_FIELD) for values in read)
        item.card_hash = _digest(seen, CARD_TEXT) + "".join(parts)
        return item

    def own_url(self, link: str) -> str:
        """Return the lasting address of the car's page that a card links to, on the crawl's own site."""
        return self.at_base(self.canonical_url(link))

    # One method a field; what they return is ``None`` where the card does not say.

    def get_make_model(self, card: Card) -> tuple[str | None, str | None]:
        """Read make and model from the first line that begins with a known make, else from the first line."""
        lines = card.lines()[:_TITLE_LINES]
        split = [pair for number in range(len(lines)) if (pair := _split_lines(lines[number:]))[0]]
        known = (pair for pair in split if pair[1] and canonical(*pair).known)
        return next(known, split[0] if split else (None, None))

    def facts(self, card: Card) -> list[str]:
        """Return the texts that year, distance, fuel, gears and driven wheels are read from, the first that has it."""
        return [card.text() or ""]

    def get_year_month(self, card: Card) -> tuple[int | None, int | None]:
        """Read the year, and the month of the first registration."""
        found = map(parsing.parse_year_month, self.facts(card))
        return next((each for each in found if each[0]), (None, None))

    def get_kilometers(self, card: Card) -> int | None:
        return first_of(map(parsing.parse_kilometers, self.facts(card)))

    def get_price(self, card: Card) -> Price:
        return parsing.parse_price(card.text())

    def get_fuel(self, card: Card) -> str | None:
        return first_of(map(words.parse_fuel, self.facts(card)))

    def get_transmission(self, card: Card) -> str | None:
        return first_of(map(words.parse_transmission, self.facts(card)))

    def get_drivetrain(self, card: Card) -> str | None:
        return first_of(map(words.parse_drivetrain, self.facts(card)))

    def get_dealer_id(self, card: Card) -> str | None:
        """Read whose car it is, where a site shows cars of several dealers."""
        return None

    # --- the car's own page ---

    def car_id(self, url: str) -> str | None:
        """Read the car's id where ``car_in_address`` says; what can't be an id is none."""
        if not self.car_in_address:
            return pages.query_id(url)
        found = re.search(self.car_in_address, url)
        if not found or not re.fullmatch("[A-Za-z0-9_-]{1,40}", found[1]):
            return None
        # A pattern that ends with the id must find all of it; after a number the car's name may follow.
        end = "[/?#-]|$" if found[1].isdecimal() else "[/?#]|$"
        return found[1] if found.end() > found.end(1) or re.match(end, url[found.end() :]) else None

    def canonical_url(self, url: str) -> str:
        """Leave out what only names the search."""
        return (
            urlsplit(url)._replace(query="", fragment="").geturl() if self.car_in_address else pages.lasting_query(url)
        )

    def read_images(self, response: Response, external_id: str) -> list[CarImage]:
        return self.images_of(response, response.css(self.details_images or self.card_images), external_id)

    def parse_details(self, response: Response, item: CarItem) -> Iterator[CarItem]:
        """Add the photos of the car's own page to *item*; a dealer whose page says more overrides this.

        Raises:
            ValueError: there is none, though the card shows some.
        """
        images = self.read_images(response, item.external_id)
        if not images and item.images:
            raise ValueError(f"no photo is on its page (details_images = {self.details_images!r})")
        set_images(item, images)
        yield item

    def is_gone(self, response: Response) -> bool:
        return says(response, *self.gone_texts)

    # --- photos ---

    def images_of(self, response: Response, pictures: Any, external_id: str) -> list[CarImage]:
        """Return the photos that *pictures*, elements of the page, show of the car *external_id*."""
        addresses = filter(None, map(self.picture_address, pictures))
        return number_images(self.image(response.urljoin, address, external_id) for address in addresses)

    def picture_address(self, picture: Selector) -> str | None:
        """Read the address that an element of the page has."""
        return pages.picture_address(picture)

    def image(self, join: Any, address: str, external_id: str) -> CarImage | None:
        if self.images_home and re.fullmatch(r"[\w.%-]+", address):
            address = urljoin(self.images_home if self.base_url == self.home else self.base_url, address)
        return pages.read_image(join, address, lambda url: pages.image_of_path(url, external_id))


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:length]


def set_images(item: CarItem, images: Iterable[CarImage]) -> None:
    """Write the photos into *item*, each once."""
    item.images = number_images(images)
    item.image_urls = [image.source_url for image in item.images]


def set_vehicle(item: CarItem, vehicle: Vehicle) -> None:
    """Write make and model into *item*, and the title made of them."""
    item.title = " ".join(part for part in (vehicle.display_make, vehicle.display_name) if part) or None
    item.make, item.model = vehicle.make, vehicle.model
    item.display_make, item.display_name = vehicle.display_make, vehicle.display_name


def _split_lines(lines: list[str]) -> tuple[str | None, str | None]:
    """Split the title in the first of *lines*; one that is a known make alone goes on in the next lines.

    >>> _split_lines(["DEFENDER", "LAND ROVER"]), _split_lines(["Land Rover", "Defender HSE", "Verð: 8.590.000 kr."])
    (('DEFENDER', None), ('Land Rover', 'Defender HSE'))
    >>> _split_lines(["7/2020 181 000 km."]), _split_lines(["Skoða bíl"]), _split_lines(["Skoða VW ID.5"])
    ((None, None), (None, None), ('VW', 'ID.5'))
    """
    lines = [_BUTTON.sub("", line) for line in lines]
    pair = split_title(_FACTS.split(lines[0], maxsplit=1)[0])
    if pair[0] and not pair[1] and canonical(*pair).known:
        return split_title(_FACTS.split(" ".join(lines[:2]), maxsplit=1)[0])
    return pair
