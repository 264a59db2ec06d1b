"""A site whose cards are made by its scripts: they are read in a browser, everything else goes the ordinary way.

The browser shows the list and presses its button until no car is added; then the cards go where those of a plain page
go. Photos, robots.txt and retries are Scrapy's: the browser loads no picture.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import logging
import random
import re
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit

from scrapy import Request
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import IgnoreRequest
from scrapy.http import HtmlResponse

from carscraper.addon import stop_as_failed
from carscraper.base_spiders.cards import CardSpider, is_stand_in
from carscraper.exceptions import ConfigurationError
from carscraper.state import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import ClassVar

    from playwright.async_api import Page
    from scrapy.http import Response
    from twisted.python.failure import Failure

    from carscraper.base_spiders.chromium import Chromium, Listing
    from carscraper.items import CarItem

logger = logging.getLogger(__name__)

_HANDLER = "carscraper.base_spiders.chromium.ChromiumHandler"
_LOOKUPS = 50  # of missing cars
_MANY = 5  # cars that are not all without a photo by chance
_NAMED = 5  # of the addresses that a page wanted and did not get
_TRAFFIC = "carscraper_traffic"

# What may name the car, the surest first; a word that may as well be a model ("car=ev6") only if it is a number.
_ID_NAMES = ("id", "cid", "carid", "vehicleid", "billid", "bilid", "itemid", "nr", "numer", "number", "regno", "plate")
_WORDS = ("car", "vehicle", "bill", "bil")
_ID = re.compile(r"(?=.*[0-9])[A-Za-z0-9_-]{1,64}", re.ASCII)
_NUMBER = re.compile("[0-9]{1,20}")
# Parameters that say where a visitor came from, not which car it is.
_TRACKING = re.compile(r"utm_\w+|fbclid|gclid|msclkid", re.IGNORECASE)
_ESCAPED = r"\\[0-9a-fA-F]{1,6}\s?|\\."
_CSS_URL = re.compile(
    rf"""url\(\s*(?:"((?:[^"\\]|{_ESCAPED})*)"|'((?:[^'\\]|{_ESCAPED})*)'|((?:[^'"()\\\s]|{_ESCAPED})*))\s*\)""",
    re.IGNORECASE,
)


class BrowserSpider(CardSpider):
    """A site whose list of cars needs a browser.

    One page after the other of the list counts as one of ``max_pages`` and of ``CRAWL_MAX_PAGES``.
    """

    more_button: ClassVar[str] = ""
    """What brings more cars when it is pressed, as a selector of Playwright; without it the page is scrolled."""
    browser_hosts: ClassVar[tuple[str, ...]] = ()
    """Further hosts that the list's scripts or data come from; from others nothing is loaded."""

    def configure(self) -> None:
        """Turn the arguments into attributes, and set up the browser.

        Raises:
            ConfigurationError: an argument is unknown or wrong, or there is no Chromium.
        """
        super().configure()
        if self.crawler.spidercls is type(self):  # else it is asked for its photos' names only, as by the backfill
            self._set_up_browser()

    def _set_up_browser(self) -> None:
        # Not at the top: whatever Scrapy is told to do imports all spiders, and this takes a tenth of a second.
        from carscraper.base_spiders import chromium  # noqa: PLC0415

        scheme = urlsplit(self.base_url).scheme
        hosts = [
            *chromium.site_hosts(self.base_url),
            *((host, {"http": 80, "https": 443}[scheme]) for host in self.browser_hosts),
        ]
        path = chromium.find_chromium(self.settings.get("CHROMIUM_PATH"))
        self._room = chromium
        self._chromium: Chromium = chromium.Chromium(path, hosts, forbidden=self._is_forbidden)
        self._watchers: set[asyncio.Task[None]] = set()
        values = {
            # For one scheme only: each has a handler of its own, and that a browser.
            "DOWNLOAD_HANDLERS": dict(self.settings.getdict("DOWNLOAD_HANDLERS")) | {scheme: _HANDLER},
            "PLAYWRIGHT_BROWSER_PROVIDER": self._chromium,
            "PLAYWRIGHT_ABORT_REQUEST": self._chromium.refuses,
            "PLAYWRIGHT_PROCESS_REQUEST_HEADERS": None,  # the browser's own, which name us, too
            "PLAYWRIGHT_MAX_PAGES_PER_CONTEXT": 1,
            "RETRY_EXCEPTIONS": [*self.settings.getlist("RETRY_EXCEPTIONS"), "playwright.async_api.Error"],
        }
        for name, value in values.items():
            self.settings.set(name, value, priority="spider")
        # It logs each start and end, and with a traceback what we say in one line.
        logging.getLogger("scrapy-playwright").setLevel(logging.CRITICAL)

    async def start(self) -> AsyncIterator[Any]:
        """Start the browser, then begin: one that can't be started ends the crawl before the site is asked."""
        try:
            await self._chromium.launch_browser()
        except ConfigurationError as error:
            stop_as_failed(self.crawler, str(error), reason="browser")
            return
        async for request in super().start():
            yield request

    def start_search(self) -> Iterator[Request]:
        """Begin at the list, in the browser."""
        timeout = self.settings.getfloat("DOWNLOAD_TIMEOUT") * 1000
        for request in super().start_search():
            request.meta.update(
                playwright=True,
                playwright_include_page=True,
                playwright_page_init_callback=self._watch,
                playwright_page_goto_kwargs={"wait_until": "domcontentloaded", "timeout": timeout},
                playwright_context_kwargs={
                    "user_agent": self.settings["USER_AGENT"],
                    "locale": "is-IS",  # how scripts write numbers
                    "service_workers": "block",  # what they load would pass by `refuses`
                    "accept_downloads": False,
                    "ignore_https_errors": not self.settings.getbool("DOWNLOAD_VERIFY_CERTIFICATES"),
                },
            )
            yield request

    async def _watch(self, page: Page, request: Request) -> None:
        """Look after *page* from its beginning; a page that is tried again is known already."""
        known = request.meta.get(_TRAFFIC)
        if known is None or known.page is not page:
            request.meta[_TRAFFIC] = self._room.Traffic(page, self._chromium.refused)
            task = asyncio.create_task(self._room.close_when(page, self._is_stopped))
            self._watchers.add(task)
            task.add_done_callback(self._watchers.discard)

    def _is_stopped(self) -> bool:
        return not self.crawler.engine.running or state_of(self.crawler).stopping is not None

    async def _is_forbidden(self, url: str) -> bool:
        """Ask robots.txt, as for every other request."""
        robots = self.crawler.get_downloader_middleware(RobotsTxtMiddleware)
        if robots is None:
            return False
        try:
            await robots.process_request(Request(url))
        except IgnoreRequest:
            return True
        return False

    async def search_failed(self, failure: Failure) -> AsyncIterator[Request]:  # type: ignore[override]
        """Close the page, and end the crawl."""
        await self._room.close_page(failure.request.meta.get("playwright_page"))  # type: ignore[attr-defined]
        for request in super().search_failed(failure):
            yield request

    # --- the list ---

    def parse(self, response: Response) -> NoReturn:
        """Say why ``scrapy parse`` has nothing to read here."""
        self.fail(
            f"Scripts make the list of {self.name}, and `scrapy parse` runs none: use "
            f"`scrapy crawl {self.name} -a limit=3`."
        )

    async def parse_results(
        self, response: Response, make: str | None = None, page: int = 1, tries: int = 1
    ) -> AsyncIterator[CarItem | Request]:
        """Let the list grow to its end in the browser, then read it as one page."""
        try:
            whole = await self._whole_list(response)
        finally:
            await self._room.close_page(response.meta["playwright_page"])
        async for result in super().parse_results(whole, make, page, tries):
            yield result

    async def _whole_list(self, response: Response) -> HtmlResponse:
        listing = self._room.Listing(
            response.meta[_TRAFFIC],
            card=self.card,
            link=self.card_link,
            button=self.more_button,
            timeout=self.settings.getfloat("DOWNLOAD_TIMEOUT"),
            retries=self.settings.getint("RETRY_TIMES"),
            backoff=self.settings.getfloat("RETRY_BACKOFF"),
        )
        await self._grow(listing)
        if listing.problem:
            self.is_partial = True
            if listing.cards:
                self.count("pages/failed")
            logger.warning("The list at %r was not seen to its end: %s", response.url, listing.problem)
        if not listing.cards:
            wanted = [f"{url!r} ({why})" for url, why in [*self._chromium.refused.items()][:_NAMED]]
            if wanted:
                logger.warning("The page wanted and did not get: %s", ", ".join(wanted))
        body = (await listing.html()).encode("utf-8", "replace")
        return HtmlResponse(response.url, body=body, encoding="utf-8", request=response.request)

    async def _grow(self, listing: Listing) -> None:
        pages = 0
        while await listing.grow():
            pages += 1
            enough = self.limit and not self.makes and len(listing.cards) >= self.limit
            if enough or pages == self.max_pages:
                return
            if pages >= self.settings.getint("CRAWL_MAX_PAGES"):
                self.is_partial = True
                self.count("pages/capped")
                logger.warning("Stopped after %d pages of the list (CRAWL_MAX_PAGES)", pages)
                return
            await asyncio.sleep(self.settings.getfloat("DOWNLOAD_DELAY") * random.uniform(0.5, 1.5))  # noqa: S311

    def lead(self, response: Response, page: int) -> tuple[None, bool]:
        """Return none: the list was read to its end."""
        return None, False

    def _again(self, request: Request, make: str | None, page: int) -> None:
        """Return none: the browser has tried what there is to try."""

    def read_cards(self, response: Response) -> tuple[list[CarItem], int]:
        """Read every card of the page; two different cars under one id would be one lost, and are told."""
        cards, unreadable = super().read_cards(response)
        known: dict[str, CarItem] = {}
        for card in cards:
            other = known.setdefault(card.external_id, card)
            if other.url != card.url and other.card_hash != card.card_hash:
                self.is_partial = True
                self.count("cards/failed")
                logger.warning("Two cars have the id %r: %r and %r", card.external_id, other.url, card.url)
        return cards, unreadable

    def _missing_from_all(self, response: Response, cards: list[CarItem]) -> str | None:
        """Name what no car of the list has; photos need no ``img`` here."""
        if len(cards) >= _MANY and not any(card.images for card in cards):
            return f"a photo ({self.card_images})"
        return super()._missing_from_all(response, cards)

    # --- the car's own page, of which nothing is known ---

    def page_url(self, item: CarItem) -> str | None:
        """Give none: without the browser the page is empty."""
        return None

    async def conclude(self) -> list[Request]:
        """Look up a few of the missing cars.

        Without the browser a server can but say 404 of them, and most of those whose pages are made by scripts say 200
        of every address.
        """
        requests = await super().conclude()
        self.lookups = min(len(requests), _LOOKUPS)
        return random.sample(requests, self.lookups)


# --- reading addresses ---


def query_id(url: str) -> str | None:
    """Give the id of a car that is named by the query of *url*; ``None`` if there is no query.

    That is a parameter with the name of an id, else the only parameter if it is a number, else a digest of all
    parameters in their order by name. What only tells where a visitor came from does not count.

    >>> query_id("https://x.is/soluskra?make=12&id=7891"), query_id("https://x.is/soluskra?vehicle-id=AB-12&page=3")
    ('7891', 'AB-12')
    >>> query_id("https://x.is/soluskra?7891"), query_id("https://x.is/soluskra?skra=7891&utm_source=a")
    ('7891', '7891')
    >>> query_id("https://x.is/soluskra?b=kia&a=ev6"), query_id("https://x.is/soluskra?a=ev6&b=kia&utm_id=1")
    ('eae9d4665cd249ca', 'eae9d4665cd249ca')
    >>> query_id("https://x.is/soluskra?"), query_id("https://x.is/soluskra?utm_source=a")
    (None, None)
    """
    parameters = _lasting(url)
    if not parameters:
        return None
    named = {re.sub("[-_]", "", name.lower()): value.strip() for name, value in reversed(parameters)}
    for name in (*_ID_NAMES, *_WORDS):
        if (_ID if name in _ID_NAMES else _NUMBER).fullmatch(named.get(name, "")):
            return named[name]
    if len(parameters) == 1:
        value = parameters[0][1].strip() or parameters[0][0]
        if _NUMBER.fullmatch(value):
            return value
    return hashlib.sha256(urlencode(sorted(parameters)).encode()).hexdigest()[:16]


def lasting_query(url: str) -> str:
    """Give *url* without what only tells where a visitor came from.

    >>> lasting_query("https://x.is/soluskra?id=7&utm_source=a#top"), lasting_query("https://x.is/soluskra?7891")
    ('https://x.is/soluskra?id=7', 'https://x.is/soluskra?7891')
    """
    parts = urlsplit(url)
    parameters = _lasting(url)
    is_changed = parameters != parse_qsl(parts.query, keep_blank_values=True)
    return parts._replace(query=urlencode(parameters) if is_changed else parts.query, fragment="").geturl()


def _lasting(url: str) -> list[tuple[str, str]]:
    parameters = parse_qsl(urlsplit(url).query, keep_blank_values=True, errors="replace")
    return [(name, value) for name, value in parameters if name and not _TRACKING.fullmatch(name)]


def background_address(style: str | None) -> str | None:
    r"""Give the address of the first photo in a ``style``: quoted or not, with CSS's own escapes.

    >>> background_address('background-image: url("/media/1.jpg?w=600"); color: red')
    '/media/1.jpg?w=600'
    >>> background_address("background:linear-gradient(red, blue), URL( https://x.is/a.jpg )")
    'https://x.is/a.jpg'
    >>> background_address("background-image:url(&quot;/a.jpg&quot;)"), background_address(r"url(/a\28 1\).jpg)")
    ('/a.jpg', '/a(1).jpg')
    >>> background_address("background-image:url(data:image/gif;base64,R0), url('/b.jpg')"), background_address("url()")
    ('/b.jpg', None)
    """
    for found in _CSS_URL.finditer(html.unescape(style or "")):
        address = _unescape(next((each for each in found.groups() if each), "")).strip()
        if address and not is_stand_in(address):
            return address
    return None


def _unescape(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        if not found[1]:
            return found[2]
        number = int(found[1], 16)
        return chr(number) if 0 < number < 0xD800 or 0xDFFF < number < 0x110000 else "\N{REPLACEMENT CHARACTER}"

    return re.sub(r"\\(?:([0-9a-fA-F]{1,6})\s?|(.))", plain, text)
