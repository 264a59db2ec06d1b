"""``python -m benchmarks.rows``: what a car and a photo take in PostgreSQL, indexes included."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import sqlalchemy

from benchmarks.report import Table
from carscraper.db import cars as car_rows
from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.db.rules import PlaceholderRules
from carscraper.items import CarImage, CarItem
from tests import services

if TYPE_CHECKING:
    from sqlalchemy import Engine

PHOTOS_PER_CAR = 10
SHARDS = 1000
TABLES = ("car_listings", "car_images", "procrastinate_jobs", "procrastinate_events")
_GROUP = 100
_BUCKET = "https://images.example.com"
_SEEN = datetime(2026, 11, 1, 3, 4, 5)  # noqa: DTZ001 - times in the tables are UTC without a zone
_TEXT = "Bíll í toppstandi, einn eigandi, þjónustubók fylgir. Ný vetrardekk og nýskoðaður. Skipti á ódýrari möguleg."


def car(number: int) -> CarItem:
    """Make a car of the usual size, its photos stored."""
    cid, when = str(200_000 + number), _SEEN + timedelta(seconds=number)
    page = f"https://bilasolur.is/CarDetails.aspx?cid={cid}"
    return CarItem(
        source="Bilasolur",
        external_id=cid,
        url=page,
        title="Toyota Land Cruiser 150 GX",
        make="Toyota",
        model="Land Cruiser 150 GX",
        year=2000 + number % 25,
        price=1_000_000 + number,
        kilometers=number,
        fuel="diesel",
        transmission="automatic",
        drivetrain="4wd",
        colour="hvítur",
        dealer_id="76",
        dealer_name="Bílasalan",
        description=_TEXT,
        details_at=when,
        images=[photo(cid, number, position) for position in range(PHOTOS_PER_CAR)],
    )


def photo(cid: str, car_number: int, position: int) -> CarImage:
    """Make a photo that is stored."""
    p = 3_000_000 + car_number * PHOTOS_PER_CAR + position
    digest = sha256(str(p).encode()).hexdigest()
    key = f"bilasolur/{2000 + car_number % 25}/toyota/land-cruiser-150-gx/{cid}_{digest[:12]}.jpg"
    return CarImage(
        identity=f"{cid}/{p}",
        source_url=f"https://bilasolur.is/CarImage.aspx?s=16&c={cid}&p={p}&w=1280",
        position=position,
        status="stored",
        attempts=1,
        store="s3://my-car-photos",
        key=key,
        url=f"{_BUCKET}/{key}",
        sha256=digest,
        source_sha256=sha256(digest.encode()).hexdigest(),
        bytes=215_000,
        width=1280,
        height=853,
        content_type="image/jpeg",
    )


def measure(cars: int) -> dict[str, tuple[int, int, int]]:
    """Fill a database through the ledger's own statements; give rows, bytes and bytes of indexes of each table."""
    with services.PostgresCluster() as cluster:
        url = cluster.create_database()
        engine = open_engine(url, timeout=600)
        try:
            schema.ensure(engine)
            rules = PlaceholderRules(families=0)
            for begin in range(0, cars, _GROUP):
                group = [car(number) for number in range(begin, min(cars, begin + _GROUP))]
                with engine.begin() as connection:
                    car_rows.save(connection, group, rules)
            return {name: _size(engine, name) for name in TABLES}
        finally:
            engine.dispose()


def _size(engine: Engine, table: str) -> tuple[int, int, int]:
    query = f"SELECT (SELECT count(*) FROM {table}), pg_total_relation_size('{table}'), pg_indexes_size('{table}')"
    with engine.connect() as connection:
        row: Any = connection.execute(sqlalchemy.text(query)).one()
    return row[0], row[1], row[2]


def table(found: dict[str, tuple[int, int, int]]) -> Table:
    """Lay it out."""
    rows = [
        [name, f"{rows:,}", f"{whole / rows:,.0f}", f"{indexes / rows:,.0f}"]
        for name, (rows, whole, indexes) in found.items()
    ]
    return Table("What a row takes in PostgreSQL, in bytes", [["table", "rows", "a row", "of it indexes"], *rows])


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=(__doc__ or "").partition(":")[2])
    parser.add_argument("--cars", type=int, default=20_000, help=f"of {PHOTOS_PER_CAR} photos each (default 20,000)")
    options = parser.parse_args(argv)
    try:
        found = measure(options.cars)
    except services.MissingService as error:
        print(f"benchmarks.rows: {error}", file=sys.stderr)
        return 1
    print(table(found).plain())
    return 0


if __name__ == "__main__":
    sys.exit(main())
