"""The SQL of the ledger: functions of a connection, each inside a transaction of its caller."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from sqlalchemy import Boolean, Text, and_, bindparam, exists, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from carscraper.db.models import CarImageRow, CarListing, PriceChange
from carscraper.dealers import siblings
from carscraper.field_coverage import EXPECTABLE, PHOTO
from carscraper.items import CarImage, CarItem, GoneCar, Reason, Status
from carscraper.vehicles import make_slug

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Self

    from scrapy.settings import BaseSettings
    from sqlalchemy import Connection, Row, Table

_listings = cast("Table", CarListing.__table__)
_images = cast("Table", CarImageRow.__table__)
_changes = cast("Table", PriceChange.__table__)

ARCHIVE = "Archive"
"""The source of what comes from a manifest. Its rows are never active: they are no cars for sale."""
HAVE_BYTES = (Status.STORED, Status.SUPERSEDED)
"""Statuses of photos whose bytes are in the store, under their key."""

_CHUNK = 400  # values of one IN list; SQLite takes 32,766 variables, PostgreSQL 65,535

DECIDED_HERE = frozenset({Reason.BLOCKED_ADDRESS, Reason.BAD_ADDRESS, Reason.DELETED, Reason.CAR_GONE})
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
    }
)
"""Reasons that become final when the dealer has given the same answer on several days; ``http-4xx`` are others."""
_BUSY = ("http-408", "http-425", "http-429")  # statuses that say "later"

# A backfill takes a failed photo up again at once this often, then once a day: its ``limit`` is for the others.
_QUICK_ATTEMPTS = 3

# What a card or details page may leave open without the old value being wrong: never overwritten by None.
_KEPT = (
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
    "colour",
    "body",
    "doors",
    "seats",
    "horsepower",
    "city_consumption",
    "registration_plate",
    "dealer_id",
    "dealer_name",
    "description",
    "source_updated_at",
    "display_make",
    "display_name",
    "details_at",
)
# What only a car that was seen changes.
_WHEN_SEEN = ("card_hash", "is_active", "gone_at", "scraped_at", "last_seen_at")
# These belong to the price: a new price without them means that the offer is over.
_WITH_PRICE = ("price_before_offer", "price_excludes_vat")
# What a changed car has changed.
_TOLD = (*(name for name in _KEPT if name != "details_at"), *_WITH_PRICE)
# What may make or undo a link to another site's listing, see ``linking``.
_TELLS_KIN = (
    "make",
    "year",
    "registration_month",
    "price",
    "price_before_offer",
    "price_excludes_vat",
    "kilometers",
    "registration_plate",
    "is_active",
)


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

    def holds(self, source_sha256: str) -> bool:
        """Return whether the rule is on for these bytes."""
        return bool(self.families) and source_sha256 not in self.released


@dataclass(frozen=True, kw_only=True, slots=True)
class CardState:
    """What the last crawl knew of a car."""

    card_hash: str | None
    details_at: datetime | None
    images_due: bool
    """There are photos that are not stored and may be tried again now."""
    url: str | None = None
    fields: frozenset[str] = frozenset()
    """What is known of the car among the fields that its dealer may be expected to show."""

    def shows(self, card_hash: str | None, url: str) -> bool:
        """Return whether a card with this hash and address says nothing new."""
        return (self.card_hash, self.url) == (card_hash, url)


@dataclass(frozen=True, slots=True)
class ActiveCar:
    """A car that no page has said to be gone."""

    external_id: str
    url: str
    last_seen_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownImage:
    """A row of the ledger as the pipeline needs it."""

    image: CarImage
    due: bool
    """Not stored, and it may be tried again now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownBytes:
    """What is known of bytes that a dealer served."""

    image: CarImage | None
    """A stored photo with these bytes in the asked store."""
    placeholder: bool
    deleted: bool = False
    """Somebody had a photo with these bytes deleted: they are not kept again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What saving a car did."""

    listing_id: int | None = field(default=None, compare=False)
    created: bool = False
    changed: bool = False
    """It was known, and something that is said of it is not as it was; of a gone car: it was active."""
    card_hash: str | None = field(default=None, compare=False)
    """What its row had before."""
    price_changed: bool = False
    error: str | None = None
    """Why this car can't be written, whatever is tried."""
    placeholders: int = 0
    """Photos, of this and other cars, that this car's showed to be placeholders."""
    given_up: int = field(default=0, compare=False)
    """Photos of a gone car that are not tried again unless the car is seen again."""
    superseded: frozenset[str] = field(default=frozenset(), compare=False)
    """Identities of the car's photos that others of its photos have taken the place of."""
    replaced: str | None = None
    """The car that had this id before, if the dealer has given it to another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """Which photos of a car its site shows now."""

    identities: tuple[str, ...] = ()
    """In the page's order."""
    whole: bool = False
    """They are all that the site shows of the car."""
    another_car: bool = False
    """The id belonged to another car until now: what is not shown is a photo of that one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryRules:
    """When a photo that is not stored is tried again."""

    final_after: int = 3
    """Days with the same answer after which nobody asks again."""
    pause: timedelta = timedelta()
    """How long a photo that failed several times is left alone: not at all by a crawl, which sees its car anyway."""


CRAWL = RetryRules()
"""The rules of a crawl."""


def utcnow() -> datetime:
    """Return the time as the tables hold it: UTC without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


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
            yield and_(_listings.c.source == source, _listings.c.external_id.in_(chunk))


_FINAL_RETRY = timedelta(days=7)


def due_condition(now: datetime, retry: RetryRules = CRAWL) -> Any:
    """Return the condition for photos that are not stored and are to be tried again at *now*."""
    due = and_(
        _images.c.status.not_in(HAVE_BYTES),
        or_(_images.c.reason.is_(None), _images.c.reason.not_in(DECIDED_HERE | {Reason.SPOOLED})),
        # A final failure makes no crawl partial, and is asked about once more from time to time.
        or_(_images.c.failed_days < retry.final_after, _images.c.last_attempt_at < now - _FINAL_RETRY),
    )
    if not retry.pause:
        return due
    return and_(
        due,
        or_(
            _images.c.last_attempt_at.is_(None),
            _images.c.attempts <= _QUICK_ATTEMPTS,
            _images.c.last_attempt_at < now - retry.pause,
        ),
    )


def becomes_final() -> Any:
    """Return the condition for photos whose failure becomes final by days."""
    reason = _images.c.reason
    return and_(
        _images.c.status == Status.FAILED,
        or_(reason.in_(FINAL_BY_DAYS), and_(reason.like("http-4%"), reason.not_in(_BUSY))),
    )


# What describes the bytes; it changes only together with the status.
_BYTES = ("store", "key", "url", "sha256", "source_sha256", "bytes", "width", "height", "content_type")
# What counts the days of a failure.
_DAYS = ("failed_days", "failed_on")

# Statements that run for nearly every photo are built once: building one costs more than SQLite takes to run it.
_hashes: Any = bindparam("hashes", expanding=True)
_listing_ids: Any = bindparam("listing_ids", expanding=True)
# A tombstone has no key any more.
_OF_USE = or_(_images.c.key.is_not(None), _images.c.reason == Reason.DELETED)
_SEEN_HASHES = select(_images.c.source_sha256).where(_images.c.source_sha256.in_(_hashes), _OF_USE)
_SEVERAL = (
    select(_images.c.source_sha256)
    .where(_images.c.source_sha256.in_(_hashes))
    .group_by(_images.c.source_sha256)
    .having(func.count() >= bindparam("families"))
)
_LOCK_COVERS = (
    select(_listings.c.id, _listings.c.image_url)
    .where(_listings.c.id.in_(_listing_ids))
    .order_by(_listings.c.source, _listings.c.external_id)  # the order of save(): nobody waits in a ring
    .with_for_update()
)
_URLS = (
    select(_images.c.listing_id, _images.c.url)
    .where(_images.c.listing_id.in_(_listing_ids), _images.c.url.is_not(None))
    .order_by(_images.c.listing_id, _images.c.status, _images.c.position, _images.c.id)
)
_successor = _images.alias("successor")
# Where the newer row of a picture has no URL (it is in a folder), that of the older one still shows it.
_SHOWS_THE_SAME = and_(
    _images.c.status == Status.SUPERSEDED,
    exists().where(_successor.c.id == _images.c.superseded_by, _successor.c.status == Status.STORED),
)
# Without coalesce() SQLite takes the index on the status, and reads all that was ever stored.
_STORED_URLS = _URLS.where(or_(func.coalesce(_images.c.status, "") == Status.STORED, _SHOWS_THE_SAME))
_PLACEHOLDER_URLS = _URLS.where(_images.c.reason == Reason.PLACEHOLDER)
_SET_COVER = update(_listings).where(_listings.c.id == bindparam("listing")).values(image_url=bindparam("cover"))
_WRITE_IMAGE = (
    update(_images)
    .where(
        _images.c.listing_id == bindparam("listing"),
        _images.c.identity == bindparam("photo"),
        # A stored photo only moves to another store, and only once it is safe there.
        or_(
            _images.c.status != Status.STORED,
            and_(bindparam("new_status", type_=Text) == Status.STORED, _images.c.store != bindparam("new_store")),
        ),
        # The same bytes as a placeholder's are one, unless it was released.
        or_(
            _images.c.reason.is_(None),
            _images.c.reason != Reason.PLACEHOLDER,
            _images.c.source_sha256 != bindparam("new_source_sha256"),
            bindparam("released", type_=Boolean),
        ),
        # What somebody has deleted stays so, also for a crawl that had it in hand.
        or_(_images.c.reason.is_(None), _images.c.reason != Reason.DELETED),
    )
    .values(
        {name: bindparam(f"new_{name}") for name in (*_BYTES, "status", "reason", "stored_at")}
        | {"attempts": _images.c.attempts + bindparam("tries"), "last_attempt_at": bindparam("now")}
        | {"failed_days": 0, "failed_on": None}  # only what came is written like this
    )
)

# --- questions ------------------------------------------------------------------------------------------------------


def card_states(
    connection: Connection, source: str, external_ids: list[str], retry: RetryRules = CRAWL
) -> dict[str, CardState]:
    """Return for each known car of *external_ids* what the last crawl knew."""
    # The car is on the list: that its page said otherwise one day counts no more.
    wanted = or_(
        due_condition(utcnow(), retry), and_(_images.c.status == Status.FAILED, _images.c.reason == Reason.CAR_GONE)
    )
    due = exists().where(_images.c.listing_id == _listings.c.id, wanted)
    photo = exists().where(_images.c.listing_id == _listings.c.id)
    own = [name for name in EXPECTABLE if name != PHOTO]
    states = {}
    for chunk in chunks(external_ids):
        columns = (_listings.c.external_id, _listings.c.card_hash, _listings.c.details_at, _listings.c.url)
        query = select(*columns, due.label("due"), photo.label(PHOTO), *(_listings.c[name] for name in own)).where(
            _listings.c.source == source, _listings.c.external_id.in_(chunk), _listings.c.is_active
        )
        for row in connection.execute(query):
            known = {name for name in own if getattr(row, name) is not None}
            states[row.external_id] = CardState(
                card_hash=row.card_hash,
                details_at=row.details_at,
                images_due=bool(row.due),
                url=row.url,
                fields=frozenset(known | ({PHOTO} if row.photo else set())),
            )
    return states


def active_cars(connection: Connection, source: str) -> list[ActiveCar]:
    """List every active car of *source*, the longest unseen first."""
    query = (
        select(_listings.c.external_id, _listings.c.url, _listings.c.last_seen_at)
        .where(_listings.c.source == source, _listings.c.is_active, _listings.c.external_id.is_not(None))
        .order_by(_listings.c.last_seen_at, _listings.c.external_id)
    )
    return [ActiveCar(*row) for row in connection.execute(query)]


def spooled_images(connection: Connection, sources: list[str] | None) -> list[tuple[int, str, str]]:
    """List the rows of photos that wait in a spool, of *sources* or of all: id, key and identity."""
    query = (
        select(_images.c.id, _images.c.key, _images.c.identity)
        .join(_listings, _listings.c.id == _images.c.listing_id)
        .where(_images.c.status == Status.PENDING, _images.c.reason == Reason.SPOOLED)
    )
    if sources is not None:
        query = query.where(_listings.c.source.in_(sources))
    return [(row.id, row.key or "", row.identity) for row in connection.execute(query)]


_IMAGE_FIELDS = tuple(field.name for field in fields(CarImage) if field.name in _images.c)


def image_of(row: Row[Any]) -> CarImage:
    """Return a row of ``car_images`` as an item."""
    return CarImage(**{name: getattr(row, name) for name in _IMAGE_FIELDS})


def known_images(
    connection: Connection, cars: list[tuple[str, str]], siblings: bool = False, retry: RetryRules = CRAWL
) -> list[dict[str, KnownImage]]:
    """Return for each ``(source, external_id)`` of *cars* its photos by identity.

    With *siblings* also those that are stored, or deleted on request, for the same car of another site whose ids are
    the same: a photo that is not stored for the car itself is then as that site's.
    """
    found: dict[tuple[str, str], dict[str, KnownImage]] = {car: {} for car in cars}
    others: dict[tuple[str, str], dict[str, KnownImage]] = {}
    due = due_condition(utcnow(), retry).label("due")
    for these in _with_siblings(found) if siblings else of_cars(car for car in found if car[1]):
        query = (
            select(_listings.c.source, _listings.c.external_id, _images, due)
            .join(_listings, _listings.c.id == _images.c.listing_id)
            .where(these)
        )
        for row in connection.execute(query):
            image = image_of(row)
            known = KnownImage(image=image, due=bool(row.due))
            car = (row.source, row.external_id)
            (found[car] if car in found else others.setdefault(car, {}))[image.identity] = known
    if siblings:
        _let_inherit(found, {car: dict(photos) for car, photos in (found | others).items()})
    return [found[car] for car in cars]


_OF_AN_ITEM = ("identity", "source_url", "position", "status", "reason", "store", "key", "url")


def shown_images(connection: Connection, source: str, external_ids: list[str]) -> dict[str, list[CarImage]]:
    """Return the photos of cars in their order, with what an item says of them: one question for a page of cars."""
    found: dict[str, list[CarImage]] = {}
    columns = [_images.c[name] for name in _OF_AN_ITEM]
    for chunk in chunks(external_ids):
        query = (
            select(_listings.c.external_id, *columns)
            .join(_images, _images.c.listing_id == _listings.c.id)
            .where(_listings.c.source == source, _listings.c.external_id.in_(chunk))
            .where(_images.c.status != Status.SUPERSEDED)
            .order_by(_images.c.listing_id, _images.c.position, _images.c.id)
        )
        for external_id, *values in connection.execute(query):
            image = CarImage(**dict(zip(_OF_AN_ITEM, values, strict=True)))
            if image.reason == Reason.DELETED:
                image.key = image.url = None  # the row has its key until the object is gone
            found.setdefault(external_id, []).append(image)
    return found


def _with_siblings(cars: Iterable[tuple[str, str]]) -> Iterator[Any]:
    """Yield conditions that together hold for *cars* and those that have the same id at a site that shares it."""
    cars = list(cars)
    for sources in sorted({tuple(sorted(siblings(source))) for source, _ in cars} - {()}):
        shared = sorted({external_id for source, external_id in cars if source in sources and external_id})
        for chunk in chunks(shared):
            yield and_(_listings.c.source.in_(sources), _listings.c.external_id.in_(chunk))
    yield from of_cars(car for car in cars if car[1] and not siblings(car[0]))


def _let_inherit(
    found: dict[tuple[str, str], dict[str, KnownImage]], everything: dict[tuple[str, str], dict[str, KnownImage]]
) -> None:
    for (source, external_id), photos in found.items():
        theirs: dict[str, KnownImage] = {}
        for other in sorted(siblings(source)):
            for identity, known in everything.get((other, external_id), {}).items():
                deleted = known.image.reason == Reason.DELETED  # whatever another site has
                if deleted or (_has_bytes(known.image) and identity not in theirs):
                    theirs[identity] = KnownImage(image=known.image, due=False)
        for identity, known in theirs.items():
            own = photos.get(identity)
            if identity.startswith(f"{external_id}/") and not (own and _is_settled(own.image)):
                photos[identity] = known


def _is_settled(image: CarImage) -> bool:
    return _has_bytes(image) or image.reason == Reason.DELETED


def _has_bytes(image: CarImage) -> bool:
    return image.status in HAVE_BYTES and image.key is not None


def known_bytes(
    connection: Connection, asked: list[tuple[str, str]], rules: PlaceholderRules
) -> list[KnownBytes | None]:
    """Return for each ``(source_sha256, location)`` a stored photo with these bytes, or that they are a placeholder.

    Rows of a placeholder can be many; one of each kind is enough.
    """
    hashes = sorted({source_sha256 for source_sha256, _ in asked})
    kinds: list[Any] = []
    for chunk in chunks(_seen_hashes(connection, hashes)):
        one_of_each = (
            select(func.min(_images.c.id))
            .where(_images.c.source_sha256.in_(chunk), _OF_USE)
            .group_by(_images.c.source_sha256, _images.c.status, _images.c.reason, _images.c.store)
        )
        kinds.extend(connection.execute(select(_images).where(_images.c.id.in_(one_of_each))))
    placeholders = {row.source_sha256 for row in kinds if row.reason == Reason.PLACEHOLDER} - rules.released
    deleted = {row.source_sha256 for row in kinds if row.reason == Reason.DELETED}
    # A released placeholder's object is still there: its row counts as stored.
    stored = {
        (row.source_sha256, row.store): image_of(row)
        for row in kinds
        if row.status == Status.STORED or row.reason == Reason.PLACEHOLDER
    }
    answers: list[KnownBytes | None] = []
    for source_sha256, location in asked:
        image = stored.get((source_sha256, location))
        placeholder = bool(rules.families) and source_sha256 in placeholders
        gone = source_sha256 in deleted
        known = KnownBytes(image=image, placeholder=placeholder, deleted=gone) if image or placeholder or gone else None
        answers.append(known)
    return answers


def _seen_hashes(connection: Connection, hashes: list[str]) -> list[str]:
    """Leave out what was never served before, which is nearly all of a first crawl."""
    seen: set[str] = set()
    for chunk in chunks(hashes):
        seen.update(connection.execute(_SEEN_HASHES, {"hashes": chunk}).scalars())
    return sorted(seen)


# --- writes ---------------------------------------------------------------------------------------------------------


def save(connection: Connection, items: list[CarItem | GoneCar], rules: PlaceholderRules) -> list[Saved]:
    """Write *items* in one transaction, in the order that keeps two writers from waiting for each other.

    Returns:
        What was done, in the order of *items*.
    """
    results: dict[int, Saved] = {}
    # The same car twice in a group is written twice, one after the other.
    rounds: list[dict[tuple[str, str], int]] = []
    for number, item in enumerate(items):
        car = (item.source, item.external_id)
        for cars in rounds:
            if car not in cars:
                cars[car] = number
                break
        else:
            rounds.append({car: number})
    for cars in rounds:
        numbers = [cars[car] for car in sorted(cars)]
        unchanged = [item for number in numbers if isinstance(item := items[number], CarItem) and item.unchanged]
        gone = {number: item for number in numbers if isinstance(item := items[number], GoneCar)}
        seen = {number: item for number in numbers if isinstance(item := items[number], CarItem) and not item.unchanged}
        if unchanged or gone:
            _lock_in_order(connection, [items[number] for number in numbers])
        results |= dict.fromkeys(numbers, Saved())
        results |= _save_cars(connection, seen, rules)
        _mark_seen(connection, unchanged)
        results |= _mark_gone(connection, gone)
    return [results[number] for number in range(len(items))]


def _save_cars(connection: Connection, cars: dict[int, CarItem], rules: PlaceholderRules) -> dict[int, Saved]:
    if not cars:
        return {}
    now = utcnow()
    items = list(cars.values())
    before = _lock_listings(connection, items)
    new = [item for item in items if (item.source, item.external_id) not in before]
    if new:
        _insert_listings(connection, new, now)
        before |= _lock_listings(connection, new)
    results = {}
    updates = []
    changes = []
    listing_ids = {}
    created = {(item.source, item.external_id) for item in new}
    replaced = {number for number, item in cars.items() if _is_another_car(item, before[item.source, item.external_id])}
    staying = _keep_their_address(connection, items, before)
    for number, item in cars.items():
        car = (item.source, item.external_id)
        row = before[car]
        listing_ids[car] = row.id
        repriced = item.seen and row.price is not None and item.price is not None and row.price != item.price
        repriced = repriced and number not in replaced
        if repriced:
            changes.append({"listing_id": row.id, "old_price": row.price, "new_price": item.price, "changed_at": now})
        values = _listing_values(
            item, row, now, keep_url=row.id in staying or not item.seen, another_car=number in replaced
        )
        updates.append(values)
        results[number] = Saved(
            listing_id=row.id,
            created=car in created,
            changed=car not in created and any(values[f"new_{name}"] != getattr(row, name) for name in _TOLD),
            card_hash=row.card_hash,
            price_changed=repriced,
            replaced=f"{row.make} {row.model} {row.year}" if number in replaced else None,
        )
    if changes:
        connection.execute(insert(_changes), changes)
    with_images = {listing_ids[item.source, item.external_id]: item.images for item in items if item.images}
    found, touched = _save_images(connection, with_images, rules, now)
    numbers = {
        listing_ids[item.source, item.external_id]: number
        for number, item in cars.items()
        # In an archive each photo has a key that was asked for.
        if (item.images and item.source != ARCHIVE) or number in replaced
    }
    shown = {
        listing_id: replace(_shown(cars[number]), another_car=number in replaced)
        for listing_id, number in numbers.items()
    }
    for listing_id, identities in supersede(connection, shown).items():
        results[numbers[listing_id]] = replace(results[numbers[listing_id]], superseded=identities)
    for values in updates:
        values["new_link_due"] |= values["row_id"] in touched
    if found:
        first = next(iter(results))
        results[first] = replace(results[first], placeholders=found)
    covers = stored_urls(connection, sorted(listing_ids.values()))
    placeholders = stored_urls(connection, sorted(listing_ids.values()), placeholders=True)
    for values, (number, item) in zip(updates, cars.items(), strict=True):
        row = before[item.source, item.external_id]
        is_wrong = row.image_url in placeholders.get(row.id, ()) or number in replaced
        current = None if is_wrong else row.image_url
        values["new_image_url"] = next(iter(covers.get(row.id, ())), None) or _temporary_cover(item, current)
    columns = [name.removeprefix("new_") for name in updates[0] if name != "row_id"]
    statement = update(_listings).where(_listings.c.id == bindparam("row_id"))
    written: dict[str, Any] = {name: bindparam(f"new_{name}") for name in columns}
    # Other writes set it, too, that of a placeholder a moment ago.
    written["link_due"] = or_(_listings.c.link_due, bindparam("new_link_due", type_=Boolean))
    connection.execute(statement.values(written), updates)
    return results


def _lock_in_order(connection: Connection, items: list[CarItem | GoneCar]) -> None:
    """Keep other writers from the rows of *items*, in the order in which all writers do it: nobody waits in a ring."""
    if connection.dialect.name == "sqlite":
        return  # has one writer at a time
    for these in of_cars((item.source, item.external_id) for item in items):
        connection.execute(
            select(_listings.c.id).where(these).order_by(_listings.c.source, _listings.c.external_id).with_for_update()
        )


def _lock_listings(connection: Connection, items: list[CarItem]) -> dict[tuple[str, str], Row[Any]]:
    """Read the rows of *items* and keep other writers from them until the commit."""
    rows = {}
    for these in of_cars((item.source, item.external_id) for item in items):
        query = select(_listings).where(these).order_by(_listings.c.source, _listings.c.external_id).with_for_update()
        rows.update({(row.source, row.external_id): row for row in connection.execute(query)})
    return rows


def _insert_listings(connection: Connection, items: list[CarItem], now: datetime) -> None:
    """Make a row for each of *items*, unless another crawl is faster or an old row without an id has the address."""
    by_url: dict[str, CarItem] = {}
    for item in items:
        if by_url.setdefault(item.url, item) is not item:
            item.url = f"{item.url}#{item.external_id}"
            by_url[item.url] = item
    for chunk in chunks(sorted(by_url)):
        query = select(_listings.c.id, _listings.c.url, _listings.c.external_id, _listings.c.source).where(
            _listings.c.url.in_(chunk)
        )
        for row in connection.execute(query).all():
            item = by_url[row.url]
            if row.external_id is None and row.source in {None, item.source}:
                values = {"external_id": item.external_id, "source": item.source}
                connection.execute(update(_listings).where(_listings.c.id == row.id).values(values))
            elif (row.source, row.external_id) != (item.source, item.external_id):
                # Two cars under one address: the second is kept all the same, under an address of its own.
                item.url = f"{item.url}#{item.external_id}"
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    rows = [
        {
            "source": item.source,
            "external_id": item.external_id,
            "url": item.url,
            "make": item.make,  # needed at once: placeholders are told by unrelated cars
            "model": item.model,
            "is_active": item.seen,
            "first_seen_at": now,
        }
        for item in items
    ]
    connection.execute(dialect.insert(_listings).on_conflict_do_nothing(index_elements=["source", "external_id"]), rows)


def _keep_their_address(
    connection: Connection, items: list[CarItem], rows: dict[tuple[str, str], Row[Any]]
) -> set[int]:
    """Return the rows that can't have the new address of their item, because another row has or gets it."""
    moved = [(rows[item.source, item.external_id], item.url) for item in items]
    moved = [(row, url) for row, url in moved if row.url != url]
    holders: dict[str, int] = {}
    for chunk in chunks(sorted({url for _, url in moved})):
        query = select(_listings.c.url, _listings.c.id).where(_listings.c.url.in_(chunk))
        holders.update((url, row_id) for url, row_id in connection.execute(query))
    return {row.id for row, url in moved if holders.setdefault(url, row.id) != row.id}


def _is_another_car(item: CarItem, row: Row[Any]) -> bool:
    """Return whether the dealer has given the id to another car: one of another make and of another year.

    What a row of the earlier scraper says, whose card was never read here, is no evidence.
    """
    if not (row.card_hash and item.seen and item.make and item.year and row.make and row.year):
        return False
    return make_slug(item.make) != make_slug(row.make) and item.year != row.year


def _listing_values(
    item: CarItem, row: Row[Any], now: datetime, *, keep_url: bool, another_car: bool = False
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _KEPT:
        new = getattr(item, name) if item.seen else None
        values[name] = getattr(row, name) if new is None and not another_car else new
    for name in _WITH_PRICE:
        values[name] = getattr(item if (item.seen and item.price is not None) or another_car else row, name)
    values["url"] = row.url if keep_url else item.url
    if item.seen:
        # None too: what the card said is not all written yet.
        now_true = {"card_hash": item.card_hash, "is_active": True, "gone_at": None}
        values |= now_true | {"scraped_at": now, "last_seen_at": now}
    else:
        values |= {name: getattr(row, name) for name in _WHEN_SEEN}
    differs = any(values[name] != getattr(row, name) for name in _TELLS_KIN)
    fetched = any(image.attempts and image.status == Status.STORED for image in item.images)
    values["link_due"] = differs or fetched
    return {f"new_{name}": value for name, value in values.items()} | {"row_id": row.id}


def _temporary_cover(item: CarItem, current: str | None) -> str | None:
    """Return the picture to show while no photo has a permanent URL; a permanent URL is never replaced."""
    deleted = {image.source_url for image in item.images if image.reason == Reason.DELETED}
    current = None if current in deleted else current
    newest = next((image.source_url for image in item.images if image.source_url not in deleted), None)
    if not newest or (current and not _is_dealers(current, item.url, newest)):
        return current
    return newest


def _is_dealers(address: str, *of_the_dealer: str) -> bool:
    """Return whether *address* is a dealer's temporary one: on a host of the dealer, or of the Rögg platform's form.

    >>> _is_dealers("https://bilasolur.isCarImage.aspx?s=16&c=1&p=2", "https://bilasolur.is/CarDetails.aspx?cid=1")
    True
    >>> _is_dealers("https://b.s3.eu-north-1.amazonaws.com/x.jpg", "https://bilasolur.is/CarDetails.aspx?cid=1")
    False
    """
    if "carimage.aspx" in address.lower():
        return True
    try:
        hosts = {urlsplit(url).hostname for url in of_the_dealer}
        return urlsplit(address).hostname in hosts
    except ValueError:
        return True


def _mark_seen(connection: Connection, cars: list[CarItem]) -> None:
    """Note of cars whose card says nothing new that they are still there."""
    now = utcnow()
    by_source: dict[str, list[str]] = {}
    for car in cars:
        by_source.setdefault(car.source, []).append(car.external_id)
    for source, external_ids in by_source.items():
        for chunk in chunks(external_ids):
            where = and_(_listings.c.source == source, _listings.c.external_id.in_(chunk))
            back = or_(_listings.c.link_due, _listings.c.is_active.is_(False))
            values = {"last_seen_at": now, "scraped_at": now, "is_active": True, "gone_at": None, "link_due": back}
            connection.execute(update(_listings).where(where).values(values))


def _mark_gone(connection: Connection, cars: dict[int, GoneCar]) -> dict[int, Saved]:
    now = utcnow()
    results = {}
    for number, car in cars.items():
        this = and_(_listings.c.source == car.source, _listings.c.external_id == car.external_id)
        values = {"is_active": False, "gone_at": now, "link_due": True}
        marked = connection.execute(update(_listings).where(this, _listings.c.is_active).values(values)).rowcount
        given_up = 0
        if car.give_up_photos:
            photos = and_(
                _images.c.listing_id.in_(select(_listings.c.id).where(this)),
                or_(
                    _images.c.reason == Reason.NO_FRESH_ADDRESS,
                    and_(_images.c.status == Status.PENDING, _images.c.reason.is_(None)),
                ),
            )
            given = {"status": Status.FAILED, "reason": Reason.CAR_GONE}
            given_up = connection.execute(update(_images).where(photos).values(given)).rowcount
        results[number] = Saved(changed=bool(marked), given_up=given_up)
    return results


def save_images(connection: Connection, photos: list[tuple[int, CarImage]], rules: PlaceholderRules) -> list[int]:
    """Write photos, each with its listing's id, as soon as their bytes are safe.

    Their rows are there since the car was announced; one that is stored by now (by another crawl) stays as it is.

    Returns:
        For each photo 0; for the first, how many photos of this and other cars it showed to be placeholders.
    """
    now = utcnow()
    shown = lock_covers(connection, sorted({listing_id for listing_id, _ in photos}))
    rows = []
    for listing_id, image in photos:
        values: dict[str, Any] = {f"new_{name}": getattr(image, name) for name in (*_BYTES, "status", "reason")}
        values |= {"listing": listing_id, "photo": image.identity, "tries": image.attempts, "now": now}
        values["released"] = not rules.holds(image.source_sha256 or "")
        rows.append(values | {"new_stored_at": now if image.status == Status.STORED else None})
    connection.execute(_WRITE_IMAGE, rows)
    stored = {image.source_sha256 for _, image in photos if image.status == Status.STORED and image.source_sha256}
    found = _find_placeholders(connection, stored, rules) if rules.families and stored else 0
    for listing_id, urls in stored_urls(connection, sorted(shown)).items():
        if shown[listing_id] != urls[0]:
            set_cover(connection, listing_id, urls[0])
    return [found] + [0] * (len(photos) - 1)


def lock_covers(connection: Connection, listing_ids: list[int]) -> dict[int, str | None]:
    """Return the pictures that cars show, and keep other writers from these cars until the commit."""
    shown: dict[int, str | None] = {}
    for chunk in chunks(listing_ids):
        shown.update((row.id, row.image_url) for row in connection.execute(_LOCK_COVERS, {"listing_ids": chunk}))
    return shown


def set_cover(connection: Connection, listing_id: int, url: str | None) -> None:
    """Let a car show the picture at *url*, or none."""
    connection.execute(_SET_COVER, {"listing": listing_id, "cover": url})


def _save_images(
    connection: Connection, with_images: dict[int, list[CarImage]], rules: PlaceholderRules, now: datetime
) -> tuple[int, set[int]]:
    """Write the photos of each listing; the listings' rows are locked, so nobody else writes them.

    Returns:
        How many photos proved to be placeholders, and the listings that have photos which they did not have.
    """
    existing: dict[tuple[int, str], Row[Any]] = {}
    wanted = [(listing_id, image.identity) for listing_id, images in with_images.items() for image in images]
    for chunk in chunks(wanted):
        # More than these pairs, but each list finds its index, also on SQLite.
        listing_ids, identities = ({pair[part] for pair in chunk} for part in (0, 1))
        query = select(_images).where(_images.c.listing_id.in_(listing_ids), _images.c.identity.in_(identities))
        existing.update({(found.listing_id, found.identity): found for found in connection.execute(query)})
    inserts = []
    updates = []
    stored = set()
    touched = set()
    for listing_id, images in with_images.items():
        for image in {image.identity: image for image in images}.values():
            row = existing.get((listing_id, image.identity))
            values = _image_values(image, row, now, rules)
            if values is None:
                continue
            if image.status == Status.STORED and image.source_sha256 and (row is None or row.status != Status.STORED):
                stored.add(image.source_sha256)
            if row is None or values["source_sha256"] != row.source_sha256:
                touched.add(listing_id)
            if row is None:
                inserts.append(values | {"listing_id": listing_id, "first_seen_at": now})
            else:
                updates.append({f"new_{name}": value for name, value in values.items()} | {"row_id": row.id})
    if inserts:
        connection.execute(insert(_images), inserts)
    if updates:
        columns = [name.removeprefix("new_") for name in updates[0] if name != "row_id"]
        statement = update(_images).where(_images.c.id == bindparam("row_id"))
        connection.execute(statement.values({name: bindparam(f"new_{name}") for name in columns}), updates)
    return _find_placeholders(connection, stored, rules) if rules.families and stored else 0, touched


def _image_values(
    image: CarImage, row: Row[Any] | None, now: datetime, rules: PlaceholderRules
) -> dict[str, Any] | None:
    """Return the row to write for *image*, or ``None`` if nothing changed. A stored photo is never downgraded."""
    tried = image.attempts > 0
    values: dict[str, Any] = {name: getattr(image, name) for name in _IMAGE_FIELDS}
    values["last_attempt_at"] = now if tried else None
    values["stored_at"] = now if image.status == Status.STORED else None
    values |= {"failed_days": 0, "failed_on": None}  # they are counted at the end of a run
    if row is None:
        return values
    if not image.on_page:
        image.position = values["position"] = row.position  # where it was when it was shown
    if row.reason == Reason.DELETED:
        # Only where the dealer shows it may change; the crawl that had it in hand meanwhile changes nothing.
        if (row.position, row.source_url) == (image.position, image.source_url):
            return None
        return {name: getattr(row, name) for name in values} | {
            "position": image.position,
            "source_url": image.source_url,
        }
    keep_bytes = row.status == Status.STORED and (image.status != Status.STORED or row.store == image.store)
    # Shown again, and stored since it was shown first; supersede() makes it the current row.
    keep_bytes |= (row.status, image.status, row.key) == (Status.SUPERSEDED, Status.STORED, image.key)
    # Written a moment ago, when the bytes were safe; or found to be a placeholder since.
    keep_bytes |= row.sha256 is not None and (row.sha256, row.status, row.reason) == (
        image.sha256,
        image.status,
        image.reason,
    )
    keep_bytes |= (
        row.reason == Reason.PLACEHOLDER
        and rules.holds(row.source_sha256)
        and (row.source_sha256 == image.source_sha256)
    )
    if keep_bytes or (not tried and image.status != Status.STORED):
        url = image.url if keep_bytes and image.status == Status.STORED and image.key == row.key else row.url
        # One that was never tried says why it was not this time either.
        is_left = (row.status, row.reason) == (Status.PENDING, None) and image.reason in LEFT_ON_PURPOSE
        if not is_left and (row.position, row.source_url, row.url) == (image.position, image.source_url, url):
            return None
        values |= {name: getattr(row, name) for name in (*_BYTES, "status", "reason", "stored_at", *_DAYS)}
        values |= {"url": url, "reason": image.reason if is_left else row.reason}
    elif image.status != Status.STORED and image.key is None:
        values |= {name: getattr(row, name) for name in _BYTES}
        if image.reason == Reason.DELETED:
            values["source_sha256"] = image.source_sha256  # the tombstone's bytes: lifted together
    if values["status"] == Status.FAILED and (row.status, row.reason) == (Status.FAILED, values["reason"]):
        values |= {name: getattr(row, name) for name in _DAYS}
    if is_another_address(row.source_url, image.source_url):
        values |= {"failed_days": 0, "failed_on": None}
    # The row counts the tries of all runs, the item those of this run.
    values["attempts"] = row.attempts + image.attempts
    values["last_attempt_at"] = now if tried else row.last_attempt_at
    return values


def is_another_address(known: str, shown: str) -> bool:
    """Return whether *shown* is another address of a photo than *known*, not another spelling of the same one.

    >>> is_another_address("https://b.is/CarImage.aspx?c=1&p=2&w=784", "https://b.is/CarImage.aspx?s=5&c=1&p=2")
    False
    >>> is_another_address("https://b.is/old/1.jpg", "https://b.is/new/1.jpg")
    True
    """
    try:
        one, other = urlsplit(known), urlsplit(shown)
        differs = (one.hostname, one.port, one.path) != (other.hostname, other.port, other.path)
    except ValueError:
        differs = known != shown
    return differs


def release_images(connection: Connection, row_ids: list[int]) -> None:
    """Let the photos *row_ids* be fetched again, unless they are stored by now."""
    for chunk in chunks(sorted(row_ids)):
        still = and_(_images.c.id.in_(chunk), _images.c.status == Status.PENDING, _images.c.reason == Reason.SPOOLED)
        connection.execute(update(_images).where(still).values(reason=None))


def image_stored(
    connection: Connection, source: str, external_id: str, image: CarImage, rules: PlaceholderRules
) -> bool:
    """Write that *image*, which waited in the spool, is stored; true if its row was there."""
    row = (
        select(_images.c.listing_id)
        .join(_listings, _listings.c.id == _images.c.listing_id)
        .where(_listings.c.source == source, _listings.c.external_id == external_id)
        .where(_images.c.identity == image.identity)
    )
    listing_id = connection.execute(row).scalar()
    if listing_id is None:
        return False
    save_images(connection, [(listing_id, replace(image, status=Status.STORED, reason=None))], rules)
    if source != ARCHIVE:
        supersede(connection, {listing_id: Shown()})
    # What could not be read back while it was in the spool can be compared now.
    connection.execute(update(_listings).where(_listings.c.id == listing_id).values(link_due=True))
    return True


def stored_urls(connection: Connection, listing_ids: list[int], *, placeholders: bool = False) -> dict[int, list[str]]:
    """Return the permanent URLs of each car's stored photos (or of its placeholders), the first photo's first.

    Those of superseded rows whose picture is stored again come last.
    """
    statement = _PLACEHOLDER_URLS if placeholders else _STORED_URLS
    covers: dict[int, list[str]] = {}
    for chunk in chunks(listing_ids):
        for listing_id, url in connection.execute(statement, {"listing_ids": chunk}):
            covers.setdefault(listing_id, []).append(url)
    return covers


def _find_placeholders(connection: Connection, hashes: set[str], rules: PlaceholderRules) -> int:
    """Mark the bytes of *hashes* that several unrelated cars show as placeholders, on every car.

    The objects stay, and so do the rows' keys: should it prove a photo after all, ``IMAGES_NOT_PLACEHOLDERS`` brings
    it back without an upload.

    Returns:
        How many photos are no longer stored ones.
    """
    families: dict[str, set[tuple[str, str]]] = {}
    for chunk in chunks(sorted(hashes - rules.released)):
        several = connection.execute(_SEVERAL, {"hashes": chunk, "families": rules.families}).scalars().all()
        if not several:
            continue
        query = (
            select(_images.c.source_sha256, _listings.c.make, _listings.c.model, _listings.c.id)
            .join(_listings, _listings.c.id == _images.c.listing_id)
            .where(_images.c.source_sha256.in_(several))
            .distinct()
        )
        for source_sha256, make, model, _ in connection.execute(query):
            family = ((make or "").lower(), ((model or "").lower().split() or [""])[0])
            families.setdefault(source_sha256, set()).add(family)
    found = sorted(name for name, cars in families.items() if len(cars) >= rules.families)
    if not found:
        return 0
    marked = and_(_images.c.source_sha256.in_(found), _images.c.status == Status.STORED)
    shown = (
        select(_listings.c.id)
        .join(_images, _listings.c.id == _images.c.listing_id)
        .where(marked, _listings.c.image_url == _images.c.url)
        .order_by(_listings.c.id)
    )
    listing_ids = list(dict.fromkeys(connection.execute(shown).scalars()))
    values = {"status": Status.FAILED, "reason": Reason.PLACEHOLDER, "failed_days": 0, "failed_on": None}
    number = connection.execute(update(_images).where(marked).values(values)).rowcount
    covers = stored_urls(connection, listing_ids)
    for listing_id in listing_ids:
        cover = next(iter(covers.get(listing_id, ())), None)
        connection.execute(update(_listings).where(_listings.c.id == listing_id).values(image_url=cover))
    _unlink_later(connection, found)
    return number


def _unlink_later(connection: Connection, placeholders: list[str]) -> None:
    """Let the next linking look at cars again that may be linked by what proved to be a placeholder."""
    showing = (
        select(_listings.c.id)
        .where(_listings.c.id.in_(select(_images.c.listing_id).where(_images.c.source_sha256.in_(placeholders))))
        .where(_listings.c.link_due.is_(False))
        .order_by(_listings.c.source, _listings.c.external_id)
        .with_for_update()
    )
    for chunk in chunks(connection.execute(showing).scalars().all()):
        connection.execute(update(_listings).where(_listings.c.id.in_(chunk)).values(link_due=True))


# --- one current row for each picture of a car -----------------------------------------------------------------------

_SEVERAL_ROWS = select(
    *(_images.c[name] for name in ("id", "listing_id", "identity", "position", "status", "reason", "source_sha256")),
    *(_images.c[name] for name in ("key", "superseded_by", "failed_days", "failed_on", "first_seen_at")),
).order_by(_images.c.id)
_SUPERSEDE = (
    update(_images)
    .where(_images.c.id == bindparam("row_id"))
    .values(
        {name: bindparam(f"new_{name}") for name in ("status", "reason", "superseded_by", "failed_days", "failed_on")}
    )
)
_STAYS = frozenset({Reason.DELETED, Reason.PLACEHOLDER, Reason.SPOOLED})
"""Reasons of rows that stay as they are, whatever the page shows."""


def _shown(item: CarItem) -> Shown:
    on_page = tuple(image.identity for image in item.images if image.on_page)
    return Shown(identities=on_page, whole=item.shows_all and item.seen)


def supersede(connection: Connection, shown: dict[int, Shown]) -> dict[int, frozenset[str]]:
    """Let each picture of a car have one current row; the listings' rows are locked by the caller.

    A site may give its photos new ids. Of rows with the same bytes the one that is shown now is current (``stored``),
    the others are ``superseded`` by it and keep key, address and hashes. A photo that was never stored and is shown no
    more is superseded by the newer one that is stored and stands in its place; without such a one it is ``off-page``.
    When the id was given to another car, all photos of the car before are superseded, by none.

    Args:
        connection: in a transaction of the caller.
        shown: what the site shows, by listing id.

    Returns:
        For each listing the identities of its superseded rows.
    """
    rows: dict[int, list[Row[Any]]] = {listing_id: [] for listing_id in shown}
    for chunk in chunks(sorted(shown)):
        for row in connection.execute(_SEVERAL_ROWS.where(_images.c.listing_id.in_(chunk))):
            rows[row.listing_id].append(row)
    changes = []
    superseded = {}
    for listing_id, photos in rows.items():
        after = _current_rows(photos, shown[listing_id].identities)
        if shown[listing_id].another_car:
            others = (row for row in photos if row.identity not in shown[listing_id].identities)
            after |= {row.id: {"status": Status.SUPERSEDED} for row in others if row.reason not in _STAYS}
        elif shown[listing_id].whole:
            after |= _no_longer_shown(photos, shown[listing_id].identities, after)
        superseded[listing_id] = frozenset(
            row.identity for row in photos if after.get(row.id, {"status": row.status})["status"] == Status.SUPERSEDED
        )
        for row in photos:
            if row.id in after:
                values = {"reason": None, "superseded_by": None, "failed_days": 0, "failed_on": None} | after[row.id]
                if any(getattr(row, name) != value for name, value in values.items()):
                    changes.append({f"new_{name}": value for name, value in values.items()} | {"row_id": row.id})
    if changes:
        connection.execute(_SUPERSEDE, changes)
    return superseded


def _current_rows(photos: list[Row[Any]], shown: tuple[str, ...]) -> dict[int, dict[str, Any]]:
    """Return what becomes of rows that have the same bytes as others, by row id."""
    places = {identity: place for place, identity in enumerate(shown)}
    families: dict[str, list[Row[Any]]] = {}
    for row in photos:
        if row.status in HAVE_BYTES and row.key and row.source_sha256:
            families.setdefault(row.source_sha256, []).append(row)
    after: dict[int, dict[str, Any]] = {}
    for family in families.values():
        current = min(
            (row for row in family if row.identity in places), key=lambda row: places[row.identity], default=None
        )
        # Nobody knows what is shown: the newest, unless it was superseded already.
        current = current or next((row for row in reversed(family) if row.status == Status.STORED), None)
        if current:
            after |= {row.id: {"status": Status.SUPERSEDED, "superseded_by": current.id} for row in family}
            after[current.id] = {"status": Status.STORED}
    return after


def _is_answer(reason: str | None) -> bool:
    """Return whether the dealer has answered, as :func:`becomes_final` has it."""
    return reason in FINAL_BY_DAYS or ((reason or "").startswith("http-4") and reason not in _BUSY)


def _no_longer_shown(
    photos: list[Row[Any]], shown: tuple[str, ...], current: dict[int, dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Return what becomes of rows that were never stored and that the site does not show any more, by row id."""
    if not shown:
        return {}
    by_identity = {row.identity: row for row in photos}
    after: dict[int, dict[str, Any]] = {}
    for row in photos:
        if row.identity in shown or row.status in HAVE_BYTES or row.reason in _STAYS:
            continue
        in_place = by_identity.get(shown[row.position]) if row.position < len(shown) else None
        if in_place is not None and in_place.first_seen_at > row.first_seen_at:
            if in_place.status in HAVE_BYTES:
                newer = current.get(in_place.id, {}).get("superseded_by") or in_place.id
                after[row.id] = {"status": Status.SUPERSEDED, "superseded_by": newer}
            continue  # else it may still be stored
        if row.status == Status.FAILED and _is_answer(row.reason):  # else its old address may still give it
            days = {"failed_days": row.failed_days, "failed_on": row.failed_on} if row.reason == Reason.OFF_PAGE else {}
            after[row.id] = {"status": Status.FAILED, "reason": Reason.OFF_PAGE} | days
    return after
