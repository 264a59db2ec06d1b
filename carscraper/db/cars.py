"""The rows of cars: what is known of them, and how one is opened before its photos are fetched and closed after them.

Functions of a connection, each in a transaction of its caller.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, DateTime, Text, and_, bindparam, case, exists, func, or_, select, update

from carscraper.db.models import images, listings
from carscraper.db.opening import (
    Saved,
    car_of,
    has_new_bytes,
    has_same_text,
    lock,
    open_group,
    shown_of,
    temporary_cover,
)
from carscraper.db.placeholders import lock_covers, set_cover, stored_urls
from carscraper.db.rules import ARCHIVE, CRAWL, RetryRules, chunks, due_condition, of_cars
from carscraper.db.superseded import supersede
from carscraper.field_coverage import EXPECTABLE, PHOTO
from carscraper.items import CarItem, GoneCar, Reason, Status, utcnow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from datetime import datetime

    from sqlalchemy import Connection

    from carscraper.db.rules import PlaceholderRules


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

    def has_text_of(self, card_hash: str | None) -> bool:
        """Return whether a card with this hash has the same text and photos, whatever was read of it."""
        return has_same_text(self.card_hash, card_hash)

    def shows(self, card_hash: str | None, url: str) -> bool:
        """Return whether a card with this hash and address says nothing new."""
        # An older version's hash names the text alone, and is good as long as that is.
        return self.url == url and bool(self.card_hash) and (card_hash or "").startswith(self.card_hash or "")


@dataclass(frozen=True, slots=True)
class ActiveCar:
    """A car that no page has said to be gone."""

    external_id: str
    url: str
    last_seen_at: datetime | None


# --- questions ---


def card_states(
    connection: Connection, source: str, external_ids: list[str], retry: RetryRules = CRAWL
) -> dict[str, CardState]:
    """Return for each known car of *external_ids* what the last crawl knew."""
    # The car is on the list: that its page said otherwise one day counts no more.
    wanted = or_(
        due_condition(utcnow(), retry), and_(images.c.status == Status.FAILED, images.c.reason == Reason.CAR_GONE)
    )
    due = exists().where(images.c.listing_id == listings.c.id, wanted)
    photo = exists().where(images.c.listing_id == listings.c.id)
    own = [name for name in EXPECTABLE if name != PHOTO]
    states = {}
    for chunk in chunks(external_ids):
        columns = (listings.c.external_id, listings.c.card_hash, listings.c.details_at, listings.c.url)
        query = select(*columns, due.label("due"), photo.label(PHOTO), *(listings.c[name] for name in own)).where(
            listings.c.source == source, listings.c.external_id.in_(chunk), listings.c.is_active
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


def active(connection: Connection, source: str) -> list[ActiveCar]:
    """List every active car of *source*, the longest unseen first."""
    query = (
        select(listings.c.external_id, listings.c.url, listings.c.last_seen_at)
        .where(listings.c.source == source, listings.c.is_active, listings.c.external_id.is_not(None))
        .order_by(listings.c.last_seen_at, listings.c.external_id)
    )
    return [ActiveCar(*row) for row in connection.execute(query)]


# --- writes ---


def open_cars(
    connection: Connection, items: list[CarItem], rules: PlaceholderRules, retry: RetryRules = CRAWL
) -> list[Saved]:
    """Write cars, and rows for photos that have none, before the photos are fetched.

    Without the card's hash and the time of the details: a crawl that dies before :func:`save` reads the cars again.

    Returns:
        What was done, in the order of *items*.
    """
    results: dict[int, Saved] = {}
    for cars in _rounds(items):
        numbers = list(cars.values())
        results |= zip(
            numbers, open_group(connection, [items[number] for number in numbers], rules, retry), strict=True
        )
    return [results[number] for number in range(len(items))]


def save(
    connection: Connection, items: list[CarItem | GoneCar], rules: PlaceholderRules, retry: RetryRules = CRAWL
) -> list[Saved]:
    """Write what there is to say of cars at their end, in one transaction.

    Cars that were opened, which have their ``listing_id``, are closed. Others are opened and closed here, and what
    became of their photos is written.

    Returns:
        What was done, in the order of *items*.
    """
    results: dict[int, Saved] = {}
    for cars in _rounds(items):
        now = utcnow()
        group = {number: items[number] for number in cars.values()}
        seen = {number: item for number, item in group.items() if isinstance(item, CarItem) and not item.unchanged}
        gone = {number: item for number, item in group.items() if isinstance(item, GoneCar)}
        unchanged = [item for item in group.values() if isinstance(item, CarItem) and item.unchanged]
        new = {number: item for number, item in seen.items() if item.listing_id is None}
        if len(new) < len(group) and connection.dialect.name != "sqlite":
            lock(connection, group.values())  # all, in the order in which all writers do: nobody waits in a ring
        results |= dict.fromkeys(group, Saved())
        results |= zip(new, open_group(connection, list(new.values()), rules, retry, closes=True), strict=True)
        for number, item in new.items():
            opened = results[number]
            seen[number] = replace(item, listing_id=opened.listing_id, images=list(opened.images))
        for number, superseded in _close(connection, seen, written=new.keys()).items():
            results[number] = replace(results[number], superseded=superseded | results[number].superseded)
        _mark_seen(connection, unchanged, now)
        results |= {number: _mark_gone(connection, car, now) for number, car in gone.items()}
    return [results[number] for number in range(len(items))]


def _rounds(items: list[Any]) -> Iterator[dict[tuple[str, str], int]]:
    """Yield the places of *items* by car, in the order in which all writers lock them.

    A car that comes twice is in two rounds: it is written twice, one after the other.
    """
    rounds: list[dict[tuple[str, str], int]] = []
    for number, item in enumerate(items):
        car = car_of(item)
        free = next((cars for cars in rounds if car not in cars), None)
        if free is None:
            rounds.append({car: number})
        else:
            free[car] = number
    for cars in rounds:
        yield dict(sorted(cars.items()))


# --- closing ---

_CLOSE = (
    update(listings)
    .where(listings.c.id == bindparam("row_id"))
    .values(
        image_url=bindparam("cover"),
        card_hash=case((bindparam("seen", type_=Boolean), bindparam("card", type_=Text)), else_=listings.c.card_hash),
        details_at=func.coalesce(bindparam("read_at", type_=DateTime), listings.c.details_at),
        link_due=or_(listings.c.link_due, bindparam("fetched", type_=Boolean)),
    )
)


def _close(connection: Connection, cars: dict[int, CarItem], *, written: Collection[int]) -> dict[int, frozenset[str]]:
    """Write what waits for the photos' outcome; return the identities of each car's superseded photos.

    *written*: of these only the picture that they are shown with may have to be. PostgreSQL looks at ``same_as`` when
    a transaction writes a row for the second time, and that may wait for another one in a ring.
    """
    if not cars:
        return {}
    ids = {number: item.listing_id for number, item in cars.items() if item.listing_id is not None}
    current = lock_covers(connection, sorted(ids.values()))
    # In an archive each photo has a key that was asked for.
    shown = {ids[number]: shown_of(item) for number, item in cars.items() if item.images and item.source != ARCHIVE}
    superseded = supersede(connection, shown)
    covers = stored_urls(connection, sorted(ids.values()))
    rows = []
    for number, item in cars.items():
        row_id = ids[number]
        cover = next(iter(covers.get(row_id, ())), None) or temporary_cover(item.url, item.images, current[row_id])
        if number not in written:
            read_at = item.details_at if item.seen else None
            values = {"row_id": row_id, "cover": cover, "seen": item.seen, "card": item.card_hash, "read_at": read_at}
            rows.append(values | {"fetched": has_new_bytes(item)})
        elif cover != current[row_id]:
            set_cover(connection, row_id, cover)
    if rows:
        connection.execute(_CLOSE, rows)
    return {number: superseded.get(listing_id, frozenset()) for number, listing_id in ids.items()}


def _mark_seen(connection: Connection, cars: list[CarItem], now: datetime) -> None:
    """Note of cars whose card says nothing new that they are still there."""
    back = or_(listings.c.link_due, listings.c.is_active.is_(False))
    values = {"last_seen_at": now, "scraped_at": now, "is_active": True, "gone_at": None, "link_due": back}
    for these in of_cars(car_of(car) for car in cars):
        connection.execute(update(listings).where(these).values(values))


def close_second_rows(connection: Connection, second: Mapping[int, int], gone: Collection[int] = ()) -> None:
    """Mark the rows of cars that are gone for which another row stands, which alone is told of the car.

    Args:
        connection: in a transaction of the caller.
        second: such rows, each with the one that stands for its car.
        gone: of the latter those that are about to be marked, beside those that are.
    """
    ended = set(gone)
    for chunk in chunks(sorted(set(second.values()))):
        query = select(listings.c.id).where(listings.c.id.in_(chunk), listings.c.gone_at.is_not(None))
        ended.update(connection.execute(query.where(listings.c.is_active.is_(False))).scalars())
    values = {"is_active": False, "gone_at": utcnow(), "link_due": True}
    for chunk in chunks(sorted(row for row, holder in second.items() if holder in ended)):
        connection.execute(update(listings).where(listings.c.id.in_(chunk), listings.c.is_active).values(values))


def _mark_gone(connection: Connection, car: GoneCar, now: datetime) -> Saved:
    this = and_(listings.c.source == car.source, listings.c.external_id == car.external_id)
    values = {"is_active": False, "gone_at": now, "link_due": True}
    marked = connection.execute(update(listings).where(this, listings.c.is_active).values(values)).rowcount
    if not marked:  # somebody took it for sold before the site said so
        connection.execute(update(listings).where(this, listings.c.gone_at.is_(None)).values(gone_at=now))
    given_up = 0
    if car.give_up_photos:
        waiting = and_(
            images.c.listing_id.in_(select(listings.c.id).where(this)),
            or_(
                images.c.reason == Reason.NO_FRESH_ADDRESS,
                and_(images.c.status == Status.PENDING, images.c.reason.is_(None)),
            ),
        )
        given = {"status": Status.FAILED, "reason": Reason.CAR_GONE}
        given_up = connection.execute(update(images).where(waiting).values(given)).rowcount
    return Saved(changed=bool(marked), given_up=given_up)
