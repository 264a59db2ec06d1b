"""Rehearsals: a dry run reads the plan, a sample verifies and removes what it has stored.

Nothing that people use is written to.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.addon import aborting, end_as_failed
from carscraper.exceptions import StoreError
from carscraper.items import CarItem, Status
from carscraper.settings import Secret
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


_STATION = {"carscraper.backfill.rehearsal.RehearsalPipeline": 450}


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
        stats = self._crawler.stats
        try:
            data = await self._store.get(key, max_bytes=2 * (image.bytes or 0))
            if data is not None and hashlib.sha256(data).hexdigest() == image.sha256:
                stats.inc_value("carscraper/sample/verified")
            else:
                end_as_failed(self._crawler, f"The sample {key} was read back with other bytes than were stored.")
            await self._store.delete(key)
            stats.inc_value("carscraper/sample/removed")
        except StoreError as error:
            end_as_failed(self._crawler, f"The sample {key} can't be read back and removed: {error}")

    async def close_spider(self) -> None:
        """Close the store."""
        if self._store:
            await self._store.close()
