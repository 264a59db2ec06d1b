"""What keeps a crawl from beginning: one sentence that names it, exit code 4, no request, no secret.

Commands that read the same settings say the same sentence.
"""

from __future__ import annotations

import json
import re
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import sqlalchemy

from tests import services
from tests.crawl.world import World, last_words, verdict
from tests.leaks import leaks
from tests.runs.webhook import Webhook

if TYPE_CHECKING:
    from collections.abc import Callable

# Made up; no six characters in a row of them are in anything else here.
KEY = "hTx7Qe93LmVb2Kd0Rw5Z/Ys8Ju1Nc6Ap4Fg+iBoE"
PASSWORD = "Kv9#pW2@zR7/mL4:qT"
QUOTED = quote(PASSWORD, safe="")
QUERY = "Bn4Gc8Hd2Lf6Mh"
USER = "Um3xQ8wZ5k"

FILES: dict[str, str | bytes] = {
    "a-file": "no folder",
    "near.env": "# ours\nUSE_S3_STORGE=true\n",
    "latin-1.env": "CONTACT=þór@example.is\n".encode("latin-1"),
    "utf-16.env": "USE_S3_STORAGE=true\n".encode("utf-16"),
    "utf-16-le.env": "USE_S3_STORAGE=true\n".encode("utf-16-le"),
    "yaml.env": f"# compose\nAWS_SECRET_ACCESS_KEY: {KEY}\n",
    "nul.env": b"CONTACT=a@b.is\nS3_PREFIX=ca\0rs/\n",
    "ca.pem": "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmg\n-----END CERTIFICATE-----\n",
    "token": "no token",
    "sso": """[profile cars]
sso_session = home
sso_account_id = 123456789012
sso_role_name = cars
region = eu-north-1
[sso-session home]
sso_region = eu-north-1
sso_start_url = https://example.awsapps.com/start
sso_registration_scopes = sso:account:access
""",
    "role": "[profile cars]\nrole_arn = arn:aws:iam::1234:role/cars\nweb_identity_token_file = /nowhere/token\n",
    "denied": "[profile cars]\nrole_arn = nonsense\nregion = eu-north-1\nweb_identity_token_file = token\n",
    "broken.py": """
class Pipeline:
    def open_spider(self):
        raise RuntimeError("no room\\nfor details, password=abc")
    def process_item(self, item):
        return item

class Extension:
    def __init__(self, crawler):
        from scrapy import signals
        crawler.signals.connect(self.opened, signal=signals.spider_opened)
    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)
    def opened(self):
        raise ZeroDivisionError("no room")

class Built:
    @classmethod
    def from_crawler(cls, crawler):
        raise OSError("no room")
""",
}


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    made = new_world(cars=1, photos=1)
    for name, content in FILES.items():
        (made.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return made


def assert_refused(
    world: World,
    said: str,
    *arguments: str,
    commands: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    **options: Any,
) -> services.CompletedCrawl:
    """See that the crawl says *said* once, in its last line, and that *commands* end with the same sentence."""
    done = world.crawl(*arguments, code=4, env=env, **options)
    sentence = verdict(done)
    assert said in sentence, done
    assert sentence.startswith("bilasolur: failed. "), done
    # Scrapy's list of settings aside, it is said once, and no error beside it.
    lines = [line for line in done.stderr.splitlines() if not line.lstrip().startswith(("'", "{'"))]
    assert len([line for line in lines if said in line]) == 1, done
    assert len([line for line in lines if re.search(" (ERROR|CRITICAL): ", line)]) == 1, done
    assert "stopped on request" not in done.stderr
    assert world.site.served.requests == []
    texts = [done.stdout, done.stderr, *(path.read_text(errors="replace") for path in world.folder.rglob("*.log"))]
    for command in commands:
        told = world.command(*command.split(), env=env)
        assert (told.returncode, told.stderr.strip()) == (4, sentence.removeprefix("bilasolur: failed. ")), command
        texts += [told.stdout, told.stderr]
    assert leaks("\n".join(texts), KEY, PASSWORD, QUERY, USER) == []
    return done


# ── Without a service ─────────────────────────────────────────────────────────────────────────────


def env(name: str, value: str, said: str = "", *commands: str) -> tuple[str, dict[str, Any]]:
    """A wrong variable of the environment, and commands that say the same."""
    return said or f"{name} is ", {"env": {name: value}, "commands": commands}


def setting(name: str, value: str, said: str = "") -> tuple[str, dict[str, Any]]:
    """A wrong ``-s``."""
    return said or f"{name} is ", {"settings": {name: value}}


def argument(name: str, value: str, said: str = "") -> tuple[str, dict[str, Any]]:
    """A wrong ``-a``."""
    return said or f"{name} is '{value}'", {name: value}


def file(name: str, said: str) -> tuple[str, dict[str, Any]]:
    return env("CARSCRAPER_ENV_FILE", name, said, "storage list")


def database(url: str) -> tuple[str, dict[str, Any]]:
    return env("DATABASE_URL", url, "DATABASE_URL ", "runs", "database version", "checkdealers")


MISTAKES = [
    argument("limit", "ten"),
    argument("limit", "²"),
    argument("details", "maybe"),
    argument("colour", "red", "no argument colour"),
    argument("base_url", "ftp://127.0.0.1/"),
    argument("base_url", "http://127.0.0.1:99999/"),
    # Names
    (
        "USE_S3_STORGE in near.env is no setting; did you mean USE_S3_STORAGE?",
        {"env": {"CARSCRAPER_ENV_FILE": "near.env"}, "commands": ("runs",)},
    ),
    env("use_s3_storage", "true", "did you mean USE_S3_STORAGE?", "runs"),
    setting("DOWNLOAD_DELY", "1", "did you mean DOWNLOAD_DELAY?"),
    # Values
    env("USE_S3_STORAGE", "maybe"),
    env("IMAGES_WIDTH", "abc"),
    env("S3_PREFIX", "../x"),  # with S3 off, too
    env("S3_TAGS", json.dumps(dict.fromkeys("abcdefghijk", "x")), "S3_TAGS has 11 tags; write at most 10"),
    env("S3_STORAGE_CLASS", "GLACIER", "whose photos nobody can see before they are restored"),
    env("IMAGES_STORE", "s3://car-photos/", "IMAGES_STORE"),
    env("IMAGES_STORE", "a-file", "IMAGES_STORE"),
    env("IMAGES_STORE", "/proc/photos", "IMAGES_STORE"),
    env("LOG_LEVEL", "LOUD"),
    setting("LOG_LEVEL", "NONSENSE"),
    setting("LOG_FORMAT", "%(nothing)s"),
    setting("LOG_FILE", "/proc/missing/log"),
    setting("NOTIFY_URLS", QUERY),
    setting("DOWNLOAD_DELAY", "fast"),
    setting("DEPTH_LIMIT", "3", "DEPTH_LIMIT"),
    setting("CONCURRENT_REQUESTS", "abc"),
    setting("ROBOTSTXT_OBEY", "nein"),
    setting("ITEM_PIPELINES", "{}", "ITEM_PIPELINES"),
    env("http_proxy", f"socks5://me:{QUERY}@127.0.0.1:1080", "http_proxy in the environment is no address of a proxy"),
    env(
        "https_proxy",
        "127.0.0.1:port",
        "https_proxy in the environment is no address of a proxy; write http://host:port",
    ),
    env("HTTPS_PROXY", "http://[::1", "HTTPS_PROXY in the environment is no address of a proxy"),
    # The settings file
    file("latin-1.env", "is not in UTF-8"),
    file("utf-16.env", "is not in UTF-8"),
    file("utf-16-le.env", "is not in UTF-8"),
    file("yaml.env", "in line 2; write AWS_SECRET_ACCESS_KEY=value"),
    file("nul.env", "has a NUL byte in line 2; remove it"),
    file("/tmp", "can't be read (Is a directory)"),
    file("missing.env", "which is not there"),
    # The database
    database(f"mysql://me:{QUOTED}@127.0.0.1/cars"),
    database(f"mysql://me:{PASSWORD}@127.0.0.1/cars"),
    database(f"postgresql+asyncpg://me:{QUOTED}@127.0.0.1/cars"),
    database("sqlite://x"),
    database("sqlite:////tmp"),
    env("DATABASE_URL", "sqlite:////proc/cars/cars.db", "DATABASE_URL "),
    database("postgresql://me@127.0.0.1:port/cars"),
    database(f"postgresql://me:{quote(PASSWORD)}@127.0.0.1:port/cars"),
    database(f"postgresql://me:{PASSWORD}@127.0.0.1:1/cars"),
    database(f"postgresql://me:{QUERY[:8]}@{QUERY[8:]}@127.0.0.1/cars"),
]


@pytest.mark.parametrize(("said", "options"), MISTAKES)
def test_a_mistake_is_one_sentence_before_anything_is_fetched(world: World, said: str, options: dict[str, Any]) -> None:
    assert_refused(world, said, **options)


def test_a_database_that_is_away_is_named_without_its_secrets(world: World, webhook: Webhook) -> None:
    """In the notice and by a command, too; its port is bound, so that nobody else takes it, and does not listen."""
    world.env = {"NOTIFY_URLS": webhook.address, "LOG_LEVEL": "DEBUG", "DATABASE_PATIENCE": "0"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{taken.getsockname()[1]}/cars"
        for url in (
            f"postgresql://{USER}:{QUOTED}@{server}",
            f"postgresql://{USER}@{server}?password={QUERY}&sslpassword=abc&connect_timeout=2",
        ):
            for place in ("env", "settings"):
                chosen: dict[str, Any] = {place: {"DATABASE_URL": url}}
                assert_refused(world, f"DATABASE_URL=postgresql+psycopg://{server} can't be reached", **chosen)
            told = world.command("runs", env={"DATABASE_URL": url})
            assert told.returncode == 4
            texts = [told.stdout, told.stderr, *webhook.texts()]
            assert leaks("\n".join(texts), PASSWORD, QUERY, USER) == []
    assert ["DATABASE_URL" in text for text in webhook.texts()] == [True] * 4


@pytest.mark.parametrize(
    ("written", "said"), [("bilasolr", "did you mean bilasolur?"), ("xyz", "write one of: askja,")]
)
def test_a_misspelt_spider_is_one_sentence(world: World, written: str, said: str) -> None:
    done = services.run_scrapy("crawl", written, cwd=world.folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"There is no spider '{written}'; {said}")
    assert "Traceback" not in done.stderr


def test_a_make_that_the_site_does_not_know_is_one_sentence(world: World) -> None:
    assert "makes='trabant'" in verdict(world.crawl(code=4, makes="toyota,trabant"))


def test_a_feed_that_nobody_can_write_ends_the_crawl(world: World) -> None:
    done = world.crawl("-o", f"foo://me:{QUERY}@example.is/cars.csv", code=4)
    assert "The items can't be written to foo://***@example.is/cars.csv" in last_words(done)
    assert leaks(done.stderr, QUERY) == []
    assert world.site.served.requests == []


# ── Databases that are there ──────────────────────────────────────────────────────────────────────


def test_a_database_that_is_missing_or_not_in_utf8_is_one_sentence(world: World, postgres_url: str) -> None:
    address = postgres_url.replace("postgresql:", "postgresql+psycopg:")
    engine = sqlalchemy.create_engine(address, isolation_level="AUTOCOMMIT")
    missing = {"DATABASE_URL": re.sub(r"/test_\w+", "/no_such_cars", postgres_url)}
    assert "DATABASE_URL" in verdict(assert_refused(world, "no_such_cars refuses (3D000: ", env=missing))
    narrow = {"DATABASE_URL": re.sub(r"/test_\w+", "/narrow", postgres_url)}
    for encoding in ("SQL_ASCII", "LATIN1"):
        with engine.connect() as connection:
            connection.exec_driver_sql("DROP DATABASE IF EXISTS narrow")
            connection.exec_driver_sql(f"CREATE DATABASE narrow ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        assert_refused(world, f"is in {encoding}; make one in UTF-8", env=narrow, commands=("runs",))
    engine.dispose()


def test_a_missing_table_is_one_sentence(world: World) -> None:
    world.crawl()
    world.sql("DROP TABLE price_changes")
    world.site.reset()
    assert_refused(world, "lacks the table price_changes")


# ── S3 ────────────────────────────────────────────────────────────────────────────────────────────

PROFILE = {
    "AWS_PROFILE": "cars",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ACCESS_KEY_ID": "",
    "AWS_SECRET_ACCESS_KEY": "",
}
S3_MISTAKES: list[tuple[str, dict[str, str]]] = [
    ("AWS_S3_BUCKET", {"AWS_S3_BUCKET": ""}),
    ("AWS_S3_BUCKET", {"AWS_S3_BUCKET": "car-photos-of-nobody"}),
    *(
        (f"set AWS_ENDPOINT_URL={bare}.", {"AWS_ENDPOINT_URL": written, "AWS_S3_BUCKET": "my-bucket"})
        for written, bare in (
            ("https://s3.example/my-bucket/", "https://s3.example"),
            ("https://my-bucket.s3.eu-north-1.amazonaws.com", "https://s3.eu-north-1.amazonaws.com"),
        )
    ),
    ("S3_ADDRESSING_STYLE is 'host'; write auto, path or virtual.", {"S3_ADDRESSING_STYLE": "host"}),
    ("write auto, wnam, enam", {"AWS_ENDPOINT_URL": "https://0123.r2.cloudflarestorage.com"}),
    ("AWS_ACCESS_KEY_ID", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}),
    ("AWS_ACCESS_KEY_ID", {"AWS_ACCESS_KEY_ID": ""}),
    ("AWS_PROFILE", {"AWS_PROFILE": "nobody"}),
    ("AWS_CA_BUNDLE", {"AWS_CA_BUNDLE": "/nowhere/ca.pem"}),
    ("AWS_CA_BUNDLE", {"AWS_CA_BUNDLE": "a-file"}),
    ("AWS_CA_BUNDLE", {"AWS_CA_BUNDLE": "ca.pem"}),
    ("run `aws sso login`", PROFILE | {"AWS_CONFIG_FILE": "sso"}),
    ("/nowhere/token", PROFILE | {"AWS_CONFIG_FILE": "role"}),
]


@pytest.mark.parametrize(("said", "wrong"), S3_MISTAKES)
def test_a_mistake_about_s3_is_one_sentence(
    world: World, moto_s3: services.S3, said: str, wrong: dict[str, str]
) -> None:
    commands = ("storage list",) if "sso" in said else ()
    assert_refused(world, said, env=moto_s3.env | {"AWS_SECRET_ACCESS_KEY": KEY} | wrong, commands=commands)


def test_a_role_that_sts_denies_is_one_sentence(world: World, moto_s3: services.S3) -> None:
    role = PROFILE | dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS"), moto_s3.endpoint)
    assert_refused(world, "AWS credentials can't be had", env=moto_s3.env | role | {"AWS_CONFIG_FILE": "denied"})


def test_wrong_credentials_are_one_sentence(world: World, rclone_s3: services.S3) -> None:
    nobody = {"AWS_SECRET_ACCESS_KEY": KEY, "AWS_ACCESS_KEY_ID": "AKIDNOBODY"}
    assert_refused(world, "AWS_SECRET_ACCESS_KEY", env=rclone_s3.env | {"AWS_SECRET_ACCESS_KEY": KEY})
    assert_refused(world, "AWS_ACCESS_KEY_ID", env=rclone_s3.env | nobody)
    assert rclone_s3.keys() == []


def test_storage_without_a_bucket_says_what_to_switch_on(world: World) -> None:
    world.crawl()
    said = world.command("storage", "list")
    assert said.returncode == 4
    assert said.stderr == (
        "Photos go to a folder, there is no bucket: set USE_S3_STORAGE=true and AWS_S3_BUCKET to use one.\n"
    )
    assert world.command("storage", "estimate", "--photos", "1000", "--bytes-per-photo", "200000").returncode == 0


# ── Anything else ─────────────────────────────────────────────────────────────────────────────────

OURS = '"carscraper.extensions.run.Run": 0, "carscraper.extensions.progress.Progress": 0'


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ITEM_PIPELINES", '{"broken.Pipeline": 1}'),
        ("ITEM_PIPELINES", '{"broken.NotThere": 1}'),
        ("EXTENSIONS", f'{{"broken.Extension": 1, {OURS}}}'),
        ("EXTENSIONS", f'{{"broken.Built": 1, {OURS}}}'),
        ("DOWNLOADER_MIDDLEWARES", '{"broken.Built": 1}'),
    ],
)
def test_whatever_is_raised_is_one_sentence_and_in_the_runs_row(world: World, name: str, value: str) -> None:
    path = {"PYTHONPATH": f"{services.REPO}:{world.folder}"}
    world.crawl()
    world.site.reset()
    assert_refused(world, "It could not begin: ", env=path, settings={name: value})
    if "Pipeline" in value:
        (row,) = world.sql("SELECT status, exit_code, why FROM crawl_runs WHERE id = 2")
        assert tuple(row.values()) == ("failed", 4, "failed. It could not begin: RuntimeError: no room.")
