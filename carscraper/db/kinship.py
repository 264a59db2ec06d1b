"""Which listings are of the same car: the SQL, and the rules. ``docs/one-car-many-sites.md`` tells them to people.

``car_listings.same_as`` points from each listing of a car to its preferred one. It follows from what the tables say
about the cars around a listing, whatever was linked before: who evaluates a listing again comes to the same result,
so a run that was cut off, or two at once, do no harm. Every write that may make or undo a link sets ``link_due``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import and_, exists, func, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from carscraper.db.models import CarImageRow, CarListing, ImageLikeness, PriceChange
from carscraper.db.queries import chunks, of_cars, utcnow
from carscraper.dealers import is_aggregator, siblings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection, Table

_listings = cast("Table", CarListing.__table__)
_images = cast("Table", CarImageRow.__table__)
_changes = cast("Table", PriceChange.__table__)
_likeness = cast("Table", ImageLikeness.__table__)

MOST_PHOTOS: Final = 12
"""Of a car's photos that many are compared by their looks; the dealer's best ones come first."""

_NEAR: Final = 8  # of 64 bits: as far as the same photo was, scaled, cropped and encoded anew (measured)
_VAT: Final = 1.24
_VAT_ROUNDING: Final = 0.005
_KILOMETERS_SHARE: Final = 0.02
_KILOMETERS_ROUNDING: Final = 1_000  # sites write "29 þ.km"
_PRICE_MEMORY: Final = timedelta(days=14)  # one site shows a new price before the other
_FAMILY: Final = 40  # listings that are looked at because they share a photo
_LOCK: Final = 0x63617274  # one linking at a time; any number, the same in every carscraper
_TRIES: Final = 3
_NEVER: Final = datetime(1, 1, 1)  # noqa: DTZ001 - like all times of the tables, UTC without a zone


@dataclass(frozen=True, kw_only=True, slots=True)
class Linked:
    """What a linking did."""

    linked: int = 0
    """Listings that point to another one now and did not before, or to another one than before."""
    unlinked: int = 0
    """Listings that pointed to another one and stand alone now, or are the preferred ones."""


@dataclass(frozen=True, slots=True)
class StoredPhoto:
    """A photo whose looks are not known yet."""

    sha256: str
    key: str


@dataclass(slots=True, eq=False)
class _Car:
    """A listing, as far as it matters here."""

    id: int
    source: str
    external_id: str
    make: str | None
    year: int | None
    month: int | None
    price: int | None
    before_offer: int | None
    excludes_vat: bool | None
    kilometers: int | None
    plate: str | None
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


_COLUMNS = (
    _listings.c.id,
    _listings.c.source,
    _listings.c.external_id,
    _listings.c.make,
    _listings.c.year,
    _listings.c.registration_month,
    _listings.c.price,
    _listings.c.price_before_offer,
    _listings.c.price_excludes_vat,
    _listings.c.kilometers,
    _listings.c.registration_plate,
    _listings.c.is_active,
    _listings.c.first_seen_at,
    _listings.c.same_as,
)
_NAMED = and_(_listings.c.source.is_not(None), _listings.c.external_id.is_not(None))
_DUE = and_(_listings.c.link_due, _listings.c.external_id.is_not(None), _listings.c.source.is_not(None))
# Bytes in the spool are proof as well as those in the store; placeholders are none.
_PROVES = and_(_images.c.source_sha256.is_not(None), or_(_images.c.status == "stored", _images.c.reason == "spooled"))

# --- what is due ----------------------------------------------------------------------------------------------------


def due(connection: Connection, after: int, limit: int) -> list[int]:
    """Give listings to look at, in the order of their ids, from the one behind *after* on."""
    query = select(_listings.c.id).where(_DUE, _listings.c.id > after).order_by(_listings.c.id).limit(limit)
    return list(connection.execute(query).scalars())


def settle_alone(connection: Connection, limit: int) -> int | None:
    """Where all listings are of one site, tell so: at most *limit* are due no more.

    Returns:
        How many; ``None`` if there are several sites.
    """
    # Each by itself is a look into the index; both in one SELECT make SQLite read it all.
    one, other = (connection.execute(select(end(_listings.c.source))).scalar() for end in (func.min, func.max))
    if one != other:
        return None
    these = (
        select(_listings.c.id)
        .where(_DUE, _listings.c.source == one)  # another site's first car may come at this moment
        .order_by(_listings.c.source, _listings.c.external_id)
        .limit(limit)
        .with_for_update()
    )
    ids = list(connection.execute(these).scalars())
    _settle(connection, ids)
    return len(ids)


def _settle(connection: Connection, ids: Iterable[int]) -> None:
    for chunk in chunks(sorted(ids)):
        connection.execute(update(_listings).where(_listings.c.id.in_(chunk)).values(link_due=False))


# --- looks ----------------------------------------------------------------------------------------------------------


def to_compare(connection: Connection, ids: list[int], location: str, max_bytes: int) -> dict[int, list[StoredPhoto]]:
    """Give the photos whose looks would tell whether *ids* are of the same cars as other listings.

    Only of cars that could be the same and are not linked by anything else, only those in the store *location*, and
    only the first :data:`MOST_PHOTOS` of each car.

    Returns:
        By those of *ids* that wait for them: their own photos, and those of the others; looks that are known already
        are left out.
    """
    undecided = _Neighbourhood(connection, ids).undecided()
    photos: dict[int, list[StoredPhoto]] = defaultdict(list)
    for chunk in chunks(sorted(undecided.keys() | set().union(*undecided.values()))):
        query = (
            select(_images.c.listing_id, _images.c.sha256, _images.c.key)
            .where(_images.c.listing_id.in_(chunk), _images.c.position < MOST_PHOTOS)
            .where(_images.c.store == location, _images.c.key.is_not(None), _images.c.sha256.is_not(None))
            .where(func.coalesce(_images.c.status, "") == "stored", func.coalesce(_images.c.bytes, 0) <= max_bytes)
            .where(~exists().where(_likeness.c.sha256 == _images.c.sha256))
            .order_by(_images.c.listing_id, _images.c.position)
        )
        for listing_id, sha256, key in connection.execute(query):
            photos[listing_id].append(StoredPhoto(sha256, key))
    return {
        car_id: wanted
        for car_id, others in sorted(undecided.items())
        if (wanted := [photo for each in (car_id, *sorted(others)) for photo in photos.get(each, ())])
    }


def save_likeness(connection: Connection, looks: dict[str, str | None]) -> None:
    """Keep perceptual hashes by the SHA-256 of the bytes; ``None`` for a picture that says nothing."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    rows = [{"sha256": sha256, "phash": phash} for sha256, phash in sorted(looks.items())]
    if rows:
        connection.execute(dialect.insert(_likeness).on_conflict_do_nothing(index_elements=["sha256"]), rows)


# --- linking --------------------------------------------------------------------------------------------------------


def link(connection: Connection, ids: list[int], undecided: frozenset[int] = frozenset()) -> Linked:
    """Link the listings *ids* and those around them as the tables say now.

    Args:
        connection: in a transaction that may write.
        ids: they are due no more afterwards ...
        undecided: ... but for these, whose photos could not be compared.
    """
    if connection.dialect.name == "sqlite":  # has one writer at a time
        return _write(connection, _Neighbourhood(connection, ids), ids, undecided)
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    for _ in range(_TRIES):
        seen = _Neighbourhood(connection, ids)
        with connection.begin_nested() as attempt:
            # In the order in which all writers do it: nobody waits in a ring.
            for these in of_cars((car.source, car.external_id) for car in seen.cars.values()):
                order = (_listings.c.source, _listings.c.external_id)
                connection.execute(select(_listings.c.id).where(these).order_by(*order).with_for_update())
            # Nobody changes these now; what another crawl has changed before is taken as it is.
            around = _Neighbourhood(connection, ids)
            if around.cars.keys() <= seen.cars.keys():
                return _write(connection, around, ids, undecided)
            attempt.rollback()
    return Linked()  # too much going on here: they stay due


def _write(connection: Connection, around: _Neighbourhood, ids: list[int], undecided: frozenset[int]) -> Linked:
    changes = around.changes()
    before = {car.id: car.same_as for car in around.cars.values()}
    for car_id, same_as in changes.items():
        connection.execute(update(_listings).where(_listings.c.id == car_id).values(same_as=same_as))
    _settle(connection, set(ids) - undecided)
    linked = sum(same_as is not None for same_as in changes.values())
    unlinked = sum(same_as is None and before[car_id] is not None for car_id, same_as in changes.items())
    return Linked(linked=linked, unlinked=unlinked)


class _Neighbourhood:
    """Some listings, and all others that can matter for how these are linked."""

    def __init__(self, connection: Connection, ids: Iterable[int]) -> None:
        self.cars: dict[int, _Car] = {}
        self._connection = connection
        self._families: dict[str, dict[int, tuple[str, bool]]] = {}
        """Listings that show the same bytes, by these: source, and whether it is active."""
        self._blocks: dict[tuple[str, int], _Block] = {}
        self._looks: dict[int, list[int]] = {}
        self._near: dict[int, set[int]] = defaultdict(set)
        self._asked = set(ids)
        self._grow(self._asked)
        self._groups = self._group()

    # --- who is around ---

    def _grow(self, frontier: set[int]) -> None:
        while frontier := frontier - self.cars.keys():
            new = self._read(_listings.c.id, frontier)
            self.cars.update((car.id, car) for car in new)
            if not new:
                return
            self._remember_prices(new)
            frontier = {car.same_as for car in new if car.same_as is not None}
            frontier |= self._ids(_listings.c.same_as, [car.id for car in new])
            for sources in {siblings(car.source) for car in new} - {frozenset()}:
                shared = [car.external_id for car in new if car.source in sources]
                frontier |= self._ids(_listings.c.external_id, shared, _listings.c.source.in_(sources))
            frontier |= self._ids(_listings.c.registration_plate, [car.plate for car in new if car.plate])
            frontier |= self._with_same_bytes([car.id for car in new])
            frontier |= self._alike(new)

    def _read(self, column: Any, values: Iterable[Any], *more: Any) -> list[_Car]:
        found = []
        for chunk in chunks(sorted(values)):
            query = select(*_COLUMNS).where(column.in_(chunk), _NAMED, *more)
            found += [_Car(*tuple(row)) for row in self._connection.execute(query)]
        return found

    def _ids(self, column: Any, values: Iterable[Any], *more: Any) -> set[int]:
        found: set[int] = set()
        for chunk in chunks(sorted(set(values))):
            found.update(self._connection.execute(select(_listings.c.id).where(column.in_(chunk), *more)).scalars())
        return found

    def _remember_prices(self, cars: Iterable[_Car]) -> None:
        by_id = {}
        for car in cars:
            car.prices = {price for price in (car.price, car.before_offer) if price is not None}
            by_id[car.id] = car
        since = utcnow() - _PRICE_MEMORY
        for chunk in chunks(sorted(by_id)):
            query = select(_changes.c.listing_id, _changes.c.old_price).where(
                _changes.c.listing_id.in_(chunk), _changes.c.changed_at > since
            )
            for listing_id, price in self._connection.execute(query):
                by_id[listing_id].prices.add(price)

    def _with_same_bytes(self, ids: list[int]) -> set[int]:
        """Read who shows photos with the same bytes as *ids*; give those that may be linked by it, or are."""
        other = _images.alias()
        twice = exists().where(
            other.c.source_sha256 == _images.c.source_sha256, other.c.listing_id != _images.c.listing_id
        )
        hashes: set[str] = set()
        for chunk in chunks(sorted(ids)):
            query = select(_images.c.source_sha256).where(_images.c.listing_id.in_(chunk), _PROVES, twice).distinct()
            hashes.update(self._connection.execute(query).scalars())
        found: set[int] = set()
        for chunk in chunks(sorted(hashes - self._families.keys())):
            query = (
                select(
                    _images.c.source_sha256, *(_listings.c[name] for name in ("id", "source", "is_active", "same_as"))
                )
                .join(_listings, _listings.c.id == _images.c.listing_id)
                .where(_images.c.source_sha256.in_(chunk), _PROVES, _NAMED)
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

    def _alike(self, cars: list[_Car]) -> set[int]:
        """Give the active listings with a photo nearly equal to one of *cars*', which agree with them otherwise."""
        self._read_looks({car.id for car in cars})
        pairs = [(car, other) for car in cars if self._looks[car.id] for other in self._agreeing(car)]
        self._read_looks({other.id for _, other in pairs})
        found = set()
        for car, other in pairs:
            if any((a ^ b).bit_count() <= _NEAR for a in self._looks[car.id] for b in self._looks[other.id]):
                self._near[car.id].add(other.id)
                self._near[other.id].add(car.id)
                found.add(other.id)
        return found

    def _agreeing(self, car: _Car) -> Iterator[_Car]:
        """Give active listings of other sites that may be the same car by make, year, price and distance."""
        if car.make is None or car.year is None:
            return
        self._read_blocks([car])
        for other in self._blocks[car.make, car.year].near_price(car):
            known = self.cars.get(other.id, other)
            if known.source != car.source and may_be_same(car, known) and agree(car, known) and is_telling(car, known):
                yield known

    def _read_blocks(self, cars: list[_Car]) -> None:
        wanted = {(car.make, car.year) for car in cars if car.make is not None and car.year is not None}
        for make, year in wanted - self._blocks.keys():
            same = and_(_listings.c.make == make, _listings.c.year == year)
            query = select(*_COLUMNS).where(same, _listings.c.is_active, _NAMED)
            found = [_Car(*tuple(row)) for row in self._connection.execute(query)]
            if len({car.source for car in found}) > 1:
                self._remember_prices(found)
            self._blocks[make, year] = _Block(found)

    def _read_looks(self, ids: set[int]) -> None:
        """Read the perceptual hashes of photos that no other car of the same site shows."""
        missing = sorted(ids - self._looks.keys())
        self._looks.update((listing_id, []) for listing_id in missing)
        mine, other, others = _listings.alias(), _images.alias(), _listings.alias()
        stock = (
            exists()
            .where(other.c.source_sha256 == _images.c.source_sha256, other.c.listing_id != _images.c.listing_id)
            .where(others.c.id == other.c.listing_id, others.c.source == mine.c.source, others.c.is_active)
        )
        for chunk in chunks(missing):
            query = (
                select(_images.c.listing_id, _likeness.c.phash)
                .join(mine, mine.c.id == _images.c.listing_id)
                .join(_likeness, _likeness.c.sha256 == _images.c.sha256)
                .where(_images.c.listing_id.in_(chunk), _images.c.position < MOST_PHOTOS, _PROVES)
                .where(_likeness.c.phash.is_not(None), ~stock)
            )
            for listing_id, phash in self._connection.execute(query):
                self._looks[listing_id].append(int(phash, 16))

    def undecided(self) -> dict[int, set[int]]:
        """Give the listings whose photos are worth a look, each with those that agree and that nothing has linked."""
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

    def _group(self) -> _Groups:
        """Put listings together, by the strongest reason first."""
        groups = _Groups(self.cars)
        for edges in (self._by_id(), self._by_plate(), self._by_bytes(), self._by_looks(), self._as_before()):
            groups.join(edges)
        return groups

    def _by_id(self) -> Iterator[tuple[int, int]]:
        shared = [car for car in self.cars.values() if siblings(car.source)]
        yield from _pairs(shared, lambda car: "/".join((*sorted(siblings(car.source)), car.external_id)))

    def _by_plate(self) -> Iterator[tuple[int, int]]:
        plated = [car for car in self.cars.values() if car.plate]
        by_site: dict[tuple[str, str], list[_Car]] = defaultdict(list)
        for car in plated:
            by_site[car.source, car.plate or ""].append(car)
        ones = []
        for cars in by_site.values():
            # A car that was listed anew is on a site twice, once still active.
            active = [car for car in cars if car.is_active] or cars
            ones += active if len(active) == 1 else []
        yield from _pairs(ones, lambda car: car.plate or "")

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

    def _by_looks(self) -> Iterator[tuple[int, int]]:
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
        """Give what ``same_as`` has to become, in the order of the listings' ids."""
        wanted: dict[int, int | None] = {}
        for group in self._groups.all():
            preferred = min((self.cars[car_id] for car_id in group), key=lambda car: car.rank)
            for car_id in group:
                wanted[car_id] = None if car_id == preferred.id else preferred.id
        return {car_id: wanted[car_id] for car_id in sorted(wanted) if self.cars[car_id].same_as != wanted[car_id]}


class _Block:
    """The active listings of one make and year, by their prices."""

    def __init__(self, cars: list[_Car]) -> None:
        self._unpriced = [car for car in cars if car.price is None]
        priced = sorted(((price, car.id, car) for car in cars for price in car.prices), key=lambda each: each[:2])
        self._prices = [price for price, _, _ in priced]
        self._cars = [car for _, _, car in priced]

    def near_price(self, car: _Car) -> list[_Car]:
        """Give those with a price that *car* has too, with or without VAT."""
        if car.price is None:
            return self._unpriced
        found: dict[int, _Car] = {}
        for price in car.prices:
            for low, high in (
                (price, price),
                (price * _VAT * (1 - 2 * _VAT_ROUNDING), price * _VAT * (1 + 2 * _VAT_ROUNDING)),
                (price / _VAT * (1 - 2 * _VAT_ROUNDING), price / _VAT * (1 + 2 * _VAT_ROUNDING)),
            ):
                between = self._cars[bisect_left(self._prices, low) : bisect_right(self._prices, high)]
                found.update((other.id, other) for other in between)
        return [found[car_id] for car_id in sorted(found)]


class _Groups:
    """Listings put together, never two of one site."""

    def __init__(self, cars: dict[int, _Car]) -> None:
        self._cars = cars
        self._members: dict[int, set[int]] = {car_id: {car_id} for car_id in cars}
        """Each listing's group; those of one group have the same set."""

    def of(self, car_id: int) -> set[int]:
        """Give the listing's group."""
        return self._members[car_id]

    def sources(self, car_id: int) -> set[str]:
        """Give the sites of the listing's group."""
        return {self._cars[each].source for each in self._members[car_id]}

    def all(self) -> list[set[int]]:
        """Give all groups."""
        return list({id(group): group for group in self._members.values()}.values())

    def join(self, edges: Iterable[tuple[int, int]]) -> None:
        """Put together what *edges* connect; what would bring two cars of one site together is left as it is."""
        joined: dict[int, set[int]] = {}
        for one, other in edges:
            together = joined.get(one, self._members[one]) | joined.get(other, self._members[other])
            for car_id in together:
                joined[car_id] = together
        for group in {id(group): group for group in joined.values()}.values():
            whole = set().union(*(self._members[car_id] for car_id in group))
            sources = [self._cars[car_id].source for car_id in whole]
            if len(set(sources)) == len(sources):
                for car_id in whole:
                    self._members[car_id] = whole


def _pairs(cars: list[_Car], by: Callable[[_Car], str]) -> Iterator[tuple[int, int]]:
    together: dict[str, list[int]] = defaultdict(list)
    for car in cars:
        together[by(car)].append(car.id)
    for ids in together.values():
        for other in ids[1:]:
            yield ids[0], other


# --- the rules for two listings -------------------------------------------------------------------------------------


def may_be_same(a: _Car, b: _Car) -> bool:
    """Tell whether plates and ids leave it open that two listings are of one car."""
    if a.plate and b.plate and a.plate != b.plate:
        return False
    return not (b.source in siblings(a.source) and a.external_id != b.external_id)


def agree(a: _Car, b: _Car) -> bool:
    """Tell whether make, year, price and distance of two listings are one car's."""
    if a.make is None or a.year is None or (a.make, a.year) != (b.make, b.year):
        return False
    if a.month and b.month and a.month != b.month:
        return False
    if a.kilometers is not None and b.kilometers is not None:
        apart = abs(a.kilometers - b.kilometers)
        if apart > max(_KILOMETERS_ROUNDING, _KILOMETERS_SHARE * max(a.kilometers, b.kilometers)):
            return False
    return _same_price(a, b)


def _same_price(a: _Car, b: _Car) -> bool:
    if a.price is None or b.price is None:
        return a.price is None and b.price is None
    if a.price in b.prices or b.price in a.prices:
        return True
    if bool(a.excludes_vat) == bool(b.excludes_vat):
        return False
    net, gross = (a.price, b.price) if a.excludes_vat else (b.price, a.price)
    return abs(net * _VAT - gross) <= _VAT_ROUNDING * gross


def is_telling(a: _Car, b: _Car) -> bool:
    """Tell whether the two say enough for photos that are only nearly equal: a price, or the distance."""
    return a.price is not None or (a.kilometers is not None and b.kilometers is not None)
