"""The database restarted, away, frozen, locked or full: no car is lost, and what was committed stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from carscraper.db.ledger import Ledger
from carscraper.db.spool import CarSpool
from tests import services
from tests.faults.helpers import World, assert_nothing_lost, photo_count, repeatedly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.services import CompletedCrawl, PostgresCluster

PATIENT = {"DATABASE_PATIENCE": 60}


def assert_all_kept(world: World, done: CompletedCrawl) -> None:
    assert done.returncode == 0, done
    assert not done.lines(" ERROR: "), done
    assert "Traceback" not in done.stderr, done
    assert world.photos_served() == photo_count(world.site)
    assert not world.spooled_cars()
    assert_nothing_lost(world, complete=True)


def test_the_server_is_restarted(postgres: PostgresCluster, postgres_world: World) -> None:
    world = postgres_world
    world.site.photo_latency = 0.05
    with world.start(**PATIENT) as running:
        world.wait_for_puts(20, running)
        postgres.stop(sudden=True)
        postgres.start()
        world.wait_for_puts(60, running)
        postgres.stop()
        postgres.start()
        done = running.wait()
    assert_all_kept(world, done)


def test_the_server_is_away_for_some_seconds(postgres: PostgresCluster, postgres_world: World) -> None:
    world = postgres_world
    world.site.photo_latency = 0.05
    with world.start(**PATIENT) as running:
        world.wait_for_puts(20, running)
        postgres.stop(sudden=True)
        running.wait_for_log("Database away")
        time.sleep(2)
        postgres.start()
        done = running.wait()
    assert_all_kept(world, done)


def test_the_server_stays_away(postgres: PostgresCluster, postgres_world: World) -> None:
    world = postgres_world
    world.site.photo_latency = 0.05
    with world.start(DATABASE_PATIENCE=3) as running:
        world.wait_for_puts(40, running)
        postgres.stop(sudden=True)
        began = time.monotonic()
        done = running.wait()
    assert time.monotonic() - began < 20
    assert done.returncode == 4, done
    postgres.start()
    verdict = "\n".join(done.lines("[carscraper.extensions.verdict]"))
    assert "The database of DATABASE_URL can't be reached" in verdict
    assert "Traceback" not in done.stderr, done
    spooled = sum(len(CarSpool.read(path)) for path in world.spooled_cars())
    assert spooled > 0
    assert f"{spooled} car{'s' if spooled > 1 else ''} in the spool" in verdict
    assert_nothing_lost(world)
    world.finish(have=world.stored())


def test_the_server_is_frozen(postgres: PostgresCluster, postgres_world: World) -> None:
    """Connections stay and nothing answers: only our own deadline helps."""
    world = postgres_world
    world.site.photo_latency = 0.05
    with world.start(DATABASE_TIMEOUT=2, **PATIENT) as running:
        world.wait_for_puts(20, running)
        with postgres.frozen():
            time.sleep(9)
        done = running.wait(60)
    assert done.lines("Database away")
    assert_all_kept(world, done)


def test_sessions_are_terminated_again_and_again(postgres: PostgresCluster, postgres_world: World) -> None:
    world = postgres_world
    world.site.photo_latency = 0.8
    with world.start(**PATIENT) as running:
        world.wait_for_puts(1, running)
        times = repeatedly(lambda: postgres.terminate_sessions(world.database_url), running, every=0.1, times=15)
        done = running.wait()
    assert times >= 5
    assert_all_kept(world, done)


def test_another_program_holds_the_lock(world: World, tmp_path: Path) -> None:
    """Longer than one operation may take, so it is tried again."""
    world.site.photo_latency = 0.05
    with world.start(DATABASE_TIMEOUT=1, **PATIENT) as running:
        world.wait_for_puts(20, running)
        other = sqlite3.connect(tmp_path / "carscraper.db", isolation_level=None, timeout=20)
        other.execute("BEGIN IMMEDIATE")
        time.sleep(2.5)
        other.execute("COMMIT")
        other.close()
        done = running.wait()
    assert done.lines("Database away")
    assert_all_kept(world, done)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for the tables and little more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("spool", ["elsewhere", "on the same disk"])
def test_the_disk_is_full(make_world: Callable[[str], World], small_disk: Path, spool: str) -> None:
    world = make_world(f"sqlite:///{small_disk}/carscraper.db")
    world.site.photo_latency = 0.1
    if spool != "elsewhere":
        world.settings["SPOOL_DIR"] = str(small_disk / "spool")
    with world.start(DATABASE_PATIENCE=2) as running:
        services.wait_until(
            lambda: world.puts(200) and world.rows("SELECT 1 FROM car_images WHERE status = 'stored' LIMIT 1"),
            60,
            "the first rows",
        )
        with contextlib.suppress(OSError):  # the crawl writes meanwhile: there may be less room by then
            (small_disk / "other").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * 4096))
        done = running.wait()
    verdict = "\n".join(done.lines("[carscraper.extensions.verdict]"))
    assert done.returncode == 4, done
    assert "disk" in verdict, done
    assert "Traceback" not in done.stderr, done
    (small_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    have = world.stored()
    assert have, "what was committed stays"
    assert_nothing_lost(world)
    world.finish(have=have)


def test_whoever_waits_for_a_frozen_database_asks_again(sqlite_url: str) -> None:
    """More questions than threads: those that found no thread are not lost with those that hang."""
    released = threading.Event()
    calls: Counter[int] = Counter()

    def question(_: object, number: int) -> int:
        calls[number] += 1
        if not released.is_set():
            released.wait(10)
        return number

    async def ask() -> list[int]:
        ledger = Ledger(sqlite_url, timeout=-4.5, patience=20)  # half a second for each try
        threading.Timer(1.2, released.set).start()
        answers = await asyncio.gather(*(ledger.read(question, number) for number in range(9)))
        ledger.close()
        return answers

    assert asyncio.run(asyncio.wait_for(ask(), 15)) == list(range(9))
    assert max(calls.values()) > 1
