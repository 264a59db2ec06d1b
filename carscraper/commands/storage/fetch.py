"""``get --into DIR``: many objects at once."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from carscraper.commands.storage import browse
from carscraper.commands.storage.common import car, ledger_hashes, lines_of, problem_with_key
from carscraper.console import counted, human_bytes
from carscraper.exceptions import ConfigurationError, StoreError, StoreRefusedError
from carscraper.logs import printable
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from carscraper.command import Context

_AGAIN = "The same command reads what is left."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what chooses many objects."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--prefix", metavar="PREFIX", help="with --into: every object that list PREFIX shows")
    which.add_argument("--car", metavar="SOURCE/ID", type=car, help="with --into: every stored photo of this car")
    which.add_argument("--source", metavar="NAME", type=browse.source, help="with --into: every photo of this dealer")
    which.add_argument(
        "--from", dest="names", metavar="FILE", help="with --into: every KEY in FILE, one a line; - is stdin"
    )
    parser.add_argument(
        "--into", type=Path, metavar="DIR", help="write each object below DIR, under its whole name; again goes on"
    )


def asked_for(arguments: argparse.Namespace) -> bool:
    """Return whether many objects are meant.

    Raises:
        ConfigurationError: the arguments contradict each other.
    """
    chosen = [each for each in ("prefix", "car", "source", "names") if getattr(arguments, each) is not None]
    if arguments.into is None:
        if chosen:
            raise ConfigurationError("Say where the objects go: --into DIR.")
        if arguments.key is None:
            raise ConfigurationError(
                "Say what to get: a KEY; or --prefix, --car, --source or --from FILE, and --into DIR."
            )
        return False
    if arguments.output is not None:
        raise ConfigurationError("--output is for one object, --into for many: say one of them.")
    if len(chosen) + (arguments.key is not None) != 1:
        raise ConfigurationError("--into goes with a KEY, or with one of --prefix, --car, --source and --from FILE.")
    return True


def _wanted(context: Context, arguments: argparse.Namespace) -> Iterable[tuple[str, str]]:
    """Return name and, where the bucket's list tells it, ETag of what was chosen."""
    if arguments.car:
        return ((key, "") for key in _keys_of_car(context, arguments.car))
    if arguments.names is not None:
        return ((key, "") for key in dict.fromkeys(lines_of(context, "--from", arguments.names)))
    if arguments.key is not None:
        return [(arguments.key, "")]
    found = browse.selected(context, arguments.prefix or "", (arguments.source, None, None))
    listed = ((each.name, each.etag.lower()) for each in found)
    return listed if arguments.source is None or arguments.no_ledger else _with_lost(context, arguments.source, listed)


def _with_lost(context: Context, source: str, listed: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Return what the bucket's list has of a dealer, and then what the ledger alone has: it is to be missed."""
    from carscraper.db import repairs
    from carscraper.vehicles import slug

    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(context.database(read_only=True))
        except ConfigurationError:  # as the look for hashes says
            yield from listed
            return
        seen = set()
        for name, etag in listed:
            seen.add(hash(name))
            yield name, etag
        with engine.connect() as connection:
            its = [each for each in repairs.sources(connection) if slug(each) == source]
            for key in repairs.stored_keys(connection, context.options.store, its):
                if hash(key) not in seen:
                    yield key, ""


def _keys_of_car(context: Context, its: tuple[str, str]) -> list[str]:
    from carscraper.db import removal as rows

    with context.database(read_only=True) as engine, engine.connect() as connection:
        found = rows.rows_of_cars(connection, [rows.listing_of(connection, *its)])
    return list(dict.fromkeys(row.key for row in found if row.key and row.store == context.options.store))


def _possible(wanted: Iterable[tuple[str, str]], folder: Path, failed: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Leave out what must not become a path, or not a second time: a name of an object may be any text."""
    from carscraper.maintenance.fetch import file_names

    file_of, taken = file_names(folder), set()
    for name, etag in wanted:
        problem = problem_with_key(name, new=True) or ("begins with a slash" if name.startswith("/") else None)
        file = hash(file_of(name))  # of millions of names the text would fill the memory
        if problem:
            failed[name] = f"no file can have a name that {problem}"
        elif file in taken:
            failed[name] = "its file is that of another key: get it alone, --output FILE"
        else:
            taken.add(file)
            yield name, etag


def run(context: Context, arguments: argparse.Namespace) -> int:
    """Read what was chosen into ``--into``."""
    from carscraper.maintenance.fetch import LEDGER, NAME, SERVER, Fetch

    console, folder = context.console, arguments.into
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"--into {printable(str(folder))} is no folder: name another.")
    counts: Counter[str] = Counter()
    failed: dict[str, str] = {}
    away: StoreError | None = None

    wanted = _wanted(context, arguments)
    context.client  # noqa: B018 - made here, not in several threads
    with contextlib.ExitStack() as stack:
        hashes = (lambda _: {}) if arguments.no_ledger else stack.enter_context(ledger_hashes(context))
        fetch = Fetch(context.client, context.options, folder, hashes, replace=arguments.force)
        try:
            for each in fetch.run(_possible(wanted, folder, failed)):
                if each.problem:
                    failed[each.name] = each.problem
                    continue
                counts.update({"there" if each.was_there else "read": 1, "bytes": each.bytes, each.checked: 1})
                counts["twice"] += each.read_twice
                done = counts["there"] + counts["read"]
                console.progress(f"{done:,} objects, {human_bytes(counts['bytes'])}, not had {len(failed):,}")
        except StoreError as error:
            away = error
            if not counts:
                raise
    console.end_progress()
    if not counts and not failed:
        raise StoreRefusedError(
            f"The bucket {context.options.bucket} has nothing like that: `scrapy storage list` shows what it has."
        )
    for name, why in failed.items():
        console.note(f"not had: {printable(name)} ({printable(why)})")
    by = [counts[what] for what in (LEDGER, NAME, SERVER, "")]
    checked = dict(zip(("ledger", "name", "server", "nothing"), by, strict=True))
    data = {"into": str(folder), "read": counts["read"], "there": counts["there"], "bytes": counts["bytes"]}
    came = f"{counted(counts['read'], 'object')} read, {counts['there']:,} there already, {len(failed):,} not had"
    by_what = "Checked by: ledger's SHA-256 {:,}, that of the name {:,}, server's MD5 {:,}, nothing {:,}.".format(*by)
    text = [f"{printable(str(folder))}: {came}; {human_bytes(counts['bytes'])}.", by_what]
    console.result(data | {"checked": checked, "failed": failed, "problem": str(away) if away else None}, text)
    if counts["twice"]:
        console.note(f"Of {counted(counts['twice'], 'object')} the ETag is no MD5: read twice, the bytes are the same.")
    if away:
        console.note(f"{away} {_AGAIN}")
    return ExitCode.PARTIAL if failed or away else ExitCode.SUCCESS
