"""A worker that is frozen, cut off or taken for dead: its successor gets the job, and it can take nothing back."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Job, Status

from shared.delivery import unit_of_work as db_module
from shared.delivery.unit_of_work import Database
from shared.jobs import worker as jobs
from shared.jobs.attempts import Attempt
from shared.jobs.worker import defer

JOB = "test_job"


@pytest.fixture
async def db(make_kernel_database: Callable[[], str]) -> AsyncIterator[Database]:
    database = Database("data", make_kernel_database())
    yield database
    await database.close()


@pytest.fixture
async def app(db: Database) -> AsyncIterator[App]:
    app = App(connector=PsycopgConnector(conninfo=db.url))
    app.job_manager = jobs._OwnJobs(app.connector)
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


async def test_of_waiting_jobs_the_most_urgent_is_taken_first(app: App, db: Database) -> None:
    async with db.unit_of_work() as work:
        for name, priority in (("usual", 0), ("urgent", 5), ("idle", -5)):
            await defer(work, JOB, lock=name, priority=priority)
    assert [(await fetched(app)).lock for _ in range(3)] == ["urgent", "usual", "idle"]


async def test_a_frozen_transaction_gives_its_locks_up(
    make_kernel_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db_module, "GIVEN_UP", "-c idle_in_transaction_session_timeout=200ms")
    frozen, successor = (Database("data", url) for url in [make_kernel_database()] * 2)
    attempt = await Attempt.claim(frozen, "run-1", None)
    with pytest.raises(jobs._OUTAGE):
        async with attempt.work() as work:
            async with asyncio.timeout(30):
                assert (await Attempt.claim(successor, "run-1", None)).number == 2
            await work.execute("UPDATE attempts SET cancel_reason = 'I am back'")
    async with successor.unit_of_work() as work:
        rows = await work.execute("SELECT number, cancel_reason FROM attempts")
        assert [tuple(row) for row in rows] == [(2, None)]
    await frozen.close()
    await successor.close()
