"""The monitor on real PostgreSQL and S3, with a clock that moves by hand."""

import asyncio
import contextlib
import functools
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.monitor.app import create_app
from services.monitor.detectors.process import DetectorProcess
from services.monitor.domain import DATASETS, PREDICTIONS, Table
from services.monitor.measure import Measuring
from services.monitor.service import MonitorService
from services.monitor.settings import Settings
from services.monitor.watch import MEASURE_JOB, Watch
from shared.artifacts.objects import S3Objects, publish
from shared.contracts.envelope import new_id
from shared.contracts.events import (
    Event,
    FeedbackRecorded,
    LineRef,
    ModelDeclared,
    ModelPromoted,
    ModelRejected,
    PredictionServed,
    RolloutChanged,
    TrainingStatus,
)
from shared.delivery.unit_of_work import Database
from shared.jobs.worker import Jobs
from shared.service.clock import ManualClock
from tests.conftest import PostgresServer, S3Store
from tests.kit import Keys, announced, asking, caused, connected, empty, tell
from tests.service.monitor import events
from tests.service.monitor.events import MODEL, NOON

EXAMPLE = Path(__file__).parents[3] / "examples" / "support"


def prompts(name: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in (EXAMPLE / name).read_text().splitlines()]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def asked(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


BANK, TRAVEL = "traffic_before.jsonl", "traffic_after.jsonl"


async def publish_dataset(objects: S3Objects, number: int = 480) -> str:
    """A dataset whose training split is the bank's queries; returns its digest."""
    rows = [{"messages": asked(prompt)} for prompt in prompts("before.jsonl")[:number]]
    return (await publish(objects, DATASETS, {"train.jsonl": jsonl(rows)}, {"model": MODEL})).digest


async def log_texts(objects: S3Objects, answer_ids: list[str], texts: list[str]) -> list[LineRef]:
    """Write the texts of answers as serving does; returns where each is."""
    key = f"{MODEL}/{new_id()}.jsonl"
    rows = [
        {"answer_id": answer_id, "messages": asked(prompt), "answer": "x"}
        for answer_id, prompt in zip(answer_ids, texts, strict=True)
    ]
    await objects.put(PREDICTIONS, key, jsonl(rows))
    return [LineRef(bucket=PREDICTIONS, key=key, line=line) for line in range(len(rows))]


@pytest.fixture(scope="session")
def admin_objects(s3: S3Store) -> S3Objects:
    """The store as data and serving see it: the monitor may not write texts or datasets."""
    return S3Objects(s3.endpoint, *s3.key("admin"))


@pytest.fixture(scope="session")
async def dataset(admin_objects: S3Objects) -> str:
    return await publish_dataset(admin_objects)


@pytest.fixture(scope="session")
def settings(postgres: PostgresServer, s3: S3Store, keys: Keys) -> Settings:
    return Settings(**connected("monitor", postgres, s3, keys))


@pytest.fixture(scope="session")
async def detectors() -> AsyncIterator[DetectorProcess]:
    process = DetectorProcess(timeout_seconds=600, idle_seconds=600)
    yield process
    await process.close()


@dataclass
class World:
    """One monitor, the world it watches, and the means to look at both."""

    db: Database
    settings: Settings
    admin_objects: S3Objects
    clock: ManualClock
    watch: Watch
    measuring: Measuring
    service: MonitorService
    http: httpx2.AsyncClient
    dataset: str
    draw: random.Random = field(default_factory=lambda: random.Random(7))
    numbers: int = 0

    async def tell(self, *told: Event) -> None:
        """Deliver events, each in a unit of work of its own, as the bus does."""
        use_cases: dict[type[Event], Callable[..., Awaitable[None]]] = {
            ModelDeclared: self.service.declare,
            PredictionServed: lambda work, event: self.service.record_predictions(work, [event]),
            FeedbackRecorded: lambda work, event: self.service.record_feedback(work, [event]),
            ModelPromoted: self.service.promote,
            RolloutChanged: self.service.follow_rollout,
            TrainingStatus: self.service.follow_training,
            ModelRejected: self.service.follow_rejection,
        }
        await tell(self.db, use_cases, told, functools.partial(caused, at=NOON))

    async def answers(self, source: str, number: int = events.WINDOW, **other: Any) -> list[PredictionServed]:
        """Answers to queries of one kind, their texts logged; not yet told."""
        texts = self.draw.sample(prompts(source), number)
        self.numbers += number
        ids = [f"a-{self.numbers - number + n}" for n in range(number)]
        places = await log_texts(self.admin_objects, ids, texts)
        return [events.served(i, place, **other) for i, place in zip(ids, places, strict=True)]

    async def live_through(self, source: str, right: float | None, **other: Any) -> list[PredictionServed]:
        """A window's worth of traffic with feedback (share of right answers; None: no feedback), then a look."""
        answers = await self.answers(source, **other)
        await self.tell(*answers)
        if right is not None:
            good = round(right * len(answers))
            await self.tell(*(events.scored(a, float(n < good)) for n, a in enumerate(answers)))
        await self.look()
        return answers

    async def look(self) -> None:
        """One tick; if it cut a window, until that is measured."""
        await self.watch.tick()
        deadline = time.monotonic() + 700
        while any(window["state"] == "measuring" for window in await self.windows()):
            assert time.monotonic() < deadline, "the window was never measured"
            await asyncio.sleep(0.05)

    async def windows(self) -> list[dict[str, Any]]:
        """The newest first."""
        found: list[dict[str, Any]] = (await self.get("/windows", model=MODEL))["windows"]
        return found

    async def get(self, path: str, **params: Any) -> Any:
        answer = await self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def detected(self) -> list[dict[str, Any]]:
        """Bodies of the drift.detected events in the outbox."""
        return await announced(self.db, "drift.detected")

    async def verdicts(self) -> list[str]:
        return [event["verdict"] for event in await self.detected()]

    def later(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))


@pytest.fixture
async def quiet(
    settings: Settings,
    admin_objects: S3Objects,
    detectors: DetectorProcess,
    dataset: str,
    keys: Keys,
) -> AsyncIterator[World]:
    """A monitor that knows a model and its champion; nobody works on its jobs."""
    clock = ManualClock(NOON)
    app = create_app(settings, clock)
    db: Database = app.state.db
    await empty(db, Table.metadata)
    watch = Watch(db, settings, clock)
    measuring = Measuring(app.state.store, detectors, watch, settings, clock)
    async with asking(app, keys.headers("monitor:read")) as http:
        world = World(
            db, settings, admin_objects, clock, watch, measuring, MonitorService(clock), http, dataset
        )
        await world.tell(events.declared(), events.promoted(dataset))
        yield world
    await db.close()


@pytest.fixture
async def world(quiet: World) -> AsyncIterator[World]:
    """The same, with its jobs being worked on."""
    jobs = Jobs("monitor", quiet.db, stalled_after=60)
    jobs.add(MEASURE_JOB, quiet.measuring.run, quiet.measuring.failed)
    worker = asyncio.create_task(jobs.run())
    yield quiet
    worker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await worker
