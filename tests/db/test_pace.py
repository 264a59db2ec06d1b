"""The shared pace: moments are given once, a pause is everybody's, and a database that is away holds up nobody."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy

from carscraper.db import pace, schema
from carscraper.db.engine import open_engine
from carscraper.db.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tests import services

MOST = 200.0


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    made = open_engine(postgres_url, timeout=20)
    schema.ensure(made)
    yield made
    made.dispose()


def reserve(engine: Engine, slot: str, seconds: float) -> float:
    with engine.begin() as connection:
        return pace.reserve(connection, slot, seconds, most=MOST)


def test_what_is_taken_is_taken(engine: Engine) -> None:
    assert reserve(engine, "a", 3) < 0.05
    assert reserve(engine, "a", 2) == pytest.approx(3, abs=0.5)
    assert reserve(engine, "a", 1) == pytest.approx(5, abs=0.5)
    assert reserve(engine, "b", 1) < 0.05, "another dealer"


def test_many_machines_get_moments_one_after_the_other(engine: Engine) -> None:
    taken: list[float] = []

    def machine() -> None:
        for _ in range(20):
            begin = time.monotonic()
            wait = reserve(engine, "a", 0.5)
            taken.append((begin + time.monotonic()) / 2 + wait)

    machines = [threading.Thread(target=machine) for _ in range(4)]
    for each in machines:
        each.start()
    for each in machines:
        each.join(30)
    taken.sort()
    gaps = [after - before for before, after in itertools.pairwise(taken)]
    assert len(taken) == 80
    assert sum(gaps) == pytest.approx(79 * 0.5, abs=0.5)
    assert min(gaps) > 0.2


def test_a_pause_is_everybodys_and_a_clock_that_was_set_back_holds_nobody_for_long(engine: Engine) -> None:
    reserve(engine, "a", 0)
    reserve(engine, "b", 0)
    with engine.begin() as connection:
        pace.hold(connection, ["a", "never asked"], 60)
        pace.hold(connection, ["a"], 5)  # a shorter one takes nothing away
    assert reserve(engine, "a", 0) == pytest.approx(60, abs=1)
    assert reserve(engine, "b", 0) < 0.5
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE dealer_pace SET next_at = next_at + interval '1 day'"))
    assert reserve(engine, "a", 0) == pytest.approx(MOST, abs=1)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a connection that hangs is left to its fate
def test_without_a_database(engine: Engine, postgres: services.PostgresCluster) -> None:
    async def ask() -> tuple[list[float | None], list[float]]:
        shared = Pace(engine.url.render_as_string(hide_password=False), most=MOST)
        answers, seconds = [], []
        try:
            answers.append(await shared.reserve("a", 1))
            with postgres.frozen():
                for _ in range(2):
                    begin = time.monotonic()
                    answers.append(await shared.reserve("a", 1))
                    await shared.hold(["a"], 1)
                    seconds.append(time.monotonic() - begin)
            shared._away_until = 0
            answers.append(await shared.reserve("a", 1))
        finally:
            shared.close()
        return answers, seconds

    answers, (first, second) = asyncio.run(ask())
    gc.collect()
    assert answers[0] == pytest.approx(0, abs=0.1)
    assert answers[1:3] == [None, None]
    assert first < pace._PATIENCE + 1, "it is asked for a moment only"
    assert second < 0.1, "and then left alone"
    assert answers[3] is not None, "it is asked again"
