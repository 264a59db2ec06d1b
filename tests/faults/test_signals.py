"""Told to stop: the crawl finishes what is in flight and says how to go on; told twice it is gone at once."""

from __future__ import annotations

import signal
import sqlite3
import time

import pytest

from tests.faults.helpers import World, assert_nothing_lost, ended, photo_count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal(world: World, number: int) -> None:
    world.site.photo_latency = 0.1
    with world.start() as running:
        world.wait_for_photos(40, running)
        running.send_signal(number)
        done = ended(running.wait(20))
    assert done.code == 3, done
    assert "the same command goes on" in done.said
    assert "photos not fetched" in done.said
    done.no_errors()
    assert world.photos_served() < photo_count(world.site)
    have = world.stored()
    assert len(have) == world.photos_served(), "what was in flight was finished"
    assert_nothing_lost(world)
    world.finish(have=have)
    assert world.photos_served() == photo_count(world.site), "no photo was asked for twice"


@pytest.mark.parametrize("photos", ["never", "slow:60"])
def test_a_second_signal(world: World, photos: str) -> None:
    """Out within five seconds, though S3 hangs and the dealer does not answer."""
    world.proxy.hang(methods="PUT", skip=10)
    with world.start() as running:
        world.wait_for_puts(8, running)  # rclone answers some with 500 while it makes their folder
        world.site.fault("photo", [photos], sticky=True)
        time.sleep(0.5)
        running.terminate()
        running.wait_for_log("Received SIGTERM")
        time.sleep(0.5)
        assert running.running, "the first signal waits for what is in flight"
        running.terminate()
        began = time.monotonic()
        done = running.wait(20)
    assert time.monotonic() - began < 5, done
    assert done.returncode not in {0, 1}, done
    assert_nothing_lost(world)
    world.finish(have=world.stored())


def test_a_second_signal_before_anything_was_seen(world: World) -> None:
    """Nothing hangs but the site: the process ends in order, and is no success all the same."""
    world.site.page_latency = 8
    with world.start() as running:
        running.wait_for_log("Spider opened")
        running.terminate()
        running.wait_for_log("Received SIGTERM")
        running.terminate()
        done = running.wait(20)
    assert done.returncode == 3, done


def test_a_second_signal_while_the_database_is_locked(world: World) -> None:
    world.site.photo_latency = 0.05
    with world.start() as running:
        world.wait_for_puts(20, running)
        path = world.database_url.removeprefix("sqlite:///")
        other = sqlite3.connect(path, isolation_level=None, timeout=20)
        other.execute("BEGIN IMMEDIATE")
        running.interrupt()
        time.sleep(1)
        running.interrupt()
        began = time.monotonic()
        done = running.wait(20)
        other.execute("ROLLBACK")
        other.close()
    assert time.monotonic() - began < 5, done
    assert done.returncode not in {0, 1}, done
    assert_nothing_lost(world)
    world.finish(have=world.stored())
