"""``list`` and ``stats``: what is in the bucket."""

from __future__ import annotations

import argparse
import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from carscraper.command import Verb
from carscraper.commands.storage.common import KIND_NAMES, kind_of, outputs_prefix
from carscraper.console import counted, human_bytes, positive, table
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError, StoreRefusedError
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from carscraper.command import Context
    from carscraper.db import coverage
    from carscraper.storage.listing import ListedObject

    _Ledger = tuple[coverage.Coverage, list[coverage.Photos]]

# --- list -------------------------------------------------------------------------------------------------------


def source(text: str) -> str:
    """Read a dealer's name as keys have it; made for argparse's ``type=``."""
    from carscraper.vehicles import slug

    return _named(text, slug(text))


def _make(text: str) -> str:
    from carscraper.vehicles import make_slug

    return _named(text, make_slug(text))


def _named(text: str, found: str) -> str:
    from carscraper.vehicles import UNKNOWN

    # A slug of nothing is "unknown", which keys have; nobody means it by "" or "!".
    if found == UNKNOWN and text.strip().lower() != UNKNOWN:
        raise argparse.ArgumentTypeError(f"{text!r} has no letters or digits; write a name, or {UNKNOWN}")
    return found


def _year(text: str) -> str:
    from carscraper.vehicles import UNKNOWN

    if text != UNKNOWN and not re.fullmatch(r"[1-9][0-9]{3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no year; write one such as 2019, or {UNKNOWN}")
    return text


def prefix_argument(parser: argparse.ArgumentParser) -> None:
    """Add PREFIX."""
    parser.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="what the keys begin with")


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    prefix_argument(parser)
    parser.add_argument("--source", type=source, metavar="NAME", help="photos of this dealer only, such as bilasolur")
    parser.add_argument("--make", type=_make, metavar="NAME", help="photos of this make only, in any spelling")
    parser.add_argument("--year", type=_year, metavar="YEAR", help="photos of cars of this year only, or unknown")
    parser.add_argument("--metadata", action="store_true", help="ask for each object's type, source and source address")
    parser.add_argument("--limit", type=positive, metavar="N", help="stop after N objects")


def _list(context: Context, options: argparse.Namespace) -> int:
    console = context.console
    objects = selected(context, options.prefix, (options.source, options.year, options.make))
    wanted = itertools.islice(objects, options.limit)
    shown = _Count()
    for each, carried in _with_metadata(context, wanted) if options.metadata else ((each, None) for each in wanted):
        shown.add(each.size)
        if console.as_json:
            record = _record(context, each) | ({"metadata": carried} if options.metadata else {})
            console.line(json.dumps(record, ensure_ascii=False))
        else:
            row = f"{each.size:>10,}  {each.modified:%Y-%m-%d %H:%M}  {each.storage_class:<12}  {printable(each.name)}"
            if options.metadata:
                words = [printable(value or "–") for value in carried.values()] if carried else ["(gone since)"]
                row = "  ".join([row, *words])
            console.line(row)
        console.progress(f"{shown.objects:,} objects")
    console.end_progress()
    more = options.limit is not None and shown.objects == options.limit and next(objects, None) is not None
    rest = "; there are more" if more else ""
    console.note(f"{counted(shown.objects, 'object')}, {human_bytes(shown.bytes)}{rest}.")
    return ExitCode.SUCCESS


def _places(given: str, prefix: str, outputs: str | None) -> list[str]:
    """Return what the names begin with that *given* means: as they are printed, or without ``S3_PREFIX``.

    >>> _places("cars/bila", "cars/", "out/"), _places("bila", "cars/", "out/"), _places("", "cars/", "out/")
    (['cars/bila'], ['cars/bila'], ['cars/', 'out/'])
    >>> _places("out", "cars/", "outputs/"), _places("", "", "outputs/"), _places("outputs/2026", "cars/", None)
    (['cars/out', 'outputs/'], [''], ['cars/outputs/2026'])
    """
    found = [given if given.startswith(prefix) else prefix + given]
    if outputs is not None and (given.startswith(outputs) or outputs.startswith(given)):
        found.append(max(given, outputs, key=len))
    found = list(dict.fromkeys(found))
    return [each for each in found if not any(each.startswith(other) for other in found if other != each)]


def selected(context: Context, given: str = "", parts: tuple[str | None, ...] = ()) -> Iterator[ListedObject]:
    """Return the objects below ``S3_PREFIX`` and the runs' outputs that begin with *given*.

    With *parts* (source, year, make), photos of these alone.
    """
    from carscraper.storage.keys import parse_key
    from carscraper.storage.listing import list_objects
    from carscraper.vehicles import UNKNOWN

    bucket, prefix = context.options.bucket, context.options.prefix
    outputs = None if any(parts) else outputs_prefix(context)
    known = itertools.takewhile(lambda part: part is not None, parts)
    start = prefix + "".join(f"{part}/" for part in known) if any(parts) else ""
    for below in _places(given, prefix, outputs):
        if not (start.startswith(below) or below.startswith(start)):
            continue
        for each in list_objects(context.client, bucket, max(start, below, key=len)):
            if any(parts):
                found = parse_key(each.name, prefix)
                have = (found.spider, str(found.year or UNKNOWN), found.make) if found else ()
                if not have or any(want not in {None, has} for want, has in zip(parts, have, strict=True)):
                    continue
            # Without S3_OUTPUT_PREFIX they are in the bucket's root, among what is not ours.
            if outputs != "" or each.name.startswith(prefix) or kind_of(context, each.name) == "output":
                yield each


def _with_metadata(
    context: Context, objects: Iterable[ListedObject]
) -> Iterator[tuple[ListedObject, dict[str, str | None] | None]]:
    """Return each object with what it carries; ``None`` if it is gone since."""
    from carscraper.storage.objects import THREADS, in_order, look

    def ask(each: ListedObject) -> tuple[ListedObject, dict[str, str | None] | None]:
        seen = look(context.client, context.options.bucket, each.name)
        if seen is None:
            return each, None
        if seen.problem:
            raise StoreRefusedError(f"S3 refuses {printable(each.name)} ({seen.problem}): allow s3:GetObject.")
        carried = seen.metadata or {}
        found: dict[str, str | None] = {"content_type": seen.content_type}
        # Letters beyond ASCII travel percent-encoded; an address is one as it is.
        for name in ("source", "external-id"):
            found[name.replace("-", "_")] = unquote(carried[name]) if carried.get(name) else None
        return each, found | {"source_url": carried.get("source-url")}

    context.client  # noqa: B018 - made here, not in several threads
    with ThreadPoolExecutor(THREADS, thread_name_prefix="head") as pool:
        yield from in_order(pool, ask, objects)


def _record(context: Context, each: ListedObject) -> dict[str, Any]:
    from carscraper.storage.keys import parse_key

    parts = parse_key(each.name, context.options.prefix)
    record: dict[str, Any] = {
        "key": each.name,
        "kind": kind_of(context, each.name),
        "bytes": each.size,
        "modified": each.modified.isoformat(),
        "storage_class": each.storage_class,
        "etag": each.etag,
    }
    if parts:
        record |= {"source": parts.spider, "year": parts.year, "make": parts.make, "model": parts.model}
        record |= {"external_id": parts.external_id}
    return record


# --- stats ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Count:
    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


_Counts = dict[str, _Count]


def _stats(context: Context, options: argparse.Namespace) -> int:
    from carscraper.db import coverage
    from carscraper.db.engine import explained_database
    from carscraper.storage.keys import parse_key

    console, prefix = context.console, context.options.prefix
    total = _Count()
    counts: dict[str, _Counts] = {"kinds": {kind: _Count() for kind in KIND_NAMES}}
    counts |= {"sources": {}, "storage_classes": {}, "months": {}}
    for each in selected(context, options.prefix):
        parts = parse_key(each.name, prefix)
        heaps = {"kinds": kind_of(context, each.name), "storage_classes": each.storage_class}
        if parts:
            heaps |= {"sources": parts.spider, "months": f"{each.modified:%Y-%m}"}
        total.add(each.size)
        for what, name in heaps.items():
            counts[what].setdefault(name, _Count()).add(each.size)
        console.progress(f"{total.objects:,} objects")
    console.end_progress()
    ledger: _Ledger | None = None
    try:
        with explained_database(), context.database(read_only=True) as engine, engine.connect() as connection:
            ledger = coverage.coverage(connection), coverage.by_status(connection)
    except (ConfigurationError, DatabaseUnavailableError) as error:
        console.note(f"Without the ledger: {error}")
    places = _places(options.prefix, prefix, outputs_prefix(context))
    data: dict[str, Any] = {"bucket": context.options.bucket, "prefix": places[0], **asdict(total)}
    data |= {what: {name: asdict(its[name]) for name in sorted(its)} for what, its in counts.items()}
    data["ledger"] = _ledger_data(*ledger) if ledger else None
    below = " and ".join(map(printable, places))
    where = f"{context.options.bucket}, below {below}" if below else context.options.bucket
    head = f"{where}: {counted(total.objects, 'object')}, {human_bytes(total.bytes)}"
    console.result(data, [head, *_table_lines(counts), *(_ledger_lines(*ledger) if ledger else ())])
    return ExitCode.SUCCESS


def _ledger_data(cars: coverage.Coverage, photos: list[coverage.Photos]) -> dict[str, Any]:
    return {
        "active_cars": cars.cars,
        "with_photos": cars.with_photos,
        "complete": cars.complete,
        "share_complete": cars.share_complete,
        "photos_per_car": {"mean": cars.mean, "median": cars.median},
        "photos": [asdict(each) for each in photos],
    }


_TABLES = (
    ("kinds", "what", "objects"),
    ("storage_classes", "storage class", "objects"),
    ("sources", "source", "photos"),
    ("months", "month of upload", "photos"),
)


def _table_lines(counts: dict[str, _Counts]) -> Iterator[str]:
    for what, title, unit in _TABLES:
        names = KIND_NAMES if what == "kinds" else {name: printable(name) for name in sorted(counts[what])}
        if names:
            found = ((shown, counts[what][name]) for name, shown in names.items())
            rows = [(shown, f"{each.objects:,}", human_bytes(each.bytes)) for shown, each in found]
            yield from ("", *table([title, unit, "bytes"], rows, right=[1, 2]))


def _ledger_lines(cars: coverage.Coverage, photos: list[coverage.Photos]) -> Iterator[str]:
    share = "" if cars.share_complete is None else f" ({cars.share_complete:.1%})"
    yield ""
    yield f"Active cars: {cars.cars:,}, with photos {cars.with_photos:,}, all photos stored {cars.complete:,}{share}"
    if cars.mean is not None:
        yield f"Stored photos per car: {cars.mean:.1f} on average, {cars.median:g} in the middle"
    if photos:
        rows = [
            (each.status, printable(each.store or each.reason or "not tried yet"), f"{each.photos:,}")
            for each in photos
        ]
        yield from ("", *table(["photos in the ledger", "where, or why not", "photos"], rows, right=[2]))


LIST = Verb(
    "list", "List objects with size, date and storage class; --json gives a JSON object a line", _list, _list_arguments
)
STATS = Verb(
    "stats",
    "Count objects and bytes by source, storage class and month, and the cars' photos in the ledger",
    _stats,
    prefix_argument,
)
