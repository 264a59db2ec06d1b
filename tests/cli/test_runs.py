"""``scrapy runs``: lists, one run, two runs side by side."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from carscraper.db import runs, schema
from carscraper.db.engine import open_engine
from carscraper.db.locks import open_locks
from carscraper.db.models import CrawlRun
from carscraper.runs.record import RunRecord
from tests import services
from tests.commands import Said, call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START = datetime(2026, 11, 21, 7, 0, 0)  # noqa: DTZ001 - as the tables hold it

RECORDS = [
    RunRecord(
        spider="bilasolur",
        source="Bilasolur",
        job_id="first",
        arguments={"makes": "Kia"},
        settings={"CRAWL_LOCK": False},
        version="0.1.0",
        host="one",
        pid=11,
        started_at=START,
        finished_at=START + timedelta(hours=1, seconds=5),
        status="partial",
        exit_code=3,
        why="partial. 90 cars; \x1b[31mred\nnot kept: 2 photos failed (2 http-404).\nlimit not kept: min_cars: 90 cars",
        cars_new=10,
        cars_unchanged=80,
        images_stored=300,
        images_failed={"http-404": 2},
        images_for_sale=300,
        images_for_sale_stored=240,
        images_unstored={"http-404": 58, "deleted": 2},
        bytes=64_500_000,
        requests=500,
        safe_p50=0.25,
        safe_p95=1.5,
        monitors=[{"name": "min_cars", "passed": False, "said": "90 cars, at least 100 are expected"}],
        output={"enabled": True, "status": "failed", "errors": ["away"], "s3Urls": []},
    ),
    RunRecord(
        spider="bilasolur",
        source="Bilasolur",
        job_id="second",
        version="0.1.0",
        host="two",
        started_at=START + timedelta(days=1),
        status="success",
        complete=True,
        exit_code=0,
        cars_unchanged=120,
        images_failed={"timeout": 1},
        requests=40,
        safe_p50=0.5,
    ),
    RunRecord(spider="hekla", source="Hekla", job_id="third", started_at=START + timedelta(days=2)),
]


@pytest.fixture
def scrapy_runs(sqlite_url: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Said]]:
    """``scrapy runs`` in this process."""

    def run(*words: object, code: int = 0) -> Said:
        return call("runs", *words, settings={"DATABASE_URL": sqlite_url}, capsys=capsys, code=code)

    return run


@pytest.fixture
def three(sqlite_url: str) -> Iterator[list[int]]:
    """The ids of the runs above; the last one is under way."""
    engine = open_engine(sqlite_url, timeout=10)
    schema.ensure(engine)
    locks = open_locks(sqlite_url, timeout=10)
    with engine.begin() as connection:
        ids = [runs.start(connection, asdict(each)) for each in RECORDS]
        assert locks.take("Hekla")
    yield ids
    locks.close()
    engine.dispose()


def test_list(scrapy_runs: Callable[..., Said], three: list[int]) -> None:
    lines = scrapy_runs("list").out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        [str(three[2]), "hekla"],
        ["2", "bilasolur"],
        ["1", "bilasolur"],
    ]
    assert lines[3].split()[:14] == (
        [
            "1",
            "bilasolur",
            "2026-11-21",
            "07:00:00",
            "1:00:05",
            "partial",
            "90",
            "10",
            "300",
            "2",
            "64.5",
            "MB",
            "240/300",
            "first",
        ]
    )
    assert lines[3].endswith("  not kept: 2 photos failed (2 http-404).; limit not kept: min_cars: 90 cars")
    assert lines[1].split()[4:6] == ["-", "running"]
    assert scrapy_runs().out.splitlines() == lines, "without a verb it lists"
    assert [each["job_id"] for each in scrapy_runs("--json").data] == ["third", "second", "first"]
    found = scrapy_runs("list", "--json", "--spider", "bilasolur", "--limit", 1).data
    assert [each["job_id"] for each in found] == ["second"]
    assert found[0]["started_at"] == "2026-11-22T07:00:00"
    assert [each["id"] for each in scrapy_runs("list", "--json", "--status", "partial").data] == [1]


def test_a_run_that_died_is_interrupted(scrapy_runs: Callable[..., Said], three: list[int], sqlite_url: str) -> None:
    engine = open_engine(sqlite_url, timeout=10)
    with engine.begin() as connection:
        dead = runs.start(connection, asdict(RECORDS[2]) | {"source": "BR", "spider": "br"})
    engine.dispose()
    found = {each["id"]: each["status"] for each in scrapy_runs("--json").data}
    assert found == {dead: "interrupted", three[2]: "running", 2: "success", 1: "partial"}
    assert "status" in scrapy_runs("show", dead).out
    assert open_locks(sqlite_url, timeout=1).take("BR"), "who looks keeps no lock"


@pytest.mark.parametrize("run", ["1", "first"])
def test_show(scrapy_runs: Callable[..., Said], three: list[int], run: str) -> None:
    lines = scrapy_runs("show", run).out.splitlines()
    shown = dict(line.split(None, 1) for line in lines)
    assert shown["why"] == r"partial. 90 cars; \x1b[31mred"
    why = next(number for number, line in enumerate(lines) if line.startswith("why "))
    rest = [line for line in lines[why + 1 : why + 3] if line.startswith("   ")]
    assert [line.strip() for line in rest] == [
        "not kept: 2 photos failed (2 http-404).",
        "limit not kept: min_cars: 90 cars",
    ]
    assert (shown["images_for_sale"], shown["images_unstored.http-404"]) == ("300", "58")
    expected = {
        "arguments.makes": "Kia",
        "settings.CRAWL_LOCK": "no",
        "took": "1:00:05",
        "cars": "90",
        "images_failed.http-404": "2",
        "bytes": "64500000 (64.5 MB)",
        "safe_p50": "0.25 s",
        "monitors.min_cars": "not kept: 90 cars, at least 100 are expected",
        "output.errors": '["away"]',
        "started_at": "2026-11-21 07:00:00 UTC",
    }
    assert {name: shown[name] for name in expected} == expected
    names = {name.partition(".")[0] for name in shown}
    assert names >= set(asdict(RECORDS[0])), "everything"
    data = scrapy_runs("show", run, "--json").data
    assert RunRecord(**data).images_failed == {"http-404": 2}


def test_compare(scrapy_runs: Callable[..., Said], three: list[int]) -> None:
    rows = {}
    for line in scrapy_runs("compare", 1, "second").out.splitlines()[1:]:
        name, *cells = [cell.strip() for cell in line.split("  ") if cell.strip()]
        rows[name] = cells
    assert rows["spider"] == ["bilasolur", "bilasolur"]
    assert rows["cars"] == ["90", "120", "+30"]
    assert rows["requests"] == ["500", "40", "-460"]
    assert rows["safe_p50"] == ["0.25 s", "0.5 s", "+0.25"]
    assert rows["status"] == ["partial", "success", "differs"]
    assert rows["images_failed.http-404"] == ["2", "-", "-2"]
    assert rows["images_failed.timeout"] == ["-", "1", "+1"]
    assert rows["arguments.makes"] == ["Kia", "-", "differs"]
    data = scrapy_runs("compare", 1, 2, "--json").data
    assert data["differences"]["requests"] == [500, 40]
    assert "spider" not in data["differences"]
    assert data["b"]["job_id"] == "second"


def test_what_is_not_there_is_a_sentence(scrapy_runs: Callable[..., Said], sqlite_url: str, tmp_path: Path) -> None:
    said = scrapy_runs("list", code=4)
    assert said.err == "There is no database at DATABASE_URL yet: run a crawl first.\n"
    assert not list(tmp_path.iterdir()), "and none is made"
    engine = open_engine(sqlite_url, timeout=10)
    schema.ensure(engine)
    engine.dispose()
    assert scrapy_runs("list").out == "There is no run yet.\n"
    assert scrapy_runs("list", "--json").data == []
    said = scrapy_runs("list", "--spider", "x\n", "--status", "failed")
    assert said.out == "There is no run of x\\n whose status is failed yet.\n"
    for words in (["show", "7"], ["compare", "7", "8"], ["show", "no\x1bsuch"]):
        said = scrapy_runs(*words, code=4)
        assert said.out == ""
        assert said.err.startswith(f"There is no run {words[1]!r}; ")
        assert said.err.count("\n") == 1


def test_the_program_itself(tmp_path: Path, sqlite_url: str, three: list[int]) -> None:
    env = {"DATABASE_URL": sqlite_url}
    done = services.run_scrapy("runs", "--json", cwd=tmp_path, env=env, alone=False)
    assert done.returncode == 0, done
    assert len(json.loads(done.stdout)) == 3
    outcomes: list[Any] = [
        (services.run_scrapy("runs", *words, cwd=tmp_path, env=env, alone=False), code)
        for words, code in ((["list", "--limit", "0"], 2), (["show"], 2), (["frobnicate"], 2), (["show", "99"], 4))
    ]
    for done, code in outcomes:
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr, done


def test_list_since(scrapy_runs: Callable[..., Said], three: list[int]) -> None:
    cases = {
        "2026-11-22": ["third", "second"],
        "2026-11-22T07:00": ["third", "second"],
        "2026-11-22T07:00:01": ["third"],
        "2026-11-22T09:00+02:00": ["third", "second"],
        "2000d": ["third", "second", "first"],
    }
    for since, ids in cases.items():
        found = scrapy_runs("list", "--json", "--since", since).data
        assert [each["job_id"] for each in found] == ids, since


def test_list_since_a_moment_ago(scrapy_runs: Callable[..., Said], three: list[int], sqlite_url: str) -> None:
    engine = open_engine(sqlite_url, timeout=10)
    now = datetime.now(UTC).replace(tzinfo=None)
    with engine.begin() as connection:
        connection.execute(update(CrawlRun).values(started_at=now - timedelta(days=8)))
        new = runs.start(connection, asdict(RECORDS[1]) | {"started_at": now - timedelta(days=6)})
    engine.dispose()
    assert [each["id"] for each in scrapy_runs("list", "--json", "--since", "7d").data] == [new]
    assert "There is no run since" in scrapy_runs("list", "--since", "1h").out
    wrong = scrapy_runs("list", "--since", "yesterday", code=2)
    assert "write 2026-11-30, 2026-11-30T06:00, 12h or 7d" in wrong.err


def test_latest(scrapy_runs: Callable[..., Said], three: list[int], sqlite_url: str) -> None:
    assert scrapy_runs("show", "latest", "--json").data["job_id"] == "third"
    assert scrapy_runs("compare", "2", "latest", "--json").data["b"]["job_id"] == "third"


def test_latest_of_none(scrapy_runs: Callable[..., Said], sqlite_url: str) -> None:
    engine = open_engine(sqlite_url, timeout=10)
    schema.ensure(engine)
    engine.dispose()
    assert "There is no run yet." in scrapy_runs("show", "latest", code=4).err
