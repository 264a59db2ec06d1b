"""Real services for tests, benchmarks and the demo: PostgreSQL, two S3 servers, a faulty proxy, and real crawls.

Nothing here needs pytest; ``conftest.py`` makes fixtures of it. Everything listens on loopback or on a
Unix socket in a temporary folder only, and dies with this process, ``kill -9`` included (Linux).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from tests import inside
from tests.postgres import PgBouncer, PostgresCluster, postgres_binaries
from tests.preloaded import Preloaded, is_supported
from tests.processes import REPO, MissingService, family, free_port, spawn, wait_until
from tests.s3_proxy import Fault, S3Proxy, S3Request
from tests.s3_servers import REGION, S3, MotoS3, RcloneS3, rclone_binary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "REGION",
    "REPO",
    "S3",
    "CompletedCrawl",
    "Fault",
    "MissingService",
    "MotoS3",
    "PgBouncer",
    "PostgresCluster",
    "RcloneS3",
    "RunningCrawl",
    "S3Proxy",
    "S3Request",
    "crawl",
    "crawl_environment",
    "family",
    "free_port",
    "postgres_binaries",
    "rclone_binary",
    "run_scrapy",
    "spawn",
    "start_crawl",
    "start_scrapy",
    "wait_until",
]

_KEPT = re.compile(r"(PATH|LANG|LC_.*|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHON(?!PATH).*|VIRTUAL_ENV|CI|COV.*)")


def crawl_environment(cwd: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a crawl: a bare one, in which nothing of the developer's own settings is left.

    No ``AWS_…``, ``DATABASE_URL``, ``.env``, ``~/.aws`` or proxy: only what a test says counts.
    """
    clean = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    home = cwd / ".home"
    home.mkdir(exist_ok=True)
    return clean | {
        "HOME": str(home),
        "PYTHONPATH": str(REPO),
        "PYTHONUNBUFFERED": "1",
        "SCRAPY_SETTINGS_MODULE": "carscraper.settings",
        "CARSCRAPER_ENV_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        **(env or {}),
    }


@dataclass(frozen=True, kw_only=True)
class CompletedCrawl:
    """How a crawl (or another command) ended."""

    command: list[str]
    returncode: int
    """As in subprocess: negative for a signal."""
    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float
    peak_memory: int
    """Bytes resident at most, read ten times a second while it was waited for."""

    @property
    def log(self) -> str:
        """Scrapy logs to standard error."""
        return self.stderr

    @functools.cached_property
    def stats(self) -> dict[str, Any]:
        """Scrapy's stats as it logged them at the end; empty if it didn't come to that."""
        return parse_stats(self.stderr)

    def lines(self, text: str) -> list[str]:
        """The log's lines with this text in them."""
        return [line for line in self.stderr.splitlines() if text in line]

    def __str__(self) -> str:
        tail = "\n".join(self.stderr.splitlines()[-60:])
        end = f"exit code {self.returncode} after {self.seconds:.1f} s"
        return f"{' '.join(self.command)}\n{end}\n{self.stdout}\n{tail}"


def parse_stats(log: str) -> dict[str, Any]:
    r"""The last stats in a log.

    >>> log = ["Dumping Scrapy stats:", "    {'a': 1,", "     'b': datetime.datetime(2026, 2, 1, 3, 4)}"]
    >>> parse_stats("\n".join(log))
    {'a': 1, 'b': datetime.datetime(2026, 2, 1, 3, 4)}
    """
    dumps = re.findall(r"Dumping Scrapy stats:\n *(\{.*?\})$", log, re.DOTALL | re.MULTILINE)
    if not dumps:
        return {}
    tree = ast.parse(dumps[-1], mode="eval").body
    assert isinstance(tree, ast.Dict)
    return {
        ast.literal_eval(key): _stat(value)
        for key, value in zip(tree.keys, tree.values, strict=True)
        if key is not None
    }


def _stat(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "datetime.datetime":
        naive = datetime(*(ast.literal_eval(part) for part in node.args))  # noqa: DTZ001 - its zone follows
        return naive.replace(tzinfo=UTC) if node.keywords else naive
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


SCRAPY = [sys.executable, "-m", "scrapy"]
STARTS_CRAWLS = {"crawlall", "worker", "fetch", "parse", "runspider", "shell"}
_OF_THE_INTERPRETER = re.compile("PYTHON(?!PATH|UNBUFFERED).*|LC_.*|LANG")


@functools.cache
def _start_preloaded(_pid: int) -> Preloaded:
    return Preloaded(spawn)


def _preloaded(env: Mapping[str, str]) -> Preloaded | None:
    """The process that has everything imported; None if this one would make another interpreter of it.

    Another PYTHONPATH may name a copy of the project, whose modules are not those that were imported.
    """

    def own(environment: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in environment.items() if _OF_THE_INTERPRETER.fullmatch(name)}

    same = own(env) == own(os.environ) and env.get("PYTHONPATH") == str(REPO)
    return _start_preloaded(os.getpid()) if is_supported() and same else None


class RunningCrawl:
    """A crawl (or another command) under way; a context manager that kills it if it's there at the end."""

    def __init__(
        self, command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, stderr: IO[Any] | None = None
    ) -> None:
        """Accept as *stderr* where the log is to go instead of being kept here, a terminal say."""
        self.command = [str(part) for part in command]
        self._outputs = Path(tempfile.mkdtemp(prefix="crawl-", dir=cwd))
        self._begin = time.monotonic()
        self._peak = 0
        self._done: CompletedCrawl | None = None
        self._process: subprocess.Popen[Any] | None = None  # of one that was not forked by tests.preloaded
        with self._out.open("wb") as out, self._err.open("wb") as kept:
            err = stderr or kept
            if self.command[:3] == SCRAPY and (preloaded := _preloaded(env)):
                self.pid = preloaded.start(self.command[3:], env=env, cwd=cwd, stdout=out, stderr=err)
            else:
                self._process = spawn(self.command, env=dict(env), cwd=cwd, stdout=out, stderr=err)
                self.pid = self._process.pid

    @property
    def _out(self) -> Path:
        return self._outputs / "stdout"

    @property
    def _err(self) -> Path:
        return self._outputs / "stderr"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._done is None:
            self.kill()
            self.wait(10)

    @property
    def log(self) -> str:
        """What it logged so far."""
        return self._err.read_text("utf-8", "replace")

    @property
    def stdout(self) -> str:
        return self._out.read_text("utf-8", "replace")

    @property
    def running(self) -> bool:
        return self._done is None and not self._over(0)

    def send_signal(self, number: int) -> None:
        """To this very process only, never to others of the same name."""
        if self.running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """``kill -9``."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """Ctrl+C."""
        self.send_signal(signal.SIGINT)

    def wait_for_log(self, pattern: str, timeout: float = 60) -> re.Match[str]:
        """Waits for a line that fits; fails at once when the crawl ends without it."""

        def found() -> re.Match[str] | None:
            over = not self.running
            match = re.search(pattern, self.log, re.MULTILINE)
            if match is None and over:
                raise AssertionError(f"the crawl ended without {pattern!r}:\n{self.wait()}")
            return match

        match = wait_until(found, timeout, f"{pattern!r} in the log")
        assert match is not None
        return match

    def _over(self, timeout: float) -> bool:
        """Whether it has ended; it stays a zombie, so its pid is nobody else's until ``wait``."""
        deadline = time.monotonic() + timeout
        while True:
            self._look()
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._nap(min(left, 0.1))

    def _nap(self, seconds: float) -> None:
        if not hasattr(os, "pidfd_open"):
            time.sleep(min(seconds, 0.02))
            return
        handle = os.pidfd_open(self.pid)
        try:
            select.select([handle], [], [], seconds)
        finally:
            os.close(handle)

    def _look(self) -> None:
        # Not ru_maxrss: that begins with the size of the process that forked.
        with contextlib.suppress(OSError):
            high = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
            self._peak = max(self._peak, int(high[1]) * 1024 if high else 0)

    def wait(self, timeout: float = 120) -> CompletedCrawl:
        """How it ended; after ``timeout`` seconds it is killed and TimeoutError says what it had logged."""
        if self._done is not None:
            return self._done
        late = not self._over(timeout)
        if late:
            os.kill(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        returncode = os.waitstatus_to_exitcode(status)
        if self._process is not None:
            self._process.returncode = returncode  # it would ask for it itself, and warn
        self._done = CompletedCrawl(
            command=self.command,
            returncode=returncode,
            stdout=self.stdout,
            stderr=self.log,
            seconds=time.monotonic() - self._begin,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_memory=self._peak,
        )
        if late:
            raise TimeoutError(f"still running after {timeout:g} s: {self._done}")
        return self._done


def start_scrapy(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    stderr: IO[Any] | None = None,
) -> RunningCrawl:
    """Starts ``scrapy …`` with this project's settings in ``cwd``."""
    return RunningCrawl(
        [*SCRAPY, *(str(part) for part in arguments), *_options(settings)],
        env=crawl_environment(cwd, env),
        cwd=cwd,
        stderr=stderr,
    )


def run_scrapy(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    timeout: float = 120,
    alone: bool | None = None,
) -> CompletedCrawl:
    """Runs ``scrapy …`` to its end; a deprecated use of Scrapy's is an error.

    It runs inside this process if that can be, unless it is to be *alone*, as commands are that start crawls.
    """
    environment = crawl_environment(cwd, env)
    if alone is None:
        alone = arguments[0] in STARTS_CRAWLS or "--live" in arguments
    if not alone and inside.is_possible() and _preloaded(environment):
        command = [*(str(part) for part in arguments), *_options(settings)]
        begin, cpu = time.monotonic(), time.process_time()
        code, out, err = inside.run(command, env=environment, cwd=cwd, timeout=timeout)
        done = CompletedCrawl(
            command=[*SCRAPY, *command],
            returncode=code,
            stdout=out,
            stderr=err,
            seconds=time.monotonic() - begin,
            cpu_seconds=time.process_time() - cpu,
            peak_memory=0,
        )
    else:
        with start_scrapy(*arguments, cwd=cwd, env=env, settings=settings) as running:
            done = running.wait(timeout)
    if "ScrapyDeprecationWarning" in done.stderr:
        raise AssertionError(f"it uses what Scrapy will drop: {done.lines('ScrapyDeprecationWarning')}")
    return done


def _options(settings: Mapping[str, Any] | None) -> list[str]:
    return [part for name, value in (settings or {}).items() for part in ("-s", f"{name}={value}")]


def start_crawl(
    spider: str, *arguments: str, spider_arguments: Mapping[str, Any] | None = None, **options: Any
) -> RunningCrawl:
    """Starts a real ``scrapy crawl`` as a process of its own; for ``options`` see ``start_scrapy``."""
    return start_scrapy("crawl", spider, *arguments, *_spider_arguments(spider_arguments), **options)


def crawl(
    spider: str, *arguments: str, spider_arguments: Mapping[str, Any] | None = None, **options: Any
) -> CompletedCrawl:
    """Runs a real ``scrapy crawl`` to its end; for ``options`` see ``run_scrapy``."""
    return run_scrapy("crawl", spider, *arguments, *_spider_arguments(spider_arguments), **options)


def _spider_arguments(arguments: Mapping[str, Any] | None) -> list[str]:
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    return [part for name, value in given.items() for part in ("-a", f"{name}={value}")]
