"""What a verb of a command is: its words, and what it works with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from carscraper.exceptions import ConfigurationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from scrapy.settings import BaseSettings
    from sqlalchemy import Engine

    from carscraper.cli.console import Console
    from carscraper.settings import Secret
    from carscraper.storage.client import S3Options

    Functions = tuple[Callable[[argparse.ArgumentParser], None], Callable[["Context", argparse.Namespace], int]]

DONE, PARTIAL, FAILED = 0, 3, 4
"""Exit codes: all is well · done in part, or something is wrong with what was looked at · nothing was done."""

_A_LONG_TIME = 3600.0  # seconds; walking over millions of rows is no query of a crawl


@dataclass(frozen=True)
class Verb:
    """One verb, such as ``list`` of ``scrapy storage list``.

    Its module has in ``FUNCTIONS``, by name, what adds its arguments to a parser, and what does it: that returns the
    exit code, or raises ``CarscraperError`` with a sentence that names the fix. The module is imported when the verb is
    used: SQLAlchemy and botocore, which it needs, take longer than showing a help text may.
    """

    name: str
    module: str
    summary: str
    """One line for the help and the documentation."""
    changes: bool = False
    """It changes something: it gets ``--dry-run`` and ``--yes``."""
    json: bool = True
    """It gets ``--json``."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        self._functions[0](parser)

    def run(self, context: Context, options: argparse.Namespace) -> int:
        """Do it."""
        return self._functions[1](context, options)

    @property
    def _functions(self) -> Functions:
        functions: dict[str, Functions] = import_module(self.module).FUNCTIONS
        return functions[self.name]


class Context:
    """What verbs work with, each made when it is first needed."""

    def __init__(self, settings: BaseSettings, console: Console) -> None:
        """Take checked settings."""
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
        from carscraper.storage.client import S3Options  # noqa: PLC0415 - a help text needs no botocore

        return S3Options.from_settings(self.settings)

    @cached_property
    def client(self) -> Any:
        """A boto3 client for the bucket's server."""
        from carscraper.storage.client import open_client  # noqa: PLC0415 - the same

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
        from carscraper.db import schema  # noqa: PLC0415 - nor SQLAlchemy
        from carscraper.db.engine import is_there, open_engine  # noqa: PLC0415 - the same

        secret: Secret = self.settings["DATABASE_URL"]
        if not create and not is_there(secret.reveal()):
            raise ConfigurationError("There is no database at DATABASE_URL yet: run a crawl first.")
        engine = open_engine(secret.reveal(), timeout=_A_LONG_TIME, read_only=read_only)
        try:
            schema.ensure(engine, create=create and not read_only)
            yield engine
        finally:
            engine.dispose()
