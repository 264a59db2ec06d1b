"""``python -m benchmarks.backfill``: how many photos a minute a backfill moves where every answer takes its time."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.arena import PHOTO_BYTES, PHOTOS_PER_CAR, BenchmarkError
from benchmarks.report import Table
from tests import services
from tests.crawl.legacy import Legacy, old_url, upgrade
from tests.crawl.world import World
from tests.dealers.server import run_as_process

if TYPE_CHECKING:
    from collections import Counter

PLANNED = (120, 150)
"""Photos a minute that the earlier Node.js migration planned for."""
AT_ONCE = 10
"""Photos downloaded, and photos uploaded, at the same time."""
SETTINGS = {
    "DOWNLOAD_DELAY": 0,
    "IMAGES_DOWNLOAD_DELAY": 0,
    "AUTOTHROTTLE_ENABLED": "false",
    "IMAGES_CONCURRENCY": AT_ONCE,
    "S3_MAX_PARALLEL_UPLOADS": AT_ONCE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one backfill has cost."""

    photos: int
    wall: float
    """Seconds, the whole process, imports included."""
    crawl_wall: float
    """Seconds from the open spider to the closed one, when everything is kept."""
    cpu: float
    """Seconds, the whole process."""
    peak_memory: int
    """Bytes."""
    uploads_at_once: int
    """The most requests to S3 that were under way at one time."""
    asked: Counter[str]
    """The dealer's answers by kind."""

    @property
    def a_minute(self) -> float:
        """Photos a minute from beginning to end, start-up included."""
        return 60 * self.photos / self.wall


def measure(options: argparse.Namespace) -> Run:
    """Keep every photo of a table whose photo addresses have all expired.

    Raises:
        BenchmarkError: the backfill failed or left photos behind.
    """
    cars = max(1, round(options.photos / PHOTOS_PER_CAR))
    site = ("--cars", str(cars), "--photos", str(PHOTOS_PER_CAR), "--photo-bytes-average", str(PHOTO_BYTES))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carscraper-bench-")))
        dealer = stack.enter_context(run_as_process("tests.dealers.bilasolur", *site))
        s3 = stack.enter_context(services.RcloneS3(folder / "s3")).bucket()
        proxy = stack.enter_context(services.S3Proxy(s3.endpoint))
        world = World(site=dealer, folder=folder, database_url=f"sqlite:///{folder / 'cars.db'}")  # type: ignore[arg-type]
        fill(world)
        dealer.expire_all()
        dealer.page_latency = dealer.photo_latency = options.dealer / 1000
        proxy.delay(options.s3 / 1000)
        told = folder / "told.json"
        done = services.crawl(
            "backfill",
            spider_arguments={"base_url": dealer.base_url, "limit": 0},
            cwd=folder,
            env=s3.via(proxy).env | {"DATABASE_URL": world.database_url, "SCRAPY_SETTINGS_MODULE": "benchmarks.ours"},
            settings=SETTINGS | {"BENCHMARK_RESULT": told},
            timeout=1200,
            alone=True,
        )
        stored, photos = len(s3.keys()), cars * PHOTOS_PER_CAR
        if done.returncode or stored != photos:
            raise BenchmarkError(f"{stored} of {photos} photos on S3\n{done}")
        meter = json.loads(told.read_text(encoding="utf-8"))
        return Run(
            photos=photos,
            wall=done.seconds,
            crawl_wall=meter["closed_at"] - meter["opened_at"],
            cpu=done.cpu_seconds,
            peak_memory=max(done.peak_memory, meter["peak_memory"]),
            uploads_at_once=proxy.max_parallel,
            asked=dealer.served.counts,
        )


def fill(world: World) -> None:
    """Make the earlier scraper's table, a row for every car, and bring it up to date."""
    Legacy(world).add_all(
        {
            "source": "Bilasolur",
            "url": old_url(world, car["cid"]),
            "image_url": f"{world.site.base_url}/CarImage.aspx?s=16&c={car['cid']}&p={car['photos'][0]['p']}&w=784",
            "make": car["make"].upper(),
            "model": car["model"],
            "year": car["year"],
            "is_active": True,
        }
        for car in world.site.cars
    )
    upgrade(world)


def table(run: Run, options: argparse.Namespace) -> Table:
    """Lay it out beside the plan."""
    low, high = PLANNED
    return Table(
        f"Backfill of {run.photos:,} photos of {PHOTO_BYTES // 1000} KB: {options.dealer} ms for every answer of the "
        f"dealer, {options.s3} ms of S3, {AT_ONCE} at once, politeness off",
        [
            ["", "photos a minute", "seconds", "without start-up", "CPU s", "peak MB"],
            [
                "scrapy crawl backfill",
                f"{run.a_minute:,.0f}",
                f"{run.wall:.1f}",
                f"{run.crawl_wall:.1f}",
                f"{run.cpu:.1f}",
                f"{run.peak_memory / 1e6:.0f}",
            ],
            [
                "the earlier Node.js migration, as planned",
                f"{low}–{high}",
                f"{60 * run.photos / high:.0f}–{60 * run.photos / low:.0f}",
                "",
                "",
                "",
            ],
        ],
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backfill", description=(__doc__ or "").partition(":")[2]
    )
    add = parser.add_argument
    add("--photos", type=int, default=1500, help="default 1500")
    add("--dealer", type=int, default=100, metavar="MS", help="latency of every answer of the dealer (default 100)")
    add("--s3", type=int, default=30, metavar="MS", help="latency of every answer of S3 (default 30)")
    add("--quick", action="store_true", help="40 photos: only shows that it works")
    options = parser.parse_args(argv)
    if options.quick:
        options.photos = min(options.photos, 40)
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    options = parse(argv)
    try:
        run = measure(options)
    except (BenchmarkError, services.MissingService) as error:
        print(f"benchmarks.backfill: {error}", file=sys.stderr)
        return 1
    print(table(run, options).plain())
    pages = run.asked["details"]
    print(f"\n{pages:,} pages and {run.asked['photo']:,} photos asked of the dealer, on {os.cpu_count()} cores shared")
    print(f"with the simulated dealer and the S3 server; at most {run.uploads_at_once} requests to S3 at a time.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
