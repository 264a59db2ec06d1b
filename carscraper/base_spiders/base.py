"""What every spider here has: checked arguments, the ledger, its own stats, and a way to fail."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from scrapy import Spider
from scrapy.exceptions import CloseSpider
from scrapy.http import TextResponse

from carscraper.addon import end_as_failed, stopped_by_shortage
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from carscraper.parsing import clean_text
from carscraper.settings.environment import proxies_named
from carscraper.shortage import SHORTAGE
from carscraper.state import DATABASE_AWAY, state_of
from carscraper.vehicles import slug

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import ClassVar, Self

    from scrapy.crawler import Crawler
    from scrapy.http import Request, Response
    from twisted.python.failure import Failure

    from carscraper.db.ledger import Ledger
    from carscraper.items import CarImage, CarItem

T = TypeVar("T")

_LONGEST_JOB = 200  # characters


class CarscraperSpider(Spider):
    """A spider whose cars go through the pipelines of this program."""

    arguments: dict[str, str]
    """The spider's arguments as they were given."""
    argument_problem: str | None
    """What is wrong with them; the pipelines end the crawl with this sentence."""
    retry_pause: ClassVar[timedelta] = timedelta()
    """How long this spider leaves a photo alone that failed several times."""
    job_id: str
    """Scrapyd's or the queue's name of this run, or one of its own."""

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        """Read arguments and settings; a mistake is kept for the pipelines, which end the crawl with one sentence."""
        spider = super().from_crawler(crawler, name=cls.name)
        # Scrapyd hands every job its id as `_job`.
        spider.job_id = (clean_text(str(kwargs.get("_job") or "")) or "")[:_LONGEST_JOB] or uuid4().hex[:12]
        spider.arguments = {name: str(value) for name, value in kwargs.items() if not name.startswith("_")}
        spider.argument_problem = None
        try:
            spider.configure()
        except ConfigurationError as error:
            spider.argument_problem = str(error)
        return spider

    def configure(self) -> None:
        """Turn the arguments into attributes.

        Raises:
            ConfigurationError: an argument is unknown or wrong.
        """
        raise NotImplementedError

    @property
    def ledger(self) -> Ledger:
        from carscraper.db.ledger import Ledger  # noqa: PLC0415 - `scrapy list` and help texts need no SQLAlchemy

        return Ledger.of(self.crawler)

    # --- what the pipelines ask ---

    def spooled_sources(self) -> list[str] | None:
        """Return the sources whose spooled photos this crawl looks after; ``None`` means all."""
        return None

    def key_folder(self, source: str) -> str:
        """Return the first part of the keys of *source*'s photos: the dealer's spider's name."""
        return slug(source)

    def page_url(self, item: CarItem) -> str | None:
        """Return the address at which the car's own page is asked for; ``None`` if nobody could read it."""
        return item.url

    def fresh_images(self, response: Response, item: CarItem) -> list[CarImage]:
        """Return the photos of *item* on its own page."""
        raise NotImplementedError

    def photo_slot(self, source: str) -> str:
        """Return the download slot of *source*'s photos."""
        return "images"

    # --- what goes wrong ---

    def count(self, what: str, number: int = 1) -> None:
        """Add to the stats under ``carscraper/``."""
        self.crawler.stats.inc_value(f"carscraper/{what}", number)

    async def ask(self, question: Awaitable[T]) -> T:
        """Return what the ledger answers.

        Raises:
            CloseSpider: the database is unreachable; the crawl has failed.
        """
        try:
            return await question
        except DatabaseUnavailableError as error:
            end_as_failed(self.crawler, str(error))
            raise CloseSpider(DATABASE_AWAY) from None

    @property
    def is_stopping(self) -> bool:
        return state_of(self.crawler).stopping is not None

    def end_if_short(self, error: Exception) -> None:
        """End the crawl if *error* comes from a shortage of this machine, and so says nothing about a page.

        Raises:
            CloseSpider: it does.
        """
        if stopped_by_shortage(self.crawler, error):
            raise CloseSpider(SHORTAGE) from None

    def end_as_failed(self, why: str) -> None:
        """Note why the crawl failed; it goes on."""
        end_as_failed(self.crawler, why)

    def fail(self, why: str) -> NoReturn:
        """End the crawl as failed: the site is not what it was.

        Raises:
            CloseSpider: always.
        """
        end_as_failed(self.crawler, why)
        raise CloseSpider("site")


def is_web_address(url: str | None) -> bool:
    """Return whether a request can be made of *url*.

    >>> [is_web_address(url) for url in ("https://bilasolur.is/x", "http://[", "/x", "file:///x", None)]
    [True, False, False, False, False]
    """
    try:
        parts = urlsplit(url or "")
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def by_address(url: str) -> str:
    """Return the identity of a photo of which nothing but the address is known."""
    return f"url:{hashlib.sha256(url.encode('utf-8', 'replace')).hexdigest()[:32]}"


def allow_host(crawler: Crawler, url: str) -> None:
    """Let the crawl connect to the host and port of *url*, wherever they are."""
    parts = urlsplit(url)
    state_of(crawler).addresses.allow(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def read_address(name: str, value: str) -> str:
    """Read the address of a site; it ends with a slash.

    Raises:
        ConfigurationError: it is none.
    """
    if not is_web_address(value.strip()):
        raise ConfigurationError(f"{name} is {value!r}; write a whole address such as https://bilasolur.is/.")
    if "@" in urlsplit(value).netloc:
        # It would be part of every address that is stored.
        raise ConfigurationError(f"{name} is an address with a user in it; write it without what stands before @.")
    return value.strip().rstrip("/") + "/"


def read_count(name: str, value: str | None) -> int | None:
    """Read a number of things; ``None`` means no limit.

    Raises:
        ConfigurationError: it is no number.
    """
    if value is None or value == "":
        return None
    if not re.fullmatch("[0-9]{1,9}", value):
        raise ConfigurationError(f"{name} is {value!r}; write a whole number (0 means no limit).")
    return int(value) or None


def read_flag(name: str, value: str) -> bool:
    """Read yes or no.

    Raises:
        ConfigurationError: it is neither.
    """
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if value.lower() not in known:
        raise ConfigurationError(f"{name} is {value!r}; write true or false.")
    return known[value.lower()]


def status_of(failure: Failure) -> int | None:
    """Return the HTTP status of a page that came and was refused, ``None`` if none came."""
    return getattr(getattr(failure.value, "response", None), "status", None)


def why_no_page(failure: Failure) -> str:
    """Return in a few words why a page did not come, and the proxy that may be the cause."""
    error: Any = failure.value
    status = status_of(failure)
    inner = getattr(error, "reasons", None)  # Twisted wraps what broke a connection
    if status:
        why = f"HTTP {status}"
    elif inner:
        why = why_no_page(inner[0])
    else:
        why = failure.getErrorMessage() or type(error).__name__
    request: Request | None = getattr(failure, "request", None)
    if request and "proxy" in request.meta and status in {None, 407}:
        address = request.meta["proxy"].rpartition("//")[2]
        return f"{why.rstrip('.')}, by the proxy {address}{proxies_named(address)}"
    return why


def forget_tree(response: Response) -> None:
    """Let go of the parsed page of *response* once it is read.

    Response and selector point at each other, and Scrapy keeps the response until its cars are through the pipelines:
    a hundred kilobytes for each, until the garbage collector comes by.
    """
    if isinstance(response, TextResponse):
        response._cached_selector = None  # noqa: SLF001 - Scrapy has no other way
