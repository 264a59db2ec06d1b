"""Workers as real processes on a real PostgreSQL; ``scrapy enqueue`` and ``scrapy queue`` in this process."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy

from carscraper import logs
from tests import services
from tests.commands import Said, call
from tests.crawl.conftest import new_site  # noqa: F401 - a fixture
from tests.crawl.world import IMPOLITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.dealers.server import SimulatedSite

BEAT = 0.5
"""Seconds: workers of the tests are taken for dead after two."""


@dataclass(kw_only=True)
class Fleet:
    """A database with a queue, a dealer, and the workers between them."""

    database_url: str
    site: SimulatedSite
    folder: Path
    capsys: pytest.CaptureFixture[str]
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the crawls, as the workers hand them on."""
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def worker(self, *arguments: str, env: dict[str, str] | None = None) -> services.RunningCrawl:
        """Starts ``scrapy worker``; it is killed at the test's end."""
        running = services.start_scrapy(
            "worker",
            *arguments,
            cwd=self.folder,
            env={
                "DATABASE_URL": self.database_url,
                "WORKER_HEARTBEAT": str(BEAT),
                "WORKER_RETRY_DELAY": "0.5",
                "WORKER_RETRIES": "1",
                **(env or {}),
            },
            settings=IMPOLITE | self.settings,
        )
        return self.stack.enter_context(running)

    def __call__(self, command: str, *words: object, code: int | None = 0, **settings: Any) -> Said:
        """Runs ``scrapy enqueue`` or ``scrapy queue`` in this process."""
        level = logging.root.level
        try:
            given = {"DATABASE_URL": self.database_url, "WORKER_HEARTBEAT": str(BEAT), **settings}
            return call(command, *words, settings=given, capsys=self.capsys, code=code)
        finally:
            logs.uninstall()  # which a worker puts up
            logging.root.setLevel(level)

    def enqueue(self, *words: object, **options: Any) -> Said:
        """Crawls of the dealer of this test."""
        return self("enqueue", *words, "-a", f"base_url={self.site.base_url}", **options)

    def queue(self) -> dict[str, Any]:
        """What ``scrapy queue --json`` shows."""
        found: dict[str, Any] = self("queue", "--json").data
        return found

    def wait(self, happened: Callable[[dict[str, Any]], object], *, timeout: float = 60) -> dict[str, Any]:
        """Until the queue is so."""
        found: dict[str, Any] = {}

        def look() -> bool:
            time.sleep(0.2)  # the machine is the workers'
            found.update(self.queue())
            return bool(happened(found))

        try:
            services.wait_until(look, timeout, "the queue")
        except TimeoutError:
            raise AssertionError(json.dumps(found, indent=1)) from None
        return found

    def rows(self, statement: str) -> list[Any]:
        engine = sqlalchemy.create_engine(self.database_url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            return list(connection.execute(sqlalchemy.text(statement)))

    def crawls(self) -> list[int]:
        """The process ids of all crawls of this dealer, whoever their parent is."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes()
                if b"\0crawl\0" in words and self.site.base_url.encode() in words:
                    found.append(int(path.parent.name))
        return found


def ended(done: services.CompletedCrawl, code: int = 0) -> services.CompletedCrawl:
    """A worker that ended as it should."""
    assert done.returncode == code, done
    assert not re.search(r"Traceback|never retrieved", done.stderr), done
    return done


@pytest.fixture
def new_fleet(
    tmp_path: Path,
    postgres_url: str,
    new_site: Callable[..., Any],  # noqa: F811 - the fixture
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Callable[..., Fleet]]:
    """A fleet around a simulated bilasolur with these options."""
    with contextlib.ExitStack() as stack:

        def make(settings: dict[str, Any] | None = None, **options: Any) -> Fleet:
            return Fleet(
                database_url=postgres_url,
                site=new_site(**options),
                folder=tmp_path,
                capsys=capsys,
                settings=settings or {},
                stack=stack,
            )

        yield make


def parents(pid: int) -> int:
    """The parent of a process."""
    return int(re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
