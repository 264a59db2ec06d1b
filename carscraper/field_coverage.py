"""How much a crawl could read of its cars, and how that compares with another crawl. Pure.

Cards and cars' own pages are counted apart: an unchanged car is not asked for its own page, so that one crawl reads
thousands of pages and the next one a few.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from carscraper.items import CarItem

CARD_FIELDS = (
    *("title", "make", "model", "year", "registration_month", "price", "kilometers", "fuel", "transmission"),
    *("drivetrain", "dealer_id"),
)
"""Fields of ``CarItem`` that a result card may show."""
PAGE_FIELDS = (
    *("drivetrain", "colour", "body", "doors", "seats", "horsepower", "city_consumption", "dealer_name"),
    *("description", "source_updated_at"),
)
"""Fields that a car's own page may show."""
PHOTO, PHOTOS = "photo", "photos_per_car"
"""At least one photo on the card (per cent) · how many (a mean)."""
READABLE = "readable"
"""Cards that could be read at all (per cent)."""
PAGE = "page."
"""What stands before the names of what is read from cars' own pages."""
_CAR, _LEDGER = "car.", "ledger."
"""The same for cars as they are in the end, and for what only the ledger knows of cars whose page was not read."""
_SCRAPED = "scraped"
"""Cars that went through the pipelines, of which ``car.`` and ``ledger.`` are counts."""
MEASURED = (READABLE, *CARD_FIELDS, PHOTO, *(PAGE + name for name in (*PAGE_FIELDS, PHOTO)))
"""What has a share of the cars."""
EXPECTABLE = (PHOTO, "make", "year", "price", "kilometers", "fuel")
"""What a dealer may be expected to show of most cars."""
DROP = 20.0
"""Percentage points by which a field may fall before the page counts as changed."""

_FEWEST = 5  # cars; with fewer, one car without a price is no changed page
_CHANCE = 3.0  # standard deviations that a share may be off by chance: many fields are compared every night
_SPREAD = 0.5  # of the photos a car, in parts of their mean: the standard deviation that is taken for granted


@dataclass(slots=True)
class FieldCoverage:
    """Counts over the cars that one crawl saw."""

    cars: int = 0
    """Whose cards were read."""
    pages: int = 0
    """Whose own pages were read."""
    counts: dict[str, int] = field(default_factory=dict)
    """Cars with each field; photos in all under ``photos`` and ``page.photos``, unreadable cards under ``unreadable``.
    """

    def add_card(self, item: CarItem) -> None:
        self.cars += 1
        self._add(item, "", CARD_FIELDS)

    def add_page(self, item: CarItem) -> None:
        self.pages += 1
        self._add(item, PAGE, PAGE_FIELDS)

    def add_car(self, item: CarItem, known: Collection[str] = ()) -> None:
        """Count a car as it is in the end, wherever its fields were read.

        Args:
            item: with what its card says, and its own page where that was read.
            known: fields that the ledger has of a car whose own page was not read.
        """
        self._add(item, _CAR, CARD_FIELDS)
        self.counts[_SCRAPED] = self.counts.get(_SCRAPED, 0) + 1
        for name in (*CARD_FIELDS, PHOTO):
            has = bool(_shown(item)) if name == PHOTO else getattr(item, name) is not None
            self.counts[_LEDGER + name] = self.counts.get(_LEDGER + name, 0) + int(not has and name in known)

    def _add(self, item: CarItem, prefix: str, names: tuple[str, ...]) -> None:
        found = {name: int(getattr(item, name) is not None) for name in names}
        photos = len(_shown(item))
        found |= {PHOTO: int(bool(photos)), "photos": photos}
        for name, number in found.items():
            self.counts[prefix + name] = self.counts.get(prefix + name, 0) + number

    def shares(self) -> dict[str, float]:
        """Return each field's per cent of the cars, and the mean of photos a car; nothing of what was not looked at.

        >>> FieldCoverage(4, 0, {"price": 3, "photo": 4, "photos": 10, "unreadable": 1}).shares()
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

    def _in_the_end(self, name: str) -> float:
        """Return the per cent of the cars that have what cards show, or the mean of their photos, read anywhere."""
        cars = self.counts.get(_SCRAPED, 0)
        if not cars or name.startswith(PAGE) or name == READABLE:
            return 0.0
        share = self.counts.get(_CAR + ("photos" if name == PHOTOS else name), 0) / cars
        return share if name == PHOTOS else 100 * share

    def having(self, name: str) -> int:
        """Return the number of cars (or cards) that have the field *name*; 0 if it was not looked at."""
        return self.cars if name == READABLE else self.counts.get(name, 0)

    def size_of(self, name: str) -> int:
        """Return the number of cars (or cards) that the share *name* is of."""
        if name == READABLE:
            return self.cars + self.counts.get("unreadable", 0)
        return self.pages if name.startswith(PAGE) else self.cars

    def to_json(self) -> str:
        return json.dumps({"pages": self.pages, **self.counts}, sort_keys=True)

    @classmethod
    def from_json(cls, cars: int, text: str) -> FieldCoverage:
        """Read what :meth:`to_json` wrote.

        >>> FieldCoverage.from_json(3, FieldCoverage(3, 2, {"price": 1}).to_json())
        FieldCoverage(cars=3, pages=2, counts={'price': 1})
        """
        counts: dict[str, Any] = json.loads(text)
        return cls(cars, counts.pop("pages", 0), counts)


def _shown(item: CarItem) -> list[Any]:
    """Return the photos that were read; an unchanged car has all those of the ledger, whatever its card shows."""
    return item.image_urls if item.unchanged else item.images


@dataclass(frozen=True, slots=True)
class Drop:
    """A field that fewer cars have than before."""

    name: str
    before: float
    now: float

    def __str__(self) -> str:
        where = " on the cars' own pages" if self.name.startswith(PAGE) else ""
        unit = "" if self.name.endswith(PHOTOS) else " %"
        return f"{self.name.removeprefix(PAGE)}{where} fell from {self.before:g}{unit} to {self.now:g}{unit}"


def drops(before: FieldCoverage, now: FieldCoverage, points: float = DROP) -> list[Drop]:
    """Return the fields that fell by more than *points*; the mean of photos a car by more than so many per cent of it.

    A field is compared where both crawls looked at five cars or more, and what may be chance is allowed for: the fewer
    the cars, the deeper the fall must be. What the cards lost and the cars' own pages show now did not fall.
    """
    was, is_now = before.shares(), now.shares()
    found = []
    for name, share in was.items():
        sizes = before.size_of(name), now.size_of(name)
        if min(sizes) < _FEWEST:
            continue
        variance = 1 / sizes[0] + 1 / sizes[1]
        if name.endswith(PHOTOS):
            deepest = share * (1 - points / 100 - _CHANCE * _SPREAD * sqrt(variance))
        else:
            usual = (before.having(name) + 1) / (sizes[0] + 2)  # never sure, however few were looked at
            deepest = share - points - 100 * _CHANCE * sqrt(usual * (1 - usual) * variance)
        if max(is_now.get(name, 0.0), now._in_the_end(name)) < deepest:  # noqa: SLF001 - the same module
            found.append(Drop(name, share, is_now.get(name, 0.0)))
    return found


def per_cent(share: float) -> str:
    """Return a share as per cent.

    >>> per_cent(0.05), per_cent(0.333333), per_cent(0.0001)
    ('5 %', '33.3 %', '0.01 %')
    """
    return f"{100 * share:.3g} %"


@dataclass(frozen=True, slots=True)
class Expectation:
    """How many cars have a field, and whether they are as many as a healthy dealer's."""

    name: str
    cars: int
    having: int
    least: float
    """The share that is expected, 0 to 1."""

    def __str__(self) -> str:
        share, least = per_cent(self.having / self.cars), per_cent(self.least)
        return f"{self.having} of {self.cars} cars have {self.name} ({share}), at least {least} are expected"

    @property
    def is_met(self) -> bool:
        """Whether the share is reached, or missed by no more than chance may do with so few cars."""
        chance = _CHANCE * sqrt(self.least * (1 - self.least) / self.cars)
        return self.having / self.cars >= self.least - chance


def look_at(coverage: FieldCoverage, expected: Mapping[str, float]) -> list[Expectation]:
    """Compare the cars as they are in the end with what is expected of their dealer; nothing with fewer than five."""
    cars = coverage.counts.get(_SCRAPED, 0)
    if cars < _FEWEST:
        return []
    return [
        Expectation(name, cars, sum(coverage.counts.get(prefix + name, 0) for prefix in (_CAR, _LEDGER)), least)
        for name, least in expected.items()
    ]


# --- where a field is read ---

_HOOKS = {
    "title": "get_make_model",
    "make": "get_make_model",
    "model": "get_make_model",
    "year": "get_year_month",
    "registration_month": "get_year_month",
    PHOTO: "card_images",
    PHOTOS: "card_images",
    READABLE: "car_in_address",
}
"""What reads a field, where it is not ``get_`` and its name."""


def where_read(spider: type, name: str) -> str:
    """Return where *spider* most likely reads the field *name*: method or attribute, file, and its selectors."""
    hook = "parse_details" if name.startswith(PAGE) else _HOOKS.get(name, f"get_{name}")
    if name in {PAGE + PHOTO, PAGE + PHOTOS}:
        hook = "details_images" if getattr(spider, "details_images", "") else "read_images"
    owner = _owner(spider, hook)
    if "facts" in getattr(getattr(spider, hook, None), "__code__", _owner.__code__).co_names:
        owner = _owner(spider, "facts")
    card = _owner(spider, "read_card")
    if card and not name.startswith(PAGE) and (owner is None or issubclass(card, owner)) and card is not owner:
        hook, owner = "read_card", card  # it reads the whole card in a way of its own
    if owner is None:
        return f"its code of {spider.__name__} in {_file_of(spider)}"
    selectors = "".join(f", {each} = {value!r}" for each, value in _selectors(spider, hook).items())
    return f"{hook} of {spider.__name__} in {_file_of(owner)}{selectors}"


def _owner(spider: type, name: str) -> type | None:
    return next((each for each in spider.__mro__ if name in vars(each)), None)


def _selectors(spider: type, hook: str, depth: int = 2) -> dict[str, str]:
    value: Any = getattr(spider, hook)
    if isinstance(value, str):
        return {hook: value}
    found: dict[str, str] = {}
    code = getattr(value, "__code__", None)
    for name in code.co_names if code else ():
        used: Any = getattr(spider, name, None)
        if isinstance(used, str) and name not in {"name", "source", "home"}:
            found[name] = used
        elif callable(used) and depth and (name.startswith("_") or name == "facts"):
            found |= _selectors(spider, name, depth - 1)
    return found


def _file_of(owner: type) -> str:
    path = (sys.modules[owner.__module__].__file__ or owner.__module__).replace("\\", "/")
    return path.rpartition("/carscraper/")[2]
