"""``hits``: the hit rate of the hot cache."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from carscraper.cli.console import human_bytes, printable, table
from carscraper.cli.verb import DONE, PARTIAL
from carscraper.exceptions import ConfigurationError
from carscraper.maintenance.hits import Hits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from carscraper.cli.verb import Context


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", metavar="LOG", nargs="+", help="nginx's log, also .gz; - is standard input")


@contextlib.contextmanager
def _open(name: str) -> Iterator[Iterable[bytes]]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        with gzip.open(name) if name.endswith(".gz") else Path(name).open("rb") as log:
            yield log
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"The log {printable(name)} can't be read ({reason}).") from error


def _run(context: Context, arguments: argparse.Namespace) -> int:
    found = Hits()
    for name in arguments.logs:
        with _open(name) as log:
            found.count(log)
    statuses = {name: {"views": found.views[name], "bytes": found.sizes[name]} for name in sorted(found.views)}
    data = {"views": found.total, "hits": found.hits, "hit_rate": found.rate, "by_status": statuses}
    rows = [(printable(name), f"{each['views']:,}", human_bytes(each["bytes"])) for name, each in statuses.items()]
    rate = "" if found.rate is None else f" ({found.rate:.1%})"
    lines = [*table(["cache", "views", "bytes"], rows, right=[1, 2])] if rows else []
    lines.append(f"Views {found.total:,}, of which from the cache {found.hits:,}{rate}.")
    context.console.result(data | {"unreadable": found.unreadable}, lines)
    if found.unreadable:
        context.console.note(
            f"Lines that are not in the format of deploy/nginx.conf, not counted: {found.unreadable:,}."
        )
        return PARTIAL
    return DONE


FUNCTIONS = {"hits": (_arguments, _run)}
