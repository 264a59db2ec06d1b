"""Database, bucket and bytes beside each other: what is in one and not in the other.

The bucket's list goes into a temporary table, and ``db.inventory`` joins it with the rows. A crawl may run meanwhile:
what looks like a fault is looked at again, first the object, then its row, and is none if either has changed.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from carscraper.db import inventory, repairs
from carscraper.db.inventory import BY_KEY
from carscraper.maintenance.findings import DIFFERS, MISSING, ORPHAN, SAME, WRONG, Finding
from carscraper.maintenance.parallel import THREADS, in_groups, in_order
from carscraper.storage import readback
from carscraper.storage.keys import THUMBNAILS, key_of, parse_key, parse_thumbnail, published_bases
from carscraper.storage.listing import listed
from carscraper.storage.policies import PICTURES, PROBES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import Connection

    from carscraper.db.inventory import Comparison, Suspect
    from carscraper.db.repairs import Entry
    from carscraper.storage.client import S3Options
    from carscraper.storage.readback import Seen

_BATCH = 256  # suspects looked at again together
_PAUSE = 0.2  # seconds before an object that could not be read is read again
_FRESH, _SOON = 60.0, 2.0  # an object of the last minute gets two seconds for its row, which a crawl writes at once
_ORPHANS = ("orphan", "orphan-thumbnail", "stranger")
_EXTRAS = ("no-thumbnail", "no-output")


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
            comparison.find_objects()
            for page in comparison.unnamed():
                comparison.suspect(suspect for row in page for suspect in self._without_row(*row))
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
        thumbnails = f"{self._options.prefix}{THUMBNAILS}/"
        for group in in_groups(listed(self._client, self._options.bucket, self._options.prefix), 1000):
            objects: dict[str, dict[str, Any]] = {}
            for each in group:
                is_thumbnail = each.name.startswith(thumbnails)
                self.counts["thumbnails" if is_thumbnail else "objects"] += 1
                photo = self._photo_of(each.name) if is_thumbnail else None
                modified = each.modified.timestamp()
                objects[each.name] = {"name": each.name, "photo": photo, "size": each.size, "modified": modified}
            plain = [each for name, each in objects.items() if _is_plain(name)]
            self.counts["foreign"] += len(objects) - len(plain)
            self._comparison.add(plain)
            self._progress(f"{self.counts['objects']:,} objects listed")

    def _photo_of(self, name: str) -> str | None:
        thumbnail = parse_thumbnail(name, self._options.prefix)
        return self._options.prefix + thumbnail[1] if thumbnail else None

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


def _is_plain(name: str) -> bool:
    r"""Return whether a database can hold *name*.

    >>> _is_plain("a/þ.jpg"), _is_plain("a/\udcff.jpg")
    (True, False)
    """
    return not re.search(r"[\x00\ud800-\udfff]", name)
