"""A worker of the queue: it takes crawls and runs each as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from procrastinate import App, BaseRetryStrategy, PsycopgConnector, RetryDecision, RetryStrategy
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Status

from carscraper.db.locks import open_locks
from carscraper.exceptions import CarscraperError, ConfigurationError, DatabaseUnavailableError
from carscraper.logs import cleaned, printable
from carscraper.queue import ANSWER, SILENCES, TASK, address, name_of, options_of, run_name
from carscraper.runs.outputs import is_missing
from carscraper.runs.process import Crawl, CrawlOutcome, Processes
from carscraper.runs.record import FAILED, PARTIAL, SKIPPED, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from procrastinate import JobContext
    from procrastinate.jobs import Job
    from scrapy.settings import BaseSettings


_STOPPED, _SUPERSEDED, _ELSEWHERE = "stopped", "superseded", "elsewhere"
_HANDED_ON = 20  # times that a machine without a run's files leaves their upload to another, beyond WORKER_RETRIES
_MORE_TRIES = 3  # beyond WORKER_RETRIES, of a job whose workers die: it may be what kills them
_POLL = 5.0  # seconds between two looks for jobs that nobody announced
_KEPT_HOURS = 30 * 24
_BEATS = (
    "SELECT job.id, last_heartbeat AS beat FROM procrastinate_jobs job "
    "LEFT JOIN procrastinate_workers worker ON worker.id = worker_id WHERE status = 'doing'"
)


class EndedBadlyError(CarscraperError):
    """A crawl ended as *outcome*. Raised to procrastinate, which has it tried again or leaves it failed."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class ByOutcome(BaseRetryStrategy):
    """Tries a partial crawl again soon, a failed one later, and one that was stopped as soon as a worker is free."""

    def __init__(self, retries: int, delay: int) -> None:
        """Accept ``WORKER_RETRIES`` and ``WORKER_RETRY_DELAY``."""
        self._retries, self._delay = retries, delay
        self._soon, self._later = (
            RetryStrategy(max_attempts=retries, wait=wait, linear_wait=wait) for wait in (delay, 4 * delay)
        )

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Return when it is tried again; ``None``: it is not."""
        outcome = exception.outcome if isinstance(exception, EndedBadlyError) else _SUPERSEDED
        if outcome == _STOPPED:
            return RetryDecision(retry_in={"seconds": 0})
        if outcome == _SUPERSEDED or not self._retries:
            return None
        if outcome == _ELSEWHERE:
            is_last = job.attempts >= self._retries + _HANDED_ON
            return None if is_last else RetryDecision(retry_in={"seconds": self._delay})
        strategy = self._soon if outcome in {PARTIAL, SKIPPED} else self._later
        return strategy.get_retry_decision(exception=exception, job=job)


class Worker:
    """Runs crawls until it is told to stop."""

    def __init__(
        self,
        settings: BaseSettings,
        *,
        concurrency: int,
        queues: Sequence[str],
        drain: bool,
        given: Sequence[str],
        level: str | None,
        say: Callable[[str], None],
        relay: Callable[[str, str], None],
    ) -> None:
        """Accept plain values.

        Args:
            settings: checked ones.
            concurrency: crawls at the same time.
            queues: those that it serves; all if empty.
            drain: end when nothing waits.
            given: settings for every crawl, each ``NAME=value``.
            level: of the crawls' log.
            say: is called with each line of the worker.
            relay: is called with each line of a crawl, behind the name of its run.

        Raises:
            ConfigurationError: the schedule names what can't be run.
        """
        self._settings, self._given, self._level, self._say = settings, given, level, say
        self._queues, self._drain, self._concurrency = list(queues), drain, concurrency
        self._beat = settings.getfloat("WORKER_HEARTBEAT")
        self._silence = SILENCES * self._beat
        self._retries = settings.getint("WORKER_RETRIES")
        self._database_url: str = settings["DATABASE_URL"].reveal()
        self._locks = open_locks(self._database_url, timeout=ANSWER)
        self._processes = Processes(self._database_url, on_line=relay)
        self._work: asyncio.Task[None] | None = None
        self._lost: ConnectorException | None = None
        self._cleared = float("-inf")
        # They have a traceback for each crawl that is no success, and for each look at a database that is away.
        for name in ("procrastinate", "psycopg.pool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._app = self._new_app()

    def _new_app(self) -> App:
        connector = PsycopgConnector(
            conninfo=address(self._database_url), min_size=1, max_size=self._concurrency + 4, timeout=10
        )
        app = App(connector=connector)
        retry = ByOutcome(self._retries, self._settings.getint("WORKER_RETRY_DELAY"))
        task: Any = app.task(name=TASK, pass_context=True, retry=retry)(self._crawl)
        for spider, times in self._settings["WORKER_SCHEDULE"].items():
            args = {"spider": spider, "arguments": {}, "settings": {}}
            options = options_of(self._settings, args)
            app.periodic(cron=times, periodic_id=spider, task_kwargs=args, **options)(task)
        for (_, spider), periodic in app.periodic_registry.periodic_tasks.items():
            try:
                periodic.croniter  # noqa: B018 - reads the times
            except (ValueError, KeyError) as error:
                raise ConfigurationError(
                    f"WORKER_SCHEDULE of {spider} can't be read ({str(error).rstrip('.')}); write times such as "
                    '"17 3,15 * * *".'
                ) from None
        return app

    def run(self) -> None:
        """Work.

        Raises:
            DatabaseUnavailableError: the database went away; other workers take the crawls over.
        """
        try:
            asyncio.run(self._run())
        except ConnectorException as error:
            said = str(error.__cause__ or error).strip().partition("\n")[0]
            raise DatabaseUnavailableError(
                f"The database of DATABASE_URL does not answer ({said}): start the worker again; until then others "
                "take its crawls over."
            ) from None
        finally:
            self._locks.close()

    async def _run(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._on_error)
        async with self._app.open_async():
            self._processes.handle_signals(self._stop)
            looking = None if self._drain else asyncio.create_task(self._look_after())
            self._say(f"worker: {self._concurrency} at a time, queues {', '.join(self._queues) or 'all'}")
            try:
                await self._take_jobs()
                while self._drain and await self._more_waits():
                    await self._take_jobs()
            finally:
                if looking:
                    looking.cancel()
        if not self._drain and not self._processes.stops:
            raise ConnectorException("it went away for a while")

    async def _take_jobs(self) -> None:
        self._work = asyncio.create_task(
            self._app.run_worker_async(
                queues=self._queues or None,  # type: ignore[arg-type]  # None: all
                concurrency=self._concurrency,
                wait=not self._drain,
                install_signal_handlers=False,
                fetch_job_polling_interval=min(_POLL, self._beat),
                abort_job_polling_interval=_POLL,
                update_heartbeat_interval=self._beat,
                stalled_worker_timeout=self._silence,
            )
        )
        with contextlib.suppress(asyncio.CancelledError):
            await self._work
        if self._lost:
            raise self._lost

    def _stop(self) -> None:
        if self._processes.stops == 1:
            self._say("worker: stopping; crawls finish what is in flight and go back into the queue")
            if self._work:
                self._work.cancel()  # it takes no new job, and waits for those that run

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End when how a crawl ended could not be written down: its job is another worker's, and only then."""
        error = context.get("exception")
        if not isinstance(error, ConnectorException):
            loop.default_exception_handler(context)
            return
        self._lost = self._lost or error
        if self._work:
            self._work.cancel()

    async def _crawl(
        self,
        context: JobContext,
        /,
        *,
        spider: str,
        arguments: dict[str, str],
        settings: dict[str, str],
        upload: str | None = None,
        **_: Any,
    ) -> None:
        """Run a job's crawl.

        Raises:
            EndedBadlyError: it did not end well, or was stopped.
        """
        job = context.job
        name = run_name(job, job.attempts + 1)
        crawl = Crawl(
            spider=spider,
            job_id=name,
            arguments=arguments,
            settings=[*self._given, *(f"{key}={value}" for key, value in settings.items())],
            level=self._level,
            log_file=self._settings.get("LOG_FILE"),
            log_name=f"{spider}.{name}",
        )
        if upload:
            await self._upload(replace(crawl, job_id=upload, uploads=True), name_of(job.task_kwargs))
            return
        outcome = await self._execute(crawl, name_of(job.task_kwargs))
        if outcome.record and is_missing(outcome.record.output) and self._retries:
            await self._defer_upload(job, name)
            if outcome.record.lacks_outputs_alone:
                return
        if outcome.outcome == SUCCESS:
            return
        if outcome.outcome == SKIPPED and not job.attempts:
            return  # somebody else is at it; on a later try that may be the crawl of a worker that is gone
        if await self._waits_already(job):
            raise EndedBadlyError(_SUPERSEDED)
        raise EndedBadlyError(_STOPPED if self._processes.stops else outcome.outcome)

    async def _execute(self, crawl: Crawl, what: str) -> CrawlOutcome:
        self._say(f"{crawl.job_id}: {what}")
        outcome = await self._processes.run(crawl)
        self._say(f"{crawl.job_id}: {outcome}")
        return outcome

    async def _defer_upload(self, job: Job, name: str) -> None:
        """Have the upload of the run *name* tried again, as a job that holds up no crawl of the dealer."""
        lock = f"upload {name}"
        in_a_while = {"seconds": self._settings.getint("WORKER_RETRY_DELAY")}
        task = self._app.configure_task(
            TASK, queue=job.queue, priority=job.priority, lock=lock, queueing_lock=lock, schedule_in=in_a_while
        )
        await task.defer_async(**job.task_kwargs, upload=name)

    async def _upload(self, crawl: Crawl, what: str) -> None:
        """Upload a run's items and log.

        Raises:
            EndedBadlyError: they are not uploaded.
        """
        record = await asyncio.to_thread(self._processes.record_of, crawl.job_id)
        if record is None:
            raise EndedBadlyError(FAILED)
        if not is_missing(record.output):
            return  # somebody did it by hand
        folder = record.output["folder"]
        if not await asyncio.to_thread(Path(folder).is_dir):
            if record.host == socket.gethostname():
                self._say(f"{crawl.job_id}: its items and log are lost, {printable(folder)} is not there any more")
                raise EndedBadlyError(FAILED)
            self._say(f"{crawl.job_id}: its items and log are on {printable(record.host)}, which has to upload them")
            raise EndedBadlyError(_ELSEWHERE)
        outcome = await self._execute(crawl, what)
        if outcome.record is None or is_missing(outcome.record.output):
            raise EndedBadlyError(_STOPPED if self._processes.stops else PARTIAL)

    async def _waits_already(self, job: Job) -> bool:
        """Return whether the same crawl was queued again meanwhile; procrastinate can't have both wait."""
        twins = await self._app.job_manager.list_jobs_async(status="todo", queueing_lock=job.queueing_lock)
        return bool(list(twins))

    async def _more_waits(self) -> bool:
        """Return whether there may be more to do, once each worker with a job has shown that it lives, or does not."""
        first: dict[int, Any] | None = None
        while not self._processes.stops:
            beats = {row["id"]: row["beat"] for row in await self._app.connector.execute_query_all_async(_BEATS)}
            if await self._take_over():
                return True
            first = beats if first is None else first
            if not first.keys() <= beats.keys():
                return True  # one has ended, or was taken over by another worker
            if all(beats[job] != beat for job, beat in first.items()):
                return False
            await asyncio.sleep(min(1, self._beat))
        return False

    async def _look_after(self) -> None:
        """Take over what dead workers leave."""
        while True:
            await asyncio.sleep(self._beat)
            try:
                await self._take_over()
            except (ConnectorException, CarscraperError) as error:
                self._say(f"worker: what other workers left can't be looked at ({cleaned(str(error))})")

    async def _take_over(self) -> bool:
        """Put back what dead workers left, one worker at a time, and forget jobs that ended long ago.

        Returns:
            Whether there was anything.
        """
        manager = self._app.job_manager
        stalled: list[Job] = []
        try:
            if await asyncio.to_thread(self._locks.take, "queue"):
                stalled = list(await manager.get_stalled_jobs(seconds_since_heartbeat=self._silence))
                for job in stalled:
                    if job.attempts > self._retries + _MORE_TRIES or await self._waits_already(job):
                        await manager.finish_job(job, Status.FAILED, delete_job=False)
                    else:
                        await manager.retry_job(job)
                    self._say(f"{run_name(job, job.attempts + 1)}: {name_of(job.task_kwargs)}: its worker is gone")
                await manager.prune_stalled_workers(self._silence)
                if time.monotonic() - self._cleared > 3600:
                    self._cleared = time.monotonic()
                    await manager.delete_old_jobs(
                        _KEPT_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
                    )
        finally:
            await asyncio.to_thread(self._locks.close)
        return bool(stalled)
