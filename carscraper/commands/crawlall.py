"""``scrapy crawlall``: every dealer's crawl, each a process of its own."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

from carscraper import logs
from carscraper.command import ProjectCommand, add_json, add_spider_arguments
from carscraper.console import positive, table
from carscraper.dealers import choose, distribute, spiders_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping

    from scrapy.settings import BaseSettings

    from carscraper.command import Context
    from carscraper.console import Console
    from carscraper.runs.process import Crawl, CrawlOutcome

_LIVE_EVERY = 1  # seconds between two looks at how far the crawls are


class Command(ProjectCommand):
    """Starts the crawls, shows a line a dealer, says how each ended."""

    usage = "[--sources bilasolur,hekla] [--parallel N] [-a NAME=VALUE] [options]"
    summary = "Crawl every dealer, each in a process of its own"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        super().add_options(parser)
        parser.add_argument("--sources", metavar="NAMES", help="these dealers only, comma separated")
        parser.add_argument(
            "--parallel", metavar="N", type=positive, default=2, help="crawls at the same time (default 2)"
        )
        add_spider_arguments(parser, help="an argument for every spider; for one of them, DEALER.NAME=VALUE")
        parser.add_argument("--quiet", action="store_true", help="show the outcomes only, not what the crawls say")
        add_json(parser)

    def work(self, context: Context, opts: argparse.Namespace) -> int:
        """Crawl; exit code 0 if all succeeded, 3 if some did not, 4 if all failed or nothing could be started."""
        from carscraper.runs.process import exit_code

        console = context.console
        crawls, left_out = planned_crawls(context.settings, opts, often=logs.is_terminal())
        for dealer, why in left_out.items():
            console.note(f"{dealer}: left out. {why}")
        outcomes = asyncio.run(_crawl(context, crawls, parallel=opts.parallel, quiet=opts.quiet))
        code = exit_code(outcomes)
        data = {"dealers": [_as_json(each) for each in outcomes], "left_out": left_out, "exit_code": code}
        console.result(data, report(outcomes, left_out))
        return code


def planned_crawls(
    settings: BaseSettings, opts: argparse.Namespace, *, often: bool = False
) -> tuple[list[Crawl], dict[str, str]]:
    """Return the crawls, and who is left out and why; *often*: they say every second how far they are."""
    from carscraper.base_spiders.dealer import DealerSpider
    from carscraper.runs.process import Crawl

    spiders = spiders_of(settings, DealerSpider)
    known = {name: spider.source for name, spider in spiders.items()}
    arguments = distribute(opts.spargs, known)
    chosen = choose(known, opts.sources)
    left_out = {}
    if opts.sources is None:  # who is named is tried, and says what is missing
        keys = {dealer: getattr(spiders[dealer], "key_setting", None) for dealer in chosen}
        left_out = {dealer: f"{key} is not set." for dealer, key in keys.items() if key and not settings.get(key)}
    given = [*opts.set, *(["LOG_ENABLED=False"] if opts.nolog else ["LOG_ENABLED=True"] if opts.logfile else [])]
    if often and not any(each.startswith("PROGRESS_INTERVAL=") for each in given):
        given.append(f"PROGRESS_INTERVAL={_LIVE_EVERY}")
    return [
        Crawl(
            spider=dealer,
            job_id=uuid.uuid4().hex,
            arguments=arguments[dealer],
            settings=given,
            level=opts.loglevel,
            log_file=settings.get("LOG_FILE"),
        )
        for dealer in chosen
        if dealer not in left_out
    ], left_out


async def _crawl(context: Context, crawls: list[Crawl], *, parallel: int, quiet: bool) -> list[CrawlOutcome]:
    from carscraper.runs.process import CrawlOutcome, Processes

    slots = asyncio.Semaphore(parallel)
    screen = _Screen(context.console, {each.job_id: each.spider for each in crawls}, quiet=quiet)
    processes = Processes(context.settings["DATABASE_URL"].reveal(), on_line=screen.tell)
    processes.handle_signals()

    async def one(crawl: Crawl) -> CrawlOutcome:
        async with slots:
            if processes.stops:
                said = "stopped on request"
                return CrawlOutcome(spider=crawl.spider, outcome="not started", said=said, line=said)
            outcome = await processes.run(crawl)
        screen.end(crawl.job_id, outcome)
        return outcome

    return await asyncio.gather(*map(one, crawls))


class _Screen:
    """What is seen of the crawls: on a terminal a line each that is drawn anew, elsewhere line behind line."""

    def __init__(self, console: Console, names: dict[str, str], *, quiet: bool) -> None:
        self._console, self._names, self._quiet = console, names, quiet
        self._terminal = logs.is_terminal()
        self._live: dict[str, str] = {}

    def tell(self, job_id: str, line: str) -> None:
        line = f"{self._names[job_id]} | {line}"
        if self._quiet:
            return
        if self._terminal:
            self._live[job_id] = line
            self._console.live(list(self._live.values()))
        else:
            self._console.note(line)

    def end(self, job_id: str, outcome: CrawlOutcome) -> None:
        self._live.pop(job_id, None)
        self._console.live(list(self._live.values()))
        self._console.note(str(outcome))


def report(outcomes: Iterable[CrawlOutcome], left_out: Mapping[str, str]) -> list[str]:
    """Return the lines of the table at the end."""
    rows = [
        [each.spider, each.outcome, "" if each.code is None else each.code, f"{each.seconds:.0f}", each.line]
        for each in outcomes
    ]
    rows += [[dealer, "left out", "", "", why] for dealer, why in left_out.items()]
    return table(["dealer", "outcome", "code", "seconds", "last line"], rows, right=[2, 3])


def _as_json(each: CrawlOutcome) -> dict[str, object]:
    return {
        "dealer": each.spider,
        "outcome": each.outcome,
        "code": each.code,
        "seconds": round(each.seconds, 1),
        "said": each.said,
    }
