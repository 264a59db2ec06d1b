"""``scrapy worker``: takes crawls from the queue and sees each to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from procrastinate import App, BaseRetryStrategy, RetryDecision
from procrastinate.exceptions import ConnectorException
from procrastinate.manager import JobManager

from carscraper.cli.crawls import command_of
from carscraper.cli.verb import DONE, FAILED
from carscraper.db import queue
from carscraper.exceptions import CarscraperError, ConfigurationError, DatabaseUnavailableError
from carscraper.jobs.app import PatientConnector, options_of, quieten
from carscraper.jobs.child import Child
from carscraper.jobs.job import TASK, Job
from carscraper.logs import cleaned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from procrastinate import JobContext
    from procrastinate.jobs import Job as QueuedJob
    from procrastinate.jobs import Status
    from sqlalchemy import Engine

T = TypeVar("T")

_FACTOR = 3  # each pause before another try is so many times longer
_FAILED_FACTOR = 4  # and of a crawl that failed, on top of that
_SILENCES = 4  # signs of life that must be missing before others take over
_MOST_LOST = 5  # workers that may die over one job
_POLL = 5.0  # seconds between two looks for jobs that nobody announced: retries, and those whose lock is free now
_A_LONG_TIME = 365 * 86400.0
_KEPT_HOURS = 30 * 24
_HOURLY = 3600.0
_PAUSE = 1.0  # seconds before a database that is away is asked again
_PATIENCE = 2  # signals; one more ends the worker whatever holds it
_LAST_TRIES = 10.0  # seconds that a worker who is being stopped goes on asking


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a worker is told."""

    database_url: str
    concurrency: int = 1
    queues: tuple[str, ...] | None = None
    """``None``: all."""
    drain: bool = False
    """End when nothing waits."""
    schedule: Mapping[str, str] = field(default_factory=dict)
    """Times of a crontab (UTC), by spider."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """The dealers' sources, by spider."""
    retries: int = 3
    retry_delay: float = 300
    heartbeat: float = 15
    settings: tuple[str, ...] = ()
    """``NAME=value``, for every crawl."""
    level: str | None = None
    log_file: str | None = None
    quiet: bool = False
    """Do not show what the crawls say."""


class AgainError(Exception):
    """The crawl goes back into the queue."""

    def __init__(self, at: datetime | None = None) -> None:
        super().__init__()
        self.at = at
        """``None``: as soon as somebody is free."""


class EndedBadlyError(CarscraperError):
    """The crawl stays failed."""


class _Strategy(BaseRetryStrategy):
    def get_retry_decision(self, *, exception: BaseException, job: QueuedJob) -> RetryDecision | None:
        if isinstance(exception, AgainError):
            return RetryDecision(retry_at=exception.at)
        return None


class _OwnJobs(JobManager):
    """Tells the others who this worker is, and writes of no job that is somebody else's by now."""

    def __init__(self, connector: PatientConnector, worker: Worker) -> None:
        super().__init__(connector)
        self._worker = worker

    async def register_worker(self) -> int:
        worker_id = await super().register_worker()
        await self._worker.registered(worker_id)
        return worker_id

    async def update_heartbeat(self, worker_id: int) -> None:
        await super().update_heartbeat(worker_id)
        self._worker.alive_at = time.monotonic()

    async def finish_job(self, job: QueuedJob, status: Status, delete_job: bool) -> None:
        assert job.id
        await self._worker.ask(queue.finish, job.id, job.worker_id, status.value)

    async def retry_job(
        self,
        job: QueuedJob,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        assert job.id
        await self._worker.give_back(job.id, job.worker_id, retry_at)


class Worker:
    """Runs crawls until it is told to stop."""

    def __init__(
        self, plan: Plan, engine: Engine, *, say: Callable[[str], None], relay: Callable[[str, str], None]
    ) -> None:
        """Take what it is told, the database for its own notes, who hears it, and who hears its crawls.

        Raises:
            ConfigurationError: the schedule can't be kept.
        """
        self._plan = plan
        self._engine = engine
        self._say = say
        self._relay = relay
        self._host = socket.gethostname()
        self._children: dict[int, Child] = {}
        self._stops = 0
        self._worker_id: int | None = None
        self._main: asyncio.Task[None] | None = None
        self._renew = False
        self.alive_at = time.monotonic()
        """When the others last heard of this worker."""
        self._steady_since = time.monotonic()
        self._away_said = 0.0
        self._cleared_at = float("-inf")
        self._connector = PatientConnector(
            queue.connect_arguments(plan.database_url), on_away=self._on_away, most=plan.concurrency + 4
        )
        quieten()
        self._app = self._make_app()

    def run(self) -> None:
        """Work.

        Raises:
            DatabaseUnavailableError: the database was away when the worker was to begin, or to end.
        """
        try:
            asyncio.run(self._run())
        except ConnectorException as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise DatabaseUnavailableError(
                f"The database of DATABASE_URL does not answer ({reason}); other workers take the crawls over."
            ) from None

    # --- procrastinate ---

    def _make_app(self) -> App:
        app = App(connector=self._connector)
        app.job_manager = _OwnJobs(self._connector, self)
        task: Any = app.task(name=TASK, pass_context=True, retry=_Strategy())(self._crawl)
        for spider, times in self._plan.schedule.items():
            job = Job(spider=spider)
            options = options_of(job, self._plan.sources.get(spider), job.queue)
            app.periodic(cron=times, periodic_id=spider, task_kwargs=job.args(), **options)(task)
        for (_, spider), periodic in app.periodic_registry.periodic_tasks.items():
            try:
                periodic.croniter  # noqa: B018 - reads the times
            except (ValueError, KeyError) as error:
                raise ConfigurationError(
                    f"WORKER_SCHEDULE of {spider} can't be read ({str(error).rstrip('.')}); write times such as "
                    '"17 3,15 * * *".'
                ) from None
        return app

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        beside: list[asyncio.Task[None]] = []
        try:
            async with self._app.open_async():
                beside = [asyncio.create_task(self._fence()), asyncio.create_task(self._look_after())]
                while True:
                    self._renew = False
                    self._main = asyncio.create_task(self._work())
                    with contextlib.suppress(asyncio.CancelledError):
                        await self._main
                    if self._stops or not self._renew:
                        break
        finally:
            for child in self._children.values():
                child.kill()
            for each in beside:
                each.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _work(self) -> None:
        beat = self._plan.heartbeat
        await self._app.run_worker_async(
            queues=list(self._plan.queues) if self._plan.queues else None,  # type: ignore[arg-type]  # None: all
            concurrency=self._plan.concurrency,
            wait=not self._plan.drain,
            install_signal_handlers=False,
            fetch_job_polling_interval=min(_POLL, beat),
            abort_job_polling_interval=_POLL,
            update_heartbeat_interval=beat,
            # Not at the start, when a database that was away may have heard of nobody for a while: see _look_after.
            stalled_worker_timeout=_A_LONG_TIME,
        )

    async def registered(self, worker_id: int) -> None:
        """Write who this worker is."""
        self.alive_at = time.monotonic()
        self._worker_id = worker_id
        about = {
            "worker_id": worker_id,
            "host": self._host,
            "pid": os.getpid(),
            "queues": ",".join(self._plan.queues) if self._plan.queues else None,
            "concurrency": self._plan.concurrency,
        }
        await self.ask(queue.register, about)
        self._say(
            f"worker {worker_id} on {self._host}: {self._plan.concurrency} at a time, queues {about['queues'] or 'all'}"
        )

    async def give_back(self, job_id: int, worker_id: int | None, at: datetime | None) -> None:
        """Let a job wait again."""
        await self.ask(queue.give_back, job_id, worker_id, at)

    # --- a crawl ---

    async def _crawl(self, context: JobContext, /, timestamp: int | None = None, **args: Any) -> None:
        job_id, worker_id = context.job.id, context.job.worker_id
        assert job_id
        assert worker_id
        job = Job.read(args)
        number = await self.ask(queue.begin_try, job_id, worker_id=worker_id, host=self._host)
        label = f"{job_id} {job.spider}"

        def tell(line: str) -> None:
            if not self._plan.quiet:
                self._relay(label, line)

        child = Child(job.spider, self._command(job, job_id, number), on_line=tell)
        self._children[job_id] = child
        try:
            if self._stops:
                child.was_told = True
                outcome, code, said = queue.STOPPED, None, "its worker was told to stop"
            else:
                pid = await child.start()
                self._say(f"job {job_id}: {job} (process {pid})")
                await self.ask(queue.note_process, job_id, number, pid)
                ended = await child.end()
                outcome, code, said = ended.outcome, ended.code, ended.line()
                self._say(f"job {job_id}: {job.spider}: {outcome} (exit code {code}, {ended.seconds:.0f} s). {said}")
        except OSError as error:
            outcome, code, said = "failed", None, f"It can't be started: {error.strerror}"
            self._say(f"job {job_id}: {job.spider}: {said}")
        except asyncio.CancelledError:
            await self.ask(queue.end_try, job_id, number, outcome="aborted", exit_code=None, said="stopped by hand")
            raise
        finally:
            del self._children[job_id]
        if child.was_told and code != DONE:
            outcome = queue.STOPPED
        await self.ask(queue.end_try, job_id, number, outcome=outcome, exit_code=code, said=cleaned(said))
        if outcome == queue.STOPPED:
            raise AgainError
        if outcome == "skipped" and await self.ask(queue.may_be_locked_out, job_id):
            raise AgainError(datetime.now(UTC) + timedelta(seconds=_SILENCES * self._plan.heartbeat))
        if code != DONE:
            await self._after_trouble(job_id, outcome)

    def _command(self, job: Job, job_id: int, number: int) -> list[str]:
        # In this order: what the worker says holds for all crawls, and a job knows best.
        settings = ["SHARED_PACE=true", *self._plan.settings, *(f"{n}={v}" for n, v in job.settings.items())]
        return command_of(
            job.spider,
            {**job.arguments, "_job": f"q{job_id}-{number}"},  # as scrapyd hands its id over
            settings=settings,
            level=self._plan.level,
            log_file=self._plan.log_file,
            log_name=f"{job.spider}.q{job_id}-{number}",
        )

    async def _after_trouble(self, job_id: int, outcome: str) -> None:
        """Have it tried again, later each time, or leave it failed.

        Raises:
            AgainError: in any case but the last.
            EndedBadlyError: it was tried often enough.
        """
        bad = await self.ask(queue.bad_tries, job_id)
        if bad > self._plan.retries:
            self._say(f"job {job_id}: stays {outcome} after {bad} tries")
            raise EndedBadlyError(outcome)
        pause = self._plan.retry_delay * float(_FACTOR) ** (bad - 1) * (1 if outcome == "partial" else _FAILED_FACTOR)
        self._say(f"job {job_id}: is tried again in {pause:.0f} s ({bad} of {self._plan.retries})")
        raise AgainError(datetime.now(UTC) + timedelta(seconds=pause))

    # --- stopping ---

    def _on_signal(self) -> None:
        self._stops += 1
        self._connector.hurry()
        if self._stops == 1:
            running = ", ".join(str(number) for number in self._children)
            self._say(
                f"worker: stopping; jobs {running} finish what is in flight and go back into the queue. "
                "A second signal ends them."
                if running
                else "worker: stopping"
            )
        for child in self._children.values():
            child.stop()
        if self._main and self._stops == 1:
            self._main.cancel()
        if self._stops > _PATIENCE:
            # A database that hangs would hold the process; its crawls die with it.
            asyncio.get_running_loop().call_later(_LAST_TRIES, os._exit, FAILED)

    # --- who is alive ---

    async def _fence(self) -> None:
        """End the crawls of a worker that the others must take for dead: they begin with them anew."""
        beat = self._plan.heartbeat
        while True:
            await asyncio.sleep(beat / 4)
            silent = time.monotonic() - self.alive_at
            if silent < (_SILENCES - 1) * beat:
                continue
            for child in self._children.values():
                if not child.was_told:
                    self._say(f"worker: the database has not heard of it for {silent:.0f} s: its crawls are stopped")
                    child.stop()
                elif silent > _SILENCES * beat:
                    child.kill()

    async def _look_after(self) -> None:
        """Take over what dead workers left, and forget what ended long ago."""
        beat = self._plan.heartbeat
        while True:
            await asyncio.sleep(beat)
            try:
                if self._worker_id is not None:
                    await self._look(self._worker_id, _SILENCES * beat)
            except DatabaseUnavailableError as error:
                self._on_away(str(error))

    async def _look(self, worker_id: int, seconds: float) -> None:
        if not await asyncio.to_thread(self._transaction, queue.is_registered, worker_id):
            if self._main and not self._stops and not self._renew:
                # It was silent for too long, and is taken for dead.
                self._say("worker: the others took it for dead: it begins anew")
                self._renew = True
                for child in self._children.values():
                    child.kill()
                self._main.cancel()
            return
        # Where the database itself was away, all workers were silent: they need time to be heard of again.
        if time.monotonic() - self._steady_since < seconds:
            return
        for taken in await asyncio.to_thread(self._transaction, queue.take_back, seconds=seconds, most=_MOST_LOST):
            what = "waits again" if taken.again else "stays failed"
            self._say(f"job {taken.job_id}: {Job.read(taken.args)}: its worker is gone; it {what}")
        if time.monotonic() - self._cleared_at > _HOURLY:
            self._cleared_at = time.monotonic()
            await self._app.job_manager.delete_old_jobs(
                _KEPT_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
            )

    def _on_away(self, reason: str) -> None:
        self._steady_since = time.monotonic()
        if time.monotonic() - self._away_said > 10:
            self._away_said = time.monotonic()
            self._say(f"worker: the database is away ({reason}); crawls go on, and it is asked again")

    # --- the database ---

    async def ask(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call a function of ``db.queue`` in a thread, in a transaction, again while the database is away."""
        until = float("inf")
        while True:
            try:
                return await asyncio.to_thread(self._transaction, function, *arguments, **named)
            except DatabaseUnavailableError as error:
                if self._stops and until == float("inf"):
                    until = time.monotonic() + _LAST_TRIES
                if time.monotonic() > until:
                    raise
                self._on_away(str(error))
            await asyncio.sleep(_PAUSE)

    def _transaction(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return queue.transact(self._engine, function, *arguments, **named)
