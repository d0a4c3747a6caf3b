"""Builds in the worker's processes: a slow one holds nobody else back, and a build can be cancelled wherever it is."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client import REGISTRY

from services.data.metrics import BuildCounts
from services.data.settings import Settings
from shared.contracts.events import ModelDeclared
from shared.contracts.policy import DataPolicy, Policy
from tests.kit import Keys, until
from tests.service.data.conftest import MODEL, World, jsonl, questions

pytestmark = pytest.mark.timeout(900)

OTHER = "other"


@pytest.fixture
async def worker(world: World, settings: Settings, tmp_path: Path) -> AsyncIterator[psutil.Popen]:
    """`python -m services.data.worker`, two builds at once as on a laptop."""
    values = {
        "DATABASE_URL": world.db.url,
        "S3_ENDPOINT": settings.s3_endpoint,
        "S3_ACCESS_KEY": settings.s3_access_key,
        "S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "AUTH_JWKS_FILE": str(settings.auth_jwks_file),
        "BASE_MODEL": str(settings.base_model),
    }
    environment = os.environ | {f"DRIFTWHEEL_DATA__{name}": value for name, value in values.items()}
    with (tmp_path / "worker.log").open("wb") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "services.data.worker"], env=environment, stderr=log, stdout=log
        )
    yield process
    for child in process.children():
        child.kill()
    process.kill()
    process.wait()


async def asked(world: World, model: str, number: int = 60) -> str:
    file = await world.upload(jsonl(questions(number)))
    answer = await world.http.post("/datasets", json={"model": model, "files": [file]})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def declared(world: World, *models: str) -> None:
    for model in models:
        policy = Policy(model=model, data=DataPolicy(min_rows=10))
        await world.tell(ModelDeclared(model=model, revision=1, policy=policy, actor="tester"))


async def end_of(world: World, build_id: str) -> dict[str, Any]:
    async def ended() -> dict[str, Any] | None:
        build = await world.look(build_id)
        return build if build["finished_at"] else None

    return await until(ended, "the end of a build", 240)


async def frozen(worker: psutil.Popen) -> psutil.Process:
    """The process of the first build, stopped before it is done: nothing is slower than that."""

    async def look() -> psutil.Process | None:
        return next(iter(worker.children()), None)

    process = await until(look, "the process of a build", 240)
    process.suspend()
    return process


async def test_a_slow_build_of_one_model_does_not_hold_back_another_s_and_can_be_cancelled(
    world: World, worker: psutil.Popen
) -> None:
    await declared(world, MODEL, OTHER)
    slow = await asked(world, MODEL)
    process = await frozen(worker)
    behind = await asked(world, MODEL, 61)
    quick = await asked(world, OTHER)
    assert (await end_of(world, quick))["state"] == "ready"
    assert (await world.look(slow))["state"] in {"queued", "running"}

    async def next_in_line() -> bool:  # once the quick one has left the queue, shortly after it is ready
        return (await world.look(behind))["ahead"] == {"jobs": 1, "model": MODEL, "key": slow}

    await until(next_in_line, "the slow build to be all that is ahead")

    for _ in range(2):
        answer = await world.http.post(f"/datasets/{slow}/cancel")
        assert answer.status_code == 200
        assert (answer.json()["state"], answer.json()["detail"]) == ("cancelled", "cancelled by tester")

    async def gone() -> bool:
        return not process.is_running()

    await until(gone, "the end of its process", 60)
    assert (await end_of(world, behind))["state"] == "ready"
    assert (await world.look(slow))["state"] == "cancelled"
    ready = [one["model"] for one in await world.announced()]
    assert sorted(ready) == [OTHER, MODEL]


async def test_a_queued_build_that_is_cancelled_never_starts(running: World) -> None:
    """Neither by the worker that finds its job, nor by one that has it in hand already."""
    await running.declare(data=DataPolicy(min_rows=10))
    async with running.db.unit_of_work() as work:
        file = await running.upload(jsonl(questions(60)))
        build = await running.service.request_dataset(work, "tester", MODEL, [file], None)
        await running.service.cancel(work, build.id, "ann")
        build_id = build.id

    async def outcome() -> Any:
        async with running.db.unit_of_work() as work:
            rows = await work.execute("SELECT outcome FROM attempts WHERE key = :key", {"key": build_id})
            return rows.scalar_one()

    assert await until(outcome, "the end of its job") == "cancelled"
    found = await running.look(build_id)
    assert (found["state"], found["detail"], found["digest"]) == ("cancelled", "cancelled by ann", None)
    assert await running.announced() == []


async def test_a_build_that_has_ended_cannot_be_cancelled(running: World, keys: Keys) -> None:
    await running.declare(data=DataPolicy(min_rows=10))
    build = await running.build(await running.upload(jsonl(questions(60))))
    answer = await running.http.post(f"/datasets/{build['id']}/cancel")
    assert answer.status_code == 409
    assert "ready cannot be cancelled" in answer.json()["detail"]
    for scopes, status in (
        (["data:read"], 403),
        (["data:write:another"], 403),
        ([f"data:write:{MODEL}"], 409),
    ):
        path, headers = f"/datasets/{build['id']}/cancel", keys.headers(*scopes)
        assert (await running.http.post(path, headers=headers)).status_code == status
    assert (await running.http.post("/datasets/build-" + "0" * 24 + "/cancel")).status_code == 404


async def test_the_builds_that_have_ended_are_counted_for_prometheus(running: World) -> None:
    await running.declare(data=DataPolicy(min_rows=10))
    rows = [*questions(60), *questions(1)]
    assert (await running.build(await running.upload(jsonl(rows))))["state"] == "ready"
    await BuildCounts(running.db).measure()
    ended = {"why": "upload", "state": "ready"}
    assert REGISTRY.get_sample_value("driftwheel_data_builds", ended) == 1
    assert REGISTRY.get_sample_value("driftwheel_data_rows_dropped", {"reason": "duplicate"}) == 1
