"""``scrapy enqueue`` and ``scrapy queue`` in this process, workers as processes of their own, on a real PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import services
from tests.queue.fleet import Fleet, ended

if TYPE_CHECKING:
    from collections.abc import Callable


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


# --- commands -----------------------------------------------------------------------------------------------------


def test_what_can_not_be_run_is_refused_with_one_sentence(new_fleet: Callable[..., Fleet], sqlite_url: str) -> None:
    fleet = new_fleet(cars=1, photos=1)
    sqlite = {"DATABASE_URL": sqlite_url}
    nowhere = {"DATABASE_URL": "postgresql://somebody:hunter2@127.0.0.1:1/cars"}
    cases: list[tuple[str, list[str], dict[str, Any], str]] = [
        ("enqueue", ["crawl", "nobody"], {}, "There is no spider 'nobody'; there are askja, "),
        ("enqueue", ["crawl", "br", "-a", "limt=5"], {}, "The spider br has no argument limt"),
        ("enqueue", ["crawl", "br", "-a", "base_url=http://a:hunter2@h/"], {}, "base_url is an address with a user"),
        ("enqueue", ["crawl", "br", "-s", "IMAGES_WIDTH=wide"], {}, "IMAGES_WIDTH is 'wide'"),
        ("enqueue", ["crawl", "br", "-s", "HENRY_API_KEY=hunter2"], {}, "HENRY_API_KEY is a secret and does not go"),
        ("enqueue", ["backfill", "--shards", "2"], {}, "A backfill has no shards any more: leave --shards out."),
        ("enqueue", ["backfill", "-a", "shard=1/2"], {}, "A backfill has no shards any more: leave shard out;"),
        ("enqueue", ["backfill", "-s", "SHARED_PACE=true"], {}, "-s SHARED_PACE is no setting any more: one process"),
        *((name, words, sqlite, "The queue needs PostgreSQL") for name, words in (("queue", []), ("worker", []))),
        ("enqueue", ["crawl", "br"], sqlite, "The queue needs PostgreSQL, which DATABASE_URL does not name;"),
        *(
            (name, list[str](), nowhere, "The database of DATABASE_URL can't be reached (")
            for name in ("queue", "worker")
        ),
        ("queue", [], {"DATABASE_URL": "postgresql:///?no_such=1"}, "DATABASE_URL can't be read (invalid connection"),
        ("worker", [], {"WORKER_SCHEDULE": '{"br": "17 3,15 * *"}'}, "WORKER_SCHEDULE is "),
        ("worker", [], {"WORKER_SCHEDULE": '{"br": "17 33 * * *"}'}, "WORKER_SCHEDULE of br can't be read"),
        ("worker", [], {"WORKER_SCHEDULE": '{"nobody": "17 3 * * *"}'}, "There is no spider 'nobody'"),
    ]
    for command, words, settings, sentence in cases:
        said = fleet(command, *words, code=4, **settings)
        assert said.err.startswith(sentence), (command, words, settings, said)
        assert "hunter2" not in said.err, (command, words)
        assert len(said.err.splitlines()) == 1, (command, words, said)
    assert fleet.queue() == {"workers": [], "running": [], "waiting": [], "failed": [], "counts": {}}


def test_the_same_crawl_waits_once_and_can_be_cancelled(new_fleet: Callable[..., Fleet]) -> None:
    fleet = new_fleet(cars=1, photos=1)
    assert fleet("queue").out == "There is no queue yet: `scrapy enqueue` makes it.\n"
    assert fleet("queue", "setup").out == "The queue's tables are there.\n"
    queued = fleet.enqueue("--json", "-s", "CRAWL_MAX_PAGES=7").data["jobs"]
    assert [(each["job"], each["queued"]) for each in queued] == [(1, True)]
    assert fleet.enqueue("-s", "CRAWL_MAX_PAGES=7").out.startswith("job 1 waits already: bilasolur base_url=")
    fleet("enqueue", "backfill", "-a", "limit=5")
    fleet.enqueue()
    found = fleet.queue()
    assert [(each["spider"], each["queue"]) for each in found["waiting"]] == [
        ("bilasolur", "crawls"),
        ("bilasolur", "crawls"),
        ("backfill", "backfill"),
    ], "crawls go first"
    assert found["waiting"][0]["what"] == f"bilasolur base_url={fleet.site.base_url} -s CRAWL_MAX_PAGES=7"
    shown = fleet("queue").out
    assert "Jobs: 3 waiting\n\nWorkers: none is alive; start `scrapy worker`\n\nWaiting\njob " in shown
    cancelled = fleet("queue", "cancel", 1, 9, "--json", code=4).data["jobs"]
    assert cancelled == [{"job": 1, "cancelled": True}, {"job": 9, "cancelled": False}]
    assert fleet("queue", "cancel", 1, code=4).out == "job 1: neither waits nor runs\n"
    assert fleet.queue()["counts"] == {"cancelled": 1, "todo": 2}


def test_the_queue_costs_other_commands_no_time(tmp_path: Path) -> None:
    """Scrapy imports every command for every command; what takes long is imported by the one that needs it."""
    names = "queue", "enqueue", "worker", "crawlall"
    code = "".join(f"import carscraper.commands.{name}\n" for name in names)
    code += "import sys\nsys.exit('procrastinate' in sys.modules)"
    environment = services.crawl_environment(tmp_path)
    assert subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=False).returncode == 0


# --- workers ------------------------------------------------------------------------------------------------------


def test_one_crawl_of_a_dealer_at_a_time_and_what_is_scheduled_once(new_fleet: Callable[..., Fleet]) -> None:
    fleet = new_fleet(cars=4, photos=2)
    fleet.enqueue("-a", "limit=2")
    fleet.enqueue("-a", "makes=")
    # Two minutes ago: a worker that was just started makes up for it.
    due = datetime.now(UTC) - timedelta(minutes=2)
    schedule = f'{{"backfill": "{due.minute} {due.hour} {due.day} {due.month} *"}}'
    workers = [fleet.worker(*words, WORKER_SCHEDULE=schedule) for words in (["--concurrency", "2"], [])]
    fleet.wait(lambda found: found["counts"].get("succeeded") == 3 and len(found["workers"]) == 2)
    for worker in workers:
        worker.terminate()
    said = "\n".join(ended(worker.wait(30)).stderr for worker in workers)
    assert fleet.queue()["workers"] == []
    assert len(fleet.stored()) == 8
    assert set(fleet.site.served.photos.values()) == {1}
    first, second = fleet.rows(
        "SELECT started_at, finished_at FROM crawl_runs WHERE spider = 'bilasolur' ORDER BY started_at"
    )
    assert first.finished_at <= second.started_at
    [(backfill,)] = fleet.rows("SELECT status FROM crawl_runs WHERE spider = 'backfill'")
    assert backfill in {"success", "skipped"}, "once; it takes the dealers' locks as their crawls do"
    assert re.search(r"^q2-1: bilasolur: success \(exit code 0, \d+ s\)\. 4 cars", said, re.MULTILINE)
    assert re.search(r"^q1-1 \| .*Spider opened", said, re.MULTILINE)
    [(password,)] = fleet.rows("SELECT count(*) FROM procrastinate_jobs WHERE args::text LIKE '%postgresql%'")
    assert password == 0


def test_a_crawl_that_does_not_end_well_is_tried_again_and_then_shown(new_fleet: Callable[..., Fleet]) -> None:
    fleet = new_fleet({"RETRY_TIMES": 0}, cars=2, photos=1)
    fleet.enqueue()
    fleet.site.down = True
    with fleet.worker() as worker:
        [waiting] = fleet.wait(lambda found: found["waiting"] and found["waiting"][0]["tries"])["waiting"]
        assert (waiting["outcome"], waiting["exit_code"], waiting["tries"]) == ("failed", 4, 1)
        assert waiting["not_before"]
        # One photo that does not come makes a crawl partial.
        fleet.site.down = False
        fleet.site.fault("photo", ["503"], sticky=True)
        [failed] = fleet.wait(lambda found: found["failed"])["failed"]
        worker.terminate()
        ended(worker.wait(20))
    assert (failed["job"], failed["tries"], failed["outcome"], failed["exit_code"]) == (1, 2, "partial", 3)
    assert "2 photos failed (2 http-503" in failed["why"]
    assert failed["host"]
    assert re.search(r"^Failed\njob .*\n1 +bilasolur .*not kept: 2 photos failed", fleet("queue").out, re.MULTILINE)
    [(waited,)] = fleet.rows("SELECT max(started_at) - min(finished_at) FROM crawl_runs")
    assert waited.total_seconds() >= 4, "a failed crawl waits four times WORKER_RETRY_DELAY"


def test_sigterm_gives_a_crawl_back_and_cancel_ends_it(new_fleet: Callable[..., Fleet]) -> None:
    fleet = new_fleet({"IMAGES_CONCURRENCY": 1, "IMAGES_DOWNLOAD_DELAY": 0.2}, cars=6, photos=8)
    fleet.enqueue()
    first = fleet.worker()
    services.wait_until(lambda: fleet.site.served.counts["photo"] >= 2, 60)
    second = fleet.worker()
    second.wait_for_log("^worker: 1 at a time, queues all")
    first.terminate()
    done = ended(first.wait(30))
    assert "stopping; crawls finish what is in flight" in done.stderr
    assert "stopped on request" in done.stderr
    asked = fleet.site.served.counts["photo"]
    services.wait_until(lambda: fleet.site.served.counts["photo"] > asked + 2, 60)
    assert "Running\njob  what " in fleet("queue").out
    assert fleet("queue", "cancel", 1).out == "job 1: cancelled\n"
    found = fleet.wait(lambda found: not found["running"])
    assert found["waiting"] == found["failed"] == [], "it does not come back"
    assert found["counts"] == {"aborted": 1}
    second.terminate()
    ended(second.wait(20))
    assert [row.status for row in fleet.rows("SELECT status FROM crawl_runs ORDER BY id")] == ["partial", "partial"]
    assert set(fleet.site.served.photos.values()) == {1}, "what was in flight was finished"


def test_kill_9_of_a_worker(new_fleet: Callable[..., Fleet]) -> None:
    in_flight = 4
    fleet = new_fleet({"IMAGES_CONCURRENCY": 2, "IMAGES_MAX_IN_FLIGHT": in_flight}, cars=12, photos=4)
    fleet.site.photo_latency = 0.15  # type: ignore[attr-defined]
    fleet.enqueue()
    victim = fleet.worker()
    services.wait_until(lambda: fleet.site.served.counts["photo"] >= 10, 60)
    other = fleet.worker()
    other.wait_for_log("^worker: ")
    [running] = fleet.queue()["running"]
    safe = fleet.stored()
    victim.kill()
    victim.wait(10)
    services.wait_until(lambda: not alive(running["pid"]), 5, "the killed worker's crawl to die with it")
    asked = Counter(fleet.site.served.photos)
    fleet.wait(lambda found: found["counts"] == {"succeeded": 1})
    other.terminate()
    assert "q1-1: bilasolur" in (log := ended(other.wait(20)).stderr)
    assert "its worker is gone" in log
    assert len(fleet.stored()) == 48
    again = {photo: number for photo, number in fleet.site.served.photos.items() if number > 1}
    assert safe
    assert not set(again) & safe, "photos that were safe were asked for again"
    assert len(again) <= in_flight, "more than was in flight at the kill was asked for again"
    assert all(number == 2 and asked[photo] for photo, number in again.items())
    statuses = [tuple(row) for row in fleet.rows("SELECT job_id, status FROM crawl_runs ORDER BY id")]
    assert statuses == [("q1-1", "interrupted"), ("q1-2", "success")]
    assert fleet.queue()["workers"] == []


def test_a_database_that_goes_away_ends_the_worker(
    new_fleet: Callable[..., Fleet], postgres: services.PostgresCluster
) -> None:
    fleet = new_fleet(cars=1, photos=1)
    with fleet.worker() as worker:
        worker.wait_for_log("^worker: ")
        fleet.wait(lambda found: found["workers"])
        postgres.stop(sudden=True)
        try:
            done = ended(worker.wait(40), code=4)
        finally:
            postgres.start()
    said = r"^The database of DATABASE_URL does not answer \(.*\): start the worker again;"
    assert re.search(said, done.log, re.MULTILINE)
    fleet.enqueue()
    ended(fleet.worker("--drain").wait(60))
    assert len(fleet.stored()) == 1


@pytest.mark.waits
def test_a_worker_that_drains_takes_over_what_a_dead_one_left(
    new_fleet: Callable[..., Fleet], postgres: services.PostgresCluster
) -> None:
    """Killed, or ended by an outage during its crawl, in one sentence."""
    fleet = new_fleet({"DATABASE_PATIENCE": 1}, cars=6, photos=4)
    fleet.site.photo_latency = 0.3  # type: ignore[attr-defined]
    fleet.enqueue()
    victim = fleet.worker("--drain")
    services.wait_until(lambda: fleet.site.served.counts["photo"] >= 3, 60)
    victim.kill()
    victim.wait(10)
    second = fleet.worker("--drain", WORKER_RETRIES="3")
    second.wait_for_log("its worker is gone$")
    asked = fleet.site.served.counts["photo"]
    services.wait_until(lambda: fleet.site.served.counts["photo"] > asked, 60, "the crawl to go on")
    postgres.stop(sudden=True)
    try:
        log = ended(second.wait(60), code=4).stderr
    finally:
        postgres.start()
    assert len(re.findall("^The database of DATABASE_URL does not answer", log, re.MULTILINE)) == 1, log
    fleet.site.photo_latency = 0  # type: ignore[attr-defined]
    done = ended(fleet.worker("--drain", WORKER_RETRIES="3").wait(60))
    assert fleet.queue()["counts"] == {"succeeded": 1}, done
    assert len(fleet.stored()) == 24
