"""Stations of a backfill: photos that are somewhere already, and rehearsals, which write to nothing that people use.

What an earlier program put into the store is entered, what is in the folder is uploaded. A dry run reads the plan, a
sample verifies and removes what it has stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.addon import aborting, end_as_failed
from carscraper.db import work
from carscraper.db.ledger import Ledger
from carscraper.exceptions import DatabaseUnavailableError, ImageRejectedError, StoreError
from carscraper.items import CarItem, Status, utcnow
from carscraper.pipelines.cars import count_photo
from carscraper.pipelines.images import CarImagesPipeline
from carscraper.settings import Secret
from carscraper.state import state_of
from carscraper.storage.folder import FolderStore
from carscraper.storage.keys import PROBES, normalise_prefix
from carscraper.storage.store import build_store

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler
    from scrapy.settings import BaseSettings

    from carscraper.items import CarImage
    from carscraper.spiders.backfill import BackfillSpider
    from carscraper.storage.store import ImagesFilesStore

logger = logging.getLogger(__name__)

IMPORTING = {
    "carscraper.pipelines.images.CarImagesPipeline": None,
    "carscraper.backfill.pipelines.BackfillImagesPipeline": 300,
}
"""The stations that a backfill has otherwise."""


class BackfillImagesPipeline(CarImagesPipeline):
    """Also enters what is in the store, and uploads what is in the folder."""

    spider: BackfillSpider

    async def process_item(self, item: Any) -> Any:
        """Take the photos in; what is not there after all leaves the item, and the spider hears of it."""
        if not isinstance(item, CarItem) or not item.imported:
            return await super().process_item(item)
        async with self._cars:
            found = await asyncio.gather(*(self._import(image, item) for image in item.images))
        photos, item.images = item.images, []
        lost = []
        for image, is_kept in zip(photos, found, strict=True):
            if is_kept:
                item.images.append(image)
                count_photo(self.crawler, item, image, is_new=False)
            elif is_kept is None:
                self.crawler.stats.inc_value("carscraper/images/pending")
                self.spider.let_imports_wait()
            else:
                lost.append(image.identity)
        if lost:
            try:
                await Ledger.of(self.crawler).write(work.lose_images, item.source, item.external_id, lost)
            except DatabaseUnavailableError as error:
                logger.warning("That %r is not in the folder is written by the next backfill: %s", lost, error)
            else:
                self.spider.not_in_store(item)
        return item

    async def _import(self, image: CarImage, item: CarItem) -> bool | None:
        """Return whether the bytes were where they should be; ``None`` if that can't be known now."""
        async with self._gate:
            if self._is_stopping():
                return None
            image.attempts = 1
            try:
                return await (self._upload if image.store == "folder" else self._adopt)(image, item)
            except (StoreError, DatabaseUnavailableError) as error:
                logger.warning("The photo %r waits: %s", image.key, error)
            except ImageRejectedError as error:
                logger.warning("What is at %r is not the photo (%s)", image.key, error)
                return False
        return None

    @property
    def _max_bytes(self) -> int:
        return self.crawler.settings.getint("IMAGES_MAX_BYTES")

    async def _adopt(self, image: CarImage, _item: CarItem) -> bool:
        """Read an object that the ledger does not know, once: what it is, and its SHA-256."""
        store = self.keeper.store
        data = await store.get(image.key or "", max_bytes=self._max_bytes)
        if data is None:
            return False
        photo = self.keeper.inspect(data)
        image.width, image.height, image.bytes = photo.width, photo.height, len(data)
        image.content_type = photo.content_type
        # How it was served is not known any more.
        image.sha256 = image.source_sha256 = hashlib.sha256(data).hexdigest()
        image.store = store.backend.location
        image.url = image.source_url  # as it is published
        image.status = Status.STORED
        self.crawler.stats.inc_value("carscraper/images/adopted")
        return True

    async def _upload(self, image: CarImage, item: CarItem) -> bool:
        """Upload a photo that an earlier crawl kept in the folder, under the same key."""
        folder = FolderStore(Path(self.crawler.settings.get("IMAGES_STORE") or ""), public_url=None)
        data = await asyncio.to_thread(folder.get, image.key or "", max_bytes=self._max_bytes)
        if data is None or hashlib.sha256(data).hexdigest() != image.sha256:
            return False
        await self.keeper.keep_bytes(image, item, image.key or "", data)
        return True


_ANOTHER_SAMPLE = timedelta(minutes=10)  # what is younger may be that of one under way

_STATION = {"carscraper.backfill.pipelines.RehearsalPipeline": 450}


def dry_run_settings() -> dict[str, Any]:
    """Return settings without a component that fetches or writes."""
    return {"ITEM_PIPELINES": _STATION}


def sample_settings(settings: BaseSettings, scratch: Path) -> dict[str, Any]:
    """Return settings with all components, with a database and spool in the folder *scratch* and another prefix."""
    changes: dict[str, Any] = {
        "ITEM_PIPELINES": {**settings.getdict("ITEM_PIPELINES"), **_STATION},
        "DATABASE_URL": Secret(f"sqlite:///{scratch / 'sample.db'}"),
        "SPOOL_DIR": str(scratch / "spool"),
        "IMAGES_THUMBS": {},
        "S3_PREFIX": normalise_prefix(settings.get("S3_PREFIX")) + PROBES,
    }
    to_s3 = str(settings.get("USE_S3_STORAGE")).strip().lower() in {"1", "true", "yes", "on"}  # not checked yet
    if settings.get("IMAGES_STORE") and not to_s3:
        changes["IMAGES_STORE"] = str(Path(settings.get("IMAGES_STORE")) / PROBES)
    return changes


class RehearsalPipeline:
    """Opens the database that a backfill's rehearsal reads; reads each sample back, compares it and removes it."""

    def __init__(self, crawler: Crawler) -> None:
        """Take the crawler, whose spider is the backfill."""
        self._crawler = crawler
        self._store: ImagesFilesStore | None = None
        self._prefix = ""
        self._done: set[str] = set()
        self._staying: list[str] = []

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """No settings."""
        return cls(crawler)

    async def open_spider(self) -> None:
        """Check the settings and open what is only read."""
        spider: BackfillSpider = self._crawler.spider  # type: ignore[assignment]
        with aborting(self._crawler):
            await spider.open_plan()
            if spider.options.sample:
                self._store = build_store(self._crawler.settings)
                self._prefix = self._store.backend.object_name("") if self._store else ""
                self._crawler.stats.set_value("carscraper/sample/verified", 0)
                await self._clear()

    async def _clear(self) -> None:
        """Remove what earlier samples had to leave."""
        if not self._store:
            return
        try:
            for key in await asyncio.to_thread(self._store.backend.older_than, utcnow() - _ANOTHER_SAMPLE):
                await self._store.delete(key)
                logger.info("Removed %s, which an earlier sample had left", key)
        except StoreError as error:
            logger.info("What earlier samples may have left below %r stays: %s", self._prefix, error)

    async def process_item(self, item: Any) -> Any:
        """Verify the photos of the car that were stored a moment ago."""
        if isinstance(item, CarItem):
            for image in item.images:
                key = image.key
                # What stands outside the test's prefix was there before and is nobody's to remove.
                if image.status == Status.STORED and key and key.startswith(self._prefix) and key not in self._done:
                    self._done.add(key)
                    await self._verify(image, key)
        return item

    async def _verify(self, image: CarImage, key: str) -> None:
        assert self._store
        try:
            data = await self._store.get(key, max_bytes=2 * (image.bytes or 0))
            if data is not None and hashlib.sha256(data).hexdigest() == image.sha256:
                self._crawler.stats.inc_value("carscraper/sample/verified")
            else:
                end_as_failed(self._crawler, f"The sample {key} was read back with other bytes than were stored.")
        except StoreError as error:
            end_as_failed(self._crawler, f"The sample {key} can't be read back: {error}")
        try:
            await self._store.delete(key)
            self._crawler.stats.inc_value("carscraper/sample/removed")
        except StoreError as error:
            self._staying.append(key)
            end_as_failed(self._crawler, f"The sample {key} can't be removed: {error}")

    async def close_spider(self) -> None:
        """Name what stays, and close the store."""
        if self._staying:
            minutes = f"{_ANOTHER_SAMPLE.total_seconds() / 60:.0f} minutes"
            state_of(self._crawler).incomplete.append(
                f"{', '.join(self._staying)} stay in the store: a sample that begins after {minutes} removes them."
            )
        if self._store:
            await self._store.close()
