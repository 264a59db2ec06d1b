"""Group commit: many callers, one call at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Collects what arrives while a call is under way into the next call.

    A call begins *linger* seconds after its first argument arrived, or when *size* arguments wait.
    """

    def __init__(self, run: Callable[[list[T]], Awaitable[Sequence[R]]], *, size: int, linger: float = 0) -> None:
        """Take *run*, which gives one result for each of its arguments, in their order."""
        self._linger = linger
        self._run = run
        self._size = size
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, argument: T) -> R:
        """Pass *argument* to the next call and wait for its result; the call's exception is raised here."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((argument, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            if self._linger and len(self._waiting) < self._size:
                await asyncio.sleep(self._linger)
            group, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            try:
                results = await self._run([argument for argument, _ in group])
                pairs = list(zip(group, results, strict=True))
            except Exception as error:
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), result in pairs:
                    if not future.done():
                        future.set_result(result)
        self._worker = None
