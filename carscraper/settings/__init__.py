"""The settings module that Scrapy loads: its own settings that differ here, and ours with what the user says.

Precedence, highest first: ``-s NAME=value`` (and scrapyd's ``setting=NAME=value``), the environment, ``.env`` beside
``scrapy.cfg``, the default in ``table``, which has all that a user may set.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from scrapy.settings import default_settings as _scrapy

from carscraper import __version__
from carscraper.settings import kinds
from carscraper.settings.environment import ENVIRONMENT as _environment  # noqa: N811 - what is in capitals is a setting
from carscraper.settings.environment import scrapy_names
from carscraper.settings.secret import Secret as Secret
from carscraper.settings.table import SETTINGS as _SETTINGS


def _open_closed_streams() -> None:
    """Open standard streams for a program that was started without (``2>&-``); what is written there is lost.

    Without them the first files that are opened take their places, and what is printed gets into those.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a letter that it can't show is no reason to end


def user_agent(contact: str | None) -> str:
    """Return how this crawl introduces itself.

    >>> user_agent("https://example.is/bot").endswith(" (+https://example.is/bot)")
    True
    """
    return f"carscraper/{__version__} ({f'+{contact}' if contact else 'car listings with photos'})"


_open_closed_streams()

# --- The project ------------------------------------------------------------------------------------------------

BOT_NAME = "carscraper"
SPIDER_MODULES = ["carscraper.spiders"]
NEWSPIDER_MODULE = "carscraper.spiders"
COMMANDS_MODULE = "carscraper.commands"
ADDONS = {"carscraper.addon.CarscraperAddon": 0}
ITEM_PROCESSOR = "carscraper.extensions.opening.OpeningPipelines"
ITEM_PIPELINES = {
    "carscraper.pipelines.validate.ValidatePipeline": 100,
    "carscraper.pipelines.cars.CarsPipeline": 200,
    "carscraper.pipelines.images.CarImagesPipeline": 300,
    "carscraper.pipelines.cars.ClosingPipeline": 400,
    "carscraper.linking.pipeline.LinkingPipeline": 500,
}
FEED_EXPORTERS = {
    "csv": "carscraper.runs.feeds.CarCsvExporter",
    "json": "carscraper.runs.feeds.CarJsonExporter",
    "jsonlines": "carscraper.runs.feeds.CarJsonLinesExporter",
    "jsonl": "carscraper.runs.feeds.CarJsonLinesExporter",
    "jl": "carscraper.runs.feeds.CarJsonLinesExporter",
    "xml": "carscraper.runs.feeds.CarXmlExporter",
}
EXTENSIONS = {
    "carscraper.extensions.run.Run": 0,
    "carscraper.extensions.progress.Progress": 0,
    "carscraper.extensions.backfill.BackfillReport": 0,
    "carscraper.extensions.field_coverage.CoverageRecorder": 0,
}
# Without what TELNETCONSOLE_ENABLED and REMOTE_CONTROL_ENABLED switch off below: None in EXTENSIONS would import it all
# the same, aiohttp and Conch included (0.1 s and 8 MB).
EXTENSIONS_BASE = {
    name: order
    for name, order in _scrapy.EXTENSIONS_BASE.items()
    if not name.endswith((".TelnetConsole", ".RemoteControl"))
}
FEED_STORAGES = {"s3": "carscraper.runs.feeds.S3Feed"}
DOWNLOADER_MIDDLEWARES = {
    # Before all others (robots.txt is 100): these requests go nowhere.
    "carscraper.middlewares.answers.CarriedMiddleware": 50,
    # Ours waits before it tries again, honours Retry-After and knows refused addresses; Scrapy's retries at once.
    "scrapy.downloadermiddlewares.retry.RetryMiddleware": None,
    "carscraper.middlewares.retry.PatientRetryMiddleware": 550,
    # As soon as a page is unpacked (HttpCompressionMiddleware is 590) and before anybody reads it.
    "carscraper.middlewares.answers.PageEncodingMiddleware": 580,
    # Ours know what servers do wrong: see middlewares.robots and middlewares.answers.
    "scrapy.downloadermiddlewares.robotstxt.RobotsTxtMiddleware": None,
    "carscraper.middlewares.robots.PatientRobotsTxtMiddleware": 100,
    "scrapy.downloadermiddlewares.httpcompression.HttpCompressionMiddleware": None,
    "carscraper.middlewares.answers.LenientCompressionMiddleware": 590,
    "scrapy.downloadermiddlewares.redirect.RedirectMiddleware": None,
    "carscraper.middlewares.answers.BoundedRedirectMiddleware": 600,
    # The last to see a page.
    "carscraper.middlewares.answers.BaseAddressMiddleware": 60,
    # Of no use on dealers' sites, and each costs CPU for every photo.
    "scrapy.downloadermiddlewares.httpauth.HttpAuthMiddleware": None,
    "scrapy.downloadermiddlewares.redirect.MetaRefreshMiddleware": None,
}

#: ``scrapy fetch`` and its kind download what their command line names, with a spider's settings and nothing more.
#: (Scrapy takes the command's name off the line once the settings are read.) Used by ``addon``,
#: ``base_spiders.dealer`` and ``middlewares.retry``.
CARSCRAPER_ONE_PAGE = _environment.command in {"fetch", "parse", "shell", "view"}

# --- Scrapy's own, which only ``-s`` changes: its default, and why it differs here ------------------------------

ROBOTSTXT_OBEY = True  # False: a crawler that people run on other people's shops obeys
AUTOTHROTTLE_START_DELAY = 0.5  # 5: the first pages need not wait that long, the rate is found within a few pages
CONCURRENT_REQUESTS_PER_DOMAIN = 4  # 8: pages are light but costly for the dealer, photos have their own slot
CONCURRENT_ITEMS = 50  # 100 of one page at once: a page has at most about 50 cards
SCRAPER_SLOT_MAX_ACTIVE_SIZE = 150_000  # 5 MB of pages: cars wait for their photos, so this bounds the waiting cars
DOWNLOAD_MAXSIZE = 16 * 1024**2  # 1 GiB: a page is below 1 MB; photos have their own bound, IMAGES_MAX_BYTES
DOWNLOAD_WARNSIZE = 0  # 32 MiB: the bound above is lower
DOWNLOAD_FAIL_ON_DATALOSS = False  # True: a whole photo with a wrong length is a photo; a cut one is asked for again
REDIRECT_MAX_TIMES = 5  # 20: a dealer's chain has one or two; a circle would cost as many requests for each photo
RETRY_GIVE_UP_LOG_LEVEL = "DEBUG"  # ERROR: the photo's or page's own outcome is logged where it is decided
LOGSTATS_INTERVAL = 0  # 60: the progress extension says it better
WARN_ON_GENERATOR_RETURN_VALUE = False  # True: it reads the source of every callback, which fails for want of files
LOG_VERSIONS: list[str] = []  # Twisted, lxml, …
DEFAULT_REQUEST_HEADERS = {  # Accept-Language en: dealers' sites choose the language by it
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "is,en;q=0.5",
}
TELNETCONSOLE_ENABLED = False  # True: it accepts commands from the network
REMOTE_CONTROL_ENABLED = False  # True: it accepts code from the network
DOWNLOAD_VERIFY_CERTIFICATES = True  # False: anybody on the way could replace a photo
TWISTED_DNS_RESOLVER = "carscraper.network.GuardedResolver"  # Scrapy's, without addresses inside private networks
DOWNLOAD_HANDLERS = {  # ours reads answers with odd headers; a page must not make the crawl read local files
    "http": "carscraper.middlewares.handlers.LenientDownloadHandler",
    "https": "carscraper.middlewares.handlers.LenientDownloadHandler",
    "data": None,
    "file": None,
    "ftp": None,
    "s3": None,
}

# --- Ours, from ``table`` ---------------------------------------------------------------------------------------

for _setting in _SETTINGS.values():
    _value = _environment.value(_setting)
    # Scrapy reads these values before the add-on checks them: secrets are wrapped from the start.
    globals()[_setting.name] = Secret(_value) if _setting.secret and _value is not None else _value

LOG_LEVEL: str = globals()["LOG_LEVEL"].upper()
if LOG_LEVEL not in logging.getLevelNamesMapping():
    _environment.problems.append(f"LOG_LEVEL is {LOG_LEVEL!r}; write {kinds.LOG_LEVEL.words}.")
    LOG_LEVEL = "INFO"  # Scrapy reads it before the crawl can end with the sentence

USER_AGENT: str = globals()["USER_AGENT"] or user_agent(globals()["CONTACT"])

checks: dict[str, Callable[[Any], Any]] = {name: setting.read for name, setting in _SETTINGS.items()}
"""Return the typed value of a setting, or raise ``ConfigurationError``."""
# Scrapy's own:
checks["FEEDS"] = partial(kinds.FEEDS.read, "FEEDS")  # what -o names
checks["DEPTH_LIMIT"] = partial(kinds.DEPTH_LIMIT.read, "DEPTH_LIMIT")

secret_names = tuple(name for name, setting in _SETTINGS.items() if setting.secret)
known_names = frozenset(name for name in globals() if name.isupper()) | scrapy_names
"""Every setting of this program and of Scrapy."""
