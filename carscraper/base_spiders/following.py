"""From one result page to the next, until the end of the list is seen; see ``listing.py`` for what is on a page."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from scrapy import Request
from scrapy.spidermiddlewares.httperror import HttpError

from carscraper.base_spiders.base import forget_tree, is_web_address, status_of, why_no_page
from carscraper.base_spiders.dealer import DealerSpider
from carscraper.base_spiders.missing import NOT_THERE
from carscraper.base_spiders.paging import Walk, asked_for, find_next, numbered
from carscraper.base_spiders.ways import read_signs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scrapy.http import Response
    from twisted.python.failure import Failure

    from carscraper.items import CarItem

logger = logging.getLogger(__name__)

_BARREN = 4  # pages in a row without a new car, after which a list that does not end is left
_MISSING = 2  # pages in a row that can't be read
_SECOND_LOOK = 4  # pages that are read once more after the end of a list
_SUSPICIOUS = 10  # cars; with fewer a list may well have one page


class FollowingSpider(DealerSpider):
    """A site of result pages that lead to each other."""

    next_page: ClassVar[str] = ""
    """The link to the next page, or something inside it, where it is not found by its address, rel, label or text."""
    is_numbered: ClassVar[bool] = False
    """Whether ``?page=2`` is known to be the second page, whatever leads to it."""

    _finished_searches = 0

    def configure(self) -> None:
        super().configure()
        self._walks: dict[str | None, Walk] = {}
        self._linked: dict[str, str] = {}
        """Cars that result pages link to, whether or not a card of theirs was read, and where."""

    # --- what a subclass says ---

    def parse_results(
        self, response: Response, make: str | None = None, page: int = 1, tries: int = 1
    ) -> AsyncIterator[CarItem | Request]:
        """Read one result page, and go on until the end of the list is seen."""
        raise NotImplementedError

    def read_cards(self, response: Response) -> tuple[list[CarItem], int]:
        """Return the cars of the page, and how many cards could not be read."""
        raise NotImplementedError

    def missing_sign(self) -> str:
        """Return the attributes that find the cars of a page, for messages."""
        raise NotImplementedError

    def why_not_results(self, response: Response, walk: Walk, page: int) -> str:
        """Return why this is not the result page that was asked for, or did not come whole; nothing if it is."""
        raise NotImplementedError

    def number_of_pages(self, response: Response, page: int) -> int | None:
        """Return how many pages there are, if a pager says ``page / M``."""
        return None

    # --- the search ---

    def searches(self) -> list[str | None]:
        """Return the searches of this crawl, each by its make; ``None`` stands for everything."""
        return [None]

    def search_afresh(self, make: str | None) -> Request | None:
        """Begin the search for *make* once more; ``None`` where pages belong to no search."""
        return None

    def walk(self, make: str | None) -> Walk:
        """Return how far the search for *make* has been read."""
        return self._walks.setdefault(make, Walk())

    # --- from page to page ---

    async def _go_on(self, response: Response, make: str | None, page: int, *, has_cards: bool) -> list[Any]:
        """Return what follows a result page that was read."""
        walk = self.walk(make)
        if walk.resume:
            page, walk.resume = walk.resume, 0
            return self._ask(numbered(response.url, page), make, page)
        if walk.second_look is not None:
            return await self._look_again(make, walk)
        if walk.past >= walk.needed() or len(walk.barren) >= _BARREN:
            return await self._nothing_new(make, walk)
        if not has_cards:
            return self._ask_past(make, walk, page) or await self._search_finished()
        if walk.by_ways:
            return await self._go_own_way(response, make, page)
        following = self.next_request(response, make, page)
        return [following] if following else await self._search_finished()

    async def _nothing_new(self, make: str | None, walk: Walk) -> list[Any]:
        """Return what follows when numbers lead to no new car: the last page's own ways on, then the end of the list.

        A list whose last page still shows a way on was not seen to its end.
        """
        if not walk.sizes:  # there is no car
            return await self._end_seen(make, walk)
        page = max(walk.sizes)
        if walk.signs is None and walk.latest is not None:
            pages = self.number_of_pages(walk.latest, page)
            walk.signs = read_signs(walk.latest, page, self.next_page, self._is_no_car, pages=pages)
            forget_tree(walk.latest)
        while walk.signs and walk.signs.ways:
            way = walk.signs.ways.pop(0)
            if asked := self._ask(way.replace(url=self.at_base(way.url)), make, page + 1):
                return [asked[0].replace(callback=self._parse_way, errback=self._way_failed)]
        if walk.past < walk.needed():
            self.incomplete(
                f"{len(walk.barren)} result pages up to page {walk.barren[-1]} ({walk.url}) showed no new car and did "
                "not repeat the last page either: the end of the list was not seen."
            )
            return await self._search_finished()
        if walk.signs and (said := walk.signs.more_than(walk.cars, walk.sizes[page], is_short=walk.needed() == 1)):
            self.incomplete(
                f"Result page {page} ({walk.latest.url if walk.latest else walk.url}) {said}, and page {page + 1} "
                f"{walk.after or 'shows no new car'}: the end of the list was not seen."
            )
        return await self._end_seen(make, walk)

    async def _parse_way(self, response: Response, make: str | None, page: int) -> AsyncIterator[Any]:
        """Read what the last page's own way on leads to; if it has new cars, the others are found in the same way."""
        walk = self.walk(make)
        walk.repeated = False
        shown: set[str] = set()
        if not self.why_not_results(response, walk, page):
            shown = {card.external_id for card in self.read_cards(response)[0]}
        if shown - self.seen:
            walk.by_ways, walk.past, walk.barren = True, 0, []
            walk.again -= walk.last  # numbers had shown the last page, and nothing had moved
            async for each in self.parse_results(response, make, page):
                yield each
            return
        forget_tree(response)
        if walk.signs and not shown and "postback" not in response.meta:
            walk.signs.following = ""  # it leads to something else than cars
        for request in await self._nothing_new(make, walk):
            yield request

    async def _way_failed(self, failure: Failure) -> AsyncIterator[Any]:
        """Go on after a page's own way on that leads nowhere."""
        make = failure.request.cb_kwargs["make"]  # type: ignore[attr-defined]
        logger.warning("A way to the next result page does not lead on (%s)", why_no_page(failure))
        for request in await self._nothing_new(make, self.walk(make)):
            yield request

    async def _go_own_way(self, response: Response, make: str | None, page: int) -> list[Any]:
        """Return the request for the page that this one leads to, where numbers in addresses lead to none.

        A page that leads no further is the last, when it is less full than others or says so twice.
        """
        walk = self.walk(make)
        walk.linked = True
        ways = read_signs(response, page, self.next_page, self._is_no_car).ways
        if ways:
            following = ways[0].replace(url=self.at_base(ways[0].url))
            return self._ask(following, make, page + 1) or await self._search_finished()
        if walk.needed() > 1 and page not in walk.barren and response.request is not None:
            meta = {"postback": True} if "postback" in response.meta else {}
            return self._ask(response.request.replace(meta=meta), make, page) or await self._search_finished()
        walk.past = walk.needed()
        return await self._nothing_new(make, walk)

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
        last = max(walk.sizes, default=0)
        if not walk.second_look and walk.is_unsettled() and not walk.looks_at_all and not walk.by_ways:
            walk.looks_at_all = True
            walk.second_look = sorted({*range(1, last + 1)} - {*walk.doubtful_pages()[:_SECOND_LOOK]})
        if walk.looks_at_all and not walk.is_unsettled():
            walk.second_look = []
        page = walk.second_look.pop(0) if walk.second_look else None
        # Without a new car on any of its pages the list has cars on more than one page, and was whole.
        if page is None and walk.is_unsettled() and (walk.found or walk.twice or walk.by_ways):
            self.incomplete(
                f"{walk.shifted} cars were on more than one of {last} result pages, and reading them once more found "
                f"{walk.found} new ones: the list was sorted anew while it was read, and cars may be missing."
            )
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
            return request.replace(url=request.url if page == 1 else asked_for(request), meta={}, dont_filter=True)
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


def _host(url: str) -> str:
    return urlsplit(url).netloc.lower().removeprefix("www.")
