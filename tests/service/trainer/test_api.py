"""The HTTP edge: OpenAI's fine-tuning API by its own SDK, and runs."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from services.trainer.app import create_app
from services.trainer.job import Trainer
from shared.service.clock import SystemClock
from tests.kit import Keys, until
from tests.service.trainer.conftest import MODEL, TINY, World


@pytest.fixture
def client(world: World, token: Callable[..., str]) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        api_key=token("run:read", "run:write"),
        base_url="http://trainer/v1",
        http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(create_app(world.settings))),
        max_retries=0,
    )


async def train(world: World, run_id: str) -> None:
    await Trainer(world.objects, world.settings, SystemClock()).run(await world.attempt(run_id), run_id)


async def test_the_openai_sdk_creates_follows_and_lists_jobs(
    client: openai.AsyncOpenAI, world: World
) -> None:
    await world.declare()
    digest = await world.dataset()
    job = await client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=f"dataset-{digest}",
        hyperparameters={"n_epochs": 1},
        metadata={"team": "support"},
        extra_body={"recipe": {"seed": 3}},
    )
    assert (job.status, job.model, job.seed, job.hyperparameters.n_epochs) == ("queued", MODEL, 3, 1)
    assert (job.training_file, job.metadata) == (f"dataset-{digest}", {"team": "support"})
    await train(world, job.id)
    done = await client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.error) == ("succeeded", None)
    assert done.fine_tuned_model == f"adapter-{(await world.run(job.id)).adapter_digest}"
    assert done.trained_tokens
    assert done.finished_at
    (checkpoint,) = (await client.fine_tuning.jobs.checkpoints.list(job.id)).data
    assert checkpoint.fine_tuned_model_checkpoint == done.fine_tuned_model
    assert checkpoint.metrics.valid_loss is not None
    assert [one.id async for one in client.fine_tuning.jobs.list(limit=1)] == [job.id]


async def test_events_come_newest_first_over_all_pages(client: openai.AsyncOpenAI, world: World) -> None:
    run_id = await world.queued()
    await train(world, run_id)
    events = [event async for event in client.fine_tuning.jobs.list_events(run_id, limit=3)]
    assert [event.message for event in (events[0], events[-2], events[-1])] == [
        "succeeded",
        "started",
        "accepted",
    ]
    assert len({event.id for event in events}) == len(events) == (await world.run(run_id)).sequence
    metrics = [event for event in events if event.type == "metrics"]
    assert metrics
    assert isinstance(metrics[0].data, dict)
    assert metrics[0].data["train_loss"] > 0


async def test_the_same_job_twice_is_one_run_and_it_can_be_cancelled(
    client: openai.AsyncOpenAI, world: World
) -> None:
    await world.declare()
    digest = await world.dataset()
    first = await client.fine_tuning.jobs.create(model=MODEL, training_file=digest)
    again = await client.fine_tuning.jobs.create(model=MODEL, training_file=digest)
    assert first.id == again.id
    cancelled = await client.fine_tuning.jobs.cancel(first.id)
    assert cancelled.status == "cancelled"
    renewed = await client.fine_tuning.jobs.create(model=MODEL, training_file=digest)
    assert renewed.id != first.id
    assert renewed.status == "queued"


async def test_an_idempotency_key_belongs_to_one_body(client: openai.AsyncOpenAI, world: World) -> None:
    await world.declare()
    digest = await world.dataset()
    headers = {"Idempotency-Key": "order 66"}
    job = await client.fine_tuning.jobs.create(model=MODEL, training_file=digest, extra_headers=headers)
    same = await client.fine_tuning.jobs.create(model=MODEL, training_file=digest, extra_headers=headers)
    assert job.id == same.id
    with pytest.raises(openai.ConflictError):
        await client.fine_tuning.jobs.create(model=MODEL, training_file=digest, seed=9, extra_headers=headers)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"training_file": "0" * 64}, 404),
        ({"model": "unknown"}, 404),
        ({"recipe": {"learning_rate": 1e30}}, 422),
        ({"recipe": {"rank": 10**6}}, 422),
        ({"recipe": {"method": "full"}}, 422),
        ({"recipe": {"base": "https://example.org"}}, 422),
        ({"validation_file": "file-1"}, 422),
        ({"training_file": "../secret"}, 422),
        ({"budget": 1e-12, "recipe": {"epochs": 100}}, 422),
    ],
)
async def test_what_cannot_be_trained_is_refused_in_openais_shape(
    world: World, body: dict[str, Any], status: int
) -> None:
    await world.declare()
    request = {"model": MODEL, "training_file": await world.dataset(), **body}
    answer = await world.http.post("/v1/fine_tuning/jobs", json=request)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["message"]
    assert "secret" not in answer.text
    assert "example.org" not in answer.text
    assert await world.runs() == []
    assert await world.sent() == []


@pytest.mark.parametrize(
    "run_id", ["run-0", "run-" + "0" * 24, "..%2f..", "a%00b", "%F0%9F%92%A9", "x" * 3_000]
)
@pytest.mark.parametrize("path", ["/runs/{}", "/runs/{}/stream", "/v1/fine_tuning/jobs/{}/events"])
async def test_an_unknown_run_is_not_found(world: World, path: str, run_id: str) -> None:
    assert (await world.http.get(path.format(run_id))).status_code == 404


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=9999", "limit=x", "after=run-nope", "model=../x", "after=%00"]
)
async def test_bad_queries_are_refused(world: World, query: str) -> None:
    assert (await world.http.get(f"/runs?{query}")).status_code in {404, 422}


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/runs", "run:read"),
        ("GET", "/runs/{}", "run:read"),
        ("GET", "/runs/{}/stream", "run:read"),
        ("POST", "/runs/{}/cancel", "run:write"),
        ("POST", "/v1/fine_tuning/jobs", "run:write"),
        ("GET", "/v1/fine_tuning/jobs/{}", "run:read"),
        ("POST", "/v1/fine_tuning/jobs/{}/cancel", "run:write"),
    ],
)
async def test_every_route_wants_its_scope(
    world: World, token: Callable[..., str], method: str, path: str, scope: str
) -> None:
    run_id = await world.queued()
    other = "run:write" if scope == "run:read" else "run:read"
    url = path.format(run_id)
    for headers, status in (({"authorization": ""}, 401), ({"authorization": f"Bearer {token(other)}"}, 403)):
        answer = await world.http.request(method, url, headers=headers, json={} if method == "POST" else None)
        assert answer.status_code == status
    assert (await world.run(run_id)).state == "queued"


async def test_runs_are_listed_and_shown(world: World) -> None:
    run_id = await world.queued()
    await train(world, run_id)
    (listed,) = (await world.http.get("/runs", params={"model": MODEL})).json()["runs"]
    assert (listed["id"], listed["state"], listed["step"]) == (run_id, "succeeded", 12)
    assert "curve" not in listed
    shown = (await world.http.get(f"/runs/{run_id}")).json()
    assert len(shown["curve"]) == 12
    assert shown["recipe"] == TINY.model_dump(mode="json")
    assert shown["cost"]["device_seconds"] > 0
    assert (shown["attempt"], shown["adapter_digest"]) == (1, listed["adapter_digest"])
    assert (await world.http.get("/runs", params={"after": run_id})).json()["runs"] == []


def parse(stream: str) -> list[dict[str, Any]]:
    blocks = [
        dict(line.split(": ", 1) for line in b.splitlines() if ": " in line) for b in stream.split("\n\n")
    ]
    return [{"id": int(b["id"]), "event": b["event"], **json.loads(b["data"])} for b in blocks if "data" in b]


async def test_a_stream_tells_all_and_goes_on_where_it_broke(world: World) -> None:
    run_id = await world.queued()
    follow = asyncio.create_task(world.http.get(f"/runs/{run_id}/stream"))
    await train(world, run_id)
    events = parse((await asyncio.wait_for(follow, 20)).text)
    assert [event["id"] for event in events] == list(range(1, (await world.run(run_id)).sequence + 1))
    assert (events[0]["event"], events[-1]["event"]) == ("accepted", "succeeded")
    assert events[-1]["step"] == 12
    rest = await world.http.get(f"/runs/{run_id}/stream", headers={"last-event-id": str(events[-2]["id"])})
    assert [event["event"] for event in parse(rest.text)] == ["succeeded"]


async def test_a_run_is_cancelled_while_it_goes_on(world: World) -> None:
    run_id = await world.queued(TINY.model_copy(update={"epochs": 100.0, "checkpoint_every": 500}))
    job = asyncio.create_task(train(world, run_id))

    async def running() -> bool:
        return (await world.run(run_id)).step > 0

    await until(running)
    answer = await world.http.post(f"/runs/{run_id}/cancel")
    assert answer.json()["state"] == "cancelling"
    await asyncio.wait_for(job, 120)
    run = await world.run(run_id)
    assert (run.state, run.reason) == ("cancelled", "cancelled by tester")
    assert run.step < run.total_steps
    answer = await world.http.post(f"/v1/fine_tuning/jobs/{run_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


async def test_a_token_for_another_model_sees_nothing_of_a_run(world: World, keys: Keys) -> None:
    run_id = await world.queued()
    by_id = [
        f"/runs/{run_id}",
        f"/runs/{run_id}/entries",
        f"/runs/{run_id}/stream",
        f"/v1/fine_tuning/jobs/{run_id}",
        f"/v1/fine_tuning/jobs/{run_id}/events",
        f"/v1/fine_tuning/jobs/{run_id}/checkpoints",
    ]
    lists = {
        "/v1/fine_tuning/jobs": "data",
        f"/runs/comparison?run={run_id}": "runs",
        f"/runs/curves?run={run_id}": "curves",
    }
    other = keys.headers("run:read:other", "run:write:other")
    for path in by_id:
        assert (await world.http.get(path, headers=other)).status_code == 403, path
    for path, name in lists.items():
        assert (await world.http.get(path, headers=other)).json()[name] == [], path
    for path in (f"/runs/{run_id}/cancel", f"/v1/fine_tuning/jobs/{run_id}/cancel"):
        assert (await world.http.post(path, headers=other)).status_code == 403, path
    own = keys.headers(f"run:read:{MODEL}")
    for path in [path for path in by_id if not path.endswith("/stream")]:
        assert (await world.http.get(path, headers=own)).status_code == 200, path
    for path, name in lists.items():
        assert [one["id"] for one in (await world.http.get(path, headers=own)).json()[name]] == [run_id], path
