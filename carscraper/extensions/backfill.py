"""What a backfill says at its end: a table for each source on standard output, the failures as CSV on request."""

from __future__ import annotations

import csv
import logging
import sys
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from scrapy import signals
from scrapy.exceptions import NotConfigured

from carscraper.addon import for_our_spiders
from carscraper.db import work
from carscraper.db.ledger import Ledger
from carscraper.db.rules import ARCHIVE, HAVE_BYTES
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from carscraper.items import CarItem, GoneCar, Reason, Status
from carscraper.logs import cleaned
from carscraper.manifest import UNREADABLE
from carscraper.state import state_of

if TYPE_CHECKING:
    from typing import IO, Self

    from scrapy.crawler import Crawler

    from carscraper.manifest import ManifestEntry

logger = logging.getLogger(__name__)

_WIDTH = 160  # characters where there is no terminal: nothing is cut
_COLUMNS = ("source", "external_id", "car", "identity", "image", "status", "reason", "row")
# Amazon's list prices in eu-north-1 (Stockholm), November 2026: US dollars for 1,000 requests and a GB-month.
_PUT, _GET, _GB_MONTH = 0.005, 0.0004, 0.023


class BackfillReport:
    """Counts outcomes for each source as items leave the pipelines."""

    def __init__(self, crawler: Crawler, *, path: str | None) -> None:
        """Take the crawler and the file for the failures, if one is wanted."""
        self._crawler = crawler
        self._path = path
        self._file: IO[str] | None = None
        self._writer: Any = None
        self._sources: dict[str, Counter[str]] = defaultdict(Counter)
        self._doubtful: dict[tuple[str, str], list[tuple[str, ...]]] = {}
        """Photos of cars whose pages say that they are gone, until the end of the run says whether they are."""
        self._spooled: list[tuple[str, ...]] = []
        """Photos that wait in the spool, until the end of the run says whether they are stored by then."""
        self._told: set[int] = set()
        """Rows of which a photo is in the file."""
        crawler.signals.connect(self.spider_opened, signal=signals.spider_opened)
        crawler.signals.connect(self.item_scraped, signal=signals.item_scraped)
        crawler.signals.connect(self.unreadable, signal=UNREADABLE)
        crawler.signals.connect(self.engine_stopped, signal=signals.engine_stopped)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the spider's argument ``report``; other spiders need no table."""
        for_our_spiders(crawler)
        if crawler.spidercls.name != "backfill":
            raise NotConfigured
        options = getattr(crawler.spider, "options", None)  # there are none if an argument is wrong
        return cls(crawler, path=options.report if options else None)

    def spider_opened(self) -> None:
        """Begin the file, so that a wrong name is known before anything is fetched.

        Raises:
            ConfigurationError: it can't be written.
        """
        if self._path:
            try:
                # Addresses may hold what has no UTF-8.
                self._file = open(self._path, "w", newline="", encoding="utf-8", errors="backslashreplace")  # noqa: PTH123, SIM115 - closed at the end
            except OSError as error:
                raise ConfigurationError(f"report={self._path} can't be written ({error.strerror}).") from error
            self._writer = csv.writer(self._file)
            self._writer.writerow(_COLUMNS)

    def item_scraped(self, item: Any) -> None:
        """Count what became of the car and its photos."""
        if isinstance(item, GoneCar):
            self._sources[item.source]["gone"] += 1
            for row in self._doubtful.pop((item.source, item.external_id), ()):
                self._failed(*row, "car-gone")
        if not isinstance(item, CarItem):
            return
        doubtful: list[tuple[str, ...]] = []
        counts = self._sources[item.source]
        for image in item.images:
            counts["wanted"] += 1
            row = (item.source, item.external_id, item.url, image.identity, image.source_url, image.status)
            if image.status in HAVE_BYTES:
                counts["stored" if image.attempts else "known"] += 1
            elif image.reason == Reason.LIMIT:
                counts["left"] += 1
            elif image.reason == Reason.DELETED:
                counts["wanted"] -= 1  # on purpose: nobody misses it
            elif image.reason == Reason.SPOOLED:
                self._spooled.append(row)
            elif item.gone and image.reason == Reason.NO_FRESH_ADDRESS:
                doubtful.append(row)
            else:
                self._failed(*row, image.reason or "")
        before = self._doubtful.pop((item.source, item.external_id), ())
        counts["wanted"] -= len(before)  # the car is not gone after all: its photos were asked for once more
        if doubtful:
            self._doubtful[item.source, item.external_id] = doubtful

    def unreadable(self, entry: ManifestEntry) -> None:
        """Count what is no photo in a manifest, an entry or a whole file."""
        self._sources[ARCHIVE]["failed unreadable"] += 1
        self._write(ARCHIVE, "", "", entry.where, cleaned(entry.url), Status.FAILED, entry.problem or "", None)

    def _failed(self, source: str, external_id: str, *cells: str) -> None:
        self._sources[source][f"failed {cells[-1] or 'not fetched'}"] += 1
        spider: Any = self._crawler.spider
        row = spider.rows.get((source, external_id))
        if row is not None:
            self._told.add(row)
        self._write(source, external_id, *cells, row)

    def _write(self, *cells: object) -> None:
        if self._writer:
            texts = ("" if cell is None else str(cell) for cell in cells)
            # A cell that begins like a formula is one for a spreadsheet.
            self._writer.writerow([f"'{text}" if text[:1] in tuple("=+-@\t\r") else text for text in texts])

    async def _unspooled(self) -> set[tuple[str, ...]]:
        """Return those of the photos that waited in the spool that the ledger has as stored now."""
        found = set()
        try:
            for source in {row[0] for row in self._spooled}:
                photos = {(row[1], row[3]): row for row in self._spooled if row[0] == source}
                known = await Ledger.of(self._crawler).read(work.archived, source, list(photos))
                found |= {photos[photo] for photo, now in known.items() if now.status in HAVE_BYTES}
        except DatabaseUnavailableError as error:
            logger.warning("What is in the spool still can't be asked for: %s", error)
        return found

    async def _tell_spooled(self) -> None:
        spider: Any = self._crawler.spider
        stored = await self._unspooled() if self._spooled else set()
        for row in self._spooled:
            if row not in stored:
                self._failed(*row, Reason.SPOOLED)
        for row in stored:
            self._sources[row[0]]["stored"] += 1
            if (row_id := spider.rows.get(row[:2])) not in self._told:
                spider.worklist.stored_after_all(row_id)

    async def engine_stopped(self) -> None:
        """Print the table."""
        await self._tell_spooled()
        for rows in self._doubtful.values():
            for row in rows:
                self._failed(*row, "no-fresh-address")
        spider: Any = self._crawler.spider
        for cells in spider.rows_left(self._told) if self._file else ():
            self._write(*cells)
        if self._file:
            self._file.close()
        stats = self._crawler.stats
        width = None if sys.stdout.isatty() else _WIDTH
        console = Console(file=sys.stdout, soft_wrap=True, highlight=False, width=width)
        plan = state_of(self._crawler).plan
        if plan is not None:
            self._print_plan(console, plan)
        verified = stats.get_value("carscraper/sample/verified")
        if plan is None and verified is None and self._sources:
            self._print_outcome(console)
        if summary := spider.rows_summary():
            console.print(summary)
        if verified:
            removed = stats.get_value("carscraper/sample/removed", 0)
            console.print(f"Sample: {verified} photos stored, read back and found the same; {removed} removed again.")

    def _print_outcome(self, console: Console) -> None:
        table = Table(title="Backfill", title_justify="left")
        for name in ("source", "wanted", "stored or linked", "known before", "left by limit", "failed", "cars gone"):
            table.add_column(name, justify="left" if name in {"source", "failed"} else "right")
        stats = self._crawler.stats
        for source, counts in sorted(self._sources.items()):
            if source == ARCHIVE:  # what needs nothing is no item
                for name, stat in (("known", "known"), ("left", "left")):
                    more = stats.get_value(f"carscraper/images/{stat}", 0) - counts[name]
                    counts.update({name: more, "wanted": more})
            reasons = ", ".join(
                f"{number} {name.removeprefix('failed ')}"
                for name, number in counts.most_common()
                if name.startswith("failed ")
            )
            columns = (str(counts[name]) for name in ("wanted", "stored", "known", "left"))
            table.add_row(source, *columns, reasons or "0", str(counts["gone"]))
        console.print(table)

    def _print_plan(self, console: Console, plan: dict[str, dict[str, int]]) -> None:
        settings = self._crawler.settings
        size = self._crawler.stats.get_value("carscraper/backfill/photo_bytes")
        page_delay, photo_delay = settings.getfloat("DOWNLOAD_DELAY"), settings["DOWNLOAD_SLOTS"]["images"]["delay"]
        table = Table(title="What a backfill would do (nothing was changed)", title_justify="left")
        names = ("source", "cars", "pages of dealers", "photos of dealers", "uploads", "reads", "MB")
        for name in (*names, "minutes"):
            table.add_column(name, justify="left" if name == "source" else "right")
        total: Counter[str] = Counter()
        seconds = 0.0
        for source, row in sorted(plan.items()):
            total.update(row)
            own = max(row["pages"] * page_delay, row["photos"] * photo_delay)
            seconds = max(seconds, own)  # the dealers side by side, each at its own polite rate
            megabytes = row["uploads"] * size / 1e6
            counts = (f"{row[name]:,}" for name in ("cars", "pages", "photos", "uploads", "reads"))
            table.add_row(source, *counts, f"{megabytes:,.0f}", f"{own / 60:,.1f}")
        console.print(table)
        gigabytes = total["uploads"] * size / 1e9
        to_s3 = settings.getbool("USE_S3_STORAGE")
        asked = total["uploads"] + total["reads"] if to_s3 else 0
        console.print(
            f"{total['pages'] + total['photos']:,} requests to dealers, {asked:,} to S3, "
            f"{gigabytes:,.2f} GB (at {size / 1000:,.0f} KB a photo), at least {seconds / 60:,.1f} minutes at the "
            "polite rate."
        )
        if to_s3:
            requests = total["uploads"] * _PUT / 1000 + total["reads"] * _GET / 1000
            console.print(
                f"About {requests:,.2f} US dollars for requests and {gigabytes * _GB_MONTH:,.2f} a month for storage "
                "(Amazon's list prices for eu-north-1; traffic into S3 costs nothing)."
            )
