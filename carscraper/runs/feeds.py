"""Scrapy's feeds: exporters (``-o cars.csv``) with the fields of a run's items file, and S3 with our credentials."""

from __future__ import annotations

from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from scrapy.exporters import CsvItemExporter, JsonItemExporter, JsonLinesItemExporter, XmlItemExporter
from scrapy.extensions.feedexport import BlockingFeedStorage

from carscraper.items import CarItem, GoneCar
from carscraper.runs.outputs import CAR_FIELDS, record_of

if TYPE_CHECKING:
    from io import BytesIO
    from typing import Self

    from scrapy.crawler import Crawler

    from carscraper.storage.client import S3Options

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


class S3Feed(BlockingFeedStorage):
    """Puts a feed as photos are put: with the settings' server, credentials, certificates and encryption.

    Scrapy's own would sign with the ``***`` that a secret shows of itself.
    """

    def __init__(self, options: S3Options, key: str) -> None:
        """Take the bucket and the object's name in it."""
        self._options = options
        self._key = key

    @classmethod
    def from_crawler(cls, crawler: Crawler, uri: str, *, feed_options: dict[str, Any] | None = None) -> Self:
        """Read the ``AWS_…`` settings; keys in *uri*, percent-encoded as an address has them, win.

        Raises:
            ConfigurationError: there are no credentials, or a setting is wrong.
        """
        from carscraper.storage.client import S3Options  # noqa: PLC0415 - it takes boto3 with it
        from carscraper.storage.credentials import session  # noqa: PLC0415 - the same

        parts = urlsplit(uri)
        options = S3Options.from_settings(crawler.settings, bucket=parts.netloc.rpartition("@")[2])
        if parts.password:
            names = unquote(parts.username or ""), unquote(parts.password)
            options = replace(options, access_key=names[0], secret_key=names[1], session_token=None, profile=None)
        session(options)
        return cls(options, parts.path[1:])

    def _store_in_thread(self, file: IO[bytes]) -> None:
        from carscraper.storage.answers import explained_s3  # noqa: PLC0415 - the same
        from carscraper.storage.client import open_client  # noqa: PLC0415

        with file, explained_s3(self._options.bucket, "s3:PutObject"):
            file.seek(0)
            open_client(self._options).upload_fileobj(
                file, self._options.bucket, self._key, ExtraArgs=self._options.sse_arguments
            )
