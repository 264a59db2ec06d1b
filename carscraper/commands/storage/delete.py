"""``delete``: photos, everywhere at once, so that no crawl brings them back."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.command import Verb
from carscraper.commands.storage.common import car, object_key
from carscraper.console import counted, human_bytes
from carscraper.exceptions import ConfigurationError
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Engine

    from carscraper.command import Context
    from carscraper.console import Console
    from carscraper.maintenance.delete import Copy, Deleted, Places, Plan

_SHOWN = 20  # names of a list that is beside the point


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("keys", metavar="KEY", nargs="*", type=object_key, help="a photo's whole name in the bucket")
    parser.add_argument(
        "--car", metavar="SOURCE/ID", type=car, action="append", default=[], help="every photo of this car"
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
        return (_lift if arguments.lift else _delete)(context, engine, arguments)


def _delete(context: Context, engine: Engine, arguments: argparse.Namespace) -> int:
    from carscraper.db import removal as rows
    from carscraper.maintenance import delete as deletion

    console = context.console
    with engine.connect() as connection:
        keys = [*arguments.keys, *(rows.unfinished(connection) if arguments.finish else ())]
    plan, without_row = deletion.select(engine, keys, arguments.car)
    with engine.connect() as connection:
        stores = {row.store for row in rows.rows_of_keys(connection, plan.keys) if row.store}
    places = _places(context, stores, orphans=bool(without_row))
    deletion.look_up(plan, places, all_versions=arguments.all_versions)
    found = {copy.key for copy in plan.copies} | plan.versions.keys()
    if unknown := [key for key in without_row if key not in found]:
        where = f"no object of {places.bucket}" if places.client else "no file of IMAGES_STORE"
        raise ConfigurationError(
            f"No row and {where} is called {_names(unknown)}: nothing was deleted. A key is the whole name, S3_PREFIX "
            "included."
        )
    done = deletion.Deleted()
    if plan.is_empty:
        console.result(_data(plan, done, dry_run=arguments.dry_run), "There is nothing left to delete.")
        return _ended(console, plan, done)
    if arguments.dry_run:
        console.result(_data(plan, done, dry_run=True), [*_lines(plan, without_row, None), _would(plan)])
        return ExitCode.SUCCESS
    if not console.assume_yes:
        for line in _lines(plan, without_row, _SHOWN):
            console.note(line)
    if not _agreed(context, plan):
        console.note("Nothing was deleted.")
        return ExitCode.FAILED
    done = deletion.run(engine, plan, places, all_versions=arguments.all_versions, say=console.progress)
    console.end_progress()
    console.result(_data(plan, done, dry_run=False), _done(plan, done))
    return _ended(console, plan, done)


def _ended(console: Console, plan: Plan, done: Deleted) -> int:
    """Say what is left, and return the exit code."""
    for name, why in done.failures:
        console.note(f"Still there: {printable(name)} ({printable(why)})")
    if done.failures:
        console.note(
            "No crawl fetches these photos and no car shows them; the same command, or --finish, does the rest."
        )
    unlisted = plan.no_version_list if done.kept_versions or plan.keeps_versions is not False else None
    if unlisted:
        kept = f"The old versions of {_names(done.kept_versions)}" if done.kept_versions else "Old versions, if any,"
        console.note(f"{printable(unlisted)} {kept} are still there: --all-versions could not remove them.")
    return ExitCode.PARTIAL if done.failures or unlisted else ExitCode.SUCCESS


def _agreed(context: Context, plan: Plan) -> bool:
    confirm = context.console.confirm
    cars = sorted({car for cars in plan.shared.values() for car in cars})
    shared = f"{counted(len(plan.shared), 'photo')} of these are shown by several cars ({_names(cars)})"
    versions = sum(map(len, plan.versions.values()))
    return (
        (not plan.shared or confirm(f"{shared}; delete them for all?"))
        and confirm(f"{_would(plan)} Go on?")
        and (
            not versions or confirm(f"Remove {counted(versions, 'version')} for good? Nothing brings these bytes back.")
        )
    )


def _places(context: Context, stores: set[str], *, orphans: bool) -> Places:
    """Return where to delete from.

    Raises:
        ConfigurationError: a photo is in a bucket that the settings do not name.
    """
    from carscraper.maintenance import delete as deletion
    from carscraper.storage.client import Server, open_client
    from carscraper.storage.folder import FolderStore
    from carscraper.storage.keys import published_bases
    from carscraper.storage.store import s3_spool

    settings = context.settings
    named, folder = settings.get("AWS_S3_BUCKET"), settings.get("IMAGES_STORE")
    elsewhere = sorted(store for store in stores if store.startswith("s3://") and store != f"s3://{named}")
    if elsewhere:
        raise ConfigurationError(
            f"Photos of these are in {printable(elsewhere[0])}: set AWS_S3_BUCKET={printable(elsewhere[0][5:])} "
            "(with its region and credentials) and delete them there."
        )
    public_url = settings.get("IMAGES_PUBLIC_URL")
    bases = published_bases(bucket=named, endpoint=Server.from_settings(settings).endpoint, public_url=public_url)
    places = deletion.Places(
        folder=FolderStore(Path(folder), public_url=public_url) if folder else None,
        bases=tuple(bases),
        public_url=public_url,
    )
    if not (settings.getbool("USE_S3_STORAGE") or stores - {"folder"} or (orphans and named)):
        return places
    options = context.options
    return replace(
        places,
        client=context.client,
        bucket=options.bucket,
        prefix=options.prefix,
        distribution=settings.get("CLOUDFRONT_DISTRIBUTION_ID"),
        open_cdn=lambda: open_client(options, "cloudfront"),
        spool=s3_spool(settings, options.store, options.prefix),
        thumbnails=frozenset(settings.get("IMAGES_THUMBS")),
    )


def _lift(context: Context, engine: Engine, arguments: argparse.Namespace) -> int:
    from carscraper.db import removal as rows
    from carscraper.maintenance import delete as deletion

    console = context.console
    tombstones = deletion.deleted_photos(engine, arguments.car)
    cars = sorted({row.car for row in tombstones})
    data = {"dry_run": arguments.dry_run, "photos": len(tombstones), "cars": cars, "lifted": 0}
    if not tombstones:
        console.result(data, "No photo of this car was deleted.")
        return ExitCode.SUCCESS
    what = f"{counted(len(tombstones), 'photo')} of {counted(len(cars), 'car')} ({_names(cars)})"
    if arguments.dry_run:
        console.result(data, f"The next crawl might fetch {what} again.")
        return ExitCode.SUCCESS
    if not console.confirm(f"Let the next crawl fetch {what} again?"):
        console.note("Nothing was changed.")
        return ExitCode.FAILED
    with engine.begin() as connection:
        data["lifted"] = rows.undelete(connection, [row.row_id for row in tombstones])
    console.result(data, f"The next crawl fetches {what} again, if the dealer still shows them.")
    return ExitCode.SUCCESS


# --- words ------------------------------------------------------------------------------------------------------


def _names(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _SHOWN
    return ", ".join(printable(name) for name in names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _copies(copies: list[Copy]) -> str:
    files = sum(copy.where == "folder" for copy in copies)
    return counted(len(copies) - files, "object") + (f", {counted(files, 'local file')}" if files else "")


def _would(plan: Plan) -> str:
    size = human_bytes(sum(max(0, copy.bytes) for copy in plan.copies))
    cars = sorted({row.car for row in plan.photos})
    versions = sum(map(len, plan.versions.values()))
    return (
        f"To delete: {counted(len(plan.photos), 'photo')}"
        + (f" of {counted(len(cars), 'car')} ({_names(cars)})" if cars else "")
        + (f", {counted(plan.unfinished, 'photo')} of a deletion that was cut off" if plan.unfinished else "")
        + f"; {_copies(plan.copies)}"
        + (f", {counted(versions, 'version')}" if versions else "")
        + f" ({size})."
    )


def _lines(plan: Plan, without_row: list[str], most: int | None) -> list[str]:
    lines = [
        f"- {copy.where}  {printable(copy.name)}" + (f"  ({human_bytes(copy.bytes)})" if copy.bytes >= 0 else "")
        for copy in plan.copies
    ]
    if most and len(lines) > most:
        lines = [*lines[:most], f"… and {len(lines) - most:,} more (--dry-run shows all)"]
    lines += [f"! {printable(key)} has no row in the ledger: an orphan." for key in without_row]
    shared = [f"! {printable(key)} is shown by {len(cars)} cars: {_names(cars)}." for key, cars in plan.shared.items()]
    same = [
        f"! The same bytes are also kept as {printable(row.key or '')} ({printable(row.car)}); they stay."
        for row in plan.same_bytes
    ]
    lines += shared[:most] + same[:most]
    if plan.no_version_list and plan.keeps_versions is not False:
        lines.append(f"! {printable(plan.no_version_list)} Old versions stay.")
    elif plan.keeps_versions and not plan.versions:
        lines.append(
            "! The bucket keeps versions: the bytes stay as old versions of their objects, unless --all-versions."
        )
    return lines


def _done(plan: Plan, done: Deleted) -> list[str]:
    lines = [
        ("Not finished: marked as deleted " if done.failures else "Deleted: ")
        + f"{counted(done.photos, 'photo')}; {'removed ' if done.failures else ''}{_copies(done.copies)}"
        + (f", {counted(done.versions, 'version')} for good" if done.versions else "")
        + (f", {counted(done.spooled, 'upload')} that waited" if done.spooled else "")
        + (f"; {counted(len(done.invalidated), 'path')} taken from the CDN" if done.invalidated else "")
        + "."
    ]
    if done.kept_versions and not plan.no_version_list:
        lines.append(
            f"The bucket keeps versions: the bytes of {_names(done.kept_versions)} are still there as old versions; "
            "`delete KEY --all-versions` removes them for good."
        )
    return lines


def _data(plan: Plan, done: Deleted, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "keys": plan.keys,
        "photos": len(plan.photos),
        "cars": sorted({row.car for row in plan.photos}),
        "unfinished": plan.unfinished,
        "objects": [{"where": each.where, "name": each.name, "bytes": each.bytes} for each in plan.copies],
        "versions": sum(map(len, plan.versions.values())),
        "keeps_versions": plan.keeps_versions,
        "no_version_list": plan.no_version_list,
        "shared": plan.shared,
        "same_bytes": [{"key": row.key, "car": row.car} for row in plan.same_bytes],
        "deleted": {
            "photos": done.photos,
            "objects": len(done.copies),
            "versions": done.versions,
            "spooled": done.spooled,
            "invalidated": done.invalidated,
            "kept_as_old_versions": done.kept_versions,
        },
        "failures": [{"name": name, "why": why} for name, why in done.failures],
    }


VERB = Verb(
    "delete",
    "Delete photos everywhere: object, thumbnails, row, local copy, CDN; no crawl brings them back",
    _run,
    _arguments,
    changes=True,
)
