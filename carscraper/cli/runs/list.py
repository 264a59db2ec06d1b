"""``scrapy runs list``: the newest runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from carscraper.cli.console import human_bytes, printable, table
from carscraper.cli.runs.common import open_runs
from carscraper.cli.runs.words import took
from carscraper.cli.storage.browse import positive
from carscraper.cli.verb import DONE, Verb
from carscraper.db import runs
from carscraper.runs.record import STATUSES, RunRecord

if TYPE_CHECKING:
    from carscraper.cli.verb import Context

_HEAD = ("id", "spider", "started (UTC)", "time", "status", "cars", "new", "photos", "failed", "stored", "job")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spider", metavar="NAME", help="of this spider only")
    parser.add_argument("--status", choices=STATUSES, help="that ended like this only")
    parser.add_argument("--limit", type=positive, default=20, metavar="N", help="at most so many (20)")


def _list(context: Context, options: argparse.Namespace) -> int:
    with open_runs(context) as connection:
        found = runs.listed(connection, spider=options.spider, status=options.status, limit=options.limit)
    records = [RunRecord(**each) for each in found]
    if records:
        text = table(_HEAD, (_row(each) for each in records), right=(0, 3, 5, 6, 7, 8, 9))
    else:
        which = f" of {printable(options.spider)}" if options.spider else ""
        status = f" whose status is {options.status}" if options.status else ""
        text = [f"There is no run{which}{status} yet."]
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
        printable(record.job_id),
    ]


VERBS = [Verb(name="list", summary="The newest runs, and how they ended", arguments=_arguments, run=_list)]
