"""Everything that was seen is kept: rows, keys, bytes and addresses, over both databases and both S3 servers."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from carscraper.db.models import CarListing
from tests import services
from tests.crawl.world import KEY, World, last_words, make_of, model_of, truth_of, verdict

if TYPE_CHECKING:
    from collections.abc import Callable


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def assert_first_crawl(world: World, store: services.S3) -> None:
    """Rows, objects and addresses are what the site served."""
    rows = world.listings()
    images = world.images()
    site = world.site
    assert rows.keys() == {str(car.cid) for car in site.cars}
    assert images.keys() == {identity for car in site.cars for identity in car.identities}
    objects = store.objects()
    assert objects.keys() == {row["key"] for row in images.values()}
    for car in site.cars:
        row = rows[str(car.cid)]
        truth = truth_of(car, site.base_url, site.layout)
        assert {name: row[name] for name in truth} == truth
        assert row["first_seen_at"] <= row["scraped_at"] == row["last_seen_at"]
        assert row["details_at"] is not None
        assert row["card_hash"]
        for position, photo in enumerate(car.photos):
            image = images[f"{car.cid}/{photo.p}"]
            served = world.served(car, photo)
            digest = sha256(served)
            key = f"bilasolur/{car.year}/{make_of(car)[1]}/{model_of(car)[1]}/{car.cid}_{digest[:12]}.jpg"
            assert KEY.fullmatch(key)
            assert objects[key] == served
            expected = {
                "listing_id": row["id"],
                "position": position,
                "status": "stored",
                "reason": None,
                "attempts": 1,
                "store": f"s3://{store.bucket}",
                "key": key,
                "sha256": digest,
                "source_sha256": digest,
                "bytes": len(served),
                "width": 1280,
                "height": 853,
                "content_type": "image/jpeg",
                "source_url": f"{site.base_url}/CarImage.aspx?s={car.bid}&c={car.cid}&p={photo.p}&w=1280",
            }
            assert {name: image[name] for name in expected} == expected
            assert image["first_seen_at"]
            assert image["stored_at"]
            assert image["url"].endswith(f"/{store.bucket}/{key}")
        assert row["image_url"] == images[car.identities[0]]["url"]


def assert_requests(proxy: services.S3Proxy, store: services.S3, photos: int) -> None:
    """One check of the bucket, one upload a photo, nothing that changes rights or tags."""
    # rclone answers 500 when two uploads make the same new folder at once; the second try is no fault of ours.
    stumbles = [request for request in proxy.requests if request.status == 500] if store.kind == "rclone" else []
    assert len(stumbles) < photos / 10
    assert proxy.counts() == {"HEAD": 1, "PUT": photos + len(stumbles)}
    assert proxy.paths("HEAD") == [f"/{store.bucket}"]
    for request in proxy.requests:
        assert request.signed
        assert request.status == 200 or request in stumbles
        assert "x-amz-acl" not in request.headers
        assert "x-amz-tagging" not in request.headers
        assert not request.query
        if request.method == "PUT":
            assert request.headers["content-type"] == "image/jpeg"
            assert request.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert int(request.headers["content-length"]) == request.received > 0
            assert re.fullmatch("[0-9a-f]{64}", request.headers["x-amz-content-sha256"])


def assert_address_answers(world: World, via: services.S3, image: Any) -> None:
    """The permanent URL, with a signature where the bucket is private, answers with the photo."""
    signed = via.client.generate_presigned_url("get_object", Params={"Bucket": via.bucket, "Key": image["key"]})
    assert signed.partition("?")[0] == image["url"]
    if via.kind == "moto":
        allow = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject"}
        allow["Resource"] = f"arn:aws:s3:::{via.bucket}/*"
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        via.client.put_bucket_policy(Bucket=via.bucket, Policy=policy)
        signed = image["url"]  # a public bucket: anybody may ask
    with urllib.request.urlopen(signed, timeout=10) as answer:
        assert sha256(answer.read()) == image["sha256"]
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def assert_second_crawl(world: World, proxy: services.S3Proxy) -> None:
    """Of an unchanged site it costs the result pages only."""
    before, cars = world.images(), world.listings()
    world.site.reset()
    proxy.forget()
    done = world.crawl()

    assert world.site.served.counts == {"robots": 1, "home": 1, "search": 1, "results": 4}
    assert proxy.counts() == {"HEAD": 1}
    assert world.images() == before
    after = world.listings()
    for name, row in after.items():
        changed = {column for column in row if row[column] != cars[name][column]}
        assert changed <= {"last_seen_at", "scraped_at"}
        assert row["last_seen_at"] > cars[name]["last_seen_at"]
    assert verdict(done) == (
        "bilasolur: success. 24 cars (0 new, 0 gone); 0 photos stored (0.0 MB), 0 linked, 96 known before; "
        "96 of 96 photos of cars for sale are stored."
    )


@pytest.mark.parametrize(
    ("database_url", "s3", "layout"),
    [
        ("sqlite", "rclone", "2026"),
        ("sqlite", "moto", "2019"),
        ("postgresql", "rclone", "2019"),
        ("postgresql", "moto", "2026"),
    ],
    indirect=["database_url", "s3"],
)
def test_a_crawl_keeps_every_car_and_every_photo_and_the_second_one_costs_nothing(
    new_world: Callable[..., World], database_url: str, s3: services.S3, s3_proxy: services.S3Proxy, layout: str
) -> None:
    via = s3.via(s3_proxy)
    options = {"cars": 24, "photos": 4, "per_page": 9, "ads_every": 4, "layout": layout}
    world = new_world(database_url=database_url, env=via.env, **options)
    done = world.crawl()

    assert_requests(s3_proxy, s3, photos=96)
    assert_first_crawl(world, s3)
    image = world.image(world.site.cars[0])
    assert_address_answers(world, via, image)
    headers = s3.get(image["key"])[1]
    assert headers["x-amz-meta-source"] == "Bilasolur"
    assert headers["x-amz-meta-external-id"] == str(world.site.cars[0].cid)
    assert headers["x-amz-meta-source-url"] == image["source_url"]

    served = world.site.served
    assert served.counts == {"robots": 1, "home": 1, "search": 1, "results": 4, "details": 24, "photo": 96}
    assert set(served.photos.values()) == {1}
    assert all("&w=1280" in asked.path for asked in served.requests if asked.kind == "photo")
    assert {asked.user_agent for asked in served.requests} == {"carscraper/0.1.0 (car listings with photos)"}
    assert verdict(done).startswith("bilasolur: success. 24 cars (24 new, 0 gone); 96 photos stored (")
    assert len(last_words(done).splitlines()) == 1
    assert world.price_changes() == []

    assert_second_crawl(world, s3_proxy)


@pytest.mark.parametrize("s3", ["rclone"], indirect=True)
def test_photos_under_new_numbers_with_the_same_bytes_are_linked_not_uploaded(
    new_world: Callable[..., World], database_url: str, s3: services.S3, s3_proxy: services.S3Proxy
) -> None:
    world = new_world(cars=8, photos=4, database_url=database_url, env=s3.via(s3_proxy).env)
    world.crawl()
    before = world.images()
    keys = s3.keys()
    old = {car.cid: list(car.identities) for car in world.site.cars}
    world.site.renumber_photos()
    world.site.reset()
    s3_proxy.forget()
    done = world.crawl()

    assert (world.asked("details"), world.asked("photo")) == (8, 32)
    assert s3_proxy.counts() == {"HEAD": 1}
    assert s3.keys() == keys
    images = world.images()
    assert len(images) == 64
    for car in world.site.cars:
        for identity, earlier in zip(car.identities, old[car.cid], strict=True):
            assert (images[identity]["status"], images[earlier]["status"]) == ("stored", "superseded")
            assert images[earlier]["superseded_by"] == images[identity]["id"]
            for column in ("key", "url", "sha256", "source_sha256", "width", "bytes", "store"):
                assert images[identity][column] == before[earlier][column]
    assert "0 photos stored (0.0 MB), 32 linked, 0 known before" in verdict(done)


def test_the_same_bytes_on_one_car_twice_are_stored_once(new_world: Callable[..., World]) -> None:
    world = new_world(cars=3, photos=3)
    car = world.site.cars[0]
    for photo in car.photos:
        photo.name, photo.view = car.photos[0].name, car.photos[0].view
    world.crawl()
    rows = world.images_of(car)
    assert [row["status"] for row in rows] == ["stored", "superseded", "superseded"], "one current row for one picture"
    assert {row["superseded_by"] for row in rows} == {None, rows[0]["id"]}
    assert len({row["key"] for row in rows}) == 1


def test_a_first_crawl_into_a_folder_keeps_the_same_keys_and_bytes(new_world: Callable[..., World]) -> None:
    world = new_world(cars=6, photos=3)
    done = world.crawl()
    images = world.images()
    assert len(images) == 18
    for car in world.site.cars:
        for photo in car.photos:
            row = images[f"{car.cid}/{photo.p}"]
            assert (row["status"], row["store"], row["url"]) == ("stored", "folder", None)
            assert KEY.fullmatch(row["key"])
            assert world.kept_file(row) == world.served(car, photo)
        assert world.listing(car)["image_url"] == images[car.identities[0]]["source_url"]
    files = [path for path in (world.folder / "var/images").rglob("*") if path.is_file()]
    assert len(files) == 18
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
    assert "18 photos stored" in verdict(done)


def test_a_changed_card_is_read_again(new_world: Callable[..., World], database_url: str) -> None:
    world = new_world(cars=6, photos=2, database_url=database_url)
    world.crawl()
    cheaper, shown = world.site.cars[:2]
    assert cheaper.price is not None
    old, new = cheaper.price, cheaper.price - 150_000
    world.site.change_price(cheaper.cid, new, before_offer=old)
    p = world.site.add_photo(shown.cid)  # the third, so the card shows it
    world.site.reset()
    done = world.crawl()
    assert (world.asked("details"), world.asked("photo")) == (2, 1)
    row = world.listing(cheaper)
    assert (row["price"], row["price_before_offer"]) == (new, old)
    (changed,) = world.price_changes()
    assert (changed["listing_id"], changed["old_price"], changed["new_price"]) == (row["id"], old, new)
    assert changed["changed_at"] is not None
    assert world.images()[f"{shown.cid}/{p}"]["status"] == "stored"
    assert "1 photo stored" in verdict(done)


def test_a_price_that_vanishes_is_not_forgotten_and_no_change(new_world: Callable[..., World]) -> None:
    world = new_world(cars=4, photos=0)
    world.crawl()
    car = world.site.cars[3]
    price, before_offer = car.price, car.price_before_offer
    assert price is not None
    assert before_offer is not None
    world.site.change_price(car.cid, None)
    world.crawl()
    assert world.listing(car)["price"] == price
    assert world.price_changes() == []
    world.site.change_price(car.cid, price)
    world.crawl()
    row = world.listing(car)
    assert (row["price"], row["price_before_offer"]) == (price, None)
    assert world.price_changes() == []


def test_a_photo_added_behind_those_on_the_card_is_found_when_the_details_are_due(
    new_world: Callable[..., World],
) -> None:
    world = new_world(cars=4, photos=4)
    world.crawl()
    car = world.site.cars[1]
    p = world.site.add_photo(car.cid)
    world.site.reset()
    world.crawl()
    assert (world.asked("details"), world.asked("photo")) == (0, 0)
    world.crawl(settings={"DETAILS_MAX_AGE_DAYS": 0})
    assert (world.asked("details"), world.asked("photo")) == (4, 1)
    row = world.images()[f"{car.cid}/{p}"]
    assert (row["status"], row["position"]) == ("stored", 4)


def test_visits_to_old_details_are_spread_over_the_days(new_world: Callable[..., World]) -> None:
    world = new_world(cars=40, photos=0)
    world.crawl()
    visits = {}
    for days in (0.9, 3.5, 7.1):
        read_at = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)
        world.sql(sqlalchemy.update(CarListing).values(details_at=read_at))
        world.site.reset()
        world.crawl(settings={"DETAILS_MAX_AGE_DAYS": 7})
        visits[days] = world.asked("details")
    assert visits[0.9] == 0
    assert 7 <= visits[3.5] <= 33  # half of them; four sigma
    assert visits[7.1] == 40


def test_details_ask_for_each_photo_at_the_width_of_the_setting(new_world: Callable[..., World]) -> None:
    world = new_world(cars=2, photos=2)
    world.crawl(settings={"IMAGES_WIDTH": 784})
    paths = [asked.path for asked in world.site.served.requests if asked.kind == "photo"]
    assert len(paths) == 4
    assert all(path.endswith("&w=784") for path in paths)
    assert {row["width"] for row in world.images().values()} == {784}
