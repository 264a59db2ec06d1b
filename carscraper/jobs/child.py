"""One crawl as a child of the worker: it is heard, it can be told to stop, and it dies with the worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from typing import TYPE_CHECKING

from carscraper.cli.crawls import Hearing, Outcome, die_with_parent

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable

_PIECE = 1 << 16  # bytes
_GRACE = 8.0  # seconds after the second signal; the crawl itself needs five


class Child:
    """A process that is one crawl."""

    def __init__(self, spider: str, command: list[str], *, on_line: Callable[[str], None]) -> None:
        """Take the spider's name, the whole command, and who hears each line of its output."""
        self._command = command
        self._on_line = on_line
        self._hearing = Hearing(spider)
        self._process: Process | None = None
        self._signals = 0
        self.was_told = False
        """Somebody told it to stop."""

    async def start(self) -> int:
        """Start it; give its process id.

        Raises:
            OSError: it can't be started.
        """
        self._since = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            process_group=0,  # Ctrl+C in the terminal is the worker's alone
            preexec_fn=die_with_parent(),  # does one system call between fork and exec, and takes no lock
        )
        for _ in range(self._signals):
            self._send(signal.SIGTERM)
        return self._process.pid

    async def end(self) -> Outcome:
        """Hear it to its end, and tell how that was; a crawl whose task is cancelled is stopped first."""
        try:
            await self._hear()
        except asyncio.CancelledError:
            self.stop()
            await self._hear()
            raise
        assert self._process
        assert self._process.returncode is not None
        seconds = time.monotonic() - self._since
        return self._hearing.outcome(self._process.returncode, seconds=seconds, stopped=self.was_told)

    async def _hear(self) -> None:
        assert self._process
        assert self._process.stdout
        while data := await self._process.stdout.read(_PIECE):
            for line in self._hearing.feed(data):
                self._on_line(line)
        for line in self._hearing.end():
            self._on_line(line)
        await self._process.wait()

    def stop(self) -> None:
        """Tell it to finish what is in flight; told again, it ends within seconds; a third time, at once."""
        self.was_told = True
        self._signals += 1
        if self._signals > 2:
            self._send(signal.SIGKILL)
            return
        self._send(signal.SIGTERM)
        if self._signals == 2:
            asyncio.get_running_loop().call_later(_GRACE, self._send, signal.SIGKILL)

    def kill(self) -> None:
        """End it now."""
        self.was_told = True
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        # A process that has ended is nobody else's until asyncio has waited for it, which it says at once.
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)
