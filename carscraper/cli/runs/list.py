"""``scrapy runs list``: the newest runs."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from carscraper.cli.console import human_bytes, printable, table
from carscraper.cli.durations import duration
from carscraper.cli.runs.common import open_runs
from carscraper.cli.runs.words import took
from carscraper.cli.storage.browse import positive
from carscraper.cli.verb import DONE
from carscraper.db import runs
from carscraper.runs.record import STATUSES, RunRecord

if TYPE_CHECKING:
    from carscraper.cli.verb import Context

_HEAD = (
    *(
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
    ),
    "reason",
)
_LONGEST = 80  # characters of a reason; `scrapy runs show` has all of it


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spider", metavar="NAME", help="of this spider only")
    parser.add_argument("--status", choices=STATUSES, help="that ended like this only")
    parser.add_argument(
        "--since",
        type=since,
        metavar="WHEN",
        help="that began since then: 7d, 12h, 2026-11-30 or 2026-11-30T06:00 (UTC)",
    )
    parser.add_argument("--limit", type=positive, default=20, metavar="N", help="at most so many (20)")


def _list(context: Context, options: argparse.Namespace) -> int:
    with open_runs(context) as connection:
        found = runs.listed(
            connection, spider=options.spider, status=options.status, since=options.since, limit=options.limit
        )
    records = [RunRecord(**each) for each in found]
    if records:
        text = table(_HEAD, (_row(each) for each in records), right=(0, 3, 5, 6, 7, 8, 9, 10))
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
        took(record),
        record.status,
        record.cars,
        record.cars_new,
        record.images_stored,
        sum(record.images_failed.values()),
        human_bytes(record.bytes),
        "-" if record.images_for_sale is None else f"{record.images_for_sale_stored}/{record.images_for_sale}",
        printable(record.job_id),
        _short(printable(record.reason)),
    ]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def since(text: str) -> datetime:
    """Read a day, a time (UTC) or how long ago it was; made for argparse's ``type=``.

    Raises:
        argparse.ArgumentTypeError: it is nothing like that.

    >>> since("2026-11-30"), since("2026-11-30T06:00+02:00")
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


FUNCTIONS = {"list": (_arguments, _list)}
