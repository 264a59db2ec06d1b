"""One car of a backfill: the visit to its page, what is made of a page that says gone, and its way to the pipelines."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter, defaultdict, deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scrapy import Request, signals

from carscraper.backfill import worklist as fates
from carscraper.backfill.worklist import TYPICAL_PHOTOS
from carscraper.base_spiders.base import CarscraperSpider, by_address, forget_tree, status_of, why_no_page
from carscraper.base_spiders.cards import CardSpider
from carscraper.base_spiders.missing import RECENT
from carscraper.db.rules import HAVE_BYTES
from carscraper.items import CarImage, CarItem, Reason, Status, utcnow
from carscraper.middlewares.answers import carry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from scrapy.http import Response
    from twisted.python.failure import Failure

    from carscraper.backfill.addresses import Addresses
    from carscraper.backfill.gone import Evidence
    from carscraper.backfill.options import Options
    from carscraper.backfill.worklist import Worklist
    from carscraper.base_spiders.dealer import DealerSpider
    from carscraper.db.ledger import Ledger
    from carscraper.db.work import KnownCar

logger = logging.getLogger(__name__)

_IN_VAIN = 50  # photos in a row that can't be had: a run with a limit leaves their source
_NOT_MISSED = frozenset({Reason.DELETED, Reason.TERMS})
AT_ONCE = 8  # cars of one source under way
_NO_PAGE = re.compile(r"log-?in|sign-?in|innskr|error|villa|maintenance|vidhald|lokad", re.IGNORECASE)


class CarVisits(CarscraperSpider):
    """Visits the cars that a backfill chooses."""

    options: Options
    limit: int | None
    dealers: dict[str, DealerSpider]
    addresses: Addresses
    worklist: Worklist
    _evidence: dict[str, Evidence]

    @property
    def plan(self) -> Ledger:
        """The database that says what there is to do."""
        return self.ledger

    def begin_visits(self) -> None:
        """Make the state of the visits that are under way."""
        self._taken: Counter[str] = Counter()
        self._under_way: Counter[str] = Counter()
        self._reserved: Counter[str] = Counter()
        self._counted_for: Counter[int] = Counter()
        """How many photos of a car count for the limit, by ``id()`` of its item, until it has left the pipelines."""
        self._in_vain: Counter[str] = Counter()
        """Photos of each source that could not be had since the last one that could."""
        self._imports_wait = False
        """The store gave or took something not: what needs only the store comes last."""
        self._later: dict[str, deque[KnownCar]] = defaultdict(deque)
        """Cars that wait for that."""
        self._last_round: set[str] = set()
        """Sources of which there is nothing else to do."""
        self._in_pipelines: dict[int, tuple[str, int]] = {}
        """Cars in the pipelines, by ``id()`` of their item: their source and their number of photos."""
        self.rows: dict[tuple[str, str], int] = {}
        """The rows of the cars whose turn has come."""
        self._again: deque[int] = deque()
        """Rows of cars whose photos proved not to be where they should be."""
        self._handed_on: dict[tuple[str, str], KnownCar] = {}
        self._without_search: set[str] = set()
        """Sources whose sites can't be asked for a car's number."""
        self._moved = asyncio.Event()
        for signal in (signals.item_scraped, signals.item_dropped, signals.item_error):
            self.crawler.signals.connect(self._item_left, signal=signal)

    def _is_full(self, source: str) -> bool:
        """Return whether as many photos are done as may be, or have failed one after the other."""
        most = self.limit or 0
        return bool(most) and (self._number(self._taken, source) >= most or self._is_in_vain(source))

    def _is_in_vain(self, source: str) -> bool:
        return bool(self.limit) and self._in_vain[source] >= max(self.limit or 0, _IN_VAIN)

    def _number(self, of: Counter[str], source: str) -> int:
        return of.total() if self.options.sample else of[source]  # a sample is of all together, a limit for each

    # --- one car ---

    def _begin(self, car: KnownCar) -> Iterator[Request]:
        """Yield what the car needs: its photos that are somewhere already, or a visit to its page."""
        known = car.images.values()
        in_folder = [
            each.image for each in known if each.image.status == Status.STORED and each.image.store == "folder"
        ]
        name = self.worklist.object_name(car.image_url)
        if self._imports_wait and car.item.source not in self._last_round and (in_folder or (name and not known)):
            self._later[car.item.source].append(car)
            return
        if in_folder and self.worklist.s3 and self.options.only in {None, "local"}:
            images = [replace(image, status=Status.PENDING, attempts=0) for image in in_folder]
            yield from self._hand_on(car, replace(car.item, images=images, imported=True))
        if self.options.only == "local":
            return
        if not car.images and name is not None:
            if self.worklist.s3 and not self.options.sample:
                image = CarImage(identity=by_address(car.image_url or ""), source_url=car.image_url or "")
                image.key = name
                yield from self._hand_on(car, replace(car.item, images=[image], imported=True))
            return
        if not car.images or any(each.due for each in known) or self.options.insists:
            yield from self._visit(car)

    def _visit(self, car: KnownCar) -> Iterator[Request]:
        """Ask for the car's page, by its number if its address is of no use; else its photos' addresses are all."""
        request = self._page_request(car)
        if request:
            yield request
        else:
            yield from self._without_page(car)

    def _without_page(self, car: KnownCar) -> Iterator[Request]:
        images = self._addresses(car)
        if not images:
            self.worklist.fates[car.row_id] = fates.NO_ADDRESS
        yield from self._hand_on(car, replace(car.item, images=images))

    def _page_request(
        self, car: KnownCar, *, again: bool = False, url: str | None = None, card: CarItem | None = None
    ) -> Request | None:
        """Return the request for the car's page or for the search that finds it, counted as under way.

        Args:
            car: as the tables have it.
            again: its page said that it is gone: the search is asked, whatever the address.
            url: of its page, if that is known already.
            card: what the search for it has shown.
        """
        source = car.item.source
        page = url or self.addresses.page(car)
        dealer = self.dealers.get(source)
        wanted = sum(each.is_wanted(insist=self.options.insists) for each in car.images.values())
        reserve = wanted if car.images else TYPICAL_PHOTOS
        arguments: dict[str, Any] = {"car": car, "reserve": reserve, "again": again}
        of_page = arguments | {"card": card}
        request = None
        if dealer and url is None and (again or not page) and source not in self._without_search:
            request = dealer.find_car(car.item.external_id, self.parse_search, self.search_failed, arguments)
        if request:
            request = request.replace(url=self.addresses.at_base(request.url, source))
        elif page:
            request = Request(
                page, callback=self.parse_car, errback=self.car_failed, cb_kwargs=of_page, dont_filter=True
            )
        else:
            return None
        self._under_way[source] += 1
        self._reserved[source] += reserve
        return request

    async def parse_car(
        self, response: Response, car: KnownCar, reserve: int, again: bool = False, card: CarItem | None = None
    ) -> AsyncIterator[Any]:
        """Read the car's page with its dealer's parser."""
        try:
            for result in self._counted(self._read(response, car, again=again, card=card)):
                yield result
        finally:
            forget_tree(response)
            self._visited(car, reserve)

    def _read(
        self, response: Response, car: KnownCar, *, again: bool, card: CarItem | None = None
    ) -> Iterator[CarItem]:
        dealer = self.dealers[car.item.source]
        if not dealer.is_own_page(response, car.item.external_id):
            if _NO_PAGE.search(urlsplit(response.url).path):
                self._page_failed(car, response.url, "it leads to a login or an error page")
            elif again and card is None and not dealer.gone_by_status:
                self._page_failed(car, response.url, "the site leads there, and says in words that a car is gone")
            else:
                yield from self._gone(car, again=again, card=card)
            return
        if not dealer.is_whole(response):
            self._page_failed(car, response.url, "it was cut off")
            return
        try:
            if dealer.is_gone(response):
                yield from self._gone(car, again=again, card=card)
                return
            known = self.addresses.repaired(car)
            url = dealer.canonical_url(known if known and dealer.car_id(known) else response.url)
            item: CarItem = next(dealer.parse_details(response, replace(car.item, seen=True, url=url)))
        except Exception as error:
            self.end_if_short(error)
            self._page_failed(car, response.url, f"{type(error).__name__}: {error}")
            return
        self._shown(car, response.url)
        item.details_at = utcnow()
        item.shows_all = True
        on_page = {image.identity for image in item.images}
        off_page = (image for image in self._addresses(car) if image.identity not in on_page and car.images)
        item.images += [replace(image, on_page=False) for image in off_page]
        item.image_urls = [image.source_url for image in item.images]
        yield self._within_limit(item, car)

    def car_failed(self, failure: Failure) -> Iterator[CarItem]:
        """Take 404 and 410 for the site's word that the car is gone; nothing else."""
        request: Request = failure.request  # type: ignore[attr-defined]
        car, again, card = (request.cb_kwargs[name] for name in ("car", "again", "card"))
        try:
            if status_of(failure) in {404, 410}:
                yield from self._counted(self._gone(car, again=again, card=card))
            else:
                self._page_failed(car, request.url, why_no_page(failure))
        finally:
            self._visited(car, request.cb_kwargs["reserve"])

    def parse_search(self, response: Response, car: KnownCar, reserve: int, again: bool) -> Iterator[Any]:
        """Go from what the search for the car's number found to the car's page."""
        dealer = self.dealers[car.item.source]
        try:
            if dealer.car_id(response.url) == car.item.external_id:
                yield from self._counted(self._read(response, car, again=again))
                return
            assert isinstance(dealer, CardSpider)
            found = [card for card in dealer.read_cards(response)[0] if card.external_id == car.item.external_id]
            if found:
                url = self.addresses.at_base(found[0].url, car.item.source)
                yield self._page_request(car, again=again, url=url, card=found[0])
            elif dealer.says_empty(response):
                yield from self._counted(self._gone(car, again=again))
            else:
                self._page_failed(car, response.url, f"a search for the number {car.item.external_id} leads elsewhere")
        finally:
            forget_tree(response)
            self._visited(car, reserve)

    def search_failed(self, failure: Failure) -> Iterator[Request]:
        """Do without the search: ask for the car's page itself, or for the photos that the row names."""
        request: Request = failure.request  # type: ignore[attr-defined]
        car: KnownCar = request.cb_kwargs["car"]
        logger.info("No search for the car %s: %r (%s)", car.item.external_id, request.url, why_no_page(failure))
        if status_of(failure) in {404, 410} or isinstance(failure.value, ValueError):
            self._without_search.add(car.item.source)  # there is no such form
        try:
            page = self.addresses.page(car)
            follow = self._page_request(car, again=request.cb_kwargs["again"], url=page) if page else None
            if follow:
                yield follow
            else:
                yield from self._without_page(car)
        finally:
            self._visited(car, request.cb_kwargs["reserve"])

    def _page_failed(self, car: KnownCar, url: str, why: str) -> None:
        self.count("details/failed")
        self.worklist.fates[car.row_id] = fates.NO_PAGE
        logger.warning("A car's page does not come or can't be read: %r (%s)", url, why)

    def _addresses(self, car: KnownCar) -> list[CarImage]:
        return self.addresses.photos(car, self.worklist, insist=self.options.insists)

    def _within_limit(self, item: CarItem, car: KnownCar) -> CarItem:
        """Leave for the next run what is more than ``limit`` photos of this source."""
        insist = self.options.insists
        wanted = []
        for image in item.images:
            known = car.images.get(image.identity)
            if known and not known.is_wanted(insist=insist):
                continue
            image.insist = insist
            if image.reason == Reason.BAD_ADDRESS:  # that is known without asking
                continue
            if self._is_full(item.source):
                image.reason = "limit"
            else:
                self._taken[item.source] += 1
                self._counted_for[id(item)] += 1
                wanted.append(image)
        if self.options.sample:
            item.images = wanted  # its own database knows of no other
        return item

    # --- cars whose pages say that they are gone ---

    def _gone(self, car: KnownCar, *, again: bool, card: CarItem | None = None) -> Iterator[CarItem]:
        """Use what addresses of its photos still answer, while they do; whether it is gone shows at the end.

        Not that of a car without photos: with one stored it would be no work any more, should it not be gone. What
        the search has shown of a car is kept, and the car with it.
        """
        evidence = self._evidence[car.item.source]
        self.worklist.fates[car.row_id] = fates.MAYBE_GONE
        if again:
            evidence.gone.append(car)
            self._note_lately(car, shown=False)
        if card:
            evidence.found.add(car.row_id)
            yield self._within_limit(replace(card, card_hash=None), car)
        if again:
            return
        self.count("details/gone")
        item = replace(car.item, gone=True, images=self._addresses(car) if car.images else [])
        if item.images:
            yield self._within_limit(item, car)
        # With photos left for the next run it stays active, so that the next run comes back to it.
        if not self.options.sample and not any(image.reason == Reason.LIMIT for image in item.images):
            evidence.doubtful.append(car)

    def _shown(self, car: KnownCar, url: str) -> None:
        self._evidence[car.item.source].shown.append((car.item.external_id, url))
        self._note_lately(car, shown=True)

    def _note_lately(self, car: KnownCar, *, shown: bool) -> None:
        since = utcnow() - RECENT
        if car.is_active and car.last_seen_at and car.last_seen_at > since:
            self._evidence[car.item.source].lately[shown] += 1

    # --- what is under way ---

    def _hand_on(self, car: KnownCar | None, item: CarItem) -> Iterator[Request]:
        """Hand the pipelines an item that came from no page."""
        if not item.images:
            return
        if car:
            item = self._within_limit(item, replace(car, images={}))
            held = [image for image in item.images if image.reason != Reason.LIMIT]
            item.images = held
            if not held:
                self.worklist.fates[car.row_id] = fates.LEFT
                return
            self._handed_on[item.source, item.external_id] = car
        self._goes_on(item)
        yield carry(item)

    def _counted(self, results: Iterator[CarItem]) -> Iterator[CarItem]:
        for result in results:
            self._goes_on(result)
            yield result

    def _goes_on(self, item: CarItem) -> None:
        """Count a car as under way until it has left the pipelines, its photos with it."""
        self._under_way[item.source] += 1
        self._in_pipelines[id(item)] = (item.source, len(item.images))

    def _item_left(self, item: Any, signal: object = signals.item_scraped) -> None:
        source, number = self._in_pipelines.pop(id(item), (None, 0))
        if source:
            self._count_done(item, source, number)
            car = self.rows.get((source, item.external_id))
            if car is not None and not item.gone:
                self.worklist.fates[car] = _fate(item, number) if signal is signals.item_scraped else fates.REFUSED
            self._handed_on.pop((item.source, item.external_id), None)
            self._under_way[source] -= 1
            self._moved.set()

    def _count_done(self, item: Any, source: str, number: int) -> None:
        """Let only photos count for the limit that are done: what can't be had now must not keep others from it."""
        counted = self._counted_for.pop(id(item), 0)
        missed = sum(each.status not in HAVE_BYTES and _was_tried(each) for each in item.images)
        in_vain = min(counted, missed + number - len(item.images))
        self._taken[source] -= in_vain
        self._in_vain[source] = 0 if in_vain < counted else self._in_vain[source] + in_vain

    def _visited(self, car: KnownCar, reserve: int) -> None:
        self._under_way[car.item.source] -= 1
        self._reserved[car.item.source] -= reserve
        self._moved.set()


def _was_tried(image: CarImage) -> bool:
    """Return whether a photo that is not stored was to be had in this run, and is not safe in the spool."""
    return image.reason not in {Reason.LIMIT, Reason.SPOOLED} and bool(image.attempts or image.status == Status.PENDING)


def _fate(item: CarItem, photos: int) -> str:
    """Return what became of a car that has left the pipelines, of whose *photos* those that are lost have left it."""
    missing = [image for image in item.images if image.status not in HAVE_BYTES and image.reason not in _NOT_MISSED]
    if any(image.reason == Reason.LIMIT for image in missing):
        return fates.LEFT
    return fates.SOME_PHOTOS if missing or len(item.images) < photos else fates.DONE
