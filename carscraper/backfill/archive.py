"""The photos of a manifest, as cars that are none: a row for each folder of the archive."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import posixpath
from typing import TYPE_CHECKING

from carscraper.db import work
from carscraper.db.rules import ARCHIVE
from carscraper.items import CarImage, CarItem
from carscraper.manifest import Entry, count_entries, read_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from scrapy.statscollectors import StatsCollector

    from carscraper.db.ledger import Ledger

logger = logging.getLogger(__name__)

_CHUNK = 1000  # entries asked of the ledger at a time


class Archive:
    """Gives what of a manifest is work."""

    def __init__(self, path: Path, *, strip_prefix: str, ledger: Ledger, stats: StatsCollector) -> None:
        """Accept the manifest, what keys lose at their start, the ledger and the stats."""
        self._path = path
        self._strip_prefix = strip_prefix
        self._ledger = ledger
        self._stats = stats
        self._position = 0
        """Of the next entry in the manifest, which is that of its photo."""

    async def count(self) -> int | None:
        """Count the entries, if that is quick."""
        return await asyncio.to_thread(count_entries, self._path)

    async def lots(self, limit: int | None) -> AsyncIterator[CarItem]:
        """Yield a car for each folder with photos that are not stored, *limit* photos in all.

        Raises:
            ConfigurationError: the manifest can't be read.
        """
        entries = read_manifest(self._path, strip_prefix=self._strip_prefix)
        left = limit
        while (left is None or left > 0) and (chunk := await asyncio.to_thread(_take, entries, _CHUNK)):
            for lot, wanted in (await self._wanted(chunk)).items():
                photos = list(wanted.values())[:left]
                if left is not None:
                    left -= len(photos)
                if photos:
                    yield _car(lot, photos)

    async def _wanted(self, chunk: list[Entry]) -> dict[str, dict[str, CarImage]]:
        """Return the photos that are not stored, by folder and key."""
        lots: dict[str, dict[str, CarImage]] = {}
        for position, entry in enumerate(chunk, self._position):
            if entry.problem:
                self._stats.inc_value("carscraper/manifest/bad")
                logger.warning("Manifest: %s: %s", entry.where, entry.problem)
            else:
                image = CarImage(identity=entry.key, source_url=entry.url, position=position, wanted_key=entry.key)
                lots.setdefault(_lot(entry.key), {}).setdefault(entry.key, image)
        self._position += len(chunk)
        asked = [(lot, key) for lot, photos in lots.items() for key in photos]
        settled = await self._ledger.read(work.settled, ARCHIVE, asked, self._ledger.retry)
        for lot, key in settled:
            del lots[lot][key]
        stored = sum(status == "stored" for status in settled.values())
        self._stats.inc_value("carscraper/images/known", stored)
        return lots


def _car(lot: str, images: list[CarImage]) -> CarItem:
    return CarItem(source=ARCHIVE, external_id=lot, url=f"archive:{lot}", seen=False, images=images)


def _lot(key: str) -> str:
    """Return the folder of *key*, as short as an id must be.

    >>> _lot("3483/1713553344/i0178-1.jpg"), _lot("a.jpg")
    ('3483/1713553344', '-')
    """
    folder = posixpath.dirname(key) or "-"
    return folder if len(folder) <= 200 else hashlib.sha256(folder.encode()).hexdigest()


def _take(entries: Iterator[Entry], number: int) -> list[Entry]:
    return list(itertools.islice(entries, number))
