"""Counting a bucket: every object once, in the right heap."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from carscraper.storage.listing import Listed
from carscraper.storage.statistics import OTHER, PHOTO, THUMBNAIL, Count, counted

if TYPE_CHECKING:
    from collections.abc import Iterator


def one(name: str, size: int = 100, month: int = 11, storage_class: str = "STANDARD") -> Listed:
    return Listed(name, size, "etag", datetime(2026, month, 3, tzinfo=UTC), storage_class)


def photo(number: int = 1, spider: str = "bilasolur") -> str:
    return f"cars/{spider}/2019/kia/rio/{number}_{number:012x}.jpg"


def test_each_object_is_counted_once_by_what_it_is() -> None:
    found = counted(
        [
            one(photo(1), 10, month=9),
            one(photo(2), 20, storage_class="STANDARD_IA"),
            one(photo(3, "br"), 30),
            one("cars/thumbnails/small/" + photo(1).removeprefix("cars/"), 5, storage_class="STANDARD_IA"),
            one("cars/_test/probe", 1),
            one(photo(4).removeprefix("cars/"), 2),
        ],
        "cars/",
        recent_since=datetime(2026, 10, 1, tzinfo=UTC),
    )
    assert found.by_kind == {PHOTO: Count(3, 60), THUMBNAIL: Count(1, 5), OTHER: Count(2, 3)}
    assert found.total == Count(6, 68)
    assert found.by_source == {"bilasolur": Count(2, 30), "br": Count(1, 30)}
    assert found.by_month == {"2026-09": Count(1, 10), "2026-11": Count(2, 50)}
    assert found.of_class() == {"STANDARD": Count(4, 43), "STANDARD_IA": Count(2, 25)}
    assert found.by_class[THUMBNAIL, "STANDARD_IA"] == Count(1, 5)
    assert found.recent == Count(2, 50)
    assert found.by_kind[PHOTO].mean == 20


def test_nothing() -> None:
    found = counted([])
    assert found.total == Count()
    assert found.by_kind[PHOTO].mean == 0


def test_memory_stays_flat() -> None:
    def many(number: int) -> Iterator[Listed]:
        return (one(photo(each)) for each in range(number))

    counted(many(100), "cars/")
    tracemalloc.start()
    counted(many(5_000), "cars/")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
