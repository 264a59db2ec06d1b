"""``scrapy crawlall``: every dealer's crawl a process of its own, whose end touches no other."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from carscraper.cli.crawls import Crawls, Outcome, command_of, exit_code, report
from carscraper.commands import crawlall
from carscraper.dealers import choose, distribute
from carscraper.exceptions import ConfigurationError
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
        *("-a", f"brimborg.base_url={nowhere}", "-a", f"hekla.base_url={hekla.url}"),
        *("-a", f"bilasolur.base_url={bilasolur.base_url}", "-a", "limit=4", "-a", "bilasolur.limit=2"),
        cwd=tmp_path,
        env={"DATABASE_URL": sqlite_url},
        settings=IMPOLITE,
    )
    assert done.returncode == 3, done
    assert "Traceback" not in done.stderr, done
    found = outcomes_of(done)
    ended = {name: (each["outcome"], each["code"]) for name, each in found.items()}
    assert ended == {"brimborg": ("failed", 4), "bilasolur": ("success", 0), "hekla": ("partial", 3)}
    assert f"{nowhere}/is can't be reached" in found["brimborg"]["said"]
    assert found["bilasolur"]["said"].startswith("success. 2 cars (2 new, 0 gone); 8 photos stored")
    assert found["hekla"]["said"].splitlines()[0].startswith("partial. 3 cars (3 new, 0 gone); 0 photos stored")
    assert found["hekla"]["said"].splitlines()[1] == "not kept: 3 photos failed (3 no-fresh-address)."
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
        "crawlall", "--sources", "bilasolur,helka", cwd=tmp_path, env={"DATABASE_URL": sqlite_url}
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
                    *("-a", f"hekla.base_url={hekla.url}", "-a", f"bilasolur.base_url={bilasolur.base_url}"),
                    *("-a", "brimborg.base_url=http://127.0.0.1:1"),
                    cwd=tmp_path,
                    env={"DATABASE_URL": sqlite_url},
                    settings=IMPOLITE | {"IMAGES_CONCURRENCY": 2, "IMAGES_MAX_IN_FLIGHT": 2},
                )
            )
            services.wait_until(
                lambda: (bilasolur.served.counts["photo"] > 2 and "hekla | " in running.log) or not running.running, 40
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
    running.interrupt()
    done = running.wait(40)
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


def run(programs: dict[str, str], *, parallel: int = 2) -> tuple[list[Outcome], list[tuple[str, str]]]:
    lines: list[tuple[str, str]] = []
    ended: list[Outcome] = []
    commands = {name: [sys.executable, "-c", program] for name, program in programs.items()}
    crawls = Crawls(commands, parallel=parallel, on_line=lambda *line: lines.append(line), on_end=ended.append)
    outcomes = crawls.run()
    assert outcomes == ended
    return outcomes, lines


def test_a_crash_is_told_by_its_last_line_and_stops_no_other() -> None:
    outcomes, _ = run(
        {
            "a": "import os; print('before', flush=True); os.kill(os.getpid(), 9)",
            "b": "raise KeyError('price')",
            "c": "import sys; sys.exit(7)",
            "d": "import sys; sys.stderr.write('d: success. 2 cars.')",
            "e": "print('e: skipped. Another crawl of E is under way.')",
            "f": "print('f: partial. 2 cars.\\nf: limit not kept: min_cars: 2'); exit(3)",
        },
        parallel=1,
    )
    told = [(each.dealer, each.outcome, each.code, each.said) for each in outcomes]
    assert told == [
        ("a", "failed", -9, "ended by signal 9"),
        ("b", "failed", 1, "KeyError: 'price'"),
        ("c", "failed", 7, "it said nothing"),
        ("d", "success", 0, "success. 2 cars."),
        ("e", "skipped", 0, "skipped. Another crawl of E is under way."),
        ("f", "partial", 3, "partial. 2 cars.\nlimit not kept: min_cars: 2"),
    ]
    assert exit_code(outcomes) == 3
    assert outcomes[-1].line() == "limit not kept: min_cars: 2"


def test_a_verdict_is_not_forged_by_what_a_page_says() -> None:
    log = "2026-02-02 12:00:00 [carscraper.extensions.verdict] ERROR: x: failed. No form."
    evil = "2026-02-02 12:00:00 [scrapy] INFO: Crawled '/?q=x: success. 9 cars.' \x1b[2J"
    outcomes, lines = run({"x": f"import sys; print({log!r}); print({evil!r}); sys.exit(4)"})
    assert outcomes[0].said == "failed. No form."
    assert all("\x1b" not in line for _, line in lines)
    assert lines[1] == ("x", evil.replace("\x1b", "\\x1b"))


def test_so_many_at_once_and_no_more(tmp_path: Path) -> None:
    program = (
        f"import os, pathlib, time; here = pathlib.Path({str(tmp_path)!r}); me = here / str(os.getpid()); me.touch();"
        "time.sleep(0.3); print(len(list(here.iterdir()))); me.unlink()"
    )
    outcomes, _ = run(dict.fromkeys("abcde", program), parallel=2)
    assert max(int(each.said) for each in outcomes) == 2
    assert [each.code for each in outcomes] == [0] * 5


def test_a_process_that_heeds_no_signal_is_killed_by_the_third() -> None:
    deaf = (
        "import signal, time\nfor number in (2, 15): signal.signal(number, lambda *_: print('no', flush=True))\n"
        "print('up', flush=True)\nwhile True: time.sleep(9)"
    )
    left = iter([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])

    def on_line(_dealer: str, _line: str) -> None:
        os.kill(os.getpid(), next(left))

    before = signal.getsignal(signal.SIGINT)
    commands = {"deaf": [sys.executable, "-c", deaf], "late": ["true"]}
    outcomes = Crawls(commands, parallel=1, on_line=on_line, on_end=lambda _: None).run()
    assert [(each.outcome, each.code) for each in outcomes] == [("failed", -9), ("not started", None)]
    assert exit_code(outcomes) == 4
    assert signal.getsignal(signal.SIGINT) is before


def test_no_child_is_left_when_the_reader_goes_away() -> None:
    pids = []

    def on_line(_dealer: str, line: str) -> None:
        pids.append(int(line))
        raise BrokenPipeError

    command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
    with pytest.raises(BrokenPipeError):
        Crawls({"a": command}, parallel=1, on_line=on_line, on_end=lambda _: None).run()
    assert not lives(pids[0])


def test_a_program_that_can_t_be_started_is_an_outcome() -> None:
    commands = {"a": ["/nowhere/at/all"], "b": [sys.executable, "-c", ""]}
    outcomes = Crawls(commands, parallel=1, on_line=lambda *_: None, on_end=lambda _: None).run()
    assert [(each.outcome, each.code) for each in outcomes] == [("failed", None), ("success", 0)]
    assert outcomes[0].said == "can't be started: No such file or directory"


# --- what is asked for --------------------------------------------------------------------------------------------


def plan(*words: str, **settings: Any) -> tuple[dict[str, list[str]], dict[str, str]]:
    command = crawlall.Command()
    command.settings = make_settings(**settings)
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    command.add_options(parser)
    opts, left = parser.parse_known_args(words)
    command.process_options(left, opts)
    return command._plan(opts)


def test_settings_are_passed_on_as_they_were_given() -> None:
    words = ["--sources", "hekla", "-s", "LOG_FILE=here.log", "-s", "DATABASE_URL=sqlite:///x.db", "-L", "DEBUG"]
    commands, _ = plan(*words, "-a", "limit=3", "-a", "makes=VW,Audi", "--nolog")
    assert commands["hekla"][1:] == [
        *("-m", "scrapy", "crawl", "hekla", "-s", "DATABASE_URL=sqlite:///x.db", "-s", "LOG_ENABLED=False"),
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


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (partial(choose, {"br": "BR", "hekla": "Hekla"}, "br,bmw"), "names bmw, .*known are br, hekla"),
        (partial(choose, {"br": "BR"}, " ,"), "names nobody; known are br"),
        (partial(distribute, [("base_url", "http://x/")], ["br"]), r"write -a NAME\.base_url"),
        (partial(distribute, [("bmw.limit", "3")], ["br"]), "for bmw, which is no dealer here; known are br"),
    ],
)
def test_what_can_t_be_done_is_one_sentence(what: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        what()


def outcome(word: str, said: str = "") -> Outcome:
    return Outcome(dealer="x", outcome=word, code=0, seconds=1.0, said=said)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["success", "success"], 0),
        (["success", "failed"], 3),
        (["success", "skipped"], 0),
        (["skipped", "failed"], 3),
        (["partial"], 3),
        (["partial", "failed", "not started"], 3),
        (["failed", "failed"], 4),
        (["not started"], 4),
        ([], 4),
    ],
)
def test_exit_code(words: list[str], code: int) -> None:
    assert exit_code(outcome(word) for word in words) == code


def test_the_line_that_says_most() -> None:
    assert outcome("partial", "partial. 3 cars.\nnot kept: 1 photo failed.").line() == "not kept: 1 photo failed."
    assert outcome("failed", "failed. No form.\nkept all the same: 1 car.").line() == "No form."
    assert outcome("success", "success. 3 cars.").line() == "3 cars."
    assert outcome("failed", "").line() == ""


def test_each_log_is_named_after_its_dealer() -> None:
    command = command_of("br", {}, settings=[], level=None, log_file="/var/log/x.y/crawl.log")
    assert command[-1] == "LOG_FILE=/var/log/x.y/crawl.br.log"
