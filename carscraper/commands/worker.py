"""``scrapy worker``: runs what is in the queue."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from carscraper import logs
from carscraper.cli.command import border, checked


class Command(ScrapyCommand):
    """Takes crawls from the queue until it is told to stop."""

    requires_project = True
    requires_crawler_process = False

    def syntax(self) -> str:
        """Return the usage."""
        return "[--concurrency N] [--queues NAMES] [--drain] [--quiet] [options]"

    def short_desc(self) -> str:
        """Return the one-line description."""
        return "Run crawls from the queue, on as many machines as there are"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        super().add_options(parser)
        parser.add_argument(
            "--concurrency", metavar="N", type=int, default=1, help="crawls at the same time (default 1)"
        )
        parser.add_argument("--queues", metavar="NAMES", default="", help="these queues only, comma separated")
        parser.add_argument("--drain", action="store_true", help="end when nothing waits")
        parser.add_argument("--quiet", action="store_true", help="show the outcomes only, not what the crawls say")

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Work; exit code 0 when it was told to stop or has nothing to do, 4 with a sentence if it can't go on."""
        if args:
            raise UsageError(f"`scrapy worker` does not know {' '.join(args)}", print_help=False)
        if opts.concurrency < 1:
            raise UsageError("--concurrency takes a number of at least 1", print_help=False)
        from carscraper.db.engine import explained  # noqa: PLC0415 - a help text needs no SQLAlchemy

        with border(self), explained():
            settings = checked(self.settings)
            logs.install(settings)
            # Not before: procrastinate takes a third of a second to import, and Scrapy imports every command.
            from carscraper.queue import open_queue  # noqa: PLC0415
            from carscraper.worker import Worker  # noqa: PLC0415

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
