"""Listings of several sites, and short ways to link them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from carscraper.db import cars as car_rows
from carscraper.db.models import CarImageRow, CarListing, ImageLikeness, PriceChange
from carscraper.db.rules import PlaceholderRules
from carscraper.items import CarImage, CarItem, GoneCar
from carscraper.linking import tables
from carscraper.linking.tables import Linked

if TYPE_CHECKING:
    from sqlalchemy import Engine

listings: Any = CarListing.__table__


images: Any = CarImageRow.__table__


likeness: Any = ImageLikeness.__table__


changes: Any = PriceChange.__table__


RULES = PlaceholderRules(families=0)


USUAL: dict[str, Any] = {"make": "Toyota", "model": "RAV4", "year": 2019, "price": 2_990_000, "kilometers": 60_000}


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def photo(identity: str, content: str, **changed: Any) -> CarImage:
    known: dict[str, Any] = {
        "status": "stored",
        "attempts": 1,
        "store": "folder",
        "key": f"k/{content}.jpg",
        "url": f"https://img.example.is/{content}.jpg",
        "sha256": sha256(f"kept {content}"),
        "source_sha256": sha256(content),
        "bytes": 1000,
    }
    return CarImage(identity=identity, source_url=f"https://x/{identity}", **known | changed)


def item(where: str, *photos: str, **changed: Any) -> CarItem:
    """A usual car; *where* is ``SOURCE/ID``, *photos* name their bytes."""
    source, external_id = where.split("/")
    shown = [photo(f"{external_id}/{n}", content, position=n) for n, content in enumerate(photos)]
    return CarItem(
        source=source,
        external_id=external_id,
        url=f"https://{source.lower()}.is/{external_id}",
        images=shown,
        **USUAL | changed,
    )


class Market:
    """A database, and short ways to use it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def show(self, where: str, *photos: str, **changed: Any) -> None:
        self.save(item(where, *photos, **changed))

    def save(self, *items: CarItem | GoneCar) -> None:
        with self.engine.begin() as connection:
            car_rows.save(connection, list(items), RULES)

    def gone(self, where: str) -> None:
        source, external_id = where.split("/")
        self.save(GoneCar(source=source, external_id=external_id, url="x"))

    def due(self) -> list[int]:
        with self.engine.begin() as connection:
            return tables.due(connection, 0, 10_000)

    def link(self, *, batch: int = 50) -> Linked:
        linked = unlinked = last = 0
        while True:
            with self.engine.begin() as connection:
                ids = tables.due(connection, last, batch)
                if not ids:
                    return Linked(linked=linked, unlinked=unlinked)
                done = tables.link(connection, ids)
            linked, unlinked, last = linked + done.linked, unlinked + done.unlinked, ids[-1]

    def look(self, **phashes: int | None) -> None:
        """Photos look like this."""
        with self.engine.begin() as connection:
            looks = {sha256(f"kept {name}"): None if bits is None else f"{bits:016x}" for name, bits in phashes.items()}
            tables.save_hashes(connection, looks)

    def to_compare(self, *, location: str = "folder", max_bytes: int = 10**6) -> dict[str, list[str]]:
        with self.engine.begin() as connection:
            found = tables.to_compare(connection, tables.due(connection, 0, 10_000), location, max_bytes)
        names = self.names()
        return {names[row_id]: sorted(each.key[2:-4] for each in photos) for row_id, photos in found.items()}

    def names(self) -> dict[int, str]:
        with self.engine.begin() as connection:
            rows = connection.execute(select(listings.c.id, listings.c.source, listings.c.external_id))
            return {row.id: f"{row.source}/{row.external_id}" for row in rows}

    def links(self) -> dict[str, str]:
        """Listings that point to another one."""
        with self.engine.begin() as connection:
            rows = connection.execute(select(listings.c.id, listings.c.same_as)).all()
        names = self.names()
        return {names[row.id]: names[row.same_as] for row in rows if row.same_as is not None}

    def relinked(self) -> dict[str, str]:
        """The links after linking what is due; and as they stay when all is looked at again."""
        self.link()
        found = self.links()
        assert not set(found) & set(found.values()), "a chain"
        with self.engine.begin() as connection:
            connection.execute(update(listings).values(link_due=True))
        assert self.link() == Linked()
        assert self.links() == found
        assert self.due() == []
        return found
