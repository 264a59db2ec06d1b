"""Photos that are somewhere already: in the store, where an earlier program put them, or in the folder."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.db import work
from carscraper.db.ledger import Ledger
from carscraper.exceptions import DatabaseUnavailableError, ImageRejectedError, StoreError
from carscraper.items import CarItem, Status
from carscraper.pipelines.cars import count_photo
from carscraper.pipelines.images import CarImagesPipeline
from carscraper.storage.folder import FolderStore

if TYPE_CHECKING:
    from carscraper.items import CarImage
    from carscraper.spiders.backfill import BackfillSpider

logger = logging.getLogger(__name__)

IMPORTING = {
    "carscraper.pipelines.images.CarImagesPipeline": None,
    "carscraper.backfill.imports.BackfillImagesPipeline": 300,
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
