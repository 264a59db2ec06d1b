"""``python -m benchmarks.audit``: a large ledger and bucket beside each other, with planted faults.

The objects are files of a few bytes on the local rclone server: what is measured is the walk, not the wire.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy

from benchmarks.arena import BenchmarkError
from benchmarks.report import Table
from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.db.models import CarImageRow, CarListing
from tests import services

if TYPE_CHECKING:
    from collections.abc import Iterator

PHOTOS_PER_CAR = 10
_CHUNK = 5_000
_THEN = datetime(2026, 1, 2)  # noqa: DTZ001 - times in the tables are UTC without a zone
_TEMPORARY = "https://bilasolur.is/CarImage.aspx?s=16&c={}&p={}&w=1280"
FAULTS = {
    "missing": ("+", 10),
    "size": ("*", 10),
    "orphan": ("-", 10),
    "thumbnail": ("-", 4),
    "temporary url": ("!", 4),
    "temporary cover": ("!", 4),
    "no sha256": ("!", 2),
    "no url": ("!", 2),
    "other url": ("!", 2),
    "no key": ("!", 2),
}
"""How many of each kind are planted, and the mark that must find them: 50 in all."""
_ON_PHOTOS = ("missing", "size", "temporary url", "no sha256", "no url", "other url", "no key")


@dataclass(frozen=True, slots=True)
class Run:
    """One audit."""

    database: str
    seconds: float
    cpu: float
    peak_memory: int
    """Bytes."""
    summary: dict[str, Any]


class Field:
    """A bucket in a folder and the rows for it, most of which agree."""

    def __init__(self, folder: Path, photos: int, *, deep: bool) -> None:
        """Plan the faults; the same ones whenever the numbers are the same."""
        self.bucket = folder / "car-photos"
        self.photos = photos
        self.expected: set[tuple[str, str]] = set()
        self._random = random.Random(photos)
        kinds = [kind for kind in _ON_PHOTOS for _ in range(FAULTS[kind][1])] + ["bytes"] * (5 if deep else 0)
        places = self._random.sample(range(photos), len(kinds))
        self._faulty = dict(zip(places, kinds, strict=True))
        cars = sorted({place // PHOTOS_PER_CAR for place in self._faulty})
        free = [car for car in range(photos // PHOTOS_PER_CAR) if car not in set(cars)]
        self._covers = set(self._random.sample(free, FAULTS["temporary cover"][1]))

    def key(self, number: int, text: str = "photo") -> str:
        """Give the name of a photo."""
        car = number // PHOTOS_PER_CAR
        digest = hashlib.sha256(f"{text} {number}".encode()).hexdigest()[:12]
        return f"bilasolur/{2000 + car % 25}/make-{car % 40}/model-{car % 7}/{100_000 + car}_{digest}.jpg"

    def write_objects(self) -> None:
        """Make the files."""
        made: set[Path] = set()

        def write(name: str, data: bytes) -> None:
            path = self.bucket / name
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            path.write_bytes(data)

        for number in range(self.photos):
            kind = self._faulty.get(number)
            if kind in {"missing", "no key"}:
                continue
            wrong = {"size": b"more than was stored", "bytes": f"Photo {number}".encode()}
            write(self.key(number), wrong.get(kind or "", f"photo {number}".encode()))
        for kind in ("orphan", "thumbnail"):
            for place in self._random.sample(range(self.photos), FAULTS[kind][1]):
                name = self.key(place, kind)
                name = f"thumbnails/small/{name}" if kind == "thumbnail" else name
                write(name, b"orphan")
                self.expected.add(("-", name))
        write("_test/probe", b"none of ours")

    def rows(self, base: str) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
        """Give the rows of both tables, in pieces."""
        for start in range(0, self.photos, _CHUNK):
            numbers = range(start, min(start + _CHUNK, self.photos))
            cars = sorted({number // PHOTOS_PER_CAR for number in numbers if not number % PHOTOS_PER_CAR})
            yield [self._car(car, base) for car in cars], [self._photo(number, base) for number in numbers]

    def _car(self, car: int, base: str) -> dict[str, Any]:
        cover = f"{base}/{self.key(car * PHOTOS_PER_CAR)}"
        if car in self._covers:
            cover = _TEMPORARY.format(car, 0)
            self.expected.add(("!", f"Bilasolur/{100_000 + car}"))
        return {
            "id": car + 1,
            "source": "Bilasolur",
            "external_id": str(100_000 + car),
            "url": f"https://bilasolur.is/CarDetails.aspx?cid={100_000 + car}",
            "image_url": cover,
            "is_active": True,
        }

    def _photo(self, number: int, base: str) -> dict[str, Any]:
        car, place = divmod(number, PHOTOS_PER_CAR)
        key, data = self.key(number), f"photo {number}".encode()
        sha256 = hashlib.sha256(data).hexdigest()
        row = {
            "id": number + 1,
            "listing_id": car + 1,
            "identity": f"{100_000 + car}/{place}",
            "source_url": _TEMPORARY.format(car, place),
            "position": place,
            "status": "stored",
            "store": f"s3://{self.bucket.name}",
            "key": key,
            "url": f"{base}/{key}",
            "sha256": sha256,
            "source_sha256": sha256,
            "bytes": len(data),
            "first_seen_at": _THEN,
        }
        kind = self._faulty.get(number)
        if kind:
            mark = FAULTS[kind][0] if kind in FAULTS else "*"
            self.expected.add((mark, f"car_images/{number + 1}" if kind == "no key" else key))
            row |= {
                "temporary url": {"url": _TEMPORARY.format(car, place)},
                "no sha256": {"sha256": None},
                "no url": {"url": None},
                "other url": {"url": f"{base}/{self.key(number, 'other')}"},
                "no key": {"key": None},
            }.get(kind, {})
        return row

    def fill(self, database_url: str, base: str) -> None:
        """Write the tables."""
        engine = open_engine(database_url, timeout=600)
        schema.ensure(engine)
        for cars, photos in self.rows(base):
            with engine.begin() as connection:
                if cars:
                    connection.execute(sqlalchemy.insert(CarListing.__table__), cars)
                connection.execute(sqlalchemy.insert(CarImageRow.__table__), photos)
        if engine.dialect.name == "postgresql":
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(sqlalchemy.text("ANALYZE"))
        engine.dispose()


def audit(field: Field, s3: services.S3, database_url: str, folder: Path, *, deep: bool) -> Run:
    """Run the real command and hold its findings against what was planted.

    Raises:
        BenchmarkError: it found less, or more.
    """
    command = [sys.executable, "-m", "scrapy", "storage", "audit", "--json", "--grace", "1s"]
    command += ["--deep"] if deep else []
    env = services.crawl_environment(folder, {**s3.env, "DATABASE_URL": database_url})
    peaks = [0]
    start = time.monotonic()
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        watcher = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
        watcher.start()
        out = process.communicate()[0].decode()
        code = process.returncode
        seconds = time.monotonic() - start
        watcher.join()
        errors.seek(0)
        said = errors.read().decode()[-2000:]
    if code != 3:
        raise BenchmarkError(f"the audit ended with {code}: {said}")
    *lines, last = [json.loads(line) for line in out.splitlines()]
    found = {(line["mark"], line["key"]) for line in lines}
    if found != field.expected or len(lines) != len(found):
        raise BenchmarkError(f"not found: {field.expected - found}; found and not planted: {found - field.expected}")
    kind = "PostgreSQL" if database_url.startswith("postgresql") else "SQLite"
    return Run(kind, seconds, _CPU.pop(process.pid, 0.0), peaks[0], last["summary"])


_CPU: dict[int, float] = {}


def _watch(process: subprocess.Popen[bytes], peaks: list[int]) -> None:
    """Note the kernel's high-water mark and the CPU time while the process lives."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                peaks[0] = max(peaks[0], int(found[1]) * 1024)
            times = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            _CPU[process.pid] = (int(times[11]) + int(times[12])) / 100
        time.sleep(0.02)


def measure(options: argparse.Namespace) -> list[Run]:
    """Fill, audit on each database.

    Raises:
        BenchmarkError: an audit did not find exactly what was planted.
    """
    runs = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carscraper-audit-bench-")))
        field = Field(folder / "s3", options.photos, deep=options.deep)
        print(f"Writing {options.photos:,} objects and rows", file=sys.stderr)
        field.write_objects()
        s3 = stack.enter_context(services.RcloneS3(folder / "s3")).bucket()
        urls = [f"sqlite:///{folder / 'carscraper.db'}"]
        if options.postgresql:
            urls.append(stack.enter_context(services.PostgresCluster()).create_database())
        time.sleep(1.5)  # beyond the grace of new objects
        for url in urls:
            field.fill(url, f"{s3.endpoint}/{s3.bucket}")
            for _ in range(options.rounds):
                run = audit(field, s3, url, folder, deep=options.deep)
                print(f"{run.database}: {run.seconds:.1f} s, {run.peak_memory / 1e6:.0f} MB", file=sys.stderr)
                runs.append(run)
    return runs


def table(runs: list[Run], options: argparse.Namespace) -> Table:
    """Lay it out."""
    faults = sum(number for _, number in FAULTS.values()) + (5 if options.deep else 0)
    rows = [["", "seconds", "CPU s", "peak MB", "rows", "objects", "found of planted"]]
    for run in runs:
        numbers = [f"{run.seconds:.1f}", f"{run.cpu:.1f}", f"{run.peak_memory / 1e6:.0f}"]
        counted = [f"{run.summary['rows']:,}", f"{run.summary['objects']:,}", f"{faults} of {faults}, nothing else"]
        rows.append([run.database, *numbers, *counted])
    return Table(f"scrapy storage audit{' --deep' if options.deep else ''}, {options.photos:,} photos", rows)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description="A large audit, measured.")
    add = parser.add_argument
    add("--photos", type=int, default=200_000, help="rows and objects (default 200000; 1000 at least)")
    add("--rounds", type=int, default=1, help="audits on each database (default 1)")
    add("--no-postgresql", dest="postgresql", action="store_false", help="SQLite only")
    add("--deep", action="store_true", help="read every object; five more are damaged at the same size")
    options = parser.parse_args(argv)
    if options.photos < 1000:
        parser.error("--photos must be 1000 at least, to have room for the faults")
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    options = parse(argv)
    try:
        runs = measure(options)
    except (BenchmarkError, services.MissingService) as error:
        print(f"benchmarks.audit: {error}", file=sys.stderr)
        return 1
    print(table(runs, options).plain())
    missed = [run for run in runs if not options.deep and (run.seconds > 60 or run.peak_memory > 200e6)]
    print("MISSED: under 60 s and 200 MB" if missed else "reached: under 60 s and 200 MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
