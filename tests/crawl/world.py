"""A simulated site, a database, a store, and the crawls between them."""

from __future__ import annotations

import pkgutil
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy

import carscraper.spiders
from carscraper.db.models import CarImageRow, CarListing, PriceChange
from tests import services
from tests.dealers.bilasolur import LAYOUT
from tests.dealers.server import SimulatedSite

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.dealers.cars import Car, Photo

IMPOLITE = {
    "DOWNLOAD_DELAY": 0,
    "AUTOTHROTTLE_ENABLED": "false",
    "RETRY_BACKOFF": 0.05,
    "DOWNLOAD_TIMEOUT": 5,
}
"""A simulated site needs no mercy."""


def keys_of(spider: str) -> re.Pattern[str]:
    """The scheme of keys."""
    return re.compile(
        spider + r"/(\d{4}|unknown)/[a-z0-9-]{1,60}/[a-z0-9-]{1,60}/\d+_[0-9a-f]{12}\.(jpg|png|webp|gif|avif)"
    )


KEY = keys_of("bilasolur")
SPIDERS = [module.name for module in pkgutil.iter_modules(carscraper.spiders.__path__)]

FUELS = {
    "Bensín": "petrol",
    "Dísel": "diesel",
    "Dísel/Dísel": "diesel",
    "Rafmagn": "electric",
    "Bensín/Rafmagn": "petrol/electric",
    "Rafmagn/Bensín": "petrol/electric",
    "Metan/Bensín": "methane/petrol",
    "Bensín/Metan": "methane/petrol",
    "Vetni": "hydrogen",
    "Hybrid": "hybrid",
    "Plug-in hybrid": "plug-in-hybrid",
    None: None,
}
TRANSMISSIONS = {"Sjálfskipting": "automatic", "Beinskipting": "manual"}
DRIVETRAINS = {"Fjórhjóladrif": "4wd", "Framhjóladrif": "fwd", "Afturhjóladrif": "rwd"}
COLOURS = {"Silfur": "silfurgrár", "Hvítur (tvílitur)": "hvítur", "Kampavín": "kampavínslitaður"}
MAKES = {"Škoda": ("Skoda", "skoda"), "Citroën": ("Citroen", "citroen")}
"""Stored make and its slug, where these are not the site's word and that in lower case."""
DISPLAY_MAKES = {"Kia": "KIA"}
MODELS = {"Cee'd": ("ceed", "ceed"), "ID.5 GTX 220 KW": ("ID.5 GTX 220 KW", "id-5-gtx-220-kw")}
"""Stored model and its slug, where these are not the site's word and that in lower case with hyphens."""


def make_of(car: Car) -> tuple[str, str]:
    return MAKES.get(car.make, (car.make, car.make.lower().replace(" ", "-")))


def model_of(car: Car) -> tuple[str, str]:
    return MODELS.get(car.model, (car.model, car.model.lower().replace(" ", "-")))


def truth_of(car: Car, base_url: str, layout: str = LAYOUT) -> dict[str, Any]:
    """The row of ``car_listings`` that a crawl with details must leave, as far as the site tells in this layout."""
    make, model = make_of(car)[0], model_of(car)[0]
    is_new = layout == "2026"
    display = DISPLAY_MAKES.get(car.make, car.make)
    return {
        "source": "Bilasolur",
        "external_id": str(car.cid),
        "url": f"{base_url}/CarDetails.aspx?bid={car.bid}&cid={car.cid}&sid={car.sid}",
        "title": f"{display} {model}",
        "make": make,
        "model": model,
        "display_make": display,
        "display_name": model,
        "year": car.year,
        "registration_month": car.month,
        "price": car.price,
        "price_before_offer": car.price_before_offer,
        "price_excludes_vat": None if car.price is None else car.price_excludes_vat,
        "kilometers": car.kilometers,
        "fuel": "plug-in-hybrid" if is_new and car.has_plug else FUELS[car.fuel],
        "transmission": TRANSMISSIONS[car.transmission],
        "drivetrain": DRIVETRAINS[car.drivetrain],
        "body": None if is_new else car.body.lower(),
        "colour": COLOURS.get(car.colour, car.colour.lower()),
        "doors": car.doors,
        "seats": car.seats,
        "horsepower": car.horsepower,
        "city_consumption": car.city_consumption,
        "dealer_id": str(car.bid),
        "dealer_name": car.dealer_name,
        "description": car.description or (is_new and car.short_note) or None,
        "source_updated_at": car.updated,
        "is_active": True,
        "gone_at": None,
    }


@dataclass(kw_only=True)
class World:
    """Where crawls of one test take place."""

    site: Any
    """The `SimulatedSite`; a `SimulatedBilasolur` unless the test says otherwise."""
    folder: Path
    """The crawls' working directory."""
    database_url: str
    env: dict[str, str] = field(default_factory=dict)
    """Of every crawl, the database excepted."""
    spider: str = "bilasolur"
    """That reads the site."""

    def crawl(
        self,
        *arguments: str,
        spider: str | None = None,
        env: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        code: int | None = 0,
        timeout: float = 60,
        alone: bool = False,
        **spider_arguments: Any,
    ) -> services.CompletedCrawl:
        """Crawl the site to the end, and see that the exit code is *code*; a site without photos need not have any.

        The crawl is a process of its own if it is to be *alone*, which only a few tests need.
        """
        bare = isinstance(self.site, SimulatedSite) and not any(car.photos for car in getattr(self.site, "cars", ()))
        name = spider or self.spider
        usual = IMPOLITE | ({"MONITOR_IGNORE_FIELDS": f"{name}.photo"} if bare and name != "backfill" else {})
        done = services.crawl(
            spider or self.spider,
            *arguments,
            cwd=self.folder,
            env={"DATABASE_URL": self.database_url} | self.env | dict(env or {}),
            settings=usual | dict(settings or {}),
            spider_arguments={"base_url": self.site.base_url} | spider_arguments,
            timeout=timeout,
            alone=alone or name == "askja",
        )
        assert "Traceback" not in done.stderr, done
        assert code is None or done.returncode == code, done
        return done

    def command(self, *arguments: str, env: Mapping[str, str] | None = None) -> services.CompletedCrawl:
        """Run ``scrapy …``."""
        environment = {"DATABASE_URL": self.database_url} | self.env | dict(env or {})
        return services.run_scrapy(*arguments, cwd=self.folder, env=environment)

    def sql(self, statement: Any, **values: Any) -> list[Any]:
        """Run one statement (or a text), commit, and give its rows if it has any."""
        engine = sqlalchemy.create_engine(self.database_url, poolclass=sqlalchemy.NullPool)
        if isinstance(statement, str):
            statement = sqlalchemy.text(statement)
        with engine.begin() as connection:
            result = connection.execute(statement, values)
            return list(result.mappings()) if result.returns_rows else []

    def listings(self) -> dict[str, Any]:
        """The rows of ``car_listings`` by external id (or by ``id:<id>`` without one)."""
        rows = self.sql(sqlalchemy.select(CarListing.__table__))
        return {row["external_id"] or f"id:{row['id']}": row for row in rows}

    def listing(self, car: Car) -> Any:
        return self.listings()[str(car.cid)]

    def images(self) -> dict[str, Any]:
        """The rows of ``car_images`` by identity, with the car's ``external_id``."""
        joined = (
            sqlalchemy.select(CarImageRow.__table__, CarListing.external_id)
            .join(CarListing, CarListing.id == CarImageRow.listing_id)
            .order_by(CarImageRow.listing_id, CarImageRow.position)
        )
        return {row["identity"]: row for row in self.sql(joined)}

    def images_of(self, car: Car) -> list[Any]:
        """The rows of the car's photos, in their order."""
        return [row for row in self.images().values() if row["external_id"] == str(car.cid)]

    def image(self, car: Car, number: int = 0) -> Any:
        """The row of the car's photo *number*."""
        return self.images()[car.identities[number]]

    def price_changes(self) -> list[Any]:
        return self.sql(sqlalchemy.select(PriceChange.__table__).order_by(PriceChange.id))

    def served(self, car: Car, photo: Photo | int = 0) -> bytes:
        """What the site serves for that photo at the width that crawls ask for."""
        found = car.photos[photo] if isinstance(photo, int) else photo
        return self.site.photo_bytes(car.cid, found.p, 1280)

    def asked(self, kind: str) -> int:
        """How many requests of this kind the site has seen since its last ``reset``."""
        return self.site.served.counts[kind]

    def kept_file(self, row: Any) -> bytes:
        """The bytes of a photo that is in the folder."""
        return (self.folder / "var/images" / row["key"]).read_bytes()


def verdict(done: services.CompletedCrawl) -> str:
    """The last line, without time and logger."""
    found = re.search(r"^\S+ \S+ \[carscraper\.extensions\.verdict\] \w+: (.*)\Z", done.stderr.rstrip(), re.MULTILINE)
    assert found, f"the verdict is not the last line: {done}"
    return found[1]


_LAST_WORDS = re.compile(rf"(?:^|\] [A-Z]+: )(?:{'|'.join(SPIDERS)}): ")


def last_words(done: services.CompletedCrawl) -> str:
    """The verdict's lines: all that name the spider at their beginning."""
    return "\n".join(line for line in done.stderr.splitlines() if _LAST_WORDS.search(line))
