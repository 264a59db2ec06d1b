"""``scrapy storage VERB``: everything about the bucket."""

from __future__ import annotations

import argparse
import os
import sys

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError
from sqlalchemy.exc import DBAPIError

from carscraper.addon import CarscraperAddon
from carscraper.cli.console import Console
from carscraper.cli.storage import verbs
from carscraper.cli.verb import FAILED, Context, Verb
from carscraper.exceptions import CarscraperError, ConfigurationError


class Command(ScrapyCommand):
    """Finds the verb, runs it, turns what goes wrong into a sentence and an exit code."""

    requires_project = True
    requires_crawler_process = False

    def syntax(self) -> str:
        """Give the usage."""
        return "VERB [options]"

    def short_desc(self) -> str:
        """Give the one-line description."""
        return "Everything about the bucket: set up, check, look, change, audit"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add a parser for each verb."""
        super().add_options(parser)
        found = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        for verb in verbs():
            its = found.add_parser(verb.name, help=verb.summary, description=verb.summary)
            # Scrapy's own option, also behind the verb.
            its.add_argument("-s", "--set", dest="set_behind", action="append", default=[], metavar="NAME=VALUE")
            if verb.json:
                its.add_argument("--json", action="store_true", help="print the result as JSON")
            if verb.changes:
                its.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")
                its.add_argument("--yes", action="store_true", help="do not ask")
            verb.arguments(its)
            its.set_defaults(the_verb=verb)

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        """Take settings from before and behind the verb."""
        opts.set = [*opts.set, *opts.set_behind]
        super().process_options(args, opts)

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Run the verb; exit code 4 with a sentence if it can't be done."""
        if args:
            raise UsageError(f"`scrapy storage {opts.verb}` does not know {' '.join(args)}", print_help=False)
        verb: Verb = opts.the_verb
        console = Console(as_json=getattr(opts, "json", False), assume_yes=getattr(opts, "yes", False))
        try:
            self.exitcode = verb.run(self._context(console), opts)
            sys.stdout.flush()
        except CarscraperError as error:
            self._end(str(error))
        except DBAPIError as error:
            self._end(f"The database of DATABASE_URL refuses: {str(error.orig).strip().splitlines()[0]}")
        except BrokenPipeError:
            # Whoever read our output has seen enough; what is still buffered goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        finally:
            console.end_progress()

    def _context(self, console: Console) -> Context:
        assert self.settings is not None
        CarscraperAddon().update_settings(self.settings)
        problems = self.settings.getlist("CARSCRAPER_PROBLEMS")
        if problems:
            raise ConfigurationError(" ".join(problems))
        return Context(self.settings, console)

    def _end(self, sentence: str) -> None:
        print(sentence, file=sys.stderr)
        self.exitcode = FAILED
