"""What was deleted stays deleted: after a kill, at a CDN, in later crawls; until it is lifted."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.db import cars as car_rows
from carscraper.storage import objects
from tests import services
from tests.cli.shop import Shop, each_server_and_database, tombstone
from tests.crawl.world import World, verdict
from tests.dealers.bilasolur import SimulatedBilasolur

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Storage

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
