"""What the ledger says of single objects: functions of a connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from sqlalchemy import select

from carscraper.db.models import CarImageRow, CarListing

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

_listings = cast("Table", CarListing.__table__)
_images = cast("Table", CarImageRow.__table__)


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One row of ``car_images`` and whose photo it is."""

    id: int
    listing_id: int
    source: str | None
    external_id: str | None
    status: str
    sha256: str | None
    bytes: int | None


def rows_of_key(connection: Connection, store: str, key: str) -> list[ObjectRow]:
    """List the rows whose photo is *key* in *store* (``s3://bucket`` or ``folder``); linked photos share one key."""
    query = (
        select(
            _images.c.id,
            _images.c.listing_id,
            _listings.c.source,
            _listings.c.external_id,
            _images.c.status,
            _images.c.sha256,
            _images.c.bytes,
        )
        .join(_listings, _listings.c.id == _images.c.listing_id)
        .where(_images.c.key == key, _images.c.store == store)
        .order_by(_images.c.id)
    )
    return [ObjectRow(*row) for row in connection.execute(query)]
