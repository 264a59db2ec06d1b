"""Opening cars before their photos are fetched: one upsert for their rows, and rows for photos that have none.

Functions of a connection, each in a transaction of its caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlalchemy import case, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from carscraper.db import photos
from carscraper.db.models import listings, price_changes
from carscraper.db.placeholders import find_placeholders
from carscraper.db.rules import ARCHIVE, HAVE_BYTES, RetryRules, chunks, of_cars
from carscraper.db.superseded import Shown, supersede
from carscraper.items import (
    CARD_FIELD,
    CARD_FIELDS,
    CARD_SILENT,
    CARD_TEXT,
    CarImage,
    CarItem,
    GoneCar,
    Reason,
    Status,
    utcnow,
)
from carscraper.vehicles import make_slug

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import Connection, Row

    from carscraper.db.photos import KnownImage
    from carscraper.db.rules import PlaceholderRules

# What names a car, and what is written when it is closed.
_OTHERWISE = frozenset({"source", "external_id", "url", "card_hash", "details_at"})
# What a card or a page says of a car. What it leaves open need not be wrong: nothing is overwritten by None.
_TOLD = tuple(each.name for each in fields(CarItem) if each.name in listings.c and each.name not in _OTHERWISE)
# These belong to the price: a new price without them means that the offer is over.
_WITH_PRICE = ("price_before_offer", "price_excludes_vat")
# What may make or undo a link to another site's listing, see ``linking``.
_TELLS_KIN = ("make", "year", "registration_month", "price", *_WITH_PRICE, "kilometers", "registration_plate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What writing a car did."""

    listing_id: int | None = field(default=None, compare=False)
    created: bool = False
    changed: bool = False
    """It was known, and something that its card or page says is not as it was; of a gone car: it was active."""
    price_changed: bool = False
    error: str | None = None
    """Why this car can't be written, whatever is tried."""
    raised: bool = False
    """That is what a trigger says of it."""
    placeholders: int = 0
    """Photos, of this and other cars, that this car's showed to be placeholders."""
    given_up: int = field(default=0, compare=False)
    """Photos of a gone car that are not tried again unless the car is seen again."""
    superseded: frozenset[str] = field(default=frozenset(), compare=False)
    """Identities of the car's photos that others of its photos have taken the place of."""
    replaced: str | None = None
    """The car that had this id before, if the dealer has given it to another one."""
    images: tuple[CarImage, ...] = field(default=(), compare=False)
    """The car's photos with what is known of them, and those that are due though the page does not show them."""
    known: frozenset[str] = field(default=frozenset(), compare=False)
    """Identities of the photos that had a row before."""


def lock(connection: Connection, items: Iterable[CarItem | GoneCar]) -> dict[tuple[str, str], Row[Any]]:
    """Read the rows of *items* and keep other writers from them until the commit."""
    rows = {}
    for these in of_cars((item.source, item.external_id) for item in items):
        query = select(listings).where(these).order_by(listings.c.source, listings.c.external_id).with_for_update()
        rows.update({(row.source, row.external_id): row for row in connection.execute(query)})
    return rows


@dataclass(kw_only=True, slots=True)
class _Opening:
    """A car that is being opened."""

    item: CarItem
    row: Row[Any] | None
    """Before."""
    is_replaced: bool
    """The id belonged to another car until now."""
    known: dict[str, KnownImage] = field(default_factory=dict)
    images: list[CarImage] = field(default_factory=list)

    @property
    def is_repriced(self) -> bool:
        item, row = self.item, self.row
        if row is None or self.is_replaced or not item.seen:
            return False
        return row.price is not None and item.price is not None and row.price != item.price

    @property
    def is_changed(self) -> bool:
        before, now = getattr(self.row, "card_hash", None), self.item.card_hash
        is_another_card = before is not None and now is not None and not has_same_text(before, now)
        return self.row is not None and self.item.seen and (is_another_card or any(map(self._differs, _TOLD)))

    @property
    def is_due_for_linking(self) -> bool:
        if self.row is None or any(self.row_of(each) is None for each in self.images):
            return True
        return self.item.seen and (not self.row.is_active or any(map(self._differs, _TELLS_KIN)))

    def row_of(self, image: CarImage) -> CarImage | None:
        return self.known[image.identity].row if image.identity in self.known else None

    def _differs(self, name: str) -> bool:
        """Return whether writing the item changes this column."""
        value = getattr(self.item, name)
        is_told = self.item.price is not None if name in _WITH_PRICE else value is not None
        return is_told and value != getattr(self.row, name)

    def values(self, url: str | None, now: datetime, *, closes: bool) -> dict[str, Any]:
        """Return the parameters of :func:`_upsert`."""
        item, row = self.item, self.row
        tells = item.seen or row is None
        seen_at = now if item.seen else None
        cover = None if row is None or self.is_replaced else row.image_url
        return {name: getattr(item, name) if tells else None for name in _TOLD} | {
            "source": item.source,
            "external_id": item.external_id,
            "url": url,
            "image_url": cover or temporary_cover(item.url, self.images, None),  # a better one when it is closed
            "is_active": item.seen,
            "first_seen_at": now,
            "last_seen_at": seen_at,
            "scraped_at": seen_at,
            "card_hash": item.card_hash if closes else None,
            "details_at": item.details_at if closes and item.seen else None,
            "link_due": self.is_due_for_linking or (closes and has_new_bytes(item)),
        }

    def saved(self, listing_id: int) -> Saved:
        row = self.row
        return Saved(
            listing_id=listing_id,
            created=row is None,
            changed=self.is_changed,
            price_changed=self.is_repriced,
            replaced=f"{row.make} {row.model} {row.year}" if row is not None and self.is_replaced else None,
            images=tuple(self.images),
            known=frozenset(self.known),
        )


def open_group(
    connection: Connection, items: list[CarItem], rules: PlaceholderRules, retry: RetryRules, *, closes: bool = False
) -> list[Saved]:
    """Open cars, each of which comes once, as :func:`carscraper.db.cars.open_cars` says.

    *closes*: nothing is fetched afterwards, so that what waits for that is written now.
    """
    if not items:
        return []
    now = utcnow()
    before = lock(connection, items)
    if adopted := _adopt(connection, [item for item in items if car_of(item) not in before]):
        before |= lock(connection, adopted)
    urls = _addresses(connection, items, before)
    cars = []
    for item in items:
        row = before.get(car_of(item))
        news = _news_of_card(item, row)
        cars.append(_Opening(item=news, row=row, is_replaced=row is not None and _is_another_car(item, row)))
    _forget(connection, {car.row.id: car.item for car in cars if car.row is not None and car.is_replaced})
    for car, known in zip(cars, _known(connection, items, retry), strict=True):
        car.known, car.images = known, _images(car.item, known)
    values = [car.values(urls[car_of(car.item)], now, closes=closes) for car in cars]
    upserted = connection.execute(_upsert(connection.dialect.name), values)
    ids = {(source, external_id): listing_id for listing_id, source, external_id in upserted}
    changes = [
        {"listing_id": car.row.id, "old_price": car.row.price, "new_price": car.item.price, "changed_at": now}
        for car in cars
        if car.row is not None and car.is_repriced
    ]
    if changes:
        connection.execute(insert(price_changes), changes)
    listing_ids = [ids[car_of(item)] for item in items]
    placeholders = _write_photos(connection, dict(zip(listing_ids, cars, strict=True)), rules, now)
    first, *others = (car.saved(listing_id) for listing_id, car in zip(listing_ids, cars, strict=True))
    return [replace(first, placeholders=placeholders), *others]


def car_of(item: CarItem | GoneCar) -> tuple[str, str]:
    """Return the source and the id that name the car."""
    return item.source, item.external_id


def _adopt(connection: Connection, items: list[CarItem]) -> list[CarItem]:
    """Give the rows of the earlier scraper, which name no car, to those of *items* with their addresses."""
    by_url: dict[str, CarItem] = {}
    for item in items:
        by_url.setdefault(item.url, item)
    adopted = []
    for chunk in chunks(sorted(by_url)):
        query = select(listings.c.id, listings.c.url, listings.c.source)
        for row in connection.execute(query.where(listings.c.url.in_(chunk), listings.c.external_id.is_(None))).all():
            item = by_url[row.url]
            if row.source in {None, item.source}:
                values = {"external_id": item.external_id, "source": item.source}
                connection.execute(update(listings).where(listings.c.id == row.id).values(values))
                adopted.append(item)
    return adopted


def _addresses(
    connection: Connection, items: list[CarItem], rows: dict[tuple[str, str], Row[Any]]
) -> dict[tuple[str, str], str | None]:
    """Return the address of each car's row: no two can have the same.

    Where another car has it already, a known car keeps its own, and a new one gets its id at the end.
    """
    urls: dict[tuple[str, str], str | None] = {car: row.url for car, row in rows.items()}
    moved = [item for item in items if car_of(item) not in rows or (item.seen and item.url != urls[car_of(item)])]
    holders: dict[str, tuple[str, str]] = {}
    for chunk in chunks(sorted({item.url for item in moved})):
        query = select(listings.c.url, listings.c.source, listings.c.external_id).where(listings.c.url.in_(chunk))
        holders.update((row.url, (row.source, row.external_id)) for row in connection.execute(query))
    for item in moved:
        car = car_of(item)
        if holders.setdefault(item.url, car) == car:
            urls[car] = item.url
        elif car not in rows:
            urls[car] = f"{item.url}#{item.external_id}"
    return urls


def has_same_text(before: str | None, now: str | None) -> bool:
    """Return whether two hashes are of cards with the same text and photos, whatever was read of it."""
    return (before or "")[:CARD_TEXT] == (now or "")[:CARD_TEXT]


def _news_of_card(item: CarItem, row: Row[Any] | None) -> CarItem:
    """Return *item* without what its card said before: the car's own page, which was not read now, says more."""
    if row is None or not row.card_hash or not row.details_at or item.details_at or not item.card_hash:
        return item
    if not has_same_text(row.card_hash, item.card_hash):
        return item
    known: list[str] = []
    for number, names in enumerate(CARD_FIELDS):
        read = slice(CARD_TEXT + number * CARD_FIELD, CARD_TEXT + (number + 1) * CARD_FIELD)
        if row.card_hash[read] == item.card_hash[read]:
            known += names
        elif row.card_hash[read] == CARD_SILENT and "price" not in names:  # then the page may have said it
            known += [name for name in names if getattr(row, name) is not None]
    if item.price == row.price and item.price_before_offer is None:
        known += ("price", *_WITH_PRICE)
    nothing: dict[str, Any] = dict.fromkeys(known)
    return replace(item, **nothing)


def _is_another_car(item: CarItem, row: Row[Any]) -> bool:
    """Return whether the dealer has given the id to another car: one of another make and of another year.

    What a row of the earlier scraper says, whose card was never read here, is no evidence.
    """
    if not (row.card_hash and item.seen and item.make and item.year and row.make and row.year):
        return False
    if item.card_hash and has_same_text(row.card_hash, item.card_hash):
        return False  # it is only read in another way
    return make_slug(item.make) != make_slug(row.make) and item.year != row.year


def _forget(connection: Connection, cars: dict[int, CarItem]) -> None:
    """Clear the rows of cars whose ids others have now, by listing id; the photos of the cars before are superseded."""
    if cars:
        nothing = dict.fromkeys((*_TOLD, "details_at", "image_url"))
        connection.execute(update(listings).where(listings.c.id.in_(list(cars))).values(nothing))
        supersede(connection, {row_id: replace(shown_of(item), another_car=True) for row_id, item in cars.items()})


def _known(connection: Connection, items: list[CarItem], retry: RetryRules) -> list[dict[str, KnownImage]]:
    """Return what is known of each car's photos; of an archive's folder, which holds any number, of the item's."""
    found = dict(
        zip(
            cars := [car_of(item) for item in items if item.source != ARCHIVE],
            photos.known_with_siblings(connection, cars, retry),
            strict=True,
        )
    )
    for item in items:
        if item.source == ARCHIVE:
            identities = [image.identity for image in item.images]
            found[car_of(item)] = photos.known_among(connection, car_of(item), identities, retry)
    return [found[car_of(item)] for item in items]


def _images(item: CarItem, known: dict[str, KnownImage]) -> list[CarImage]:
    shown = list({image.identity: image for image in item.images}.values())
    if item.seen:
        shown += photos.off_page(known, shown)
    return [photos.as_known(image, known.get(image.identity), seen=item.seen) for image in shown]


@cache
def _upsert(dialect: str) -> Any:
    """Return the statement that writes a car, whether it has a row or not."""
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(listings)
    new, old = statement.excluded, listings.c
    kept = {name: func.coalesce(new[name], old[name]) for name in (*_TOLD, "details_at", "last_seen_at", "scraped_at")}
    priced = {name: case((new.price.is_(None), old[name]), else_=new[name]) for name in _WITH_PRICE}
    seen = {
        "card_hash": case((new.is_active, new.card_hash), else_=old.card_hash),
        "gone_at": case((new.is_active, None), else_=old.gone_at),
        "is_active": or_(new.is_active, old.is_active),
    }
    written = (
        kept | priced | seen | {"url": new.url, "image_url": new.image_url, "link_due": or_(new.link_due, old.link_due)}
    )
    return statement.on_conflict_do_update(index_elements=["source", "external_id"], set_=written).returning(
        old.id, old.source, old.external_id
    )


def _write_photos(connection: Connection, cars: dict[int, _Opening], rules: PlaceholderRules, now: datetime) -> int:
    """Write the photos of cars by listing id; return how many photos, of any car, proved to be placeholders."""
    new, known, outcomes = [], [], []
    for listing_id, car in cars.items():
        for image in car.images:
            row = car.row_of(image)
            if row is None:
                new.append((listing_id, image))
                continue
            known.append((listing_id, image, row))
            if image.attempts or (image.status == Status.STORED and row.status not in HAVE_BYTES):
                outcomes.append((listing_id, image))
    photos.add(connection, new, now)
    photos.move(connection, known)
    found = photos.write(connection, outcomes, rules) if outcomes else 0
    return found + find_placeholders(connection, photos.hashes_of(image for _, image in new), rules)


def has_new_bytes(item: CarItem) -> bool:
    """Return whether a photo of the car was stored in this run."""
    return any(image.attempts and image.status == Status.STORED for image in item.images)


def shown_of(item: CarItem) -> Shown:
    """Return what the site shows of the car."""
    on_page = tuple(image.identity for image in item.images if image.on_page)
    return Shown(identities=on_page, whole=item.shows_all and item.seen)


def temporary_cover(page: str, shown: list[CarImage], current: str | None) -> str | None:
    """Return the picture to show while no photo has a permanent URL; a permanent URL is never replaced.

    Args:
        page: the car's own.
        shown: its photos.
        current: the picture that is shown now.
    """
    deleted = {image.source_url for image in shown if image.reason == Reason.DELETED}
    current = None if current in deleted else current
    newest = next((image.source_url for image in shown if image.source_url not in deleted), None)
    if not newest or (current and not _is_dealers(current, page, newest)):
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
