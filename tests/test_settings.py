"""Settings: secrets that never show themselves, where values come from, what is refused, the add-on's last touch."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest
from scrapy.settings import Settings

from carscraper.addon import CarscraperAddon
from carscraper.exceptions import ConfigurationError
from carscraper.settings import Secret, checks, kinds
from carscraper.settings.environment import Environment
from carscraper.settings.table import REMOVED, SETTINGS
from tests import services

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PLAIN = "wJalrXUtnFEMI/K7MDENG"


class TestSecret:
    def test_it_never_shows_itself(self, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
        key = Secret(PLAIN)
        print(key, [key])
        logging.getLogger("test").warning("%s %r %s", key, key, {"key": key})
        shown = [
            *(capsys.readouterr().out, caplog.text, str(key), repr(key), ascii(key)),
            *(f"{key:>40}", f"{key!r}", f"{key:.3}"),
            *("%s" % key, "%-40s" % key, "{}".format(key)),  # noqa: UP031, UP032 - the old ways must not show it either
            *(pprint.pformat({"key": key, "others": (key,)}, width=20), str(ValueError(key))),
            "".join(traceback.format_exception(ValueError(key))),
        ]
        for text in shown:
            assert "*" in text
            assert PLAIN[:3] not in text

    def test_a_copy_is_the_same_secret(self) -> None:
        key = Secret(PLAIN)
        pickled = [pickle.loads(pickle.dumps(key, number)) for number in range(2, 6)]
        for copied in (copy.copy(key), copy.deepcopy(key), Secret(key), *pickled):
            assert type(copied) is Secret
            assert copied.reveal() == PLAIN
            assert str(copied) == "***"

    def test_it_compares_and_hashes_as_its_value(self) -> None:
        assert Secret(PLAIN) == PLAIN
        assert {Secret(PLAIN): 1}[PLAIN] == 1
        assert not Secret("")

    def test_redact_finds_every_spelling(self) -> None:
        for plain in ("K7MDENG+/x =ü", "wJalr-XUtnFEMI"):
            spellings = (plain, quote(plain), quote(plain, safe=""), quote_plus(plain), quote(plain, safe="").lower())
            for spelling in spellings:
                text = f"<a href='x?apikey={spelling}&amp;p=1'>z{spelling}z</a>".encode()
                assert Secret(plain).redact(text) == b"<a href='x?apikey=***&amp;p=1'>z***z</a>"

    def test_redact_does_not_spoil_what_only_looks_like_a_short_secret(self) -> None:
        assert Secret("299").redact(b'F="2990" key=299&a') == b'F="2990" key=***&a'
        assert Secret("").redact(b"abc") == b"abc"

    def test_reveal_gives_a_plain_string(self) -> None:
        assert type(Secret(PLAIN).reveal()) is str
        assert json.dumps({"key": Secret(PLAIN).reveal()}) == json.dumps({"key": PLAIN})


# --- where values come from -------------------------------------------------------------------------------------

ENV_FILE = """
# as in .env.example
export IMAGES_WIDTH=784
S3_PREFIX='from file/'
CONTACT="mailto:a@example.is"   # a comment
AWS_S3_BUCKET=from-file
AWS_SECRET_ACCESS_KEY=wJal$r{X}UtnFEMI
S3_MAX_RETRIES=
LOG_LEVEL
"""


def values(folder: Path, *names: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the settings module of a process of its own says."""
    code = (
        "import json, sys, carscraper.settings as s; from carscraper.settings import Secret\n"
        "def plain(v): return {'secret': v.reveal()} if isinstance(v, Secret) else v\n"
        "print(json.dumps({name: plain(getattr(s, name)) for name in sys.argv[1:]}))"
    )
    environment = {**services.crawl_environment(folder), "CARSCRAPER_ENV_FILE": "", **(env or {})}
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "scrapy.cfg").write_text("[settings]\ndefault = carscraper.settings\n")
    (tmp_path / ".env").write_text(ENV_FILE)
    return tmp_path


class TestSources:
    def test_env_file_beside_the_project(self, project: Path) -> None:
        (project / "below").mkdir()
        found = values(
            project / "below",
            *("IMAGES_WIDTH", "S3_PREFIX", "CONTACT", "USER_AGENT", "AWS_S3_BUCKET", "AWS_SECRET_ACCESS_KEY"),
            *("S3_MAX_RETRIES", "LOG_LEVEL"),
            env={"AWS_S3_BUCKET": "from-environment"},
        )
        assert found["IMAGES_WIDTH"] == "784"
        assert found["S3_PREFIX"] == "from file/"
        assert "(+mailto:a@example.is)" in found["USER_AGENT"]
        assert found["AWS_S3_BUCKET"] == "from-environment"
        assert found["AWS_SECRET_ACCESS_KEY"] == {"secret": "wJal$r{X}UtnFEMI"}, "a $ in a key is a $"
        assert found["S3_MAX_RETRIES"] == 5, "set to nothing is not set"
        assert found["LOG_LEVEL"] == "INFO"

    def test_defaults_without_any(self, tmp_path: Path) -> None:
        names = ("USE_S3_STORAGE", "AWS_S3_REGION", "IMAGES_STORE", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL")
        found = values(tmp_path, *names, "USER_AGENT", "CONTACT")
        assert not found["USE_S3_STORAGE"]
        assert found["AWS_S3_REGION"] is None
        assert found["IMAGES_STORE"] == "var/images"
        assert found["AWS_SECRET_ACCESS_KEY"] is None
        assert found["DATABASE_URL"] == {"secret": "sqlite:///var/carscraper.db"}
        assert found["CONTACT"] is None
        assert found["USER_AGENT"].startswith("carscraper/")

    def test_s3s_own_endpoint_variable_wins_over_the_general_one(self, tmp_path: Path) -> None:
        env = {"AWS_ENDPOINT_URL": "http://general", "AWS_ENDPOINT_URL_S3": "http://s3"}
        assert values(tmp_path, "AWS_ENDPOINT_URL", env=env) == {"AWS_ENDPOINT_URL": "http://s3"}

    def test_a_store_set_to_nothing_is_nothing(self, tmp_path: Path) -> None:
        assert values(tmp_path, "IMAGES_STORE", env={"IMAGES_STORE": ""}) == {"IMAGES_STORE": ""}

    def test_another_env_file(self, project: Path) -> None:
        (project / "other.env").write_text("IMAGES_WIDTH=400\n")
        env = {"CARSCRAPER_ENV_FILE": "other.env"}
        assert values(project, "IMAGES_WIDTH", "S3_PREFIX", env=env) == {"IMAGES_WIDTH": "400", "S3_PREFIX": ""}

    @pytest.mark.parametrize(
        ("name", "arguments", "env", "shown"),
        [
            ("IMAGES_WIDTH", (), {}, "784"),
            ("IMAGES_WIDTH", (), {"IMAGES_WIDTH": "400"}, "400"),
            ("IMAGES_WIDTH", ("-s", "IMAGES_WIDTH=1200"), {"IMAGES_WIDTH": "400"}, "1200"),
            ("AWS_SECRET_ACCESS_KEY", (), {}, "***"),
            ("DATABASE_URL", (), {"DATABASE_URL": "postgresql://u:hunter2@h/d"}, "***"),
        ],
    )
    def test_scrapys_own_command_shows_what_holds(
        self, project: Path, name: str, arguments: tuple[str, ...], env: dict[str, str], shown: str
    ) -> None:
        done = services.run_scrapy(
            "settings", "--get", name, *arguments, cwd=project, env={"CARSCRAPER_ENV_FILE": "", **env}, alone=False
        )
        assert done.returncode == 0, done
        assert done.stdout.strip() == shown


# --- what is refused --------------------------------------------------------------------------------------------

BOOLEANS = [name for name, setting in SETTINGS.items() if setting.kind is kinds.BOOLEAN]
URLS = ["AWS_ENDPOINT_URL", "IMAGES_PUBLIC_URL"]
GOOD: dict[str, Sequence[tuple[Any, Any]]] = {
    "IMAGES_NOT_PLACEHOLDERS": [("", ""), *((text, text) for text in ("a" * 64, f"{'a' * 64}, {'B' * 64}"))],
    **dict.fromkeys(
        BOOLEANS,
        (
            *((value, True) for value in (True, 1, "1", "true", "True", "YES", " on ")),
            *((value, False) for value in (False, 0, "0", "false", "No", "off")),
        ),
    ),
    "AWS_S3_BUCKET": [(None, None), ("", None), *((name, name) for name in ("car-photos", "a.b-3", "abc", "a" * 63))],
    **dict.fromkeys(
        URLS,
        (
            *((f"{url}/", url) for url in ("https://img.example.is", "http://127.0.0.1:9000", "http://[::1]:9/cars")),
            *(("http://127.0.0.1:9000", "http://127.0.0.1:9000"), ("", None), (None, None)),
        ),
    ),
    "DATABASE_URL": [
        (url, url)
        for url in ("sqlite:///x.db", "postgres://u:p@h/d", "postgresql://h/d", "postgresql+psycopg://u@/d?host=%2Ftmp")
    ],
    "IMAGES_THUMBS": [
        *(("", {}), (None, {}), ({}, {})),
        ('{"small": [320, 240]}', {"small": (320, 240)}),
        ({"small": (320, 240), "big_2": [1, 2]}, {"small": (320, 240), "big_2": (1, 2)}),
    ],
    "S3_TAGS": [
        *((None, {}), ('{"project": "cars"}', {"project": "cars"}), ({"a": "b"}, {"a": "b"})),
        ({"þ +-=._:/@" * 10: "x" * 256}, {"þ +-=._:/@" * 10: "x" * 256}),
    ],
    "S3_PREFIX": [(None, ""), ("", ""), ("cars", "cars"), ("/þ x//y+z/", "/þ x//y+z/"), ("a..b/", "a..b/")],
    "S3_STORAGE_CLASS": [("", None), (None, None), ("STANDARD_IA", "STANDARD_IA"), ("cold-2", "cold-2")],
    "IMAGES_DOWNLOAD_DELAY": [(None, None), ("", None), ("0", 0.0), (0.1, 0.1)],
    "S3_MAX_PARALLEL_UPLOADS": [("1", 1), (64, 64), (" 8 ", 8)],
    "S3_UPLOAD_TIMEOUT": [("1", 1.0), ("2.5", 2.5)],
    "CRAWL_MIN_SHARE": [("0", 0.0), ("0.5", 0.5)],
    "IMAGES_PLACEHOLDER_CARS": [("0", 0), ("2", 2), (3, 3)],
    "AWS_S3_REGION": [("", None), *((region, region) for region in ("eu-north-1", "us-gov-west-1", "auto", "fsn1"))],
    "S3_ADDRESSING_STYLE": [(style, style) for style in ("auto", "path", "virtual")],
    "CLOUDFRONT_DISTRIBUTION_ID": [("", None), (None, None), ("E2QWRUHEXAMPLE", "E2QWRUHEXAMPLE")],
    "HENRY_URL": [
        *(("", None), (None, None), ("http://127.0.0.1:9000/", "http://127.0.0.1:9000")),
        ("https://feed.example.is/xml/get.aspx", "https://feed.example.is/xml/get.aspx"),
    ],
    "HENRY_API_KEY": [("", None), (None, None), ("5f-Ab_9+/=", Secret("5f-Ab_9+/=")), (Secret("k"), Secret("k"))],
    "LOG_FORMAT": [
        *((value, "json") for value in ("json", " JSON ")),
        ("%(levelname)s %(message)s", "%(levelname)s %(message)s"),
        ("", "%(message)s"),
    ],
    **dict.fromkeys(
        ("MONITOR_MAX_FAILED_PHOTOS", "MONITOR_MIN_STORED", "MONITOR_MAX_DROP"),
        (("", None), (None, None), ("0", 0.0), (0.05, 0.05), (1, 1.0)),
    ),
    "MONITOR_MIN_FILL": [
        *((value, {}) for value in ("", None, {}, "{}")),
        ('{"price": 0.8, "page.colour": 1}', {"price": 0.8, "page.colour": 1.0}),
        ({"readable": 0, "photo": 0.9, "page.photo": 0.5}, {"readable": 0.0, "photo": 0.9, "page.photo": 0.5}),
    ],
    "NOTIFY_URLS": [
        *((value, None) for value in ("", None, " , ")),
        (Secret("https://h/x"), Secret("https://h/x")),
        ("https://h/x,mailtos://u:p@h?to=a@x,b@x", Secret("https://h/x mailtos://u:p@h?to=a@x,b@x")),
        ("http://127.0.0.1:1/x,\n tgram://bot/chat", Secret("http://127.0.0.1:1/x tgram://bot/chat")),
    ],
    "MONITOR_IGNORE_FIELDS": [
        ("", ""),
        (None, ""),
        ("hekla, br.fuel bilasolur.page.colour", "hekla,br.fuel,bilasolur.page.colour"),
        ("hekla.photos_per_car", "hekla.photos_per_car"),
    ],
    "NOTIFY_ON": [
        ("", ""),
        (None, ""),
        ("Failed, success", "failed,success"),
        ("skipped interrupted", "skipped,interrupted"),
    ],
    "CHROMIUM_PATH": [("", None), (None, None), ("/usr/bin/chromium", "/usr/bin/chromium")],
    "WORKER_SCHEDULE": [
        ("", {}),
        (None, {}),
        ('{"bilasolur": "17 3,15 * * *"}', {"bilasolur": "17 3,15 * * *"}),
        ({"br": "*/5 * * * mon-fri"}, {"br": "*/5 * * * mon-fri"}),
    ],
    "S3_OUTPUT_BUCKET": [("car-outputs", "car-outputs"), ("", None), (None, None)],
    "S3_OUTPUT_PREFIX": [("", ""), (None, ""), ("outputs/", "outputs/"), ("/a/b=c", "/a/b=c"), ("a..b", "a..b")],
    "S3_OUTPUT_CLIENT": [("carscraper", "carscraper"), ("Garage 7: a/b@c", "Garage 7: a/b@c")],
    "S3_SSE": [
        ("", None),
        (None, None),
        *((value, value) for value in ("AES256", "aws:kms", "aws:kms:1234-abcd", "aws:kms:arn:aws:kms:x:1:key/a")),
    ],
}
BAD_URLS: Sequence[Any] = [
    *("img.example.is", "//img.example.is", "ftp://h", "http://", "https:///x", "http://h:0", "http://h:99999"),
    *("http://[::1", 5),
]
BAD: dict[str, Sequence[Any]] = {
    **dict.fromkeys(BOOLEANS, ("", None, "ja", "2", "tru", "***")),
    "IMAGES_NOT_PLACEHOLDERS": ["xyz", "a" * 63, f"{'a' * 64} {'b' * 64}"],
    "AWS_S3_BUCKET": [
        *("ab", "a" * 64, "My-Bucket", "my_bucket", "-ab", "ab-", "s3://bucket", "bucket/x", "bucket\n", "im..x"),
        *("192.168.1.1", "xn--abc"),
    ],
    "AWS_ENDPOINT_URL": [*BAD_URLS, "http://h/?x=1", "http://h?", "http://h/#x"],
    "IMAGES_PUBLIC_URL": BAD_URLS,
    "DATABASE_URL": [
        *(None, "", "sqlite://", "sqlite:///", "sqlite:///:memory:", "mysql://u:hunter2@h/d", "hunter2"),
        *("/var/x.db", "postgresql+psycopg2://u:hunter2@h/d"),
    ],
    "IMAGES_THUMBS": [
        *('{"small": [320]}', '{"small": 320}', '{"small": [0, 1]}', '{"small": ["1", "2"]}', '{"../x": [1, 2]}'),
        *("{", "[1]", "5", '{"": [1, 2]}', {"small": (1.5, 2)}, "small"),
    ],
    "S3_ADDRESSING_STYLE": ["host", "Path", "", None],
    "S3_TAGS": [
        *("{", "project=cars", "[1]", "5", '"ab"', {str(number): "x" for number in range(11)}, {"": "x"}, {"a": "b\n"}),
        *({"a" * 129: "x"}, {"a": "x" * 257}, {"aws:a": "x"}, {"a": "b&c"}, {"a": "<b>"}),
    ],
    "S3_PREFIX": ["../x", "a/../b", "./a", "..", "a\n", "a\0b", "a" * 701, "\ud800"],
    "S3_STORAGE_CLASS": ["standard ia", "GLACIER", "DEEP_ARCHIVE", "glacier", "A\n", "-x", "a/b"],
    "IMAGES_PLACEHOLDER_CARS": ["1", 1, "-1", "three"],
    "AWS_S3_REGION": [
        *("somewhere over the rainbow", "http://127.0.0.1/?", "EU North", "eu_north_1", "-eu", "eu-north-1\n"),
    ],
    "CLOUDFRONT_DISTRIBUTION_ID": ["e2qw", "d111111abcdef8.cloudfront.net", "E2QWRUHEXAMPLE\n", "E2 QWRUH", 5],
    "HENRY_URL": [
        *("feed.example.is", "ftp://h", "http://", "http://h:0", 5, "https://h/get.aspx?apikey=hunter2"),
        *("https://hunter2@h/", "https://h/#hunter2", "https://h/ hunter2", "h?hunter2"),
    ],
    "HENRY_API_KEY": ["hunter2 hunter2", "hunter2\n", "hunter2þ", "https://h/?apikey=hunter2", "apikey=hunter2"],
    "WORKER_SCHEDULE": [
        *("{", "[1]", "5", '{"br": "daily"}', '{"br": "1 2 3 4"}', '{"br": "1 2 3 4 5 6"}', '{"br": 5}'),
        *('{"br; rm": "1 2 3 4 5"}', '{"br": "1 2 3 4 5\\n"}', '{"br": ["1 2 3 4 5"]}', {"br": None}),
    ],
    "CHROMIUM_PATH": ["chromium", "./chromium", "~/chromium", "usr/bin/chromium", 5],
    "S3_OUTPUT_BUCKET": ["ab", "My-Bucket", "s3://bucket", "bucket\n"],
    "S3_OUTPUT_PREFIX": ["../x", "a/../b", "a/./b", "..", "a b", "þ/", "a\n", "a\\b", "a" * 701],
    "S3_OUTPUT_CLIENT": ["", None, "þór", "a\n", "a&b", "a" * 257],
    "LOG_FORMAT": ["jsn", "%(x)s", "%(message)", "%d", 5, "{message}"],
    **dict.fromkeys(
        ("MONITOR_MAX_FAILED_PHOTOS", "MONITOR_MIN_STORED", "MONITOR_MAX_DROP"), ("1.1", "-0.1", "5 %", "nan", "inf")
    ),
    "MONITOR_MIN_FILL": [
        *('{"prise": 0.8}', '{"price": 80}', '{"price": -0.1}', '{"price": "0.8"}', '{"price": true}'),
        *('{"price": null}', "price=0.8", "[1]", "5", '{"price": NaN}'),
    ],
    "MONITOR_IGNORE_FIELDS": ["hekle", "hekla.prise", "hekla.", "price", "backfill", "__init__", "hekla;br"],
    "NOTIFY_URLS": [
        *("hunter2", "https://h/x hunter2", "hunter2://", "://hunter2", "mailto:hunter2@h", "https:///hunter2"),
    ],
    "NOTIFY_ON": ["always", "failed,partly", "failed;partial"],
    "S3_SSE": ["aes256", "kms", "aws:kms:", "aws:kms:a b", "AES256\n", "true"],
    "FEEDS": ["{", "[1]", "5", 5],
    "DEPTH_LIMIT": ["3", 1, "", None],
    "LOG_LEVEL": ["LOUD", "", None],
    "IMAGES_DOWNLOAD_DELAY": ["-1", "nan", "slow", float("inf")],
}
TEXTS = {name for name, setting in SETTINGS.items() if setting.kind in (kinds.TEXT, kinds.OPTIONAL)}
NUMBERS = set(checks) - set(BAD) - TEXTS
BAD |= {name: ["", None, "many", "-1", "nan", "inf", "-inf", float("inf"), float("nan"), [], "1,5"] for name in NUMBERS}


def test_good_values() -> None:
    for name, pairs in GOOD.items():
        for value, expected in pairs:
            found = checks[name](value)
            assert found == expected, (name, value)
            assert type(found) is (Secret if name == "DATABASE_URL" else type(expected)), (name, value)


def test_bad_values_are_one_sentence_that_names_the_setting() -> None:
    for name, values in BAD.items():
        for value in values:
            with pytest.raises(ConfigurationError) as caught:
                pytest.fail(f"{name}={value!r} is read as {checks[name](value)!r}")
            sentence = str(caught.value)
            assert sentence.startswith(f"{name} "), sentence
            assert sentence.endswith("."), sentence
            assert "\n" not in sentence
            assert "hunter2" not in sentence
            assert "; write " in sentence, sentence


def test_whole_numbers() -> None:
    for name in NUMBERS:
        if isinstance(checks[name]("1"), int):
            with pytest.raises(ConfigurationError):
                pytest.fail(f"{name}=1.5 is read as {checks[name]('1.5')!r}")


def test_defaults_are_good() -> None:
    for name, setting in SETTINGS.items():
        assert setting.read(setting.default) == setting.default, name
        setting.read(setting.example.strip("'") or setting.default)


def test_a_setting_that_is_gone_says_what_to_use_wherever_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(REMOVED, "OLD_SETTING", "use NEW_SETTING instead")
    said = "OLD_SETTING{} is no setting any more: use NEW_SETTING instead."
    path = tmp_path / "my.env"
    path.write_text("OLD_SETTING=1\n")
    monkeypatch.setenv("CARSCRAPER_ENV_FILE", str(path))
    assert Environment().problems == [said.format(f" in {path}")]
    path.write_text("")
    monkeypatch.setenv("OLD_SETTING", "1")
    assert Environment().problems == [said.format(" in the environment")]
    settings = Settings({"OLD_SETTING": "1"}, priority="cmdline")
    settings.setmodule("carscraper.settings", priority="project")
    CarscraperAddon().update_settings(settings)
    assert settings["CARSCRAPER_PROBLEMS"] == [f"-s {said.format('')}"]
