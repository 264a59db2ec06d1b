"""Two tiers: the folder ``IMAGES_STORE`` is the hot one, S3 the cold one.

A photo is *cold* while only S3 has it, *hot* while the folder has a copy under the same key beside S3, *local only*
while its row says ``folder``. Whatever is done here, a photo can be read in at least one tier at every moment, and
the folder never shows a part of a file: a copy leaves it only after the object was read back and has the SHA-256 of
the ledger, and one enters it only under its name when all its bytes are there and are the right ones.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, TypeVar

from carscraper.db import tiers as rows
from carscraper.db.queries import utcnow
from carscraper.db.tiers import record_view
from carscraper.exceptions import StoreError, StoreRefusedError, StoreUnavailableError
from carscraper.storage import hot, readback
from carscraper.storage.folder import write_atomically
from carscraper.storage.keys import thumbnail_key
from carscraper.storage.upload import Upload
from carscraper.upkeep.accesslog import Log, key_of_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import timedelta
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from carscraper.db.tiers import Kept, Total, Views
    from carscraper.storage.hot import LocalFile
    from carscraper.storage.s3 import S3Store

__all__ = ["Cold", "Counted", "Moved", "Report", "count", "demote", "enforce", "promote", "record_view", "show"]

T = TypeVar("T")

_BATCH = 200  # files looked up at a time; with a prefix each has two names
_AT_ONCE = 8  # photos read back at the same time: that many are in memory
_SIZE_UNKNOWN = 64 * 1024**2  # bytes; of a photo whose size the ledger does not know
_LINES = 20_000  # of an access log in one transaction
_KEYS = 5_000  # photos, likewise

HOT, LOCAL, STALE, DAMAGED, THUMBNAIL, STRANGER = "hot", "local only", "stale", "damaged", "thumbnail", "unknown"
"""What a file of the folder is. *stale*: S3 has the photo under ``S3_PREFIX``, the file lies where a crawl without S3
had put it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cold:
    """The bucket."""

    client: Any
    bucket: str
    open_store: Callable[[], S3Store]
    """Makes what uploads."""

    @property
    def location(self) -> str:
        """As ``car_images.store`` has it."""
        return f"s3://{self.bucket}"


@dataclass(frozen=True, slots=True)
class Found:
    """A file of the folder and the photo that it is."""

    file: LocalFile
    kind: str
    photo: Kept | None

    @property
    def used_at(self) -> datetime:
        """When it was last viewed, or put there."""
        put = datetime.fromtimestamp(max(0.0, self.file.modified), UTC).replace(tzinfo=None)
        viewed = self.photo.last_viewed_at if self.photo else None
        return max(put, viewed) if viewed else put


@dataclass(kw_only=True, slots=True)
class Report:
    """What is in which tier."""

    stored: dict[str, Total]
    views: Views
    files: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    """By kind."""
    oldest: datetime | None = None
    newest: datetime | None = None
    """Of the folder's photos: when each was put there."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Some names of files that no row knows, and of damaged ones."""

    @property
    def used(self) -> int:
        """Bytes of all files in the folder."""
        return self.bytes.total()


@dataclass(kw_only=True, slots=True)
class Moved:
    """What moved between the tiers, or would."""

    files: int = 0
    bytes: int = 0
    uploaded: int = 0
    """Local-only photos that went to S3 first."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """What stayed where it was though it should not have, and why."""
    over: int = 0
    """Bytes that the folder holds beyond its limit all the same."""
    full: bool = False
    """More would have been promoted than the limit allows."""

    def add(self, size: int) -> None:
        """Count one file."""
        self.files += 1
        self.bytes += size


# --- looking ----------------------------------------------------------------------------------------------------


def show(engine: Engine, folder: Path, prefix: str, *, say: Callable[[str], None] = lambda _: None) -> Report:
    """Look through the folder and the ledger."""
    with _reading(engine) as connection:
        report = Report(stored=rows.totals(connection), views=rows.all_views(connection))
        for number, found in enumerate(_folder(connection, folder, prefix), 1):
            say(f"{number:,} files looked at")
            report.files[found.kind] += 1
            report.bytes[found.kind] += found.file.size
            if found.kind in {HOT, LOCAL}:
                put = datetime.fromtimestamp(max(0.0, found.file.modified), UTC).replace(tzinfo=None)
                report.oldest = min(report.oldest or put, put)
                report.newest = max(report.newest or put, put)
            elif found.kind in {STRANGER, DAMAGED}:
                names = report.examples.setdefault(found.kind, [])
                if len(names) < 5:
                    # On a disk a name may be any bytes.
                    names.append(found.file.name.encode("utf-8", "backslashreplace").decode())
    return report


def _reading(engine: Engine) -> Connection:
    # SQLite: a reader that holds up no writer for as long as it takes.
    return engine.connect().execution_options(sqlite_begin="DEFERRED")


def _folder(connection: Connection, folder: Path, prefix: str) -> Iterator[Found]:
    """Give every file of the folder and what it is."""
    every = hot.files(folder)
    while batch := list(itertools.islice(every, _BATCH)):
        names = [file.name for file in batch if not file.is_thumbnail and _is_text(file.name)]
        photos = rows.kept(connection, [*names, *(prefix + name for name in names)])
        for file in batch:
            yield _found(file, photos, prefix)


def _found(file: LocalFile, photos: dict[str, Kept], prefix: str) -> Found:
    if file.is_thumbnail:
        return Found(file, THUMBNAIL, None)
    photo, kind = photos.get(file.name), HOT
    if photo is None:
        photo, kind = photos.get(prefix + file.name), STALE
    if photo is None or (kind == STALE and photo.store == "folder"):
        return Found(file, STRANGER, None)
    if photo.bytes is not None and photo.bytes != file.size:
        return Found(file, DAMAGED, photo)
    return Found(file, LOCAL if photo.store == "folder" else kind, photo)


def _is_text(name: str) -> bool:
    """Tell whether a file's name can be asked of a database."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- out of the folder ------------------------------------------------------------------------------------------


def demote(
    engine: Engine,
    folder: Path,
    prefix: str,
    cold: Cold | None,
    age: timedelta,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Moved:
    """Let what was neither viewed nor put there for *age* leave the folder; without *cold*, say what would leave.

    Raises:
        StoreError: S3 refuses or is away, before anything has left.
    """
    before = utcnow() - age
    moved = Moved()
    mover = _Mover(engine, folder, prefix, cold, moved) if cold else None
    with _reading(engine) as connection:
        old = (
            found
            for found in _folder(connection, folder, prefix)
            if found.kind in {HOT, STALE, LOCAL} and found.used_at < before
        )
        if mover is None:
            for found in old:
                moved.add(found.file.size)
                moved.uploaded += found.kind == LOCAL
            return moved
        while batch := list(itertools.islice(old, _BATCH)):
            connection.rollback()  # reading back takes long: the database need not keep this moment's state for us
            if not mover.move(batch):
                break
            say(f"{moved.files:,} files have left the folder")
    return moved


def enforce(
    engine: Engine,
    folder: Path,
    prefix: str,
    cold: Cold | None,
    limit: int,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Moved:
    """Let the least recently viewed hot copies leave until the folder holds at most *limit* bytes.

    Without *cold*, say what would leave. Local-only photos stay: demoting uploads them.

    Raises:
        StoreError: S3 refuses or is away, before anything has left.
    """
    moved = Moved()
    used = sum(file.size for file in hot.files(folder))
    need = used - limit
    if need <= 0:
        return moved
    leaving = _least_used(engine, folder, prefix, need)
    if cold is None:
        for found in leaving:
            moved.add(found.file.size)
    else:
        mover = _Mover(engine, folder, prefix, cold, moved)
        for start in range(0, len(leaving), _BATCH):
            if not mover.move(leaving[start : start + _BATCH]):
                break
            say(f"{moved.files:,} files have left the folder")
    moved.over = max(0, need - moved.bytes)
    return moved


def _least_used(engine: Engine, folder: Path, prefix: str, need: int) -> list[Found]:
    """Give the hot copies that were not used for longest, *need* bytes of them; no more than these are in memory."""
    heap: list[tuple[float, str, Found]] = []
    total = 0
    with _reading(engine) as connection:
        for found in _folder(connection, folder, prefix):
            if found.kind not in {HOT, STALE}:
                continue
            # The most recently used of those that are to leave is on top.
            heapq.heappush(heap, (-found.used_at.replace(tzinfo=UTC).timestamp(), found.file.name, found))
            total += found.file.size
            while total - heap[0][2].file.size >= need:
                total -= heapq.heappop(heap)[2].file.size
    return [found for _, _, found in sorted(heap, key=lambda each: (-each[0], each[1]))]


class _Mover:
    """Lets files leave the folder, several at a time."""

    def __init__(self, engine: Engine, folder: Path, prefix: str, cold: Cold, moved: Moved) -> None:
        self._engine, self._folder, self._prefix, self._cold, self._moved = engine, folder, prefix, cold, moved
        self._store: S3Store | None = None

    def move(self, batch: list[Found]) -> bool:
        """Move what can be; false if S3 takes and gives nothing more.

        Raises:
            StoreError: it does so from the start.
        """
        if self._store is None and any(found.kind == LOCAL for found in batch):
            self._store = self._cold.open_store()
        for found, result in _in_threads(self._leave, batch):
            if isinstance(result, StoreError):
                if not self._moved.files and not self._moved.failures:
                    raise result
                self._moved.failures.append((found.file.name, str(result)))
                return False
            if result is not None:
                self._moved.failures.append((found.file.name, result))
                continue
            self._moved.add(found.file.size)
            self._moved.uploaded += found.kind == LOCAL
        return True

    def _leave(self, found: Found) -> str | None:
        """Remove one file when it is safe; why not, otherwise."""
        photo = found.photo
        assert photo is not None
        if not photo.sha256:
            return "the ledger has no checksum of it"
        if found.kind == LOCAL:
            why = self._upload(photo)
        elif photo.store != self._cold.location:
            why = f"it is in {photo.store}, not in {self._cold.location}"
        else:
            why = self._differs(photo.key, photo.sha256)
        if why is None:
            hot.remove(self._folder, found.file.name)
        return why

    def _differs(self, name: str, sha256: str) -> str | None:
        """Read the object back; why it is not what it should be."""
        seen = readback.read(self._cold.client, self._cold.bucket, name)
        if seen is None:
            return "S3 does not have it: this is the only copy"
        if seen.problem:
            return f"its object can't be read back ({seen.problem})"
        if seen.sha256 != sha256:
            return "its object has other bytes than the ledger says"
        return None

    def _upload(self, photo: Kept) -> str | None:
        """Move a photo that only the folder has to S3, its thumbnails first."""
        assert self._store is not None
        assert photo.sha256 is not None
        path = hot.local_path(self._folder, photo.key)
        data = path.read_bytes() if path else b""
        if hashlib.sha256(data).hexdigest() != photo.sha256:
            return "its bytes are not those of the ledger"
        thumbnails = []
        for label in hot.thumbnails_in(self._folder):
            name = thumbnail_key(label, photo.key)
            small = hot.look(self._folder, name) and hot.local_path(self._folder, name)
            if small:
                why = self._put(self._store.object_name(name), small.read_bytes(), "image/jpeg", {})
                if why:
                    return f"thumbnail {label}: {why}"
                thumbnails.append(name)
        name = self._store.object_name(photo.key)
        about = {"source": photo.source, "external-id": photo.external_id, "source-url": photo.source_url}
        why = self._put(name, data, photo.content_type or "application/octet-stream", about)
        if why:
            return why
        with self._engine.begin() as connection:
            if not rows.move_to_bucket(
                connection, photo, store=self._cold.location, key=name, url=self._store.url(name)
            ):
                return "its row has changed meanwhile"
        for thumbnail in thumbnails:
            hot.remove(self._folder, thumbnail)
        return None

    def _put(self, name: str, data: bytes, content_type: str, about: dict[str, str]) -> str | None:
        assert self._store is not None
        self._store.put(Upload(name=name, data=data, content_type=content_type, metadata=about))
        return self._differs(name, hashlib.sha256(data).hexdigest())


def _in_threads(function: Callable[[Found], T], batch: Iterable[Found]) -> Iterator[tuple[Found, T | StoreError]]:
    """Call *function* for each of *batch*; what S3 refuses altogether is given, not raised."""

    def safely(found: Found) -> T | StoreError:
        try:
            return function(found)
        except (StoreRefusedError, StoreUnavailableError) as error:
            return error
        except OSError as error:
            return StoreRefusedError(f"it can't be read ({error.strerror})")

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="tiers") as threads:
        batch = list(batch)
        yield from zip(batch, threads.map(safely, batch), strict=True)


# --- into the folder --------------------------------------------------------------------------------------------


def promote(
    engine: Engine,
    folder: Path,
    cold: Cold,
    *,
    by: str,
    most: int | None,
    most_bytes: int | None,
    limit: int,
    dry_run: bool,
    say: Callable[[str], None] = lambda _: None,
) -> Moved:
    """Copy photos from S3 into the folder, the most viewed or the newest first.

    Args:
        engine: of the database.
        folder: the hot tier.
        cold: the bucket.
        by: ``views`` or ``newest``.
        most: photos at most, ``None`` for any number.
        most_bytes: bytes at most, likewise.
        limit: bytes that the folder may hold in all, 0 for any number.
        dry_run: only say what would be copied.
        say: is told how far it is.

    Raises:
        StoreError: S3 refuses or is away, before anything was copied.
    """
    moved = Moved()
    room = limit - sum(file.size for file in hot.files(folder)) if limit else None
    bound = min((number for number in (room, most_bytes) if number is not None), default=None)
    done = False
    with closing(rows.to_promote(engine, cold.location, by=by)) as pages:
        photos = (photo for page in pages for photo in page if _can_be_promoted(folder, photo))
        while not done:
            left = _BATCH if most is None else min(_BATCH, most - moved.files)
            taken, wanted = moved.bytes, []
            for photo in itertools.islice(photos, left):
                taken += photo.bytes or 0
                if bound is not None and taken > bound:
                    moved.full, done = room is not None and taken > room, True
                    break
                wanted.append(photo)
            # What could not be copied leaves its turn to the next one.
            done |= not wanted or not _copy(engine, folder, cold, wanted, moved, dry_run=dry_run)
            say(f"{moved.files:,} photos copied")
    return moved


def _can_be_promoted(folder: Path, photo: Kept) -> bool:
    there = hot.look(folder, photo.key) is not None
    return not there and bool(photo.sha256) and hot.local_path(folder, photo.key) is not None


def _copy(engine: Engine, folder: Path, cold: Cold, photos: list[Kept], moved: Moved, *, dry_run: bool) -> bool:
    """Copy *photos* into the folder; false if S3 gives nothing more."""
    if dry_run:
        for photo in photos:
            moved.add(photo.bytes or 0)
        return True
    copied: list[Kept] = []
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="tiers") as threads:
        for start in range(0, len(photos), _AT_ONCE):
            some = photos[start : start + _AT_ONCE]
            for photo, result in zip(some, threads.map(lambda each: _fetch(folder, cold, each), some), strict=True):
                if isinstance(result, StoreError):
                    if not moved.files and not moved.failures and not copied:
                        raise result
                    moved.failures.append((photo.key, str(result)))
                    _drop_deleted(engine, folder, copied, moved)
                    return False
                if result is not None:
                    moved.failures.append((photo.key, result))
                else:
                    copied.append(photo)
                    moved.add(photo.bytes or 0)
    _drop_deleted(engine, folder, copied, moved)
    return True


def _fetch(folder: Path, cold: Cold, photo: Kept) -> str | StoreError | None:
    """Copy one photo; why not, otherwise."""
    try:
        seen = readback.read(cold.client, cold.bucket, photo.key, max_bytes=photo.bytes or _SIZE_UNKNOWN)
        if seen is None:
            return "S3 does not have it"
        if seen.problem or seen.data is None:
            return f"its object can't be read ({seen.problem})"
        if seen.sha256 != photo.sha256:
            return "its object has other bytes than the ledger says"
        path = hot.local_path(folder, photo.key)
        if path is None:
            return "its name can be no file of the folder"
        write_atomically(path, seen.data)
    except StoreError as error:
        return error
    except OSError as error:
        return StoreRefusedError(f"The folder IMAGES_STORE={folder} does not take photos ({error.strerror}).")
    return None


def _drop_deleted(engine: Engine, folder: Path, copied: list[Kept], moved: Moved) -> None:
    """Take out again what somebody has deleted while it was copied."""
    with engine.connect() as connection:
        still = rows.kept(connection, [photo.key for photo in copied])
    for photo in copied:
        if photo.key not in still:
            hot.remove(folder, photo.key)
            moved.files -= 1
            moved.bytes -= photo.bytes or 0


# --- who looks at them ------------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class Counted:
    """What one access log said."""

    lines: int = 0
    """That were not counted before."""
    hits: int = 0
    misses: int = 0
    others: int = 0
    """Lines about something else than a photo that we have."""
    bad: int = 0
    """Lines in no known format."""
    problem: str | None = None
    """Why it was not read to its end."""

    @property
    def views(self) -> int:
        """Hits and misses."""
        return self.hits + self.misses


def count(
    engine: Engine,
    folder: Path | None,
    base: str,
    stream: IO[bytes],
    *,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Counted:
    """Count the views that an access log tells of and that were not counted before.

    Args:
        engine: of the database.
        folder: the hot tier: a view of what it holds now is a hit.
        base: the path of permanent URLs before the key, such as nothing or ``/img``.
        stream: the log; it is read once, from its beginning.
        dry_run: write nothing.
        say: is told how far it is.
    """
    log, counted = Log(stream), Counted()
    name = log.fingerprint()
    if name is None:
        counted.problem = log.broken
        return counted
    with engine.connect() as connection:
        start = rows.position(connection, name)
    before = base.rstrip("/").encode()
    now = utcnow()
    seen: dict[str, tuple[int, datetime]] = {}
    end, number = start, 0

    def write_down() -> bool:
        nonlocal start, number
        if not _write_views(engine, folder, seen, counted, name=name, span=(start, end), dry_run=dry_run):
            counted.problem = "another program counts the same log at this moment"
            return False
        start, number = end, 0
        seen.clear()
        return True

    for line in log.lines(start):
        end = line.end
        counted.lines += 1
        number += 1
        counted.bad += line.is_bad
        key = key_of_path(line.view.path, before) if line.view else None
        if line.view and key is not None:
            times, last = seen.get(key, (0, line.view.at))
            seen[key] = (times + 1, min(now, max(last, line.view.at)))  # no clock makes a view of tomorrow
        else:
            counted.others += not line.is_bad
        if number >= _LINES or len(seen) >= _KEYS:
            say(f"{counted.lines:,} lines read")
            if not write_down():
                return counted
    if number:
        write_down()
    counted.problem = counted.problem or log.broken
    return counted


def _write_views(
    engine: Engine,
    folder: Path | None,
    seen: dict[str, tuple[int, datetime]],
    counted: Counted,
    *,
    name: str,
    span: tuple[int, int],
    dry_run: bool,
) -> bool:
    with engine.connect() as connection:
        known = rows.kept(connection, seen)
    found = {}
    hits = misses = others = 0
    for key, (times, last) in seen.items():
        if key not in known:
            others += times
            continue
        hit = folder is not None and hot.look(folder, key) is not None
        found[key] = rows.Seen(times if hit else 0, 0 if hit else times, last)
        hits += times if hit else 0
        misses += 0 if hit else times
    if not dry_run:
        with engine.begin() as connection:
            if not rows.add_views(connection, name, *span, found):
                return False
    counted.hits += hits
    counted.misses += misses
    counted.others += others
    return True
