"""A whole service in this process: one route, one topic, one handler, one job, on real Kafka and PostgreSQL."""

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from fastapi import APIRouter, FastAPI
from joserfc.jwk import OKPKey

from infra.kafka import topics
from shared.artifacts.signing import FileVerifier, Trust
from shared.contracts.events import FeedbackRecorded, TrainingStatus
from shared.contracts.topology import PRODUCERS
from shared.delivery.bus import EventRouter, Work, make_broker, make_router
from shared.delivery.intake import EVENT_BY_TOPIC
from shared.delivery.unit_of_work import Database
from shared.http.tokens import mint
from shared.http.web import HttpWork
from shared.jobs.attempts import Attempt
from shared.jobs.worker import Jobs, defer
from shared.service.runtime import make_app
from shared.service.settings import ServiceSettings, settings_config
from tests.kit import event_keys

JOB = "think"


class Settings(ServiceSettings):
    model_config = settings_config("data")


class SmallService:
    """POST /judgements announces feedback; its handler announces a status and defers a job, which announces another.

    The handler holds while `held` is set; it fails for feedback that is called poison.
    """

    def __init__(self, kafka: Any, url: str, jwks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = url
        self.topic = kafka.fresh_topic()
        self.client: dict[str, Any] = kafka.client()
        kafka.create(topics.Topic(f"{self.topic}.data.dlq", 1))
        monkeypatch.setattr(FeedbackRecorded, "topic", self.topic)
        monkeypatch.setitem(EVENT_BY_TOPIC, self.topic, FeedbackRecorded)
        monkeypatch.setitem(PRODUCERS, self.topic, ("data",))
        self.signer, self.keys = event_keys(jwks.parent, "data", "data")
        self.settings = Settings(database_url=url, auth_jwks_file=jwks, **kafka.settings().model_dump())
        key = OKPKey.generate_key("Ed25519", {"use": "sig", "alg": "Ed25519"}, auto_kid=True)
        jwks.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
        self.caller = {"authorization": f"Bearer {mint(key, 'ann', ['admin'], 600)}"}
        self.held = threading.Event()

    def app(self, *, worker: bool = True, needs: Sequence[str] = ("database",)) -> FastAPI:
        db = Database("data", self.url, Trust(FileVerifier(self.keys), self.signer))
        jobs = Jobs("data", db)
        jobs.add(JOB, self._think)
        return make_app(
            service="data",
            settings=self.settings,
            db=db,
            broker=make_broker(self.settings, db, "data", [self._handlers()]),
            api=[self._api()],
            jobs=jobs if worker else None,
            needs=needs,
        )

    def _api(self) -> APIRouter:
        router = APIRouter()

        @router.post("/judgements/{name}")
        async def judge(name: str, work: HttpWork) -> dict[str, str]:
            return {"event_id": work.emit(feedback(name))}

        return router

    def _handlers(self) -> EventRouter:
        router = make_router("data")

        @router.on(FeedbackRecorded)
        async def on_feedback_recorded(event: FeedbackRecorded, work: Work) -> None:
            while self.held.is_set():
                await asyncio.sleep(0.02)
            if event.feedback_id == "poison":
                raise ValueError("poison")
            work.emit(TrainingStatus(model="support", state="accepted", run_id=event.feedback_id))
            await defer(work, JOB, lock=event.feedback_id, name=event.feedback_id)

        return router

    async def _think(self, attempt: Attempt, name: str) -> None:
        async with attempt.work() as work:
            work.emit(TrainingStatus(model="support", state="started", run_id=name))

    def sent(self, state: str, name: str) -> dict[str, str]:
        """The headers of the status that was announced and is in Kafka; empty while there is none."""
        query = 'SELECT topic, partition, "offset" FROM sent WHERE shown @> %s'
        wanted = f'{{"state": "{state}", "run_id": "{name}"}}'
        with psycopg.connect(self.url) as connection:
            row = connection.execute(query, [wanted]).fetchone()
        return asyncio.run(self._headers(*row)) if row else {}

    async def _headers(self, topic: str, partition: int, offset: int) -> dict[str, str]:
        consumer = AIOKafkaConsumer(**self.client, enable_auto_commit=False)
        await consumer.start()
        try:
            place = TopicPartition(topic, partition)
            consumer.assign([place])
            consumer.seek(place, offset)
            record = await asyncio.wait_for(consumer.getone(), 30)
        finally:
            await consumer.stop()
        return {key: value.decode() for key, value in record.headers}


def feedback(name: str) -> FeedbackRecorded:
    return FeedbackRecorded(feedback_id=name, answer_id=f"a-{name}", model="support", score=1, actor="ann")
