"""The evaluator on real PostgreSQL and S3, with a random base model, random adapters and small datasets."""

import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.evaluator.app import create_app
from services.evaluator.domain import Table, evaluation_id
from services.evaluator.job import Evaluator
from services.evaluator.service import EvaluatorService
from services.evaluator.settings import Settings
from shared.artifacts.base_model import base_digest
from shared.artifacts.objects import S3Objects, publish
from shared.contracts.events import Cost, Event, ModelDeclared, ModelPromoted, ModelTrained, ObjectRef
from shared.contracts.policy import Gate, Generation, Policy, Recipe
from shared.delivery.unit_of_work import Database
from shared.jobs.attempts import Attempt
from shared.service.clock import SystemClock
from tests.conftest import PostgresServer, S3Store
from tests.kit import Keys, announced, asking, caused, connected, deferred, empty, tell

MODEL = "support"
GATES = (
    Gate(name="floor", at_least=0.0),
    Gate(name="calm", metric="loss", at_least=1_000.0),
    Gate(name="no-forgetting", split="champion_test", versus="champion", metric="token_f1", margin=-1.0),
)
"""Gates that a random model can pass."""


@pytest.fixture(scope="session")
def make_adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_adapter(seed, strength)` saves a random LoRA adapter as the trainer would; same seed, same bytes."""

    def make(seed: int, strength: float = 0.5) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(tiny)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(base, config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=strength)
        folder = tmp_path_factory.mktemp(f"adapter{seed}-")
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        return folder

    return make


def conversation(question: str, answer: str, system: str = "") -> str:
    """One line of a split."""
    first = [{"role": "system", "content": system}] if system else []
    turns = [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns, "source": "upload", "origin": "0" * 64, "label": "human"})


def rows(count: int, start: int = 0) -> list[str]:
    return [
        conversation(f"question number {n}, what is it", f"intent {n % 5}")
        for n in range(start, start + count)
    ]


@pytest.fixture(scope="session")
def settings(postgres: PostgresServer, s3: S3Store, keys: Keys, tiny: Path) -> Settings:
    return Settings(
        **connected("evaluator", postgres, s3, keys),
        base_model=tiny,
        threads=1,
    )


@dataclass
class World:
    """One evaluator and the means to look at it."""

    db: Database
    service: EvaluatorService
    settings: Settings
    objects: S3Objects
    admin: S3Objects
    """The store with all rights: datasets and adapters are written by others."""
    http: httpx2.AsyncClient
    base: str

    async def tell(self, *events: Event) -> None:
        """Deliver events, each in a unit of work of its own, as the bus does."""
        use_cases: dict[type[Event], Callable[..., Awaitable[None]]] = {
            ModelDeclared: self.service.declare,
            ModelTrained: self.service.trained,
            ModelPromoted: self.service.promote,
        }
        await tell(self.db, use_cases, events, functools.partial(caused, story="story"))

    async def declare(self, revision: int = 1, gates: tuple[Gate, ...] = GATES, **generation: Any) -> None:
        limits = Generation(**{"max_tokens": 6, "few_shot": 2, **generation})
        policy = Policy(model=MODEL, gates=gates, generation=limits)
        await self.tell(ModelDeclared(model=MODEL, revision=revision, policy=policy, actor="tester"))

    async def dataset(self, test: list[str], train: list[str] | None = None) -> str:
        splits = {"train": train or rows(30, 1_000), "validation": rows(3, 2_000), "test": test}
        files = {
            f"{name}.jsonl": "".join(f"{line}\n" for line in lines).encode() for name, lines in splits.items()
        }
        return (await publish(self.admin, "datasets", files, {"kind": "dataset"})).digest

    async def adapter(self, folder: Path) -> str:
        files = {path.name: path for path in folder.iterdir()}
        return (await publish(self.admin, "adapters", files, {"kind": "adapter"})).digest

    def trained(self, adapter: str, dataset: str, base: str | None = None) -> ModelTrained:
        return ModelTrained(
            model=MODEL,
            run_id="run-1",
            adapter_digest=adapter,
            base_digest=base or self.base,
            dataset_digest=dataset,
            recipe=Recipe(rank=4, alpha=8),
            cost=Cost(device_seconds=1, tokens=1, amount=0),
            code="1",
            drift_id="drift-1",
        )

    def promoted(
        self, version: int, adapter: str, dataset: str, sequence: int | None = None
    ) -> ModelPromoted:
        return ModelPromoted(
            model=MODEL,
            model_version=version,
            engine_name=f"{MODEL}-v{version}-{adapter[:8]}",
            adapter_digest=adapter,
            base_digest=self.base,
            dataset_digest=dataset,
            recipe=Recipe(rank=4, alpha=8),
            evaluation_id="eval-0",
            evidence=ObjectRef(bucket="evaluations", key="x", sha256=adapter),
            sequence=sequence or version,
            actor="serving",
            reason="completed",
        )

    async def evaluate(self, wanted: str, objects: S3Objects | None = None) -> None:
        """Run the job once, in this process, as a worker would."""
        attempt = await Attempt.claim(self.db, wanted, None)
        await Evaluator(objects or self.objects, self.settings, SystemClock()).run(attempt, wanted)

    async def look(self, wanted: str) -> dict[str, Any]:
        answer = await self.http.get(f"/evaluations/{wanted}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def report(self, ref: dict[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.objects.get(ref["bucket"], ref["key"]))
        return found

    async def announced(self) -> list[dict[str, Any]]:
        """Bodies of the evaluations in the outbox, in order."""
        return await announced(self.db, "model.evaluated")

    async def deferred(self) -> list[str]:
        return [lock for _, lock in await deferred(self.db)]


def wanted(adapter: str, dataset: str, champion: int | None = None) -> str:
    return evaluation_id(MODEL, adapter, dataset, champion)


@pytest.fixture
async def world(settings: Settings, keys: Keys, s3: S3Store) -> AsyncIterator[World]:
    app = create_app(settings)
    db: Database = app.state.db
    await empty(db, Table.metadata)
    objects = S3Objects(s3.endpoint, *s3.key("evaluator"))
    for key in await objects.keys("evaluations", "outputs/"):
        await S3Objects(s3.endpoint, *s3.key("admin")).delete("evaluations", key)
    async with asking(app, keys.headers("eval:read")) as http:
        yield World(
            db,
            EvaluatorService(SystemClock()),
            settings,
            objects,
            S3Objects(s3.endpoint, *s3.key("admin")),
            http,
            base_digest(settings.base_model),
        )
    await db.close()
