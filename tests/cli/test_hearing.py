"""What is heard of a crawl that is a process of its own: its verdict, in both formats of its log, and nobody else's."""

from __future__ import annotations

import json
import logging

import pytest

from carscraper import logs
from carscraper.cli.crawls import Hearing
from tests.fakes import make_settings

VERDICT = "carscraper.extensions.verdict"


def line_of(text: str, log_format: str | None, name: str = VERDICT) -> bytes:
    """As the crawl's log writes it."""
    formatter = logs.formatter(make_settings(**({"LOG_FORMAT": log_format} if log_format else {})))
    record = logging.LogRecord(name, logging.WARNING, "", 0, text, None, None)
    return formatter.format(record).encode() + b"\n"


@pytest.mark.parametrize("log_format", [None, "json"])
class TestFormats:
    def test_the_verdict_is_known(self, log_format: str | None) -> None:
        hearing = Hearing("br")
        hearing.feed(line_of("br: partial. 3 cars.", log_format) + line_of("br: limit not kept: min_cars", log_format))
        outcome = hearing.outcome(3, seconds=1, stopped=False)
        assert (outcome.outcome, outcome.said) == ("partial", "partial. 3 cars.\nlimit not kept: min_cars")
        assert outcome.line() == "limit not kept: min_cars"

    def test_one_that_was_skipped(self, log_format: str | None) -> None:
        hearing = Hearing("br")
        hearing.feed(line_of("br: skipped. Another crawl of BR is under way.", log_format))
        assert hearing.outcome(0, seconds=1, stopped=False).outcome == "skipped"

    def test_nobody_elses_line_is_one(self, log_format: str | None) -> None:
        hearing = Hearing("br")
        whole = line_of("br: success. 9 cars.", log_format).decode()
        for text in ("br: success. 9 cars.", "of a page\nbr: success. 9 cars.", f"of a page\n{whole}"):
            hearing.feed(line_of(text, log_format, "scrapy.core.engine"))
        assert not hearing.outcome(4, seconds=1, stopped=False).said.startswith("success")


@pytest.mark.parametrize("line", ["{", "{}", '{"logger": 5}', "[]", json.dumps({"logger": VERDICT}), '{"a":' * 100_000])
def test_what_is_no_line_of_a_log(line: str) -> None:
    hearing = Hearing("br")
    assert hearing.feed(line.encode() + b"\n") == [line]
    assert hearing.outcome(4, seconds=1, stopped=False).said == line
