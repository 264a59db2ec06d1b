"""What is kept as a photo, as it was served, and what is none."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests import services
from tests.crawl.world import KEY, World, last_words, verdict
from tests.dealers import photos as factory

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.dealers.cars import Car

MAX_MEMORY = 300 * 1024**2


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


FORMATS = {
    "jpeg": ("jpg", "image/jpeg"),
    "jpeg-progressive": ("jpg", "image/jpeg"),
    "jpeg-cmyk": ("jpg", "image/jpeg"),
    "jpeg-rotated": ("jpg", "image/jpeg"),
    "png": ("png", "image/png"),
    "png-alpha": ("png", "image/png"),
    "png-16bit": ("png", "image/png"),
    "webp": ("webp", "image/webp"),
    "gif": ("gif", "image/gif"),
    "gif-animated": ("gif", "image/gif"),
    "avif": ("avif", "image/avif"),
}


def test_every_format_is_stored_as_it_was_served(new_world: Callable[..., World], rclone_s3: services.S3) -> None:
    world = new_world(cars=len(FORMATS) + 1, photos=1, env=rclone_s3.env)
    cars = dict(zip(FORMATS, world.site.cars, strict=False))
    for kind, car in cars.items():
        world.site.set_photo(car.cid, None, kind=kind)
    mislabelled = world.site.cars[-1]
    world.site.photo_fault(mislabelled.cid, None, ["as-html"], sticky=True)
    done = world.crawl(env={"IMAGES_THUMBS": '{"small": [320, 240]}'})
    assert f"{len(world.site.cars)} photos stored" in verdict(done)
    objects = rclone_s3.objects()
    for kind, car in [*cars.items(), ("jpeg", mislabelled)]:
        extension, content_type = FORMATS[kind]
        row = world.image(car)
        served = world.served(car)
        assert (row["status"], row["content_type"]) == ("stored", content_type)
        assert row["key"].endswith(f"_{row['sha256'][:12]}.{extension}")
        assert KEY.fullmatch(row["key"])
        assert objects[row["key"]] == served
        assert (row["sha256"], row["bytes"]) == (sha256(served), len(served))
        assert (row["width"], row["height"]) == ((853, 1280) if kind == "jpeg-rotated" else (1280, 853))
        assert rclone_s3.get(row["key"])[1]["content-type"] == content_type
        with Image.open(io.BytesIO(objects[f"thumbnails/small/{row['key']}"])) as small:
            assert (small.format, small.mode, small.size) == ("JPEG", "RGB", (320, 213))


@pytest.mark.parametrize("strip", [True, False])
def test_a_position_in_a_photo_is_not_published_and_the_picture_stays(
    new_world: Callable[..., World], strip: bool
) -> None:
    world = new_world(cars=2, photos=1)
    car = world.site.cars[0]
    world.site.set_photo(car.cid, None, kind="jpeg-gps")
    world.crawl(settings={"IMAGES_STRIP_METADATA": strip})
    row = world.image(car)
    kept, served = world.kept_file(row), world.served(car)
    assert row["source_sha256"] == sha256(served)
    assert row["sha256"] == sha256(kept)
    with Image.open(io.BytesIO(served)) as before, Image.open(io.BytesIO(kept)) as after:
        assert before.getexif().get_ifd(0x8825)
        assert before.tobytes() == after.tobytes()
        if strip:
            assert not after.getexif().get_ifd(0x8825)
            assert b"SERIAL-0123456789" not in kept
            assert row["sha256"] != row["source_sha256"]
        else:
            assert kept == served
    if not strip:
        return
    # The hash as served is known: under a new number it costs no upload and no second file.
    world.site.renumber_photos()
    done = world.crawl(settings={"IMAGES_STRIP_METADATA": strip})
    assert "0 photos stored (0.0 MB), 2 linked" in verdict(done)
    assert world.image(car)["key"] == row["key"]


def test_a_whole_picture_without_its_end_marker_is_stored_once_the_same_bytes_came_twice(
    new_world: Callable[..., World],
) -> None:
    world = new_world(cars=3, photos=1)
    jpeg, png, cut = world.site.cars
    world.site.set_photo(jpeg.cid, None, kind="jpeg-without-end")
    world.site.set_photo(png.cid, None, kind="png-without-end")
    world.site.photo_fault(cut.cid, None, ["half"], sticky=True)
    done = world.crawl(code=3)
    assert "1 truncated" in last_words(done)
    for car, end in ((jpeg, b"\xff\xd9"), (png, b"IEND\xaeB`\x82")):
        row = world.image(car)
        kept, served = world.kept_file(row), world.served(car)
        assert (row["status"], row["source_sha256"], row["sha256"]) == ("stored", sha256(served), sha256(kept))
        assert kept.endswith(end)
        assert not served.endswith(end)
    # The whole ones twice, the cut one as often as any broken connection: RETRY_TIMES + 1.
    assert world.asked("photo") == 2 + 2 + 4


NO_PHOTOS = {
    "html200": "not-an-image",
    "json200": "not-an-image",
    "svg": "not-an-image",
    "half": "truncated",
    "half-short": "truncated",
    "empty": "empty",
    "one-byte": "truncated",  # it is how a JPEG begins
    "png-bomb": "too-large",
    "gzip-bomb": "too-large",
    "endless": "too-large",
    "placeholder": "too-small",  # with IMAGES_MIN_WIDTH above its 400 pixels
    "404": "http-404",
    "410": "http-410",
    "403": "http-403",
    "500": "http-500",
    "never": "timeout",
    "reset": "unreachable",
    "redirect:file:///etc/passwd": "http-302",
}


def test_what_is_no_photo_fails_with_its_reason_and_costs_no_memory(new_world: Callable[..., World]) -> None:
    world = new_world(cars=len(NO_PHOTOS) + 1, photos=1)
    bad = dict(zip(NO_PHOTOS, world.site.cars, strict=False))
    for step, car in bad.items():
        world.site.photo_fault(car.cid, None, [step], sticky=True)
    done = world.crawl(
        code=3,
        settings={"IMAGES_MIN_WIDTH": 500, "DOWNLOAD_TIMEOUT": 6, "RETRY_TIMES": 1, "LOG_LEVEL": "INFO"},
        alone=True,
    )
    assert done.peak_memory < MAX_MEMORY
    reasons = {step: world.image(car)["reason"] for step, car in bad.items()}
    assert reasons == NO_PHOTOS
    for car in bad.values():
        row = world.image(car)
        assert row["status"] == "failed"
        assert row["attempts"] >= 1
        assert row["last_attempt_at"]
        assert {row[name] for name in ("key", "url", "sha256", "store", "stored_at", "bytes")} == {None}
        assert world.listing(car)["is_active"]
    assert world.image(world.site.cars[-1])["status"] == "stored"
    assert len([path for path in (world.folder / "var/images").rglob("*") if path.is_file()]) == 1
    # The last lines say how many of each kind.
    words = last_words(done)
    assert f"{len(bad)} photos failed" in words
    for reason in set(NO_PHOTOS.values()):
        assert f"{list(reasons.values()).count(reason)} {reason}" in words
    # Each failure has one line of its own, with address and reason.
    assert len(done.lines("Photo failed (")) == len(bad)
    # 410 means gone: neither the page nor the photo is asked again. 404 gets one visit to the page.
    visits = {step: visits_of(world, car) for step, car in bad.items()}
    assert visits["410"] == (1, 1)
    assert visits["404"] == (2, 2)
    assert visits["half"] == (1, 2)


def visits_of(world: World, car: Car) -> tuple[int, int]:
    """How often the car's page and its (only) photo were asked for."""
    pages = [
        asked for asked in world.site.served.requests if asked.kind == "details" and f"cid={car.cid}&" in asked.path
    ]
    return len(pages), world.site.served.photos[car.identities[0]]


def test_a_photo_that_is_dead_for_good_is_not_asked_for_again(new_world: Callable[..., World]) -> None:
    world = new_world(cars=3, photos=2)
    car = world.site.cars[0]
    world.site.photo_fault(car.cid, car.photos[1].p, ["404"], sticky=True)
    final = {"IMAGES_FINAL_AFTER": 1}
    done = world.crawl(settings=final)
    assert "(not stored: 1 http-404 final)" in verdict(done)
    world.site.reset()
    world.crawl(settings=final)
    assert (world.asked("details"), world.asked("photo")) == (0, 0)
    assert [row["status"] for row in world.images_of(car)] == ["stored", "failed"]


def test_a_photo_that_may_come_back_is_asked_for_by_the_next_crawl(new_world: Callable[..., World]) -> None:
    world = new_world(cars=3, photos=2)
    first, second, _ = world.site.cars
    world.site.photo_fault(first.cid, first.photos[1].p, ["half"], sticky=True)
    world.site.photo_fault(second.cid, second.photos[0].p, ["503"], sticky=True)
    world.crawl(code=3, settings={"RETRY_TIMES": 1})
    world.site.clear_faults()
    world.site.reset()
    world.crawl()
    assert world.asked("photo") == 2
    rows = world.images()
    assert {row["status"] for row in rows.values()} == {"stored"}
    assert rows[first.identities[1]]["reason"] is None
    assert rows[first.identities[1]]["attempts"] == 2
    assert world.listing(second)["image_url"] == rows[second.identities[0]]["source_url"]


def test_a_placeholder_on_many_cars_is_no_photo(new_world: Callable[..., World], database_url: str) -> None:
    world = new_world(cars=8, photos=2, database_url=database_url)
    victims = world.site.cars[:5]
    digest = sha256(factory.placeholder())
    for car in victims:
        world.site.photo_fault(car.cid, car.photos[0].p, ["placeholder"], sticky=True)
    done = world.crawl(code=3)
    rows = world.images()
    for car in victims:
        row = rows[car.identities[0]]
        assert (row["status"], row["reason"]) == ("failed", "placeholder")
    assert "5 placeholder" in last_words(done)
    assert digest not in {row["sha256"] for row in rows.values() if row["status"] == "stored"}
    # A car whose first photo is a placeholder shows its second one.
    assert rows[victims[0].identities[1]]["status"] == "stored"
    # What was hidden behind the placeholder is found: by now it is known, so one visit to the page is enough.
    for car in victims:
        world.site.photo_fault(car.cid, car.photos[0].p, ["placeholder"])
    world.site.reset()
    world.crawl()
    assert {row["status"] for row in world.images().values()} == {"stored"}
    assert digest not in {row["sha256"] for row in world.images().values()}
    assert world.asked("photo") == 2 * 5
    assert world.asked("details") == 2 * 5


def test_the_same_photo_on_cars_of_one_model_is_no_placeholder(new_world: Callable[..., World]) -> None:
    world = new_world(cars=5, photos=1)
    for car in world.site.cars:
        car.photos[0].name, car.look = "a new car", world.site.cars[0].look
        car.make, car.model = "Toyota", f"Yaris {car.number}"
    done = world.crawl()
    assert {row["status"] for row in world.images().values()} == {"stored"}
    assert "1 photo stored" in verdict(done) or "linked" in verdict(done)
