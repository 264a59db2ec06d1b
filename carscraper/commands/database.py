"""``scrapy database upgrade|version``: the tables."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from carscraper.cli.command import border, checked

if TYPE_CHECKING:
    from carscraper.settings import Secret

_A_LONG_TIME = 3600.0  # seconds; adopting a table of millions of rows is no query of a crawl


class Command(ScrapyCommand):
    """Plan, show, apply."""

    requires_project = True
    requires_crawler_process = False

    def syntax(self) -> str:
        """Return the usage."""
        return "upgrade|version [--dry-run] [--json]"

    def short_desc(self) -> str:
        """Return the one-line description."""
        return "Create or upgrade the database's tables, or show their version"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        super().add_options(parser)
        parser.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Run the verb; exit code 4 if the database can't be reached."""
        if args not in [["upgrade"], ["version"]]:
            raise UsageError("say `scrapy database upgrade` or `scrapy database version`")
        with border(self):
            self._run(args, opts)

    def _run(self, args: list[str], opts: argparse.Namespace) -> None:
        from carscraper.db import schema  # noqa: PLC0415 - a help text needs no SQLAlchemy
        from carscraper.db.engine import open_engine  # noqa: PLC0415 - the same

        url: Secret = checked(self.settings)["DATABASE_URL"]
        engine = open_engine(url.reveal(), timeout=_A_LONG_TIME)
        with engine.connect() as connection:
            before = schema.current(connection)
        if args == ["upgrade"] and not opts.dry_run:
            schema.upgrade(engine)
        with engine.connect() as connection:
            after = schema.current(connection)
        needed = schema.HEAD
        if opts.json:
            print(json.dumps({"before": before, "version": after, "needed": needed}))
        elif after == needed:
            print(f"version {after}" + ("" if before == after else f" (was {before or 'none'})"))
        else:
            print(f"version {after or 'none'}; this program needs {needed}: run `scrapy database upgrade`")
