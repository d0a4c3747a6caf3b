"""The data service on real PostgreSQL and S3: its HTTP edge, its job process, and a way to tell it events."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.data.app import create_app
from services.data.builder import Builder
from services.data.domain import DATASETS, Table
from services.data.service import BUILD_JOB, DataService
from services.data.settings import Settings
from services.data.waker import Waker
from shared.artifacts.objects import ObjectStore, S3Objects, read_manifest
from shared.contracts.envelope import Envelope, new_id
from shared.contracts.events import (
    DriftDetected,
    Event,
    FeedbackRecorded,
    LineRef,
    ModelDeclared,
    ModelPromoted,
    PredictionServed,
)
from shared.contracts.policy import DataPolicy, Policy, RetrainGovernor
from shared.delivery.unit_of_work import Database
from shared.jobs.worker import Jobs
from shared.service.clock import SystemClock
from tests.conftest import PostgresServer, S3Store
from tests.kit import Keys, announced, asking, caused, connected, deferred, empty, tell, until

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MODEL = "support"


@pytest.fixture(scope="session")
def settings(postgres: PostgresServer, s3: S3Store, keys: Keys, tiny: Path) -> Settings:
    return Settings(
        **connected("data", postgres, s3, keys),
        base_model=tiny,
        max_upload_bytes=2_000_000,
        max_row_bytes=65_536,
        max_rows=5_000,
    )


@dataclass
class World:
    """One data service and the means to look at it."""

    db: Database
    objects: ObjectStore
    service: DataService
    builder: Builder
    http: httpx2.AsyncClient
    prediction_log: ObjectStore
    """The store as serving sees it: only serving may write texts of answers."""
    announced_at: datetime = NOON
    envelopes: dict[str, Envelope] = field(default_factory=dict)

    async def tell(self, *events: Event) -> None:
        """Deliver events, each in a unit of work of its own, as the bus does."""
        use_cases: dict[type[Event], Callable[..., Awaitable[None]]] = {
            ModelDeclared: self.service.declare,
            PredictionServed: lambda work, event: self.service.served(work, [event]),
            FeedbackRecorded: lambda work, event: self.service.judged(work, [event]),
            ModelPromoted: self.service.promote,
            DriftDetected: self.service.drifted,
        }

        def envelope(event: Event) -> Envelope:
            self.announced_at += timedelta(seconds=1)
            self.envelopes[type(event).__name__] = caused(event, at=self.announced_at)
            return self.envelopes[type(event).__name__]

        await tell(self.db, use_cases, events, envelope)
        await Waker(self.db, self.service, seconds=1).look()

    async def declare(self, revision: int = 1, **parts: Any) -> None:
        policy = Policy(
            model=MODEL,
            data=parts.get("data", DataPolicy(min_rows=10, max_chars=500)),
            retrain=parts.get("retrain", RetrainGovernor(min_corrected=3, max_rows_per_subject=1)),
        )
        await self.tell(ModelDeclared(model=MODEL, revision=revision, policy=policy, actor="tester"))

    async def upload(self, content: bytes, name: str = "rows.jsonl") -> str:
        answer = await self.http.post(
            "/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune"}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def build(self, *files: str, **more: Any) -> dict[str, Any]:
        """Ask for a dataset over HTTP and wait for its end."""
        answer = await self.http.post("/datasets", json={"model": MODEL, "files": files, **more})
        assert answer.status_code == 202, answer.text
        return await self.end_of(str(answer.json()["id"]))

    async def end_of(self, build_id: str) -> dict[str, Any]:
        async def ended() -> dict[str, Any] | None:
            build = await self.look(build_id)
            return build if build["state"] in {"ready", "failed"} else None

        return await until(ended)

    async def look(self, any_id: str) -> dict[str, Any]:
        answer = await self.http.get(f"/datasets/{any_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def builds(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.http.get("/datasets", params={"model": MODEL})).json()[
            "datasets"
        ]
        return found

    async def announced(self) -> list[dict[str, Any]]:
        return await announced(self.db)

    async def deferred(self) -> list[tuple[str, str]]:
        return await deferred(self.db)

    async def manifest(self, digest: str) -> Any:
        return await read_manifest(self.objects, DATASETS, digest)

    async def rows(self, digest: str, split: str) -> list[dict[str, Any]]:
        content = await self.objects.get(DATASETS, f"sha256/{digest}/{split}.jsonl")
        return [json.loads(line) for line in content.splitlines()]


@pytest.fixture
async def world(settings: Settings, keys: Keys, s3: S3Store) -> AsyncIterator[World]:
    app = create_app(settings)
    db = app.state.db
    await empty(db, Table.metadata)
    builder = Builder(app.state.store, settings, SystemClock())
    async with asking(app, keys.headers("admin")) as http:
        service = DataService(app.state.store, SystemClock())
        yield World(db, app.state.store, service, builder, http, S3Objects(s3.endpoint, *s3.key("serving")))
    await db.close()


@pytest.fixture
async def running(world: World) -> AsyncIterator[World]:
    """The same, with its jobs being worked on."""
    jobs = Jobs("data", world.db, stalled_after=3)
    jobs.add(BUILD_JOB, world.builder.run, world.builder.failed)
    worker = asyncio.create_task(jobs.run())
    yield world
    worker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await worker


def jsonl(rows: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def questions(number: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"prompt": f"Question number {n}?", "completion": f"answer {n % 7}"}
        for n in range(start, start + number)
    ]


class Traffic:
    """Answers that were served, their texts in the prediction log, and what people said about them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._batch = 0

    async def serve(
        self, prompts: list[str], answer: str = "answer 0", prefix: str = "a"
    ) -> list[PredictionServed]:
        self._batch += 1
        key = f"{MODEL}/batch-{prefix}-{self._batch}-{new_id()}.jsonl"
        lines = []
        events = []
        for line, prompt in enumerate(prompts):
            answer_id = f"{prefix}-{self._batch}-{line}"
            messages = [{"role": "user", "content": prompt}]
            lines.append({"answer_id": answer_id, "messages": messages, "answer": answer})
            events.append(served(answer_id, key, line))
        await self._world.prediction_log.put("predictions", key, jsonl(lines))
        return events


def served(answer_id: str, key: str, line: int, **other: Any) -> PredictionServed:
    fields: dict[str, Any] = {
        "answer_id": answer_id,
        "model": MODEL,
        "model_version": 1,
        "engine_name": "support-v1-00000000",
        "arm": "champion",
        "served_at": NOON,
        "latency_ms": 5,
        "outcome": "ok",
        "text": LineRef(bucket="predictions", key=key, line=line),
    }
    return PredictionServed(**{**fields, **other})


def feedback(answer: PredictionServed, corrected: str | None = None, **other: Any) -> FeedbackRecorded:
    fields: dict[str, Any] = {
        "feedback_id": f"f-{answer.answer_id}",
        "answer_id": answer.answer_id,
        "model": MODEL,
        "score": 0.0 if corrected else 1.0,
        "corrected": corrected,
        "actor": "agent-1",
    }
    return FeedbackRecorded(**{**fields, **other})


def drift(digest: str, drift_id: str = "drift-1", verdict: str = "retrain") -> DriftDetected:
    return DriftDetected.model_validate(
        {
            "drift_id": drift_id,
            "model": MODEL,
            "model_version": 1,
            "dataset_digest": digest,
            "severity": 0.9,
            "verdict": verdict,
            "window_start": NOON,
            "window_end": NOON,
            "window_predictions": 100,
            "evidence": [],
        }
    )


def promoted(digest: str, sequence: int, version: int = 1) -> ModelPromoted:
    return ModelPromoted.model_validate(
        {
            "model": MODEL,
            "model_version": version,
            "engine_name": f"support-v{version}-00000000",
            "adapter_digest": "a" * 64,
            "base_digest": "b" * 64,
            "dataset_digest": digest,
            "recipe": {},
            "evaluation_id": "e-1",
            "evidence": {"bucket": "evaluations", "key": "report", "sha256": "c" * 64},
            "sequence": sequence,
            "actor": "tester",
            "reason": "better",
        }
    )
