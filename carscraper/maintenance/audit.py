"""Database, bucket and bytes beside each other: what is in one and not in the other.

The bucket's list goes into a temporary table, and ``db.inventory`` joins it with the rows. A crawl may run meanwhile:
what looks like a fault is looked at again, first the object, then its row, and is none if either has changed.
What asks S3 raises ``StoreError`` where S3 refuses or is away.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from carscraper.db import inventory, repairs
from carscraper.db.inventory import BY_KEY
from carscraper.items import Status
from carscraper.maintenance.derived import read_photo, read_whole
from carscraper.maintenance.policies import PICTURES
from carscraper.storage import objects
from carscraper.storage.keys import PROBES, THUMBNAILS_FOLDER, key_of, parse_key, parse_thumbnail
from carscraper.storage.listing import list_objects
from carscraper.storage.objects import THREADS, in_groups, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from carscraper.db.inventory import Comparison, Suspect
    from carscraper.db.repairs import PhotoRow
    from carscraper.storage.client import S3Options
    from carscraper.storage.objects import Seen

_BATCH = 256  # suspects looked at again together
_PAUSE = 0.2  # seconds before an object that could not be read is read again
_FRESH, _SOON = 60.0, 2.0  # an object of the last minute gets two seconds for its row, which a crawl writes at once
_ORPHANS = ("orphan", "orphan-thumbnail", "stranger")
_EXTRAS = ("no-thumbnail", "no-output")
_DAMAGED = ("bad-thumbnail", "bad-output")

# rclone check's marks: the database is the source, the bucket the destination.
_SAME, _WRONG = "=", "!"
_MARKS = {
    "missing": "+",
    **dict.fromkeys(_EXTRAS, "+"),
    **dict.fromkeys(_ORPHANS, "-"),
    "size": "*",
    "checksum": "*",
    "no-photo": "*",
}
_MARKS |= dict.fromkeys(("no-photo", *_DAMAGED), "*")
WORDS = {
    "missing": "the object is not there",
    "no-thumbnail": "the thumbnail is not there",
    "no-output": "the output of a run is not there",
    "bad-thumbnail": "the thumbnail is damaged",
    "bad-output": "the output of a run is damaged",
    "orphan": "no row names it",
    "stranger": "a picture that no row names, under a name that is none of ours",
    "orphan-thumbnail": "its photo is not there and no row names it",
    "size": "another size than the row says",
    "checksum": "another SHA-256 than the row says",
    "no-photo": "the object is no whole photo",
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

    key: str
    """The object's name; for what names none, ``car_images/id`` or ``source/external id``."""
    reason: str = ""
    """One of :data:`WORDS`; empty: no fault."""
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

    @property
    def mark(self) -> str:
        """``=``, ``+``, ``-``, ``*`` or ``!``."""
        return _MARKS.get(self.reason, _WRONG) if self.reason else _SAME

    def line(self) -> str:
        """Return it as rclone would, and what is the matter where the mark does not say it all."""
        if self.mark not in {"*", _WRONG}:
            return f"{self.mark} {self.key}"
        return f"{self.mark} {self.key} ({WORDS[self.reason]}{f': {self.detail}' if self.detail else ''})"

    def as_json(self) -> dict[str, Any]:
        """Return it for a machine."""
        more = {"reason": self.reason, "detail": self.detail, "rows": self.rows, "listing": self.listing_id}
        return {"mark": self.mark, "key": self.key} | {name: value for name, value in more.items() if value}


def kept(comparison: Comparison, *reasons: str) -> Iterator[Finding]:
    """Return the findings of an audit for these reasons."""
    return (Finding(**found) for found in comparison.findings(*reasons))


class _Now(NamedTuple):
    """What the database says of some suspects at the second look."""

    stored: dict[str, list[PhotoRow]]
    rows: dict[int, PhotoRow]
    known: set[str]
    covers: dict[int, str | None]
    thumbnails: dict[str, list[str]]


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
        """Accept plain values.

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
        self._youngest = (datetime.now(UTC) - grace).timestamp()
        self._deep = deep
        self._sample = sample
        self._everything = everything
        self._thumbnails = sorted(thumbnails)
        self._progress = progress
        self._base = options.base.rstrip("/")
        self._bases = options.published
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="audit")

    def run(self) -> Iterator[Finding]:
        """Return what is found, by reason and key; :attr:`counts` is complete at the end."""
        comparison, prefix = self._comparison, self._options.prefix
        try:
            self._list()
            with comparison.looking() as connection:
                self.elsewhere = inventory.elsewhere(connection, self._options.store, prefix)
            self.counts.update(comparison.count())
            comparison.find_objects()
            for page in comparison.unnamed():
                comparison.suspect(suspect for row in page for suspect in self._without_row(*row))
            comparison.find_rows(self._base, self._wrong)
            comparison.find_covers(lambda url: key_of(url, self._bases) is not None)
            for name in self._thumbnails:
                folder = f"{prefix}{THUMBNAILS_FOLDER}/{name}/"
                comparison.find_missing_thumbnails(folder, prefix)
                if self._deep:
                    comparison.find_thumbnails(folder)
            comparison.find_outputs("no-output", *(["bad-output"] if self._deep else []))
            if self._deep or self._sample:
                self._read_objects()
            for group in comparison.suspects(_BATCH):
                yield from self._look_again(group)
            self.counts["same"] += self.counts["keys"] - comparison.faulty_keys()
            if self._everything:
                for names in comparison.matches(_BATCH, unsuspected=True):
                    yield from (Finding(key=name) for name in names)
        finally:
            self._pool.shutdown(cancel_futures=True)

    # --- what may be a fault ---

    def _list(self) -> None:
        prefix = self._options.prefix
        for group in in_groups(list_objects(self._client, self._options.bucket, prefix), 1000):
            found: dict[str, dict[str, Any]] = {}
            for each in group:
                is_thumbnail = each.name.startswith(f"{prefix}{THUMBNAILS_FOLDER}/")
                self.counts["thumbnails" if is_thumbnail else "objects"] += 1
                thumbnail = parse_thumbnail(each.name, prefix)
                photo = prefix + thumbnail[1] if thumbnail else None
                modified = each.modified.timestamp()
                found[each.name] = {"name": each.name, "photo": photo, "size": each.size, "modified": modified}
            # What a database can't hold is none of ours.
            plain = [each for name, each in found.items() if not re.search(r"[\x00\ud800-\udfff]", name)]
            self.counts["foreign"] += len(found) - len(plain)
            self._comparison.add(plain)
            self._progress(f"{self.counts['objects']:,} objects listed")

    def _without_row(self, name: str, photo: str | None, modified: float) -> Iterator[dict[str, Any]]:
        """Suspect an object that no row names if it is a picture, and old enough."""
        prefix = self._options.prefix
        if parse_key(photo or name, prefix):
            reason = "orphan-thumbnail" if photo else "orphan"
        elif not photo and name.endswith(tuple(PICTURES)) and not name.startswith(prefix + PROBES):
            reason = "stranger"
        else:
            self.counts["foreign"] += 1
            return
        if modified > self._youngest:
            self.counts["young"] += 1
        else:
            yield {"reason": reason, "key": name, "photo": photo, "modified": modified}

    def _wrong(self, row: PhotoRow) -> Iterator[str]:
        """Return what is wrong with a row in itself."""
        if row.status != Status.STORED:
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

    def _read_objects(self) -> None:
        """Read objects, and suspect those that are not what their rows say."""
        for names in self._comparison.matches(_BATCH, sample=self._sample):
            seen = self._see(objects.read, names)
            with self._comparison.looking():
                rows = self._comparison.stored_rows(names)
            seen |= self._see(read_photo, [name for name in names if any(not row.sha256 for row in rows.get(name, []))])
            wrong = (name for name in names if _differs(seen[name], rows.get(name, [])))
            self._comparison.suspect({"reason": "checksum", "key": name} for name in wrong)
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
        seen = self._see(read_photo, sorted(to_read)) | self._see(objects.look, sorted(to_look))
        sound = self._see(read_whole, sorted({each.key for each in suspects if each.reason in _DAMAGED}))
        now = self._ask(suspects)
        judged = {
            each.id: self._judge(each, (sound if each.reason in _DAMAGED else seen).get(each.key), now)
            for each in suspects
        }
        findings = {suspect: finding for suspect, finding in judged.items() if finding}
        kept_now = {suspect: asdict(finding) for suspect, finding in findings.items()}
        self._comparison.confirm(kept_now, [suspect for suspect in judged if suspect not in findings])
        for finding in findings.values():
            self.counts.update([finding.mark, finding.reason])
            yield finding

    def _ask(self, suspects: list[Suspect]) -> _Now:
        comparison, store = self._comparison, self._options.store
        orphans = [each for each in suspects if each.reason in _ORPHANS]
        names = [name for each in orphans for name in (each.key, each.photo) if name]
        with comparison.looking() as connection:
            return _Now(
                stored=comparison.stored_rows(each.key for each in suspects if each.reason in BY_KEY),
                rows=repairs.photo_rows(connection, [each.row_id for each in suspects if each.row_id is not None]),
                known=repairs.known_keys(connection, store, names),
                covers=repairs.covers_of(connection, [each.listing_id for each in suspects if each.listing_id]),
                thumbnails=comparison.thumbnails(each.key for each in orphans),
            )

    def _judge(self, suspect: Suspect, seen: Seen | None, now: _Now) -> Finding | None:
        """Return the fault; ``None`` for what is as it should be, or has changed meanwhile."""
        key, reason, photo = suspect.key, suspect.reason, suspect.photo
        if reason in BY_KEY:
            return self._compared(suspect, seen, now.stored.get(key, []))
        if suspect.listing_id is not None:
            shows, listing_id = suspect.shows, suspect.listing_id
            if now.covers.get(listing_id) != shows:
                return None
            return Finding(key=key, reason=reason, detail=shows or "", listing_id=listing_id, shows=shows)
        if suspect.row_id is not None:
            row = now.rows.get(suspect.row_id)
            if row is None or (row.key or key) != key or reason not in self._wrong(row):
                return None
            detail = row.url or "" if reason.endswith("-url") else ""
            return Finding(key=key, reason=reason, detail=detail, rows=[row.id], photo=row.key, shows=row.url)
        if reason in _ORPHANS and (seen is None or now.known & {key, photo}):
            return None
        if reason in _DAMAGED:
            self.counts["read"] += 1
            if not seen or not seen.problem:
                return None
            detail = f"of run {suspect.shows}" if reason == "bad-output" else seen.problem
            return Finding(key=key, reason=reason, detail=detail, photo=photo)
        if seen and seen.problem:
            return Finding(key=key, reason="unreadable", detail=seen.problem)
        if reason in _EXTRAS:
            detail = f"of run {suspect.shows}" if reason == "no-output" else ""
            return None if seen else Finding(key=key, reason=reason, detail=detail, photo=photo)
        modified = seen.modified.timestamp() if seen and seen.modified else 0
        if modified > self._youngest:
            self.counts["young"] += 1
            return None
        thumbnails = now.thumbnails.get(key, [])
        return Finding(key=key, reason=reason, modified=modified, thumbnails=thumbnails, photo=photo)

    def _compared(self, suspect: Suspect, seen: Seen | None, rows: list[PhotoRow]) -> Finding | None:
        """Compare an object with all rows that have its key."""

        def found(reason: str, detail: str, these: list[PhotoRow]) -> Finding:
            ids = [row.id for row in these]
            return Finding(key=suspect.key, reason=reason, detail=detail, rows=ids, photo=suspect.key)

        if not rows:
            return None
        if seen is None:
            return found("missing", "", rows)
        if seen.problem and not seen.sha256:
            return found("unreadable", seen.problem, rows)
        if sizes := [row for row in rows if row.bytes is not None and row.bytes != seen.size]:
            return found("size", f"{sizes[0].bytes} bytes in the row, {seen.size} in the bucket", sizes)
        if others := [row for row in rows if seen.sha256 and row.sha256 and row.sha256 != seen.sha256]:
            return found("checksum", f"{seen.sha256} in the bucket", others)
        unread = [row for row in rows if not row.sha256]
        if seen.problem and unread and not parse_key(suspect.key, self._options.prefix):  # whose name has a hash
            return found("no-photo", seen.problem, unread)
        self.counts["same"] += suspect.reason == "missing"  # was put after the list, where it is not counted
        return None

    def _see(self, look: Callable[..., Seen | None], names: Sequence[str]) -> dict[str, Seen | None]:
        def ask(name: str) -> Seen | None:
            bucket, _, key = name.removeprefix("s3://").partition("/")  # of an output
            where = (bucket, key) if name.startswith("s3://") else (self._options.bucket, name)
            return look(self._client, *where)

        return dict(zip(names, in_order(self._pool, ask, names), strict=True))


def _differs(seen: Seen | None, rows: Iterable[PhotoRow]) -> bool:
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
