"""The whole service over real Kafka, PostgreSQL, S3 and engine: one model's life, with a dead engine in the middle."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from services.serving.admission import BaseSpec
from services.serving.app import create_app
from services.serving.engines import ENGINES
from services.serving.settings import Settings
from shared.artifacts.objects import ObjectStore, S3Objects
from shared.contracts.events import (
    Event,
    FeedbackRecorded,
    ModelApproved,
    ModelDeclared,
    PredictionServed,
    RolloutChanged,
)
from shared.contracts.policy import Policy, Ramp
from shared.delivery.outbox import outgoing
from shared.delivery.unit_of_work import Database
from tests.kit import Keys, caused
from tests.service.serving.conftest import served
from tests.service.serving.small_engine import (
    RANK,
    SmallEngine,
    adapter_files,
    golden,
    publish_adapter,
    publish_evidence,
    until,
)
from tests.service.serving.story import approved, promoted

MODEL = "concierge"
QUESTION = [{"role": "user", "content": "where is my card?"}]
PLAN = Ramp(steps=(20, 50, 100), min_samples=5, min_feedback=3, hold_seconds=0)
OUT = (RolloutChanged, PredictionServed, FeedbackRecorded)


@dataclass
class Running:
    """The service from outside: its door, its topics, and the engine under it."""

    url: str
    keys: Keys
    producer: AIOKafkaProducer
    engine: SmallEngine
    store: ObjectStore
    folder: Path
    base: BaseSpec
    heard: list[Event] = field(default_factory=list)
    versions: dict[int, ModelApproved] = field(default_factory=dict)

    async def says(self, event: Event) -> None:
        """As the registry; or, where anyone may say it, as a foreign producer: plain JSON without headers."""
        sent = outgoing(event, caused(event), signer=self.keys.registry)
        headers = sent.headers if event.signed else []
        await self.producer.send_and_wait(sent.topic, sent.body, sent.key, headers=headers)

    async def listen(self, consumer: AIOKafkaConsumer) -> None:
        kinds = {kind.topic: kind for kind in OUT}
        async for record in consumer:
            event = kinds[record.topic].model_validate_json(record.value)
            if getattr(event, "model", None) == MODEL:
                self.heard.append(event)

    def changes(self, version: int) -> list[str]:
        return [e.state for e in self.heard if isinstance(e, RolloutChanged) and e.model_version == version]

    async def makes(self, version: int, ruin: str = "", **more: Any) -> ModelApproved:
        files = adapter_files(self.engine.base, version)
        folder = self.folder / str(version)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        async with ENGINES["transformers"](self.engine.url) as client:
            evidence = await publish_evidence(self.store, await golden(client, folder, f"golden-{version}"))
        ruined = adapter_files(self.engine.base, version, ruin)
        digest = await publish_adapter(self.store, ruined, version)
        known = {
            "adapter_digest": digest,
            "base_digest": self.base.digest,
            "evidence": evidence,
            "model": MODEL,
        }
        return approved(version, **(known | {"engine_name": f"{MODEL}-v{version}-{digest[:8]}"} | more))

    async def promotes(self, event: ModelApproved, sequence: int) -> None:
        same = event.model_dump(include={"model", "engine_name", "adapter_digest", "base_digest", "evidence"})
        await self.says(promoted(event.model_version, sequence, **same))

    async def get(self, path: str) -> tuple[int, Any]:
        headers = self.keys.headers("admin")
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.url + path, headers=headers) as response,
        ):
            return response.status, await response.json()

    async def is_ready(self) -> bool:
        return (await self.get("/health/ready"))[0] == 200

    async def asks(self, user: str = "ann", name: str = MODEL) -> tuple[int, Any]:
        body = {"model": name, "messages": QUESTION, "user": user, "max_tokens": 4, "temperature": 0}
        headers = self.keys.headers("chat")
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as response,
        ):
            await response.read()
            return response.status, response.headers

    async def judges(self, answer_id: str, correct: bool) -> int:
        body = {"answer_id": answer_id, "correct": correct}
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{self.url}/v1/feedback", json=body, headers=self.keys.headers("feedback")
            ) as response,
        ):
            return response.status

    async def answered_by(self) -> str:
        status, headers = await self.asks()
        return headers["x-model-version"] if status == 200 else str(status)


@pytest.fixture
async def running(
    db: Database,
    kafka: Any,
    s3: Any,
    small_engine: SmallEngine,
    keys: Keys,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> AsyncIterator[Running]:
    access, secret = s3.key("serving")
    settings = make_settings(
        database_url=db.url,
        **kafka.settings("serving").model_dump(),
        s3_endpoint=s3.endpoint,
        s3_access_key=access,
        s3_secret_key=secret,
        signing_keys_file=keys.signing_keys_file,
        engine="transformers",
        engine_url=small_engine.url,
        base_model=small_engine.base,
        max_rank=RANK,
        base_answers=True,
        poll_seconds=0.5,
        rollout_seconds=0.1,
    )
    await small_engine.ready()
    producer = AIOKafkaProducer(**kafka.client())
    consumer = AIOKafkaConsumer(*(kind.topic for kind in OUT), **kafka.client(), auto_offset_reset="earliest")
    await producer.start()
    await consumer.start()
    store = S3Objects(s3.endpoint, *s3.key("admin"))
    story = Running("", keys, producer, small_engine, store, tmp_path, BaseSpec.read(small_engine.base))
    # Before the service runs: it unloads what it does not know.
    story.versions = {
        1: await story.makes(1),
        2: await story.makes(2, "not finite"),
        3: await story.makes(3, ramp=PLAN),
    }
    async with served(create_app(settings), "on") as story.url:
        listening = asyncio.create_task(story.listen(consumer))
        yield story
        listening.cancel()
    await producer.stop()
    await consumer.stop()


@pytest.mark.slow
async def test_the_life_of_a_model(running: Running) -> None:
    await running.says(ModelDeclared(model=MODEL, revision=1, policy=Policy(model=MODEL), actor="ann"))

    async def base_answers() -> bool:
        return await running.answered_by() == "base"

    await until(base_answers)
    await until(running.is_ready)

    # The first version: approved, loaded, probed, completed; then promoted.
    first = running.versions[1]
    await running.says(first)
    await until(lambda: running.changes(1) == ["started", "completed"])
    assert await running.answered_by() == f"{MODEL}:1"
    await running.promotes(first, 1)

    async def is_champion() -> bool:
        return f"{MODEL}@champion" in {card["id"] for card in (await running.get("/v1/models"))[1]["data"]}

    await until(is_champion)

    # Asked by OpenAI's client, judged before the answer is written, and found again in Kafka and the store.
    async with openai.AsyncOpenAI(
        base_url=f"{running.url}/v1", api_key=running.keys.token("chat"), max_retries=0
    ) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=QUESTION, max_tokens=4
        )
        answer_id = raw.headers["x-answer-id"]
        assert await running.judges(answer_id, True) == 200
        text = raw.parse().choices[0].message.content
        stream = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, max_tokens=4, stream=True, temperature=0
        )
        streamed = "".join([piece.choices[0].delta.content or "" async for piece in stream])
    served_events = {e.answer_id: e for e in running.heard if isinstance(e, PredictionServed)}
    await until(
        lambda: _find(running, PredictionServed, answer_id) and _find(running, FeedbackRecorded, answer_id)
    )
    event = _find(running, PredictionServed, answer_id)
    line = (await running.store.get(event.text.bucket, event.text.key)).decode().split("\n")[event.text.line]
    assert json.loads(line) == {"answer_id": answer_id, "model": MODEL, "messages": QUESTION, "answer": text}
    assert len(served_events) < len(running.heard)
    assert streamed

    # The engine dies: errors in OpenAI's shape, unready; back: the champion is loaded and probed before the first answer.
    running.engine.kill()
    status, headers = await running.asks()
    assert (status, "retry-after" in headers) == (503, True)

    async def unready() -> bool:
        return not await running.is_ready()

    await until(unready)
    running.engine.start()
    await running.engine.ready()
    await until(running.is_ready)
    assert await running.answered_by() == f"{MODEL}:1"

    # A ruined version ends before its first answer.
    await running.says(running.versions[2])
    await until(lambda: running.changes(2) == ["rolled_back"])

    # A good one is ramped up while traffic runs and users judge.
    third = running.versions[3]
    await running.says(third)
    for number in range(2_000):
        status, headers = await running.asks(f"user-{number}")
        assert status == 200
        assert await running.judges(headers["x-answer-id"], True) == 200
        if running.changes(3)[-1:] == ["completed"]:
            break
    assert running.changes(3) == ["started", "advanced", "advanced", "completed"]
    await running.promotes(third, 2)

    async def third_is_champion() -> bool:
        _, body = await running.get("/v1/models")
        return any(card["id"] == f"{MODEL}@champion" and card["version"] == 3 for card in body["data"])

    await until(third_is_champion)
    assert (await running.asks(name=f"{MODEL}:1"))[0] == 200  # kept for a rollback without a wait
    assert (await running.get(f"/rollouts?model={MODEL}"))[1]["rollouts"][0]["state"] == "completed"


def _find(running: Running, kind: type[Any], answer_id: str) -> Any:
    return next((e for e in running.heard if isinstance(e, kind) and e.answer_id == answer_id), None)
