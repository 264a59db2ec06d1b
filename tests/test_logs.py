"""The log's two formats, and that nobody can forge a line of either; tests/crawl/test_monitoring.py has real ones."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from scrapy.settings.default_settings import LOG_FORMAT

from carscraper import logs
from carscraper.addon import CarscraperAddon
from tests.fakes import make_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scrapy.settings import Settings

HOSTILE = (
    "x\n2026-11-21 10:00:00 [carscraper.extensions.verdict] INFO: bilasolur: success. 9 cars.\r\n"
    '{"level": "INFO", "message": "forged"}\x85\u2028\u2029\x0b\x0c\x1b[31m\x00\ud800 þ\t"'
)
JSON = {"LOG_FORMAT": "json"}
KEYS = ["timestamp", "level", "logger", "message"]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    level = logging.root.level
    yield
    logs.uninstall()
    logs.identify(spider=None, job=None, run=None)
    logging.root.setLevel(level)


def record(message: Any, *arguments: Any, **fields: Any) -> logging.LogRecord:
    found = logging.LogRecord("a.b", logging.WARNING, "x.py", 1, message, arguments, fields.pop("exc_info", None))
    found.__dict__.update(fields)
    return found


def parsed(text: str) -> dict[str, Any]:
    assert text.isascii()
    assert text.isprintable()
    found: dict[str, Any] = json.loads(text)
    return found


def error_with(text: str) -> Any:
    try:
        int(text)
    except ValueError as error:
        error.args = (text,)
        return sys.exc_info()
    return None


class TestPlain:
    def test_an_ordinary_line_is_as_scrapy_writes_it(self) -> None:
        formatter = logs.formatter(make_settings())
        assert formatter.format(record("%d þ cars", 3))[19:] == " [a.b] WARNING: 3 þ cars"
        assert make_settings()["LOG_FORMAT"] == LOG_FORMAT

    @pytest.mark.parametrize("how", ["message", "argument", "exception", "logger"])
    def test_one_record_begins_one_line(self, how: str) -> None:
        made = {
            "message": lambda: record(HOSTILE),
            "argument": lambda: record("of %s", HOSTILE),
            "exception": lambda: record("x", exc_info=error_with(HOSTILE)),
            "logger": lambda: record("x", name=HOSTILE),
        }[how]()
        text = logs.formatter(make_settings()).format(made)
        text.encode()
        lines = text.splitlines()
        assert all(line.isprintable() for line in lines)
        assert all(line.startswith("    ") for line in lines[1:])
        assert "success. 9 cars" in text

    def test_another_format(self) -> None:
        settings = make_settings(LOG_FORMAT="%(levelname)s|%(message)s")
        assert logs.formatter(settings).format(record("a\nb")) == "WARNING|a\n    b"

    @pytest.mark.parametrize("wrong", ["jsn", "%(x)s", "%d"])
    def test_a_wrong_format_ends_the_crawl_and_not_the_log(self, wrong: str) -> None:
        settings = make_settings(LOG_FORMAT=wrong)
        assert settings["CARSCRAPER_PROBLEMS"][0].startswith(f"LOG_FORMAT is {wrong!r}")
        settings.set("LOG_FORMAT", wrong, priority="cmdline")
        assert "[a.b] WARNING: x" in logs.formatter(settings).format(record("x"))


class TestJson:
    def test_the_fields(self) -> None:
        made = record("%d þ cars", 3, created=datetime(2026, 11, 21, 10, 0, 0, 123_000, UTC).timestamp())
        assert parsed(logs.formatter(make_settings(**JSON)).format(made)) == {
            "timestamp": "2026-11-21T10:00:00.123+00:00",
            "level": "WARNING",
            "logger": "a.b",
            "message": "3 þ cars",
        }

    def test_whose_log_it_is(self) -> None:
        formatter = logs.formatter(make_settings(**JSON))
        logs.identify(spider="bilasolur", job="abc")
        logs.identify(run=7)
        found = parsed(formatter.format(record("x")))
        assert list(found) == [*KEYS, "spider", "job", "run"]
        assert (found["spider"], found["job"], found["run"]) == ("bilasolur", "abc", 7)
        # Several crawls in one process: Scrapy says whose the line is.
        other = record("x", spider=SimpleNamespace(name="br"))
        assert parsed(formatter.format(other))["spider"] == "br"
        logs.identify(job=None, run=None)
        assert list(parsed(formatter.format(record("x")))) == [*KEYS, "spider"]

    def test_nothing_else_that_was_attached(self) -> None:
        made = record("x", password="hunter2", crawler=object(), level="forged", spider=object())
        assert list(parsed(logs.formatter(make_settings(**JSON)).format(made))) == KEYS

    @pytest.mark.parametrize("message", [HOSTILE, {"level": "forged", HOSTILE: HOSTILE}, ["x"], 5, None, ""])
    def test_any_message_is_one_line(self, message: Any) -> None:
        found = parsed(logs.formatter(make_settings(**JSON)).format(record(message)))
        assert list(found) == KEYS
        assert found["message"] == str(message)
        assert found["level"] == "WARNING"

    def test_an_exception(self) -> None:
        found = parsed(logs.formatter(make_settings(**JSON)).format(record("x", exc_info=error_with(HOSTILE))))
        assert list(found) == [*KEYS, "exception"]
        assert found["exception"].startswith("Traceback (most recent call last):")
        assert "ValueError: x" in found["exception"]


class TestSay:
    def test_plain(self, capsys: pytest.CaptureFixture[str]) -> None:
        logs.say(make_settings(), "x: success.\nforged\x1b[0m", name="a.b")
        assert capsys.readouterr().err == "x: success.\\nforged\\x1b[0m\n"

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        logs.say(make_settings(**JSON), "100 % þ\nforged", name="a.b", level=logging.ERROR)
        (line,) = capsys.readouterr().err.splitlines()
        found = parsed(line)
        assert (found["level"], found["logger"], found["message"]) == ("ERROR", "a.b", "100 % þ\nforged")


class TestInstall:
    """As Scrapy calls it: before the first line, and again when the spider's own settings are known."""

    @staticmethod
    def installed() -> logging.Handler:
        (found,) = (each for each in logging.root.handlers if isinstance(each.formatter, logs.PlainFormatter))
        return found

    def start(self, **changes: Any) -> Settings:
        settings = make_settings(**changes)
        CarscraperAddon.update_pre_crawler_settings(settings)
        return settings

    def test_scrapys_own_handler_is_not_wanted(self) -> None:
        settings = self.start()
        assert settings.getbool("LOG_INSTALL_ROOT_HANDLER") is False
        assert isinstance(self.installed(), logging.StreamHandler)

    def test_who_wants_no_handler_gets_none(self) -> None:
        before = list(logging.root.handlers)
        self.start(LOG_INSTALL_ROOT_HANDLER=False)
        assert logging.root.handlers == before

    def test_logging_switched_off(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.start(LOG_ENABLED=False)
        assert isinstance(self.installed(), logging.NullHandler)
        logging.getLogger("a.b").error("x")
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("append", [True, False])
    def test_a_file(self, tmp_path: Path, append: bool) -> None:
        path = tmp_path / "log"
        path.write_text("before\n")
        settings = self.start(LOG_FILE=str(path), LOG_FILE_APPEND=append, LOG_LEVEL="WARNING", LOG_SHORT_NAMES=True)
        CarscraperAddon("bilasolur").update_settings(settings)
        logging.getLogger("scrapy.core.engine").info("too quiet")
        logging.getLogger("scrapy.core.engine").warning("þ")
        (*head, last) = path.read_text("utf-8").splitlines()
        assert head == (["before"] if append else [])
        assert last[19:] == " [scrapy] WARNING: þ"

    def test_the_spiders_own_settings_count(self, tmp_path: Path) -> None:
        settings = self.start(LOG_LEVEL="INFO")
        first = self.installed()
        CarscraperAddon("bilasolur").update_settings(settings)
        assert self.installed() is first
        settings.set("LOG_FILE", str(tmp_path / "log"), priority="cmdline")
        CarscraperAddon("bilasolur").update_settings(settings)
        assert first not in logging.root.handlers
        assert isinstance(self.installed(), logging.FileHandler)

    @pytest.mark.parametrize("name", ["", "a-file/log"])
    def test_a_file_that_cannot_be_written_ends_the_crawl_with_a_sentence(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "a-file").touch()
        path = str(tmp_path / name)
        settings = self.start(LOG_FILE=path)
        CarscraperAddon("bilasolur").update_settings(settings)
        assert settings["CARSCRAPER_PROBLEMS"][0].startswith(f"LOG_FILE is {path!r}, which can't be written (")
        assert isinstance(self.installed(), logging.StreamHandler)
        assert not isinstance(self.installed(), logging.FileHandler)

    @pytest.mark.parametrize("wrong", [{"LOG_LEVEL": "loud"}, {"LOG_FORMAT": "%(x)s"}, {"LOG_ENCODING": "nope"}])
    def test_a_wrong_value_leaves_a_log(self, tmp_path: Path, wrong: dict[str, str]) -> None:
        settings = make_settings()
        settings.setdict({"LOG_FILE": str(tmp_path / "log"), **wrong}, priority="cmdline")
        CarscraperAddon.update_pre_crawler_settings(settings)
        assert self.installed().level == (logging.DEBUG if "LOG_LEVEL" in wrong else logging.INFO)
        CarscraperAddon("bilasolur").update_settings(settings)
        assert len(settings["CARSCRAPER_PROBLEMS"]) == 1
