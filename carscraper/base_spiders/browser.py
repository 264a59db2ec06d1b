"""A site whose cards are made by its scripts: scrapy-playwright shows the list, everything else goes the ordinary way.

The browser presses the list's button until it is gone; then the cards are read like those of a plain page. It reaches
the dealer's hosts only: each request of a page is asked for in ``PLAYWRIGHT_ABORT_REQUEST``, and Chromium resolves no
other name (``--host-resolver-rules``, which holds for redirects, web sockets and numeric addresses, too).
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import logging
import os
import random
import re
import socket
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from scrapy import Request
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import IgnoreRequest
from scrapy.http import HtmlResponse

from carscraper.base_spiders.cards import MANY, CardSpider
from carscraper.exceptions import ConfigurationError
from carscraper.state import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import ClassVar

    from playwright.async_api import Locator, Page
    from playwright.async_api import Request as BrowserRequest
    from scrapy.http import Response

    from carscraper.items import CarItem

logger = logging.getLogger(__name__)

_PORTS = {"http": 80, "https": 443}
_LAUNCH_TIMEOUT = 30_000  # milliseconds; 400 when nothing is wrong
# What makes a page's text. Photos are fetched by the pipeline, once; fonts, films and the rest by nobody.
_LOADED = frozenset({"document", "script", "stylesheet", "xhr", "fetch"})
_DATA = frozenset({"script", "xhr", "fetch"})
_LOOK_EVERY = 0.2  # seconds between two looks at the page
_QUIET = 2.0  # seconds without a request and without a new card after which none will come

# Returns the cards that are new or look different since it was last called: the link's address and the card's HTML.
_COLLECT = """([card, link]) => {
  const known = (window.__cards ??= new Map());
  const found = [];
  for (const element of document.querySelectorAll(card)) {
    const href = element.querySelector(link)?.getAttribute("href");
    if (!href || known.get(href) === element.outerHTML) continue;
    known.set(href, element.outerHTML);
    found.push([href, element.outerHTML]);
  }
  return [document.baseURI, found];
}"""


class BrowserSpider(CardSpider):
    """A site whose list of cars needs a browser. Each time it grows counts as a page (``max_pages``)."""

    more_button: ClassVar[str] = ""
    """What brings more cars when it is pressed, as a selector of Playwright; without it the page is scrolled."""
    browser_hosts: ClassVar[tuple[str, ...]] = ()
    """Further hosts that the list's scripts or data come from; from others nothing is loaded."""

    # Most such sites answer 200 for every address, so that only 404 tells.
    most_lookups = 50

    def configure(self) -> None:
        """Set up the browser, too.

        Raises:
            ConfigurationError: an argument is unknown or wrong, or there is no browser.
        """
        super().configure()
        self.refused: dict[str, str] = {}
        """Addresses that a page wanted and did not get, and why."""
        if self.crawler.spidercls is type(self):  # else it is asked for its photos' names only, as by the backfill
            self._set_up_browser()

    def _set_up_browser(self) -> None:
        if find_spec("scrapy_playwright") is None:
            raise ConfigurationError(
                "This site needs a browser: pip install 'carscraper[browser]'; of the containers' images it is "
                "`browser` that has one."
            )
        # Not at the top: whatever Scrapy is told to do imports all spiders, and this takes a tenth of a second.
        from carscraper.base_spiders.chromium import find_chromium  # noqa: PLC0415

        scheme = urlsplit(self.base_url).scheme
        options = {
            "executable_path": find_chromium(self.settings.get("CHROMIUM_PATH")),
            "args": ["--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server", self._resolver_rules()],
            "chromium_sandbox": os.geteuid() != 0,  # Chromium has none for root
            "timeout": _LAUNCH_TIMEOUT,
            # The crawl ends the browser when it is done with it, not a signal that was meant for the crawl.
            **dict.fromkeys(("handle_sigint", "handle_sigterm", "handle_sighup"), False),
        }
        values = {
            # For one scheme only: each has a handler of its own, and that a browser.
            "DOWNLOAD_HANDLERS": dict(self.settings.getdict("DOWNLOAD_HANDLERS"))
            | {scheme: "carscraper.base_spiders.chromium.ChromiumHandler"},
            "PLAYWRIGHT_LAUNCH_OPTIONS": options,
            "PLAYWRIGHT_ABORT_REQUEST": self.refuses,
            "PLAYWRIGHT_PROCESS_REQUEST_HEADERS": None,  # the browser's own, which name us, too
            "PLAYWRIGHT_MAX_PAGES_PER_CONTEXT": 1,
            "RETRY_EXCEPTIONS": [*self.settings.getlist("RETRY_EXCEPTIONS"), "playwright.async_api.Error"],
        }
        for name, value in values.items():
            self.settings.set(name, value, priority="spider")
        # It logs each start and end, and with a traceback what we say in one line.
        logging.getLogger("scrapy-playwright").setLevel(logging.CRITICAL)

    def _hosts(self) -> list[tuple[str, int]]:
        """Return the dealer's host and port, its twin with or without ``www.``, and further hosts."""
        parts = urlsplit(self.base_url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        if port not in _PORTS.values() or not re.search("[a-z]", host) or "." not in host:
            return [(host, port), *((other, _PORTS[parts.scheme]) for other in self.browser_hosts)]
        twin = host.removeprefix("www.") if host.startswith("www.") else f"www.{host}"
        others = [(name, each) for name in (host, twin, *self.browser_hosts) for each in (443, 80)]
        return [(host, port), *(each for each in others if each != (host, port))]

    def _resolver_rules(self) -> str:
        """Return what lets Chromium resolve the dealer's names only; the other hosts must be public."""
        (own, own_port), *others = self._hosts()
        # At a port of its own all of the host's ports are that one: a redirect reaches no other server there.
        rules = {own: f"EXCLUDE {own}" if own_port in _PORTS.values() else f"MAP {own} {own}:{own_port}"}
        for host, port in others:
            if host in rules:
                continue
            with contextlib.suppress(OSError, UnicodeError):
                addresses = [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
                public = [
                    each
                    for each in sorted(addresses, key=len)
                    if state_of(self.crawler).addresses.permits(host, port, each)
                ]
                if public:
                    rules[host] = f"MAP {host} {f'[{public[0]}]' if ':' in public[0] else public[0]}"
        return "--host-resolver-rules=" + ", ".join([*rules.values(), "MAP * ~NOTFOUND"])

    async def refuses(self, request: BrowserRequest) -> bool:
        """Return whether a page's request is not to be made (``PLAYWRIGHT_ABORT_REQUEST``)."""
        if request.resource_type not in _LOADED:
            return True
        parts = urlsplit(request.url)
        why = ""
        if (parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)) not in self._hosts():
            why = "another host"
        elif not request.is_navigation_request() and await self._is_forbidden(request.url):
            why = "robots.txt"
        if why:
            self.refused[request.url] = why
        return bool(why)

    async def _is_forbidden(self, url: str) -> bool:
        robots = self.crawler.get_downloader_middleware(RobotsTxtMiddleware)
        try:
            if robots is not None:
                await robots.process_request(Request(url))
        except IgnoreRequest:
            return True
        return False

    def start_search(self) -> Iterator[Request]:
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
        request.meta["carscraper_list"] = GrowingList(page, self)

    # --- the list ---

    def parse(self, response: Response) -> NoReturn:
        self.fail(
            f"Scripts make the list of {self.name}, and `scrapy parse` runs none: use "
            f"`scrapy crawl {self.name} -a limit=3`."
        )

    async def parse_results(
        self, response: Response, make: str | None = None, page: int = 1, tries: int = 1
    ) -> AsyncIterator[CarItem | Request]:
        """Let the list grow to its end in the browser, then read it as one page."""
        found: GrowingList = response.meta["carscraper_list"]
        try:
            await self._grow(found)
            if found.problem and not found.cards:
                logger.warning("The list at %r does not come: %s", response.url, found.problem)
            elif found.problem:
                self.count("pages/failed")
                self.incomplete(f"The list at {response.url} was not seen to its end: {found.problem}.")
            if not found.cards and self.refused:
                wanted = ", ".join(f"{url!r} ({why})" for url, why in [*self.refused.items()][:5])
                logger.warning("The page wanted and did not get: %s", wanted)
            body = (await found.html()).encode("utf-8", "replace")
        finally:
            await close_page(response.meta["playwright_page"])
        whole = HtmlResponse(response.url, body=body, encoding="utf-8", request=response.request)
        async for result in super().parse_results(whole, make, page, tries):
            yield result

    async def _grow(self, found: GrowingList) -> None:
        pages = 0
        while await found.grow():
            pages += 1
            enough = self.limit and not self.makes and len(found.cards) >= self.limit
            if enough or pages == self.max_pages:
                return
            if pages >= self.settings.getint("CRAWL_MAX_PAGES"):
                self.stop_at_cap(pages)
                return
            await asyncio.sleep(self.settings.getfloat("DOWNLOAD_DELAY") * random.uniform(0.5, 1.5))  # noqa: S311

    def next_request(self, response: Response, make: str | None, page: int) -> None:
        """Return none: the list was read to its end."""

    def _again(self, request: Request, make: str | None, page: int) -> None:
        """Return none: the browser has tried what there is to try."""

    def _missing_from_all(self, response: Response, cards: list[CarItem]) -> str | None:
        """Return what no car of the list has; photos need no ``img`` here."""
        if len(cards) >= MANY and not any(card.images for card in cards):
            return f"a photo (card_images = {self.card_images!r})"
        return super()._missing_from_all(response, cards)

    def page_url(self, item: CarItem) -> str | None:
        """Return none: without the browser the car's own page is empty."""
        return None


class GrowingList:
    """The cards of a page in the browser, which a button or scrolling adds to."""

    def __init__(self, page: Page, spider: BrowserSpider) -> None:
        """Note each request for data that *page* makes, from now on."""
        self.cards: dict[str, str] = {}
        """The cards' HTML by the address of their link, in the order in which they appeared."""
        self.problem: str | None = None
        """Why the end of the list was not seen."""
        self._page, self._spider = page, spider
        self._timeout = spider.settings.getfloat("DOWNLOAD_TIMEOUT")
        self._base = page.url
        self._is_fresh = True
        self._forget()
        page.on("request", self._asked)
        page.on("requestfinished", self._finished)
        page.on("requestfailed", self._failed)
        page.on("response", lambda response: self._note(response.request, f"answers HTTP {response.status}"))
        page.on("pageerror", lambda error: self._troubles.append(f"its script failed: {first_words(str(error))!r}"))

    def _forget(self) -> None:
        self._under_way: set[BrowserRequest] = set()
        self._troubles: list[str] = []
        self._asked_for = 0
        self._last = time.monotonic()

    def _asked(self, request: BrowserRequest) -> None:
        if request.resource_type in _DATA:
            self._under_way.add(request)
            self._asked_for += 1
            self._last = time.monotonic()

    def _finished(self, request: BrowserRequest) -> None:
        self._last = time.monotonic()
        self._under_way.discard(request)

    def _failed(self, request: BrowserRequest) -> None:
        if request.url not in self._spider.refused:
            self._note(request, f"does not come ({request.failure})")
        self._under_way.discard(request)

    def _note(self, request: BrowserRequest, said: str) -> None:
        self._last = time.monotonic()
        if request in self._under_way and not re.fullmatch("answers HTTP [23]..", said):
            self._troubles.append(f"{request.url!r} {said}")

    async def grow(self) -> bool:
        """Wait for the first cards, later ask for more; false when none came."""
        from playwright.async_api import Error  # noqa: PLC0415 - a tenth of a second, for this kind of spider only

        self.problem = None
        try:
            retries = self._spider.settings.getint("RETRY_TIMES")
            for tries in range(retries + 1):
                pressed = await self._ask()
                if await self._has_grown():
                    self.problem = None
                    return True
                button = bool(self.cards) and await self._find_button() is not None
                silent = next((f"{each.url!r} does not answer" for each in self._under_way), None)
                self.problem = next(iter(self._troubles), silent) or self.problem
                if self.problem is None:
                    if pressed and button and not self._asked_for:
                        self.problem = f"pressing {self._spider.more_button!r} does nothing"
                        return False
                    if pressed or not button:  # the site was asked for more, and has none
                        return False
                if tries < retries:
                    await asyncio.sleep(self._spider.settings.getfloat("RETRY_BACKOFF") * 3**tries)
        except Error as error:  # the page is gone, or the browser
            self.problem = self.problem or first_words(str(error))
        return False

    async def _ask(self) -> bool:
        """Do what brings more cards; true if a button was pressed."""
        if self._is_fresh:
            self._is_fresh = False
            return False
        self._forget()
        if not self.cards:
            await self._page.reload(wait_until="domcontentloaded", timeout=self._timeout * 1000)
        elif button := await self._find_button():
            await button.dispatch_event("click")  # not click(): a banner about cookies may lie over it
            return True
        else:
            await self._page.keyboard.press("End")
            await self._page.mouse.wheel(0, 1_000_000)
        return False

    async def _find_button(self) -> Locator | None:
        if not self._spider.more_button:
            return None
        found = self._page.locator(self._spider.more_button).locator("visible=true").first
        return found if await found.count() and await found.is_enabled(timeout=1000) else None

    async def _has_grown(self) -> bool:
        """Wait until there are new cards, or nothing has happened for a while."""
        began = time.monotonic()
        quiet = _QUIET if self.cards else 2.5 * _QUIET  # a fresh page's scripts have to start
        while self._spider.crawler.engine.running and not self._spider.is_stopping:
            known = len(self.cards)
            self._base, found = await self._page.evaluate(_COLLECT, [self._spider.card, self._spider.card_link])
            self.cards.update(found)
            if len(self.cards) > known:
                return True
            now = time.monotonic()
            is_quiet = not self._under_way and now - max(began, self._last) > quiet
            if is_quiet or now - began > self._timeout:
                return False
            await asyncio.sleep(_LOOK_EVERY)
        self._troubles.append("the crawl was stopped")
        return False

    async def html(self) -> str:
        """Return a page with all the cards there were, or what the browser shows if there were none."""
        if self.cards:
            head = f'<head><base href="{html.escape(self._base)}"></head>'
            return "\n".join([f"<html>{head}<body>", *self.cards.values(), "</body></html>"])
        with contextlib.suppress(Exception):  # the page may be gone
            return await self._page.content()
        return ""


async def close_page(page: Page | None) -> None:
    """Close *page* if there is one, whatever state it is in."""
    if page is not None and not page.is_closed():
        with contextlib.suppress(Exception):
            await asyncio.wait_for(page.close(), 5)


def first_words(said: str) -> str:
    r"""Return the first line of an error of Playwright without its decoration, short.

    >>> first_words("Page.goto: net::ERR_CONNECTION_REFUSED at http://a.example/\nCall log:\n  - navigating")
    'net::ERR_CONNECTION_REFUSED'
    """
    line = (said.strip().splitlines() or ["no reason given"])[0]
    head, colon, rest = line.partition(": ")
    words = (rest if colon and head.replace(".", "").isalpha() else line).split(" at http", maxsplit=1)[0]
    return "".join(each if each.isprintable() else " " for each in words)[:160]
