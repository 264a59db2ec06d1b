"""``scrapy crawlall``: every dealer's crawl, each a process of its own."""

from __future__ import annotations

import argparse
import re

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from carscraper import logs
from carscraper.base_spiders.dealer import DealerSpider
from carscraper.cli.command import border, checked
from carscraper.cli.console import Console
from carscraper.cli.crawls import Crawls, Outcome, command_of, exit_code, report
from carscraper.dealers import choose, distribute, spiders_of

_LIVE_EVERY = 1  # seconds between two looks at how far the crawls are


class Command(ScrapyCommand):
    """Starts the crawls, shows what they say, tells how each ended."""

    requires_project = True
    requires_crawler_process = False

    def syntax(self) -> str:
        """Give the usage."""
        return "[--sources bilasolur,hekla] [--parallel N] [-a NAME=VALUE] [options]"

    def short_desc(self) -> str:
        """Give the one-line description."""
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
            self._crawl(opts)

    def _crawl(self, opts: argparse.Namespace) -> None:
        console = Console(as_json=opts.json)
        terminal = logs.is_terminal()
        commands, left_out = self._plan(opts, often=terminal)
        for dealer, why in left_out.items():
            console.note(f"{dealer}: left out. {why}")

        live: dict[str, str] = {}

        def tell(dealer: str, line: str) -> None:
            if opts.quiet:
                return
            if not terminal:
                console.note(f"{dealer} | {line}")
            elif line.startswith(f"{dealer}: pages "):
                live[dealer] = line
                console.live(list(live.values()))
            elif re.search(r"\] (WARNING|ERROR|CRITICAL): ", line):
                console.note(f"{dealer} | {line}")

        def ended(each: Outcome) -> None:
            live.pop(each.dealer, None)
            console.live(list(live.values()))
            console.note(f"{each.dealer}: {each.outcome} (exit code {each.code}, {each.seconds:.0f} s). {each.line()}")

        outcomes = Crawls(commands, parallel=opts.parallel, on_line=tell, on_end=ended).run()
        self.exitcode = exit_code(outcomes)
        data = {"dealers": [each.as_json() for each in outcomes], "left_out": left_out, "exit_code": self.exitcode}
        console.result(data, report(outcomes, left_out))

    def _plan(self, opts: argparse.Namespace, *, often: bool = False) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Return each crawl's command, and who is left out and why; *often*: they say every second how far they are."""
        checked(self.settings)
        assert self.settings is not None
        spiders = spiders_of(self.settings, DealerSpider)
        known = {name: spider.source for name, spider in spiders.items()}
        arguments = distribute((each.split("=", 1) for each in opts.spargs), known)
        chosen = choose(known, opts.sources)
        left_out = {}
        if opts.sources is None:  # who is named is tried, and says what is missing
            keys = {dealer: getattr(spiders[dealer], "key_setting", None) for dealer in chosen}
            without = {dealer: key for dealer, key in keys.items() if key and not self.settings.get(key)}
            left_out = {dealer: f"{key} is not set." for dealer, key in without.items()}
        settings = [*opts.set, *(["LOG_ENABLED=False"] if opts.nolog else ["LOG_ENABLED=True"] if opts.logfile else [])]
        if often and not any(each.startswith("PROGRESS_INTERVAL=") for each in settings):
            settings.append(f"PROGRESS_INTERVAL={_LIVE_EVERY}")
        log_file = self.settings.get("LOG_FILE")
        return {
            dealer: command_of(dealer, arguments[dealer], settings=settings, level=opts.loglevel, log_file=log_file)
            for dealer in chosen
            if dealer not in left_out
        }, left_out
