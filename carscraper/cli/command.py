"""What ``scrapy storage`` and ``scrapy runs`` share: a command that is a set of verbs."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from carscraper.addon import CarscraperAddon, in_a_sentence
from carscraper.cli.console import Console
from carscraper.cli.verb import FAILED, Context, Verb
from carscraper.exceptions import CarscraperError, ConfigurationError
from carscraper.logs import cleaned, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scrapy.settings import BaseSettings


def checked(settings: BaseSettings | None) -> BaseSettings:
    """Return a command's *settings*, checked.

    Raises:
        ConfigurationError: with what is wrong with them.
    """
    assert settings is not None
    CarscraperAddon().update_settings(settings)
    if problems := settings.getlist("CARSCRAPER_PROBLEMS"):
        raise ConfigurationError(" ".join(problems))
    return settings


@contextlib.contextmanager
def border(command: ScrapyCommand) -> Iterator[None]:
    """Turn whatever is raised inside into one sentence on standard error and exit code 4.

    ``-L DEBUG`` shows the traceback of what nobody foresaw.
    """
    try:
        yield
    except UsageError:
        raise
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        console = Console()
        unforeseen = not isinstance(error, CarscraperError)
        if unforeseen and command.settings and str(command.settings["LOG_LEVEL"]).upper() == "DEBUG":
            console.note(cleaned(traceback.format_exc()))
        console.note(printable(in_a_sentence(error)))
        command.exitcode = FAILED


class _VerbParser(argparse.ArgumentParser):
    """The parser of one verb, which gets its arguments when the verb is the one that is meant."""

    verb: Verb | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse what stands behind the verb."""
        if self.verb:
            self.verb.arguments(self)
            self.verb = None
        return super().parse_known_args(args, namespace)


class VerbCommand(ScrapyCommand):
    """Finds the verb, runs it, turns what goes wrong into a sentence and an exit code."""

    requires_project = True
    requires_crawler_process = False
    name: str
    """As it is typed behind ``scrapy``."""
    default: str | None = None
    """The verb that is meant when none is said."""
    verbs: Sequence[Verb] = ()
    """In the order in which they are shown."""
    gone: Mapping[str, str] = MappingProxyType({})
    """Verbs of earlier versions, each with the sentence that says what to use instead."""

    def syntax(self) -> str:
        """Return the usage."""
        return "VERB [options]"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add a parser for each verb."""
        super().add_options(parser)
        self._parser = parser
        found = parser.add_subparsers(
            dest="verb", metavar="VERB", required=self.default is None, parser_class=_VerbParser
        )
        for verb in self.verbs:
            its = found.add_parser(verb.name, help=verb.summary, description=verb.summary)
            # Scrapy's own option, also behind the verb.
            its.add_argument("-s", "--set", dest="set_behind", action="append", default=[], metavar="NAME=VALUE")
            if verb.json:
                its.add_argument("--json", action="store_true", help="print the result as JSON")
            if verb.changes:
                its.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")
                its.add_argument("--yes", action="store_true", help="do not ask")
            its.verb = verb
            its.set_defaults(the_verb=verb)
        for name in self.gone:
            its = found.add_parser(name, add_help=False)  # without a help text it is not listed
            its.set_defaults(the_verb=None, set_behind=[])

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        """Take settings from before and behind the verb, or the verb that is meant without one."""
        if opts.verb is None:
            left = [str(self.default), *args]
            args.clear()
            self._parser.parse_args(left, opts)
        opts.set = [*opts.set, *opts.set_behind]
        super().process_options(args, opts)

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Run the verb; exit code 4 with a sentence if it can't be done."""
        if args and opts.verb not in self.gone:
            raise UsageError(f"`scrapy {self.name} {opts.verb}` does not know {' '.join(args)}", print_help=False)
        verb: Verb | None = opts.the_verb
        console = Console(as_json=getattr(opts, "json", False), assume_yes=getattr(opts, "yes", False))
        from carscraper.db.engine import explained  # noqa: PLC0415 - a help text needs no SQLAlchemy

        with border(self):
            if verb is None:
                raise ConfigurationError(self.gone[opts.verb])
            try:
                with explained():
                    self.exitcode = verb.run(Context(checked(self.settings), console), opts)
                sys.stdout.flush()
            finally:
                console.end_progress()
