"""The photos of a manifest that are work: those that neither the ledger nor the bucket has."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import posixpath
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING

from carscraper.db import work
from carscraper.db.rules import ARCHIVE, HAVE_BYTES
from carscraper.exceptions import StoreError
from carscraper.items import CarImage, CarItem, Reason, Status
from carscraper.manifest import clean_key
from carscraper.storage.store import build_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from scrapy.settings import BaseSettings
    from scrapy.statscollectors import StatsCollector

    from carscraper.db.ledger import Ledger
    from carscraper.manifest import Manifest, ManifestEntry
    from carscraper.storage.store import Backend

logger = logging.getLogger(__name__)

_CHUNK = 1000  # entries asked of the ledger at a time
_NO_WORK = ("images/known", "images/adopted", "images/not_due")
_SKIPPED = ("manifest/bad", "manifest/broken", "manifest/repeated")
Lots = dict[str, dict[str, CarImage]]
"""Photos by folder and key."""
Rival = tuple[int, "ManifestEntry", str]
"""An entry whose key another one has: its position, and the other's address if that came a moment before."""


class Archive:
    """Gives what of a manifest is work, a car for each folder."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        ledger: Ledger,
        stats: StatsCollector,
        tell: Callable[[ManifestEntry], object],
        idle: Callable[[], Awaitable[None]],
        backend: Backend | None,
    ) -> None:
        """Accept the manifest and what it is compared with.

        Args:
            manifest: what is wanted.
            ledger: what is stored.
            stats: where it is counted.
            tell: is told of each entry that is no photo.
            idle: waits until what was given has left the pipelines.
            backend: where photos are stored, and may be without a row; ``None``: nobody looks.
        """
        self._manifest = manifest
        self._ledger = ledger
        self._stats = stats
        self._tell = tell
        self._idle = idle
        self._backend = backend
        self._claims = _Claims()
        self._number: int | None = None
        """Of its photos, if they were counted."""
        self._position = 0
        """Of the next entry in the manifest, which is that of its photo."""

    async def lots(self, limit: int | None) -> AsyncIterator[CarItem]:
        """Yield cars with photos that are not stored, *limit* in all, and with those that failed for good.

        Raises:
            ConfigurationError: the manifest can't be read.
        """
        self._left = limit
        entries = iter(self._manifest)
        while chunk := await asyncio.to_thread(_take, entries, _CHUNK):
            lots, rivals = self._sort(chunk)
            self._count(limit)
            for car in await self._work(lots):
                yield car
            if rivals:
                # What is stored by then they can be linked to.
                await self._idle()
                for car in await self._work(await self._with_own_keys(rivals)):
                    yield car

    async def count(self) -> None:
        """Count the photos, if that is quick, for the display."""
        self._number = await asyncio.to_thread(self._manifest.count)
        self._count(None)

    def _count(self, limit: int | None) -> None:
        """Note how many photos there are, as far as the files say that were read."""
        self._stats.set_value("carscraper/manifest/left_out", self._manifest.left_out)
        number, files, read = self._number, self._manifest.files, self._manifest.files_read
        if number is None and read:
            number = self._position * files // read
        if number is None:
            return
        counts = {name: self._stats.get_value(f"carscraper/{name}", 0) for name in (*_NO_WORK, *_SKIPPED)}
        number -= sum(counts[name] for name in _SKIPPED)
        if limit:
            number = min(number, limit + sum(counts[name] for name in _NO_WORK))
        self._stats.set_value("carscraper/backfill/photos", number)

    def _sort(self, chunk: list[ManifestEntry]) -> tuple[Lots, list[Rival]]:
        """Return the photos by folder and key, and the entries whose keys others have."""
        lots: Lots = {}
        rivals: list[Rival] = []
        for position, entry in enumerate(chunk, self._position):
            if entry.problem:
                self._tell(entry)
                continue
            is_new, is_rival = self._claims.claim(entry.key, entry.url)
            if is_rival:
                first = lots.get(_lot(entry.key), {}).get(entry.key)
                rivals.append((position, entry, first.source_url if first else ""))
            elif is_new:
                image = CarImage(identity=entry.key, source_url=entry.url, position=position, wanted_key=entry.key)
                lots.setdefault(_lot(entry.key), {})[entry.key] = image
            else:
                self._stats.inc_value("carscraper/manifest/repeated")
        self._position += len(chunk)
        return lots, rivals

    async def _with_own_keys(self, rivals: list[Rival]) -> Lots:
        """Return photos whose keys other addresses have: with keys of their own, if the bytes are others, too."""
        asked = [(_lot(entry.key), entry.key) for _, entry, _ in rivals]
        known = await self._ledger.read(work.archived, ARCHIVE, asked, self._ledger.retry)
        lots: Lots = {}
        for (position, entry, first), photo in zip(rivals, asked, strict=True):
            try:
                key = _own_key(entry)
            except ValueError as error:
                self._tell(replace(entry, problem=f"{error}, and {entry.key!r} is that of another address"))
                continue
            is_new, _ = self._claims.claim(key, entry.url)
            if not is_new:
                continue
            other = first or (known[photo].source_url if photo in known else "an earlier entry")
            logger.warning(
                "Manifest: %s: %r has the key of %r, %r; it is linked if the bytes are the same, else it is kept as %r",
                *(entry.where, entry.url, other, entry.key, key),
            )
            self._stats.inc_value("carscraper/manifest/same_key")
            image = CarImage(identity=key, source_url=entry.url, position=position, wanted_key=key, may_link=True)
            lots.setdefault(_lot(key), {})[key] = image
        return lots

    async def _work(self, lots: Lots) -> list[CarItem]:
        """Return cars with what is not stored: to be fetched, found in the store, or failed for good."""
        asked = [(lot, key) for lot, photos in lots.items() for key in photos]
        known = await self._ledger.read(work.archived, ARCHIVE, asked, self._ledger.retry)
        for (lot, key), row in known.items():
            if row.status in HAVE_BYTES or row.reason == Reason.DELETED:
                del lots[lot][key]
                self._stats.inc_value(f"carscraper/images/{'known' if row.status in HAVE_BYTES else 'deleted'}")
            elif not row.due:
                lots[lot][key].status, lots[lot][key].reason = row.status, row.reason
                self._stats.inc_value("carscraper/images/not_due")
        await self._find(
            [
                photo
                for lot, photos in lots.items()
                for key, photo in photos.items()
                if is_wanted(photo) and ((lot, key) not in known or known[lot, key].status == Status.PENDING)
            ]
        )
        cars = []
        for lot, photos in lots.items():
            images = [photo for photo in photos.values() if not is_wanted(photo) or self._has_room()]
            if images:
                cars.append(CarItem(source=ARCHIVE, external_id=lot, url=f"archive:{lot}", seen=False, images=images))
        return cars

    def _has_room(self) -> bool:
        if self._left is None:
            return True
        if self._left == 0:
            self._stats.inc_value("carscraper/images/left")
            return False
        self._left -= 1
        return True

    async def _find(self, photos: list[CarImage]) -> None:
        """Enter what is in the store already: the database is new, or was lost."""
        backend = self._backend
        if backend is None or not photos:
            return
        names = {backend.object_name(photo.identity): photo for photo in photos}
        try:
            sizes = await asyncio.to_thread(backend.sizes, list(names))
        except StoreError as error:
            logger.warning("What is in the store without a row is fetched again, it can't be listed: %s", error)
            self._backend = None
            return
        for name, size in sizes.items():
            photo = names[name]
            photo.status, photo.attempts = Status.STORED, 1
            photo.store, photo.key, photo.url, photo.bytes = backend.location, name, backend.url(name), size
        self._stats.inc_value("carscraper/images/adopted", len(sizes))


def open_backend(settings: BaseSettings) -> Backend | None:
    """Return the store, to be asked for what it has."""
    store = build_store(settings)
    return store.backend if store else None


def is_wanted(photo: CarImage) -> bool:
    """Return whether the photo is to be fetched."""
    return photo.status == Status.PENDING and photo.reason is None


class _Claims:
    """Which address claims a key: 16 bytes for each, as an archive may have any number."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(1 << 16))  # by turns the digests of a key and of its address; 0: free
        self._number = 0

    def claim(self, key: str, url: str) -> tuple[bool, bool]:
        """Return whether *key* is new, and whether another address has claimed it."""
        if 3 * self._number > len(self._slots):
            self._grow()
        name, address = _digest(key), _digest(url)
        place = self._place(name)
        is_new = self._slots[place] == 0
        if is_new:
            self._slots[place], self._slots[place + 1] = name, address
            self._number += 1
        return is_new, self._slots[place + 1] != address

    def _place(self, name: int) -> int:
        size = len(self._slots)
        place = 2 * name % size
        while self._slots[place] not in {0, name}:
            place = (place + 2) % size
        return place

    def _grow(self) -> None:
        old, self._slots = self._slots, array("Q", bytes(2 * self._slots.itemsize * len(self._slots)))
        for number in range(0, len(old), 2):
            if old[number]:
                place = self._place(old[number])
                self._slots[place], self._slots[place + 1] = old[number], old[number + 1]


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) or 1


def _own_key(entry: ManifestEntry) -> str:
    """Return a key that *entry* alone has; raises ``ValueError``: it would be too long."""
    name, extension = posixpath.splitext(entry.key)
    return clean_key(f"{name}-{hashlib.sha256(entry.url.encode()).hexdigest()[:8]}{extension}")


def _lot(key: str) -> str:
    """Return the folder of *key*, as short as an id must be.

    >>> _lot("3483/1713553344/i0178-1.jpg"), _lot("a.jpg")
    ('3483/1713553344', '-')
    """
    folder = posixpath.dirname(key) or "-"
    return folder if len(folder) <= 200 else hashlib.sha256(folder.encode()).hexdigest()


def _take(entries: Iterator[ManifestEntry], number: int) -> list[ManifestEntry]:
    return list(itertools.islice(entries, number))
