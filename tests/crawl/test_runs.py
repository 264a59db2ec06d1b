"""Runs of real crawls: what their rows say, who is interrupted, who is skipped."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import carscraper
from carscraper.runs.record import RunRecord
from tests import services
from tests.crawl.world import IMPOLITE, World, last_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable


def runs_of(world: World) -> list[RunRecord]:
    """As ``scrapy runs`` shows them, the newest first."""
    done = world.command("runs", "list", "--json")
    assert done.returncode == 0, done
    found = [RunRecord(**each) for each in json.loads(done.stdout)]
    for each in found:
        each.started_at = datetime.fromisoformat(str(each.started_at))
    return found


def start(world: World, stack: ExitStack, **settings: Any) -> services.RunningCrawl:
    running = services.start_crawl(
        world.spider,
        cwd=world.folder,
        env={"DATABASE_URL": world.database_url} | world.env,
        settings=IMPOLITE | settings,
        spider_arguments={"base_url": world.site.base_url},
    )
    return stack.enter_context(running)


def test_the_row_says_what_the_crawl_did(new_world: Callable[..., World], database_url: str) -> None:
    world = new_world(cars=8, photos=2, database_url=database_url)
    site = world.site
    broken = site.cars[2]
    site.photo_fault(broken.cid, broken.photos[1].p, ["404"], sticky=True)
    began = datetime.now(UTC).replace(tzinfo=None)
    done = world.crawl(
        "-a", "_job=../job 1", settings={"HTTP_PROXY_LIKE": "http://me:geheim@proxy/?token=geheim"}, code=3
    )
    (run,) = runs_of(world)
    assert (run.spider, run.source, run.job_id) == ("bilasolur", "Bilasolur", "../job 1")
    assert run.arguments == {"base_url": site.base_url}
    assert run.settings["HTTP_PROXY_LIKE"] == "http://***@proxy/?token=***"
    assert run.settings["DOWNLOAD_DELAY"] == 0
    assert "DATABASE_URL" not in run.settings, "of the environment, not of this run"
    assert run.version == carscraper.__version__
    assert run.host
    assert run.pid
    assert began <= run.started_at < began + timedelta(seconds=30)
    assert (run.status, run.exit_code, run.complete) == ("partial", 3, True)
    said = [line.partition("WARNING: bilasolur: ")[2] for line in last_words(done).splitlines()]
    assert (run.why or "").splitlines() == said
    assert said[0].endswith("15 of 16 photos of cars for sale are stored (not stored: 1 http-404).")
    assert said[1:] == ["not kept: 1 photo failed (1 http-404)."]
    assert (run.images_for_sale, run.images_for_sale_stored, run.images_unstored) == (16, 15, {"http-404": 1})
    assert (run.cars_new, run.cars_changed, run.cars_unchanged, run.cars_gone) == (8, 0, 0, 0)
    stored = [row for row in world.images().values() if row["status"] == "stored"]
    assert (run.images_stored, run.images_linked, run.images_known) == (15, 0, 0)
    assert len(stored) == 15
    assert run.images_failed == {"http-404": 1}
    assert run.bytes == sum(row["bytes"] for row in stored)
    assert run.requests == len(site.served.requests)
    assert run.safe_p50 is not None
    assert run.safe_p95 is not None
    assert 0 < run.safe_p50 <= run.safe_p95 < 20
    assert run.output["status"] == "off"

    cheaper, sold, moved = site.cars[0], site.cars[1], site.cars[3]
    assert cheaper.price is not None
    site.change_price(cheaper.cid, cheaper.price - 100_000)
    site.sell(sold.cid)
    site.add_photo(moved.cid)  # on the card
    site.add_car()
    # All pages are read again, and what they say as before is no change.
    world.crawl(settings={"DETAILS_MAX_AGE_DAYS": 0}, code=None)
    again, first = runs_of(world)
    assert first.id == run.id
    assert (again.cars_new, again.cars_changed, again.cars_gone) == (1, 2, 1)
    assert again.cars == 8
    assert again.job_id != run.job_id
    assert again.job_id.isalnum()


def test_kill_9_leaves_an_interrupted_run(new_world: Callable[..., World], postgres_url: str) -> None:
    world = new_world(cars=10, photos=4, database_url=postgres_url)
    world.site.photo_latency = 0.3
    with ExitStack() as stack:
        running = start(world, stack)
        services.wait_until(lambda: world.asked("photo") >= 5, 30, "photos")
        running.send_signal(signal.SIGSTOP)
        assert [each.status for each in runs_of(world)] == ["running"]
        running.kill()
    world.site.photo_latency = 0
    # The next start finds out, before any command does.
    world.crawl()
    rows = world.sql("SELECT status, exit_code, finished_at FROM crawl_runs ORDER BY id")
    assert [tuple(row.values())[:2] for row in rows] == [("interrupted", None), ("success", 0)]
    assert rows[0]["finished_at"] is None
    assert [each.status for each in runs_of(world)] == ["success", "interrupted"]


def test_two_at_once(new_world: Callable[..., World]) -> None:
    """The second says so, asks nobody for anything and exits with 0; a killed first one is in nobody's way."""
    world = new_world(cars=10, photos=4)
    world.site.photo_latency = 0.3
    with ExitStack() as stack:
        first = start(world, stack)
        services.wait_until(lambda: world.asked("photo") >= 5, 30, "photos")
        first.send_signal(signal.SIGSTOP)
        time.sleep(1)  # what it had sent arrives
        asked = len(world.site.served.requests)
        done = world.crawl()
        assert len(world.site.served.requests) == asked
        (run, other) = runs_of(world)
        since = f"{other.started_at:%Y-%m-%d %H:%M} UTC"
        said = f"skipped. Another crawl of Bilasolur is under way: run {other.id} on {other.host} since {since}."
        assert verdict(done) == f"bilasolur: {said}"
        assert (run.status, run.exit_code, run.why, run.requests) == ("skipped", 0, said, 0)
        assert other.status == "running"
        assert world.sql("SELECT count(*) AS n FROM dealer_fill")[0]["n"] == 0, "no measure of others"
        # Work that nobody does meanwhile is no success.
        done = world.crawl(spider="backfill", code=3)
        assert verdict(done).startswith(f"backfill: skipped. bilasolur is at work on Bilasolur: run {other.id} on ")
        assert len(world.site.served.requests) == asked
        first.kill()
    world.site.photo_latency = 0
    world.crawl()
    assert [each.status for each in runs_of(world)] == ["success", "skipped", "skipped", "interrupted"]


def test_what_never_began_has_a_row_and_a_rehearsal_has_none(new_world: Callable[..., World]) -> None:
    world = new_world(cars=2, photos=1)
    done = world.crawl(colour="red", code=4)
    assert "has no argument colour" in verdict(done)
    assert world.command("runs", "--json").returncode == 4, "no database is made for what never began"
    world.crawl()
    done = world.crawl(colour="red", code=4)
    failed, _ = runs_of(world)
    assert (failed.status, failed.exit_code, failed.arguments["colour"]) == ("failed", 4, "red")
    assert f"bilasolur: {failed.why}" == verdict(done)
    assert failed.started_at is not None
    world.crawl(spider="backfill", dry_run="true")
    assert len(runs_of(world)) == 2
    world.crawl(spider="backfill")
    newest = runs_of(world)[0]
    assert (newest.spider, newest.source, newest.status) == ("backfill", None, "success")
