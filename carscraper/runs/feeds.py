"""Scrapy's feeds: exporters (``-o cars.csv``) with the fields of a run's items file, and S3 with our credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from scrapy.exporters import CsvItemExporter, JsonItemExporter, JsonLinesItemExporter, XmlItemExporter
from scrapy.extensions.feedexport import S3FeedStorage

from carscraper.items import CarItem, GoneCar
from carscraper.runs.outputs import CAR_FIELDS, record_of
from carscraper.settings import Secret

if TYPE_CHECKING:
    from io import BytesIO
    from typing import Self

    from scrapy.crawler import Crawler

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_OF_PHOTOS = ("photos", "photos_stored", "image_urls", "image_keys", "image_statuses")


def missing_feeds(crawler: Crawler) -> int:
    """Return how many of the feeds were not seen to be stored."""
    stats = crawler.stats.get_stats()
    stored = sum(number for name, number in stats.items() if name.startswith("feedexport/success_count/"))
    return max(0, len(crawler.settings.getdict("FEEDS")) - stored) if stats.get("item_scraped_count") else 0


def row_of(item: CarItem | GoneCar) -> dict[str, Any]:
    """Return *item* as cells: of its photos their numbers, and what names them, separated by spaces in their order.

    >>> row_of(GoneCar(source="BR", external_id="1", url="https://br.is/1"))["gone"]
    True
    """
    row = record_of(item)
    images = row.pop("images", [])
    # The permanent URL; where the store has none, a photo has its key only.
    row["photos"] = len(images)
    row["photos_stored"] = sum(each["status"] == "stored" for each in images)
    for column, name in (("image_urls", "url"), ("image_keys", "key")):
        row[column] = " ".join(each[name] for each in images if each["status"] == "stored" and each[name])
    row["image_statuses"] = " ".join(each["reason"] or each["status"] for each in images)
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: Any) -> Any:
    """Return *value* as a spreadsheet may show it: text that begins like a formula is none."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


class CarCsvExporter(CsvItemExporter):
    """CSV with the same columns in every file, whichever car comes first."""

    def __init__(self, file: BytesIO, **kwargs: Any) -> None:
        """Take what Scrapy's exporter takes; ``FEED_EXPORT_FIELDS`` chooses among the columns."""
        super().__init__(file, **kwargs)
        self.fields_to_export = self.fields_to_export or [*CAR_FIELDS, "gone", *_OF_PHOTOS]

    def export_item(self, item: Any) -> None:
        """Write one row."""
        super().export_item(row_of(item) if isinstance(item, CarItem | GoneCar) else item)


class _Records:
    """Exports a car as its record."""

    def export_item(self, item: Any) -> None:
        """Write one object."""
        super().export_item(record_of(item) if isinstance(item, CarItem | GoneCar) else item)  # type: ignore[misc]


class CarJsonExporter(_Records, JsonItemExporter):
    """JSON."""


class CarJsonLinesExporter(_Records, JsonLinesItemExporter):
    """JSON, an object a line."""


class CarXmlExporter(XmlItemExporter):
    """XML, without elements for what is unknown."""

    def export_item(self, item: Any) -> None:
        """Write one element."""
        super().export_item(_known(record_of(item)) if isinstance(item, CarItem | GoneCar) else item)


def _known(value: Any) -> Any:
    """Return a record without its unknown values.

    >>> _known({"make": None, "images": [{"url": None, "position": 0}]})
    {'images': [{'position': 0}]}
    """
    if isinstance(value, dict):
        return {name: _known(each) for name, each in value.items() if each is not None}
    return [_known(each) for each in value] if isinstance(value, list) else value


class S3Feed(S3FeedStorage):
    """Signs with what the settings hold; Scrapy's own would sign with the ``***`` that a secret shows of itself."""

    @classmethod
    def from_crawler(cls, crawler: Crawler, uri: str, *, feed_options: dict[str, Any] | None = None) -> Self:
        """Read the ``AWS_…`` settings; keys in *uri*, percent-encoded as an address has them, win."""
        from carscraper.storage.client import Server  # noqa: PLC0415 - only those who use S3

        settings = crawler.settings
        parts = urlsplit(uri)

        def plain(name: str) -> str | None:
            value = settings.get(name)
            return value.reveal() if isinstance(value, Secret) else value

        server, own = Server.from_settings(settings), bool(parts.password)
        return cls(
            urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])),
            access_key=unquote(parts.username or "") if own else plain("AWS_ACCESS_KEY_ID"),
            secret_key=unquote(parts.password or "") if own else plain("AWS_SECRET_ACCESS_KEY"),
            session_token=None if own else plain("AWS_SESSION_TOKEN"),
            endpoint_url=server.endpoint,
            region_name=server.region,
            feed_options=feed_options,
        )
