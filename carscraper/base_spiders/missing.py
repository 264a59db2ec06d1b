"""What a complete crawl concludes of the cars that it did not see: each is gone on the word of its own page only."""

from __future__ import annotations

import logging
import random
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from scrapy import Request

from carscraper.base_spiders.base import CarscraperSpider, forget_tree, is_web_address, reason_of, status_of
from carscraper.items import CarImage, CarItem, GoneCar
from carscraper.state import state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scrapy.http import Response
    from twisted.python.failure import Failure

    from carscraper.db.cars import ActiveCar

logger = logging.getLogger(__name__)

RECENT = timedelta(days=14)
"""A car that was seen since then was for sale a moment ago."""
NOT_THERE = frozenset({404, 410})
_CONTROLS = 5  # pages of listed cars that show whether the site tells the truth about its cars
_LATE, _LATE_SHARE = 2, 0.02  # cars off the list whose pages show them: a few move while the list is read
_TRUSTED = 0.8  # of them that must show their car: one may have been sold this minute


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
    lookups: int
    """Pages of missing cars that are still to come."""

    def configure(self) -> None:
        """Begin with a list of which nothing was seen."""
        self.seen = set()
        self.controls = deque(maxlen=_CONTROLS)
        self.lookups = 0
        self._said_gone: list[GoneCar] = []
        self._still_for_sale: list[str] = []
        """Cars that the list did not show and whose own pages do."""

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
        """Make the crawl partial: a part of the site's list was not seen.

        Args:
            why: a sentence for the last lines, with the page and what was expected there.
        """
        self.is_partial = True
        sentences = state_of(self.crawler).incomplete
        if why not in sentences:
            logger.warning("%s", why)
            sentences.append(why)

    async def conclude(self) -> list[Request]:
        """Look up at their own pages the cars that a complete crawl did not see.

        Returns:
            The requests; none after a partial crawl, which concludes nothing.
        """
        if self.is_partial:
            return []
        active = await self.ask(self.ledger.active_cars(self.source))
        # Cars that an earlier program left as active for months say nothing about what the site shows today.
        since = datetime.now(UTC).replace(tzinfo=None) - RECENT
        usual = {car.external_id for car in active if car.last_seen_at and car.last_seen_at > since}
        seen = len(self.seen & usual)
        if seen < self.settings.getfloat("CRAWL_MIN_SHARE") * len(usual):
            self.end_as_failed(
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

    async def unseen_photos(self) -> list[CarItem]:
        """Return the cars that this crawl did not see, with their photos that are due: a sold car's die first.

        They are tried at their last addresses, and at fresh ones as long as the car's own page does not say that it is
        gone. A crawl of a part of the cars leaves those of the others.
        """
        if self.is_part:
            return []
        since = datetime.now(UTC).replace(tzinfo=None) - RECENT
        items = []
        for car in await self.ask(self.ledger.unseen_cars(self.source, self.seen, since)):
            images = [
                CarImage(identity=identity, source_url=known.image.source_url, position=known.image.position)
                for identity, known in car.images.items()
                if known.due
            ]
            items.append(replace(car.item, images=images, gone=not car.is_active))
        return items

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
        """Read what a missing car's own page says of it."""
        says_gone = self.is_gone(response)
        if not says_gone and self.has_details and self.shows_car(response, external_id):
            self._still_for_sale.append(external_id)
        yield from self._looked_up(external_id, response.url, says_gone=says_gone)

    def missing_failed(self, failure: Failure) -> Iterator[Request]:
        """Conclude nothing from a page that does not come, unless the site says so that there is none."""
        request: Request = failure.request  # type: ignore[attr-defined]
        says_gone = self.gone_by_status and status_of(failure) in NOT_THERE
        if not says_gone:
            self.count("missing/unanswered")
            logger.info("A missing car's page does not come: %r (%s)", request.url, reason_of(failure))
        yield from self._looked_up(request.cb_kwargs["external_id"], request.url, says_gone=says_gone)

    def _looked_up(self, external_id: str, url: str, *, says_gone: bool) -> Iterator[Request]:
        """After the last lookup ask for pages of cars that are on the list: what do they say?"""
        if says_gone:
            self.count("details/gone")
            self._said_gone.append(GoneCar(source=self.source, external_id=external_id, url=url))
        self.lookups -= 1
        if not self.lookups and len(self._still_for_sale) > max(_LATE, _LATE_SHARE * len(self.seen)):
            self.incomplete(
                f"{len(self._still_for_sale)} cars that the list did not show are for sale by their own pages, such as "
                f"{self._still_for_sale[0]}: the list was not whole."
            )
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
        answers.append(False if self.gone_by_status and status_of(failure) in NOT_THERE else None)
        if len(answers) == arguments["wanted"]:
            yield from self._conclude_gone(answers)

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
