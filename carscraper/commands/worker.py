"""``scrapy worker``: runs what is in the queue."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from carscraper import logs
from carscraper.command import ProjectCommand
from carscraper.console import positive
from carscraper.state import ExitCode

if TYPE_CHECKING:
    import argparse

    from carscraper.command import Context


class Command(ProjectCommand):
    """Takes crawls from the queue until it is told to stop."""

    usage = "[--concurrency N] [--queues NAMES] [--drain] [--quiet] [options]"
    summary = "Run crawls from the queue, on as many machines as there are"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        super().add_options(parser)
        parser.add_argument(
            "--concurrency", metavar="N", type=positive, default=1, help="crawls at the same time (default 1)"
        )
        parser.add_argument("--queues", metavar="NAMES", default="", help="these queues only, comma separated")
        parser.add_argument("--drain", action="store_true", help="end when nothing is due")
        parser.add_argument("--quiet", action="store_true", help="show the outcomes only, not what the crawls say")

    def work(self, context: Context, opts: argparse.Namespace) -> int:
        """Work; exit code 0 when it was told to stop or has nothing to do, 4 with a sentence if it can't go on."""
        from carscraper.queue import open_queue
        from carscraper.worker import Worker

        settings = context.settings
        logs.install(settings)
        say = partial(logs.say, settings, name="carscraper.worker")

        def relay(run: str, line: str) -> None:
            if opts.quiet:
                return
            if logs.is_json(settings) and line.startswith("{"):
                print(line, file=sys.stderr, flush=True)  # it says itself whose it is
            else:
                say(f"{run} | {line}")

        worker = Worker(
            settings,
            concurrency=opts.concurrency,
            queues=[name.strip() for name in opts.queues.split(",") if name.strip()],
            drain=opts.drain,
            given=opts.set,
            level=opts.loglevel,
            say=say,
            relay=relay,
        )
        with open_queue(settings):  # makes what is missing
            pass
        worker.run()
        return ExitCode.SUCCESS
