"""When two listings are of one car as far as they say it themselves, and when two photos look alike."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Final

from PIL import Image

from carscraper.dealers import is_aggregator, siblings
from carscraper.exceptions import ImageRejectedError
from carscraper.images.thumbnails import thumbnail

if TYPE_CHECKING:
    from collections.abc import Iterable

_VAT: Final = 1.24
_VAT_ROUNDING: Final = 0.005
_KILOMETERS_SHARE: Final = 0.02
_KILOMETERS_ROUNDING: Final = 1_000  # sites write "29 þ.km"
_NEVER: Final = datetime(1, 1, 1)  # noqa: DTZ001 - like all times of the tables, UTC without a zone


@dataclass(slots=True, eq=False)
class Car:
    """A listing, as far as it matters here; the fields are columns of ``car_listings``."""

    id: int
    source: str
    external_id: str
    make: str | None
    year: int | None
    registration_month: int | None
    price: int | None
    price_before_offer: int | None
    price_excludes_vat: bool | None
    kilometers: int | None
    registration_plate: str | None
    is_active: bool
    first_seen_at: datetime | None
    same_as: int | None
    prices: set[int] = field(default_factory=set)
    """All that may be found at another site: of now, before the offer, and of late."""

    @property
    def rank(self) -> tuple[bool, bool, bool, datetime, int]:
        """Order listings of one car, the preferred one first."""
        first = self.first_seen_at
        return (not self.is_active, is_aggregator(self.source), first is None, first or _NEVER, self.id)


def may_be_same(a: Car, b: Car) -> bool:
    """Return whether plates and ids leave it open that two listings are of one car."""
    if a.registration_plate and b.registration_plate and a.registration_plate != b.registration_plate:
        return False
    return not (b.source in siblings(a.source) and a.external_id != b.external_id)


def agree(a: Car, b: Car) -> bool:
    """Return whether make, year, price and mileage of two listings are one car's."""
    if a.make is None or a.year is None or (a.make, a.year) != (b.make, b.year):
        return False
    if a.registration_month and b.registration_month and a.registration_month != b.registration_month:
        return False
    if a.kilometers is not None and b.kilometers is not None:
        apart = abs(a.kilometers - b.kilometers)
        if apart > max(_KILOMETERS_ROUNDING, _KILOMETERS_SHARE * max(a.kilometers, b.kilometers)):
            return False
    return _same_price(a, b)


def _same_price(a: Car, b: Car) -> bool:
    if a.price is None or b.price is None:
        return a.price is None and b.price is None
    if a.price in b.prices or b.price in a.prices:
        return True
    if bool(a.price_excludes_vat) == bool(b.price_excludes_vat):
        return False
    net, gross = (a.price, b.price) if a.price_excludes_vat else (b.price, a.price)
    return abs(net * _VAT - gross) <= _VAT_ROUNDING * gross


def say_enough(a: Car, b: Car) -> bool:
    """Return whether two listings say enough for photos that are only nearly equal: a price, or the mileage."""
    return a.price is not None or (a.kilometers is not None and b.kilometers is not None)


class PriceIndex:
    """The active listings of one make and year, by their prices."""

    def __init__(self, cars: list[Car]) -> None:
        self._unpriced = [car for car in cars if car.price is None]
        priced = sorted(((price, car.id, car) for car in cars for price in car.prices), key=lambda each: each[:2])
        self._prices = [price for price, _, _ in priced]
        self._cars = [car for _, _, car in priced]

    def near(self, car: Car) -> list[Car]:
        """Return those with a price that *car* has too, with or without VAT."""
        if car.price is None:
            return self._unpriced
        found: dict[int, Car] = {}
        for price in car.prices:
            for times, margin in ((1.0, 0.0), (_VAT, 2 * _VAT_ROUNDING), (1 / _VAT, 2 * _VAT_ROUNDING)):
                low, high = price * times * (1 - margin), price * times * (1 + margin)
                between = self._cars[bisect_left(self._prices, low) : bisect_right(self._prices, high)]
                found.update((other.id, other) for other in between)
        return [found[car_id] for car_id in sorted(found)]


class Groups:
    """Listings put together, never two of one site."""

    def __init__(self, cars: dict[int, Car]) -> None:
        self._cars = cars
        self._members: dict[int, set[int]] = {car_id: {car_id} for car_id in cars}
        """Each listing's group; those of one group have the same set."""

    def of(self, car_id: int) -> set[int]:
        """Return the listing's group."""
        return self._members[car_id]

    def sources(self, car_id: int) -> set[str]:
        """Return the sites of the listing's group."""
        return {self._cars[each].source for each in self._members[car_id]}

    def join(self, edges: Iterable[tuple[int, int]]) -> None:
        """Put together what *edges* connect; what would bring two cars of one site together is left as it is."""
        joined: dict[int, set[int]] = {}
        for one, other in edges:
            together = joined.get(one, self._members[one]) | joined.get(other, self._members[other])
            joined.update(dict.fromkeys(together, together))
        for group in {id(group): group for group in joined.values()}.values():
            whole = set().union(*(self._members[car_id] for car_id in group))
            if len({self._cars[car_id].source for car_id in whole}) == len(whole):
                self._members.update(dict.fromkeys(whole, whole))

    def preferred(self) -> dict[int, int | None]:
        """Return for each listing the preferred one of its group; ``None`` for that one itself."""
        found: dict[int, int | None] = {}
        for car_id, group in self._members.items():
            best = min((self._cars[each] for each in group), key=lambda car: car.rank).id
            found[car_id] = None if car_id == best else best
        return found


NEAR: Final = 8
"""Of 64 bits: as far as the same photo was, scaled, cropped and encoded anew (measured)."""

_SMALL: Final = (256, 256)
_FLAT: Final = 24  # of 256 shades of grey: between darkest and lightest


def is_installed() -> bool:
    """Return whether the extra ``carscraper[linking]`` is here, which brings numpy and scipy."""
    return find_spec("imagehash") is not None


def perceptual_hash(data: bytes, *, max_pixels: int = 16_000_000) -> str | None:
    """Return 64 bits as 16 hexadecimal digits; the more bits differ, the less two photos look alike.

    The same photo scaled, encoded anew or turned upright differs in :data:`NEAR` bits at most (measured on the tests'
    photos at three widths, at quality 50 and cropped by a hundredth). ``None`` for what can't be decoded, has more than
    *max_pixels*, or shows next to nothing: an empty picture would look like every other one. It takes milliseconds:
    call it in a thread.
    """
    import imagehash  # noqa: PLC0415 - takes 0.1 s and 50 MB: only for crawls that have photos to compare

    try:
        small = thumbnail(data, _SMALL, max_pixels=max_pixels, quality=90)
    except ImageRejectedError:
        return None
    with Image.open(BytesIO(small), formats=("JPEG",)) as picture:
        grey = picture.convert("L")
    shades = [shade for shade, pixels in enumerate(grey.histogram()) if pixels]
    if shades[-1] - shades[0] < _FLAT:
        return None
    return str(imagehash.phash(grey))
