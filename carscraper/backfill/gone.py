"""What the pages of one source's cars said in a run, and whether that is believed.

A page that says "gone" is a word, not yet a fact: sites were seen to say it of every car for a while. It is heard
twice, the second time when the source's other cars are through, and believed only while pages of cars that are for sale
show theirs. ``docs/backfill.md`` has the rules.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from scrapy import Request

from carscraper.addon import end_as_failed
from carscraper.backfill.visits import AT_ONCE, CarVisits
from carscraper.backfill.worklist import GONE
from carscraper.base_spiders.base import forget_tree, why_no_page
from carscraper.base_spiders.cards import CardSpider
from carscraper.base_spiders.missing import RECENT, TRUSTED
from carscraper.db.cars import close_second_rows
from carscraper.items import GoneCar, utcnow
from carscraper.middlewares.answers import carry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from scrapy.http import Response
    from twisted.python.failure import Failure

    from carscraper.db.work import KnownCar

logger = logging.getLogger(__name__)


CONTROLS = 3
"""Pages of cars for sale that are asked for before anything is concluded."""
_MANY = 5  # cars; of fewer all may be sold by chance


@dataclass(slots=True)
class Evidence:
    """The cars of one source whose pages say that they are gone, and what speaks for it and against."""

    doubtful: deque[KnownCar] = field(default_factory=deque)
    """Their page said so once."""
    gone: list[KnownCar] = field(default_factory=list)
    """Their page said so when they were looked for again, too."""
    found: set[int] = field(default_factory=set)
    """Rows of those that the site's search shows all the same."""
    shown: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=CONTROLS))
    """The last cars whose pages showed them: id and address."""
    lately: Counter[bool] = field(default_factory=Counter)
    """Cars that a crawl saw for sale in the last days, by whether their pages show them."""
    controls: list[bool] | None = None
    """What the pages of cars for sale said at the end, by whether they show the car; ``None``: not asked yet."""

    believed: bool = False
    """The comparison is made, and the pages are believed."""

    def why_not(self, min_share: float) -> str | None:
        """Say why the word of the pages is not believed; ``None`` if it is.

        Args:
            min_share: ``CRAWL_MIN_SHARE``, of the cars that were for sale lately.
        """
        controls = self.controls or []
        if not controls:
            few = len(self.gone) < _MANY
            return None if few else "no page of a car that is for sale could be found to compare them with"
        if sum(controls) < TRUSTED * len(controls):
            return f"so do those of {controls.count(False)} of {len(controls)} cars that are for sale"
        if self.lately.total() >= _MANY and self.lately[True] < min_share * self.lately.total():
            return (
                f"{self.lately[False]} of {self.lately.total()} cars that a crawl saw for sale in the last 14 days "
                "are gone by their pages, more than CRAWL_MIN_SHARE allows"
            )
        return None


class SecondLook(CarVisits):
    """Hears cars once more whose pages say that they are gone, compares them with cars for sale, and concludes."""

    def begin_visits(self) -> None:
        """Begin without evidence."""
        super().begin_visits()
        self._evidence = defaultdict(Evidence)

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
                self._page_failed(car, car.item.url, "it can't be looked for once more")
        if evidence.doubtful or self._under_way[source] or not evidence.gone:
            return
        if evidence.controls is None:
            evidence.controls = []
            for request in await self._controls(source):
                self._under_way[source] += 1
                yield request
            return
        if evidence.believed:
            gone = [car.row_id for car in evidence.gone]
            await self.plan.write(close_second_rows, self.worklist.second, gone)
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
                since = utcnow() - RECENT
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
        logger.warning("A page of a car for sale does not come: %r (%s)", request.url, why_no_page(failure))
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
        for car in [each for each in evidence.gone if each.row_id in evidence.found]:
            self._page_failed(car, car.item.url, "it says that the car is gone, and the site's search shows the car")
            evidence.gone.remove(car)
        for car in [each for each in evidence.gone if not each.images]:
            if self._is_full(source):
                evidence.gone.remove(car)  # the next run has room for its photo
            else:
                yield from self._hand_on(car, replace(car.item, gone=True, images=self._addresses(car)))

    def _mark_gone(self, source: str, evidence: Evidence) -> Iterator[Request]:
        for car in evidence.gone:
            self.worklist.fates[car.row_id] = GONE
            about = {"source": source, "external_id": car.item.external_id, "url": car.item.url}
            yield carry(GoneCar(**about, give_up_photos=True))
        self._evidence[source] = Evidence()
