"""Group commit: order, growth under load, failures, callers that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from carscraper.db.ledger import Batcher


class Runner:
    """Squares numbers, and notes the groups that they came in."""

    def __init__(self, *, pause: float = 0) -> None:
        self.groups: list[list[int]] = []
        self.under_way = 0
        self.pause = pause

    async def __call__(self, numbers: list[int]) -> Sequence[int]:
        self.groups.append(numbers)
        self.under_way += 1
        assert self.under_way == 1, "one call at a time"
        await asyncio.sleep(self.pause)
        self.under_way -= 1
        if -1 in numbers:
            raise ValueError("a bad number")
        return [number**2 for number in numbers]


def test_a_lone_caller_waits_for_nobody() -> None:
    runner = Runner()
    assert asyncio.run(Batcher(runner, size=10).submit(3)) == 9
    assert runner.groups == [[3]]


def test_results_go_to_their_callers_in_groups_of_at_most_size() -> None:
    async def many() -> list[int]:
        batcher = Batcher(runner, size=4)
        return await asyncio.gather(*(batcher.submit(number) for number in range(10)))

    runner = Runner(pause=0.001)
    assert asyncio.run(many()) == [number**2 for number in range(10)]
    assert [number for group in runner.groups for number in group] == list(range(10))
    assert max(map(len, runner.groups)) == 4


def test_what_arrives_during_a_call_is_the_next_group() -> None:
    async def three() -> None:
        batcher = Batcher(runner, size=100)
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.005)
        await asyncio.gather(first, batcher.submit(2), batcher.submit(3))
        await batcher.submit(4)

    runner = Runner(pause=0.02)
    asyncio.run(three())
    assert runner.groups == [[1], [2, 3], [4]]


def test_a_failure_is_everybodys_in_the_group_and_nobody_elses() -> None:
    async def go() -> list[Any]:
        batcher = Batcher(runner, size=2)
        results = await asyncio.gather(*(batcher.submit(n) for n in (1, -1, 3)), return_exceptions=True)
        return [*results, await batcher.submit(4)]

    runner = Runner()
    first, second, third, fourth = asyncio.run(go())
    assert isinstance(first, ValueError)
    assert isinstance(second, ValueError)
    assert (third, fourth) == (9, 16)


def test_a_caller_who_leaves_does_not_disturb_the_others() -> None:
    async def go() -> list[int]:
        batcher = Batcher(runner, size=10)
        leaving = asyncio.create_task(batcher.submit(1))
        staying = asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0.005)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return [await staying, await batcher.submit(3)]

    runner = Runner(pause=0.02)
    assert asyncio.run(go()) == [4, 9]


def test_a_wrong_number_of_results_hangs_nobody() -> None:
    async def short(numbers: list[int]) -> list[int]:
        return numbers[1:]

    async def go() -> list[Any]:
        batcher = Batcher(short, size=10)
        return await asyncio.wait_for(
            asyncio.gather(*(batcher.submit(n) for n in range(3)), return_exceptions=True), timeout=5
        )

    assert all(isinstance(result, ValueError) for result in asyncio.run(go()))
