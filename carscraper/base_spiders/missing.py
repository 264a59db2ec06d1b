"""What a complete crawl concludes of the cars that it did not see: each is gone on the word of its own page only."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import deque
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from scrapy import Request

from carscraper.base_spiders.base import CarscraperSpider, forget_tree, is_web_address
from carscraper.base_spiders.pages import is_html
from carscraper.items import CarItem, GoneCar, utcnow
from carscraper.state import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from scrapy.http import Response

logger = logging.getLogger(__name__)

RECENT = timedelta(days=14)
"""A car that was seen since then was for sale a moment ago."""
NOT_THERE = frozenset({404, 410})
_CONTROLS = 5  # pages of listed cars that show whether the site tells the truth about its cars
_LATE, _LATE_SHARE = 2, 0.02  # cars off the list whose pages show them: a few move while the list is read
TRUSTED = 0.8
"""Of them that answer must show their car: one may have been sold this minute."""
_AT_ONCE = 8  # pages that are looked up

GONE, SHOWN, UNCLEAR, UNANSWERED = "gone", "shown", "unclear", "unanswered"
"""What a car's own page says of it."""


class ConcludingSpider(CarscraperSpider):
    """A crawl of a list of cars, at whose end the missing ones are looked up."""

    source: ClassVar[str]
    """The stored name of the site, e.g. ``Bilasolur``."""
    has_details: ClassVar[bool] = True
    """Whether a car's own page says more than its card."""
    gone_by_status: ClassVar[bool] = False
    """Whether 404 or 410 at a car's own page is the site's word that the car is gone."""

    is_part: bool
    """The crawl was asked for a part of the cars only."""
    is_partial: bool
    """A partial crawl, by its arguments or by what went wrong, concludes nothing about cars that it did not see."""
    seen: set[str]
    """The ids of the cars that were on the list."""
    controls: deque[tuple[str, str]]
    """The cars that were on the list last: id and address."""
    most_lookups: ClassVar[int] = sys.maxsize
    """Missing cars that are looked up; ``CRAWL_MAX_LOOKUPS`` bounds them as well."""

    def configure(self) -> None:
        """Begin with a list of which nothing was seen."""
        self.seen = set()
        self.controls = deque(maxlen=_CONTROLS)

    def car_id(self, url: str) -> str | None:
        """Return the car's lasting id from the address of its page; ``None`` if it names no car."""
        raise NotImplementedError

    def is_gone(self, response: Response) -> bool:
        """Return whether the car's own page says that the car is sold or removed."""
        raise NotImplementedError

    def parse_details(self, response: Response, item: CarItem) -> Iterator[Any]:
        """Read the car's own page into *item*; raise ``ValueError`` if it is not this car's."""
        raise NotImplementedError

    def incomplete(self, why: str) -> None:
        """Make the crawl partial; *why* is a sentence for its last lines, with the page and what was expected there."""
        self.is_partial = True
        sentences = state_of(self.crawler).incomplete
        if why not in sentences:
            logger.warning("%s", why)
            sentences.append(why)

    def ended_well(self, reason: str | None) -> bool:
        """Return whether the crawl, ended for *reason*, got every page that it asked for and did not fail."""
        missed = ("carscraper/pages/failed", "spider_exceptions/count")
        failed = state_of(self.crawler).failed is not None or any(map(self.crawler.stats.get_value, missed))
        return reason == "finished" and not failed

    def saw_all(self, reason: str | None) -> bool:
        """Return whether the crawl, ended for *reason*, missed nothing of the site and did not fail."""
        return self.ended_well(reason) and not self.is_partial

    async def at_end(self) -> list[CarItem | Request]:
        """Return what is to be done about the cars that were not seen, once the list is read."""
        photos = await self.unseen_photos()
        if self.is_partial:
            return [*photos]
        # The last request of all: by then most pages of listed cars were read, and what they say counts.
        last: dict[str, Any] = {"meta": {"carried": True}, "priority": -10, "dont_filter": True}
        return [*photos, Request("carried://end", callback=self.conclude, **last)]

    async def unseen_photos(self) -> list[CarItem]:
        """Return the cars that this crawl did not see, with their photos that are due: a sold car's die first.

        They are tried at their last addresses, and at fresh ones as long as the car's own page does not say that it is
        gone. A crawl of a part of the cars leaves those of the others.
        """
        if self.is_part:
            return []
        since = utcnow() - RECENT
        items = []
        for car in await self.ask(self.ledger.unseen_cars(self.source, self.seen, since)):
            images = [known.at_last_address() for known in car.images.values() if known.due]
            items.append(replace(car.item, images=images, gone=not car.is_active))
        return items

    async def conclude(self, _: Response) -> AsyncIterator[GoneCar]:
        """Look up the cars that a complete crawl did not see; a partial one concludes nothing.

        Those whose pages say so are gone, if the pages of listed cars show theirs.
        """
        missing = {} if self.is_partial else await self._missing()
        answers = await self._look_up(missing)
        shown = [car for car, answer in answers.items() if answer == SHOWN and self.has_details]
        if len(shown) > max(_LATE, _LATE_SHARE * len(self.seen)):
            self.incomplete(
                f"{len(shown)} cars that the list did not show are for sale by their own pages, such as {shown[0]}: "
                "the list was not whole."
            )
        self.count("missing/unanswered", sum(answer in {UNANSWERED, UNCLEAR} for answer in answers.values()))
        gone = [car for car, answer in answers.items() if answer == GONE]
        if not gone or self.is_stopping:
            return
        self.count("details/gone", len(gone))
        said = [*(await self._look_up(dict([*self.controls][-len(gone) :]))).values()]
        if said.count(SHOWN) < max(1, TRUSTED * (said.count(SHOWN) + said.count(GONE))):
            self.incomplete(
                f"The pages of {len(gone)} missing cars said that they are gone, but of {len(said)} cars on the list "
                f"only {said.count(SHOWN)} showed theirs: the site has a fault, and no car was marked as gone."
            )
        for car in gone if not self.is_partial else ():
            yield GoneCar(source=self.source, external_id=car, url=missing[car])

    async def _missing(self) -> dict[str, str]:
        """Return id and address of the cars for sale that were not seen; none if suspiciously few were seen."""
        active = await self.ask(self.ledger.active_cars(self.source))
        # Cars that an earlier program left as active for months say nothing about what the site shows today.
        since = utcnow() - RECENT
        usual = {car.external_id for car in active if car.last_seen_at and car.last_seen_at > since}
        seen = len(self.seen & usual)
        if seen < self.settings.getfloat("CRAWL_MIN_SHARE") * len(usual):
            self.end_as_failed(
                f"Only {seen} of {len(usual)} known cars were on the site, fewer than CRAWL_MIN_SHARE allows: "
                "the site has changed or shows only a part; no car was marked as gone.",
            )
            return {}
        missing = {car.external_id: car.url for car in active if car.external_id not in self.seen}
        for car in [car for car, url in missing.items() if not is_web_address(url)]:
            logger.warning("The missing car %s has no address to be looked up: %r", car, missing.pop(car))
        most = min(self.settings.getint("CRAWL_MAX_LOOKUPS"), self.most_lookups)
        # By chance, not by age: cars whose pages never answer must not take the turns of the others.
        return dict(random.sample([*missing.items()], most)) if len(missing) > most else missing

    async def _look_up(self, cars: dict[str, str]) -> dict[str, str]:
        """Return what the pages of *cars* (address by id) say of each, unless the crawl is to end early."""
        answers: dict[str, str] = {}
        for start in range(0, len(cars), _AT_ONCE):
            if self.is_stopping or not self.crawler.engine.running:
                break
            some = [*cars][start : start + _AT_ONCE]
            said = await asyncio.gather(*(self._answer(car, cars[car]) for car in some))
            answers |= dict(zip(some, said, strict=True))
        return answers

    async def _answer(self, external_id: str, url: str) -> str:
        try:
            response = await self.crawler.engine.download_async(Request(url, dont_filter=True))
        except Exception as error:
            logger.info("A missing car's page does not come: %r (%s)", url, error)
            return UNANSWERED
        if not 200 <= response.status < 300:
            return GONE if self.gone_by_status and response.status in NOT_THERE else UNANSWERED
        if not is_html(response):
            return UNCLEAR
        return GONE if self.is_gone(response) else SHOWN if self.shows_car(response, external_id) else UNCLEAR

    def shows_car(self, response: Response, external_id: str) -> bool:
        """Return whether *response* is the own page of a car that is for sale, as far as a page tells it."""
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
