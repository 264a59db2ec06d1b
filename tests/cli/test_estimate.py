"""``scrapy storage estimate``."""

from __future__ import annotations

import importlib.resources
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert

from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.db.models import CarImageRow, CarListing
from carscraper.storage.keys import image_key, thumbnail_key
from tests.cli.shop import NO_BUCKET
from tests.services import REPO

if TYPE_CHECKING:
    from pathlib import Path

    from tests import services
    from tests.cli.conftest import Storage

GIVEN = ["--photos", "132000", "--bytes-per-photo", "215kB", "--new-per-month", "12000", "--views", "10"]


def photo(number: int) -> str:
    return image_key(
        spider="bilasolur",
        year=2019,
        make="kia",
        model="Rio",
        external_id=str(number),
        sha256=f"{number:012x}",
        extension="jpg",
    )


def enter(url: str, bucket: str, *ages: int) -> None:
    """A car with a photo for each of *ages* in days."""
    engine = open_engine(url, timeout=10)
    schema.ensure(engine)
    now = datetime.now(UTC).replace(tzinfo=None)
    with engine.begin() as connection:
        car: dict[str, Any] = {"source": "Bilasolur", "external_id": "1", "url": "https://x/1"}
        listing = connection.execute(insert(CarListing).values(**car).returning(CarListing.id)).scalar()
        for place, age in enumerate(ages):
            row = {"listing_id": listing, "position": place, "identity": f"1/{place}", "source_url": "x"}
            row |= {"status": "stored", "store": f"s3://{bucket}", "stored_at": now - timedelta(days=age)}
            connection.execute(insert(CarImageRow).values(**row, first_seen_at=now))
    engine.dispose()


class TestSupposed:
    def test_it_needs_no_bucket_and_no_database(self, storage: Storage) -> None:
        out = storage("estimate", *GIVEN).out
        assert out.startswith("A month in eu-north-1, at the prices of 2025-10-01: check the current prices")
        assert "132,000 photos of 215 kB on average, supposed\n" in out
        assert "  STANDARD: 132,000 photos, 28.4 GB = 28.4 GB × $0.023 = $0.65\n" in out
        assert "  PUT: 12,000 new photos = 12,000 requests × $0.005 per 1,000 = $0.06\n" in out
        assert "Together in a month, photos from S3 directly:        $17.78\n" in out
        assert "Together in a month, with CloudFront in front:       $0.77\n" in out
        assert "List prices without tax." in out
        assert "AWS_ENDPOINT_URL" not in out
        found = storage("estimate", *GIVEN, "--json").data
        assert found["usd"]["direct"] == pytest.approx(17.78274)
        assert found["prices_date"] == "2025-10-01"
        assert sum(line["usd"] for line in found["lines"] if line["section"] == "storage") == pytest.approx(0.65274)

    def test_classes_regions_and_thumbnails(self, storage: Storage) -> None:
        found = storage("estimate", *GIVEN[:-2], "--views", 0, "--class", "standard:70, GLACIER_IR:30%", "--json").data
        assert found["usd"]["storage"] == pytest.approx(28.38 * (0.7 * 0.023 + 0.3 * 0.004))
        out = storage("estimate", *GIVEN, settings={"S3_STORAGE_CLASS": "STANDARD_IA"}).out
        assert "STANDARD_IA: 132,000 photos, 28.4 GB = 28.4 GB × $0.0125" in out
        assert "PUT: 12,000 new photos = 12,000 requests × $0.01 per 1,000" in out
        out = storage("estimate", *GIVEN, settings={"IMAGES_THUMBS": '{"small": [320, 240], "big": [800, 600]}'}).out
        assert "12,000 new photos × 3 objects = 36,000 requests" in out
        for words, settings in ((["--region", "mars-1"], {}), ([], {"AWS_S3_REGION": "mars-1"})):
            out = storage("estimate", *GIVEN, *words, settings=settings).out
            assert "There is no table for mars-1: computed with that of eu-north-1, " in out
        assert "There is no table" not in storage("estimate", *GIVEN, "--region", "us-east-1").out
        said = storage("estimate", *GIVEN[:4])
        assert "0 new photos a month" in said.out
        assert "write --new-per-month" in said.err

    def test_the_example_of_the_docs(self, storage: Storage) -> None:
        page = (REPO / "docs" / "storage.md").read_text("utf-8")
        _, command, shown = re.split(r"\$ scrapy storage (estimate --photos .*)\n", page)
        lines = shown.partition("…\n")[0]
        assert lines.count("$") > 10
        assert storage(*command.split()).out.startswith(lines)

    def test_a_spread_of_sizes_is_not_its_mean(self, storage: Storage) -> None:
        """40 % are below the least size of STANDARD_IA, and not watched by INTELLIGENT_TIERING."""
        given = ["--photos", 240000, "--new-per-month", 0, "--views", 0, "--json", "--class"]
        spread = ["--bytes-per-photo", "90kB:40,300kB:60"]
        for storage_class, gigabytes, price, watched in [
            ("STANDARD", 96_000 * 90_000 + 144_000 * 300_000, 0.023, 0),
            ("STANDARD_IA", 96_000 * 131_072 + 144_000 * 300_000, 0.0125, 0),
            ("GLACIER_IR", 96_000 * 131_072 + 144_000 * 300_000, 0.004, 0),
            ("INTELLIGENT_TIERING", 96_000 * 90_000 + 144_000 * 300_000, 0.023, 144),
        ]:
            found = storage("estimate", *given, f"{storage_class}:100", *spread).data
            assert found["usd"]["storage"] == pytest.approx(gigabytes / 1e9 * price + watched * 0.0025), storage_class
            assert found["inputs"]["said"][0] == "240,000 photos of 216 kB on average, supposed"

    def test_a_table_of_ones_own(self, storage: Storage, tmp_path: Path) -> None:
        ours = importlib.resources.files("carscraper.data").joinpath("prices.toml").read_text("utf-8")
        table = tmp_path / "prices.toml"
        table.write_text(ours.replace("2025-10-01", "2027-03-04").replace("put = 0.005", "put = 5"), "utf-8")
        for words, settings in ((["--prices", table], {}), ([], {"PRICES_FILE": str(table)})):
            out = storage("estimate", *GIVEN, *words, settings=settings).out
            assert "at the prices of 2027-03-04" in out
            assert "12,000 requests × $5.00 per 1,000 = $60.00" in out
        table.write_text(ours.replace("put = 0.005", "put = -1"), "utf-8")
        err = storage("estimate", *GIVEN, "--prices", table, code=4).err
        assert "STANDARD.put is -1" in err
        assert err.count("\n") == 1
        assert "can't be read" in storage("estimate", *GIVEN, "--prices", tmp_path / "none.toml", code=4).err
        table.write_bytes(b"\xff\xfe")
        assert "no text in UTF-8" in storage("estimate", *GIVEN, "--prices", table, code=4).err


def test_wrong_values(storage: Storage) -> None:
    for words, code, says in [
        (["--photos", "-5"], 2, "no number of at least 0"),
        (["--bytes-per-photo", "big"], 2, "is no size"),
        (["--bytes-per-photo", "0"], 2, "is no size"),
        (["--bytes-per-photo", "90kB:40,300kB:50"], 2, "does not add up to 100 percent"),
        (["--bytes-per-photo", "90kB:40,big:60"], 2, "is no size"),
        (["--views", "nan"], 2, "no number of at least 0"),
        (["--hit-rate", "101"], 2, "more than 100 percent"),
        (["--class", "STANDARD:70"], 2, "does not add up to 100 percent"),
        (["--class", "STANDARD"], 2, "no number"),
        (["--photos", "5"], 4, "belong together"),
        ([*GIVEN, "--class", "SNOW:100"], 4, "--class names SNOW, which has no price"),
        ([], 4, NO_BUCKET),
    ]:
        assert says in storage("estimate", *words, code=code).err, words


class TestReal:
    @pytest.fixture
    def bucket(self, moto_s3: services.S3, storage: Storage) -> services.S3:
        for number in range(4):
            moto_s3.put(photo(number), b"x" * 1000, StorageClass="STANDARD_IA" if number == 3 else "STANDARD")
            moto_s3.put(thumbnail_key("small", photo(number)), b"x" * 100)
        moto_s3.put("notes.txt", b"x" * 10)
        storage.settings = {**moto_s3.env, "IMAGES_THUMBS": '{"small": [320, 240]}'}
        return moto_s3

    def test_the_buckets_and_the_ledgers_numbers(
        self, storage: Storage, bucket: services.S3, database_url: str
    ) -> None:
        enter(database_url, bucket.bucket, 1, 2, 29, 31)
        out = storage("estimate", settings={"DATABASE_URL": database_url}).out
        assert f"4 photos of 1 kB on average, in the bucket {bucket.bucket}\n" in out
        assert "3 new photos a month: as many were stored in the last 30 days, by the ledger\n" in out
        assert "  STANDARD: 3 photos, 0.000003 GB" in out
        assert "  STANDARD_IA: 1 photos, 0.000001 GB with the class's least size and additions = 0.000131 GB" in out
        assert "  STANDARD: 4 thumbnails" in out
        assert "  STANDARD: 1 other objects" in out
        assert "3 new photos × 2 objects = 6 requests" in out
        assert "the server of AWS_ENDPOINT_URL has its own" in out

    def test_other_classes_and_no_ledger(self, storage: Storage, bucket: services.S3, tmp_path: Path) -> None:
        settings = {"DATABASE_URL": f"sqlite:///{tmp_path / 'none.db'}"}
        said = storage("estimate", "--class", "GLACIER_IR:100", settings=settings)
        assert "4 new photos a month: as many were uploaded in the last 30 days\n" in said.out
        assert "The ledger does not say" in said.err
        assert "GLACIER_IR: 4 photos" in said.out
        assert "STANDARD_IA" not in said.out

    def test_an_empty_bucket(self, storage: Storage, moto_s3: services.S3) -> None:
        assert "holds no photos to go by" in storage("estimate", settings=moto_s3.env, code=4).err
