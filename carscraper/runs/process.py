"""A crawl as a process of its own: its command, what it prints, and its verdict, which is its row in ``crawl_runs``."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from carscraper.exceptions import CarscraperError
from carscraper.logs import printable
from carscraper.runs.record import FAILED, INTERRUPTED, PARTIAL, RUNNING, SKIPPED, STATUS_OF, SUCCESS, RunRecord
from carscraper.state import ExitCode

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Iterable, Mapping

_LONGEST_LINE = 1 << 20  # bytes; a longer one is left out
_ANSWER = 30.0  # seconds for the question how a crawl ended
_MOST_SIGNALS = 2  # that are passed on; the next one kills


@dataclass(frozen=True, kw_only=True, slots=True)
class Crawl:
    """One ``scrapy crawl`` that is to be started."""

    spider: str
    job_id: str
    """By which its row is found; no other run has it."""
    uploads: bool = False
    """It was crawled before: only its items and log are uploaded again (``scrapy runs upload``)."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    settings: Iterable[str] = ()
    """Each ``NAME=value``."""
    level: str | None = None
    """Of the log."""
    log_file: str | None = None
    """The log of all; each crawl gets one of its own beside it."""
    log_name: str = ""
    """What tells its log from the others'; the spider's name unless given."""

    @property
    def command(self) -> list[str]:
        """The command line."""
        crawl = ["crawl", self.spider, "-a", f"_job={self.job_id}"]
        words = [sys.executable, "-m", "scrapy", *(["runs", "upload", self.job_id] if self.uploads else crawl)]
        for each in self.settings:
            if not each.startswith("LOG_FILE="):
                words += ["-s", each]
        if self.uploads:
            return words
        if self.level:
            words += ["-L", self.level]
        if self.log_file:
            path = Path(self.log_file)
            own = path.with_name(f"{path.stem}.{self.log_name or self.spider}{path.suffix}")
            words += ["-s", f"LOG_FILE={own}"]
        for name, value in self.arguments.items():
            words += ["-a", f"{name}={value}"]
        return words


@dataclass(frozen=True, kw_only=True, slots=True)
class CrawlOutcome:
    """How a crawl ended."""

    spider: str
    outcome: str
    """A status of ``crawl_runs``, or ``not started``."""
    code: int | None = None
    """The exit code, negative for a signal; ``None``: not started."""
    seconds: float = 0.0
    said: str
    """All lines of the verdict, or what stands in their place."""
    line: str
    """The one that says most, without the outcome."""
    record: RunRecord | None = None
    """Its row."""

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.spider}: {self.outcome} (exit code {self.code}, {self.seconds:.0f} s). {self.line}"


class Processes:
    """The crawls under way, which a signal stops.

    They are in the process group of this program: Ctrl+C in a terminal reaches them by itself and is not passed on, any
    other signal is. They die with this program.
    """

    def __init__(self, database_url: str, *, on_line: Callable[[str, str], None]) -> None:
        """Accept where the rows are, and what is called with each line of a crawl, behind its job's id."""
        self._database_url = database_url
        self._on_line = on_line
        self._running: set[Process] = set()
        self.stops = 0
        """How often they were told to stop."""

    def handle_signals(self, on_stop: Callable[[], None] = lambda: None) -> None:
        """Stop all crawls at SIGINT, SIGTERM and SIGHUP; *on_stop* is called after each."""

        def stop(*, pass_on: bool) -> None:
            self.stop(pass_on=pass_on)
            on_stop()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, lambda: stop(pass_on=False))
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: stop(pass_on=True))

    def stop(self, *, pass_on: bool) -> None:
        """Let each finish what is in flight; the second time they end within seconds, the third time at once."""
        self.stops += 1
        for process in self._running:
            if process.returncode is None and self.stops > _MOST_SIGNALS:
                process.kill()
            elif process.returncode is None and pass_on:
                process.terminate()

    async def run(self, crawl: Crawl) -> CrawlOutcome:
        """Run one to its end; one whose task is cancelled is stopped first."""
        since = time.monotonic()
        try:
            process = await asyncio.create_subprocess_exec(
                *crawl.command,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                limit=_LONGEST_LINE,
                preexec_fn=_die_with_parent(),  # one system call between fork and exec, and no lock
            )
        except OSError as error:
            said = f"can't be started: {error.strerror}"
            return CrawlOutcome(spider=crawl.spider, outcome=FAILED, said=said, line=said)
        self._running.add(process)
        if self.stops:
            process.terminate()  # the signal came a moment too early for it
        reading = asyncio.create_task(self._read(process, crawl.job_id))
        try:
            last = await asyncio.shield(reading)
        except asyncio.CancelledError:
            if process.returncode is None:
                process.terminate()
            await reading
            raise
        finally:
            self._running.discard(process)
        code = await process.wait()
        record = await asyncio.to_thread(self.record_of, crawl.job_id)
        return self._outcome(crawl.spider, code, time.monotonic() - since, record, last)

    async def _read(self, process: Process, job_id: str) -> str:
        """Hand each line on; return the last one."""
        assert process.stdout
        last = ""
        while True:
            try:
                raw = await process.stdout.readline()
            except ValueError:  # longer than the limit
                continue
            if not raw:
                return last
            line = printable(raw.decode("utf-8", "replace").rstrip())
            if line:
                last = line
                self._on_line(job_id, line)

    def record_of(self, job_id: str) -> RunRecord | None:
        """Return the run's row; ``None`` where there is none, or no database to ask."""
        from carscraper.db import runs  # noqa: PLC0415 - the help text of `scrapy crawlall` needs no SQLAlchemy
        from carscraper.db.engine import explained_database, is_there, open_engine  # noqa: PLC0415 - the same

        try:
            if not is_there(self._database_url):
                return None
            engine = open_engine(self._database_url, timeout=_ANSWER)
            try:
                with explained_database(), engine.connect().execution_options(sqlite_begin="DEFERRED") as connection:
                    found = runs.find_run(connection, job_id)
            finally:
                engine.dispose()
        except CarscraperError:
            return None
        return RunRecord(**found) if found else None

    def _outcome(self, spider: str, code: int, seconds: float, record: RunRecord | None, last: str) -> CrawlOutcome:
        if record and record.status not in {RUNNING, INTERRUPTED}:
            outcome, said = record.status, record.why or ""
            line = record.reason or said.partition("\n")[0].removeprefix(f"{outcome}. ")
            return CrawlOutcome(
                spider=spider, outcome=outcome, code=code, seconds=seconds, said=said, line=line, record=record
            )
        outcome = STATUS_OF.get(code, FAILED)
        if code < 0:
            last = f"ended by signal {-code}"
        elif code == 0 and self.stops:  # gone before it could give a verdict
            outcome, last = PARTIAL, "broken off on request"
        said = last or "it said nothing"
        return CrawlOutcome(spider=spider, outcome=outcome, code=code, seconds=seconds, said=said, line=said)


def exit_code(outcomes: Iterable[CrawlOutcome]) -> ExitCode:
    """Return the exit code of several crawls: 0 if none failed or was in vain, 4 if all failed, else 3."""
    words = {each.outcome for each in outcomes}
    if words and words <= {SUCCESS, SKIPPED}:
        return ExitCode.SUCCESS
    return ExitCode.PARTIAL if words & {SUCCESS, PARTIAL, SKIPPED} else ExitCode.FAILED


def _die_with_parent() -> Callable[[], None] | None:
    """Return what has the kernel end a child with this process, however that ends; on Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork: the child should do next to nothing until it is another program
    parent = os.getpid()

    def arm() -> None:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # 1 is PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(127)

    return arm
