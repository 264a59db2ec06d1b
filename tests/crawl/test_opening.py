"""What keeps a crawl from beginning: misspelt names, settings files, databases, credentials. One sentence, exit 4."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import sqlalchemy

from tests import services
from tests.crawl.test_settings_and_arguments import assert_no_secret, assert_one_sentence
from tests.crawl.world import IMPOLITE, World, last_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PASSWORD = "Kv9-pW2zR7mL4qT"


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("place", "name", "meant"),
    [
        ("file", "USE_S3_STORGE", "USE_S3_STORAGE"),
        ("environment", "use_s3_storage", "USE_S3_STORAGE"),
        ("command line", "DOWNLOAD_DELY", "DOWNLOAD_DELAY"),
    ],
)
def test_a_misspelt_setting_ends_the_crawl_and_commands(
    new_world: Callable[..., World], place: str, name: str, meant: str
) -> None:
    world = new_world(cars=1, photos=1)
    env, settings = {}, {}
    if place == "file":
        (world.folder / "mine.env").write_text(f"# ours\n{name}=true\n")
        env = {"CARSCRAPER_ENV_FILE": "mine.env"}
    elif place == "environment":
        env = {name: "true"}
    else:
        settings = {name: "1"}
    done = world.crawl(code=4, env=env, settings=settings)
    assert_one_sentence(done, f"{name} ")
    assert f"did you mean {meant}?" in verdict(done)
    assert world.site.served.requests == []
    arguments = [part for each, value in settings.items() for part in ("-s", f"{each}={value}")]
    said = world.command("runs", *arguments, env=env)
    assert (said.returncode, said.stderr.count("\n")) == (4, 1), said
    assert f"did you mean {meant}?" in said.stderr


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


@pytest.mark.parametrize(
    ("written", "said"), [("bilasolr", "did you mean bilasolur?"), ("xyz", "write one of: askja,")]
)
def test_a_misspelt_spider_is_one_sentence(tmp_path: Path, written: str, said: str) -> None:
    done = services.run_scrapy("crawl", written, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"There is no spider '{written}'; {said}")
    assert "Traceback" not in done.stderr


# ── The settings file ─────────────────────────────────────────────────────────────────────────────

FILES: dict[str, tuple[bytes | None, str]] = {
    "latin-1": ("CONTACT=þór@example.is\n".encode("latin-1"), "is not in UTF-8"),
    "utf-16": ("USE_S3_STORAGE=true\n".encode("utf-16"), "is not in UTF-8"),
    "utf-16 without a mark": ("USE_S3_STORAGE=true\n".encode("utf-16-le"), "is not in UTF-8"),
    "yaml": (
        f"# compose\nAWS_SECRET_ACCESS_KEY: {PASSWORD}\n".encode(),
        "in line 2; write AWS_SECRET_ACCESS_KEY=value",
    ),
    "a folder": (None, "can't be read (Is a directory)"),
    "a NUL byte": (b"CONTACT=a@b.is\nS3_PREFIX=ca\0rs/\n", "has a NUL byte in line 2; remove it"),
}


@pytest.mark.parametrize("kind", [*FILES, "missing"])
def test_a_settings_file_that_cant_be_read_is_one_sentence(new_world: Callable[..., World], kind: str) -> None:
    world = new_world(cars=1, photos=1)
    content, said = FILES.get(kind, (b"", "which is not there"))
    path = world.folder / "mine.env"
    if content is None:
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(content)
    env = {"CARSCRAPER_ENV_FILE": "mine.env"}
    done = world.crawl(code=4, env=env)
    assert_one_sentence(done, said)
    assert_no_secret(done.stderr, secrets=(PASSWORD,))
    assert world.site.served.requests == []
    command = world.command("storage", "list", env=env)
    assert command.returncode == 4
    assert said in command.stderr
    assert len(command.stderr.splitlines()) == 1


def test_a_settings_file_with_a_byte_order_mark_is_read(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    (world.folder / "mine.env").write_bytes("\ufeffIMAGES_STORE=elsewhere\n".encode())
    world.crawl(env={"CARSCRAPER_ENV_FILE": "mine.env"})
    assert (world.folder / "elsewhere").is_dir()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("http_proxy", f"socks5://me:{PASSWORD}@127.0.0.1:1080"),
        ("https_proxy", "127.0.0.1:port"),
        ("HTTPS_PROXY", "http://[::1"),
    ],
)
def test_a_proxy_that_nothing_can_go_through_is_one_sentence(
    new_world: Callable[..., World], name: str, value: str
) -> None:
    world = new_world(cars=1, photos=1)
    done = world.crawl(code=4, env={name: value})
    assert_one_sentence(done, f"{name} in the environment is no address of a proxy; write http://host:port")
    assert world.site.served.requests == []
    assert_no_secret(done.stderr, secrets=(PASSWORD,))


# ── The database ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://me:{PASSWORD}@127.0.0.1/cars",
        f"postgresql+asyncpg://me:{PASSWORD}@127.0.0.1/cars",
        "sqlite://x",
        "sqlite:////tmp",
        f"postgresql://me:{PASSWORD[:8]}@{PASSWORD[8:]}@127.0.0.1/cars",
    ],
)
def test_a_database_of_a_wrong_kind_is_the_same_sentence_everywhere(new_world: Callable[..., World], url: str) -> None:
    world = new_world(cars=1, photos=1)
    done = world.crawl(code=4, env={"DATABASE_URL": url})
    assert_one_sentence(done, "DATABASE_URL ")
    for command in (["runs"], ["database", "version"], ["checkdealers"]):
        said = world.command(*command, env={"DATABASE_URL": url})
        assert said.returncode == 4
        assert said.stderr.strip() == verdict(done).removeprefix("bilasolur: failed. "), command
        assert_no_secret(said.stderr, secrets=(PASSWORD,))
    assert_no_secret(done.stderr, secrets=(PASSWORD,))


def test_nothing_of_an_address_is_shown_but_driver_host_port_and_name(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    url = f"postgresql://somebody@127.0.0.1:1/cars?password={PASSWORD}&sslpassword=abc"
    done = world.crawl(code=4, env={"DATABASE_URL": url, "DATABASE_PATIENCE": "0"})
    assert_one_sentence(done, "DATABASE_URL=postgresql+psycopg://127.0.0.1:1/cars can't be reached")
    assert "somebody" not in done.stderr
    assert_no_secret(done.stderr, secrets=(PASSWORD,))


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_is_not_in_utf8_is_one_sentence(
    new_world: Callable[..., World], postgres_url: str, encoding: str
) -> None:
    name = f"narrow_{encoding.lower()}"
    engine = sqlalchemy.create_engine(
        postgres_url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
        connection.exec_driver_sql(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    engine.dispose()
    url = re.sub(r"/test_\w+", f"/{name}", postgres_url)
    world = new_world(cars=1, photos=1)
    done = world.crawl(code=4, env={"DATABASE_URL": url})
    assert_one_sentence(done, f"is in {encoding}; make one in UTF-8")
    assert world.site.served.requests == []
    said = world.command("runs", env={"DATABASE_URL": url})
    assert (said.returncode, said.stderr.count("\n")) == (4, 1), said
    assert f"is in {encoding}" in said.stderr


def test_a_missing_table_is_one_sentence(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    world.crawl()
    world.sql("DROP TABLE price_changes")
    world.site.reset()
    done = world.crawl(code=4)
    assert_one_sentence(done, "lacks the table price_changes")
    assert world.site.served.requests == []


# ── Anything else ─────────────────────────────────────────────────────────────────────────────────


def aws(folder: Path, profile: str) -> dict[str, str]:
    (folder / "aws").write_text(profile)
    return {
        "USE_S3_STORAGE": "true",
        "AWS_S3_BUCKET": "car-photos",
        "AWS_PROFILE": "cars",
        "AWS_CONFIG_FILE": str(folder / "aws"),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }


SSO = """[profile cars]
sso_session = home
sso_account_id = 123456789012
sso_role_name = cars
region = eu-north-1
[sso-session home]
sso_region = eu-north-1
sso_start_url = https://example.awsapps.com/start
sso_registration_scopes = sso:account:access
"""


def test_a_login_that_is_missing_is_one_sentence(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    env = aws(world.folder, SSO)
    done = world.crawl(code=4, env=env)
    assert_one_sentence(done, "run `aws sso login`")
    said = world.command("storage", "list", env=env)
    assert (said.returncode, said.stderr.count("\n")) == (4, 1), said
    assert "run `aws sso login`" in said.stderr


def test_a_token_file_that_is_missing_is_one_sentence(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    role = "[profile cars]\nrole_arn = arn:aws:iam::123456789012:role/cars\nweb_identity_token_file = /nowhere/token\n"
    done = world.crawl(code=4, env=aws(world.folder, role))
    assert_one_sentence(done, "/nowhere/token")


def test_a_role_that_sts_denies_is_one_sentence(
    new_world: Callable[..., World], moto_server: services.MotoS3, moto_s3: services.S3
) -> None:
    world = new_world(cars=1, photos=1)
    (world.folder / "token").write_text("no token")
    role = (
        "[profile cars]\nrole_arn = nonsense\nregion = eu-north-1\n"
        f"web_identity_token_file = {world.folder / 'token'}\n"
    )
    env = aws(world.folder, role) | {"AWS_ENDPOINT_URL": moto_s3.endpoint, "AWS_ENDPOINT_URL_STS": moto_s3.endpoint}
    done = world.crawl(code=4, env=env)
    assert_one_sentence(done, "AWS credentials can't be had")


def test_a_damaged_certificate_is_one_sentence(new_world: Callable[..., World], moto_s3: services.S3) -> None:
    world = new_world(cars=1, photos=1)
    (world.folder / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIBszCCAVmg\n-----END CERTIFICATE-----\n")
    done = world.crawl(code=4, env=moto_s3.env | {"AWS_CA_BUNDLE": str(world.folder / "ca.pem")})
    assert_one_sentence(done, "AWS_CA_BUNDLE")


BROKEN = """
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
"""


@pytest.mark.parametrize(
    "setting",
    [
        {"ITEM_PIPELINES": '{"broken.Pipeline": 1}'},
        {"EXTENSIONS": '{"broken.Extension": 1}'},
        {"EXTENSIONS": '{"broken.Built": 1}'},
        {"DOWNLOADER_MIDDLEWARES": '{"broken.Built": 1}'},
        {"ITEM_PIPELINES": '{"broken.NotThere": 1}'},
    ],
)
def test_whatever_is_raised_is_one_sentence(new_world: Callable[..., World], setting: dict[str, str]) -> None:
    world = new_world(cars=1, photos=1)
    (world.folder / "broken.py").write_text(BROKEN)
    ours = {
        "EXTENSIONS": {"carscraper.extensions.run.Run": 0, "carscraper.extensions.progress.Progress": 0},
    }
    (name, value), *_ = setting.items()
    if name in ours:
        value = value[:-1] + "".join(f', "{path}": {order}' for path, order in ours[name].items()) + "}"
    env = {"PYTHONPATH": f"{services.REPO}:{world.folder}"}
    done = world.crawl(code=4, env=env, settings={name: value})
    lines = [line for line in done.stderr.splitlines() if re.search(" (ERROR|CRITICAL): ", line)]
    assert len(lines) == 1, done
    assert "bilasolur: failed. It could not begin: " in lines[0]
    assert "stopped on request" not in done.stderr
    assert world.site.served.requests == []


def test_what_kept_a_run_from_beginning_is_in_its_row(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    world.crawl()
    (world.folder / "broken.py").write_text(BROKEN)
    env = {"PYTHONPATH": f"{services.REPO}:{world.folder}"}
    world.crawl(code=4, env=env, settings={"ITEM_PIPELINES": '{"broken.Pipeline": 1}'})
    (row,) = world.sql("SELECT status, exit_code, why FROM crawl_runs WHERE id = 2")
    assert tuple(row.values()) == ("failed", 4, "failed. It could not begin: RuntimeError: no room.")


def test_a_feed_that_nobody_can_write_ends_the_crawl(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    done = world.crawl("-o", f"foo://me:{PASSWORD}@example.is/cars.csv", code=4)
    assert "The items can't be written to foo://***@example.is/cars.csv" in last_words(done)
    assert_no_secret(done.stderr, secrets=(PASSWORD,))
    assert world.site.served.requests == []


def started(world: World, *, closed: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """A crawl from a shell, with its standard streams as ``closed`` says."""
    options = [part for name, value in IMPOLITE.items() for part in ("-s", f"{name}={value}")]
    words = [
        "crawl",
        "bilasolur",
        "-a",
        f"base_url={world.site.base_url}",
        "-s",
        "LOG_FILE=new/logs/crawl.log",
        *options,
    ]
    command = f'exec "{sys.executable}" -m scrapy {" ".join(words)} {closed}'
    environment = services.crawl_environment(world.folder, {"DATABASE_URL": world.database_url, **(env or {})})
    return subprocess.run(
        ["bash", "-c", command], cwd=world.folder, env=environment, capture_output=True, timeout=120, check=False
    )


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-", "2> >(exit)"])
def test_a_closed_output_costs_nothing(new_world: Callable[..., World], closed: str) -> None:
    world = new_world(cars=2, photos=1)
    done = started(world, closed=closed)
    assert done.returncode == 0, done
    assert {row["status"] for row in world.images().values()} == {"stored"}
    log = (world.folder / "new/logs/crawl.log").read_text()
    assert "success. 2 cars" in log
    assert "Traceback" not in log


def test_an_output_that_cant_show_a_letter_costs_nothing(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    narrow = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    assert started(world, env=narrow).returncode == 0
    world.sql("UPDATE crawl_runs SET why = 'þ ✓'")
    for words in (["runs", "show", "1"], ["runs", "show", "1", "--json"], ["runs"]):
        done = world.command(*words, env=narrow)
        assert done.returncode == 0, done
        assert done.stderr == ""
    assert "\\u00fe \\u2713" in world.command("runs", "show", "1", "--json", env=narrow).stdout


def test_a_log_level_that_nobody_knows_is_one_sentence_wherever_it_is_written(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    for arguments, options in ((("-L", "NONSENSE"), {}), ((), {"settings": {"LOG_LEVEL": "NONSENSE"}})):
        extra: dict[str, Any] = dict(options)
        assert_one_sentence(world.crawl(*arguments, code=4, **extra), "LOG_LEVEL is 'NONSENSE'")


# ── Storage ───────────────────────────────────────────────────────────────────────────────────────


def test_storage_without_a_bucket_says_what_to_switch_on(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    world.crawl()
    said = world.command("storage", "list")
    assert said.returncode == 4
    assert said.stderr == (
        "Photos go to a folder, there is no bucket: set USE_S3_STORAGE=true and AWS_S3_BUCKET to use one.\n"
    )
    assert world.command("storage", "estimate", "--photos", "1000", "--bytes-per-photo", "200000").returncode == 0


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


def test_the_address_quoted_in_a_sentence_is_percent_encoded_too(new_world: Callable[..., World]) -> None:
    world = new_world(cars=1, photos=1)
    odd = "a/b c@d:e%f#g"
    url = f"postgresql://me:{quote(odd, safe='')}@127.0.0.1:1/cars"
    done = world.crawl(code=4, env={"DATABASE_URL": url, "DATABASE_PATIENCE": "0", "LOG_LEVEL": "DEBUG"})
    for spelling in (odd, quote(odd), quote(odd, safe="")):
        assert spelling not in done.stderr
