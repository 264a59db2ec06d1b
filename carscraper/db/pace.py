"""A dealer's pace, shared by all crawls of one database: who may ask when."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import bindparam, text
from sqlalchemy.exc import SQLAlchemyError

from carscraper.db.engine import open_engine, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = 3.0  # seconds for one answer: who waits for it asks a dealer for nothing meanwhile
_LEFT_ALONE = 10.0  # seconds until a database that was away is asked again

# clock_timestamp() is read when the row is ours; now() would be when the transaction began, before it waited.
_NOW = "(clock_timestamp() AT TIME ZONE 'UTC')"
_FROM = f"LEAST(GREATEST(dealer_pace.next_at, {_NOW}), {_NOW} + make_interval(secs => :most))"
_RESERVE = text(
    f"""
    INSERT INTO dealer_pace (slot, next_at) VALUES (:slot, {_NOW} + make_interval(secs => :seconds))
    ON CONFLICT (slot) DO UPDATE SET next_at = {_FROM} + make_interval(secs => :seconds)
    RETURNING extract(epoch FROM next_at - make_interval(secs => :seconds) - {_NOW})
    """  # noqa: S608 - of our own texts
)
_HOLD = text(
    f"""
    UPDATE dealer_pace SET next_at = GREATEST(next_at, {_NOW} + make_interval(secs => :seconds)) WHERE slot IN :slots
    """  # noqa: S608 - of our own texts
).bindparams(bindparam("slots", expanding=True))


def reserve(connection: Connection, slot: str, seconds: float, *, most: float) -> float:
    """Take the next *seconds* of *slot*, behind all that others have taken.

    Args:
        connection: to PostgreSQL, in a transaction of the caller.
        slot: a dealer's pages or its photos.
        seconds: as many as the requests that are to be made keep apart, all together.
        most: what others have taken further ahead than so many seconds does not count: a clock was set back.

    Returns:
        Seconds from now, by the database's clock, until they begin.
    """
    values = {"slot": slot, "seconds": seconds, "most": most}
    return max(0.0, float(connection.execute(_RESERVE, values).scalar_one()))


def hold(connection: Connection, slots: Iterable[str], seconds: float) -> None:
    """Let nobody begin in *slots* for so many *seconds*."""
    connection.execute(_HOLD, {"slots": sorted(slots), "seconds": seconds})


def can_be_shared(database_url: str) -> bool:
    """Whether the database is one for several machines.

    Raises:
        ConfigurationError: the URL can't be read.
    """
    return parse_url(database_url).get_backend_name() == "postgresql"


class Pace:
    """Asks the database, off the event loop and never for long."""

    def __init__(self, database_url: str, *, most: float) -> None:
        """Take ``DATABASE_URL`` and the most seconds that somebody may be made to wait; nothing is connected yet."""
        self._engine = open_engine(database_url, timeout=_PATIENCE)
        self._executor = self._new_executor()
        self._most = most
        self._away_until = 0.0

    async def reserve(self, slot: str, seconds: float) -> float | None:
        """Take the next *seconds* of *slot*; give the seconds until they begin, ``None`` without a database."""
        return await self._ask(lambda connection: reserve(connection, slot, seconds, most=self._most))

    async def hold(self, slots: Iterable[str], seconds: float) -> None:
        """Let nobody begin in *slots* for so many *seconds*, if the database can be told."""
        names = sorted(slots)
        await self._ask(lambda connection: hold(connection, names, min(seconds, self._most)))

    def close(self) -> None:
        """Give the connection back."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    async def _ask(self, function: Callable[[Connection], T]) -> T | None:
        if time.monotonic() < self._away_until:
            return None
        executor = self._executor
        try:
            asked = asyncio.get_running_loop().run_in_executor(executor, self._transaction, function)
            result = await asyncio.wait_for(asked, _PATIENCE)
        except (SQLAlchemyError, TimeoutError) as error:
            # A driver's message is one of the server's; an address with a password is not in it.
            why = str(getattr(error, "orig", error)).partition("\n")[0] or f"no answer for {_PATIENCE:g} s"
            logger.warning("The shared pace is out of reach (%s); this crawl keeps its own for a while", why)
            self._away_until = time.monotonic() + _LEFT_ALONE
            if isinstance(error, TimeoutError) and executor is self._executor:
                executor.shutdown(wait=False, cancel_futures=True)  # its thread hangs: leave it to its fate
                self._executor = self._new_executor()
                self._engine.dispose(close=False)
            return None
        return result

    def _transaction(self, function: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return function(connection)

    @staticmethod
    def _new_executor() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(2, thread_name_prefix="pace")
