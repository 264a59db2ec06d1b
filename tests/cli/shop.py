"""A database, a bucket and a folder with photos, for the verbs that change them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from carscraper.db import cars as car_rows
from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.db.models import CarImageRow, CarListing
from carscraper.db.rules import PlaceholderRules
from carscraper.items import CarImage, CarItem

if TYPE_CHECKING:
    from pathlib import Path

    from tests import services

RULES = PlaceholderRules(families=0)
NO_BUCKET = "Photos go to a folder, there is no bucket: set USE_S3_STORAGE=true and AWS_S3_BUCKET to use one."

each_server_and_database = pytest.mark.parametrize(
    ("s3", "database_url"), [("rclone", "sqlite"), ("moto", "postgresql")], indirect=True
)


class Shop:
    """A database, a bucket and a folder with photos in them."""

    def __init__(self, url: str, folder: Path, s3: services.S3 | None, prefix: str = "") -> None:
        self.engine = open_engine(url, timeout=20)
        schema.ensure(self.engine)
        self.url, self.folder, self.s3, self.prefix = url, folder, s3, prefix

    def add(self, car: str, *keys: str, data: bytes | None = None, store: str | None = None, **changes: Any) -> None:
        """A car with photos at *keys*, in the bucket or the folder, with a thumbnail each."""
        images = []
        for number, key in enumerate(keys):
            served = data or f"bytes of {key}".encode()
            digest = hashlib.sha256(served).hexdigest()
            where = store or (f"s3://{self.s3.bucket}" if self.s3 else "folder")
            images.append(
                CarImage(
                    identity=f"{car}/{number}",
                    source_url=f"https://bilasolur.is/CarImage.aspx?c={car}&p={number}",
                    position=number,
                    **{
                        "status": "stored",
                        "store": where,
                        "key": key,
                        "url": f"https://img.example.is/{key}",
                        "sha256": digest,
                        "source_sha256": digest,
                        "bytes": len(served),
                        "attempts": 1,
                        **changes,
                    },
                )
            )
            if where == "folder":
                self.file(key, served)
            elif self.s3 and where == f"s3://{self.s3.bucket}":
                self.s3.put(key, served)
        url = f"https://bilasolur.is/CarDetails.aspx?cid={car}"
        with self.engine.begin() as connection:
            car_rows.save(
                connection, [CarItem(source="Bilasolur", external_id=car, url=url, make=car, images=images)], RULES
            )

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def images(self, car: str | None = None) -> list[Any]:
        table: Any = CarImageRow.__table__
        cars: Any = CarListing.__table__
        query = sqlalchemy.select(table).join(cars, cars.c.id == table.c.listing_id).order_by(table.c.id)
        if car:
            query = query.where(cars.c.external_id == car)
        with self.engine.begin() as connection:
            return list(connection.execute(query))

    def cover(self, car: str) -> str | None:
        table: Any = CarListing.__table__
        with self.engine.begin() as connection:
            found: str | None = connection.scalar(
                sqlalchemy.select(table.c.image_url).where(table.c.external_id == car)
            )
            return found

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    @property
    def settings(self) -> dict[str, Any]:
        """Of a verb that works with it."""
        return {
            "DATABASE_URL": self.url,
            "IMAGES_STORE": str(self.folder),
            "SPOOL_DIR": str(self.folder.parent / "spool"),
            "IMAGES_PUBLIC_URL": "https://img.example.is",
            "S3_PREFIX": self.prefix,
            **(self.s3.env if self.s3 else {"USE_S3_STORAGE": "false"}),
        }


def tombstone(row: Any, *, finished: bool = True) -> bool:
    assert (row.status, row.reason, row.url) == ("failed", "deleted", None), row
    assert row.source_sha256
    assert (row.key is None, row.store is None) == (finished, finished), row
    return True
