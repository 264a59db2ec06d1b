"""Result pages that follow each other, read until the end of the list is seen.

The end is seen when a page past the last repeats its cars, says that there are none or is not there, or when the pager
says ``N / N``; after a page as full as the others two of these must say so. What ends a list otherwise is asked for
once more, then in a new search; what stays so makes the crawl partial, with a sentence that names the page.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urljoin, urlsplit

from scrapy import Request
from scrapy.http import TextResponse
from scrapy.spidermiddlewares.httperror import HttpError

from carscraper.base_spiders.base import forget_tree, is_web_address, status_of, why_no_page
from carscraper.base_spiders.dealer import DealerSpider
from carscraper.base_spiders.missing import NOT_THERE
from carscraper.base_spiders.pages import says, shows_price, title_of, visible_text
from carscraper.base_spiders.paging import Walk, find_next, numbered, place_of
from carscraper.items import CarItem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from scrapy.http import Response
    from twisted.python.failure import Failure

logger = logging.getLogger(__name__)

_BARREN = 4  # pages in a row without a new car, after which a list that does not end is left
_MISSING = 2  # pages in a row that can't be read
_SECOND_LOOK = 4  # pages that are read once more after the end of a list
_SUSPICIOUS = 10  # cars; with fewer a list may well have one page


class ListSpider(DealerSpider):
    """A site of result pages; a subclass reads the cars of one (``read_cards``)."""

    results_path: ClassVar[str] = ""
    """Of the first result page, below the site's address."""
    next_page: ClassVar[str] = ""
    """The link to the next page, or something inside it, where it is not found by its address, rel, label or text."""
    is_numbered: ClassVar[bool] = False
    """Whether ``?page=2`` is known to be the second page, whatever leads to it."""
    no_results: ClassVar[str] = ""
    """What the page of an empty search says."""

    _results_title: str | None = None
    """Of the result pages, page numbers apart."""
    _finished_searches = 0

    def configure(self) -> None:
        """Take the address of the list for ``base_url``, too."""
        super().configure()
        self._walks: dict[str | None, Walk] = {}
        self._linked: dict[str, str] = {}
        """Cars that result pages link to, whether or not a card of theirs was read, and where."""
        parts = urlsplit(self.base_url)
        root = parts.path.rstrip("/").removesuffix("/" + self.results_path.strip("/"))
        if self.results_path and root != parts.path.rstrip("/"):
            self.base_url = parts._replace(path=root + "/", query="", fragment="").geturl()

    # --- what a subclass says ---

    def read_cards(self, response: Response) -> tuple[list[CarItem], int]:
        """Return the cars of the page, and how many cards could not be read."""
        raise NotImplementedError

    def linked_cars(self, response: Response) -> set[str]:
        """Return the ids of all cars that a page leads to, in cards or not."""
        return set()

    def missing_sign(self) -> str:
        """Return the attributes that find the cars of a page, for messages."""
        raise NotImplementedError

    def check_page(self, response: Response, page: int, cards: list[CarItem], unreadable: int) -> None:
        """Compare the cars of a page with what else it says of them; end the crawl if all of them lack the same."""

    def number_of_pages(self, response: Response, page: int) -> int | None:
        """Return how many pages there are, if a pager says ``page / M``."""
        return None

    # --- the search ---

    def start_search(self) -> Iterator[Request]:
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
        self.fail(f"{failure.request.url} can't be reached ({why_no_page(failure)}).")  # type: ignore[attr-defined]

    def searches(self) -> list[str | None]:
        """Return the searches of this crawl, each by its make; ``None`` stands for everything."""
        return [None]

    def search_afresh(self, make: str | None) -> Request | None:
        """Begin the search for *make* once more; ``None`` where pages belong to no search."""
        return None

    def walk(self, make: str | None) -> Walk:
        """Return how far the search for *make* has been read."""
        return self._walks.setdefault(make, Walk())

    # --- result pages ---

    def parse(self, response: Response) -> Iterator[Any]:
        """Read one page for ``scrapy parse``: a car's own page, or the cards of a page of results."""
        car_id = self.car_id(response.url)
        if car_id is not None:
            item = CarItem(source=self.source, external_id=car_id, url=self.canonical_url(response.url))
            yield from self.parse_details_safely(response, item)
            return
        cards, _ = self.read_cards(response)
        if not cards:
            self.fail(f"{response.url} is no car's own page and has no car that can be read ({self.missing_sign()}).")
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
            self.check_page(response, page, cards, unreadable)
            self.count("pages/results")
            self._results_title = title_of(response)
            for car in self.linked_cars(response):
                self._linked.setdefault(car, response.url)
            for result in await self.follow_cards([card for card in cards if self.is_asked_for(card)]):
                yield result
            self.seen.update(new)
        if walk.second_look is not None:
            walk.found += len(new)
            if page in walk.doubtful - walk.sizes.keys() and walk.found < max(1, len(cards)):
                self.incomplete(f"Result page {page} ({response.url}) showed cars of other pages only, twice.")
        pages = self.number_of_pages(response, page) if cards else None
        number = place_of(response.url).number
        walk.note(page, {card.external_id for card in cards}, new, shown_as=number, pages=pages)
        requests = await self._go_on(response, make, page, has_cards=bool(cards))
        forget_tree(response)
        for request in requests:
            yield request

    def is_asked_for(self, card: CarItem) -> bool:
        """Return whether the car is one that the crawl's arguments ask for."""
        return True

    def _not_results(self, response: Response, walk: Walk, page: int) -> str:
        """Return why this is not the result page that was asked for, or did not come whole; nothing if it is."""
        if not isinstance(response, TextResponse):
            return f"is no text, so there is no car ({self.missing_sign()})"
        if not self.is_result_page(response, page):
            return "is no result page of this search: it was forgotten, or the site shows something else"
        if not self.is_whole(response):
            if not walk.repeated or response.request is None:
                return "was cut off"
            self.incomplete(f"Result page {page} ({response.url}) was cut off, twice: some of its cars may be missing.")
        return ""

    def is_result_page(self, response: Response, page: int) -> bool:
        """Return whether *response* is what was asked for, and no other page that the site leads to instead."""
        if page == 1 or response.request is None:
            return True
        return place_of(response.url).is_list_of(place_of(_asked(response.request)))

    def _not_empty(self, response: Response, walk: Walk, page: int, unreadable: int) -> str:
        """Return why a page without a readable car is not past the end of the list; nothing if it is."""
        if unreadable or not self._may_be_empty(response, page):
            return f"has no car that can be read ({self.missing_sign()}): the site has changed or shows something else"
        if page > 1:
            return f"says that there is no car, though page {page - 1} leads to it" if walk.linked else ""
        if walk.url:
            return "says that there is no car, though there were some"
        if (self.makes or self.changed_days) and (walk.repeated or walk.restarted):
            return ""
        return f"says that the search of {'one make' if self.makes else 'the whole site'} found nothing"

    def _may_be_empty(self, response: Response, page: int) -> bool:
        """Return whether a page without cars is the site's word, not a change of it.

        Where that word is not known: past the last numbered page comes one like the others, without cars; a login or a
        maintenance page has another title, and cars in another layout still have prices.
        """
        if self.says_empty(response):
            return True
        if self.no_results or page == 1 or title_of(response) != self._results_title:
            return False
        return not shows_price(visible_text(response))

    def says_empty(self, response: Response) -> bool:
        return says(response, self.no_results)

    # --- from page to page ---

    async def _go_on(self, response: Response, make: str | None, page: int, *, has_cards: bool) -> list[Any]:
        """Return what follows a result page that was read."""
        walk = self.walk(make)
        if walk.resume:
            page, walk.resume = walk.resume, 0
            return self._ask(numbered(response.url, page), make, page)
        if walk.second_look is not None:
            return await self._look_again(make, walk)
        if walk.past >= walk.needed():
            return await self._end_seen(make, walk)
        if len(walk.barren) >= _BARREN:
            self.incomplete(
                f"{_BARREN} result pages up to page {page} ({response.url}) showed no new car and did not repeat "
                "the last page either: the end of the list was not seen."
            )
            return await self._search_finished()
        if not has_cards:
            return self._ask_past(make, walk, page) or await self._search_finished()
        following = self.next_request(response, make, page)
        return [following] if following else await self._search_finished()

    def _ask_past(self, make: str | None, walk: Walk, page: int) -> list[Any]:
        """Return the request after a page without cars: the same one, as that may be an accident, then the next one."""
        following = page if walk.barren.count(page) == 1 else page + 1
        return self._ask(numbered(walk.url, following), make, following)

    async def _end_seen(self, make: str | None, walk: Walk) -> list[Any]:
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
        walk.second_look = walk.doubtful_pages()[:_SECOND_LOOK]
        return await self._look_again(make, walk)

    async def _look_again(self, make: str | None, walk: Walk) -> list[Any]:
        """Return the request for the next page that is to be read once more after the end of the list."""
        page = walk.second_look.pop(0) if walk.second_look else None
        following = self._ask(numbered(walk.url, page), make, page) if page else []
        return following or await self._search_finished()

    async def page_failed(self, failure: Failure) -> AsyncIterator[Request]:
        """Go on after a result page that does not come.

        A page that the site does not have (404, 410) and that no page led to is past the end of the list.
        """
        request: Request = failure.request  # type: ignore[attr-defined]
        make, page = request.cb_kwargs["make"], request.cb_kwargs["page"]
        walk = self.walk(make)
        is_past = not walk.linked and walk.sizes and walk.second_look is None
        if is_past and status_of(failure) in NOT_THERE:
            assert isinstance(failure.value, HttpError)
            walk.note(page, set(), set())
            requests = await self._go_on(failure.value.response, make, page, has_cards=False)
        else:
            # What was tried again already, or was refused, need not be tried once more as it is.
            walk.repeated |= bool(status_of(failure) or request.meta.get("retry_times"))
            why = f"does not come ({why_no_page(failure)})"
            requests = await self._go_without(request, make, page, why, url=request.url)
        for each in requests:
            yield each

    async def _go_without(
        self, request: Request | None, make: str | None, page: int, why: str, *, url: str
    ) -> list[Any]:
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
        following: list[Any] = []
        if lost == page and walk.missing < _MISSING and walk.lost < _BARREN and walk.second_look is None:
            following = self._ask(numbered(walk.url, page + 1), make, page + 1)
        return following or await self._search_finished()

    def _again(self, request: Request, make: str | None, page: int) -> Request | None:
        """Ask for a page once more, or search afresh; ``None`` when both were tried."""
        walk = self.walk(make)
        if not walk.repeated:
            walk.repeated = True
            return request.replace(url=request.url if page == 1 else _asked(request), meta={}, dont_filter=True)
        may_restart = page > walk.restarted and walk.second_look is None
        if may_restart and (search := self.search_afresh(make)):
            walk.restarted = page
            walk.resume = page if walk.url else 0
            return search
        return None

    async def _search_finished(self) -> list[Any]:
        """Return what is to be done about the cars that were not seen, once all searches are through."""
        self._finished_searches += 1
        if self._finished_searches < len(self.searches()):
            return []
        unread = self._linked.keys() - self.seen
        if unread and not self.is_partial:
            first = min(unread)
            self.incomplete(
                f"Result pages link to {len(unread)} cars of which no card could be read ({self.missing_sign()}), such "
                f"as {first} on {self._linked[first]}: the site has changed."
            )
        return await self.at_end()

    def next_request(self, response: Response, make: str | None, page: int) -> Request | None:
        """Return the request for the page after this one, which leads to it or not.

        It is ``None`` where an argument or a cap ends the list.
        """
        found, self.walk(make).linked = find_next(response, page, self.next_page, self._is_no_car)
        following = found.replace(url=self.at_base(found.url)) if found else numbered(response.url, page + 1)
        return next(iter(self._ask(following, make, page + 1)), None)

    def _ask(self, address: Request | str, make: str | None, page: int) -> list[Request]:
        """Return the request for a result page; none where the crawl's arguments or a cap end the list."""
        if (self.limit and self.taken >= self.limit) or (self.max_pages and page > self.max_pages):
            return []
        if page > self.settings.getint("CRAWL_MAX_PAGES"):
            self.stop_at_cap(page - 1)
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

    def stop_at_cap(self, pages: int) -> None:
        """Note that the list was left at ``CRAWL_MAX_PAGES``."""
        self.is_partial = True
        self.count("pages/capped")
        logger.warning("Stopped after %d result pages (CRAWL_MAX_PAGES)", pages)

    # --- addresses ---

    def _is_no_car(self, url: str) -> bool:
        """Return whether a page is on the dealer's site and no car's: arrows that turn photos lead to no page."""
        return self.is_ours(url) and self.car_id(url) is None

    def is_ours(self, url: str) -> bool:
        """Return whether a page is on the dealer's site, whatever other sites are linked."""
        return is_web_address(url) and _host(url) in {_host(self.base_url), _host(self.home)}

    def at_base(self, url: str) -> str:
        """Move a page of the dealer's site to where this crawl has it."""
        base = urlsplit(self.base_url)
        return urlsplit(url)._replace(scheme=base.scheme, netloc=base.netloc).geturl()


def _asked(request: Request) -> str:
    """Return the address that was asked for, before the site led elsewhere."""
    addresses: list[str] = request.meta.get("redirect_urls") or [request.url]
    return addresses[0]


def _host(url: str) -> str:
    return urlsplit(url).netloc.lower().removeprefix("www.")
