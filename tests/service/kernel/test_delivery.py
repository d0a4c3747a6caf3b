"""Delivery on real Kafka and PostgreSQL: nothing is lost, nothing happens twice, nothing blocks a partition."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from faststream.kafka import KafkaRouter

from infra.kafka import topics
from shared.contracts.errors import Conflict, NotFound, RetryLater
from shared.contracts.events import FeedbackRecorded, TrainingStatus
from shared.delivery.bus import (
    EventRouter,
    Work,
    check_topics,
    make_broker,
    make_producer,
    make_router,
)
from shared.delivery.intake import EVENT_BY_TOPIC
from shared.delivery.redrive import Redrive
from shared.delivery.relay import Relay
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database
from shared.operations import dead_letters
from tests.kit import until


def delivery_settings(kafka: Any, **changed: Any) -> DeliverySettings:
    quick: dict[str, Any] = {"retry_attempts": 3, "retry_first_seconds": 0.01, "dead_in_a_row": 100}
    return DeliverySettings(**kafka.settings().model_dump(), **(quick | changed))


@pytest.fixture
def topic(kafka: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A topic of this test alone, with its dead letters: services of other tests read the platform's own."""
    name: str = kafka.fresh_topic()
    dead = topics.Topic(f"{name}.data.dlq", 1, {"max.message.bytes": "4194304"})
    kafka.create(dead)
    monkeypatch.setattr(FeedbackRecorded, "topic", name)
    monkeypatch.setitem(EVENT_BY_TOPIC, name, FeedbackRecorded)
    return name


class Desk:
    """A consumer of feedback that keeps what it saw, its outbox relay, and a producer to torment it with."""

    def __init__(self, db: Database, settings: Any, producer: AIOKafkaProducer, run: str, topic: str) -> None:
        self.topic = topic
        self.db = db
        self.settings = settings
        self.producer = producer
        self.run = run
        self.behaviour: Callable[[FeedbackRecorded], None] = lambda _event: None
        self.calls: list[str] = []

    def router(self) -> EventRouter:
        router = make_router("data")

        @router.on(FeedbackRecorded)
        async def on_feedback_recorded(event: FeedbackRecorded, work: Work) -> None:
            self.calls.append(event.feedback_id)
            await work.execute("INSERT INTO effects VALUES (:id)", {"id": event.feedback_id})
            self.behaviour(event)

        return router

    async def effects(self) -> list[str]:
        async with self.db.unit_of_work() as work:
            return [row[0] for row in await work.execute("SELECT id FROM effects ORDER BY id")]

    async def inbox(self) -> dict[str, str]:
        async with self.db.unit_of_work() as work:
            return {row[0]: row[1] for row in await work.execute("SELECT event_id, state FROM inbox")}

    def event(self, name: str) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
        event = FeedbackRecorded(
            feedback_id=name, answer_id=f"{self.run}-{name}", model="support", score=1, actor="a"
        )
        headers = [
            ("ce_id", f"{self.run}-{name}".encode()),
            ("ce_type", event.ce_type().encode()),
            ("ce_source", b"/t"),
        ]
        return event.answer_id.encode(), event.model_dump_json().encode(), headers

    async def send(self, name: str) -> None:
        key, value, headers = self.event(name)
        await self.producer.send_and_wait(self.topic, value, key=key, headers=headers, partition=0)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Desk"]:
        broker = make_broker(self.settings, self.db, "data", [self.router()])
        self.consumer = broker.consumers[self.topic]
        await broker.start()
        relay = asyncio.create_task(
            Relay("data", self.db.url, lambda: make_producer(self.settings, "data")).run()
        )
        redrive = asyncio.create_task(Redrive(self.db, broker.again).run())
        self.broker = broker
        try:
            yield self
        finally:
            redrive.cancel()
            await broker.stop()
            relay.cancel()
            await asyncio.gather(relay, redrive, return_exceptions=True)


@pytest.fixture
async def desk(kafka: Any, topic: str, make_kernel_database: Callable[[], str]) -> AsyncIterator[Desk]:
    db = Database("data", make_kernel_database())
    async with db.unit_of_work() as work:
        await work.execute("CREATE TABLE effects (id text)")
    producer = AIOKafkaProducer(**kafka.client(), max_request_size=4_000_000)
    await producer.start()
    yield Desk(db, delivery_settings(kafka), producer, f"run{time.time_ns()}", topic)
    await producer.stop()
    await db.close()


async def dead_records(client: dict[str, Any], topic: str) -> list[Any]:
    consumer = AIOKafkaConsumer(f"{topic}.data.dlq", **client, auto_offset_reset="earliest")
    await consumer.start()
    try:
        found = []
        while batch := await consumer.getmany(timeout_ms=1_500):
            found += [record for records in batch.values() for record in records]
        return found
    finally:
        await consumer.stop()


async def test_an_event_sent_before_the_first_join_is_handled(desk: Desk) -> None:
    await desk.send("early")
    async with desk.open():
        await until(lambda: _has(desk, "early"), "the early event")


async def _has(desk: Desk, *names: str) -> bool:
    return set(names) <= set(await desk.effects())


async def test_a_handler_that_fails_once_is_called_again_and_has_one_effect(desk: Desk) -> None:
    def fail_once(_event: FeedbackRecorded) -> None:
        if len(desk.calls) == 1:
            raise RetryLater("not yet")

    desk.behaviour = fail_once
    async with desk.open():
        await desk.send("twice")
        await until(lambda: _has(desk, "twice"), "the effect")
        await desk.send("next")
        await until(lambda: _has(desk, "next"), "the next event")
    assert [c for c in desk.calls if c in {"twice", "next"}] == ["twice", "twice", "next"]
    assert (await desk.effects()).count("twice") == 1


async def test_the_poison_set_is_accounted_for_and_blocks_nothing(desk: Desk, kafka: Any) -> None:
    key, good, headers = desk.event("sound")
    same_id = [("ce_id", f"{desk.run}-sound".encode()), *headers[1:]]

    def named(name: str, *more: tuple[str, Any]) -> list[tuple[str, Any]]:
        kept = [header for header in headers[1:] if header[0] not in {m[0] for m in more}]
        return [("ce_id", f"{desk.run}-{name}".encode()), *kept, *more]

    other_body = json.dumps({**json.loads(good), "score": 0}).encode()
    poison: dict[str, tuple[bytes | None, bytes | None, list[tuple[str, Any]]]] = {
        "bad-json": (key, b"{", named("bad-json")),
        "empty": (key, b"", named("empty")),
        "tombstone": (key, None, named("tombstone")),
        "deep": (key, b"[" * 100_000, named("deep")),
        "nan": (key, good.replace(b'"score":1.0', b'"score":NaN'), named("nan")),
        "infinite": (key, good.replace(b'"score":1.0', b'"score":1e999'), named("infinite")),
        "surrogate": (key, good.replace(b'"actor":"a"', b'"actor":"\\ud800"'), named("surrogate")),
        "nul": (key, good.replace(b'"actor":"a"', b'"actor":"\\u0000"'), named("nul")),
        "not-utf8": (key, b"\xff\xfe\xfd", named("not-utf8")),
        "list": (key, b"[]", named("list")),
        "twice-a-key": (key, good[:-1] + b',"score":0}', named("twice-a-key")),
        "unknown-type": (key, good, named("unknown-type", ("ce_type", b"feedback.imagined.v1"))),
        "newer-version": (key, good, named("newer-version", ("ce_type", b"feedback.recorded.v2"))),
        "same-id-other-body": (key, other_body, same_id),
        "huge": (key, good.replace(b'"actor":"a"', b'"actor":"' + b"x" * 700_000 + b'"'), named("huge")),
        "huge-header": (key, good, [*named("x"), ("ce_subject", b"y" * 5_000)]),
        "not-utf8-id": (key, good, [("ce_id", b"\xff" * 2_000), *headers[1:]]),
    }
    sound: dict[str, list[tuple[str, Any]]] = {
        "null-header": named("null-header", ("x-null", None)),
        "binary-header": named("binary-header", ("x-binary", b"\xff\x00")),
        "reply-to": named("reply-to", ("reply_to", b"model.approved")),
        "future": named("future", ("ce_time", b"2999-01-01T00:00:00Z")),
    }
    async with desk.open():
        await desk.producer.send_and_wait(desk.topic, good, key=key, headers=headers, partition=0)
        for place, (poison_key, value, poison_headers) in enumerate(poison.values()):
            await desk.producer.send_and_wait(
                desk.topic, value, key=poison_key, headers=poison_headers, partition=0
            )
            await desk.send(f"between-{place}")
        for name, sound_headers in sound.items():
            k, v, _ = desk.event(name)
            await desk.producer.send_and_wait(desk.topic, v, key=k, headers=sound_headers, partition=0)
        k, v, _ = desk.event("foreign")
        await desk.producer.send_and_wait(desk.topic, v, key=k, partition=0)
        expected = {"sound", "foreign", *sound, *(f"between-{i}" for i in range(len(poison)))}
        await until(lambda: _has(desk, *expected), "all sound events", 60)

        async def dead() -> list[Any]:
            records = await dead_records(kafka.client(), desk.topic)
            return records if len(records) >= len(poison) else []

        records = await until(dead, "the dead letters", 60)
    assert sorted(await desk.effects()) == sorted(expected), "an effect is missing or doubled"
    assert len(records) == len(poison)
    sent = sorted((value or b"", poison_key or b"") for poison_key, value, _ in poison.values())
    assert sorted((r.value or b"", r.key or b"") for r in records) == sent, (
        "a dead letter lost its body or key"
    )
    for record in records:
        told = dict(record.headers)
        assert told["__dlq.errors.topic"] == desk.topic.encode()
        assert told["__dlq.errors.message"]
        assert len(told["__dlq.errors.message"]) < 1_100


async def test_a_redriven_dead_letter_is_handled_once(desk: Desk) -> None:
    broken = True

    def fail_while_broken(event: FeedbackRecorded) -> None:
        if broken and event.feedback_id == "sick":
            raise ValueError("bug")

    desk.behaviour = fail_while_broken
    event_id = f"{desk.run}-sick"
    async with desk.open():
        await desk.send("sick")

        async def is_dead() -> bool:
            return (await desk.inbox()).get(event_id) == "dead"

        await until(is_dead, "the death")
        broken = False
        async with desk.db.unit_of_work() as work:
            assert await dead_letters.redrive(work, event_id) == desk.topic
        await until(lambda: _has(desk, "sick"), "the redriven event")
        with pytest.raises(Conflict):
            async with desk.db.unit_of_work() as work:
                await dead_letters.redrive(work, event_id)
        with pytest.raises(NotFound):
            async with desk.db.unit_of_work() as work:
                await dead_letters.redrive(work, "never-seen")
        await desk.send("sick")
        await desk.send("after")
        await until(lambda: _has(desk, "after"), "the event after")
    assert (await desk.effects()).count("sick") == 1
    assert (await desk.inbox())[event_id] == "done"


async def test_a_missing_topic_is_named(kafka: Any) -> None:
    with pytest.raises(RuntimeError, match=r"no\.such\.topic"):
        await check_topics(delivery_settings(kafka), ["no.such.topic"])


async def test_a_router_of_another_make_is_refused(desk: Desk) -> None:
    with pytest.raises(TypeError, match="make_router"):
        make_broker(desk.settings, desk.db, "data", [KafkaRouter()])  # type: ignore[list-item]


async def test_an_event_over_the_size_limit_is_refused_when_emitted(desk: Desk) -> None:
    from shared.contracts.errors import Invalid

    huge = TrainingStatus(model="support", state="failed", run_id="r", reason="x" * 2_000)
    async with desk.db.unit_of_work() as work:
        work.emit(huge)
        with pytest.raises(Invalid, match="262144"):
            work.emit(_Bulky(model="support", state="failed", run_id="r", bulk="x" * 300_000))


class _Bulky(TrainingStatus):
    bulk: str


async def test_a_row_that_cannot_be_sent_does_not_block_the_others(desk: Desk) -> None:
    async with desk.open():
        async with desk.db.unit_of_work() as work:
            work.emit(TrainingStatus(model="support", state="started", run_id="r-1"), topic="replies.nowhere")
            work.emit(TrainingStatus(model="support", state="started", run_id="r-2"))

        async def sent() -> list[Any]:
            async with desk.db.unit_of_work() as work:
                return [row[0] for row in await work.execute("SELECT topic FROM sent")]

        assert await until(sent, "the sound row") == [TrainingStatus.topic]


async def test_events_come_in_the_order_they_were_committed(desk: Desk) -> None:
    async with desk.open():
        for number in range(50):
            await desk.send(f"n-{number:02}")
        await until(lambda: _has(desk, *(f"n-{i:02}" for i in range(50))), "fifty events")
    assert [c for c in desk.calls if c.startswith("n-")] == [f"n-{i:02}" for i in range(50)]
