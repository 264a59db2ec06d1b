"""``scrapy storage delete``: photos go everywhere at once, and no crawl brings them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy

from carscraper.db import cars as car_rows
from carscraper.db.models import CarImageRow
from carscraper.items import CarImage, CarItem
from carscraper.storage.keys import Upload
from carscraper.storage.spool import Spool
from tests import services
from tests.cli.shop import RULES, Shop, each_server_and_database, tombstone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Storage


# --- what goes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("s3", "database_url", "prefix"),
    [("rclone", "sqlite", "cars/"), ("moto", "postgresql", "")],
    indirect=["s3", "database_url"],
)
def test_a_photo_goes_everywhere_and_its_car_shows_the_next(
    storage: Storage, new_shop: Callable[..., Shop], s3: services.S3, database_url: str, prefix: str
) -> None:
    shop = new_shop(s3, database_url, prefix)
    first, second = f"{prefix}x/1_a.jpg", f"{prefix}x/1_b.jpg"
    shop.add("1", first, second)
    thumbnails = [f"{prefix}thumbnails/small/x/1_a.jpg", f"{prefix}thumbnails/l/x/1_a.jpg"]
    for name in (*thumbnails, f"{prefix}thumbnails/small/x/1_b.jpg"):
        s3.put(name, b"small")
    shop.file(first, b"hot copy")
    shop.file("x/1_a.jpg", b"left by a crawl without S3")
    assert shop.cover("1") == f"https://img.example.is/{first}"

    plan = storage("delete", first, "--dry-run", "--json").data
    assert plan["dry_run"]
    assert {each["name"] for each in plan["objects"]} == {first, *thumbnails, "x/1_a.jpg"}
    assert len(s3.keys()) == 5
    assert shop.cover("1") == f"https://img.example.is/{first}"

    said = storage("delete", first, "--yes")
    assert s3.keys() == sorted([second, f"{prefix}thumbnails/small/x/1_b.jpg"])
    assert shop.files() == []
    gone, left = shop.images()
    assert tombstone(gone)
    assert (left.status, left.key) == ("stored", second)
    assert shop.cover("1") == f"https://img.example.is/{second}"
    files = 2 if prefix else 1
    assert said.out == f"Deleted: 1 photo; 3 objects, {files} local file{'s' if prefix else ''}.\n"


def test_no_key_leads_out_of_the_folder(storage: Storage, new_shop: Callable[..., Shop]) -> None:
    shop = new_shop()
    outside = shop.file("../secret", b"mine")
    shop.file("x/secret", b"mine")
    for number, key in enumerate(["../secret", "/etc/passwd", "a/../../secret", "x//secret", "."]):
        shop.add(str(number), f"x/{number}_a.jpg")
        of_this = CarImageRow.__table__.c.key == f"x/{number}_a.jpg"
        with shop.engine.begin() as connection:
            connection.execute(sqlalchemy.update(CarImageRow.__table__).where(of_this).values(key=key))
        storage("delete", key, "--yes")
        assert outside.read_bytes() == b"mine", key
        assert "x/secret" in shop.files(), key


def test_a_link_leads_nowhere_either(storage: Storage, new_shop: Callable[..., Shop], tmp_path: Path) -> None:
    shop = new_shop()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"mine")
    shop.add("1", "x/1_a.jpg")
    (shop.folder / "link").symlink_to(tmp_path / "elsewhere")
    assert "link/a.jpg" in storage("delete", "link/a.jpg", "--yes", code=4).err
    assert (tmp_path / "elsewhere" / "a.jpg").exists()


def test_a_folder_without_s3(storage: Storage, new_shop: Callable[..., Shop], database_url: str) -> None:
    shop = new_shop(None, database_url)
    shop.add("1", "x/1_a.jpg", "x/1_b.jpg")
    shop.add("2", "x/2_a.jpg", url=None)
    shop.file("thumbnails/small/x/1_a.jpg", b"small")
    assert shop.cover("2") == "https://bilasolur.is/CarImage.aspx?c=2&p=0"
    said = storage("delete", "x/1_a.jpg", "x/2_a.jpg", "--yes")
    assert said.out == "Deleted: 2 photos; 0 objects, 3 local files.\n"
    assert shop.files() == ["x/1_b.jpg"]
    assert shop.cover("1") == "https://img.example.is/x/1_b.jpg"
    assert shop.cover("2") is None, "never the dealer's temporary address"


@each_server_and_database
def test_a_car_loses_all_its_photos_stored_or_not(
    storage: Storage, new_shop: Callable[..., Shop], s3: services.S3, database_url: str
) -> None:
    shop = new_shop(s3, database_url)
    shop.add("1", "x/1_a.jpg", "x/1_b.jpg")
    shop.add("2", "x/2_a.jpg")
    more = [
        CarImage(identity="1/7", source_url="https://d/7", status="failed", reason="http-404", attempts=1),
        CarImage(identity="1/8", source_url="https://d/8"),
    ]
    with shop.engine.begin() as connection:
        car = CarItem(source="Bilasolur", external_id="1", url="https://bilasolur.is/CarDetails.aspx?cid=1")
        car.images = more
        car_rows.save(connection, [car], RULES)
    said = storage("delete", "--car", "Bilasolur/1", "--yes", "--json").data
    assert said["deleted"]["photos"] == 4
    assert said["cars"] == ["Bilasolur/1"]
    assert s3.keys() == ["x/2_a.jpg"]
    assert {(row.status, row.reason, row.key) for row in shop.images("1")} == {("failed", "deleted", None)}
    assert shop.cover("1") is None
    assert shop.images("2")[0].status == "stored"
    assert storage("delete", "--car", "Bilasolur/1", "--yes").out == "There is nothing left to delete.\n"


def test_a_photo_of_several_cars_names_them_and_asks(storage: Storage, shop: Shop, moto_s3: services.S3) -> None:
    shop.add("1", "x/1_a.jpg")
    shop.add("2", "x/1_a.jpg", "x/2_b.jpg")
    shop.add("3", "x/other_a.jpg", data=b"bytes of x/1_a.jpg")
    storage.answer = "n"
    said = storage("delete", "x/1_a.jpg", code=4)
    assert "x/1_a.jpg is shown by 2 cars: Bilasolur/1, Bilasolur/2" in said.err
    assert "The same bytes are also kept as x/other_a.jpg (Bilasolur/3)" in said.err
    assert "delete them for all? [y/N]" in said.err
    assert len(moto_s3.keys()) == 3
    assert shop.cover("1")
    storage.answer = "y"
    said = storage("delete", "x/1_a.jpg")
    assert "To delete: 2 photos of 2 cars (Bilasolur/1, Bilasolur/2); 1 object (18 B). Go on? [y/N]" in said.err
    assert tombstone(shop.images("1")[0])
    assert tombstone(shop.images("2")[0])
    assert shop.cover("1") is None
    assert shop.cover("2") == "https://img.example.is/x/2_b.jpg"


def test_what_waits_in_the_spool_is_not_uploaded_later(
    storage: Storage, shop: Shop, moto_s3: services.S3, tmp_path: Path
) -> None:
    shop.add("1", "x/1_a.jpg", status="pending", reason="spooled", store=f"s3://{moto_s3.bucket}")
    moto_s3.delete("x/1_a.jpg")
    spool = Spool(tmp_path / "spool", location=f"s3://{moto_s3.bucket}/", max_bytes=10**6)
    for name in ("x/1_a.jpg", "x/2_b.jpg"):
        spool.add(Upload(name=name, data=b"bytes", content_type="image/jpeg"))
    assert storage("delete", "--car", "Bilasolur/1", "--yes", "--json").data["deleted"]["spooled"] == 1
    (left,) = spool.waiting()
    found = spool.read(left)
    assert found
    assert found.name == "x/2_b.jpg"
    assert tombstone(shop.images()[0])


# --- versions ---------------------------------------------------------------------------------------------------


def versions(s3: services.S3) -> list[str]:
    found = s3.client.list_object_versions(Bucket=s3.bucket)
    return [each["Key"] for kind in ("Versions", "DeleteMarkers") for each in found.get(kind, ())]


def test_versions_stay_and_are_named_until_they_go_too(storage: Storage, shop: Shop, moto_s3: services.S3) -> None:
    moto_s3.client.put_bucket_versioning(Bucket=moto_s3.bucket, VersioningConfiguration={"Status": "Enabled"})
    shop.add("1", "x/1_a.jpg", "x/1_a.jpg.bak", "x/1_b.jpg")
    moto_s3.put("thumbnails/small/x/1_a.jpg", b"small")
    moto_s3.put("x/1_a.jpg", b"older or newer")
    assert "The bucket keeps versions" in storage("delete", "x/1_a.jpg", "--dry-run").out
    said = storage("delete", "x/1_a.jpg", "--yes")
    assert "the bytes of x/1_a.jpg, thumbnails/small/x/1_a.jpg are still there as old versions" in said.out
    assert versions(moto_s3).count("x/1_a.jpg") == 3, "two versions and a marker"
    assert versions(moto_s3).count("thumbnails/small/x/1_a.jpg") == 2
    storage("delete", "x/1_a.jpg", "--yes", code=4)  # nobody knows it any more …
    storage.answer = "y"
    said = storage("delete", "x/1_a.jpg", "thumbnails/small/x/1_a.jpg", "--all-versions")
    assert "Remove 5 versions for good? Nothing brings these bytes back. [y/N]" in said.err
    assert sorted(versions(moto_s3)) == ["x/1_a.jpg.bak", "x/1_b.jpg"]
    # Or all at once.
    moto_s3.put("x/1_b.jpg", b"another version")
    moto_s3.put("thumbnails/small/x/1_b.jpg", b"small")
    said = storage("delete", "x/1_b.jpg", "--all-versions", "--yes", "--json")
    assert said.data["deleted"]["versions"] == 3
    assert versions(moto_s3) == ["x/1_a.jpg.bak"]


def test_all_versions_of_a_server_without_versions(
    storage: Storage, new_shop: Callable[..., Shop], rclone_s3: services.S3
) -> None:
    shop = new_shop(rclone_s3)
    shop.add("1", "x/1_a.jpg", "x/1_b.jpg")
    storage("delete", "x/1_a.jpg", "--all-versions", "--yes")
    assert rclone_s3.keys() == ["x/1_b.jpg"]
    assert rclone_s3.get("x/1_b.jpg")[0] == b"bytes of x/1_b.jpg"


# --- refusals ---------------------------------------------------------------------------------------------------


def test_a_key_that_nobody_knows_stops_everything(
    storage: Storage, new_shop: Callable[..., Shop], s3: services.S3
) -> None:
    shop = new_shop(s3)
    shop.add("1", "x/1_a.jpg")
    for switch in ("--yes", "--dry-run"):
        said = storage("delete", "x/1_a.jpg", "x/1_z.jpg", switch, code=4)
        assert f"No row and no object of {s3.bucket} is called x/1_z.jpg: nothing was deleted." in said.err
        assert said.out == ""
    assert s3.keys() == ["x/1_a.jpg"]
    assert shop.images()[0].status == "stored"


def test_an_object_without_a_row_goes_after_asking(
    storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3
) -> None:
    s3 = moto_s3
    new_shop(s3)
    s3.put("lost/orphan.jpg", b"who am I")
    assert "Nobody is there to answer" in storage("delete", "lost/orphan.jpg", code=4).err
    storage.answer = "y"
    said = storage("delete", "lost/orphan.jpg")
    assert "! lost/orphan.jpg has no row in the ledger: an orphan." in said.err
    assert s3.keys() == []


def test_what_is_asked_must_make_sense(storage: Storage, shop: Shop, moto_s3: services.S3) -> None:
    shop.add("1", "x/1_a.jpg")
    assert "Say what to delete" in storage("delete", code=4).err
    assert "knows no car Bilasolur/9" in storage("delete", "--car", "Bilasolur/9", "--yes", code=4).err
    assert "names no car" in storage("delete", "--car", "Bilasolur", code=2).err
    assert "the key '' is empty" in storage("delete", "", code=2).err
    assert "has 1025 bytes" in storage("delete", "x" * 1025, code=2).err
    assert "--lift goes with --car" in storage("delete", "--lift", "x/1_a.jpg", code=4).err
    assert "Nobody is there to answer" in storage("delete", "x/1_a.jpg", code=4).err
    assert moto_s3.keys() == ["x/1_a.jpg"]
    assert shop.images()[0].status == "stored"


def test_photos_of_another_bucket_are_not_looked_for_in_this_one(
    storage: Storage, shop: Shop, moto_s3: services.S3
) -> None:
    shop.add("1", "x/1_a.jpg", store="s3://another")
    moto_s3.put("x/1_a.jpg", b"somebody else's")
    assert "set AWS_S3_BUCKET=another" in storage("delete", "x/1_a.jpg", "--yes", code=4).err
    assert moto_s3.keys() == ["x/1_a.jpg"]
