"""``hits``: how many views the hot cache answered, from the log that ``deploy/nginx.conf`` has nginx write."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.command import Verb
from carscraper.console import human_bytes, table
from carscraper.exceptions import ConfigurationError
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from carscraper.command import Context

_FROM_CACHE = ("HIT", "STALE", "UPDATING", "REVALIDATED")
_SHOWN = frozenset({200, 206, 304})


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", metavar="LOG", nargs="+", help="nginx's log, also .gz; - is standard input")


def _lines(name: str) -> Iterator[bytes]:
    if name == "-":
        yield from sys.stdin.buffer
        return
    try:
        with gzip.open(name) if name.endswith(".gz") else Path(name).open("rb") as log:
            yield from log
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"The log {printable(name)} can't be read ({reason}).") from error


def _run(context: Context, arguments: argparse.Namespace) -> int:
    views: Counter[str] = Counter()  # by nginx's $upstream_cache_status
    sizes: Counter[str] = Counter()
    unreadable = 0
    for line in (line for name in arguments.logs for line in _lines(name)):
        try:
            entry: dict[str, Any] = json.loads(line.decode("utf-8", "replace"))
            is_view = entry["method"] == "GET" and entry["status"] in _SHOWN
            cache, size = str(entry["cache"]), int(entry["bytes"])
        except (ValueError, TypeError, KeyError):
            unreadable += bool(line.strip())
            continue
        if is_view and cache:
            views[cache] += 1
            sizes[cache] += size
    total, hits = views.total(), sum(views[status] for status in _FROM_CACHE)
    rate = hits / total if total else None
    statuses = {name: {"views": views[name], "bytes": sizes[name]} for name in sorted(views)}
    data = {"views": total, "hits": hits, "hit_rate": rate, "by_status": statuses, "unreadable": unreadable}
    rows = [(printable(name), f"{each['views']:,}", human_bytes(each["bytes"])) for name, each in statuses.items()]
    lines = [*table(["cache", "views", "bytes"], rows, right=[1, 2])] if rows else []
    share = "" if rate is None else f" ({rate:.1%})"
    context.console.result(data, [*lines, f"Views {total:,}, of which from the cache {hits:,}{share}."])
    if unreadable:
        context.console.note(f"Lines that are not in the format of deploy/nginx.conf, not counted: {unreadable:,}.")
        return ExitCode.PARTIAL
    return ExitCode.SUCCESS


VERB = Verb("hits", "Count the hot cache's hit rate from nginx's log", _run, _arguments)
