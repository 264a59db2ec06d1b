"""When a photo is tried again, when its failure is final, when bytes are a placeholder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, or_

from carscraper.db.models import images, listings
from carscraper.items import Reason, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Self

    from scrapy.settings import BaseSettings

ARCHIVE = "Archive"
"""The source of what comes from a manifest. Its rows are never active: they are no cars for sale."""
HAVE_BYTES = (Status.STORED, Status.SUPERSEDED)
"""Statuses of photos whose bytes are in the store, under their key."""
DECIDED_HERE = frozenset({Reason.BAD_ADDRESS, Reason.DELETED, Reason.CAR_GONE})
"""Reasons that are final at once: nobody has to be asked again."""
LEFT_ON_PURPOSE = frozenset({Reason.LIMIT, Reason.TERMS})
"""Reasons of photos that were left by an argument or a setting."""
FINAL_BY_DAYS = frozenset(
    {
        Reason.NOT_AN_IMAGE,
        Reason.PLACEHOLDER,
        Reason.TOO_SMALL,
        Reason.TOO_LARGE,
        Reason.TRUNCATED,
        Reason.EMPTY,
        Reason.NO_FRESH_ADDRESS,
        Reason.OFF_PAGE,
        Reason.ROBOTS_TXT,
        Reason.BLOCKED_ADDRESS,
    }
)
"""Reasons that become final when the dealer has given the same answer on several days; ``http-4xx`` are others."""

FOR_GOOD = 1000
"""Of ``failed_days``: nobody could give another address, and nobody asks again."""

_BUSY = ("http-408", "http-425", "http-429")  # statuses that say "later"
# A backfill takes a failed photo up again at once this often, then once a day: its ``limit`` is for the others.
_QUICK_ATTEMPTS = 3
_FINAL_RETRY = timedelta(days=7)
_CHUNK = 400  # values of one IN list; SQLite takes 32,766 variables, PostgreSQL 65,535


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceholderRules:
    """When the same bytes on several cars are no photo."""

    families: int = 3
    """Unrelated cars (other make, or other first word of the model) that must show the bytes; 0: never."""
    released: frozenset[str] = frozenset()
    """SHA-256 of pictures that are photos all the same."""

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> Self:
        """Read ``IMAGES_PLACEHOLDER_CARS`` and ``IMAGES_NOT_PLACEHOLDERS``."""
        released = (name.strip().lower() for name in settings.getlist("IMAGES_NOT_PLACEHOLDERS"))
        return cls(families=settings.getint("IMAGES_PLACEHOLDER_CARS"), released=frozenset(released))

    def holds(self, source_sha256: str | None) -> bool:
        """Return whether the rule is on for these bytes."""
        return bool(self.families) and source_sha256 not in self.released


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryRules:
    """When a photo that is not stored is tried again."""

    final_after: int = 3
    """Days with the same answer after which nobody asks again."""
    pause: timedelta = timedelta()
    """How long a photo that failed several times is left alone: not at all by a crawl, which sees its car anyway."""


CRAWL = RetryRules()
"""The rules of a crawl."""


def chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Cut *values* into pieces that fit into one statement."""
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def of_cars(cars: Iterable[tuple[str, str]]) -> Iterator[Any]:
    """Yield conditions that together hold for the rows of *cars*, in the order in which all writers lock them.

    Not ``(source, external_id) IN (…)``: SQLite takes no index for that and reads the whole table.
    """
    for source, group in groupby(sorted(set(cars)), key=itemgetter(0)):
        for chunk in chunks([external_id for _, external_id in group]):
            yield and_(listings.c.source == source, listings.c.external_id.in_(chunk))


def due_condition(now: datetime, retry: RetryRules = CRAWL) -> Any:
    """Return the condition for photos that are not stored and are to be tried again at *now*."""
    due = and_(
        images.c.status.not_in(HAVE_BYTES),
        or_(images.c.reason.is_(None), images.c.reason.not_in(DECIDED_HERE | {Reason.SPOOLED})),
        # A final failure makes no crawl partial, and is asked about once more from time to time.
        images.c.failed_days < FOR_GOOD,
        or_(images.c.failed_days < retry.final_after, images.c.last_attempt_at < now - _FINAL_RETRY),
    )
    if not retry.pause:
        return due
    return and_(
        due,
        or_(
            images.c.last_attempt_at.is_(None),
            images.c.attempts <= _QUICK_ATTEMPTS,
            images.c.last_attempt_at < now - retry.pause,
        ),
    )


def becomes_final() -> Any:
    """Return the condition for photos whose failure becomes final by days."""
    return and_(images.c.status == Status.FAILED, or_(images.c.reason.in_(FINAL_BY_DAYS), is_dead()))


def is_dead() -> Any:
    """Return the condition for photos whose address answers, and not with a photo."""
    reason = images.c.reason
    return or_(reason == Reason.NOT_AN_IMAGE, and_(reason.like("http-4%"), reason.not_in(_BUSY)))


def is_answer(reason: str | None) -> bool:
    """Return whether the dealer has answered with *reason*, as :func:`becomes_final` has it."""
    return reason in FINAL_BY_DAYS or ((reason or "").startswith("http-4") and reason not in _BUSY)
