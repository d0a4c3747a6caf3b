"""Work longer than a Kafka poll: Procrastinate jobs, deferred in the transaction that wants them.

A job may *run* more than once (a worker dies, stalls, returns), but only the newest attempt may change anything.
"""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from procrastinate import App, JobContext, PsycopgConnector
from procrastinate.jobs import Job
from procrastinate.retry import BaseRetryStrategy, RetryDecision

from shared.contracts.envelope import Envelope
from shared.contracts.errors import Superseded
from shared.delivery.failures import classify
from shared.delivery.postgres import impatient, parameters
from shared.delivery.unit_of_work import Database, UnitOfWork
from shared.jobs.attempts import Attempt, Outcome, wanted
from shared.jobs.endings import Ending, again, ending, given_up, pause
from shared.jobs.queue import FairQueue
from shared.telemetry import spans

log = structlog.get_logger()

JobFunction = Callable[..., Awaitable[None]]
EndFunction = Callable[..., Awaitable[None]]

HEARTBEAT_SECONDS = 2.0
POLL_SECONDS = 2.0
_RESERVED = ("cause", "key")


@functools.cache
def _deferring() -> App:
    """An app that only writes job rows, always on somebody else's connection."""
    return App(connector=PsycopgConnector())


async def defer(
    work: UnitOfWork,
    job: str,
    *,
    lock: str | None = None,
    model: str | None = None,
    priority: int = 0,
    **args: Any,
) -> int:
    """Start a job when this unit of work commits; returns its number.

    Args:
        lock: the fencing key: one of a kind at a time.
        model: whose job it is: models take turns.
        priority: of the waiting jobs of one model, the highest is taken first.
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
    await wanted(work, lock or f"job-{number}", job, model)
    return number


class _Again(Exception):
    """Run the job again later."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class _Retry(BaseRetryStrategy):
    """Again after a passing trouble, also of the database around the job; at once when this worker is shutting down."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, asyncio.CancelledError):
            return RetryDecision(retry_in={"seconds": 0})
        if isinstance(exception, _Again):
            return RetryDecision(retry_in={"milliseconds": int(exception.seconds * 1_000)})
        if classify(exception).passes:
            return RetryDecision(retry_in={"seconds": 2})
        return None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of job.

    Attributes:
        run: `async def run(attempt, **args)`.
        failed: `async def failed(attempt, reason: str, **args)`: called once when there will be no further try.
        cancelled: the same for a job that was cancelled and did not see to its end itself; `failed` if None.
        seconds: longest time of one attempt; None sets no limit.
        advice: the next step for a person whose job failed for its time, its memory or a crash.
    """

    name: str
    run: JobFunction
    failed: EndFunction | None = None
    cancelled: EndFunction | None = None
    seconds: float | None = None
    advice: str = ""


class Runner(Protocol):
    """Where an attempt is worked on."""

    async def __call__(self, kind: Kind, attempt: Attempt, args: Mapping[str, Any]) -> Ending:
        """Work until the end of the attempt; never raises but for its own cancellation."""
        ...


async def in_process(kind: Kind, attempt: Attempt, args: Mapping[str, Any]) -> Ending:
    """Work on an attempt in this very process."""
    with (
        structlog.contextvars.bound_contextvars(job=attempt.key, attempt=attempt.number),
        spans.working(kind.name, attempt.key, attempt.number, attempt.cause),
    ):
        log.info("job.started")
        try:
            await attempt.check()
            await kind.run(attempt, **args)
        except Exception as error:
            end = ending(error)
            if end.kind == "failed":
                log.exception("job.failed")
                spans.mark_failed(error)
            return end
        log.info("job.done")
        return Ending("done")


class Jobs:
    """The jobs of one service, and the worker that runs them.

    Args:
        stalled_after: seconds of silence after which a worker has lost its jobs.
        concurrency: jobs that run side by side.
    """

    def __init__(
        self, service: str, db: Database, *, stalled_after: float = 10.0, concurrency: int = 1
    ) -> None:
        self._service = service
        self.db = db
        self._stalled_after = stalled_after
        self._concurrency = concurrency
        self._kinds: dict[str, Kind] = {}
        self._run: Runner = in_process
        self._troubles: Counter[str] = Counter()
        self._unreleased: list[Attempt] = []
        self.waits_for = ""
        """The part that is away; empty while jobs are taken."""

    def add(
        self,
        name: str,
        run: JobFunction,
        failed: EndFunction | None = None,
        *,
        cancelled: EndFunction | None = None,
        seconds: float | None = None,
        advice: str = "",
    ) -> None:
        """Register a kind of job; see `Kind`."""
        self._kinds[name] = Kind(name, run, failed, cancelled, seconds, advice)

    def kind(self, name: str) -> Kind:
        return self._kinds[name]

    async def run(self, runner: Runner = in_process) -> None:
        """Work until cancelled. An unfinished job goes back to the queue; a lost database is met with back-off."""
        self._run = runner
        seconds = 0.5
        while True:
            began = time.monotonic()
            try:
                await self._work()
            except Exception as error:
                if not classify(error).passes:
                    raise
                if time.monotonic() - began > 60:
                    seconds = 0.5
                self.waits_for = classify(error).part or type(error).__name__
                log.warning("worker.paused", error=type(error).__name__, seconds=seconds)
                await asyncio.sleep(seconds)
                seconds = min(seconds * 2, 5.0)

    async def _work(self) -> None:
        app = App(
            connector=PsycopgConnector(
                min_size=1,
                max_size=4,
                kwargs=parameters(self.db.url),
                connection_class=impatient(self.db.url),
            )
        )
        app.job_manager = FairQueue(app.connector, self._kinds, self._concurrency)
        for kind in self._kinds.values():
            app.task(name=kind.name, pass_context=True, retry=_Retry())(self._task(kind))
        async with app.open_async():
            self.waits_for = ""
            rescue = asyncio.create_task(self._rescue(app))
            worker = asyncio.create_task(
                app.run_worker_async(
                    name=self._service,
                    concurrency=self._concurrency,
                    install_signal_handlers=False,
                    fetch_job_polling_interval=POLL_SECONDS,
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
            await self._release_late()
            for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=self._stalled_after):
                log.warning("job.rescued", job=job.id, task=job.task_name)
                await app.job_manager.retry_job(job)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def _task(self, kind: Kind) -> Callable[..., Awaitable[None]]:
        async def task(
            context: JobContext, cause: dict[str, Any] | None = None, key: str | None = None, **args: Any
        ) -> None:
            envelope = Envelope.from_json(cause) if cause else None
            await self._release_late()
            attempt = await Attempt.claim(self.db, key or f"job-{context.job.id}", envelope)
            with structlog.contextvars.bound_contextvars(job=attempt.key, attempt=attempt.number):
                await self._attempt(kind, attempt, args)

        return task

    async def _attempt(self, kind: Kind, attempt: Attempt, args: dict[str, Any]) -> None:
        """One attempt, and what follows from its ending."""
        try:
            end = given_up(attempt.crashes) or await self._within_limit(kind, attempt, args)
        except asyncio.CancelledError:
            await self._release(attempt)
            raise
        if end.kind in ("done", "superseded"):
            self._troubles.pop(attempt.key, None)
            if end.kind == "done":
                await self._end(attempt, "done")
            else:
                log.warning("job.superseded")
                await self._release(attempt)
            return
        if again(end, attempt.retries):
            self._troubles[attempt.key] += 1
            seconds = pause(end, self._troubles[attempt.key])
            log.warning("job.again", after=end.kind, error=end.name, detail=end.reason[:300], seconds=seconds)
            if end.kind != "crash":
                await self._release(attempt, counted=end.kind == "retry")
            raise _Again(seconds)
        self._troubles.pop(attempt.key, None)
        await self._give_up(kind, attempt, end, args)

    async def _within_limit(self, kind: Kind, attempt: Attempt, args: dict[str, Any]) -> Ending:
        try:
            async with asyncio.timeout(kind.seconds):
                return await self._run(kind, attempt, args)
        except TimeoutError:
            return Ending(
                "failed", f"It took longer than {kind.seconds:g} s, its limit, and was stopped.", "Overrun"
            )

    async def _give_up(self, kind: Kind, attempt: Attempt, end: Ending, args: dict[str, Any]) -> None:
        """Turn the ending into a state and an event. If a part we need for that is away, the job stays and ends later."""
        cancelled = end.kind == "cancelled"
        reason = f"{end.reason} {kind.advice}".strip() if end.name in _WITH_ADVICE else end.reason
        log.warning("job.cancelled" if cancelled else "job.given_up", error=end.name, detail=reason[:300])
        close = (kind.cancelled if cancelled else None) or kind.failed
        try:
            if close:
                await close(attempt, reason[:2_000], **args)
        except Superseded:
            return
        except Exception as error:
            if classify(error).passes:
                self._troubles[attempt.key] += 1
                await self._release(attempt)
                raise _Again(pause(ending(error), self._troubles[attempt.key])) from error
            log.exception("job.end_failed")
        await self._end(attempt, "cancelled" if cancelled else "failed", reason[:500])

    async def _end(self, attempt: Attempt, outcome: Outcome, error: str | None = None) -> None:
        """The work is done and committed: a database that is away now takes nothing of it back."""
        try:
            await attempt.ended(outcome, error)
        except Exception as problem:
            if not classify(problem).passes:
                raise
            log.warning("job.end_not_written", error=type(problem).__name__)

    async def _release(self, attempt: Attempt, *, counted: bool = False) -> None:
        """Say that this attempt did not crash; later, if the database is away now."""
        try:
            await asyncio.shield(attempt.release(counted=counted))
        except Exception as problem:
            if not classify(problem).passes:
                raise
            self._unreleased.append(attempt)

    async def _release_late(self) -> None:
        """Before anything is decided by the crashes of a job."""
        late, self._unreleased = self._unreleased, []
        for attempt in late:
            await self._release(attempt)


_WITH_ADVICE = ("Overrun", "Crashed", "MemoryError")
