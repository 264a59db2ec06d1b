"""What every dealer's spider has: arguments, the cars of this run, and what a complete crawl concludes."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scrapy import Request
from scrapy.exceptions import CloseSpider

from carscraper.addon import end_as_failed
from carscraper.base_spiders.base import (
    CarscraperSpider,
    allow_host,
    forget_tree,
    is_web_address,
    read_address,
    read_count,
    read_flag,
    reason_of,
    status_of,
)
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from carscraper.items import CarImage, CarItem, GoneCar
from carscraper.state import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from typing import ClassVar

    from scrapy.http import Response
    from twisted.python.failure import Failure

    from carscraper.db.queries import ActiveCar, CardState

logger = logging.getLogger(__name__)

_DAY = timedelta(days=1)
RECENT = timedelta(days=14)
"""A car that was seen since then was for sale a moment ago."""
_NOT_THERE = frozenset({404, 410})
_CONTROLS = 5  # pages of listed cars that show whether the site tells the truth about its cars
_TRUSTED = 0.8  # of them that must show their car: one may have been sold this minute
_CONTRADICTIONS = 3  # pages of listed cars that say "gone"; fewer may have been sold this minute


class DealerSpider(CarscraperSpider):
    """A dealer's site. A subclass says where it is and how its pages are read.

    Arguments (``-a name=value``): ``base_url`` (another address of the same site), ``makes`` (comma separated),
    ``limit`` (cars), ``max_pages`` (result pages), ``details`` (``false``: result cards only), and where the site has
    a search for it ``changed_days`` (only cars that were changed within so many days).
    """

    source: ClassVar[str]
    """The stored name of the site, e.g. ``Bilasolur``."""
    home: ClassVar[str]
    """The site's address, unless ``base_url`` is given."""
    has_details: ClassVar[bool] = True
    """Whether a car's own page is known to say more than its card."""
    changes_within: ClassVar[tuple[int, ...]] = ()
    """The numbers of days that the site's search for changed cars offers (``changed_days``)."""
    gone_by_status: ClassVar[bool] = False
    """Whether 404 or 410 at a car's own page is the site's word that the car is gone."""
    expected: Mapping[str, float] = MappingProxyType(
        {"photo": 0.95, "make": 0.98, "year": 0.95, "price": 0.85, "kilometers": 0.75, "fuel": 0.85}
    )
    """Share of the cars that have each field, on the card or on their own page, at least.

    It is what a healthy stock has, less a margin for trailers, boats and cars without a price. A crawl that finds fewer
    is partial, the first one as well. A dealer that does not show a field leaves it out.
    """

    def configure(self) -> None:
        """Turn the arguments into attributes.

        Raises:
            ConfigurationError: an argument is unknown or wrong.
        """
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
        self.seen: set[str] = set()
        self.known_fields: dict[str, frozenset[str]] = {}
        """What the ledger has of cars whose own page is not asked for again, until they are through the pipelines."""
        self.taken = 0
        self.controls: deque[tuple[str, str]] = deque(maxlen=_CONTROLS)
        """The cars that were on the list last: id and address."""
        self._pages_of_listed: Counter[bool] = Counter()
        """Own pages of cars that are on the list, by whether they show the car."""
        self.lookups = 0
        """Pages of missing cars that are still to come."""
        self._said_gone: list[GoneCar] = []
        self.is_partial = bool(self.makes or self.limit or self.max_pages or self.changed_days)
        """A partial crawl concludes nothing about cars that it did not see."""
        self.one_page = state_of(self.crawler).one_page
        """This is ``scrapy parse`` or its kind: there is no ledger to be asked."""
        if self.one_page:
            self.is_partial = True
            self.allowed_domains = []  # the page was named by its user, wherever it is

    def _read_changed_days(self, value: str) -> int | None:
        offered = [str(days) for days in self.changes_within]
        if value and value not in offered:
            raise ConfigurationError(
                f"changed_days is {value!r}; the site's search offers {', '.join(offered[:-1])} and {offered[-1]}."
            )
        return int(value) if value else None

    async def start(self) -> AsyncIterator[Any]:
        """Begin at the site's first page."""
        for request in self.start_search():
            yield request

    def start_search(self) -> Iterator[Request]:
        """Give the first requests."""
        raise NotImplementedError

    def read_images(self, response: Response, external_id: str) -> list[CarImage]:
        """Read the photos of one car from its own page, in the page's order."""
        raise NotImplementedError

    def parse_details(self, response: Response, item: CarItem) -> Iterator[Any]:
        """Read the car's own page into *item*."""
        raise NotImplementedError

    def car_id(self, url: str) -> str | None:
        """Read the car's lasting id from the address of its page; ``None`` if it names no car."""
        raise NotImplementedError

    def car_on(self, response: Response) -> str | None:
        """Return the id of the car whose own page this is; ``None`` if the page does not say it."""
        return self.car_id(response.url)

    def canonical_url(self, url: str) -> str:
        """Give the lasting address of the car's page at *url*, on the same host."""
        return url

    def car_of_image(self, address: str) -> str | None:
        """Return the id of the car that the address of a photo names; ``None`` if it names none."""
        return None

    def find_car(
        self,
        external_id: str,
        callback: Callable[..., Any],
        errback: Callable[..., Any],
        cb_kwargs: dict[str, Any] | None = None,
    ) -> Request | None:
        """Return the first request of a search for one car by its id; ``None`` if the site has no such search."""
        return None

    def incomplete(self, why: str) -> None:
        """Make the crawl partial: a part of the site's list was not seen.

        Args:
            why: a sentence for the last lines, with the page and what was expected there.
        """
        self.is_partial = True
        sentences = state_of(self.crawler).incomplete
        if why not in sentences:
            logger.warning("%s", why)
            sentences.append(why)

    def image(self, join: Any, address: str, external_id: str) -> CarImage | None:
        """Make of an address the photo it names; ``None`` if it is another car's."""
        raise NotImplementedError

    # --- what the pipelines ask ---

    def spooled_sources(self) -> list[str] | None:
        """Name this dealer's."""
        return [self.source]

    def key_folder(self, source: str) -> str:
        """Give the spider's name."""
        return self.name

    def page_url(self, item: CarItem) -> str | None:
        """Give the car's own page, if anything is known of it."""
        return item.url if self.has_details else None

    def fresh_images(self, response: Response, item: CarItem) -> list[CarImage]:
        """Read the photos of *item* from its own page."""
        return self.read_images(response, item.external_id)

    def is_gone(self, response: Response) -> bool:
        """Tell whether the car's own page says that the car is sold or removed."""
        raise NotImplementedError

    # --- from a page of cards to items ---

    async def follow_cards(self, cards: list[CarItem]) -> list[CarItem | Request]:
        """Give for each new card either the car as it is or the request for its details page.

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
        try:
            if not self.one_page:
                states = await self.ledger.card_states(self.source, [card.external_id for card in fresh])
        except DatabaseUnavailableError as error:
            end_as_failed(self.crawler, str(error))
            raise CloseSpider("database_away") from None
        self.crawler.stats.inc_value("carscraper/cars/seen", len(fresh))
        results: list[CarItem | Request] = []
        for card in fresh:
            state = states.get(card.external_id)
            if self._needs_details(card, state):
                results.append(self.details_request(card))
            else:
                if state is not None and self.has_details:
                    self.known_fields[card.external_id] = state.fields
                    if state.details_at:
                        card.description = None
                card.shows_all = not self.has_details
                card.unchanged = state is not None and not state.images_due and state.shows(card.card_hash, card.url)
                results.append(card)
        await self._add_known_images([card for card in fresh if card.unchanged])
        return results

    async def _add_known_images(self, cards: list[CarItem]) -> None:
        """Let cards that say nothing new have all photos of their car, with what the ledger knows of each."""
        if not cards:
            return
        try:
            known = await self.ledger.shown_images(self.source, [card.external_id for card in cards])
        except DatabaseUnavailableError as error:
            end_as_failed(self.crawler, str(error))
            raise CloseSpider("database_away") from None
        for card in cards:
            card.images = known.get(card.external_id, card.images)

    def details_request(self, item: CarItem) -> Request:
        """Ask for the car's own page."""
        return Request(
            item.url,
            callback=self.parse_details_safely,
            errback=self.details_failed,
            cb_kwargs={"item": item},
            dont_filter=True,  # two cars under one address must both be kept
        )

    def _needs_details(self, card: CarItem, state: CardState | None) -> bool:
        if not self.with_details or not self.has_details:
            return False
        if state is None or state.details_at is None or state.card_hash != card.card_hash:
            return True
        if self.changed_days:
            return True  # says the site; the card may not show what
        if state.images_due and self._keeps_images:
            return True
        return is_stale(
            card.external_id,
            state.details_at,
            now=datetime.now(UTC).replace(tzinfo=None),
            max_age=timedelta(days=self.settings.getfloat("DETAILS_MAX_AGE_DAYS")),
        )

    @property
    def _keeps_images(self) -> bool:
        """Whether there is a store: photos that are kept nowhere are due for ever and no reason for a visit."""
        return self.settings.getbool("USE_S3_STORAGE") or bool(self.settings.get("IMAGES_STORE"))

    def is_whole(self, response: Response) -> bool:
        """Return whether a page came to its end."""
        return True

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
            self.count("details/failed")
            logger.warning("Details page can't be read: %r (%s: %s)", response.url, type(error).__name__, error)
            item.card_hash = None  # so that the next crawl tries again
            item.description = None  # a card's short note must not replace what the page said earlier
            yield item
            return
        finally:
            forget_tree(response)
        self._pages_of_listed[True] += 1
        item.details_at = datetime.now(UTC).replace(tzinfo=None)
        item.shows_all = True
        yield from results

    def _parse_own_page(self, response: Response, item: CarItem) -> Iterator[Any]:
        if not self.is_whole(response):
            raise ValueError("it was cut off, twice")
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
        self.count("details/failed")
        logger.warning("Details page does not come: %r (%s)", request.url, reason_of(failure))
        item: CarItem = request.cb_kwargs["item"]
        item.card_hash = item.description = None
        yield item

    # --- the end of a complete crawl ---

    async def conclude(self) -> list[Request]:
        """Look up at their own pages the cars that a complete crawl did not see.

        Returns:
            The requests; none after a partial crawl, which concludes nothing.
        """
        if self.is_partial:
            return []
        try:
            active = await self.ledger.active_cars(self.source)
        except DatabaseUnavailableError as error:
            end_as_failed(self.crawler, str(error))
            raise CloseSpider("database_away") from None
        # Cars that an earlier program left as active for months say nothing about what the site shows today.
        since = datetime.now(UTC).replace(tzinfo=None) - RECENT
        usual = {car.external_id for car in active if car.last_seen_at and car.last_seen_at > since}
        seen = len(self.seen & usual)
        if seen < self.settings.getfloat("CRAWL_MIN_SHARE") * len(usual):
            end_as_failed(
                self.crawler,
                f"Only {seen} of {len(usual)} known cars were on the site, fewer than CRAWL_MIN_SHARE allows: "
                "the site has changed or shows only a part; no car was marked as gone.",
            )
            return []
        missing = [car for car in active if car.external_id not in self.seen]
        most = self.settings.getint("CRAWL_MAX_LOOKUPS")
        # By chance, not by age: cars whose pages never answer must not take the turns of the others.
        chosen = random.sample(missing, most) if len(missing) > most else missing
        requests = [request for car in chosen if (request := self._lookup(car))]
        self.lookups = len(requests)
        return requests

    def _lookup(self, car: ActiveCar) -> Request | None:
        if not is_web_address(car.url):
            logger.warning("The missing car %s has no address that could be looked up: %r", car.external_id, car.url)
            return None
        return Request(
            car.url,
            callback=self.parse_missing,
            errback=self.missing_failed,
            cb_kwargs={"external_id": car.external_id},
            dont_filter=True,
        )

    def parse_missing(self, response: Response, external_id: str) -> Iterator[Request]:
        """Hear what a missing car's own page says of it."""
        yield from self._looked_up(external_id, response.url, says_gone=self.is_gone(response))

    def missing_failed(self, failure: Failure) -> Iterator[Request]:
        """Conclude nothing from a page that does not come, unless the site says so that there is none."""
        request: Request = failure.request  # type: ignore[attr-defined]
        says_gone = self.gone_by_status and status_of(failure) in _NOT_THERE
        if not says_gone:
            logger.info("A missing car's page does not come: %r (%s)", request.url, reason_of(failure))
        yield from self._looked_up(request.cb_kwargs["external_id"], request.url, says_gone=says_gone)

    def _looked_up(self, external_id: str, url: str, *, says_gone: bool) -> Iterator[Request]:
        """After the last lookup ask for pages of cars that are on the list: what do they say?"""
        if says_gone:
            self.count("details/gone")
            self._said_gone.append(GoneCar(source=self.source, external_id=external_id, url=url))
        self.lookups -= 1
        if self.lookups or not self._said_gone:
            return
        controls = list(self.controls)[-len(self._said_gone) :]
        answers: list[bool | None] = []
        for listed, address in controls:
            yield Request(
                address,
                callback=self.parse_control,
                errback=self.control_failed,
                cb_kwargs={"external_id": listed, "answers": answers, "wanted": len(controls)},
                dont_filter=True,
            )

    def parse_control(
        self, response: Response, external_id: str, answers: list[bool | None], wanted: int
    ) -> Iterator[GoneCar]:
        """See whether the page shows a car that is for sale."""
        answers.append(not self.is_gone(response) and (self.shows_car(response, external_id) or None))
        if len(answers) == wanted:
            yield from self._conclude_gone(answers)

    def control_failed(self, failure: Failure) -> Iterator[GoneCar]:
        """Count a page that is not there as a contradiction; one that does not come says nothing."""
        arguments = failure.request.cb_kwargs  # type: ignore[attr-defined]
        answers: list[bool | None] = arguments["answers"]
        answers.append(False if self.gone_by_status and status_of(failure) in _NOT_THERE else None)
        if len(answers) == arguments["wanted"]:
            yield from self._conclude_gone(answers)

    def shows_car(self, response: Response, external_id: str) -> bool:
        """Tell whether *response* is the own page of a car that is for sale, as far as a page tells it."""
        if self.car_id(response.url) != external_id or self.is_gone(response):
            return False
        if not self.has_details:
            return True
        try:
            car = CarItem(source=self.source, external_id=external_id, url=response.url)
            return any(isinstance(each, CarItem) for each in self.parse_details(response, car))
        except Exception as error:
            logger.info("%r is no page of a car (%s: %s)", response.url, type(error).__name__, error)
            return False
        finally:
            forget_tree(response)

    def _conclude_gone(self, answers: list[bool | None]) -> Iterator[GoneCar]:
        """Mark the cars whose pages say so, if the pages of listed cars show theirs."""
        shown, gone = answers.count(True), answers.count(False)
        if not shown or shown < _TRUSTED * (shown + gone):
            self.incomplete(
                f"The pages of {len(self._said_gone)} missing cars said that they are gone, but of {len(answers)} cars "
                f"on the list only {shown} showed theirs: the site has a fault, and no car was marked as gone."
            )
        elif not self.is_partial:
            yield from self._said_gone


def is_stale(external_id: str, details_at: datetime, *, now: datetime, max_age: timedelta) -> bool:
    """Tell whether a car's details are due again: once in *max_age*, each car at its own hour.

    After the first crawl all details are of one day; every car has its own phase, so that the visits spread evenly
    over the days. A visit less than a seventh of *max_age* ago is never repeated.

    >>> day = datetime(2026, 1, 1)
    >>> due = [n for n in range(700) if is_stale(str(n), day, now=day + _DAY * 3.5, max_age=_DAY * 7)]
    >>> 300 < len(due) < 400
    True
    >>> is_stale("1", day, now=day + _DAY * 7, max_age=_DAY * 7), is_stale("1", day, now=day, max_age=_DAY * 7)
    (True, False)
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
