"""Second station: every photo of a car is fetched now, within the crawl, and stored for good."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
    UnsupportedURLSchemeError,
)
from scrapy.http import Request
from scrapy.http.request import NO_CALLBACK
from scrapy.pipelines.images import ImagesPipeline

from carscraper.addon import aborting, end_as_failed, for_our_spiders, stop_as_failed
from carscraper.db.ledger import Ledger
from carscraper.db.queries import HAVE_BYTES, is_another_address
from carscraper.exceptions import (
    BlockedAddressError,
    DatabaseUnavailableError,
    ImageRejectedError,
    RobotsUnreachableError,
    StoreError,
)
from carscraper.images.inspection import Photo, inspect
from carscraper.images.metadata import strip_metadata, with_end
from carscraper.images.thumbnails import thumbnail
from carscraper.items import CarImage, CarItem, Reason, Status
from carscraper.pipelines.database import count_saved
from carscraper.runs.latency import Latency
from carscraper.state import state_of
from carscraper.storage.folder import FolderStore
from carscraper.storage.keys import Upload, image_key, thumbnail_key
from carscraper.storage.store import build_store

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from carscraper.base_spiders.base import CarscraperSpider
    from carscraper.db.queries import KnownImage
    from carscraper.storage.store import ImagesFilesStore

logger = logging.getLogger(__name__)

_SUCCESS = range(200, 300)
_PART = 206
_LARGE = 1024**2  # bytes
# What a dead address answers: the car's own page may have a fresh one.
_EXPIRED = frozenset({"http-401", "http-403", "http-404", Reason.NOT_AN_IMAGE, Reason.PLACEHOLDER})
# The connection may have broken without HTTP noticing: asked once more.
_BROKEN = frozenset({Reason.TRUNCATED, Reason.EMPTY})
# Not stored, and nobody may insist: the bytes are safe, or somebody had the photo deleted.
_SETTLED = frozenset({Reason.SPOOLED, Reason.DELETED})
# What no longer counts once the site shows the photo.
_ENDED_BY_SIGHT = frozenset({Reason.CAR_GONE, Reason.OFF_PAGE})
# What is copied from a known photo to one with the same bytes.
_SAME_BYTES = ("store", "key", "url", "sha256", "source_sha256", "bytes", "width", "height", "content_type")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRules:
    """Which photos are kept, and how."""

    min_width: int
    min_height: int
    max_pixels: int
    max_bytes: int
    strip_metadata: bool
    thumbs: dict[str, tuple[int, int]]
    in_flight: int
    at_once: int
    allowed_hosts: tuple[str, ...]

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> Self:
        """Read the ``IMAGES_…`` settings."""
        return cls(
            min_width=settings.getint("IMAGES_MIN_WIDTH"),
            min_height=settings.getint("IMAGES_MIN_HEIGHT"),
            max_pixels=settings.getint("IMAGES_MAX_PIXELS"),
            max_bytes=settings.getint("IMAGES_MAX_BYTES"),
            strip_metadata=settings.getbool("IMAGES_STRIP_METADATA"),
            thumbs=settings.get("IMAGES_THUMBS"),
            in_flight=settings.getint("IMAGES_MAX_IN_FLIGHT"),
            at_once=settings.getint("IMAGES_CONCURRENCY"),
            allowed_hosts=tuple(settings.getlist("IMAGES_ALLOWED_HOSTS")),
        )


class _OwnFingerprint:
    """Gives every request a name of its own, so that no photo gets the outcome of another one.

    Scrapy hands what came of an address to all who asked for it at that time, but no word of what failed, and drops it
    under their hands once another car is done. Equal bytes are the ledger's business.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def fingerprint(self, request: Request) -> bytes:
        """Return a name that was never given before."""
        return b"%d" % next(self._numbers)


class CarImagesPipeline(ImagesPipeline):
    """Asks the ledger once for each car, fetches what is not stored, inspects the bytes and stores them as served.

    Every ``CarImage`` of the item leaves with an outcome. A failed photo never stops its car.
    """

    store: ImagesFilesStore | None  # type: ignore[assignment]

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make the pipeline; the store is built in :meth:`open_spider`, where a mistake can end the crawl."""
        for_our_spiders(crawler)
        return cls("the store is built when the spider opens", crawler=crawler)

    def _get_store(self, uri: str) -> Any:
        return None

    async def open_spider(self) -> None:  # type: ignore[override]
        """Check the settings, the database and the store, before anything is fetched."""
        super().open_spider()
        self.spider: CarscraperSpider = self.spiderinfo.spider  # type: ignore[assignment]
        self._fingerprinter = _OwnFingerprint()
        self._visits: dict[tuple[str, str], asyncio.Task[dict[str, CarImage]]] = {}
        self.store = None
        self._latency = Latency()
        with aborting(self.crawler):
            self.rules = ImageRules.from_settings(self.crawler.settings)
            self._gate = asyncio.Semaphore(self.rules.in_flight)
            # Without a delay Scrapy 2.19 starts all that is queued at once, whatever the slot's concurrency is.
            self._downloads: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(self.rules.at_once))
            # Cars behind it hold no tasks for their photos: what waits costs little memory.
            self._cars = asyncio.Semaphore(self.rules.in_flight)
            state_of(self.crawler).addresses.allow_all(self.rules.allowed_hosts)
            self.ledger = Ledger.of(self.crawler)
            await self.ledger.open()
            self.store = build_store(self.crawler.settings)
            if self.store:
                await self._release_lost()
                await self.store.open(self._unspooled)

    async def close_spider(self) -> None:
        """Let the spool empty itself if the store allows."""
        if self.store:
            await self.store.close()
            if self.store.refused:
                end_as_failed(self.crawler, self.store.refused)
            self.crawler.stats.set_value("carscraper/spool/waiting", self.store.waiting())
            self.crawler.stats.inc_value("carscraper/images/pending", self.store.damaged())
        for name, share in (("safe_p50", 0.5), ("safe_p95", 0.95)):
            self.crawler.stats.set_value(f"carscraper/images/{name}", self._latency.quantile(share))

    # --- one car ---

    async def process_item(self, item: Any) -> Any:  # type: ignore[override]
        """See to it that every photo of the car has an outcome."""
        if not isinstance(item, CarItem):
            return item
        if item.unchanged:
            # Nothing is due, said the ledger when the spider asked for the whole page.
            stored = sum(image.status == Status.STORED for image in item.images)
            self.crawler.stats.inc_value("carscraper/images/known", stored)
            return item
        try:
            if any(image.wanted_key for image in item.images):
                identities = [image.identity for image in item.images]
                known = await self.ledger.known_among(item.source, item.external_id, identities)
            else:
                known = await self.ledger.known_images(item.source, item.external_id)
        except DatabaseUnavailableError as error:
            # Without the ledger nothing is fetched: the photos stay pending, the car goes to the spool.
            end_as_failed(self.crawler, str(error))
            return item
        if self._held(item):
            async with self._cars:
                await self._take_in(item)
        for image in item.images:
            found = known.get(image.identity)
            if image.status == Status.STORED or not found or found.due or self._is_shown_anew(image, found.image, item):
                continue
            if not image.insist or found.image.status in HAVE_BYTES or found.image.reason in _SETTLED:
                self._take_over(image, found.image)
        if self.store and item.seen:
            item.images += self._off_page(item, known)
        if self._wanted(item):
            item.listing_id = await self._announce(item)
            if item.listing_id is None:
                return item
        async with self._cars:
            item = await super().process_item(item)
        self._count(item, known)
        return item

    @staticmethod
    def _is_shown_anew(image: CarImage, known: CarImage, item: CarItem) -> bool:
        """Return whether the site shows what it did not show when the photo was given up, or shows it elsewhere."""
        if known.reason in _ENDED_BY_SIGHT or (known.status == Status.SUPERSEDED and not known.key):
            return item.seen and image.on_page
        if known.status != Status.FAILED or known.reason in _SETTLED:
            return False
        return is_another_address(known.source_url, image.source_url)

    @staticmethod
    def _off_page(item: CarItem, known: dict[str, KnownImage]) -> list[CarImage]:
        """Return the photos that are due and that the car's page does not show any more, at their last addresses."""
        shown = {image.identity for image in item.images}
        return [
            CarImage(identity=identity, source_url=each.image.source_url, position=each.image.position, on_page=False)
            for identity, each in known.items()
            if each.due and identity not in shown
        ]

    def _take_over(self, image: CarImage, known: CarImage) -> None:
        _copy_bytes(image, known)
        image.status, image.reason = known.status, known.reason
        if known.status == Status.SUPERSEDED and known.key:
            image.status = Status.STORED  # its bytes are; the site shows it again
        if known.reason == Reason.DELETED:
            image.key = image.url = None  # the row has its key until the object is gone
        elif self.store and image.key and not image.url and image.store == self.store.backend.location:
            image.url = self.store.backend.url(image.key)  # IMAGES_PUBLIC_URL was set for a folder since

    def get_media_requests(self, item: CarItem, info: Any) -> list[Request]:
        """Ask for the photos that are not stored yet."""
        requests = []
        for image in self._wanted(item):
            try:
                requests.append(self._request(image, item))
            except ValueError:
                image.attempts += 1  # else its row would stay as it was announced
                _fail(image, Reason.BAD_ADDRESS)
        return requests

    def _wanted(self, item: CarItem) -> list[CarImage]:
        if self.store is None:
            return []
        return [image for image in item.images if image.status == Status.PENDING and image.reason is None]

    async def _announce(self, item: CarItem, *, images: bool = True) -> int | None:
        """Write the car and what photos it has before they are fetched; each becomes stored as its bytes are safe.

        Without the card's hash and the time of the details: a crawl that dies now reads this car again.
        """
        try:
            images_so_far = item.images if images else []
            told = replace(item, card_hash=None, details_at=None, shows_all=False, images=images_so_far)
            saved = await self.ledger.save(told)
        except DatabaseUnavailableError as error:
            end_as_failed(self.crawler, str(error))
            return None
        count_saved(self.crawler.stats, saved, item)
        if saved.replaced:  # what is left to do for the photos of the car before is no work for this one
            item.images = [image for image in item.images if image.identity not in saved.superseded]
        return saved.listing_id

    # --- photos that we have already, somewhere ---

    @staticmethod
    def _held(item: CarItem) -> list[CarImage]:
        return [image for image in item.images if image.reason in {"adopt", "local"}]

    async def _take_in(self, item: CarItem) -> None:
        """Enter in the ledger what an earlier program put into the store, and upload what lies in the folder.

        What is not there after all leaves the item; the spider hears of it.
        """
        held = self._held(item)
        item.listing_id = await self._announce(item, images=False)
        if item.listing_id is None or self.store is None:
            item.images = [image for image in item.images if image not in held]
            return
        outcomes = await asyncio.gather(*(self._take_in_one(image, item) for image in held))
        taken_in = [image for image, kept in zip(held, outcomes, strict=True) if kept]
        lost = [image for image, kept in zip(held, outcomes, strict=True) if kept is False]
        item.images = [image for image in item.images if image not in held or image in taken_in]
        if lost:
            await self.ledger.lose_images(item.listing_id, [image.identity for image in lost])
            self.spider.not_in_store(item)

    async def _take_in_one(self, image: CarImage, item: CarItem) -> bool | None:
        """Return whether the bytes were where they should be; ``None`` if that can't be known now."""
        take_in = self._adopt if image.reason == "adopt" else self._upload
        async with self._gate:
            try:
                if not self._is_stopping():
                    image.attempts = 1
                    return await take_in(image, item)
            except (StoreError, DatabaseUnavailableError) as error:
                logger.warning("The photo %r waits: %s", image.key, error)
            except ImageRejectedError as error:
                logger.warning("What is at %r is not the photo (%s)", image.key, error)
                return False
        self.crawler.stats.inc_value("carscraper/images/pending")
        return None

    async def _adopt(self, image: CarImage, _item: CarItem) -> bool:
        """Read an object that the ledger does not know, once: what it is, and its SHA-256."""
        assert self.store is not None
        data = await self.store.get(image.key or "", max_bytes=self.rules.max_bytes)
        if data is None:
            return False
        self._describe(image, data, self._inspect(data))
        # How it was served is not known any more.
        image.sha256 = image.source_sha256 = hashlib.sha256(data).hexdigest()
        image.store = self.store.backend.location
        image.url = image.source_url  # as it is published
        image.status, image.reason = Status.STORED, None
        self.crawler.stats.inc_value("carscraper/images/adopted")
        return True

    async def _upload(self, image: CarImage, item: CarItem) -> bool:
        """Upload a photo that an earlier crawl kept in the folder, under the same key."""
        folder = FolderStore(Path(self.crawler.settings.get("IMAGES_STORE") or ""), public_url=None)
        data = await asyncio.to_thread(folder.get, image.key or "", max_bytes=self.rules.max_bytes)
        if data is None or hashlib.sha256(data).hexdigest() != image.sha256:
            return False
        await self._store(image, item, image.key or "", data)
        return True

    def _inspect(self, data: bytes) -> Photo:
        rules = self.rules
        return inspect(
            data,
            min_width=rules.min_width,
            min_height=rules.min_height,
            max_pixels=rules.max_pixels,
            max_bytes=rules.max_bytes,
        )

    def _is_whole(self, data: bytes) -> bool:
        """Return whether *data* is a photo to its end, whatever length was announced for it."""
        try:
            self._inspect(data)
        except ImageRejectedError as error:
            return error.reason not in _BROKEN | {Reason.NOT_AN_IMAGE}
        return True

    @staticmethod
    def _describe(image: CarImage, kept: bytes, photo: Photo) -> None:
        image.width, image.height, image.bytes = photo.width, photo.height, len(kept)
        image.content_type = photo.content_type

    def _request(self, image: CarImage, item: CarItem) -> Request:
        if urlsplit(image.source_url).scheme not in {"http", "https"}:
            raise ValueError("not an address of the web")
        referer = {"Referer": item.url} if item.url.startswith("http") else {}
        return Request(
            image.source_url,
            callback=NO_CALLBACK,
            headers={"Accept": "image/*", **referer},
            meta={
                "car_image": image,
                "download_slot": self.spider.photo_slot(item.source),
                "allow_offsite": True,
                "download_maxsize": self.rules.max_bytes,
                "is_whole": self._is_whole,
                "autothrottle_dont_adjust_delay": True,  # the slot has its own rate, see addon
            },
        )

    async def media_to_download(self, request: Request, info: Any, *, item: CarItem | None = None) -> Any:  # type: ignore[override]
        """Let the photo through when there is room in memory; none once the crawl is being stopped."""
        downloads = self._downloads[request.meta["download_slot"]]
        # In this order: what waits for its dealer takes no room from the others.
        await downloads.acquire()
        await self._gate.acquire()
        if self._is_stopping():
            self._gate.release()
            downloads.release()
            return request.meta["car_image"]  # stays pending: work for the next crawl
        request.meta["downloading"] = downloads  # the slot's name may change on the way
        request.meta["car_image"].attempts += 1
        return None

    def _end_download(self, request: Request) -> None:
        if downloads := request.meta.pop("downloading", None):
            downloads.release()

    def _is_stopping(self) -> bool:
        assert self.store is not None
        return not self.crawler.engine.running or bool(self.store.refused)

    async def media_downloaded(  # type: ignore[override]
        self, response: Response, request: Request, info: Any, *, item: CarItem
    ) -> CarImage:
        """Keep the photo; an address that has expired gets one fresh one from the car's page."""
        self._end_download(request)
        image: CarImage = request.meta["car_image"]
        rejected = await self._keep(response, request, item)
        if rejected and rejected.reason in _EXPIRED | _BROKEN:
            if self._is_stopping():
                self._gate.release()
                return image  # stays pending: there is no time for a fresh address, the next crawl asks for one
            rejected = await self._try_again(rejected, request, item)
        if rejected:
            _fail(image, rejected.reason)
            logger.info("Photo failed (%s): %r of %r", rejected, image.source_url, item.url)
        self._gate.release()
        return image

    async def _keep(self, response: Response, request: Request, item: CarItem) -> ImageRejectedError | None:
        try:
            await self.image_downloaded(response, request, self.spiderinfo, item=item)
        except ImageRejectedError as error:
            return error
        return None

    async def image_downloaded(  # type: ignore[override]
        self, response: Response, request: Request, info: Any, *, item: CarItem
    ) -> None:
        """Inspect the bytes, link them if they are known, store them otherwise.

        Raises:
            ImageRejectedError: they are no photo worth keeping.
            StoreError: the store and the spool do not take them.
        """
        assert self.store is not None
        if response.status not in _SUCCESS:
            raise ImageRejectedError(f"http-{response.status}", "the dealer's answer")
        if response.status == _PART and not _is_whole_range(response.headers.get("Content-Range")):
            raise ImageRejectedError(Reason.TRUNCATED, "the dealer sends a part of it")
        image: CarImage = request.meta["car_image"]
        data = response.body
        image.source_sha256 = hashlib.sha256(data).hexdigest()
        try:
            photo = self._inspect(data)
        except ImageRejectedError as error:
            # A download that was cut off differs the next time; what comes twice may only lack its end marker.
            came_before, request.meta["came"] = request.meta.get("came"), image.source_sha256
            if error.reason != Reason.TRUNCATED or came_before != image.source_sha256:
                raise
            data = await asyncio.to_thread(with_end, data)
            photo = self._inspect(data)
        known = await self.ledger.known_bytes(image.source_sha256, self.store.backend.location)
        if known and known.deleted:
            raise ImageRejectedError(Reason.DELETED, "somebody had these bytes deleted")
        if known and known.placeholder:
            raise ImageRejectedError(Reason.PLACEHOLDER, "the same bytes on many cars")
        if known and known.image and self._is_where_wanted(image, known.image):
            _copy_bytes(image, known.image)
            image.status, image.reason = Status.STORED, None
            self.crawler.stats.inc_value("carscraper/images/linked")
            await self._write_down(image, item)
            return
        kept = await self._without_private_metadata(data, photo) if self.rules.strip_metadata else data
        image.sha256 = hashlib.sha256(kept).hexdigest() if kept is not response.body else image.source_sha256
        self._describe(image, kept, photo)
        await self._store(image, item, self.file_path(request, response, info, item=item), kept)

    @staticmethod
    async def _without_private_metadata(data: bytes, photo: Photo) -> bytes:
        # 0.02 ms for a photo, up to 2 s for a file that was made to be slow: such a one leaves the event loop alone.
        if len(data) > _LARGE:
            return await asyncio.to_thread(strip_metadata, data, photo.format)
        return strip_metadata(data, photo.format)

    def file_path(  # type: ignore[override]
        self, request: Request, response: Response | None = None, info: Any = None, *, item: CarItem
    ) -> str:
        """Return the photo's key, see ``storage.keys``."""
        image: CarImage = request.meta["car_image"]
        if image.wanted_key:
            return image.wanted_key
        assert image.sha256
        assert image.content_type
        extension = image.content_type.removeprefix("image/").replace("jpeg", "jpg")
        return image_key(
            spider=self.spider.key_folder(item.source),
            year=item.year,
            make=item.make,
            model=item.model,
            external_id=item.external_id,
            sha256=image.sha256,
            extension=extension,
        )

    def _is_where_wanted(self, image: CarImage, known: CarImage) -> bool:
        assert self.store is not None
        backend = self.store.backend
        if image.wanted_key and known.key != backend.object_name(image.wanted_key):
            return False
        return backend.holds(known.key)

    async def _store(self, image: CarImage, item: CarItem, key: str, data: bytes) -> None:
        assert self.store is not None
        backend = self.store.backend
        image.key = backend.object_name(key)
        image.store, image.url = backend.location, backend.url(image.key)
        metadata = {"source": item.source, "external-id": item.external_id, "source-url": image.source_url}
        row: dict[str, Any] = {name: getattr(image, name) for name in _SAME_BYTES}
        row |= {"source": item.source, "external_id": item.external_id, "identity": image.identity}
        upload = Upload(name=image.key, data=data, content_type=image.content_type or "", metadata=metadata, row=row)
        safe = await self.store.put(upload)
        self._latency.add(monotonic() - image.seen_at)  # in the store or in the spool
        if self.store.refused:
            stop_as_failed(self.crawler, self.store.refused, reason="store_refused")
        if safe:
            image.status, image.reason = Status.STORED, None
            self.crawler.stats.inc_value("carscraper/images/stored")
            self.crawler.stats.inc_value("carscraper/images/bytes", len(data))
        else:
            image.status, image.reason = Status.PENDING, Reason.SPOOLED
            self.crawler.stats.inc_value("carscraper/spool/added")
        await self._write_down(image, item)
        for name, size in self.rules.thumbs.items():
            await self._store_thumbnail(name, size, key, data)

    async def _write_down(self, image: CarImage, item: CarItem) -> None:
        try:
            assert item.listing_id is not None
            placeholders = await self.ledger.save_image(item.listing_id, image)
        except DatabaseUnavailableError:
            logger.debug("The row of %s waits for its car's", image.key)  # which goes to the spool, photos included
            return
        if placeholders:
            self.crawler.stats.inc_value("carscraper/images/failed/placeholder", placeholders)

    async def _store_thumbnail(self, name: str, size: tuple[int, int], key: str, data: bytes) -> None:
        assert self.store is not None
        try:
            small = await asyncio.to_thread(thumbnail, data, size, max_pixels=self.rules.max_pixels)
            target = self.store.backend.object_name(thumbnail_key(name, key))
            await self.store.put(Upload(name=target, data=small, content_type="image/jpeg"))
        except (ImageRejectedError, StoreError) as error:
            # The photo itself is safe; a missing thumbnail can be made again from it.
            logger.warning("No thumbnail %s of %s: %s", name, key, error)
            self.crawler.stats.inc_value("carscraper/thumbnails/failed")

    # --- what goes wrong ---

    async def _try_again(
        self, rejected: ImageRejectedError, request: Request, item: CarItem
    ) -> ImageRejectedError | None:
        """Fetch the photo once more, from a fresh address where the old one has expired.

        Returns:
            Why it is not kept all the same. What the dealer says of a fresh address is for good; without the word of
            the car's page nothing is.
        """
        image: CarImage = request.meta["car_image"]
        if rejected.reason in _EXPIRED:
            if item.gone:
                return ImageRejectedError(
                    Reason.NO_FRESH_ADDRESS, f"{rejected.reason}, and the car's page says it is gone"
                )
            if not image.on_page:
                return ImageRejectedError(
                    Reason.OFF_PAGE, f"{rejected.reason}, and the car's page does not show the photo"
                )
            fresh = await self._visit(item)
            if not fresh:
                return ImageRejectedError(
                    Reason.NO_FRESH_ADDRESS, f"{rejected.reason}, and the car's page shows no photo"
                )
            if image.identity not in fresh:
                return rejected  # the dealer has taken it off the page
            image.source_url = fresh[image.identity].source_url
        again = self._request(image, item)
        again.meta["came"] = request.meta.get("came")
        self._modify_media_request(again)
        try:
            response = await self.crawler.engine.download_async(again)
        except Exception as error:
            return ImageRejectedError(_reason(error), f"{rejected.reason}, and then {error}")
        return await self._keep(response, request, item)

    async def _visit(self, item: CarItem) -> dict[str, CarImage]:
        """Read the car's own page for fresh addresses: one visit for each car, however many photos need it."""
        car = (item.source, item.external_id)
        if car not in self._visits:
            self._visits[car] = asyncio.ensure_future(self._read_page(item))
        return await asyncio.shield(self._visits[car])

    async def _read_page(self, item: CarItem) -> dict[str, CarImage]:
        try:
            url = self.spider.page_url(item)
            if url is None:
                return {}
            request = Request(url, callback=NO_CALLBACK)
            self.crawler.stats.inc_value("carscraper/pages/fresh_addresses")
            response = await self.crawler.engine.download_async(request)
            return {image.identity: image for image in self.spider.fresh_images(response, item)}
        except Exception as error:
            logger.info("No fresh addresses from %r (%s: %s)", item.url, type(error).__name__, error)
            return {}

    def media_failed(self, failure: Failure, request: Request, info: Any) -> None:  # type: ignore[override]
        """Turn whatever stopped the photo into its outcome; nothing is raised, the car goes on."""
        self._end_download(request)
        self._gate.release()
        image: CarImage = request.meta["car_image"]
        error = failure.value
        if isinstance(error, StoreError | DatabaseUnavailableError):
            image.status, image.reason = Status.PENDING, Reason.STORE_ERROR
            image.key = image.url = image.store = image.sha256 = None
            if self.store and self.store.refused:
                stop_as_failed(self.crawler, self.store.refused, reason="store_refused")
            logger.debug("Photo %s waits: %s", image.source_url, error)
            return
        reason = _reason(error)
        _fail(image, reason)
        if reason == Reason.ERROR:
            logger.error("Photo %r failed by a mistake of carscraper", image.source_url, exc_info=error)
        else:
            logger.info("Photo failed (%s): %r", reason, image.source_url)

    async def _release_lost(self) -> None:
        """Let photos be fetched again that waited in a spool which is no longer there (a container's disk, say)."""
        assert self.store is not None
        spooled = await self.ledger.spooled_images(self.spider.spooled_sources())
        lost = [row_id for row_id, key, identity in spooled if not self.store.holds(key, identity)]
        if lost:
            logger.warning("%d photos are no longer in the spool where they waited; asking for them again", len(lost))
            await self.ledger.release_images(lost)

    async def _unspooled(self, upload: Upload) -> bool:
        """Write that a photo from the spool is safe; false while its car's row is not there yet."""
        assert upload.row is not None
        about: dict[str, Any] = dict(upload.row)
        source, external_id = str(about.pop("source")), str(about.pop("external_id"))
        image = CarImage(source_url="", **about)
        try:
            if not await self.ledger.image_stored(source, external_id, image):
                return False
        except DatabaseUnavailableError:
            return False
        self.crawler.stats.inc_value("carscraper/spool/uploaded")
        return True

    # --- the end of a car ---

    def item_completed(self, results: list[Any], item: CarItem, info: Any) -> CarItem:
        """Forget what Scrapy would remember for the whole run."""
        self._visits.pop((item.source, item.external_id), None)
        info.downloaded.clear()
        return item

    def _count(self, item: CarItem, known: dict[str, KnownImage]) -> None:
        stats = self.crawler.stats
        for image in item.images:
            stats.inc_value("carscraper/images/seen")
            if (item.gone and image.reason == Reason.NO_FRESH_ADDRESS) or image.reason == Reason.OFF_PAGE:
                continue  # whether it is missed shows when the car is saved, or when the run ends
            if image.attempts == 0 and image.status == Status.STORED:
                stats.inc_value("carscraper/images/known")
            elif image.reason == Reason.DELETED:
                stats.inc_value("carscraper/images/deleted")
            elif image.status == Status.FAILED and (image.attempts or image.identity not in known):
                stats.inc_value(f"carscraper/images/failed/{image.reason}")
            elif image.reason == Reason.LIMIT:
                stats.inc_value("carscraper/images/left")
            elif image.status == Status.PENDING and image.reason not in {Reason.SPOOLED, Reason.TERMS} and self.store:
                stats.inc_value("carscraper/images/pending")


def _copy_bytes(image: CarImage, other: CarImage) -> None:
    for name in _SAME_BYTES:
        setattr(image, name, getattr(other, name))


def _fail(image: CarImage, reason: str) -> None:
    image.status, image.reason = Status.FAILED, reason
    served = image.source_sha256
    for name in _SAME_BYTES:
        setattr(image, name, None)
    if reason == Reason.DELETED:
        image.source_sha256 = served  # a tombstone says of which bytes


def _is_whole_range(content_range: bytes | None) -> bool:
    """Return whether a 206 answer has all of it, as far as it says.

    >>> [_is_whole_range(each) for each in (b"bytes 0-9/10", b"bytes 0-9/*", None, b"bytes 0-8/10", b"bytes 1-9/10")]
    [True, True, True, False, False]
    """
    found = re.fullmatch(rb"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*", content_range or b"", re.IGNORECASE)
    if found is None:
        return True  # the bytes will tell
    first, last, size = found.groups()
    return int(first) == 0 and (size == b"*" or int(last) + 1 == int(size))


def _reason(error: BaseException | None) -> str:
    if isinstance(error, BlockedAddressError):
        return Reason.BLOCKED_ADDRESS
    if isinstance(error, DownloadTimeoutError):
        return Reason.TIMEOUT
    if isinstance(error, DownloadCancelledError) or (
        isinstance(error, IgnoreRequest) and "DOWNLOAD_MAXSIZE" in str(error)
    ):
        return Reason.TOO_LARGE
    if isinstance(error, RobotsUnreachableError):
        return Reason.ROBOTS_UNREACHABLE
    if isinstance(error, IgnoreRequest):
        return Reason.ROBOTS_TXT if "robots.txt" in str(error) else Reason.IGNORED
    if isinstance(error, ResponseDataLossError):
        return Reason.TRUNCATED
    if isinstance(error, CannotResolveHostError):
        return Reason.HOST_UNKNOWN
    if isinstance(error, UnsupportedURLSchemeError | ValueError):
        return Reason.BAD_ADDRESS
    if isinstance(error, OSError) or type(error).__module__.startswith(("scrapy.", "twisted.")):
        return Reason.UNREACHABLE
    return Reason.ERROR
