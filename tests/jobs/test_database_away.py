"""A database that is away for a while ends neither the worker nor what it runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import sqlalchemy

from tests import services
from tests.jobs.conftest import ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.jobs.conftest import Fleet


def test_a_restart_and_a_long_absence(new_fleet: Callable[..., Fleet], postgres: services.PostgresCluster) -> None:
    settings = {"IMAGES_CONCURRENCY": 1, "IMAGES_DOWNLOAD_DELAY": 0.1, "DATABASE_PATIENCE": 30}
    fleet = new_fleet(settings, cars=6, photos=8)
    fleet.enqueue("crawl", "bilasolur")
    with fleet.worker(env={"WORKER_HEARTBEAT": "2"}) as worker:
        services.wait_until(lambda: fleet.site.served.counts["photo"] >= 2, 60)
        [first] = fleet.crawls()
        postgres.stop(sudden=True)
        time.sleep(1.5)
        postgres.start()
        worker.wait_for_log("the database is away")
        fleet.wait(lambda found: found["workers"][0]["silent"] < 2)
        assert fleet.crawls() == [first], "it goes on"
        # For longer than others wait before they take the crawl over: then it may not go on here.
        postgres.stop(sudden=True)
        try:
            worker.wait_for_log(r"the database has not heard of it for \d+ s: its crawls are stopped", 30)
            services.wait_until(lambda: not fleet.crawls(), 30, "the crawl to end")
        finally:
            postgres.start()
        fleet.wait(lambda found: found["counts"].get("succeeded"), timeout=90)
        worker.terminate()
        ended(worker.wait(30))
    assert fleet.rows("SELECT count(*) FROM car_images WHERE status = 'stored'") == [(48,)]
    outcomes = [row.outcome for row in fleet.rows("SELECT outcome FROM queue_tries ORDER BY number")]
    assert outcomes[0] in {"stopped", "lost"}
    assert outcomes[-1] == "success"


def test_a_worker_that_was_taken_for_dead_begins_anew(new_fleet: Callable[..., Fleet]) -> None:
    fleet = new_fleet(cars=1, photos=1)
    assert fleet("queue", "setup").out == "The queue's tables are there.\n"
    with fleet.worker() as worker:
        worker.wait_for_log("^worker 1 on ")
        engine = sqlalchemy.create_engine(fleet.database_url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("DELETE FROM procrastinate_workers"))
        worker.wait_for_log("^worker 2 on ")
        worker.terminate()
        assert "the others took it for dead" in ended(worker.wait(20)).stderr
