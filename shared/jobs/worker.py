"""Work longer than a Kafka poll: Procrastinate jobs, deferred in the transaction that wants them.

A job may *run* more than once (a worker dies, stalls, returns), but only the newest attempt may change anything.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from procrastinate import App, JobContext, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from procrastinate.retry import BaseRetryStrategy, RetryDecision
from psycopg import InternalError, OperationalError
from sqlalchemy.exc import InterfaceError
from sqlalchemy.exc import InternalError as SqlInternalError
from sqlalchemy.exc import OperationalError as SqlOperationalError

from shared.contracts.envelope import Envelope
from shared.contracts.errors import Cancelled, DriftwheelError, Superseded
from shared.delivery.unit_of_work import GIVEN_UP, Database, UnitOfWork
from shared.jobs import history as job_history
from shared.jobs.attempts import Attempt
from shared.telemetry import spans

log = structlog.get_logger()

JobFunction = Callable[..., Awaitable[None]]
FailureFunction = Callable[..., Awaitable[None]]

HEARTBEAT_SECONDS = 2.0
MAX_ATTEMPTS = 12
_RESERVED = ("cause", "key")
_OUTAGE = (
    OperationalError,
    InternalError,  # the database gave up on an idle transaction
    SqlOperationalError,
    SqlInternalError,
    InterfaceError,
    ConnectorException,
    ConnectionError,
    TimeoutError,
)


@functools.cache
def _deferring() -> App:
    """An app that only writes job rows, always on somebody else's connection."""
    return App(connector=PsycopgConnector())


async def defer(
    work: UnitOfWork, job: str, *, lock: str | None = None, priority: int = 0, **args: Any
) -> int:
    """Start a job when this unit of work commits; returns its number.

    Args:
        lock: the fencing key: one of a kind at a time.
        priority: of waiting jobs, the highest is taken first.
    """
    if reserved := [name for name in _RESERVED if name in args]:
        raise TypeError(f"job arguments may not be called {reserved}")
    cause = work.cause.to_json() if work.cause else None
    deferrer = _deferring().configure_task(
        job,
        allow_unknown=True,
        lock=lock,
        priority=priority,
        connection=await work.raw(),
        task_kwargs={"cause": cause, "key": lock},
    )
    number = await deferrer.defer_async(**args)
    await job_history.wanted(work, lock or f"job-{number}", job)
    return number


class _OwnJobs(JobManager):
    """A worker that was given up ends no job that has passed to another: Procrastinate itself does not look."""

    _OWN = (
        "(SELECT id FROM procrastinate_jobs WHERE id = %(job_id)s AND status = 'doing' "
        "AND worker_id IS NOT DISTINCT FROM %(worker_id)s::bigint FOR UPDATE) AS own"
    )

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        await self.connector.execute_query_async(
            f"SELECT procrastinate_finish_job_v1(id, %(status)s, %(delete_job)s) FROM {self._OWN}",
            job_id=job.id,
            worker_id=job.worker_id,
            status=status.value,
            delete_job=delete_job,
        )

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        await self.connector.execute_query_async(
            "SELECT procrastinate_retry_job_v2(id, %(retry_at)s, %(priority)s, %(queue)s, %(lock)s) "
            f"FROM {self._OWN}",
            job_id=job.id,
            worker_id=job.worker_id,
            retry_at=retry_at or datetime.now(UTC),
            priority=priority,
            queue=queue,
            lock=lock,
        )


class _Again(Exception):
    """Run the job again later."""


class _Retry(BaseRetryStrategy):
    """Again after a retryable error (with back-off), and at once when this worker is shutting down."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, asyncio.CancelledError):
            return RetryDecision(retry_in={"seconds": 0})
        if isinstance(exception, _Again):
            return RetryDecision(retry_in={"seconds": min(2 ** min(job.attempts, 6), 60)})
        return None


@dataclass(frozen=True, slots=True)
class _Registered:
    run: JobFunction
    failed: FailureFunction | None


class Jobs:
    """The jobs of one service, and the worker that runs them."""

    def __init__(
        self, service: str, db: Database, *, stalled_after: float = 10.0, concurrency: int = 1
    ) -> None:
        self._service = service
        self._db = db
        self._stalled_after = stalled_after
        self._concurrency = concurrency
        self._registered: dict[str, _Registered] = {}

    def add(self, name: str, run: JobFunction, failed: FailureFunction | None = None) -> None:
        """Register a job.

        Args:
            run: `async def run(attempt, **args)`. Retryable errors run it again.
            failed: `async def failed(attempt, reason: str, **args)`: called once when there will be no further try,
                to turn the failure into a state and an event.
        """
        self._registered[name] = _Registered(run, failed)

    async def request_cancel(self, work: UnitOfWork, key: str, reason: str) -> None:
        """Ask the job of this key to stop; it sees it at its next `check()`, even if it has not started yet."""
        await work.execute(
            "INSERT INTO attempts (key, number, cancel_reason) VALUES (:key, 0, :reason) "
            "ON CONFLICT (key) DO UPDATE SET cancel_reason = :reason",
            {"key": key, "reason": reason},
        )

    async def run(self) -> None:
        """Work until cancelled. An unfinished job goes back to the queue; a lost database is met with back-off."""
        pause = 0.5
        while True:
            try:
                await self._work()
            except _OUTAGE as error:
                log.warning("worker.paused", error=type(error).__name__, seconds=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)

    async def _work(self) -> None:
        app = App(
            connector=PsycopgConnector(
                conninfo=self._db.url, min_size=1, max_size=4, kwargs={"options": GIVEN_UP}
            )
        )
        app.job_manager = _OwnJobs(app.connector)
        for name, registered in self._registered.items():
            app.task(name=name, pass_context=True, retry=_Retry())(self._task(registered))
        async with app.open_async():
            rescue = asyncio.create_task(self._rescue(app))
            worker = asyncio.create_task(
                app.run_worker_async(
                    name=self._service,
                    concurrency=self._concurrency,
                    install_signal_handlers=False,
                    fetch_job_polling_interval=2.0,
                    shutdown_graceful_timeout=1.0,
                    update_heartbeat_interval=HEARTBEAT_SECONDS,
                    stalled_worker_timeout=self._stalled_after,
                    delete_jobs="successful",
                )
            )
            try:
                await asyncio.wait({rescue, worker}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (worker, rescue):
                    task.cancel()
                results = await asyncio.gather(worker, rescue, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def _rescue(self, app: App) -> None:
        """Give jobs of silent workers back to the queue."""
        while True:
            for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=self._stalled_after):
                log.warning("job.rescued", job=job.id, task=job.task_name)
                await app.job_manager.retry_job(job)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def _task(self, registered: _Registered) -> Callable[..., Awaitable[None]]:
        async def task(
            context: JobContext, cause: dict[str, Any] | None = None, key: str | None = None, **args: Any
        ) -> None:
            envelope = Envelope.from_json(cause) if cause else None
            attempt = await Attempt.claim(self._db, key or f"job-{context.job.id}", envelope)
            with (
                structlog.contextvars.bound_contextvars(job=attempt.key, attempt=attempt.number),
                spans.working(context.job.task_name, attempt.key, attempt.number, attempt.cause),
            ):
                await self._attempt(registered, attempt, args)

        return task

    async def _attempt(self, registered: _Registered, attempt: Attempt, args: dict[str, Any]) -> None:
        try:
            if attempt.number > MAX_ATTEMPTS:
                raise RuntimeError(f"gave up after {MAX_ATTEMPTS} attempts: the worker died each time")
            log.info("job.started")
            await registered.run(attempt, **args)
            await self._end(attempt, "done")
            log.info("job.done")
        except Superseded:
            log.warning("job.superseded")
        except Exception as error:
            if await self._is_over(attempt):
                log.warning("job.superseded")
                return
            retryable = isinstance(error, _OUTAGE) or (isinstance(error, DriftwheelError) and error.retryable)
            if retryable and attempt.number < MAX_ATTEMPTS:
                log.warning("job.retry", error=type(error).__name__, detail=str(error)[:300])
                raise _Again from error
            log.exception("job.failed")
            spans.mark_failed(error)
            reason = str(error) if isinstance(error, DriftwheelError) else f"{type(error).__name__}: {error}"
            if registered.failed:
                with contextlib.suppress(Superseded):
                    await registered.failed(attempt, reason[:2_000], **args)
            await self._end(attempt, "cancelled" if isinstance(error, Cancelled) else "failed", reason[:500])

    async def _end(self, attempt: Attempt, outcome: job_history.Outcome, error: str | None = None) -> None:
        """The work is done and committed: a database that is away now takes nothing of it back."""
        try:
            await job_history.ended(self._db, attempt.key, attempt.number, outcome, error)
        except _OUTAGE as outage:
            log.warning("job.end_not_written", error=type(outage).__name__)

    async def _is_over(self, attempt: Attempt) -> bool:
        """Whether a newer attempt made this one's troubles pointless."""
        try:
            await attempt.check()
        except Superseded:
            return True
        except (Cancelled, *_OUTAGE):
            return False
        return False
