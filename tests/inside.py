"""``scrapy …`` inside the test process: all that a command does, without the start of a process.

Most crawls of the tests need nothing of a process of its own: they read their settings afresh, have their own folder,
environment, log and event loop's tasks, and leave nothing behind; what they leave is an error. Signals, ``kill -9``,
memory, several at once and what hangs threads need a real one: ``services.start_scrapy``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import io
import logging
import os
import sys
import tempfile
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import scrapy.cmdline
import scrapy.crawler
from scrapy import resolver
from scrapy.utils.misc import build_from_crawler, load_object
from scrapy.utils.reactor import install_reactor
from sqlalchemy import inspect

import carscraper.settings as settings_module
from carscraper import logs
from carscraper.commands import crawl
from carscraper.db import schema
from carscraper.db.models import Base
from carscraper.settings import environment as environment_module
from carscraper.storage import store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Engine

_OURS = ("asyncio", "head", "ledger", "locks", "pace", "PoolThread", "spool", "ThreadPoolExecutor", "upload")
_A_MOMENT = 3.0  # seconds for tasks that end by themselves
_SOON = 30.0  # seconds in which the threads of a crawl must have ended; those of a store that is away take their time


def is_possible() -> bool:
    """Return whether this thread can run a crawl: signals and event loops belong to the main one."""
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def run(arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float) -> tuple[int, str, str]:
    """Run ``scrapy`` with *arguments*; returns its exit code, standard output and standard error."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="crawl-", dir=cwd))
        out, err = (
            stack.enter_context((Path(folder) / name).open("w+", encoding="utf-8", errors="backslashreplace"))
            for name in ("stdout", "stderr")
        )
        left: list[str] = []
        code: int | None = None
        with contextlib.suppress(_TooLong), _surroundings(env, cwd, ["scrapy", *arguments], out, err):
            code = _execute(timeout, err, left)
        out.seek(0)
        err.seek(0)
        said = out.read(), err.read()
    if code is None:
        raise TimeoutError(f"still running after {timeout:g} s: {arguments}\n{said[1]}")
    if left:
        raise AssertionError(f"the crawl left behind: {', '.join(left)}\n{said[1]}")
    return code, *said


def _execute(timeout: float, err: io.TextIOBase, left: list[str]) -> int:
    loop = _reactor()._asyncioEventloop
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(executor)
    threads = set(threading.enumerate())
    process = functools.partial(_Process, timeout=timeout)
    try:
        with (
            mock.patch.object(scrapy.cmdline, "AsyncCrawlerProcess", process),
            mock.patch.object(crawl.Command, "owns_process", new=False),
            mock.patch.object(schema, "_upgrade", _upgrade),
            mock.patch.object(store, "_LAST_CHANCE", 2.0),  # a store that a test has stopped does not come back
        ):
            scrapy.cmdline.execute(sys.argv)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=err)
            return 1
        return int(end.code or 0)
    except Exception:
        traceback.print_exc(file=err)
        return 1
    finally:
        left += _clear(loop)
        executor.shutdown()
        asyncio.set_event_loop(None)
        left += _wait_for(threads)
    return 0


class _TooLong(BaseException):
    """The crawl did not end in time; no code of ours catches it."""


class _Process(scrapy.crawler.AsyncCrawlerProcess):
    """Scrapy's process without signals and without an end of the reactor."""

    def __init__(self, settings: Any, *, timeout: float) -> None:
        super().__init__(settings)
        self._timeout = timeout

    def start(self, stop_after_crawl: bool = True, install_signal_handlers: bool = True) -> None:
        reactor = _reactor()
        names = reactor.nameResolver
        resolver_class = load_object(self.settings["TWISTED_DNS_RESOLVER"])
        build_from_crawler(resolver_class, self, reactor=reactor).install_on_reactor()
        try:
            reactor._asyncioEventloop.run_until_complete(asyncio.wait_for(self.join(), self._timeout))
        except TimeoutError:
            raise _TooLong from None
        finally:
            reactor.installNameResolver(names)
            resolver.dnscache.clear()


@functools.cache
def _reactor() -> Any:
    """Return Twisted's reactor, as if it were running: between two crawls nothing happens in it."""
    install_reactor("twisted.internet.asyncioreactor.AsyncioSelectorReactor")
    from twisted.internet import reactor

    reactor.startRunning(installSignalHandlers=False)
    return reactor


def _clear(loop: Any) -> list[str]:
    """End what is still under way in the event loop; returns what that was."""
    left = []
    loop.run_until_complete(asyncio.sleep(0))
    if tasks := asyncio.all_tasks(loop):  # of pipelines that open side by side one may have ended the crawl
        ended, others = loop.run_until_complete(asyncio.wait(tasks, timeout=_A_MOMENT))
        for task in ended:
            _ = task.cancelled() or task.exception()
        for task in others:
            left.append(f"the task {task.get_coro()}")
            task.cancel()
    reactor = _reactor()
    for call in reactor.getDelayedCalls():
        left.append(f"the call {call}")
        call.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    if reactor.threadpool:
        reactor._stopThreadPool()
    return left


def _wait_for(before: set[threading.Thread]) -> list[str]:
    """Wait for the crawl's threads; returns those that do not end."""
    until = time.monotonic() + _SOON
    while threads := [each for each in threading.enumerate() if each not in before and each.name.startswith(_OURS)]:
        if time.monotonic() > until:
            return [f"the thread {each.name}" for each in threads]
        time.sleep(0.005)
    return []


@contextlib.contextmanager
def _surroundings(
    env: Mapping[str, str], cwd: Path, arguments: list[str], out: io.TextIOBase, err: io.TextIOBase
) -> Iterator[None]:
    """Change all that a process has of its own."""
    with (
        mock.patch.dict(os.environ, env, clear=True),
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", arguments),
        mock.patch.object(tempfile, "tempdir", None),
        Path(os.devnull).open(encoding="utf-8") as nothing,
        mock.patch.object(sys, "stdin", nothing),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _own_warnings(),
        _own_log(),
        _own_settings(),
    ):
        yield


@contextlib.contextmanager
def _own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for each in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", each)
        try:
            yield
        finally:
            logging.captureWarnings(False)


@contextlib.contextmanager
def _own_log() -> Iterator[None]:
    from twisted.python import log

    root = logging.root
    handlers, level, observers = root.handlers[:], root.level, log.theLogPublisher.observers[:]
    loggers = {name: each for name, each in root.manager.loggerDict.items() if isinstance(each, logging.Logger)}
    levels = {name: (each.level, each.filters[:], each.propagate) for name, each in loggers.items()}
    root.handlers[:] = []
    logs.uninstall()
    try:
        yield
    finally:
        logs.uninstall()
        logs.identify(spider=None, job=None, run=None)
        for each in set(log.theLogPublisher.observers) - set(observers):
            log.theLogPublisher.removeObserver(each)
        for each in root.handlers:
            each.close()
        root.handlers[:] = handlers
        for name, each in loggers.items():
            each.level, each.filters[:], each.propagate = levels[name]
        root.setLevel(level)  # which clears what the others remember of their levels


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    """Read the environment and ``.env`` anew."""
    environment: Any = environment_module.ENVIRONMENT
    before, told = vars(settings_module).copy(), vars(environment).copy()
    try:
        environment.__init__()
        importlib.reload(settings_module)
        yield
    finally:
        for module, was in ((settings_module, before), (environment, told)):
            vars(module).clear()
            vars(module).update(was)


# --- tables -----------------------------------------------------------------------------------------------------------

_migrate = schema._upgrade


def _upgrade(engine: Engine) -> tuple[str | None, str]:
    """Make the tables of an empty database without Alembic, which takes most of a small crawl's time.

    ``tests/db/test_schema.py`` sees that both make the same.
    """
    if inspect(engine).get_table_names():
        return _migrate(engine)
    with engine.begin() as connection:
        Base.metadata.create_all(connection, checkfirst=False)
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{schema.HEAD}')")
    return None, schema.HEAD
