"""``scrapy queue [VERB]``: what the workers have to do."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from carscraper.command import Verb, VerbCommand
from carscraper.console import positive, table
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from carscraper.command import Context

_SHOWN = 50  # jobs of each kind, unless more are asked for
_LONGEST = 100  # characters of a cell
_STATES = {"todo": "waiting", "doing": "running", "succeeded": "done"}
_EMPTY: dict[str, Any] = {"workers": [], "running": [], "waiting": [], "failed": [], "counts": {}}


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", type=positive, default=_SHOWN, metavar="N", help=f"jobs of each kind at most (default {_SHOWN})"
    )


def _show(context: Context, options: argparse.Namespace) -> int:
    from carscraper.queue import overview

    found = overview(context.settings, options.limit)
    nothing = "There is no queue yet: `scrapy enqueue` makes it."
    context.console.result(found or _EMPTY, _lines(found) if found else nothing)
    return ExitCode.SUCCESS


def _cancel_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", nargs="+", type=int, metavar="JOB", help="a job's number")


def _cancel(context: Context, options: argparse.Namespace) -> int:
    from carscraper.queue import open_queue

    done: dict[int, bool] = dict.fromkeys(options.jobs, False)
    with open_queue(context.settings, create=False) as app:
        for number in done:
            done[number] = app is not None and app.job_manager.cancel_job_by_id(number, abort=True)
    lines = [
        f"job {number}: {'cancelled' if cancelled else 'neither waits nor runs'}" for number, cancelled in done.items()
    ]
    context.console.result({"jobs": [{"job": each, "cancelled": ok} for each, ok in done.items()]}, lines)
    return ExitCode.SUCCESS if all(done.values()) else ExitCode.FAILED


def _setup(context: Context, _options: argparse.Namespace) -> int:
    from carscraper.queue import open_queue

    with open_queue(context.settings):
        context.console.result({"ready": True}, "The queue's tables are there.")
    return ExitCode.SUCCESS


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    counts = ", ".join(f"{number} {_STATES.get(state, state)}" for state, number in sorted(found["counts"].items()))
    yield f"Jobs: {counts or 'none'}"
    yield from _section("Workers", ("worker", "running", "heard of"), (_worker(each) for each in found["workers"]))
    for title, columns in (
        ("Running", ("job", "what", "run", "host", "pid", "started_at")),
        ("Waiting", ("job", "what", "queue", "not_before", "tries", "why")),
        ("Failed", ("job", "what", "run", "host", "finished_at", "tries", "why")),
    ):
        yield from _section(title, columns, ([each[name] for name in columns] for each in found[title.lower()]))


def _worker(each: Mapping[str, Any]) -> list[Any]:
    return [each["worker"], each["running"], f"{each['silent']:.0f} s ago" + ("" if each["alive"] else ": gone")]


def _section(title: str, head: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    cells = [[printable("" if cell is None else str(cell))[:_LONGEST] for cell in row] for row in rows]
    if cells:
        yield from ("", title, *table([name.replace("_at", "").replace("_", " ") for name in head], cells))
    elif title == "Workers":
        yield from ("", "Workers: none is alive; start `scrapy worker`")


class Command(VerbCommand):
    """Shows the queue, takes jobs out of it."""

    summary = "Show the queue: what waits, what runs where, what failed and why"
    default = "show"
    verbs = (
        Verb("show", "Show what waits, what runs where, what failed and why, and who works", _show, _show_arguments),
        Verb(
            "cancel",
            "Take jobs out of the queue; what runs is told to stop, and does not come back",
            _cancel,
            _cancel_arguments,
        ),
        Verb("setup", "Make the queue's tables, where workers may not", _setup),
    )
