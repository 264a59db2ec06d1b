"""``audit``: database, bucket and bytes beside each other."""

from __future__ import annotations

import argparse
import contextlib
import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from scrapy.spiderloader import get_spider_loader

from carscraper.cli.console import printable
from carscraper.cli.durations import duration, in_words
from carscraper.cli.verb import DONE, PARTIAL, Context, Verb
from carscraper.exceptions import ConfigurationError, StoreRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from carscraper.db.inventory import Sorter
    from carscraper.upkeep.audit import Audit, Clearing, Finding, Mending
    from carscraper.upkeep.entry import Outcome

_MOST_SAMPLED = 1_000_000


def count(text: str) -> int:
    """Read a number of at least 1; made for argparse's ``type=``.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:10]) <= _MOST_SAMPLED:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {_MOST_SAMPLED:,}")
    return int(text)


@contextlib.contextmanager
def asked_only(context: Context) -> Iterator[Engine]:
    """Open a database that must be there already, for long reading beside a crawl.

    Raises:
        ConfigurationError: it can't be reached, or has no tables of this program.
    """
    with context.database(read_only=True) as engine:
        if engine.dialect.name != "sqlite":
            yield engine
            return
    # SQLite's read-only way takes a file that nobody has open for one that nobody will change.
    with context.database() as engine:
        yield engine


def spider_sources(context: Context) -> dict[str, str]:
    """Give the source of each dealer by its spider's name, which its keys begin with."""
    loader = get_spider_loader(context.settings)
    spiders = ((name, loader.load(name)) for name in loader.list())
    return {name: source for name, spider in spiders if (source := getattr(spider, "source", None))}


def _arguments(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_mutually_exclusive_group()
    reading.add_argument("--deep", action="store_true", help="read every object and compare its SHA-256 with the row")
    reading.add_argument("--sample", type=count, metavar="N", help="read so many objects, chosen at random")
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


class _Report:
    """Prints findings as they come, and keeps those that something is done about."""

    def __init__(self, context: Context, sorter: Sorter | None, file: TextIO | None) -> None:
        self._console = context.console
        self._sorter = sorter
        self._file = file

    def add(self, finding: Finding) -> None:
        from carscraper.upkeep.audit import SAME, keep  # noqa: PLC0415 - loaded by then

        line = printable(finding.line())
        self._console.line(json.dumps(finding.as_json(), ensure_ascii=False) if self._console.as_json else line)
        if self._file:
            print(line, file=self._file)
        if self._sorter and finding.mark != SAME:
            keep(self._sorter, finding)

    def end(self, data: dict[str, Any], lines: list[str]) -> None:
        """Print the summary: one more line of JSON, or text."""
        if self._console.as_json:
            self._console.line(json.dumps({"summary": data}, ensure_ascii=False))
            return
        for line in lines:
            self._console.line(line)


def _run(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.db.inventory import Sorter  # noqa: PLC0415 - SQLAlchemy and boto3 only for those who use them
    from carscraper.upkeep.audit import Audit  # noqa: PLC0415

    if arguments.older_than and not arguments.delete_orphans:
        raise ConfigurationError("--older-than belongs to --delete-orphans.")
    options = context.options
    client = context.client
    changes = (arguments.fix or arguments.delete_orphans) and not arguments.dry_run
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(context.database() if changes else asked_only(context))
        sorter = stack.enter_context(Sorter())
        file = stack.enter_context(_open_report(arguments.report)) if arguments.report else None
        audit = Audit(
            client,
            engine,
            options,
            grace=arguments.grace,
            deep=arguments.deep,
            sample=arguments.sample or 0,
            everything=arguments.all,
            progress=context.console.progress,
        )
        report = _Report(context, sorter if arguments.fix or arguments.delete_orphans else None, file)
        for finding in audit.run(sorter):
            context.console.end_progress()
            report.add(finding)
        context.console.end_progress()
        faults = sum(audit.counts[mark] for mark in "+-*!")
        summary = _summary(audit)
        report.end(summary, _sentences(audit, arguments))
        if faults and arguments.fix:
            return _fix(context, arguments, engine, audit, sorter)
        if faults and arguments.delete_orphans:
            return _clear(context, arguments, engine, audit, sorter)
    return PARTIAL if faults else DONE


@contextlib.contextmanager
def _open_report(path: Path) -> Iterator[TextIO]:
    try:
        file = path.open("w", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigurationError(f"--report {path} can't be written ({error.strerror}); name another file.") from error
    with file:
        yield file


_NUMBERS = {"+": "missing", "-": "orphans", "*": "differ", "!": "wrong"}


def _summary(audit: Audit) -> dict[str, Any]:
    counts = audit.counts
    found: dict[str, Any] = {name: counts[name] for name in ("rows", "objects", "thumbnails", "same")}
    found |= {name: counts[mark] for mark, name in _NUMBERS.items()}
    found |= {name: counts[name] for name in ("read", "foreign", "young")}
    return found | {"elsewhere": audit.elsewhere}


def _sentences(audit: Audit, arguments: argparse.Namespace) -> list[str]:
    counts = audit.counts
    words = {"=": "as they should be", "+": "missing", "-": "orphaned", "*": "differing", "!": "wrong"}
    numbers = {"=": counts["same"]} | {mark: counts[mark] for mark in _NUMBERS}
    found = ", ".join(f"{words[mark]} ({mark}) {number:,}" for mark, number in numbers.items())
    lines = []
    for store, number in sorted(audit.elsewhere.items()):
        where = "outside S3_PREFIX" if store == "outside" else f"in {printable(store)}"
        lines.append(f"Stored {where}, not looked at: {number:,}.")
    if counts["foreign"]:
        lines.append(f"Not under our key scheme and named by no row, left alone: {counts['foreign']:,}.")
    if counts["young"]:
        age = in_words(arguments.grace)
        lines.append(f"Without a row and younger than {age}, a crawl may be at work: {counts['young']:,}.")
    if counts["read"]:
        lines.append(f"Read to compare their SHA-256: {counts['read']:,}.")
    lines.append(
        f"Rows {counts['rows']:,}, objects {counts['objects']:,}, thumbnails {counts['thumbnails']:,}: {found}."
    )
    return lines


# --- mending ----------------------------------------------------------------------------------------------------


def _fix(context: Context, arguments: argparse.Namespace, engine: Engine, audit: Audit, sorter: Sorter) -> int:
    from carscraper.upkeep.audit import Mending  # noqa: PLC0415 - see _run
    from carscraper.upkeep.entry import Cars, Entering, PhotoRules  # noqa: PLC0415

    counts, console, options = audit.counts, context.console, context.options
    if counts["+"] and not counts["same"] and not counts["*"] and not arguments.even_if_all:
        raise StoreRefusedError(
            f"Not one of the photos that should be in {options.bucket} is there: nothing was changed. Check "
            "AWS_ENDPOINT_URL and AWS_S3_BUCKET; if they are really lost, say --even-if-all."
        )
    plan = (
        f"have what is missing or differs fetched again ({counts['+'] + counts['*']:,}), mend wrong rows "
        f"({counts['!']:,}), look into orphans ({counts['-']:,}) and enter those that are photos of known cars"
    )
    if arguments.dry_run:
        console.note(f"--dry-run: would {plan}. Nothing was changed.")
        return PARTIAL
    if not console.confirm(f"{plan[0].upper()}{plan[1:]}?"):
        console.note("Nothing was changed.")
        return PARTIAL
    rules = PhotoRules.from_settings(context.settings)
    mending = Mending(
        context.client,
        engine,
        options,
        cars=Cars(engine=engine, prefix=options.prefix, named=spider_sources(context)),
        entering=Entering.into(options, rules),
        rules=rules,
    )
    for outcome in mending.run(sorter):
        _left(context, outcome)
    _say_mended(context, mending)
    return PARTIAL if mending.done["left"] else DONE


def _left(context: Context, outcome: Outcome) -> None:
    detail = f": {outcome.detail}" if outcome.detail else ""
    context.console.note(printable(f"left: {outcome.name} ({outcome.what}{detail})"))


def _say_mended(context: Context, mending: Mending) -> None:
    done = mending.done
    if context.console.as_json:
        names = ("pending", "addresses", "hashes", "covers", "entered", "left")
        context.console.line(json.dumps({"fixed": {name: done[name] for name in names}}))
        return
    context.console.line(
        f"Mended: photos pending again {done['pending']:,}, orphans entered {done['entered']:,}, "
        f"addresses {done['addresses']:,}, checksums {done['hashes']:,}, cars' pictures {done['covers']:,}; "
        f"left {done['left']:,}."
    )
    if done["pending"]:
        context.console.line("Fetch what is pending with: scrapy crawl backfill -a limit=0 -a include_inactive=true")


# --- deleting orphans -------------------------------------------------------------------------------------------


def _clear(context: Context, arguments: argparse.Namespace, engine: Engine, audit: Audit, sorter: Sorter) -> int:
    from carscraper.upkeep.audit import Clearing  # noqa: PLC0415 - see _run

    console, options = context.console, context.options
    older_than = arguments.older_than or timedelta(days=30)
    clearing = Clearing(context.client, engine, options, older_than=older_than)
    old = number = 0
    for finding in clearing.plan(sorter):
        old += 1
        number += 1 + len(finding.thumbnails)
    age = in_words(older_than)
    others = sum(audit.counts[mark] for mark in "+-*!") - old
    if not old:
        console.note(f"No orphan is older than {age}: nothing to delete.")
        return PARTIAL
    if arguments.dry_run:
        console.note(f"--dry-run: would delete orphans older than {age}: {old:,} ({number:,} objects). Nothing was.")
        return PARTIAL
    if not console.confirm(f"Delete orphans older than {age} from {options.bucket}: {old:,} ({number:,} objects)?"):
        console.note("Nothing was deleted.")
        return PARTIAL
    refused = 0
    for name, why in clearing.run(sorter):
        if why:
            refused += 1
            console.note(printable(f"left: {name} ({why})"))
    _say_cleared(context, clearing)
    return PARTIAL if others or refused or clearing.done["pending"] else DONE


def _say_cleared(context: Context, clearing: Clearing) -> None:
    done = clearing.done
    if context.console.as_json:
        names = ("deleted", "kept", "pending")
        context.console.line(json.dumps({"deleted": {name: done[name] for name in names}}))
        return
    context.console.line(f"Objects deleted {done['deleted']:,}, refused {done['kept']:,}.")
    if done["pending"]:
        context.console.line(f"Named by a row just then, pending again: {done['pending']:,}.")


VERBS: list[Verb] = [
    Verb(
        name="audit",
        summary="Compare database, bucket and bytes; mend what differs",
        arguments=_arguments,
        run=_run,
        changes=True,
    )
]
