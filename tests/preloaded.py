"""A process that has imported what every ``scrapy`` command imports, and forks one for each that is asked for.

Importing takes most of a second, a test's crawl often less; the suite starts hundreds of them. What is forked is a
process like any other: a child of the test's own process, with its own session, environment, folder and exit code.
What was read of the environment beforehand, ``carscraper.settings`` alone, it reads anew.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MODULES = (
    "aiohttp",
    "alembic.command",
    "alembic.config",
    "apprise",
    "boto3",
    "botocore.config",
    "botocore.session",
    "dotenv",
    "form2request",
    "ijson",
    "lxml.etree",
    "obstore.store",
    "PIL.Image",
    "PIL.ImageCms",
    "prometheus_client",
    "psycopg",
    "pythonjsonlogger.json",
    "rich.console",
    "rich.live",
    "rich.progress",
    "scrapy.cmdline",
    "scrapy.commands.crawl",
    "scrapy.core.downloader.handlers.http11",
    "scrapy.core.engine",
    "scrapy.crawler",
    "scrapy.downloadermiddlewares.cookies",
    "scrapy.downloadermiddlewares.robotstxt",
    "scrapy.extensions.feedexport",
    "scrapy.pipelines.images",
    "scrapy.shell",
    "scrapy.spiderloader",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm",
    "tldextract",
    "carscraper.parsing",
    "carscraper.vehicles",
    "carscraper.linking.tables",
    "carscraper.db.models",
    "carscraper.db.cars",
    "carscraper.images.inspection",
    "carscraper.images.metadata",
    "carscraper.images.thumbnails",
    "carscraper.storage.keys",
)
"""Of others and of ours: those that take time and are imported by nearly every command."""
PACKAGES = ("commands", "extensions", "middlewares", "pipelines", "runs", "spiders", "storage")
"""Of ours, with all that is in them: Scrapy imports every command and spider for each of them."""

_CLONE_PARENT = 0x00008000
_PR_SET_PDEATHSIG = 1
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}


def is_supported() -> bool:
    """Return whether this machine can fork a child for its parent."""
    return sys.platform == "linux" and os.uname().machine in _SYS_CLONE


class Preloaded:
    """Asks the process that has imported everything; it ends with the one that asks."""

    def __init__(self, spawn: Callable[..., Any]) -> None:
        self._lock = threading.Lock()
        self._ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())]
        self.process = spawn(command, pass_fds=[theirs.fileno()], cwd=Path(__file__).parent.parent)
        theirs.close()

    def start(
        self, arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdout: IO[Any], stderr: IO[Any]
    ) -> int:
        """Start ``scrapy`` with *arguments*; returns the pid of a child of this process."""
        order = json.dumps({"arguments": list(arguments), "env": dict(env), "cwd": str(cwd)}).encode()
        with self._lock:
            head = len(order).to_bytes(4, "big")
            socket.send_fds(self._ours, [head], [stdout.fileno(), stderr.fileno()])
            self._ours.sendall(order)
            answer = self._ours.recv(4, socket.MSG_WAITALL)
        if len(answer) < 4:
            raise RuntimeError("tests.preloaded has ended")
        return int.from_bytes(answer, "big")


def _serve(orders: socket.socket) -> list[str] | None:
    """Fork a child for each order; returns in the child, with its arguments, and at the end, with nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    clone = _SYS_CLONE[os.uname().machine]
    while True:
        head, descriptors, _, _ = socket.recv_fds(orders, 4, 2)
        if len(head) < 4:
            return None
        order = json.loads(orders.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
        ctypes.pythonapi.PyOS_BeforeFork()
        pid = libc.syscall(clone, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
        if pid:
            ctypes.pythonapi.PyOS_AfterFork_Parent()
            for descriptor in descriptors:
                os.close(descriptor)
            orders.sendall(pid.to_bytes(4, "big"))
            continue
        ctypes.pythonapi.PyOS_AfterFork_Child()
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.setsid()
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        for number, descriptor in zip((1, 2), descriptors, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        orders.close()
        random.seed()
        time.tzset()
        arguments: list[str] = order["arguments"]
        return arguments


def _read_environment() -> None:
    """Read the environment, ``.env`` and the command line, as ``tests.inside`` does for its crawls."""
    settings = importlib.import_module("carscraper.settings")
    environment: Any = importlib.import_module("carscraper.settings.environment").ENVIRONMENT
    environment.__init__()
    for name in [each for each in vars(settings) if each.isupper()]:
        delattr(settings, name)
    importlib.reload(settings)


def main() -> None:
    """Import, serve, and in the child run the command."""
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        for name in MODULES:
            importlib.import_module(name)
        for name in PACKAGES:
            package = importlib.import_module(f"carscraper.{name}")
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                importlib.import_module(module.name)
        assert "twisted.internet.reactor" not in sys.modules
        # The public suffixes and the makes of cars are read once, when they are first asked for.
        sys.modules["scrapy.downloadermiddlewares.cookies"]._is_public_domain("bilasolur.is")
        sys.modules["carscraper.vehicles"].split_title("Kia Ceed")
        gc.collect()
        gc.freeze()
        arguments = _serve(orders)
    if arguments is None:
        return
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = ["scrapy", *arguments]
    _read_environment()
    runpy.run_module("scrapy", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
