"""Child processes that die with us, ``kill -9`` included (Linux), and other basics of the services for tests."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REPO = Path(__file__).resolve().parent.parent
T = TypeVar("T")


class MissingService(Exception):  # noqa: N818 - a state of the machine, not a fault of the test
    """A program that a test needs is not installed; the message says how to get it."""


def free_port() -> int:
    """A loopback port that nothing listens on now.

    It lies below the range from which the system takes ports for outgoing connections, so that none of those
    sits on it while a server is down.
    """
    while True:
        port = 10_000 + int.from_bytes(os.urandom(2), "big") % 20_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(happened: Callable[[], T], timeout: float = 10, what: str = "it") -> T:
    """What ``happened()`` returns once that is true; TimeoutError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := happened()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        time.sleep(0.01)
    return answer


def _die_with_parent(death_signal: int) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork: the child between fork and exec should do next to nothing
    parent = os.getpid()

    def arm() -> None:
        libc.prctl(1, death_signal, 0, 0, 0)  # 1 is PR_SET_PDEATHSIG; the user is changed already, which clears it
        if os.getppid() != parent:
            os._exit(127)

    return arm


class _Spawner:
    """Starts every child from one thread that lives as long as the process.

    The kernel sends the parent-death signal when the *thread* that forked ends, not when the process does,
    so a server started by a short-lived thread would be killed under the feet of the others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]]] = queue.SimpleQueue()
        self._pid = 0

    def _work(self) -> None:
        while True:
            order, reply = self._orders.get()
            try:
                reply.put((order(), None))
            except BaseException as error:  # handed to the thread that asked
                reply.put((None, error))

    def popen(self, command: Sequence[str | Path], *, death_signal: int, **options: Any) -> subprocess.Popen[Any]:
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                threading.Thread(target=self._work, name="spawner", daemon=True).start()
        options = {"stdin": subprocess.DEVNULL, "start_new_session": True, **options}
        options["preexec_fn"] = _die_with_parent(death_signal)
        reply: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._orders.put((functools.partial(subprocess.Popen, [str(part) for part in command], **options), reply))
        process: subprocess.Popen[Any]
        process, error = reply.get()
        if error is not None:
            raise error
        return process


_spawner = _Spawner()


def spawn(
    command: Sequence[str | Path], *, death_signal: int = signal.SIGKILL, **options: Any
) -> subprocess.Popen[Any]:
    """``subprocess.Popen`` whose child gets ``death_signal`` when this process ends.

    It has no standard input, and a session of its own: Ctrl+C in the terminal is ours alone.
    """
    return _spawner.popen(command, death_signal=death_signal, **options)


def family(pid: int) -> list[int]:
    """The process and all that it started, parents first."""
    found = [pid]
    for member in found:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in children.read_text().split()]
    return found


def signal_family(pid: int, number: int) -> None:
    for member in family(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, number)


def remove_left_over(prefix: str) -> None:
    """Removes folders named ``prefix-<pid>-…`` of processes that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}-*-*"):
        owner = folder.name.removeprefix(f"{prefix}-").split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)
