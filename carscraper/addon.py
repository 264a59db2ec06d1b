"""Last touch on the settings of each crawl, before any component reads them.

Scrapy calls :meth:`CarscraperAddon.update_settings` when ``-s`` and scrapyd's ``setting=`` are merged, and before
it logs the overridden settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scrapy.exceptions import CloseSpider, NotConfigured
from scrapy.settings import SETTINGS_PRIORITIES, default_settings
from scrapy.utils.misc import load_object

from carscraper import logs
from carscraper.exceptions import CarscraperError, ConfigurationError
from carscraper.network import GuardedResolver
from carscraper.settings import checks, known_names, secret_names, user_agent
from carscraper.settings.environment import ENVIRONMENT, wrong_name
from carscraper.settings.secret import Secret
from carscraper.shortage import SHORTAGE, shortage_of
from carscraper.state import CrawlState, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from scrapy.crawler import Crawler
    from scrapy.settings import BaseSettings

logger = logging.getLogger(__name__)

COULD_NOT_BEGIN = "could_not_begin"
"""Scrapy's reason for the end of a crawl that something unforeseen kept from opening."""

# Libraries whose DEBUG lines carry signed headers or are of no use to the person who runs a crawl.
_QUIET = ("boto3", "botocore", "urllib3", "s3transfer", "asyncio", "PIL", "alembic", "sqlalchemy")

# They log whatever is raised, with its traceback.
_FEEDS = "scrapy.extensions.feedexport"
_OTHERS = ("scrapy.core.engine", "scrapy.core.scraper", "scrapy.utils.signal", "twisted", _FEEDS)


class CarscraperAddon:
    """Puts up the log, wraps secrets so that no line shows them, checks values, derives the photos' download slot."""

    def __init__(
        self,
        spider: str | None = None,
        job: str | None = None,
        *,
        visits_dealers: bool = False,
        state: CrawlState | None = None,
    ) -> None:
        """Accept the spider's name and the job's id, for the log, whether it is one of ours, and the crawl's state."""
        self._spider = spider
        self._job = job
        self._visits_dealers = visits_dealers
        self._state = state or CrawlState()

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Ask for the spider's name and its job's id: Scrapy has made the spider by now."""
        ours = hasattr(crawler.spidercls, "spooled_sources")
        job = getattr(crawler.spider, "job_id", None)
        state = state_of(crawler)
        GuardedResolver.addresses = state.addresses
        return cls(crawler.spidercls.name, job, visits_dealers=ours, state=state)

    @classmethod
    def update_pre_crawler_settings(cls, settings: BaseSettings) -> None:
        """Put up the log in Scrapy's place: this is called before its first line, by whatever runs crawls."""
        if settings.getbool("LOG_INSTALL_ROOT_HANDLER"):
            name = "LOG_INSTALL_ROOT_HANDLER"
            settings.set(name, value=False, priority=settings.getpriority(name) or 0)
            settings.set("CARSCRAPER_LOG_PROBLEM", logs.install(settings), priority="project")

    def update_settings(self, settings: BaseSettings) -> None:
        """Change *settings* in place; a wrong value is remembered for :func:`aborting`, not raised here.

        Raising here would end in a traceback and exit code 1.
        """
        for name in secret_names:
            value = settings.get(name)
            if value is not None and not isinstance(value, Secret):
                settings.set(name, Secret(value), priority=settings.getpriority(name) or 0)
        problems = [*ENVIRONMENT.problems, *self._wrong_names(settings)]
        logs.conceal(settings, ENVIRONMENT.secrets())
        logs.leave_out_inventory(settings)
        settings.set("STATS_DUMP", settings.get("LOG_LEVEL") in {"DEBUG", logging.DEBUG}, priority="project")
        if "CARSCRAPER_LOG_PROBLEM" in settings:  # the log is ours: what the spider says of it counts too
            logs.identify(spider=self._spider, job=self._job)
            problem = logs.install(settings) or settings["CARSCRAPER_LOG_PROBLEM"]
            problems += [problem] if problem else []
        problems += [*self._check(settings), *self._check_scrapys(settings)]
        settings.set("CARSCRAPER_PROBLEMS", problems, priority="project")
        if self._state.one_page:
            self._allow_named_hosts(settings)
            for problem in problems:
                logger.error("%s", problem)
        if not problems:
            self._derive(settings)
        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)
        for name in ("botocore.credentials", "botocore.tokens", "psycopg"):
            logging.getLogger(name).setLevel(logging.ERROR)  # what is refused is said in our own sentence, once
        logging.getLogger("scrapy.downloadermiddlewares.robotstxt").addFilter(_without_traceback)
        logging.getLogger("urllib3.connection").setLevel(logging.ERROR)  # headers of S3 that can't be read
        logging.getLogger("scrapy.extensions.feedexport").addFilter(_refusal_in_a_sentence)
        for name in _OTHERS:
            logging.getLogger(name).addFilter(_without_shortage)
        if exposed := ENVIRONMENT.exposed_file():
            logger.warning("%s has secrets in it, and everybody on this machine may read it: chmod 600", exposed)
        for name in ENVIRONMENT.unread(known_names):
            logger.warning("%s is not read from .env; use -s %s=… instead", name, name)
        self._name_contact(settings)

    @staticmethod
    def _check(settings: BaseSettings) -> Iterator[str]:
        """Replace each value by what its check makes of it; yields what is wrong."""
        for name, check in checks.items():
            priority = settings.getpriority(name) or 0
            try:
                settings.set(name, check(settings.get(name)), priority=priority)
            except ConfigurationError as error:
                yield str(error)
                if hasattr(default_settings, name):
                    # Scrapy reads it before the crawl can end with the sentence.
                    settings.set(name, getattr(default_settings, name), priority=priority)

    @staticmethod
    def _check_scrapys(settings: BaseSettings) -> Iterator[str]:
        """Yield what is wrong with numbers and switches of Scrapy's own, which would raise wherever they are read."""
        for name, default in vars(default_settings).items():
            priority = settings.getpriority(name)
            if name in checks or not priority or not isinstance(default, bool | int | float):
                continue
            try:
                settings.getbool(name) if isinstance(default, bool) else settings.getfloat(name)
            except (ValueError, TypeError):
                words = "true or false" if isinstance(default, bool) else "a number"
                yield f"{name} is {settings.get(name)!r}; write {words}."
                settings.set(name, default, priority=priority)

    @staticmethod
    def _wrong_names(settings: BaseSettings) -> Iterator[str]:
        for name in sorted(settings):
            if settings.getpriority(name) != SETTINGS_PRIORITIES["cmdline"] or name in known_names:
                continue
            if wrong := wrong_name(name):
                yield f"-s {name} is no setting{wrong}"
            elif not name.startswith("PLAYWRIGHT_"):
                logger.warning("-s %s is no setting of carscraper's or Scrapy's: nothing here reads it", name)

    def _name_contact(self, settings: BaseSettings) -> None:
        contact = settings.get("CONTACT")
        name = "USER_AGENT"
        if contact and (settings.getpriority("CONTACT") or 0) > (settings.getpriority(name) or 0):
            settings.set(name, user_agent(contact), priority=settings.getpriority("CONTACT") or 0)
        elif not contact and self._visits_dealers and settings.get(name) == user_agent(None):
            logger.warning("CONTACT is not set: name a mail address or URL at which dealers can reach you")

    def _allow_named_hosts(self, settings: BaseSettings) -> None:
        """Let a command connect to what its user wrote on the command line, wherever that is."""
        allow = self._state.addresses.allow
        self._state.addresses.allow_all(settings.getlist("IMAGES_ALLOWED_HOSTS"))
        for word in ENVIRONMENT.words:
            with contextlib.suppress(ValueError):
                parts = urlsplit(word if "://" in word else f"http://{word}")
                if parts.hostname:
                    allow(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))

    @staticmethod
    def _derive(settings: BaseSettings) -> None:
        delay = settings.get("IMAGES_DOWNLOAD_DELAY")
        if delay is None:
            delay = settings.getfloat("DOWNLOAD_DELAY") / 4
        slots = settings.getdict("DOWNLOAD_SLOTS")
        polite = {"concurrency": settings.getint("IMAGES_CONCURRENCY"), "delay": delay}
        for name in ("images", *settings.getlist("CARSCRAPER_PHOTO_SLOTS")):  # a spider of many dealers has many
            slots.setdefault(name, polite)
        settings.set("DOWNLOAD_SLOTS", slots, priority=settings.getpriority("DOWNLOAD_SLOTS") or 0)
        # It is also how many idle connections to a host are kept; with fewer, most photos would open a new one.
        name = "CONCURRENT_REQUESTS_PER_DOMAIN"
        most = max(settings.getint(name), settings.getint("IMAGES_CONCURRENCY"))
        settings.set(name, most, priority=settings.getpriority(name) or 0)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Keep the line and drop the traceback: a site that is down is no mistake of the program."""
    record.exc_info = None
    return True


def _refusal_in_a_sentence(record: logging.LogRecord) -> bool:
    """Say what a store refuses in the line itself, without a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, CarscraperError):
        record.msg, record.args, record.exc_info = "%s: %s", (record.getMessage(), error), None
    return True


def _without_shortage(record: logging.LogRecord) -> bool:
    """Leave what this machine runs short of to the verdict, which says it once; it says nothing more of a feed."""
    if why := shortage_of(record.exc_info[1] if record.exc_info else None):
        record.msg, record.args, record.exc_info = f"{record.getMessage()}: {why}", (), None
        if record.name != _FEEDS:
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return True


_KEEPERS = (
    "carscraper.pipelines.cars.CarsPipeline",
    "carscraper.pipelines.images.CarImagesPipeline",
    "carscraper.pipelines.cars.ClosingPipeline",
)


def check_pipelines(settings: BaseSettings) -> None:
    """See that the pipelines that keep cars and photos, or subclasses of them, are there.

    Raises:
        ConfigurationError: one is not.
    """
    present = [load_object(each) for each, order in settings.getdict("ITEM_PIPELINES").items() if order is not None]
    missing = [each for each in _KEEPERS if not any(issubclass(kind, load_object(each)) for kind in present)]
    if missing:
        raise ConfigurationError(
            f"ITEM_PIPELINES leaves out {' and '.join(missing)}, so that cars or photos would be kept nowhere; "
            "add your pipelines to the project's."
        )


@contextlib.contextmanager
def aborting(crawler: Crawler) -> Iterator[None]:
    """Turn whatever is raised at start-up into the end of the crawl with one sentence, no traceback.

    Raises:
        CloseSpider: with the reason ``configuration``, or ``could_not_begin`` for what nobody foresaw;
            ``extensions.verdict`` prints the sentence.
    """
    try:
        _raise_problems(crawler)
        yield
    except CloseSpider:
        raise
    except CarscraperError as error:
        end_as_failed(crawler, logs.cleaned(str(error)))
        raise CloseSpider("configuration") from None
    except Exception as error:
        end_as_failed(crawler, could_not_begin(error))
        raise CloseSpider(COULD_NOT_BEGIN) from None


def could_not_begin(error: Exception) -> str:
    """Return the sentence for what was raised while a crawl opened; DEBUG shows where."""
    logger.debug("This kept the crawl from beginning", exc_info=error)
    said = in_a_sentence(error)
    return said if isinstance(error, CarscraperError) else f"It could not begin: {said}"


def in_a_sentence(error: Exception) -> str:
    """Return what *error* says as one line for people, without secrets.

    >>> in_a_sentence(ConfigurationError("LIMIT is wrong.")), in_a_sentence(PermissionError(13, "denied", "/x"))
    ('LIMIT is wrong.', "PermissionError: [Errno 13] denied: '/x'.")
    """
    if said := shortage_of(error):
        return logs.cleaned(said)
    if isinstance(error, CarscraperError):
        return logs.cleaned(str(error))
    reason = getattr(error, "orig", None) or error  # as SQLAlchemy keeps what the database said
    line = next((line.strip() for line in str(reason).splitlines() if line.strip()), "it says nothing more")
    who = type(error).__name__ if reason is error else "the database of DATABASE_URL refuses"
    return logs.cleaned(f"{who}: {line.rstrip('.')}.")


def _raise_problems(crawler: Crawler) -> None:
    problems: list[str] = crawler.settings.getlist("CARSCRAPER_PROBLEMS")
    problem = problems[0] if problems else getattr(crawler.spider, "argument_problem", None)
    if problem:
        raise ConfigurationError(problem)


def for_our_spiders(crawler: Crawler) -> None:
    """Keep what knows our spiders only out of ``scrapy shell``, ``fetch`` and other programs' spiders.

    Raises:
        NotConfigured: the crawler's spider is none of ours, or this is no crawl.
    """
    if not hasattr(crawler.spidercls, "spooled_sources") or state_of(crawler).one_page:
        raise NotConfigured


def end_as_failed(crawler: Crawler, why: str) -> None:
    """Write *why* the crawl failed, in one line, where ``extensions.verdict`` looks; the first reason stays."""
    state = state_of(crawler)
    if state.failed is None:
        why = state.failed = logs.cleaned(" ".join(why.split()))  # libraries' messages have line breaks, and secrets
        if state.one_page:
            logger.error("%s", why)  # no verdict comes


def stop_as_failed(crawler: Crawler, why: str, *, reason: str) -> None:
    """End the crawl early, as failed; what is in flight is finished.

    Args:
        crawler: it may be ending already.
        why: the sentence for the verdict; the first one stays.
        reason: Scrapy's word for why the spider was closed.
    """
    end_as_failed(crawler, why)
    state = state_of(crawler)
    if crawler.engine.running and not state.stopping:
        state.stopping = reason
        asyncio.ensure_future(crawler.engine.close_spider_async(reason=reason))  # noqa: RUF006 - the engine waits for it


def stopped_by_shortage(crawler: Crawler, error: BaseException | None) -> bool:
    """End the crawl if *error* comes from a shortage of this machine.

    Returns:
        Whether the crawl is ending for one: what fails meanwhile says nothing about a site or a photo either.
    """
    if why := shortage_of(error):
        stop_as_failed(crawler, why, reason=SHORTAGE)
    return why is not None or state_of(crawler).stopping == SHORTAGE
