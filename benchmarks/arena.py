"""The services that all contenders share, and one measured crawl."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests import services
from tests.dealers.server import run_as_process

if TYPE_CHECKING:
    from collections import Counter

    from benchmarks.contenders import Contender
    from tests.dealers.server import Remote

PHOTOS_PER_CAR = 10
PHOTO_BYTES = 215_000
PER_PAGE = 40
_S3_FLAGS = ("--ignore-checksum",)
"""The server does not read again what it has just written: that took a third of its CPU, on the cores of those who are
measured."""
_S3_ENV = {"GOMAXPROCS": "1"}
"""Nor does it take more than one core at a time: a real one takes none of theirs."""


class BenchmarkError(Exception):
    """A crawl did not do what it should: its numbers would mean nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What one crawl has cost."""

    photos: int
    """On the site."""
    wall: float
    """Seconds, the whole process, imports included."""
    cpu: float
    """Seconds, user and system, the whole process."""
    start_cpu: float
    """CPU seconds before the spider was open: imports, opening the pipelines."""
    crawl_wall: float
    """Seconds from the open spider to the closed one, when everything is kept."""
    crawl_cpu: float
    """CPU seconds between the same two: neither imports nor the end of the interpreter."""
    peak_memory: int
    """Bytes."""
    asked: Counter[str]
    """The dealer's answers by kind."""

    @property
    def cpu_per_photo(self) -> float:
        """Milliseconds, between the open and the closed spider."""
        return 1000 * self.crawl_cpu / self.photos

    @property
    def rate(self) -> float:
        """Photos a second, from the open spider to the closed one."""
        return self.photos / self.crawl_wall


class Arena:
    """One site, one S3 server, perhaps one PostgreSQL server; a fresh bucket and database for each :class:`Home`."""

    def __init__(self, photos: int, *, postgresql: bool = False) -> None:
        """Make a site of *photos* photos (rounded to whole cars)."""
        self.cars = max(1, round(photos / PHOTOS_PER_CAR))
        self.photos = self.cars * PHOTOS_PER_CAR
        self._with_postgresql = postgresql
        self._stack = contextlib.ExitStack()
        self._homes = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carscraper-bench-")))
            in_memory = _in_memory(self.photos * PHOTO_BYTES)
            bucket = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carscraper-bench-", dir=in_memory)))
            self.site: Remote = stack.enter_context(
                run_as_process(
                    "tests.dealers.bilasolur",
                    *("--cars", str(self.cars), "--photos", str(PHOTOS_PER_CAR), "--per-page", str(PER_PAGE)),
                    *("--photo-bytes-average", str(PHOTO_BYTES)),
                )
            )
            self.s3 = stack.enter_context(services.RcloneS3(bucket / "s3", flags=_S3_FLAGS, env=_S3_ENV))
            self.postgres = stack.enter_context(services.PostgresCluster()) if self._with_postgresql else None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def home(self, contender: Contender) -> Home:
        """Give *contender* an empty bucket, an empty database and a folder."""
        self._homes += 1
        return Home(self, contender, f"run-{self._homes:03}")


def _in_memory(needed: int) -> Path | None:
    """Give a folder for the bucket that takes *needed* bytes and no disk, whose speed is not what is measured."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 2 * needed else None


class Home:
    """Where one contender's crawls leave what they keep; the second crawl finds the first one's."""

    def __init__(self, arena: Arena, contender: Contender, name: str) -> None:
        self._arena = arena
        self.contender = contender
        self._folder = arena.folder / name
        self._folder.mkdir()
        self._bucket = arena.s3.bucket(name)
        time.sleep(1.1)  # the server looks for new folders once a second, and a crawl begins sooner
        self._result = self._folder / "result.json"
        self._database = f"sqlite:///{self._folder / 'cars.db'}"
        if contender.database == "postgresql":
            assert arena.postgres
            self._database = arena.postgres.create_database()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._bucket.folder
        shutil.rmtree(self._bucket.folder)
        shutil.rmtree(self._folder)

    def stored(self) -> int:
        """Count the objects in the bucket."""
        assert self._bucket.folder
        return sum(1 for path in self._bucket.folder.rglob("*") if path.is_file())

    def _env(self, endpoint: str) -> dict[str, str]:
        s3 = self._bucket
        # With this it also starts as a user's does, imports included, and is not forked off one of the test services,
        # whose memory it would have to copy while it is measured.
        env = {"SCRAPY_SETTINGS_MODULE": self.contender.module, "PYTHONHASHSEED": "0"}
        if self.contender.database:
            env |= {**s3.env, "AWS_ENDPOINT_URL": endpoint, "DATABASE_URL": self._database}
        return env

    def _settings(self, endpoint: str) -> dict[str, Any]:
        s3 = self._bucket
        settings = {"BENCHMARK_RESULT": self._result, **self.contender.settings}
        if self.contender.stores and not self.contender.database:
            settings |= {
                "IMAGES_STORE": f"s3://{s3.bucket}/stock/",
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_REGION_NAME": s3.region,
                "AWS_ACCESS_KEY_ID": s3.access_key,
                "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            }
        return settings

    def crawl(self, *, endpoint: str | None = None, profile: Path | None = None) -> Measurement:
        """Crawl the whole site once.

        Args:
            endpoint: another way to the S3 server, such as a counting proxy.
            profile: a file for Scrapy's ``--profile``; the crawl is slower then.

        Raises:
            BenchmarkError: it failed, or left photos behind.
        """
        arena, contender = self._arena, self.contender
        address = endpoint or arena.s3.endpoint
        arena.site.reset()
        self._result.unlink(missing_ok=True)
        done = services.crawl(
            contender.spider,
            *(["--profile", str(profile)] if profile else []),
            spider_arguments={"base_url": arena.site.base_url, **contender.arguments},
            cwd=self._folder,
            env=self._env(address),
            settings=self._settings(address),
            timeout=1200,
            alone=True,
        )
        if done.returncode or not self._result.exists():
            raise BenchmarkError(f"{contender.name}: {done}")
        told = json.loads(self._result.read_text(encoding="utf-8"))
        measurement = Measurement(
            photos=arena.photos,
            wall=done.seconds,
            cpu=done.cpu_seconds,
            start_cpu=told["opened_cpu"],
            crawl_wall=told["closed_at"] - told["opened_at"],
            crawl_cpu=told["closed_cpu"] - told["opened_cpu"],
            peak_memory=max(done.peak_memory, told["peak_memory"]),
            asked=arena.site.served.counts,
        )
        self._check(measurement, told, done)
        return measurement

    def _check(self, measurement: Measurement, told: dict[str, Any], done: services.CompletedCrawl) -> None:
        """Nobody is fast by leaving something out."""
        contender, photos = self.contender, self._arena.photos
        wrong = []
        if told["reason"] != "finished":
            wrong.append(f"it ended with {told['reason']}")
        if told["stats"].get("item_scraped_count") != self._arena.cars:
            wrong.append(f"{told['stats'].get('item_scraped_count')} of {self._arena.cars} cars")
        if contender.stores and self.stored() != photos:
            wrong.append(f"{self.stored()} of {photos} photos on S3")
        if contender.fetches and not contender.stores and measurement.asked["photo"] != photos:
            wrong.append(f"{measurement.asked['photo']} of {photos} photos downloaded")
        if wrong:
            raise BenchmarkError(f"{contender.name}: {', '.join(wrong)}\n{done}")
