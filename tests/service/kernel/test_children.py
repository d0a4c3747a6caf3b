"""Each attempt of heavy work runs in a process of its own: what becomes of memory, time, and of whoever dies first."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.delivery.unit_of_work import Database
from shared.jobs import child, endings
from shared.jobs.attempts import Attempt, request_cancel
from shared.jobs.child import InChild
from shared.jobs.endings import Ending
from shared.jobs.worker import Kind, defer
from tests.kit import Keys, until
from tests.service.kernel.small_worker import JOB, run

pytestmark = pytest.mark.timeout(900)

COMMAND = [sys.executable, "-m", "tests.service.kernel.small_worker"]
PATIENCE = 240.0
"""Seconds; on a busy machine a process takes half a minute to load."""
RETURNED = 16_000_000
"""Bytes that a worker may keep of a job that held 400 MB."""
Start = Callable[..., psutil.Popen]


@pytest.fixture
async def db(make_kernel_database: Callable[[], str]) -> AsyncIterator[Database]:
    database = Database("data", make_kernel_database())
    yield database
    await database.close()


@pytest.fixture
async def start(db: Database, keys: Keys, tmp_path: Path) -> AsyncIterator[Start]:
    """`start(job_seconds=…)` starts a worker process in a group of its own; all are ended with the test."""
    started: list[psutil.Popen] = []
    (tmp_path / "scratch").mkdir()

    def begin(**settings: Any) -> psutil.Popen:
        values = {
            "DATABASE_URL": db.url,
            "AUTH_JWKS_FILE": keys.jwks_file,
            "STALLED_AFTER_SECONDS": 20,
            "SCRATCH": tmp_path / "scratch",
            **{name.upper(): value for name, value in settings.items()},
        }
        environment = os.environ | {f"DRIFTWHEEL_DATA__{name}": str(value) for name, value in values.items()}
        with (tmp_path / "worker.log").open("ab") as log:
            process = psutil.Popen(COMMAND, env=environment, stderr=log, stdout=log, start_new_session=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def wanted(db: Database, key: str = "job-a", model: str = "m", **args: Any) -> None:
    async with db.unit_of_work() as work:
        await defer(work, JOB, lock=key, model=model, **args)


async def attempt_of(db: Database, key: str = "job-a") -> Any:
    async with db.unit_of_work() as work:
        rows = await work.execute(
            "SELECT number, crashes, outcome, error FROM attempts WHERE key = :key", {"key": key}
        )
        return rows.one()


async def ended(db: Database, key: str = "job-a") -> Any:
    async def look() -> Any:
        found = await attempt_of(db, key)
        return found if found.outcome else None

    return await until(look, f"the end of {key}", PATIENCE)


async def child_of(worker: psutil.Process | psutil.Popen) -> psutil.Process:
    async def look() -> psutil.Process | None:
        found = [process for process in worker.children() if "--attempt" in process.cmdline()]
        return found[0] if found else None

    return await until(look, "a child", PATIENCE)


async def gone(process: psutil.Process, seconds: float = 60) -> None:
    async def look() -> bool:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE

    await until(look, f"the end of process {process.pid}", seconds)


async def working(worker: psutil.Popen, folder: Path, number: int = 1) -> psutil.Process:
    """The child of this attempt, once it is at its work and not still loading."""

    async def at_it() -> bool:
        return (folder / "worker.log").read_text().count("job.started") >= number

    await until(at_it, f"attempt {number}", PATIENCE)
    return await child_of(worker)


async def test_memory_goes_back_when_a_job_ends(db: Database, start: Start) -> None:
    worker = start()
    await wanted(db, "small")
    await ended(db, "small")
    before = worker.memory_info().rss
    await wanted(db, how="hungry")
    process = await child_of(worker)

    async def large() -> bool:
        return bool(process.memory_info().rss > 400_000_000)

    await until(large, "a large child", PATIENCE)
    assert (await ended(db)).outcome == "done"
    await gone(process)
    assert worker.memory_info().rss - before < RETURNED
    assert worker.children() == []


async def test_a_child_that_is_killed_is_a_crash_and_so_is_one_that_goes_without_a_word(
    db: Database, start: Start
) -> None:
    await wanted(db, "killed", model="a", how="die", until=2)
    await wanted(db, "exited", model="b", how="exit", until=3)
    start(jobs_at_once=2)
    for key, number in (("killed", 2), ("exited", 3)):
        found = await ended(db, key)
        assert (found.outcome, found.number, found.crashes) == ("done", number, number)


async def test_a_job_that_kills_its_process_each_time_is_given_up_with_words(
    db: Database, start: Start, tmp_path: Path
) -> None:
    await wanted(db, how="die", until=99)
    start()
    found = await ended(db)
    assert (found.outcome, found.number) == ("failed", endings.MAX_CRASHES + 1)
    assert "died 3 times in a row" in found.error
    assert "killed by SIGKILL" in (tmp_path / "worker.log").read_text()
    assert list((tmp_path / "scratch").iterdir()) == [], "its files went with it"


@pytest.mark.parametrize("how", ["deaf", "busy"])
async def test_a_job_over_its_time_is_ended_and_fails_with_its_reason(
    db: Database, start: Start, how: str
) -> None:
    await wanted(db, how=how, until=99)
    process = await child_of(start(job_seconds=6))
    found = await ended(db)
    assert (found.outcome, found.number) == ("failed", 1)
    assert found.error == "It took longer than 6 s, its limit, and was stopped. Raise JOB_SECONDS."
    await gone(process)


async def test_a_child_does_not_outlive_its_worker(db: Database, start: Start, tmp_path: Path) -> None:
    await wanted(db, how="busy", until=2)
    worker = start()
    process = await working(worker, tmp_path)
    worker.kill()
    await gone(process)
    start()
    assert (await ended(db)).outcome == "done"


@pytest.mark.parametrize("whole_group", [False, True], ids=["the worker alone", "all its processes"])
async def test_a_deploy_ends_the_child_and_does_not_count(
    db: Database, start: Start, tmp_path: Path, whole_group: bool
) -> None:
    deploys = 2
    await wanted(db, how="sleep", until=deploys + 1)
    for number in range(1, deploys + 1):
        worker = start()
        process = await working(worker, tmp_path, number)
        (os.killpg if whole_group else os.kill)(worker.pid, signal.SIGTERM)
        assert worker.wait(60) == 0
        assert not process.is_running()
        assert (await attempt_of(db)).crashes == 0
    start()
    assert (await ended(db)).outcome == "done"


async def test_a_cancelled_job_s_process_is_ended(db: Database, start: Start, tmp_path: Path) -> None:
    await wanted(db, how="busy", until=99)
    worker = start()
    process = await working(worker, tmp_path)
    async with db.unit_of_work() as work:
        await request_cancel(work, "job-a", "cancelled by ann")
    found = await ended(db)
    assert (found.outcome, found.error) == ("cancelled", "cancelled by ann")
    await gone(process)


async def test_a_slow_job_of_one_model_does_not_hold_back_another_model_s(db: Database, start: Start) -> None:
    await wanted(db, "slow-1", model="slow", how="busy", until=99)
    await wanted(db, "slow-2", model="slow", how="busy", until=99)
    start(jobs_at_once=2)

    async def begun() -> bool:
        return bool((await attempt_of(db, "slow-1")).number)

    await until(begun, "the slow job", PATIENCE)
    await wanted(db, "quick", model="quick")
    assert (await ended(db, "quick")).outcome == "done"
    assert (await attempt_of(db, "slow-2")).number == 0, "one place is kept for other models"


async def test_a_frozen_child_is_a_crash(
    db: Database, start: Start, monkeypatch: pytest.MonkeyPatch, keys: Keys
) -> None:
    monkeypatch.setattr(child, "SILENT_SECONDS", 60.0)
    monkeypatch.setenv("DRIFTWHEEL_DATA__DATABASE_URL", db.url)
    monkeypatch.setenv("DRIFTWHEEL_DATA__AUTH_JWKS_FILE", str(keys.jwks_file))
    await wanted(db, how="sleep", until=2)
    attempt = await Attempt.claim(db, "job-a", None)
    doing = asyncio.create_task(InChild(COMMAND)(Kind(JOB, run), attempt, {"how": "sleep", "until": 2}))
    process = await child_of(psutil.Process())
    process.suspend()
    assert await doing == Ending("crash", "Its process gave no sign of life for 60 s.", "Crashed")
    assert not process.is_running()


@pytest.mark.parametrize("service", ["data", "trainer", "evaluator"])
def test_a_worker_at_rest_has_not_loaded_what_only_its_jobs_need(service: str) -> None:
    look = f"import sys, services.{service}.worker; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
