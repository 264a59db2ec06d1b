"""The photos of a manifest that are work: those that neither the ledger nor the bucket has."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import posixpath
from array import array
from contextlib import suppress
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING

from carscraper.backfill.addresses import unsigned
from carscraper.db import work
from carscraper.db.rules import ARCHIVE
from carscraper.exceptions import StoreError
from carscraper.items import CarImage, CarItem, Reason, Status
from carscraper.manifest import clean_key
from carscraper.storage.keys import normalise_prefix, reserved_folders
from carscraper.storage.store import build_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from scrapy.settings import BaseSettings
    from scrapy.statscollectors import StatsCollector

    from carscraper.db.ledger import Ledger
    from carscraper.db.work import Archived
    from carscraper.manifest import Manifest, ManifestEntry
    from carscraper.storage.store import Backend

logger = logging.getLogger(__name__)

_CHUNK = 1000  # entries asked of the ledger at a time
_SMALLEST = 100  # bytes: what has fewer is no photo
_MOST_PUT_OFF = 10_000  # photos that a limited run may come back to, of those that failed before
_NO_WORK = ("images/known", "images/adopted", "images/not_due")
_SKIPPED = ("manifest/bad", "manifest/broken", "manifest/repeated")
Lots = dict[str, dict[str, CarImage]]
"""Photos by folder and key."""
Rival = tuple[int, "ManifestEntry", str]
"""An entry whose key is another's: its position, and what the other is if that is known."""


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
        room: Callable[[], Awaitable[int]],
        backend: Backend | None,
        reserved: tuple[str, ...] = (),
    ) -> None:
        """Accept the manifest and what it is compared with.

        Args:
            manifest: what is wanted.
            ledger: what is stored.
            stats: where it is counted.
            tell: is told of each entry that is no photo.
            idle: waits until what was given has left the pipelines.
            room: says how many more photos may be given, once it is known; 0: none in this run.
            reserved: folders that no key may lie in.
            backend: where photos are stored, and may be without a row; ``None``: nobody looks.
        """
        self._manifest = manifest
        self._ledger = ledger
        self._stats = stats
        self._tell = tell
        self._idle = idle
        self._room = room
        self._backend = backend
        self._may_list = True
        self._reserved = reserved
        self._chunk: dict[int, ManifestEntry] = {}
        """The entries in hand, by their positions."""
        self._put_off: list[tuple[int, int, str, CarImage]] | None = None
        """Photos that failed before, with attempts, position and folder; ``None``: their turn is that of the others."""
        self._claims = _Claims()
        self._number: int | None = None
        """Of its photos, if they were counted."""
        self._position = 0
        """Of the next entry in the manifest, which is that of its photo."""

    async def lots(self, limit: int | None) -> AsyncIterator[CarItem]:
        """Yield cars with photos that are not stored, and with those that failed for good.

        With a *limit* those that failed before come last.

        Raises:
            ConfigurationError: the manifest can't be read.
        """
        self._put_off = [] if limit else None
        entries = iter(self._manifest)
        while chunk := await asyncio.to_thread(_take, entries, _CHUNK):
            lots, rivals = self._sort(chunk)
            self._count(limit)
            while lots or rivals:
                for lot, images in await self._work(lots, rivals):
                    async for car in self._cars(lot, images):
                        yield car
                lots = {}
                if rivals:
                    # What is stored by then they can be linked to.
                    await self._idle()
                    lots, rivals = await self._with_own_keys(rivals)
        for _, _, lot, image in sorted(self._put_off or (), key=itemgetter(0, 1)):
            async for car in self._cars(lot, [image]):
                yield car

    async def _cars(self, lot: str, images: list[CarImage]) -> AsyncIterator[CarItem]:
        """Yield the photos of a folder as there is room for them."""
        given = [image for image in images if not is_wanted(image)]
        wanted = [image for image in images if is_wanted(image)]
        while given or wanted:
            room = await self._room() if wanted else 0
            given += wanted[:room]
            if given:
                yield CarItem(source=ARCHIVE, external_id=lot, url=f"archive:{lot}", seen=False, images=given)
            if not room:
                self._stats.inc_value("carscraper/images/left", len(wanted))
                return
            given, wanted = [], wanted[room:]

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
        self._chunk = dict(enumerate(chunk, self._position))
        for position, entry in self._chunk.items():
            folder = next(filter(entry.key.startswith, self._reserved), None)
            if entry.problem or folder:
                problem = f"bad key: {entry.key!r} is in {folder}, which is not for photos; give it another key"
                self._tell(entry if entry.problem else replace(entry, problem=problem))
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

    async def _with_own_keys(self, rivals: list[Rival]) -> tuple[Lots, list[Rival]]:
        """Return photos whose keys are others': with keys of their own, if the bytes are others, too.

        Also those whose own keys are others' as well.
        """
        known = await self._known([(_lot(entry.key), entry.key) for _, entry, _ in rivals])
        lots: Lots = {}
        again: list[Rival] = []
        said = {}
        for position, entry, first in sorted(rivals, key=itemgetter(0)):
            row = known.get((_lot(entry.key), entry.key))
            if row and row.is_kept and _is_same(row.source_url, entry.url):  # another entry came first this time
                self._stats.inc_value("carscraper/images/known")
                continue
            try:
                key = _own_key(entry.key, entry.url)
            except ValueError as error:
                self._tell(replace(entry, problem=f"{error}, and {entry.key!r} is that of another address"))
                continue
            is_new, is_rival = self._claims.claim(key, entry.url)
            other = row.source_url if row else first or "an earlier entry"
            if is_rival:
                again.append((position, replace(entry, key=key), other))
            if not is_new:
                continue
            said[_lot(key), key] = (entry.where, entry.url, other, entry.key, key)
            self._stats.inc_value("carscraper/manifest/same_key")
            image = CarImage(identity=key, source_url=entry.url, position=position, wanted_key=key, may_link=True)
            lots.setdefault(_lot(key), {})[key] = image
        known = await self._known(list(said))
        for photo, words in said.items():
            if photo not in known:
                logger.warning(
                    "Manifest: %s: %r has the key of %r, %r; it is linked if the bytes are the same, else it is kept "
                    "as %r",
                    *words,
                )
        return lots, again

    async def _known(self, photos: list[tuple[str, str]]) -> dict[tuple[str, str], Archived]:
        return await self._ledger.read(work.archived, ARCHIVE, photos, self._ledger.retry)

    async def _work(self, lots: Lots, rivals: list[Rival]) -> list[tuple[str, list[CarImage]]]:
        """Return what is not stored, by folder: to be fetched, found in the store, or failed for good.

        What the ledger has under the same key from elsewhere makes *rivals*.
        """
        known = await self._known([(lot, key) for lot, photos in lots.items() for key in photos])
        tried: dict[str, int] = {}
        for (lot, key), row in known.items():
            photo = lots[lot][key]
            is_same = _is_same(row.source_url, photo.source_url)
            if row.reason == Reason.DELETED or (row.is_kept and is_same):
                del lots[lot][key]
                self._stats.inc_value(f"carscraper/images/{'deleted' if row.reason == Reason.DELETED else 'known'}")
            elif row.is_kept or (row.reason == Reason.SPOOLED and not is_same):
                self._make_rival(lots, photo, row.source_url, rivals)
            elif row.source_url != photo.source_url:
                photo.insist = True  # whatever became of the other address, or of an older signature
            elif not row.due:
                photo.status, photo.reason = row.status, row.reason
                self._stats.inc_value("carscraper/images/not_due")
            elif row.attempts:
                tried[key] = row.attempts
        await self._leave_to_others(lots, rivals)
        # One that was begun may be there; what was there and proved to be no photo is not looked for again.
        await self._find(
            lots,
            rivals,
            [
                photo
                for photos in lots.values()
                for key, photo in photos.items()
                if is_wanted(photo) and not photo.insist and key not in tried
            ],
        )
        return [(lot, self._first(lot, photos, tried)) for lot, photos in lots.items()]

    def _make_rival(self, lots: Lots, photo: CarImage, other: str, rivals: list[Rival]) -> None:
        del lots[_lot(photo.identity)][photo.identity]
        rivals.append((photo.position, replace(self._chunk[photo.position], key=photo.identity), other))

    async def _leave_to_others(self, lots: Lots, rivals: list[Rival]) -> None:
        """Take no key of an object that is another photo's: a dealer's, or one that an own key was linked to."""
        if self._backend is None:
            return
        names = {
            self._backend.object_name(key): photo
            for photos in lots.values()
            for key, photo in photos.items()
            if is_wanted(photo)
        }
        for holder in await self._ledger.read(work.holders, list(names)):
            photo = names[holder.key]
            is_there = photo.identity in lots[_lot(photo.identity)]
            if is_there and (holder.source, holder.identity) != (ARCHIVE, photo.identity):
                self._make_rival(lots, photo, f"{holder.source} {holder.external_id}", rivals)

    def _first(self, lot: str, photos: dict[str, CarImage], tried: dict[str, int]) -> list[CarImage]:
        """Return the photos whose turn it is; the others are put off."""
        if self._put_off is None:
            return list(photos.values())
        late = [photo for key, photo in photos.items() if key in tried and is_wanted(photo)]
        self._put_off += [(tried[photo.identity], photo.position, lot, photo) for photo in late]
        if len(self._put_off) > 2 * _MOST_PUT_OFF:
            self._put_off.sort(key=itemgetter(0, 1))
            self._stats.inc_value("carscraper/images/left", len(self._put_off) - _MOST_PUT_OFF)
            del self._put_off[_MOST_PUT_OFF:]
        return [photo for key, photo in photos.items() if key not in tried or not is_wanted(photo)]

    async def _find(self, lots: Lots, rivals: list[Rival], photos: list[CarImage]) -> None:
        """Enter what is in the store already: the database is new, or was lost.

        An entry that has an object under a key of its own had to give way to another photo then, and has to now.
        """
        backend = self._backend
        if backend is None or not photos or not self._may_list:
            return
        names = {backend.object_name(photo.identity): photo for photo in photos}
        own = {}
        for photo in photos:
            with suppress(ValueError):
                own[backend.object_name(_own_key(photo.identity, photo.source_url))] = photo
        try:
            sizes = await asyncio.to_thread(backend.sizes, [*names, *own])
        except StoreError as error:
            logger.warning("What is in the store without a row is fetched again, it can't be listed: %s", error)
            self._may_list = False
            return
        for name in own.keys() & sizes.keys():
            self._make_rival(lots, own[name], "an earlier entry", rivals)
            sizes.pop(backend.object_name(own[name].identity), None)
        sizes = {name: size for name, size in sizes.items() if size >= _SMALLEST and name in names}
        for name, size in sizes.items():
            photo = names[name]
            photo.status, photo.attempts = Status.STORED, 1
            photo.store, photo.key, photo.url, photo.bytes = backend.location, name, backend.url(name), size
        self._stats.inc_value("carscraper/images/adopted", len(sizes))


def open_backend(settings: BaseSettings) -> Backend | None:
    """Return the store, to be asked for what it has."""
    store = build_store(settings)
    return store.backend if store else None


def reserved(settings: BaseSettings) -> tuple[str, ...]:
    """Return the folders that no key of a manifest may lie in."""
    other = settings.get("S3_OUTPUT_BUCKET") not in {None, settings.get("AWS_S3_BUCKET")}
    outputs = "" if other else normalise_prefix(settings.get("S3_OUTPUT_PREFIX"))
    return reserved_folders(normalise_prefix(settings.get("S3_PREFIX")), outputs)


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
        old, self._slots = self._slots, array("Q", [0]) * (2 * len(self._slots))
        for number in range(0, len(old), 2):
            if old[number]:
                place = self._place(old[number])
                self._slots[place], self._slots[place + 1] = old[number], old[number + 1]


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) or 1


def _is_same(url: str, other: str) -> bool:
    """Return whether two addresses are one photo's, however they are signed."""
    return unsigned(url) == unsigned(other)


def _own_key(key: str, url: str) -> str:
    """Return a key that *url* alone has; raises ``ValueError``: it would be too long."""
    name, extension = posixpath.splitext(key)
    return clean_key(f"{name}-{hashlib.sha256(unsigned(url).encode()).hexdigest()[:8]}{extension}")


def _lot(key: str) -> str:
    """Return the folder of *key*, as short as an id must be.

    >>> _lot("3483/1713553344/i0178-1.jpg"), _lot("a.jpg")
    ('3483/1713553344', '-')
    """
    folder = posixpath.dirname(key) or "-"
    return folder if len(folder) <= 200 else hashlib.sha256(folder.encode()).hexdigest()


def _take(entries: Iterator[ManifestEntry], number: int) -> list[ManifestEntry]:
    return list(itertools.islice(entries, number))
