"""How much a crawl could read of its cars, and how that compares with another crawl. Pure.

Cards and cars' own pages are counted apart: an unchanged car is not asked for its own page, so that one crawl reads
thousands of pages and the next one a few.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carscraper.items import CarItem

CARD_FIELDS = (
    "title",
    "make",
    "model",
    "year",
    "registration_month",
    "price",
    "kilometers",
    "fuel",
    "transmission",
    "drivetrain",
    "dealer_id",
)
"""Fields of ``CarItem`` that a result card may show."""
PAGE_FIELDS = (
    "drivetrain",
    "colour",
    "body",
    "doors",
    "seats",
    "horsepower",
    "city_consumption",
    "dealer_name",
    "description",
    "source_updated_at",
)
"""Fields that a car's own page may show."""
PHOTO, PHOTOS = "photo", "photos_per_car"
"""At least one photo on the card (per cent) · how many (a mean)."""
READABLE = "readable"
"""Cards that could be read at all (per cent)."""
PAGE = "page."
"""What stands before the names of what is read from cars' own pages."""
MEASURED = (READABLE, *CARD_FIELDS, PHOTO, *(PAGE + name for name in (*PAGE_FIELDS, PHOTO)))
"""What has a share of the cars."""
DROP = 20.0
"""Percentage points by which a field may fall before the page counts as changed."""

_FEWEST = 5  # cars; with fewer, one car without a price is no changed page


@dataclass(slots=True)
class Fill:
    """Counts over the cars that one crawl saw."""

    cars: int = 0
    """Whose cards were read."""
    pages: int = 0
    """Whose own pages were read."""
    counts: dict[str, int] = field(default_factory=dict)
    """Cars with each field; photos in all under ``photos`` and ``page.photos``, unreadable cards under ``unreadable``.
    """

    def add_card(self, item: CarItem) -> None:
        """Count a car as its card shows it."""
        self.cars += 1
        self._add(item, "", CARD_FIELDS)

    def add_page(self, item: CarItem) -> None:
        """Count a car as its own page shows it."""
        self.pages += 1
        self._add(item, PAGE, PAGE_FIELDS)

    def _add(self, item: CarItem, prefix: str, names: tuple[str, ...]) -> None:
        found = {name: int(getattr(item, name) is not None) for name in names}
        # An unchanged car has all photos of the ledger, whatever its card shows.
        photos = len(item.image_urls if item.unchanged else item.images)
        found |= {PHOTO: int(bool(photos)), "photos": photos}
        for name, number in found.items():
            self.counts[prefix + name] = self.counts.get(prefix + name, 0) + number

    def shares(self) -> dict[str, float]:
        """Give each field's per cent of the cars, and the mean of photos a car; nothing of what was not looked at.

        >>> Fill(4, 0, {"price": 3, "photo": 4, "photos": 10, "unreadable": 1}).shares()
        {'readable': 80.0, 'price': 75.0, 'photo': 100.0, 'photos_per_car': 2.5}
        """
        unreadable = self.counts.get("unreadable", 0)
        found = {READABLE: 100 * self.cars / (self.cars + unreadable)} if self.cars + unreadable else {}
        for prefix, cars, names in (("", self.cars, CARD_FIELDS), (PAGE, self.pages, PAGE_FIELDS)):
            if not cars:
                continue
            for name in (*names, PHOTO):
                if prefix + name in self.counts:
                    found[prefix + name] = 100 * self.counts[prefix + name] / cars
            found[prefix + PHOTOS] = self.counts.get(f"{prefix}photos", 0) / cars
        return {name: round(share, 1) for name, share in found.items()}

    def having(self, name: str) -> int:
        """Give the number of cars (or cards) that have the field *name*; 0 if it was not looked at."""
        return self.cars if name == READABLE else self.counts.get(name, 0)

    def size_of(self, name: str) -> int:
        """Give the number of cars (or cards) that the share *name* is of."""
        if name == READABLE:
            return self.cars + self.counts.get("unreadable", 0)
        return self.pages if name.startswith(PAGE) else self.cars

    def to_json(self) -> str:
        """Write the counts as one line of text."""
        return json.dumps({"pages": self.pages, **self.counts}, sort_keys=True)

    @classmethod
    def from_json(cls, cars: int, text: str) -> Fill:
        """Read what :meth:`to_json` wrote.

        >>> Fill.from_json(3, Fill(3, 2, {"price": 1}).to_json())
        Fill(cars=3, pages=2, counts={'price': 1})
        """
        counts: dict[str, Any] = json.loads(text)
        return cls(cars, counts.pop("pages", 0), counts)


@dataclass(frozen=True, slots=True)
class Drop:
    """A field that fewer cars have than before."""

    name: str
    before: float
    now: float


def drops(before: Fill, now: Fill, points: float = DROP) -> list[Drop]:
    """Name the fields that fell by more than *points*; the mean of photos a car by more than so many per cent of it.

    A field is compared where both crawls looked at five cars or more.

    >>> drops(Fill(9, 0, {"price": 9, "fuel": 8}), Fill(10, 0, {"price": 1, "fuel": 8}))
    [Drop(name='price', before=100.0, now=10.0)]
    >>> drops(Fill(9, 0, {"price": 9}), Fill(4, 0, {"price": 0}))
    []
    """
    was, is_now = before.shares(), now.shares()
    found = []
    for name, share in was.items():
        if min(before.size_of(name), now.size_of(name)) < _FEWEST:
            continue
        fallen = share - is_now.get(name, 0.0)
        if name.endswith(PHOTOS) and share:
            fallen = 100 * fallen / share
        if fallen > points:
            found.append(Drop(name, share, is_now.get(name, 0.0)))
    return found
