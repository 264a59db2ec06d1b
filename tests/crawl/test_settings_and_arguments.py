"""What the user says: arguments, settings in their three places, and every mistake in them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests import services
from tests.crawl.world import KEY, World, last_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def of_makes(world: World, *makes: str) -> set[str]:
    return {str(car.cid) for car in world.site.cars if car.make in makes}


# ── Arguments ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("written", "makes"),
    [
        ("toyota", ["Toyota"]),
        ("VW", ["Volkswagen"]),
        (" Škoda ,mercedes benz", ["Škoda", "Mercedes-Benz"]),
    ],
)
def test_makes_are_searched_for_in_any_spelling(
    new_world: Callable[..., World], written: str, makes: list[str]
) -> None:
    world = new_world(cars=20, photos=1, per_page=2)
    done = world.crawl(makes=written)
    assert set(world.listings()) == of_makes(world, *makes)
    assert world.asked("search") == len(makes)
    assert f"success. {2 * len(makes)} cars" in verdict(done)


def test_limit_counts_cars_and_max_pages_result_pages(new_world: Callable[..., World]) -> None:
    world = new_world(cars=14, photos=1, per_page=5)
    world.crawl(limit=7)
    assert set(world.listings()) == {str(car.cid) for car in world.site.cars[:7]}
    assert (world.asked("results"), world.asked("details")) == (2, 7)
    world.site.reset()
    world.crawl(max_pages=2)
    assert len(world.listings()) == 10
    assert (world.asked("results"), world.asked("details")) == (2, 3)
    world.site.reset()
    world.crawl(limit=0, max_pages=0, makes="")
    assert len(world.listings()) == 14


def test_without_details_the_cards_photos_are_kept_and_the_details_come_later(
    new_world: Callable[..., World],
) -> None:
    world = new_world(cars=4, photos=5)
    world.crawl(details="false")
    assert (world.asked("details"), world.asked("photo")) == (0, 12)
    assert {row["status"] for row in world.images().values()} == {"stored"}
    assert {row["horsepower"] for row in world.listings().values()} == {None}
    world.site.reset()
    world.crawl()
    assert (world.asked("details"), world.asked("photo")) == (4, 8)
    assert len(world.images()) == 20
    assert all(world.listing(car)["horsepower"] == car.horsepower for car in world.site.cars)


# ── Where a setting stands ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def in_env_file(tmp_path: Path) -> Callable[[dict[str, str]], dict[str, str]]:
    """Writes ``.env`` beside a ``scrapy.cfg``, as in a clone; gives the environment that finds it."""

    def write(settings: dict[str, str]) -> dict[str, str]:
        (tmp_path / "scrapy.cfg").write_text("[settings]\ndefault = carscraper.settings\n")
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        return {"CARSCRAPER_ENV_FILE": ""}

    return write


@pytest.mark.parametrize(
    ("in_file", "in_environment", "on_command_line", "on_s3"),
    [
        ("true", None, None, True),
        (None, "true", None, True),
        (None, None, "true", True),
        ("false", None, None, False),
        ("true", "false", None, False),
        ("false", "true", "no", False),
        ("0", "off", "1", True),
    ],
)
def test_s3_is_switched_by_env_file_environment_and_command_line(
    new_world: Callable[..., World],
    in_env_file: Callable[[dict[str, str]], dict[str, str]],
    rclone_s3: services.S3,
    in_file: str | None,
    in_environment: str | None,
    on_command_line: str | None,
    on_s3: bool,
) -> None:
    world = new_world(cars=2, photos=1)
    file = {name: value for name, value in rclone_s3.env.items() if name != "USE_S3_STORAGE"}
    env = in_env_file(file | ({"USE_S3_STORAGE": in_file} if in_file else {}))
    if in_environment:
        env["USE_S3_STORAGE"] = in_environment
    settings = {"USE_S3_STORAGE": on_command_line} if on_command_line else {}
    world.crawl(env=env, settings=settings)
    assert len(rclone_s3.keys()) == (2 if on_s3 else 0)
    assert (world.folder / "var/images").exists() != on_s3
    for row in world.images().values():
        assert row["store"] == (f"s3://{rclone_s3.bucket}" if on_s3 else "folder")
    for row in world.listings().values():
        assert row["image_url"].startswith(rclone_s3.endpoint if on_s3 else world.site.base_url)


@pytest.mark.parametrize("place", ["environment", "command line"])
def test_with_no_store_at_all_photos_are_noted_and_nothing_is_fetched(
    new_world: Callable[..., World], place: str
) -> None:
    world = new_world(cars=3, photos=2)
    chosen: dict[str, Any] = {"env" if place == "environment" else "settings": {"IMAGES_STORE": ""}}
    world.crawl(**chosen)
    assert (world.asked("details"), world.asked("photo")) == (3, 0)
    assert not (world.folder / "var/images").exists()
    images = world.images()
    assert {row["status"] for row in images.values()} == {"pending"}
    for car in world.site.cars:
        assert world.listing(car)["image_url"] == images[car.identities[0]]["source_url"]
    # What was never wanted is no reason to read every car's page again, day after day.
    world.site.reset()
    world.crawl(**chosen)
    assert (world.asked("details"), world.asked("photo")) == (0, 0)
    # With a store they are all fetched.
    world.crawl()
    assert {row["status"] for row in world.images().values()} == {"stored"}


def test_a_folder_with_a_public_address_makes_permanent_urls(new_world: Callable[..., World]) -> None:
    world = new_world(cars=2, photos=2)
    world.crawl(env={"IMAGES_PUBLIC_URL": "https://img.example.is/cars/"})
    for car in world.site.cars:
        first = world.image(car)
        assert first["url"] == f"https://img.example.is/cars/{first['key']}"
        assert world.listing(car)["image_url"] == first["url"]
    world.crawl(env={"DETAILS_MAX_AGE_DAYS": "0"})
    assert world.listing(world.site.cars[0])["image_url"].startswith("https://img.example.is/")


def test_another_folder_is_used(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    world.crawl(env={"IMAGES_STORE": "elsewhere/photos"})
    (row,) = world.images().values()
    assert (world.folder / "elsewhere/photos" / row["key"]).read_bytes() == world.served(world.site.cars[0])


def test_known_bytes_whose_file_is_gone_are_kept_again(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    car = world.site.cars[0]
    world.crawl()
    (before,) = world.images().values()
    (world.folder / "var/images" / before["key"]).unlink()
    world.site.renumber_photos()
    world.crawl(env={"DETAILS_MAX_AGE_DAYS": "0"})
    assert world.kept_file(world.image(car)) == world.served(car)


def test_a_permanent_url_is_never_replaced_by_a_temporary_one(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    world = new_world(cars=4, photos=2)
    first, second, *_ = world.site.cars
    world.crawl(env=rclone_s3.env)
    permanent = {name: row["image_url"] for name, row in world.listings().items()}
    assert all(url.startswith(rclone_s3.endpoint) for url in permanent.values())
    # S3 off: nothing changes, also where the card changes, a photo comes or the photos get new numbers.
    world.site.change_price(first.cid, 777_000)
    second.photos.insert(0, second.photos.pop())
    world.crawl(settings={"DETAILS_MAX_AGE_DAYS": 0})
    after = {name: row["image_url"] for name, row in world.listings().items()}
    assert after[str(first.cid)] == permanent[str(first.cid)]
    assert all(url.startswith(rclone_s3.endpoint) for url in after.values())
    world.site.renumber_photos()
    world.crawl()
    assert all(row["image_url"].startswith(rclone_s3.endpoint) for row in world.listings().values())
    # S3 on again.
    world.crawl(env=rclone_s3.env, settings={"DETAILS_MAX_AGE_DAYS": 0})
    assert all(row["image_url"].startswith(rclone_s3.endpoint) for row in world.listings().values())


def test_a_temporary_url_gives_way_to_a_permanent_one(new_world: Callable[..., World], rclone_s3: services.S3) -> None:
    world = new_world(cars=2, photos=2)
    world.crawl()
    assert all(row["image_url"].startswith(world.site.base_url) for row in world.listings().values())
    car = world.site.cars[0]
    p = world.site.add_photo(car.cid)
    world.crawl(env=rclone_s3.env)
    added = world.images()[f"{car.cid}/{p}"]
    assert (added["store"], added["status"]) == (f"s3://{rclone_s3.bucket}", "stored")
    assert world.listing(car)["image_url"] == added["url"]
    world.crawl(settings={"DETAILS_MAX_AGE_DAYS": 0})
    assert world.listing(car)["image_url"] == added["url"]


def test_after_a_switch_to_s3_the_last_line_says_what_is_in_the_folder_only(
    new_world: Callable[..., World], rclone_s3: services.S3
) -> None:
    world = new_world(cars=2, photos=2)
    assert "in the folder only" not in last_words(world.crawl())
    done = world.crawl(env=rclone_s3.env)
    assert "4 photos in the folder only: `scrapy crawl backfill -a only=local` uploads them" in last_words(done)
    world.crawl("-a", "only=local", spider="backfill", env=rclone_s3.env)
    assert "in the folder only" not in last_words(world.crawl(env=rclone_s3.env))
    assert len(rclone_s3.keys()) == 4


def test_prefix_storage_class_encryption_tags_and_thumbnails(
    new_world: Callable[..., World], moto_s3: services.S3
) -> None:
    world = new_world(cars=3, photos=2, env=moto_s3.env)
    world.crawl(
        env={
            "S3_PREFIX": "/cars//is",
            "S3_STORAGE_CLASS": "STANDARD_IA",
            "S3_SSE": "aws:kms",
            "S3_TAGS": '{"project": "cars + photos"}',
            "IMAGES_THUMBS": '{"small": [320, 240], "tiny": [64, 64]}',
        }
    )
    rows = list(world.images().values())
    keys = {row["key"] for row in rows}
    assert all(KEY.fullmatch(key.removeprefix("cars/is/")) for key in keys)
    assert all(row["url"] == f"{moto_s3.endpoint}/{moto_s3.bucket}/{row['key']}" for row in rows)
    plain = {key.removeprefix("cars/is/") for key in keys}
    thumbs = {f"cars/is/thumbnails/{name}/{key}" for name in ("small", "tiny") for key in plain}
    assert set(moto_s3.keys()) == keys | thumbs
    for key in keys:
        about = moto_s3.client.head_object(Bucket=moto_s3.bucket, Key=key)
        assert about["StorageClass"] == "STANDARD_IA"
        assert about["ServerSideEncryption"] == "aws:kms"
        tags = moto_s3.client.get_object_tagging(Bucket=moto_s3.bucket, Key=key)["TagSet"]
        assert tags == [{"Key": "project", "Value": "cars + photos"}]
    for key in thumbs:
        data, headers = moto_s3.get(key)
        assert headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(data)) as small:
            assert max(small.size) == (320 if "/small/" in key else 64)


# ── What is warned of, and what costs nothing ─────────────────────────────────────────────────────


def test_names_of_others_are_ignored_in_the_file_and_warned_of_on_the_command_line(
    new_world: Callable[..., World],
) -> None:
    world = new_world(cars=1, photos=1)
    (world.folder / "mine.env").write_text(
        "POSTGRES_PASSWORD=x\nAWS_REGION=eu-west-1\nDATABASE_USER=me\nCONTACT=a@b.is\n"
    )
    others = {"LOGLEVEL": "debug", "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1", "DATABASE_NAME": "x"}
    done = world.crawl(env={"CARSCRAPER_ENV_FILE": "mine.env"} | others, settings={"MY_PLUGIN_LEVEL": 3})
    warnings = [line for line in done.stderr.splitlines() if " WARNING: " in line]
    assert len(warnings) == 1, done
    assert "-s MY_PLUGIN_LEVEL is no setting" in warnings[0]


def test_a_setting_that_is_not_read_from_the_file_is_warned_of(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    (world.folder / "mine.env").write_text("CONCURRENT_REQUESTS=1\n")
    done = world.crawl(env={"CARSCRAPER_ENV_FILE": "mine.env"})
    assert "CONCURRENT_REQUESTS is not read from .env; use -s CONCURRENT_REQUESTS=… instead" in done.stderr


def test_without_a_contact_there_is_one_warning(new_world: Callable[..., World]) -> None:
    world = new_world(cars=2, photos=1)
    done = world.crawl()
    assert done.stderr.count("CONTACT") == 1
    done = world.crawl(settings={"CONTACT": "https://example.is/bot"})
    assert "CONTACT" not in done.stderr
    assert world.site.served.requests[-1].user_agent == "carscraper/0.1.0 (+https://example.is/bot)"


def test_a_settings_file_with_a_byte_order_mark_is_read(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    (world.folder / "mine.env").write_bytes("\ufeffIMAGES_STORE=elsewhere\n".encode())
    world.crawl(env={"CARSCRAPER_ENV_FILE": "mine.env"})
    assert (world.folder / "elsewhere").is_dir()


def test_a_quiet_crawl_says_its_verdict_all_the_same(new_world: Callable[..., World]) -> None:
    world = new_world(cars=2, photos=1)
    done = world.crawl(settings={"LOG_LEVEL": "ERROR"})
    assert done.stderr.startswith("bilasolur: success. 2 cars (2 new, 0 gone)")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


# ── Scrapy's own tools ────────────────────────────────────────────────────────────────────────────


def test_a_look_at_a_page_needs_no_database_and_leaves_nothing(tmp_path: Path) -> None:
    """``scrapy shell`` and ``fetch`` crawl with a spider that is none of ours."""
    nowhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    shell = services.run_scrapy("shell", "--nolog", "-c", "spider, 6 * 7", cwd=tmp_path, env=nowhere)
    assert (shell.returncode, shell.stdout.strip()) == (0, "(None, 42)")
    # Inside a private network: no connection is made, for a page that a person asks for neither.
    url, once = f"http://127.0.0.1:{services.free_port()}/", {"RETRY_TIMES": 0}
    fetch = services.run_scrapy("fetch", url, cwd=tmp_path, env=nowhere, settings=once)
    assert "Traceback" not in fetch.stderr
    assert not (tmp_path / "var").exists()
