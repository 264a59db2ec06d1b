"""``discover``: objects under our key scheme that the ledger does not know are entered in it."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from carscraper.cli.console import printable
from carscraper.cli.storage.audit import asked_only, count, spider_sources
from carscraper.cli.verb import DONE, PARTIAL, Context, Verb
from carscraper.exceptions import ConfigurationError

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from carscraper.upkeep.entry import Outcome

LEFT = ("unknown-car", "not-a-photo", "other-bytes", "unreadable", "foreign")
"""What makes the exit code 3."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", metavar="NAME", help="only objects whose names begin like this")
    parser.add_argument("--limit", type=count, metavar="N", help="read at most so many objects")
    parser.add_argument(
        "--create-cars", action="store_true", help="make an inactive row for a car that the database does not have"
    )


def say(context: Context, outcome: Outcome) -> None:
    """Print what became of one object or file."""
    if context.console.as_json:
        data = {"key": outcome.name, "outcome": outcome.what}
        context.console.line(json.dumps(data | ({"detail": outcome.detail} if outcome.detail else {})))
        return
    detail = f" ({outcome.detail})" if outcome.detail else ""
    context.console.line(printable(f"{outcome.what}: {outcome.name}{detail}"))


def end(context: Context, numbers: dict[str, Any], lines: list[str]) -> None:
    """Print the summary."""
    if context.console.as_json:
        context.console.line(json.dumps({"summary": numbers}))
        return
    for line in lines:
        context.console.line(line)


def others(outcomes: Counter[str], *but: str) -> str:
    """Give the counts of all outcomes that were not named yet."""
    return "".join(f", {what} {number:,}" for what, number in sorted(outcomes.items()) if number and what not in but)


def _run(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.upkeep.discovery import Discovery  # noqa: PLC0415 - SQLAlchemy and boto3 only when used
    from carscraper.upkeep.entry import Cars, Entering, PhotoRules  # noqa: PLC0415

    options, console = context.options, context.console
    below = arguments.prefix or options.prefix
    if not below.startswith(options.prefix):
        raise ConfigurationError(f"--prefix {printable(below)} is outside S3_PREFIX={options.prefix}.")
    where = f"s3://{options.bucket}/{printable(below)}"
    if not arguments.dry_run and not console.confirm(f"Enter what {where} has and the ledger does not know?"):
        console.note("Nothing was changed.")
        return PARTIAL
    rules = PhotoRules.from_settings(context.settings)
    outcomes: Counter[str] = Counter()
    client = context.client
    with asked_only(context) if arguments.dry_run else context.database() as engine:
        discovery = Discovery(
            client,
            engine,
            options,
            cars=Cars(
                engine=engine, prefix=options.prefix, create=arguments.create_cars, named=spider_sources(context)
            ),
            entering=Entering.into(options, rules, create_cars=arguments.create_cars),
            rules=rules,
        )
        for outcome in discovery.run(below, limit=arguments.limit, dry_run=arguments.dry_run):
            outcomes[outcome.what] += 1
            console.progress(f"{discovery.counts['objects']:,} objects, {outcomes['entered']:,} entered")
            if outcome.what != "entered" or arguments.dry_run or console.as_json:
                console.end_progress()
                say(context, outcome)
    console.end_progress()
    counts = discovery.counts
    numbers = {name: counts[name] for name in ("objects", "known", "foreign")} | {"entered": outcomes["entered"]}
    text = (
        f"Objects {counts['objects']:,}: known {counts['known']:,}, not under our key scheme {counts['foreign']:,}, "
        f"{'to be entered' if arguments.dry_run else 'entered'} {outcomes['entered']:,}{others(outcomes, 'entered')}."
    )
    end(context, numbers | dict(outcomes) | {"dry_run": arguments.dry_run}, [text])
    if outcomes["unknown-car"] and not arguments.create_cars:
        console.note("--create-cars makes inactive rows for the cars that the database does not have.")
    return PARTIAL if any(outcomes[what] for what in LEFT) else DONE


VERBS: list[Verb] = [
    Verb(
        name="discover",
        summary="Enter objects in the ledger that it does not know",
        arguments=_arguments,
        run=_run,
        changes=True,
    )
]
