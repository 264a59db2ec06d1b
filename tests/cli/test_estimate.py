"""``scrapy storage estimate``."""

from __future__ import annotations

import importlib.resources
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert

from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.db.models import CarImageRow, CarListing
from carscraper.storage.keys import image_key, thumbnail_key
from tests.cli.shop import NO_BUCKET

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
        assert "  STANDARD: 132,000 photos × 215 kB = 28.4 GB × $0.023 = $0.65\n" in out
        assert "  PUT: 12,000 new photos = 12,000 requests × $0.005 per 1,000 = $0.06\n" in out
        assert "Together in a month, photos from S3 directly:        $17.78\n" in out
        assert "Together in a month, with CloudFront in front:       $0.77\n" in out
        assert "List prices without tax." in out
        assert "AWS_ENDPOINT_URL" not in out

    def test_json(self, storage: Storage) -> None:
        found = storage("estimate", *GIVEN, "--json").data
        assert found["usd"]["direct"] == pytest.approx(17.78274)
        assert found["prices_date"] == "2025-10-01"
        assert sum(line["usd"] for line in found["lines"] if line["section"] == "storage") == pytest.approx(0.65274)
        assert found["inputs"]["new_photos"] == 12_000

    def test_cars_times_photos(self, storage: Storage) -> None:
        words = ["--cars", "11000", "--photos-per-car", "12", *GIVEN[2:]]
        out = storage("estimate", *words).out
        assert "11,000 cars × 12 photos = 132,000 photos\n" in out
        assert "$17.78\n" in out

    def test_a_mix_of_classes(self, storage: Storage) -> None:
        found = storage("estimate", *GIVEN[:-2], "--views", 0, "--class", "standard:70, GLACIER_IR:30%", "--json").data
        assert found["usd"]["storage"] == pytest.approx(28.38 * (0.7 * 0.023 + 0.3 * 0.004))

    def test_the_storage_class_of_the_settings(self, storage: Storage) -> None:
        out = storage("estimate", *GIVEN, settings={"S3_STORAGE_CLASS": "STANDARD_IA"}).out
        assert "STANDARD_IA: 132,000 photos × 215 kB = 28.4 GB × $0.0125" in out
        assert "PUT: 12,000 new photos = 12,000 requests × $0.01 per 1,000" in out

    def test_thumbnails_are_put_too(self, storage: Storage) -> None:
        out = storage("estimate", *GIVEN, settings={"IMAGES_THUMBS": '{"small": [320, 240], "big": [800, 600]}'}).out
        assert "12,000 new photos × 3 objects = 36,000 requests" in out
        assert "thumbnails are not counted as stored" in out

    def test_an_unknown_region_says_whose_prices_it_took(self, storage: Storage) -> None:
        for words, settings in ((["--region", "mars-1"], {}), ([], {"AWS_S3_REGION": "mars-1"})):
            out = storage("estimate", *GIVEN, *words, settings=settings).out
            assert "There is no table for mars-1: computed with that of eu-north-1, " in out
        assert "There is no table" not in storage("estimate", *GIVEN, "--region", "us-east-1").out

    def test_without_new_photos_it_says_so(self, storage: Storage) -> None:
        said = storage("estimate", *GIVEN[:4])
        assert "no new photos\n" in said.out
        assert "write --new-per-month" in said.err


class TestPrices:
    TABLE = importlib.resources.files("carscraper.data").joinpath("prices.toml").read_text("utf-8")

    def test_a_table_of_ones_own(self, storage: Storage, tmp_path: Path) -> None:
        table = tmp_path / "prices.toml"
        table.write_text(self.TABLE.replace("2025-10-01", "2027-03-04").replace("put = 0.005", "put = 5"), "utf-8")
        for words, settings in ((["--prices", table], {}), ([], {"PRICES_FILE": str(table)})):
            out = storage("estimate", *GIVEN, *words, settings=settings).out
            assert "at the prices of 2027-03-04" in out
            assert "12,000 requests × $5.00 per 1,000 = $60.00" in out

    def test_mistakes_in_it(self, storage: Storage, tmp_path: Path) -> None:
        table = tmp_path / "prices.toml"
        table.write_text(self.TABLE.replace("put = 0.005", "put = -1"), "utf-8")
        err = storage("estimate", *GIVEN, "--prices", table, code=4).err
        assert "regions[0].classes.STANDARD.put in the prices of" in err
        assert err.count("\n") == 1
        assert "can't be read" in storage("estimate", *GIVEN, "--prices", tmp_path / "none.toml", code=4).err
        table.write_bytes(b"\xff\xfe")
        assert "no text in UTF-8" in storage("estimate", *GIVEN, "--prices", table, code=4).err


class TestRefused:
    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--photos", "-5"], "no whole number"),
            (["--photos", "5", "--cars", "5"], "not allowed with"),
            (["--bytes-per-photo", "big"], "is no size"),
            (["--bytes-per-photo", "0"], "is no size"),
            (["--views", "nan"], "no number of at least 0"),
            (["--hit-rate", "101"], "more than 100 percent"),
            (["--class", "STANDARD:70"], "adds up to 70 percent"),
            (["--class", "STANDARD"], "is no mix"),
            (["--class", "STANDARD:50,STANDARD:50"], "is no mix"),
            (["--region", "EU North"], "is no region"),
        ],
    )
    def test_slips_are_named(self, storage: Storage, words: list[str], says: str) -> None:
        assert says in storage("estimate", *words, code=2).err

    def test_what_does_not_go_together(self, storage: Storage) -> None:
        assert "belong together" in storage("estimate", "--cars", 5, code=4).err
        assert "belong together" in storage("estimate", "--photos-per-car", 5, code=4).err
        assert (
            "--class names SNOW, which has no price" in storage("estimate", *GIVEN, "--class", "SNOW:100", code=4).err
        )
        assert "AWS_S3_BUCKET is missing" in storage("estimate", settings={"USE_S3_STORAGE": "true"}, code=4).err
        assert NO_BUCKET in storage("estimate", code=4).err


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
        assert "  STANDARD: 3 photos × 1 kB = 0.000003 GB" in out
        assert "  STANDARD_IA: 1 photos × 131.1 kB (at least 131.1 kB each)" in out
        assert "  STANDARD: 4 thumbnails × 100 B" in out
        assert "  STANDARD: 1 other objects × 10 B" in out
        assert "3 new photos × 2 objects = 6 requests" in out
        assert "the server of AWS_ENDPOINT_URL has its own" in out

    def test_without_a_ledger_the_uploads_count(self, storage: Storage, bucket: services.S3, tmp_path: Path) -> None:
        said = storage("estimate", settings={"DATABASE_URL": f"sqlite:///{tmp_path / 'none.db'}"})
        assert "4 new photos a month: as many were uploaded in the last 30 days\n" in said.out
        assert "Without the ledger" in said.err

    def test_more_photos_of_the_same_kind(self, storage: Storage, bucket: services.S3) -> None:
        out = storage("estimate", "--photos", 4000, "--new-per-month", 0).out
        assert "STANDARD: 4,000 photos × 1 kB" in out
        assert "STANDARD: 4,000 thumbnails × 100 B" in out
        assert "STANDARD: 1 other objects" in out

    def test_the_same_photos_in_other_classes(self, storage: Storage, bucket: services.S3) -> None:
        out = storage("estimate", "--class", "GLACIER_IR:100", "--new-per-month", 0).out
        assert "GLACIER_IR: 4 photos" in out
        assert "STANDARD_IA" not in out

    def test_an_empty_bucket(self, storage: Storage, moto_s3: services.S3) -> None:
        assert "holds no photos to go by" in storage("estimate", settings=moto_s3.env, code=4).err
