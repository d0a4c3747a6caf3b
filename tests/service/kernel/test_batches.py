"""Many messages in one transaction, on real Kafka and PostgreSQL: one effect each, in order, and who is bad dies alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from infra.kafka import topics
from shared.contracts.errors import Poison
from shared.contracts.events import FeedbackRecorded, TrainingStatus
from shared.delivery.bus import Work, make_broker, make_router
from shared.delivery.consumer import TopicConsumer
from shared.delivery.intake import EVENT_BY_TOPIC
from shared.delivery.unit_of_work import Database
from tests.kit import until
from tests.service.kernel.test_delivery import delivery_settings


class Desk:
    """Reads one topic, one by one or in batches; each handled event has an effect and announces a status."""

    def __init__(self, kafka: Any, url: str, topic: str) -> None:
        self.kafka = kafka
        self.topic = topic
        self.db = Database("data", url)
        self.sizes: list[int] = []
        self.once: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def open(self, *, batch: bool) -> AsyncIterator[TopicConsumer]:
        router = make_router("data")

        async def effect(event: FeedbackRecorded, work: Any) -> None:
            await work.execute("INSERT INTO effects (id) VALUES (:id)", {"id": event.feedback_id})
            if event.feedback_id.startswith("bad"):
                raise Poison("It is bad.")

        if batch:

            @router.on_batch(FeedbackRecorded)
            async def on_feedback_recorded(events: list[FeedbackRecorded], work: Work) -> None:
                self.sizes.append(len(events))
                assert len(work.causes) == len(events)
                for event in events:
                    await effect(event, work)
                self.once()
        else:

            @router.on(FeedbackRecorded)
            async def on_one(event: FeedbackRecorded, work: Work) -> None:
                await effect(event, work)
                work.emit(TrainingStatus(model="m", state="accepted", run_id=event.feedback_id))
                self.once()

        broker = make_broker(delivery_settings(self.kafka, dead_in_a_row=1_000), self.db, "data", [router])
        async with self.db.unit_of_work() as work:
            await work.execute("CREATE TABLE IF NOT EXISTS effects (place serial, id text)")
        await broker.start()
        try:
            yield broker.consumers[self.topic]
        finally:
            await broker.stop()

    async def send(self, *names: str) -> None:
        async with AIOKafkaProducer(**self.kafka.client()) as producer:
            for name in names:
                event = FeedbackRecorded(feedback_id=name, answer_id=name, model="m", score=1, actor="a")
                headers = [("ce_id", name), ("ce_type", event.ce_type()), ("ce_source", "/serving")]
                body = b"{" if name.startswith("junk") else event.model_dump_json().encode()
                await producer.send(
                    self.topic,
                    body,
                    key=event.partition_key().encode(),
                    headers=[(key, value.encode()) for key, value in headers],
                    partition=0,
                )
            await producer.flush()

    async def rows(self, query: str) -> list[Any]:
        async with self.db.unit_of_work() as work:
            return [tuple(row) for row in await work.execute(query)]

    async def effects(self, number: int) -> list[str]:
        async def enough() -> list[str]:
            found = [row[0] for row in await self.rows("SELECT id FROM effects ORDER BY place")]
            return found if len(found) >= number else []

        found: list[str] = await until(enough, f"{number} effects", 90)
        return found


@pytest.fixture
async def desk(
    kafka: Any, make_kernel_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Desk]:
    topic: str = await asyncio.to_thread(kafka.fresh_topic)
    await asyncio.to_thread(kafka.create, topics.Topic(f"{topic}.data.dlq", 1))
    monkeypatch.setattr(FeedbackRecorded, "topic", topic)
    monkeypatch.setitem(EVENT_BY_TOPIC, topic, FeedbackRecorded)
    desk = Desk(kafka, make_kernel_database(), topic)
    yield desk
    await desk.db.close()


NAMES = [f"n-{number:03}" for number in range(150)]


@pytest.mark.parametrize("batch", [True, False], ids=["batch", "in turn"])
async def test_each_has_one_effect_in_order_and_who_is_bad_dies_alone(desk: Desk, batch: bool) -> None:
    mixed = [*NAMES[:50], "bad-1", *NAMES[50:100], "junk-1", NAMES[0], *NAMES[100:]]
    await desk.send(*mixed)
    async with desk.open(batch=batch):
        assert await desk.effects(len(NAMES)) == NAMES
        await desk.send("after")
        assert (await desk.effects(len(NAMES) + 1))[-1] == "after"
    states = dict(await desk.rows("SELECT event_id, state FROM inbox"))
    assert [name for name, state in states.items() if state == "dead"] == ["bad-1", *_places(states)]
    assert len(states) == len(NAMES) + 3
    if batch:
        assert max(desk.sizes) > 10


def _places(states: dict[str, str]) -> list[str]:
    """What could not be read is known by its place."""
    return [name for name in states if name.startswith("test.")]


async def test_what_shares_a_transaction_keeps_its_own_cause(desk: Desk) -> None:
    await desk.send(*NAMES)
    async with desk.open(batch=False):
        assert await desk.effects(len(NAMES)) == NAMES
    told = await desk.rows(
        "SELECT causationid, convert_from(body, 'UTF8')::jsonb ->> 'run_id' FROM outbox ORDER BY id"
    )
    assert told == [(name, name) for name in NAMES]
    [[transactions]] = await desk.rows("SELECT count(DISTINCT handled_at) FROM inbox")
    assert transactions < len(NAMES) / 2


@pytest.mark.parametrize("batch", [True, False], ids=["batch", "in turn"])
async def test_an_outage_amid_a_transaction_loses_and_doubles_nothing(desk: Desk, batch: bool) -> None:
    failures = iter([ConnectionRefusedError()] * 3)

    def once() -> None:
        if error := next(failures, None):
            raise error

    desk.once = once
    await desk.send(*NAMES)
    async with desk.open(batch=batch):
        assert await desk.effects(len(NAMES)) == NAMES
