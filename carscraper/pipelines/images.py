"""Third station: every photo of a car is fetched now, within the crawl, checked, and stored for good."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import defaultdict
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
from scrapy.utils.datatypes import SequenceExclude

from carscraper.addon import aborting, for_our_spiders, stop_as_failed, stopped_by_shortage
from carscraper.db import photos
from carscraper.db.ledger import Ledger
from carscraper.exceptions import (
    BlockedAddressError,
    DatabaseUnavailableError,
    ImageRejectedError,
    RobotsUnreachableError,
    StoreError,
)
from carscraper.items import CarImage, CarItem, Reason, Status
from carscraper.pipelines.cars import count_photo
from carscraper.pipelines.keeping import KeepingRules, PhotoKeeper
from carscraper.state import state_of
from carscraper.storage.store import build_store

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler
    from scrapy.http import Response

    from carscraper.base_spiders.base import CarscraperSpider

logger = logging.getLogger(__name__)

_SUCCESS = range(200, 300)
_PART = 206
_LARGE = 1024**2  # bytes
_ANY_BUT_REDIRECTS = SequenceExclude(range(300, 400))
# What a dead address answers: the car's own page may have a fresh one.
_EXPIRED = frozenset({"http-401", "http-403", "http-404", Reason.NOT_AN_IMAGE, Reason.PLACEHOLDER})
# The connection may have broken without HTTP noticing: asked once more.
_BROKEN = frozenset({Reason.TRUNCATED, Reason.EMPTY})


class CarImagesPipeline:
    """Fetches what is not stored of a car that was opened, inspects the bytes and stores them as served.

    Every ``CarImage`` of the item leaves with an outcome, and that is in its row. A failed photo never stops its car.
    """

    def __init__(self, crawler: Crawler) -> None:
        """Take the crawler; the store is built in :meth:`open_spider`, where a mistake can end the crawl."""
        self.crawler = crawler
        self._keeper: PhotoKeeper | None = None
        self._visits: dict[tuple[str, str], asyncio.Task[dict[str, CarImage]]] = {}

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read no settings yet."""
        for_our_spiders(crawler)
        return cls(crawler)

    async def open_spider(self) -> None:
        """Check the settings, the database and the store, before anything is fetched."""
        settings = self.crawler.settings
        self.spider: CarscraperSpider = self.crawler.spider  # type: ignore[assignment]
        with aborting(self.crawler):
            in_flight = settings.getint("IMAGES_MAX_IN_FLIGHT")
            self._gate = asyncio.Semaphore(in_flight)
            # Cars behind it hold no tasks for their photos: what waits costs little memory.
            self._cars = asyncio.Semaphore(in_flight)
            # Without a delay Scrapy 2.19 starts all that is queued at once, whatever the slot's concurrency is.
            at_once = settings.getint("IMAGES_CONCURRENCY")
            self._downloads: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(at_once))
            state_of(self.crawler).addresses.allow_all(settings.getlist("IMAGES_ALLOWED_HOSTS"))
            await Ledger.of(self.crawler).open()
            store = build_store(settings)
            if store:
                self._keeper = PhotoKeeper(self.crawler, store, KeepingRules.from_settings(settings))
                await self._keeper.open()

    async def close_spider(self) -> None:
        """Give everything back."""
        if self._keeper:
            await self._keeper.close()

    # --- one car ---

    async def process_item(self, item: Any) -> Any:
        """See to it that every photo of the car has an outcome."""
        if not isinstance(item, CarItem) or item.listing_id is None:
            return item
        wanted = [image for image in item.images if image.status == Status.PENDING and image.reason is None]
        if self._keeper is None:
            item.images = [image for image in item.images if image.on_page]
            self.crawler.stats.inc_value("carscraper/images/seen", sum(image.on_page for image in wanted))
            return item
        await self.keeper.publish(item)
        if wanted:
            async with self._cars:
                await asyncio.gather(*(self._see_to(image, item) for image in wanted))
            self._visits.pop((item.source, item.external_id), None)
            unwritten = [image for image in wanted if image.attempts and image.key is None]
            await asyncio.gather(*(self.keeper.write_down(image, item) for image in unwritten))
        for image in wanted:
            count_photo(self.crawler, item, image, is_new=False)
        return item

    # --- one photo ---

    async def _see_to(self, image: CarImage, item: CarItem) -> None:
        """Fetch and keep one photo; whatever stops it becomes its outcome, nothing is raised."""
        try:
            request = self._request(image, item)
        except ValueError:
            image.attempts += 1
            _fail(image, Reason.BAD_ADDRESS)
            return
        downloads = self._downloads[request.meta["download_slot"]]
        # In this order: what waits for its dealer takes no room from the others.
        await downloads.acquire()
        await self._gate.acquire()
        try:
            try:
                if self._is_stopping():
                    return  # stays pending: work for the next crawl
                image.attempts += 1
                response = await self.crawler.engine.download_async(request)
            finally:
                downloads.release()
            await self._keep_or_fail(response, image, item)
        except Exception as error:
            self._failed(error, image)
        finally:
            self._gate.release()

    def _request(self, image: CarImage, item: CarItem) -> Request:
        if urlsplit(image.source_url).scheme not in {"http", "https"}:
            raise ValueError("not an address of the web")
        referer = {"Referer": item.url} if item.url.startswith("http") else {}
        return Request(
            image.source_url,
            callback=NO_CALLBACK,
            headers={"Accept": "image/*", **referer},
            meta={
                "handle_httpstatus_list": _ANY_BUT_REDIRECTS,
                "download_slot": self.spider.photo_slot(item.source),
                "allow_offsite": True,
                "download_maxsize": self.keeper.rules.inspection["max_bytes"],
                "is_whole": self._is_whole,
                "autothrottle_dont_adjust_delay": True,  # the slot has its own rate, see addon
            },
        )

    @property
    def keeper(self) -> PhotoKeeper:
        """What keeps the photos, if they are kept anywhere."""
        assert self._keeper is not None
        return self._keeper

    def _is_stopping(self) -> bool:
        state = state_of(self.crawler)
        failed_early = state.failed is not None and state.stopping is not None
        return failed_early or not self.crawler.engine.running or bool(self.keeper.store.refused)

    def _is_whole(self, data: bytes) -> bool:
        """Return whether *data* is a photo to its end, whatever length was announced for it."""
        try:
            self.keeper.inspect(data)
        except ImageRejectedError as error:
            return error.reason not in _BROKEN | {Reason.NOT_AN_IMAGE}
        return True

    async def _keep_or_fail(self, response: Response, image: CarImage, item: CarItem) -> None:
        """Keep the photo; an address that has expired gets one fresh one from the car's page."""
        rejected = await self._keep(response, image, item)
        if rejected and rejected.reason in _EXPIRED | _BROKEN:
            if self._is_stopping():
                return  # stays pending: there is no time for a fresh address, the next crawl asks for one
            rejected = await self._try_again(rejected, image, item)
        if rejected:
            _fail(image, rejected.reason)
            logger.info("Photo failed (%s): %r of %r", rejected, image.source_url, item.url)

    async def _keep(self, response: Response, image: CarImage, item: CarItem) -> ImageRejectedError | None:
        """Return why an answer is no photo worth keeping; ``None`` once it is kept.

        Raises:
            StoreError: the store and the spool do not take it.
        """
        if response.status not in _SUCCESS:
            return ImageRejectedError(f"http-{response.status}", "the dealer's answer")
        if response.status == _PART and not is_whole_range(response.headers.get("Content-Range")):
            return ImageRejectedError(Reason.TRUNCATED, "the dealer sends a part of it")
        try:
            await self.keeper.keep(response.body, image, item)
        except ImageRejectedError as error:
            return error
        return None

    # --- what goes wrong ---

    async def _try_again(
        self, rejected: ImageRejectedError, image: CarImage, item: CarItem
    ) -> ImageRejectedError | None:
        """Fetch the photo once more, from a fresh address where the old one has expired.

        Returns:
            Why it is not kept all the same. What the dealer says of a fresh address is for good; without the word of
            the car's page nothing is.
        """
        if rejected.reason in _EXPIRED:
            if item.gone:
                return ImageRejectedError(
                    Reason.NO_FRESH_ADDRESS, f"{rejected.reason}, and the car's page says it is gone"
                )
            if not image.on_page:
                return ImageRejectedError(
                    Reason.OFF_PAGE, f"{rejected.reason}, and the car's page does not show the photo"
                )
            if self.spider.page_url(item) is None:
                return rejected  # nobody could give another address
            fresh = await self._visit(item)
            if not fresh:
                return ImageRejectedError(
                    Reason.NO_FRESH_ADDRESS, f"{rejected.reason}, and the car's page shows no photo"
                )
            if image.identity not in fresh:
                return rejected  # the dealer has taken it off the page
            image.source_url = fresh[image.identity].source_url
        try:
            response = await self.crawler.engine.download_async(self._request(image, item))
        except Exception as error:
            if stopped_by_shortage(self.crawler, error):
                raise
            return ImageRejectedError(download_reason(error), f"{rejected.reason}, and then {error}")
        return await self._keep(response, image, item)

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
            if stopped_by_shortage(self.crawler, error):
                raise
            logger.info("No fresh addresses from %r (%s: %s)", item.url, type(error).__name__, error)
            return {}

    def _failed(self, error: Exception, image: CarImage) -> None:
        if stopped_by_shortage(self.crawler, error):
            image.attempts -= 1  # nobody is to blame: it is as if it had not been asked for
            image.status, image.reason = Status.PENDING, None
            image.key = image.url = image.store = image.sha256 = None
            logger.debug("Photo %s waits: %s", image.source_url, error)
            return
        if isinstance(error, StoreError | DatabaseUnavailableError):
            image.status, image.reason = Status.PENDING, Reason.STORE_ERROR
            image.key = image.url = image.store = image.sha256 = None
            if refused := self.keeper.store.refused:
                stop_as_failed(self.crawler, refused, reason="store_refused")
            logger.debug("Photo %s waits: %s", image.source_url, error)
            return
        reason = download_reason(error)
        _fail(image, reason)
        if reason == Reason.ERROR:
            logger.error("Photo %r failed by a mistake of carscraper", image.source_url, exc_info=error)
        else:
            logger.info("Photo failed (%s): %r", reason, image.source_url)


def _fail(image: CarImage, reason: str) -> None:
    image.status, image.reason = Status.FAILED, reason
    served = image.source_sha256
    for name in photos.OF_BYTES:
        setattr(image, name, None)
    if reason == Reason.DELETED:
        image.source_sha256 = served  # a tombstone says of which bytes


def is_whole_range(content_range: bytes | None) -> bool:
    """Return whether a 206 answer has all of it, as far as it says.

    >>> [is_whole_range(each) for each in (b"bytes 0-9/10", b"bytes 0-9/*", None, b"bytes 0-8/10", b"bytes 1-9/10")]
    [True, True, True, False, False]
    """
    found = re.fullmatch(rb"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*", content_range or b"", re.IGNORECASE)
    if found is None:
        return True  # the bytes will tell
    first, last, size = found.groups()
    return int(first) == 0 and (size == b"*" or int(last) + 1 == int(size))


def download_reason(error: BaseException) -> str:
    """Return the :class:`Reason` for which nothing came."""
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
