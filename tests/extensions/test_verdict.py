"""The verdict: exit codes and last lines."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from scrapy import Spider

from carscraper.extensions.verdict import announce, judge
from carscraper.state import CrawlState, ExitCode, state_of
from tests.fakes import make_crawler

SUCCESS, PARTIAL, FAILED = ExitCode

KEPT = {
    "carscraper/cars/saved": 12,
    "carscraper/cars/new": 2,
    "carscraper/cars/gone": 1,
    "carscraper/images/stored": 30,
    "carscraper/images/bytes": 6_450_000,
    "carscraper/images/linked": 3,
    "carscraper/images/known": 100,
}
SENTENCE = "12 cars (2 new, 1 gone); 30 photos stored (6.5 MB), 3 linked, 100 known before."


def test_what_is_kept_and_what_is_not() -> None:
    assert judge(KEPT, CrawlState(closed="finished"), "bilasolur") == (SUCCESS, [f"bilasolur: success. {SENTENCE}"])
    assert judge({}, CrawlState(), "x")[0] == SUCCESS
    cases: list[tuple[dict[str, Any], str]] = [
        ({"carscraper/images/failed/http-404": 1}, "1 photo failed (1 http-404)"),
        (
            {"carscraper/images/failed/http-404": 2, "carscraper/images/failed/truncated": 5},
            "7 photos failed (5 truncated, 2 http-404)",
        ),
        ({"carscraper/images/pending": 4}, "4 photos not fetched"),
        ({"carscraper/spool/added": 5, "carscraper/spool/uploaded": 3}, "2 photos in the spool"),
        ({"carscraper/cars/failed": 1}, "1 car not written"),
        ({"carscraper/cars/spooled": 3}, "3 cars in the spool"),
        ({"carscraper/cards/failed": 1}, "1 card unreadable"),
        ({"carscraper/details/failed": 2}, "2 details pages"),
        ({"carscraper/pages/failed": 1}, "1 result page missing"),
        ({"carscraper/pages/capped": 1}, "CRAWL_MAX_PAGES"),
        ({"spider_exceptions/count": 1}, "1 mistake of the spider"),
    ]
    for stats, words in cases:
        for why, expected in ((None, PARTIAL), ("No form.", FAILED)):
            code, lines = judge({**KEPT, **stats}, CrawlState(failed=why, closed="finished"), "bilasolur")
            assert code == expected, stats
            assert lines[-1].startswith("bilasolur: not kept: "), stats
            assert words in lines[-1], stats
            assert SENTENCE[:-1].partition(";")[0] in " ".join(lines), stats


def test_what_came_right_or_is_no_loss_is_no_trouble() -> None:
    for stats in (
        {"carscraper/spool/added": 5, "carscraper/spool/uploaded": 5},
        {"carscraper/spool/uploaded": 5},
        {"carscraper/images/failed/http-404": 0},
        {"carscraper/details/gone": 3},
        {"carscraper/implausible/price": 3},
        {"retry/count": 9, "downloader/exception_count": 9},
    ):
        assert judge({**KEPT, **stats}, CrawlState(closed="finished"), "x")[0] == SUCCESS, stats


def test_how_it_ended() -> None:
    state = CrawlState(failed="AWS_S3_BUCKET is missing.", closed="configuration")
    assert judge({}, state, "bilasolur") == (FAILED, ["bilasolur: failed. AWS_S3_BUCKET is missing."])
    for reason in ("cancelled", "closespider_timeout", "site", "x"):
        code, lines = judge(KEPT, CrawlState(closed=reason), "bilasolur")
        assert code == FAILED
        assert reason in lines[0]
    code, lines = judge(KEPT, CrawlState(closed="shutdown"), "bilasolur")
    assert code == PARTIAL
    assert lines[-1] == "bilasolur: stopped on request; the same command goes on where this one ended."
    state = CrawlState(skipped="Another crawl is under way.", closed="skipped")
    assert judge({}, state, "bilasolur") == (SUCCESS, ["bilasolur: skipped. Another crawl is under way."])


def test_a_limit_that_is_not_kept_is_partial_and_said() -> None:
    limits = ["min_cars: 12 cars, at least 50 are expected", "x: y"]
    code, lines = judge(KEPT, CrawlState(limits=limits, closed="finished"), "bilasolur")
    assert code == PARTIAL
    assert lines == [
        f"bilasolur: partial. {SENTENCE}",
        "bilasolur: limit not kept: min_cars: 12 cars, at least 50 are expected",
        "bilasolur: limit not kept: x: y",
    ]
    assert judge(KEPT, CrawlState(limits=limits, failed="No form."), "x")[0] == FAILED


class BilasolurSpider(Spider):
    name = "bilasolur"


def end(stats: dict[str, Any], reason: str = "finished", failed: str | None = None, **settings: Any) -> Any:
    """A crawl that ended with *stats* has its verdict; returns its crawler."""
    crawler = make_crawler(BilasolurSpider, **settings)
    state = state_of(crawler)
    state.closed, state.failed = reason, failed
    announce(crawler, *judge(stats, state, "bilasolur"))
    return crawler


def test_code_and_log(caplog: pytest.LogCaptureFixture) -> None:
    cases: list[tuple[dict[str, Any], str, str | None, ExitCode, int]] = [
        (KEPT, "finished", None, SUCCESS, logging.INFO),
        ({**KEPT, "carscraper/images/failed/http-404": 1}, "finished", None, PARTIAL, logging.WARNING),
        (KEPT, "shutdown", None, PARTIAL, logging.WARNING),
        ({}, "site", "No form.", FAILED, logging.ERROR),
    ]
    for stats, reason, failed, code, level in cases:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            crawler = end(stats, reason, failed)
        assert state_of(crawler).exit_code is code
        ours = [record for record in caplog.records if record.name == "carscraper.extensions.verdict"]
        assert {record.levelno for record in ours} == {level}
        assert ours[0].message.startswith("bilasolur: ")


def test_what_is_said_behind_the_verdict_makes_it_worse_never_better() -> None:
    crawler = end({**KEPT, "carscraper/images/failed/http-404": 1})
    announce(crawler, SUCCESS, ["bilasolur: more"])
    assert state_of(crawler).exit_code is PARTIAL


def test_a_log_that_hides_the_verdict_does_not_hide_it(capsys: pytest.CaptureFixture[str]) -> None:
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"LOG_LEVEL": "INFO"}, False),
        ({"LOG_LEVEL": "WARNING"}, True),
        ({"LOG_LEVEL": "error"}, True),
        ({"LOG_LEVEL": 40}, True),
        ({"LOG_LEVEL": 10}, False),
        ({"LOG_ENABLED": False}, True),
        ({"LOG_FILE": "crawl.log"}, True),
    ]
    for settings, shown in cases:
        end(KEPT, **settings)
        captured = capsys.readouterr()
        assert ("bilasolur: success." in captured.err) is shown, settings
        assert captured.out == ""
