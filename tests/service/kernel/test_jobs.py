"""A worker that is frozen, cut off or taken for dead: its successor gets the job, and it can take nothing back.

Nor does what is not the job's doing count against it: deploys and outages, however many and however long.
"""

import asyncio
import contextlib
import importlib.metadata
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Job, Status

from shared.contracts.errors import RetryLater, Unavailable
from shared.delivery.failures import classify
from shared.delivery.postgres import SESSION
from shared.delivery.unit_of_work import Database
from shared.jobs import endings
from shared.jobs import worker as jobs
from shared.jobs.attempts import Attempt, request_cancel
from shared.jobs.queue import FairQueue, ahead
from shared.jobs.worker import Jobs, defer
from tests.kit import until

JOB = "test_job"


@pytest.fixture
async def db(make_kernel_database: Callable[[], str]) -> AsyncIterator[Database]:
    database = Database("data", make_kernel_database())
    yield database
    await database.close()


@pytest.fixture
async def app(db: Database) -> AsyncIterator[App]:
    app = App(connector=PsycopgConnector(conninfo=db.url))
    app.job_manager = FairQueue(app.connector, [JOB], places=100)
    async with app.open_async():
        yield app


async def fetched(app: App) -> Job:
    """The waiting job, taken by a new worker."""
    job = await app.job_manager.fetch_job(queues=None, worker_id=await app.job_manager.register_worker())
    assert job is not None
    return job


async def owners(db: Database) -> list[tuple[str, int | None]]:
    async with db.unit_of_work() as work:
        rows = await work.execute("SELECT status::text, worker_id FROM procrastinate_jobs")
        return [(status, worker) for status, worker in rows]


async def test_a_worker_taken_for_dead_ends_no_job_of_its_successor(app: App, db: Database) -> None:
    async with db.unit_of_work() as work:
        await defer(work, JOB, lock="run-1")
    before = await fetched(app)
    await app.job_manager.retry_job(before)
    after = await fetched(app)
    assert (after.id, after.worker_id != before.worker_id) == (before.id, True)

    await app.job_manager.finish_job(before, Status.SUCCEEDED, delete_job=True)
    await app.job_manager.finish_job(before, Status.FAILED, delete_job=False)
    await app.job_manager.retry_job(before)
    assert await owners(db) == [("doing", after.worker_id)]

    await app.job_manager.finish_job(after, Status.SUCCEEDED, delete_job=True)
    assert await owners(db) == []


async def test_of_the_waiting_jobs_of_a_model_the_most_urgent_is_taken_first(app: App, db: Database) -> None:
    async with db.unit_of_work() as work:
        for name, priority in (("usual", 0), ("urgent", 5), ("idle", -5)):
            await defer(work, JOB, lock=name, priority=priority)
    assert [(await fetched(app)).lock for _ in range(3)] == ["urgent", "usual", "idle"]


async def test_a_frozen_transaction_gives_its_locks_up(
    make_kernel_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SESSION, "idle_in_transaction_session_timeout", "200ms")
    frozen, successor = (Database("data", url) for url in [make_kernel_database()] * 2)
    attempt = await Attempt.claim(frozen, "run-1", None)
    with pytest.raises(Exception) as given_up:
        async with attempt.work() as work:
            async with asyncio.timeout(30):
                assert (await Attempt.claim(successor, "run-1", None)).number == 2
            await work.execute("UPDATE attempts SET cancel_reason = 'I am back'")
    assert classify(given_up.value).passes
    async with successor.unit_of_work() as work:
        rows = await work.execute("SELECT number, cancel_reason FROM attempts")
        assert [tuple(row) for row in rows] == [(2, None)]
    await frozen.close()
    await successor.close()


def test_the_queue_was_written_for_the_installed_procrastinate() -> None:
    """Its tables are not a promise of Procrastinate: look at its migrations before you raise this."""
    assert importlib.metadata.version("procrastinate") == "3.10.0"


async def test_models_take_turns_and_slow_jobs_of_one_leave_a_place_for_others(db: Database) -> None:
    async with db.unit_of_work() as work:
        for number in range(4):
            await defer(work, JOB, lock=f"busy-{number}", model="busy", priority=10)
        await defer(work, JOB, lock="quiet-1", model="quiet")
        await defer(work, "of-another-worker", lock="unknown", model="other")
    app = App(connector=PsycopgConnector(conninfo=db.url))
    app.job_manager = FairQueue(app.connector, [JOB], places=2)
    async with app.open_async():
        worker = await app.job_manager.register_worker()

        async def take() -> str | None:
            job = await app.job_manager.fetch_job(queues=None, worker_id=worker)
            if job:
                await Attempt.claim(db, str(job.lock), None)
                held[str(job.lock)] = job
            return job.lock if job else None

        held: dict[str, Job] = {}
        assert [await take(), await take(), await take()] == ["busy-0", "quiet-1", "busy-1"]
        for name in ("quiet-1", "busy-1"):
            await app.job_manager.finish_job(held[name], Status.SUCCEEDED, delete_job=True)
        assert await take() is None, "the last place is not for the model that has the other one"
        async with db.unit_of_work() as work:
            await defer(work, JOB, lock="late-1", model="late")
        assert await take() == "late-1"


async def test_what_is_said_to_be_ahead_is_what_is_taken_first(app: App, db: Database) -> None:
    wished = [("busy", 0), ("busy", 5), ("quiet", 0), ("busy", 0), ("late", -5), ("quiet", 9)]
    async with db.unit_of_work() as work:
        await defer(work, "of-another-worker", lock="unknown", model="busy")
        for number, (model, priority) in enumerate(wished):
            await defer(work, JOB, lock=f"{model}-{number}", model=model, priority=priority)
    keys = [f"{model}-{number}" for number, (model, _) in enumerate(wished)]
    taken: list[str] = []
    while len(taken) < len(keys):
        async with db.unit_of_work() as work:
            places = await ahead(work, keys)
        waiting = sorted(places, key=lambda key: places[key].jobs)
        assert [places[key].jobs for key in waiting] == list(range(len(taken), len(keys)))
        assert [places[key].key for key in waiting[1:]] == waiting[:-1]
        assert places[waiting[-1]].model == (places[waiting[-1]].key or "").split("-")[0]
        job = await fetched(app)
        await Attempt.claim(db, str(job.lock), None)
        taken.append(str(job.lock))
        assert taken[-1] == waiting[0]
    assert taken == ["busy-1", "late-4", "quiet-5", "busy-0", "quiet-2", "busy-3"]


async def test_nothing_is_said_to_be_ahead_of_a_job_that_does_not_wait_for_its_turn(
    app: App, db: Database
) -> None:
    async with db.unit_of_work() as work:
        await defer(work, JOB, lock="runs")
        await defer(work, JOB, lock="pauses")
    await fetched(app)
    await app.job_manager.retry_job(await fetched(app), retry_at=datetime.now(UTC) + timedelta(hours=1))
    async with db.unit_of_work() as work:
        assert await ahead(work, ["runs", "pauses", "never-heard-of"]) == {}


@contextlib.asynccontextmanager
async def working(db: Database, run: Callable[..., Awaitable[None]], **more: Any) -> AsyncIterator[list[str]]:
    """A worker of one kind of job, until the end of the block; yields the reasons for which jobs were given up."""
    reasons: list[str] = []

    async def failed(_attempt: Attempt, reason: str) -> None:
        reasons.append(reason)

    worker = Jobs("data", db, stalled_after=2)
    worker.add(JOB, run, failed, **more)
    task = asyncio.create_task(worker.run())
    try:
        yield reasons
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def outcome(db: Database, key: str = "run-1", seconds: float = 120) -> str:
    async with asyncio.timeout(seconds):
        while True:
            async with db.unit_of_work() as work:
                rows = await work.execute("SELECT outcome FROM attempts WHERE key = :key", {"key": key})
                if found := rows.scalar_one():
                    return str(found)
            await asyncio.sleep(0.05)


async def wanted(db: Database, key: str = "run-1") -> None:
    async with db.unit_of_work() as work:
        await defer(work, JOB, lock=key)


async def test_a_job_outlives_any_number_of_deploys(db: Database) -> None:
    await wanted(db)
    last, begun = asyncio.Event(), asyncio.Event()

    async def run(_attempt: Attempt) -> None:
        begun.set()
        await last.wait()

    for _ in range(endings.MAX_RETRIES + 2):
        async with working(db, run) as reasons, asyncio.timeout(30):
            await begun.wait()
        assert reasons == []
        begun.clear()
    last.set()
    async with working(db, run) as reasons:
        assert await outcome(db) == "done"
    assert reasons == []


async def test_a_job_outlives_an_outage_of_any_length(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of it in pauses of half a minute is 120 tries."""
    monkeypatch.setattr(jobs, "pause", lambda *_: 0.0)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.02)
    await wanted(db)
    tries = 0

    async def run(_attempt: Attempt) -> None:
        nonlocal tries
        tries += 1
        if tries <= 120:
            raise Unavailable("The object store does not answer.")

    async with working(db, run) as reasons:
        assert await outcome(db) == "done"
    assert reasons == []


async def test_a_job_outlives_outages_of_the_database_itself(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than crashes are forgiven, each of them in the middle of its work."""
    monkeypatch.setattr(jobs, "pause", lambda *_: 0.2)
    await wanted(db)
    begun, last = asyncio.Event(), asyncio.Event()

    async def run(attempt: Attempt) -> None:
        begun.set()
        while not last.is_set():
            await attempt.check()
            await asyncio.sleep(0.05)

    server, _, name = db.url.rpartition("/")
    away = f"ALTER DATABASE {name.partition('?')[0]} ALLOW_CONNECTIONS "
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    async with (
        working(db, run) as reasons,
        await psycopg.AsyncConnection.connect(f"{server}/postgres", autocommit=True) as admin,
    ):
        for _ in range(endings.MAX_CRASHES + 1):
            async with asyncio.timeout(60):
                await begun.wait()
            await admin.execute(away + "false")
            await admin.execute(kill, [name.partition("?")[0]])
            begun.clear()
            await asyncio.sleep(1)
            await admin.execute(away + "true")
        last.set()
        assert await outcome(db) == "done"
    assert reasons == []


async def test_a_passing_error_is_tried_again_a_bounded_number_of_times(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "pause", lambda *_: 0.0)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.02)
    await wanted(db)
    tries = 0

    async def run(attempt: Attempt) -> None:
        nonlocal tries
        tries += 1
        if tries == 5:
            await attempt.progressed()
        raise RetryLater("The policy has not arrived.")

    async with working(db, run) as reasons:
        assert await outcome(db) == "failed"
    assert reasons == ["The policy has not arrived."]
    assert tries == 4 + endings.MAX_RETRIES, "counted from the last progress"


async def test_crashes_in_a_row_without_progress_fail_the_job_with_words(db: Database) -> None:
    await wanted(db)
    for _ in range(endings.MAX_CRASHES):
        await Attempt.claim(db, "run-1", None)  # and nobody ever hears of it again

    async def run(_attempt: Attempt) -> None:
        raise AssertionError("it is not even tried")

    async with working(db, run, advice="Ask for less.") as reasons:
        assert await outcome(db) == "failed"
    assert len(reasons) == 1
    assert "died 3 times in a row" in reasons[0]
    assert reasons[0].endswith("Ask for less.")


async def test_an_attempt_that_was_taken_for_dead_and_ends_in_order_is_no_crash(db: Database) -> None:
    """Its worker was only slow, or frozen: nothing of the job's doing."""
    await wanted(db)
    newer: list[Attempt] = []

    async def run(attempt: Attempt) -> None:
        newer.append(await Attempt.claim(db, attempt.key, None))
        await attempt.check()

    async def crashes() -> int:
        async with db.unit_of_work() as work:
            return int((await work.execute("SELECT crashes FROM attempts")).scalar_one())

    async def released() -> bool:
        return bool(newer) and await crashes() == 1

    async with working(db, run):
        await until(released, "the older one to say that it ended in order")
    assert [attempt.crashes for attempt in newer] == [1], "nobody knew yet how the first one ends"


async def test_crashes_with_progress_between_them_do_not_count(db: Database) -> None:
    await wanted(db)
    for _ in range(endings.MAX_CRASHES * 3):
        attempt = await Attempt.claim(db, "run-1", None)
        await attempt.progressed()

    async def run(_attempt: Attempt) -> None:
        return

    async with working(db, run):
        assert await outcome(db) == "done"


async def test_a_cancelled_job_never_starts_and_does_not_come_back(db: Database) -> None:
    await wanted(db)
    async with db.unit_of_work() as work:
        await request_cancel(work, "run-1", "cancelled by ann")

    async def run(_attempt: Attempt) -> None:
        raise AssertionError("it was cancelled")

    async with working(db, run) as reasons:
        assert await outcome(db) == "cancelled"
    assert reasons == ["cancelled by ann"]
    async with working(db, run) as reasons:
        await wanted(db, "run-2")
        async with db.unit_of_work() as work:
            await request_cancel(work, "run-2", "cancelled by bob")
        assert await outcome(db, "run-2") == "cancelled"
    assert reasons == ["cancelled by bob"], "run-1 did not come back"


async def test_a_job_that_exceeds_its_time_ends_with_words_and_a_next_step(db: Database) -> None:
    await wanted(db)

    async def run(_attempt: Attempt) -> None:
        await asyncio.sleep(600)

    async with working(db, run, seconds=0.2, advice="Raise SETTING.") as reasons:
        assert await outcome(db) == "failed"
    assert reasons == ["It took longer than 0.2 s, its limit, and was stopped. Raise SETTING."]
