"""First station: nothing that can't be true or can't be written goes on."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from scrapy.exceptions import DropItem

from carscraper.items import CarItem
from carscraper.parsing import clean_text
from carscraper.vehicles import canonical

if TYPE_CHECKING:
    from typing import Self

    from scrapy.crawler import Crawler

_LONGEST = {"description": 20_000, "url": 2_000}
_LONGEST_OTHER = 300
# Outside these a number is a mistake of the page or of our reading: unknown is better than wrong.
_PLAUSIBLE: dict[str, tuple[float, float]] = {
    "year": (1900, 2100),
    "registration_month": (1, 12),
    "price": (1, 10**10),
    "price_before_offer": (1, 10**10),
    "kilometers": (0, 5_000_000),
    "doors": (1, 9),
    "seats": (1, 99),
    "horsepower": (1, 5_000),
    "city_consumption": (0.1, 100),
}


class ValidatePipeline:
    """Cleans text (NUL, control characters, length) and drops implausible numbers."""

    def __init__(self, crawler: Crawler) -> None:
        """Take the crawler for its stats."""
        self._stats = crawler.stats

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """No settings."""
        return cls(crawler)

    def process_item(self, item: Any) -> Any:
        """Clean *item* in place.

        Raises:
            DropItem: it does not say which car it is.
        """
        if isinstance(item, CarItem):
            self._clean(item)
            if item.seen and item.make and not canonical(item.make, item.model).known:
                self._stats.inc_value("carscraper/makes/unknown")
        if not (item.source and item.external_id and item.url):
            self._stats.inc_value("carscraper/cars/failed")
            raise DropItem(f"A car without source, id or address: {item.url!r}")
        return item

    def _clean(self, item: CarItem) -> None:
        for field in fields(item):
            value = getattr(item, field.name)
            if isinstance(value, str):
                text = clean_text(value)
                setattr(item, field.name, text[: _LONGEST.get(field.name, _LONGEST_OTHER)] if text else None)
        for name, (low, high) in _PLAUSIBLE.items():
            value = getattr(item, name)
            if value is not None and not low <= value <= high:
                self._stats.inc_value(f"carscraper/implausible/{name}")
                setattr(item, name, None)
