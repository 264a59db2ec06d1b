"""Keeping one photo: its bytes are checked, linked or stored, and its row says so."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from array import array
from dataclasses import dataclass
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any

from carscraper.addon import end_as_failed, stop_as_failed, stopped_by_shortage
from carscraper.db import photos
from carscraper.db.ledger import Ledger
from carscraper.exceptions import DatabaseUnavailableError, ImageRejectedError, StoreError
from carscraper.images.inspection import inspect, limits_of
from carscraper.images.metadata import strip_metadata, with_end
from carscraper.images.thumbnails import thumbnail
from carscraper.items import CarImage, CarItem, Reason, Status
from carscraper.storage.keys import Upload, image_key, thumbnail_key

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler
    from scrapy.settings import BaseSettings

    from carscraper.base_spiders.base import CarscraperSpider
    from carscraper.images.inspection import Photo
    from carscraper.storage.store import ImagesFilesStore

logger = logging.getLogger(__name__)

_LARGE = 1024**2  # bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepingRules:
    """Which photos are kept, and how."""

    inspection: dict[str, int]
    """The arguments of ``images.inspection.inspect``."""
    strip_metadata: bool
    thumbs: dict[str, tuple[int, int]]

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> Self:
        """Read the ``IMAGES_…`` settings."""
        return cls(
            inspection=limits_of(settings),
            strip_metadata=settings.getbool("IMAGES_STRIP_METADATA"),
            thumbs=settings.get("IMAGES_THUMBS"),
        )


class PhotoKeeper:
    """Bytes first: the row says that a photo is stored once the store has confirmed it."""

    def __init__(self, crawler: Crawler, store: ImagesFilesStore, rules: KeepingRules) -> None:
        """Take the crawler, for its spider, ledger and stats, the store, and the rules."""
        self._spider: CarscraperSpider = crawler.spider  # type: ignore[assignment]
        self._crawler = crawler
        self._ledger = Ledger.of(crawler)
        self._latency = Latency()
        self.store = store
        self.rules = rules

    async def open(self) -> None:
        """Check the store, and have it upload what waits in the spool.

        Raises:
            ConfigurationError: it refuses.
        """
        await self._release_lost()
        await self.store.open(self._unspooled)

    async def close(self) -> None:
        """Let the spool empty itself if the store allows."""
        await self.store.close()
        if self.store.refused:
            end_as_failed(self._crawler, self.store.refused)
        stats = self._crawler.stats
        stats.set_value("carscraper/spool/waiting", self.store.waiting())
        stats.inc_value("carscraper/images/pending", self.store.damaged())
        for name, share in (("safe_p50", 0.5), ("safe_p95", 0.95)):
            stats.set_value(f"carscraper/images/{name}", self._latency.quantile(share))

    # --- one photo ---

    def inspect(self, data: bytes, *, of_any_size: bool = False) -> Photo:
        """Look at bytes.

        Raises:
            ImageRejectedError: they are no photo worth keeping.
        """
        least = {"min_width": 0, "min_height": 0} if of_any_size else {}
        return inspect(data, **self.rules.inspection | least)

    async def keep(self, data: bytes, image: CarImage, item: CarItem) -> None:
        """Inspect what a dealer served, link the bytes if they are known, store them otherwise.

        Raises:
            ImageRejectedError: they are no photo worth keeping.
            StoreError: the store and the spool do not take them.
        """
        served = data
        is_named = image.wanted_key is not None  # a thumbnail, say: who names it wants it
        came_before, image.source_sha256 = image.source_sha256, hashlib.sha256(data).hexdigest()
        try:
            photo = self.inspect(data, of_any_size=is_named)
        except ImageRejectedError as error:
            # A download that was cut off differs the next time; what comes twice may only lack its end marker.
            if error.reason != Reason.TRUNCATED or came_before != image.source_sha256:
                raise
            data = await asyncio.to_thread(with_end, data)
            photo = self.inspect(data, of_any_size=is_named)
        try:
            known = await self._ledger.known_bytes(image.source_sha256, self.store.backend.location)
        except DatabaseUnavailableError:
            known = None  # the bytes are in hand and are kept first; their row is written with the car
        if known and known.deleted:
            raise ImageRejectedError(Reason.DELETED, "somebody had these bytes deleted")
        if known and known.placeholder:
            raise ImageRejectedError(Reason.PLACEHOLDER, "the same bytes on many cars")
        if known and known.image and self._is_where_wanted(image, known.image):
            for name in photos.OF_BYTES:
                setattr(image, name, getattr(known.image, name))
            image.status, image.reason = Status.STORED, None
            self._crawler.stats.inc_value("carscraper/images/linked")
            await self.write_down(image, item)
            return
        kept = await self._without_private_metadata(data, photo) if self.rules.strip_metadata else data
        image.sha256 = hashlib.sha256(kept).hexdigest() if kept is not served else image.source_sha256
        image.width, image.height, image.bytes = photo.width, photo.height, len(kept)
        image.content_type = photo.content_type
        await self.keep_bytes(image, item, self._key(image, item), kept)

    @staticmethod
    async def _without_private_metadata(data: bytes, photo: Photo) -> bytes:
        # 0.02 ms for a photo, up to 2 s for a file that was made to be slow: such a one leaves the event loop alone.
        if len(data) > _LARGE:
            return await asyncio.to_thread(strip_metadata, data, photo.format, photo.parts)
        return strip_metadata(data, photo.format, photo.parts)

    def _key(self, image: CarImage, item: CarItem) -> str:
        """Return the photo's key, see ``storage.keys``."""
        if image.wanted_key:
            return image.wanted_key
        assert image.sha256
        assert image.content_type
        return image_key(
            spider=self._spider.key_folder(item.source),
            year=item.year,
            make=item.make,
            model=item.model,
            external_id=item.external_id,
            sha256=image.sha256,
            extension=image.content_type.removeprefix("image/").replace("jpeg", "jpg"),
        )

    def _is_where_wanted(self, image: CarImage, known: CarImage) -> bool:
        backend = self.store.backend
        if image.wanted_key and not image.may_link and known.key != backend.object_name(image.wanted_key):
            return False
        return backend.holds(known.key)

    async def keep_bytes(self, image: CarImage, item: CarItem, key: str, data: bytes) -> None:
        """Store *data* under *key*, or put it into the spool; *image* says which.

        Raises:
            StoreError: neither takes it.
        """
        backend = self.store.backend
        image.key = backend.object_name(key)
        image.store, image.url = backend.location, backend.url(image.key)
        metadata = {"source": item.source, "external-id": item.external_id, "source-url": image.source_url}
        row: dict[str, Any] = {name: getattr(image, name) for name in photos.OF_BYTES}
        row |= {"source": item.source, "external_id": item.external_id, "identity": image.identity}
        upload = Upload(name=image.key, data=data, content_type=image.content_type or "", metadata=metadata, row=row)
        safe = await self.store.put(upload)
        self._latency.add(monotonic() - image.seen_at)  # in the store or in the spool
        if self.store.refused:
            stop_as_failed(self._crawler, self.store.refused, reason="store_refused")
        if safe:
            image.status, image.reason = Status.STORED, None
            self._crawler.stats.inc_value("carscraper/images/stored")
            self._crawler.stats.inc_value("carscraper/images/bytes", len(data))
        else:
            image.status, image.reason = Status.PENDING, Reason.SPOOLED
            self._crawler.stats.inc_value("carscraper/spool/added")
        await self.write_down(image, item)
        for name, size in self.rules.thumbs.items():
            await self._store_thumbnail(name, size, key, data)

    async def write_down(self, image: CarImage, item: CarItem) -> None:
        """Write the photo's outcome; if its car was not opened, or the database is away, it is written with the car."""
        if item.listing_id is None:
            return
        try:
            placeholders = await self._ledger.save_photo(item.listing_id, image)
        except DatabaseUnavailableError:
            placeholders = None
        if placeholders is None:
            logger.debug("The row of %s waits for its car's", image.key)  # which may go to the spool, photos included
            item.listing_id = None
        elif placeholders:
            self._crawler.stats.inc_value("carscraper/images/failed/placeholder", placeholders)

    async def _store_thumbnail(self, name: str, size: tuple[int, int], key: str, data: bytes) -> None:
        try:
            max_pixels = self.rules.inspection["max_pixels"]
            small = await asyncio.to_thread(thumbnail, data, size, max_pixels=max_pixels)
            target = self.store.backend.object_name(thumbnail_key(name, key))
            await self.store.put(Upload(name=target, data=small, content_type="image/jpeg"))
        except (ImageRejectedError, StoreError, MemoryError, RuntimeError) as error:
            stopped_by_shortage(self._crawler, error)
            # The photo itself is safe; a missing thumbnail can be made again from it.
            logger.warning("No thumbnail %s of %s: %s", name, key, error)
            self._crawler.stats.inc_value("carscraper/thumbnails/failed")

    async def publish(self, item: CarItem) -> None:
        """Write the addresses of photos in a folder for which ``IMAGES_PUBLIC_URL`` was set since."""
        backend = self.store.backend
        for image in item.images:
            if image.status == Status.STORED and image.key and not image.url and image.store == backend.location:
                image.url = backend.url(image.key)
                if image.url and item.listing_id is not None:
                    try:
                        await self._ledger.write(photos.set_url, item.listing_id, image.key, image.url)
                    except DatabaseUnavailableError as error:
                        logger.debug("The address of %s is written by the next crawl: %s", image.key, error)

    # --- the spool ---

    async def _release_lost(self) -> None:
        """Let photos be fetched again that waited in a spool which is no longer there (a container's disk, say)."""
        spooled = await self._ledger.read(photos.spooled, self._spider.spooled_sources())
        lost = [row_id for row_id, key, identity in spooled if not self.store.holds(key, identity)]
        if lost:
            logger.warning("%d photos are no longer in the spool where they waited; asking for them again", len(lost))
            await self._ledger.write(photos.release, lost)

    async def _unspooled(self, upload: Upload) -> bool:
        """Write that a photo from the spool is safe; false while its car's row is not there yet."""
        assert upload.row is not None
        about: dict[str, Any] = dict(upload.row)
        car = str(about.pop("source")), str(about.pop("external_id"))
        image = CarImage(source_url="", **about)
        try:
            if not await self._ledger.write(photos.unspooled, *car, image, self._ledger.rules):
                return False
        except DatabaseUnavailableError as error:
            logger.debug("The row of %s, which was in the spool, waits: %s", image.key, error)
            return False
        self._crawler.stats.inc_value("carscraper/spool/uploaded")
        return True


class Latency:
    """Durations, four bytes each.

    >>> latency = Latency()
    >>> for seconds in range(1, 101):
    ...     latency.add(seconds)
    >>> latency.quantile(0.5), latency.quantile(0.95)
    (50.0, 95.0)
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._seconds = array("f")

    def add(self, seconds: float) -> None:
        """Add one duration."""
        self._seconds.append(seconds)

    def quantile(self, share: float) -> float | None:
        """Return the seconds within which *share* of all were done; ``None`` if there were none.

        >>> print(Latency().quantile(0.5))
        None
        """
        if not self._seconds:
            return None
        return sorted(self._seconds)[max(1, ceil(share * len(self._seconds))) - 1]
