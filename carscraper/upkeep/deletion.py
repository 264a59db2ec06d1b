"""Deleting photos everywhere at once, in an order that a sudden end at any moment leaves nothing wrong.

1. One transaction: the rows become tombstones and the cars' covers move on. Nobody is shown the photo any more, no
   crawl fetches it, and the rows still have their keys.
2. What waits in the spool, the objects, their thumbnails, the copies in the folder.
3. The CDN's caches.
4. One transaction: the keys whose objects are confirmed gone leave the rows.

Cut off between two steps, the same command (or ``--finish``) finds the keys in the tombstones and does the rest.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from carscraper.db import removal as rows
from carscraper.exceptions import ConfigurationError, StoreError
from carscraper.maintenance import cdn
from carscraper.storage import hot, removal
from carscraper.storage.keys import THUMBNAILS, key_of, thumbnail_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from carscraper.db.removal import Row
    from carscraper.storage.spool import Spool

_AT_ONCE = 8  # requests to the bucket


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """The bucket as a place to delete from."""

    client: Any
    name: str
    prefix: str
    distribution: str | None = None
    """CloudFront's id of what is in front of it."""
    open_cdn: Callable[[], Any] | None = None
    """Makes the client for that."""
    spool: Spool | None = None
    """What waits to be uploaded to it."""
    thumbnails: frozenset[str] = frozenset()
    """Which thumbnails are made now (``small``, …); the bucket's list tells of earlier ones."""

    @property
    def location(self) -> str:
        """As ``car_images.store`` has it."""
        return f"s3://{self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where photos and what was made of them can be."""

    bucket: Bucket | None
    """``None`` without S3."""
    folder: Path | None
    bases: list[str]
    """What may stand before a key in permanent URLs, see ``storage.keys.published_bases``."""
    public_url: str | None = None

    def key_of(self, url: str) -> str | None:
        """Give the key that a permanent URL names."""
        return key_of(url, self.bases)


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of the bucket or a file of the folder."""

    where: str
    """``s3`` or ``folder``."""
    name: str
    bytes: int
    """-1 where S3 does not tell."""
    key: str
    """Of the photo that it is, or that it was made of."""


@dataclass(kw_only=True, slots=True)
class Plan:
    """What a deletion would take away."""

    keys: list[str]
    cars: list[int]
    """Rows of cars that lose all their photos."""
    photos: list[Row]
    """Those that are no tombstones yet."""
    unfinished: int = 0
    """Tombstones whose objects are still to go."""
    names: dict[str, str] = field(default_factory=dict)
    """Every name that an object of these photos may have in the bucket, and the photo's key."""
    things: list[Thing] = field(default_factory=list)
    versions: list[removal.Version] = field(default_factory=list)
    """Every version, if that is asked."""
    keeps_versions: bool | None = None
    shared: dict[str, list[str]] = field(default_factory=dict)
    """Keys that several cars show, and these."""
    same_bytes: list[Row] = field(default_factory=list)
    """Stored photos with the same bytes under other keys; they stay."""

    @property
    def is_empty(self) -> bool:
        """There is nothing to do."""
        return not (self.photos or self.unfinished or self.things or self.versions)


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What a deletion did."""

    buried: int = 0
    """Rows that are tombstones now."""
    removed: list[Thing] = field(default_factory=list)
    versions: int = 0
    """Versions that are gone for good."""
    kept_versions: list[str] = field(default_factory=list)
    """Names of objects that the bucket keeps as old versions."""
    unspooled: int = 0
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
        listing_ids = []
        for source, external_id in cars:
            found = rows.listing_of(connection, source, external_id)
            if found is None:
                raise ConfigurationError(f"The ledger knows no car {source}/{external_id}: write it as SOURCE/ID.")
            listing_ids.append(found)
        photos = {row.row_id: row for row in rows.everything_of(connection, asked, listing_ids)}
        every = list(dict.fromkeys([*asked, *(row.key for row in photos.values() if row.key)]))
        of_keys = rows.rows_of_keys(connection, every)
        hashes = {row.source_sha256 for row in photos.values() if row.source_sha256 and row.key}
        same = rows.kept_elsewhere(connection, hashes, every)
    shown: dict[str, list[str]] = defaultdict(list)
    for row in of_keys:
        if row.car not in shown[row.key or ""]:
            shown[row.key or ""].append(row.car)
    plan = Plan(
        keys=every,
        cars=listing_ids,
        photos=[row for row in photos.values() if not row.is_tombstone],
        unfinished=sum(row.is_tombstone and row.key is not None for row in photos.values()),
        shared={key: cars for key, cars in shown.items() if len(cars) > 1},
        same_bytes=same,
    )
    return plan, [key for key in asked if key not in shown]


def look(plan: Plan, places: Places, *, all_versions: bool) -> None:
    """Find what is there of *plan*: objects, thumbnails, copies, versions.

    Raises:
        StoreError: S3 refuses or is away.
    """
    plan.things = list(_in_folder(plan.keys, places))
    bucket = places.bucket
    if bucket is None:
        return
    plan.keeps_versions = removal.keeps_versions(bucket.client, bucket.name)
    plan.names = _names_in_bucket(plan.keys, bucket)

    def ask(item: tuple[str, str]) -> tuple[Thing | None, list[removal.Version]]:
        name, key = item
        size = removal.size_of(bucket.client, bucket.name, name)
        versions = list(removal.versions_of(bucket.client, bucket.name, name)) if all_versions else []
        return None if size is None else Thing("s3", name, size, key), versions

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="delete") as threads:
        for thing, versions in threads.map(ask, plan.names.items()):
            if thing:
                plan.things.append(thing)
            plan.versions += versions


def _names_in_bucket(keys: list[str], bucket: Bucket) -> dict[str, str]:
    """Give the names that objects of the photos *keys* may have, each with its key."""
    listed = removal.thumbnail_names(bucket.client, bucket.name, bucket.prefix) if keys else []
    thumbnails = sorted({*listed, *bucket.thumbnails})
    found = {}
    for key in keys:
        plain = key.removeprefix(bucket.prefix)
        found[key] = key
        if not plain.startswith(f"{THUMBNAILS}/"):
            found |= {bucket.prefix + thumbnail_key(name, plain): key for name in thumbnails}
    return found


def _in_folder(keys: Iterable[str], places: Places) -> Iterator[Thing]:
    """Give the files of the photos *keys*: as they are named, and as a crawl without S3 had named them."""
    if places.folder is None:
        return
    prefix = places.bucket.prefix if places.bucket else ""
    thumbnails = hot.thumbnails_in(places.folder)
    for key in keys:
        plain = key.removeprefix(prefix)
        names = dict.fromkeys([key, plain])
        if not plain.startswith(f"{THUMBNAILS}/"):
            names |= dict.fromkeys(thumbnail_key(name, plain) for name in thumbnails)
        for name in names:
            found = hot.look(places.folder, name)
            if found:
                yield Thing("folder", name, found.size, key)


def run(
    engine: Engine, plan: Plan, places: Places, *, all_versions: bool, say: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Do what *plan* says; what can't be removed is told, and a second run finishes it."""
    outcome = Outcome()
    with engine.begin() as connection:
        buried = rows.bury(connection, plan.keys, plan.cars, places.key_of)
    outcome.buried = sum(not row.is_tombstone for row in buried)
    failed = _look_again({row.key for row in buried if row.key}, plan, places, outcome, all_versions=all_versions)
    failed |= _remove_things(plan, places, outcome, all_versions=all_versions, say=say)
    failed |= _invalidate(plan, places, outcome, say)
    gone = [key for key in plan.keys if key not in failed]
    with engine.begin() as connection:
        rows.settle(connection, gone, places.key_of)
    return outcome


def _look_again(keys: set[str], plan: Plan, places: Places, outcome: Outcome, *, all_versions: bool) -> set[str]:
    """Take into *plan* what a crawl stored of these cars since it was made; give the keys for which that failed."""
    late = sorted(keys - set(plan.keys))
    plan.keys += late
    rest = Plan(keys=late, cars=[], photos=[])
    try:
        if late:
            look(rest, places, all_versions=all_versions)
    except StoreError as error:
        outcome.failures += [(key, str(error)) for key in late]
        return set(late)
    plan.things += rest.things
    plan.versions += rest.versions
    plan.names |= rest.names
    return set()


def _remove_things(
    plan: Plan, places: Places, outcome: Outcome, *, all_versions: bool, say: Callable[[str], None]
) -> set[str]:
    """Remove what was found; give the keys of what is still there."""
    failed: set[str] = set()
    bucket = places.bucket
    if bucket and bucket.spool:
        outcome.unspooled = _unspool(bucket.spool, {*plan.names, *plan.keys})
    versions = defaultdict(list)
    for version in plan.versions:
        versions[version.name].append(version)

    def remove(thing: Thing) -> tuple[Thing, bool, int, str | None]:
        try:
            if thing.where == "folder":
                assert places.folder is not None
                hot.remove(places.folder, thing.name)
                return thing, False, 0, None
            assert bucket is not None
            if not all_versions:
                return thing, removal.remove(bucket.client, bucket.name, thing.name), 0, None
            for version in versions[thing.name]:
                removal.remove_version(bucket.client, bucket.name, version)
            if not versions[thing.name]:
                removal.remove(bucket.client, bucket.name, thing.name)
            return thing, False, len(versions[thing.name]), None
        except StoreError as error:
            return thing, False, 0, str(error)

    # Of a deleted object only old versions are there.
    found = {thing.name for thing in plan.things if thing.where == "s3"}
    only_versions = [Thing("s3", name, 0, plan.names[name]) for name in versions if name not in found]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="delete") as threads:
        for number, (thing, kept, gone, why) in enumerate(threads.map(remove, [*plan.things, *only_versions]), 1):
            say(f"{number:,} of {len(plan.things) + len(only_versions):,} removed")
            if why:
                outcome.failures.append((thing.name, why))
                failed.add(thing.key)
                continue
            outcome.removed.append(thing)
            outcome.versions += gone
            if kept:
                outcome.kept_versions.append(thing.name)
    return failed


def _unspool(spool: Spool, names: set[str]) -> int:
    """Take out of the spool what would be uploaded again; rarely there is anything."""
    number = 0
    for path in spool.waiting():
        upload = spool.read(path)
        if upload and upload.name in names:
            spool.remove(path)
            number += 1
    return number


def _invalidate(plan: Plan, places: Places, outcome: Outcome, say: Callable[[str], None]) -> set[str]:
    """Take the photos out of the CDN's caches; give the keys for which that failed."""
    bucket = places.bucket
    if bucket is None or not bucket.distribution or bucket.open_cdn is None or not plan.keys:
        return set()
    # Of a run that was cut off nobody knows any more which thumbnails there were.
    there = plan.names if plan.unfinished else [thing.name for thing in plan.things if thing.where == "s3"]
    names = list(dict.fromkeys([*plan.keys, *there]))
    paths = [path for name in names for path in cdn.paths_of(name, places.public_url)]
    try:
        cdn.invalidate(bucket.open_cdn(), bucket.distribution, paths, say=say)
    except StoreError as error:
        outcome.failures.append((f"CloudFront {bucket.distribution}", str(error)))
        return set(plan.keys)
    outcome.invalidated = paths
    return set()
