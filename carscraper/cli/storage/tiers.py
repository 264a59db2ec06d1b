"""``tiers``: the folder ``IMAGES_STORE`` as the hot tier, S3 as the cold one."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from carscraper.cli.console import human_bytes, printable, table
from carscraper.cli.verb import DONE, FAILED, PARTIAL, Verb
from carscraper.exceptions import ConfigurationError
from carscraper.storage.keys import normalise_prefix
from carscraper.upkeep import tiers

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import datetime

    from sqlalchemy import Engine

    from carscraper.cli.verb import Context
    from carscraper.storage.s3 import S3Store
    from carscraper.upkeep.tiers import Cold, Counted, Moved, Report

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_NAMED = 20  # of what could not be moved, for people; --json has all
_MOST_DAYS = 36_500


def _size(text: str) -> int:
    """Read a number of bytes.

    >>> _size("5GB"), _size("1.5 GiB"), _size("800k"), _size("0")
    (5000000000, 1610612736, 800000, 0)
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]?)(I?)B?", text.strip().upper())
    if not found or (found[3] and not found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write one such as 5GB, 800MB or 4GiB")
    unit = _UNITS[found[2]]
    if found[3]:
        unit = 1024 ** ["", "K", "M", "G", "T"].index(found[2])
    return int(float(found[1]) * unit)


def _number(low: int, high: int, what: str) -> Any:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,12}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of {what}; write {low} to {high:,}")
        return int(text)

    return read


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--demote", action="store_true", help="let unviewed photos leave the folder, once S3's are good"
    )
    parser.add_argument(
        "--cold-days",
        metavar="N",
        type=_number(0, _MOST_DAYS, "days"),
        default=30,
        help="unviewed for so long (default 30)",
    )
    parser.add_argument(
        "--promote",
        metavar="N",
        type=_number(1, 10**9, "photos"),
        help="copy so many photos from S3 into the folder",
    )
    parser.add_argument("--promote-bytes", metavar="SIZE", type=_size, help="copy photos of so many bytes, such as 2GB")
    parser.add_argument(
        "--by", choices=["views", "newest"], default="views", help="which are promoted first (default views)"
    )
    parser.add_argument(
        "--enforce", action="store_true", help="let the least recently viewed copies leave beyond the size limit"
    )
    parser.add_argument(
        "--max-bytes", metavar="SIZE", type=_size, help="the folder's size limit (default IMAGES_STORE_MAX_BYTES)"
    )
    parser.add_argument(
        "--count", metavar="LOG", nargs="+", default=[], help="count views from access logs, - for stdin"
    )


def _run(context: Context, arguments: argparse.Namespace) -> int:
    console, settings = context.console, context.settings
    folder = settings.get("IMAGES_STORE")
    if not folder:
        raise ConfigurationError("IMAGES_STORE is empty, so there is no hot tier: name a folder.")
    given = arguments.max_bytes
    limit: int = settings.getint("IMAGES_STORE_MAX_BYTES") if given is None else given
    work = _Work(context, Path(folder), limit, dry_run=arguments.dry_run)
    promotes = arguments.promote is not None or arguments.promote_bytes is not None
    changes = arguments.demote or arguments.enforce or promotes or bool(arguments.count)
    if arguments.enforce and not limit:
        raise ConfigurationError("--enforce needs a limit: set IMAGES_STORE_MAX_BYTES, or say --max-bytes 5GB.")
    logs = [Path(name) for name in arguments.count if name != "-"]
    for path in logs:
        if not path.is_file():
            raise ConfigurationError(f"There is no access log {path}.")
    code = DONE
    with context.database(read_only=not changes or arguments.dry_run) as engine:
        if not changes:
            report = tiers.show(engine, work.folder, work.prefix, say=console.progress)
            console.end_progress()
            console.result(_report_data(report, work), _report_lines(report, work))
            return DONE
        if arguments.count:
            code = max(code, work.count(engine, arguments.count))
        if arguments.demote:
            code = max(code, work.demote(engine, timedelta(days=arguments.cold_days)))
        # A folder that is full takes nothing: what is over the limit leaves first.
        if (arguments.enforce or ((promotes or arguments.demote) and limit)) and code != FAILED:
            code = max(code, work.enforce(engine))
        if promotes and code != FAILED:
            code = max(
                code, work.promote(engine, by=arguments.by, most=arguments.promote, most_bytes=arguments.promote_bytes)
            )
    console.end_progress()
    console.result(work.data, work.lines)
    return code


class _Work:
    """What is done in one call, and what there is to say about it."""

    def __init__(self, context: Context, folder: Path, limit: int, *, dry_run: bool) -> None:
        self._context = context
        self._console = context.console
        self._dry_run = dry_run
        self.folder = folder
        self.limit = limit
        self.prefix = normalise_prefix(context.settings.get("S3_PREFIX"))
        self.data: dict[str, Any] = {"dry_run": dry_run}
        self.lines: list[str] = []

    @property
    def location(self) -> str | None:
        """``s3://bucket``, ``None`` if none is named."""
        bucket = self._context.settings.get("AWS_S3_BUCKET")
        return f"s3://{bucket}" if bucket else None

    def _cold(self) -> Cold:
        options = self._context.options

        def open_store() -> S3Store:
            from carscraper.storage.s3 import S3Store  # noqa: PLC0415 - only for those who upload

            return S3Store(options)

        return tiers.Cold(client=self._context.client, bucket=options.bucket, open_store=open_store)

    # --- the steps ---

    def demote(self, engine: Engine, age: timedelta) -> int:
        plan = tiers.demote(engine, self.folder, self.prefix, None, age, say=self._console.progress)
        self._console.end_progress()
        what = f"{_photos(plan)} not viewed for {age.days} days" + (
            f", {plan.uploaded:,} of them to S3 first" if plan.uploaded else ""
        )
        if self._dry_run or not plan.files:
            return self._say("demoted", plan, f"Would leave the folder: {what}." if plan.files else "Nothing is cold.")
        cold = self._cold()
        if not self._console.confirm(f"Let {what} leave {self.folder}? S3's copies are read back first."):
            return self._nothing("demoted")
        moved = tiers.demote(engine, self.folder, self.prefix, cold, age, say=self._console.progress)
        said = f"Demoted: {_photos(moved)}" + (f", {moved.uploaded:,} of them uploaded first" if moved.uploaded else "")
        return self._say("demoted", moved, f"{said}.")

    def enforce(self, engine: Engine) -> int:
        plan = tiers.enforce(engine, self.folder, self.prefix, None, self.limit, say=self._console.progress)
        self._console.end_progress()
        if not plan.files and not plan.over:
            return self._say("enforced", plan, f"The folder is within its limit of {human_bytes(self.limit)}.")
        what = f"{_photos(plan)}, the least recently viewed"
        if self._dry_run or not plan.files:
            return self._say("enforced", plan, f"Would leave the folder: {what}." if plan.files else "")
        cold = self._cold()
        if not self._console.confirm(f"Let {what}, leave {self.folder}? S3's copies are read back first."):
            return self._nothing("enforced")
        moved = tiers.enforce(engine, self.folder, self.prefix, cold, self.limit, say=self._console.progress)
        return self._say("enforced", moved, f"Left the folder: {_photos(moved)}, the least recently viewed.")

    def promote(self, engine: Engine, *, by: str, most: int | None, most_bytes: int | None) -> int:
        moved = tiers.promote(
            engine,
            self.folder,
            self._cold(),
            by=by,
            most=most,
            most_bytes=most_bytes,
            limit=self.limit,
            dry_run=self._dry_run,
            say=self._console.progress,
        )
        self._console.end_progress()
        order = "most viewed" if by == "views" else "newest"
        done = "Would be promoted" if self._dry_run else "Promoted"
        full = f" The folder holds no more (limit {human_bytes(self.limit)})." if moved.full else ""
        return self._say("promoted", moved, f"{done}: {_photos(moved)}, the {order}.{full}")

    def count(self, engine: Engine, logs: list[str]) -> int:
        base = self._base()
        results: list[tuple[str, Counted]] = []
        for name in logs:
            with _opened(name) as stream:
                one = tiers.count(engine, self.folder, base, stream, dry_run=self._dry_run, say=self._console.progress)
                results.append((name, one))
        self._console.end_progress()
        self.data["counted"] = [
            {
                "log": name,
                **{
                    each: getattr(one, each)
                    for each in ("lines", "views", "hits", "misses", "others", "bad", "problem")
                },
            }
            for name, one in results
        ]
        for name, one in results:
            self.lines.append(
                f"{printable(name)}: {one.views:,} views ({one.hits:,} hits, {one.misses:,} misses) in {one.lines:,} "
                f"new lines; {one.others:,} about other things, {one.bad:,} unreadable."
            )
            if one.problem:
                self._console.note(f"{printable(name)} was not read to its end: {printable(one.problem)}")
        return PARTIAL if any(one.problem for _, one in results) else DONE

    def _base(self) -> str:
        """Give the path that permanent URLs have before the key."""
        settings = self._context.settings
        if settings.get("IMAGES_PUBLIC_URL"):
            url: str = settings["IMAGES_PUBLIC_URL"]
        elif self.location:
            url = self._context.options.base
        else:
            raise ConfigurationError("Photos have no permanent URLs: set IMAGES_PUBLIC_URL, or AWS_S3_BUCKET.")
        return unquote(urlsplit(url).path)

    # --- words ---

    def _say(self, what: str, moved: Moved, sentence: str) -> int:
        self.data[what] = {
            "photos": moved.files,
            "bytes": moved.bytes,
            "uploaded": moved.uploaded,
            "over_limit": moved.over,
            "full": moved.full,
            "failures": [{"name": name, "why": why} for name, why in moved.failures],
        }
        if sentence:
            self.lines.append(sentence)
        for name, why in moved.failures[:_NAMED]:
            self._console.note(f"Stays as it is: {printable(name)} ({printable(why)})")
        if len(moved.failures) > _NAMED:
            self._console.note(f"… and {len(moved.failures) - _NAMED:,} more (--json names all)")
        if moved.over:
            self._console.note(
                f"The folder holds {human_bytes(moved.over)} more than its limit, in files that are no copies of what "
                "S3 has: --demote uploads photos that only the folder has."
            )
        return PARTIAL if moved.failures or moved.over else DONE

    def _nothing(self, what: str) -> int:
        self._console.note("Nothing has left the folder.")
        self.data[what] = None
        return FAILED


def _opened(name: str) -> AbstractContextManager[IO[bytes]]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise ConfigurationError(f"The access log {name} can't be read ({error.strerror}).") from error


def _photos(moved: Moved) -> str:
    return f"{moved.files:,} photo{'' if moved.files == 1 else 's'} ({human_bytes(moved.bytes)})"


# --- show -------------------------------------------------------------------------------------------------------


def _tiers_of(report: Report, location: str | None) -> dict[str, tuple[int, int]]:
    """Give photos and bytes of each tier."""
    files, size = report.files, report.bytes
    stored = {store: total for store, total in report.stored.items() if store.startswith("s3://")}
    found: dict[str, tuple[int, int]] = {tiers.HOT: (files[tiers.HOT], size[tiers.HOT])}
    objects = sum(total.objects for total in stored.values())
    held = sum(total.bytes for total in stored.values())
    found["cold"] = (max(0, objects - files[tiers.HOT]), max(0, held - size[tiers.HOT]))
    local = report.stored.get("folder")
    found[tiers.LOCAL] = (local.objects, local.bytes) if local else (0, 0)
    elsewhere = [total for store, total in stored.items() if store != location]
    if elsewhere:
        found["in other buckets"] = (sum(one.objects for one in elsewhere), sum(one.bytes for one in elsewhere))
    return found


def _missing(report: Report) -> int:
    local = report.stored.get("folder")
    return max(0, (local.objects if local else 0) - report.files[tiers.LOCAL])


def _rate(report: Report) -> float | None:
    return report.views.hits / report.views.views if report.views.views else None


def _report_data(report: Report, work: _Work) -> dict[str, Any]:
    stored = [total for total in report.stored.values() if total.oldest]
    return {
        "folder": str(work.folder),
        "tiers": {
            name: {"photos": number, "bytes": size} for name, (number, size) in _tiers_of(report, work.location).items()
        },
        "used_bytes": report.used,
        "max_bytes": work.limit or None,
        "over_limit": max(0, report.used - work.limit) if work.limit else 0,
        "files": {
            kind: {"files": report.files[kind], "bytes": report.bytes[kind], "examples": report.examples.get(kind, [])}
            for kind in (tiers.STALE, tiers.THUMBNAIL, tiers.DAMAGED, tiers.STRANGER)
        },
        "missing": _missing(report),
        "views": report.views.views,
        "hits": report.views.hits,
        "misses": report.views.misses,
        "hit_rate": _rate(report),
        "viewed_photos": report.views.keys,
        "in_folder_since": {"oldest": report.oldest, "newest": report.newest},
        "stored_at": {
            "oldest": min((total.oldest for total in stored if total.oldest), default=None),
            "newest": max((total.newest for total in stored if total.newest), default=None),
        },
    }


def _report_lines(report: Report, work: _Work) -> list[str]:
    where = {
        tiers.HOT: "S3 and the folder",
        "cold": "S3 only",
        tiers.LOCAL: "the folder only",
        "in other buckets": "counted above, too",
    }
    lines = table(
        ["tier", "photos", "bytes", "where"],
        [
            [name, f"{number:,}", human_bytes(size), where[name]]
            for name, (number, size) in _tiers_of(report, work.location).items()
        ],
        right=[1, 2],
    )
    used = human_bytes(report.used) + (f" of {human_bytes(work.limit)}" if work.limit else ", no limit")
    over = f", {human_bytes(report.used - work.limit)} too much" if work.limit and report.used > work.limit else ""
    lines.append(f"Folder {printable(str(work.folder))}: {used}{over}, in {report.files.total():,} files.")
    if report.oldest and report.newest:
        lines.append(f"Put there from {_day(report.oldest)} to {_day(report.newest)}.")
    rate = _rate(report)
    if rate is None:
        lines.append("No views were counted yet (--count LOG).")
    else:
        lines.append(
            f"Views: {report.views.views:,} of {report.views.keys:,} photos; {report.views.hits:,} hits, "
            f"{report.views.misses:,} misses: {rate:.1%} from the folder."
        )
    words = {
        tiers.STALE: "copies left where a crawl without S3_PREFIX had put them",
        tiers.THUMBNAIL: "thumbnails",
        tiers.DAMAGED: "files of another size than the ledger says",
        tiers.STRANGER: "files that no stored photo has",
    }
    for kind, what in words.items():
        if report.files[kind]:
            named = ", ".join(printable(name) for name in report.examples.get(kind, []))
            lines.append(
                f"Besides {report.files[kind]:,} {what} ({human_bytes(report.bytes[kind])})"
                + (f": {named}" + (" …" if report.files[kind] > 5 else "") if named else "")
            )
    if _missing(report):
        lines.append(f"{_missing(report):,} photos that only the folder should have are not there or damaged.")
    return lines


def _day(when: datetime) -> str:
    return f"{when:%Y-%m-%d}"


VERBS: list[Verb] = [
    Verb(
        name="tiers",
        summary="Hot local folder, cold S3: what is in which; demote, promote, keep to a size limit, count views",
        arguments=_arguments,
        run=_run,
        changes=True,
    )
]
