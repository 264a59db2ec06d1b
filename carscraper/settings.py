"""Every setting of carscraper: what it is, who reads it, its default and why.

This module is the only reader of the environment and of ``.env``. Precedence, highest first: ``-s NAME=value`` (and
scrapyd's ``setting=NAME=value``), the environment, ``.env`` beside ``scrapy.cfg``, the default written here.

A block of ``#:`` lines above a setting is its documentation; ``docs/settings.md`` is made from it.
"""

from __future__ import annotations

import difflib
import io
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, quote_plus, urlsplit
from urllib.request import url2pathname

from dotenv.parser import parse_stream
from scrapy.settings import default_settings
from scrapy.utils.conf import closest_scrapy_cfg

from carscraper import __version__
from carscraper.exceptions import ConfigurationError
from carscraper.field_coverage import MEASURED, PAGE, PHOTOS


class Secret(str):
    """A string that shows itself as ``***`` wherever it is printed, formatted or logged.

    Scrapy prints overridden settings in clear; ``reveal()`` gives the value to the one who must send it.

    >>> key = Secret("abc")
    >>> print(key, repr(key), f"{key}", "%s" % key, key.reveal())
    *** '***' *** *** abc
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        """Wrap *value*; a secret of a secret is the same secret."""
        return super().__new__(cls, value.reveal() if isinstance(value, Secret) else value)

    def reveal(self) -> str:
        """Give the plain value."""
        return str.__str__(self)

    def spellings(self) -> set[str]:
        """Return the ways in which it is written: as it is, percent-encoded, and escaped within quotes."""
        plain = self.reveal()
        quoted = {quote(plain), quote(plain, safe=""), quote_plus(plain), repr(plain)[1:-1], json.dumps(plain)[1:-1]}
        return ({plain} | quoted) - {""}

    def redact(self, text: bytes) -> bytes:
        """Put ``***`` wherever *text* has the value, also percent-encoded.

        A value of less than 8 characters may be part of any number: it is not looked for inside longer words.

        >>> Secret("a/b-c-d-e").redact(b"?apikey=a%2Fb-c-d-e&page=2"), Secret("12").redact(b"?key=12&p=123")
        (b'?apikey=***&page=2', b'?key=***&p=123')
        """
        plain = self.reveal()
        for spelling in self.spellings():
            found = re.escape(spelling.encode())
            if len(plain) < 8:
                found = rb"(?<![A-Za-z0-9])" + found + rb"(?![A-Za-z0-9])"
            text = re.sub(found, b"***", text, flags=re.IGNORECASE)
        return text

    def __str__(self) -> str:
        return "***"

    def __repr__(self) -> str:
        return "'***'"

    def __format__(self, format_spec: str) -> str:
        return format("***", format_spec)


def _open_closed_streams() -> None:
    """Give a program that was started without standard streams (``2>&-``) some; what is written there is lost.

    Without them the first files that are opened take their places, and what is printed gets into those.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a letter that it can't show is no reason to end


_open_closed_streams()


problems: list[str] = []
"""What is wrong with ``.env`` and with names in it and in the environment; ``addon`` ends the crawl with it."""


def _find_env_file() -> Path:
    beside_project = Path(closest_scrapy_cfg() or "scrapy.cfg").parent / ".env"
    return Path(os.environ.get("CARSCRAPER_ENV_FILE") or beside_project)


def _read_env_file(path: Path) -> dict[str, str]:
    """Read the settings file; what can't be read is added to ``problems``, as nobody can catch an exception here."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        if os.environ.get("CARSCRAPER_ENV_FILE"):
            problems.append(f"CARSCRAPER_ENV_FILE names {path}, which is not there; correct or unset it.")
        return {}
    except OSError as error:
        problems.append(f"The settings file {path} can't be read ({error.strerror}); make it readable or remove it.")
        return {}
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # also UTF-16 that happens to be valid UTF-8
        problems.append(f"The settings file {path} is not in UTF-8; save it in that encoding.")
        return {}
    found = {}
    for each in parse_stream(io.StringIO(text)):
        if each.error:
            statement = each.original.string
            line = each.original.line + len(statement) - len(statement.lstrip("\n"))
            # Only the name is shown: the rest may be a secret.
            name = re.match(r"\s*(?:-\s+)?([A-Za-z_]\w*)\s*:", statement)
            what = f"{name[1]}=value" if name else "NAME=value"
            problems.append(f"The settings file {path} can't be read in line {line}; write {what}.")
        elif each.key is not None and each.value is not None:
            found[each.key] = each.value
    return found


_env_file = _find_env_file()
_in_env_file = _read_env_file(_env_file)
_environment = {**_in_env_file, **os.environ}
_variables: set[str] = {"CARSCRAPER_ENV_FILE"}


def exposed_env_file() -> Path | None:
    """Return the ``.env`` if it has a secret in it and everybody on this machine may read it."""
    if not any(_in_env_file.get(name) for name in secret_names):
        return None
    return _env_file if _env_file.stat().st_mode & 0o004 else None


def environment_secrets() -> Iterable[str]:
    """Return the secrets of other programs that ``.env`` and the environment hold, such as ``PGPASSWORD``."""
    return (value for name, value in _environment.items() if re.search(r"(PASSWORD|PASSWD|SECRET|TOKEN|_KEY)$", name))


def _env(name: str, default: Any = None) -> Any:
    """Return the variable *name*; one that is set to nothing counts as not set."""
    _variables.add(name)
    return _environment.get(name, "").strip() or default


def _env_even_empty(name: str, default: str) -> str:
    """Return the variable *name*, for which nothing is a value too."""
    _variables.add(name)
    return _environment.get(name, default).strip()


# --- The project ------------------------------------------------------------------------------------------------

BOT_NAME = "carscraper"
SPIDER_MODULES = ["carscraper.spiders"]
NEWSPIDER_MODULE = "carscraper.spiders"
COMMANDS_MODULE = "carscraper.commands"
ADDONS = {"carscraper.addon.CarscraperAddon": 0}
ITEM_PROCESSOR = "carscraper.extensions.opening.OpeningPipelines"
ITEM_PIPELINES = {
    "carscraper.pipelines.validate.ValidatePipeline": 100,
    "carscraper.pipelines.images.CarImagesPipeline": 200,
    "carscraper.pipelines.database.DatabasePipeline": 300,
    "carscraper.pipelines.kinship.KinshipPipeline": 350,
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
    "carscraper.extensions.shutdown.PromptShutdown": 0,
    "carscraper.extensions.collector.CalmCollector": 0,
    # Off: both accept code or commands from the network (Scrapy 2.19 switches them on).
    "scrapy.extensions.telnet.TelnetConsole": None,
    "scrapy.extensions.remote_control.RemoteControl": None,
}
FEED_STORAGES = {"s3": "carscraper.runs.feeds.S3Feed"}
DOWNLOADER_MIDDLEWARES = {
    # Before all others (robots.txt is 100): these requests go nowhere.
    "carscraper.middlewares.carried.CarriedMiddleware": 50,
    # Ours waits before it tries again, honours Retry-After and knows refused addresses; Scrapy's retries at once.
    "scrapy.downloadermiddlewares.retry.RetryMiddleware": None,
    "carscraper.middlewares.retry.PatientRetryMiddleware": 550,
    # As soon as a page is unpacked (HttpCompressionMiddleware is 590) and before anybody reads it.
    "carscraper.middlewares.encoding.PageEncodingMiddleware": 580,
    # After all that may answer or hold back a request (DownloaderStats is 850): only what goes out now has its moment.
    "carscraper.middlewares.pace.SharedPaceMiddleware": 840,
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
CARSCRAPER_ONE_PAGE = next((word for word in sys.argv[1:] if word[:1] != "-"), "") in (
    "fetch",
    "parse",
    "shell",
    "view",
)

# --- Where photos go --------------------------------------------------------------------------------------------

#: Photos go to S3 (true) or to the folder ``IMAGES_STORE`` (false).
#: Used by ``pipelines.images``.
USE_S3_STORAGE = _env("USE_S3_STORAGE", False)

#: Credentials for S3. Without them boto3 looks for a profile or a role (``AWS_PROFILE``, instance metadata).
#: Used by ``storage.s3``.
AWS_ACCESS_KEY_ID = _env("AWS_ACCESS_KEY_ID")
AWS_SECRET_ACCESS_KEY = _env("AWS_SECRET_ACCESS_KEY")
AWS_SESSION_TOKEN = _env("AWS_SESSION_TOKEN")

#: A named profile of the AWS configuration files, instead of keys.
#: Used by ``storage.s3``.
AWS_PROFILE = _env("AWS_PROFILE")

#: The bucket's name. Needed when ``USE_S3_STORAGE`` is true.
#: Used by ``storage.s3``.
AWS_S3_BUCKET = _env("AWS_S3_BUCKET")

#: The bucket's region.
#: Used by ``storage.s3`` and ``storage.keys``.
AWS_S3_REGION = _env("AWS_S3_REGION", "eu-north-1")

#: Another S3 server than Amazon's, such as ``http://127.0.0.1:9000``; addressed in path style.
#: Used by ``storage.s3`` and ``storage.keys``.
AWS_ENDPOINT_URL = _env("AWS_ENDPOINT_URL_S3") or _env("AWS_ENDPOINT_URL")

#: A PEM file with the certificate authority of a private S3 server.
#: Used by ``storage.s3``.
AWS_CA_BUNDLE = _env("AWS_CA_BUNDLE")

#: What stands before every key in the bucket, such as ``cars/``.
#: Used by ``storage.s3``.
S3_PREFIX = _env("S3_PREFIX", "")

#: Storage class of new objects, such as ``STANDARD_IA``; empty means the bucket's default.
#: Used by ``storage.s3``.
S3_STORAGE_CLASS = _env("S3_STORAGE_CLASS")

#: Server-side encryption: ``AES256``, ``aws:kms`` or ``aws:kms:<key id>``; empty means the bucket's default.
#: Used by ``storage.s3``.
S3_SSE = _env("S3_SSE")

#: Object tags as JSON, such as ``{"project": "cars"}``. Only for servers that know tagging; some damage objects.
#: Used by ``storage.s3``.
S3_TAGS = _env("S3_TAGS")

#: How many photos are uploaded at the same time.
#: Used by ``storage.s3``.
S3_MAX_PARALLEL_UPLOADS = _env("S3_MAX_PARALLEL_UPLOADS", 16)

#: Seconds for one upload with all its retries; what takes longer goes to the spool.
#: Used by ``storage.s3``.
S3_UPLOAD_TIMEOUT = _env("S3_UPLOAD_TIMEOUT", 60)

#: Retries of one upload after its first try.
#: Used by ``storage.s3``.
S3_MAX_RETRIES = _env("S3_MAX_RETRIES", 5)

#: Folder for bytes that S3, and cars that the database, cannot take just now.
#: Used by ``storage.spool`` and ``pipelines.database``.
SPOOL_DIR = _env("SPOOL_DIR", "var/spool")

#: Bytes that the spool may hold; beyond that photos stay ``pending`` (``store-error``) for the next run.
#: Used by ``storage.spool``.
SPOOL_MAX_BYTES = _env("SPOOL_MAX_BYTES", 2 * 1024**3)

#: The public address before the key: a CDN or web server. Makes permanent URLs, also for a folder.
#: Used by ``storage.keys``.
IMAGES_PUBLIC_URL = _env("IMAGES_PUBLIC_URL")

#: The CloudFront distribution in front of the bucket, such as ``E2QWRUHEXAMPLE``; deleted photos leave its caches.
#: Used by ``cli.storage.invalidate``.
CLOUDFRONT_DISTRIBUTION_ID = _env("CLOUDFRONT_DISTRIBUTION_ID")

#: A TOML file of your own prices for ``scrapy storage estimate``, in place of the list prices that come with it.
#: Used by ``cli.storage.estimate``.
PRICES_FILE = _env("PRICES_FILE")

#: The folder for photos when S3 is off. Set to nothing, photos are not kept at all.
#: Used by ``storage.folder``. (Scrapy's own name; here never an ``s3://`` address.)
IMAGES_STORE = _env_even_empty("IMAGES_STORE", "var/images")

#: Bytes that the folder may hold beside S3, as the hot tier of ``scrapy storage tiers``; 0 means no limit.
#: Used by ``cli.storage.tiers``. (A crawl into the folder is not held up by it.)
IMAGES_STORE_MAX_BYTES = _env("IMAGES_STORE_MAX_BYTES", 0)

#: Thumbnails to make, as JSON: ``{"small": [320, 240]}``, under ``thumbnails/{name}/{key}``.
#: Used by ``pipelines.images``.
IMAGES_THUMBS = _env("IMAGES_THUMBS", {})

# --- Which photos are kept --------------------------------------------------------------------------------------

#: Width in pixels that is asked of the dealer for every photo (1280 is the widest in use on bilasolur.is).
#: Used by ``base_spiders.rogg``.
IMAGES_WIDTH = _env("IMAGES_WIDTH", 1280)

#: Smaller pictures are refused as ``too-small`` (icons, spacers).
#: Used by ``images.inspection``.
IMAGES_MIN_WIDTH = _env("IMAGES_MIN_WIDTH", 200)
IMAGES_MIN_HEIGHT = _env("IMAGES_MIN_HEIGHT", 150)

#: Larger pictures are refused as ``too-large`` before anything is decoded.
#: Used by ``images.inspection``.
IMAGES_MAX_PIXELS = _env("IMAGES_MAX_PIXELS", 40_000_000)
IMAGES_MAX_BYTES = _env("IMAGES_MAX_BYTES", 20 * 1024**2)

#: The same bytes on this many unrelated cars (other make or model) are a placeholder, not a photo; 0 switches it off.
#: Used by ``db.ledger``.
IMAGES_PLACEHOLDER_CARS = _env("IMAGES_PLACEHOLDER_CARS", 3)

#: SHA-256 (comma separated) of pictures that are photos though many cars show them.
#: Used by ``db.ledger``.
IMAGES_NOT_PLACEHOLDERS = _env("IMAGES_NOT_PLACEHOLDERS", "")

#: Days (UTC) on which a dealer must have given the same answer for a photo, such as ``http-404`` or a page instead of
#: a picture, until nobody asks for it again.
#: Used by ``db.ledger``.
IMAGES_FINAL_AFTER = _env("IMAGES_FINAL_AFTER", 3)

#: Keep of the file only what draws the picture: no positions, names, serial numbers or other metadata.
#: Used by ``pipelines.images``.
IMAGES_STRIP_METADATA = _env("IMAGES_STRIP_METADATA", True)

#: Hosts (or ``host:port``), comma separated, that photos may come from though they are inside a private network.
#: Used by ``network``.
IMAGES_ALLOWED_HOSTS = _env("IMAGES_ALLOWED_HOSTS", "")

#: Photos between the start of their download and their safe storage; bounds the memory.
#: Used by ``pipelines.images``.
IMAGES_MAX_IN_FLIGHT = _env("IMAGES_MAX_IN_FLIGHT", 64)
# A redirected photo is a photo; the address guard checks every hop.
MEDIA_ALLOW_REDIRECTS = True

# --- The database -----------------------------------------------------------------------------------------------

#: SQLAlchemy URL: ``sqlite:///…`` or ``postgresql://user:password@host/name``.
#: Used by ``db.engine``.
DATABASE_URL = _env("DATABASE_URL", "sqlite:///var/carscraper.db")

#: Seconds one database operation may take before it counts as unanswered.
#: Used by ``db.ledger``.
DATABASE_TIMEOUT = _env("DATABASE_TIMEOUT", 30)

#: Seconds a database may be away during a crawl; after that cars go to the spool and the crawl ends.
#: Used by ``db.ledger``.
DATABASE_PATIENCE = _env("DATABASE_PATIENCE", 120)

#: Days after which a car's details page is read again even if its card did not change, spread over the days.
#: Used by ``base_spiders.dealer``.
DETAILS_MAX_AGE_DAYS = _env("DETAILS_MAX_AGE_DAYS", 7)

#: A complete crawl that sees less than this share of the known active cars is a failed one, not a big sale.
#: Used by ``base_spiders.dealer``.
CRAWL_MIN_SHARE = _env("CRAWL_MIN_SHARE", 0.5)

#: Cars missing from a complete crawl that are looked up at their own pages; the rest wait for the next crawl.
#: Used by ``base_spiders.dealer``.
CRAWL_MAX_LOOKUPS = _env("CRAWL_MAX_LOOKUPS", 1000)

#: Result pages of one crawl at most; beyond that the crawl is reported as capped.
#: Used by ``base_spiders.rogg``.
CRAWL_MAX_PAGES = _env("CRAWL_MAX_PAGES", 1000)

#: Never crawl a source twice at the same time: the second crawl says so, fetches nothing and exits with 0.
#: Used by ``extensions.run``.
CRAWL_LOCK = _env("CRAWL_LOCK", True)

#: At the end of each crawl, link the listings of one car at several sites (``car_listings.same_as``).
#: Used by ``pipelines.kinship``.
LINK_SAME_CARS = _env("LINK_SAME_CARS", True)

# --- The feed of the Rögg platform ------------------------------------------------------------------------------

#: The address of the dealers' XML feed, with or without ``get.aspx`` at its end; the key is not part of it.
#: Used by ``spiders.henry``.
HENRY_URL = _env("HENRY_URL")

#: The dealer's key to the feed. It is sent to ``HENRY_URL`` only, and shown nowhere.
#: Used by ``spiders.henry`` and ``middlewares.apikey``.
HENRY_API_KEY = _env("HENRY_API_KEY")

#: Store the feed's photos. Customers report that its terms allow links only: ask the platform's owner first.
#: Used by ``spiders.henry``.
HENRY_STORE_IMAGES = _env("HENRY_STORE_IMAGES", False)

# --- Politeness -------------------------------------------------------------------------------------------------

#: Who runs this crawl: a mail address or URL that dealers can turn to; becomes part of the User-Agent.
#: Used by ``settings``.
CONTACT = _env("CONTACT")

#: The User-Agent; made from the version and ``CONTACT`` unless set.
#: Used by Scrapy.
USER_AGENT = _env(
    "USER_AGENT",
    f"carscraper/{__version__}" + (f" (+{CONTACT})" if CONTACT else " (car listings with photos)"),
)

# Default False; a crawler that people run on other people's shops obeys.
ROBOTSTXT_OBEY = True
# Default False; slows down with the dealer's own latency.
AUTOTHROTTLE_ENABLED = _env("AUTOTHROTTLE_ENABLED", True)
# Default 5: the first pages need not wait that long, the rate is found within a few pages.
AUTOTHROTTLE_START_DELAY = 0.5

#: Seconds between two pages on average (Scrapy varies it by half); AutoThrottle makes it longer.
#: Used by Scrapy.
DOWNLOAD_DELAY = _env("DOWNLOAD_DELAY", 0.4)

#: Seconds between two photos; a quarter of ``DOWNLOAD_DELAY`` unless set.
#: Used by ``addon`` for the photos' own download slot.
IMAGES_DOWNLOAD_DELAY = _env("IMAGES_DOWNLOAD_DELAY")

#: Photos that are fetched at the same time.
#: Used by ``addon`` for the photos' own download slot.
IMAGES_CONCURRENCY = _env("IMAGES_CONCURRENCY", 8)
# Default 8 for each host; pages are light but costly for the dealer, photos have their own slot.
CONCURRENT_REQUESTS_PER_DOMAIN = 4
# Default 100 items of one page at once. A page has at most some 40 cards.
CONCURRENT_ITEMS = 50
# Default 5 MB of pages being worked on; cars wait for their photos, so this bounds the waiting cars.
SCRAPER_SLOT_MAX_ACTIVE_SIZE = 150_000
# Default 180 s: a photo or page of this size that takes longer will not come.
DOWNLOAD_TIMEOUT = _env("DOWNLOAD_TIMEOUT", 30)
# Default 1 GiB: a page of a dealer is below 1 MB; photos have their own bound, IMAGES_MAX_BYTES.
DOWNLOAD_MAXSIZE = 16 * 1024**2
DOWNLOAD_WARNSIZE = 0
# Default True: a whole photo with a wrong length is a photo; middlewares.retry asks again for what was cut.
DOWNLOAD_FAIL_ON_DATALOSS = False
# Default 20: a dealer's chain has one or two; a circle would cost as many requests for each photo.
REDIRECT_MAX_TIMES = 5
#: Retries of a page or photo after its first try (Scrapy's default is 2; ours pause longer each time).
#: Used by ``middlewares.retry``.
RETRY_TIMES = _env("RETRY_TIMES", 3)
#: Seconds before the first retry; three times longer each time (1, 3, 9).
#: Used by ``middlewares.retry``.
RETRY_BACKOFF = _env("RETRY_BACKOFF", 1.0)
#: The longest ``Retry-After`` in seconds that is waited for; a longer one fails the request.
#: Used by ``middlewares.retry``.
RETRY_AFTER_MAX = _env("RETRY_AFTER_MAX", 120)
#: Share the delays above with all other crawls of this database (PostgreSQL); ``scrapy worker`` switches it on.
#: Used by ``middlewares.pace``.
SHARED_PACE = _env("SHARED_PACE", False)
# Default ERROR with a line a request; the photo's or page's own outcome is logged where it is decided.
RETRY_GIVE_UP_LOG_LEVEL = "DEBUG"
# Icelandic first: dealers' sites choose the language by it.
DEFAULT_REQUEST_HEADERS = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "is,en;q=0.5",
}

# --- More than one machine --------------------------------------------------------------------------------------

#: Crawls that workers put into the queue by themselves, as JSON: ``{"bilasolur": "17 3,15 * * *"}``; times are UTC.
#: Used by ``jobs.app``.
WORKER_SCHEDULE = _env("WORKER_SCHEDULE", {})

#: How often a crawl that did not end well is tried again, before it stays failed.
#: Used by ``jobs.worker``.
WORKER_RETRIES = _env("WORKER_RETRIES", 3)

#: Seconds until a partial crawl is tried again, three times longer each time; a failed one waits four times as long.
#: Used by ``jobs.worker``.
WORKER_RETRY_DELAY = _env("WORKER_RETRY_DELAY", 300)

#: Seconds between two signs of life of a worker; after four without one another worker takes its crawls over.
#: Used by ``jobs.worker``.
WORKER_HEARTBEAT = _env("WORKER_HEARTBEAT", 15)

# --- The browser ------------------------------------------------------------------------------------------------

#: The Chromium (or Chrome) for sites whose pages are made by scripts; looked for in the usual places unless set.
#: Used by ``base_spiders.browser``.
CHROMIUM_PATH = _env("CHROMIUM_PATH")

# --- Safety -----------------------------------------------------------------------------------------------------

# Default True, both: they accept commands or code from the network.
TELNETCONSOLE_ENABLED = False
REMOTE_CONTROL_ENABLED = False
# Default False: anybody on the way could replace a photo.
DOWNLOAD_VERIFY_CERTIFICATES = True
# Resolves like Scrapy's, and drops addresses inside private networks.
TWISTED_DNS_RESOLVER = "carscraper.network.GuardedResolver"
# A page must not make the crawl read local files or other protocols; ours reads answers with odd headers.
DOWNLOAD_HANDLERS = {
    "http": "carscraper.middlewares.answers.LenientDownloadHandler",
    "https": "carscraper.middlewares.answers.LenientDownloadHandler",
    "data": None,
    "file": None,
    "ftp": None,
    "s3": None,
}

# --- What a run leaves ------------------------------------------------------------------------------------------

#: The folder in which each run gets a folder of its own for its items and its log. Set to nothing: none is written.
#: Used by ``runs.outputs``.
OUTPUTS_DIR = _env_even_empty("OUTPUTS_DIR", "var/jobs")

#: Days after which a run's folder is removed, at the start of another; 0 keeps all. One not yet uploaded stays.
#: Used by ``runs.outputs``.
OUTPUTS_KEEP_DAYS = _env("OUTPUTS_KEEP_DAYS", 30)

#: At the end of each run, upload its items and its log to S3; they stay in ``OUTPUTS_DIR``, too.
#: Used by ``runs.outputs``.
S3_UPLOAD_ON_COMPLETION = _env("S3_UPLOAD_ON_COMPLETION", False)

#: The bucket for them; ``AWS_S3_BUCKET`` unless set. Server, region, credentials and ``S3_SSE`` are those of photos.
#: Used by ``storage.outputs``.
S3_OUTPUT_BUCKET = _env("S3_OUTPUT_BUCKET")

#: What stands there before a run's folder, ``{yyyymmdd_hhmmss}_{job}/``; ``S3_PREFIX`` is not put before it.
#: Used by ``storage.outputs``.
S3_OUTPUT_PREFIX = _env_even_empty("S3_OUTPUT_PREFIX", "outputs/")

#: Which files are uploaded, and which of those are not: patterns of their names, comma separated, such as ``*.log``.
#: Used by ``runs.outputs``.
S3_OUTPUT_INCLUDE = _env("S3_OUTPUT_INCLUDE", "*")
S3_OUTPUT_EXCLUDE = _env("S3_OUTPUT_EXCLUDE", "")

#: Seconds for the upload of a run's files with all retries.
#: Used by ``storage.outputs``.
S3_OUTPUT_TIMEOUT = _env("S3_OUTPUT_TIMEOUT", 300)

#: Retries of each file after its first try.
#: Used by ``storage.outputs``.
S3_OUTPUT_RETRIES = _env("S3_OUTPUT_RETRIES", 3)

#: Tag the objects with client, type (``items`` or ``log``) and date. Off for servers that do not know tags.
#: Used by ``storage.outputs``.
S3_OUTPUT_TAGS = _env("S3_OUTPUT_TAGS", True)

#: The value of the tag ``client``: whose outputs these are.
#: Used by ``storage.outputs``.
S3_OUTPUT_CLIENT = _env("S3_OUTPUT_CLIENT", "carscraper")

# --- What people see --------------------------------------------------------------------------------------------

#: Seconds between two progress lines when the output is not a terminal.
#: Used by ``extensions.progress``.
PROGRESS_INTERVAL = _env("PROGRESS_INTERVAL", 60)

#: ``DEBUG`` shows every request and photo.
#: Used by Scrapy.
LOG_LEVEL = _env("LOG_LEVEL", "INFO").upper()
if LOG_LEVEL not in logging.getLevelNamesMapping():
    LOG_LEVEL = "INFO"  # Scrapy reads it before the check below can end the crawl with its sentence
#: A file for the log, instead of standard error.
#: Used by Scrapy.
LOG_FILE = _env("LOG_FILE")
#: A line of the log: ``json`` makes each line a JSON object, anything else is a %-format.
#: Used by ``logs``. (Scrapy's own name.)
LOG_FORMAT = _env("LOG_FORMAT", "%(asctime)s [%(name)s] %(levelname)s: %(message)s")
# The progress extension says it better.
LOGSTATS_INTERVAL = 0
# A wall of numbers after every crawl hides the verdict; at DEBUG Scrapy's own keep coming.
STATS_DUMP = LOG_LEVEL == "DEBUG"
LOG_VERSIONS: list[str] = []

# --- Limits and notices -----------------------------------------------------------------------------------------

#: The fewest cars that a whole crawl of a dealer sees; 0 means no limit. A limit that is not kept: exit code 3.
#: Used by ``runs.monitors``.
MONITOR_MIN_CARS = _env("MONITOR_MIN_CARS", 0)

#: The share of a run's photos that may fail, such as ``0.05``; not set, there is no limit.
#: Used by ``runs.monitors``.
MONITOR_MAX_FAILED_PHOTOS = _env("MONITOR_MAX_FAILED_PHOTOS")

#: The share of the photos of cars for sale that must be stored, such as ``0.99``; not set, there is no limit.
#: Used by ``runs.monitors``.
MONITOR_MIN_STORED = _env("MONITOR_MIN_STORED")

#: Share of the cars that have a field, at least, as JSON: ``{"price": 0.8, "photo": 0.9}``.
#: Used by ``runs.monitors``.
MONITOR_MIN_FILL = _env("MONITOR_MIN_FILL", {})

#: Dealers whose fields may vanish without making a crawl partial, or fields of one, such as ``henry,br.fuel``.
#: Used by ``runs.monitors``.
MONITOR_IGNORE_FIELDS = _env("MONITOR_IGNORE_FIELDS", "")

#: The share by which a whole crawl's cars may be fewer than the median of earlier ones; not set, there is no limit.
#: Used by ``runs.monitors``.
MONITOR_MAX_DROP = _env("MONITOR_MAX_DROP")

#: How many earlier runs ``MONITOR_MAX_DROP`` looks at: the last complete ones of the spider with the same arguments.
#: Used by ``runs.monitors``.
MONITOR_HISTORY = _env("MONITOR_HISTORY", 10)

#: Who is told how a run ended: webhooks (``https://…``) and addresses of apprise (``mailtos://…``), comma separated.
#: Used by ``runs.notices``.
NOTIFY_URLS = _env("NOTIFY_URLS")

#: Which ends of a run are told, comma separated: ``failed``, ``partial``, ``success``, ``skipped``, ``interrupted``.
#: Used by ``runs.notices``.
NOTIFY_ON = _env("NOTIFY_ON", "failed,partial")

#: The node exporter's textfile folder: each spider has a file of metrics there. Not set, none is written.
#: Used by ``runs.metrics``.
METRICS_DIR = _env("METRICS_DIR")


# --- Checks -----------------------------------------------------------------------------------------------------

secret_names = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "DATABASE_URL",
    "HENRY_API_KEY",
    "NOTIFY_URLS",
)
"""Settings that are never printed; ``addon`` wraps them."""

Check = Callable[[str, Any], Any]


def _boolean(name: str, value: Any) -> bool:
    known = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    try:
        return known[str(value).strip().lower()]
    except KeyError:
        raise ConfigurationError(f"{name} is {value!r}; write true or false.") from None


def _number(kind: type[int | float], low: float, *, optional: bool = False) -> Check:
    def check(name: str, value: Any) -> Any:
        if optional and value in {None, ""}:
            return None
        try:
            number = kind(value)
        except (TypeError, ValueError, OverflowError):
            what = "whole number" if kind is int else "number"
            raise ConfigurationError(f"{name} is {value!r}; write a {what} of at least {low:g}.") from None
        if not low <= number < float("inf"):
            raise ConfigurationError(f"{name} is {value!r}; write a number of at least {low:g}.")
        return number

    return check


def _share(name: str, value: Any) -> float:
    number: float = _number(float, 0)(name, value)
    if number > 1:
        raise ConfigurationError(f"{name} is {value!r}; write a share between 0 and 1, such as 0.5.")
    return number


def _optional_share(name: str, value: Any) -> float | None:
    return None if value is None or value == "" else _share(name, value)


def _fill_shares(name: str, value: Any) -> dict[str, float]:
    shares = _json_object(name, value)
    for label, share in shares.items():
        if (
            label not in MEASURED
            or isinstance(share, bool)
            or not isinstance(share, int | float)
            or not 0 <= share <= 1
        ):
            fields = ", ".join(MEASURED)
            raise ConfigurationError(
                f'{name} is {value!r}; write JSON such as {{"price": 0.8}} with shares between 0 and 1 of: {fields}.'
            )
    return {label: float(share) for label, share in shares.items()}


def _ignored_fields(name: str, value: Any) -> str:
    words = str(value or "").replace(",", " ").split()
    # A spider's file is called as the spider is.
    dealers = {path.stem for path in (Path(__file__).parent / "spiders").glob("[a-z]*.py")} - {"backfill"}
    for word in words:
        dealer, dot, field = word.partition(".")
        if dealer not in dealers or (dot and field not in {*MEASURED, PHOTOS, PAGE + PHOTOS}):
            known = ", ".join(sorted(dealers))
            raise ConfigurationError(f"{name} is {value!r}; write dealers ({known}), or fields such as hekla.price.")
    return ",".join(words)


def _notify_urls(name: str, value: Any) -> Secret | None:
    plain = value.reveal() if isinstance(value, Secret) else str(value or "")
    # A comma inside an address, as in ?to=a@x,b@x, parts nothing.
    addresses = [each for each in re.split(r"\s+|,(?=\s|$|[A-Za-z][A-Za-z0-9+.-]*://)", plain) if each]
    if not all(re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/].*", each) for each in addresses):
        # Not shown: the path of a webhook is its key, and a mail address has its password.
        raise ConfigurationError(f"{name} is no list of addresses; write https://… or mailtos://…, comma separated.")
    return Secret(" ".join(addresses)) if addresses else None


def _endings(name: str, value: Any) -> str:
    words = str(value or "").lower().replace(",", " ").split()
    if not set(words) <= {"failed", "partial", "success", "skipped", "interrupted"}:
        raise ConfigurationError(
            f"{name} is {value!r}; write any of failed, partial, success, skipped, interrupted, comma separated."
        )
    return ",".join(words)


def _log_format(name: str, value: Any) -> str:
    if str(value).strip().lower() == "json":
        return "json"
    try:
        logging.Formatter(value or None).format(logging.makeLogRecord({}))
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(
            f"{name} is {value!r}; write json, or a format such as %(levelname)s: %(message)s."
        ) from None
    return str(value or "%(message)s")


def _families(name: str, value: Any) -> int:
    number: int = _number(int, 0)(name, value)
    if number == 1:
        raise ConfigurationError(f"{name} is 1, which makes every photo a placeholder; write 0 (off), 2 or more.")
    return number


def _http_url(name: str, value: Any) -> str | None:
    if not value:
        return None
    try:
        parts = urlsplit(str(value))
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        if "@" in parts.netloc:
            # Not shown: what stands there may be a password, which would then be in the log and in permanent URLs.
            raise ConfigurationError(f"{name} is an address with a user in it; write it without what stands before @.")
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError(f"{name} is {value!r}; write a whole address such as https://images.example.com.")
    return str(value).rstrip("/")


def _feed_url(name: str, value: Any) -> str | None:
    if value and re.search(r"[?#@\s]", str(value)):
        # Not shown: what follows the question mark may be the key.
        raise ConfigurationError(
            f"{name} is more than an address; write it without ? and what follows, the key belongs in HENRY_API_KEY."
        )
    return _http_url(name, value)


def _api_key(name: str, value: Any) -> Secret | None:
    plain = value.reveal() if isinstance(value, Secret) else str(value or "")
    if not plain:
        return None
    if not re.fullmatch(r"[!-~]+", plain) or plain.startswith(("http:", "https:", "apikey=")):
        raise ConfigurationError(f"{name} is not a key; write the key alone, without spaces, quotes or an address.")
    return Secret(plain)


def _bucket(name: str, value: Any) -> str | None:
    if value and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", str(value)):
        raise ConfigurationError(
            f"{name} is {value!r}, which is no bucket name; write 3 to 63 lower-case letters, digits, dots and hyphens."
        )
    return value or None


def _program(name: str, value: Any) -> str | None:
    if value and not Path(str(value)).is_absolute():
        raise ConfigurationError(f"{name} is {value!r}; write the program's whole path, such as /usr/bin/chromium.")
    return str(value) if value else None


def _region(name: str, value: Any) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", str(value or "")):
        raise ConfigurationError(f"{name} is {value!r}, which is no region; write one such as eu-north-1.")
    return str(value)


def _distribution(name: str, value: Any) -> str | None:
    if value and not re.fullmatch(r"[A-Z0-9]{6,32}", str(value)):
        raise ConfigurationError(
            f"{name} is {value!r}, which is no distribution's id; write one such as E2QWRUHEXAMPLE."
        )
    return value or None


def _encryption(name: str, value: Any) -> str | None:
    if value and not re.fullmatch(r"AES256|aws:kms(:\S+)?", str(value)):
        raise ConfigurationError(f"{name} is {value!r}; write AES256, aws:kms or aws:kms:<key id>, or leave it empty.")
    return value or None


def _output_prefix(name: str, value: Any) -> str:
    text = str(value or "")
    if not re.fullmatch(r"[A-Za-z0-9!_.*'()/=+@:,-]{0,700}", text) or {".", ".."} & set(text.split("/")):
        raise ConfigurationError(
            f"{name} is {value!r}; write a folder of the bucket such as outputs/, in letters, digits and !_.*'()=+@:,-."
        )
    return text


def _output_client(name: str, value: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9 +=._:/@-]{1,256}", str(value or "")):
        raise ConfigurationError(f"{name} is {value!r}; write 1 to 256 letters, digits, spaces and +=._:/@-.")
    return str(value)


def _database_url(name: str, value: Any) -> Secret:
    plain = value.reveal() if isinstance(value, Secret) else str(value or "")
    if not re.fullmatch(
        r"sqlite:///(?!:memory:)[^?].*|postgres(ql)?(\+psycopg)?://[^/?].*|postgres(ql)?(\+psycopg)?:///.*", plain
    ):
        raise ConfigurationError(
            f"{name} is not an address of a database; write sqlite:///file.db or postgresql://user:password@host/name."
        )
    if plain.startswith("postgres") and plain.partition("?")[0].count("@") > 1:
        raise ConfigurationError(
            f"{name} has an @ in its password; write %40 instead, as all special characters there."
        )
    return Secret(plain)


def _json_object(name: str, value: Any) -> dict[str, Any]:
    if not value:
        return {}
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        return dict(parsed)
    except (ValueError, TypeError):
        raise ConfigurationError(f"{name} is {value!r}; write a JSON object.") from None


def _thumbs(name: str, value: Any) -> dict[str, tuple[int, int]]:
    thumbs = {}
    for label, size in _json_object(name, value).items():
        good = isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)
        if not good or not re.fullmatch(r"[a-z0-9_-]+", str(label)):
            raise ConfigurationError(f'{name} is {value!r}; write JSON such as {{"small": [320, 240]}}.')
        thumbs[str(label)] = (size[0], size[1])
    return thumbs


def _schedule(name: str, value: Any) -> dict[str, str]:
    schedule = _json_object(name, value)
    for spider, times in schedule.items():
        # Five fields of the characters that cron knows; the worker reads them exactly.
        if not re.fullmatch(r"\w+", str(spider)) or not re.fullmatch(r"[\w*,/?#-]+( [\w*,/?#-]+){4}", str(times)):
            raise ConfigurationError(
                f'{name} is {value!r}; write JSON with a crontab\'s times, such as {{"bilasolur": "17 3,15 * * *"}}.'
            )
    return {str(spider): str(times) for spider, times in schedule.items()}


def _log_level(name: str, value: Any) -> Any:
    given = _env(name, "INFO") if value == LOG_LEVEL else value  # a wrong one is INFO by now
    if not isinstance(given, int) and str(given).upper() not in logging.getLevelNamesMapping():
        raise ConfigurationError(f"{name} is {given!r}; write DEBUG, INFO, WARNING, ERROR or CRITICAL.")
    return value


def _feeds(name: str, value: Any) -> Any:
    """Look whether the files that ``-o`` names can be written: Scrapy finds out at the first car."""
    for uri in _json_object(name, value):
        parts = urlsplit(str(uri))
        if parts.scheme not in {"", "file"}:
            continue
        path = Path(url2pathname(parts.path) if parts.scheme else str(uri))
        folder = next(each for each in path.parents if "%" not in str(each))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"-o {path} can't be written ({error.strerror}): name a file in a folder where you may write."
            ) from None
    return value


checks: dict[str, Check] = {
    "LOG_LEVEL": _log_level,
    "FEEDS": _feeds,
    "LOG_FORMAT": _log_format,
    "MONITOR_MIN_CARS": _number(int, 0),
    "MONITOR_MAX_FAILED_PHOTOS": _optional_share,
    "MONITOR_MIN_STORED": _optional_share,
    "MONITOR_MIN_FILL": _fill_shares,
    "MONITOR_IGNORE_FIELDS": _ignored_fields,
    "MONITOR_MAX_DROP": _optional_share,
    "MONITOR_HISTORY": _number(int, 1),
    "NOTIFY_URLS": _notify_urls,
    "NOTIFY_ON": _endings,
    "USE_S3_STORAGE": _boolean,
    "AUTOTHROTTLE_ENABLED": _boolean,
    "SHARED_PACE": _boolean,
    "IMAGES_STRIP_METADATA": _boolean,
    "LINK_SAME_CARS": _boolean,
    "CRAWL_LOCK": _boolean,
    "AWS_S3_BUCKET": _bucket,
    "AWS_S3_REGION": _region,
    "CHROMIUM_PATH": _program,
    "S3_SSE": _encryption,
    "AWS_ENDPOINT_URL": _http_url,
    "IMAGES_PUBLIC_URL": _http_url,
    "CLOUDFRONT_DISTRIBUTION_ID": _distribution,
    "DATABASE_URL": _database_url,
    "HENRY_URL": _feed_url,
    "HENRY_API_KEY": _api_key,
    "HENRY_STORE_IMAGES": _boolean,
    "IMAGES_THUMBS": _thumbs,
    "S3_TAGS": _json_object,
    "OUTPUTS_KEEP_DAYS": _number(float, 0),
    "S3_UPLOAD_ON_COMPLETION": _boolean,
    "S3_OUTPUT_BUCKET": _bucket,
    "S3_OUTPUT_PREFIX": _output_prefix,
    "S3_OUTPUT_TIMEOUT": _number(float, 1),
    "S3_OUTPUT_RETRIES": _number(int, 0),
    "S3_OUTPUT_TAGS": _boolean,
    "S3_OUTPUT_CLIENT": _output_client,
    "S3_MAX_PARALLEL_UPLOADS": _number(int, 1),
    "S3_UPLOAD_TIMEOUT": _number(float, 1),
    "S3_MAX_RETRIES": _number(int, 0),
    "SPOOL_MAX_BYTES": _number(int, 0),
    "IMAGES_STORE_MAX_BYTES": _number(int, 0),
    "IMAGES_WIDTH": _number(int, 1),
    "IMAGES_MIN_WIDTH": _number(int, 0),
    "IMAGES_MIN_HEIGHT": _number(int, 0),
    "IMAGES_MAX_PIXELS": _number(int, 1),
    "IMAGES_MAX_BYTES": _number(int, 1),
    "IMAGES_PLACEHOLDER_CARS": _families,
    "IMAGES_FINAL_AFTER": _number(int, 1),
    "IMAGES_MAX_IN_FLIGHT": _number(int, 1),
    "IMAGES_CONCURRENCY": _number(int, 1),
    "IMAGES_DOWNLOAD_DELAY": _number(float, 0, optional=True),
    "DATABASE_TIMEOUT": _number(float, 1),
    "DATABASE_PATIENCE": _number(float, 0),
    "DETAILS_MAX_AGE_DAYS": _number(float, 0),
    "CRAWL_MIN_SHARE": _share,
    "CRAWL_MAX_PAGES": _number(int, 1),
    "CRAWL_MAX_LOOKUPS": _number(int, 0),
    "DOWNLOAD_DELAY": _number(float, 0),
    "DOWNLOAD_TIMEOUT": _number(float, 1),
    "RETRY_TIMES": _number(int, 0),
    "RETRY_BACKOFF": _number(float, 0),
    "RETRY_AFTER_MAX": _number(float, 0),
    "WORKER_SCHEDULE": _schedule,
    "WORKER_RETRIES": _number(int, 0),
    "WORKER_RETRY_DELAY": _number(float, 0),
    "WORKER_HEARTBEAT": _number(float, 0.1),
    "PROGRESS_INTERVAL": _number(float, 0.1),
}
"""What a value must be; each check gives the typed value or raises ``ConfigurationError``."""

# Scrapy reads this module's values before the add-on runs: secrets are wrapped from the start.
for _name in secret_names:
    if globals()[_name] is not None:
        globals()[_name] = Secret(globals()[_name])


# --- Names ------------------------------------------------------------------------------------------------------

known_names = frozenset(name for name in globals() if name.isupper()) | _variables
"""Every setting and variable of this program."""
scrapy_names = frozenset(name for name in dir(default_settings) if name.isupper())
_scrapy_variables = {"SCRAPY_PROJECT", "SCRAPY_SETTINGS_MODULE", "SCRAPY_PYTHON_SHELL"}


def meant(name: str, known: Iterable[str]) -> str | None:
    """Return the one of *known* that *name* is a misspelling of; names of other programs are no misspellings.

    >>> [meant(name, known_names) for name in ("USE_S3_STORGE", "use_s3_storage", "CONTAKT")]
    ['USE_S3_STORAGE', 'USE_S3_STORAGE', 'CONTACT']
    >>> [meant(name, known_names) for name in ("AWS_REGION", "AWS_ENDPOINT_URL_STS", "DATABASE_USER")]
    [None, None, None]
    """
    written = name.strip().upper()
    candidates = [each for each in known if abs(len(each) - len(written)) <= 2 and each != "AWS_ENDPOINT_URL_S3"]
    likeness = 0.9 if len(written) > 9 else 0.85
    return next(iter(difflib.get_close_matches(written, candidates, 1, likeness)), None)


def _misspelt() -> Iterable[str]:
    for name in _in_env_file.keys() - known_names - scrapy_names - _scrapy_variables:
        if instead := meant(name, known_names | scrapy_names):
            yield f"{name} in {_env_file} is no setting; did you mean {instead}?"
    # An environment has many variables of other programs, and short names are alike by chance (LOGLEVEL).
    distinct = [name for name in _variables if len(name) > 9 and name != "USER_AGENT"]
    for name in os.environ.keys() - known_names - _scrapy_variables:
        candidates = _scrapy_variables if name.startswith("SCRAPY_") else [*distinct, *({name.upper()} & _variables)]
        if instead := meant(name, candidates):
            yield f"{name} in the environment is no setting; did you mean {instead}?"


problems += sorted(_misspelt())
unread = sorted(_in_env_file.keys() & ((known_names | scrapy_names) - _variables))
"""Names of settings in ``.env`` that are not read from there."""
