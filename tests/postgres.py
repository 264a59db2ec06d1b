"""A throwaway PostgreSQL server for tests, benchmarks and the demo."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from tests.processes import MissingService, remove_left_over, signal_family, spawn, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
        self.as_user: dict[str, Any] = {}
        self.folder = Path()

    def __enter__(self) -> Self:
        remove_left_over("carscraper-pg")
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
            self.as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
        done = subprocess.run(
            [
                *(self._bin / "initdb", "-D", self.folder / "data", "-U", self.user, "-A", "trust"),
                *("--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"),
            ],
            **self.as_user,
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
                **self.as_user,
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
                signal_family(self._process.pid, signal.SIGKILL)
                self._process.wait(10)
        self._process = None

    def freeze(self) -> None:
        """The server and all its sessions stop answering; connections stay, and new ones still connect."""
        if self.running and self._process is not None:
            self._frozen = True
            signal_family(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        if self._frozen and self._process is not None:
            signal_family(self._process.pid, signal.SIGCONT)
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


class PgBouncer:
    """A pooler in front of a cluster, with its own defaults but for *mode* and the *options* of its file."""

    def __init__(self, cluster: PostgresCluster, mode: str, **options: object) -> None:
        self.program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if not self.program:
            raise MissingService("PgBouncer is not installed: make test-packages (Debian's pgbouncer)")
        self._cluster = cluster
        self._options = {"pool_mode": mode, **options}
        self._process: subprocess.Popen[Any] | None = None

    def __enter__(self) -> Self:
        self.folder = self._cluster.folder / f"pgbouncer-{uuid.uuid4().hex[:8]}"
        self.folder.mkdir(mode=0o755)
        (self.folder / "users").write_text(f'"{self._cluster.user}" ""\n')
        options = {
            "listen_port": 5432,  # of the socket's name
            "unix_socket_dir": self.folder,
            "auth_type": "trust",
            "auth_file": self.folder / "users",
            **self._options,
        }
        lines = [f"{name} = {value}" for name, value in options.items()]
        text = "\n".join(["[databases]", f"* = host={self._cluster.folder}", "[pgbouncer]", *lines])
        (self.folder / "pgbouncer.ini").write_text(text)
        if owner := self._cluster.as_user:
            os.chown(self.folder, owner["user"], owner["group"])
        with (self.folder / "log").open("wb") as log:
            self._process = spawn(
                [str(self.program), self.folder / "pgbouncer.ini"], **owner, cwd=self.folder, stdout=log, stderr=log
            )
        wait_until(self._answers, 10, "PgBouncer to start")
        return self

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self.folder / ".s.PGSQL.5432"))
            return True
        return False

    def __exit__(self, *_: object) -> None:
        assert self._process
        self._process.kill()
        self._process.wait(10)
        shutil.rmtree(self.folder)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def url(self, url: str) -> str:
        """The URL of the same database through the pooler."""
        return url.replace(quote(str(self._cluster.folder), safe=""), quote(str(self.folder), safe=""))
