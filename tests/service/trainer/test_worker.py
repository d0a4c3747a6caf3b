"""The worker and the process of its run: killed with -9 in an epoch and in a checkpoint, frozen and woken, stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from services.trainer.job import Trainer
from shared.contracts.policy import Recipe
from shared.service.clock import SystemClock
from tests.kit import until
from tests.service.trainer.conftest import TINY, World

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(900)]

LONG = TINY.model_copy(update={"epochs": 20.0, "checkpoint_every": 10, "evaluate_every": 50})
"""120 steps of almost no time."""
LORA = LONG.model_copy(update={"method": "lora", "dropout": 0.1, "epochs": 10.0})
"""60 real ones; with dropout, so that the random generator counts."""
STALLED_SECONDS = 5
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
async def start(world: World, tmp_path: Path) -> AsyncIterator[Start]:
    """`start(*arguments)` starts a worker process on this world; all are ended with the test."""
    settings = world.settings
    values = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "S3_ENDPOINT": settings.s3_endpoint,
        "S3_ACCESS_KEY": settings.s3_access_key,
        "S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "AUTH_JWKS_FILE": str(settings.auth_jwks_file),
        "BASE_MODEL": str(settings.base_model),
        "PROGRESS_SECONDS": "0",
        "THREADS": "1",
        "DTYPE": "float32",
        "STALLED_AFTER_SECONDS": str(STALLED_SECONDS),
    }
    environment = os.environ | {f"DRIFTWHEEL_TRAINER__{name}": value for name, value in values.items()}
    started: list[subprocess.Popen[bytes]] = []

    def run(module: str = "services.trainer.worker", *arguments: str) -> "subprocess.Popen[bytes]":
        with (tmp_path / f"worker-{len(started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], env=environment, stderr=log, stdout=log
            )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


async def expected(world: World, recipe: Recipe = LONG) -> tuple[str, bytes]:
    """A queued run, and the adapter that it makes if nobody disturbs it."""
    run_id = await world.queued(recipe)
    await Trainer(world.objects, world.settings, SystemClock()).run(await world.attempt(run_id), run_id)
    weights = await world.weights(run_id)
    async with world.db.unit_of_work() as work:
        await work.execute("TRUNCATE run, entry, request, outbox, attempts, procrastinate_jobs CASCADE")
    assert await world.queued(recipe) == run_id
    return run_id, weights


async def reaches(world: World, run_id: str, step: int) -> None:
    async def there() -> bool:
        return (await world.run(run_id)).step >= step

    await until(there, f"step {step}")


async def ended(world: World, run_id: str) -> str:
    async def state() -> str | None:
        run = await world.run(run_id)
        return run.state if run.finished_at else None

    return await until(state, "the end of the run")


async def cleaned(world: World, run_id: str) -> bool:
    return await world.checkpoints(run_id) == []


@pytest.mark.parametrize(
    "recipe", [pytest.param(LONG, id="rehearsal", marks=pytest.mark.soak), pytest.param(LORA, id="lora")]
)
async def test_killed_in_an_epoch_it_goes_on_and_ends_the_same(
    world: World, start: Start, recipe: Recipe
) -> None:
    run_id, weights = await expected(world, recipe)
    first = start()
    await reaches(world, run_id, 22)
    first.kill()
    start()
    assert await ended(world, run_id) == "succeeded"
    assert await world.weights(run_id) == weights
    assert (await world.run(run_id)).attempt == 2
    starts = [event["step"] for event in await world.sent("training.status") if event["state"] == "started"]
    assert starts[0] == 0
    assert starts[1] >= 20, "at most one checkpoint interval is lost"
    assert len(await world.sent("model.trained")) == 1
    await until(lambda: cleaned(world, run_id), "its checkpoints to go, which they do after the end is told")


@pytest.mark.parametrize("file", ["state.json", pytest.param("manifest.json", marks=pytest.mark.soak)])
async def test_killed_in_a_checkpoint_it_goes_on_and_ends_the_same(
    world: World, start: Start, file: str
) -> None:
    run_id, weights = await expected(world)
    start("tests.service.trainer.mortal_worker", file, "2")
    assert await ended(world, run_id) == "succeeded"
    assert await world.weights(run_id) == weights
    assert (await world.run(run_id)).attempt == 2
    starts = [event["step"] for event in await world.sent("training.status") if event["state"] == "started"]
    assert starts == [0, 10]
    assert len(await world.sent("model.trained")) == 1


@pytest.mark.soak
async def test_a_frozen_worker_that_wakes_up_changes_nothing(
    world: World, start: Start, tmp_path: Path
) -> None:
    run_id, weights = await expected(world)
    zombie = start()
    await reaches(world, run_id, 12)
    processes = [*psutil.Process(zombie.pid).children(), zombie]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    successor = start()
    assert await ended(world, run_id) == "succeeded"
    successor.terminate()
    successor.wait(30)
    before = (await world.run(run_id)).model_dump(), await world.sent()
    for process in processes:
        process.send_signal(signal.SIGCONT)

    async def gave_up() -> bool:
        return b"job.superseded" in (tmp_path / "worker-0.log").read_bytes()

    await until(gave_up, "the frozen worker's end")
    assert ((await world.run(run_id)).model_dump(), await world.sent()) == before
    assert await world.weights(run_id) == weights
    assert len(await world.sent("model.trained")) == 1


async def test_a_stopped_worker_gives_its_run_back_at_once(world: World, start: Start) -> None:
    run_id, weights = await expected(world)
    first = start()
    await reaches(world, run_id, 7)
    first.terminate()
    assert first.wait(30) == 0
    start()
    assert await ended(world, run_id) == "succeeded"
    assert await world.weights(run_id) == weights


async def test_a_cancel_reaches_a_working_process(world: World, start: Start) -> None:
    run_id = await world.queued(LONG.model_copy(update={"epochs": 100.0}))
    start()
    await reaches(world, run_id, 3)
    answer = await world.http.post(f"/runs/{run_id}/cancel")
    assert answer.json()["state"] == "cancelling"
    assert await ended(world, run_id) == "cancelled"
    assert await world.sent("model.trained") == []
