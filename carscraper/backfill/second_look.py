"""The second look at cars whose pages say that they are gone, when all other cars of their source are through."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from scrapy import Request

from carscraper.addon import end_as_failed
from carscraper.backfill.gone import CONTROLS, Evidence
from carscraper.backfill.visits import AT_ONCE, CarVisits
from carscraper.base_spiders.base import forget_tree, reason_of
from carscraper.base_spiders.cards import CardSpider
from carscraper.base_spiders.missing import RECENT
from carscraper.items import GoneCar
from carscraper.middlewares.carried import carry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from scrapy.http import Response
    from twisted.python.failure import Failure

logger = logging.getLogger(__name__)


class SecondLook(CarVisits):
    """Hears such cars once more, compares them with cars that are for sale, and concludes."""

    def _is_open(self, source: str) -> bool:
        """Return whether there are cars of *source* of which it is still open whether they are gone."""
        evidence = self._evidence[source]
        return bool(evidence.doubtful or evidence.gone)

    async def _look_again(self, source: str) -> AsyncIterator[Request]:
        """When all other cars of *source* are through: hear its gone cars once more, compare, conclude."""
        evidence = self._evidence[source]
        while evidence.doubtful and self._under_way[source] < AT_ONCE:
            car = evidence.doubtful.popleft()
            request = self._page_request(car, again=True)
            if request:
                yield request
            else:  # it has no address, and by now nobody can be asked for it
                self._page_failed(car.item.url, "it can't be looked for once more")
        if evidence.doubtful or self._under_way[source] or not evidence.gone:
            return
        if evidence.controls is None:
            evidence.controls = []
            for request in await self._controls(source):
                self._under_way[source] += 1
                yield request
            return
        steps = self._mark_gone(source, evidence) if evidence.believed else self._conclude(source, evidence)
        for request in steps:
            yield request

    async def _controls(self, source: str) -> list[Request]:
        """Ask for pages of cars that are for sale: those that this run has seen, else what the site's home shows."""
        seen = list(self._evidence[source].shown)
        if seen:
            return [self._control(source, external_id, url) for external_id, url in seen]
        home = next(iter(self.dealers[source].start_search())).url
        return [
            Request(
                self.addresses.at_base(home, source),
                callback=self.parse_home,
                errback=self.control_failed,
                cb_kwargs={"source": source},
                dont_filter=True,
            )
        ]

    def _control(self, source: str, external_id: str, url: str) -> Request:
        return Request(
            url,
            callback=self.parse_control,
            errback=self.control_failed,
            cb_kwargs={"source": source, "external_id": external_id},
            dont_filter=True,
        )

    async def parse_home(self, response: Response, source: str) -> AsyncIterator[Request]:
        """Ask for pages of the cars that the site shows there, or of those that a crawl saw last."""
        try:
            dealer = self.dealers[source]
            cards = dealer.read_cards(response)[0] if isinstance(dealer, CardSpider) else []
            found = [(card.external_id, self.addresses.at_base(card.url, source)) for card in cards]
            if not found:
                gone = {car.item.external_id for car in self._evidence[source].gone}
                since = datetime.now(UTC).replace(tzinfo=None) - RECENT
                for car in await self.plan.active_cars(source):
                    page = self.addresses.page_of(car.url, source)
                    if page and car.external_id not in gone and car.last_seen_at and car.last_seen_at > since:
                        found.insert(0, (car.external_id, page))  # the last seen first
            for external_id, url in found[:CONTROLS]:
                self._under_way[source] += 1
                yield self._control(source, external_id, url)
        finally:
            forget_tree(response)
            self._control_heard(source)

    def parse_control(self, response: Response, source: str, external_id: str) -> None:
        """See whether the page shows a car that is for sale."""
        evidence, dealer = self._evidence[source], self.dealers[source]
        assert evidence.controls is not None
        if dealer.shows_car(response, external_id):
            evidence.controls.append(True)
        elif dealer.is_gone(response):
            evidence.controls.append(False)
        self._control_heard(source)

    def control_failed(self, failure: Failure) -> None:
        """Let a page that does not come say nothing."""
        request: Request = failure.request  # type: ignore[attr-defined]
        logger.warning("A page of a car for sale does not come: %r (%s)", request.url, reason_of(failure))
        self._control_heard(request.cb_kwargs["source"])

    def _control_heard(self, source: str) -> None:
        self._under_way[source] -= 1
        self._moved.set()

    def _conclude(self, source: str, evidence: Evidence) -> Iterator[Request]:
        """Believe the pages and try the last addresses, or fail: no car is marked, no photo given up."""
        why_not = evidence.why_not(self.settings.getfloat("CRAWL_MIN_SHARE"))
        evidence.believed = not why_not
        if why_not:
            end_as_failed(
                self.crawler,
                f"The pages of {len(evidence.gone)} cars of {source} say that they are gone, but {why_not}: no car was "
                f"marked, no photo given up. Look at the site; if it is well, run `scrapy crawl "
                f"{self.key_folder(source)}` and then the backfill again.",
            )
            evidence.gone.clear()
        for car in [each for each in evidence.gone if not each.images]:
            if self._is_full(source):
                evidence.gone.remove(car)  # the next run has room for its photo
            else:
                yield from self._hand_on(car, replace(car.item, gone=True, images=self._addresses(car)))

    def _mark_gone(self, source: str, evidence: Evidence) -> Iterator[Request]:
        for car in evidence.gone:
            url = car.item.url or self.dealers[source].home
            yield carry(GoneCar(source=source, external_id=car.item.external_id, url=url, give_up_photos=True))
        self._evidence[source] = Evidence()
