"""The site drifts: whatever its pages become, what a crawl keeps of them is whole, or its exit code is not 0.

Each drift meets a fresh database and, unless that is whole, one that a good crawl has filled. There is no exception.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.crawl.world import World, last_words
from tests.dealers.bilasolur import SimulatedBilasolur
from tests.dealers.drifts import DRIFTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests import services

SETTINGS = {"RETRY_TIMES": 1, "CONCURRENT_REQUESTS": 16, "DOWNLOAD_TIMEOUT": 30}
VARYING = {"id", "listing_id", "first_seen_at", "last_seen_at", "scraped_at", "details_at", "card_hash", "created_at"}
VARYING |= {"updated_at", "last_change_at", "link_due"}
"""Columns that tell when something was seen, not what."""


def world_in(folder: Path, site: SimulatedBilasolur) -> World:
    folder.mkdir(exist_ok=True)
    return World(site=site, folder=folder, database_url=f"sqlite:///{folder}/carscraper.db")


def kept(world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the tables hold of cars and photos, times apart."""
    cars = {name: {k: v for k, v in row.items() if k not in VARYING} for name, row in world.listings().items()}
    photos = {name: (row["external_id"], row["status"], row["key"]) for name, row in world.images().items()}
    return cars, photos


@dataclass
class Good:
    """A site as it is known, and what a good crawl of it has kept."""

    site: SimulatedBilasolur
    folder: Path
    cars: dict[str, Any]
    photos: dict[str, Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Good]:
    options: dict[str, Any] = {"cars": 14, "per_page": 6, "photos": 2, "photo_bytes_average": 4_000}
    with SimulatedBilasolur(layout="2026", **options) as site:
        world = world_in(tmp_path_factory.mktemp("good") / "crawl", site)
        world.crawl(settings=SETTINGS)
        cars, photos = kept(world)
        assert (len(cars), len(photos)) == (14, 28)
        yield Good(site, world.folder, cars, photos)
    assert site.errors == []


@pytest.mark.parametrize("drift", DRIFTS)
def test_what_is_kept_of_a_site_that_has_changed_is_whole_or_the_crawl_says_so(
    good: Good, drift: str, tmp_path: Path
) -> None:
    fresh = world_in(tmp_path / "fresh", good.site)
    good.site.drift = drift
    try:
        crawl = fresh.crawl(code=None, settings=SETTINGS)
        cars, photos = kept(fresh)
        if crawl.returncode == 0:  # a later crawl reads the same
            assert cars == good.cars, differences(good.cars, cars)
            assert photos == good.photos
            return
        assert_told(crawl)
        shutil.copytree(good.folder, tmp_path / "later")
        later = world_in(tmp_path / "later", good.site)
        crawl = later.crawl(code=None, settings=SETTINGS)
    finally:
        good.site.drift = ""
    cars, photos = kept(later)
    if crawl.returncode == 0:
        assert cars == good.cars, differences(good.cars, cars)
        assert photos == good.photos
        return
    assert_told(crawl)
    # Nothing that is known is lost.
    assert cars.keys() == good.cars.keys()
    assert all(row["is_active"] for row in cars.values())
    assert {photo: known for photo, known in photos.items() if photo in good.photos} == good.photos
    worse = {
        (column, cid)
        for cid, row in good.cars.items()
        for column, value in row.items()
        if value is not None and cars[cid][column] is None
    }
    assert not worse


def assert_told(crawl: services.CompletedCrawl) -> None:
    assert crawl.returncode in {3, 4}, crawl
    assert any(words in last_words(crawl) for words in ("not complete: ", "not kept: ", "failed. ", "limit not kept: "))


def differences(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """The first columns that differ, for people."""
    if expected.keys() != found.keys():
        return f"{len(found)} of {len(expected)} cars"
    differing: dict[str, tuple[Any, Any]] = {}
    for cid, row in expected.items():
        for column, value in row.items():
            if found[cid][column] != value:
                differing.setdefault(column, (value, found[cid][column]))
    return ", ".join(f"{column}: {was!r} → {now!r}" for column, (was, now) in differing.items())
