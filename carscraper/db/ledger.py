"""The ledger: every question to the database and every write, off the event loop.

:class:`Ledger` is what spiders and pipelines talk to. Below it, :mod:`carscraper.db.queries` holds the SQL as plain
functions of a connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from carscraper.batching import Batcher
from carscraper.db import coverage, field_coverage, queries, runs, schema, work
from carscraper.db.engine import explained, open_engine, show_database
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from carscraper.settings import Secret
from carscraper.state import state_of

if TYPE_CHECKING:
    from datetime import datetime

    from scrapy.crawler import Crawler

    from carscraper.field_coverage import Drop
    from carscraper.items import CarImage, CarItem, GoneCar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_GROUP = 100  # cars in one transaction: some 1,500 photo rows, about 0.1 s
# Seconds a transaction waits for company: a third of the CPU for each photo against committing each by itself.
_LINGER = 0.01
_THREADS = 3
_RACES = 8  # tries of a transaction that lost against another one
# SQLSTATE 40001 serialization failure, 40P01 deadlock: the whole transaction is repeated at once.
_LOST_RACE = {"40001", "40P01"}


class Ledger:
    """What photo is stored where, which cars are known; one for each crawl."""

    def __init__(
        self,
        database_url: str,
        *,
        timeout: float = 30,
        patience: float = 120,
        rules: queries.PlaceholderRules | None = None,
        retry: queries.RetryRules = queries.CRAWL,
        read_only: bool = False,
    ) -> None:
        """Take plain values; nothing is connected before :meth:`open`.

        Args:
            database_url: as ``DATABASE_URL``.
            timeout: seconds one operation may take.
            patience: seconds the database may be away before :class:`DatabaseUnavailableError`.
            rules: when equal bytes on several cars are a placeholder.
            retry: when a photo that is not stored is tried again.
            read_only: refuse every write; tables must be there.
        """
        self._url = database_url
        self._timeout = timeout
        self._patience = self._longest = patience
        self._rules = rules or queries.PlaceholderRules()
        self._retry = retry
        self._read_only = read_only
        self._engine = open_engine(database_url, timeout=timeout, read_only=read_only)
        self._executor = self._new_executor()
        self._given_up = False
        self._opening: asyncio.Future[None] | None = None
        self._saves: Batcher[CarItem | GoneCar, queries.Saved] = Batcher(self._save, size=_GROUP, linger=_LINGER)
        self._photos: Batcher[tuple[int, CarImage], int] = Batcher(self._save_images, size=200, linger=_LINGER)
        self._known: Batcher[tuple[str, str], dict[str, queries.KnownImage]] = Batcher(
            self._known_images, size=200, linger=_LINGER
        )
        self._bytes: Batcher[tuple[str, str], queries.KnownBytes | None] = Batcher(
            self._known_bytes, size=500, linger=_LINGER
        )

    @staticmethod
    def of(crawler: Crawler) -> Ledger:
        """Return the ledger of *crawler*, made at the first call and closed at its very end."""
        state = state_of(crawler)
        if state.ledger is None:
            settings = crawler.settings
            secret: Secret = settings["DATABASE_URL"]
            state.ledger = Ledger(
                secret.reveal(),
                timeout=settings.getfloat("DATABASE_TIMEOUT"),
                patience=settings.getfloat("DATABASE_PATIENCE"),
                rules=queries.PlaceholderRules.from_settings(settings),
                retry=retry_rules(crawler),
            )
        return state.ledger

    async def open(self) -> None:
        """Connect, and create the tables in an empty database: once, however many pipelines ask for it at once.

        Raises:
            ConfigurationError: the database can't be reached or its tables are not this program's.
        """
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._executor, lambda: schema.ensure(self._engine, create=not self._read_only)
            )
        except DBAPIError as error:
            where = show_database(self._engine.url)
            reason = str(error.orig).strip().split("\n", 1)[0]
            raise ConfigurationError(
                f"DATABASE_URL={where} can't be reached ({reason}); start the database or correct the address."
            ) from None

    def hurry(self, *, timeout: float, patience: float) -> None:
        """Wait no longer than this from here on: the crawl is over."""
        self._timeout = min(self._timeout, timeout)
        self._patience = min(self._longest, patience)
        self._given_up = False

    def close(self) -> None:
        """Close the connections."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    # --- questions ---

    async def card_states(self, source: str, external_ids: Iterable[str]) -> dict[str, queries.CardState]:
        """Tell of each known car whether its card changed and whether it has photos to try again."""
        return await self._ask(queries.card_states, source, list(external_ids), self._retry)

    async def shown_images(self, source: str, external_ids: Iterable[str]) -> dict[str, list[CarImage]]:
        """Return for each car its photos in their order, with what an item says of them."""
        return await self._ask(queries.shown_images, source, list(external_ids))

    async def active_cars(self, source: str) -> list[queries.ActiveCar]:
        """List every active car of *source*, the longest unseen first."""
        return await self._ask(queries.active_cars, source)

    async def spooled_images(self, sources: list[str] | None) -> list[tuple[int, str, str]]:
        """List the rows of photos that wait in a spool, of *sources* or of all: id, key and identity."""
        return await self._ask(queries.spooled_images, sources)

    async def listed(self, sources: list[str] | None, *, include_inactive: bool) -> list[work.Listed]:
        """List the cars that a backfill may have to do with, the soonest lost first."""
        return await self._ask(work.listed, sources, include_inactive, self._retry)

    async def cars(self, row_ids: list[int]) -> list[work.KnownCar]:
        """Return the cars *row_ids* as the tables have them, with their photos."""
        return await self._ask(work.cars, row_ids, self._retry)

    async def unseen_cars(self, source: str, seen: Collection[str], since: datetime) -> list[work.KnownCar]:
        """List the cars with photos that are due and that a crawl did not see, see ``work.unseen_cars``."""
        return await self._ask(work.unseen_cars, source, frozenset(seen), since, self._retry)

    async def without_id(self, sources: list[str] | None) -> list[tuple[int, str, str, str]]:
        """List the rows that name no car: row id, source, address and the photo's address, the last seen first."""
        return await self._ask(work.without_id, sources)

    async def settled(self, source: str, photos: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return the status of those of ``(external_id, identity)`` that are stored or not due."""
        return await self._ask(work.settled, source, photos, self._retry)

    async def known_among(self, source: str, external_id: str, identities: list[str]) -> dict[str, queries.KnownImage]:
        """Return those of a car's photos that are named; for an archive, whose folders hold any number."""
        return await self._ask(work.known_among, source, external_id, identities, self._retry)

    async def sizes(self) -> work.Sizes:
        """Return averages over what is stored, for an estimate."""
        return await self._ask(work.sizes)

    async def known_images(self, source: str, external_id: str) -> dict[str, queries.KnownImage]:
        """Return the photos of a car that the ledger knows, by identity. Asked once for each car."""
        return await self._known.submit((source, external_id))

    async def known_bytes(self, source_sha256: str, location: str) -> queries.KnownBytes | None:
        """Tell where in the store *location* the served bytes with this hash already are, or that they are no photo."""
        return await self._bytes.submit((source_sha256, location))

    # --- writes ---

    async def save(self, item: CarItem | GoneCar) -> queries.Saved:
        """Write the car, its photos and its price change; on return the transaction is committed.

        Raises:
            DatabaseUnavailableError: not for want of patience.
        """
        return await self._saves.submit(item)

    async def save_image(self, listing_id: int, image: CarImage) -> int:
        """Write a photo whose bytes are safe, without waiting for the car's other photos.

        Returns:
            How many photos, of any car, it showed to be placeholders.
        """
        return await self._photos.submit((listing_id, image))

    async def image_stored(self, source: str, external_id: str, image: CarImage) -> bool:
        """Write that a photo which waited in the spool is stored; false while its row is not there yet."""
        try:
            return await self._write(queries.image_stored, source, external_id, image, self._rules)
        except DBAPIError as error:
            logger.warning("The database refuses %r of %s: %s", image.identity, external_id, _first_line(error))
            return False

    async def give_ids(self, external_ids: dict[int, str]) -> dict[int, str]:
        """Fill in the id of the car in rows that have none, unless another row has it; return which got one.

        A ledger that is only read tells which would get one.
        """
        if self._read_only:
            return await self._ask(work.free_ids, external_ids)
        return await self._write(work.give_ids, external_ids)

    async def lose_images(self, listing_id: int, identities: list[str]) -> None:
        """Write that these photos of the folder are not there any more: they are to be fetched again."""
        await self._write(work.lose_images, listing_id, identities)

    async def save_coverage(self, record: field_coverage.Record) -> list[Drop]:
        """Write what a crawl could read of its cars; return the fields that fell against the last good one."""
        try:
            return await self._write(field_coverage.save, record)
        except DBAPIError as error:
            logger.warning("The database refuses what could be read of the cars: %s", _first_line(error))
            return []

    # --- runs; each raises DatabaseUnavailableError, also for what the database refuses ---

    async def is_ready(self) -> bool:
        """Return whether the tables are there and this program's; nothing is made."""

        def look() -> bool:
            with self._engine.connect().execution_options(sqlite_begin="DEFERRED") as connection:
                return schema.current(connection) == schema.HEAD

        with explained():
            return await self._run(look)

    async def start_run(self, run: dict[str, Any]) -> int:
        """Write the row of a run; return the row's id."""
        with explained():
            return await self._write(runs.start, run)

    async def finish_run(self, run: dict[str, Any]) -> None:
        """Write how it ended."""
        with explained():
            await self._write(runs.finish, run)

    async def photos_for_sale(
        self, sources: list[str] | None, *, since: datetime, retry: queries.RetryRules, partial: bool
    ) -> coverage.ForSale:
        """Count the days of failures of the run that began at *since*, then the photos of the cars for sale."""
        with explained():
            await self._write(coverage.count_days, sources, since)
            return await self._ask(coverage.for_sale, sources, since, retry, partial)

    async def earlier_runs(self, run: dict[str, Any], limit: int) -> list[dict[str, Any]]:
        """Return the last runs that *run* can be measured by."""
        with explained():
            return await self._ask(runs.earlier, run, limit)

    async def in_folder(self, source: str | None) -> int:
        """Return how many photos of cars for sale are stored in the folder only."""
        with explained():
            return await self._ask(runs.in_folder, source)

    async def run_under_way(self, lock: str) -> dict[str, Any] | None:
        """Return the run that is under way with this lock."""
        with explained():
            return await self._ask(runs.under_way, lock)

    async def interrupt_dead_runs(self, lock: str) -> list[dict[str, Any]]:
        """Write that the runs with this lock, which the caller has, never came to their end; return them."""
        with explained():
            return await self._write(runs.interrupt, lock)

    # --- for other packages ---

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what *function* reads on a connection."""
        return await self._ask(function, *arguments)

    async def write(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what *function* returns in a transaction that may write."""
        return await self._write(function, *arguments)

    async def release_images(self, row_ids: list[int]) -> None:
        """Let these photos be fetched again: the spool that had them is gone."""
        await self._write(queries.release_images, row_ids)

    # --- how ---

    async def _save(self, items: list[CarItem | GoneCar]) -> list[queries.Saved]:
        try:
            return await self._write(queries.save, items, self._rules)
        except (DBAPIError, ValueError, OverflowError) as error:
            if len(items) == 1:
                return [queries.Saved(error=_first_line(error))]
            # One car of the group can't be written: it must not take the others with it.
            logger.debug("A group of %d cars failed (%s); one at a time", len(items), type(error).__name__)
            return [(await self._save([item]))[0] for item in items]

    async def _save_images(self, photos: list[tuple[int, CarImage]]) -> list[int]:
        try:
            return await self._write(queries.save_images, photos, self._rules)
        except (DBAPIError, ValueError, OverflowError) as error:
            # The bytes are safe; each row is written once more with its car's, which tells whose fault it is.
            logger.debug("A group of %d photos failed: %s", len(photos), _first_line(error))
            return [0] * len(photos)

    async def _known_images(self, cars: list[tuple[str, str]]) -> list[dict[str, queries.KnownImage]]:
        return await self._ask(queries.known_images, cars, True, self._retry)

    async def _known_bytes(self, asked: list[tuple[str, str]]) -> list[queries.KnownBytes | None]:
        return await self._ask(queries.known_bytes, asked, self._rules)

    async def _ask(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._run(self._transaction, "DEFERRED", function, arguments)

    async def _write(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._run(self._transaction, "IMMEDIATE", function, arguments)

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run *function* in a thread, again and again while the database is away."""
        # Who has waited in vain once asks once more, but does not wait again: the crawl is ending.
        deadline = time.monotonic() + (0 if self._given_up else self._patience)
        pause = 0.1
        races = 0
        while True:
            executor = self._executor
            try:
                result = await asyncio.wait_for(
                    asyncio.get_running_loop().run_in_executor(executor, function, *arguments),
                    self._timeout + 5,
                )
            except DBAPIError as error:
                if _lost_race(error) and races < _RACES:
                    races += 1
                    continue
                if not _is_away(error):
                    raise
                reason = str(error.orig).strip().split("\n", 1)[0]
            except TimeoutError:
                # The server holds the connection and says nothing: leave it to its fate, start afresh.
                self._abandon(executor)
                reason = f"no answer for {self._timeout:.0f} s"
            else:
                self._given_up = False
                return result
            if time.monotonic() + pause > deadline:
                self._given_up = True
                raise DatabaseUnavailableError(f"The database does not answer ({reason}).")
            logger.warning("Database away (%s); trying again in %.1f s", reason, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5)

    def _transaction(self, sqlite_begin: str, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        with self._engine.connect().execution_options(sqlite_begin=sqlite_begin) as connection, connection.begin():
            return function(connection, *arguments)

    def _abandon(self, executor: ThreadPoolExecutor) -> None:
        if executor is not self._executor:
            return  # another who waited there was faster
        # What is queued there is not cancelled: each caller has a deadline of its own and then asks again.
        executor.shutdown(wait=False)
        self._executor = self._new_executor()
        self._engine.dispose(close=False)

    @staticmethod
    def _new_executor() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, thread_name_prefix="ledger")


def retry_rules(crawler: Crawler) -> queries.RetryRules:
    """Return ``IMAGES_FINAL_AFTER`` and the pause of the spider."""
    final_after = crawler.settings.getint("IMAGES_FINAL_AFTER")
    return queries.RetryRules(final_after=final_after, pause=getattr(crawler.spidercls, "retry_pause", timedelta()))


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _lost_race(error: SQLAlchemyError) -> bool:
    if isinstance(error, IntegrityError):
        return True  # another crawl inserted the same car between our look and our insert
    return getattr(getattr(error, "orig", None), "sqlstate", None) in _LOST_RACE


def _is_away(error: DBAPIError) -> bool:
    # SQLSTATE class 57: the server is shutting down or starting; 53: it is out of memory, disk or connections.
    state = getattr(error.orig, "sqlstate", None) or ""
    return error.connection_invalidated or isinstance(error, OperationalError) or state[:2] in {"08", "53", "57"}
