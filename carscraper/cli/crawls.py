"""Several crawls, each a process of its own, a few at a time.

A child gets every signal from here and none from the terminal (it is a process group of its own), so that one Ctrl+C
is one signal to it, after which it finishes what is in flight. It dies with this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carscraper.cli.console import printable, table
from carscraper.cli.verb import DONE, FAILED, PARTIAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import FrameType

_LOOK = 0.1  # seconds between two looks at the children
_LAST_LINES = 20
_LONGEST_LINE = 1 << 20  # bytes; a line that never ends must not fill the memory
_PATIENCE = 2  # signals that are passed on; the next one kills
_OUTCOMES = {DONE: "success", PARTIAL: "partial"}
_VERDICT = "carscraper.extensions.verdict"
"""The logger's name."""
_TOLD = re.compile(
    r"(success|partial|failed|skipped)\. |(?:limit )?not kept: |outputs not all kept: |kept all the same: "
    r"|stopped on request"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one dealer's crawl ended."""

    dealer: str
    outcome: str
    """``success``, ``partial``, ``failed``, ``skipped`` (another crawl of it is under way), or ``not started``."""
    code: int | None
    """The exit code, negative for a signal; ``None``: not started."""
    seconds: float
    said: str
    """The crawl's last lines: its verdict, or what stood in its place."""

    def line(self) -> str:
        """Give the line that says most, without the dealer's name and the outcome."""
        lines = self.said.splitlines()
        losses = (each for each in lines if each.startswith(("not kept: ", "limit not kept: ")))
        chosen = next(losses, "") if self.outcome == "partial" else ""
        line = chosen or next(iter(lines), "")
        return line.removeprefix(f"{self.outcome}. ")

    def as_json(self) -> dict[str, Any]:
        """Give it as JSON shows it."""
        return {
            "dealer": self.dealer,
            "outcome": self.outcome,
            "code": self.code,
            "seconds": round(self.seconds, 1),
            "said": self.said,
        }


def command_of(
    dealer: str,
    arguments: Mapping[str, str],
    *,
    settings: Iterable[str],
    level: str | None,
    log_file: str | None,
    log_name: str | None = None,
) -> list[str]:
    """Give the command of one dealer's crawl.

    Args:
        dealer: the spider's name.
        arguments: the spider's.
        settings: each ``NAME=value``, as they were given.
        level: of the log, as it was given.
        log_file: the log of all; each crawl gets one of its own beside it.
        log_name: what tells its log from the others'; the dealer unless given.
    """
    command = [sys.executable, "-m", "scrapy", "crawl", dealer]
    for each in settings:
        if not each.startswith("LOG_FILE="):
            command += ["-s", each]
    if level:
        command += ["-L", level]
    if log_file:
        command += ["-s", f"LOG_FILE={own_log(log_file, log_name or dealer)}"]
    for name, value in arguments.items():
        command += ["-a", f"{name}={value}"]
    return command


def own_log(log_file: str, dealer: str) -> str:
    """Give the name of one dealer's log.

    >>> own_log("var/crawl.log", "hekla"), own_log("crawl", "br")
    ('var/crawl.hekla.log', 'crawl.br')
    """
    path = Path(log_file)
    return str(path.with_name(f"{path.stem}.{dealer}{path.suffix}"))


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Give the exit code of all: 0 if none failed or was in vain, 4 if each failed or none was started, else 3."""
    words = {each.outcome for each in outcomes}
    if words and words <= {"success", "skipped"}:
        return DONE
    return PARTIAL if words & {"success", "partial", "skipped"} else FAILED


def report(outcomes: Iterable[Outcome], left_out: Mapping[str, str]) -> list[str]:
    """Lay out the table at the end."""
    rows = [
        [each.dealer, each.outcome, "" if each.code is None else each.code, f"{each.seconds:.0f}", each.line()]
        for each in outcomes
    ]
    rows += [[dealer, "left out", "", "", why] for dealer, why in left_out.items()]
    return table(["dealer", "outcome", "code", "seconds", "last line"], rows, right=[2, 3])


class Hearing:
    """Hears what one crawl says: parts its output into lines, and keeps the last ones and the verdict."""

    def __init__(self, dealer: str) -> None:
        """Take the spider's name, by which the verdict's lines are known."""
        self._dealer = dealer
        self._unfinished = b""
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._told: list[str] = []

    def feed(self, data: bytes) -> list[str]:
        """Give the lines that *data* completes, printable."""
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        if len(self._unfinished) > _LONGEST_LINE:
            lines, self._unfinished = [*lines, self._unfinished], b""
        return [self._take(line) for line in lines]

    def end(self) -> list[str]:
        """Give what is left when there is no more to come."""
        line, self._unfinished = self._unfinished, b""
        return [self._take(line)] if line else []

    def _take(self, raw: bytes) -> str:
        line = printable(raw.decode("utf-8", "replace").rstrip("\r"))
        if line.strip():
            self._lines.append(line)
        own = re.match(rf"{self._dealer}: (.*)", _of_verdict(line))
        if own and (found := _TOLD.match(own[1])):
            if found[1]:
                self._told.clear()
            self._told.append(own[1])
        return line

    def outcome(self, code: int, *, seconds: float, stopped: bool) -> Outcome:
        """Tell how the crawl ended with exit code *code*; *stopped*: it had been told to."""
        outcome = _OUTCOMES.get(code, "failed")
        said = "\n".join(self._told) or (self._lines[-1] if self._lines else "it said nothing")
        if code == DONE and said.startswith("skipped. "):
            outcome = "skipped"
        if not self._told and code < 0:
            said = f"ended by signal {-code}"
        elif not self._told and code == DONE and stopped:
            # Gone before it could give a verdict, with whatever code was there.
            outcome, said = "partial", "broken off on request"
        return Outcome(dealer=self._dealer, outcome=outcome, code=code, seconds=seconds, said=said)


def _of_verdict(line: str) -> str:
    """Give what the verdict says in *line*: by itself, or in the log's own line; never from within another's."""
    if not line.startswith("{"):
        return re.sub(rf"^\S+ \S+ \[{re.escape(_VERDICT)}\] [A-Z]+: ", "", line)
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    is_its = isinstance(record, dict) and record.get("logger") == _VERDICT
    return printable(str(record.get("message"))) if is_its else ""


@dataclass(kw_only=True, slots=True)
class _Child:
    dealer: str
    process: subprocess.Popen[bytes]
    since: float
    hearing: Hearing

    def read(self) -> Iterator[str]:
        """Give the lines that are there."""
        assert self.process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.process.stdout.fileno(), 1 << 16):
                yield from self.hearing.feed(data)
        if self.process.returncode is not None:
            yield from self.hearing.end()

    def outcome(self, *, stopped: bool) -> Outcome:
        """Tell how it ended; *stopped*: it had been told to."""
        code = self.process.returncode
        return self.hearing.outcome(code, seconds=time.monotonic() - self.since, stopped=stopped)


class Crawls:
    """Runs commands, at most so many at once, and hears how each ended."""

    def __init__(
        self,
        commands: Mapping[str, list[str]],
        *,
        parallel: int,
        on_line: Callable[[str, str], None],
        on_end: Callable[[Outcome], None],
    ) -> None:
        """Take plain values; nothing is started before :meth:`run`.

        Args:
            commands: of each dealer's crawl, in their order.
            parallel: how many run at the same time.
            on_line: hears each line of output, with the dealer before it.
            on_end: hears of each crawl that has ended.
        """
        self._waiting = deque(commands.items())
        self._parallel = parallel
        self._on_line = on_line
        self._on_end = on_end
        self._running: list[_Child] = []
        self._signals: deque[int] = deque()
        self._stops = 0
        self._selector = selectors.DefaultSelector()

    def run(self) -> list[Outcome]:
        """Run them all; on a signal those that run are told, and no more are started."""
        outcomes: list[Outcome] = []
        before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            while self._running or (self._waiting and not self._stops):
                self._pass_on()
                while self._waiting and not self._stops and len(self._running) < self._parallel:
                    dealer, command = self._waiting.popleft()
                    try:
                        self._start(dealer, command)
                    except OSError as error:
                        outcomes.append(_not_begun(dealer, f"can't be started: {error.strerror}", outcome="failed"))
                        self._on_end(outcomes[-1])
                for key, _ in self._selector.select(_LOOK):
                    self._relay(key.data)
                ended = [each for each in self._running if each.process.poll() is not None]
                outcomes += [self._end(each) for each in ended]
        finally:
            self._abandon()
            for number, handler in before.items():
                signal.signal(number, handler)
        return outcomes + [_not_begun(dealer, "stopped on request") for dealer, _ in self._waiting]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)  # passed on by the loop, where no child is half started

    def _pass_on(self) -> None:
        while self._signals:
            number = self._signals.popleft()
            self._stops += 1
            if self._stops > _PATIENCE:
                number = signal.SIGKILL
            elif number == signal.SIGHUP:
                number = signal.SIGTERM  # a closed terminal is no reason to break off, only to stop
            for child in self._running:
                child.process.send_signal(number)

    def _start(self, dealer: str, command: list[str]) -> None:
        process = subprocess.Popen(  # noqa: S603 - this program itself
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - there are no threads here
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        child = _Child(dealer=dealer, process=process, since=time.monotonic(), hearing=Hearing(dealer))
        self._running.append(child)
        self._selector.register(process.stdout, selectors.EVENT_READ, child)

    def _relay(self, child: _Child) -> None:
        for line in child.read():
            self._on_line(child.dealer, line)

    def _end(self, child: _Child) -> Outcome:
        self._relay(child)
        self._forget(child)
        outcome = child.outcome(stopped=self._stops > 0)
        self._on_end(outcome)
        return outcome

    def _forget(self, child: _Child) -> None:
        assert child.process.stdout is not None
        self._selector.unregister(child.process.stdout)
        child.process.stdout.close()
        self._running.remove(child)

    def _abandon(self) -> None:
        """End what still runs when something here went wrong."""
        for child in list(self._running):
            child.process.kill()
            child.process.wait()
            self._forget(child)
        self._selector.close()


def _not_begun(dealer: str, said: str, *, outcome: str = "not started") -> Outcome:
    return Outcome(dealer=dealer, outcome=outcome, code=None, seconds=0.0, said=said)


def die_with_parent() -> Callable[[], None] | None:
    """Have the kernel end a child with this process, however that ends; on Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork: the child between fork and exec should do next to nothing
    parent = os.getpid()

    def arm() -> None:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # 1 is PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(127)

    return arm
