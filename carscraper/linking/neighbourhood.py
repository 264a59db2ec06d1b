"""The listings around some listings: all that can matter for how these are linked, and which are of one car."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import and_, exists, or_, select

from carscraper.db.models import ImageLikeness, PriceChange, images, listings
from carscraper.db.rules import chunks
from carscraper.dealers import siblings
from carscraper.items import Reason, Status, utcnow
from carscraper.linking.rules import NEAR, Car, Groups, PriceIndex, agree, may_be_same, say_enough

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection, Table

MOST_PHOTOS: Final = 12
"""Of a car's photos that many are compared by their phashes; the dealer's best ones come first."""

_PRICE_MEMORY: Final = timedelta(days=14)  # one site shows a new price before the other
_FAMILY: Final = 40  # listings that are looked at because they share a photo

phashes = cast("Table", ImageLikeness.__table__)
_changes = cast("Table", PriceChange.__table__)

_COLUMNS = [listings.c[name] for name in Car.__slots__ if name != "prices"]
_NAMED = and_(listings.c.source.is_not(None), listings.c.external_id.is_not(None))
# Bytes in the spool are proof as well as those in the store; placeholders are none.
_PROVES = and_(
    images.c.source_sha256.is_not(None), or_(images.c.status == Status.STORED, images.c.reason == Reason.SPOOLED)
)


class Neighbourhood:
    """Some listings, and all others that can matter for how these are linked."""

    def __init__(self, connection: Connection, ids: Iterable[int]) -> None:
        self.cars: dict[int, Car] = {}
        self._connection = connection
        self._families: dict[str, dict[int, tuple[str, bool]]] = {}
        """Listings that show the same bytes, by these: source, and whether it is active."""
        self._indexes: dict[tuple[str, int], PriceIndex] = {}
        self._hashes: dict[int, list[int]] = {}
        self._near: dict[int, set[int]] = defaultdict(set)
        self._asked = set(ids)
        self._grow(self._asked)
        self._groups = self._group()

    # --- who is around ---

    def _grow(self, frontier: set[int]) -> None:
        while frontier := frontier - self.cars.keys():
            new = self._read(listings.c.id, frontier)
            self.cars.update((car.id, car) for car in new)
            if not new:
                return
            self._remember_prices(new)
            frontier = {car.same_as for car in new if car.same_as is not None}
            frontier |= self._ids(listings.c.same_as, [car.id for car in new])
            for sources in {siblings(car.source) for car in new} - {frozenset()}:
                shared = [car.external_id for car in new if car.source in sources]
                frontier |= self._ids(listings.c.external_id, shared, listings.c.source.in_(sources))
            frontier |= self._ids(listings.c.registration_plate, filter(None, (car.registration_plate for car in new)))
            frontier |= self._with_same_bytes([car.id for car in new])
            frontier |= self._alike(new)

    def _read(self, column: Any, values: Iterable[Any], *more: Any) -> list[Car]:
        found = []
        for chunk in chunks(sorted(values)):
            query = select(*_COLUMNS).where(column.in_(chunk), _NAMED, *more)
            found += [Car(*tuple(row)) for row in self._connection.execute(query)]
        return found

    def _ids(self, column: Any, values: Iterable[Any], *more: Any) -> set[int]:
        found: set[int] = set()
        for chunk in chunks(sorted(set(values))):
            found.update(self._connection.execute(select(listings.c.id).where(column.in_(chunk), *more)).scalars())
        return found

    def _remember_prices(self, cars: Iterable[Car]) -> None:
        by_id = {}
        for car in cars:
            car.prices = {price for price in (car.price, car.price_before_offer) if price is not None}
            by_id[car.id] = car
        since = utcnow() - _PRICE_MEMORY
        for chunk in chunks(sorted(by_id)):
            query = select(_changes.c.listing_id, _changes.c.old_price).where(
                _changes.c.listing_id.in_(chunk), _changes.c.changed_at > since
            )
            for listing_id, price in self._connection.execute(query):
                by_id[listing_id].prices.add(price)

    def _with_same_bytes(self, ids: list[int]) -> set[int]:
        """Read who shows photos with the same bytes as *ids*; return those that may be linked by it, or are."""
        other = images.alias()
        twice = exists().where(
            other.c.source_sha256 == images.c.source_sha256, other.c.listing_id != images.c.listing_id
        )
        shared: set[str] = set()
        for chunk in chunks(sorted(ids)):
            query = select(images.c.source_sha256).where(images.c.listing_id.in_(chunk), _PROVES, twice).distinct()
            shared.update(self._connection.execute(query).scalars())
        found: set[int] = set()
        for chunk in chunks(sorted(shared - self._families.keys())):
            query = (
                select(images.c.source_sha256, *(listings.c[name] for name in ("id", "source", "is_active", "same_as")))
                .join(listings, listings.c.id == images.c.listing_id)
                .where(images.c.source_sha256.in_(chunk), _PROVES, _NAMED)
            )
            families: dict[str, dict[int, Any]] = defaultdict(dict)
            for row in self._connection.execute(query):
                families[row.source_sha256][row.id] = row
            for sha256, family in families.items():
                self._families[sha256] = {row.id: (row.source, row.is_active) for row in family.values()}
                active = {row.id for row in family.values() if row.is_active}
                # What dozens show proves nothing; but they may be linked since it was only two.
                few = active if len(active) <= _FAMILY else {row_id for row_id in active if family[row_id].same_as}
                found |= few
        return found

    # --- photos that look alike ---

    def _alike(self, cars: list[Car]) -> set[int]:
        """Return the active listings with a photo nearly equal to one of *cars*', which agree with them otherwise."""
        self._read_hashes({car.id for car in cars})
        pairs = [(car, other) for car in cars if self._hashes[car.id] for other in self._agreeing(car)]
        self._read_hashes({other.id for _, other in pairs})
        found = set()
        for car, other in pairs:
            if any((a ^ b).bit_count() <= NEAR for a in self._hashes[car.id] for b in self._hashes[other.id]):
                self._near[car.id].add(other.id)
                self._near[other.id].add(car.id)
                found.add(other.id)
        return found

    def _agreeing(self, car: Car) -> Iterator[Car]:
        """Return active listings of other sites that may be the same car by make, year, price and mileage."""
        if car.make is None or car.year is None:
            return
        self._read_indexes([car])
        for other in self._indexes[car.make, car.year].near(car):
            known = self.cars.get(other.id, other)
            if known.source != car.source and may_be_same(car, known) and agree(car, known) and say_enough(car, known):
                yield known

    def _read_indexes(self, cars: list[Car]) -> None:
        wanted = {(car.make, car.year) for car in cars if car.make is not None and car.year is not None}
        for make, year in wanted - self._indexes.keys():
            same = and_(listings.c.make == make, listings.c.year == year)
            query = select(*_COLUMNS).where(same, listings.c.is_active, _NAMED)
            found = [Car(*tuple(row)) for row in self._connection.execute(query)]
            if len({car.source for car in found}) > 1:
                self._remember_prices(found)
            self._indexes[make, year] = PriceIndex(found)

    def _read_hashes(self, ids: set[int]) -> None:
        """Read the perceptual hashes of photos that no other car of the same site shows."""
        missing = sorted(ids - self._hashes.keys())
        self._hashes.update((listing_id, []) for listing_id in missing)
        mine, other, others = listings.alias(), images.alias(), listings.alias()
        stock = (
            exists()
            .where(other.c.source_sha256 == images.c.source_sha256, other.c.listing_id != images.c.listing_id)
            .where(others.c.id == other.c.listing_id, others.c.source == mine.c.source, others.c.is_active)
        )
        for chunk in chunks(missing):
            query = (
                select(images.c.listing_id, phashes.c.phash)
                .join(mine, mine.c.id == images.c.listing_id)
                .join(phashes, phashes.c.sha256 == images.c.sha256)
                .where(images.c.listing_id.in_(chunk), images.c.position < MOST_PHOTOS, _PROVES)
                .where(phashes.c.phash.is_not(None), ~stock)
            )
            for listing_id, phash in self._connection.execute(query):
                self._hashes[listing_id].append(int(phash, 16))

    def undecided(self) -> dict[int, set[int]]:
        """Return the listings whose photos are worth comparing, each with those that agree and are not linked."""
        pairs = [
            (car, other)
            for car in [self.cars[car_id] for car_id in self._asked & self.cars.keys()]
            if car.is_active
            for other in self._agreeing(car)
        ]
        if pairs:
            self._grow({other.id for _, other in pairs})
            self._groups = self._group()
        found: dict[int, set[int]] = defaultdict(set)
        for car, other in pairs:
            mine, theirs = self._groups.sources(car.id), self._groups.sources(other.id)
            if mine.isdisjoint(theirs) and self._groups.of(car.id) != self._groups.of(other.id):
                found[car.id].add(other.id)
        return found

    # --- who is the same ---

    def _group(self) -> Groups:
        """Put listings together, by the strongest reason first."""
        groups = Groups(self.cars)
        for edges in (self._by_id(), self._by_plate(), self._by_bytes(), self._by_hashes(), self._as_before()):
            groups.join(edges)
        return groups

    def _by_id(self) -> Iterator[tuple[int, int]]:
        shared = [car for car in self.cars.values() if siblings(car.source)]
        yield from _pairs(shared, lambda car: "/".join((*sorted(siblings(car.source)), car.external_id)))

    def _by_plate(self) -> Iterator[tuple[int, int]]:
        plated = [car for car in self.cars.values() if car.registration_plate]
        by_site: dict[tuple[str, str], list[Car]] = defaultdict(list)
        for car in plated:
            by_site[car.source, car.registration_plate or ""].append(car)
        ones = []
        for cars in by_site.values():
            # A car that was listed anew is on a site twice, once still active.
            active = [car for car in cars if car.is_active] or cars
            ones += active if len(active) == 1 else []
        yield from _pairs(ones, lambda car: car.registration_plate or "")

    def _by_bytes(self) -> Iterator[tuple[int, int]]:
        edges: set[tuple[int, int]] = set()
        for family in self._families.values():
            active = {car_id: source for car_id, (source, is_active) in family.items() if is_active}
            if len(set(active.values())) < len(active):
                continue  # several cars of one site show it: a brochure's picture
            for one, other in combinations(sorted(active.keys() & self.cars.keys()), 2):
                a, b = self.cars[one], self.cars[other]
                if a.is_active and b.is_active and may_be_same(a, b) and agree(a, b):
                    edges.add((one, other))
        yield from self._unambiguous(edges)

    def _by_hashes(self) -> Iterator[tuple[int, int]]:
        edges = {
            (one, other)
            for one, others in self._near.items()
            for other in others
            if one < other and {one, other} <= self.cars.keys()
            if self.cars[one].is_active and self.cars[other].is_active
        }
        yield from self._unambiguous(edges)

    def _unambiguous(self, edges: set[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Leave out whom several cars of one site match."""
        matches: dict[tuple[int, str], set[int]] = defaultdict(set)
        for one, other in edges:
            matches[one, self.cars[other].source].add(other)
            matches[other, self.cars[one].source].add(one)
        for one, other in sorted(edges):
            if len(matches[one, self.cars[other].source]) == len(matches[other, self.cars[one].source]) == 1:
                yield one, other

    def _as_before(self) -> Iterator[tuple[int, int]]:
        """Keep a listing that is gone with the car it was linked to: there is nothing left to look at."""
        for car in self.cars.values():
            other = self.cars.get(car.same_as) if car.same_as is not None else None
            if other and not (car.is_active and other.is_active) and may_be_same(car, other):
                yield car.id, other.id

    def changes(self) -> dict[int, int | None]:
        """Return what ``same_as`` has to become, in the order of the listings' ids."""
        wanted = self._groups.preferred()
        return {car_id: wanted[car_id] for car_id in sorted(wanted) if self.cars[car_id].same_as != wanted[car_id]}


def _pairs(cars: list[Car], by: Callable[[Car], str]) -> Iterator[tuple[int, int]]:
    together: dict[str, list[int]] = defaultdict(list)
    for car in cars:
        together[by(car)].append(car.id)
    for ids in together.values():
        for other in ids[1:]:
            yield ids[0], other
