"""``scrapy database VERB``: the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carscraper.command import LONG_TIMEOUT, Verb, VerbCommand
from carscraper.state import ExitCode

if TYPE_CHECKING:
    import argparse

    from carscraper.command import Context
    from carscraper.settings import Secret


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")


def _run(context: Context, options: argparse.Namespace) -> int:
    from carscraper.db import schema
    from carscraper.db.engine import open_engine

    url: Secret = context.settings["DATABASE_URL"]
    engine = open_engine(url.reveal(), timeout=LONG_TIMEOUT)
    with engine.connect() as connection:
        before = schema.current(connection)
    if options.verb == "upgrade" and not options.dry_run:
        schema.upgrade(engine)
    with engine.connect() as connection:
        after = schema.current(connection)
    needed = schema.HEAD
    text = f"version {after or 'none'}; this program needs {needed}: run `scrapy database upgrade`"
    if after == needed:
        text = f"version {after}" + ("" if before == after else f" (was {before or 'none'})")
    context.console.result({"before": before, "version": after, "needed": needed}, text)
    return ExitCode.SUCCESS


class Command(VerbCommand):
    """Shows or makes the tables."""

    summary = "Create or upgrade the database's tables, or show their version"
    verbs = (
        Verb("upgrade", "Create the tables, or bring them to this program's version", _run, _arguments),
        Verb("version", "Show the version of the tables", _run),
    )
