"""The worker process killed with -9 in the middle of an evaluation: another one goes on, and announces once."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from services.evaluator.settings import Settings
from tests.service.evaluator.conftest import World, rows, wanted


async def until(look: Callable[[], Awaitable[Any]], what: str, seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := await look():
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what} did not happen in {seconds} s")


@contextmanager
def worker(settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real worker process: `python -m services.evaluator.worker`. One row at a time, so that there is a middle."""
    prefix = "DRIFTWHEEL_EVALUATOR__"
    values = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "S3_ENDPOINT": settings.s3_endpoint,
        "S3_ACCESS_KEY": settings.s3_access_key,
        "S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "AUTH_JWKS_FILE": str(settings.auth_jwks_file),
        "BASE_MODEL": str(settings.base_model),
        "STALLED_AFTER_SECONDS": "3",
        "BATCH_ROWS": "1",
        "THREADS": "1",
    }
    environment = {**os.environ, **{prefix + name: value for name, value in values.items()}}
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.evaluator.worker"], env=environment, stderr=out, stdout=out
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.soak
async def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(
    world: World, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    adapter, dataset = await world.adapter(make_adapter(1)), await world.dataset(rows(16))
    await world.declare(max_tokens=8, few_shot=0)
    await world.tell(world.trained(adapter, dataset))
    name = wanted(adapter, dataset)

    async def first_subject() -> list[str]:
        return await world.objects.keys("evaluations", "outputs/")

    async def state() -> str:
        return str((await world.look(name))["state"])

    async def done() -> bool:
        return await state() == "done"

    log = tmp_path / "worker.log"
    with worker(world.settings, log) as killed:
        await until(first_subject, "the first subject's answers")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert await state() == "running", log.read_text()
    kept = await world.objects.keys("evaluations", "outputs/")
    with worker(world.settings, log) as second:
        await until(done, "the end of the evaluation")
        second.send_signal(signal.SIGTERM)
        second.wait(20)
    assert len(await world.announced()) == 1
    assert (await world.announced())[0]["verdict"] == "pass"
    assert set(kept) < set(await world.objects.keys("evaluations", "outputs/"))
    async with world.db.unit_of_work() as work:
        number = await work.session.execute(
            text("SELECT number FROM attempts WHERE key = :key"), {"key": name}
        )
        assert number.scalar_one() == 2
        body = await work.session.execute(
            text("SELECT correlationid FROM outbox WHERE topic = 'model.evaluated'")
        )
        assert body.scalar_one() == "story"
