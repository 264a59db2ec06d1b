"""Result pages that follow each other, read until the end of the list is seen.

The end is seen when a page past the last repeats its cars, says that there are none or is not there, or when the pager
says ``N / N``; after a page as full as the others two of these must say so. It is not seen where the last page shows a
way on that led to no new car (``following.py``). What ends a list otherwise is asked for once more, then in a new
search; what stays so makes the crawl partial, with a sentence that names the page.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urljoin, urlsplit

from scrapy import Request

from carscraper.base_spiders.base import forget_tree, why_no_page
from carscraper.base_spiders.following import FollowingSpider
from carscraper.base_spiders.pages import is_html, says, shows_price, title_of, visible_text
from carscraper.base_spiders.paging import Walk, asked_for, place_of
from carscraper.items import CarItem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from scrapy.http import Response
    from twisted.python.failure import Failure

logger = logging.getLogger(__name__)


class ListSpider(FollowingSpider):
    """A site of result pages; a subclass reads the cars of one (``read_cards``)."""

    results_path: ClassVar[str] = ""
    """Of the first result page, below the site's address."""
    no_results: ClassVar[str] = ""
    """What the page of an empty search says."""

    _results_title: str | None = None
    """Of the result pages, page numbers apart."""

    def configure(self) -> None:
        """Take the address of the list for ``base_url``, too."""
        super().configure()
        parts = urlsplit(self.base_url)
        root = parts.path.rstrip("/").removesuffix("/" + self.results_path.strip("/"))
        if self.results_path and root != parts.path.rstrip("/"):
            self.base_url = parts._replace(path=root + "/", query="", fragment="").geturl()

    # --- what a subclass says ---

    def linked_cars(self, response: Response) -> set[str]:
        """Return the ids of all cars that a page leads to, in cards or not."""
        return set()

    def check_page(self, response: Response, page: int, cards: list[CarItem], unreadable: int) -> None:
        """Compare the cars of a page with what else it says of them; end the crawl if all of them lack the same."""

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
        why = self.why_not_results(response, walk, page)
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
            walk.look({card.external_id for card in cards}, new)
            if page in walk.doubtful - walk.sizes.keys() and walk.found < max(1, len(cards)):
                self.incomplete(f"Result page {page} ({response.url}) showed cars of other pages only, twice.")
        pages = self.number_of_pages(response, page) if cards else None
        number = place_of(response.url).number
        if walk.second_look is None and not walk.resume and (new or (cards and page == 1)):
            walk.latest, walk.signs = response, None
        walk.note(page, {card.external_id for card in cards}, new, shown_as=number, pages=pages)
        requests = await self._go_on(response, make, page, has_cards=bool(cards))
        forget_tree(response)
        for request in requests:
            yield request

    def is_asked_for(self, card: CarItem) -> bool:
        """Return whether the car is one that the crawl's arguments ask for."""
        return True

    def why_not_results(self, response: Response, walk: Walk, page: int) -> str:
        """Return why this is not the result page that was asked for, or did not come whole; nothing if it is."""
        if not is_html(response):
            return f"is no HTML, so there is no car ({self.missing_sign()})"
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
        here, asked = place_of(response.url), place_of(asked_for(response.request))
        # A postback may lead to the same list under another id.
        return here.is_list_of(asked) or ("postback" in response.meta and here.path == asked.path)

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
        of = "one make" if self.makes else f"{self.changed_days} days" if self.changed_days else "the whole site"
        return f"says that the search of {of} found nothing"

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
