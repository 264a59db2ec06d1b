"""The pages of our spider without our pipelines: the same form, cards and details pages, read by the same code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from carscraper.spiders.bilasolur import BilasolurSpider

if TYPE_CHECKING:
    from collections.abc import Iterable


class EmptyLedger:
    """Knows no car and costs nothing."""

    async def card_states(self, source: str, external_ids: Iterable[str]) -> dict[str, Any]:
        return {}

    async def active_cars(self, source: str) -> list[Any]:
        return []


class PlainBilasolurSpider(BilasolurSpider):
    """Yields the same items, image_urls and all; asks no database."""

    name = "plain_bilasolur"
    ledger = EmptyLedger()  # type: ignore[assignment]
