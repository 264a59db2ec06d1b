"""``versions`` shows what the bucket has kept of an object, ``restore`` brings an old version back."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from carscraper.command import Verb
from carscraper.commands.storage.common import object_key
from carscraper.console import table
from carscraper.exceptions import ConfigurationError, StoreRefusedError
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from carscraper.command import Context
    from carscraper.storage.versions import Version


def _key_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", type=object_key, help="the object's whole name in the bucket")


def _found(context: Context, key: str) -> list[Version]:
    from carscraper.storage.versions import NoVersionListError, keeps_versions, versions_of

    client, bucket = context.client, context.options.bucket
    try:
        if found := versions_of(client, bucket, key):
            return found
    except NoVersionListError as error:
        raise StoreRefusedError(f"{error} Whether it has kept any of {printable(key)} is not known.") from error
    kept = keeps_versions(client, bucket)
    fix = "scrapy storage setup switches that on, if the server has it"
    why = f", and keeps no versions ({fix})" if kept is False else ""
    raise StoreRefusedError(f"The bucket {bucket} has no version of {printable(key)}{why}.")


def _versions(context: Context, arguments: argparse.Namespace) -> int:
    found = _found(context, arguments.key)
    rows = [
        (
            printable(each.id),
            f"{each.modified:%Y-%m-%d %H:%M:%S}",
            "deleted" if each.size is None else f"{each.size:,}",
            "current" if each.is_current else "",
        )
        for each in found
    ]
    data = {"key": arguments.key, "versions": [asdict(each) for each in found]}
    context.console.result(data, table(["version", "since", "bytes", ""], rows, right=[2]))
    return ExitCode.SUCCESS


def _restore_arguments(parser: argparse.ArgumentParser) -> None:
    _key_argument(parser)
    parser.add_argument("--version", metavar="ID", help="as versions shows it (of a deleted object: else the newest)")


def _restore(context: Context, arguments: argparse.Namespace) -> int:
    from carscraper.storage import objects
    from carscraper.storage.versions import restore

    console, options, key, shown = context.console, context.options, arguments.key, printable(arguments.key)
    version = _chosen(_found(context, key), arguments.version, shown)
    data = {"key": key, "version": version.id, "bytes": version.size, "dry_run": arguments.dry_run}
    if version.is_current:
        console.result(data | {"restored": False}, f"{shown} is that version already: nothing to do.")
        return ExitCode.SUCCESS
    seen = objects.read(context.client, options.bucket, key, version=version.id)
    if seen is None or seen.sha256 is None:
        archived = "InvalidObjectState"
        why = seen.problem if seen else "it is gone since"
        hint = ": it is in an archive, restore it there first" if why == archived else ""
        raise StoreRefusedError(f"The version {version.id} of {shown} can't be read ({why}){hint}.")
    _allowed(context, key, seen.sha256)
    size, when = f"{version.size:,} bytes", f"{version.modified:%Y-%m-%d %H:%M:%S}"
    what = f"{shown} as it was at {when} ({size}, SHA-256 {seen.sha256[:12]}…)"
    if arguments.dry_run:
        console.result(data | {"restored": False, "sha256": seen.sha256}, f"Would bring back {what}.")
        return ExitCode.SUCCESS
    if not console.confirm(f"Bring back {what}?"):
        console.note("Nothing was done.")
        return ExitCode.FAILED
    restore(context.client, options, key, version.id, seen.sha256)
    console.result(data | {"restored": True, "sha256": seen.sha256}, f"Brought back: {what}.")
    console.note("The ledger is as it was: `scrapy storage audit` shows whether it has this object.")
    return ExitCode.SUCCESS


def _chosen(versions: list[Version], wanted: str | None, shown: str) -> Version:
    if wanted is not None:
        found = next((each for each in versions if each.id == wanted), None)
        if found is None or found.size is None:
            what = "is none of" if found is None else "says that the object was deleted, it holds no bytes, of"
            raise ConfigurationError(
                f"--version {printable(wanted)} {what} {shown}: `scrapy storage versions` lists them."
            )
        return found
    if versions[0].size is not None:
        raise ConfigurationError(f"{shown} is there: say --version, with one that `scrapy storage versions` lists.")
    found = next((each for each in versions if each.size is not None), None)
    if found is None:
        raise StoreRefusedError(f"Nothing is left of {shown} but that it was deleted.")
    return found


def _allowed(context: Context, key: str, sha256: str) -> None:
    """Refuse what must not come back.

    Raises:
        StoreRefusedError: somebody had the photo deleted, or these are not the bytes of the key.
    """
    from carscraper.db import removal
    from carscraper.storage.keys import parse_key

    parts = parse_key(key, context.options.prefix)
    if parts and not sha256.startswith(parts.hash):
        raise StoreRefusedError(
            f"That version of {printable(key)} has other bytes than its name says (SHA-256 {sha256[:12]}…)."
        )
    try:
        with context.database(read_only=True) as engine, engine.connect() as connection:
            deleted = removal.deleted_with(connection, sha256)
    except ConfigurationError as error:
        context.console.note(f"Whether somebody had it deleted was not looked up: {error}")
        return
    if deleted:
        car = printable(deleted[0].car)
        raise StoreRefusedError(
            f"Somebody had this photo deleted (car {car}): nothing was done. If it may come back: "
            f"scrapy storage delete --lift --car {car}, then this again."
        )


VERSIONS = Verb("versions", "List the versions that the bucket has kept of an object", _versions, _key_argument)
RESTORE = Verb("restore", "Bring an old version of an object back", _restore, _restore_arguments, changes=True)
