"""A run from its lock to its last word; ``carscraper.runs`` has the order of its end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from scrapy import signals
from scrapy.exceptions import CloseSpider

from carscraper import __version__, logs
from carscraper.addon import COULD_NOT_BEGIN, aborting, check_pipelines, for_our_spiders, stopped_by_shortage
from carscraper.base_spiders.dealer import DealerSpider
from carscraper.db import coverage, runs
from carscraper.db.engine import is_there
from carscraper.db.ledger import Ledger
from carscraper.db.locks import Locks, acquire, open_locks
from carscraper.exceptions import CarscraperError, ConfigurationError, DatabaseUnavailableError
from carscraper.extensions.field_coverage import CoverageRecorder
from carscraper.extensions.verdict import announce, judge
from carscraper.items import utcnow
from carscraper.network import GuardedResolver
from carscraper.runs import record as words
from carscraper.runs.feeds import missing_feeds
from carscraper.runs.metrics import write_metrics
from carscraper.runs.monitors import check_limits, failed
from carscraper.runs.notices import tell
from carscraper.runs.outputs import JobFolder, upload_outputs
from carscraper.runs.record import RunRecord, overridden, shown_arguments
from carscraper.shortage import shortage_of
from carscraper.state import ExitCode, state_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from scrapy.crawler import Crawler
    from twisted.python.failure import Failure

    from carscraper.db.coverage import ForSale
    from carscraper.settings import Secret

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = 15.0  # seconds that a database may be away when the run has ended
_TIMEOUT = 10.0  # seconds for one of its answers then
_QUICKLY = 2.0  # the same for a run that never began
_LOCK_PATIENCE = 5.0  # seconds for giving the locks back


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


class Run:
    """Takes the locks, writes the row, opens the job folder; at the end gives the verdict and writes it all down."""

    def __init__(self, crawler: Crawler, *, locks: bool) -> None:
        """Take the crawler, and whether two crawls of the same source exclude each other."""
        self._crawler = crawler
        self._state = state_of(crawler)
        self._excludes = locks
        self._since = utcnow()
        self._started = False
        self._record: RunRecord | None = None
        self._photos: ForSale | None = None
        self._folder: JobFolder | None = None
        self._locks: Locks | None = None
        self._telling: list[asyncio.Task[None]] = []
        # Of its own: a database that hangs must not take a thread from those who work.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="locks")
        crawler.signals.connect(self.spider_opened, signal=signals.spider_opened)
        crawler.signals.connect(self.item_scraped, signal=signals.item_scraped)
        crawler.signals.connect(self.item_error, signal=signals.item_error)
        crawler.signals.connect(self.spider_error, signal=signals.spider_error)
        crawler.signals.connect(self.spider_closed, signal=signals.spider_closed)
        crawler.signals.connect(self.engine_stopped, signal=signals.engine_stopped)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read ``CRAWL_LOCK``."""
        for_our_spiders(crawler)
        return cls(crawler, locks=crawler.settings.getbool("CRAWL_LOCK"))

    # --- the beginning ---

    async def spider_opened(self) -> None:
        """Begin, before the first request.

        Raises:
            CloseSpider: another crawl of the source is under way, or the run can't be written down.
        """
        if self._state.failed is not None:
            return
        if not self._rehearses():
            with aborting(self._crawler):
                await self._begin()
        self._started = True

    async def _begin(self) -> None:
        settings = self._crawler.settings
        check_pipelines(settings)
        GuardedResolver.start_threads()
        record = self._new_record()
        ledger = Ledger.of(self._crawler)
        locks = self._locks = open_locks(self._database_url, timeout=settings.getfloat("DATABASE_TIMEOUT"))
        dead: list[RunRecord] = []
        for name in getattr(self._crawler.spider, "locks", None) or [record.source or record.spider]:
            if await self._in_thread(acquire, locks, name) or (
                self._excludes and await self._outlast(locks, ledger, record, name)
            ):
                dead += [RunRecord(**each) for each in await ledger.write(runs.interrupt, name)]
        folder = JobFolder.from_settings(settings, job_id=record.job_id, started_at=record.started_at)
        if folder:
            record.output = folder.output()
        record.id = await ledger.write(runs.start, asdict(record))
        self._record, self._folder = record, folder
        logs.identify(run=record.id)
        if earlier := await ledger.read(runs.earlier, asdict(record), 1):
            self._crawler.stats.set_value("carscraper/cars/expected", RunRecord(**earlier[0]).cars)
        self._state.run_id = record.id
        if folder:
            folder.open()
        self._telling = [asyncio.create_task(self._safely(tell, settings, each)) for each in dead]

    async def _outlast(self, locks: Locks, ledger: Ledger, record: RunRecord, name: str) -> bool:
        """Return true as soon as the lock *name*, which another holds, is ours.

        Raises:
            CloseSpider: another run holds it.
            ConfigurationError: no run that is under way does.
        """
        # A run's row is written a moment after it takes the lock, and finished a moment before it gives it back.
        deadline = time.monotonic() + self._crawler.settings.getfloat("DATABASE_TIMEOUT")
        while True:
            other = await ledger.read(runs.under_way, name) or await ledger.read(runs.under_way, "backfill")
            if other and not (other["host"] == record.host and _is_gone(other["pid"])):
                break
            if await self._in_thread(acquire, locks, name):
                return True
            if time.monotonic() > deadline:
                raise ConfigurationError(await self._in_thread(locks.explain, name))
        run = f"run {other['id']} on {other['host']} since {other['started_at']:%Y-%m-%d %H:%M} UTC"
        if other["spider"] == record.spider:
            self._state.skipped = f"Another crawl of {name} is under way: {run}."
        else:
            self._state.skip_code = ExitCode.PARTIAL
            self._state.skipped = f"{other['spider']} is at work on {name}: {run}. Run this again when it has ended."
        raise CloseSpider("skipped")

    def item_scraped(self, item: Any) -> None:
        """Write the item into the job folder."""
        if self._folder:
            self._folder.write(item)

    def item_error(self, failure: Failure) -> None:
        """Count a car that a mistake in a pipeline has cost; Scrapy logs it and goes on."""
        self._crawler.stats.inc_value("carscraper/cars/failed")
        stopped_by_shortage(self._crawler, failure.value)

    def spider_error(self, failure: Failure) -> None:
        """End the crawl if what a spider raised is no mistake of its own."""
        stopped_by_shortage(self._crawler, failure.value)

    # --- the end ---

    async def spider_closed(self, reason: str) -> None:
        """Remember the reason; a crawl that never began gets its verdict when nothing else is logged any more."""
        self._state.closed = reason
        if self._started and reason != COULD_NOT_BEGIN:
            return
        code, lines = self._state.verdict = self._judge()  # first of all: nothing that follows may cost it
        await self._give_back()
        await self._write_unstarted(code, lines)

    async def engine_stopped(self) -> None:
        """Return the verdict, then everything that comes after it."""
        if not self._started:
            return
        record = self._record
        if record is None:  # a rehearsal
            announce(self._crawler, *self._judge())
            return
        self._finish(record)
        ledger = Ledger.of(self._crawler)
        ledger.hurry(timeout=_TIMEOUT, patience=_PATIENCE)
        try:
            await self._count_photos(record, ledger)
            self._crawler.stats.set_value("carscraper/feeds/missing", missing_feeds(self._crawler))
            await self._look_at_limits(record, ledger)
            code, lines = self._judge()
            announce(self._crawler, code, lines)
            self._conclude(record, code, lines)
            await self._upload(record)
            await ledger.write(runs.finish, asdict(record))
        except CarscraperError as error:
            self._warn("How run %d ended can't be written, `scrapy runs` will not know it: %s", record.id, error)
        await self._give_back()  # telling takes a while, and no run is under way any more
        await self._tell_of(record)

    def _finish(self, record: RunRecord) -> None:
        """Note when the run ended and what its stats say; its items' file is whole."""
        if self._folder:
            self._folder.close_items()
        record.finished_at = utcnow()
        record.take(self._crawler.stats.get_stats())

    async def _tell_of(self, record: RunRecord) -> None:
        """Write the metrics, and tell who wants to hear of the run."""
        await self._safely(write_metrics, self._crawler.settings, record)
        await self._safely(tell, self._crawler.settings, record)
        await asyncio.gather(*self._telling)

    async def _count_photos(self, record: RunRecord, ledger: Ledger) -> None:
        """Ask the ledger how the photos of the cars for sale stand, now that everything is written."""
        spider, settings = self._crawler.spider, self._crawler.settings
        if not (settings.getbool("USE_S3_STORAGE") or settings.get("IMAGES_STORE")):
            self._crawler.stats.set_value("carscraper/images/nowhere", 1)
            return
        if self._is_said:
            return  # rows of photos that are stored wait in the spool with their cars
        options = getattr(spider, "options", None)  # of a backfill
        sources = [record.source] if record.source else getattr(options, "sources", None)
        partial = bool(getattr(spider, "is_partial", False))
        if options is not None:
            left = self._crawler.stats.get_value("carscraper/backfill/left", 0)
            partial = bool(options.only or options.manifest or left)
        try:
            await ledger.write(coverage.count_days, sources, record.started_at)
            found = await ledger.read(coverage.for_sale, sources, record.started_at, ledger.retry, partial)
            self._photos = found
            if settings.getbool("USE_S3_STORAGE"):
                in_folder = await ledger.read(runs.in_folder, record.source)
                self._crawler.stats.set_value("carscraper/images/in_folder", in_folder)
        except CarscraperError as error:
            logger.warning("How many photos are stored can't be read from the ledger: %s", error)
            self._crawler.stats.set_value("carscraper/images/uncounted", 1)
            return
        record.images_for_sale, record.images_for_sale_stored = found.photos, found.stored
        record.images_unstored = found.unstored

    async def _look_at_limits(self, record: RunRecord, ledger: Ledger) -> None:
        settings, spider = self._crawler.settings, self._crawler.spider
        fields = self._crawler.get_extension(CoverageRecorder)
        earlier: list[RunRecord] | None = None
        try:
            try:
                history = settings.getint("MONITOR_HISTORY")
                earlier = [RunRecord(**each) for each in await ledger.read(runs.earlier, asdict(record), history)]
            except CarscraperError as error:
                self._warn("The earlier runs can't be read, to measure this one by them: %s", error)
            coverage, fallen = (fields.coverage, fields.fallen) if fields else (None, [])
            dealer = spider if isinstance(spider, DealerSpider) else None
            record.monitors = check_limits(settings, record, earlier, coverage, spider=dealer, fallen=fallen)
        except Exception:
            logger.exception("The limits of this run can't be looked at, by a mistake of carscraper")
            record.monitors = [{"name": "monitors", "passed": False, "said": "They could not be looked at."}]
        self._state.limits = failed(record.monitors)

    async def _upload(self, record: RunRecord) -> None:
        """Upload what the run wrote; an upload that fails makes it partial, and is said behind the verdict."""
        folder = self._folder
        if not folder:
            return
        folder.close_log()
        about = {"job_id": record.job_id, "started_at": record.started_at, "spider": record.spider}
        output = await self._safely(
            upload_outputs, self._crawler.settings, folder.path, **about, trouble=folder.trouble
        )
        record.output = output or {**record.output, "status": words.FAILED, "errors": ["a mistake of carscraper"]}
        if record.output["status"] == words.SUCCESS:
            return
        said = dict.fromkeys(str(error).rstrip(".") for error in record.output["errors"])
        what = f"outputs not all kept: {'; '.join(said)}"
        if record.exit_code == ExitCode.SUCCESS:
            record.exit_code, record.status, what = ExitCode.PARTIAL, words.PARTIAL, f"partial. Its {what}"
        record.why = f"{record.why}\n{logs.printable(what)}"
        announce(self._crawler, ExitCode.PARTIAL, [f"{record.spider}: {what}"])

    def _conclude(self, record: RunRecord, code: ExitCode, lines: list[str]) -> None:
        record.exit_code = code
        record.status = words.SKIPPED if self._state.skipped is not None else words.STATUS_OF[code]
        # A page's own words make no line of it.
        said = (logs.cleaned(logs.printable(line.removeprefix(f"{record.spider}: "))) for line in lines)
        record.why = "\n".join(said)
        spider = self._crawler.spider
        record.complete = isinstance(spider, DealerSpider) and spider.saw_all(self._state.closed)

    async def _write_unstarted(self, code: ExitCode, lines: list[str]) -> None:
        """Write the row of a run that never began, if there is where to write it."""
        if self._rehearses():
            return
        record = self._record or self._new_record()
        self._finish(record)
        self._conclude(record, code, lines)
        if self._folder:
            self._folder.close_log()
        try:
            if is_there(self._database_url):
                ledger = Ledger.of(self._crawler)
                ledger.hurry(timeout=_QUICKLY, patience=0)
                if record.id is not None:
                    await ledger.write(runs.finish, asdict(record))
                elif await ledger.is_ready():
                    record.id = await ledger.write(runs.start, asdict(record))
        except Exception as error:  # perhaps the very one that kept it from beginning
            logger.debug("There is no row of this run: %s", error)
        await self._tell_of(record)

    async def _give_back(self) -> None:
        if self._locks:
            try:
                await self._in_thread(self._locks.close, within=_LOCK_PATIENCE)
            except CarscraperError as error:
                logger.debug("The locks end with the process: %s", error)
        self._thread.shutdown(wait=False, cancel_futures=True)

    # --- how ---

    @property
    def _is_said(self) -> bool:
        """Return whether the verdict says that the database is away."""
        return self._state.failed is not None and Ledger.of(self._crawler).gave_up

    def _warn(self, what: str, *about: Any) -> None:
        logger.log(logging.DEBUG if self._is_said else logging.WARNING, what, *about)

    def _judge(self) -> tuple[ExitCode, list[str]]:
        return judge(self._crawler.stats.get_stats(), self._state, self._crawler.spidercls.name, self._photos)

    def _rehearses(self) -> bool:
        """Return whether the backfill only tries what it would do: it leaves no row and excludes nobody."""
        spider = self._crawler.spider
        options = getattr(spider, "options", None)
        if options is None:  # an argument is wrong, or it takes none of these
            return bool({"dry_run", "sample"} & getattr(spider, "arguments", {}).keys())
        return bool(options.rehearses)

    def _new_record(self) -> RunRecord:
        spider = self._crawler.spider
        return RunRecord(
            spider=self._crawler.spidercls.name,
            source=spider.source if isinstance(spider, DealerSpider) else None,
            job_id=getattr(spider, "job_id", ""),
            arguments=shown_arguments(getattr(spider, "arguments", {})),
            settings=overridden(self._crawler.settings),
            version=__version__,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._since,
        )

    @property
    def _database_url(self) -> str:
        secret: Secret = self._crawler.settings["DATABASE_URL"]
        return secret.reveal()

    async def _in_thread(self, function: Callable[..., T], *arguments: Any, within: float | None = None) -> T:
        within = within or self._crawler.settings.getfloat("DATABASE_TIMEOUT") + 5
        called = asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        try:
            return await asyncio.wait_for(called, within)
        except TimeoutError:
            raise DatabaseUnavailableError(f"The database does not answer (no answer for {within:.0f} s).") from None

    async def _safely(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T | None:
        """Call in a thread what must not cost the run its end; ``None`` if it made a mistake."""
        try:
            return await asyncio.to_thread(function, *arguments, **named)
        except Exception as error:
            if said := shortage_of(error):
                level = logging.DEBUG if self._state.failed else logging.WARNING  # the verdict has said it
                logger.log(level, "%s could not do its work. %s", function.__name__, said)
            else:
                logger.exception("%s failed by a mistake of carscraper", function.__name__)
            return None
