"""``scrapy storage delete``: photos go everywhere at once, and no crawl brings them back."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from carscraper.db import cars as car_rows
from carscraper.db.models import CarImageRow
from carscraper.items import CarImage, CarItem
from carscraper.storage import objects
from carscraper.storage.keys import Upload
from carscraper.storage.spool import Spool
from tests import services
from tests.cli.shop import RULES, Shop, each_server_and_database
from tests.crawl.world import World, verdict
from tests.dealers.bilasolur import SimulatedBilasolur

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Storage

HOSTILE = "cars/a b+c/100%25 þ#1?x=y&z_0123456789ab.jpg"


def tombstone(row: Any, *, finished: bool = True) -> bool:
    assert (row.status, row.reason, row.url) == ("failed", "deleted", None), row
    assert row.source_sha256
    assert (row.key is None, row.store is None) == (finished, finished), row
    return True


@pytest.fixture
def shop(new_shop: Callable[..., Shop], moto_s3: services.S3) -> Shop:
    """Of moto's bucket and SQLite."""
    return new_shop(moto_s3)


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


def test_hostile_names_go_like_others(storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3) -> None:
    s3 = moto_s3
    shop = new_shop(s3)
    neighbours = ["cars/a b c/100%25 þ#1?x=y&z_0123456789ab.jpg", "cars/a b+c/100% þ#1?x=y&z_0123456789ab.jpg"]
    shop.add("1", HOSTILE, *neighbours)
    shop.file(HOSTILE, b"hot")
    said = storage("delete", HOSTILE, "--yes", "--json")
    assert said.data["keys"] == [HOSTILE]
    assert s3.keys() == sorted(neighbours)
    assert shop.files() == []


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


def test_all_versions_at_once(storage: Storage, shop: Shop, moto_s3: services.S3) -> None:
    moto_s3.client.put_bucket_versioning(Bucket=moto_s3.bucket, VersioningConfiguration={"Status": "Enabled"})
    shop.add("1", "x/1_a.jpg")
    moto_s3.put("x/1_a.jpg", b"another version")
    moto_s3.put("thumbnails/small/x/1_a.jpg", b"small")
    said = storage("delete", "x/1_a.jpg", "--all-versions", "--yes", "--json").data
    assert said["deleted"]["versions"] == 3
    assert versions(moto_s3) == []


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


# --- a sudden end -----------------------------------------------------------------------------------------------


@each_server_and_database
def test_what_fails_is_named_and_the_same_command_finishes_it(
    storage: Storage,
    new_shop: Callable[..., Shop],
    s3: services.S3,
    s3_proxy: services.S3Proxy,
    database_url: str,
) -> None:
    shop = new_shop(s3.via(s3_proxy), database_url)
    shop.add("1", "x/1_a.jpg", "x/1_b.jpg", "x/1_c.jpg")
    s3.put("thumbnails/small/x/1_b.jpg", b"small")
    with s3_proxy.fail(403, "AccessDenied", methods="DELETE", path=r"thumbnails/small/x/1_b"):
        said = storage("delete", "x/1_a.jpg", "x/1_b.jpg", "--yes", code=3)
    assert "Still there: thumbnails/small/x/1_b.jpg (S3 refuses s3:DeleteObject" in said.err
    assert s3.keys() == ["thumbnails/small/x/1_b.jpg", "x/1_c.jpg"]
    first, second, third = shop.images()
    assert tombstone(first)
    assert tombstone(second, finished=False)
    assert third.status == "stored"
    assert shop.cover("1") == "https://img.example.is/x/1_c.jpg"
    assert "cut off" in storage("delete", "--lift", "--car", "Bilasolur/1", "--yes", code=4).err
    said = storage("delete", "x/1_b.jpg", "--yes")
    assert s3.keys() == ["x/1_c.jpg"]
    assert tombstone(shop.images()[1])


@pytest.mark.parametrize("s3", ["rclone"], indirect=True)
@pytest.mark.parametrize("how", ["car", "finish"])
def test_a_kill_between_rows_and_objects_leaves_nothing_wrong(
    storage: Storage,
    new_shop: Callable[..., Shop],
    s3: services.S3,
    s3_proxy: services.S3Proxy,
    tmp_path: Path,
    how: str,
) -> None:
    shop = new_shop(s3.via(s3_proxy))
    keys = [f"x/1_{number:02d}.jpg" for number in range(12)]
    shop.add("1", *keys)
    shop.file(keys[3], b"hot")
    # Two objects go, the others hang, and then the program is killed.
    with s3_proxy.hang(methods="DELETE", skip=2):
        env = {name: str(value) for name, value in storage.settings.items()}
        command = ("storage", "delete", "--car", "Bilasolur/1", "--yes")
        with services.start_scrapy(*command, cwd=tmp_path, env=env) as running:
            services.wait_until(lambda: len(s3.keys()) == 10, 30, "two objects to be gone")
            services.wait_until(lambda: s3_proxy.count("DELETE") > 2, 30, "the others to hang")
            running.send_signal(signal.SIGKILL)
            running.wait(30)
    assert len(s3.keys()) == 10
    assert all(tombstone(row, finished=False) for row in shop.images())
    assert shop.cover("1") is None, "what may be gone is shown nowhere"
    words = {"car": ["--car", "Bilasolur/1"], "finish": ["--finish"]}[how]
    said = storage("delete", *words, "--yes", "--json").data
    assert (said["unfinished"], said["deleted"]["photos"]) == (12, 0)
    assert s3.keys() == []
    assert shop.files() == []
    assert all(tombstone(row) for row in shop.images())


def test_a_crawl_that_links_the_photo_meanwhile_gets_a_tombstone_too(
    storage: Storage, shop: Shop, moto_s3: services.S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.add("1", "x/1_a.jpg")
    real = objects.remove

    def remove(*given: Any) -> bool:
        kept: bool = real(*given)
        shop.add("2", "x/1_a.jpg", data=b"bytes of x/1_a.jpg")
        moto_s3.delete("x/1_a.jpg")
        return kept

    monkeypatch.setattr(objects, "remove", remove)
    storage("delete", "x/1_a.jpg", "--yes")
    assert tombstone(shop.images("2")[0])
    assert shop.cover("2") is None


# --- the CDN ----------------------------------------------------------------------------------------------------


@pytest.fixture
def distribution(moto_s3: services.S3) -> Any:
    """A distribution of moto's CloudFront; gives its id and what was invalidated."""
    import boto3

    client = boto3.client(
        "cloudfront",
        endpoint_url=moto_s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id=moto_s3.access_key,
        aws_secret_access_key=moto_s3.secret_key,
    )
    origin = {"Id": "b", "DomainName": f"{moto_s3.bucket}.s3.amazonaws.com", "S3OriginConfig": {}}
    origin["S3OriginConfig"] = {"OriginAccessIdentity": ""}
    made = client.create_distribution(
        DistributionConfig={
            "CallerReference": "x",
            "Origins": {"Quantity": 1, "Items": [origin]},
            "DefaultCacheBehavior": {
                "TargetOriginId": "b",
                "ViewerProtocolPolicy": "allow-all",
                "MinTTL": 0,
                "ForwardedValues": {"QueryString": False, "Cookies": {"Forward": "none"}},
            },
            "Comment": "",
            "Enabled": True,
        }
    )["Distribution"]["Id"]

    def paths() -> list[str]:
        found = client.list_invalidations(DistributionId=made)["InvalidationList"].get("Items", [])
        return sorted(
            path
            for each in found
            for path in client.get_invalidation(DistributionId=made, Id=each["Id"])["Invalidation"][
                "InvalidationBatch"
            ]["Paths"]["Items"]
        )

    return made, paths


def test_the_cdn_forgets_photo_and_thumbnails(
    storage: Storage, shop: Shop, moto_s3: services.S3, distribution: Any
) -> None:
    name, paths = distribution
    shop.add("1", "x/1 þ.jpg", "x/1_b.jpg")
    moto_s3.put("thumbnails/small/x/1 þ.jpg", b"small")
    said = storage("delete", "x/1 þ.jpg", "--yes", "--json", settings={"CLOUDFRONT_DISTRIBUTION_ID": name}).data
    expected = ["/thumbnails/small/x/1%20%C3%BE.jpg", "/x/1%20%C3%BE.jpg"]
    assert sorted(said["deleted"]["invalidated"]) == paths() == expected


def test_a_cdn_that_refuses_leaves_it_to_the_next_run(
    storage: Storage, shop: Shop, moto_s3: services.S3, distribution: Any
) -> None:
    name, paths = distribution
    shop.add("1", "x/1_a.jpg")
    moto_s3.put("thumbnails/small/x/1_a.jpg", b"small")
    wrong = {"CLOUDFRONT_DISTRIBUTION_ID": "E0WRONG000000", "IMAGES_THUMBS": '{"small": [320, 240]}'}
    said = storage("delete", "x/1_a.jpg", "--yes", code=3, settings=wrong)
    assert "check CLOUDFRONT_DISTRIBUTION_ID" in said.err
    assert moto_s3.keys() == []
    assert tombstone(shop.images()[0], finished=False)
    storage("delete", "--finish", "--yes", settings=wrong | {"CLOUDFRONT_DISTRIBUTION_ID": name})
    assert paths() == ["/thumbnails/small/x/1_a.jpg", "/x/1_a.jpg"]
    assert tombstone(shop.images()[0])


# --- lifting ----------------------------------------------------------------------------------------------------


def test_lifting_takes_the_same_bytes_on_other_cars_with_it(
    storage: Storage, new_shop: Callable[..., Shop], moto_s3: services.S3, database_url: str
) -> None:
    shop = new_shop(moto_s3, database_url)
    shop.add("1", "x/1_a.jpg")
    shop.add("2", "x/1_a.jpg", "x/2_b.jpg")
    shop.add("3", "x/3_c.jpg")
    storage("delete", "x/1_a.jpg", "x/3_c.jpg", "--yes")
    assert storage("delete", "--lift", "--car", "Bilasolur/1", "--dry-run", "--json").data["photos"] == 2
    said = storage("delete", "--lift", "--car", "Bilasolur/1", "--yes")
    assert "fetches 2 photos of 2 cars (Bilasolur/1, Bilasolur/2) again" in said.out
    lifted = [shop.images("1")[0], shop.images("2")[0]]
    assert {(row.status, row.reason, row.attempts) for row in lifted} == {("pending", None, 0)}
    assert tombstone(shop.images("3")[0])
    with shop.engine.connect() as connection:
        state = car_rows.card_states(connection, "Bilasolur", ["1", "3"])
    assert state["1"].images_due
    assert not state["3"].images_due
    assert storage("delete", "--lift", "--car", "Bilasolur/1", "--yes").out.startswith("No photo of this car")


# --- real crawls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "database_url"), [("rclone", "postgresql"), ("folder", "sqlite")], indirect=["database_url"]
)
def test_no_crawl_brings_them_back(
    kind: str, storage: Storage, tmp_path: Path, request: pytest.FixtureRequest, database_url: str
) -> None:
    s3: services.S3 | None = request.getfixturevalue("rclone_s3") if kind == "rclone" else None
    env = s3.env if s3 else {}
    storage.settings = {"DATABASE_URL": database_url, "IMAGES_STORE": str(tmp_path / "var/images"), **env}
    every_page = {"DETAILS_MAX_AGE_DAYS": 0}
    with SimulatedBilasolur(cars=5, photos=3, photo_bytes_average=20_000) as site:
        world = World(site=site, folder=tmp_path, database_url=database_url, env=env)
        world.crawl()
        partly, whole = site.cars[:2]
        rows = world.images_of(partly)
        said = storage("delete", rows[0]["key"], "--car", f"Bilasolur/{whole.cid}", "--yes", "--json").data
        assert said["deleted"]["photos"] == 4
        gone = [partly.identities[0], *whole.identities]
        of_deleted = [rows[0], *world.images_of(whole)]
        public = {row[name] for row in of_deleted for name in ("url", "source_url") if row[name]}
        public |= {photo_url.replace("&w=1280", "&w=784") for photo_url in public}

        def see_that_nothing_came_back() -> None:
            images = world.images()
            for identity in gone:
                found = images[identity]
                assert (found["status"], found["reason"], found["url"]) == ("failed", "deleted", None)
            assert len([row for row in images.values() if row["status"] == "stored"]) == 11
            if s3:
                assert len(s3.keys()) == 11
            assert not {row["image_url"] for row in world.listings().values()} & public
            assert world.listing(whole)["image_url"] is None

        see_that_nothing_came_back()
        site.reset()
        done = world.crawl(settings=every_page)
        assert (world.asked("photo"), world.asked("details")) == (0, 5)
        assert "4 photos deleted on request and not kept again" in verdict(done)
        see_that_nothing_came_back()
        world.crawl(spider="backfill", only="failed")
        assert (world.asked("photo"), world.asked("details")) == (0, 5), "not even their pages"
        see_that_nothing_came_back()
        # Under new numbers all is fetched to see what it is, and what was deleted is let go.
        before = {car.cid: list(car.identities) for car in site.cars}
        site.renumber_photos()
        done = world.crawl(settings=every_page)
        images = world.images()
        for car in site.cars:
            for old, new in zip(before[car.cid], car.identities, strict=True):
                kept = "superseded" if images[new]["status"] == "stored" else images[new]["status"]
                assert (images[old]["status"], images[old]["reason"]) == (kept, images[new]["reason"])
                assert images[new]["source_sha256"] == images[old]["source_sha256"]
        assert "11 linked" in verdict(done)
        assert world.listing(whole)["image_url"] is None
        if s3:
            assert len(s3.keys()) == 11
        # Lifted, they come again; the others do not.
        site.reset()
        assert storage("delete", "--lift", "--car", f"Bilasolur/{whole.cid}", "--yes", "--json").data["lifted"] == 6
        world.crawl()
        assert world.asked("photo") == 6, "those of the old numbers once more at their last addresses"
        statuses = {row["identity"]: row["status"] for row in world.images_of(whole)}
        assert statuses == dict.fromkeys(before[whole.cid], "superseded") | dict.fromkeys(whole.identities, "stored")
        assert world.images()[partly.identities[0]]["reason"] == "deleted"
