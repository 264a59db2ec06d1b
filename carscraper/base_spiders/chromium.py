"""Chromium, for sites whose pages are made by their own scripts: the one room where Playwright is met.

What a page may load is decided twice. Every request that its scripts make is asked for in :meth:`Chromium.refuses`.
And Chromium itself resolves no other names than the site's (``--host-resolver-rules``, which holds for numeric
addresses, redirects and web sockets, too): nothing on the page reaches a machine inside the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import ipaddress
import os
import shutil
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from playwright.async_api import Error, async_playwright
from scrapy.exceptions import NotSupported
from scrapy_playwright.handler import ScrapyPlaywrightDownloadHandler

from carscraper.exceptions import ConfigurationError
from carscraper.middlewares.answers import read_leniently
from carscraper.network import current_filter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Self

    import scrapy
    import scrapy.http
    from playwright.async_api import Browser, BrowserContext, Locator, Page, Playwright, Request, Response
    from scrapy.crawler import Crawler

_PROGRAMS = (
    "chromium",
    "google-chrome-stable",
    "google-chrome",
    "chromium-browser",
    "/usr/bin/chromium",
    "/snap/bin/chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
_LAUNCH_TIMEOUT = 30_000  # milliseconds; 0.4 s when nothing is wrong
# What makes a page's text. Photos are fetched by the pipeline, once; fonts, films and the rest by nobody.
_LOADED = frozenset({"document", "script", "stylesheet", "xhr", "fetch"})
_DATA = frozenset({"script", "xhr", "fetch"})
_PORTS = {"http": 80, "https": 443}
_LOOK_EVERY = 0.2  # seconds between two looks at the page
_QUIET = 2.0  # seconds without a request and without a new card after which none will come
_QUIET_AT_FIRST = 5.0  # the same on a fresh page, whose scripts have to start
_CLOSE_TIMEOUT = 5.0  # seconds for closing a page
_LONGEST_WORDS = 160  # characters of what a page or Chromium says, in a message

# Gives the cards that are new or look different since it was last called: the link's address and the card's HTML.
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


def find_chromium(path: str | None) -> str:
    """Give the program at *path*, or where it usually is.

    Raises:
        ConfigurationError: it is not there.
    """
    if path:
        if shutil.which(path):
            return path
        raise ConfigurationError(
            f"CHROMIUM_PATH is {path!r}, and there is no such program; write where Chromium is, "
            "or take the setting away to have it looked for."
        )
    found = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if found is None:
        raise ConfigurationError(
            "This site needs a browser, and Chromium is not installed: apt-get install chromium, "
            "or set CHROMIUM_PATH to where it is."
        )
    return found


class Chromium:
    """One browser, started when it is first asked for (a ``BrowserProvider`` of scrapy-playwright)."""

    def __init__(
        self,
        path: str,
        hosts: Iterable[tuple[str, int]],
        *,
        forbidden: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """Take plain values.

        Args:
            path: the program.
            hosts: host and port of the site, then of others that its pages may load from; the first may be inside
                a private network if the address filter was told so, its name is left to Chromium.
            forbidden: tells whether robots.txt forbids an address.
        """
        self.path = path
        self.hosts = list(hosts)
        self.refused: dict[str, str] = {}
        """Addresses that a page wanted and did not get, and why."""
        self._forbidden = forbidden
        self._driver: Playwright | None = None
        self._browser: Browser | None = None

    def __call__(self, _config: Any) -> Self:
        """Be what ``PLAYWRIGHT_BROWSER_PROVIDER`` makes."""
        return self

    async def start(self) -> None:
        """Start nothing: scrapy-playwright calls this though no page may ever be asked for."""

    async def launch_browser(self) -> Browser:
        """Give the browser; start it if it is not there, or there no longer.

        Raises:
            ConfigurationError: it can't be started.
        """
        if self._browser is None or not self._browser.is_connected():
            try:
                if self._driver is None:
                    self._driver = await async_playwright().start()
                self._browser = await self._driver.chromium.launch(
                    executable_path=self.path,
                    args=["--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server", await self._rules()],
                    chromium_sandbox=os.geteuid() != 0,  # Chromium has none for root
                    # The crawl ends the browser when it is done with it, not a signal that was meant for the crawl.
                    handle_sigint=False,
                    handle_sigterm=False,
                    handle_sighup=False,
                    timeout=_LAUNCH_TIMEOUT,
                )
            except (Error, OSError) as error:
                raise ConfigurationError(why_not_started(self.path, str(error))) from None
        return self._browser

    async def _rules(self) -> str:
        """Let Chromium resolve the site's names only: the first as it likes, the others as the address filter permits.

        At a port of its own all of the first host's ports are that one: a redirect reaches no other server there.
        """
        loop, permits = asyncio.get_running_loop(), current_filter().permits
        own, own_port = self.hosts[0]
        rules = {own: f"EXCLUDE {own}"}
        if own_port not in _PORTS.values():
            rules[own] = f"MAP {own} {_bracketed(own)}:{own_port}"
        for host, port in self.hosts:
            if host in rules:
                continue
            try:
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                continue
            addresses = sorted({str(each[4][0]) for each in found}, key=lambda each: ":" in each)
            if address := next((each for each in addresses if permits(host, port, each)), None):
                rules[host] = f"MAP {host} {_bracketed(address)}"
        return "--host-resolver-rules=" + ", ".join([*rules.values(), "MAP * ~NOTFOUND"])

    async def launch_persistent_context(self, context_kwargs: dict[str, Any]) -> BrowserContext:
        """Refuse: nothing of a crawl stays in the browser.

        Raises:
            NotSupported: always.
        """
        raise NotSupported(f"no profile on disk: {sorted(context_kwargs)}")

    async def close(self) -> None:
        """End the driver, and the browser with it."""
        if self._driver is not None:
            await self._driver.stop()
            self._driver = None

    async def refuses(self, request: Request) -> bool:
        """Tell whether a page's request is not to be made (``PLAYWRIGHT_ABORT_REQUEST``)."""
        if request.resource_type not in _LOADED:
            return True
        parts = urlsplit(request.url)
        why = ""
        if (parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)) not in self.hosts:
            why = "another host"
        elif self._forbidden and not request.is_navigation_request() and await self._forbidden(request.url):
            why = "robots.txt"
        if why:
            self.refused[request.url] = why
        return bool(why)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def why_not_started(path: str, said: str) -> str:
    r"""Make a sentence of what a Chromium *said* that can't be started.

    >>> why_not_started("/usr/bin/chromium", "[1:1:FATAL:zygote.cc] No usable sandbox! If you are …")[:71]
    "Chromium (/usr/bin/chromium) can't be started: it finds no sandbox for "
    >>> why_not_started("/x", "boom\nCall log:\n - a.so: cannot open shared object file: No")[:60]
    "Chromium (/x) can't be started: a library is missing; instal"
    >>> why_not_started("/bin/false", "BrowserType.launch: Target closed\nCall log:\n")
    "Chromium (/bin/false) can't be started (Target closed). Try it: /bin/false --headless --dump-dom about:blank"
    """
    start = f"Chromium ({path}) can't be started"
    if "No usable sandbox" in said or "setuid sandbox" in said.lower():
        return (
            f"{start}: it finds no sandbox for this user; apt-get install chromium-sandbox, or allow user namespaces "
            "(in a container: a seccomp profile for Chromium)."
        )
    if "shared object file" in said or "shared libraries" in said:
        return f"{start}: a library is missing; install it whole: apt-get install --reinstall chromium."
    if "Timeout" in said:
        return f"{start} within {_LAUNCH_TIMEOUT // 1000} s; is there memory and CPU enough?"
    return f"{start} ({first_words(said)}). Try it: {path} --headless --dump-dom about:blank"


def first_words(said: str) -> str:
    r"""Give the first line of an error of Playwright without its decoration, short.

    >>> first_words("Page.goto: net::ERR_CONNECTION_REFUSED at http://a.example/\nCall log:\n  - navigating")
    'net::ERR_CONNECTION_REFUSED'
    """
    line = (said.strip().splitlines() or ["no reason given"])[0]
    head, colon, rest = line.partition(": ")
    words = (rest if colon and head.replace(".", "").isalpha() else line).split(" at http", maxsplit=1)[0]
    return "".join(each if each.isprintable() else " " for each in words)[:_LONGEST_WORDS]


def site_hosts(address: str) -> list[tuple[str, int]]:
    """Give host and port of the site at *address*, and of its twin with or without ``www.``.

    >>> site_hosts("https://notadir.is/")
    [('notadir.is', 443), ('www.notadir.is', 443), ('www.notadir.is', 80), ('notadir.is', 80)]
    >>> site_hosts("http://127.0.0.1:8000/")
    [('127.0.0.1', 8000)]
    """
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [(host, port)]
    twin = host.removeprefix("www.") if host.startswith("www.") else f"www.{host}"
    if "." not in host or port not in _PORTS.values():
        return [(host, port)]
    return [(host, port), (twin, port), (twin, 443 + 80 - port), (host, 443 + 80 - port)]


class ChromiumHandler(ScrapyPlaywrightDownloadHandler):  # type: ignore[misc]  # it has no types
    """Fetches what a request's ``playwright`` says in the browser, everything else as for other spiders."""

    def __init__(self, crawler: Crawler) -> None:
        """Accept the crawler."""
        super().__init__(crawler)
        read_leniently(self._pool)

    async def download_request(self, request: scrapy.Request) -> scrapy.http.Response:
        """Fetch; a page that did not come is closed, as a second try in the same one would wait for ever.

        Raises:
            Error: it did not come; of a class that is retried, with a reason of one line.
            ConfigurationError: the browser was gone, and can't be started again.
        """
        try:
            response: scrapy.http.Response = await super().download_request(request)
        except Exception as error:
            if "playwright" not in request.meta:
                raise
            await close_page(request.meta.pop("playwright_page", None))
            if isinstance(error, ConfigurationError):
                raise
            is_file = isinstance(error, RuntimeError)  # that scrapy-playwright has not downloaded
            raise Error("a file in place of a page" if is_file else first_words(str(error))) from None
        return response


async def close_page(page: Page | None) -> None:
    """Close *page* if there is one, whatever state it is in."""
    if page is not None and not page.is_closed():
        with contextlib.suppress(Error, TimeoutError):
            await asyncio.wait_for(page.close(), _CLOSE_TIMEOUT)


async def close_when(page: Page, stopped: Callable[[], bool]) -> None:
    """Close *page* as soon as the crawl is ``stopped()``: whoever waits for it goes on at once."""
    while not page.is_closed():
        if stopped():
            await close_page(page)
            return
        await asyncio.sleep(_LOOK_EVERY)


class Traffic:
    """What a page asks of its site: what is under way, and what went wrong."""

    def __init__(self, page: Page, refused: dict[str, str]) -> None:
        """Listen to *page*; what we refuse it ourselves is no trouble."""
        self.page = page
        self._refused = refused
        self.forget()
        page.on("request", self._begun)
        page.on("response", self._answered)
        page.on("requestfinished", self._done)
        page.on("requestfailed", self._failed)
        page.on("pageerror", lambda error: self._troubles.append(f"its script failed: {first_words(str(error))!r}"))

    def forget(self) -> None:
        """Begin anew."""
        self.begun = 0
        """Requests for data."""
        self.last = time.monotonic()
        """When something last happened."""
        self._under_way: set[Request] = set()
        self._troubles: list[str] = []

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._under_way)

    def trouble(self) -> str | None:
        """Say what went wrong first; ``None`` if nothing did."""
        if self._troubles:
            return self._troubles[0]
        return f"{next(iter(self._under_way)).url!r} does not answer" if self._under_way else None

    def _begun(self, request: Request) -> None:
        if request.resource_type in _DATA:
            self.begun += 1
            self.last = time.monotonic()
            self._under_way.add(request)

    def _answered(self, response: Response) -> None:
        if response.request in self._under_way and response.status >= 400:
            self._troubles.append(f"{response.url!r} answers HTTP {response.status}")

    def _done(self, request: Request) -> None:
        self.last = time.monotonic()
        self._under_way.discard(request)

    def _failed(self, request: Request) -> None:
        if request in self._under_way and request.url not in self._refused:
            self._troubles.append(f"{request.url!r} does not come ({request.failure})")
        self._done(request)


class Listing:
    """A list of cards that grows in the browser, by a button or by scrolling."""

    def __init__(
        self,
        traffic: Traffic,
        *,
        card: str,
        link: str,
        button: str,
        timeout: float,
        retries: int,
        backoff: float,
    ) -> None:
        """Take plain values.

        Args:
            traffic: of the page.
            card: CSS of a card.
            link: CSS of the link in it, without which it counts for nothing.
            button: Playwright's selector of what brings more.
            timeout: seconds for one step.
            retries: of a step during which something failed.
            backoff: seconds before the first retry; three times longer each time.
        """
        self.cards: dict[str, str] = {}
        """The cards' HTML by the address of their link, in the order in which they appeared."""
        self.problem: str | None = None
        """Why the end of the list was not seen."""
        self._traffic = traffic
        self._page = traffic.page
        self._where = [card, link]
        self._button = button
        self._timeout = timeout
        self._retries = retries
        self._backoff = backoff
        self._base = self._page.url
        self._is_fresh = True

    async def grow(self) -> bool:
        """Wait for the first cards, later ask for more; false when none came."""
        try:
            return await self._grow()
        except Error as error:  # the page is gone, or the browser
            self.problem = first_words(str(error))
            return False

    async def _grow(self) -> bool:
        tries = 0
        self.problem = None
        while True:
            pressed = await self._ask()
            if await self._grew():
                self.problem = None
                return True
            self.problem = self._traffic.trouble() or self.problem
            shows_button = bool(self.cards) and await self._find_button() is not None
            if self.problem is None and pressed and shows_button and not self._traffic.begun:
                self.problem = f"pressing {self._button!r} does nothing"
                return False
            if self.problem is None and (pressed or not shows_button):
                return False
            tries += 1
            if tries > self._retries:
                return False
            if self.problem:
                await asyncio.sleep(self._backoff * 3 ** (tries - 1))

    async def _ask(self) -> bool:
        """Do what brings more cards; true if a button was pressed."""
        if self._is_fresh:
            self._is_fresh = False
            return False
        self._traffic.forget()
        if not self.cards:
            await self._page.reload(wait_until="domcontentloaded", timeout=self._timeout * 1000)
            return False
        if button := await self._find_button():
            # Not click(): a banner about cookies may lie over it.
            await button.dispatch_event("click", timeout=self._timeout * 1000)
            return True
        await self._page.keyboard.press("End")
        await self._page.mouse.wheel(0, 1_000_000)
        return False

    async def _find_button(self) -> Locator | None:
        found = self._page.locator(self._button).locator("visible=true").first
        return found if self._button and await found.count() and await found.is_enabled(timeout=1000) else None

    async def _grew(self) -> bool:
        began = time.monotonic()
        quiet = _QUIET if self.cards else _QUIET_AT_FIRST
        while True:
            known = len(self.cards)
            self._base, found = await self._page.evaluate(_COLLECT, self._where)
            self.cards.update(found)
            if len(self.cards) > known:
                return True
            now = time.monotonic()
            if now - began > self._timeout or (not self._traffic.busy and now - max(began, self._traffic.last) > quiet):
                return False
            await asyncio.sleep(_LOOK_EVERY)

    async def html(self) -> str:
        """Give a page with all the cards there were, or what the browser shows if there were none."""
        if self.cards:
            head = f'<head><base href="{html.escape(self._base)}"></head>'
            return "\n".join([f"<html>{head}<body>", *self.cards.values(), "</body></html>"])
        try:
            return await self._page.content()
        except Error:
            return ""
