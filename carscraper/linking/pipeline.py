"""After the last car: listings of one car at several sites are linked."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from scrapy.exceptions import NotConfigured

from carscraper.addon import for_our_spiders
from carscraper.db.ledger import Ledger
from carscraper.exceptions import DatabaseUnavailableError, StoreError
from carscraper.linking import tables
from carscraper.linking.rules import is_installed, perceptual_hash
from carscraper.state import state_of
from carscraper.storage.store import build_store

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler

    from carscraper.linking.tables import StoredPhoto
    from carscraper.storage.store import ImagesFilesStore

logger = logging.getLogger(__name__)

_BATCH = 200  # listings in one transaction, about 0.1 s
_SECONDS = 120.0  # for all of it; the first time, an old database has more to do than one crawl should wait for
_PHOTOS = 2_000  # to read back in one crawl
_AT_ONCE = 4
_GONE = ""  # the object is not in the store: `scrapy storage audit` finds it, and nothing is kept of it


class LinkingPipeline:
    """Looks at the listings that have changed since the last linking, whatever crawl has changed them."""

    def __init__(self, crawler: Crawler) -> None:
        """Take the crawler, for its ledger, settings and stats."""
        self._crawler = crawler
        self._store: ImagesFilesStore | None = None
        self._photos_left = _PHOTOS
        self._said_missing = False

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read ``LINK_SAME_CARS``."""
        for_our_spiders(crawler)
        if not crawler.settings.getbool("LINK_SAME_CARS"):
            raise NotConfigured
        return cls(crawler)

    async def close_spider(self) -> None:
        """Link; what can't be done now is done by the next crawl, of whatever dealer."""
        state = state_of(self._crawler)
        if state.failed is not None or state.skipped is not None:
            return  # perhaps because there is no database, or another crawl of the same source is at it
        self._ledger = Ledger.of(self._crawler)
        try:
            await self._link_all()
        except DatabaseUnavailableError as error:
            logger.warning("The listings of one car are linked by the next crawl: %s", error)
        finally:
            if self._store:
                await self._store.close()

    async def _link_all(self) -> None:
        deadline = time.monotonic() + _SECONDS
        while (alone := await self._ledger.write(tables.settle_alone, _BATCH * 5)) and time.monotonic() < deadline:
            pass
        if alone is not None:
            return
        last = 0
        while time.monotonic() < deadline:
            ids = await self._ledger.read(tables.due, last, _BATCH)
            if not ids:
                return
            last = ids[-1]
            undecided = await self._compare(ids)
            done = await self._ledger.write(tables.link, ids, undecided)
            self._crawler.stats.inc_value("carscraper/linking/linked", done.linked)
            self._crawler.stats.inc_value("carscraper/linking/unlinked", done.unlinked)
        logger.info("More listings are to be linked than fit into %.0f s; the next crawl goes on", _SECONDS)

    # --- photos that look alike ---

    async def _compare(self, ids: list[int]) -> frozenset[int]:
        """Read the perceptual hashes of photos that could prove two listings to be of one car.

        Returns:
            Those of *ids* that wait for photos which could not be read now.
        """
        location = self._location()
        wanted = await self._ledger.read(tables.to_compare, ids, location, self._max_bytes) if location else {}
        if wanted and not is_installed():
            if not self._said_missing:
                logger.info("Photos that look alike are not compared: pip install 'carscraper[linking]' for that")
            self._said_missing = True
            return frozenset(wanted)
        photos = {photo.sha256: photo for each in wanted.values() for photo in each}
        compared: set[str] = set()
        for start in range(0, len(photos), _AT_ONCE):
            group = list(photos.values())[start : start + _AT_ONCE][: self._photos_left]
            try:
                found = dict(await asyncio.gather(*(self._hash_of(photo) for photo in group)))
            except StoreError as error:
                logger.warning("Photos can't be compared now, the next crawl does it: %s", error)
                self._photos_left = 0
                break
            self._photos_left -= len(group)
            await self._ledger.write(
                tables.save_hashes, {sha256: phash for sha256, phash in found.items() if phash != _GONE}
            )
            compared |= found.keys()
        self._crawler.stats.inc_value("carscraper/linking/compared", len(compared))
        return frozenset(
            listing_id for listing_id, each in wanted.items() if any(photo.sha256 not in compared for photo in each)
        )

    def _location(self) -> str | None:
        settings = self._crawler.settings
        if settings.getbool("USE_S3_STORAGE"):
            return f"s3://{settings.get('AWS_S3_BUCKET')}"
        return "folder" if settings.get("IMAGES_STORE") else None

    @property
    def _max_bytes(self) -> int:
        return self._crawler.settings.getint("IMAGES_MAX_BYTES")

    async def _hash_of(self, photo: StoredPhoto) -> tuple[str, str | None]:
        if self._store is None:
            self._store = build_store(self._crawler.settings)
        assert self._store
        data = await self._store.get(photo.key, max_bytes=self._max_bytes)
        return photo.sha256, _GONE if data is None else await asyncio.to_thread(perceptual_hash, data)
