"""Database, bucket and bytes beside each other: what is in one and not in the other.

The bucket's list goes into a temporary table, and ``db.inventory`` joins it with the rows. A crawl may run meanwhile:
what looks like a fault is looked at again, first the object, then its row, and is none if either has changed.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from carscraper.db import inventory, repairs
from carscraper.db.inventory import BY_KEY, OTHER, PHOTO, PICTURE, THUMBNAIL
from carscraper.maintenance.register import THREADS, in_groups, in_order, is_plain
from carscraper.storage import readback
from carscraper.storage.keys import key_of, parse_key, parse_thumbnail, published_bases
from carscraper.storage.listing import listed
from carscraper.storage.policies import PICTURES, PROBES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import Connection

    from carscraper.db.inventory import Comparison, Suspect
    from carscraper.db.repairs import Entry
    from carscraper.storage.client import S3Options
    from carscraper.storage.listing import Listed
    from carscraper.storage.readback import Seen

SAME, MISSING, ORPHAN, DIFFERS, WRONG = "=", "+", "-", "*", "!"
"""rclone check's marks: the database is the source, the bucket the destination."""

_BATCH = 256  # suspects looked at again together
_PAUSE = 0.2  # seconds before an object that could not be read is read again
_FRESH, _SOON = 60.0, 2.0  # an object of the last minute gets two seconds for its row, which a crawl writes at once
_ORPHANS = ("orphan", "orphan-thumbnail", "stranger")
_EXTRAS = ("no-thumbnail", "no-output")

WORDS = {
    "missing": "the object is not there",
    "no-thumbnail": "the thumbnail is not there",
    "no-output": "the output of a run is not there",
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
    photo: str | None = None
    """The key that the rows have; of a thumbnail, its photo's."""
    shows: str | None = None
    """The address that is wrong."""
    modified: float | None = None
    """When the object was last written, in seconds since 1970."""
    thumbnails: list[str] = field(default_factory=list)
    """Objects that go with it."""

    def line(self) -> str:
        """Return it as rclone would, and what is the matter where the mark does not say it all."""
        if self.mark not in {DIFFERS, WRONG}:
            return f"{self.mark} {self.key}"
        return f"{self.mark} {self.key} ({WORDS[self.reason]}{f': {self.detail}' if self.detail else ''})"

    def as_json(self) -> dict[str, Any]:
        """Return it for a machine."""
        found: dict[str, Any] = {"mark": self.mark, "key": self.key}
        for name, value in (("reason", self.reason), ("detail", self.detail), ("rows", self.rows)):
            found |= {name: value} if value else {}
        return found | ({"listing": self.listing_id} if self.listing_id else {})


def kept(comparison: Comparison, *reasons: str) -> Iterator[Finding]:
    """Return the findings of an audit for these reasons."""
    return (Finding(**found) for found in comparison.findings(*reasons))


class Audit:
    """Compares both sides once."""

    def __init__(
        self,
        client: Any,
        comparison: Comparison,
        options: S3Options,
        *,
        grace: timedelta,
        deep: bool = False,
        sample: int = 0,
        everything: bool = False,
        thumbnails: Iterable[str] = (),
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take plain values.

        Args:
            client: a boto3 client for S3.
            comparison: of the database; only asked.
            options: the bucket.
            grace: an object younger than this without a row may be that of a crawl under way.
            deep: read every object for its SHA-256.
            sample: read only this many, chosen at random.
            everything: return what is as it should be, too.
            thumbnails: which each photo should have.
            progress: called with how far it is.
        """
        self.counts: Counter[str] = Counter()
        """By mark and by reason, and of what was compared."""
        self.elsewhere: dict[str, int] = {}
        self._client = client
        self._comparison = comparison
        self._options = options
        self._store = f"s3://{options.bucket}"
        self._youngest = (datetime.now(UTC) - grace).timestamp()
        self._deep = deep
        self._sample = sample
        self._everything = everything
        self._thumbnails = sorted(thumbnails)
        self._progress = progress
        self._base = options.base.rstrip("/")
        self._bases = published_bases(bucket=options.bucket, endpoint=options.endpoint, public_url=options.public_url)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="audit")

    def run(self) -> Iterator[Finding]:
        """Return what is found, by reason and key; :attr:`counts` is complete at the end.

        Raises:
            StoreRefusedError: no right to list or read.
            StoreUnavailableError: the server is away or busy.
        """
        comparison = self._comparison
        try:
            self._list()
            with comparison.looking() as connection:
                self.elsewhere = inventory.elsewhere(connection, self._store, self._options.prefix)
            self.counts.update(comparison.count())
            self.counts.update(comparison.find_objects(self._youngest))
            comparison.find_rows(self._base, self._wrong)
            comparison.find_covers(lambda url: key_of(url, self._bases) is not None)
            for name in self._thumbnails:
                comparison.find_missing_thumbnails(name, self._options.prefix)
            comparison.find_outputs()
            if self._deep or self._sample:
                self._read()
            for group in comparison.suspects(_BATCH):
                yield from self._look_again(group)
            self.counts["same"] += self.counts["keys"] - comparison.faulty_keys()
            if self._everything:
                for names in comparison.matches(_BATCH, unsuspected=True):
                    yield from (Finding(mark=SAME, key=name) for name in names)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _list(self) -> None:
        for group in in_groups(listed(self._client, self._options.bucket, self._options.prefix), 1000):
            self._comparison.add([self._object(each) for each in {each.name: each for each in group}.values()])
            self._progress(f"{self.counts['objects']:,} objects listed")

    def _object(self, each: Listed) -> dict[str, Any]:
        """Return an object as the temporary table has it."""
        prefix = self._options.prefix
        thumbnail = parse_thumbnail(each.name, prefix)
        self.counts["thumbnails" if thumbnail else "objects"] += 1
        photo = prefix + thumbnail[1] if thumbnail else None
        if not is_plain(each.name):
            kind, photo = OTHER, None
        elif parse_key(photo or each.name, prefix):
            kind = THUMBNAIL if photo else PHOTO
        elif not photo and each.name.endswith(tuple(PICTURES)) and not each.name.startswith(prefix + PROBES):
            kind = PICTURE
        else:
            kind = OTHER
        name = each.name if is_plain(each.name) else f"not UTF-8: {each.name!r}"
        return {"name": name, "kind": kind, "photo": photo, "size": each.size, "modified": each.modified.timestamp()}

    def _wrong(self, row: Entry) -> Iterator[str]:
        """Return what is wrong with a row in itself."""
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

    def _read(self) -> None:
        """Read objects, and suspect those that are not what their rows say."""
        for names in self._comparison.matches(_BATCH, sample=self._sample):
            seen = self._see(names, self._digest)
            with self._comparison.looking():
                rows = self._comparison.stored_rows(names)
            self._comparison.suspect_bytes(name for name in names if _differs(seen[name], rows.get(name, [])))
            self.counts["read"] += len(names)
            self._progress(f"{self.counts['read']:,} objects read")

    # --- the second look ---

    def _look_again(self, suspects: list[Suspect]) -> Iterator[Finding]:
        """Look at the objects, then at their rows: who put an object and has not written its row yet shows here."""
        to_read = {each.key for each in suspects if each.reason == "checksum"}
        to_look = {each.key for each in suspects if each.reason in {*BY_KEY, *_ORPHANS, *_EXTRAS}} - to_read
        if any((each.modified or 0) > time.time() - _FRESH for each in suspects):
            time.sleep(_SOON)
        elif to_read:
            time.sleep(_PAUSE)
        seen = self._see(sorted(to_read), self._digest) | self._see(sorted(to_look), self._head)
        with self._comparison.looking() as connection:
            state = _State.of(connection, self._comparison, self._store, suspects)
        findings: dict[int, Finding] = {}
        cleared = []
        for each in suspects:
            finding = self._judge(each, seen.get(each.key), state)
            if finding is None or finding.mark != SAME:
                findings |= {each.id: finding} if finding else {}
                continue
            cleared.append(each.id)
            self.counts["same"] += each.reason == "missing"  # was put after the list, where it is not counted
        self._comparison.confirm({each: asdict(finding) for each, finding in findings.items()}, cleared)
        for finding in findings.values():
            self.counts[finding.mark] += 1
            self.counts[finding.reason] += 1
            yield finding

    def _judge(self, suspect: Suspect, seen: Seen | None, state: _State) -> Finding | None:
        """Return the fault, or that there is none (``SAME``); ``None`` for what has changed meanwhile."""
        if suspect.reason in _ORPHANS:
            return self._orphan(suspect, seen, state)
        if suspect.reason in _EXTRAS:
            return self._extra(suspect, seen)
        if suspect.reason in BY_KEY:
            return self._object_again(suspect, seen, state.stored.get(suspect.key, []))
        if suspect.listing_id is not None:
            common: dict[str, Any] = {"key": suspect.key, "reason": suspect.reason, "listing_id": suspect.listing_id}
            if state.covers.get(suspect.listing_id) != suspect.shows:
                return None
            return Finding(mark=WRONG, detail=suspect.shows or "", shows=suspect.shows, **common)
        row = state.rows.get(suspect.row_id or 0)
        if row is None or (row.key or suspect.key) != suspect.key or suspect.reason not in self._wrong(row):
            return None
        detail = row.url or "" if suspect.reason.endswith("-url") else ""
        common = {"key": suspect.key, "reason": suspect.reason, "rows": [row.id], "photo": row.key}
        return Finding(mark=WRONG, detail=detail, shows=row.url, **common)

    def _object_again(self, suspect: Suspect, seen: Seen | None, rows: list[Entry]) -> Finding | None:
        if not rows:
            return None
        ids = [row.id for row in rows]
        common: dict[str, Any] = {"key": suspect.key, "photo": suspect.key}
        if seen is None:
            return Finding(mark=MISSING, reason="missing", rows=ids, **common)
        if seen.problem:
            return Finding(mark=WRONG, reason="unreadable", detail=seen.problem, rows=ids, **common)
        sizes = [row for row in rows if row.bytes is not None and row.bytes != seen.size]
        if sizes:
            detail = f"{sizes[0].bytes} bytes in the row, {seen.size} in the bucket"
            return Finding(mark=DIFFERS, reason="size", detail=detail, rows=[row.id for row in sizes], **common)
        if seen.sha256 and _differs(seen, rows):
            others = [row.id for row in rows if row.sha256 and row.sha256 != seen.sha256]
            return Finding(
                mark=DIFFERS, reason="checksum", detail=f"{seen.sha256} in the bucket", rows=others, **common
            )
        return Finding(mark=SAME, key=suspect.key)

    def _orphan(self, suspect: Suspect, seen: Seen | None, state: _State) -> Finding | None:
        if seen is None or state.known & {suspect.key, suspect.photo}:
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
            thumbnails=state.thumbnails.get(suspect.key, []),
            photo=suspect.photo,
        )

    def _extra(self, suspect: Suspect, seen: Seen | None) -> Finding:
        detail = f"of run {suspect.shows}" if suspect.reason == "no-output" else ""
        if seen is None:
            return Finding(mark=MISSING, key=suspect.key, reason=suspect.reason, detail=detail, photo=suspect.photo)
        if seen.problem:
            return Finding(mark=WRONG, key=suspect.key, reason="unreadable", detail=seen.problem)
        return Finding(mark=SAME, key=suspect.key)

    # --- the bucket ---

    def _see(self, names: Sequence[str], look: Callable[[str], Seen | None]) -> dict[str, Seen | None]:
        return dict(zip(names, in_order(self._pool, look, names, ahead=2 * THREADS), strict=True))

    def _head(self, name: str) -> Seen | None:
        bucket, _, key = name.removeprefix("s3://").partition("/") if name.startswith("s3://") else ("", "", name)
        return readback.look(self._client, bucket or self._options.bucket, key)

    def _digest(self, name: str) -> Seen | None:
        return readback.read(self._client, self._options.bucket, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """What the database says of some suspects at the second look."""

    stored: dict[str, list[Entry]]
    rows: dict[int, Entry]
    known: set[str]
    covers: dict[int, str | None]
    thumbnails: dict[str, list[str]]

    @classmethod
    def of(cls, connection: Connection, comparison: Comparison, store: str, suspects: list[Suspect]) -> _State:
        orphans = [each for each in suspects if each.reason in _ORPHANS]
        return cls(
            stored=comparison.stored_rows(each.key for each in suspects if each.reason in BY_KEY),
            rows=repairs.entries(connection, (each.row_id for each in suspects if each.row_id is not None)),
            known=repairs.known_keys(
                connection, store, (name for each in orphans for name in (each.key, each.photo) if name)
            ),
            covers=repairs.covers_of(connection, (each.listing_id for each in suspects if each.listing_id is not None)),
            thumbnails=comparison.thumbnails(each.key for each in orphans),
        )


def _differs(seen: Seen | None, rows: Iterable[Entry]) -> bool:
    """Return whether what was read is not what its rows say."""
    if seen is None or seen.problem:
        return True
    return any(row.sha256 and row.sha256 != seen.sha256 for row in rows)


def _is_address_of(url: str, key: str) -> bool:
    """Return whether *url* ends with *key*: an address of another CDN than today's is permanent all the same.

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
