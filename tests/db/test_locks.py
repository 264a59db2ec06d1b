"""One lock a source over both databases: one holder, and none after its death."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy

from carscraper.db.locks import Locks, acquire, open_locks
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.services import PostgresCluster

HOLDER = """
import sys, time
from carscraper.db.locks import open_locks
locks = open_locks(sys.argv[1], timeout=10)
print(locks.take("BR"), flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["sqlite", "postgresql", "pgbouncer"])
def lock_url(request: pytest.FixtureRequest) -> str:
    """Both databases, PostgreSQL also behind a pooler that keeps sessions."""
    if request.param == "pgbouncer":
        url: str = request.getfixturevalue("pooled")("session")
    else:
        url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


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


def test_one_holder(lock_url: str, new_locks: Callable[[str], Locks]) -> None:
    one, other = new_locks(lock_url), new_locks(lock_url)
    assert one.take("BR")
    assert one.take("BR"), "who has it, has it"
    assert not other.take("BR")
    assert other.take("../x/ð"), "another name is another lock"
    assert not one.take("../x/ð")
    began = time.monotonic()
    assert not acquire(other, "BR", patience=0.3)
    assert time.monotonic() - began >= 0.3
    one.close()
    assert other.take("BR"), "at once"
    assert not one.take("BR")


def test_kill_9_frees_it(lock_url: str, new_locks: Callable[[str], Locks]) -> None:
    locks = new_locks(lock_url)
    command = [sys.executable, "-c", HOLDER, lock_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "True\n"
            assert not locks.take("BR")
        finally:
            holder.send_signal(signal.SIGKILL)
    assert acquire(locks, "BR", patience=5)


def test_a_server_that_is_away(postgres: PostgresCluster, postgres_url: str, new_locks: Callable[[str], Locks]) -> None:
    locks = new_locks(postgres_url)
    assert locks.take("a")
    postgres.stop()
    with pytest.raises(DatabaseUnavailableError):
        locks.take("b")
    locks.close()
    postgres.start()
    assert new_locks(postgres_url).take("a")


def test_the_locks_session_does_not_time_out(postgres_url: str, new_locks: Callable[[str], Locks]) -> None:
    new_locks(postgres_url).take("a")
    query = "SELECT state FROM pg_stat_activity WHERE pid = (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
    engine = sqlalchemy.create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as other:
        assert other.execute(sqlalchemy.text(query)).scalar() == "idle", "not inside a transaction"
    engine.dispose()


def test_one_sqlite_database_by_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to(tmp_path / "cars.db")
    holders = [open_locks(url, timeout=1) for url in ("sqlite:///cars.db", f"sqlite:///{tmp_path}/link.db")]
    assert not Path("cars.db.locks").exists(), "nothing is made before it is needed"
    assert [each.take("a") for each in holders] == [True, False]
    assert [path.name for path in Path("cars.db.locks").iterdir()] == ["a.lock"]
    for each in holders:
        each.close()
    assert all(open_locks("sqlite://", timeout=1).take("a") for _ in range(2)), "one in memory is nobody else's"


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "cars.db.locks").write_text("no folder")
    with pytest.raises(ConfigurationError, match=r"cars\.db\.locks"):
        open_locks(f"sqlite:///{tmp_path}/cars.db", timeout=1).take("a")
