"""``scrapy storage list`` and ``stats``: what is in the bucket."""

from __future__ import annotations

import argparse
import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from carscraper.cli.console import human_bytes, printable, table
from carscraper.cli.verb import DONE
from carscraper.db import coverage
from carscraper.db.engine import explained
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError, StoreRefusedError
from carscraper.maintenance.parallel import THREADS, in_order
from carscraper.storage import readback
from carscraper.storage.keys import parse_key, parse_thumbnail
from carscraper.storage.listing import Listed, Selection, selected
from carscraper.storage.statistics import Count, Statistics
from carscraper.vehicles import UNKNOWN, make_slug, slug

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from carscraper.cli.verb import Context

# --- list -------------------------------------------------------------------------------------------------------


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="what the keys begin with")
    parser.add_argument("--source", type=_source, metavar="NAME", help="photos of this dealer only, such as bilasolur")
    parser.add_argument("--make", type=_make, metavar="NAME", help="photos of this make only, in any spelling")
    parser.add_argument("--year", type=_year, metavar="YEAR", help=f"photos of cars of this year only, or {UNKNOWN}")
    parser.add_argument("--metadata", action="store_true", help="ask for each object's type, source and source address")
    parser.add_argument("--limit", type=positive, metavar="N", help="stop after N objects")


def _list(context: Context, options: argparse.Namespace) -> int:
    console, bucket, prefix = context.console, context.options.bucket, context.options.prefix
    only = Selection(source=options.source, make=options.make, year=options.year)
    objects = selected(context.client, bucket, prefix, below=_below(options.prefix, prefix), only=only)
    wanted = itertools.islice(objects, options.limit)
    shown = Count()
    for each, carried in _with_metadata(context, wanted) if options.metadata else ((each, None) for each in wanted):
        shown.add(each.size)
        record = _record(each, carried, prefix, metadata=options.metadata)
        line = json.dumps(record, ensure_ascii=False) if console.as_json else _row(each, carried, options.metadata)
        console.line(line)
        console.progress(f"{shown.objects:,} objects")
    console.end_progress()
    more = options.limit is not None and shown.objects == options.limit and next(objects, None) is not None
    rest = "; there are more" if more else ""
    console.note(f"{_objects(shown.objects)}, {human_bytes(shown.bytes)}{rest}.")
    return DONE


_Carried = dict[str, str | None] | None
_CARRIED = ("content_type", "source", "external_id", "source_url")


def _with_metadata(
    context: Context, objects: Iterable[Listed]
) -> Iterator[tuple[Listed, dict[str, str | None] | None]]:
    """Return each object with what it carries; ``None`` if it is gone since."""
    client, bucket = context.client, context.options.bucket

    def look(each: Listed) -> tuple[Listed, _Carried]:
        seen = readback.look(client, bucket, each.name)
        if seen is None:
            return each, None
        if seen.problem:
            raise StoreRefusedError(f"S3 refuses {printable(each.name)} ({seen.problem}): allow s3:GetObject.")
        found: dict[str, str | None] = {"content_type": seen.content_type}
        for name in _CARRIED[1:]:
            value = (seen.metadata or {}).get(name.replace("_", "-"))
            # Letters beyond ASCII travel percent-encoded; an address is one as it is.
            found[name] = unquote(value) if value and name != "source_url" else value
        return each, found

    with ThreadPoolExecutor(THREADS, thread_name_prefix="head") as pool:
        yield from in_order(pool, look, objects, ahead=2 * THREADS)


def _below(given: str, prefix: str) -> str:
    """Return what the names begin with: as they are printed, or without ``S3_PREFIX``.

    >>> _below("cars/bila", "cars/"), _below("bila", "cars/"), _below("", "cars/")
    ('cars/bila', 'cars/bila', 'cars/')
    """
    return given if given.startswith(prefix) else prefix + given


def _row(each: Listed, carried: _Carried, metadata: bool) -> str:
    row = f"{each.size:>10,}  {each.modified:%Y-%m-%d %H:%M}  {each.storage_class:<12}  {printable(each.name)}"
    if not metadata:
        return row
    if carried is None:
        return f"{row}  (gone since)"
    return "  ".join([row, *(printable(carried[name] or "–") for name in _CARRIED)])


def _record(each: Listed, carried: _Carried, prefix: str, *, metadata: bool) -> dict[str, Any]:
    parts, thumbnail = parse_key(each.name, prefix), parse_thumbnail(each.name, prefix)
    record: dict[str, Any] = {
        "key": each.name,
        "kind": "photo" if parts else "thumbnail" if thumbnail else "other",
        "bytes": each.size,
        "modified": each.modified.isoformat(),
        "storage_class": each.storage_class,
        "etag": each.etag,
    }
    if parts:
        record |= {"source": parts.spider, "year": parts.year, "make": parts.make, "model": parts.model}
        record |= {"external_id": parts.external_id}
    if metadata:
        record["metadata"] = carried
    return record


# --- stats ------------------------------------------------------------------------------------------------------


def _stats_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="what the keys begin with")


def _stats(context: Context, options: argparse.Namespace) -> int:
    console, bucket, prefix = context.console, context.options.bucket, context.options.prefix
    below = _below(options.prefix, prefix)
    statistics = Statistics()
    for number, each in enumerate(selected(context.client, bucket, prefix, below=below), 1):
        statistics.add(each, prefix)
        console.progress(f"{number:,} objects")
    console.end_progress()
    ledger: _Ledger | None = None
    try:
        ledger = _read_ledger(context)
    except (ConfigurationError, DatabaseUnavailableError) as error:
        console.note(f"Without the ledger: {error}")
    data = {"bucket": bucket, "prefix": below, **_statistics_data(statistics)}
    data["ledger"] = _ledger_data(*ledger) if ledger else None
    console.result(data, _statistics_text(bucket, below, statistics, ledger))
    return DONE


_Ledger = tuple[coverage.Coverage, list[coverage.Photos]]


def _read_ledger(context: Context) -> _Ledger:
    with explained(), context.database(read_only=True) as engine, engine.connect() as connection:
        return coverage.coverage(connection), coverage.by_status(connection)


def _statistics_data(statistics: Statistics) -> dict[str, Any]:
    def plain(counts: dict[str, Count]) -> dict[str, Any]:
        return {name: asdict(count) for name, count in sorted(counts.items())}

    return {
        **asdict(statistics.total),
        "kinds": {kind: asdict(count) for kind, count in statistics.by_kind.items()},
        "sources": plain(statistics.by_source),
        "storage_classes": plain(statistics.of_class()),
        "months": plain(statistics.by_month),
    }


def _ledger_data(cars: coverage.Coverage, photos: list[coverage.Photos]) -> dict[str, Any]:
    return {
        "active_cars": cars.cars,
        "with_photos": cars.with_photos,
        "complete": cars.complete,
        "share_complete": cars.share_complete,
        "photos_per_car": {"mean": cars.mean, "median": cars.median},
        "photos": [asdict(each) for each in photos],
    }


def _statistics_text(bucket: str, below: str, statistics: Statistics, ledger: _Ledger | None) -> Iterator[str]:
    total = statistics.total
    where = f"{bucket}, below {printable(below)}" if below else bucket
    yield f"{where}: {_objects(total.objects)}, {human_bytes(total.bytes)}"
    kinds = {f"{kind}s": count for kind, count in statistics.by_kind.items()}
    kinds["other objects"] = kinds.pop("others")
    yield from _counts("what", "objects", kinds)
    yield from _counts("storage class", "objects", statistics.of_class())
    yield from _counts("source", "photos", dict(sorted(statistics.by_source.items())))
    yield from _counts("month of upload", "photos", dict(sorted(statistics.by_month.items())))
    if ledger is None:
        return
    cars, photos = ledger
    yield ""
    share = "" if cars.share_complete is None else f" ({cars.share_complete:.1%})"
    yield f"Active cars: {cars.cars:,}, with photos {cars.with_photos:,}, all photos stored {cars.complete:,}{share}"
    if cars.mean is not None:
        yield f"Stored photos per car: {cars.mean:.1f} on average, {cars.median:g} in the middle"
    if photos:
        yield ""
        rows = [
            (each.status, printable(each.store or each.reason or "not tried yet"), f"{each.photos:,}")
            for each in photos
        ]
        yield from table(["photos in the ledger", "where, or why not", "photos"], rows, right=[2])


def _counts(what: str, unit: str, counts: dict[str, Count]) -> Iterator[str]:
    if counts:
        yield ""
        rows = [(printable(name), f"{each.objects:,}", human_bytes(each.bytes)) for name, each in counts.items()]
        yield from table([what, unit, "bytes"], rows, right=[1, 2])


def _objects(number: int) -> str:
    return "1 object" if number == 1 else f"{number:,} objects"


# --- values a person types --------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """Read a whole number of at least 1; made for argparse's ``type=``.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _source(text: str) -> str:
    return _sluggish(text, slug(text))


def _make(text: str) -> str:
    return _sluggish(text, make_slug(text))


def _sluggish(text: str, found: str) -> str:
    # A slug of nothing is "unknown", which keys have; nobody means it by "" or "!".
    if found == UNKNOWN and text.strip().lower() != UNKNOWN:
        raise argparse.ArgumentTypeError(f"{text!r} has no letters or digits; write a name, or {UNKNOWN}")
    return found


def _year(text: str) -> str:
    if text != UNKNOWN and not re.fullmatch(r"[1-9][0-9]{3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no year; write one such as 2019, or {UNKNOWN}")
    return text


FUNCTIONS = {"list": (_list_arguments, _list), "stats": (_stats_arguments, _stats)}
