"""``scrapy queue``: what waits, what runs where, what failed and why, and who works."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from carscraper.cli.console import printable, table
from carscraper.cli.verb import DONE, FAILED, Verb
from carscraper.db import queue
from carscraper.db.engine import open_engine
from carscraper.jobs.job import Job
from carscraper.jobs.verbs import prepare
from carscraper.settings import Secret

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy import Connection

    from carscraper.cli.verb import Context

T = TypeVar("T")

_SHOWN = 50  # jobs of each kind, unless more are asked for
_LONGEST = 100  # characters of a reason in the table …
_LONGEST_NAME = 70  # … and of what is crawled


def overview(connection: Connection, *, heartbeat: float, limit: int = _SHOWN) -> dict[str, Any]:
    """Give the state of the queue.

    Args:
        connection: to a database with the queue's tables.
        heartbeat: ``WORKER_HEARTBEAT``: a worker that was silent for four of them counts as gone.
        limit: the most jobs of each kind.
    """
    workers = [
        {
            "worker": row["id"],
            "host": row["host"],
            "pid": row["pid"],
            "queues": row["queues"].split(",") if row["queues"] else None,
            "concurrency": row["concurrency"],
            "since": _time(row["started_at"]),
            "running": row["running"],
            "silent": round(row["silent"], 1),
            "alive": row["silent"] < 4 * heartbeat,
        }
        for row in queue.workers(connection)
    ]
    return {
        "workers": workers,
        "running": [_job(row) for row in queue.jobs(connection, ["doing"], limit=limit)],
        "waiting": [_job(row) for row in queue.jobs(connection, ["todo"], limit=limit)],
        "failed": [_job(row) for row in queue.jobs(connection, ["failed"], limit=limit)],
        "counts": queue.counts(connection),
    }


def _job(row: Mapping[str, Any]) -> dict[str, Any]:
    job = Job.read(row["args"])
    tries = row["tries"] or 0
    return {
        "job": row["id"],
        "what": str(job),
        "spider": job.spider,
        "queue": row["queue"],
        "queued_at": _time(row["queued_at"]),
        "not_before": _time(row["scheduled_at"]) if row["status"] == "todo" else None,
        "tries": tries,
        "run": f"q{row['id']}-{tries}" if tries else None,
        "worker": row["worker_id"] if row["status"] == "doing" else None,
        "host": row["host"],
        "pid": row["pid"],
        "started_at": _time(row["started_at"]),
        "finished_at": _time(row["finished_at"]),
        "outcome": row["outcome"],
        "exit_code": row["exit_code"],
        "why": row["said"],
    }


def _time(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds").removesuffix("+00:00") + "Z" if moment else None


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Lay an overview out for people."""
    counts = ", ".join(f"{number} {_STATES.get(state, state)}" for state, number in sorted(found["counts"].items()))
    yield f"Jobs: {counts or 'none'}"
    sections: dict[str, tuple[list[str], list[list[Any]]]] = {
        "Workers": (
            ["worker", "host", "process", "queues", "at a time", "running", "heard of"],
            [
                [
                    each["worker"],
                    each["host"] or "?",
                    each["pid"] or "?",
                    ",".join(each["queues"] or ["all"]),
                    each["concurrency"] or "?",
                    each["running"],
                    f"{each['silent']:.0f} s ago" + ("" if each["alive"] else ": gone"),
                ]
                for each in found["workers"]
            ],
        ),
        "Running": (
            ["job", "crawl", "run", "host", "process", "since"],
            [
                [
                    each["job"],
                    _name(each),
                    each["run"],
                    each["host"] or "?",
                    each["pid"] or "?",
                    each["started_at"],
                ]
                for each in found["running"]
            ],
        ),
        "Waiting": (
            ["job", "crawl", "queue", "queued", "not before", "tries", "last try"],
            [
                [
                    *(
                        each["job"],
                        _name(each),
                        each["queue"],
                        each["queued_at"],
                        each["not_before"] or "",
                    ),
                    *(each["tries"], _why(each)),
                ]
                for each in found["waiting"]
            ],
        ),
        "Failed": (
            ["job", "crawl", "run", "host", "ended", "tries", "why"],
            [
                [
                    *(
                        each["job"],
                        _name(each),
                        each["run"] or "",
                        each["host"] or "?",
                        each["finished_at"] or "",
                    ),
                    *(each["tries"], _why(each)),
                ]
                for each in found["failed"]
            ],
        ),
    }
    for title, (head, rows) in sections.items():
        if rows or title == "Workers":
            yield ""
            yield title if rows else "Workers: none is alive; start `scrapy worker`"
        if rows:
            yield from table(head, [[printable(str(cell)) for cell in row] for row in rows])


_STATES = {"todo": "waiting", "doing": "running", "succeeded": "done"}


def _why(each: Mapping[str, Any]) -> str:
    if not each["outcome"]:
        return ""
    return _short(f"{each['outcome']}: {each['why']}" if each["why"] else each["outcome"], _LONGEST)


def _name(each: Mapping[str, Any]) -> str:
    return _short(each["what"], _LONGEST_NAME)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


# --- the verbs --------------------------------------------------------------------------------------------------


def _ask(context: Context, function: Callable[..., T], *arguments: Any, **named: Any) -> T | None:
    """Call *function* if there is a queue."""
    secret: Secret = context.settings["DATABASE_URL"]
    queue.connect_arguments(secret.reveal())
    engine = open_engine(secret.reveal(), timeout=60)
    try:
        if not queue.transact(engine, queue.is_there):
            return None
        return queue.transact(engine, function, *arguments, **named)
    finally:
        engine.dispose()


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", type=int, default=_SHOWN, metavar="N", help=f"jobs of each kind at most (default {_SHOWN})"
    )


def _show(context: Context, options: argparse.Namespace) -> int:
    beat = context.settings.getfloat("WORKER_HEARTBEAT")
    found = _ask(context, overview, heartbeat=beat, limit=max(1, options.limit))
    if found is None:
        nothing: dict[str, Any] = {"workers": [], "running": [], "waiting": [], "failed": [], "counts": {}}
        context.console.result(nothing, "There is no queue yet: `scrapy enqueue` makes it.")
        return DONE
    context.console.result(found, lines(found))
    return DONE


def _cancel_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", nargs="+", type=int, metavar="JOB", help="a job's number")


def _cancel(context: Context, options: argparse.Namespace) -> int:
    said = {"todo": "waits no more", "doing": "is told to stop", None: "neither waits nor runs"}
    states = {number: _ask(context, queue.cancel, number) for number in options.jobs}
    data = [{"job": number, "was": state, "cancelled": state is not None} for number, state in states.items()]
    context.console.result({"jobs": data}, [f"job {number} {said[state]}" for number, state in states.items()])
    return DONE if all(states.values()) else FAILED


def _setup(context: Context, _options: argparse.Namespace) -> int:
    secret: Secret = context.settings["DATABASE_URL"]
    prepare(secret.reveal())
    context.console.result({"ready": True}, "The queue's tables are there.")
    return DONE


VERBS = [
    Verb(
        name="show",
        summary="Show what waits, what runs where, what failed and why, and who works",
        arguments=_show_arguments,
        run=_show,
    ),
    Verb(
        name="cancel",
        summary="Take jobs out of the queue; what runs is told to stop, and does not come back",
        arguments=_cancel_arguments,
        run=_cancel,
    ),
    Verb(
        name="setup",
        summary="Make the queue's tables or bring them up to date, where workers may not",
        arguments=lambda _: None,
        run=_setup,
    ),
]
"""What can be done about the queue."""
