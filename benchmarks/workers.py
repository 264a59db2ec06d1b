"""``python -m benchmarks.workers``: the wall time of one backfill with one and with two workers."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.arena import BenchmarkError
from benchmarks.backfill import fill
from benchmarks.report import Table, Verdict
from tests import services
from tests.crawl.world import World
from tests.dealers.server import Remote, run_as_process

PHOTOS_PER_CAR = 5
PHOTO_BYTES = 20_000
"""Small ones: two cores are shared by the workers, the simulated dealer, PostgreSQL and the store, and it is the
dealer's latency that is to be the limit, not they."""
TARGET = 1.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One backfill."""

    workers: int
    wall: float
    """Seconds from the last worker's being there to the last job's end: crawls start within it, workers before it."""
    photos: int
    asked_twice: int
    """Photos that were asked of the dealer more than once."""


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Give settings with which each crawl waits for the dealer, not for a delay that all share."""
    return {
        "DOWNLOAD_DELAY": options.delay,
        "IMAGES_DOWNLOAD_DELAY": options.delay,
        "AUTOTHROTTLE_ENABLED": "false",
        "IMAGES_CONCURRENCY": options.at_once,
        "CONCURRENT_REQUESTS_PER_DOMAIN": options.at_once,
    }


def measure(options: argparse.Namespace) -> list[Run]:
    """Run the same backfill with one and with two workers.

    Raises:
        BenchmarkError: it failed or left photos behind.
    """
    cars = max(1, round(options.photos / PHOTOS_PER_CAR))
    site = ("--cars", str(cars), "--photos", str(PHOTOS_PER_CAR), "--photo-bytes-average", str(PHOTO_BYTES))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carscraper-bench-")))
        cluster = stack.enter_context(services.PostgresCluster())
        dealer = stack.enter_context(run_as_process("tests.dealers.bilasolur", *site))
        return [_run(options, count, folder, cluster, dealer) for count in (1, 2)]


def _run(
    options: argparse.Namespace, count: int, parent: Path, cluster: services.PostgresCluster, dealer: Remote
) -> Run:
    folder = parent / str(count)
    folder.mkdir()
    url = cluster.create_database()
    env = {"DATABASE_URL": url, "OUTPUTS_DIR": "", "LINK_SAME_CARS": "false"}
    dealer.page_latency = dealer.photo_latency = 0
    fill(World(site=dealer, folder=folder, database_url=url))  # type: ignore[arg-type]
    arguments = ("-a", "limit=0", "-a", f"base_url={dealer.base_url}")
    words = ("enqueue", "backfill", "--shards", str(options.shards), "--queue", "held")
    queued = services.run_scrapy(*words, *arguments, cwd=folder, env=env)
    if queued.returncode:
        raise BenchmarkError(f"the shards were not queued\n{queued}")
    dealer.reset()
    dealer.page_latency = dealer.photo_latency = options.dealer / 1000
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                services.start_scrapy(
                    *("worker", "--quiet", "--queues", "backfill"), cwd=folder, env=env, settings=settings_of(options)
                )
            )
            for _ in range(count)
        ]
        for worker in workers:
            worker.wait_for_log(r"^worker \d+ on ")
        database = cluster.database_of(url)
        # Not before all are there: what is compared is the work, not the workers' start.
        begin = time.monotonic()
        cluster.execute("UPDATE procrastinate_jobs SET queue_name = 'backfill'", database)
        channel, news = '"procrastinate_queue_v1#backfill"', json.dumps({"type": "job_inserted", "job_id": 0})
        cluster.execute(f"NOTIFY {channel}, '{news}'", database)
        done = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
        while cluster.execute(done, database) != [(0,)]:
            if not all(worker.running for worker in workers):
                raise BenchmarkError(f"a worker ended\n{workers[0].log}\n{workers[-1].log}")
            time.sleep(0.1)
        wall = time.monotonic() - begin
        for worker in workers:
            worker.terminate()
        ended = [worker.wait(30) for worker in workers]
    [(stored,)] = cluster.execute("SELECT count(*) FROM car_images WHERE status = 'stored'", database)
    photos = len(dealer.cars) * PHOTOS_PER_CAR
    if stored != photos or any(each.returncode for each in ended):
        raise BenchmarkError(f"{stored} of {photos} photos stored\n{ended[0]}")
    twice = sum(number > 1 for number in dealer.served.photos.values())
    return Run(workers=count, wall=wall, photos=photos, asked_twice=twice)


def ratio(runs: list[Run]) -> float:
    """Give how many times faster two workers are."""
    one, two = runs
    return one.wall / two.wall


def table(runs: list[Run], options: argparse.Namespace) -> Table:
    """Lay it out."""
    return Table(
        f"A backfill of {runs[0].photos:,} photos in {options.shards} shards: {options.dealer} ms for every answer of "
        f"the dealer, {options.at_once} photos at once in each crawl, shared rate {1 / options.delay:,.0f} a second",
        [
            ["workers", "seconds", "photos a second", "asked twice", "times as fast"],
            *(
                [
                    str(run.workers),
                    f"{run.wall:.1f}",
                    f"{run.photos / run.wall:.1f}",
                    str(run.asked_twice),
                    f"{runs[0].wall / run.wall:.2f}",
                ]
                for run in runs
            ),
        ],
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=(__doc__ or "").partition(":")[2])
    add = parser.add_argument
    add("--photos", type=int, default=400, help="default 400")
    add("--shards", type=int, default=4, metavar="N", help="default 4")
    add("--dealer", type=int, default=1000, metavar="MS", help="latency of every answer of the dealer (default 1000)")
    add("--at-once", type=int, default=4, metavar="N", help="photos at once in each crawl (default 4)")
    add("--delay", type=float, default=0.01, metavar="S", help="the delay that all crawls share (default 0.01)")
    add("--json", action="store_true", help="print the seconds as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    options = parse(argv)
    try:
        runs = measure(options)
    except (BenchmarkError, services.MissingService) as error:
        print(f"benchmarks.workers: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({run.workers: run.wall for run in runs}))
        return 0
    print(table(runs, options).plain())
    found = ratio(runs)
    print()
    print(Verdict(f"two workers at least {TARGET} times as fast as one", f"{found:.2f}", found >= TARGET))
    print(
        f"One crawl alone asks for {options.at_once} photos in {options.dealer} ms at most; on {os.cpu_count()} cores"
    )
    print("shared with the simulated dealer and PostgreSQL.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
