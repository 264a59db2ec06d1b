"""``scrapy runs VERB``: what the crawls did."""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.command import Verb, VerbCommand
from carscraper.console import duration, human_bytes, positive, table
from carscraper.exceptions import ConfigurationError
from carscraper.items import utcnow
from carscraper.logs import printable
from carscraper.runs import record as words
from carscraper.runs.record import RunRecord
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from carscraper.command import Context
    from carscraper.settings import Secret

_TIMEOUT = 10.0  # seconds
_HEAD = (
    *("id", "spider", "started (UTC)", "time", "status", "cars", "new", "photos", "failed", "stored", "for sale"),
    *("job", "reason"),
)
_LONGEST_REASON = 80  # characters; `scrapy runs show` has all of it
_LONGEST_VALUE = 48  # the same when two runs are compared
_CODES = {status: code for code, status in words.STATUS_OF.items()}


@contextlib.contextmanager
def _open_runs(context: Context) -> Iterator[Connection]:
    """Open the database; runs that died without a word are known as interrupted."""
    from carscraper.db import runs
    from carscraper.db.locks import open_locks

    secret: Secret = context.settings["DATABASE_URL"]
    with context.database(create=False) as engine:
        with engine.connect().execution_options(sqlite_begin="DEFERRED") as connection:
            locked = runs.locked(connection)
        for name in locked:
            locks = open_locks(secret.reveal(), timeout=_TIMEOUT)
            try:
                if locks.take(name):
                    with engine.begin() as connection:
                        runs.interrupt(connection, name)
            finally:
                locks.close()
        with engine.connect().execution_options(sqlite_begin="DEFERRED") as connection:
            yield connection


def _find(context: Context, *ids: str) -> list[RunRecord]:
    """Return the runs with these row ids, or else the newest with such a job id; ``latest`` is the newest of all.

    Raises:
        ConfigurationError: there is none.
    """
    from carscraper.db import runs

    found = []
    with _open_runs(context) as connection:
        for run_id in ids:
            row = runs.find_run(connection, run_id)
            if row is None and run_id == runs.LATEST:
                raise ConfigurationError("There is no run yet.")
            if row is None:
                raise ConfigurationError(f"There is no run {run_id!r}; `scrapy runs list` shows the ids.")
            found.append(RunRecord(**row))
    return found


# --- list ---------------------------------------------------------------------------------------------------------


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spider", metavar="NAME", help="of this spider only")
    parser.add_argument("--status", choices=words.STATUSES, help="that ended like this only")
    parser.add_argument(
        "--output", choices=words.OUTPUT_STATUSES, help="whose upload of items and log ended like this only"
    )
    parser.add_argument(
        "--since",
        type=_since,
        metavar="WHEN",
        help="that began since then: 7d, 12h, 2026-11-30 or 2026-11-30T06:00 (UTC)",
    )
    parser.add_argument("--limit", type=positive, default=20, metavar="N", help="at most so many (20)")


def _since(text: str) -> datetime:
    """Read a day, a time (UTC) or how long ago it was.

    >>> _since("2026-11-30"), _since("2026-11-30T06:00+02:00")
    (datetime.datetime(2026, 11, 30, 0, 0), datetime.datetime(2026, 11, 30, 4, 0))
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            return utcnow() - duration(text)
        except (argparse.ArgumentTypeError, OverflowError):
            raise argparse.ArgumentTypeError(
                f"{text!r} is neither a day nor a length of time; write 2026-11-30, 2026-11-30T06:00, 12h or 7d"
            ) from None
    return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found


def _list(context: Context, options: argparse.Namespace) -> int:
    from carscraper.db import runs

    asked = {name: getattr(options, name) for name in ("spider", "status", "output", "since", "limit")}
    with _open_runs(context) as connection:
        records = [RunRecord(**each) for each in runs.listed(connection, **asked)]
    if records:
        text = table(_HEAD, map(_row, records), right=(0, 3, 5, 6, 7, 8, 9, 10))
    else:
        which = f" of {printable(options.spider)}" if options.spider else ""
        status = f" whose status is {options.status}" if options.status else ""
        status += f" whose upload is {options.output}" if options.output else ""
        when = f" since {options.since:%Y-%m-%d %H:%M} UTC" if options.since else " yet"
        text = [f"There is no run{which}{status}{when}."]
    context.console.result([each.as_json() for each in records], text)
    return ExitCode.SUCCESS


def _row(record: RunRecord) -> list[object]:
    return [
        record.id,
        record.spider,
        f"{record.started_at:%Y-%m-%d %H:%M:%S}",
        _took(record),
        record.status,
        record.cars,
        record.cars_new,
        record.images_stored,
        sum(record.images_failed.values()),
        human_bytes(record.bytes),
        "-" if record.images_for_sale is None else f"{record.images_for_sale_stored}/{record.images_for_sale}",
        printable(record.job_id),
        _short(printable(record.reason), _LONGEST_REASON),
    ]


def _took(record: RunRecord) -> str:
    """Return how long it took, ``-`` if it has no end.

    >>> start, end = datetime(2026, 11, 21, 7, 0, 0), datetime(2026, 11, 21, 8, 2, 3)
    >>> _took(RunRecord(spider="x", job_id="1", started_at=start, finished_at=end))
    '1:02:03'
    """
    if record.finished_at is None:
        return "-"
    seconds = max(0, round((record.finished_at - record.started_at).total_seconds()))
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


# --- show and compare ---------------------------------------------------------------------------------------------


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="its id, its job's, or latest")


def _show(context: Context, options: argparse.Namespace) -> int:
    (record,) = _find(context, options.id)
    shown = {name: _word(name, value) for name, value in _values(record).items()}
    width = max(map(len, shown))
    lines = [
        f"{name if not number else '':{width}}  {line}"
        for name, value in shown.items()
        for number, line in enumerate(value.split("\n"))
    ]
    context.console.result(record.as_json(), lines)
    return ExitCode.SUCCESS


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="the id of one run, its job's, or latest")
    parser.add_argument("b", metavar="B", help="the id of the other")


def _compare(context: Context, options: argparse.Namespace) -> int:
    a, b = _find(context, options.a, options.b)
    ours, theirs = _values(a), _values(b)
    rows = []
    for name in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(name), theirs.get(name)
        shown = [_short(_word(name, each).replace("\n", " "), _LONGEST_VALUE) for each in (one, other)]
        rows.append([name, *shown, "" if one == other else _difference(name, one, other)])
    mine, its = a.as_json(), b.as_json()
    differences = {name: [value, its[name]] for name, value in mine.items() if value != its[name]}
    head = ("", f"run {a.id}", f"run {b.id}", "difference")
    context.console.result({"a": mine, "b": its, "differences": differences}, table(head, rows))
    return ExitCode.SUCCESS


def _difference(name: str, one: Any, other: Any) -> str:
    if name.startswith("images_failed."):  # a reason that one of them does not have
        one, other = one or 0, other or 0
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (one, other))
    if name in {"id", "pid", "exit_code"} or not numbers:
        return "differs"
    return f"{other - one:+.4g}" if isinstance(one, float) else f"{other - one:+d}"


def _values(record: RunRecord) -> dict[str, Any]:
    """Return every field, and every value of those that hold several, with its name."""
    found: dict[str, Any] = {}
    for field in fields(record):
        name, value = field.name, getattr(record, field.name)
        if name == "monitors":
            value = {
                str(each.get("name")): f"{'kept' if each.get('passed') else 'not kept'}: {each.get('said')}"
                for each in value
            }
        if isinstance(value, dict) and value:
            found |= {f"{name}.{printable(key)}": each for key, each in value.items()}
        else:
            found[name] = value
        if name == "finished_at":
            found["took"] = _took(record)
        if name == "cars_gone":
            found["cars"] = record.cars
    return found


def _word(name: str, value: Any) -> str:
    if value is None or value in ({}, [], ""):
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in {"safe_p50", "safe_p95"}:
        return f"{value:.3g} s"
    if name == "bytes":
        return f"{value} ({human_bytes(value)})"
    if name == "why":
        return "\n".join(map(printable, value.split("\n")))
    if isinstance(value, dict | list):
        return printable(json.dumps(value, ensure_ascii=False, default=str))
    return printable(str(value))


# --- upload -------------------------------------------------------------------------------------------------------


def _upload_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="?", metavar="ID", help="its id, its job's, or latest")
    which.add_argument("--failed", action="store_true", help="all runs whose upload failed or was broken off")


def _upload(context: Context, options: argparse.Namespace) -> int:
    from carscraper.runs.outputs import selected
    from carscraper.storage.outputs import OutputOptions

    found = [(each, folder_of(each)) for each in _find(context, options.id)] if options.id else []
    # What a setting forbids is said without a mark on the run.
    selected(context.settings)
    OutputOptions.from_settings(context.settings).check()
    if not options.failed:
        ((record, folder),) = found
        output, text = _upload_one(context, record, folder)
        context.console.result(output, text)
        for error in output["errors"]:
            context.console.note(error)
        return _CODES[output["status"]]
    return _upload_failed(context)


def _upload_failed(context: Context) -> int:
    from carscraper.db import runs
    from carscraper.runs.outputs import is_missing

    with _open_runs(context) as connection:
        rows = [each for status in words.MISSING_OUTPUTS for each in runs.listed(connection, output=status)]
    records = sorted((RunRecord(**each) for each in rows), key=lambda each: each.started_at)
    found, text, codes = [], [], set()
    for record in records:
        if record.status == words.RUNNING or not is_missing(record.output):
            continue
        try:
            output, lines = _upload_one(context, record, folder_of(record))
        except ConfigurationError as error:
            codes.add(int(ExitCode.FAILED))
            context.console.note(str(error))
            continue
        codes.add(_CODES[output["status"]])
        found.append({"run": record.id, **output})
        text += lines
        for said in output["errors"]:
            context.console.note(f"Run {record.id}: {said}")
    context.console.result(found, text or ([] if codes else ["There is no run whose upload failed."]))
    return ExitCode.PARTIAL if len(codes) > 1 else codes.pop() if codes else ExitCode.SUCCESS


def _upload_one(context: Context, record: RunRecord, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Upload the files of *record* and write what became of them; return that, and lines for people."""
    from carscraper.db import runs
    from carscraper.runs.metrics import write_metrics
    from carscraper.runs.outputs import not_whole, upload_outputs

    about: Any = {"job_id": record.job_id, "started_at": record.started_at, "spider": record.spider}
    troubles = not_whole(record.output)
    output = upload_outputs(context.settings, folder, **about, troubles=troubles, asked=True)
    if record.output.get("filesUploaded") and not output["filesUploaded"]:
        context.console.note(
            f"Run {record.id}: what was uploaded before is still there, and its row goes on saying so."
        )
    else:
        record.take_output(output)
        with context.database(create=False) as engine, engine.begin() as connection:
            runs.finish(connection, asdict(record))
            later = runs.listed(connection, spider=record.spider, since=record.started_at)
        ended = [each["id"] for each in later if each["exit_code"] is not None and each["status"] != words.SKIPPED]
        if ended[:1] == [record.id]:  # else they are those of a newer run
            write_metrics(context.settings, record)
    files = "1 file" if output["filesUploaded"] == 1 else f"{output['filesUploaded']} files"
    return output, [f"Run {record.id}: {files} uploaded ({human_bytes(output['bytesUploaded'])}).", *output["s3Urls"]]


def folder_of(record: RunRecord) -> Path:
    """Return the run's folder.

    Raises:
        ConfigurationError: it is not here, or not complete yet.
    """
    named = record.output.get("folder")
    if not named:
        raise ConfigurationError(f"Run {record.id} wrote no files: it never began, or OUTPUTS_DIR was empty.")
    if record.status == words.RUNNING:
        raise ConfigurationError(f"Run {record.id} is still under way on {printable(record.host)}; wait for its end.")
    folder = Path(named)
    if not folder.is_dir():
        here = socket.gethostname()
        where = f"{printable(record.host)}, which is not {here}" if record.host != here else "this machine"
        raise ConfigurationError(f"The files of run {record.id} are not there: {printable(named)} on {where}.")
    return folder


class Command(VerbCommand):
    """Lists runs, shows one, compares two, uploads the files of one."""

    summary = "What the crawls did: list them, show one, compare two, upload what one wrote"
    default = "list"
    verbs = (
        Verb("list", "The newest runs, and how they ended", _list, _list_arguments),
        Verb("show", "All that is known of one run", _show, _show_arguments),
        Verb("compare", "Two runs side by side", _compare, _compare_arguments),
        Verb(
            "upload", "Upload the items and the log of a run again, or of all that failed", _upload, _upload_arguments
        ),
    )
