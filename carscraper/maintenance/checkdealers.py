"""What each dealer's last crawl could read, against an earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carscraper.db import field_coverage as stored
from carscraper.field_coverage import Drop, Expectation, drops, look_at, where_read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from carscraper.db.field_coverage import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One dealer."""

    dealer: str
    """The spider's name."""
    now: Record | None
    """The last crawl."""
    before: Record | None
    """What it is measured by."""
    fallen: list[tuple[Drop, str]]
    """The fields that fell, and where each is read."""
    missing: list[tuple[Expectation, str]]
    """The fields that too few cars have, whatever the crawls before had, and where each is read."""

    @property
    def is_wrong(self) -> bool:
        """Whether somebody should look: a field fell or is missing, or the crawl failed."""
        return bool(self.fallen or self.missing) or self.failed

    @property
    def failed(self) -> bool:
        return self.now is not None and self.now.why is not None

    @property
    def is_compared(self) -> bool:
        """Whether there are two crawls to compare."""
        return self.now is not None and self.before is not None

    def as_json(self) -> dict[str, Any]:
        return {
            "dealer": self.dealer,
            "now": _as_json(self.now),
            "before": _as_json(self.before),
            "dropped": [
                {"field": drop.name, "before": drop.before, "now": drop.now} | {"see": place}
                for drop, place in self.fallen
            ],
            "missing": [
                {"field": each.name, "cars": each.cars, "having": each.having, "least": each.least} | {"see": place}
                for each, place in self.missing
            ],
        }


def _as_json(record: Record | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "finished_at": record.finished_at.isoformat(timespec="seconds"),
        "cars": record.coverage.cars,
        "pages": record.coverage.pages,
        "complete": record.complete,
        "good": record.good,
        "why": record.why,
        "fields": record.coverage.shares(),
    }


def check_dealer(
    connection: Connection,
    dealer: str,
    spider: Any,
    *,
    expected: Mapping[str, float],
) -> Check:
    """Compare the last crawl of *dealer* with what is expected, and with the last good one before it.

    Args:
        connection: in a transaction of the caller.
        dealer: the spider's name.
        spider: its class.
        expected: the share of the cars that have each field, at least.
    """
    now = stored.last(connection, spider.source)
    before = stored.last(connection, spider.source, good=True, before=now.id) if now else None
    fallen = drops(before.coverage, now.coverage) if now and before else []
    missing = [each for each in look_at(now.coverage, expected) if not each.is_met] if now else []
    return Check(
        dealer=dealer,
        now=now,
        before=before,
        fallen=[(drop, where_read(spider, drop.name)) for drop in fallen],
        missing=[(each, where_read(spider, each.name)) for each in missing],
    )


def accept_all(connection: Connection, found: list[Check]) -> list[str]:
    """Make each dealer's last crawl the measure of the next ones; a failed or partial one can't be.

    Returns:
        The dealers that were accepted.
    """
    accepted = []
    for each in found:
        if each.now is not None and each.now.id is not None and each.now.complete:
            stored.accept(connection, each.now.id)
            accepted.append(each.dealer)
    return accepted
