"""What may be done about the findings of an audit: repair the ledger, or delete old orphans.

What asks S3 raises ``StoreError`` where S3 refuses or is away.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from carscraper.db import repairs
from carscraper.maintenance import register
from carscraper.maintenance.audit import Finding, kept
from carscraper.maintenance.derived import read_photo
from carscraper.maintenance.register import GROUP, ObjectOutcome
from carscraper.maintenance.thumbnails import MADE
from carscraper.storage import objects
from carscraper.storage.keys import parse_key, permanent_url
from carscraper.storage.objects import THREADS, in_groups, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Engine

    from carscraper.db.inventory import Comparison
    from carscraper.maintenance.register import Register
    from carscraper.maintenance.thumbnails import Thumbnails
    from carscraper.storage.client import S3Options
    from carscraper.storage.objects import Seen

MARGIN = timedelta(days=30)
"""From which age on orphans are deleted unless somebody says otherwise."""


class Repair:
    """Repairs what an audit has found; nothing is deleted."""

    def __init__(
        self,
        client: Any,
        engine: Engine,
        options: S3Options,
        orphans: Register,
        thumbnails: Thumbnails,
    ) -> None:
        """Accept a boto3 client for S3, the database, the bucket, what registers orphans, and what makes thumbnails."""
        self.done: Counter[str] = Counter()
        """Photos that are ``pending`` now, their ``addresses`` and ``hashes``, ``covers`` of cars, objects
        ``registered``, ``thumbnails`` that were made, and what is ``left``.
        """
        self._client = client
        self._engine = engine
        self._options = options
        self._orphans = orphans
        self._thumbnails = thumbnails

    def run(self, comparison: Comparison) -> Iterator[ObjectOutcome]:
        """Repair; return what is left and why."""
        with ThreadPoolExecutor(THREADS, thread_name_prefix="repair") as pool:
            for outcome in self._repair(comparison, pool):
                self.done["left"] += 1
                yield outcome

    def _repair(self, comparison: Comparison, pool: ThreadPoolExecutor) -> Iterator[ObjectOutcome]:
        self._lose_missing(pool, kept(comparison, "missing"))
        for group in in_groups(kept(comparison, "size", "checksum", "no-photo", "no-key"), GROUP):
            self._lose(group)
        self._lose_missing(pool, kept(comparison, "no-store"))
        yield from self._hash(pool, kept(comparison, "no-sha256"))
        self._set_addresses(comparison)
        # After the rows that lost their object: an orphan may be just that.
        names = (finding.key for finding in kept(comparison, "orphan"))
        for outcome in self._orphans.register_objects(names, pool):
            self.done["registered"] += outcome.what == register.REGISTERED
            if outcome.what not in {register.REGISTERED, register.KNOWN, register.GONE}:
                yield outcome
        missing = ((each.key, each.photo or "") for each in kept(comparison, "no-thumbnail", "bad-thumbnail"))
        for outcome in self._thumbnails.make_all(missing):
            self.done["thumbnails"] += outcome.what == MADE
            # A photo that is missing as well is pending by now, and gets its thumbnails when it is fetched.
            if outcome.what not in {MADE, register.GONE}:
                yield outcome
        for each in kept(comparison, "orphan-thumbnail", "stranger", "unreadable", "no-output", "bad-output"):
            run = each.detail.removeprefix("of run ")
            yield ObjectOutcome(
                each.key, each.reason, f"scrapy runs upload {run}" if each.reason.endswith("-output") else run
            )

    def _set_addresses(self, comparison: Comparison) -> None:
        for group in in_groups(kept(comparison, "no-store", "no-url", "temporary-url", "other-url"), GROUP):
            urls = {
                row: (each.photo, permanent_url(each.photo, self._options.base))
                for each in group
                for row in each.rows
                if each.photo
            }
            with self._engine.begin() as connection:
                self.done["addresses"] += repairs.set_urls(connection, self._options.store, urls)
        for group in in_groups(kept(comparison, "temporary-cover"), GROUP):
            expected = {each.listing_id: each.shows for each in group if each.listing_id and each.shows}
            with self._engine.begin() as connection:
                self.done["covers"] += repairs.set_covers(connection, expected)

    def _lose(self, findings: Iterable[Finding]) -> None:
        rows = {row: each.photo for each in findings for row in each.rows}
        with self._engine.begin() as connection:
            self.done["pending"] += len(repairs.lose(connection, self._options.store, rows))

    def _lose_missing(self, pool: ThreadPoolExecutor, findings: Iterable[Finding]) -> None:
        def look(finding: Finding) -> tuple[Finding, bool]:
            return finding, objects.look(self._client, self._options.bucket, finding.key) is None

        for group in in_groups((each for each, gone in in_order(pool, look, findings) if gone), GROUP):
            self._lose(group)

    def _hash(self, pool: ThreadPoolExecutor, findings: Iterable[Finding]) -> Iterator[ObjectOutcome]:
        """Read what has no SHA-256; what is no photo, or not that of its name, is fetched again."""

        def read(finding: Finding) -> tuple[Finding, Seen | None]:
            return finding, read_photo(self._client, self._options.bucket, finding.key)

        for finding, seen in in_order(pool, read, findings):
            parts = parse_key(finding.key, self._options.prefix)
            if seen is None:
                continue  # missing: it is pending by now
            if seen.sha256 is None:
                yield ObjectOutcome(finding.key, register.UNREADABLE, seen.problem or "")
            elif not seen.sha256.startswith(parts.hash) if parts else seen.problem:
                self._lose([finding])
            else:
                hashes = dict.fromkeys(finding.rows, (finding.key, seen.sha256, seen.size))
                with self._engine.begin() as connection:
                    self.done["hashes"] += repairs.set_hashes(connection, hashes)


class OrphanRemoval:
    """Deletes old orphans, each after one more look."""

    def __init__(self, client: Any, engine: Engine, options: S3Options, *, older_than: timedelta = MARGIN) -> None:
        """Accept the age from which on an orphan is deleted."""
        self.done: Counter[str] = Counter()
        """``deleted`` objects, ``kept`` ones, photos that became ``pending`` because somebody just wrote their row."""
        self._client = client
        self._engine = engine
        self._options = options
        self._before = (datetime.now(UTC) - older_than).timestamp()

    def plan(self, comparison: Comparison) -> Iterator[Finding]:
        """Return the orphans that are old enough."""
        for finding in kept(comparison, "orphan", "orphan-thumbnail"):
            if finding.modified is not None and finding.modified < self._before:
                yield finding

    def run(self, comparison: Comparison) -> Iterator[tuple[str, str | None]]:
        """Delete them; return each name, and why it is still there if it is."""
        with ThreadPoolExecutor(THREADS, thread_name_prefix="orphans") as pool:
            for group in in_groups(self.plan(comparison), objects.MAX_DELETES // 4):
                owners = {each.key: each.photo or each.key for each in group}
                owners |= {name: each.key for each in group for name in each.thumbnails}
                names = [name for name, old in in_order(pool, self._is_old, owners) if old]
                with repairs.reading(self._engine) as connection:
                    # Whatever the store: a photo on its way from the folder to the bucket has that key, too.
                    known = repairs.known_keys(connection, None, {*names, *(owners[name] for name in names)})
                names = [name for name in names if not {name, owners[name]} & known]
                for some in in_groups(names, objects.MAX_DELETES):
                    yield from self._delete(some, pool)

    def _is_old(self, name: str) -> tuple[str, bool]:
        """Return whether an object is still there and old: a crawl puts the same bytes under the same name."""
        seen = objects.look(self._client, self._options.bucket, name)
        return name, bool(seen and seen.modified and seen.modified.timestamp() < self._before)

    def _delete(self, names: list[str], pool: ThreadPoolExecutor) -> Iterator[tuple[str, str | None]]:
        refused = objects.remove_many(self._client, self._options.bucket, names)

        def look(name: str) -> tuple[str, str | None]:
            return name, objects.still_there(self._client, self._options.bucket, name)

        looked = in_order(pool, look, [name for name in names if name not in refused])
        refused |= {name: why for name, why in looked if why}
        gone = [name for name in names if name not in refused]
        with self._engine.begin() as connection:
            rows = repairs.rows_of(connection, self._options.store, gone)
            self.done["pending"] += len(repairs.lose(connection, self._options.store, rows))
        for name in names:
            self.done["kept" if name in refused else "deleted"] += 1
            yield name, refused.get(name)
