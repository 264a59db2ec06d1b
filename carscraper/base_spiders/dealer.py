"""What every dealer's spider has: its arguments, the facts of the dealer, and the way from a card to an item."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from scrapy import Request

from carscraper import dealers
from carscraper.addon import stopped_by_shortage
from carscraper.base_spiders.base import allow_host, forget_tree, read_address, read_count, read_flag, why_no_page
from carscraper.base_spiders.missing import ConcludingSpider
from carscraper.base_spiders.pages import is_whole
from carscraper.exceptions import ConfigurationError
from carscraper.field_coverage import PHOTO
from carscraper.items import CarImage, CarItem, utcnow
from carscraper.state import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from scrapy.http import Response
    from twisted.python.failure import Failure

    from carscraper.db.cars import CardState

logger = logging.getLogger(__name__)

_CONTRADICTIONS = 3  # pages of listed cars that say "gone"; fewer may have been sold this minute


class DealerSpider(ConcludingSpider):
    """A dealer's site. A subclass says where it is and how its pages are read.

    Arguments (``-a name=value``): ``base_url`` (another address of the same site), ``makes`` (comma separated),
    ``limit`` (cars), ``max_pages`` (result pages), ``details`` (``false``: result cards only), and where the site has
    a search for it ``changed_days`` (only cars that were changed within so many days).
    """

    home: ClassVar[str]
    """The site's address, unless ``base_url`` is given."""
    shared_ids: ClassVar[str] = ""
    """The platform on which several sites give a car the same id and a photo the same identity, e.g. ``rogg``."""
    is_aggregator: ClassVar[bool] = False
    """Whether the site shows cars of other dealers, whose own sites say more of them."""
    changes_within: ClassVar[tuple[int, ...]] = ()
    """The numbers of days that the site's search for changed cars offers (``changed_days``)."""
    expected: Mapping[str, float] = MappingProxyType(
        {"photo": 0.95, "make": 0.98, "year": 0.95, "price": 0.85, "kilometers": 0.75, "fuel": 0.85}
    )
    """Share of the cars that have each field, on the card or on their own page, at least.

    It is what a healthy stock has, less a margin for trailers, boats and cars without a price. A crawl that finds fewer
    is partial, the first one as well.
    """
    not_shown: ClassVar[tuple[str, ...]] = ()
    """Fields of :attr:`expected` that the dealer does not show."""

    def __init_subclass__(cls) -> None:
        """Leave out of what is expected what the dealer does not show, and enter the facts that others need."""
        super().__init_subclass__()
        if source := getattr(cls, "source", None):
            dealers.register(source, shared_ids=cls.shared_ids, is_aggregator=cls.is_aggregator)
        if "not_shown" in vars(cls):
            cls.expected = {name: share for name, share in cls.expected.items() if name not in cls.not_shown}

    def configure(self) -> None:
        super().configure()
        arguments = dict(self.arguments)
        self.base_url = read_address("base_url", arguments.pop("base_url", self.home))
        self.makes = [make.strip() for make in arguments.pop("makes", "").split(",") if make.strip()]
        self.limit = read_count("limit", arguments.pop("limit", None))
        self.max_pages = read_count("max_pages", arguments.pop("max_pages", None))
        self.with_details = read_flag("details", arguments.pop("details", "true"))
        self.changed_days = self._read_changed_days(arguments.pop("changed_days", "") if self.changes_within else "")
        if arguments:
            names = ["base_url", "makes", "limit", "max_pages", *(["changed_days"] if self.changes_within else [])]
            raise ConfigurationError(
                f"The spider {self.name} has no argument {min(arguments)}; it takes {', '.join(names)} and details."
            )
        allow_host(self.crawler, self.base_url)
        self.allowed_domains = [urlsplit(self.base_url).hostname]
        self.known_fields: dict[str, frozenset[str]] = {}
        """What the ledger has of cars whose own page is not asked for again, until they are through the pipelines."""
        self.taken = 0
        self._pages_of_listed: Counter[bool] = Counter()
        """Own pages of cars that are on the list, by whether they show the car."""
        self.one_page = state_of(self.crawler).one_page
        """This is ``scrapy parse`` or its kind: there is no ledger to be asked."""
        self.is_part = self.is_partial = bool(
            self.makes or self.limit or self.max_pages or self.changed_days or self.one_page
        )
        if self.one_page:
            self.allowed_domains = []  # the page was named by its user, wherever it is

    def _read_changed_days(self, value: str) -> int | None:
        offered = [str(days) for days in self.changes_within]
        if value and value not in offered:
            raise ConfigurationError(
                f"changed_days is {value!r}; the site's search offers {', '.join(offered[:-1])} and {offered[-1]}."
            )
        return int(value) if value else None

    async def start(self) -> AsyncIterator[Any]:
        for request in self.start_search():
            yield request

    # --- what a subclass says ---

    def start_search(self) -> Iterator[Request]:
        """Return the first requests."""
        raise NotImplementedError

    def read_images(self, response: Response, external_id: str) -> list[CarImage]:
        """Return the photos of one car from its own page, in the page's order."""
        raise NotImplementedError

    def image(self, join: Any, address: str, external_id: str) -> CarImage | None:
        """Return the photo that an address names; ``None`` if it is another car's."""
        raise NotImplementedError

    def car_on(self, response: Response) -> str | None:
        """Return the id of the car whose own page this is; ``None`` if the page does not say it."""
        return self.car_id(response.url)

    def canonical_url(self, url: str) -> str:
        """Return the lasting address of the car's page at *url*, on the same host."""
        return url

    def car_of_image(self, address: str) -> str | None:
        """Return the id of the car that the address of a photo names; ``None`` if it names none."""
        return None

    def is_own_page(self, response: Response, external_id: str) -> bool:
        """Return whether *response* may be the car's own page: home or a list that the site leads to instead is not."""
        led = response.request is not None and "redirect_urls" in response.meta
        return not led or self.car_id(response.url) == external_id

    def is_whole(self, response: Response) -> bool:
        """Return whether a page came to its end."""
        return is_whole(response)

    def find_car(
        self,
        external_id: str,
        callback: Callable[..., Any],
        errback: Callable[..., Any],
        cb_kwargs: dict[str, Any] | None = None,
    ) -> Request | None:
        """Return the first request of a search for one car by its id; ``None`` if the site has no such search."""
        return None

    # --- what the pipelines ask ---

    def spooled_sources(self) -> list[str] | None:
        return [self.source]

    def key_folder(self, source: str) -> str:
        return self.name

    def page_url(self, item: CarItem) -> str | None:
        return item.url if self.has_details else None

    def fresh_images(self, response: Response, item: CarItem) -> list[CarImage]:
        return self.read_images(response, item.external_id) if self.is_own_page(response, item.external_id) else []

    # --- from a page of cards to items ---

    async def follow_cards(self, cards: list[CarItem]) -> list[CarItem | Request]:
        """Return for each new card either the car as it is or the request for its details page.

        The ledger is asked once for the whole page.
        """
        fresh = []
        for card in cards:
            if card.external_id in self.seen or (self.limit and self.taken >= self.limit):
                continue
            self.seen.add(card.external_id)
            self.taken += 1
            self.controls.append((card.external_id, card.url))
            fresh.append(card)
        states: dict[str, CardState] = {}
        if not self.one_page:
            states = await self.ask(self.ledger.card_states(self.source, [card.external_id for card in fresh]))
        self.count("cars/seen", len(fresh))
        results: list[CarItem | Request] = []
        same = []
        for card in fresh:
            state = states.get(card.external_id)
            if state is not None and card.images and PHOTO not in state.fields:
                state = replace(state, images_due=True)  # the rows of its photos were lost
            if self._needs_details(card, state):
                ask: dict[str, Any] = {"callback": self.parse_details_safely, "errback": self.details_failed}
                # Two cars under one address must both be kept.
                results.append(Request(card.url, cb_kwargs={"item": card}, dont_filter=True, **ask))
                continue
            if state is not None and self.has_details:
                self.known_fields[card.external_id] = state.fields
                if state.details_at:
                    card.description = None
            card.shows_all = not self.has_details
            if state is not None and not state.images_due and state.has_text_of(card.card_hash):
                card.unchanged = state.shows(card.card_hash, card.url)
                if card.unchanged or not card.shows_all:
                    same.append(card)
            results.append(card)
        if same:  # a card that shows nothing new has all photos of its car, with what the ledger knows of each
            known = await self.ask(self.ledger.shown_images(self.source, [card.external_id for card in same]))
            for card in same:
                card.images = known.get(card.external_id, card.images)
        return results

    def _needs_details(self, card: CarItem, state: CardState | None) -> bool:
        if not self.with_details or not self.has_details:
            return False
        if state is None or state.details_at is None or not state.has_text_of(card.card_hash):
            return True
        if self.changed_days:
            return True  # says the site; the card may not show what
        # Photos that are kept nowhere are due for ever and no reason for a visit.
        keeps_images = self.settings.getbool("USE_S3_STORAGE") or bool(self.settings.get("IMAGES_STORE"))
        if state.images_due and keeps_images:
            return True
        return is_stale(
            card.external_id,
            state.details_at,
            now=utcnow(),
            max_age=timedelta(days=self.settings.getfloat("DETAILS_MAX_AGE_DAYS")),
        )

    def parse_details_safely(self, response: Response, item: CarItem) -> Iterator[Any]:
        """Read the details page; a page that can't be read costs its details, never the car."""
        if not self.is_whole(response) and "cut" not in response.meta:
            again = response.request
            assert again
            yield again.replace(meta=again.meta | {"cut": True}, dont_filter=True)
            return
        try:
            if self.is_gone(response):
                # Listed a moment ago, sold now. What the card said is kept; a complete crawl settles the rest.
                self.count("details/gone")
                self.count("cars/listed_as_gone")
                self._notice_gone()
                item.card_hash = None  # so that the next crawl tries again if it was not true
                yield item
                return
            results = list(self._parse_own_page(response, item))
        except Exception as error:
            self.end_if_short(error)
            logger.warning("Details page can't be read: %r (%s: %s)", response.url, type(error).__name__, error)
            yield self._without_details(item)
            return
        finally:
            forget_tree(response)
        self._pages_of_listed[True] += 1
        item.details_at = utcnow()
        item.shows_all = True
        yield from results

    def _parse_own_page(self, response: Response, item: CarItem) -> Iterator[Any]:
        if not self.is_whole(response):
            raise ValueError("it was cut off, twice")
        if not self.is_own_page(response, item.external_id):
            raise ValueError("the site leads to another page")
        shown = self.car_on(response)
        if shown not in {None, item.external_id}:
            raise ValueError(f"it is the page of the car {shown}")
        return self.parse_details(response, item)

    def _notice_gone(self) -> None:
        """Doubt the pages of cars when most of those that are on the list say that they are gone."""
        self._pages_of_listed[False] += 1
        if max(self._pages_of_listed[True] + 1, _CONTRADICTIONS) <= self._pages_of_listed[False]:
            self.incomplete(
                "Most cars' own pages said that the car is gone though it is on the list: the site has a fault, and "
                "what only these pages show was not read; crawl again later."
            )

    def details_failed(self, failure: Failure) -> Iterator[Any]:
        """Keep the car as its card shows it when its own page does not come."""
        request: Request = failure.request  # type: ignore[attr-defined]
        level = logging.DEBUG if stopped_by_shortage(self.crawler, failure.value) else logging.WARNING
        logger.log(level, "Details page does not come: %r (%s)", request.url, why_no_page(failure))
        yield self._without_details(request.cb_kwargs["item"])

    def _without_details(self, item: CarItem) -> CarItem:
        self.count("details/failed")
        item.card_hash = None  # so that the next crawl tries again
        item.description = None  # a card's short note must not replace what the page said earlier
        return item


def is_stale(external_id: str, details_at: datetime, *, now: datetime, max_age: timedelta) -> bool:
    """Return whether a car's details are due again: once in *max_age*, each car at its own hour.

    After the first crawl all details are of one day; every car has its own phase, so that the visits spread evenly
    over the days. A visit less than a seventh of *max_age* ago is never repeated.
    """
    age = now - details_at
    if age >= max_age:
        return True
    if age < max_age / 7:
        return False
    fraction = int.from_bytes(hashlib.sha256(external_id.encode()).digest()[:6], "big") / 2**48
    epoch = datetime(2000, 1, 1)  # noqa: DTZ001 - like all times of the tables, UTC without a zone
    phase = max_age * fraction
    return (now - epoch + phase) // max_age > (details_at - epoch + phase) // max_age
