"""Delete photos everywhere at once, in an order in which a sudden end at any moment leaves nothing wrong.

1. One transaction: the rows become tombstones and the cars' covers move on. Nobody is shown the photo any more, no
   crawl fetches it, and the rows still have their keys.
2. What waits in the spool, the objects, their thumbnails, the copies in the folder.
3. The CDN's caches.
4. One transaction: the keys whose objects are confirmed gone leave the rows.

Cut off between two steps, the same command (or ``--finish``) finds the keys in the tombstones and does the rest.
What asks S3 raises ``StoreError`` where S3 refuses or is away.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from carscraper.db import removal as rows
from carscraper.exceptions import ConfigurationError, StoreError
from carscraper.maintenance import cdn
from carscraper.storage import listing, objects, versions
from carscraper.storage.keys import THUMBNAILS_FOLDER, key_of, thumbnail_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Engine

    from carscraper.db.removal import Row
    from carscraper.storage.folder import FolderStore
    from carscraper.storage.spool import Spool


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where photos and what was made of them can be."""

    client: Any = None
    """A boto3 client for S3; ``None`` without a bucket."""
    bucket: str = ""
    prefix: str = ""
    distribution: str | None = None
    """CloudFront's id of what is in front of the bucket."""
    open_cdn: Callable[[], Any] = lambda: None
    """Makes the client for that."""
    spool: Spool | None = None
    """What waits to be uploaded to the bucket."""
    thumbnails: frozenset[str] = frozenset()
    """Which thumbnails are made now (``small``, …); the bucket's list tells of earlier ones."""
    folder: FolderStore | None = None
    bases: tuple[str, ...] = ()
    """What may stand before a key in permanent URLs, see ``storage.keys.published_bases``."""
    public_url: str | None = None

    def key_of(self, url: str) -> str | None:
        """Return the key that a permanent URL names."""
        return key_of(url, self.bases)


@dataclass(frozen=True, slots=True)
class Copy:
    """An object of the bucket or a file of the folder."""

    where: str
    """``s3`` or ``folder``."""
    name: str
    bytes: int
    """-1 where S3 does not say."""
    key: str
    """Of the photo that it is, or that it was made of."""


@dataclass(kw_only=True, slots=True)
class Plan:
    """What a deletion would remove."""

    keys: list[str]
    cars: list[int]
    """Rows of cars that lose all their photos."""
    photos: list[Row]
    """Those that are no tombstones yet."""
    unfinished: int = 0
    """Tombstones whose objects are still to go."""
    names: dict[str, str] = field(default_factory=dict)
    """Every name that an object of these photos may have in the bucket, and the photo's key."""
    copies: list[Copy] = field(default_factory=list)
    versions: dict[str, list[str]] = field(default_factory=dict)
    """Ids of every version by the object's name, if that is asked."""
    keeps_versions: bool | None = None
    no_version_list: str | None = None
    """Why old versions could not be looked for, though that was asked."""
    shared: dict[str, list[str]] = field(default_factory=dict)
    """Keys that several cars show, and these."""
    same_bytes: list[Row] = field(default_factory=list)
    """Stored photos with the same bytes under other keys; they stay."""

    @property
    def is_empty(self) -> bool:
        """There is nothing to do."""
        return not (self.photos or self.unfinished or self.copies or self.versions)


@dataclass(kw_only=True, slots=True)
class Deleted:
    """What a deletion did."""

    photos: int = 0
    """Rows that became tombstones."""
    copies: list[Copy] = field(default_factory=list)
    versions: int = 0
    """Versions that are gone for good."""
    kept_versions: list[str] = field(default_factory=list)
    """Names of objects that the bucket keeps as old versions."""
    spooled: int = 0
    invalidated: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    """What is still there, and why."""


def select(engine: Engine, keys: Iterable[str], cars: Iterable[tuple[str, str]]) -> tuple[Plan, list[str]]:
    """Look up what *keys* and *cars* mean in the ledger.

    Returns:
        A plan without objects, and those of *keys* that no row has.

    Raises:
        ConfigurationError: a car is not known.
    """
    asked = list(dict.fromkeys(keys))
    with engine.connect() as connection:
        listing_ids = [rows.listing_of(connection, *car) for car in cars]
        photos = {row.row_id: row for row in rows.everything_of(connection, asked, listing_ids)}.values()
        every = list(dict.fromkeys([*asked, *(row.key for row in photos if row.key)]))
        shown: dict[str, list[str]] = {}
        for row in rows.rows_of_keys(connection, every):
            shown.setdefault(row.key or "", []).append(row.car)
        hashes = {row.source_sha256 for row in photos if row.source_sha256 and row.key}
        same = rows.kept_elsewhere(connection, hashes, every)
    plan = Plan(
        keys=every,
        cars=listing_ids,
        photos=[row for row in photos if not row.is_tombstone],
        unfinished=sum(row.is_tombstone and row.key is not None for row in photos),
        shared={key: list(dict.fromkeys(cars)) for key, cars in shown.items() if len(set(cars)) > 1},
        same_bytes=same,
    )
    return plan, [key for key in asked if key not in shown]


def look_up(plan: Plan, places: Places, *, all_versions: bool) -> None:
    """Find what is there of *plan*: objects, thumbnails, copies, versions."""
    copies = list(_in_folder(plan.keys, places))
    if places.client:
        client, bucket, prefix = places.client, places.bucket, places.prefix
        plan.keeps_versions = versions.keeps_versions(client, bucket)
        there = listing.thumbnail_names(client, bucket, prefix) if plan.keys else []
        names = dict(_names(plan.keys, prefix, prefix, {*there, *places.thumbnails}))

        def ask(name: str) -> tuple[str, objects.Seen | None, list[str]]:
            seen, its = objects.look(client, bucket, name), []
            try:
                its = versions.versions_of(client, bucket, name) if all_versions else []
            except versions.NoVersionListError as error:
                plan.no_version_list = str(error)
            return name, seen, [each.id for each in its]

        with ThreadPoolExecutor(objects.THREADS, thread_name_prefix="delete") as pool:
            found = list(objects.in_order(pool, ask, names))
        copies += [Copy("s3", name, -1 if seen.problem else seen.size, names[name]) for name, seen, _ in found if seen]
        plan.versions = {name: ids for name, _, ids in found if ids}
        plan.names = names
    plan.copies = copies


def _names(keys: Iterable[str], prefix: str, below: str, thumbnails: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Return the names that the photos *keys* and their thumbnails, which are *below*, may have; each with its key."""
    for key in keys:
        plain = key.removeprefix(prefix)
        yield key, key
        if not plain.startswith(f"{THUMBNAILS_FOLDER}/"):
            yield from ((below + thumbnail_key(name, plain), key) for name in sorted(thumbnails))


def _in_folder(keys: list[str], places: Places) -> Iterator[Copy]:
    """Return the files of the photos *keys*: as they are named, and as a crawl without S3 had named them."""
    if places.folder is None:
        return
    names = dict(_names(keys, places.prefix, "", places.folder.thumbnail_names()))
    names |= {key.removeprefix(places.prefix): key for key in keys}
    for name, key in names.items():
        size = places.folder.size(name)
        if size is not None:
            yield Copy("folder", name, size, key)


def run(
    engine: Engine, plan: Plan, places: Places, *, all_versions: bool, say: Callable[[str], None] = lambda _: None
) -> Deleted:
    """Do what *plan* says; what can't be removed is named, and a second run finishes it."""
    done, failed = Deleted(), set()
    with engine.begin() as connection:
        marked = rows.mark_deleted(connection, plan.keys, plan.cars, places.key_of)
    done.photos = sum(not row.is_tombstone for row in marked)
    if late := sorted({row.key for row in marked if row.key} - set(plan.keys)):  # a crawl has stored them since
        plan.keys += late
        try:
            look_up(plan, places, all_versions=all_versions)
        except StoreError as error:
            done.failures += [(key, str(error)) for key in late]
            failed = set(late)
    failed |= _remove(plan, places, done, say)
    failed |= _invalidate(plan, places, done, say)
    with engine.begin() as connection:
        rows.clear_keys(connection, [key for key in plan.keys if key not in failed], places.key_of)
    return done


def _remove(plan: Plan, places: Places, done: Deleted, say: Callable[[str], None]) -> set[str]:
    """Remove what was found; return the keys of what is still there."""
    failed: set[str] = set()
    if places.spool:
        done.spooled = _unspool(places.spool, {*plan.names, *plan.keys})

    def remove(copy: Copy) -> tuple[Copy, bool, str | None]:
        try:
            if copy.where == "s3":
                its = plan.versions.get(copy.name, [])
                kept = objects.remove(places.client, places.bucket, copy.name, its)
                return copy, kept, _still_there(places, copy.name, its)
            if places.folder:
                places.folder.delete(copy.name)
        except StoreError as error:
            return copy, False, str(error)
        return copy, False, None

    # Of a deleted object only old versions are there.
    found = {copy.name for copy in plan.copies if copy.where == "s3"}
    copies = plan.copies + [Copy("s3", name, 0, plan.names[name]) for name in plan.versions if name not in found]
    with ThreadPoolExecutor(objects.THREADS, thread_name_prefix="delete") as pool:
        for number, (copy, kept, why) in enumerate(objects.in_order(pool, remove, copies), 1):
            say(f"{number:,} of {len(copies):,} removed")
            if why:
                done.failures.append((copy.name, why))
                failed.add(copy.key)
                continue
            done.copies.append(copy)
            done.versions += len(plan.versions.get(copy.name, [])) if copy.where == "s3" else 0
            done.kept_versions += [copy.name] if kept else []
    return failed


def _still_there(places: Places, name: str, removed: list[str]) -> str | None:
    if removed and (left := versions.versions_of(places.client, places.bucket, name)):
        return f"the server said that they are deleted, and has {len(left)} versions: retention may hold them"
    return objects.still_there(places.client, places.bucket, name)


def _unspool(spool: Spool, names: set[str]) -> int:
    """Remove from the spool what would be uploaded again; rarely there is anything."""
    number = 0
    for path in spool.waiting():
        upload = spool.read(path)
        if upload and upload.name in names:
            spool.remove(path)
            number += 1
    return number


def _invalidate(plan: Plan, places: Places, done: Deleted, say: Callable[[str], None]) -> set[str]:
    """Remove the photos from the CDN's caches; return the keys for which that failed."""
    if not places.distribution or not plan.keys:
        return set()
    # Of a run that was cut off nobody knows any more which thumbnails there were.
    there = plan.names if plan.unfinished else [copy.name for copy in plan.copies if copy.where == "s3"]
    names = dict.fromkeys([*plan.keys, *there])
    paths = [path for name in names for path in cdn.paths_of(name, places.public_url)]
    try:
        cdn.invalidate(places.open_cdn(), places.distribution, paths, say=say)
    except StoreError as error:
        done.failures.append((f"CloudFront {places.distribution}", str(error)))
        return set(plan.keys)
    done.invalidated = paths
    return set()


def deleted_photos(engine: Engine, cars: Iterable[tuple[str, str]]) -> list[Row]:
    """Return the tombstones of *cars*, and those of the same bytes on other cars.

    Raises:
        ConfigurationError: a car is not known, or a deletion of one was cut off.
    """
    with engine.connect() as connection:
        tombstones = rows.tombstones_of(connection, [rows.listing_of(connection, *car) for car in cars])
    if unfinished := [row.key for row in tombstones if row.key]:
        raise ConfigurationError(
            f"The deletion of {unfinished[0]!r} was cut off: run `scrapy storage delete --finish` first."
        )
    return tombstones
