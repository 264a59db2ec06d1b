"""A folder of photos moves to the bucket, through the ledger: the same keys, the same rows, the files stay.

What ``scrapy crawl backfill -a only=local`` does for the folder ``IMAGES_STORE``, for any folder and without a spider;
and files that the ledger does not know are entered as a discovery enters objects.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.db import inventory, queries
from carscraper.exceptions import ImageRejectedError, StoreError, StoreRefusedError
from carscraper.images.inspection import inspect
from carscraper.storage.keys import THUMBNAILS, parse_key
from carscraper.storage.upload import Upload
from carscraper.upkeep import entry
from carscraper.upkeep.entry import GROUP, Outcome, in_groups, in_order, is_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from carscraper.db.inventory import Car
    from carscraper.items import CarImage
    from carscraper.storage.s3 import S3Store
    from carscraper.upkeep.entry import Cars, Entering, Photo, PhotoRules

UPLOADED = "uploaded"
NOT_A_FILE = "not-a-file"
SYMLINK = "symlink"
NOT_STORED = "not-stored"
STOPPED = "stopped"

_LOOKED_UP = 200  # files whose rows are asked for together


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """A file to upload."""

    key: str
    rows: list[tuple[Car, Any]] = field(default_factory=list)
    """Those that say that it is in the folder; none: the ledger does not know it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Done:
    """What became of a job."""

    key: str
    moved: list[tuple[int, CarImage]] = field(default_factory=list)
    new: Photo | None = None
    outcome: Outcome | None = None
    error: StoreError | None = None
    size: int = 0
    thumbnails: int = 0


class FolderUpload:
    """One walk through the folder; no list of it is ever held."""

    def __init__(
        self,
        folder: Path,
        store: S3Store,
        engine: Engine,
        *,
        cars: Cars,
        entering: Entering,
        rules: PhotoRules,
        parallel: int,
    ) -> None:
        """Take what there is to work with.

        Args:
            folder: laid out as ``IMAGES_STORE`` is: keys as paths.
            store: the bucket.
            engine: the database.
            cars: finds whose photo a key names; for object names, ``S3_PREFIX`` included.
            entering: writes rows of photos that the ledger does not know.
            rules: what a photo is.
            parallel: uploads at the same time.
        """
        self.counts: Counter[str] = Counter()
        """``bytes`` of photos and ``thumbnails`` that were uploaded."""
        self.stopped: StoreError | None = None
        """Why the bucket takes nothing more, if it does not."""
        self._folder = folder
        self._root = folder.resolve()
        self._store = store
        self._engine = engine
        self._cars = cars
        self._entering = entering
        self._rules = rules
        self._parallel = parallel
        self._halt = threading.Event()
        self._thumbnails: list[str] = []

    def run(self, *, dry_run: bool) -> Iterator[Outcome]:
        """Give what became of each file, named by its key; what is uploaded has its row by then."""
        self._thumbnails = self._thumbnail_names()
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="upload") as pool:

            def work(job: _Job | Outcome) -> _Done:
                if isinstance(job, Outcome):
                    return _Done(key=job.name, outcome=job)
                return self._work(job, dry_run=dry_run)

            done = in_order(pool, work, self._jobs(), ahead=2 * self._parallel)
            for group in in_groups(done, GROUP):
                for each in group:
                    self.stopped = self.stopped or each.error
                    self.counts.update(bytes=each.size, thumbnails=each.thumbnails)
                yield from self._write(group, dry_run=dry_run)

    # --- what there is ---

    def _walk(self) -> Iterator[tuple[str, str | None]]:
        """Give each file below the folder by its key, and what is wrong with it; a link is never followed."""
        below = [""]
        while below:
            folder = below.pop()
            try:
                with os.scandir(self._folder / folder) as found:
                    for each in found:
                        key = folder + each.name
                        if each.is_symlink():
                            yield key, SYMLINK
                        elif each.is_dir(follow_symlinks=False):
                            if key != THUMBNAILS:  # they go with their photos
                                below.append(f"{key}/")
                        elif not each.is_file(follow_symlinks=False):
                            yield key, NOT_A_FILE
                        elif not each.name.startswith(".part-"):  # begun by a crawl that did not end it
                            yield key, None
            except OSError as error:
                yield folder or ".", error.strerror or "unreadable"

    def _thumbnail_names(self) -> list[str]:
        try:
            with os.scandir(self._folder / THUMBNAILS) as found:
                return sorted(each.name for each in found if each.is_dir(follow_symlinks=False) and is_plain(each.name))
        except OSError:
            return []

    def _jobs(self) -> Iterator[_Job | Outcome]:
        for group in in_groups(self._walk(), _LOOKED_UP):
            if self._halt.is_set():
                return
            plain = [key for key, problem in group if not problem and is_plain(key)]
            names = {key: self._store.object_name(key) for key in plain}
            with inventory.reading(self._engine) as connection:
                rows = inventory.folder_rows(connection, plain)
                there = inventory.known_keys(connection, self._store.location, names.values())
            known_cars = self._cars.known([name for key, name in names.items() if key not in rows])
            for key, problem in group:
                if problem:
                    what = problem if problem in {SYMLINK, NOT_A_FILE} else entry.UNREADABLE
                    yield Outcome(key, what, "" if what == problem else problem)
                elif key not in names:
                    yield Outcome(key, entry.FOREIGN, "its name is not UTF-8")
                else:
                    yield self._judge(key, names[key], rows.get(key, []), there, known_cars)

    def _judge(
        self, key: str, name: str, rows: list[tuple[Car, Any]], there: set[str], known_cars: set[str]
    ) -> _Job | Outcome:
        stored = [(car, row) for car, row in rows if row.status == "stored"]
        if stored:
            return _Job(key=key, rows=stored)
        if name in there:
            return Outcome(key, entry.KNOWN)
        if rows:
            return Outcome(key, NOT_STORED, str(rows[0][1].reason or rows[0][1].status))
        parts = parse_key(key)
        if parts is None:
            return Outcome(key, entry.FOREIGN)
        if name not in known_cars:
            whose = self._cars.whose(name)
            return Outcome(key, entry.UNKNOWN_CAR, f"{whose.source if whose else parts.spider}/{parts.external_id}")
        return _Job(key=key)

    # --- in a thread ---

    def _work(self, job: _Job, *, dry_run: bool) -> _Done:
        if self._halt.is_set():
            return _Done(key=job.key, outcome=Outcome(job.key, STOPPED))
        try:
            data = self._read(job.key)
            return self._move(job, data, dry_run) if job.rows else self._take_in(job, data, dry_run)
        except OSError as error:
            return _Done(key=job.key, outcome=Outcome(job.key, entry.UNREADABLE, error.strerror or str(error)))
        except ImageRejectedError as error:
            return _Done(key=job.key, outcome=Outcome(job.key, entry.NO_PHOTO, str(error)))
        except StoreError as error:
            self._halt.set()
            return _Done(key=job.key, error=error, outcome=Outcome(job.key, STOPPED))

    def _read(self, key: str) -> bytes:
        path = self._root / key
        if path.resolve() != path:
            raise OSError(0, "a link leads elsewhere")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(self._rules.max_bytes + 1)
        if len(data) > self._rules.max_bytes:
            raise ImageRejectedError("too-large", f"more than {self._rules.max_bytes} bytes")
        return data

    def _move(self, job: _Job, data: bytes, dry_run: bool) -> _Done:
        """Upload a photo that its rows say is in the folder."""
        sha256 = hashlib.sha256(data).hexdigest()
        if any(row.sha256 != sha256 for _, row in job.rows):
            detail = "not the SHA-256 of its row; backfill fetches it again"
            return _Done(key=job.key, outcome=Outcome(job.key, entry.OTHER_BYTES, detail))
        (car, first), *_ = job.rows
        content_type = first.content_type or self._inspected(data)
        name = self._store.object_name(job.key)
        metadata = {"source": car.source, "external-id": car.external_id, "source-url": first.source_url}
        upload = Upload(name=name, data=data, content_type=content_type, metadata=metadata)
        thumbnails = self._put(job.key, upload, dry_run=dry_run)
        changes: dict[str, Any] = {"status": "stored", "reason": None, "attempts": 1, "content_type": content_type}
        changes |= {"store": self._store.location, "key": name, "url": self._store.url(name), "bytes": len(data)}
        moved = [(of.listing_id, replace(queries.image_of(row), **changes)) for of, row in job.rows]
        return _Done(key=job.key, moved=moved, size=len(data), thumbnails=thumbnails)

    def _inspected(self, data: bytes) -> str:
        rules = self._rules
        return inspect(
            data, min_width=1, min_height=1, max_pixels=rules.max_pixels, max_bytes=rules.max_bytes
        ).content_type

    def _take_in(self, job: _Job, data: bytes, dry_run: bool) -> _Done:
        """Upload a photo that the ledger does not know, unless it should not be there."""
        name = self._store.object_name(job.key)
        photo = entry.examine(name, data, None, self._cars, self._rules)
        if isinstance(photo, Outcome):
            return _Done(key=job.key, outcome=replace(photo, name=job.key))
        with inventory.reading(self._engine) as connection:
            (foreseen,) = self._entering.foresee(connection, [photo])
        if foreseen.what != entry.ENTERED:
            return _Done(key=job.key, outcome=replace(foreseen, name=job.key))
        metadata = {"source": photo.whose.source, "external-id": photo.whose.external_id}
        upload = Upload(name=name, data=data, content_type=photo.content_type, metadata=metadata)
        thumbnails = self._put(job.key, upload, dry_run=dry_run)
        return _Done(key=job.key, new=photo, size=len(data), thumbnails=thumbnails)

    def _put(self, key: str, upload: Upload, *, dry_run: bool) -> int:
        """Put the thumbnails, then the photo: once its row says stored, nobody comes back for them.

        Returns:
            How many thumbnails there are.
        """
        thumbnails = 0
        for thumbnail in self._thumbnails:
            small = f"{THUMBNAILS}/{thumbnail}/{key}"
            try:
                data = self._read(small)
                content_type = self._inspected(data)
            except FileNotFoundError:
                continue
            thumbnails += 1
            if not dry_run:
                name = self._store.object_name(small)
                self._store.put(replace(upload, name=name, data=data, content_type=content_type))
        if not dry_run:
            self._store.put(upload)
        return thumbnails

    # --- the rows ---

    def _write(self, group: list[_Done], *, dry_run: bool) -> Iterator[Outcome]:
        """Write rows of photos that are in the bucket by now."""
        moved = [pair for each in group for pair in each.moved]
        new = [each.new for each in group if each.new]
        outcomes = {}
        if (moved or new) and not dry_run:
            with self._engine.begin() as connection:
                if moved:
                    queries.save_images(connection, moved, self._entering.rules)
                outcomes = {each.name: each for each in self._entering.enter(connection, new)}
        for each in group:
            if each.outcome:
                yield each.outcome
            elif each.new:
                what = outcomes.get(each.new.name, Outcome(each.key, entry.ENTERED))
                yield replace(what, name=each.key)
            else:
                yield Outcome(each.key, UPLOADED)


def check_folder(folder: Path) -> None:
    """See that *folder* can be read.

    Raises:
        StoreRefusedError: it can't.
    """
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        raise StoreRefusedError(f"The folder {folder} can't be read ({error.strerror}); name another.") from error
