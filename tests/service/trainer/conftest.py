"""The trainer on real PostgreSQL and S3: its use cases, its HTTP edge, and its job in this process."""

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.trainer.app import create_app
from services.trainer.domain import ADAPTERS, CHECKPOINTS, DATASETS, Run, Table
from services.trainer.methods import METHODS
from services.trainer.service import TrainerService
from services.trainer.settings import Settings
from services.trainer.store import Store
from shared.artifacts.base_model import base_digest
from shared.artifacts.objects import ObjectStore, S3Objects, fetch, publish
from shared.contracts.envelope import Envelope, request_envelope
from shared.contracts.events import DatasetReady, Event, ModelDeclared, ModelRejected, TrainingRequested
from shared.contracts.policy import Budget, Policy, Recipe
from shared.delivery.unit_of_work import Database
from shared.jobs.attempts import Attempt
from shared.service.clock import SystemClock
from tests.conftest import PostgresServer, S3Store
from tests.kit import Keys, announced, asking, connected, deferred, empty, tell, until

MODEL = "support"
TINY = Recipe(
    method="rehearsal", rank=4, alpha=8, batch_size=8, epochs=2, evaluate_every=4, checkpoint_every=3
)
"""48 training rows: 6 steps an epoch, 12 in all."""


@pytest.fixture(scope="session")
def settings(postgres: PostgresServer, s3: S3Store, keys: Keys, tiny: Path) -> Settings:
    return Settings(
        **connected("trainer", postgres, s3, keys),
        base_model=tiny,
        progress_seconds=0,
        threads=1,
        dtype="float32",
    )


def rows(number: int, start: int = 0) -> bytes:
    """Conversations whose answer follows from the question, as the data service writes them."""
    lines = []
    for n in range(start, start + number):
        turns = [
            {"role": "user", "content": f"What is the colour of thing number {n}?"},
            {"role": "assistant", "content": ("red", "green", "blue")[n % 3]},
        ]
        lines.append(
            json.dumps({"messages": turns, "source": "upload", "origin": "0" * 64, "label": "human"})
        )
    return "".join(f"{line}\n" for line in lines).encode()


@dataclass
class World:
    """One trainer and the means to look at it."""

    db: Database
    objects: ObjectStore
    datasets: ObjectStore
    """The store as the data service sees it: the trainer may not write datasets."""
    settings: Settings
    service: TrainerService
    http: httpx2.AsyncClient

    async def dataset(self, train: int = 48, validation: int = 12, **meta: Any) -> str:
        """Publish a dataset as the data service does; returns its digest."""
        template = (self.settings.base_model / "chat_template.jinja").read_bytes()
        files = {
            "train.jsonl": rows(train),
            "validation.jsonl": rows(validation, 1_000),
            "test.jsonl": rows(4, 2_000),
            "chat_template.jinja": template,
        }
        described = {
            "kind": "dataset",
            "base_digest": base_digest(self.settings.base_model),
            "chat_template_sha256": hashlib.sha256(template).hexdigest(),
            "counts": {"rows": {"train": train, "validation": validation, "test": 4}},
        }
        return (await publish(self.datasets, DATASETS, files, described | meta)).digest

    async def declare(self, recipe: Recipe = TINY, revision: int = 1, **parts: Any) -> None:
        policy = Policy(model=MODEL, recipe=recipe, **parts)
        await self.tell(ModelDeclared(model=MODEL, revision=revision, policy=policy, actor="tester"))

    async def tell(self, *events: Event) -> None:
        """Deliver events, each in a unit of work of its own, as the bus does."""
        use_cases: dict[type[Event], Callable[..., Awaitable[None]]] = {
            ModelDeclared: self.service.declare,
            DatasetReady: self.service.dataset_ready,
            TrainingRequested: self.service.requested,
            ModelRejected: self.service.rejected,
        }
        await tell(self.db, use_cases, events)

    async def queued(self, recipe: Recipe = TINY, **more: Any) -> str:
        """A run that waits for a worker; returns its id."""
        await self.declare(recipe, **more)
        await self.tell(ready(await self.dataset()))
        return (await self.runs())[-1].id

    async def runs(self) -> list[Run]:
        """Oldest first."""
        async with self.db.unit_of_work() as work:
            return list(await Store(work.session).runs(None, None, 100))[::-1]

    async def run(self, run_id: str) -> Run:
        async with self.db.unit_of_work() as work:
            run = await Store(work.session).run(run_id)
        assert run is not None
        return run

    async def attempt(self, run_id: str) -> Attempt:
        return await Attempt.claim(self.db, run_id, cause())

    async def sent(self, topic: str | None = None) -> list[dict[str, Any]]:
        """Bodies of the events in the outbox, oldest first."""
        return await announced(self.db, topic)

    async def states(self, topic: str = "training.status") -> list[str]:
        return [event["state"] for event in await self.sent(topic)]

    async def jobs(self) -> list[str]:
        """Locks of the jobs that were deferred."""
        return [lock for _, lock in await deferred(self.db)]

    async def checkpoints(self, run_id: str) -> list[str]:
        return sorted(await self.objects.keys(CHECKPOINTS, f"{run_id}/"))

    async def adapter(self, run_id: str, to: Path) -> Path:
        """Fetch the adapter of a run, every file verified."""
        digest = (await self.run(run_id)).adapter_digest
        assert digest is not None
        await fetch(self.objects, ADAPTERS, digest, to / digest)
        return to / digest

    async def weights(self, run_id: str) -> bytes:
        digest = (await self.run(run_id)).adapter_digest
        return await self.objects.get(ADAPTERS, f"sha256/{digest}/adapter_model.safetensors")


def cause() -> Envelope:
    return request_envelope("test")


def ready(digest: str, drift_id: str | None = None) -> DatasetReady:
    why = "drift" if drift_id else "upload"
    counts = {"train": 48, "validation": 12, "test": 4}
    return DatasetReady(model=MODEL, digest=digest, generation=1, rows=counts, why=why, drift_id=drift_id)


@pytest.fixture
async def world(settings: Settings, keys: Keys, s3: S3Store) -> AsyncIterator[World]:
    app = create_app(settings)
    db: Database = app.state.db
    await empty(db, Table.metadata)
    service = TrainerService(
        app.state.store,
        SystemClock(),
        base=("default", base_digest(settings.base_model)),
        methods=tuple(METHODS),
        tokens_per_second=1_000,
    )
    async with asking(app, keys.headers("admin")) as http:
        data = S3Objects(s3.endpoint, *s3.key("data"))
        yield World(db, app.state.store, data, settings, service, http)
    for key in await app.state.store.keys(CHECKPOINTS, "run-"):
        await app.state.store.delete(CHECKPOINTS, key)
    await db.close()


__all__ = ["MODEL", "TINY", "Budget", "World", "cause", "ready", "rows", "until"]
