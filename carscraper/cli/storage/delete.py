"""``delete``: photos, everywhere at once, so that no crawl brings them back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.cli.console import human_bytes, printable
from carscraper.cli.verb import DONE, FAILED, PARTIAL
from carscraper.db import removal as rows
from carscraper.exceptions import ConfigurationError
from carscraper.storage.client import S3Options, open_client
from carscraper.storage.keys import normalise_prefix, published_bases
from carscraper.storage.spool import Spool
from carscraper.upkeep import deletion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Engine

    from carscraper.cli.verb import Context
    from carscraper.db.removal import Row
    from carscraper.upkeep.deletion import Outcome, Places, Plan

_SHOWN = 20  # names of a list that is beside the point
_LONGEST_KEY = 1024  # bytes


def _key(text: str) -> str:
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= _LONGEST_KEY or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no key; write an object's whole name, as `list` shows it")
    return text


def _car(text: str) -> tuple[str, str]:
    source, _, external_id = text.partition("/")
    if not source or not external_id or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text[:80]!r} names no car; write SOURCE/ID, such as Bilasolur/296487")
    return source, external_id


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("keys", metavar="KEY", nargs="*", type=_key, help="a photo's whole name in the bucket")
    parser.add_argument(
        "--car", metavar="SOURCE/ID", type=_car, action="append", default=[], help="every photo of this car"
    )
    parser.add_argument(
        "--all-versions", action="store_true", help="on a bucket with versions: the old versions too, for good"
    )
    parser.add_argument("--finish", action="store_true", help="finish every deletion that was cut off")
    parser.add_argument(
        "--lift", action="store_true", help="let the next crawl fetch the deleted photos of --car again"
    )


def _run(context: Context, arguments: argparse.Namespace) -> int:
    if not (arguments.keys or arguments.car or arguments.finish):
        raise ConfigurationError("Say what to delete: KEYs, or --car SOURCE/ID, or --finish.")
    if arguments.lift and (not arguments.car or arguments.keys or arguments.finish or arguments.all_versions):
        raise ConfigurationError("--lift goes with --car SOURCE/ID alone: bytes that are deleted do not come back.")
    with context.database(read_only=arguments.dry_run) as engine:
        if arguments.lift:
            return _lift(context, engine, arguments)
        return _delete(context, engine, arguments)


def _delete(context: Context, engine: Engine, arguments: argparse.Namespace) -> int:
    console = context.console
    keys = list(arguments.keys)
    if arguments.finish:
        with engine.connect() as connection:
            keys += rows.unfinished(connection)
    plan, without_row = deletion.select(engine, keys, arguments.car)
    with engine.connect() as connection:
        stores = {row.store for row in rows.rows_of_keys(connection, plan.keys) if row.store}
    places = _places(context, stores, orphans=bool(without_row))
    deletion.look(plan, places, all_versions=arguments.all_versions)
    found = {thing.key for thing in plan.things} | {version.name for version in plan.versions}
    unknown = [key for key in without_row if key not in found]
    if unknown:
        where = f"no object of {places.bucket.name}" if places.bucket else "no file of IMAGES_STORE"
        raise ConfigurationError(
            f"No row and {where} is called {_names(unknown)}: nothing was deleted. A key is the whole name, S3_PREFIX "
            "included."
        )
    if plan.is_empty:
        console.result(_data(plan, deletion.Outcome(), dry_run=arguments.dry_run), "There is nothing left to delete.")
        return DONE
    if arguments.dry_run:
        console.result(_data(plan, deletion.Outcome(), dry_run=True), [*_lines(plan, without_row, None), _would(plan)])
        return DONE
    if not console.assume_yes:
        for line in _lines(plan, without_row, _SHOWN):
            console.note(line)
    if not _agreed(context, plan, all_versions=arguments.all_versions):
        console.note("Nothing was deleted.")
        return FAILED
    outcome = deletion.run(engine, plan, places, all_versions=arguments.all_versions, say=console.progress)
    console.end_progress()
    console.result(_data(plan, outcome, dry_run=False), _done(outcome))
    for name, why in outcome.failures:
        console.note(f"Still there: {printable(name)} ({printable(why)})")
    if outcome.failures:
        console.note(
            "No crawl fetches these photos and no car shows them; the same command, or --finish, does the rest."
        )
        return PARTIAL
    return DONE


def _agreed(context: Context, plan: Plan, *, all_versions: bool) -> bool:
    confirm = context.console.confirm
    if plan.shared and not confirm(
        f"{_count(len(plan.shared), 'photo')} of these are shown by several cars "
        f"({_names(sorted({car for cars in plan.shared.values() for car in cars}))}); delete them for all?"
    ):
        return False
    if not confirm(f"{_would(plan)} Go on?"):
        return False
    return not (all_versions and plan.versions) or confirm(
        f"Remove {_count(len(plan.versions), 'version')} for good? Nothing brings these bytes back."
    )


def _places(context: Context, stores: set[str], *, orphans: bool) -> Places:
    """Give where to delete from.

    Raises:
        ConfigurationError: a photo is in a bucket that the settings do not name.
    """
    settings = context.settings
    bucket = None
    named = settings.get("AWS_S3_BUCKET")
    elsewhere = sorted(store for store in stores if store.startswith("s3://") and store != f"s3://{named}")
    if elsewhere:
        raise ConfigurationError(
            f"Photos of these are in {printable(elsewhere[0])}: set AWS_S3_BUCKET={printable(elsewhere[0][5:])} "
            "(with its region and credentials) and delete them there."
        )
    if settings.getbool("USE_S3_STORAGE") or stores - {"folder"} or (orphans and named):
        bucket = _bucket(context)
    folder = settings.get("IMAGES_STORE")
    return deletion.Places(
        bucket=bucket,
        folder=Path(folder) if folder else None,
        bases=published_bases(
            bucket=named, endpoint=settings.get("AWS_ENDPOINT_URL"), public_url=settings.get("IMAGES_PUBLIC_URL")
        ),
        public_url=settings.get("IMAGES_PUBLIC_URL"),
    )


def _bucket(context: Context) -> deletion.Bucket:
    settings = context.settings
    options: S3Options = context.options
    return deletion.Bucket(
        client=context.client,
        name=options.bucket,
        prefix=normalise_prefix(options.prefix),
        distribution=settings.get("CLOUDFRONT_DISTRIBUTION_ID"),
        open_cdn=lambda: open_client(options, "cloudfront"),
        spool=Spool(
            Path(settings.get("SPOOL_DIR")),
            location=f"s3://{options.bucket}/{options.prefix}",
            max_bytes=settings.getint("SPOOL_MAX_BYTES"),
        ),
        thumbnails=frozenset(settings.get("IMAGES_THUMBS")),
    )


# --- lift -------------------------------------------------------------------------------------------------------


def _lift(context: Context, engine: Engine, arguments: argparse.Namespace) -> int:
    console = context.console
    with engine.connect() as connection:
        listing_ids = []
        for source, external_id in arguments.car:
            found = rows.listing_of(connection, source, external_id)
            if found is None:
                raise ConfigurationError(f"The ledger knows no car {source}/{external_id}: write it as SOURCE/ID.")
            listing_ids.append(found)
        tombstones = rows.lifted_with(connection, listing_ids)
    open_ends = [row for row in tombstones if row.key]
    if open_ends:
        raise ConfigurationError(
            f"The deletion of {_names([row.key or '' for row in open_ends])} was cut off: "
            "run `scrapy storage delete --finish` first."
        )
    cars = _cars(tombstones)
    data = {"dry_run": arguments.dry_run, "photos": len(tombstones), "cars": cars, "lifted": 0}
    if not tombstones:
        console.result(data, "No photo of this car was deleted.")
        return DONE
    what = f"{_count(len(tombstones), 'photo')} of {_count(len(cars), 'car')} ({_names(cars)})"
    if arguments.dry_run:
        console.result(data, f"The next crawl might fetch {what} again.")
        return DONE
    if not console.confirm(f"Let the next crawl fetch {what} again?"):
        console.note("Nothing was changed.")
        return FAILED
    with engine.begin() as connection:
        data["lifted"] = rows.lift(connection, [row.row_id for row in tombstones])
    console.result(data, f"The next crawl fetches {what} again, if the dealer still shows them.")
    return DONE


# --- words ------------------------------------------------------------------------------------------------------


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s" if not what.endswith("copy") else "")


def _names(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _SHOWN
    return ", ".join(printable(name) for name in names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _cars(photos: Iterable[Row]) -> list[str]:
    return sorted({row.car for row in photos})


def _would(plan: Plan) -> str:
    there = _things([thing.where for thing in plan.things])
    size = human_bytes(sum(max(0, thing.bytes) for thing in plan.things))
    cars = _cars(plan.photos)
    of = f" of {_count(len(cars), 'car')} ({_names(cars)})" if cars else ""
    unfinished = f", {_count(plan.unfinished, 'photo')} of a deletion that was cut off" if plan.unfinished else ""
    versions = f", {_count(len(plan.versions), 'version')}" if plan.versions else ""
    return f"To delete: {_count(len(plan.photos), 'photo')}{of}{unfinished}; {there}{versions} ({size})."


def _things(where: list[str]) -> str:
    objects, files = where.count("s3"), where.count("folder")
    return f"{_count(objects, 'object')}" + (f", {_count(files, 'local file')}" if files else "")


def _lines(plan: Plan, without_row: list[str], most: int | None) -> list[str]:
    lines = [
        f"- {'s3' if thing.where == 's3' else 'folder'}  {printable(thing.name)}"
        + (f"  ({human_bytes(thing.bytes)})" if thing.bytes >= 0 else "")
        for thing in plan.things
    ]
    if most and len(lines) > most:
        lines = [*lines[:most], f"… and {len(lines) - most:,} more (--dry-run shows all)"]
    lines += [f"! {printable(key)} has no row in the ledger: an orphan." for key in without_row]
    lines += [f"! {printable(key)} is shown by {len(cars)} cars: {_names(cars)}." for key, cars in plan.shared.items()][
        :most
    ]
    lines += [
        f"! The same bytes are also kept as {printable(row.key or '')} ({printable(row.car)}); they stay."
        for row in plan.same_bytes
    ][:most]
    if plan.keeps_versions and not plan.versions:
        lines.append(
            "! The bucket keeps versions: the bytes stay as old versions of their objects, unless --all-versions."
        )
    return lines


def _done(outcome: Outcome) -> list[str]:
    lines = [
        f"Deleted: {_count(outcome.buried, 'photo')}; "
        f"{_things([thing.where for thing in outcome.removed])}"
        + (f", {_count(outcome.versions, 'version')} for good" if outcome.versions else "")
        + (f", {_count(outcome.unspooled, 'upload')} that waited" if outcome.unspooled else "")
        + (f"; {_count(len(outcome.invalidated), 'path')} taken from the CDN" if outcome.invalidated else "")
        + "."
    ]
    if outcome.kept_versions:
        lines.append(
            f"The bucket keeps versions: the bytes of {_names(outcome.kept_versions)} are still there as old versions; "
            "`delete KEY --all-versions` removes them for good."
        )
    return lines


def _data(plan: Plan, outcome: Outcome, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "keys": plan.keys,
        "photos": len(plan.photos),
        "cars": _cars(plan.photos),
        "unfinished": plan.unfinished,
        "objects": [{"where": each.where, "name": each.name, "bytes": each.bytes} for each in plan.things],
        "versions": len(plan.versions),
        "keeps_versions": plan.keeps_versions,
        "shared": plan.shared,
        "same_bytes": [{"key": row.key, "car": row.car} for row in plan.same_bytes],
        "deleted": {
            "photos": outcome.buried,
            "objects": len(outcome.removed),
            "versions": outcome.versions,
            "spooled": outcome.unspooled,
            "invalidated": outcome.invalidated,
            "kept_as_old_versions": outcome.kept_versions,
        },
        "failures": [{"name": name, "why": why} for name, why in outcome.failures],
    }


FUNCTIONS = {"delete": (_arguments, _run)}
