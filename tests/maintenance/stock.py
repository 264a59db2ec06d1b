"""A ledger and a bucket that agree, to be put into disorder."""

from __future__ import annotations

import functools
import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import insert, select, update

from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.db.models import CarImageRow, CarListing
from carscraper.storage.keys import image_key, permanent_url, thumbnail_key
from tests.dealers.photos import Look, PhotoFactory

if TYPE_CHECKING:
    from tests import services

listings: Any = CarListing.__table__
images: Any = CarImageRow.__table__

OLD = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - times in the tables are UTC without a zone
TEMPORARY = "https://bilasolur.is/CarImage.aspx?s=16&c=1&p=2&w=1280"
LONG_AGO = timedelta(days=90).total_seconds()


@functools.cache
def _factory() -> PhotoFactory:
    return PhotoFactory(4_000)


def picture(name: str) -> bytes:
    """A small JPEG of its own."""
    parts, _ = _factory().photo(name, Look("Blár", "Jeppi"), 0, 240, "jpeg")
    return b"".join(parts)


class Stock:
    """Cars with photos in the database and in a bucket (or in a folder)."""

    def __init__(self, database_url: str, s3: services.S3, prefix: str = "") -> None:
        self.s3 = s3
        self.url = database_url
        self.prefix = prefix
        self.store = f"s3://{s3.bucket}"
        self.base = f"{s3.endpoint}/{s3.bucket}"
        engine = open_engine(database_url, timeout=30)
        schema.ensure(engine)
        self.engine = sqlalchemy.create_engine(engine.url, poolclass=sqlalchemy.NullPool)
        engine.dispose()

    @property
    def settings(self) -> dict[str, Any]:
        """What `scrapy storage` is given."""
        return {**self.s3.env, "DATABASE_URL": self.url, "S3_PREFIX": self.prefix}

    # --- making ---

    def car(self, external_id: str, source: str = "Bilasolur", **values: Any) -> int:
        """A car; gives its id."""
        row = {"source": source, "external_id": external_id, "is_active": True, "make": "Kia", "model": "Rio"} | values
        row.setdefault("url", f"https://bilasolur.is/CarDetails.aspx?cid={external_id}")
        with self.engine.begin() as connection:
            found: int = connection.execute(insert(listings).values(row)).inserted_primary_key[0]
        return found

    def key(self, data: bytes, external_id: str = "1", spider: str = "bilasolur", **values: Any) -> str:
        """The object's name of a photo."""
        about: dict[str, Any] = {"year": 2019, "make": "Kia", "model": "Rio", "extension": "jpg"} | values
        sha256 = hashlib.sha256(data).hexdigest()
        return self.prefix + image_key(spider=spider, external_id=external_id, sha256=sha256, **about)

    def thumbnail(self, key: str, name: str = "small") -> str:
        """The object's name of a photo's thumbnail."""
        return self.prefix + thumbnail_key(name, key.removeprefix(self.prefix))

    def row(self, listing_id: int, identity: str, **values: Any) -> int:
        """A row of `car_images` that waits, unless *values* say more; gives its id."""
        known = {"listing_id": listing_id, "identity": identity, "position": 0, "status": "pending"}
        known |= {"source_url": f"https://bilasolur.is/CarImage.aspx?c={identity}", "first_seen_at": OLD}
        with self.engine.begin() as connection:
            found: int = connection.execute(insert(images).values(known | values)).inserted_primary_key[0]
        return found

    def stored(self, data: bytes, key: str) -> dict[str, Any]:
        """What the row of a stored photo has."""
        sha256 = hashlib.sha256(data).hexdigest()
        return {
            "status": "stored",
            "store": self.store,
            "key": key,
            "url": permanent_url(key, self.base),
            "sha256": sha256,
            "source_sha256": sha256,
            "bytes": len(data),
            "width": 240,
            "height": 160,
            "content_type": "image/jpeg",
            "stored_at": OLD,
        }

    def photo(
        self, listing_id: int, external_id: str, number: int = 0, data: bytes | None = None, **values: Any
    ) -> str:
        """A photo that is stored and whose row says so; gives its key."""
        data = data or f"photo {number} of {external_id}".encode()
        key = self.key(data, external_id)
        self.put(key, data)
        self.row(listing_id, f"{external_id}/{number}", position=number, **{**self.stored(data, key), **values})
        if number == 0:
            self.change_car(listing_id, image_url=permanent_url(key, self.base))
        return key

    def cars(self, number: int, photos: int = 2) -> list[str]:
        """Cars with photos in order; gives the keys."""
        keys = []
        for car in range(1, number + 1):
            listing_id = self.car(str(car))
            keys += [self.photo(listing_id, str(car), each) for each in range(photos)]
        return keys

    def put(self, name: str, data: bytes, *, age: float = LONG_AGO, **options: Any) -> None:
        """An object; on rclone, unless it carries anything, as a file that is as old as wanted."""
        if self.s3.folder and not options:
            path = self.s3.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            at = datetime.now(UTC).timestamp() - age
            os.utime(path, (at, at))
        else:
            self.s3.put(name, data, **options)

    # --- disorder ---

    def change(self, key: str, /, **values: Any) -> None:
        """Change all rows with this key."""
        with self.engine.begin() as connection:
            assert connection.execute(update(images).where(images.c.key == key).values(values)).rowcount

    def change_car(self, listing_id: int, /, **values: Any) -> None:
        with self.engine.begin() as connection:
            assert connection.execute(update(listings).where(listings.c.id == listing_id).values(values)).rowcount

    def remove(self, name: str) -> None:
        if self.s3.folder:
            Path(self.s3.folder / name).unlink()
        else:
            self.s3.delete(name)

    # --- looking ---

    def rows(self, **where: Any) -> list[sqlalchemy.Row[Any]]:
        """Rows of `car_images`, by id."""
        query = select(images).order_by(images.c.id).filter_by(**where)
        with self.engine.connect() as connection:
            return list(connection.execute(query))

    def only(self, **where: Any) -> sqlalchemy.Row[Any]:
        """The one row that is so."""
        (found,) = self.rows(**where)
        return found

    def cover(self, external_id: str) -> str | None:
        with self.engine.connect() as connection:
            query = select(listings.c.image_url).where(listings.c.external_id == external_id)
            found: str | None = connection.execute(query).scalar_one()
        return found

    def listing(self, external_id: str) -> sqlalchemy.Row[Any] | None:
        with self.engine.connect() as connection:
            return connection.execute(select(listings).where(listings.c.external_id == external_id)).one_or_none()

    def everything(self) -> tuple[list[Any], list[Any], dict[str, bytes]]:
        """Both tables and the bucket, to see that nothing has changed."""
        with self.engine.connect() as connection:
            tables = [
                [tuple(row) for row in connection.execute(select(table).order_by(table.c.id))]
                for table in (listings, images)
            ]
        return tables[0], tables[1], self.s3.objects()


class Disorder:
    """Every kind of fault, each with what must be found."""

    def __init__(self, stock: Stock) -> None:
        keys = stock.cars(14)
        self.expected: list[tuple[str, str]] = []
        stock.remove(keys[0])
        self._found("+", keys[0])
        stock.put(keys[2], b"of another size")
        self._found("*", keys[2])
        self.orphan = stock.key(picture("orphan"), "5")
        stock.put(self.orphan, picture("orphan"))
        self._found("-", self.orphan)
        self.thumbnail = stock.thumbnail(stock.key(b"gone", "6"))
        stock.put(self.thumbnail, b"small")
        self._found("-", self.thumbnail)
        stock.change(keys[4], sha256=None)
        stock.change(keys[6], url=None)
        stock.change(keys[8], url=TEMPORARY)
        stock.change(keys[10], url=f"{stock.base}/{keys[11]}")
        for place in (4, 6, 8, 10):
            self._found("!", keys[place])
        no_key = stock.row(1, "1/99", **{**stock.stored(b"x", "x"), "key": None})
        self._found("!", f"car_images/{no_key}")
        stock.change(keys[16], store=None)
        self._found("!", keys[16])
        stock.change_car(10, image_url=TEMPORARY)
        self._found("!", "Bilasolur/10")
        # None of these is a fault:
        placeholder = stock.key(b"placeholder", "11")
        stock.put(placeholder, b"placeholder")
        values = stock.stored(b"placeholder", placeholder) | {"status": "failed", "reason": "placeholder"}
        stock.row(11, "11/98", **values)
        stock.put(stock.thumbnail(placeholder), b"small")
        stock.put(stock.thumbnail(keys[20]), b"small")
        stock.put(f"{stock.prefix}_test/probe", b"probe")
        stock.put(f"{stock.prefix}notes.txt", b"notes")
        stock.put(stock.key(b"young", "12"), b"young", age=60)
        stock.row(12, "12/97", status="stored", store="folder", key="a.jpg", sha256="0" * 64)
        stock.row(13, "13/96")
        linked = stock.stored(b"photo 0 of 14", keys[26])
        stock.row(13, "13/95", **linked)
        stock.change(keys[25], url=f"https://old-cdn.example.is/cars/{keys[25]}")
        self.keys = keys

    def _found(self, mark: str, key: str) -> None:
        self.expected.append((mark, key))
