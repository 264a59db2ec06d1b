"""``scrapy enqueue``: puts crawls into the queue, after a look that they can be run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from scrapy.crawler import Crawler
from scrapy.settings import Settings
from scrapy.spiderloader import get_spider_loader

from carscraper.cli.verb import DONE, Verb
from carscraper.db import queue, schema
from carscraper.db.engine import open_engine
from carscraper.exceptions import ConfigurationError
from carscraper.jobs.job import BACKFILL, Job, pairs, shards
from carscraper.settings import Secret

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from scrapy.settings import BaseSettings

    from carscraper.cli.verb import Context

_MOST_SHARDS = 1000
_A_WHILE = 60.0  # seconds for one statement


def source_of(settings: BaseSettings, name: str) -> str | None:
    """Give the source of a dealer's spider, ``None`` of another.

    Raises:
        ConfigurationError: there is no such spider.
    """
    loader = get_spider_loader(settings)
    try:
        spider = loader.load(name)
    except KeyError:
        raise ConfigurationError(
            f"There is no spider {name!r}; there are {', '.join(sorted(loader.list()))}."
        ) from None
    found: str | None = getattr(spider, "source", None)
    return found


def check(settings: BaseSettings, job: Job) -> None:
    """See that the spider takes its arguments, as the crawl itself will.

    Raises:
        ConfigurationError: it does not.
    """
    spider = get_spider_loader(settings).load(job.spider)
    own = Settings()
    own.update(settings)
    made = spider.from_crawler(Crawler(spider, own), **job.arguments)
    problem = getattr(made, "argument_problem", None)
    if problem:
        raise ConfigurationError(problem)


def enqueue(context: Context, jobs: list[Job], name: str | None) -> list[dict[str, Any]]:
    """Put *jobs* into the queue *name* (``None``: where they belong); what waits there already is left as it is.

    Returns:
        Of each its ``job`` number, whether it is ``queued`` now or waited already, and what it is.

    Raises:
        ConfigurationError: one can't be run, or the database is not PostgreSQL.
        DatabaseUnavailableError: the database does not take them.
    """
    settings = context.settings
    sources = {job.spider: source_of(settings, job.spider) for job in jobs}
    for job in jobs:
        check(settings, job)
    secret: Secret = settings["DATABASE_URL"]
    url = secret.reveal()
    prepare(url)
    from carscraper.jobs.app import defer  # noqa: PLC0415 - procrastinate takes a third of a second to import

    numbers = defer(url, [(job, sources[job.spider], name or job.queue) for job in jobs])
    engine = open_engine(url, timeout=_A_WHILE)
    try:
        return [
            {
                "job": number or queue.transact(engine, queue.waiting_twin, job.queueing_lock),
                "queued": number is not None,
                **job.args(),
                "said": str(job),
            }
            for number, job in zip(numbers, jobs, strict=True)
        ]
    finally:
        engine.dispose()


def prepare(url: str) -> None:
    """See that the database has all tables that workers need; an empty one gets them.

    Raises:
        ConfigurationError: it is not PostgreSQL, or its tables are not this program's.
    """
    queue.connect_arguments(url)
    from carscraper.jobs.app import ensure_tables  # noqa: PLC0415 - see above

    engine = open_engine(url, timeout=_A_WHILE)
    try:
        schema.ensure(engine)
        ensure_tables(engine)
    finally:
        engine.dispose()


def job_settings(given: Iterable[str], secrets: Iterable[str]) -> dict[str, str]:
    """Read the settings of a job.

    Raises:
        ConfigurationError: one can't be read, or is a secret, which the queue must not hold.
    """
    settings = pairs(given, "-s")
    for name in settings:
        if name in set(secrets):
            raise ConfigurationError(
                f"{name} is a secret and does not go into the queue, where it could be read: give it to the workers."
            )
    return settings


# --- the verbs --------------------------------------------------------------------------------------------------


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-a", dest="spargs", action="append", default=[], metavar="NAME=VALUE", help="an argument of the spider"
    )
    parser.add_argument("--queue", metavar="NAME", type=_name, help="another queue than the usual one")


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", text):
        raise ValueError(text)
    return text


def _crawl_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spiders", nargs="+", metavar="SPIDER", help="the spider's name, as for scrapy crawl")
    _common(parser)


def _backfill_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="parts that run by themselves (default 1)")
    _common(parser)


def _settings(context: Context, options: argparse.Namespace) -> dict[str, str]:
    return job_settings(options.set, [name for name, value in context.settings.items() if isinstance(value, Secret)])


def _crawl(context: Context, options: argparse.Namespace) -> int:
    arguments, settings = pairs(options.spargs, "-a"), _settings(context, options)
    jobs = [Job(spider=name, arguments=arguments, settings=settings) for name in dict.fromkeys(options.spiders)]
    _show(context, enqueue(context, jobs, options.queue), [])
    return DONE


def _backfill(context: Context, options: argparse.Namespace) -> int:
    arguments, settings = pairs(options.spargs, "-a"), _settings(context, options)
    count = options.shards
    if not 1 <= count <= _MOST_SHARDS:
        raise ConfigurationError(f"--shards is {count}; write a number from 1 to {_MOST_SHARDS:,}.")
    if "shard" in arguments:
        raise ConfigurationError("The shards are made by --shards; leave -a shard out.")
    parted = shards(count, arguments) if count > 1 else [Job(spider=BACKFILL, arguments=arguments)]
    jobs = [Job(spider=job.spider, arguments=job.arguments, settings=settings) for job in parted]
    _refuse_overlap(context, count)
    notes = []
    limit = arguments.get("limit") or ("0" if arguments.get("manifest") else "100")
    if count > 1 and limit != "0":
        notes.append(f"limit={limit} is each shard's: up to {int(limit) * count:,} photos of a source in all.")
    _show(context, enqueue(context, jobs, options.queue), notes)
    return DONE


def _refuse_overlap(context: Context, count: int) -> None:
    """Refuse a backfill in other parts than the one that is not done: some photos would be in two of them."""
    secret: Secret = context.settings["DATABASE_URL"]
    prepare(secret.reveal())
    engine = open_engine(secret.reveal(), timeout=_A_WHILE)
    try:
        unfinished = queue.transact(engine, queue.unfinished_arguments, BACKFILL)
    finally:
        engine.dispose()
    others = {each.get("shard", "1/1").partition("/")[2] for each in unfinished} - {str(count)}
    if others:
        raise ConfigurationError(
            f"A backfill with --shards {min(others)} is not done, and its parts would not be these: let it end, cancel "
            f"what is left of it (`scrapy queue cancel`), or write --shards {min(others)}."
        )


def _show(context: Context, queued: list[dict[str, Any]], notes: list[str]) -> None:
    lines = [
        f"job {each['job']}: {each['said']}" if each["queued"] else f"job {each['job']} waits already: {each['said']}"
        for each in queued
    ]
    data = [{name: value for name, value in each.items() if name != "said"} for each in queued]
    context.console.result({"jobs": data, "notes": notes}, [*lines, *notes])


VERBS = [
    Verb(name="crawl", summary="Put crawls into the queue", arguments=_crawl_arguments, run=_crawl),
    Verb(
        name="backfill",
        summary="Put a backfill into the queue, in parts for several workers",
        arguments=_backfill_arguments,
        run=_backfill,
    ),
]
"""What can be put into the queue."""
