"""``scrapy crawlall``: every dealer's crawl, each a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import uuid
from typing import TYPE_CHECKING

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from carscraper import logs
from carscraper.base_spiders.dealer import DealerSpider
from carscraper.cli.command import border, checked
from carscraper.cli.console import Console, table
from carscraper.dealers import choose, distribute, spiders_of
from carscraper.runs.process import Crawl, Outcome, Processes, exit_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LIVE_EVERY = 1  # seconds between two looks at how far the crawls are


class Command(ScrapyCommand):
    """Starts the crawls, shows a line a dealer, says how each ended."""

    requires_project = True
    requires_crawler_process = False

    def syntax(self) -> str:
        """Return the usage."""
        return "[--sources bilasolur,hekla] [--parallel N] [-a NAME=VALUE] [options]"

    def short_desc(self) -> str:
        """Return the one-line description."""
        return "Crawl every dealer, each in a process of its own"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        super().add_options(parser)
        parser.add_argument("--sources", metavar="NAMES", help="these dealers only, comma separated")
        parser.add_argument("--parallel", metavar="N", type=int, default=2, help="crawls at the same time (default 2)")
        parser.add_argument(
            "-a",
            dest="spargs",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="an argument for every spider; for one of them, DEALER.NAME=VALUE",
        )
        parser.add_argument("--quiet", action="store_true", help="show the outcomes only, not what the crawls say")
        parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Crawl; exit code 0 if all succeeded, 3 if some did not, 4 if all failed or nothing could be started."""
        if args:
            raise UsageError(f"`scrapy crawlall` does not know {' '.join(args)}", print_help=False)
        if opts.parallel < 1:
            raise UsageError("--parallel takes a number of at least 1", print_help=False)
        if not all("=" in each for each in opts.spargs):
            raise UsageError("-a takes NAME=VALUE", print_help=False)
        with border(self):
            console = Console(as_json=opts.json)
            crawls, left_out = self._plan(opts, often=logs.is_terminal())
            for dealer, why in left_out.items():
                console.note(f"{dealer}: left out. {why}")
            outcomes = asyncio.run(self._crawl(crawls, console, parallel=opts.parallel, quiet=opts.quiet))
            self.exitcode = exit_code(outcomes)
            data = {"dealers": [_as_json(each) for each in outcomes], "left_out": left_out, "exit_code": self.exitcode}
            console.result(data, report(outcomes, left_out))

    async def _crawl(self, crawls: list[Crawl], console: Console, *, parallel: int, quiet: bool) -> list[Outcome]:
        assert self.settings is not None
        terminal = logs.is_terminal()
        slots = asyncio.Semaphore(parallel)
        names = {each.job_id: each.spider for each in crawls}
        live: dict[str, str] = {}

        def tell(job_id: str, line: str) -> None:
            line = f"{names[job_id]} | {line}"
            if terminal and not quiet:
                live[job_id] = line
                console.live(list(live.values()))
            elif not quiet:
                console.note(line)

        processes = Processes(self.settings["DATABASE_URL"].reveal(), on_line=tell)
        processes.handle_signals()

        async def one(crawl: Crawl) -> Outcome:
            async with slots:
                if processes.stops:
                    said = "stopped on request"
                    return Outcome(spider=crawl.spider, outcome="not started", said=said, line=said)
                outcome = await processes.run(crawl)
            live.pop(crawl.job_id, None)
            console.live(list(live.values()))
            console.note(str(outcome))
            return outcome

        return await asyncio.gather(*map(one, crawls))

    def _plan(self, opts: argparse.Namespace, *, often: bool = False) -> tuple[list[Crawl], dict[str, str]]:
        """Return the crawls, and who is left out and why; *often*: they say every second how far they are."""
        settings = checked(self.settings)
        spiders = spiders_of(settings, DealerSpider)
        known = {name: spider.source for name, spider in spiders.items()}
        arguments = distribute((each.split("=", 1) for each in opts.spargs), known)
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


def report(outcomes: Iterable[Outcome], left_out: Mapping[str, str]) -> list[str]:
    """Return the lines of the table at the end."""
    rows = [
        [each.spider, each.outcome, "" if each.code is None else each.code, f"{each.seconds:.0f}", each.line]
        for each in outcomes
    ]
    rows += [[dealer, "left out", "", "", why] for dealer, why in left_out.items()]
    return table(["dealer", "outcome", "code", "seconds", "last line"], rows, right=[2, 3])


def _as_json(each: Outcome) -> dict[str, object]:
    return {
        "dealer": each.spider,
        "outcome": each.outcome,
        "code": each.code,
        "seconds": round(each.seconds, 1),
        "said": each.said,
    }
