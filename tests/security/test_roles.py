"""The roles of the database, made by the very SQL that is printed in docs/security.md, are enough and no more."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from sqlalchemy.exc import ProgrammingError

from carscraper.db.models import Base
from tests import services
from tests.crawl.world import IMPOLITE, last_words, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.crawl.world import World

OWNER, CRAWL = "carscraper_owner", "carscraper_crawl"
NO_RIGHT = "42501"
PAGE = (services.REPO / "docs" / "security.md").read_text("utf-8")


def printed(title: str) -> str:
    found = re.search(rf"<!-- {re.escape(title)} -->\n```sql\n(.+?)```", PAGE, re.DOTALL)
    assert found, title
    return found[1]


def as_role(url: str, role: str) -> str:
    return sqlalchemy.make_url(url).set(username=role).render_as_string(hide_password=False)


def run(url: str, script: str) -> None:
    """Run each statement of *script* by itself."""
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        for statement in script.split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)


def refusal(url: str, statement: str) -> str | None:
    """The code with which the database refuses; ``None`` if it does not."""
    try:
        run(url, statement)
    except ProgrammingError as error:
        return getattr(error.orig, "sqlstate", "")
    return None


@pytest.fixture
def roles(postgres: services.PostgresCluster, postgres_url: str) -> Iterator[str]:
    """A new database with the printed roles; its address as the superuser."""
    name = postgres.database_of(postgres_url)
    run(postgres_url, printed("database roles").replace("DATABASE cars", f'DATABASE "{name}"'))
    yield postgres_url
    run(postgres_url, f"DROP OWNED BY {CRAWL}, {OWNER}; DROP ROLE {CRAWL}; DROP ROLE {OWNER}")


def upgrade(world: World, url: str) -> services.CompletedCrawl:
    return world.command("database", "upgrade", env={"DATABASE_URL": url})


def test_the_printed_roles_are_enough_and_allow_no_more(
    new_world: Callable[..., World], roles: str, rclone_s3: services.S3
) -> None:
    crawler, owner = as_role(roles, CRAWL), as_role(roles, OWNER)
    world = new_world(cars=4, photos=2, database_url=crawler, env=rclone_s3.env)

    # Neither a crawl nor an upgrade makes tables with this role; both say what helps.
    cure = "may not create or change the tables (permission denied for schema public): run `scrapy database upgrade`"
    done = upgrade(world, crawler)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1), done
    assert cure in done.stderr
    done = world.crawl(code=4)
    assert cure in verdict(done)
    assert world.site.served.requests == []

    assert upgrade(world, owner).returncode == 0
    run(owner, printed("database roles: then"))

    # What is run every day: a crawl, another one after a car was sold, a backfill, and looking at it all.
    sold, broken, *_ = world.site.cars
    world.site.photo_fault(broken.cid, None, ["503"], sticky=True)
    done = world.crawl(code=3, settings={"RETRY_TIMES": 0})
    assert "6 photos stored" in last_words(done)
    world.site.sell(sold.cid)
    world.site.photo_fault(broken.cid, None, [])
    done = world.crawl(settings={"DETAILS_MAX_AGE_DAYS": 0})
    assert "1 gone" in last_words(done)
    rows = [row["status"] for row in world.images().values()]
    assert rows == ["stored"] * 8
    run(roles, "UPDATE car_images SET status = 'pending', store = NULL, key = NULL, url = NULL, sha256 = NULL")
    done = services.crawl(
        "backfill",
        cwd=world.folder,
        env=world.env | {"DATABASE_URL": crawler, "IMAGES_ALLOWED_HOSTS": "127.0.0.1"},
        settings=IMPOLITE,
    )
    assert done.returncode in {0, 3}, done
    assert not done.lines("permission denied"), done
    assert "6 photos stored" in last_words(done), "the sold car's can't be had any more"
    for words in (["audit", "--fix", "--yes"], ["discover", "--yes"]):
        done = world.command("storage", *words)
        assert done.returncode in {0, 3}, done
        assert "permission denied" not in done.stderr, done
    database = sqlalchemy.make_url(roles).database
    run(roles, f'REVOKE TEMPORARY ON DATABASE "{database}" FROM {CRAWL}')  # as it was set up before the audit needed it
    done = world.command("storage", "audit")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1), done
    assert f'GRANT TEMPORARY ON DATABASE "{database}" TO "{CRAWL}"' in done.stderr
    run(roles, f"ALTER ROLE {CRAWL} SET default_transaction_read_only = on")
    done = world.command("storage", "audit")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1), done
    assert "refuses (25006: cannot execute CREATE TABLE in a read-only transaction): name the primary" in done.stderr
    run(roles, f"ALTER ROLE {CRAWL} RESET default_transaction_read_only")
    listed = world.command("runs", "list", "--json")
    assert listed.returncode == 0, listed
    assert [run["spider"] for run in json.loads(listed.stdout)]
    assert world.command("checkdealers").returncode in {0, 3, 4}
    assert upgrade(world, crawler).returncode == 0, "nothing to do is nothing refused"

    # And what is never to happen.
    refused = [
        "DROP TABLE {table}",
        "ALTER TABLE {table} ADD COLUMN x integer",
        "DELETE FROM {table}",
        "TRUNCATE {table} CASCADE",
        "CREATE INDEX ON {table} ((1))",
    ]
    statements = [each.format(table=table) for table in Base.metadata.tables for each in refused]
    statements += [
        "UPDATE alembic_version SET version_num = '0001'",
        "CREATE TABLE mine (id integer)",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "SET ROLE carscraper_owner",
        "COPY car_listings TO PROGRAM 'true'",
    ]
    assert {each: refusal(crawler, each) for each in statements} == dict.fromkeys(statements, NO_RIGHT)


def test_with_the_queue_s_rights_a_worker_works(new_world: Callable[..., World], roles: str) -> None:
    crawler, owner = as_role(roles, CRAWL), as_role(roles, OWNER)
    world = new_world(cars=2, photos=1, database_url=crawler)
    assert upgrade(world, owner).returncode == 0
    refused = world.command("queue", "setup")
    assert refused.returncode == 4
    assert "run `scrapy queue setup` once with the role that owns the database" in refused.stderr
    assert world.command("queue", "setup", env={"DATABASE_URL": owner}).returncode == 0
    run(owner, printed("database roles: queue"))

    enqueued = world.command("enqueue", "crawl", "bilasolur", "-a", f"base_url={world.site.base_url}")
    assert enqueued.returncode == 0, enqueued
    run(roles, "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 day')")
    env = world.env | {"DATABASE_URL": crawler}
    done = services.run_scrapy("worker", "--drain", cwd=world.folder, env=env, settings=IMPOLITE)
    assert done.returncode == 0, done
    assert "denied" not in done.stderr, done
    assert len(world.listings()) == 2
    assert json.loads(world.command("queue", "--json").stdout)["counts"] == {"succeeded": 1}
    assert refusal(crawler, "DROP TABLE procrastinate_jobs") == NO_RIGHT
