"""Makes a worker of the settings and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carscraper.db.engine import open_engine
from carscraper.jobs.job import Job
from carscraper.jobs.verbs import check, prepare, source_of
from carscraper.jobs.worker import Plan, Worker
from carscraper.settings import Secret

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from scrapy.settings import BaseSettings

_ANSWER = 30.0  # seconds


def run_worker(
    settings: BaseSettings,
    options: argparse.Namespace,
    *,
    say: Callable[[str], None],
    relay: Callable[[str, str], None],
) -> None:
    """Work until there is an end to it.

    Args:
        settings: checked.
        options: ``concurrency``, ``queues``, ``drain``, ``quiet``, and Scrapy's own.
        say: hears each line of the worker.
        relay: hears each line of its crawls, behind the name of the crawl.

    Raises:
        ConfigurationError: a setting is wrong, or the database is not one for workers.
        DatabaseUnavailableError: it was away at the beginning or at the end.
    """
    secret: Secret = settings["DATABASE_URL"]
    schedule: dict[str, str] = settings["WORKER_SCHEDULE"]
    sources = {spider: source_of(settings, spider) for spider in schedule}
    for spider in schedule:
        check(settings, Job(spider=spider))
    prepare(secret.reveal())
    queues = tuple(name.strip() for name in (options.queues or "").split(",") if name.strip())
    plan = Plan(
        database_url=secret.reveal(),
        concurrency=options.concurrency,
        queues=queues or None,
        drain=options.drain,
        schedule=schedule,
        sources={spider: source for spider, source in sources.items() if source},
        retries=settings.getint("WORKER_RETRIES"),
        retry_delay=settings.getfloat("WORKER_RETRY_DELAY"),
        heartbeat=settings.getfloat("WORKER_HEARTBEAT"),
        settings=tuple(options.set),
        level=options.loglevel,
        log_file=settings.get("LOG_FILE"),
        quiet=options.quiet,
    )
    engine = open_engine(secret.reveal(), timeout=_ANSWER)
    try:
        Worker(plan, engine, say=say, relay=relay).run()
    finally:
        engine.dispose()
