"""What this machine runs short of is no photo's failure: the crawl ends with one sentence, and the next one goes on."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import services
from tests.crawl.world import IMPOLITE, World, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

import pytest

CARS, PHOTOS = 8, 5
S3_AWAY = {
    "USE_S3_STORAGE": "true",
    "AWS_S3_BUCKET": "car-photos",
    "AWS_ACCESS_KEY_ID": "AKIDCARSCRAPER",
    "AWS_SECRET_ACCESS_KEY": "carscraper-secret",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
}
LATE = """
import os, resource, sys
from carscraper.shortage import shortage_of
from carscraper.storage.client import S3Options
from carscraper.storage.s3 import S3Store

most = 4 if sys.argv[1] == "NOFILE" else int(open("/proc/self/statm").read().split()[0]) * 4096 + 1_000_000
resource.setrlimit(getattr(resource, f"RLIMIT_{sys.argv[1]}"), (most, most))
try:
    S3Store(S3Options(bucket="b-1", region="eu-north-1", access_key="A", secret_key="b"))
except (OSError, RuntimeError) as error:
    print(shortage_of(error))
"""
WITHOUT_THREADS = ("prlimit", "--nproc=1:1")  # which root is exempt from
if os.geteuid() == 0:
    WITHOUT_THREADS += ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that whoever crawls may use."""
    with tempfile.TemporaryDirectory(prefix="shortage-") as path:
        Path(path).chmod(0o777)
        yield Path(path)


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize() + 4_000_000


# What runs short, its limit, after how many requests it is set, what the crawl says; more settings, a command.
SHORTAGES: dict[str, tuple[int, Callable[[int], int], tuple[str, int], str, dict[str, str], tuple[str, ...]]] = {
    "open files": (
        resource.RLIMIT_NOFILE,
        lambda _: 10,
        ("photo", 5),
        "(Too many open files); raise the limit of open files (ulimit -n,",
        {},
        (),
    ),
    "connections to the dealer": (
        resource.RLIMIT_NOFILE,
        lambda _: 10,
        ("results", 1),
        "A limit of this machine is reached (Too many open files); raise the limit of open files (ulimit -n,",
        {},
        (),
    ),
    "size of a file in the folder": (
        resource.RLIMIT_FSIZE,
        lambda _: 4000,
        ("photo", 5),
        "IMAGES_STORE=var/images does not take photos (File too large); raise the limit of a file's size (ulimit -f,",
        {},
        (),
    ),
    "size of a file in the spool": (
        resource.RLIMIT_FSIZE,
        lambda _: 4000,
        ("photo", 5),
        "can't be written (File too large); raise the limit of a file's size (ulimit -f,",
        S3_AWAY,
        (),
    ),
    "memory": (
        resource.RLIMIT_AS,
        _memory,
        ("photo", 5),
        "A limit of this machine is reached (",
        {},
        (),
    ),
    "threads": (
        resource.RLIMIT_NPROC,
        lambda _: 1,
        ("photo", 0),
        "A limit of this machine is reached (can't start new thread); raise the limit of threads and processes (ulimit",
        {},
        WITHOUT_THREADS,
    ),
}


@pytest.mark.parametrize("what", SHORTAGES)
def test_a_shortage_ends_the_crawl_and_fails_no_photo(
    what: str, new_site: Callable[..., Any], folder: Path, postgres_url: str, sqlite_url: str
) -> None:
    """Nothing that was stored is asked for again, and the crawl without the shortage makes all complete."""
    limit, most, after, says, env, command = SHORTAGES[what]
    large = 8_000_000 if what == "memory" else 12_000
    site = new_site(cars=CARS, photos=PHOTOS, photo_bytes_average=large)
    site.photo_latency = site.page_latency = 0.05
    # A file's size is a limit of SQLite's, too, which is a database that is away.
    url = postgres_url if limit == resource.RLIMIT_FSIZE else f"sqlite:///{folder}/cars.db"
    world = World(site=site, folder=folder, database_url=url, env=env)
    done = _crawl_under(world, command, limit, most, *after)
    assert done.returncode == 4, done
    assert says in verdict_lines(done)[0], done
    assert sum(says in line for line in done.stderr.splitlines()) == 1, done
    assert "Traceback" not in done.stderr, done.stderr
    assert "CarItem(" not in done.stderr, done.stderr
    assert done.stderr.count("Nor can the spool be written") <= 2, done.stderr
    rows = world.images().values() if after[1] else []
    kinds = Counter((row["status"], row["reason"], row["attempts"]) for row in rows)
    assert kinds.keys() <= {("stored", None, 1), ("pending", None, 0), ("pending", "spooled", 1)}, (kinds, done)
    stored = {row["identity"] for row in rows if row["status"] == "stored"}
    before = Counter(site.served.photos)
    site.photo_latency = site.page_latency = 0
    for path in folder.glob("var/spool/uploads-*/*"):
        path.unlink()
    world.env = {}
    world.crawl()
    rows = world.images().values()
    assert {row["status"] for row in rows} == {"stored"}
    assert len(rows) == CARS * PHOTOS
    again = {photo for photo, number in site.served.photos.items() if number > before[photo]}
    assert not again & stored


def _crawl_under(
    world: World, command: tuple[str, ...], limit: int, most: Callable[[int], int], kind: str, number: int
) -> services.CompletedCrawl:
    options = [part for name, value in IMPOLITE.items() for part in ("-s", f"{name}={value}")]
    crawl = [*command, *services.SCRAPY, "crawl", "bilasolur", *options]
    env = services.crawl_environment(world.folder, {"DATABASE_URL": world.database_url} | world.env)
    with services.RunningCrawl([*crawl, "-a", f"base_url={world.site.base_url}"], env=env, cwd=world.folder) as running:
        services.wait_until(lambda: world.asked(kind) >= number or not running.running, 30, kind)
        if not command:
            value = most(running.pid)
            resource.prlimit(running.pid, limit, (value, value))
        return running.wait(60)


def verdict_lines(done: services.CompletedCrawl) -> list[str]:
    return [line for line in done.stderr.splitlines() if "[carscraper.extensions.verdict]" in line]


def test_a_log_or_feed_on_a_full_disk_costs_that_file_only(new_world: Callable[..., World]) -> None:
    """It is said once."""
    world = new_world(cars=2)
    done = world.crawl(settings={"LOG_FILE": "/dev/full"})
    assert done.stderr.count("LOG_FILE=/dev/full can't be written any more (No space left on device)") == 1, done
    assert verdict(done).startswith("bilasolur: success."), done
    done = world.crawl("-o", "/dev/full:jsonlines", code=3)
    assert done.stderr.count("No space left on device") == 1, done
    assert "1 feed not stored" in verdict(done)


@pytest.mark.parametrize(("limit", "says"), [("NOFILE", "(Too many open files)"), ("AS", "(can't start new thread)")])
def test_obstores_threads_start_before_photos_come_or_say_why_not(limit: str, says: str) -> None:
    """Later their panic would take the photos in hand with it; threads fail where memory is limited, too."""
    done = subprocess.run(
        [sys.executable, "-c", LATE, limit], capture_output=True, text=True, check=False, cwd=services.REPO
    )
    assert says in done.stdout, done
    assert ("give the crawl more memory (ulimit -v)" in done.stdout) == (limit == "AS")
