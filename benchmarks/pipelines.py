"""The least that a media pipeline can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy.http import Request
from scrapy.pipelines.media import MediaPipeline

if TYPE_CHECKING:
    from scrapy.http import Response

    from carscraper.items import CarItem


class DownloadOnlyPipeline(MediaPipeline):
    """Downloads every photo and lets go of it: what Scrapy itself needs, the limit for everybody else."""

    def get_media_requests(self, item: CarItem, info: Any) -> list[Request]:
        return [Request(url) for url in item.image_urls]

    async def media_downloaded(  # type: ignore[override]
        self, response: Response, request: Request, info: Any, *, item: Any = None
    ) -> None:
        assert response.status == 200, response

    def file_path(self, *_: Any, **__: Any) -> str:
        return ""

    def media_to_download(self, *_: Any, **__: Any) -> None:
        """Nothing is known: download."""

    def media_failed(self, failure: Any, request: Request, info: Any) -> Any:
        raise failure.value

    def image_downloaded(self, *_: Any, **__: Any) -> None:
        """Never asked."""

    def item_completed(self, results: list[Any], item: CarItem, info: Any) -> CarItem:
        return item
