"""Crawls through PgBouncer: as good as without it where it keeps sessions, refused where it does not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from carscraper import logs
from carscraper.db.locks import acquire, open_locks
from tests import services
from tests.commands import call
from tests.faults.helpers import World, assert_nothing_lost, ended, photo_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.services import PostgresCluster

LOCKED = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
SHARED = "The pooler in front of the database of DATABASE_URL gives a connection to another client after each "


def test_a_crawl_is_killed_and_the_next_one_outlives_the_server(
    postgres: PostgresCluster, make_world: Callable[[str], World], pooled: Callable[..., str], postgres_url: str
) -> None:
    world = make_world(pooled("session", server_login_retry=1))
    database = postgres.database_of(postgres_url)
    world.site.photo_latency = 0.05
    with world.start() as running:
        world.wait_for_puts(10, running)
        running.kill()
        assert running.wait(10).returncode == -9
    have = len(world.stored())
    assert have < photo_count(world.site), "killed too late to show anything"
    world.site.photo_latency = 0.2
    with world.start(DATABASE_PATIENCE=60) as running:
        world.wait_for_puts(have + 10, running)
        second = world.crawl()
        assert (second.code, second.said.partition(":")[0]) == (0, "skipped. Another crawl of Bilasolur is under way")
        assert postgres.execute(LOCKED, database) == [(1,)]
        postgres.stop(sudden=True)
        postgres.start()
        done = ended(running.wait())
    assert done.code == 0, done
    done.no_errors()
    assert_nothing_lost(world, complete=True)
    assert world.photos_served() - photo_count(world.site) <= 48, "what was in flight at the kill"
    statuses = world.rows("SELECT status FROM crawl_runs ORDER BY id")
    assert [each.status for each in statuses] == ["interrupted", "success", "skipped"]
    services.wait_until(lambda: postgres.execute(LOCKED, database) == [(0,)], 5, "the pool to let go of the lock")


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_shares_its_connections_is_refused_by_all(
    mode: str,
    postgres: PostgresCluster,
    make_world: Callable[[str], World],
    pooled: Callable[..., str],
    postgres_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = make_world(pooled(mode))
    crawled = world.crawl()
    assert (crawled.code, crawled.said.startswith(f"failed. {SHARED}")) == (4, True), crawled
    assert crawled.count(" ERROR: ") == 1, crawled
    commands: list[tuple[str, tuple[str, ...]]] = [
        ("database", ("upgrade",)),
        ("enqueue", ("crawl", "br")),
        ("worker", ("--drain",)),
        ("queue", ("setup",)),
    ]
    settings, level = {"DATABASE_URL": world.database_url}, logging.root.level
    for command, words in commands:
        said = call(command, *words, settings=settings, capsys=capsys, code=4)
        assert said.err.startswith(SHARED), (command, said)
    logs.uninstall()  # which the worker puts up
    logging.root.setLevel(level)
    env = {"DATABASE_URL": world.database_url}
    for name, arguments in (("crawl", ["backfill"]), ("crawlall", ["--sources", "br"])):
        if mode == "transaction":
            done = services.run_scrapy(name, *arguments, cwd=world.folder, env=env)
            assert (done.returncode, SHARED in done.stdout + done.stderr) == (4, True), done
    assert world.site.served.requests == []
    database = postgres.database_of(postgres_url)
    assert postgres.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database) == []
    assert postgres.execute(LOCKED, database) == [(0,)]


def test_a_lock_that_outlives_its_crawl_is_named(postgres: PostgresCluster, postgres_world: World) -> None:
    """As in a pool that clears nothing up, or where a person has it: no run is under way, though a row says so."""
    world = postgres_world
    world.site.photo_latency = 0.05
    with world.start() as running:
        world.wait_for_puts(1, running)
        running.kill()
        running.wait(10)
    holder = open_locks(f"{world.database_url}&application_name=psql", timeout=5)
    assert acquire(holder, "Bilasolur")
    refused = world.crawl(DATABASE_TIMEOUT=1)
    assert refused.code == 4, refused
    [(pid,)] = postgres.execute(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory'", postgres.database_of(world.database_url)
    )
    said = f"failed. The lock of Bilasolur is held by session {pid} of PostgreSQL (psql, role carscraper, since "
    assert refused.said.startswith(said), refused
    cure = f"SELECT pg_terminate_backend({pid})"
    assert cure in refused.said
    postgres.execute(cure)
    world.finish()
    statuses = world.rows("SELECT status FROM crawl_runs ORDER BY id")
    assert [each.status for each in statuses] == ["interrupted", "failed", "success"]
    holder.close()
