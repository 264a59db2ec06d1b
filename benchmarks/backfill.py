"""``python -m benchmarks.backfill``: how many photos a minute a backfill moves, and how an archive is migrated."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from benchmarks.arena import PHOTO_BYTES, PHOTOS_PER_CAR, BenchmarkError
from benchmarks.report import Table
from tests import services
from tests.crawl.archives import Archive
from tests.crawl.legacy import Legacy, old_url, upgrade
from tests.crawl.world import World
from tests.dealers.server import run_as_process

if TYPE_CHECKING:
    from collections import Counter

PLANNED = (120, 150)
"""Photos a minute that the earlier Node.js migration planned for."""
AT_ONCE = 10
"""Photos downloaded, and photos uploaded, at the same time."""
DEAD = 1_000
"""One address of so many of an archive is dead."""
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


# --- an archive ---


@dataclass(frozen=True, kw_only=True, slots=True)
class Migration:
    """What the migration of an archive has cost that was killed and taken up again."""

    photos: int
    seconds: tuple[float, float]
    """Of the run that was killed, and of the next."""
    peak_memory: tuple[int, int]
    """Bytes, of both."""
    settled: int
    """Photos that had their outcome when the first was killed."""
    asked_twice: tuple[int, int]
    """Addresses of those, and of others, that were asked for twice."""
    total_off: float
    """How far the first run's total was from the true one after a tenth, as a share of it."""
    left_off: tuple[float, float]
    """How far the time left was from what it took, as a share of that: after a tenth of each run."""


def migrate(options: argparse.Namespace) -> Migration:
    """Keep an archive's photos, of which some are dead and some lot files damaged; kill the first run.

    Raises:
        BenchmarkError: the next run left photos behind.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carscraper-bench-")))
        archive = stack.enter_context(Archive())
        s3 = stack.enter_context(services.RcloneS3(folder / "s3")).bucket()
        archive.photo_latency = 0.05 if options.quick else 0  # a small one would be through at once
        photos, damaged = write_lots(folder / "lots", archive, options)
        arguments: dict[str, Any] = {
            "spider_arguments": {"manifest": folder / "lots"},
            "cwd": folder,
            "env": s3.env | {"DATABASE_URL": f"sqlite:///{folder / 'cars.db'}"},
            "settings": SETTINGS | {"IMAGES_ALLOWED_HOSTS": "127.0.0.1", "PROGRESS_INTERVAL": options.interval},
        }
        with services.start_crawl("backfill", **arguments) as running:
            while running.running and archive.served.counts["photo"] < photos * options.kill:
                time.sleep(min(1, options.interval))
            running.kill()
            first = running.wait()
        settled = settled_addresses(folder / "cars.db")
        second = services.crawl("backfill", timeout=7200, alone=True, **arguments)
        stored, dead = len(s3.keys()), photos // DEAD
        if second.returncode != 3 or stored != photos - dead or f"{damaged} file" not in second.stderr:
            raise BenchmarkError(f"{stored} of {photos - dead} photos on S3\n{second}")
        twice = {path for path, times in archive.served.photos.items() if times > 1}
        total, left = told(first, options.interval, before=0, photos=photos)
        return Migration(
            photos=photos,
            seconds=(first.seconds, second.seconds),
            peak_memory=(first.peak_memory, second.peak_memory),
            settled=len(settled),
            asked_twice=(len(twice & settled), len(twice - settled)),
            total_off=total,
            left_off=(left, told(second, options.interval, before=len(settled), photos=photos)[1]),
        )


def write_lots(folder: Path, archive: Archive, options: argparse.Namespace) -> tuple[int, int]:
    """Write the lot files; return how many addresses they have, and how many of the files are damaged."""
    dice = random.Random(options.lots)
    folder.mkdir()
    addresses, damaged = 0, 0
    for lot in range(options.lots):
        left, lots = options.addresses - addresses, options.lots - lot
        entries = min(left // 2, max(0, dice.randint(0, 2 * left // lots // 2 * 2) // 2)) if lots > 1 else left // 2
        lines = []
        for number in range(entries):
            names = {f"{kind}_url": f"3483/{lot}/{kind[0]}{number}.jpg" for kind in ("image", "thumb")}
            lines.append({name: archive.url(key) for name, key in names.items()})
            for key in names.values():
                addresses += 1
                if addresses % DEAD == 0:
                    archive.fault(f"photo:/auctionimages/{key}", ["404"], sticky=True)
        (folder / f"lot_{lot:05}_images.json").write_text(json.dumps(lines))
        if lot % 10_000 == 5:
            damaged += 1
            (folder / f"lot_{lot:05}x_images.json").write_text("[{")
    return addresses, damaged


def settled_addresses(database: Path) -> set[str]:
    """Return the paths of the addresses that had their outcome."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT source_url FROM car_images WHERE status <> 'pending'")
        return {urlsplit(url).path for (url,) in rows}


_TOLD = re.compile(r"backfill: ([\d,]+) of ([\d,]+) photos .*?(?:, (\d+) (minutes|seconds) left)?$", re.MULTILINE)


def told(run: services.CompletedCrawl, interval: float, *, before: int, photos: int) -> tuple[float, float]:
    """Return how far total and time left were off in the first line after a tenth of the *photos* beyond *before*.

    The time that it took is that of the photos between this line and the last, for all that were left.
    """
    lines = [
        (int(n.replace(",", "")), int(of.replace(",", "")), left, unit)
        for n, of, left, unit in _TOLD.findall(run.stderr)
    ]
    if not lines:
        raise BenchmarkError(f"no line of progress: give a smaller --interval\n{run}")
    place = next((k for k, (number, *_) in enumerate(lines) if number >= before + (photos - before) / 10), -1)
    number, of, left, unit = lines[place]
    if number == lines[-1][0]:
        raise BenchmarkError(f"too few lines of progress: give a smaller --interval\n{run}")
    took = (len(lines) - 1 - place) * interval / (lines[-1][0] - number) * (photos - number)
    said = float(left or 0) * (60 if unit == "minutes" else 1)
    return abs(of - photos) / photos, abs(said - took) / took


def migration_table(run: Migration) -> Table:
    """Lay it out."""
    columns = ["", "seconds", "peak MB", "time left off by"]
    rows = [
        [name, f"{seconds:.0f}", f"{memory / 1e6:.0f}", f"{off:.0%}"]
        for name, seconds, memory, off in zip(
            ("until kill -9", "taken up again"), run.seconds, run.peak_memory, run.left_off, strict=True
        )
    ]
    return Table(
        f"Migration of {run.photos:,} small photos: {run.settled:,} were settled when it was killed; of these "
        f"{run.asked_twice[0]} were asked for twice, of others {run.asked_twice[1]}; total off by {run.total_off:.0%}",
        [columns, *rows],
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
    add("--archive", action="store_true", help="an archive's lot files instead, killed and taken up again")
    add("--lots", type=int, default=31_124, help="lot files of the archive (default 31124)")
    add("--addresses", type=int, default=256_694, help="addresses in them (default 256694)")
    add("--kill", type=float, default=0.5, metavar="SHARE", help="of the addresses, then it is killed (default 0.5)")
    add("--interval", type=float, default=10, metavar="S", help="between two lines of progress (default 10)")
    add("--quick", action="store_true", help="40 photos, an archive of 1,000: only shows that it works")
    options = parser.parse_args(argv)
    if options.quick:
        options.photos = min(options.photos, 40)
        options.lots, options.addresses, options.interval = 120, 1_000, 0.5
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    options = parse(argv)
    try:
        if options.archive:
            print(migration_table(migrate(options)).plain())
            return 0
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
