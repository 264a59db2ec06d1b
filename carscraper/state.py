"""What a crawl knows of itself: one :class:`CrawlState` for each crawler. Stats only count."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from carscraper.network import AddressFilter

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

    from carscraper.db.ledger import Ledger

DATABASE_AWAY = "database_away"
"""A spider's reason to end: the database was waited for in vain."""

_NAME = "carscraper_state"


class ExitCode(IntEnum):
    """How a crawl or a command ended; of two the higher one counts."""

    SUCCESS = 0
    PARTIAL = 3
    """Cars or photos are missing, and the last lines say which."""
    FAILED = 4
    """Nothing is concluded from it."""


@dataclass(kw_only=True)
class CrawlState:
    """The state of one crawl, from the reading of its settings to its last line."""

    one_page: bool = False
    """This is ``scrapy fetch``, ``parse``, ``shell`` or ``view``: there is no ledger, no run and no verdict."""
    addresses: AddressFilter = field(default_factory=AddressFilter)
    """Which machines it may connect to."""
    ledger: Ledger | None = None
    """Its database, see ``Ledger.of``."""
    failed: str | None = None
    """Why it failed: the sentence for the verdict."""
    skipped: str | None = None
    """Why it did not begin though nothing is wrong."""
    skip_code: ExitCode = ExitCode.SUCCESS
    """``PARTIAL`` where the run under way does something else than this one would have done."""
    stopping: str | None = None
    """Scrapy's reason for the end that was asked for and is under way."""
    closed: str | None = None
    """Scrapy's reason for the end of the spider."""
    incomplete: list[str] = field(default_factory=list)
    """What part of the site's list was not seen: sentences."""
    limits: list[str] = field(default_factory=list)
    """The monitors that failed: sentences."""
    plan: dict[str, dict[str, int]] | None = None
    """What a backfill would do, by source, if it only says so."""
    run_id: int | None = None
    """Of its row in ``crawl_runs``."""
    verdict: tuple[ExitCode, list[str]] | None = None
    """Exit code and last lines that are still to be said."""
    exit_code: ExitCode | None = None
    """``None``: there is no verdict yet."""

    def raise_exit_code(self, code: ExitCode) -> None:
        """Set the exit code unless it is higher already."""
        self.exit_code = max(code, self.exit_code or ExitCode.SUCCESS)


def state_of(crawler: Crawler) -> CrawlState:
    """Return the state of *crawler*."""
    state: CrawlState | None = vars(crawler).get(_NAME)
    if state is None:
        state = CrawlState(one_page=crawler.settings.getbool("CARSCRAPER_ONE_PAGE"))
        setattr(crawler, _NAME, state)
    return state
