"""``scrapy checkdealers --live``: a dealer's own spider reads a few pages of the site, and nothing is stored.

:class:`Sample` goes before the spider's class and makes its crawl small; :class:`Contact` notes what comes and compares
it with what is expected. What is saved has no mail addresses, phone and identity numbers or plates.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from scrapy import Request, signals
from scrapy.http import Response, TextResponse

from carscraper.addon import aborting
from carscraper.exceptions import ConfigurationError, ImageRejectedError
from carscraper.field_coverage import (
    CARD_FIELDS,
    PAGE,
    PAGE_FIELDS,
    PHOTO,
    Expectation,
    FieldCoverage,
    per_cent,
    where_read,
)
from carscraper.images.inspection import inspect, limits_of
from carscraper.items import CarItem
from carscraper.maintenance.newdealer import mask
from carscraper.state import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
    from pathlib import Path

    from scrapy.crawler import Crawler
    from twisted.python.failure import Failure

GOOD, MISSING, UNKNOWN = "✓", "✗", "·"
"""As expected · not as expected · nothing is expected, or a few pages do not tell."""
PAGES = 2
"""Result pages that are asked for."""
CARS = 3
"""Cars whose own page, and first photo, are asked for."""
SAMPLING: dict[str, Any] = {
    "ITEM_PIPELINES": {"carscraper.pipelines.validate.ValidatePipeline": 100},
    "EXTENSIONS": {
        "carscraper.extensions.run.Run": None,
        "carscraper.extensions.progress.Progress": None,
        "carscraper.extensions.field_coverage.CoverageRecorder": None,
    },
}
"""What a sample is crawled with: no store, no ledger, no run."""

_KINDS = {"parse_home": "home", "parse_results": "results", "parse_details_safely": "details"}
_KIND = "sample_kind"
_PAGER = re.compile(r"(?<![\d/.])(\d{1,4})\s?(?:/|af)\s?(\d{1,4})(?![\d/.])")
_SHOWN = "//body//text()[not(ancestor::script or ancestor::style or ancestor::select)]"
_MANY = 10  # cars; a list of fewer may well have one page


class _NoLedger:
    """Knows no car: each is new."""

    async def card_states(self, *_: Any) -> dict[str, Any]:
        return {}


class Sample:
    """What goes before a dealer's spider to make its crawl a small one; it reads as the spider does."""

    ledger = _NoLedger()
    contact: Contact

    def configure(self) -> None:
        """Limit the crawl, which is partial by intent."""
        super().configure()  # type: ignore[misc]
        self.max_pages = PAGES
        self.is_part = self.is_partial = True
        self._cars = self._photos = 0

    async def start(self) -> AsyncIterator[Any]:
        """Ask for the site's home, too, if the search does not begin there."""
        spider: Any = super()
        is_home = False
        async for request in spider.start():
            is_home = is_home or urlsplit(request.url).path in {"", "/"}
            yield request
        if not is_home:
            yield self._sample(self.base_url, "home")  # type: ignore[attr-defined]

    def _sample(self, url: str, kind: str) -> Request:
        slot = {"download_slot": "images"} if kind == "photo" else {}
        meta = {_KIND: kind, "allow_offsite": True} | slot
        return Request(url, callback=self.kept, errback=self.missed, meta=meta, dont_filter=True)

    def kept(self, response: Response) -> None:
        """Leave it to :class:`Contact`, which hears of every answer."""

    def missed(self, failure: Failure) -> None:
        request: Request = failure.request  # type: ignore[attr-defined]
        if request.meta[_KIND] == "photo":  # nothing is read from the other pages that are asked for here
            self.contact.missed.append(f"{request.url}: {failure.getErrorMessage()}")

    def read_cards(self, response: Response) -> tuple[list[CarItem], int]:
        """Note what a page of the list shows, also one that a browser made."""
        cards, unreadable = super().read_cards(response)  # type: ignore[misc]
        self.contact.add_list(response, cards, unreadable)
        return cards, unreadable

    async def follow_cards(self, cards: list[CarItem]) -> list[CarItem | Request]:
        """Note the cards; the first cars' own pages are asked for even where the spider does not read them."""
        for card in cards:
            if card.external_id not in self.seen:  # type: ignore[attr-defined]
                self.contact.add(card, "", CARD_FIELDS)
        results: list[CarItem | Request] = []
        for result in await super().follow_cards(cards):  # type: ignore[misc]
            results.append(result)
            if isinstance(result, CarItem) and self._cars < CARS:
                self._cars += 1
                results += [self._sample(result.url, "details"), *self._photo(result)]
        return results

    def _needs_details(self, card: CarItem, state: Any) -> bool:
        if self._cars >= CARS or not super()._needs_details(card, state):  # type: ignore[misc]
            return False
        self._cars += 1
        return True

    def parse_details_safely(self, response: Response, item: CarItem) -> Iterator[Any]:
        yield from super().parse_details_safely(response, item)  # type: ignore[misc]
        yield from self._photo(item)

    def details_failed(self, failure: Failure) -> Iterator[Any]:
        yield from super().details_failed(failure)  # type: ignore[misc]
        yield from self._photo(failure.request.cb_kwargs["item"])  # type: ignore[attr-defined]

    def _photo(self, item: CarItem) -> Iterator[Request]:
        if item.images and self._photos < CARS:
            self._photos += 1
            yield self._sample(item.images[0].source_url, "photo")


class _List(NamedTuple):
    """A page of the list."""

    url: str
    cars: int
    new: int
    unreadable: int
    text: str


class Line(NamedTuple):
    """One thing that was looked at."""

    mark: str
    name: str
    said: str


class _Page(NamedTuple):
    kind: str
    url: str
    status: int
    text: str


@dataclass(eq=False)
class Contact:  # no slots: signals hold their receivers by weak references
    """What a site answered to a sample."""

    dealer: str
    spider: type
    expected: Mapping[str, float]
    pages: list[_Page] = field(default_factory=list)
    lists: list[_List] = field(default_factory=list)
    photos: list[tuple[str, bool]] = field(default_factory=list)
    """What is said of each, and whether it is whole."""
    missed: list[str] = field(default_factory=list)
    coverage: FieldCoverage = field(default_factory=FieldCoverage)
    examples: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None
    incomplete: list[str] = field(default_factory=list)
    user_agent: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    _ids: set[str] = field(default_factory=set)
    _crawler: Any = None

    def watch(self, crawler: Crawler) -> None:
        self._crawler = crawler
        crawler.signals.connect(self.opened, signal=signals.spider_opened)
        crawler.signals.connect(self.received, signal=signals.response_received)
        crawler.signals.connect(self.scraped, signal=signals.item_scraped)
        crawler.signals.connect(self.closed, signal=signals.spider_closed)

    def opened(self, spider: Any) -> None:
        """End the crawl if a setting or an argument is wrong, as the pipelines do elsewhere."""
        spider.contact = self
        self.user_agent = self._crawler.settings["USER_AGENT"]
        with aborting(self._crawler):
            state_of(self._crawler).addresses.allow_all(self._crawler.settings.getlist("IMAGES_ALLOWED_HOSTS"))

    def closed(self) -> None:
        state = state_of(self._crawler)
        self.failed, self.incomplete = state.failed, state.incomplete

    def received(self, response: Response, request: Request) -> None:
        """Keep a page, or look at a photo."""
        kind = request.meta.get(_KIND) or _KINDS.get(getattr(request.callback, "__name__", ""), "other")
        if urlsplit(request.url).path == "/robots.txt":
            kind = "robots"
        if kind == "photo":
            self.photos.append(self._look_at_photo(response))
        elif isinstance(response, TextResponse) and not request.meta.get("playwright"):
            self.pages.append(_Page(kind, response.url, response.status, response.text))

    def _look_at_photo(self, response: Response) -> tuple[str, bool]:
        try:
            photo = inspect(response.body, **limits_of(self._crawler.settings))
        except ImageRejectedError as error:
            return f"HTTP {response.status}, {len(response.body)} bytes: {error}", False
        said = f"{photo.format} of {photo.width} × {photo.height} pixels, {len(response.body)} bytes"
        return said, response.status == 200

    def add_list(self, response: Response, cards: list[CarItem], unreadable: int) -> None:
        """Note a page of the list once, however often it is read."""
        if response.url in {each.url for each in self.lists}:
            return
        ids = {card.external_id for card in cards}
        is_text = isinstance(response, TextResponse)
        text = " ".join(" ".join(response.xpath(_SHOWN).getall()).split()) if is_text else ""
        self.lists.append(_List(response.url, len(ids), len(ids - self._ids), unreadable, text))
        self._ids |= ids
        if is_text and response.url not in {each.url for each in self.pages if each.kind == "results"}:
            self.pages.append(_Page("results", response.url, response.status, response.text))

    def scraped(self, item: Any) -> None:
        """Count a car whose own page was read."""
        if isinstance(item, CarItem) and item.details_at is not None:
            self.coverage.add_car(item)
            self.add(item, PAGE, (*PAGE_FIELDS, *CARD_FIELDS))

    def add(self, item: CarItem, prefix: str, names: Iterable[str]) -> None:
        """Count a car as its card or (with the prefix ``page.``) its own page shows it, and note an example of each."""
        (self.coverage.add_page if prefix else self.coverage.add_card)(item)
        values = {prefix + name: getattr(item, name) for name in names}
        values[prefix + PHOTO] = item.images[0].source_url if item.images else None
        self.examples = {name: value for name, value in values.items() if value is not None} | self.examples

    # --- what is to be said ---

    @property
    def exit_code(self) -> int:
        """0: all is as expected. 3: something is missing. 4: the site could not be asked."""
        if not any(page.status == 200 and page.kind != "robots" for page in self.pages):
            return 4
        return 3 if any(line.mark == MISSING for line in self.lines()) else 0

    def lines(self) -> list[Line]:
        found = [*self._site(), *self._fields()]
        found += [Line(MISSING, "the crawl", self.failed)] if self.failed else []
        found += [Line(MISSING, "the list", why) for why in self.incomplete]
        return found + [Line(MISSING, "photo not fetched", why) for why in self.missed]

    def _site(self) -> Iterator[Line]:
        robots = [page for page in self.pages if page.kind == "robots"]
        yield Line(GOOD if robots else UNKNOWN, "robots.txt", f"HTTP {robots[0].status}" if robots else "not asked for")
        if home := next((page for page in self.pages if page.kind == "home"), None):
            # If the search begins elsewhere it is not needed; else the crawl says what is wrong with it.
            yield Line(GOOD if home.status == 200 else UNKNOWN, "home", f"HTTP {home.status}, {home.url}")
        for number, each in enumerate(self.lists[:PAGES], 1):
            said = f"{each.cars} cars, {each.new} of them new, {each.unreadable} unreadable cards, {each.url}"
            yield Line(GOOD if each.cars and not each.unreadable else MISSING, f"result page {number}", said)
        if self.lists:
            yield self._next_page()
            yield self._end()
        else:
            yield Line(MISSING, "result page 1", "no page of the list came")
        if getattr(self.spider, "has_details", False):
            read = self.coverage.pages
            yield Line(GOOD if read else MISSING, "cars' own pages", f"{read} read")
        whole = [said for said, is_whole in self.photos if is_whole]
        bad = [said for said, is_whole in self.photos if not is_whole]
        said = f"{len(whole)} of {len(self.photos)} whole, such as {(bad or whole or ['none'])[0]}"
        yield Line(GOOD if whole and not bad else MISSING, "photos", said)

    def _next_page(self) -> Line:
        name = "next page"
        if len(self.lists) > 1:
            second = self.lists[1]
            if second.new:
                return Line(GOOD, name, f"found, with {second.new} further cars")
            return Line(UNKNOWN, name, "it repeats the first" if second.cars else "no car could be read there")
        if "more_button" in dir(self.spider):
            return Line(UNKNOWN, name, "a browser lets the list grow")
        where = getattr(self.spider, "next_page", "") or "?page=2"
        return Line(MISSING if self.lists[0].cars >= _MANY else UNKNOWN, name, f"not found: see next_page = {where!r}")

    def _end(self) -> Line:
        name = "end of the list"
        said = [
            {int(match[2]): match[0] for match in _PAGER.finditer(each.text) if int(match[1]) == number}
            for number, each in enumerate(self.lists, 1)
        ]
        total = {each for each in set.intersection(*map(set, said)) if not 1900 < each < 2100}  # 2/2023 is a month
        if total:
            return Line(GOOD, name, f"the pager says {said[-1][min(total)]}")
        if len(self.lists) > 1 and self.lists[1].cars and not self.lists[1].new:
            return Line(GOOD, name, "page 2 has no further car")
        return Line(UNKNOWN, name, "not said on these pages: a crawl asks for one page more than it finds")

    def _fields(self) -> Iterator[Line]:
        cars, pages = self.coverage.cars, self.coverage.pages
        if not cars:
            return
        for name in (PHOTO, *CARD_FIELDS):
            having, least = self.coverage.having(name), self.expected.get(name)
            later = self.coverage.counts.get(f"car.{name}", 0)
            said = f"{having} of {cars} cards"
            if later and not having:
                said += f", {later} of {pages} own pages"
            is_there = None
            if least is not None:
                said += f" ({per_cent(least)} are expected)"
                is_there = later == pages > 0 == having or Expectation(name, cars, having, least).is_met
            yield self._field(name, said, is_there)
        for name in PAGE_FIELDS if pages else ():
            yield self._field(PAGE + name, f"{self.coverage.having(PAGE + name)} of {pages} own pages", None)

    def _field(self, name: str, said: str, is_there: bool | None) -> Line:
        example = self.examples.get(name, self.examples.get(PAGE + name))
        mark = (GOOD if example is not None else UNKNOWN) if is_there is None else GOOD if is_there else MISSING
        if isinstance(example, int):
            example = f"{example:,}".replace(",", ".") if example > 9999 else example
        shown = f", such as {str(example)[:60]!r}" if example is not None else ""
        return Line(mark, name, f"{said}{shown}: {where_read(self.spider, name)}")

    def report(self) -> list[str]:
        """Return the lines of the report, which a user can send."""
        lines = self.lines()
        width = max(len(line.name) for line in lines)
        head = f"{self.dealer}, {self.at:%Y-%m-%d %H:%M} UTC, asked as {self.user_agent}"
        return [mask(each) for each in (head, *(f"  {each.mark} {each.name:{width}}  {each.said}" for each in lines))]

    def as_json(self) -> dict[str, Any]:
        lines = [line._asdict() | {"said": mask(line.said)} for line in self.lines()]
        return {"dealer": self.dealer, "exit_code": self.exit_code, "lines": lines}

    def save(self, within: Path) -> Path:
        """Write the pages, masked, as cases of ``tests/fixtures`` are, and the report, into a new folder; return it.

        Raises:
            ConfigurationError: it can't be written.
        """
        folder = within / f"{self.dealer}-{self.at:%Y%m%d-%H%M%S}"
        numbers: Counter[str] = Counter()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for page in self.pages:
                if page.kind == "robots":
                    (folder / "robots.txt").write_text(mask(page.text), "utf-8")
                    continue
                numbers[page.kind] += 1
                case = folder / f"{page.kind}-{numbers[page.kind]}"
                case.mkdir(exist_ok=True)
                meta = {"url": mask(page.url), "now": f"{self.at:%Y-%m-%dT%H:%M:%S}", "kind": page.kind}
                (case / "response.html").write_text(mask(page.text), "utf-8", errors="replace")
                (case / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", "utf-8")
            (folder / "report.txt").write_text("\n".join(self.report()) + "\n", "utf-8")
        except OSError as error:
            raise ConfigurationError(f"{folder} can't be written ({error.strerror}): name another --save.") from None
        return folder
