"""What the pages of one source's cars said in a run, and whether that is believed.

A page that says "gone" is a word, not yet a fact: sites were seen to say it of every car for a while. It is heard
twice, the second time when the source's other cars are through, and believed only while pages of cars that are for sale
show theirs. ``docs/backfill.md`` has the rules.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carscraper.db.work import KnownCar

CONTROLS = 3
"""Pages of cars for sale that are asked for before anything is concluded."""
_TRUSTED = 0.8  # of the controls that answer; one may have been sold since
_MANY = 5  # cars; of fewer all may be sold by chance


@dataclass(slots=True)
class Evidence:
    """The cars of one source whose pages say that they are gone, and what speaks for it and against."""

    doubtful: deque[KnownCar] = field(default_factory=deque)
    """Their page said so once."""
    gone: list[KnownCar] = field(default_factory=list)
    """Their page said so, and nothing found them when they were looked for again."""
    shown: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=CONTROLS))
    """The last cars whose pages showed them: id and address."""
    lately: Counter[bool] = field(default_factory=Counter)
    """Cars that a crawl saw for sale in the last days, by whether their pages show them."""
    controls: list[bool] | None = None
    """What the pages of cars for sale said at the end, by whether they show the car; ``None``: not asked yet."""

    believed: bool = False
    """The comparison is made, and the pages are believed."""

    def why_not(self, min_share: float) -> str | None:
        """Say why the word of the pages is not believed; ``None`` if it is.

        Args:
            min_share: ``CRAWL_MIN_SHARE``, of the cars that were for sale lately.
        """
        controls = self.controls or []
        if not controls:
            few = len(self.gone) < _MANY
            return None if few else "no page of a car that is for sale could be found to compare them with"
        if sum(controls) < _TRUSTED * len(controls):
            return f"so do those of {controls.count(False)} of {len(controls)} cars that are for sale"
        if self.lately.total() >= _MANY and self.lately[True] < min_share * self.lately.total():
            return (
                f"{self.lately[False]} of {self.lately.total()} cars that a crawl saw for sale in the last 14 days "
                "are gone by their pages, more than CRAWL_MIN_SHARE allows"
            )
        return None
