"""A site whose cars stand as cards on result pages that follow each other.

A subclass says where things are (CSS, under ``# CardSpider``) and overrides the ``get_…`` methods of what its cards
write in their own way. What every site needs is here: advertisements are skipped, a card that can't be read is counted
and the crawl goes on, a page without any car, or whose cars all lack the same, ends the crawl with the name of the
missing selector. A list is complete only when its end was seen: a page past the last repeats its cars, says that there
are none or is not there, or the pager says ``N / N``. Whatever ends it otherwise makes the crawl partial.
"""

from __future__ import annotations

import hashlib
import logging
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from parsel import css2xpath
from scrapy import Request
from scrapy.http import TextResponse

from carscraper import parsing
from carscraper.base_spiders.base import by_address, forget_tree, is_web_address, reason_of, status_of
from carscraper.base_spiders.dealer import DealerSpider
from carscraper.base_spiders.paging import Walk, find_next, is_whole, join, last_of_pager, numbered, place_of
from carscraper.items import CarImage, CarItem
from carscraper.vehicles import canonical, make_slug, split_title

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Iterator
    from typing import ClassVar

    from parsel import Selector
    from scrapy.http import Response
    from twisted.python.failure import Failure

    from carscraper.parsing import Price
    from carscraper.vehicles import Vehicle

logger = logging.getLogger(__name__)

# Parameters of a photo's address that say how it is shown, not which photo it is.
_RENDITION = frozenset(
    {"w", "h", "width", "height", "size", "q", "quality", "fit", "crop", "format", "fm", "dpr", "auto"}
)

# Where a picture's address is, the largest first; the scripts that load pictures late have these names for it.
_SRCSETS = ("data-srcset", "data-lazy-srcset", "srcset")
_SRCS = ("data-src", "data-original", "data-lazy-src", "data-lazy", "src")

_TITLE_LINES = 8  # of a card, among which the title is
# Where a title ends that has the facts on its line: "DEFENDER HSE 7/2020 181 000 km."
_FACTS = re.compile(
    r"(?:^|\s)(?=(?:0?[1-9]|1[0-2])\s?[/.]\s?(?:19|20)[0-9]{2}\b"
    r"|(?:19|20)[0-9]{2}\s+(?:[0-9][0-9. ]*\s?(?:km|þ)|nýt|sjálfsk|beinsk|bens|d[íi]s[ei]l|rafm|hybrid|plug|met|vetni)"
    r"|[0-9]{1,3}[. ][0-9]{3}\s?km|verð\b|tilboð\b|árgerð|ekinn?\b|akstur|sjálfskipt|beinskipt)",
    re.IGNORECASE,
)
_PRICE = re.compile(r"[0-9]\s?kr\b|\bkr\.?\s?[0-9]|\bverð\b|\btilboð\b", re.IGNORECASE)
_STEPS_OUT = 3  # from a link to its card's outermost element, where no other car says how far the card goes
_MANY = 5  # cards that are not all without a price by chance
_NOT_THERE = frozenset({404, 410})
_BARREN = 4  # pages in a row without a new car, after which a list that does not end is left
_MISSING = 2  # pages in a row that can't be read
_SECOND_LOOK = 4  # pages that are read once more after the end of a list
_SUSPICIOUS = 10  # cars; with fewer a list may well have one page


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

    def lines(self) -> list[str]:
        """Give the card's text, a line for each of its elements."""
        cleaned = (parsing.clean_text(text) for text in self.selector.css("::text").getall())
        return [text for text in cleaned if text]

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
    card: ClassVar[str] = ""
    """A car on a result page; empty: what is around a link to a car's page, with its picture and price."""
    card_link: ClassVar[str]
    """In a card, the link to the car's own page. A card without one is an advertisement."""
    images_home: ClassVar[str] = ""
    """Where photos are whose address is a bare name; a site at another ``base_url`` has them itself."""
    car_in_address: ClassVar[str] = ""
    """What of the address of a car's page is the car's id: a pattern with one group."""
    card_images: ClassVar[str] = "img"
    card_mark: ClassVar[str] = ""
    """What stands once for each car of a result page besides its card: a second count of them."""
    next_page: ClassVar[str] = ""
    """The link to the next page, or something inside it, where it is not found by its address, rel, label or text."""
    is_numbered: ClassVar[bool] = False
    """Whether ``?page=2`` is known to be the second page, whatever leads to it."""
    no_results: ClassVar[str] = ""
    """What the page of an empty search says."""

    # DealerSpider
    gone_by_status = True

    _results_title: str | None = None
    """Of the result pages, page numbers apart."""

    def configure(self) -> None:
        """Take the address of the list for ``base_url``, too.

        Raises:
            ConfigurationError: an argument is unknown or wrong.
        """
        super().configure()
        self._walks: dict[str | None, Walk] = {}
        parts = urlsplit(self.base_url)
        root = parts.path.rstrip("/").removesuffix("/" + self.results_path.strip("/"))
        if self.results_path and root != parts.path.rstrip("/"):
            self.base_url = parts._replace(path=root + "/", query="", fragment="").geturl()

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
        yield from ()  # Scrapy logs what a plain function raises with a traceback
        self.fail(f"{failure.request.url} can't be reached ({reason_of(failure)}).")  # type: ignore[attr-defined]

    def searches(self) -> list[str | None]:
        """Name the searches of this crawl, each by its make; ``None`` stands for everything."""
        return [None]

    # --- result pages ---

    def walk(self, make: str | None) -> Walk:
        """Return how far the search for *make* has been read."""
        return self._walks.setdefault(make, Walk())

    def parse(self, response: Response) -> Iterator[Any]:
        """Read one page for ``scrapy parse``: a car's own page, or the cards of a page of results."""
        car_id = self.car_id(response.url)
        if car_id is not None:
            item = CarItem(source=self.source, external_id=car_id, url=self.canonical_url(response.url))
            yield from self.parse_details_safely(response, item)
            return
        cards, _ = self.read_cards(response)
        if not cards:
            self.fail(f"{response.url} is no car's own page and has no car that can be read ({self.card_link}).")
        yield from cards

    async def parse_results(
        self, response: Response, make: str | None = None, page: int = 1, tries: int = 1
    ) -> AsyncIterator[CarItem | Request]:
        """Read one result page, and go on until the end of the list is seen."""
        walk = self.walk(make)
        cards: list[CarItem] = []
        unreadable = 0
        why = self._not_results(response, walk, page)
        if not why:
            cards, unreadable = self.read_cards(response)
            why = "" if cards else self._not_empty(response, walk, page, unreadable)
        if why:
            forget_tree(response)
            for request in await self._go_without(response.request, make, page, why, url=response.url):
                yield request
            return
        walk.url = response.url if cards else walk.url
        walk.repeated, walk.missing = False, 0
        new = {card.external_id for card in cards} - self.seen
        if cards:
            self._check_cards(response, page, cards, unreadable)
            for result in await self.follow_cards([card for card in cards if self._is_asked_for(card)]):
                yield result
            self.seen.update(new)
        self._note(response, walk, page, cards, new)
        requests = await self._go_on(response, make, page, has_cards=bool(cards))
        forget_tree(response)
        for request in requests:
            yield request

    def _not_results(self, response: Response, walk: Walk, page: int) -> str:
        """Say why this is not the result page that was asked for, or did not come whole; nothing if it is."""
        if not isinstance(response, TextResponse):
            return f"is no text, so there is no {self.card_link}"
        if not self.is_result_page(response, page):
            return "is no result page of this search: it was forgotten, or the site shows something else"
        if not self.is_whole(response):
            if not walk.repeated or response.request is None:
                return "was cut off"
            self.incomplete(f"Result page {page} ({response.url}) was cut off, twice: some of its cars may be missing.")
        return ""

    def is_whole(self, response: Response) -> bool:
        """Return whether a page came to its end."""
        return is_whole(response)

    def is_result_page(self, response: Response, page: int) -> bool:
        """Return whether *response* is what was asked for, and no other page that the site leads to instead."""
        if page == 1 or response.request is None:
            return True
        return place_of(response.url).is_list_of(place_of(_asked(response.request)))

    def _not_empty(self, response: Response, walk: Walk, page: int, unreadable: int) -> str:
        """Say why a page without a car that could be read is not past the end of the list; nothing if it is."""
        if unreadable or not self._may_be_empty(response, page):
            where = " with ".join(filter(None, (self.card, self.card_link)))
            return f"has no car that can be read ({where}): the site has changed or shows something else"
        if page > 1:
            return f"says that there is no car, though page {page - 1} leads to it" if walk.linked else ""
        if walk.url:
            return "says that there is no car, though there were some"
        if (self.makes or self.changed_days) and (walk.repeated or walk.restarted):
            return ""
        return f"says that the search of {'one make' if self.makes else 'the whole site'} found nothing"

    def _check_cards(self, response: Response, page: int, cards: list[CarItem], unreadable: int) -> None:
        """Compare the cards of a page with what else it says of them.

        Raises:
            CloseSpider: all of them lack the same.
        """
        if missing := self._missing_from_all(response, cards):
            self.fail(f"No car of result page {page} ({response.url}) has {missing}: the site has changed.")
        self.count("pages/results")
        self._results_title = title_of(response)
        marks = len(response.css(self.card_mark)) if self.card_mark else 0
        read = len(cards) + unreadable
        where = f"{self.card} with {self.card_link}"
        if marks and marks != read:
            self.incomplete(
                f"Result page {page} ({response.url}) has {marks} cars by {self.card_mark} and {read} by {where}: "
                "it can't be read whole, the site has changed."
            )
        elif self.card:
            others = len(self.linked_cars(response) - {card.external_id for card in cards})
            if others >= max(_MANY, read / 4):
                self.incomplete(
                    f"Result page {page} ({response.url}) links to {others} more cars than the {read} of {where}: "
                    "it can't be read whole, the site has changed."
                )

    def linked_cars(self, response: Response) -> set[str | None]:
        """Return the ids of all cars that a page leads to, in cards or not."""
        urls = (join(response, link.attrib["href"]) for link in response.css("a[href]"))
        return {self.car_id(url) for url in urls if self._is_ours(url)} - {None}

    def _note(self, response: Response, walk: Walk, page: int, cards: list[CarItem], new: set[str]) -> None:
        """Enter in *walk* what the page says of the list's end."""
        if walk.second_look is not None or walk.resume:
            return
        shown = {card.external_id for card in cards}
        walk.again += len(shown) - len(new) if page > 1 else 0
        if new or (cards and page == 1):
            walk.sizes[page], walk.last, walk.shifted = len(cards), shown, walk.again
            walk.doubtful.update(walk.barren)
            walk.past, walk.barren = 0, []
            return
        walk.barren.append(page)
        repeats = 2 * len(shown & walk.last) >= len(shown)
        moved = place_of(response.url).number not in {None, page}  # the site has no such page and shows another one
        walk.echoed |= bool(cards) and repeats and not walk.linked
        walk.past += not cards or repeats or (moved and not walk.linked)

    async def _go_on(self, response: Response, make: str | None, page: int, *, has_cards: bool) -> list[Request]:
        """Return what follows a result page that was read."""
        walk = self.walk(make)
        if walk.resume:
            page, walk.resume = walk.resume, 0
            return self._ask(numbered(response.url, page), make, page)
        if walk.second_look is not None:
            return await self._look_again(make, walk)
        if walk.past >= walk.needed() or self._pager_ends(response, page):
            return await self._end_seen(make, walk)
        if len(walk.barren) >= _BARREN:
            self.incomplete(
                f"{_BARREN} result pages up to page {page} ({response.url}) showed no new car and did not repeat "
                "the last page either: the end of the list was not seen."
            )
            return await self._search_finished()
        if not has_cards:  # by accident, perhaps
            return self._ask(numbered(walk.url, page), make, page)
        following = self.next_request(response, make, page)
        return [following] if following else await self._search_finished()

    async def _end_seen(self, make: str | None, walk: Walk) -> list[Request]:
        """Return what is to be asked for after the last page of a list."""
        for page in walk.short_pages(first_counts=self.is_numbered):
            most = max(walk.sizes.values())
            self.incomplete(f"Result page {page} showed {walk.sizes[page]} cars where others show {most}.")
        size = walk.sizes.get(1, 0)
        if len(walk.sizes) == 1 and walk.echoed and size >= _SUSPICIOUS and not self.is_numbered:
            self.incomplete(
                f"All {size} cars were on the first page, and page=2 repeated them. "
                "If the site shows more while one scrolls, its list goes on in another way."
            )
        pages = walk.doubtful
        if walk.shifted:  # what came in at the front meanwhile was on no page that was read
            pages = pages | set(range(1, walk.shifted // max(walk.sizes.values()) + 2))
        walk.second_look = sorted(pages)[:_SECOND_LOOK]
        return await self._look_again(make, walk)

    async def _look_again(self, make: str | None, walk: Walk) -> list[Request]:
        """Return the request for the next page that is to be read once more after the end of the list."""
        page = walk.second_look.pop(0) if walk.second_look else None
        following = self._ask(numbered(walk.url, page), make, page) if page else []
        return following or await self._search_finished()

    async def _go_without(
        self, request: Request | None, make: str | None, page: int, why: str, *, url: str
    ) -> list[Request]:
        """Ask for a page once more, at first as it is, then in a new search; else go on without it.

        Raises:
            CloseSpider: it is the first one of the list.
        """
        walk = self.walk(make)
        if request and (again := self._again(request, make, page)):
            logger.warning("Result page %d (%r) %s; once more", page, url, why)
            return [again]
        if not walk.url:
            self.fail(f"Result page {page} ({url}) {why}.")
        lost, walk.resume = walk.resume or page, 0
        self.count("pages/failed")
        self.incomplete(f"Result page {lost} ({url}) {why}.")
        walk.missing += 1
        walk.lost += 1
        walk.repeated = walk.linked = False
        following: list[Request] = []
        if lost == page and walk.missing < _MISSING and walk.lost < _BARREN and walk.second_look is None:
            following = self._ask(numbered(walk.url, page + 1), make, page + 1)
        return following or await self._search_finished()

    def _again(self, request: Request, make: str | None, page: int) -> Request | None:
        """Ask for a page once more, or search afresh; ``None`` when both were tried."""
        walk = self.walk(make)
        if not walk.repeated:
            walk.repeated = True
            return request.replace(url=request.url if page == 1 else _asked(request), meta={}, dont_filter=True)
        may_restart = page > walk.restarted and walk.second_look is None and not walk.resume
        if may_restart and (search := self.search_afresh(make)):
            walk.restarted = page
            walk.resume = page if walk.url else 0
            return search
        return None

    def search_afresh(self, make: str | None) -> Request | None:
        """Begin the search for *make* once more; ``None`` where pages belong to no search."""
        return None

    _finished_searches = 0

    async def _search_finished(self) -> list[Request]:
        """Return what is to be looked up once all searches are through."""
        self._finished_searches += 1
        return await self.conclude() if self._finished_searches == len(self.searches()) else []

    def _may_be_empty(self, response: Response, page: int) -> bool:
        """Return whether a page without cars is the site's word, not a change of it.

        Where that word is not known: past the last numbered page comes one like the others, without cars; a login or a
        maintenance page has another title, and cars in another layout still have prices.
        """
        if self.says_empty(response):
            return True
        if self.no_results or page == 1 or title_of(response) != self._results_title:
            return False
        return not _PRICE.search(visible_text(response))

    def _missing_from_all(self, response: Response, cards: list[CarItem]) -> str | None:
        """Name what no car of the page has: one without a price is ordinary, a page full of them is another layout."""
        if len(cards) >= _MANY:
            if not any(card.make for card in cards):
                return "a make"
            if not any(card.model for card in cards):
                return "a model"
            if not any(card.price or card.year or card.kilometers for card in cards):
                return "a price, a year or a distance"
        if len(cards) > 1 and not any(card.images for card in cards):
            shown = (picture for selector, _ in self._select_cards(response) for picture in selector.css("img"))
            if any(self.picture_address(picture) for picture in shown):
                return f"a photo ({self.card_images}), though there are pictures"
        return None

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
        for selector, href in self._select_cards(response):
            try:
                card = self.read_card(response, selector, response.urljoin(href))
            except Exception as error:
                unreadable += 1
                self.count("cards/failed")
                logger.warning("A card of %r can't be read (%s: %s)", response.url, type(error).__name__, error)
                continue
            cards.append(card)
        if unreadable:
            self.is_partial = True
        return cards, unreadable

    def _select_cards(self, response: Response) -> Iterator[tuple[Selector, str]]:
        """Find the cards, each with its link; what links to no car of this site is an advertisement."""
        if self.card:
            self._part_cards(response)
            for selector in response.css(self.card):
                hrefs = selector.css(self.card_link).xpath("@href").getall()
                if own := next((href for href in hrefs if self._is_ours(join(response, href))), None):
                    yield selector, own
            return
        links = [link for link in response.css(self.card_link) if self._is_ours(join(response, link.attrib["href"]))]
        cars = {link.root: self.car_id(join(response, link.attrib["href"])) for link in links}
        for link, other in pairwise(links):
            if cars[link.root] != cars[other.root]:
                _part_links(link.root, other.root)
        found: dict[str, tuple[Selector, str]] = {}
        for find in (self._around, self._about):
            for link in links:
                href = link.attrib["href"]
                car = cars[link.root] or href
                if car not in found and (around := find(link, cars)):
                    found[car] = around, href
        yield from found.values()

    def _part_cards(self, response: Response) -> None:
        """Put cards beside each other: a parser nests them where the end of one is missing."""
        cards = {selector.root: selector for selector in response.css(self.card)}
        for root in cards:
            outer = next((each for each in root.iterancestors() if each in cards), None)
            if outer is None:
                continue
            links = [link.root for link in cards[outer].css(self.card_link)]
            own = [link for link in links if _inmost(link, cards) is outer]
            # One that links to nothing itself, around a single card that does, is no card but a frame.
            if own or len({self.car_id(join(response, link.get("href"))) for link in links}) > 1:
                _part(outer, root)

    def _ancestors(self, link: Selector, cars: dict[Any, str | None]) -> Iterator[Selector]:
        """Give the elements around *link* that hold no other car, from within."""
        own = {cars[link.root], None}
        for selector in reversed(link.xpath("ancestor-or-self::*")):
            if any(cars.get(other.root) not in own for other in selector.css(self.card_link)):
                return
            yield selector

    def _around(self, link: Selector, cars: dict[Any, str | None]) -> Selector | None:
        """Give the smallest element that shows a picture and a price."""
        for selector in self._ancestors(link, cars):
            pictures = any(self._is_picture(each) for each in selector.css(self.card_images))
            if pictures and _PRICE.search(text_of(selector) or ""):
                return selector
        return None

    def _about(self, link: Selector, cars: dict[Any, str | None]) -> Selector | None:
        """Give the largest element, of a car without a picture, without a price or without both."""
        ancestors = list(self._ancestors(link, cars))
        # Alone on its page a car has all of it for itself.
        if not set(cars.values()) - {cars[link.root], None}:
            ancestors = ancestors[: _STEPS_OUT + 1]
        about = ancestors[-1] if ancestors else None
        text = text_of(about) or "" if about else ""
        if about and (about.css(self.card_images) or _PRICE.search(text) or _FACTS.search(text)):
            return about
        return None  # a mention in passing

    def _is_picture(self, picture: Selector) -> bool:
        """Tell whether it is a photo, now or once it is loaded, and no icon."""
        return bool(self.picture_address(picture)) or "placeholder" in picture.attrib.get("src", "").lower()

    def says_empty(self, response: Response) -> bool:
        """Tell whether the page says that there is no car."""
        return bool(self.no_results) and says(response, self.no_results)

    def next_request(self, response: Response, make: str | None, page: int) -> Request | None:
        """Ask for the page after this one; ``None`` where the crawl's arguments or a cap end the list."""
        request, self.walk(make).linked = self.lead(response, page)
        return next(iter(self._ask(request, make, page + 1)), None) if request else None

    def lead(self, response: Response, page: int) -> tuple[Request | str | None, bool]:
        """Return what asks for the page after this one, and whether this one leads to it; else it is a guess."""
        found, leads = None, False
        if isinstance(response, TextResponse):
            found, leads = find_next(response, page, self.next_page, self._is_no_car)
        if found is None:
            return numbered(response.url, page + 1), leads
        return found.replace(url=self._at_base(found.url)), leads

    def _ask(self, address: Request | str, make: str | None, page: int) -> list[Request]:
        """Return the request for a result page; none where the crawl's arguments or a cap end the list."""
        if (self.limit and self.taken >= self.limit) or (self.max_pages and page > self.max_pages):
            return []
        if page > self.settings.getint("CRAWL_MAX_PAGES"):
            self.is_partial = True
            self.count("pages/capped")
            logger.warning("Stopped after %d result pages (CRAWL_MAX_PAGES)", page - 1)
            return []
        request = Request(address) if isinstance(address, str) else address
        following = request.replace(
            callback=self.parse_results,
            errback=self.page_failed,
            cb_kwargs={"make": make, "page": page},
            dont_filter=True,  # an arrow that points at its own page must end the search, not lose it
            priority=10,  # the list first: while it is read it shifts little
        )
        return [following]

    def _is_no_car(self, url: str) -> bool:
        """Return whether a page is on the dealer's site and no car's: arrows that turn photos lead to no page."""
        return self._is_ours(url) and self.car_id(url) is None

    def _pager_ends(self, response: Response, page: int) -> bool:
        """Return whether a pager says that this page is the last one."""
        if not isinstance(response, TextResponse) or not (found := [*last_of_pager(response, page)]):
            return False
        cards = {selector.root for selector, _ in self._select_cards(response)}
        return any(not {each.root for each in element.xpath("ancestor-or-self::*")} & cards for element in found)

    def _is_ours(self, url: str) -> bool:
        """Tell whether a page is on the dealer's site, whatever other sites are linked."""
        return is_web_address(url) and _host(url) in {_host(self.base_url), _host(self.home)}

    def _at_base(self, url: str) -> str:
        """Move a page of the dealer's site to where this crawl has it."""
        base = urlsplit(self.base_url)
        return urlsplit(url)._replace(scheme=base.scheme, netloc=base.netloc).geturl()

    async def page_failed(self, failure: Failure) -> AsyncIterator[Request]:
        """Go on after a result page that does not come.

        A page that the site does not have (404, 410) and that no page led to is past the end of the list.
        """
        request: Request = failure.request  # type: ignore[attr-defined]
        make, page = request.cb_kwargs["make"], request.cb_kwargs["page"]
        walk = self.walk(make)
        is_past = not walk.linked and walk.sizes and walk.second_look is None
        if is_past and status_of(failure) in _NOT_THERE:
            walk.past += 1
            walk.barren.append(page)
            once_more = self._ask(numbered(walk.url, page), make, page) if walk.past < walk.needed() else []
            requests = once_more or await self._end_seen(make, walk)
        else:
            # What was tried again already, or was refused, need not be tried once more as it is.
            walk.repeated |= bool(status_of(failure) or request.meta.get("retry_times"))
            why = f"does not come ({reason_of(failure)})"
            requests = await self._go_without(request, make, page, why, url=request.url)
        for each in requests:
            yield each

    # --- a card ---

    def read_card(self, response: Response, selector: Selector, link: str) -> CarItem:
        """Read a result card that links to the car's page at *link*.

        Raises:
            ValueError: the link does not name a car.
        """
        card = Card(selector, link)
        external_id = self.car_id(card.link)
        if external_id is None:
            raise ValueError(f"no car in {card.link!r}")
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
        """Make a car of what was read of it.

        Args:
            vehicle: its make and model.
            images: its photos, in their order.
            shown: in what a change shows; addresses vary with the search and do not belong there.
            fields: all others of ``CarItem``.
        """
        seen = [shown, *(image.identity for image in images)]
        item = CarItem(
            source=self.source,
            images=images,
            image_urls=[image.source_url for image in images],
            card_hash=hashlib.sha256("\n".join(seen).encode("utf-8", "replace")).hexdigest()[:32],
            **fields,
        )
        set_vehicle(item, vehicle)
        return item

    def own_url(self, link: str) -> str:
        """Give the lasting address of the car's page that a card links to, on the crawl's own site."""
        return self._at_base(self.canonical_url(link))

    # One method a field; what they give is ``None`` where the card does not say.

    def get_make_model(self, card: Card) -> tuple[str | None, str | None]:
        """Read make and model from the first line that begins with a known make, else from the first line."""
        lines = card.lines()[:_TITLE_LINES]
        split = [pair for number in range(len(lines)) if (pair := _split_lines(lines[number:]))[0]]
        known = (pair for pair in split if pair[1] and canonical(*pair).known)
        return next(known, split[0] if split else (None, None))

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

    # --- the car's own page ---

    def car_id(self, url: str) -> str | None:
        """Read the car's id where ``car_in_address`` says; what can't be an id is none."""
        found = re.search(self.car_in_address, url) if self.car_in_address else None
        if not found or not re.match("[/?#]|$", url[found.end(1) :]):
            return None
        return found.group(1) if re.fullmatch("[A-Za-z0-9_-]{1,40}", found.group(1)) else None

    def canonical_url(self, url: str) -> str:
        """Leave out what only names the search."""
        return urlsplit(url)._replace(query="", fragment="").geturl()

    def read_images(self, response: Response, external_id: str) -> list[CarImage]:
        """Read the photos of the car from its own page, as far as it shows the same as the card."""
        return self.images_of(response, response.css(self.card_images), external_id)

    def is_gone(self, response: Response) -> bool:
        """Tell whether the page says that the car is gone; sites that answer 404 say it so."""
        return False

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
        largest = [_largest(picture.attrib.get(name, "")) for name in _SRCSETS]
        single = [picture.attrib.get(name, "") for name in _SRCS]
        # Around a picture that is loaded late <picture> may have the addresses.
        sources = picture.xpath("ancestor::picture[1]//source")  # lxml takes it for an element with content
        beside = [_largest(source.attrib.get(name, "")) for source in sources for name in _SRCSETS]
        addresses = [*largest, *single, *beside]
        stripped = (address.strip() for address in addresses)
        return next((each for each in stripped if each and not is_stand_in(each)), None)

    def image(self, join: Any, address: str, external_id: str) -> CarImage | None:
        """Make of an address the photo it names, by its path and what else is not a matter of size.

        An ambiguous address is refused with the raw text kept.
        """
        refused = CarImage(identity=by_address(address), source_url=address, status="failed", reason="bad-address")
        try:
            url = join(self._whole(address))
            parts = urlsplit(url)
            if "\\" in address or "@" in parts.netloc or not is_web_address(url):
                return refused
            query = sorted((name, value) for name, value in parse_qsl(parts.query) if name.lower() not in _RENDITION)
            lasting = f"{parts.path}?{urlencode(query)}" if query else parts.path
        except ValueError:  # brackets that hold no IPv6 address, a lone surrogate, and the like
            return refused
        digest = hashlib.sha256(lasting.encode("utf-8", "replace")).hexdigest()[:24]
        return CarImage(identity=f"{external_id}/{digest}", source_url=url)

    def _whole(self, address: str) -> str:
        if self.images_home and re.fullmatch(r"[\w.%-]+", address):
            return urljoin(self.images_home if self.base_url == self.home else self.base_url, address)
        return address


def set_vehicle(item: CarItem, vehicle: Vehicle) -> None:
    """Write make and model into *item*, and the title made of them."""
    item.title = " ".join(part for part in (vehicle.display_make, vehicle.display_name) if part) or None
    item.make, item.model = vehicle.make, vehicle.model
    item.display_make, item.display_name = vehicle.display_make, vehicle.display_name


def is_stand_in(address: str) -> bool:
    """Tell whether an address is what a page shows until the photo is loaded, or an icon.

    >>> [is_stand_in(each) for each in ("data:image/gif;base64,R0", "/img/placeholder.svg", "/photos/1.jpg")]
    [True, True, False]
    """
    name = re.split("[?#]", address, maxsplit=1)[0].rpartition("/")[2].lower()
    return address.lower().startswith(("data:", "about:")) or "placeholder" in name or name.endswith(".svg")


def _largest(srcset: str) -> str:
    """Give the address of the largest picture of a ``srcset`` that is no stand-in.

    >>> _largest("/a.jpg?w=400 400w, /a.jpg?w=1280 1280w"), _largest("/a.jpg, /b.jpg 2x"), _largest("")
    ('/a.jpg?w=1280', '/b.jpg', '')
    >>> _largest("/c/w_400,h_300/a.jpg 400w,/c/w_800,h_600/a.jpg 800w, data:image/gif;base64,R0 900w")
    '/c/w_800,h_600/a.jpg'
    """
    found: list[tuple[float, str]] = []
    address, size = "", 1.0
    for word in srcset.split():
        if not address:
            address, comma, following = word.rstrip(","), word[-1] == ",", ""
        else:
            # A comma ends the sizes, and only there may the next address follow without a space.
            sizes, found_comma, following = word.partition(",")
            comma = bool(found_comma)
            size = float(sizes[:-1]) if re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,6})?[wx]", sizes) else size
        if comma:
            found.append((size, address))
            address, size = following, 1.0
    found.append((size, address))
    shown = (each for each in found if each[1] and not is_stand_in(each[1]))
    return max(shown, default=(0.0, ""), key=lambda each: each[0])[1]


def _asked(request: Request) -> str:
    """Return the address that was asked for, before the site led elsewhere."""
    addresses: list[str] = request.meta.get("redirect_urls") or [request.url]
    return addresses[0]


def _host(url: str) -> str:
    return urlsplit(url).netloc.lower().removeprefix("www.")


def _split_lines(lines: list[str]) -> tuple[str | None, str | None]:
    """Split the title in the first of *lines*; one that is a known make alone goes on in the next lines.

    >>> _split_lines(["DEFENDER", "LAND ROVER"]), _split_lines(["Land Rover", "Defender HSE", "Verð: 8.590.000 kr."])
    (('DEFENDER', None), ('Land Rover', 'Defender HSE'))
    >>> _split_lines(["7/2020 181 000 km."])
    (None, None)
    """
    pair = split_title(_FACTS.split(lines[0], maxsplit=1)[0])
    if pair[0] and not pair[1] and canonical(*pair).known:
        return split_title(_FACTS.split(" ".join(lines[:2]), maxsplit=1)[0])
    return pair


# --- reading pages ---


def _part_links(link: Any, other: Any) -> None:
    """Take the card of the link *other* out of the one of the link before it, if the end of that is missing.

    Each element around *other* alone has its like (of the same name and class) around *link*. If the outermost likes
    stand beside each other, so do the cards; if one holds the other, its end is missing.
    """
    around = list(link.iterancestors())
    alone = [each for each in other.iterancestors() if each not in around]
    for inner in reversed(alone):
        kind = inner.tag, inner.get("class")
        like = next((each for each in around if inner.get("class") and (each.tag, each.get("class")) == kind), None)
        if like is not None:
            if like in inner.iterancestors():
                _part(like, inner)
            return


def _inmost(link: Any, cards: Container[Any]) -> Any:
    return next((each for each in (link, *link.iterancestors()) if each in cards), None)


def _part(outer: Any, inner: Any) -> None:
    """Move the element *inner*, and all that follows it inside *outer*, behind *outer*."""
    moved = [inner]
    for each in (inner, *inner.iterancestors()):
        if each is outer:
            break
        moved += each.itersiblings()
    behind = outer
    for each in moved:
        behind.addnext(each)
        behind = each


def title_of(response: Response) -> str:
    """Give the page's title, digits apart: pages of a list have the same."""
    return re.sub("[0-9]+", "", text_of(response.css("head > title")) or "")


def text_of(selector: Any) -> str | None:
    """Give the text of an element, or of the first of several, words apart."""
    first: Any = selector[:1] if isinstance(selector, list) else selector
    return parsing.clean_text(" ".join(first.css("::text").getall()))


def visible_text(response: Response, *, without: str = "") -> str:
    """Return the page's text a line for each element, without scripts, styles and the options of a search form.

    Args:
        response: the page.
        without: the elements at this selector are left out, too.
    """
    path = "//body//text()[not(ancestor::script or ancestor::style or ancestor::select or ancestor::noscript)]"
    if without:
        path = f"set:difference({path}, ({css2xpath(without)})//text())"
    lines = (parsing.clean_text(text) for text in response.xpath(path).getall())
    return "\n".join(line for line in lines if line)


def says(response: Response, words: str) -> bool:
    """Tell whether a person sees *words* on the page."""
    return words in " ".join(visible_text(response).split())
