"""A database with a queue, a dealer, and workers between them: for the tests of ``scrapy worker``."""

from __future__ import annotations

import contextlib
import logging
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
from tests.crawl.world import IMPOLITE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.dealers.server import SimulatedSite

BEAT = 1.5
"""Seconds: workers of the tests are taken for dead after six, which a busy machine does not make of a live one."""


@dataclass(kw_only=True)
class Fleet:
    """A database with a queue, a dealer, and the workers between them."""

    database_url: str
    site: SimulatedSite
    folder: Path
    capsys: pytest.CaptureFixture[str]
    stack: contextlib.ExitStack
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the crawls, as the workers hand them on."""

    def worker(self, *arguments: str, **env: str) -> services.RunningCrawl:
        """Start ``scrapy worker``; it is killed at the test's end."""
        timing = {"WORKER_HEARTBEAT": str(BEAT), "WORKER_RETRY_DELAY": "1", "WORKER_RETRIES": "1"}
        running = services.start_scrapy(
            "worker",
            *arguments,
            cwd=self.folder,
            env={"DATABASE_URL": self.database_url, **timing, **env},
            settings=IMPOLITE | self.settings,
        )
        return self.stack.enter_context(running)

    def __call__(self, command: str, *words: object, code: int | None = 0, **settings: Any) -> Said:
        """Run ``scrapy enqueue`` or ``scrapy queue`` in this process."""
        level = logging.root.level
        try:
            given = {"DATABASE_URL": self.database_url, "WORKER_HEARTBEAT": str(BEAT), **settings}
            return call(command, *words, settings=given, capsys=self.capsys, code=code)
        finally:
            logs.uninstall()  # which a worker puts up
            logging.root.setLevel(level)

    def enqueue(self, *words: object, **options: Any) -> Said:
        """Put a crawl of the dealer into the queue."""
        return self("enqueue", "crawl", "bilasolur", *words, "-a", f"base_url={self.site.base_url}", **options)

    def queue(self) -> dict[str, Any]:
        """Return what ``scrapy queue --json`` shows."""
        found: dict[str, Any] = self("queue", "--json").data
        return found

    def wait(self, happened: Callable[[dict[str, Any]], object], *, timeout: float = 60) -> dict[str, Any]:
        """Return the state of the queue as soon as it is so."""
        deadline = time.monotonic() + timeout
        while not happened(found := self.queue()):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        return found

    def rows(self, statement: str) -> list[Any]:
        engine = sqlalchemy.create_engine(
            self.database_url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sqlalchemy.NullPool
        )
        with engine.begin() as connection:
            return list(connection.execute(sqlalchemy.text(statement)))

    def stored(self) -> set[str]:
        return {row.identity for row in self.rows("SELECT identity FROM car_images WHERE status = 'stored'")}


def ended(done: services.CompletedCrawl, code: int = 0) -> services.CompletedCrawl:
    """Return a worker that ended as it should."""
    assert done.returncode == code, done
    assert not re.search(r"Traceback|never retrieved", done.stderr), done
    return done
