"""The queue in PostgreSQL: crawls wait there until a worker (``worker.py``) takes them.

Stock procrastinate decides: a ``queueing_lock`` lets the same crawl wait once, a ``lock`` lets one crawl of a dealer
run at a time, heartbeats tell which worker is dead. How a try ended is its row in ``crawl_runs`` under the job id
``q12-1``: job 12, first try. An upload of a run's files that failed is repeated as a job of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from procrastinate import App, SyncPsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Status
from scrapy.crawler import Crawler
from scrapy.settings import Settings
from scrapy.spiderloader import get_spider_loader

from carscraper.db import runs, schema
from carscraper.db.engine import conninfo, open_engine, parse_url
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError
from carscraper.logs import cleaned
from carscraper.runs.record import RunRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from procrastinate.jobs import Job
    from scrapy.settings import BaseSettings
    from sqlalchemy import Connection

BACKFILL, CRAWLS = "backfill", "crawls"
"""The two queues; crawls go first where a worker serves both."""
TASK = "crawl"
SILENCES = 4
"""Heartbeats of a worker that must be missing before others take its crawls over."""
ANSWER = 30.0
"""Seconds that the database may take for an answer."""


def name_of(args: Mapping[str, Any]) -> str:
    """Return a job in a line, without secrets.

    >>> name_of({"spider": "br", "arguments": {"base_url": "http://a:b@h/"}, "settings": {"LOG_LEVEL": "DEBUG"}})
    'br base_url=http://***@h/ -s LOG_LEVEL=DEBUG'
    >>> name_of({"spider": "br", "upload": "q12-1"})
    'br: upload of the items and log of q12-1'
    """
    if upload := args.get("upload"):
        return f"{args.get('spider')}: upload of the items and log of {upload}"
    words = [str(args.get("spider")), *(f"{name}={value}" for name, value in args.get("arguments", {}).items())]
    return cleaned(" ".join([*words, *(f"-s {name}={value}" for name, value in args.get("settings", {}).items())]))


def options_of(settings: BaseSettings, args: Mapping[str, Any], queue: str | None = None) -> dict[str, Any]:
    """Return how procrastinate is to keep a job.

    Raises:
        ConfigurationError: there is no such spider, or it does not take these arguments.
    """
    loader = get_spider_loader(settings)
    name = args["spider"]
    if name not in loader.list():
        raise ConfigurationError(f"There is no spider {name!r}; there are {', '.join(sorted(loader.list()))}.")
    spider = loader.load(name)
    own = Settings()
    own.update(settings)
    made: Any = spider.from_crawler(Crawler(spider, own), **args["arguments"])
    if made.argument_problem:
        raise ConfigurationError(made.argument_problem)
    digest = hashlib.sha256(json.dumps(dict(args), sort_keys=True).encode()).hexdigest()[:16]
    queue = queue or (BACKFILL if name == BACKFILL else CRAWLS)
    return {
        "lock": f"source {getattr(spider, 'source', name)}",
        "queueing_lock": f"{name} {digest}",
        "queue": queue,
        "priority": 10 if queue == CRAWLS else 0,
    }


def address(database_url: str) -> str:
    """Return what psycopg connects with.

    Raises:
        ConfigurationError: the database is not PostgreSQL.
    """
    url = parse_url(database_url)
    if url.get_backend_name() != "postgresql":
        raise ConfigurationError(
            "The queue needs PostgreSQL, which DATABASE_URL does not name; with SQLite, on one machine, "
            "`scrapy crawl` and `scrapy crawlall` do without a queue."
        )
    return conninfo(url, ANSWER)


@contextmanager
def open_queue(settings: BaseSettings, *, create: bool = True) -> Iterator[App | None]:
    """Open the queue; *create*: make its tables, and those of crawls, where there are none, else ``None``.

    Raises:
        ConfigurationError: the database is not PostgreSQL, or its tables may not be made.
        DatabaseUnavailableError: it does not answer.
    """
    database_url: str = settings["DATABASE_URL"].reveal()
    app = App(connector=SyncPsycopgConnector(conninfo=address(database_url), min_size=1, max_size=1, timeout=10))
    engine = open_engine(database_url, timeout=ANSWER)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # what it warns of is said in a sentence here
    try:
        with engine.connect():  # refuses at once, where the pool tries for a while
            pass
        if create:
            schema.ensure(engine)
        with app.open():
            there = _has_tables(app)
            if create and not there:
                try:
                    app.schema_manager.apply_schema()
                except ConnectorException:
                    if not _has_tables(app):  # else another one made them at the same moment
                        raise
            yield app if create or there else None
    except ConnectorException as error:
        said = str(error.__cause__ or error).strip().partition("\n")[0]
        if "permission denied" in said:
            raise ConfigurationError(
                "The role of DATABASE_URL may not make the queue's tables: run `scrapy queue setup` once with the role "
                "that owns the database."
            ) from None
        raise DatabaseUnavailableError(f"The database of DATABASE_URL refuses: {said}") from None
    finally:
        engine.dispose()


def _has_tables(app: App) -> bool:
    query = "SELECT to_regclass('procrastinate_jobs') IS NOT NULL AS there"
    return bool(app.connector.get_sync_connector().execute_query_one(query)["there"])


def enqueue(settings: BaseSettings, jobs: Sequence[Mapping[str, Any]], queue: str | None) -> list[dict[str, Any]]:
    """Put *jobs* into a queue (``None``: where they belong); one that waits already is left as it is.

    Args:
        settings: checked ones.
        jobs: of each ``spider``, ``arguments`` and ``settings``.
        queue: its name.

    Returns:
        Of each its ``job`` number, whether it is ``queued`` now or waited already, and what it is.

    Raises:
        ConfigurationError: one can't be run; none of them is queued then.
    """
    kept = [options_of(settings, job, queue) for job in jobs]
    found = []
    with open_queue(settings) as app:
        assert app
        for job, options in zip(jobs, kept, strict=True):
            try:
                number, queued = app.configure_task(TASK, **options).defer(**job), True
            except AlreadyEnqueued:
                twins = app.job_manager.list_jobs(status="todo", queueing_lock=options["queueing_lock"])
                number, queued = next((twin.id or 0 for twin in twins), 0), False
            found.append({"job": number, "queued": queued, **job})
    return found


def overview(settings: BaseSettings, limit: int) -> dict[str, Any] | None:
    """Return the state of the queue, *limit* jobs of each kind at most; ``None``: there is no queue yet."""
    patience = SILENCES * settings.getfloat("WORKER_HEARTBEAT")
    with open_queue(settings, create=False) as app:
        if app is None:
            return None
        counts: Counter[str] = Counter()
        for queue in app.job_manager.list_queues():
            counts.update({status.value: queue[status.value] for status in Status if queue.get(status.value)})
        query = "SELECT id, extract(epoch FROM now() - last_heartbeat)::float AS silent FROM procrastinate_workers"
        workers = app.connector.get_sync_connector().execute_query_all(f"{query} ORDER BY id")
        waiting = sorted(app.job_manager.list_jobs(status="todo"), key=lambda each: (-each.priority, each.id or 0))
        running = app.job_manager.list_jobs(status="doing")
        failed = app.job_manager.list_jobs(status="failed")[::-1]
    engine = open_engine(settings["DATABASE_URL"].reveal(), timeout=ANSWER)
    try:
        with engine.connect() as connection:
            return {
                "workers": [
                    {
                        "worker": each["id"],
                        "running": sum(job.worker_id == each["id"] for job in running),
                        "silent": round(each["silent"], 1),
                        "alive": each["silent"] < patience,
                    }
                    for each in workers
                ],
                "running": [_shown(connection, each, each.attempts + 1) for each in running[:limit]],
                "waiting": [_shown(connection, each, each.attempts) for each in waiting[:limit]],
                "failed": [_shown(connection, each, each.attempts) for each in failed[:limit]],
                "counts": dict(counts),
            }
    finally:
        engine.dispose()


def run_name(job: Job, tries: int) -> str:
    """Return the job id under which a try is in ``crawl_runs``."""
    return f"q{job.id}-{tries}"


def _shown(connection: Connection, job: Job, tries: int) -> dict[str, Any]:
    def moment(value: datetime | None) -> str | None:
        if value and value.tzinfo:
            value = value.astimezone(UTC)
        return f"{value:%Y-%m-%dT%H:%M:%SZ}" if value else None

    upload = job.task_kwargs.get("upload")
    name = str(upload) if upload else run_name(job, tries) if tries else None
    found = runs.find_run(connection, name) if name else None
    run = RunRecord(**found) if found else None
    return {
        "job": job.id,
        "what": name_of(job.task_kwargs),
        "spider": job.task_kwargs.get("spider"),
        "queue": job.queue,
        "not_before": moment(job.scheduled_at),
        "tries": tries,
        "run": name,
        "worker": job.worker_id,
        "host": run and run.host,
        "pid": run and run.pid,
        "started_at": moment(run.started_at if run else None),
        "finished_at": moment(run.finished_at if run else None),
        "outcome": run and run.status,
        "exit_code": run and run.exit_code,
        "why": run and run.reason,
    }
