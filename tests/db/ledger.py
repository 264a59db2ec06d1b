"""A ledger, cars and photos for the tests of its SQL."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from carscraper.db import cars as car_rows
from carscraper.db.models import CarImageRow, CarListing, PriceChange
from carscraper.db.opening import Saved
from carscraper.db.rules import PlaceholderRules
from carscraper.items import CarImage, CarItem, GoneCar

if TYPE_CHECKING:
    from sqlalchemy import Engine

listings: Any = CarListing.__table__
images: Any = CarImageRow.__table__
price_changes: Any = PriceChange.__table__

S3 = "s3://car-photos"
SOURCE = "Bilasolur"
OFF = PlaceholderRules(families=0)


def url_of(external_id: str) -> str:
    return f"https://bilasolur.is/CarDetails.aspx?bid=76&cid={external_id}&sid=1"


def car(external_id: str = "1", **changes: Any) -> CarItem:
    known: dict[str, Any] = {"source": SOURCE, "external_id": external_id, "url": url_of(external_id)}
    return CarItem(**{**known, **changes})


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pending(photo: str = "1/1", **changes: Any) -> CarImage:
    address = f"https://bilasolur.is/CarImage.aspx?c={photo.replace('/', '&p=')}&w=1280"
    return CarImage(**{"identity": photo, "source_url": address, **changes})


def stored(photo: str = "1/1", content: str = "", **changes: Any) -> CarImage:
    served = sha256(content or photo)
    known: dict[str, Any] = {
        "status": "stored",
        "attempts": 1,
        "store": S3,
        "key": f"bilasolur/{photo}_{served[:12]}.jpg",
        "url": f"https://img.example.is/bilasolur/{photo}_{served[:12]}.jpg",
        "sha256": sha256(f"kept {content or photo}"),
        "source_sha256": served,
        "bytes": 1000,
        "width": 1280,
        "height": 853,
        "content_type": "image/jpeg",
    }
    return pending(photo, **{**known, **changes})


def failed(photo: str = "1/1", reason: str = "http-404", **changes: Any) -> CarImage:
    return pending(photo, **{"status": "failed", "reason": reason, "attempts": 1, **changes})


class Ledger:
    """A database with tables, and short ways to use it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def save(self, *items: CarItem | GoneCar, rules: PlaceholderRules | None = None) -> list[Saved]:
        with self.engine.begin() as connection:
            return car_rows.save(connection, list(items), rules or PlaceholderRules())

    def ask(self, function: Any, *arguments: Any) -> Any:
        with self.engine.begin() as connection:
            return function(connection, *arguments)

    def rows(self, table: Any = listings, **where: Any) -> list[Any]:
        query = select(table).order_by(table.c.id)
        for name, value in where.items():
            query = query.where(table.c[name] == value)
        with self.engine.begin() as connection:
            return list(connection.execute(query).all())

    def row(self, table: Any = listings, **where: Any) -> Any:
        (row,) = self.rows(table, **where)
        return row

    def change(self, table: Any, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(update(table).values(**values))

    def add_legacy(self, **values: Any) -> int:
        with self.engine.begin() as connection:
            connection.execute(insert(listings).values(**values))
        return int(self.rows()[-1].id)


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def recently(when: datetime | None) -> bool:
    return when is not None and abs(when - now()) < timedelta(seconds=30)


FULL: dict[str, Any] = {
    "title": "Škoda Þór",
    "make": "Skoda",
    "model": "Octavia",
    "year": 2019,
    "registration_month": 6,
    "price": 2_990_000,
    "price_before_offer": 3_490_000,
    "price_excludes_vat": False,
    "kilometers": 45_000,
    "fuel": "petrol",
    "transmission": "manual",
    "drivetrain": "fwd",
    "colour": "hvítur",
    "body": "jeppi",
    "doors": 5,
    "seats": 5,
    "horsepower": 150,
    "city_consumption": 5.3,
    "registration_plate": "AB123",
    "dealer_id": "76",
    "dealer_name": "Bílasala",
    "description": "Góður bíll; DROP TABLE car_listings",
    "source_updated_at": date(2026, 2, 2),
    "display_make": "Škoda",
    "display_name": "Octavia",
    "card_hash": "ab",
    "details_at": datetime(2026, 2, 3, 4, 5, 6),  # noqa: DTZ001 - as the tables hold it
}
