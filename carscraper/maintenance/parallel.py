"""Many objects at the same time, in their order."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor

T = TypeVar("T")
R = TypeVar("R")

THREADS = 10
"""Objects under way at the same time; boto3 keeps as many connections."""


def in_order(pool: Executor, function: Callable[[T], R], items: Iterable[T], *, ahead: int) -> Iterator[R]:
    """Return ``function(item)`` of each item, in their order, worked out in *pool*, taking at most *ahead* items."""
    source = iter(items)
    waiting = deque(pool.submit(function, item) for item in islice(source, ahead))
    try:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(source, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut *items* into lists of at most *size*.

    >>> list(in_groups(range(5), 2))
    [[0, 1], [2, 3], [4]]
    """
    source = iter(items)
    while group := list(islice(source, size)):
        yield group
