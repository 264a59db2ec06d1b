"""Chromium: where it is, why it does not start, and the download handler of spiders with a browser."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from playwright.async_api import Error
from scrapy_playwright.handler import ScrapyPlaywrightDownloadHandler

from carscraper.base_spiders.browser import close_page, first_words
from carscraper.exceptions import ConfigurationError
from carscraper.middlewares.handlers import read_leniently

if TYPE_CHECKING:
    import scrapy
    import scrapy.http
    from scrapy.crawler import Crawler


_PROGRAMS = (
    *(
        "chromium",
        "chromium-headless-shell",
        "google-chrome-stable",
        "google-chrome",
        "chromium-browser",
        "/usr/bin/chromium",
    ),
    *("/snap/bin/chromium", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
)
_NO_DRIVER = "start() must be awaited"  # scrapy-playwright did, and has logged what came of it


class ChromiumHandler(ScrapyPlaywrightDownloadHandler):  # type: ignore[misc]  # it has no types
    """scrapy-playwright's handler, whose errors are one line and leave no page open."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        read_leniently(self._pool)

    async def download_request(self, request: scrapy.Request) -> scrapy.http.Response:
        """Fetch; a page that did not come is closed, as a second try in the same one would wait for ever.

        Raises:
            Error: it did not come; of a class that is retried, with a reason of one line.
            ConfigurationError: the browser can't be started.
        """
        try:
            response: scrapy.http.Response = await super().download_request(request)
        except Exception as error:
            if "playwright" not in request.meta:
                raise
            await close_page(request.meta.pop("playwright_page", None))
            said = str(error)
            if "BrowserType.launch" in said or _NO_DRIVER in said:
                raise ConfigurationError(why_not_started(self.config.launch_options["executable_path"], said)) from None
            is_file = isinstance(error, RuntimeError)  # that scrapy-playwright has not downloaded
            raise Error("a file in place of a page" if is_file else first_words(said)) from None
        return response


def why_not_started(path: str, said: str) -> str:
    r"""Return a sentence of what a Chromium *said* that can't be started.

    >>> why_not_started("/usr/bin/chromium", "[1:1:FATAL:zygote.cc] No usable sandbox! If you are …")[:71]
    "Chromium (/usr/bin/chromium) can't be started: it finds no sandbox for "
    >>> why_not_started("/bin/false", "BrowserType.launch: Target closed\nCall log:\n")
    "Chromium (/bin/false) can't be started (Target closed). Try it: /bin/false --headless --dump-dom about:blank"
    """
    start = f"Chromium ({path}) can't be started"
    if _NO_DRIVER in said:
        return (
            f"{start}, as Playwright's driver is not; the beginning of this log says why. "
            "If a library is missing: apt-get install libatomic1."
        )
    if "No usable sandbox" in said or "setuid sandbox" in said.lower():
        return (
            f"{start}: it finds no sandbox for this user; apt-get install chromium-sandbox, or allow user namespaces "
            "(in a container: a seccomp profile for Chromium)."
        )
    if "shared object file" in said or "shared libraries" in said:
        return f"{start}: a library is missing; install it whole: apt-get install --reinstall chromium."
    if "Timeout" in said:
        return f"{start} within 30 s; is there memory and CPU enough?"
    return f"{start} ({first_words(said)}). Try it: {path} --headless --dump-dom about:blank"


def find_chromium(path: str | None) -> str:
    """Return the program at *path*, or where it usually is.

    Raises:
        ConfigurationError: it is not there.
    """
    if path and not shutil.which(path):
        raise ConfigurationError(
            f"CHROMIUM_PATH is {path!r}, and there is no such program; write where Chromium is, "
            "or take the setting away to have it looked for."
        )
    found = path or next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if found is None:
        raise ConfigurationError(
            "This site needs a browser, and Chromium is not installed: apt-get install chromium, "
            "or set CHROMIUM_PATH to where it is."
        )
    return found
