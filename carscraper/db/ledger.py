"""The ledger: every question to the database and every write, off the event loop.

:class:`Ledger` is what spiders and pipelines talk to. Below it, the other modules of this package hold the SQL as plain
functions of a connection, which :meth:`Ledger.read` and :meth:`Ledger.write` call.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError, IntegrityError

from carscraper.db import cars, photos, schema, work
from carscraper.db.engine import explained_database, open_engine, show_database
from carscraper.db.errors import RAISED, UNIQUE_VIOLATION, Fault, code_of, explain, fault_of, is_of_id
from carscraper.db.opening import Saved
from carscraper.db.placeholders import known_bytes
from carscraper.db.rules import CRAWL, PlaceholderRules, RetryRules
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from carscraper.settings import Secret
from carscraper.shortage import Threads, no_more_files, shortage_of
from carscraper.state import state_of

if TYPE_CHECKING:
    from datetime import datetime

    from scrapy.crawler import Crawler
    from sqlalchemy import Connection

    from carscraper.db.cars import ActiveCar, CardState
    from carscraper.db.placeholders import KnownBytes
    from carscraper.db.work import KnownCar
    from carscraper.items import CarImage, CarItem, GoneCar

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

_GROUP = 100  # cars in one transaction: some 1,500 photo rows, about 0.1 s
# Seconds a transaction waits for company: a third of the CPU for each photo against committing each by itself.
_LINGER = 0.01
_THREADS = 3
_SAY_EVERY = 60.0  # seconds between two messages that the database is away
_MOST_RAISED = 5  # cars, one after the other, that a trigger may refuse before it is taken to refuse all
_RACES = 8  # tries of a transaction that lost against another one


class Ledger:
    """What photo is stored where, which cars are known; one for each crawl."""

    def __init__(
        self,
        database_url: str,
        *,
        timeout: float = 30,
        patience: float = 120,
        rules: PlaceholderRules | None = None,
        retry: RetryRules = CRAWL,
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
        self.rules = rules or PlaceholderRules()
        self.retry = retry
        self._read_only = read_only
        # Of a crawl each thread has a connection, and its locks have one, of which they see that it is theirs alone.
        self._engine = open_engine(
            database_url, timeout=timeout, read_only=read_only, connections=2 if read_only else _THREADS + 2
        )
        self._executor = self._new_executor()
        # When the database was last said to be away, and when somebody had last waited for it in vain.
        self._said = self._waited = -math.inf
        self._raised = 0  # cars that a trigger refused since one was written
        self._opening: asyncio.Future[None] | None = None
        self._opens: Batcher[CarItem, Saved] = Batcher(self._open_cars, size=_GROUP, linger=_LINGER)
        self._saves: Batcher[CarItem | GoneCar, Saved] = Batcher(self._save_cars, size=_GROUP, linger=_LINGER)
        self._photos: Batcher[tuple[int, CarImage], int | None] = Batcher(
            self._save_photos, size=2 * _GROUP, linger=_LINGER
        )
        self._bytes: Batcher[tuple[str, str], KnownBytes | None] = Batcher(self._known_bytes, size=500, linger=_LINGER)

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
                rules=PlaceholderRules.from_settings(settings),
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
            await asyncio.get_running_loop().run_in_executor(self._executor, self._ensure)
        except DBAPIError as error:
            raise ConfigurationError(explain(error, f"DATABASE_URL={show_database(self._engine.url)}")) from None

    def _ensure(self) -> None:
        schema.ensure(self._engine, create=not self._read_only)
        if not self._read_only:
            self._transaction("IMMEDIATE", schema.try_writing)

    @property
    def gave_up(self) -> bool:
        """Somebody has waited for the database in vain."""
        return self._waited > -math.inf

    def hurry(self, *, timeout: float, patience: float) -> None:
        """Wait no longer than this from here on: the crawl is over. Nobody waits again who has waited in vain."""
        self._timeout = min(self._timeout, timeout)
        self._patience = 0 if self.gave_up else min(self._longest, patience)

    def close(self) -> None:
        """Close the connections."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    # --- what spiders ask ---

    async def card_states(self, source: str, external_ids: Iterable[str]) -> dict[str, CardState]:
        """Tell of each known car whether its card changed and whether it has photos to try again."""
        return await self.read(cars.card_states, source, list(external_ids), self.retry)

    async def shown_images(self, source: str, external_ids: Iterable[str]) -> dict[str, list[CarImage]]:
        """Return for each car its photos in their order, with what an item says of them."""
        return await self.read(photos.shown, source, list(external_ids))

    async def active_cars(self, source: str) -> list[ActiveCar]:
        """List every active car of *source*, the longest unseen first."""
        return await self.read(cars.active, source)

    async def unseen_cars(self, source: str, seen: Collection[str], since: datetime) -> list[KnownCar]:
        """List the cars with photos that are due and that a crawl did not see, see ``work.unseen_cars``."""
        return await self.read(work.unseen_cars, source, frozenset(seen), since, self.retry)

    # --- what pipelines write, in groups ---

    async def open_car(self, item: CarItem) -> Saved:
        """Write the car, and rows for photos that have none, before the photos are fetched: ``db.cars.open_cars``.

        Raises:
            DatabaseUnavailableError: not for want of patience.
        """
        return await self._opens.submit(item)

    async def save(self, item: CarItem | GoneCar) -> Saved:
        """Close a car that was opened, or write all of another: ``db.cars.save``; on return it is committed.

        Raises:
            DatabaseUnavailableError: not for want of patience.
        """
        return await self._saves.submit(item)

    async def save_photo(self, listing_id: int, image: CarImage) -> int | None:
        """Write what became of a photo, without waiting for the car's others; on return it is committed.

        Returns:
            How many photos, of any car, it showed to be placeholders; ``None`` if the database refuses it.
        """
        return await self._photos.submit((listing_id, image))

    async def known_bytes(self, source_sha256: str, location: str) -> KnownBytes | None:
        """Tell where in the store *location* the served bytes with this hash already are, or that they are no photo."""
        return await self._bytes.submit((source_sha256, location))

    # --- anything else ---

    async def read(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *function*, which is given a connection and the arguments, reads.

        Raises:
            DatabaseUnavailableError: the database is away, or refuses.
        """
        with explained_database():
            return await self._ask(lambda connection: function(connection, *args, **kwargs))

    async def write(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *function*, which is given a connection in a transaction and the arguments, returns.

        Raises:
            DatabaseUnavailableError: the database is away, or refuses.
        """
        with explained_database():
            return await self._write(lambda connection: function(connection, *args, **kwargs))

    async def is_ready(self) -> bool:
        """Return whether the tables are there and this program's; nothing is made."""
        return await self.read(lambda connection: schema.current(connection) == schema.HEAD)

    # --- how ---

    async def _open_cars(self, items: list[CarItem]) -> list[Saved]:
        return await self._each_at_worst(cars.open_cars, items)

    async def _save_cars(self, items: list[CarItem | GoneCar]) -> list[Saved]:
        return await self._each_at_worst(cars.save, items)

    async def _each_at_worst(self, write: Callable[..., list[Saved]], items: list[Any]) -> list[Saved]:
        """Write *items* together; if one of them can't be written, it must not take the others with it."""
        try:
            written = await self._write(partial(write, items=items, rules=self.rules, retry=self.retry))
        except (DBAPIError, ValueError, OverflowError) as error:
            if len(items) == 1:
                if not isinstance(error, DBAPIError) or code_of(error) != RAISED:
                    return [Saved(error=_first_line(error))]
                self._raised += 1
                if self._raised > _MOST_RAISED:
                    raise DatabaseUnavailableError(explain(error)) from None
                return [Saved(error=_first_line(error), raised=True)]
            logger.debug("A group of %d cars failed (%s); one at a time", len(items), type(error).__name__)
            return [(await self._each_at_worst(write, [item]))[0] for item in items]
        self._raised = 0
        return written

    async def _save_photos(self, outcomes: list[tuple[int, CarImage]]) -> list[int | None]:
        try:
            found = await self._write(partial(photos.write, photos=outcomes, rules=self.rules))
        except (DBAPIError, ValueError, OverflowError) as error:
            # The bytes are safe; each row is written once more with its car's, which tells whose fault it is.
            logger.debug("A group of %d photos failed: %s", len(outcomes), _first_line(error))
            return [None] * len(outcomes)
        return [found, *[0] * (len(outcomes) - 1)]

    async def _known_bytes(self, asked: list[tuple[str, str]]) -> list[KnownBytes | None]:
        return await self._ask(partial(known_bytes, asked=asked, rules=self.rules))

    async def _ask(self, function: Callable[[Connection], T]) -> T:
        return await self._run("DEFERRED", function)

    async def _write(self, function: Callable[[Connection], T]) -> T:
        return await self._run("IMMEDIATE", function)

    async def _run(self, begin: str, function: Callable[[Connection], T]) -> T:
        """Run *function* in a transaction and a thread, again and again while the database is away or refuses."""
        # When somebody has waited in vain, others ask once more, but do not wait as well: the crawl is ending.
        began = time.monotonic()
        deadline = began + (0 if began < self._waited + self._patience else self._patience)
        pause = 0.1
        races = 0
        while True:
            executor = self._executor
            try:
                result = await asyncio.wait_for(
                    asyncio.get_running_loop().run_in_executor(executor, self._transaction, begin, function),
                    self._timeout + 5,
                )
            except DBAPIError as error:
                fault = fault_of(error)
                if fault is Fault.RACE and races < _RACES:
                    races += 1
                    continue
                fault = Fault.DATABASE if is_of_id(error) else fault
                if fault is Fault.ROW or (fault is Fault.RACE and isinstance(error, IntegrityError)):
                    raise
                if said := shortage_of(no_more_files()):
                    raise DatabaseUnavailableError(said) from error
                why = explain(error)
            except TimeoutError:
                # The server holds the connection and says nothing: leave it to its fate, start afresh.
                self._abandon(executor)
                why = f"The database of DATABASE_URL can't be reached (no answer for {self._timeout:.0f} s)."
            except (MemoryError, OSError, RuntimeError) as error:
                if said := shortage_of(error):
                    raise DatabaseUnavailableError(said) from error
                raise
            else:
                return result
            now = time.monotonic()
            if now + pause > deadline:
                self._waited = now if deadline > began else self._waited
                raise DatabaseUnavailableError(why)
            if now > self._said + max(self._patience, _SAY_EVERY):
                self._said = now
                logger.warning("Database away, waiting for up to %.0f s: %s", self._patience, why)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5)

    def _transaction(self, begin: str, function: Callable[[Connection], T]) -> T:
        try:
            return self._once(begin, function)
        except IntegrityError as error:
            if code_of(error) != UNIQUE_VIOLATION or not self._once(begin, schema.set_sequences):
                raise
            return self._once(begin, function)

    def _once(self, begin: str, function: Callable[[Connection], T]) -> T:
        with self._engine.connect().execution_options(sqlite_begin=begin) as connection, connection.begin():
            return function(connection)

    def _abandon(self, executor: Threads) -> None:
        if executor is not self._executor:
            return  # another who waited there was faster
        # What is queued there is not cancelled: each caller has a deadline of its own and then asks again.
        executor.shutdown(wait=False)
        self._executor = self._new_executor()
        self._engine.dispose(close=False)

    @staticmethod
    def _new_executor() -> Threads:
        return Threads(_THREADS, thread_name_prefix="ledger")


def retry_rules(crawler: Crawler) -> RetryRules:
    """Return ``IMAGES_FINAL_AFTER`` and the pause of the spider."""
    final_after = crawler.settings.getint("IMAGES_FINAL_AFTER")
    return RetryRules(final_after=final_after, pause=getattr(crawler.spidercls, "retry_pause", timedelta()))


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


class Batcher(Generic[T, R]):
    """Collects what arrives while a call is under way into the next call.

    A call begins *linger* seconds after its first argument arrived, or when *size* arguments wait.
    """

    def __init__(self, run: Callable[[list[T]], Awaitable[Sequence[R]]], *, size: int, linger: float = 0) -> None:
        """Take *run*, which gives one result for each of its arguments, in their order."""
        self._linger = linger
        self._run = run
        self._size = size
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, argument: T) -> R:
        """Pass *argument* to the next call and wait for its result; the call's exception is raised here."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((argument, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            if self._linger and len(self._waiting) < self._size:
                await asyncio.sleep(self._linger)
            group, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            try:
                results = await self._run([argument for argument, _ in group])
                pairs = list(zip(group, results, strict=True))
            except Exception as error:
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), result in pairs:
                    if not future.done():
                        future.set_result(result)
        self._worker = None
