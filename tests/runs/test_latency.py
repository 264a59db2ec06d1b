"""Quantiles of durations in bounded memory."""

from __future__ import annotations

import random
import sys
import time

import pytest

from carscraper.runs.latency import Latency


@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.parametrize("scale", [0.005, 1.0, 90.0, 20_000.0])
def test_within_five_percent(share: float, scale: float) -> None:
    dice = random.Random(1)
    seconds = [scale * dice.lognormvariate(0, 0.8) for _ in range(2001)]
    latency = Latency()
    for each in seconds:
        latency.add(each)
    exact = sorted(seconds)[int(share * 2001)]
    assert latency.quantile(share) == pytest.approx(exact, rel=0.05)


def test_one_value_and_what_is_outside() -> None:
    latency = Latency()
    assert latency.quantile(0.5) is None
    latency.add(3)
    assert latency.quantile(0.5) == latency.quantile(0.95) == pytest.approx(3, rel=0.05)
    for odd in (0, -1, 1e-12, 1e12):
        latency.add(odd)
    assert latency.quantile(0.01) == pytest.approx(0.001, rel=0.05)
    assert latency.quantile(1) == pytest.approx(7 * 86_400, rel=0.1)


def test_it_costs_next_to_nothing() -> None:
    latency = Latency()
    size = sys.getsizeof(latency._counts)
    assert size < 4096
    began = time.process_time()
    for number in range(100_000):
        latency.add(0.01 * number)
    assert (time.process_time() - began) / 100_000 < 3e-6, "a few hundred nanoseconds, on a busy machine too"
    assert sys.getsizeof(latency._counts) == size
