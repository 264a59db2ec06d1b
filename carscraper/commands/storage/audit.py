"""``scrapy storage audit`` compares database, bucket and bytes; ``discover`` registers what only the bucket knows."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from carscraper.command import Context, Verb
from carscraper.commands.storage.common import result
from carscraper.console import duration, in_words, positive
from carscraper.exceptions import ConfigurationError, StoreRefusedError
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from carscraper.db.inventory import Comparison
    from carscraper.maintenance.audit import Audit
    from carscraper.maintenance.register import ObjectOutcome


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_mutually_exclusive_group()
    reading.add_argument(
        "--deep",
        action="store_true",
        help="read every object: photos by the SHA-256 of their row, thumbnails and outputs whether they can be opened",
    )
    reading.add_argument("--sample", type=positive, metavar="N", help="read N objects, chosen at random")
    parser.add_argument("--all", action="store_true", help="print what is as it should be, too (= KEY)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the findings to a file as well")
    parser.add_argument(
        "--grace",
        type=duration,
        default=timedelta(0),
        metavar="TIME",
        help="leave out objects without a row that are younger, while crawls write (default: none is left out)",
    )
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument(
        "--fix", action="store_true", help="send the missing to the backfill, link orphans, mend rows; deletes nothing"
    )
    doing.add_argument("--delete-orphans", action="store_true", help="delete old objects that no row names")
    parser.add_argument(
        "--older-than", type=duration, metavar="TIME", help="with --delete-orphans: from this age on (default: 30d)"
    )
    parser.add_argument(
        "--even-if-all", action="store_true", help="with --fix: although not one photo is in the bucket"
    )


def _audit(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.db.inventory import comparing
    from carscraper.maintenance.audit import Audit

    if arguments.older_than and not arguments.delete_orphans:
        raise ConfigurationError("--older-than belongs to --delete-orphans.")
    options, client, console = context.options, context.client, context.console
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(context.database(create=False))
        file = stack.enter_context(_open_report(arguments.report)) if arguments.report else None
        comparison = stack.enter_context(comparing(engine, options.store, options.prefix))
        audit = Audit(
            client,
            comparison,
            options,
            grace=arguments.grace,
            deep=arguments.deep,
            sample=arguments.sample or 0,
            everything=arguments.all,
            thumbnails=context.settings.get("IMAGES_THUMBS"),
            progress=console.progress,
        )
        for finding in audit.run():
            console.end_progress()
            line = printable(finding.line())
            console.line(json.dumps(finding.as_json(), ensure_ascii=False) if console.as_json else line)
            if file:
                print(line, file=file)
        console.end_progress()
        result(context, "summary", _summary(audit), _sentences(audit, arguments))
        faults = sum(audit.counts[mark] for mark in _NUMBERS)
        if faults and arguments.fix:
            return _fix(context, arguments, engine, audit, comparison)
        if faults and arguments.delete_orphans:
            return _delete(context, arguments, engine, faults, comparison)
    return ExitCode.PARTIAL if faults else ExitCode.SUCCESS


@contextlib.contextmanager
def _open_report(path: Path) -> Iterator[TextIO]:
    try:
        file = path.open("w", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigurationError(f"--report {path} can't be written ({error.strerror}); name another file.") from error
    with file:
        yield file


_NUMBERS = {"+": "missing", "-": "orphans", "*": "differ", "!": "wrong"}
_WORDS = {"+": "missing", "-": "orphaned", "*": "differing", "!": "wrong"}


def _summary(audit: Audit) -> dict[str, Any]:
    counts = audit.counts
    found: dict[str, Any] = {name: counts[name] for name in ("rows", "objects", "thumbnails", "same")}
    found |= {name: counts[mark] for mark, name in _NUMBERS.items()}
    found |= {name: counts[name] for name in ("read", "foreign", "young")}
    return found | {"elsewhere": audit.elsewhere}


def _sentences(audit: Audit, arguments: argparse.Namespace) -> Iterator[str]:
    counts = audit.counts
    for store, number in sorted(audit.elsewhere.items()):
        where = "outside S3_PREFIX" if store == "outside" else f"in {store}"
        yield f"Stored {where}, not looked at: {number:,}."
    if counts["foreign"]:
        yield f"Not under our key scheme and named by no row, left alone: {counts['foreign']:,}."
    if counts["young"]:
        age = in_words(arguments.grace)
        yield f"Without a row and younger than {age}, a crawl may be at work: {counts['young']:,}."
    if counts["read"]:
        yield f"Read to compare their SHA-256: {counts['read']:,}."
    found = "".join(f", {words} ({mark}) {counts[mark]:,}" for mark, words in _WORDS.items())
    yield (
        f"Rows {counts['rows']:,}, objects {counts['objects']:,}, thumbnails {counts['thumbnails']:,}: "
        f"as they should be (=) {counts['same']:,}{found}."
    )


def _agreed(context: Context, arguments: argparse.Namespace, would: str, question: str, nothing: str) -> bool:
    console = context.console
    if arguments.dry_run:
        console.note(f"--dry-run: would {would}. {nothing}")
    elif console.confirm(question):
        return True
    else:
        console.note(nothing)
    return False


def _fix(context: Context, arguments: argparse.Namespace, engine: Engine, audit: Audit, comparison: Comparison) -> int:
    from carscraper.maintenance.register import PhotoRules, Register, dealers
    from carscraper.maintenance.repair import Repair
    from carscraper.maintenance.thumbnails import Thumbnails

    counts, options, settings, client = audit.counts, context.options, context.settings, context.client
    again = sum(counts[reason] for reason in ("missing", "size", "checksum", "no-photo"))
    if counts["missing"] == again > 0 and not counts["same"] and not arguments.even_if_all:
        raise StoreRefusedError(
            f"Not one of the photos that should be in {options.bucket} is there: nothing was changed. Check "
            "AWS_ENDPOINT_URL and AWS_S3_BUCKET; if they are really lost, say --even-if-all."
        )
    small = counts["no-thumbnail"] + counts["bad-thumbnail"]
    made = f", make missing thumbnails ({small:,})" if small else ""
    plan = (
        f"have what is missing or differs fetched again ({again:,}){made}, mend wrong "
        f"rows ({counts['!']:,}), look into orphans ({counts['-']:,}) and register those that are photos of known cars"
    )
    if not _agreed(context, arguments, plan, f"{plan[0].upper()}{plan[1:]}?", "Nothing was changed."):
        return ExitCode.PARTIAL
    rules = PhotoRules.from_settings(settings)
    orphans = Register(client, engine, options, rules, dealers=dealers(settings))
    thumbnails = Thumbnails(client, options, settings.get("IMAGES_THUMBS"), rules.inspection["max_pixels"])
    repair = Repair(client, engine, options, orphans, thumbnails)
    for outcome in repair.run(comparison):
        detail = f": {outcome.detail}" if outcome.detail else ""
        context.console.note(printable(f"left: {outcome.name} ({outcome.what}{detail})"))
    done = repair.done
    names = ("pending", "addresses", "hashes", "covers", "registered", "thumbnails", "left")
    mended = (
        f"Mended: photos pending again {done['pending']:,}, orphans registered {done['registered']:,}, "
        f"addresses {done['addresses']:,}, checksums {done['hashes']:,}, cars' pictures {done['covers']:,}, "
        f"thumbnails {done['thumbnails']:,}; left {done['left']:,}."
    )
    lines = [mended]
    if done["pending"]:
        lines.append("Fetch what is pending with: scrapy crawl backfill -a limit=0 -a include_inactive=true")
    result(context, "fixed", {name: done[name] for name in names}, lines)
    return ExitCode.PARTIAL if done["left"] else ExitCode.SUCCESS


def _delete(
    context: Context, arguments: argparse.Namespace, engine: Engine, faults: int, comparison: Comparison
) -> int:
    from carscraper.maintenance.repair import MARGIN, OrphanRemoval

    console, options = context.console, context.options
    older_than = arguments.older_than or MARGIN
    removal = OrphanRemoval(context.client, engine, options, older_than=older_than)
    old = number = 0
    for finding in removal.plan(comparison):
        old += 1
        number += 1 + len(finding.thumbnails)
    age = in_words(older_than)
    if not old:
        console.note(f"No orphan is older than {age}: nothing to delete.")
        return ExitCode.PARTIAL
    would = f"delete orphans older than {age}: {old:,} ({number:,} objects)"
    question = f"Delete orphans older than {age} from {options.bucket}: {old:,} ({number:,} objects)?"
    if not _agreed(context, arguments, would, question, "Nothing was deleted."):
        return ExitCode.PARTIAL
    for name, why in removal.run(comparison):
        if why:
            console.note(printable(f"left: {name} ({why})"))
    done = removal.done
    lines = [f"Objects deleted {done['deleted']:,}, refused {done['kept']:,}."]
    if done["pending"]:
        lines.append(f"Named by a row just then, pending again: {done['pending']:,}.")
    result(context, "deleted", {name: done[name] for name in ("deleted", "kept", "pending")}, lines)
    return ExitCode.PARTIAL if faults > old or done["kept"] or done["pending"] else ExitCode.SUCCESS


AUDIT = Verb("audit", "Compare database, bucket and bytes; mend what differs", _audit, _audit_arguments, changes=True)


_LEFT = ("unknown-car", "not-a-photo", "other-bytes", "unreadable", "foreign")
"""What makes the exit code 3."""


def _discover_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", metavar="NAME", help="only objects whose names begin like this")
    parser.add_argument("--limit", type=positive, metavar="N", help="read at most N objects")
    parser.add_argument(
        "--create-cars", action="store_true", help="make an inactive row for a car that the database does not have"
    )


def _say(context: Context, outcome: ObjectOutcome) -> None:
    if context.console.as_json:
        data = {"key": outcome.name, "outcome": outcome.what}
        context.console.line(json.dumps(data | ({"detail": outcome.detail} if outcome.detail else {})))
        return
    detail = f" ({outcome.detail})" if outcome.detail else ""
    context.console.line(printable(f"{outcome.what}: {outcome.name}{detail}"))


def _discover(context: Context, arguments: argparse.Namespace) -> int:
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


DISCOVER = Verb(
    "discover", "Register objects that the ledger does not know", _discover, _discover_arguments, changes=True
)
