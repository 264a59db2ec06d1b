"""What ``scrapy enqueue``, ``scrapy queue`` and ``scrapy worker`` refuse, each with one sentence."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from carscraper.commands import worker
from tests import services
from tests.fakes import make_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.jobs.conftest import Fleet


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["crawl", "nobody"], "There is no spider 'nobody'; there are askja, "),
        (["crawl", "bilasolur", "-a", "limt=5"], "The spider bilasolur has no argument limt"),
        (["crawl", "bilasolur", "-a", "limit"], "-a limit can't be read; write NAME=VALUE."),
        (["crawl", "bilasolur", "-s", "IMAGES_WIDTH=wide"], "IMAGES_WIDTH is 'wide'"),
        (["crawl", "bilasolur", "-s", "HENRY_API_KEY=hunter2"], "HENRY_API_KEY is a secret and does not go into"),
        (["backfill", "--shards", "0"], "--shards is 0; write a number from 1 to 1,000."),
        (["backfill", "--shards", "2", "-a", "shard=1/2"], "The shards are made by --shards"),
        (["backfill", "--shards", "2", "-a", "only=everything"], "only is 'everything'"),
    ],
)
def test_what_can_not_be_run_is_not_queued(new_fleet: Callable[..., Fleet], words: list[str], sentence: str) -> None:
    fleet = new_fleet(cars=1, photos=1)
    said = fleet("enqueue", *words, code=4)
    assert said.err.startswith(sentence)
    assert "hunter2" not in said.err
    assert len(said.err.splitlines()) == 1
    assert fleet.queue()["waiting"] == []


def test_a_backfill_in_other_parts_waits_for_the_first(new_fleet: Callable[..., Fleet]) -> None:
    fleet = new_fleet(cars=1, photos=1)
    said = fleet("enqueue", "backfill", "--shards", 3, "--json").data
    assert [each["arguments"]["shard"] for each in said["jobs"]] == ["1/3", "2/3", "3/3"]
    assert said["notes"] == ["limit=100 is each shard's: up to 300 photos of a source in all."]
    again = fleet("enqueue", "backfill", "--shards", 3).out.splitlines()
    assert [line.split(":")[0] for line in again[:3]] == [f"job {number} waits already" for number in (1, 2, 3)]
    assert "--shards 3 is not done" in fleet("enqueue", "backfill", "--shards", 4, code=4).err
    assert fleet("queue", "cancel", 1, 2, 3, "--json").data["jobs"][0] == {"job": 1, "was": "todo", "cancelled": True}
    assert fleet("queue", "cancel", 1, code=4).out == "job 1 neither waits nor runs\n"
    fleet("enqueue", "backfill", "--shards", 4)
    assert fleet.queue()["counts"] == {"cancelled": 3, "todo": 4}


def test_passwords_in_arguments_are_not_shown(new_fleet: Callable[..., Fleet]) -> None:
    fleet = new_fleet(cars=1, photos=1)
    said = fleet("enqueue", "crawl", "bilasolur", "-a", "base_url=http://somebody:hunter2@127.0.0.1/", code=4)
    assert "base_url is an address with a user in it; write it without what stands before @." in said.err
    assert "hunter2" not in said.err + said.out + str(fleet.queue()) + fleet("queue").out
    assert fleet.queue()["waiting"] == []


@pytest.mark.parametrize(
    ("command", "words"),
    [("enqueue", ["crawl", "bilasolur"]), ("enqueue", ["backfill"]), ("queue", []), ("worker", [])],
)
def test_sqlite_has_no_queue(new_fleet: Callable[..., Fleet], sqlite_url: str, command: str, words: list[str]) -> None:
    said = new_fleet(cars=1, photos=1)(command, *words, DATABASE_URL=sqlite_url, code=4)
    assert said.err.startswith("The queue needs PostgreSQL, which DATABASE_URL does not name;")
    assert len(said.err.splitlines()) == 1


def test_a_database_that_is_not_there(new_fleet: Callable[..., Fleet]) -> None:
    fleet = new_fleet(cars=1, photos=1)
    for command, words in (("enqueue", ["crawl", "bilasolur"]), ("queue", []), ("worker", [])):
        said = fleet(command, *words, DATABASE_URL="postgresql://somebody:hunter2@127.0.0.1:1/cars", code=4)
        assert "refused" in said.err
        assert "hunter2" not in said.err
        assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ('{"bilasolur": "17 3,15 * *"}', "WORKER_SCHEDULE is "),
        ('{"bilasolur": "17 33 * * *"}', "WORKER_SCHEDULE of bilasolur can't be read"),
        ('{"nobody": "17 3 * * *"}', "There is no spider 'nobody'"),
        ("daily", "WORKER_SCHEDULE is 'daily'; write a JSON object."),
    ],
)
def test_a_schedule_that_can_not_be_kept(new_fleet: Callable[..., Fleet], schedule: str, sentence: str) -> None:
    said = new_fleet(cars=1, photos=1)("worker", WORKER_SCHEDULE=schedule, code=4)
    assert said.err.startswith(sentence)
    assert len(said.err.splitlines()) == 1


def test_the_queue_costs_other_commands_no_time(tmp_path: Path) -> None:
    """Scrapy imports every command for every command; what takes long is imported by the one that needs it."""
    names = "overview", "verbs"
    code = "".join(f"import carscraper.jobs.{name}\n" for name in names)
    code += "import carscraper.commands.worker, sys\nsys.exit('procrastinate' in sys.modules)"
    environment = services.crawl_environment(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0


def test_the_settings_of_workers_have_defaults_that_fit() -> None:
    settings = make_settings()
    assert 4 * settings["WORKER_HEARTBEAT"] <= 60, "a dead worker's crawls are taken over within about a minute"
    assert settings["SHARED_PACE"] is False
    assert worker.Command().short_desc()
