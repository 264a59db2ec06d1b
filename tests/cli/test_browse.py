"""``scrapy storage list`` and ``stats``."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from sqlalchemy import insert

from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.db.models import CarImageRow, CarListing
from carscraper.storage.keys import image_key, thumbnail_key
from tests import services
from tests.cli.shop import NO_BUCKET

if TYPE_CHECKING:
    from tests.cli.conftest import Storage


def key(number: int, make: str = "toyota", *, spider: str = "bilasolur", year: int | None = 2019) -> str:
    return image_key(
        spider=spider,
        year=year,
        make=make,
        model="Yaris",
        external_id=str(number),
        sha256=f"{number:012x}",
        extension="jpg",
    )


PHOTOS = [key(1), key(2, "Škoda"), key(3, "VW"), key(4, year=None), key(5, spider="br")]
THUMBNAIL = thumbnail_key("small", PHOTOS[0])
ODD = "a b+%þ#?\x1b[31m.jpg"


def filled(s3: services.S3, storage: Storage) -> services.S3:
    for number, name in enumerate([*PHOTOS, THUMBNAIL]):
        s3.put(f"cars/{name}", b"x" * (100 + number), ContentType="image/jpeg", Metadata={"source": "B%C3%ADlasolur"})
    s3.put("elsewhere.jpg", b"x")
    storage.settings = {**s3.env, "S3_PREFIX": "cars"}
    return s3


@pytest.fixture
def bucket(s3: services.S3, storage: Storage) -> services.S3:
    return filled(s3, storage)


class TestList:
    def names(self, storage: Storage, *words: object) -> list[str]:
        out = storage("list", *words, "--json").out
        return sorted(json.loads(line)["key"].removeprefix("cars/") for line in out.splitlines())

    def test_everything_and_each_filter(self, storage: Storage, bucket: services.S3) -> None:
        for words, wanted in [
            ([], [*PHOTOS, THUMBNAIL]),
            (["--source", "Bílasölur"], PHOTOS[:4]),
            (["--source", "BR", "--year", "2019"], PHOTOS[4:]),
            (["--make", "Škoda"], PHOTOS[1:2]),
            (["--make", "Volkswagen"], PHOTOS[2:3]),
            (["--year", "unknown"], PHOTOS[3:4]),
            (["--make", "toyota", "--source", "bilasolur", "--year", "2019"], PHOTOS[:1]),
            (["--make", "kia"], []),
            (["thumbnails/"], [THUMBNAIL]),
            (["cars/bilasolur/2019/to"], PHOTOS[:1]),
            (["bilasolur/2019/to"], PHOTOS[:1]),
            (["bilasolur/", "--make", "vw"], PHOTOS[2:3]),
        ]:
            assert self.names(storage, *words) == sorted(wanted), words

    def test_no_more_is_read_than_has_to_be(self, storage: Storage, moto_s3: services.S3) -> None:
        with services.S3Proxy(moto_s3.endpoint) as proxy:
            storage.settings = {**moto_s3.via(proxy).env, "S3_PREFIX": "cars"}
            for words, asked in [
                (["cars/"], "cars/"),
                (["--source", "bilasolur", "--year", "2019"], "cars/bilasolur/2019/"),
                (["--source", "bilasolur", "--year", "2019", "--make", "kia"], "cars/bilasolur/2019/kia/"),
                (["--source", "bilasolur", "--make", "kia"], "cars/bilasolur/"),
                (["--make", "kia"], "cars/"),
                (["bilasolur/2019/toyota/yaris/2", "--source", "bilasolur"], "cars/bilasolur/2019/toyota/yaris/2"),
                (["br/", "--source", "bilasolur"], None),
                (["outputs/2026"], "cars/outputs/2026 outputs/2026"),
            ]:
                proxy.forget()
                storage("list", *words)
                found = [parse_qs(each.query)["prefix"][0] for each in proxy.requests]
                assert found == (asked or "").split(), words

    def test_for_people(self, storage: Storage, bucket: services.S3) -> None:
        said = storage("list", "--make", "vw")
        today = datetime.now(UTC)
        assert said.out.endswith(f"{'102':>10}  {today:%Y-%m-%d} {said.out[23:28]}  STANDARD      cars/{PHOTOS[2]}\n")
        assert said.err == "1 object, 102 B.\n"

    def test_json_is_a_line_for_each(self, storage: Storage, bucket: services.S3) -> None:
        (line,) = storage("list", "--make", "vw", "--json", "--metadata").out.splitlines()
        found = json.loads(line)
        assert datetime.fromisoformat(found.pop("modified")).tzinfo is not None
        assert found == {
            "key": f"cars/{PHOTOS[2]}",
            "kind": "photo",
            "bytes": 102,
            "storage_class": "STANDARD",
            "etag": found["etag"],
            "source": "bilasolur",
            "year": 2019,
            "make": "volkswagen",
            "model": "yaris",
            "external_id": "3",
            "metadata": {
                "content_type": "image/jpeg",
                "source": "Bílasolur",
                "external_id": None,
                "source_url": None,
            },
        }

    def test_metadata_for_people(self, storage: Storage, bucket: services.S3) -> None:
        said = storage("list", "--metadata", "--limit", 2)
        assert [line.split("  ")[-4:] for line in said.out.splitlines()] == [["image/jpeg", "Bílasolur", "–", "–"]] * 2
        assert said.err.endswith("; there are more.\n")

    def test_limit(self, storage: Storage, bucket: services.S3) -> None:
        assert len(storage("list", "--limit", 4).out.splitlines()) == 4
        exact = storage("list", "--limit", 6)
        assert "there are more" not in exact.err

    def test_a_hostile_name_forges_nothing(self, storage: Storage, bucket: services.S3) -> None:
        bucket.put(f"cars/odd/{ODD}", b"x")
        said = storage("list", "odd/")
        assert "\x1b" not in said.out
        # rclone keeps its objects in files, where it writes a control character as the picture of it.
        # It gives that back once it has read the folder again, a second later.
        assert re.search(r"a b\+%þ#\?(\\x1b|␛)\[31m\.jpg", said.out)
        assert [name.replace("␛", "\x1b") for name in self.names(storage, "odd/")] == [f"odd/{ODD}"]

    def test_nothing(self, storage: Storage, bucket: services.S3) -> None:
        said = storage("list", "no-such-thing")
        assert (said.out, said.err) == ("", "0 objects, 0 B.\n")

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--limit", "0"], "no whole number of at least 1"),
            (["--limit", "many"], "no whole number of at least 1"),
            (["--year", "19"], "is no year"),
            (["--make", "!"], "has no letters or digits"),
            (["--source", ""], "has no letters or digits"),
        ],
    )
    def test_slips_are_named(self, storage: Storage, words: list[str], says: str) -> None:
        assert says in storage("list", *words, code=2).err

    def test_a_missing_bucket_and_a_wrong_key(self, storage: Storage, s3: services.S3) -> None:
        gone = storage("list", settings={**s3.env, "AWS_S3_BUCKET": "no-such-bucket-here"}, code=4)
        assert "AWS_S3_BUCKET" in gone.err
        assert "AWS_S3_BUCKET is missing" in storage("list", settings={"USE_S3_STORAGE": "true"}, code=4).err
        assert NO_BUCKET in storage("list", code=4).err
        if s3.kind == "rclone":
            wrong = storage("list", settings={**s3.env, "AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}, code=4)
            assert "AWS_SECRET_ACCESS_KEY" in wrong.err
            assert "hunter2" not in wrong.err + wrong.out


def enter(url: str) -> None:
    """Two active cars, one with both photos stored, and one that lacks one."""
    engine = open_engine(url, timeout=10)
    schema.ensure(engine)
    with engine.begin() as connection:
        for number, statuses in enumerate([["stored", "stored"], ["stored", "failed"]]):
            car: dict[str, Any] = {"source": "Bilasolur", "external_id": str(number), "url": f"https://x/{number}"}
            listing = connection.execute(insert(CarListing).values(**car).returning(CarListing.id)).scalar()
            for place, status in enumerate(statuses):
                row = {"listing_id": listing, "position": place, "identity": f"{number}/{place}", "source_url": "x"}
                row |= {"status": status, "reason": "http-404" if status == "failed" else None}
                row |= {"store": "s3://b" if status == "stored" else None}
                connection.execute(
                    insert(CarImageRow).values(**row, first_seen_at=datetime.now(UTC).replace(tzinfo=None))
                )
    engine.dispose()


class TestStats:
    @pytest.fixture
    def bucket(self, moto_s3: services.S3, storage: Storage) -> services.S3:
        """On one server: how a list is read is tested on both above."""
        return filled(moto_s3, storage)

    def test_json(self, storage: Storage, bucket: services.S3, sqlite_url: str) -> None:
        enter(sqlite_url)
        found = storage("stats", "--json", settings={"DATABASE_URL": sqlite_url}).data
        month = f"{datetime.now(UTC):%Y-%m}"
        assert found == {
            "bucket": bucket.bucket,
            "prefix": "cars/",
            "objects": 6,
            "bytes": 615,
            "kinds": {
                "photo": {"objects": 5, "bytes": 510},
                "thumbnail": {"objects": 1, "bytes": 105},
                "output": {"objects": 0, "bytes": 0},
                "other": {"objects": 0, "bytes": 0},
            },
            "sources": {"bilasolur": {"objects": 4, "bytes": 406}, "br": {"objects": 1, "bytes": 104}},
            "storage_classes": {"STANDARD": {"objects": 6, "bytes": 615}},
            "months": {month: {"objects": 5, "bytes": 510}},
            "ledger": {
                "active_cars": 2,
                "with_photos": 2,
                "complete": 1,
                "share_complete": 0.5,
                "photos_per_car": {"mean": 1.5, "median": 1.5},
                "photos": [
                    {"status": "stored", "reason": None, "store": "s3://b", "photos": 3},
                    {"status": "failed", "reason": "http-404", "store": None, "photos": 1},
                ],
            },
        }

    def test_for_people(self, storage: Storage, bucket: services.S3, database_url: str) -> None:
        enter(database_url)
        out = storage("stats", settings={"DATABASE_URL": database_url}).out
        assert out.startswith(f"{bucket.bucket}, below cars/ and outputs/: 6 objects, 615 B\n")
        assert "photos               5  510 B\n" in out
        assert "Active cars: 2, with photos 2, all photos stored 1 (50.0%)\n" in out
        assert "Stored photos per car: 1.5 on average, 1.5 in the middle\n" in out
        assert "failed                http-404                1\n" in out

    def test_without_a_database_the_bucket_is_counted_all_the_same(
        self, storage: Storage, bucket: services.S3, tmp_path: Any
    ) -> None:
        missing = tmp_path / "not" / "there.db"
        said = storage("stats", "--json", settings={"DATABASE_URL": f"sqlite:///{missing}"})
        assert said.data["ledger"] is None
        assert said.data["objects"] == 6
        assert "Without the ledger: DATABASE_URL names" in said.err
        assert not missing.parent.exists()
        away = storage("stats", settings={"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"})
        assert "Without the ledger: The database of DATABASE_URL can't be reached" in away.err
        assert "hunter2" not in away.out + away.err
        assert "6 objects" in away.out

    def test_outputs_and_thumbnails_are_seen_whatever_the_prefixes_are(
        self, storage: Storage, moto_s3: services.S3
    ) -> None:
        run = "20261130_030000_br-1/run.log"
        for prefix, outputs, bucket in [
            ("", "outputs/", None),
            ("cars", "outputs/", None),
            ("cars", "outputs/", moto_s3.bucket),
            ("cars", "", None),
            ("", "", None),
            ("cars", "cars/out", None),
            ("out/photos", "out", None),
            ("thumbnails", "logs/of/runs/", None),
        ]:
            below, above = (f"{each.strip('/')}/" if each else "" for each in (prefix, outputs))
            names = [below + PHOTOS[0], below + THUMBNAIL, above + run]
            for name in names:
                moto_s3.put(name, b"x" * 1000)
            moto_s3.put("elsewhere/20261130_030000.txt", b"x")
            storage.settings = {**moto_s3.env, "S3_PREFIX": prefix, "S3_OUTPUT_PREFIX": outputs}
            storage.settings |= {"S3_OUTPUT_BUCKET": bucket} if bucket else {}
            others = 1 if not prefix else 0
            listed = [json.loads(line)["key"] for line in storage("list", "--json").out.splitlines()]
            assert sorted(listed) == sorted([*names, *["elsewhere/20261130_030000.txt"] * others]), (prefix, outputs)
            kinds = storage("stats", "--json").data["kinds"]
            found = {kind: its["objects"] for kind, its in kinds.items()}
            assert found == {"photo": 1, "thumbnail": 1, "output": 1, "other": others}, (prefix, outputs)
            out = storage("estimate", "--new-per-month", 0).out
            assert all(f"STANDARD: 1 {each}" in out for each in ("photos", "thumbnails", "outputs")), (prefix, outputs)
            for name in moto_s3.keys():  # noqa: SIM118 - no dict
                moto_s3.delete(name)
        moto_s3.put(f"cars/{PHOTOS[0]}", b"x")
        storage.settings = {**moto_s3.env, "S3_PREFIX": "cars", "S3_OUTPUT_BUCKET": "of-runs"}
        assert len(storage("list").out.splitlines()) == 1

    def test_a_part_of_the_bucket(self, storage: Storage, bucket: services.S3) -> None:
        assert storage("stats", "br/", "--json").data["objects"] == 1
