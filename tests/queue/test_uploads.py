"""A run whose files could not be uploaded: the queue repeats the upload, not the crawl."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests import services
from tests.queue.fleet import Fleet, ended

if TYPE_CHECKING:
    from collections.abc import Callable


def test_an_upload_that_failed_is_repeated_as_an_upload(
    new_fleet: Callable[..., Fleet], rclone_s3: services.S3, tmp_path: Path
) -> None:
    fleet = new_fleet(cars=2, photos=1)
    with services.S3Proxy(rclone_s3.endpoint) as proxy:
        env = rclone_s3.via(proxy).env | {"S3_UPLOAD_ON_COMPLETION": "true", "S3_OUTPUT_RETRIES": "0"}
        env["USE_S3_STORAGE"] = "false"
        away = proxy.fail(methods="PUT")
        fleet.enqueue()
        with fleet.worker(**env) as worker:
            # It fails again, and is shown at last; the crawl itself is done.
            [failed] = fleet.wait(lambda found: found["failed"])["failed"]
            assert (failed["what"], failed["tries"]) == ("bilasolur: upload of the items and log of q1-1", 2)
            assert (failed["run"], failed["outcome"], failed["exit_code"]) == ("q1-1", "partial", 3)
            assert "outputs not all kept: items.jsonl.gz and run.log: S3 answers 503" in failed["why"]
            assert fleet.queue()["counts"] == {"succeeded": 1, "failed": 1}
            worker.terminate()
            ended(worker.wait(30))
        assert fleet.site.served.counts["photo"] == 2
        away.stop()
        proxy.fail(methods="PUT", times=1)
        fleet.enqueue()
        ended(fleet.worker("--drain", **env, WORKER_RETRY_DELAY="3").wait(60))
        [waiting] = fleet.queue()["waiting"]
        assert (waiting["job"], waiting["run"], waiting["outcome"]) == (4, "q3-1", "partial")
        [again] = fleet.enqueue("--json").data["jobs"]
        assert again["queued"], "it holds up no crawl of the dealer"
        fleet("queue", "cancel", again["job"])
        asked = fleet.site.served.counts.total()
        # Another machine leaves it to the one that has the files, however often it comes upon it.
        jobs, elsewhere = tmp_path / "var/jobs", tmp_path / "var/elsewhere"
        jobs.rename(elsewhere)
        fleet.rows("UPDATE crawl_runs SET host = 'other' WHERE job_id = 'q3-1' RETURNING id")
        with fleet.worker(**env) as worker:
            said = "q3-1: its items and log are on "
            services.wait_until(lambda: worker.log.count(said) > 2, 60, "other machines to leave the files alone")
            elsewhere.rename(jobs)
            fleet.wait(lambda found: found["counts"] == {"succeeded": 3, "failed": 1, "cancelled": 1})
            worker.terminate()
            ended(worker.wait(30))
        assert fleet.site.served.counts.total() == asked, "the dealer is not asked again"
        # Lost on their own machine, they are nobody's to upload.
        proxy.fail(methods="PUT", times=1)
        fleet.enqueue()
        ended(fleet.worker("--drain", **env, WORKER_RETRY_DELAY="3").wait(60))
        shutil.rmtree(jobs)
        with fleet.worker(**env) as worker:
            fleet.wait(lambda found: found["counts"].get("failed") == 2)
            services.wait_until(lambda: "its items and log are lost, " in worker.log, 5, "the worker to say so")
            worker.terminate()
            ended(worker.wait(30))
    rows = fleet.rows("SELECT job_id, status, exit_code, output::json->>'status' FROM crawl_runs ORDER BY id LIMIT 2")
    assert [tuple(row) for row in rows] == [("q1-1", "partial", 3, "failed"), ("q3-1", "success", 0, "success")]
