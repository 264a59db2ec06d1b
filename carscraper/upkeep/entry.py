"""Entering an object in the ledger: whose photo it is, and whether its bytes are what its name says.

Shared by ``discover``, ``upload`` and ``audit --fix``. The object is there before its row says so; the rows are written
by the same rules as a crawl's (``db.queries.save_images``): a stored photo is never downgraded, a placeholder or a
deleted photo never comes back, and the car shows its first stored photo.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

from carscraper.db import inventory, queries
from carscraper.exceptions import ImageRejectedError
from carscraper.images.inspection import inspect
from carscraper.items import CarImage
from carscraper.storage import readback
from carscraper.storage.keys import image_key, parse_key, permanent_url
from carscraper.vehicles import canonical, slug

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor, ThreadPoolExecutor
    from typing import Any, Self

    from scrapy.settings import BaseSettings
    from sqlalchemy import Connection, Engine

    from carscraper.storage.client import S3Options
    from carscraper.storage.keys import KeyParts

T = TypeVar("T")
R = TypeVar("R")

GROUP = 32
"""Photos written in one transaction."""
THREADS = 10
"""Objects under way at the same time; boto3 keeps as many connections."""

ENTERED = "entered"
KNOWN = "known"
# Why an object is not entered:
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

    min_width: int
    min_height: int
    max_pixels: int
    max_bytes: int
    placeholders: queries.PlaceholderRules

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> Self:
        """Read the settings."""
        return cls(
            min_width=settings.getint("IMAGES_MIN_WIDTH"),
            min_height=settings.getint("IMAGES_MIN_HEIGHT"),
            max_pixels=settings.getint("IMAGES_MAX_PIXELS"),
            max_bytes=settings.getint("IMAGES_MAX_BYTES"),
            placeholders=queries.PlaceholderRules.from_settings(settings),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Whose:
    """The car that an object's name (and what it carries) speaks of."""

    parts: KeyParts
    source: str
    external_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """An object whose bytes were looked at and are what its name says."""

    name: str
    whose: Whose
    sha256: str
    size: int
    width: int
    height: int
    content_type: str
    source_url: str | None
    """The dealer's address, where the object carries it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one object."""

    name: str
    what: str
    """One of the words above."""
    detail: str = ""


@dataclass(kw_only=True, slots=True)
class Cars:
    """Finds whose photo a key names."""

    engine: Engine
    prefix: str
    """``S3_PREFIX``, as :func:`~carscraper.storage.keys.normalise_prefix` gives it."""
    create: bool = False
    """Cars without a row are made."""
    named: Mapping[str, str] = field(default_factory=dict)
    """The source of each spider, for sources that have no car yet."""
    _sources: dict[str, str] | None = None

    def sources(self) -> dict[str, str]:
        """Give each source by the first part of its keys."""
        if self._sources is None:
            with inventory.reading(self.engine) as connection:
                found = {slug(source): source for source in inventory.sources(connection)}
            self._sources = {**self.named, **found}
        return self._sources

    def whose(self, name: str, metadata: Mapping[str, str] | None = None) -> Whose | None:
        """Tell whose photo the object *name* is; ``None`` if it is not under our scheme, or its source is unknown."""
        parts = parse_key(name, self.prefix)
        if parts is None:
            return None
        carried = metadata or {}
        said = unquote(carried.get("source", ""))
        source = said if said and slug(said) == parts.spider else self.sources().get(parts.spider)
        if source is None:
            return None
        external_id = parts.external_id
        said = unquote(carried.get("external-id", ""))
        if said and _id_in_key(said, parts) == external_id:
            external_id = said  # an id of other characters stands in the key as a slug
        return Whose(parts=parts, source=source, external_id=external_id)

    def known(self, names: Sequence[str]) -> set[str]:
        """Give those of *names* whose car has a row, as far as the names alone tell."""
        cars = {name: (whose.source, whose.external_id) for name in names if (whose := self.whose(name))}
        with inventory.reading(self.engine) as connection:
            found = inventory.cars(connection, cars.values())
        return {name for name, car in cars.items() if car in found}

    def may_be_known(self, names: Sequence[str]) -> set[str]:
        """Give those of *names* that are worth reading: what an object carries may name its car more exactly."""
        if self.create:
            return set(names)
        slugs = {name for name in names if (parts := parse_key(name, self.prefix)) and "-" in parts.external_id}
        return self.known(names) | slugs


def _id_in_key(external_id: str, parts: KeyParts) -> str:
    key = image_key(
        spider=parts.spider,
        year=None,
        make=None,
        model=None,
        external_id=external_id,
        sha256=parts.hash,
        extension=parts.extension,
    )
    return key.rsplit("/", 1)[1].rsplit("_", 1)[0]


def examine(
    name: str, data: bytes, metadata: Mapping[str, str] | None, cars: Cars, rules: PhotoRules
) -> Photo | Outcome:
    """Look at the bytes of an object; its name is believed only as far as they agree with it."""
    parts = parse_key(name, cars.prefix)
    if parts is None:
        return Outcome(name, FOREIGN)
    try:
        photo = inspect(
            data,
            min_width=rules.min_width,
            min_height=rules.min_height,
            max_pixels=rules.max_pixels,
            max_bytes=rules.max_bytes,
        )
    except ImageRejectedError as error:
        return Outcome(name, NO_PHOTO, str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    if not sha256.startswith(parts.hash):
        return Outcome(name, OTHER_BYTES, f"the SHA-256 begins with {sha256[:12]}")
    whose = cars.whose(name, metadata)
    if whose is None:
        return Outcome(name, UNKNOWN_CAR, f"{parts.spider}/{parts.external_id}")
    return Photo(
        name=name,
        whose=whose,
        sha256=sha256,
        size=len(data),
        width=photo.width,
        height=photo.height,
        content_type=photo.content_type,
        source_url=(metadata or {}).get("source-url"),
    )


@dataclass(kw_only=True, slots=True)
class Entering:
    """Writes rows for objects that are in the bucket."""

    location: str
    """``s3://bucket``."""
    base: str
    """What stands before a name in permanent URLs."""
    rules: queries.PlaceholderRules
    create_cars: bool = False

    @classmethod
    def into(cls, options: S3Options, rules: PhotoRules, *, create_cars: bool = False) -> Self:
        """Take the bucket of *options*."""
        return cls(
            location=f"s3://{options.bucket}",
            base=options.base,
            rules=rules.placeholders,
            create_cars=create_cars,
        )

    def enter(self, connection: Connection, photos: Sequence[Photo]) -> list[Outcome]:
        """Enter objects that are in the bucket, in a transaction of the caller's; give what became of each."""
        found = self._look(connection, photos)
        queries.lock_covers(connection, sorted({car.listing_id for car in found.cars.values()}))
        images: dict[str, tuple[int, CarImage]] = {}
        outcomes = []
        for photo in photos:
            answer = found.judge(photo)
            if isinstance(answer, CarImage):
                images[photo.name] = (found.car(photo).listing_id, answer)
                answer = Outcome(photo.name, ENTERED)
            outcomes.append(answer)
        if not images:
            return outcomes
        inventory.announce(connection, list(images.values()))
        if not any(queries.save_images(connection, list(images.values()), self.rules)):
            return outcomes
        # One of them was on so many unrelated cars that it is no photo; its row says so now.
        stored = set(inventory.rows_of(connection, self.location, images).values())
        shown = {name for name in images if name not in stored}
        return [Outcome(each.name, PLACEHOLDER) if each.name in shown else each for each in outcomes]

    def foresee(self, connection: Connection, photos: Sequence[Photo]) -> list[Outcome]:
        """Say what :meth:`enter` would do; nothing is written."""
        found = self._look(connection, photos, create=False)
        answers = ((photo, found.judge(photo)) for photo in photos)
        return [Outcome(photo.name, ENTERED) if isinstance(each, CarImage) else each for photo, each in answers]

    def _look(self, connection: Connection, photos: Sequence[Photo], *, create: bool = True) -> _Found:
        wanted = {(photo.whose.source, photo.whose.external_id): photo for photo in photos}
        cars = inventory.cars(connection, wanted)
        if self.create_cars:
            for (source, external_id), photo in sorted(wanted.items(), key=lambda each: each[0]):
                if (source, external_id) not in cars:
                    cars[source, external_id] = (
                        _create(connection, photo) if create else inventory.Car(0, source, external_id, None)
                    )
        pairs = sorted(cars)
        rows = dict(zip(pairs, queries.known_images(connection, pairs), strict=True))
        asked = [(photo.sha256, self.location) for photo in photos]
        judged = dict(zip(asked, queries.known_bytes(connection, asked, self.rules), strict=True))
        return _Found(
            entering=self,
            cars=cars,
            rows={car: [known.image for known in images.values()] for car, images in rows.items()},
            judged={sha256: known for (sha256, _), known in judged.items() if known},
        )


def _create(connection: Connection, photo: Photo) -> inventory.Car:
    parts = photo.whose.parts
    make, model = (None if part == "unknown" else part.replace("-", " ") for part in (parts.make, parts.model))
    vehicle = canonical(make, model)
    return inventory.create_car(
        connection,
        photo.whose.source,
        photo.whose.external_id,
        make=vehicle.make,
        model=vehicle.model,
        year=parts.year,
    )


@dataclass(kw_only=True, slots=True)
class _Found:
    """What the ledger has of the cars of some objects."""

    entering: Entering
    cars: dict[tuple[str, str], inventory.Car]
    rows: dict[tuple[str, str], list[CarImage]]
    judged: dict[str, queries.KnownBytes]

    def car(self, photo: Photo) -> inventory.Car:
        return self.cars[photo.whose.source, photo.whose.external_id]

    def judge(self, photo: Photo) -> CarImage | Outcome:
        """Give the row to write, or why there is none."""
        car = (photo.whose.source, photo.whose.external_id)
        if car not in self.cars:
            return Outcome(photo.name, UNKNOWN_CAR, "/".join(car))
        rows = self.rows[car]
        location = self.entering.location
        stored = [row for row in rows if row.status in queries.HAVE_BYTES and row.key and row.store == location]
        if any(row.key == photo.name for row in stored):
            return Outcome(photo.name, KNOWN)
        known = self.judged.get(photo.sha256)
        if known and known.placeholder:
            return Outcome(photo.name, PLACEHOLDER)
        row = self._row_of(photo, rows, location)
        if (known and known.deleted) or (row and row.reason == "deleted"):
            return Outcome(photo.name, DELETED)
        twin = next((each for each in stored if photo.sha256 in {each.sha256, each.source_sha256}), None)
        if twin:
            return Outcome(photo.name, DUPLICATE, f"of {twin.key}")
        image = self._image(photo, row, rows)
        self.rows[car] = [each for each in rows if each.identity != image.identity] + [image]
        return image

    @staticmethod
    def _row_of(photo: Photo, rows: list[CarImage], location: str) -> CarImage | None:
        """Find the photo's row: by the dealer's address that the object carries, else by the bytes."""
        free = [row for row in rows if row.status not in queries.HAVE_BYTES or row.store != location]
        if photo.source_url:
            addresses = {photo.source_url, unquote(photo.source_url)}
            for row in free:
                if row.source_url in addresses or unquote(row.source_url) in addresses:
                    return row
        for row in free:
            if photo.sha256 in {row.sha256, row.source_sha256}:
                return row
        return None

    def _image(self, photo: Photo, row: CarImage | None, rows: list[CarImage]) -> CarImage:
        url = permanent_url(photo.name, self.entering.base)
        source_sha256 = photo.sha256  # how it was served is not known, unless its row says so
        if row and row.sha256 == photo.sha256 and row.source_sha256:
            source_sha256 = row.source_sha256
        return CarImage(
            identity=row.identity if row else f"object/{photo.sha256[:32]}",
            source_url=row.source_url if row else url,
            position=row.position if row else max((each.position for each in rows), default=-1) + 1,
            status="stored",
            attempts=1,
            store=self.entering.location,
            key=photo.name,
            url=url,
            sha256=photo.sha256,
            source_sha256=source_sha256,
            bytes=photo.size,
            width=photo.width,
            height=photo.height,
            content_type=photo.content_type,
        )


def enter_objects(
    client: Any,
    engine: Engine,
    bucket: str,
    names: Iterable[str],
    *,
    pool: ThreadPoolExecutor,
    cars: Cars,
    entering: Entering,
    rules: PhotoRules,
    dry_run: bool = False,
) -> Iterator[Outcome]:
    """Read objects and enter them in the ledger; give what became of each.

    Raises:
        StoreRefusedError: no right to read.
        StoreUnavailableError: the server is away.
    """

    def read(name: str) -> Photo | Outcome:
        seen = readback.read(client, bucket, name, max_bytes=rules.max_bytes)
        if seen is None:
            return Outcome(name, GONE)
        if seen.data is None:
            return Outcome(name, UNREADABLE, seen.problem or "")
        return examine(name, seen.data, seen.metadata, cars, rules)

    for group in in_groups(in_order(pool, read, names, ahead=2 * THREADS), GROUP):
        photos = [each for each in group if not isinstance(each, Outcome)]
        if dry_run:
            with inventory.reading(engine) as connection:
                outcomes = iter(entering.foresee(connection, photos))
        else:
            with engine.begin() as connection:
                outcomes = iter(entering.enter(connection, photos))
        for each in group:
            yield each if isinstance(each, Outcome) else next(outcomes)


def in_order(pool: Executor, function: Callable[[T], R], items: Iterable[T], *, ahead: int) -> Iterator[R]:
    """Give ``function(item)`` of each item, in their order, worked out in *pool*, at most *ahead* of what was taken."""
    source = iter(items)
    waiting = deque(pool.submit(function, item) for item in islice(source, ahead))
    try:
        while waiting:
            result = waiting.popleft().result()
            for item in islice(source, 1):
                waiting.append(pool.submit(function, item))
            yield result
    finally:
        for future in waiting:
            future.cancel()


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut *items* into lists of at most *size*.

    >>> list(in_groups(range(5), 2))
    [[0, 1], [2, 3], [4]]
    """
    source = iter(items)
    while group := list(islice(source, size)):
        yield group


def is_plain(name: str) -> bool:
    r"""Tell whether *name* can be an object's name in UTF-8.

    >>> is_plain("a/þ.jpg"), is_plain("a/\udcff.jpg")
    (True, False)
    """
    return not re.search(r"[\ud800-\udfff]", name)
