"""``scrapy crawlall``: every dealer's crawl a process of its own, whose end touches no other."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from carscraper.command import checked
from carscraper.commands import crawlall
from carscraper.commands.crawlall import report
from carscraper.db import runs, schema
from carscraper.db.engine import open_engine
from carscraper.dealers import choose, distribute
from carscraper.exceptions import ConfigurationError
from carscraper.runs.process import Crawl, CrawlOutcome, Processes, exit_code
from carscraper.runs.record import RunRecord
from tests import services
from tests.cli.used_cars import UsedCars
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.fakes import make_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMPOLITE = {"DOWNLOAD_DELAY": 0, "AUTOTHROTTLE_ENABLED": "false", "RETRY_BACKOFF": 0.05, "RETRY_TIMES": 1}


@pytest.fixture
def hekla() -> Iterator[UsedCars]:
    with UsedCars(cars=3) as site:
        yield site


@pytest.fixture
def bilasolur() -> Iterator[SimulatedBilasolur]:
    with SimulatedBilasolur(cars=6, photos=4, photo_bytes_average=12_000) as site:
        yield site
    assert site.errors == []


def outcomes_of(done: services.CompletedCrawl) -> dict[str, dict[str, Any]]:
    return {each["dealer"]: each for each in json.loads(done.stdout)["dealers"]}


# --- real crawls ------------------------------------------------------------------------------------------------


def test_each_dealer_has_its_outcome_and_its_log(
    tmp_path: Path, sqlite_url: str, bilasolur: SimulatedBilasolur, hekla: UsedCars
) -> None:
    nowhere = f"http://127.0.0.1:{services.free_port()}"
    done = services.run_scrapy(
        *("crawlall", "--sources", "brimborg,Bilasolur,hekla", "--json", "--logfile", "logs.txt"),
        *("-a", f"brimborg.base_url={nowhere}", "-a", f"hekla.base_url={hekla.base_url}"),
        *("-a", f"bilasolur.base_url={bilasolur.base_url}", "-a", "limit=4", "-a", "bilasolur.limit=2"),
        cwd=tmp_path,
        env={"DATABASE_URL": sqlite_url},
        settings=IMPOLITE,
    )
    assert done.returncode == 3, done
    assert "Traceback" not in done.stderr, done
    assert "\033" not in done.stderr, "it is no terminal"
    found = outcomes_of(done)
    ended = {name: (each["outcome"], each["code"]) for name, each in found.items()}
    assert ended == {"brimborg": ("failed", 4), "bilasolur": ("success", 0), "hekla": ("partial", 3)}
    assert f"{nowhere}/is can't be reached" in found["brimborg"]["said"]
    assert found["bilasolur"]["said"].startswith("success. 2 cars (2 new, 0 gone); 8 photos stored")
    assert found["hekla"]["said"].splitlines()[0].startswith("partial. 3 cars (3 new, 0 gone); 0 photos stored")
    assert found["hekla"]["said"].splitlines()[1] == "not kept: 3 photos failed (3 http-404)."
    for name in found:
        log = (tmp_path / f"logs.{name}.txt").read_text("utf-8")
        others = set(found) - {name}
        assert f"{name}: {ended[name][0]}. " in log
        assert not [other for other in others if f"{other}: " in log], "one log, one crawl"
        line = rf"^{name}: {ended[name][0]} \(exit code {ended[name][1]}, \d+ s\)\. "
        assert re.search(line, done.stderr, re.MULTILINE)
    assert not (tmp_path / "logs.txt").exists()
    engine = sqlalchemy.create_engine(sqlite_url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text("SELECT source, count(*) FROM car_listings GROUP BY 1 ORDER BY 1"))
        assert rows.all() == [("Bilasolur", 2), ("Hekla", 3)]


def test_nothing_is_started_for_an_unknown_name(tmp_path: Path, sqlite_url: str) -> None:
    done = services.run_scrapy(
        "crawlall", "--sources", "bilasolur,helka", cwd=tmp_path, env={"DATABASE_URL": sqlite_url}, alone=False
    )
    assert (done.returncode, done.stdout) == (4, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("--sources names helka, which is no dealer here; known are ")
    assert "bilasolur" in sentence
    assert "hekla" in sentence
    assert "backfill" not in sentence
    assert not Path(sqlite_url.removeprefix("sqlite:///")).exists()


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    """Whether the process runs; one that ended and waits for its parent does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    return False


@pytest.fixture
def start(
    tmp_path: Path, sqlite_url: str, bilasolur: SimulatedBilasolur, hekla: UsedCars
) -> Iterator[Callable[[], services.RunningCrawl]]:
    """Starts crawlall at two slow dealers, of three; ready when photos of the first are asked for."""
    bilasolur.photo_latency = 0.8
    hekla.latency = 4
    with contextlib.ExitStack() as stack:

        def begin() -> services.RunningCrawl:
            running = stack.enter_context(
                services.start_scrapy(
                    *("crawlall", "--sources", "bilasolur,hekla,brimborg", "--json"),
                    *("-a", f"hekla.base_url={hekla.base_url}", "-a", f"bilasolur.base_url={bilasolur.base_url}"),
                    *("-a", "brimborg.base_url=http://127.0.0.1:1"),
                    cwd=tmp_path,
                    env={"DATABASE_URL": sqlite_url},
                    settings=IMPOLITE | {"IMAGES_CONCURRENCY": 2, "IMAGES_MAX_IN_FLIGHT": 2},
                )
            )
            services.wait_until(
                lambda: (bilasolur.served.counts["photo"] > 2 and "hekla | " in running.log) or not running.running, 90
            )
            assert running.running, running.wait()
            return running

        yield begin


def test_one_signal_lets_each_crawl_finish_what_it_has_in_hand(
    start: Callable[[], services.RunningCrawl], bilasolur: SimulatedBilasolur, hekla: UsedCars
) -> None:
    running = start()
    children = children_of(running.pid)
    hekla.latency = 0.1
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    done = running.wait(90)
    found = outcomes_of(done)
    assert (found["bilasolur"]["outcome"], found["bilasolur"]["code"]) == ("partial", 3), done
    assert "stopped on request; the same command goes on" in found["bilasolur"]["said"]
    assert "photos not fetched" in found["bilasolur"]["said"]
    assert (found["brimborg"]["outcome"], found["brimborg"]["code"]) == ("not started", None)
    assert len(children) == 2
    assert not any(lives(child) for child in children)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr, done
    assert 2 < bilasolur.served.counts["photo"] < 24


def test_a_second_signal_ends_them_at_once(
    start: Callable[[], services.RunningCrawl], bilasolur: SimulatedBilasolur
) -> None:
    running = start()
    bilasolur.fault("photo", ["never"], sticky=True)
    running.terminate()
    running.wait_for_log(r"bilasolur \| .*Received SIGTERM")
    running.wait_for_log(r"hekla \| .*Received SIGTERM")
    time.sleep(0.5)
    assert running.running, "the first signal waits for what is in flight"
    began = time.monotonic()
    running.terminate()
    done = running.wait(20)
    assert time.monotonic() - began < 6, done
    assert done.returncode in {3, 4}, done
    assert {each["outcome"] for each in outcomes_of(done).values()} <= {"partial", "failed", "not started"}


def test_no_crawl_outlives_a_killed_parent(start: Callable[[], services.RunningCrawl]) -> None:
    running = start()
    children = children_of(running.pid)
    assert len(children) == 2
    assert all(lives(child) for child in children)
    running.kill()
    assert running.wait(10).returncode == -9
    services.wait_until(lambda: not any(lives(child) for child in children), 5, "the crawls to end")


# --- the processes, with others than crawls -----------------------------------------------------------------------


class Program(Crawl):
    """A Python program in a crawl's place."""

    @property
    def command(self) -> list[str]:
        program = self.arguments["program"]
        return [sys.executable, "-c", program] if program else ["/nowhere/at/all"]


def run(
    url: str, programs: dict[str, str], on_line: Callable[[str, str], None] = lambda *_: None
) -> list[CrawlOutcome]:
    async def all_of_them() -> list[CrawlOutcome]:
        processes = Processes(url, on_line=on_line)
        processes.handle_signals()
        crawls = [
            Program(spider=name, job_id=name, arguments={"program": program}) for name, program in programs.items()
        ]
        return await asyncio.gather(*map(processes.run, crawls))

    return asyncio.run(all_of_them())


def test_the_verdict_is_the_row_of_the_run_and_else_how_the_process_ended(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url, timeout=20)
    schema.ensure(engine)
    started_at = datetime(2026, 11, 21, 7, 0, 0)  # noqa: DTZ001 - as the tables hold it
    rows = {
        "a": ("partial", "partial. 2 cars.\nnot kept: 1 photo failed.\nlimit not kept: min_cars: 2"),
        "b": ("skipped", "skipped. Another crawl of B is under way."),
        "c": ("running", None),
    }
    with engine.begin() as connection:
        for name, (status, why) in rows.items():
            record = RunRecord(spider=name, job_id=name, started_at=started_at, status=status, why=why)
            runs.start(connection, asdict(record))
    engine.dispose()
    lines: list[tuple[str, str]] = []
    programs = {
        "a": "print('a: success. 9 cars.'); exit(3)",
        "b": "pass",
        "c": "import os; print('before', flush=True); os.kill(os.getpid(), 9)",
        "d": "raise KeyError('price')",
        "e": "print('\\x1b[2J' + 'x' * 3_000_000); print('that was long'); exit(4)",
        "f": "print('two'); print('lines \\x1b[2J')",
        "g": "",
    }
    found = run(sqlite_url, programs, lambda *line: lines.append(line))
    assert [(each.spider, each.outcome, each.code, each.line) for each in found] == [
        ("a", "partial", 3, "not kept: 1 photo failed.; limit not kept: min_cars: 2"),
        ("b", "skipped", 0, "Another crawl of B is under way."),
        ("c", "failed", -9, "ended by signal 9"),
        ("d", "failed", 1, "KeyError: 'price'"),
        ("e", "failed", 4, "that was long"),
        ("f", "success", 0, "lines \\x1b[2J"),
        ("g", "failed", None, "can't be started: No such file or directory"),
    ]
    assert found[0].said == rows["a"][1]
    assert [line for name, line in lines if name == "f"] == ["two", "lines \\x1b[2J"]
    assert exit_code(found) == 3


def test_a_process_that_heeds_no_signal_is_killed_by_the_third(sqlite_url: str) -> None:
    deaf = (
        "import signal, time\nfor number in (2, 15): signal.signal(number, lambda *_: print('no', flush=True))\n"
        "print('up', flush=True)\nwhile True: time.sleep(9)"
    )
    left = iter([signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    [outcome] = run(sqlite_url, {"deaf": deaf}, lambda *_: os.kill(os.getpid(), next(left)))
    assert (outcome.outcome, outcome.code) == ("failed", -9)
    assert exit_code([outcome]) == 4


# --- what is asked for --------------------------------------------------------------------------------------------


def plan(*words: str, **settings: Any) -> tuple[dict[str, list[str]], dict[str, str]]:
    command = crawlall.Command()
    command.settings = make_settings(**settings)
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    command.add_options(parser)
    opts, left = parser.parse_known_args(words)
    command.process_options(left, opts)
    crawls, left_out = crawlall.planned_crawls(checked(command.settings), opts)
    return {each.spider: each.command for each in crawls}, left_out


def test_settings_are_passed_on_as_they_were_given() -> None:
    words = ["--sources", "hekla", "-s", "LOG_FILE=here.log", "-s", "DATABASE_URL=sqlite:///x.db", "-L", "DEBUG"]
    commands, _ = plan(*words, "-a", "limit=3", "-a", "makes=VW,Audi", "--nolog")
    assert commands["hekla"][1:6] == ["-m", "scrapy", "crawl", "hekla", "-a"]
    assert commands["hekla"][6].startswith("_job=")
    assert commands["hekla"][7:] == [
        *("-s", "DATABASE_URL=sqlite:///x.db", "-s", "LOG_ENABLED=False"),
        *("-L", "DEBUG", "-s", "LOG_FILE=here.hekla.log", "-a", "limit=3", "-a", "makes=VW,Audi"),
    ]


def test_what_is_in_the_environment_stays_there() -> None:
    """No secret reaches a command line that did not come from one."""
    commands, _ = plan("--sources", "hekla", DATABASE_URL="postgresql://me:hush@h/x", AWS_SECRET_ACCESS_KEY="hush")
    assert not [word for word in commands["hekla"] if "hush" in word or "***" in word]


def test_all_dealers_and_no_other_spider() -> None:
    commands, _ = plan()
    assert {"bilasolur", "bilaland", "br", "hekla", "brimborg", "islandsbilar"} <= set(commands)
    assert "backfill" not in commands


def test_who_needs_a_key_is_left_out_without_it() -> None:
    commands, left_out = plan()
    assert left_out == {"henry": "HENRY_API_KEY is not set."}
    assert "henry" not in commands
    named, left_out = plan("--sources", "henry")
    assert (list(named), left_out) == (["henry"], {})
    with_key, left_out = plan(HENRY_API_KEY="a-key-of-a-dealer")
    assert "henry" in with_key
    assert left_out == {}
    assert "henry   left out" in "\n".join(report([], {"henry": "HENRY_API_KEY is not set."}))


def test_what_can_t_be_done_is_one_sentence() -> None:
    known = {"br": "BR", "hekla": "Hekla"}
    cases: list[tuple[Callable[[], object], str]] = [
        (partial(choose, known, "br,bmw"), "names bmw, .*known are br, hekla"),
        (partial(choose, known, " ,"), "names nobody; known are br"),
        (partial(distribute, [("base_url", "http://x/")], known), r"write -a NAME\.base_url"),
        (partial(distribute, [("bmw.limit", "3")], known), "for bmw, which is no dealer here; known are br"),
    ]
    for what, sentence in cases:
        with pytest.raises(ConfigurationError, match=sentence):
            what()


def test_exit_code() -> None:
    cases = {
        "success success": 0,
        "success failed": 3,
        "success skipped": 0,
        "skipped failed": 3,
        "partial": 3,
        "partial failed not started": 3,
        "failed failed": 4,
        "not-started": 4,
        "": 4,
    }
    for words, code in cases.items():
        outcomes = [CrawlOutcome(spider="x", outcome=word, code=0, said="", line="") for word in words.split()]
        assert exit_code(outcomes) == code, words
