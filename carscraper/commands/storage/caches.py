"""``scrapy storage hits`` and ``invalidate``: the caches in front of the bucket, nginx's and CloudFront's."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.command import Verb
from carscraper.commands.storage.common import lines_of
from carscraper.console import human_bytes, table
from carscraper.exceptions import ConfigurationError, StoreError
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from carscraper.command import Context
    from carscraper.maintenance import cdn

_FROM_CACHE = ("HIT", "STALE", "UPDATING", "REVALIDATED")
_VIEWED = frozenset({200, 206, 304})


def _hits_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", metavar="LOG", nargs="+", help="nginx's log, also .gz; - is standard input")


def _log_lines(name: str) -> Iterator[bytes]:
    if name == "-":
        yield from sys.stdin.buffer
        return
    try:
        with gzip.open(name) if name.endswith(".gz") else Path(name).open("rb") as log:
            yield from log
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"The log {printable(name)} can't be read ({reason}).") from error


def _hits(context: Context, arguments: argparse.Namespace) -> int:
    views: Counter[str] = Counter()  # by nginx's $upstream_cache_status
    sizes: Counter[str] = Counter()
    unreadable = 0
    for line in (line for name in arguments.logs for line in _log_lines(name)):
        try:
            entry: dict[str, Any] = json.loads(line.decode("utf-8", "replace"))
            is_view = entry["method"] == "GET" and entry["status"] in _VIEWED
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


HITS = Verb("hits", "Count the hot cache's hit rate from nginx's log", _hits, _hits_arguments)


_LISTED = 20  # paths of a plan for people


def _invalidate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a key, a permanent URL, or either with * at its end")
    parser.add_argument("--from-file", metavar="FILE", help="read more of them from FILE, one a line; - is stdin")


def _invalidate(context: Context, options: argparse.Namespace) -> int:
    from carscraper.maintenance import cdn
    from carscraper.storage.client import open_client

    console = context.console
    distribution = context.settings.get("CLOUDFRONT_DISTRIBUTION_ID")
    if not distribution:
        raise ConfigurationError(
            "CLOUDFRONT_DISTRIBUTION_ID is missing: set it to the id of the distribution in front of the bucket."
        )
    paths = _paths(context, options)
    requests = len(cdn.batches(paths))
    data = {"distribution": distribution, "paths": paths}
    what = f"paths: {len(paths):,}, requests: {requests:,}"
    shown = [f"  {printable(path)}" for path in paths[:_LISTED]]
    shown += [f"  … and {len(paths) - _LISTED:,} more"] if len(paths) > _LISTED else []
    if options.dry_run:
        head = f"The distribution {distribution} would be sent an invalidation ({what}):"
        console.result({**data, "dry_run": True}, [head, *shown])
        return ExitCode.SUCCESS
    if not console.assume_yes:
        console.note("\n".join(shown))
    if not console.confirm(f"Send the distribution {distribution} this invalidation ({what})?"):
        console.note("Nothing was done.")
        return ExitCode.SUCCESS
    made: list[cdn.Invalidation] = []
    problem = None
    try:
        client = open_client(context.options, "cloudfront")
        cdn.invalidate(client, distribution, paths, say=console.note, accepted=made.append)
    except StoreError as error:
        if not made:
            raise
        problem = str(error)
    entries = [{"id": each.id, "paths": len(each.paths)} for each in made]
    lines = [f"{each.id}: accepted; it takes CloudFront some minutes (paths: {len(each.paths):,})" for each in made]
    console.result({**data, "invalidations": entries, "problem": problem}, lines)
    if problem:
        console.note(f"{len(made)} of {requests} requests were accepted. {problem}")
    return ExitCode.PARTIAL if problem else ExitCode.SUCCESS


def _paths(context: Context, options: argparse.Namespace) -> list[str]:
    """Return CloudFront's paths for all that was asked for, each once."""
    from carscraper.maintenance import cdn
    from carscraper.storage.keys import published_bases

    given = list(options.paths)
    if options.from_file is not None:
        given += lines_of(context, "--from-file", options.from_file)
    given = [text for text in given if text.strip()]
    if not given:
        raise ConfigurationError("There is no PATH: write keys, permanent URLs, or --from-file FILE.")
    its = context.options
    bases = published_bases(bucket=its.bucket, endpoint=its.endpoint, public_url=its.public_url)
    return list(dict.fromkeys(path for text in given for path in cdn.requested_paths(text, bases, its.public_url)))


INVALIDATE = Verb(
    "invalidate",
    "Have CloudFront drop changed or deleted objects from its caches",
    _invalidate,
    _invalidate_arguments,
    changes=True,
)
