"""What the user says: arguments, settings in their three places, and every mistake in them."""

from __future__ import annotations

import dataclasses
import io
import re
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from PIL import Image
from scrapy.settings import Settings

from carscraper.addon import CarscraperAddon
from tests import services
from tests.crawl.world import KEY, World, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"limit": "ten"}, "limit is 'ten'"),
        ({"limit": "²"}, "limit is '²'"),
        ({"details": "maybe"}, "details is 'maybe'"),
        ({"colour": "red"}, "no argument colour"),
        ({"base_url": "ftp://127.0.0.1/"}, "base_url is 'ftp://127.0.0.1/'"),
        ({"base_url": "http://127.0.0.1:99999/"}, "base_url is"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    new_world: Callable[..., World], arguments: dict[str, str], named: str
) -> None:
    world = new_world(cars=1, photos=0)
    done = world.crawl(code=4, **arguments)
    assert_one_sentence(done, named)
    assert world.site.served.requests == []


def test_a_make_that_the_site_does_not_know_is_one_sentence(new_world: Callable[..., World]) -> None:
    world = new_world(cars=3, photos=0)
    done = world.crawl(code=4, makes="toyota,trabant")
    assert_one_sentence(done, "makes='trabant'")


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


# ── Mistakes ──────────────────────────────────────────────────────────────────────────────────────

SECRET = "hTx7Qe93LmVb2Kd0Rw5Z/Ys8Ju1Nc6Ap4Fg+iBoE"
"""Stands for an AWS secret key; no half of it may be seen anywhere."""
PASSWORD = "Kv9#pW2@zR7/mL4:qT"


def assert_one_sentence(done: services.CompletedCrawl, named: str) -> None:
    """Exit code 4, and the last line alone says which setting is wrong."""
    assert done.returncode == 4, done
    assert "Traceback" not in done.stderr, done
    assert named in verdict(done), done
    assert verdict(done).startswith("bilasolur: failed. "), done
    # Scrapy's list of settings aside, it is said once, and no error beside it.
    lines = [line for line in done.stderr.splitlines() if not line.lstrip().startswith(("'", "{'"))]
    assert len([line for line in lines if named in line]) == 1, done
    assert len([line for line in lines if re.search(" (ERROR|CRITICAL): ", line)]) == 1, done


def assert_no_secret(*texts: str, secrets: tuple[str, ...] = (SECRET, PASSWORD)) -> None:
    """Neither a secret nor a half of it, as it is or percent-encoded."""
    for text in texts:
        for secret in secrets:
            middle = len(secret) // 2
            for part in (secret, secret[:middle], secret[middle:]):
                assert part not in text
                assert quote(part, safe="") not in text
                assert repr(part)[1:-1] not in text


def seen_by_people(world: World, done: services.CompletedCrawl) -> list[str]:
    """All that a crawl printed or wrote, the database and photos excepted."""
    written = [path for path in world.folder.rglob("*.log") if path.is_file()]
    return [done.stdout, done.stderr, *(path.read_text(errors="replace") for path in written)]


S3_MISTAKES: dict[str, tuple[dict[str, str], str]] = {
    "no bucket": ({"AWS_S3_BUCKET": ""}, "AWS_S3_BUCKET"),
    "no such bucket": ({"AWS_S3_BUCKET": "car-photos-of-nobody"}, "AWS_S3_BUCKET"),
    "no credentials": ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "AWS_ACCESS_KEY_ID"),
    "half the credentials": ({"AWS_ACCESS_KEY_ID": ""}, "AWS_ACCESS_KEY_ID"),
    "no such profile": ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE"),
    "ca bundle": ({"AWS_CA_BUNDLE": "/nowhere/ca.pem"}, "AWS_CA_BUNDLE"),
    "ca bundle without a certificate": ({"AWS_CA_BUNDLE": __file__}, "AWS_CA_BUNDLE"),
}


@pytest.mark.parametrize("mistake", S3_MISTAKES)
def test_a_mistake_about_s3_is_one_sentence_before_anything_is_fetched(
    new_world: Callable[..., World], moto_s3: services.S3, mistake: str
) -> None:
    settings, named = S3_MISTAKES[mistake]
    world = new_world(cars=1, photos=1)
    done = world.crawl(code=4, env=moto_s3.env | {"AWS_SECRET_ACCESS_KEY": SECRET} | settings)
    assert_one_sentence(done, named)
    assert world.site.served.requests == []
    assert_no_secret(*seen_by_people(world, done))


def test_wrong_credentials_are_one_sentence(new_world: Callable[..., World], rclone_s3: services.S3) -> None:
    for wrong, named in (
        ({"AWS_SECRET_ACCESS_KEY": SECRET}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "AKIDNOBODY", "AWS_SECRET_ACCESS_KEY": SECRET}, "AWS_ACCESS_KEY_ID"),
    ):
        world = new_world(cars=1, photos=1)
        done = world.crawl(code=4, env=rclone_s3.env | wrong)
        assert_one_sentence(done, named)
        assert world.site.served.requests == []
        assert_no_secret(*seen_by_people(world, done))
    assert rclone_s3.keys() == []


def test_a_bucket_in_another_region_is_one_sentence(new_world: Callable[..., World], moto_s3: services.S3) -> None:
    elsewhere = {"LocationConstraint": "ap-southeast-2"}
    there = dataclasses.replace(moto_s3, region="ap-southeast-2")
    there.client.create_bucket(Bucket="photos-down-under", CreateBucketConfiguration=elsewhere)
    world = new_world(cars=1, photos=1)
    done = world.crawl(code=4, env=moto_s3.env | {"AWS_S3_BUCKET": "photos-down-under"})
    assert_one_sentence(done, "AWS_S3_REGION=ap-southeast-2")
    assert world.site.served.requests == []


OTHER_MISTAKES: dict[str, tuple[dict[str, str], str]] = {
    "switch": ({"USE_S3_STORAGE": "maybe"}, "USE_S3_STORAGE"),
    "unquoted password": ({"DATABASE_URL": f"postgresql://cars:{PASSWORD}@127.0.0.1/cars"}, "DATABASE_URL"),
    "database port": ({"DATABASE_URL": "postgresql://cars@127.0.0.1:port/cars"}, "DATABASE_URL"),
    "database folder": ({"DATABASE_URL": "sqlite:////proc/cars/cars.db"}, "DATABASE_URL"),
    "width": ({"IMAGES_WIDTH": "abc"}, "IMAGES_WIDTH"),
    "s3 as a folder": ({"IMAGES_STORE": "s3://car-photos/"}, "IMAGES_STORE"),
    "folder is a file": ({"IMAGES_STORE": "a-file"}, "IMAGES_STORE"),
    "folder can't be made": ({"IMAGES_STORE": "/proc/photos"}, "IMAGES_STORE"),
    "delay": ({"DOWNLOAD_DELAY": "fast"}, "DOWNLOAD_DELAY"),
    "depth": ({"DEPTH_LIMIT": "3"}, "DEPTH_LIMIT"),
    "pipelines": ({"ITEM_PIPELINES": "{}"}, "ITEM_PIPELINES"),
}


@pytest.mark.parametrize("mistake", OTHER_MISTAKES)
def test_a_mistake_is_one_sentence_before_anything_is_fetched(new_world: Callable[..., World], mistake: str) -> None:
    settings, named = OTHER_MISTAKES[mistake]
    world = new_world(cars=1, photos=1)
    (world.folder / "a-file").write_text("no folder")
    by_command_line = {
        name: value for name, value in settings.items() if name.startswith(("DOWNLOAD_", "DEPTH_", "ITEM_"))
    }
    done = world.crawl(code=4, env=settings, settings=by_command_line)
    assert_one_sentence(done, named)
    assert world.site.served.requests == []
    assert_no_secret(*seen_by_people(world, done))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_S3_BUCKET", "My Bucket"),
        ("AWS_ENDPOINT_URL", "nonsense"),
        ("IMAGES_THUMBS", '{"small": 320}'),
        ("DATABASE_URL", "cars.db"),
        ("AWS_ENDPOINT_URL", "s3://127.0.0.1"),
        ("AWS_S3_REGION", "somewhere over the rainbow"),
        ("AWS_S3_REGION", "http://127.0.0.1/?"),
        ("DATABASE_URL", f"mysql://cars:{quote(PASSWORD, safe='')}@127.0.0.1/cars"),
        ("DATABASE_URL", ""),
        ("DETAILS_MAX_AGE_DAYS", "nan"),
        ("IMAGES_MIN_WIDTH", "abc"),
        ("IMAGES_NOT_PLACEHOLDERS", "xyz"),
        ("CONCURRENT_REQUESTS", "abc"),
        ("ROBOTSTXT_OBEY", "nein"),
        ("IMAGES_CONCURRENCY", "0"),
        ("IMAGES_MAX_BYTES", "20 MB"),
        ("IMAGES_PUBLIC_URL", "img.example.is"),
        ("IMAGES_STRIP_METADATA", "perhaps"),
        ("IMAGES_THUMBS", '{"../small": [320, 240]}'),
        ("IMAGES_THUMBS", "[320, 240]"),
        ("IMAGES_WIDTH", "0"),
        ("S3_MAX_PARALLEL_UPLOADS", "0"),
        ("S3_MAX_RETRIES", "-1"),
        ("S3_SSE", "rot13"),
        ("S3_TAGS", "project=cars"),
        ("S3_UPLOAD_TIMEOUT", "soon"),
    ],
)
def test_every_wrong_value_becomes_a_sentence_that_names_it(name: str, value: str) -> None:
    """Without a crawl: what the add-on makes of it."""
    settings = Settings({name: value}, priority="cmdline")
    settings.setmodule("carscraper.settings", priority="project")
    CarscraperAddon().update_settings(settings)
    (sentence,) = settings.getlist("CARSCRAPER_PROBLEMS")
    assert sentence.startswith(name)
    assert sentence.endswith(".")
    assert_no_secret(sentence)


def test_a_log_level_that_does_not_exist_is_one_sentence(new_world: Callable[..., World]) -> None:
    """Scrapy reads it before anything of ours runs."""
    world = new_world(cars=1, photos=1)
    done = world.crawl(code=4, env={"LOG_LEVEL": "LOUD"})
    assert_one_sentence(done, "LOG_LEVEL")
    assert world.site.served.requests == []
    world.crawl(env={"LOG_LEVEL": "warning"})


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections: bound, so that nobody else takes it, and not listening."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_database_that_is_not_there_is_one_sentence(new_world: Callable[..., World], closed_port: int) -> None:
    world = new_world(cars=1, photos=1)
    address = f"postgresql://cars:{quote(PASSWORD, safe='')}@127.0.0.1:{closed_port}/cars"
    for where in ("env", "settings"):
        done = world.crawl(code=4, **{where: {"DATABASE_URL": address}})  # type: ignore[arg-type]
        assert_one_sentence(done, "DATABASE_URL")
        assert str(closed_port) in verdict(done)
        assert world.site.served.requests == []
        assert_no_secret(*seen_by_people(world, done))


def test_a_database_that_does_not_exist_is_one_sentence(new_world: Callable[..., World], postgres_url: str) -> None:
    world = new_world(cars=1, photos=1)
    done = world.crawl(code=4, env={"DATABASE_URL": re.sub(r"/test_\w+", "/no_such_cars", postgres_url)})
    assert_one_sentence(done, "no_such_cars")
    assert "DATABASE_URL" in verdict(done)
    assert world.site.served.requests == []


@pytest.mark.parametrize("log", ["stderr", "file"])
def test_no_secret_is_shown_at_the_most_talkative_level(
    new_world: Callable[..., World], rclone: services.RcloneS3, postgres_url: str, log: str
) -> None:
    """The crawl works with secrets from the command line, and logs all it has to say but those."""
    rclone.stop()
    rclone.access_key, rclone.secret_key = "AKIDQ7Z2M9X4K1W8", SECRET
    rclone.start()
    s3 = rclone.bucket()
    world = new_world(cars=3, photos=2)
    address = postgres_url.replace("carscraper@", f"carscraper:{quote(PASSWORD, safe='')}@")
    settings: dict[str, Any] = s3.env | {"DATABASE_URL": address, "LOG_LEVEL": "DEBUG"}
    if log == "file":
        settings["LOG_FILE"] = "crawl.log"
    done = world.crawl(settings=settings)
    assert len(s3.keys()) == 6
    texts = seen_by_people(world, done)
    assert "Overridden settings" in "".join(texts)
    assert "6 photos stored" in done.stderr, "the verdict is seen though the log goes to a file"
    assert_no_secret(*texts, secrets=(SECRET, PASSWORD, s3.access_key))


def test_a_quiet_crawl_says_its_verdict_all_the_same(new_world: Callable[..., World]) -> None:
    world = new_world(cars=2, photos=1)
    done = world.crawl(settings={"LOG_LEVEL": "ERROR"})
    assert done.stderr.startswith("bilasolur: success. 2 cars (2 new, 0 gone)")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_the_user_agent_names_the_contact(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    world.crawl(env={"CONTACT": "https://example.is/bot"})
    agents = {asked.user_agent for asked in world.site.served.requests}
    assert agents == {"carscraper/0.1.0 (+https://example.is/bot)"}


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
