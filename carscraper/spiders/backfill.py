"""The backfill: what older databases point at, and what earlier crawls could not get, is kept for good.

It is one spider over the same pipelines, not a second system: a photo that is not ``stored`` is work, and the database
is the checkpoint. ``docs/backfill.md`` is the runbook.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import tempfile
from collections import deque
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scrapy import Request, signals

from carscraper.addon import end_as_failed
from carscraper.backfill.addresses import Addresses
from carscraper.backfill.archive import Archive, is_wanted, open_backend, reserved
from carscraper.backfill.gone import SecondLook
from carscraper.backfill.naming import Naming
from carscraper.backfill.options import Options
from carscraper.backfill.pipelines import IMPORTING, dry_run_settings, sample_settings
from carscraper.backfill.visits import AT_ONCE
from carscraper.backfill.worklist import LEFT, NO_ADDRESS, NO_CAR, PLANNED, TYPICAL_PHOTOS, Worklist
from carscraper.base_spiders.dealer import DealerSpider
from carscraper.db import work
from carscraper.db.ledger import Ledger, retry_rules
from carscraper.db.rules import ARCHIVE
from carscraper.dealers import spiders_of
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from carscraper.items import CarImage, CarItem
from carscraper.manifest import UNREADABLE, Manifest, ManifestEntry
from carscraper.settings import Secret
from carscraper.state import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator

    from scrapy.http import Response

    from carscraper.db.work import KnownCar, ListedCar

logger = logging.getLogger(__name__)

_READ_AHEAD = 50  # cars read from the ledger at a time
_ARCHIVE_AT_ONCE = 200  # photos of a manifest under way
_TOLD = 10  # broken files of a manifest, or kinds of others beside them, that are named
_TYPICAL_BYTES = 215_000  # of a photo of bilasolur.is at a width of 1280 pixels


class BackfillSpider(SecondLook):
    """Moves what is not stored yet.

    Its arguments are the fields of :class:`~carscraper.backfill.options.Options`.
    """

    name = "backfill"
    _plan: Ledger | None = None
    retry_pause = timedelta(hours=20)  # a daily timer may be some hours early
    custom_settings = {
        # Ours is 150,000; here the spider bounds the cars of each dealer, and a slow one must not fill it for all.
        "SCRAPER_SLOT_MAX_ACTIVE_SIZE": 5_000_000,
    }

    def configure(self) -> None:
        """Turn the arguments into attributes, and take the pipelines off for a rehearsal.

        Raises:
            ConfigurationError: an argument is unknown or wrong.
        """
        spiders = spiders_of(self.settings, DealerSpider)
        self.options = Options.read(self.arguments, {name: spider.source for name, spider in spiders.items()})
        self.limit = self.options.sample or self.options.limit
        self.dealers = {spider.source: spider.from_crawler(self.crawler) for spider in spiders.values()}
        if self.options.sources:  # as they are spelt, so that their locks are those of their crawls
            naming = Naming(self.dealers)
            self.options = replace(self.options, sources=[naming.source(each) or each for each in self.options.sources])
        for dealer in self.dealers.values():
            dealer.base_url = self.options.base_url or dealer.base_url
        self.settings.set("CARSCRAPER_PHOTO_SLOTS", [self.photo_slot(source) for source in (*self.dealers, ARCHIVE)])
        self.addresses = Addresses(self.dealers, base_url=self.options.base_url, crawler=self.crawler)
        self.begin_visits()
        stations = self.settings.getdict("ITEM_PIPELINES")
        self.settings.set("ITEM_PIPELINES", stations | IMPORTING, priority="cmdline")
        if self.options.rehearses:
            self._rehearse_with_other_settings()

    @property
    def locks(self) -> list[str]:
        """The locks that it takes: one of its own, and those of the dealers that it asks, as their crawls do."""
        return [self.name, *([ARCHIVE] if self.options.manifest else self.options.sources or self.dealers)]

    def _rehearse_with_other_settings(self) -> None:
        """Let a dry run have no pipeline that writes, and a sample its own database, spool and prefix."""
        url = self.settings.get("DATABASE_URL")
        plain = url.reveal() if isinstance(url, Secret) else str(url)
        timeout = float(self.settings.get("DATABASE_TIMEOUT"))
        retry = retry_rules(self.crawler)
        self._new_plan = partial(Ledger, plain, timeout=timeout, patience=0, retry=retry, read_only=True)
        if not self.options.manifest:
            self._plan = self._new_plan()
        if self.options.dry_run:
            changes = dry_run_settings()
        else:
            scratch = tempfile.TemporaryDirectory(prefix="carscraper-sample-")
            self._remove_scratch = scratch.cleanup  # a signal holds its receivers by weak references
            self.crawler.signals.connect(self._remove_scratch, signal=signals.engine_stopped)
            changes = sample_settings(self.settings, Path(scratch.name))
        for name, value in changes.items():
            self.settings.set(name, value, priority="cmdline")

    async def open_plan(self) -> None:
        """Open the database that a rehearsal only reads; that of an archive may be new.

        Raises:
            ConfigurationError: it can't be reached, or has no tables of this program.
        """
        if self.options.manifest:
            maker = self._new_plan(read_only=False)
            try:
                await maker.open()
            finally:
                maker.close()
            self._plan = self._new_plan()
        assert self._plan
        await self._plan.open()

    def closed(self, reason: str) -> None:
        """Count the rows that nobody can do anything about, and close the database of a rehearsal."""
        if self._is_planned and not self.options.sample:
            rows = self.worklist.outcome()
            self.count("backfill/unnamed", rows[NO_CAR])
            self.count("backfill/no_address", rows[NO_ADDRESS])
        if self._plan:
            self._plan.close()

    @property
    def _is_planned(self) -> bool:
        return hasattr(self, "worklist")

    def rows_summary(self) -> str:
        """Return what became of the rows of the table, in words."""
        return self.worklist.summary() if self._is_planned else ""

    def rows_left(self, told: Collection[int]) -> Iterator[tuple[Any, ...]]:
        """Return what the report says of rows that are not done, without those that it has *told* of already."""
        return self.worklist.left(frozenset(told), self.rows) if self._is_planned else iter(())

    @property
    def plan(self) -> Ledger:
        """The database that says what there is to do; a rehearsal writes nothing there."""
        return self._plan or self.ledger

    # --- what the pipelines ask ---

    def photo_slot(self, source: str) -> str:
        """Return each dealer a slot of its own: one that is slow holds up nobody."""
        return f"images-{source}" if source in self.dealers or source == ARCHIVE else "images"

    def key_folder(self, source: str) -> str:
        """Return the name of the dealer's spider."""
        dealer = self.dealers.get(source)
        return dealer.name if dealer else super().key_folder(source)

    def page_url(self, item: CarItem) -> str | None:
        """Return the address of the car's page, on ``base_url`` if that is given."""
        dealer = self.dealers.get(item.source)
        return self.addresses.page_of(item.url, item.source) if dealer else None

    def fresh_images(self, response: Response, item: CarItem) -> list[CarImage]:
        """Read the photos with the dealer's own parser."""
        dealer = self.dealers.get(item.source)
        return dealer.read_images(response, item.external_id) if dealer else []

    def not_in_store(self, item: CarItem) -> None:
        """Visit the page of a car whose photo was said to be kept and is not."""
        car = self._handed_on.get((item.source, item.external_id))
        if car:
            self._again.append(car.row_id)
            self.count("images/not_in_store")

    def let_imports_wait(self) -> None:
        """Do first what needs more than the store, which gives or takes nothing just now."""
        self._imports_wait = True

    # --- the work ---

    def parse(self, response: Response) -> NoReturn:
        """Say why ``scrapy parse`` has nothing to read here."""
        self.fail("The backfill reads pages with the dealers' spiders: use `scrapy parse --spider=DEALER URL`.")

    async def start(self) -> AsyncIterator[Any]:
        """Yield cars and requests as there is room for them."""
        if state_of(self.crawler).failed is not None:
            return
        self.worklist = Worklist(self.plan, self.options, self.dealers, self.settings)
        self.archive = None
        try:
            self.worklist.check_store()
            if self.options.manifest:
                self.archive = await self._open_archive(self.options.manifest)
            if self.options.dry_run:
                await self._rehearse()
                return
            async for each in self._feed_archive(self.archive) if self.archive else self._feed_cars():
                yield each
        except (ConfigurationError, DatabaseUnavailableError) as error:
            end_as_failed(self.crawler, str(error))
        except Exception:
            # Scrapy would log it and call the run finished.
            logger.exception("The backfill stopped by a mistake of its own")
            end_as_failed(self.crawler, "A mistake of carscraper ended the backfill early; the log has the traceback.")

    async def _open_archive(self, path: Path) -> Archive:
        options = self.options
        manifest = await asyncio.to_thread(Manifest, path, strip_prefix=options.strip_prefix, thumbs=options.thumbs)
        if alone := manifest.left_alone:
            kinds = ", ".join(f"{number} {kind}" for kind, number in alone.most_common(_TOLD))
            logger.info("Manifest: passed over in its folder, %d in all: %s", alone.total(), kinds)
            self.count("manifest/left_alone", alone.total())
        return Archive(
            manifest,
            ledger=self.plan,
            stats=self.crawler.stats,
            tell=self._tell,
            idle=self._idle,
            room=self._room,
            backend=None if options.sample else open_backend(self.settings),
            reserved=reserved(self.settings),
        )

    def _tell(self, entry: ManifestEntry) -> None:
        """Say that an entry of the manifest, or a whole file, is no photo."""
        self.count("manifest/broken" if entry.of_file else "manifest/bad")
        logger.warning("Manifest: %s: %s", entry.where, entry.problem)
        incomplete = state_of(self.crawler).incomplete
        if entry.of_file and len(incomplete) < _TOLD:
            incomplete.append(f"{entry.where} {entry.problem}.")
        self.crawler.signals.send_catch_log(UNREADABLE, entry=entry)

    async def _rehearse(self) -> None:
        """Leave the plan for ``extensions.backfill`` to print."""
        sizes = await self.plan.read(work.sizes)
        if self.archive:
            archive = dict.fromkeys(PLANNED, 0)
            async for lot in self.archive.lots(self.limit):
                archive["cars"] += 1
                archive["photos"] += sum(map(is_wanted, lot.images))
                self._taken[ARCHIVE] = archive["photos"]
            archive["uploads"] = archive["photos"]
            plans = {ARCHIVE: archive}
        else:
            plans = await self.worklist.rehearse()
        state_of(self.crawler).plan = plans
        self.crawler.stats.set_value("carscraper/backfill/photo_bytes", sizes.bytes_per_photo or _TYPICAL_BYTES)

    async def _feed_cars(self) -> AsyncIterator[Request]:
        queues = await self.worklist.queues()
        self.options = replace(self.options, sources=self.worklist.sources)
        self.crawler.stats.set_value("carscraper/backfill/photos", self._estimate(queues))
        ahead: dict[str, deque[KnownCar]] = {source: deque() for source in queues}
        while not self._is_stopping() and (
            queues or self._again or any(self._under_way.values()) or any(map(self._is_open, self._evidence))
        ):
            while self._again:
                for car in await self._cars([self._again.popleft()]):
                    for each in self._visit(car):
                        yield each
            async for each in self._next_cars(queues, ahead):
                yield each
            for source in [each for each in self._evidence if each not in queues]:
                async for each in self._look_again(source):
                    yield each
            if self._again or (not queues and not any(self._under_way.values())):
                continue
            await self._movement()

    async def _next_cars(
        self, queues: dict[str, deque[ListedCar]], ahead: dict[str, deque[KnownCar]]
    ) -> AsyncIterator[Request]:
        for source in list(queues):
            begun = 0  # a source whose cars are soon through takes turns with the others
            while begun < self._at_once and self._has_room(source):
                if not ahead[source]:
                    rows = [queues[source].popleft() for _ in range(min(_READ_AHEAD, len(queues[source])))]
                    ahead[source].extend(await self._cars([row.row_id for row in rows]))
                if not ahead[source]:
                    break
                for each in self._begin(ahead[source].popleft()):
                    begun += 1
                    yield each
            if not (queues[source] or ahead[source]) and self._later[source]:
                self._last_round.add(source)
                ahead[source], self._later[source] = self._later[source], ahead[source]
            # What is under way may fail, and then there is room again.
            is_full = self._is_full(source) and not self._under_way[source]
            if is_full or not (queues[source] or ahead[source]):
                cars = (*ahead[source], *self._later[source])
                left = [*(row.row_id for row in queues[source]), *(car.row_id for car in cars)]
                self.worklist.fates.update(dict.fromkeys(left, LEFT))
                self.count("backfill/left", len(left))
                del queues[source]

    def _estimate(self, queues: dict[str, deque[ListedCar]]) -> int:
        """Guess how many photos there are to do, for the display."""
        most = self.limit or sys.maxsize
        return sum(
            min(most, sum(row.due + row.in_folder or TYPICAL_PHOTOS for row in rows)) for rows in queues.values()
        )

    async def _movement(self) -> None:
        """Wait until something that was under way has ended, or a second, after which the run may have been stopped."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._moved.wait(), 1)
        self._moved.clear()

    def _is_stopping(self) -> bool:
        crawler = self.crawler
        return not crawler.engine.running or state_of(crawler).stopping is not None

    async def _cars(self, row_ids: list[int]) -> list[KnownCar]:
        cars = await self.plan.read(work.known_cars, row_ids, self.plan.retry)
        for car in cars:
            if car.row_id in self.worklist.names:
                car.item.source, car.item.external_id = self.worklist.names[car.row_id]
            dealer = self.dealers.get(car.item.source)
            # For want of another one; what was not seen at its site keeps the address of its row.
            car.item.url = (car.item.url or "").strip() or (dealer.home if dealer else car.image_url or "-")
            self.rows[car.item.source, car.item.external_id] = car.row_id
        return cars

    @property
    def _at_once(self) -> int:
        """As many as photos are fetched at a time, as a car may have only one."""
        return max(AT_ONCE, self.settings.getint("IMAGES_CONCURRENCY"))

    def _has_room(self, source: str) -> bool:
        if self._is_full(source) or self._under_way[source] >= self._at_once:
            return False
        return not self.limit or self._number(self._taken, source) + self._number(self._reserved, source) < self.limit

    # --- a manifest ---

    async def _feed_archive(self, archive: Archive) -> AsyncIterator[Request]:
        await archive.count()
        async for item in archive.lots(self.limit):
            if self._is_stopping():
                return
            while (
                not self._is_stopping() and sum(number for _, number in self._in_pipelines.values()) >= _ARCHIVE_AT_ONCE
            ):
                await self._movement()
            if self.options.sample:  # which has nothing to say of photos that failed for good
                item.images = list(filter(is_wanted, item.images))
            self._counted_for[id(item)] = wanted = sum(map(is_wanted, item.images))
            self._taken[ARCHIVE] += wanted
            for each in self._hand_on(None, item):
                yield each
        await self._idle()

    async def _room(self) -> int:
        """Return how many more photos of the archive may be begun, once that is known; 0: none in this run."""
        if not self.limit:
            return sys.maxsize
        if self.options.dry_run:
            return self.limit - self._taken[ARCHIVE]
        while not self._is_stopping() and not self._is_in_vain(ARCHIVE):
            room = self.limit - self._taken[ARCHIVE]
            if room or not self._under_way[ARCHIVE]:
                return room
            await self._movement()  # what is under way may fail, and then there is room again
        return 0

    async def _idle(self) -> None:
        while self._under_way[ARCHIVE] and not self._is_stopping():
            await self._movement()
