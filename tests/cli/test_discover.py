"""`scrapy storage discover`: objects that the ledger does not know are entered, by the rules of a crawl."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.cli.shop import each_server_and_database
from tests.maintenance.stock import Stock, picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests import services
    from tests.cli.conftest import Storage
    from tests.commands import Said

DEALERS = "https://bilasolur.is/CarImage.aspx?s=16&c=1&p=2&w=1280"


@pytest.fixture
def stock(storage: Storage, sqlite_url: str, rclone_s3: services.S3) -> Stock:
    made = Stock(sqlite_url, rclone_s3)
    storage.settings = made.settings
    return made


def put(stock: Stock, name: str, external_id: str = "1", **options: Any) -> str:
    data = picture(name)
    key = stock.key(data, external_id)
    stock.put(key, data, **options)
    return key


def outcomes(said: Said) -> dict[str, str]:
    lines = [json.loads(line) for line in said.out.splitlines()]
    return {line["key"]: line["outcome"] for line in lines if "key" in line}


@each_server_and_database
def test_objects_of_known_cars_are_registered(storage: Storage, database_url: str, s3: services.S3) -> None:
    stock = Stock(database_url, s3, "cars/")
    storage.settings = stock.settings
    for car in ("1", "2"):
        stock.car(car, image_url=DEALERS)
    known = stock.photo(1, "1", 4, picture("known"))
    first, second, other = put(stock, "a"), put(stock, "b"), put(stock, "c", "2")
    stock.put("cars/notes.txt", b"notes")
    said = storage("discover", "--yes")
    assert said.out == "Objects 5: known 1, not under our key scheme 1, registered 3.\n"
    row = stock.only(key=first)
    sha256 = hashlib.sha256(picture("a")).hexdigest()
    assert (row.identity, row.source_url) == (f"object/{sha256[:32]}", f"{stock.base}/{first}")
    assert (row.status, row.store, row.url) == ("stored", stock.store, f"{stock.base}/{first}")
    assert (row.sha256, row.source_sha256, row.bytes) == (sha256, sha256, len(picture("a")))
    assert (row.width, row.height, row.content_type) == (240, 160, "image/jpeg")
    assert sorted(stock.only(key=key).position for key in (first, second)) == [5, 6]
    assert stock.only(key=other).position == 0
    assert stock.cover("1") == f"{stock.base}/{known}", "its first stored photo"
    assert stock.cover("2") == f"{stock.base}/{other}"
    before = stock.everything()
    assert "known 4" in storage("discover", "--yes").out
    assert stock.everything() == before


def test_the_row_that_it_belongs_to(stock: Stock, storage: Storage) -> None:
    car = stock.car("1")
    rows = {
        "pending": stock.row(car, "1/1", source_url=DEALERS, position=1),
        "failed": stock.row(
            car, "1/2", status="failed", reason="http-404", sha256=hashlib.sha256(picture("b")).hexdigest(), position=2
        ),
        "served": stock.row(
            car, "1/3", source_sha256=hashlib.sha256(picture("c")).hexdigest(), sha256="0" * 64, position=3
        ),
    }
    metadata = {"source": "Bilasolur", "external-id": "1", "source-url": DEALERS}
    keys = [put(stock, "a", Metadata=metadata), *(put(stock, name, ContentType="image/jpeg") for name in "bc")]
    storage("discover", "--yes")
    found = {row.id: (row.status, row.reason, row.key, row.identity) for row in stock.rows()}
    expected = {
        row_id: ("stored", None, key, f"1/{number}")
        for number, (row_id, key) in enumerate(zip(rows.values(), keys, strict=True), 1)
    }
    assert found == expected


@pytest.fixture
def unwanted(stock: Stock, tmp_path: Path) -> dict[str, str]:
    """Objects that must not be entered, each with the reason."""
    car = stock.car("1")
    stock.car("2", make="Toyota", model="Yaris")
    stock.car("3", make="Skoda", model="Octavia")
    found = {}
    wrong = stock.key(picture("something else"), "1")
    stock.put(wrong, picture("other bytes"))
    found[wrong] = "other-bytes"
    words = stock.key(b"<html>not found</html>", "1")
    stock.put(words, b"<html>not found</html>")
    found[words] = "not-a-photo"
    cut = stock.key(picture("cut")[:-300], "1")
    stock.put(cut, picture("cut")[:-300])
    found[cut] = "not-a-photo"
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    small = (tmp_path / "small.png").read_bytes()
    found[key := stock.key(small, "1", extension="png")] = "not-a-photo"
    stock.put(key, small)
    found[put(stock, "stranger", "777")] = "unknown-car"
    # The same bytes under a name that the make's other spelling gave them.
    twin = stock.photo(car, "1", 0, picture("twin"))
    found[duplicate := stock.key(picture("twin"), "1", make="Hyundai")] = "duplicate"
    stock.put(duplicate, picture("twin"))
    assert twin != duplicate
    # A photo that somebody had deleted; its object has come back.
    sha256 = hashlib.sha256(picture("deleted")).hexdigest()
    stock.row(car, "1/5", status="failed", reason="deleted", source_sha256=sha256)
    found[put(stock, "deleted")] = "deleted"
    placeholder = hashlib.sha256(picture("placeholder")).hexdigest()
    values = {"status": "failed", "reason": "placeholder", "store": stock.store, "key": "other", "sha256": placeholder}
    for other in (2, 3):
        stock.row(other, f"{other}/1", **values, source_sha256=placeholder)
    found[put(stock, "placeholder")] = "placeholder"
    return found


def test_what_is_not_entered_is_named(stock: Stock, storage: Storage, unwanted: dict[str, str]) -> None:
    before = stock.everything()
    said = storage("discover", "--yes", "--json", code=3)
    assert outcomes(said) == unwanted
    assert stock.everything() == before
    assert json.loads(said.out.splitlines()[-1])["summary"]["registered"] == 0
    words = storage("discover", "--yes", code=3)
    assert f"unknown-car: {stock.key(picture('stranger'), '777')} (Bilasolur/777)" in words.out
    assert "--create-cars" in words.err


def test_cars_are_made_when_asked(stock: Stock, storage: Storage) -> None:
    key = stock.key(picture("a"), "777", make="ŠKODA", model="Octavia")
    stock.put(key, picture("a"))
    stock.put(strange := stock.key(picture("b"), "8", spider="nobody"), picture("b"))
    said = storage("discover", "--create-cars", "--dry-run", "--json", code=3)
    assert outcomes(said) == {key: "registered", strange: "unknown-car"}
    assert stock.listing("777") is None
    storage("discover", "--create-cars", "--yes", code=3)
    row = stock.listing("777")
    assert row is not None
    assert (row.source, row.make, row.model, row.year) == ("Bilasolur", "Skoda", "Octavia", 2019)
    assert not row.is_active
    assert row.image_url == stock.only(key=key).url


def test_an_id_that_stands_in_the_key_as_a_slug(stock: Stock, storage: Storage) -> None:
    stock.car("ÁB/12 3")
    key = put(stock, "a", "ÁB/12 3", Metadata={"source": "Bilasolur", "external-id": "%C3%81B/12%203"})
    storage("discover", "--yes")
    assert stock.only(key=key).status == "stored"


def test_limit_prefix_and_dry_run(stock: Stock, storage: Storage) -> None:
    stock.car("1")
    stock.car("2")
    for name in "abc":
        put(stock, name)
    other = put(stock, "d", "2")
    before = stock.everything()
    assert "to be registered 4" in storage("discover", "--dry-run").out
    storage.answer = "n"
    storage("discover", code=3)
    assert stock.everything() == before
    storage("discover", "--prefix", "bilasolur/2019/kia/rio/2_", "--yes")
    assert [row.key for row in stock.rows()] == [other]
    storage("discover", "--limit", 2, "--yes")
    assert len(stock.rows()) == 3
    assert "outside S3_PREFIX" in storage("discover", "--prefix", "x", settings={"S3_PREFIX": "cars"}, code=4).err


def test_a_third_unrelated_car_shows_that_it_is_a_placeholder(stock: Stock, storage: Storage) -> None:
    for number, make in enumerate(("Kia", "Toyota", "Skoda"), 1):
        stock.car(str(number), make=make, model=f"Model{number}")
        put(stock, "no picture yet", str(number))
    storage("discover", "--yes")
    assert {(row.status, row.reason) for row in stock.rows()} == {("failed", "placeholder")}
    assert [stock.cover(str(number)) for number in (1, 2, 3)] == [None] * 3
    assert "known 3" in storage("discover", "--yes").out
