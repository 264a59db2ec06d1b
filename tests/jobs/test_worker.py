"""A crawl from the queue to its end, whatever happens on the way."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests import services
from tests.jobs.conftest import Fleet, ended

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_crawl_and_what_is_scheduled(new_fleet: Callable[..., Fleet]) -> None:
    fleet = new_fleet(cars=4, photos=2)
    site = fleet.site
    assert fleet.queue() == {"workers": [], "running": [], "waiting": [], "failed": [], "counts": {}}
    queued = fleet.enqueue("crawl", "bilasolur", "--json", "-s", "CRAWL_MAX_PAGES=7").data["jobs"]
    assert [(each["job"], each["queued"]) for each in queued] == [(1, True)]
    again = fleet.enqueue("crawl", "bilasolur", "-s", "CRAWL_MAX_PAGES=7")
    assert again.out.startswith("job 1 waits already: bilasolur base_url=")
    [waiting] = fleet.queue()["waiting"]
    assert waiting["what"] == f"bilasolur base_url={site.base_url} -s CRAWL_MAX_PAGES=7"
    assert (waiting["tries"], waiting["queue"]) == (0, "crawls")

    # Two minutes ago: what a worker that was just started has not missed for long is done, and once only.
    due = datetime.now(UTC) - timedelta(minutes=2)
    env = {"WORKER_SCHEDULE": f'{{"backfill": "{due.minute} {due.hour} {due.day} {due.month} *"}}'}
    site.photo_latency = 1.0  # type: ignore[attr-defined]
    workers = [fleet.worker("--concurrency", "2", env=env), fleet.worker(env=env)]
    seen = fleet.wait(
        lambda found: (
            any(each["pid"] and each["spider"] == "bilasolur" for each in found["running"])
            and len([each for each in found["workers"] if each["pid"]]) == 2
        )
    )
    running = next(each for each in seen["running"] if each["spider"] == "bilasolur")
    assert running["pid"] in fleet.crawls()
    assert running["run"] == "q1-1"
    assert {each["pid"] for each in seen["workers"]} == {worker.pid for worker in workers}
    assert all(each["alive"] for each in seen["workers"])
    assert running["worker"] in {each["worker"] for each in seen["workers"]}
    assert "Running\njob  crawl " in fleet("queue").out

    seen = fleet.wait(lambda found: found["counts"].get("succeeded") == 2)
    for worker in workers:
        worker.terminate()
    done = [ended(worker.wait(20)) for worker in workers]
    assert fleet.queue()["workers"] == []
    assert fleet.rows("SELECT count(*) FROM car_images WHERE status = 'stored'") == [(8,)]
    # Where the scheduled backfill meets the crawl, it may ask for what that has in flight: stored once all the same.
    assert len(site.served.photos) == 8
    assert fleet.rows("SELECT count(DISTINCT key) FROM car_images") == [(8,)]
    said = "\n".join(each.stderr for each in done)
    assert len(re.findall(r"^job \d+: backfill \(process", said, re.MULTILINE)) == 1
    assert re.search(r"^job 1: bilasolur: success \(exit code 0, \d+ s\)\. 4 cars", said, re.MULTILINE)
    assert re.search(r"^1 bilasolur \| .*Spider opened", said, re.MULTILINE)
    [run] = fleet.rows("SELECT status, settings FROM crawl_runs WHERE job_id = 'q1-1'")
    assert run.status == "success"
    assert '"SHARED_PACE": true' in run.settings
    [(password,)] = fleet.rows("SELECT count(*) FROM procrastinate_jobs WHERE args::text LIKE '%postgresql%'")
    assert password == 0


def test_a_crawl_that_does_not_end_well_is_tried_again_and_then_shown(new_fleet: Callable[..., Fleet]) -> None:
    fleet = new_fleet({"RETRY_TIMES": 0}, cars=2, photos=1)
    fleet.enqueue("crawl", "bilasolur")
    fleet.site.down = True
    with fleet.worker() as worker:
        worker.wait_for_log(r"^job 1: is tried again in 2 s \(1 of 1\)")
        [waiting] = fleet.queue()["waiting"]
        assert (waiting["outcome"], waiting["exit_code"], waiting["tries"]) == ("failed", 4, 1)
        assert waiting["not_before"]
        # One photo that does not come makes a crawl partial.
        fleet.site.down = False
        fleet.site.fault("photo", ["503"], sticky=True)
        found = fleet.wait(lambda found: found["failed"])
        assert "job 1: stays partial after 2 tries" in worker.log
    [failed] = found["failed"]
    assert (failed["job"], failed["tries"], failed["outcome"], failed["exit_code"]) == (1, 2, "partial", 3)
    assert "2 photos failed (2 http-503" in failed["why"]
    assert failed["host"]
    shown = fleet("queue").out
    assert re.search(r"^Failed\njob .*\n1 +bilasolur .*partial: not kept: 2 photos failed", shown, re.MULTILINE)
    seconds = fleet.rows("SELECT max(started_at) - min(finished_at) FROM queue_tries")[0][0].total_seconds()
    assert seconds >= 2, "a failed crawl waits four times WORKER_RETRY_DELAY"


def test_a_worker_that_is_told_to_stop_gives_its_crawl_back(new_fleet: Callable[..., Fleet]) -> None:
    fleet = new_fleet({"IMAGES_CONCURRENCY": 1, "IMAGES_DOWNLOAD_DELAY": 0.2}, cars=4, photos=6)
    fleet.enqueue("crawl", "bilasolur")
    first = fleet.worker()
    services.wait_until(lambda: fleet.site.served.counts["photo"] >= 2, 60)
    second = fleet.worker()
    second.wait_for_log("^worker 2 on ")
    first.terminate()
    done = ended(first.wait(30))
    assert "stopping; jobs 1 finish what is in flight" in done.stderr
    assert "stopped on request" in done.stderr
    fleet.wait(lambda found: found["counts"].get("succeeded"))
    second.interrupt()
    ended(second.wait(20))
    assert fleet.rows("SELECT outcome FROM queue_tries ORDER BY number") == [("stopped",), ("success",)]
    assert fleet.rows("SELECT count(*) FROM car_images WHERE status = 'stored'") == [(24,)]
    assert set(fleet.site.served.photos.values()) == {1}, "what was in flight was finished"
