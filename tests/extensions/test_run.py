"""A run's beginning and end, by the signals that a crawl sends; tests/crawl/test_runs.py has real crawls."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from scrapy import signals
from scrapy.exceptions import CloseSpider
from twisted.python.failure import Failure

from carscraper.db import runs, schema
from carscraper.db.engine import open_engine
from carscraper.db.ledger import Ledger
from carscraper.db.locks import open_locks
from carscraper.extensions import run as module
from carscraper.extensions.run import Run
from carscraper.extensions.verdict import announce_late
from carscraper.runs.record import RunRecord, overridden, shown_arguments
from carscraper.settings import Secret
from carscraper.spiders.bilasolur import BilasolurSpider
from carscraper.state import state_of
from tests.fakes import make_crawler, make_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("_alone")


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


class World:
    """A crawler with the extension, and what it sends."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.url = url
        self.crawler = make_crawler(BilasolurSpider, **{"DATABASE_URL": url, "OUTPUTS_DIR": "", **settings})
        self.crawler.get_extension = lambda _: None  # type: ignore[assignment, method-assign]
        self.run = Run.from_crawler(self.crawler)

    async def open(self) -> None:
        await Ledger.of(self.crawler).open()
        await self.send(signals.spider_opened, dont_log=CloseSpider)

    async def close(self, reason: str = "finished") -> None:
        await self.send(signals.spider_closed, reason=reason)
        await self.send(signals.engine_stopped)
        Ledger.of(self.crawler).close()

    async def send(self, signal: object, **arguments: Any) -> list[Any]:
        sent = await self.crawler.signals.send_catch_log_async(signal, spider=self.crawler.spider, **arguments)
        for _, result in sent:
            if isinstance(result, Exception):
                raise result
        return [result for _, result in sent]

    def rows(self) -> list[RunRecord]:
        engine = open_engine(self.url, timeout=10)
        try:
            with engine.begin() as connection:
                return [RunRecord(**each) for each in runs.listed(connection)]
        finally:
            engine.dispose()


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 30))


def test_begin_and_end(sqlite_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(sqlite_url)
    free: list[bool] = []

    def tell(*_: Any) -> None:
        locks = open_locks(sqlite_url, timeout=1)
        free.append(locks.take("Bilasolur"))
        locks.close()

    monkeypatch.setattr(module, "tell", tell)

    async def scene() -> None:
        await world.open()
        (begun,) = world.rows()
        assert (begun.status, begun.finished_at, begun.source) == ("running", None, "Bilasolur")
        world.crawler.stats.set_value("carscraper/cars/new", 2)
        await world.send(signals.item_error, item={}, response=None, failure=Failure(ValueError("a mistake")))
        await world.close()

    play(scene)
    assert state_of(world.crawler).exit_code == 3
    assert "1 car not written" in caplog.text, "what a mistake in a pipeline has cost is counted"
    (ended,) = world.rows()
    assert (ended.status, ended.exit_code, ended.cars_new) == ("partial", 3, 2)
    assert ended.finished_at is not None
    assert free == [True], "the lock is given back before anybody is told, which may take long"


def test_a_mistake_in_what_comes_after_costs_neither_verdict_nor_row(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("oops")

    fail.__name__ = "fail"
    for name in ("check_limits", "upload_outputs", "write_metrics", "tell"):
        monkeypatch.setattr(module, name, fail)
    world = World(sqlite_url, OUTPUTS_DIR="jobs")

    async def scene() -> None:
        await world.open()
        await world.close()

    play(scene)
    (row,) = world.rows()
    assert (row.status, row.exit_code, state_of(world.crawler).exit_code) == ("partial", 3, 3), (
        "no verdict on it is no success"
    )
    assert row.output["status"] == "failed"
    assert [each["passed"] for each in row.monitors] == [False]
    assert caplog.text.count("oops") >= 4


def test_a_crawl_that_never_began_gets_its_verdict_at_the_very_end(sqlite_url: str, tmp_path: Path) -> None:
    world = World(sqlite_url)

    async def scene() -> None:
        state_of(world.crawler).failed = "AWS_S3_BUCKET is missing."
        await world.send(signals.spider_closed, reason="configuration")

    play(scene)
    assert state_of(world.crawler).exit_code is None, "Scrapy does not send engine_stopped for it"
    announce_late(world.crawler)
    assert state_of(world.crawler).exit_code == 4
    assert list(tmp_path.iterdir()) == [], "no database is made for it"

    engine = open_engine(sqlite_url, timeout=10)
    schema.ensure(engine)
    engine.dispose()
    play(scene)
    (row,) = world.rows()
    assert (row.status, row.exit_code, row.why) == ("failed", 4, "failed. AWS_S3_BUCKET is missing.")


def test_a_database_that_goes_away_at_the_end(
    postgres: Any, postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.3)
    world = World(postgres_url)

    async def scene() -> None:
        await world.open()
        postgres.stop()
        await world.close()

    play(scene)
    assert state_of(world.crawler).exit_code == 3, "nobody saw how many photos are stored"
    assert "not kept: the ledger could not be asked how many photos are stored." in caplog.text
    assert caplog.text.count("How run 1 ended can't be written") == 1
    postgres.start()
    (row,) = world.rows()
    assert row.status == "running"
    late = World(postgres_url)

    async def next_one() -> None:
        await late.open()
        assert [each.status for each in late.rows()] == ["running", "interrupted"]
        await late.close()

    play(next_one)


def test_a_lock_that_no_run_holds_is_named(database_url: str) -> None:
    holder = open_locks(database_url, timeout=5)
    assert holder.take("Bilasolur")
    world = World(database_url, DATABASE_TIMEOUT=1)

    async def refused() -> None:
        with pytest.raises(CloseSpider):
            await world.open()
        await world.send(signals.spider_closed, reason="configuration")
        Ledger.of(world.crawler).close()

    play(refused)
    announce_late(world.crawler)
    (row,) = world.rows()
    assert (row.status, row.exit_code, state_of(world.crawler).exit_code) == ("failed", 4, 4)
    who = r"session (\d+) of PostgreSQL \(carscraper, .*pg_terminate_backend\(\1\)|\.locks/Bilasolur\.lock, .*`fuser "
    assert re.search(who, row.why or ""), row.why
    holder.close()


def test_a_lock_whose_holder_has_no_row_yet_is_waited_for(database_url: str) -> None:
    holder, first = open_locks(database_url, timeout=5), World(database_url)
    record = asdict(RunRecord(spider="bilasolur", source="Bilasolur", job_id="1", started_at=datetime(2026, 1, 1)))  # noqa: DTZ001

    async def writes_its_row() -> None:
        ledger = Ledger.of(first.crawler)
        await ledger.open()
        assert holder.take("Bilasolur")
        opening = asyncio.create_task(first.open())
        await asyncio.sleep(1.5)  # longer than a lock is waited for
        await ledger.write(runs.start, {**record, "status": "running"})
        with pytest.raises(CloseSpider):
            await opening
        assert "under way: run 1 on" in (state_of(first.crawler).skipped or "")
        await ledger.write(runs.interrupt, "Bilasolur")
        await first.send(signals.spider_closed, reason="skipped")
        ledger.close()

    async def ends() -> None:
        opening = asyncio.create_task(second.open())
        await asyncio.sleep(1.5)
        holder.close()
        await opening
        await second.close()

    play(writes_its_row)
    second = World(database_url)
    play(ends)
    assert [each.status for each in second.rows()] == ["success", "skipped", "interrupted"]


def test_what_was_overridden_is_stored_without_secrets() -> None:
    settings = make_settings(
        DOWNLOAD_DELAY=2,
        DATABASE_URL="postgresql://me:geheim@h/x",
        AWS_SECRET_ACCESS_KEY="geheim",
        MY_TOKEN="geheim",
        HTTP_PROXY="http://me:geheim@proxy:3128/?a=1&apikey=geheim#x",
        FEEDS={"s3://me:geheim@b/x": {"format": "json", "password": "geheim"}},
        DEFAULT_REQUEST_HEADERS='{"Authorization": "Bearer geheim", "Accept": "x"}',
        HEADERS=[{"Cookie": "geheim"}],
        LONG="x" * 5000,
        SOME=Secret("geheim"),
    )
    found = overridden(settings)
    assert "geheim" not in repr(found)
    assert (found["DOWNLOAD_DELAY"], found["AWS_SECRET_ACCESS_KEY"], found["SOME"]) == (2, "***", "***")
    assert found["HTTP_PROXY"] == "http://***@proxy:3128/?a=1&apikey=***#x"
    assert found["DEFAULT_REQUEST_HEADERS"] == {"Authorization": "***", "Accept": "x"}
    assert len(found["LONG"]) == 1000
    assert "USER_AGENT" not in found
    assert "geheim" not in repr(asdict(RunRecord(spider="x", job_id="x", started_at=datetime.now(), settings=found)))  # noqa: DTZ005
    given = {"base_url": "https://me:geheim@h/x?token=geheim&p=2;sig=geheim", "makes": "Kia,Audi", "password": "geheim"}
    assert shown_arguments(given) == {
        "base_url": "https://***@h/x?token=***&p=2;sig=***",
        "makes": "Kia,Audi",
        "password": "***",
    }
