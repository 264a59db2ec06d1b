"""A dealer, a database, a bucket behind a faulty proxy, and the one thing that must hold whatever happens."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy

from tests import services

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.dealers.bilasolur import SimulatedBilasolur

WIDTH = 400
"""Of the photos that are asked of the dealer: small ones, the crawls are many."""
IN_FLIGHT = 48
"""``IMAGES_MAX_IN_FLIGHT``."""
FAST: dict[str, Any] = {
    "DOWNLOAD_DELAY": 0,
    "AUTOTHROTTLE_ENABLED": "false",
    "RETRY_BACKOFF": 0.05,
    "IMAGES_WIDTH": WIDTH,
    "IMAGES_MAX_IN_FLIGHT": IN_FLIGHT,
}


@dataclass(kw_only=True)
class World:
    """All that a crawl meets, and how to start one in it."""

    site: SimulatedBilasolur
    database_url: str
    s3: services.S3
    """The bucket itself."""
    proxy: services.S3Proxy
    """What crawls talk to instead."""
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        return {**self.s3.via(self.proxy).env, "DATABASE_URL": self.database_url}

    def _options(self, settings: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
        return {
            "cwd": self.folder,
            "env": {**self.env, **env},
            "settings": {**FAST, **self.settings, **settings},
            "spider_arguments": {"base_url": self.site.base_url},
        }

    def start(self, *, env: Mapping[str, str] | None = None, **settings: Any) -> services.RunningCrawl:
        """A crawl under way, to be used as a context manager."""
        return services.start_crawl("bilasolur", **self._options(settings, env or {}))

    def crawl(
        self, *, timeout: float = 60, env: Mapping[str, str] | None = None, alone: bool = False, **settings: Any
    ) -> Ended:
        """A crawl to its end; *alone*, as a process of its own, where its threads may hang."""
        options = self._options(settings, env or {})
        return ended(services.crawl("bilasolur", timeout=timeout, alone=alone, **options))

    def photos_served(self) -> int:
        return self.site.served.counts["photo"]

    def wait_for_photos(self, number: int, running: services.RunningCrawl) -> None:
        """Until the dealer was asked for so many photos."""
        services.wait_until(
            lambda: self.photos_served() >= number or not running.running, 30, f"{number} photos to be asked for"
        )
        assert running.running, running.wait()

    def wait_for_puts(self, number: int, running: services.RunningCrawl) -> None:
        """Until so many photos are in the bucket."""
        services.wait_until(
            lambda: self.puts(200) >= number or not running.running, 30, f"{number} photos to be stored"
        )
        assert running.running, running.wait()

    def puts(self, status: int | None = None) -> int:
        return sum(
            request.method == "PUT" and status in {None, request.status} for request in list(self.proxy.requests)
        )

    def spooled_uploads(self) -> list[Path]:
        return sorted(self.folder.glob("var/spool/uploads-*/*.upload"))

    def spooled_cars(self) -> list[Path]:
        return sorted(self.folder.glob("var/spool/cars-*"))

    def rows(self, statement: str, **values: Any) -> list[Any]:
        """The rows of a query."""
        engine = sqlalchemy.create_engine(self.database_url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            return list(connection.execute(sqlalchemy.text(statement), values))

    def statuses(self) -> Counter[tuple[str, str | None]]:
        """How many photos of each status and reason."""
        return Counter((row.status, row.reason) for row in self.rows("SELECT status, reason FROM car_images"))

    def stored(self) -> set[str]:
        """The identities of the photos whose rows say that they are stored."""
        return {row.identity for row in self.rows("SELECT identity FROM car_images WHERE status = 'stored'")}

    def finish(self, *, have: set[str] | None = None, **settings: Any) -> Ended:
        """One more crawl without faults; it makes all complete, says so, and does not fetch again what we *have*."""
        self.proxy.heal()
        self.site.clear_faults()
        self.site.photo_latency = self.site.page_latency = 0
        before = Counter(self.site.served.photos)
        done = self.crawl(**settings)
        assert done.code == 0, done
        assert_nothing_lost(self, complete=True)
        asked = {photo for photo, number in self.site.served.photos.items() if number > before[photo]}
        assert not asked & (have or set()), "photos that were safe were fetched again"
        assert not self.spooled_uploads()
        assert not self.spooled_cars()
        return done


@dataclass(frozen=True)
class Ended:
    """How a crawl ended, as a person sees it."""

    crawl: services.CompletedCrawl
    code: int
    said: str
    """The verdict: the last lines, one string."""

    def count(self, *words: str) -> int:
        """How many lines have all these words."""
        return sum(all(word in line for word in words) for line in self.crawl.stderr.splitlines())

    def no_errors(self) -> None:
        """No line is an error, and no traceback is shown."""
        assert not self.crawl.lines(" ERROR: "), self
        assert "Traceback" not in self.crawl.stderr, self

    def __str__(self) -> str:
        return str(self.crawl)


def ended(crawl: services.CompletedCrawl) -> Ended:
    lines = [line.partition("bilasolur: ")[2] for line in crawl.lines("[carscraper.extensions.verdict]")]
    return Ended(crawl, crawl.returncode, " | ".join(lines))


def photo_count(site: SimulatedBilasolur) -> int:
    return sum(len(car.photos) for car in site.cars if not car.sold)


def assert_nothing_lost(world: World, *, complete: bool = False) -> None:
    """What must hold after whatever happened.

    Every photo of every car that has a row has a row; every row that says ``stored`` has its object, and its bytes
    are those that were served; no car has two rows, no photo two objects; the cover is permanent as soon as a photo
    is stored. With *complete* every listed car and photo is there and stored, and no object is nobody's.
    """
    site = world.site
    assert not site.errors
    cars = world.rows("SELECT * FROM car_listings")
    by_id = {car.external_id: car for car in cars}
    assert len(by_id) == len(cars), "a car has two rows"
    images: dict[str, dict[str, Any]] = {car.external_id: {} for car in cars}
    query = "SELECT l.external_id, i.* FROM car_images i JOIN car_listings l ON l.id = i.listing_id"
    for row in world.rows(query):
        assert row.identity not in images[row.external_id], "a photo has two rows"
        images[row.external_id][row.identity] = row
    objects = world.s3.objects()
    contents = Counter((key.rsplit("/", 1)[1].split("_")[0], digest(data)) for key, data in objects.items())
    twice = [content for content, number in contents.items() if number > 1]
    assert not twice, f"one photo under two keys: {twice}"
    listed = {str(car.cid): car for car in site.cars if not car.sold}
    if complete:
        assert by_id.keys() >= listed.keys(), f"cars missing: {listed.keys() - by_id.keys()}"
    used = set()
    for external_id, car in listed.items():
        if external_id not in by_id:
            continue
        rows = images[external_id]
        for photo in car.photos:
            identity = f"{car.cid}/{photo.p}"
            row = rows.get(identity)
            assert row is not None, f"{identity} has no row"
            if row.status != "stored":
                assert row.status == "pending", f"{identity} is {row.status} ({row.reason})"
                assert not complete, f"{identity} is {row.status} ({row.reason})"
                continue
            served = site.photo_bytes(car.cid, photo.p, WIDTH)
            assert row.key in objects, f"{identity} is stored, says its row, but {row.key} is not in the bucket"
            assert objects[row.key] == served, f"{identity}: other bytes than were served"
            assert row.sha256 == row.source_sha256 == digest(served)
            assert row.bytes == len(served)
            assert row.url == permanent(world, row.key)
            used.add(row.key)
        stored = sorted((row for row in rows.values() if row.status == "stored"), key=lambda row: row.position)
        cover = by_id[external_id].image_url
        if stored:
            assert cover == stored[0].url, f"{external_id} shows {cover} though a photo is stored"
        else:
            assert cover.startswith(site.base_url)
    if complete:
        assert objects.keys() == used, "objects without a row"


def permanent(world: World, key: str) -> str:
    return f"{world.proxy.endpoint}/{world.s3.bucket}/{quote(key)}"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def repeatedly(action: Callable[[], object], running: services.RunningCrawl, *, every: float, times: int) -> int:
    """Do it again and again while the crawl runs; how often it was done."""
    done = 0
    while done < times and running.running:
        action()
        done += 1
        time.sleep(every)
    return done
