"""The database refuses in the middle of a crawl: that is no car's fault, and costs neither a car nor a photo."""

from __future__ import annotations

import os
import re
import resource
import sqlite3
import subprocess
import threading
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from carscraper.db import schema
from carscraper.db.engine import open_engine
from carscraper.db.spool import CarSpool
from tests.faults.helpers import World, assert_nothing_lost, ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.helpers import Ended
    from tests.services import PostgresCluster


def make_tables(url: str) -> None:
    engine = open_engine(url, timeout=20)
    schema.ensure(engine)
    engine.dispose()


class Server:
    """A PostgreSQL server as its administrator sees it, and the database of one crawl."""

    def __init__(self, cluster: PostgresCluster, exits: ExitStack) -> None:
        self.cluster = cluster
        self.exits = exits
        self.owner_url = cluster.create_database(make_tables)
        self.name = cluster.database_of(self.owner_url)
        self.role = f"crawl_{self.name}"
        self.url = self.owner_url.replace("//carscraper@", f"//{self.role}:secret@")
        cluster.execute(f"CREATE ROLE {self.role} LOGIN PASSWORD 'secret'")
        self.grant()
        exits.callback(self._drop)

    def grant(self) -> None:
        self.inside(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {self.role}")
        self.inside(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {self.role}")

    def _drop(self) -> None:
        self.cluster.drop_database(self.owner_url)
        self.cluster.execute(f"DROP ROLE {self.role}")

    def inside(self, statement: str) -> Any:
        return self.cluster.execute(statement, self.name)

    def of_all(self, *statements: str) -> None:
        """Execute statements that count for new sessions only, and end those there are."""
        for statement in statements:
            self.cluster.execute(statement.format(name=self.name, role=self.role))
        self.cluster.terminate_sessions(self.name)

    def drop(self) -> None:
        self.cluster.drop_database(self.owner_url)

    def restore(self) -> None:
        self.cluster.execute(f'CREATE DATABASE "{self.name}" TEMPLATE "{self.cluster._templates[make_tables]}"')
        self.grant()

    def ask_for_passwords(self) -> None:
        """As pg_hba.conf says elsewhere."""
        path = self.cluster.folder / "data" / "pg_hba.conf"
        before = path.read_text()
        self.exits.callback(lambda: (path.write_text(before), self.cluster.execute("SELECT pg_reload_conf()")))
        path.write_text(f"local {self.name} {self.role} scram-sha-256\n{before}")
        self.cluster.execute("SELECT pg_reload_conf()")

    def onto_a_small_disk(self) -> None:
        """Put the photos' rows onto a file system of their own."""
        folder = self.disk = self.cluster.folder / f"disk-{self.name}"
        folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, text=True, check=False
        )
        if mounted.returncode:
            pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.strip()}")
        self.exits.callback(subprocess.run, ["umount", folder], check=True)
        self.exits.callback(self.cluster.execute, f"DROP TABLESPACE {self.role}")
        self.exits.callback(self.cluster.drop_database, self.owner_url)
        os.chown(folder, (self.cluster.folder / "data").stat().st_uid, -1)
        self.cluster.execute(f"CREATE TABLESPACE {self.role} LOCATION '{folder}'")
        self.inside(f"ALTER TABLE car_images SET TABLESPACE {self.role}")

    def fill_the_disk(self) -> None:
        (self.disk / "other").write_bytes(b"x" * (os.statvfs(self.disk).f_bavail * 4096))

    def clear_the_disk(self) -> None:
        (self.disk / "other").unlink()


ON = 'ALTER DATABASE "{name}" SET default_transaction_read_only = on'
OFF = 'ALTER DATABASE "{name}" RESET default_transaction_read_only'
Step = Any
# What is said, the fault, what ends it.
REFUSALS: dict[str, tuple[str, Step, Step]] = {
    "read-only": ("25006: cannot execute", lambda it: it.of_all(ON), lambda it: it.of_all(OFF)),
    "a right is taken away": (
        "42501: permission denied for table car_images",
        lambda it: it.inside(f"REVOKE UPDATE ON car_images FROM {it.role}"),
        lambda it: it.grant(),
    ),
    "a table is missing": (
        '42P01: relation "car_images" does not exist',
        lambda it: it.inside("ALTER TABLE car_images RENAME TO elsewhere"),
        lambda it: it.inside("ALTER TABLE elsewhere RENAME TO car_images"),
    ),
    "a column is missing": (
        "42703: column",
        lambda it: it.inside("ALTER TABLE car_listings RENAME COLUMN card_hash TO elsewhere"),
        lambda it: it.inside("ALTER TABLE car_listings RENAME COLUMN elsewhere TO card_hash"),
    ),
    "too many connections": (
        "53300: .* too many connections",
        lambda it: it.of_all("ALTER ROLE {role} CONNECTION LIMIT 0"),
        lambda it: it.of_all("ALTER ROLE {role} CONNECTION LIMIT -1"),
    ),
    "another password": (
        "28P01: .* password authentication failed",
        lambda it: it.of_all("ALTER ROLE {role} PASSWORD 'another'"),
        lambda it: it.of_all("ALTER ROLE {role} PASSWORD 'secret'"),
    ),
    "dropped": ("3D000: .* does not exist", lambda it: it.drop(), lambda it: it.restore()),
    "its disk is full": ("53100: could not extend", lambda it: it.fill_the_disk(), lambda it: it.clear_the_disk()),
}


@contextmanager
def in_the_middle(world: World, fault: Callable[[], object]) -> Iterator[None]:
    """Let a fault begin when a part of the photos is stored."""

    def begin() -> None:
        while world.puts(200) < 30 and not over.wait(0.01):
            pass
        if not over.is_set():
            fault()
            done.set()

    over, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=begin)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert done.is_set(), "the crawl was over before the fault began"


def assert_one_sentence(world: World, done: Ended, said: str) -> None:
    """It failed, says why in one sentence, and its numbers are those of the spool."""
    assert done.code == 4, done
    assert "Traceback" not in done.crawl.stderr, done
    first, *_ = done.said.split(" | ")
    assert re.search(rf"^failed\. The database of DATABASE_URL .*\({said}.*\): .*\. The cars in hand wait", first), done
    messages = [line for line in done.crawl.lines("") if re.search(" (WARNING|ERROR|CRITICAL): ", line)]
    messages = [line for line in messages if "extensions.verdict]" not in line and "CONTACT" not in line]
    assert len(messages) <= 1, "\n".join(messages)
    cars = re.search(r"kept all the same: (\d+) cars? \((\d+) new, 0 gone\)", done.said)
    assert cars is None or cars[1] == cars[2], done
    spooled = sum(len(CarSpool.read(path)) for path in world.spooled_cars())
    assert f"{spooled} car{'s' if spooled > 1 else ''} in the spool" in done.said, done
    assert spooled


@pytest.mark.parametrize("name", REFUSALS)
def test_postgresql_refuses_in_the_middle_of_a_crawl(
    postgres: PostgresCluster, make_world: Callable[[str], World], tmp_path: Path, name: str
) -> None:
    said, fault, mend = REFUSALS[name]
    with ExitStack() as exits:
        server = Server(postgres, exits)
        if "password" in name:
            server.ask_for_passwords()
        if "disk" in name:
            server.onto_a_small_disk()
        world = make_world(server.url)
        world.site.photo_latency = 0.05
        with in_the_middle(world, lambda: fault(server)):
            done = world.crawl(DATABASE_PATIENCE=1)
        mend(server)
        assert_one_sentence(world, done, said)
        assert_nothing_lost(world)
        world.finish(have=world.stored())


class File:
    """An SQLite database as whoever runs the machine sees it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "carscraper.db"
        self.elsewhere = folder / "elsewhere.db"

    def remove(self) -> None:
        self.path.rename(self.elsewhere)

    def put_back(self) -> None:
        self.elsewhere.rename(self.path)

    def damage(self) -> None:
        """As a disk does that is worn out; there is a backup of the moment before."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM INTO ?", [str(self.elsewhere)])
        with self.path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (self.path.stat().st_size - 4096))

    def restore(self) -> None:
        for each in self.path.parent.glob("carscraper.db-*"):
            each.unlink()
        self.put_back()


@pytest.mark.parametrize(
    ("said", "fault", "mend"),
    [
        ("SQLITE_READONLY_DBMOVED: the file was removed or replaced", File.remove, File.put_back),
        ("SQLITE_CORRUPT: database disk image is malformed", File.damage, File.restore),
    ],
)
def test_sqlite_refuses_in_the_middle_of_a_crawl(
    world: World, tmp_path: Path, said: str, fault: Callable[[File], None], mend: Callable[[File], None]
) -> None:
    world.site.photo_latency = 0.05
    with in_the_middle(world, lambda: fault(File(tmp_path))):
        done = world.crawl(DATABASE_PATIENCE=1)
    mend(File(tmp_path))
    assert_one_sentence(world, done, said)
    assert_nothing_lost(world)
    world.finish(have=world.stored())


def test_no_file_may_grow_any_more(world: World) -> None:
    """A limit of the process, which SQLite takes for a fault of the disk."""
    world.site.photo_latency = 0.05
    with world.start(DATABASE_PATIENCE=1) as running:
        world.wait_for_puts(30, running)
        largest = max(path.stat().st_size for path in world.folder.glob("carscraper.db*"))
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (largest + 4096, resource.RLIM_INFINITY))
        done = ended(running.wait())
    assert_one_sentence(world, done, "SQLITE_IOERR_WRITE: disk I/O error")
    assert_nothing_lost(world)
    world.finish(have=world.stored())


# ── At the start ──────────────────────────────────────────────────────────────────────────────────


def test_a_database_that_refuses_at_the_start_keeps_what_waits(
    postgres: PostgresCluster, make_world: Callable[[str], World]
) -> None:
    """At once, before anything is fetched; the cars in the spool are for the next crawl."""
    with ExitStack() as exits:
        server = Server(postgres, exits)
        world = make_world(server.url)
        fault, mend = REFUSALS["a right is taken away"][1:]
        world.site.photo_latency = 0.05
        with in_the_middle(world, lambda: fault(server)):
            world.crawl(DATABASE_PATIENCE=1)
        mend(server)
        waiting = sorted(path.read_bytes() for path in world.spooled_cars())
        assert waiting
        for name in ("read-only", "a right is taken away", "a column is missing", "too many connections"):
            said, fault, mend = REFUSALS[name]
            fault(server)
            world.site.reset()
            done = world.crawl(DATABASE_PATIENCE=60, timeout=20)
            mend(server)
            assert done.code == 4, (name, done)
            assert re.fullmatch(rf"failed\. DATABASE_URL=\S+ refuses \({said}.*\): .*\.", done.said), (name, done)
            assert not [line for line in done.crawl.lines("WARNING: ") if "CONTACT" not in line], (name, done)
            assert "Traceback" not in done.crawl.stderr, (name, done)
            assert world.site.served.requests == [], name
            assert sorted(path.read_bytes() for path in world.spooled_cars()) == waiting, name
        world.finish(have=world.stored())


def test_a_car_that_a_trigger_refuses_costs_itself_only(
    postgres: PostgresCluster, make_world: Callable[[str], World]
) -> None:
    """Also from the spool, where it waits until somebody has seen to the trigger."""
    with ExitStack() as exits:
        server = Server(postgres, exits)
        world = make_world(server.url)
        world.site.photo_latency = 0.05
        _, fault, mend = REFUSALS["a right is taken away"]
        with in_the_middle(world, lambda: fault(server)):
            world.crawl(DATABASE_PATIENCE=1)
        mend(server)
        bad, *others = [item for path in world.spooled_cars() for item in CarSpool.read(path)]
        server.inside(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF NEW.external_id = '{bad.external_id}' THEN RAISE EXCEPTION 'no such car'; END IF; RETURN NEW; END $$"
        )
        server.inside(
            "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON car_listings FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        done = world.crawl(DATABASE_PATIENCE=60)
        assert done.code == 3, done
        assert done.crawl.stderr.count(f"The database refuses {bad.url!r} from the spool") == 1, done
        assert [item for path in world.spooled_cars() for item in CarSpool.read(path)] == [bad]
        assert others
        server.inside("DROP TRIGGER refuse ON car_listings")
        world.finish(have=world.stored())
