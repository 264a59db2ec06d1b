"""Database, bucket and bytes beside each other: what is in one and not in the other, and what may be done about it.

Both sides are walked in the order of their keys, so that memory stays flat whatever they hold: the objects sorted in a
temporary file, the rows page by page. A crawl may run meanwhile: what looks like a fault is looked at again, first the
object, then its row, and is none if either has changed.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from carscraper.db import inventory
from carscraper.storage import readback
from carscraper.storage.keys import key_of, parse_key, parse_thumbnail, permanent_url, published_bases
from carscraper.storage.listing import listed
from carscraper.storage.policies import PICTURES, PROBES
from carscraper.upkeep import entry
from carscraper.upkeep.entry import GROUP, THREADS, in_groups, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import Engine

    from carscraper.db.inventory import Entry, Sorter
    from carscraper.storage.client import S3Options
    from carscraper.storage.readback import Seen
    from carscraper.upkeep.entry import Cars, Entering, Outcome, PhotoRules

SAME, MISSING, ORPHAN, DIFFERS, WRONG = "=", "+", "-", "*", "!"
"""rclone check's marks: the database is the source, the bucket the destination."""

_BATCH = 256  # suspects looked at again together
_PAUSE = 0.2  # seconds before an object that could not be read is read again
_FRESH, _SOON = 60.0, 2.0  # an object of the last minute gets two seconds for its row, which a crawl writes at once
_ORPHANS = ("orphan", "orphan-thumbnail", "stranger")

WORDS = {
    "missing": "the object is not there",
    "orphan": "no row names it",
    "stranger": "a picture that no row names, under a name that is none of ours",
    "orphan-thumbnail": "its photo is not there and no row names it",
    "size": "another size than the row says",
    "checksum": "another SHA-256 than the row says",
    "no-key": "the row is stored and names no object",
    "no-store": "the row is stored and names no store",
    "no-sha256": "the row is stored and has no SHA-256",
    "no-url": "the row is stored and has no address",
    "temporary-url": "car_images.url is a temporary address",
    "other-url": "car_images.url is the address of another object",
    "temporary-cover": "car_listings.image_url is a temporary address though photos of the car are stored",
    "unreadable": "the object can't be read",
}
"""What each reason means."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fault, or one key that is as it should be."""

    mark: str
    key: str
    """The object's name; for what names none, ``car_images/id`` or ``source/external id``."""
    reason: str = ""
    """One of :data:`WORDS`."""
    detail: str = ""
    rows: list[int] = field(default_factory=list)
    """Ids in ``car_images``."""
    listing_id: int | None = None
    """Id in ``car_listings``."""
    has_key: str | None = None
    """The key that the rows have."""
    shows: str | None = None
    """The address that is wrong."""
    modified: float | None = None
    """When the object was last written, in seconds since 1970."""
    thumbnails: list[str] = field(default_factory=list)
    """Objects that go with it."""

    def line(self) -> str:
        """Give it as rclone would, and what is the matter where the mark does not say it all."""
        if self.mark not in {DIFFERS, WRONG}:
            return f"{self.mark} {self.key}"
        return f"{self.mark} {self.key} ({WORDS[self.reason]}{f': {self.detail}' if self.detail else ''})"

    def as_json(self) -> dict[str, Any]:
        """Give it for a machine."""
        found: dict[str, Any] = {"mark": self.mark, "key": self.key}
        for name, value in (("reason", self.reason), ("detail", self.detail), ("rows", self.rows)):
            found |= {name: value} if value else {}
        return found | ({"listing": self.listing_id} if self.listing_id else {})


@dataclass(frozen=True, slots=True)
class _Group:
    """An object and its thumbnails; of a group without a photo only these are there."""

    key: str
    size: int | None
    modified: float
    thumbnails: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class _Match:
    """Rows and their object, of the right size."""

    key: str
    rows: list[Entry]
    wrong: bool
    """Something else is wrong with a row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Suspect:
    """What may be a fault."""

    reason: str
    key: str
    rows: list[Entry] = field(default_factory=list)
    cover: inventory.Cover | None = None
    thumbnails: list[str] = field(default_factory=list)
    photo: str | None = None
    """Of a thumbnail."""
    fresh: bool = False
    """Written a moment ago: a crawl may be about to write its row."""


class Audit:
    """One walk along both sides."""

    def __init__(
        self,
        client: Any,
        engine: Engine,
        options: S3Options,
        *,
        grace: timedelta,
        deep: bool = False,
        sample: int = 0,
        everything: bool = False,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take plain values.

        Args:
            client: a boto3 client for S3.
            engine: the database; only asked.
            options: the bucket.
            grace: an object younger than this without a row may be that of a crawl under way.
            deep: read every object for its SHA-256.
            sample: read so many, chosen at random.
            everything: give what is as it should be, too.
            progress: told how far it is.
        """
        self.counts: Counter[str] = Counter()
        self.elsewhere: dict[str, int] = {}
        self._client = client
        self._engine = engine
        self._options = options
        self._store = f"s3://{options.bucket}"
        self._youngest = (datetime.now(UTC) - grace).timestamp()
        self._deep = deep
        self._sample = sample
        self._everything = everything
        self._progress = progress
        self._base = options.base.rstrip("/")
        self._bases = published_bases(bucket=options.bucket, endpoint=options.endpoint, public_url=options.public_url)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="audit")
        self._chosen: list[_Match] = []

    def run(self, sorter: Sorter) -> Iterator[Finding]:
        """Give what is found, by key as far as it has one; :attr:`counts` is complete at the end.

        Raises:
            StoreRefusedError: no right to list or read.
            StoreUnavailableError: the server is away or busy.
        """
        try:
            self._list(sorter)
            with inventory.reading(self._engine) as connection:
                self.elsewhere = inventory.elsewhere(connection, self._store, self._options.prefix)
            yield from self._judged(self._walk(sorter))
            for group in in_groups(self._chosen, _BATCH):
                yield from self._judged(self._read(group))
            yield from self._judged(self._alone())
        finally:
            self._pool.shutdown(cancel_futures=True)

    # --- the walk ---

    def _list(self, sorter: Sorter) -> None:
        prefix = self._options.prefix
        objects = listed(self._client, self._options.bucket, prefix)
        for group in in_groups(objects, 1000):
            records = []
            for each in group:
                thumbnail = parse_thumbnail(each.name, prefix)
                place, again = (prefix + thumbnail[1], each.name) if thumbnail else (each.name, "")
                records.append((place, again, each.size, each.modified.timestamp()))
                self.counts["thumbnails" if thumbnail else "objects"] += 1
            sorter.add(records)
            self._progress(f"{self.counts['objects']:,} objects listed")

    def _groups(self, sorter: Sorter) -> Iterator[_Group]:
        for key, records in groupby(sorter.records(), key=lambda record: record[0]):
            size, modified, thumbnails = None, 0.0, []
            for _, again, found, at in records:
                if again:
                    thumbnails.append((again, at))
                else:
                    size, modified = found, at
            yield _Group(key, size, modified, thumbnails)

    def _walk(self, sorter: Sorter) -> Iterator[Finding | _Suspect]:
        """Go along both sides together. Python compares texts by code points, which is the order of UTF-8."""
        groups = self._groups(sorter)
        rows = inventory.by_key(self._engine, self._store, self._options.prefix)
        group = next(groups, None)
        deep: list[_Match] = []
        for key, entries in groupby(rows, key=lambda row: row.key or ""):
            while group and group.key < key:
                yield from self._without_row(group)
                group = next(groups, None)
            mine = group if group and group.key == key else None
            if mine:
                group = next(groups, None)
            stored = [row for row in entries if row.status == "stored"]
            self.counts["rows"] += len(stored)
            yield from self._with_row(key, stored, mine, deep)
            if len(deep) >= _BATCH:
                yield from self._read(deep)
                deep.clear()
            if self.counts["rows"] % 1000 == 0:
                self._progress(f"{self.counts['rows']:,} rows compared")
        while group:
            yield from self._without_row(group)
            group = next(groups, None)
        yield from self._read(deep)

    def _with_row(
        self, key: str, stored: list[Entry], group: _Group | None, deep: list[_Match]
    ) -> Iterator[Finding | _Suspect]:
        if not stored:
            return  # a placeholder, or a photo in the spool: its object may be there or not
        wrong = False
        for row in stored:
            for reason in self._wrong(row):
                wrong = True
                yield _Suspect(reason=reason, key=key, rows=[row])
        if group is None or group.size is None:
            yield _Suspect(reason="missing", key=key, rows=stored)
            return
        if any(row.bytes is not None and row.bytes != group.size for row in stored):
            yield _Suspect(reason="size", key=key, rows=stored)
            return
        match = _Match(key, stored, wrong)
        if self._deep:
            deep.append(match)
            return
        if self._sample:
            self._choose(match)
        if not wrong:
            yield from self._same(key)

    def _same(self, key: str) -> Iterator[Finding]:
        self.counts["same"] += 1
        if self._everything:
            yield Finding(mark=SAME, key=key)

    def _without_row(self, group: _Group) -> Iterator[_Suspect]:
        ours = parse_key(group.key, self._options.prefix) is not None
        if group.size is not None:
            if not ours and not self._is_picture(group.key):
                self.counts["foreign"] += 1
            elif group.modified > self._youngest:
                self.counts["young"] += 1
            else:
                names = [name for name, _ in group.thumbnails]
                fresh = group.modified > time.time() - _FRESH
                reason = "orphan" if ours else "stranger"
                yield _Suspect(reason=reason, key=group.key, thumbnails=names, fresh=fresh)
            return
        for name, modified in group.thumbnails:
            if not ours:
                self.counts["foreign"] += 1
            elif modified > self._youngest:
                self.counts["young"] += 1
            else:
                fresh = modified > time.time() - _FRESH
                yield _Suspect(reason="orphan-thumbnail", key=name, photo=group.key, fresh=fresh)

    def _is_picture(self, name: str) -> bool:
        return name.endswith(tuple(PICTURES)) and not name.startswith(self._options.prefix + PROBES)

    def _alone(self) -> Iterator[_Suspect]:
        """Look at what has no key to be found by."""
        for row in inventory.without_key(self._engine, self._store):
            self.counts["rows"] += 1
            for reason in self._wrong(row):
                yield _Suspect(reason=reason, key=row.key or f"car_images/{row.id}", rows=[row])
                break
        for cover in inventory.odd_covers(self._engine, self._store):
            if key_of(cover.image_url, self._bases) is None:
                name = f"{cover.source}/{cover.external_id}"
                yield _Suspect(reason="temporary-cover", key=name, cover=cover)

    def _wrong(self, row: Entry) -> Iterator[str]:
        """Say what is wrong with a row in itself."""
        if row.status != "stored":
            return
        if not row.key:
            yield "no-key"
            return
        if row.store is None:
            yield "no-store"
            return
        if not row.sha256:
            yield "no-sha256"
        if not row.url:
            yield "no-url"
        elif row.url != f"{self._base}/{row.key}":
            named = key_of(row.url, self._bases)
            if named is None and not _is_address_of(row.url, row.key):
                yield "temporary-url"
            elif named not in {None, row.key}:
                yield "other-url"

    def _choose(self, match: _Match) -> None:
        """Choose *sample* photos of all, each with the same chance, without knowing how many there are."""
        self.counts["choice"] += 1
        if len(self._chosen) < self._sample:
            self._chosen.append(match)
        elif (place := random.randrange(self.counts["choice"])) < self._sample:  # noqa: S311 - a sample, no secret
            self._chosen[place] = match

    def _read(self, matches: Sequence[_Match]) -> Iterator[Finding | _Suspect]:
        seen = self._see([match.key for match in matches], self._digest)
        for match in matches:
            self.counts["read"] += 1
            found = seen[match.key]
            bad = found is None or found.problem
            if bad or any(row.sha256 and found and row.sha256 != found.sha256 for row in match.rows):
                self.counts["same"] -= not self._deep and not match.wrong  # was counted when it was chosen
                yield _Suspect(reason="checksum", key=match.key, rows=match.rows)
            elif self._deep and not match.wrong:
                yield from self._same(match.key)
        if matches:
            self._progress(f"{self.counts['read']:,} objects read")

    # --- the second look ---

    def _judged(self, found: Iterable[Finding | _Suspect]) -> Iterator[Finding]:
        suspects: list[_Suspect] = []
        for each in found:
            if isinstance(each, Finding):
                yield each
                continue
            suspects.append(each)
            if len(suspects) >= _BATCH:
                yield from self._look_again(suspects)
                suspects.clear()
        yield from self._look_again(suspects)

    def _look_again(self, suspects: list[_Suspect]) -> Iterator[Finding]:
        """Look at the objects, then at their rows: who put an object and has not written its row yet shows here."""
        if not suspects:
            return
        to_read = [each.key for each in suspects if each.reason == "checksum"]
        if any(each.fresh for each in suspects):
            time.sleep(_SOON)
        elif to_read:
            time.sleep(_PAUSE)
        seen = self._see(to_read, self._digest)
        by_head = ("missing", "size", *_ORPHANS)
        seen |= self._see([each.key for each in suspects if each.reason in by_head], self._head)
        with inventory.reading(self._engine) as connection:
            rows = inventory.entries(connection, (row.id for each in suspects for row in each.rows))
            names = {name for each in suspects for name in (each.key, each.photo) if name}
            known = inventory.known_keys(connection, self._store, (name for name in names if entry.is_plain(name)))
            covers = inventory.covers_of(connection, (each.cover.listing_id for each in suspects if each.cover))
        for each in suspects:
            if each.cover:
                finding = self._cover_again(each, each.cover, covers)
            elif each.reason in _ORPHANS:
                finding = self._orphan_again(each, seen[each.key], known)
            else:
                still = [rows[row.id] for row in each.rows if row.id in rows]
                still = [row for row in still if row.status == "stored" and row.key == each.rows[0].key]
                if each.reason in by_head or each.reason == "checksum":
                    finding = self._object_again(each, seen[each.key], still)
                else:
                    finding = self._row_again(each, still)
            if finding:
                if finding.mark == SAME:
                    yield from self._same(finding.key)
                else:
                    self.counts[finding.mark] += 1
                    yield finding

    def _object_again(self, suspect: _Suspect, seen: Seen | None, rows: list[Entry]) -> Finding | None:
        if not rows:
            return None
        ids = [row.id for row in rows]
        common: dict[str, Any] = {"key": suspect.key, "has_key": suspect.key}
        if seen is None:
            return Finding(mark=MISSING, reason="missing", rows=ids, **common)
        if seen.problem:
            return Finding(mark=WRONG, reason="unreadable", detail=seen.problem, rows=ids, **common)
        sizes = [row for row in rows if row.bytes is not None and row.bytes != seen.size]
        if sizes:
            detail = f"{sizes[0].bytes} bytes in the row, {seen.size} in the bucket"
            return Finding(mark=DIFFERS, reason="size", detail=detail, rows=[row.id for row in sizes], **common)
        others = [row.id for row in rows if seen.sha256 and row.sha256 and row.sha256 != seen.sha256]
        if others:
            detail = f"{seen.sha256} in the bucket"
            return Finding(mark=DIFFERS, reason="checksum", detail=detail, rows=others, **common)
        if any(True for row in rows for _ in self._wrong(row)):
            return None
        return Finding(mark=SAME, key=suspect.key)

    def _row_again(self, suspect: _Suspect, rows: list[Entry]) -> Finding | None:
        for row in rows:
            if suspect.reason in self._wrong(row):
                return Finding(
                    mark=WRONG,
                    key=suspect.key,
                    reason=suspect.reason,
                    detail=row.url or "" if suspect.reason.endswith("-url") else "",
                    rows=[row.id],
                    has_key=row.key,
                    shows=row.url,
                )
        return None

    def _cover_again(self, suspect: _Suspect, cover: inventory.Cover, covers: dict[int, str | None]) -> Finding | None:
        if covers.get(cover.listing_id) != cover.image_url:
            return None
        return Finding(
            mark=WRONG,
            key=suspect.key,
            reason=suspect.reason,
            detail=cover.image_url,
            listing_id=cover.listing_id,
            shows=cover.image_url,
        )

    def _orphan_again(self, suspect: _Suspect, seen: Seen | None, known: set[str]) -> Finding | None:
        if seen is None or suspect.key in known or suspect.photo in known:
            return None
        if seen.problem:
            return Finding(mark=WRONG, key=suspect.key, reason="unreadable", detail=seen.problem)
        modified = seen.modified.timestamp() if seen.modified else 0
        if modified > self._youngest:
            self.counts["young"] += 1
            return None
        return Finding(
            mark=ORPHAN,
            key=suspect.key,
            reason=suspect.reason,
            modified=modified,
            thumbnails=suspect.thumbnails,
            has_key=suspect.photo,
        )

    # --- the bucket ---

    def _see(self, names: Sequence[str], look: Callable[[str], Seen | None]) -> dict[str, Seen | None]:
        return dict(zip(names, in_order(self._pool, look, names, ahead=2 * THREADS), strict=True))

    def _head(self, name: str) -> Seen | None:
        return readback.look(self._client, self._options.bucket, name)

    def _digest(self, name: str) -> Seen | None:
        return readback.read(self._client, self._options.bucket, name)


def _is_address_of(url: str, key: str) -> bool:
    """Tell whether *url* ends with *key*: an address of another CDN than today's is permanent all the same.

    >>> _is_address_of("https://old-cdn.example.is/cars/a%20b.jpg", "cars/a b.jpg")
    True
    >>> _is_address_of("https://bilasolur.is/CarImage.aspx?s=16&c=1&p=2", "bilasolur/2019/kia/rio/1_0123456789ab.jpg")
    False
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and unquote(parts.path).endswith(f"/{key}")


# --- mending ----------------------------------------------------------------------------------------------------


def keep(sorter: Sorter, finding: Finding) -> None:
    """Keep a finding for mending."""
    sorter.note(finding.reason, asdict(finding))


def kept(sorter: Sorter, *reasons: str) -> Iterator[Finding]:
    """Give what was kept for these reasons."""
    for reason in reasons:
        for note in sorter.notes(reason):
            yield Finding(**note)


class Mending:
    """Mends what an audit has found; nothing is deleted."""

    def __init__(
        self,
        client: Any,
        engine: Engine,
        options: S3Options,
        *,
        cars: Cars,
        entering: Entering,
        rules: PhotoRules,
    ) -> None:
        """Take what there is to work with."""
        self.done: Counter[str] = Counter()
        """Photos that are ``pending`` now, their ``addresses`` and ``hashes``, ``covers`` of cars, objects ``entered``,
        and what is ``left``.
        """
        self._client = client
        self._engine = engine
        self._options = options
        self._store = f"s3://{options.bucket}"
        self._cars = cars
        self._entering = entering
        self._rules = rules

    def run(self, sorter: Sorter) -> Iterator[Outcome]:
        """Mend; give what is left and why.

        Raises:
            StoreRefusedError: no right to read.
            StoreUnavailableError: the server is away or busy.
        """
        with ThreadPoolExecutor(THREADS, thread_name_prefix="mend") as pool:
            self._lose_missing(pool, kept(sorter, "missing"))
            for group in in_groups(kept(sorter, "size", "checksum", "no-key"), GROUP):
                self._lose(group)
            self._lose_missing(pool, kept(sorter, "no-store"))
            yield from self._hash(pool, kept(sorter, "no-sha256"))
            for group in in_groups(kept(sorter, "no-store", "no-url", "temporary-url", "other-url"), GROUP):
                urls = {
                    row: (each.has_key, permanent_url(each.has_key, self._options.base))
                    for each in group
                    for row in each.rows
                    if each.has_key
                }
                with self._engine.begin() as connection:
                    self.done["addresses"] += inventory.set_urls(connection, self._store, urls)
            for group in in_groups(kept(sorter, "temporary-cover"), GROUP):
                expected = {each.listing_id: each.shows for each in group if each.listing_id and each.shows}
                with self._engine.begin() as connection:
                    self.done["covers"] += inventory.set_covers(connection, expected)
            # After the rows that lost their object: an orphan may be just that.
            for outcome in self._enter(pool, kept(sorter, "orphan")):
                if outcome.what in {entry.ENTERED, entry.KNOWN, entry.GONE}:
                    self.done["entered"] += outcome.what == entry.ENTERED
                else:
                    self.done["left"] += 1
                    yield outcome
            for each in kept(sorter, "orphan-thumbnail", "stranger", "unreadable"):
                self.done["left"] += 1
                yield entry.Outcome(each.key, each.reason, each.detail)

    def _lose(self, findings: Iterable[Finding]) -> None:
        rows = {row: each.has_key for each in findings for row in each.rows}
        with self._engine.begin() as connection:
            self.done["pending"] += len(inventory.lose(connection, self._store, rows))

    def _lose_missing(self, pool: ThreadPoolExecutor, findings: Iterable[Finding]) -> None:
        def look(finding: Finding) -> tuple[Finding, bool]:
            return finding, readback.look(self._client, self._options.bucket, finding.key) is None

        looked = in_order(pool, look, findings, ahead=2 * THREADS)
        for group in in_groups((finding for finding, gone in looked if gone), GROUP):
            self._lose(group)

    def _hash(self, pool: ThreadPoolExecutor, findings: Iterable[Finding]) -> Iterator[Outcome]:
        """Read what has no SHA-256; what is not what its name says is fetched again."""

        def read(finding: Finding) -> tuple[Finding, Seen | None]:
            return finding, readback.read(self._client, self._options.bucket, finding.key)

        for finding, seen in in_order(pool, read, findings, ahead=2 * THREADS):
            if seen is None:
                continue  # missing: mended above
            parts = parse_key(finding.key, self._options.prefix)
            if seen.sha256 is None:
                self.done["left"] += 1
                yield entry.Outcome(finding.key, entry.UNREADABLE, seen.problem or "")
            elif parts and not seen.sha256.startswith(parts.hash):
                self._lose([finding])
            else:
                hashes = dict.fromkeys(finding.rows, (finding.key, seen.sha256, seen.size))
                with self._engine.begin() as connection:
                    self.done["hashes"] += inventory.set_hashes(connection, hashes)

    def _enter(self, pool: ThreadPoolExecutor, findings: Iterable[Finding]) -> Iterator[Outcome]:
        names = (finding.key for finding in findings)
        yield from entry.enter_objects(
            self._client,
            self._engine,
            self._options.bucket,
            names,
            pool=pool,
            cars=self._cars,
            entering=self._entering,
            rules=self._rules,
        )


# --- deleting orphans -------------------------------------------------------------------------------------------


class Clearing:
    """Deletes old orphans, each after one more look."""

    def __init__(self, client: Any, engine: Engine, options: S3Options, *, older_than: timedelta) -> None:
        """Take the age from which an orphan is deleted."""
        self.done: Counter[str] = Counter()
        """``deleted`` objects, ``kept`` ones, photos that became ``pending`` because somebody just wrote their row."""
        self._client = client
        self._engine = engine
        self._options = options
        self._store = f"s3://{options.bucket}"
        self._before = (datetime.now(UTC) - older_than).timestamp()

    def plan(self, sorter: Sorter) -> Iterator[Finding]:
        """Give the orphans that are old enough."""
        for finding in kept(sorter, "orphan", "orphan-thumbnail"):
            if finding.modified is not None and finding.modified < self._before:
                yield finding

    def run(self, sorter: Sorter) -> Iterator[tuple[str, str | None]]:
        """Delete them; give each name, and why it is still there if it is.

        Raises:
            StoreRefusedError: no right to delete.
            StoreUnavailableError: the server is away or busy.
        """
        with ThreadPoolExecutor(THREADS, thread_name_prefix="clear") as pool:
            for group in in_groups(self.plan(sorter), readback.MAX_DELETES // 4):
                owners = {each.key: each.has_key or each.key for each in group}
                owners |= {name: each.key for each in group for name in each.thumbnails}
                names = [name for name, old in self._ages(pool, owners) if old]
                with inventory.reading(self._engine) as connection:
                    # Whatever the store: a photo on its way from the folder to the bucket has that key, too.
                    known = inventory.known_keys(connection, None, {*names, *(owners[name] for name in names)})
                names = [name for name in names if not {name, owners[name]} & known]
                for some in in_groups(names, readback.MAX_DELETES):
                    yield from self._delete(some)

    def _ages(self, pool: ThreadPoolExecutor, owners: dict[str, str]) -> Iterator[tuple[str, bool]]:
        """Tell of each object whether it is still there and old: a crawl puts the same bytes under the same name."""

        def look(name: str) -> tuple[str, bool]:
            seen = readback.look(self._client, self._options.bucket, name)
            return name, bool(seen and seen.modified and seen.modified.timestamp() < self._before)

        yield from in_order(pool, look, owners, ahead=2 * THREADS)

    def _delete(self, names: list[str]) -> Iterator[tuple[str, str | None]]:
        refused = readback.delete(self._client, self._options.bucket, names)
        gone = [name for name in names if name not in refused]
        with self._engine.begin() as connection:
            rows = inventory.rows_of(connection, self._store, gone)
            self.done["pending"] += len(inventory.lose(connection, self._store, rows))
        for name in names:
            self.done["kept" if name in refused else "deleted"] += 1
            yield name, refused.get(name)
