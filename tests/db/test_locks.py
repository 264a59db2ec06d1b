"""Named locks over both databases: one holder, and none after its death."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy

from carscraper.db.locks import FileLocks, Locks, open_locks
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.services import PostgresCluster

HOLDER = """
import sys, time
from carscraper.db.locks import open_locks
locks = open_locks(sys.argv[1], timeout=10)
print(locks.acquire("source-BR"), flush=True)
time.sleep(60)
"""


@pytest.fixture
def new_locks() -> Iterator[Callable[[str], Locks]]:
    """Each call is another holder."""
    made = []

    def make(url: str) -> Locks:
        made.append(open_locks(url, timeout=10))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_one_holder(database_url: str, new_locks: Callable[[str], Locks]) -> None:
    one, other, third = (new_locks(database_url) for _ in range(3))
    assert one.acquire("source-BR")
    assert one.acquire("source-BR"), "who has it, has it"
    assert not other.acquire("source-BR")
    assert other.acquire("source-Hekla"), "another name is another lock"
    names = ["source-BR", "source-Hekla", "source-Askja"]
    for each in (one, other, third):
        assert each.held(names) == {"source-BR", "source-Hekla"}
    assert third.acquire("source-Askja"), "looking takes nothing"
    other.release("source-BR")
    assert not third.acquire("source-BR"), "only its holder can give it back"
    one.release("source-BR")
    assert third.held(names) == {"source-Hekla", "source-Askja"}
    assert other.acquire("source-BR")
    other.close()
    assert third.held(names) == {"source-Askja"}
    assert one.renew() == set()


def test_kill_9_frees_it(database_url: str, new_locks: Callable[[str], Locks]) -> None:
    locks = new_locks(database_url)
    command = [sys.executable, "-c", HOLDER, database_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "True\n"
            assert locks.held(["source-BR"]) == {"source-BR"}
            assert not locks.acquire("source-BR")
        finally:
            holder.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while locks.held(["source-BR"]):
        assert time.monotonic() < deadline, "still held"
        time.sleep(0.02)
    assert locks.acquire("source-BR")


def break_connections(url: str) -> None:
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        connection.execute(
            sqlalchemy.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    engine.dispose()


def test_a_broken_connection_is_noticed_and_the_lock_taken_again(
    postgres_url: str, new_locks: Callable[[str], Locks]
) -> None:
    one, other = new_locks(postgres_url), new_locks(postgres_url)
    assert one.acquire("a")
    assert one.acquire("b")
    break_connections(postgres_url)
    assert other.held(["a", "b"]) == set()
    assert other.acquire("b")
    assert one.renew() == {"b"}, "another has it"
    assert other.held(["a", "b"]) == {"a", "b"}
    assert not other.acquire("a")
    assert one.renew() == {"b"}
    other.release("b")
    assert one.renew() == set()
    assert not other.acquire("b")


def test_a_server_that_is_away(postgres: PostgresCluster, postgres_url: str, new_locks: Callable[[str], Locks]) -> None:
    locks = new_locks(postgres_url)
    assert locks.acquire("a")
    postgres.stop()
    with pytest.raises(DatabaseUnavailableError):
        locks.renew()
    with pytest.raises(DatabaseUnavailableError):
        locks.acquire("b")
    postgres.start()
    assert locks.renew() == set()
    assert new_locks(postgres_url).held(["a", "b"]) == {"a"}


def test_the_locks_session_does_not_time_out(postgres_url: str, new_locks: Callable[[str], Locks]) -> None:
    locks = new_locks(postgres_url)
    locks.acquire("a")
    connection = locks._connect()  # type: ignore[attr-defined]
    assert connection.execute(sqlalchemy.text("SHOW idle_session_timeout")).scalar() == "0"
    query = "SELECT state FROM pg_stat_activity WHERE pid = (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
    engine = sqlalchemy.create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as other:
        assert other.execute(sqlalchemy.text(query)).scalar() == "idle", "not inside a transaction"
    engine.dispose()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_a_lock_leaves_no_file(tmp_path: Path, new_locks: Callable[[str], Locks]) -> None:
    database = tmp_path / "cars.db"
    locks = new_locks(f"sqlite:///{database}")
    folder = Path(f"{database}.locks")
    assert locks.held(["run-1"]) == set()
    assert not folder.exists(), "looking makes nothing"
    assert locks.acquire("run-1")
    assert locks.acquire("../../x/ð")
    assert files(folder) == ["..%2F..%2Fx%2F%C3%B0.lock", "run-1.lock"]
    assert files(tmp_path) == ["..%2F..%2Fx%2F%C3%B0.lock", "cars.db.locks", "run-1.lock"]
    locks.close()
    assert files(folder) == []


def test_one_database_by_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to(tmp_path / "cars.db")
    holders = [open_locks(url, timeout=1) for url in ("sqlite:///cars.db", f"sqlite:///{tmp_path}/link.db")]
    assert [each.acquire("a") for each in holders] == [True, False]
    for each in holders:
        each.close()


def test_a_file_of_one_who_was_killed_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "run-1.lock").touch()
    locks = FileLocks(tmp_path)
    assert locks.held(["run-1"]) == set()
    assert locks.acquire("run-1")
    locks.close()


def test_a_file_that_goes_away_between_opening_and_locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, late, third = (FileLocks(tmp_path) for _ in range(3))
    assert first.acquire("a")
    really_open = late._open

    def open_too_early(name: str, flags: int) -> int | None:
        file = really_open(name, flags)
        first.release("a")  # which removes the file
        return file

    monkeypatch.setattr(late, "_open", open_too_early)
    assert late.acquire("a")
    assert not third.acquire("a"), "a lock on a file that nobody else can find is none"
    late.close()


def test_many_at_once_and_some_who_only_look(tmp_path: Path) -> None:
    """Files come and go under their hands, and there are never two holders."""
    inside: list[str] = []
    taken, mistakes = [0], []
    stop = threading.Event()

    def take(name: str) -> None:
        locks = FileLocks(tmp_path)
        for _ in range(150):
            if locks.acquire("a"):
                inside.append(name)
                time.sleep(0.0005)
                if inside != [name]:
                    mistakes.append(list(inside))
                taken[0] += 1
                inside.remove(name)
                locks.release("a")

    def look() -> None:
        locks = FileLocks(tmp_path)
        while not stop.is_set():
            locks.held(["a"])

    takers = [threading.Thread(target=take, args=(str(number),)) for number in range(4)]
    looker = threading.Thread(target=look)
    for thread in (*takers, looker):
        thread.start()
    for thread in takers:
        thread.join(60)
    stop.set()
    looker.join(10)
    assert not mistakes
    assert taken[0] > 100
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "cars.db.locks").write_text("no folder")
    locks = open_locks(f"sqlite:///{tmp_path}/cars.db", timeout=1)
    with pytest.raises(ConfigurationError, match=r"cars\.db\.locks"):
        locks.acquire("a")


def test_a_database_in_memory_is_nobody_elses() -> None:
    for url in ("sqlite://", "sqlite:///:memory:"):
        locks = open_locks(url, timeout=1)
        assert locks.acquire("a")
        assert locks.held(["a", "b"]) == {"a"}
        locks.close()
        assert locks.held(["a"]) == set()
