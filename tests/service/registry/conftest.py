"""The registry on real PostgreSQL and S3: its HTTP edge, and a way to tell it events."""

import asyncio
import functools
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from services.registry.app import create_app
from services.registry.domain import Table
from services.registry.service import Registry
from services.registry.settings import Settings
from shared.artifacts.objects import S3Objects
from shared.contracts.events import (
    Cost,
    Event,
    ModelEvaluated,
    ModelTrained,
    ObjectRef,
    RolloutChanged,
    rollout_id,
)
from shared.contracts.policy import Recipe
from shared.delivery.unit_of_work import Database
from shared.service.clock import SystemClock
from tests.conftest import PostgresServer, S3Store
from tests.kit import Keys, announced, asking, caused, connected, empty, tell

MODEL = "support"
PLANNED = "planned"
"""Stands for the rollout that serving would make of the approval."""
BASE, DATASET = "b" * 64, "d" * 64


def adapter(number: int) -> str:
    return hashlib.sha256(f"adapter {number}".encode()).hexdigest()


@pytest.fixture(scope="session")
def settings(postgres: PostgresServer, s3: S3Store, keys: Keys) -> Settings:
    return Settings(**connected("registry", postgres, s3, keys))


@dataclass
class World:
    """One registry and the means to look at it."""

    db: Database
    registry: Registry
    http: httpx2.AsyncClient
    evaluations: S3Objects
    """The store as the evaluator sees it: only the evaluator may write reports."""

    async def tell(self, *events: Event) -> None:
        """Deliver events, each in a unit of work of its own, as the bus does."""
        use_cases: dict[type[Event], Callable[..., Awaitable[None]]] = {
            ModelTrained: self.registry.trained,
            ModelEvaluated: self.registry.evaluated,
            RolloutChanged: self.registry.rolled,
        }
        for event in events:
            if isinstance(event, RolloutChanged) and event.rollout_id == PLANNED:
                planned = await self.rollout_id(event.model_version)
                event = event.model_copy(update={"rollout_id": planned})  # noqa: PLW2901
            await tell(self.db, use_cases, [event], functools.partial(caused, story="story"))

    async def rollout_id(self, version: int) -> str:
        """The one that the approval of a version led to."""
        query = "SELECT evaluation_id FROM model_version WHERE model = :model AND number = :number"
        async with self.db.unit_of_work() as work:
            found = (await work.execute(query, {"model": MODEL, "number": version})).scalar()
        return rollout_id(MODEL, version, found or "")

    async def declare(self, **policy: Any) -> dict[str, Any]:
        document = {"model": MODEL, "gates": [{"name": "floor", "at_least": 0.5}], **policy}
        return await self.post("/policies", document)

    async def report(self, event: ModelEvaluated, **other: Any) -> ObjectRef:
        """Publish the report that belongs to an evaluation."""
        bound = event.model_dump(mode="json", include={"evaluation_id", "model", "adapter_digest", "verdict"})
        data = json.dumps({**bound, **other}).encode()
        digest = hashlib.sha256(data).hexdigest()
        await self.evaluations.create("evaluations", f"sha256/{digest}/report.json", data)
        return ObjectRef(bucket="evaluations", key=f"sha256/{digest}/report.json", sha256=digest)

    async def evaluated(self, number: int, said: str = "pass", champion: int | None = None) -> ModelEvaluated:
        score = {
            "subject": "candidate",
            "split": "test",
            "metric": "exact_match",
            "value": 0.8,
            "low": 0.7,
            "high": 0.9,
            "n": 60,
        }
        event = ModelEvaluated.model_validate(
            {
                "model": MODEL,
                "evaluation_id": f"eval-{number}-{said}-{champion}",
                "run_id": f"run-{number}",
                "adapter_digest": adapter(number),
                "base_digest": BASE,
                "dataset_digest": DATASET,
                "champion_version": champion,
                "scores": [score],
                "verdicts": [{"gate": "floor", "verdict": said, "reason": f"it is a {said}"}],
                "verdict": said,
                "report": {"bucket": "evaluations", "key": "x", "sha256": BASE},
            }
        )
        return event.model_copy(update={"report": await self.report(event)})

    async def approve(self, number: int, champion: int | None = None) -> None:
        await self.tell(trained(number), await self.evaluated(number, champion=champion))

    async def crown(self, number: int, champion: int | None = None) -> None:
        """A version from training to champion; its number must be `number`."""
        await self.approve(number, champion)
        await self.tell(rollout(number, "started"), rollout(number, "completed"))

    async def get(self, path: str, **params: Any) -> Any:
        answer = await self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, document: dict[str, Any]) -> Any:
        answer = await self.http.post(path, json=document)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def aliases(self) -> dict[str, int | None]:
        found: dict[str, int | None] = (await self.get(f"/models/{MODEL}"))["aliases"]
        return found

    async def announced(self, topic: str) -> list[dict[str, Any]]:
        """Bodies of the events in the outbox, in order."""
        return await announced(self.db, topic)


def trained(number: int) -> ModelTrained:
    return ModelTrained(
        model=MODEL,
        run_id=f"run-{number}",
        adapter_digest=adapter(number),
        base_digest=BASE,
        dataset_digest=DATASET,
        recipe=Recipe(rank=8, alpha=16),
        cost=Cost(device_seconds=60, tokens=1_000, amount=0.01),
        code="1",
        drift_id="drift-1" if number > 1 else None,
    )


def rollout(version: int, state: str, named: str = PLANNED) -> RolloutChanged:
    return RolloutChanged.model_validate(
        {
            "model": MODEL,
            "rollout_id": named,
            "model_version": version,
            "state": state,
            "step": 0,
            "weight": 100 if state == "completed" else 5,
            "reason": f"it {state}",
        }
    )


@pytest.fixture
async def world(settings: Settings, keys: Keys, s3: S3Store) -> AsyncIterator[World]:
    app = create_app(settings)
    db: Database = app.state.db
    evaluations = S3Objects(s3.endpoint, *s3.key("evaluator"))
    await empty(db, Table.metadata)
    async with asking(app, keys.headers("model:read", "model:write")) as http:
        yield World(db, Registry(app.state.store, SystemClock()), http, evaluations)
    await db.close()


async def together(*calls: Awaitable[Any]) -> list[Any]:
    return list(await asyncio.gather(*calls, return_exceptions=True))
