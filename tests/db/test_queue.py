"""The queue's tables: made once, brought up to date, refused when they are another's; and who may change a job."""

from __future__ import annotations

import contextlib
import importlib.resources
import threading
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from carscraper.db import queue
from carscraper.db.engine import open_engine
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError, SchemaOutdatedError
from carscraper.jobs.app import defer, ensure_tables
from carscraper.jobs.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

    from tests import services

FOLDER = importlib.resources.files("procrastinate.sql") / "migrations"
MIGRATIONS = sorted(each.name for each in FOLDER.iterdir() if each.name.endswith(".sql"))


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    made = open_engine(postgres_url, timeout=20)
    yield made
    made.dispose()


@pytest.fixture
def ready(engine: Engine) -> Engine:
    ensure_tables(engine)
    return engine


def ask(engine: Engine, statement: str, **values: Any) -> list[Any]:
    with engine.begin() as connection:
        result = connection.execute(sqlalchemy.text(statement), values)
        return list(result) if result.returns_rows else []


def put(engine: Engine, *jobs: Job) -> list[int | None]:
    url = engine.url.render_as_string(hide_password=False)
    return defer(url, [(job, None, job.queue) for job in jobs])


def worker(engine: Engine, *, silent: float = 0) -> int:
    """A worker that was last heard of so many seconds ago."""
    [(number,)] = ask(
        engine,
        "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - make_interval(secs => :silent)) "
        "RETURNING id",
        silent=silent,
    )
    found: int = number
    return found


def fetch(engine: Engine, worker_id: int) -> Any:
    """The job that the worker gets."""
    [(job,)] = ask(engine, "SELECT (procrastinate_fetch_job_v2(NULL, :worker)).id", worker=worker_id)
    return job


def statuses(engine: Engine) -> dict[int, str]:
    return {row.id: row.status for row in ask(engine, "SELECT id, status::text FROM procrastinate_jobs")}


def test_many_make_the_tables_at_once(engine: Engine) -> None:
    errors: list[BaseException] = []

    def make() -> None:
        try:
            ensure_tables(engine)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    assert queue.transact(engine, queue.is_there)
    assert ask(engine, "SELECT obj_description('procrastinate_jobs'::regclass)") == [
        (f"carscraper 1 procrastinate {MIGRATIONS[-1]}",)
    ]


def test_older_tables_are_brought_up_to_date(engine: Engine) -> None:
    """As they were two versions ago, with a job in them."""
    old = [name for name in MIGRATIONS if name < "03.03"]
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "no_parameters": True}
    with engine.connect().execution_options(**options) as connection:
        for name in old:
            connection.exec_driver_sql(FOLDER.joinpath(name).read_text("utf-8"))
        connection.exec_driver_sql(queue._TABLES)
        connection.exec_driver_sql(f"COMMENT ON TABLE procrastinate_jobs IS 'carscraper 1 procrastinate {old[-1]}'")
    [first] = put(engine, Job(spider="br"))
    assert ask(engine, "SELECT to_regproc('procrastinate_retry_job_v2')") == [(None,)]
    ensure_tables(engine)
    assert statuses(engine) == {first: "todo"}
    assert ask(engine, "SELECT to_regproc('procrastinate_retry_job_v2')::text") == [("procrastinate_retry_job_v2",)]


def test_another_programs_and_newer_tables_are_refused(ready: Engine) -> None:
    for comment, sentence in [
        ("'carscraper 1 procrastinate 99.00.00_01_x.sql'", "update carscraper here"),
        ("NULL", "use a database of its own"),
    ]:
        ask(ready, f"COMMENT ON TABLE procrastinate_jobs IS {comment}")
        with pytest.raises(SchemaOutdatedError, match=sentence):
            ensure_tables(ready)


def test_a_role_that_may_make_no_tables(engine: Engine, postgres: services.PostgresCluster) -> None:
    ask(engine, "CREATE ROLE queue_guest LOGIN")
    guest = open_engine(engine.url.set(username="queue_guest").render_as_string(hide_password=False), timeout=20)
    try:
        with pytest.raises(ConfigurationError, match="scrapy queue setup"):
            ensure_tables(guest)
    finally:
        guest.dispose()
        ask(engine, "DROP ROLE queue_guest")


def test_the_same_crawl_does_not_wait_twice_and_a_source_is_crawled_once_at_a_time(ready: Engine) -> None:
    url = ready.url.render_as_string(hide_password=False)
    whole, some = Job(spider="br"), Job(spider="br", arguments={"limit": "5"})
    numbers = defer(url, [(whole, "BR", "crawls"), (whole, "BR", "crawls"), (some, "BR", "crawls")])
    assert numbers[1] is None
    assert queue.transact(ready, queue.waiting_twin, whole.queueing_lock) == numbers[0]
    mine = worker(ready)
    assert fetch(ready, mine) == numbers[0]
    assert fetch(ready, mine) is None, "its source is being crawled"
    assert defer(url, [(whole, "BR", "crawls")])[0], "it may wait while it runs"


def test_only_its_worker_changes_a_job(ready: Engine) -> None:
    [job] = put(ready, Job(spider="backfill"))
    assert job
    mine, other = worker(ready), worker(ready)
    assert fetch(ready, mine) == job
    assert not queue.transact(ready, queue.finish, job, other, "succeeded")
    assert not queue.transact(ready, queue.give_back, job, other, None)
    assert statuses(ready) == {job: "doing"}
    assert queue.transact(ready, queue.give_back, job, mine, None)
    assert not queue.transact(ready, queue.finish, job, mine, "succeeded"), "said twice: it waits for somebody else"
    assert fetch(ready, other) == job
    assert queue.transact(ready, queue.finish, job, other, "succeeded")


def test_a_retry_gives_way_to_the_same_crawl_that_waits(ready: Engine) -> None:
    crawl = Job(spider="br")
    [first] = put(ready, crawl)
    mine = worker(ready)
    assert first == fetch(ready, mine)
    queue.transact(ready, queue.begin_try, first, worker_id=mine, host="h")
    [second] = put(ready, crawl)
    assert queue.transact(ready, queue.give_back, first, mine, None)
    assert statuses(ready) == {first: "aborted", second: "todo"}
    assert ask(ready, "SELECT outcome FROM queue_tries") == [("superseded",)]


def test_the_jobs_of_the_dead_are_taken_over_once(ready: Engine) -> None:
    jobs = put(ready, *(Job(spider="backfill", arguments={"shard": f"{n}/3"}) for n in (1, 2, 3)))
    dead, living = worker(ready, silent=100), worker(ready)
    assert [fetch(ready, dead), fetch(ready, dead), fetch(ready, living)] == jobs
    queue.transact(ready, queue.begin_try, jobs[0], worker_id=dead, host="h")
    with ready.begin() as one, ready.begin() as other:  # both look before either has written
        taken = queue.take_back(one, seconds=30, most=5)
        with contextlib.suppress(sqlalchemy.exc.DBAPIError):
            other.execute(sqlalchemy.text("SET LOCAL lock_timeout = 100"))
            assert queue.take_back(other, seconds=30, most=5) == []
    assert [each.job_id for each in taken] == jobs[:2]
    assert all(each.again for each in taken)
    assert statuses(ready) == dict(zip(jobs, ["todo", "todo", "doing"], strict=True))
    assert not queue.transact(ready, queue.is_registered, dead)
    assert queue.transact(ready, queue.is_registered, living)
    assert ask(ready, "SELECT outcome FROM queue_tries") == [("lost",)]


def test_a_job_that_kills_its_workers_is_given_up(ready: Engine) -> None:
    [job] = put(ready, Job(spider="backfill"))
    again = []
    for _ in range(4):
        dead = worker(ready, silent=100)
        assert fetch(ready, dead) == job
        queue.transact(ready, queue.begin_try, job, worker_id=dead, host="h")
        [taken] = queue.transact(ready, queue.take_back, seconds=30, most=2)
        again.append(taken.again)
        if not taken.again:
            break
    assert again == [True, True, False]
    assert statuses(ready) == {job: "failed"}
    assert "sign of life" in ask(ready, "SELECT said FROM queue_tries")[0].said


def test_a_database_that_is_away_is_not_a_mistake(ready: Engine, postgres: services.PostgresCluster) -> None:
    def broken(connection: Connection) -> None:
        postgres.terminate_sessions(postgres.database_of(str(ready.url)))
        queue.counts(connection)

    with pytest.raises(DatabaseUnavailableError, match="terminating connection"):
        queue.transact(ready, broken)
    with pytest.raises(sqlalchemy.exc.ProgrammingError):
        queue.transact(ready, lambda connection: connection.execute(sqlalchemy.text("SELECT nothing")))
