"""The verbs of ``scrapy runs``."""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.cli.console import human_bytes, printable, table
from carscraper.cli.durations import duration
from carscraper.cli.verb import DONE, FAILED, PARTIAL
from carscraper.db import runs
from carscraper.db.locks import open_locks
from carscraper.exceptions import ConfigurationError
from carscraper.runs import record as words
from carscraper.runs.record import RunRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from carscraper.cli.verb import Context
    from carscraper.settings import Secret

_TIMEOUT = 10.0  # seconds
_HEAD = [
    "id",
    "spider",
    "started (UTC)",
    "time",
    "status",
    "cars",
    "new",
    "photos",
    "failed",
    "stored",
    "for sale",
    "job",
    "reason",
]
_LONGEST_REASON = 80  # characters; `scrapy runs show` has all of it
_LONGEST_VALUE = 48  # the same when two runs are compared
_CODES = {words.SUCCESS: DONE, words.PARTIAL: PARTIAL, words.FAILED: FAILED}


@contextlib.contextmanager
def _open_runs(context: Context) -> Iterator[Connection]:
    """Open the database; runs that died without a word are known as interrupted."""
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


def _find(connection: Connection, run_id: str) -> RunRecord:
    """Return the run with this row id, or else the newest with this job id; ``latest`` is the newest of all.

    Raises:
        ConfigurationError: there is none.
    """
    found = runs.get(connection, run_id)
    if found is None and run_id == runs.LATEST:
        raise ConfigurationError("There is no run yet.")
    if found is None:
        raise ConfigurationError(f"There is no run {run_id!r}; `scrapy runs list` shows the ids.")
    return RunRecord(**found)


# --- list ---------------------------------------------------------------------------------------------------------


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spider", metavar="NAME", help="of this spider only")
    parser.add_argument("--status", choices=words.STATUSES, help="that ended like this only")
    parser.add_argument(
        "--since",
        type=_since,
        metavar="WHEN",
        help="that began since then: 7d, 12h, 2026-11-30 or 2026-11-30T06:00 (UTC)",
    )
    parser.add_argument("--limit", type=_positive, default=20, metavar="N", help="at most so many (20)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return number


def _since(text: str) -> datetime:
    """Read a day, a time (UTC) or how long ago it was.

    >>> _since("2026-11-30"), _since("2026-11-30T06:00+02:00")
    (datetime.datetime(2026, 11, 30, 0, 0), datetime.datetime(2026, 11, 30, 4, 0))
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            return datetime.now(UTC).replace(tzinfo=None) - duration(text)
        except (argparse.ArgumentTypeError, OverflowError):
            raise argparse.ArgumentTypeError(
                f"{text!r} is neither a day nor a length of time; write 2026-11-30, 2026-11-30T06:00, 12h or 7d"
            ) from None
    return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found


def _list(context: Context, options: argparse.Namespace) -> int:
    with _open_runs(context) as connection:
        found = runs.listed(
            connection, spider=options.spider, status=options.status, since=options.since, limit=options.limit
        )
    records = [RunRecord(**each) for each in found]
    if records:
        text = table(_HEAD, map(_row, records), right=(0, 3, 5, 6, 7, 8, 9, 10))
    else:
        which = f" of {printable(options.spider)}" if options.spider else ""
        status = f" whose status is {options.status}" if options.status else ""
        when = f" since {options.since:%Y-%m-%d %H:%M} UTC" if options.since else " yet"
        text = [f"There is no run{which}{status}{when}."]
    context.console.result([each.as_json() for each in records], text)
    return DONE


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
    with _open_runs(context) as connection:
        record = _find(connection, options.id)
    shown = _in_words(record)
    width = max(map(len, shown))
    lines = [
        f"{name if not number else '':{width}}  {line}"
        for name, value in shown.items()
        for number, line in enumerate(value.split("\n"))
    ]
    context.console.result(record.as_json(), lines)
    return DONE


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="the id of one run, its job's, or latest")
    parser.add_argument("b", metavar="B", help="the id of the other")


def _compare(context: Context, options: argparse.Namespace) -> int:
    with _open_runs(context) as connection:
        a, b = _find(connection, options.a), _find(connection, options.b)
    shown, others = _in_words(a), _in_words(b)
    rows = []
    for name in dict.fromkeys([*shown, *others]):
        one, other = shown.get(name, "-"), others.get(name, "-")
        values = [_short(each.replace("\n", " "), _LONGEST_VALUE) for each in (one, other)]
        rows.append([name, *values, _difference(name, a, b, same=one == other)])
    one_row, other_row = a.as_json(), b.as_json()
    differences = {name: [value, other_row[name]] for name, value in one_row.items() if value != other_row[name]}
    data = {"a": one_row, "b": other_row, "differences": differences}
    context.console.result(data, table(("", f"run {a.id}", f"run {b.id}", "difference"), rows))
    return DONE


def _difference(name: str, a: RunRecord, b: RunRecord, *, same: bool) -> str:
    one, other = _number(a, name), _number(b, name)
    if one is not None and other is not None and name not in {"id", "pid", "exit_code"}:
        return "" if one == other else f"{other - one:+.4g}" if isinstance(one, float) else f"{other - one:+d}"
    return "" if same else "differs"


def _number(record: RunRecord, name: str) -> Any:
    """Return the number that is called *name* in the table, if it is one."""
    part, _, key = name.partition(".")
    value = getattr(record, part, None)
    if part == "images_failed":
        value = value.get(key, 0) if isinstance(value, dict) else 0
    elif key:
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _in_words(record: RunRecord) -> dict[str, str]:
    """Return every field, and every value of those that hold several, with its name; nothing in it forges a line."""
    found: dict[str, str] = {}
    for field in fields(record):
        name, value = field.name, getattr(record, field.name)
        if isinstance(value, dict) and value:
            found |= {f"{name}.{printable(key)}": _word(key, each) for key, each in value.items()}
        elif name == "monitors" and value:
            for each in value:
                said = f"{'kept' if each.get('passed') else 'not kept'}: {each.get('said')}"
                found[f"{name}.{printable(str(each.get('name')))}"] = printable(said)
        else:
            found[name] = _word(name, value)
        if name == "finished_at":
            found["took"] = _took(record)
        if name == "cars_gone":
            found["cars"] = str(record.cars)
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


def _upload(context: Context, options: argparse.Namespace) -> int:
    from carscraper.runs.outputs import selected, upload  # noqa: PLC0415 - boto3 only when used
    from carscraper.storage.outputs import OutputOptions  # noqa: PLC0415

    with _open_runs(context) as connection:
        record = _find(connection, options.id)
    folder = folder_of(record)
    # What a setting forbids is said without a mark on the run.
    selected(context.settings)
    OutputOptions.from_settings(context.settings).check()
    output = upload(
        context.settings,
        folder,
        job_id=record.job_id,
        started_at=record.started_at,
        spider=record.spider,
        asked=True,
    )
    if record.output.get("filesUploaded") and not output["filesUploaded"]:
        context.console.note("What was uploaded before is still there; the run keeps that.")
    else:
        assert record.id is not None
        with context.database(create=False) as engine, engine.begin() as connection:
            runs.save_output(connection, record.id, output)
    files = "1 file" if output["filesUploaded"] == 1 else f"{output['filesUploaded']} files"
    text = [f"Run {record.id}: {files} uploaded ({human_bytes(output['bytesUploaded'])})."]
    context.console.result(output, [*text, *output["s3Urls"]])
    for error in output["errors"]:
        context.console.note(error)
    return _CODES[output["status"]]


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


FUNCTIONS = {
    "list": (_list_arguments, _list),
    "show": (_show_arguments, _show),
    "compare": (_compare_arguments, _compare),
    "upload": (_show_arguments, _upload),
}
