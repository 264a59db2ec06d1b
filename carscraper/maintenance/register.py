"""Register an object of the bucket: find out whose photo it is, and write its row.

This is the one way in which an object gets a row; ``discover`` and ``audit --fix`` use it. A name is believed only as
far as the bytes agree with it, and the row is written by the rules of a crawl (``db.photos.write``): a stored
photo is never downgraded, a placeholder or a deleted photo never comes back, no car gets a second row for a picture
that it has, and the car shows its first stored photo.
What asks S3 raises ``StoreError`` where S3 refuses or is away.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from scrapy.spiderloader import get_spider_loader

from carscraper.db import photos, placeholders, repairs
from carscraper.db.photos import KnownImage
from carscraper.db.repairs import known_keys, reading, rows_of
from carscraper.db.rules import HAVE_BYTES, PlaceholderRules
from carscraper.exceptions import ImageRejectedError
from carscraper.images.inspection import inspect, limits_of
from carscraper.items import CarImage, Reason, Status
from carscraper.storage import objects
from carscraper.storage.keys import id_slug, parse_key, permanent_url
from carscraper.storage.listing import list_objects
from carscraper.storage.objects import THREADS, in_groups, in_order
from carscraper.vehicles import canonical, slug

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor
    from typing import Self

    from scrapy.settings import BaseSettings
    from sqlalchemy import Connection, Engine

    from carscraper.db.placeholders import KnownBytes
    from carscraper.storage.client import S3Options
    from carscraper.storage.keys import KeyParts

GROUP = 32
"""Photos written in one transaction."""
_PAGE = 1_000  # names looked up together: one page of the list

REGISTERED = "registered"
KNOWN = "known"
# Why an object is not registered:
DUPLICATE = "duplicate"
PLACEHOLDER = "placeholder"
DELETED = "deleted"
UNKNOWN_CAR = "unknown-car"
NO_PHOTO = "not-a-photo"
OTHER_BYTES = "other-bytes"
UNREADABLE = "unreadable"
GONE = "gone"
FOREIGN = "foreign"


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoRules:
    """Which bytes are a photo worth keeping: the ``IMAGES_…`` settings of a crawl."""

    inspection: Mapping[str, int]
    """The arguments of ``images.inspection.inspect``."""
    placeholders: PlaceholderRules

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> Self:
        """Read the settings."""
        return cls(
            inspection=limits_of(settings),
            placeholders=PlaceholderRules.from_settings(settings),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Dealer:
    """What a dealer's spider says of its photos."""

    source: str
    identity: Callable[[str, str], str | None] = lambda _address, _external_id: None
    """Returns a photo's identity by its address and its car's id, as a crawl has it."""


def dealers(settings: BaseSettings) -> dict[str, Dealer]:
    """Return the dealers by their spiders' names, which their keys begin with."""

    def identity_by(spider: Any) -> Callable[[str, str], str | None]:
        def identity(address: str, external_id: str) -> str | None:
            dealer = spider.__new__(spider)  # no crawl: only its rules of photos' addresses are asked
            dealer.settings = settings
            image = dealer.image(lambda url: url, address, external_id)
            return image.identity if image else None

        return identity

    loader = get_spider_loader(settings)
    spiders: dict[str, Any] = {name: loader.load(name) for name in loader.list()}
    return {
        name: Dealer(source=spider.source, identity=identity_by(spider))
        for name, spider in spiders.items()
        if getattr(spider, "source", None)
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An object whose bytes are what its name says, and the car whose photo it is."""

    parts: KeyParts
    car: tuple[str, str]
    """Source and external id."""
    photo: CarImage
    """As it would be stored; identity and dealer's address are empty unless the object carries the address."""


@dataclass(frozen=True, slots=True)
class ObjectOutcome:
    """What became of one object."""

    name: str
    what: str
    """One of the words above."""
    detail: str = ""


class Register:
    """Reads objects of one bucket and writes their rows."""

    def __init__(
        self,
        client: Any,
        engine: Engine,
        options: S3Options,
        rules: PhotoRules,
        *,
        dealers: Mapping[str, Dealer],
        create_cars: bool = False,
        dry_run: bool = False,
    ) -> None:
        """Accept a boto3 client for S3, the database, the bucket, and which bytes are a photo.

        Args:
            dealers: by the spider's name, which their keys begin with.
            create_cars: make an inactive row for a car that has none.
            dry_run: write nothing.
        """
        self.counts: Counter[str] = Counter()
        """``objects`` that :meth:`discover` listed, ``known`` to the ledger, ``foreign`` to our key scheme."""
        self.location = options.store
        self._client = client
        self._engine = engine
        self._options = options
        self._rules = rules
        self._dealers = dealers
        self._create_cars = create_cars
        self._dry_run = dry_run

    def discover(self, below: str, *, limit: int | None = None) -> Iterator[ObjectOutcome]:
        """Register every object below the name *below* that the ledger does not know; return what became of each.

        Args:
            below: what the names begin with, ``S3_PREFIX`` included.
            limit: read at most this many objects.
        """
        with ThreadPoolExecutor(THREADS, thread_name_prefix="discover") as pool:
            for group in in_groups(list_objects(self._client, self._options.bucket, below), _PAGE):
                names = [each.name for each in group]
                ours = [name for name in names if parse_key(name, self._options.prefix)]
                with reading(self._engine) as connection:
                    known = known_keys(connection, self.location, ours)
                self.counts.update(objects=len(names), foreign=len(names) - len(ours), known=len(known))
                unknown = [name for name in ours if name not in known]
                worth_reading = self._worth_reading(unknown)
                for name in unknown:
                    if name not in worth_reading:
                        yield ObjectOutcome(name, UNKNOWN_CAR, "/".join(self._car_of(name) or name.split("/")[:1]))
                names = [name for name in unknown if name in worth_reading][:limit]
                yield from self.register_objects(names, pool)
                limit = None if limit is None else limit - len(names)
                if limit == 0:
                    return

    def register_objects(self, names: Iterable[str], pool: Executor) -> Iterator[ObjectOutcome]:
        """Read objects and register them; return what became of each, in their order."""
        for group in in_groups(in_order(pool, self._read, names), GROUP):
            candidates = [each for each in group if isinstance(each, Candidate)]
            with reading(self._engine) if self._dry_run else self._engine.begin() as connection:
                outcomes = iter(self.write_rows(connection, candidates))
            for each in group:
                yield next(outcomes) if isinstance(each, Candidate) else each

    def _read(self, name: str) -> Candidate | ObjectOutcome:
        seen = objects.read(self._client, self._options.bucket, name, max_bytes=self._rules.inspection["max_bytes"])
        if seen is None:
            return ObjectOutcome(name, GONE)
        if seen.data is None:
            return ObjectOutcome(name, UNREADABLE, seen.problem or "")
        return self.examine(name, seen.data, seen.metadata)

    # --- whose photo it is ---

    @cached_property
    def _sources(self) -> dict[str, str]:
        """Each source by the first part of its keys; the database's spelling goes before the spider's.

        Of several spellings there the spider's: that is the one of a crawl.
        """
        with reading(self._engine) as connection:
            written = repairs.sources(connection)
        found = {slug(source): source for source in written}
        crawled = {name: dealer.source for name, dealer in self._dealers.items()}
        return crawled | found | {name: source for name, source in crawled.items() if source in written}

    def _car_of(self, name: str, metadata: Mapping[str, str] | None = None) -> tuple[str, str] | None:
        """Return the source and the external id that a name of our key scheme, and what it carries, speak of.

        ``None`` for a source that neither a car nor a spider has.
        """
        parts = parse_key(name, self._options.prefix)
        if parts is None:
            return None
        carried = {each: unquote(value) for each, value in (metadata or {}).items()}
        source = self._sources.get(parts.spider, "")
        if carried.get("source") and slug(carried["source"]) == parts.spider:
            source = carried["source"]
        external_id = carried.get("external-id", "")
        if not external_id or id_slug(external_id) != parts.external_id:
            external_id = parts.external_id  # an id of other characters stands in the key as a slug
        return (source, external_id) if source else None

    def _worth_reading(self, names: Sequence[str]) -> set[str]:
        """Return those of *names* whose car has a row, or may have one by what the object carries."""
        if self._create_cars:
            return set(names)
        cars = {name: car for name in names if (car := self._car_of(name))}
        with reading(self._engine) as connection:
            known = repairs.named_cars(connection, cars.values())
        return {name for name, car in cars.items() if car in known or "-" in car[1]}

    def examine(self, name: str, data: bytes, metadata: Mapping[str, str] | None = None) -> Candidate | ObjectOutcome:
        """Look at the bytes of an object; its name is believed only as far as they agree with it."""
        parts = parse_key(name, self._options.prefix)
        if parts is None:
            return ObjectOutcome(name, FOREIGN)
        try:
            photo = inspect(data, **self._rules.inspection)
        except ImageRejectedError as error:
            return ObjectOutcome(name, NO_PHOTO, str(error))
        sha256 = hashlib.sha256(data).hexdigest()
        if not sha256.startswith(parts.hash):
            return ObjectOutcome(name, OTHER_BYTES, f"the SHA-256 begins with {sha256[:12]}")
        car = self._car_of(name, metadata)
        if car is None:
            return ObjectOutcome(name, UNKNOWN_CAR, f"{parts.spider}/{parts.external_id}")
        source_url = (metadata or {}).get("source-url", "")
        dealer = self._dealers.get(parts.spider)
        image = CarImage(
            identity=(dealer and source_url and dealer.identity(source_url, car[1])) or "",
            source_url=source_url,
            status=Status.STORED,
            attempts=1,
            store=self.location,
            key=name,
            url=permanent_url(name, self._options.base),
            sha256=sha256,
            source_sha256=sha256,  # how it was served is not known, unless its row says so
            bytes=len(data),
            width=photo.width,
            height=photo.height,
            content_type=photo.content_type,
        )
        return Candidate(parts=parts, car=car, photo=image)

    # --- the rows ---

    def write_rows(self, connection: Connection, candidates: Sequence[Candidate]) -> list[ObjectOutcome]:
        """Write the rows of objects, in a transaction of the caller's; return what became of each."""
        cars = repairs.named_cars(connection, {each.car for each in candidates})
        if self._create_cars:
            for each in sorted(candidates, key=lambda each: each.car):
                if each.car not in cars:
                    cars[each.car] = repairs.CarRow(0, *each.car) if self._dry_run else _create(connection, each)
        if not self._dry_run:
            placeholders.lock_covers(connection, sorted({car.listing_id for car in cars.values()}))
        pairs = sorted(cars)
        rows = dict(zip(pairs, photos.known(connection, pairs), strict=True))
        asked = [(str(each.photo.sha256), self.location) for each in candidates]
        bytes_known = placeholders.known_bytes(connection, asked, self._rules.placeholders)
        images: dict[str, tuple[int, CarImage]] = {}
        outcomes = []
        for each, known in zip(candidates, bytes_known, strict=True):
            name = str(each.photo.key)
            if each.car not in cars:
                outcomes.append(ObjectOutcome(name, UNKNOWN_CAR, "/".join(each.car)))
                continue
            of_car = rows[each.car]
            answer = self._judge(each.photo, [row.image for row in of_car.values()], known)
            if isinstance(answer, CarImage):
                of_car[answer.identity] = KnownImage(image=answer, due=False)
                images[name] = (cars[each.car].listing_id, answer)
                answer = ObjectOutcome(name, REGISTERED)
            outcomes.append(answer)
        if not images or self._dry_run:
            return outcomes
        repairs.create_photos(connection, images.values())
        if photos.write(connection, list(images.values()), self._rules.placeholders):
            # One of them was on so many unrelated cars that it is no photo; its row says so now.
            shown = images.keys() - set(rows_of(connection, self.location, images).values())
            outcomes = [ObjectOutcome(each.name, PLACEHOLDER) if each.name in shown else each for each in outcomes]
        return outcomes

    def _judge(self, photo: CarImage, rows: list[CarImage], known: KnownBytes | None) -> CarImage | ObjectOutcome:
        """Return the row to write, or why there is none; *rows* are the car's."""
        name = str(photo.key)
        stored = [row for row in rows if row.status in HAVE_BYTES and row.key and row.store == self.location]
        if any(row.key == name for row in stored):
            return ObjectOutcome(name, KNOWN)
        if known and known.placeholder:
            return ObjectOutcome(name, PLACEHOLDER)
        free = [row for row in rows if row not in stored]
        row = _of_address(photo, free) or _of_bytes(photo, free)
        if (known and known.deleted) or (row and row.reason == Reason.DELETED):
            return ObjectOutcome(name, DELETED)
        # The same bytes, or the same photo of the dealer's, which has served it with other bytes since.
        if twin := _of_bytes(photo, stored) or _of_address(photo, stored):
            return ObjectOutcome(name, DUPLICATE, f"of {twin.key}")
        if row is None:
            last = max((each.position for each in rows), default=-1)
            if photo.identity:  # the next crawl knows it by this
                return replace(photo, position=last + 1)
            return replace(
                photo, position=last + 1, identity=f"object/{str(photo.sha256)[:32]}", source_url=str(photo.url)
            )
        served = row.source_sha256 if row.sha256 == photo.sha256 else None
        return replace(
            photo,
            identity=row.identity,
            source_url=row.source_url,
            position=row.position,
            source_sha256=served or photo.source_sha256,
        )


def _of_bytes(photo: CarImage, rows: list[CarImage]) -> CarImage | None:
    return next((row for row in rows if photo.sha256 in {row.sha256, row.source_sha256}), None)


def _of_address(photo: CarImage, rows: list[CarImage]) -> CarImage | None:
    """Return the row of the dealer's address that the object carries."""
    if not photo.source_url:
        return None
    address = unquote(photo.source_url)
    return next((row for row in rows if row.identity == photo.identity or unquote(row.source_url) == address), None)


def _create(connection: Connection, candidate: Candidate) -> repairs.CarRow:
    parts = candidate.parts
    make, model = (None if part == "unknown" else part.replace("-", " ") for part in (parts.make, parts.model))
    vehicle = canonical(make, model)
    return repairs.create_car(connection, *candidate.car, make=vehicle.make, model=vehicle.model, year=parts.year)
