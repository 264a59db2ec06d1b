"""``discover``: objects under our key scheme that the ledger does not know are registered in it."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from carscraper.command import Context, Verb
from carscraper.commands.storage.common import result
from carscraper.console import positive
from carscraper.exceptions import ConfigurationError
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    import argparse

    from carscraper.maintenance.register import Outcome

_LEFT = ("unknown-car", "not-a-photo", "other-bytes", "unreadable", "foreign")
"""What makes the exit code 3."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", metavar="NAME", help="only objects whose names begin like this")
    parser.add_argument("--limit", type=positive, metavar="N", help="read at most N objects")
    parser.add_argument(
        "--create-cars", action="store_true", help="make an inactive row for a car that the database does not have"
    )


def _say(context: Context, outcome: Outcome) -> None:
    if context.console.as_json:
        data = {"key": outcome.name, "outcome": outcome.what}
        context.console.line(json.dumps(data | ({"detail": outcome.detail} if outcome.detail else {})))
        return
    detail = f" ({outcome.detail})" if outcome.detail else ""
    context.console.line(printable(f"{outcome.what}: {outcome.name}{detail}"))


def _run(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.maintenance.register import REGISTERED, PhotoRules, Register, dealers

    options, console = context.options, context.console
    below = arguments.prefix or options.prefix
    if not below.startswith(options.prefix):
        raise ConfigurationError(f"--prefix {printable(below)} is outside S3_PREFIX={options.prefix}.")
    where = f"s3://{options.bucket}/{printable(below)}"
    if not arguments.dry_run and not console.confirm(f"Register what {where} has and the ledger does not know?"):
        console.note("Nothing was changed.")
        return ExitCode.PARTIAL
    outcomes: Counter[str] = Counter()
    client = context.client
    with context.database(create=not arguments.dry_run) as engine:
        register = Register(
            client,
            engine,
            options,
            PhotoRules.from_settings(context.settings),
            dealers=dealers(context.settings),
            create_cars=arguments.create_cars,
            dry_run=arguments.dry_run,
        )
        for outcome in register.discover(below, limit=arguments.limit):
            outcomes[outcome.what] += 1
            console.progress(f"{register.counts['objects']:,} objects, {outcomes[REGISTERED]:,} registered")
            if outcome.what != REGISTERED or arguments.dry_run or console.as_json:
                console.end_progress()
                _say(context, outcome)
    console.end_progress()
    counts = register.counts
    numbers = {name: counts[name] for name in ("objects", "known", "foreign")} | {REGISTERED: outcomes[REGISTERED]}
    others = "".join(f", {what} {number:,}" for what, number in sorted(outcomes.items()) if what != REGISTERED)
    text = (
        f"Objects {counts['objects']:,}: known {counts['known']:,}, not under our key scheme {counts['foreign']:,}, "
        f"{'to be registered' if arguments.dry_run else 'registered'} {outcomes[REGISTERED]:,}{others}."
    )
    result(context, "summary", numbers | dict(outcomes) | {"dry_run": arguments.dry_run}, [text])
    if outcomes["unknown-car"] and not arguments.create_cars:
        console.note("--create-cars makes inactive rows for the cars that the database does not have.")
    return ExitCode.PARTIAL if any(outcomes[what] for what in _LEFT) else ExitCode.SUCCESS


VERB = Verb("discover", "Register objects that the ledger does not know", _run, _arguments, changes=True)
