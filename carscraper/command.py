"""What this program's commands share: checked settings, a sentence and an exit code for what goes wrong, verbs.

Scrapy imports every module of ``commands/`` at each start and takes every command class there for a command. So the
base classes stand here, and what a command needs beyond its help text is imported when it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from carscraper.addon import CarscraperAddon, in_a_sentence
from carscraper.console import Console, pair
from carscraper.exceptions import CarscraperError, ConfigurationError
from carscraper.logs import cleaned, printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from scrapy.settings import BaseSettings
    from sqlalchemy import Engine

    from carscraper.settings import Secret
    from carscraper.storage.client import S3Options

_INTERRUPTED = 130  # as shells say it of SIGINT
LONG_TIMEOUT = 3600.0
"""Seconds: walking over millions of rows is no query of a crawl."""


def checked(settings: BaseSettings) -> BaseSettings:
    """Return a command's *settings*, checked.

    Raises:
        ConfigurationError: with what is wrong with them.
    """
    CarscraperAddon().update_settings(settings)
    if problems := settings.getlist("CARSCRAPER_PROBLEMS"):
        raise ConfigurationError(" ".join(problems))
    return settings


@contextlib.contextmanager
def border(command: ScrapyCommand) -> Iterator[None]:
    """Turn whatever is raised inside into one sentence on standard error and exit code 4, and Ctrl+C into 130.

    ``-L DEBUG`` shows the traceback of what nobody foresaw.
    """
    try:
        yield
    except UsageError:
        raise
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        Console().note("Stopped by Ctrl+C: what is done stays, the same command does the rest.")
        command.exitcode = _INTERRUPTED
    except Exception as error:
        console = Console()
        unforeseen = not isinstance(error, CarscraperError)
        if unforeseen and command.settings and str(command.settings["LOG_LEVEL"]).upper() == "DEBUG":
            console.note(cleaned(traceback.format_exc()))
        console.note(printable(in_a_sentence(error)))
        command.exitcode = ExitCode.FAILED


class Context:
    """What commands work with, each made when it is first needed."""

    def __init__(self, settings: BaseSettings, console: Console) -> None:
        """Accept checked settings."""
        self.settings = settings
        self.console = console

    @cached_property
    def options(self) -> S3Options:
        """The bucket and who may enter it.

        Raises:
            ConfigurationError: ``AWS_S3_BUCKET`` is missing.
        """
        if not self.settings.getbool("USE_S3_STORAGE") and not self.settings.get("AWS_S3_BUCKET"):
            raise ConfigurationError(
                "Photos go to a folder, there is no bucket: set USE_S3_STORAGE=true and AWS_S3_BUCKET to use one."
            )
        from carscraper.storage.client import S3Options  # noqa: PLC0415 - see above

        return S3Options.from_settings(self.settings)

    @cached_property
    def client(self) -> Any:
        """A boto3 client for the bucket's server."""
        from carscraper.storage.client import open_client  # noqa: PLC0415 - see above

        return open_client(self.options)

    @contextlib.contextmanager
    def database(self, *, read_only: bool = False, create: bool = True) -> Iterator[Engine]:
        """Open the database.

        Args:
            read_only: refuse every write.
            create: make tables in an empty database.

        Raises:
            ConfigurationError: it can't be reached, or its tables are not this program's.
        """
        from carscraper.db import schema  # noqa: PLC0415 - see above
        from carscraper.db.engine import is_there, open_engine  # noqa: PLC0415 - see above

        secret: Secret = self.settings["DATABASE_URL"]
        if not create and not is_there(secret.reveal()):
            raise ConfigurationError("There is no database at DATABASE_URL yet: run a crawl first.")
        engine = open_engine(secret.reveal(), timeout=LONG_TIMEOUT, read_only=read_only)
        try:
            schema.ensure(engine, create=create and not read_only)
            yield engine
        finally:
            engine.dispose()


class ProjectCommand(ScrapyCommand):
    """A command that is described by attributes, and whose work ends in an exit code or a sentence."""

    requires_project = True
    requires_crawler_process = False
    usage: ClassVar[str]
    """What stands behind its name."""
    summary: ClassVar[str]
    """One line."""
    checks_settings: ClassVar[bool] = True
    """False: what it does in this process is a crawl, which checks its settings by itself."""

    def syntax(self) -> str:
        """Return the usage."""
        return self.usage

    def short_desc(self) -> str:
        """Return the one-line description."""
        return self.summary

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Do the work; *args* is what no option or argument took."""
        assert self.settings is not None
        if args:
            self._refuse(args, opts)
        console = Console(as_json=getattr(opts, "json", False), assume_yes=getattr(opts, "yes", False))
        with border(self):
            from carscraper.db.engine import explained_database  # noqa: PLC0415 - see above

            try:
                with explained_database():
                    settings = checked(self.settings) if self.checks_settings else self.settings
                    self.exitcode = self.work(Context(settings, console), opts)
                sys.stdout.flush()
            finally:
                console.end_progress()

    def work(self, context: Context, opts: argparse.Namespace) -> int:
        """Return the exit code, or raise ``CarscraperError`` with a sentence that names the fix."""
        raise NotImplementedError

    def _refuse(self, args: list[str], opts: argparse.Namespace) -> None:
        words = ["scrapy", type(self).__module__.rpartition(".")[2], *filter(None, [getattr(opts, "verb", None)])]
        raise UsageError(f"`{' '.join(words)}` does not know {' '.join(args)}", print_help=False)


def add_spider_arguments(parser: argparse.ArgumentParser, help: str, metavar: str = "NAME=VALUE") -> None:  # noqa: A002 - argparse's name
    """Add ``-a NAME=VALUE``, which gives ``spargs``: pairs."""
    parser.add_argument("-a", dest="spargs", action="append", default=[], type=pair, metavar=metavar, help=help)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


@dataclass(frozen=True)
class Verb:
    """One verb, such as ``list`` of ``scrapy storage list``; every verb has ``--json``."""

    name: str
    summary: str
    """One line for the help and the documentation."""
    run: Callable[[Context, argparse.Namespace], int]
    """Return the exit code, or raise ``CarscraperError`` with a sentence that names the fix."""
    arguments: Callable[[argparse.ArgumentParser], None] = lambda _: None
    """Add its arguments to a parser."""
    changes: bool = False
    """It changes something: it gets ``--dry-run`` and ``--yes``."""


class _Verbs(dict[str, argparse.ArgumentParser]):
    """Verbs and their parsers: those that are *gone* are taken, to be told what to use instead, and not listed."""

    def __init__(self, parsers: Mapping[str, argparse.ArgumentParser], gone: Mapping[str, str]) -> None:
        super().__init__(parsers)
        self._gone = gone

    def __iter__(self) -> Iterator[str]:
        return (name for name in super().__iter__() if name not in self._gone)


class VerbCommand(ProjectCommand):
    """A command that is a set of verbs."""

    usage = "VERB [options]"
    default: ClassVar[str | None] = None
    """The verb that is meant when none is said."""
    verbs: ClassVar[Sequence[Verb]]
    """In the order in which they are shown."""
    gone: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Verbs of earlier versions, each with the sentence that says what to use instead."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add a parser for each verb."""
        super().add_options(parser)
        self._parser = parser
        found = parser.add_subparsers(dest="verb", metavar="VERB", required=self.default is None)
        for verb in self.verbs:
            its = found.add_parser(verb.name, help=verb.summary, description=verb.summary)
            # Scrapy's own option, also behind the verb.
            its.add_argument("-s", "--set", dest="set_behind", action="append", default=[], metavar="NAME=VALUE")
            add_json(its)
            if verb.changes:
                its.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")
                its.add_argument("--yes", action="store_true", help="do not ask")
            verb.arguments(its)
        for name in self.gone:
            found.add_parser(name, add_help=False).set_defaults(set_behind=[])  # without a help text it is not listed
        found.choices = _Verbs(found.choices, self.gone)

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        """Take settings from before and behind the verb, or the verb that is meant without one."""
        if opts.verb is None:
            left = [str(self.default), *args]
            args.clear()
            self._parser.parse_args(left, opts)
        opts.set = [*opts.set, *opts.set_behind]
        super().process_options(args, opts)

    def work(self, context: Context, opts: argparse.Namespace) -> int:
        """Do what the verb says.

        Raises:
            ConfigurationError: it is one of an earlier version.
        """
        if opts.verb in self.gone:
            raise ConfigurationError(self.gone[opts.verb])
        return next(verb for verb in self.verbs if verb.name == opts.verb).run(context, opts)

    def _refuse(self, args: list[str], opts: argparse.Namespace) -> None:
        if opts.verb not in self.gone:
            super()._refuse(args, opts)
