"""The queue's tables in the same PostgreSQL database: procrastinate's, and who ran what beside them.

Procrastinate's own functions change the state of a job; here they are called together with the look that must not be
apart from them: whose job is it?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError

from carscraper.db.engine import parse_url
from carscraper.exceptions import ConfigurationError, DatabaseUnavailableError, SchemaOutdatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Engine

T = TypeVar("T")

_LOCK = 0x71756575  # "queu": any number, the same in every carscraper
_OURS = "1"
_MARK = "carscraper"
_DENIED = "42501"
_MOST_SKIPPED = 10  # tries; PostgreSQL notices within minutes that a machine is gone
_TABLES = """
CREATE TABLE queue_workers (
    worker_id bigint PRIMARY KEY REFERENCES procrastinate_workers ON DELETE CASCADE,
    host text NOT NULL,
    pid integer NOT NULL,
    queues text,
    concurrency integer NOT NULL,
    started_at timestamp with time zone NOT NULL DEFAULT now()
);
CREATE TABLE queue_tries (
    job_id bigint NOT NULL REFERENCES procrastinate_jobs ON DELETE CASCADE,
    number integer NOT NULL,
    worker_id bigint NOT NULL,
    host text NOT NULL,
    pid integer,
    started_at timestamp with time zone NOT NULL DEFAULT now(),
    finished_at timestamp with time zone,
    outcome text,
    exit_code integer,
    said text,
    PRIMARY KEY (job_id, number)
);
"""
LOST, STOPPED, SUPERSEDED = "lost", "stopped", "superseded"
"""Outcomes of a try beside a crawl's own: its worker died; it was told to stop; the same crawl waited already."""


def connect_arguments(database_url: str) -> dict[str, Any]:
    """Give what psycopg needs to connect.

    Raises:
        ConfigurationError: the database is not PostgreSQL.
    """
    url = parse_url(database_url)
    if url.get_backend_name() != "postgresql":
        raise ConfigurationError(
            "The queue needs PostgreSQL, which DATABASE_URL does not name; with SQLite, on one machine, "
            "`scrapy crawl` and `scrapy crawlall` do without a queue."
        )
    query: dict[str, Any] = dict(url.query)
    return {
        **url.translate_connect_args(username="user", database="dbname"),
        **query,
        "connect_timeout": 10,
        "application_name": "carscraper worker",
        "options": f"{query.get('options', '')} -c statement_timeout=30000",
        # A server that vanished without a word is noticed after about half a minute.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }


def is_away(error: BaseException | None) -> bool:
    """Whether an error of psycopg or SQLAlchemy means that the same call may work later."""
    from psycopg import OperationalError as Away  # noqa: PLC0415 - a tenth of a second that `scrapy list` need not wait

    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error, OperationalError)
    return isinstance(error, Away | TimeoutError)


def transact(engine: Engine, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Call a function of this module in a transaction of its own.

    Raises:
        DatabaseUnavailableError: the same call may work later.
    """
    try:
        with engine.begin() as connection:
            return function(connection, *arguments, **named)
    except DBAPIError as error:
        if not is_away(error):
            raise
        raise DatabaseUnavailableError(str(error.orig).strip().partition("\n")[0]) from None


# --- the tables -------------------------------------------------------------------------------------------------


def ensure(engine: Engine, schema: str, migrations: Sequence[tuple[str, str]]) -> None:
    """Make the queue's tables, or bring them to the version of the procrastinate that is installed here.

    Args:
        engine: of PostgreSQL.
        schema: procrastinate's whole schema, for a database without.
        migrations: name and script of each step towards it, the oldest first.

    Raises:
        SchemaOutdatedError: the tables are newer than this program, or another program's.
        ConfigurationError: the role may not make tables.
    """
    with engine.connect() as connection:
        if _found(connection) == _said(migrations[-1][0]):
            return
    # Each script is a transaction of its own: a new word of an enumeration can't be used in the one that makes it.
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "no_parameters": True}
    try:
        with engine.connect().execution_options(**options) as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK})")
            try:
                _upgrade(connection, _found(connection), schema, migrations)
            finally:
                connection.invalidate()  # the session's end is the lock's, whatever went wrong
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != _DENIED:
            raise
        raise ConfigurationError(
            "The role of DATABASE_URL may not make the queue's tables: run `scrapy queue setup` once with the role "
            "that owns the database."
        ) from None


def _found(connection: Connection) -> str | None:
    """Give what the tables say of themselves; ``None`` without tables."""
    query = (
        "SELECT to_regclass('procrastinate_jobs') IS NOT NULL, "
        "obj_description(to_regclass('procrastinate_jobs'), 'pg_class')"
    )
    there, said = connection.exec_driver_sql(query).one()
    return (said or "") if there else None


def _upgrade(connection: Connection, found: str | None, schema: str, migrations: Sequence[tuple[str, str]]) -> None:
    newest = migrations[-1][0]
    if found is None:
        connection.exec_driver_sql(f"{schema}\n;{_TABLES}\n;{_mark(newest)}")
    else:
        mark, _, version = found.partition(f" {_OURS} procrastinate ")
        if mark != _MARK:
            raise SchemaOutdatedError(
                "The database has a queue (procrastinate_jobs) that this carscraper did not make, or a newer one did: "
                "use a database of its own, or update carscraper."
            )
        if version > newest:
            raise SchemaOutdatedError(
                f"The queue's tables ({version}) are newer than this machine's procrastinate ({newest}): "
                "update carscraper here."
            )
        for name, script in migrations:
            if name > version:
                connection.exec_driver_sql(f"{script}\n;{_mark(name)}")


def _mark(version: str) -> str:
    """Have the tables say of themselves what they are."""
    return f"COMMENT ON TABLE procrastinate_jobs IS '{_said(version)}'"


def _said(version: str) -> str:
    return f"{_MARK} {_OURS} procrastinate {version}"


# --- workers ----------------------------------------------------------------------------------------------------


def register(connection: Connection, worker: Mapping[str, Any]) -> None:
    """Write who a worker is: ``worker_id``, ``host``, ``pid``, ``queues``, ``concurrency``."""
    connection.execute(
        text(
            "INSERT INTO queue_workers (worker_id, host, pid, queues, concurrency) "
            "VALUES (:worker_id, :host, :pid, :queues, :concurrency)"
        ),
        worker,
    )


def is_registered(connection: Connection, worker_id: int) -> bool:
    """Tell whether the others still count on a worker."""
    query = text("SELECT count(*) FROM procrastinate_workers WHERE id = :id")
    return bool(connection.execute(query, {"id": worker_id}).scalar_one())


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that was taken from a worker who gives no more sign of life."""

    job_id: int
    args: dict[str, Any]
    again: bool
    """It waits again; else it is failed."""


def take_back(connection: Connection, *, seconds: float, most: int) -> list[Taken]:
    """Let the jobs of dead workers be done by others; whoever else looks at the same time passes them over.

    Args:
        connection: in a transaction of the caller.
        seconds: without a sign of life.
        most: tries of a job that may end so, before it stays failed: it may be what kills them.
    """
    query = text(
        """
        SELECT job.id, job.args, job.worker_id,
               (SELECT count(*) FROM queue_tries AS try WHERE try.job_id = job.id AND try.outcome = :lost) AS lost
        FROM procrastinate_jobs AS job LEFT JOIN procrastinate_workers AS worker ON worker.id = job.worker_id
        WHERE job.status = 'doing'
          AND (worker.id IS NULL OR worker.last_heartbeat < now() - make_interval(secs => :seconds))
        ORDER BY job.id FOR UPDATE OF job SKIP LOCKED
        """
    )
    taken = []
    for row in connection.execute(query, {"seconds": seconds, "lost": LOST}).all():
        said = "its worker gave no more sign of life"
        end_try(connection, row.id, None, outcome=LOST, exit_code=None, said=said)
        again = row.lost < most
        if again:
            again = _retry(connection, row.id, at=None)
        else:
            _finish(connection, row.id, "failed")
        taken.append(Taken(row.id, row.args, again))
    prune = text("DELETE FROM procrastinate_workers WHERE last_heartbeat < now() - make_interval(secs => :seconds)")
    connection.execute(prune, {"seconds": seconds})
    return taken


# --- jobs -------------------------------------------------------------------------------------------------------


def begin_try(connection: Connection, job_id: int, *, worker_id: int, host: str) -> int:
    """Write that a worker begins with a job; give the number of this try, from 1."""
    query = text(
        """
        INSERT INTO queue_tries (job_id, number, worker_id, host)
        SELECT :job, count(*) + 1, :worker, :host FROM queue_tries WHERE job_id = :job
        RETURNING number
        """
    )
    number: int = connection.execute(query, {"job": job_id, "worker": worker_id, "host": host}).scalar_one()
    return number


def note_process(connection: Connection, job_id: int, number: int, pid: int) -> None:
    """Write which process a try is."""
    connection.execute(
        text("UPDATE queue_tries SET pid = :pid WHERE job_id = :job AND number = :number"),
        {"pid": pid, "job": job_id, "number": number},
    )


def end_try(
    connection: Connection, job_id: int, number: int | None, *, outcome: str, exit_code: int | None, said: str
) -> None:
    """Write how a try ended, unless that is known; *number*: ``None`` for the one that is under way."""
    connection.execute(
        text(
            "UPDATE queue_tries SET finished_at = now(), outcome = :outcome, exit_code = :code, said = :said "
            "WHERE job_id = :job AND number = coalesce(:number, number) AND finished_at IS NULL"
        ),
        {"outcome": outcome, "code": exit_code, "said": said, "job": job_id, "number": number},
    )


def bad_tries(connection: Connection, job_id: int) -> int:
    """Count the tries that ended badly by themselves."""
    query = text("SELECT count(*) FROM queue_tries WHERE job_id = :job AND outcome IN ('partial', 'failed')")
    number: int = connection.execute(query, {"job": job_id}).scalar_one()
    return number


def may_be_locked_out(connection: Connection, job_id: int) -> bool:
    """Tell whether a job may find its own lock held: by what ran it before, on a machine that is gone."""
    query = text(
        "SELECT count(*) FILTER (WHERE outcome = :lost) > 0 AND count(*) FILTER (WHERE outcome = 'skipped') < :most "
        "FROM queue_tries WHERE job_id = :job"
    )
    values = {"job": job_id, "lost": LOST, "most": _MOST_SKIPPED}
    return bool(connection.execute(query, values).scalar_one())


def give_back(connection: Connection, job_id: int, worker_id: int | None, at: datetime | None) -> bool:
    """Let a job wait again, until *at*; false if it is not the worker's any more and nothing was done."""
    if not _is_of(connection, job_id, worker_id):
        return False
    _retry(connection, job_id, at=at)
    return True


def finish(connection: Connection, job_id: int, worker_id: int | None, status: str) -> bool:
    """Write a job's last status; false if it is not the worker's any more and nothing was done."""
    if not _is_of(connection, job_id, worker_id):
        return False
    _finish(connection, job_id, status)
    return True


def _is_of(connection: Connection, job_id: int, worker_id: int | None) -> bool:
    query = text(
        "SELECT count(*) FROM (SELECT 1 FROM procrastinate_jobs WHERE id = :job AND status = 'doing' "
        "AND (worker_id IS NULL OR worker_id = :worker) FOR UPDATE) AS mine"
    )
    return bool(connection.execute(query, {"job": job_id, "worker": worker_id}).scalar_one())


def _retry(connection: Connection, job_id: int, at: datetime | None) -> bool:
    """Let a job wait again, unless the same one waits already; that takes its place then."""
    query = text("SELECT procrastinate_retry_job_v2(:job, coalesce(:at, now()), NULL, NULL, NULL)")
    try:
        with connection.begin_nested():
            connection.execute(query, {"job": job_id, "at": at})
    except IntegrityError:
        _finish(connection, job_id, "aborted")
        connection.execute(
            text(
                "UPDATE queue_tries SET outcome = :outcome WHERE job_id = :job AND number = (SELECT max(number) "
                "FROM queue_tries WHERE job_id = :job)"
            ),
            {"outcome": SUPERSEDED, "job": job_id},
        )
        return False
    return True


def _finish(connection: Connection, job_id: int, status: str) -> None:
    query = text("SELECT procrastinate_finish_job_v1(:job, CAST(:status AS procrastinate_job_status), false)")
    connection.execute(query, {"job": job_id, "status": status})


def cancel(connection: Connection, job_id: int) -> str | None:
    """Take a job out of the queue, or have its worker stop it; give what it did before, ``None`` if it had ended."""
    query = text(
        "SELECT status::text FROM procrastinate_jobs WHERE id = :job AND status IN ('todo', 'doing') FOR UPDATE"
    )
    before: str | None = connection.execute(query, {"job": job_id}).scalar()
    if before:
        connection.execute(text("SELECT procrastinate_cancel_job_v1(:job, true, false)"), {"job": job_id})
    return before


# --- what is shown ----------------------------------------------------------------------------------------------

_LAST = """
    LEFT JOIN LATERAL (
        SELECT * FROM queue_tries AS each WHERE each.job_id = job.id ORDER BY each.number DESC LIMIT 1
    ) AS last ON true
"""


def jobs(connection: Connection, statuses: Iterable[str], *, limit: int) -> list[dict[str, Any]]:
    """Give jobs of these states with their last try: the waiting in their turn, the others the last ones first."""
    query = text(
        f"""
        SELECT job.id, job.queue_name AS queue, job.task_name AS task, job.args, job.status::text AS status,
               job.priority, job.scheduled_at, job.worker_id, last.number AS tries, last.host, last.pid,
               last.started_at, last.finished_at, last.outcome, last.exit_code, last.said,
               (SELECT min(event.at) FROM procrastinate_events AS event
                WHERE event.job_id = job.id AND event.type = 'deferred') AS queued_at
        FROM procrastinate_jobs AS job {_LAST}
        WHERE job.status::text = ANY(:statuses)
        ORDER BY CASE WHEN job.status = 'todo' THEN -job.priority END, CASE WHEN job.status = 'todo' THEN job.id END,
                 last.finished_at DESC NULLS FIRST, job.id DESC
        LIMIT :limit
        """  # noqa: S608 - of our own texts
    )
    found = connection.execute(query, {"statuses": list(statuses), "limit": limit}).mappings()
    return [dict(row) for row in found]


def is_there(connection: Connection) -> bool:
    """Whether there is a queue."""
    return bool(connection.execute(text("SELECT to_regclass('queue_tries') IS NOT NULL")).scalar_one())


def counts(connection: Connection) -> dict[str, int]:
    """Count the jobs of each state."""
    query = text("SELECT status::text AS status, count(*) AS number FROM procrastinate_jobs GROUP BY status")
    return {row.status: row.number for row in connection.execute(query)}


def workers(connection: Connection) -> list[dict[str, Any]]:
    """Give the workers with the seconds since their last sign of life."""
    query = text(
        """
        SELECT worker.id, own.host, own.pid, own.queues, own.concurrency, own.started_at, worker.last_heartbeat,
               extract(epoch FROM now() - worker.last_heartbeat)::float AS silent,
               (SELECT count(*) FROM procrastinate_jobs AS job
                WHERE job.worker_id = worker.id AND job.status = 'doing') AS running
        FROM procrastinate_workers AS worker LEFT JOIN queue_workers AS own ON own.worker_id = worker.id
        ORDER BY worker.id
        """
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def waiting_twin(connection: Connection, queueing_lock: str) -> int | None:
    """Give the waiting job that is the same as another that was not queued for it."""
    query = text("SELECT id FROM procrastinate_jobs WHERE queueing_lock = :lock AND status = 'todo'")
    found: int | None = connection.execute(query, {"lock": queueing_lock}).scalar()
    return found


def unfinished_arguments(connection: Connection, spider: str) -> list[dict[str, str]]:
    """Give the arguments of a spider's crawls that wait or run."""
    query = text(
        "SELECT args -> 'arguments' FROM procrastinate_jobs "
        "WHERE status IN ('todo', 'doing') AND args ->> 'spider' = :spider"
    )
    return [dict(found or {}) for found in connection.execute(query, {"spider": spider}).scalars()]
