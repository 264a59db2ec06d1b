"""Feeds on S3 (``-o s3://bucket/cars.csv``): Scrapy's storage, with this program's server, region and credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy.extensions.feedexport import S3FeedStorage

from carscraper.settings import Secret

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler


class S3Feed(S3FeedStorage):
    """Signs with what the settings hold; Scrapy's own would sign with the ``***`` that a secret shows of itself."""

    @classmethod
    def from_crawler(cls, crawler: Crawler, uri: str, *, feed_options: dict[str, Any] | None = None) -> Self:
        """Read the ``AWS_…`` settings; keys in *uri* win."""
        settings = crawler.settings

        def plain(name: str) -> str | None:
            value = settings.get(name)
            return value.reveal() if isinstance(value, Secret) else value

        return cls(
            uri,
            access_key=plain("AWS_ACCESS_KEY_ID"),
            secret_key=plain("AWS_SECRET_ACCESS_KEY"),
            session_token=plain("AWS_SESSION_TOKEN"),
            endpoint_url=settings.get("AWS_ENDPOINT_URL"),
            region_name=settings.get("AWS_S3_REGION"),
            feed_options=feed_options,
        )
