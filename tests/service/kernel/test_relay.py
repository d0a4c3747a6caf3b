"""What the relay does with topics that Kafka refuses: they wait in order, alone; only what never passes is given up."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer

from infra.kafka import topics
from shared.contracts.events import TrainingStatus
from shared.delivery.bus import make_producer
from shared.delivery.outbox import LEADING, WAKE, Outgoing
from shared.delivery.relay import Relay
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database
from shared.operations import unsent
from tests.kit import until
from tests.service.kernel.test_delivery import delivery_settings


@pytest.fixture
async def db(make_kernel_database: Callable[[], str]) -> AsyncIterator[Database]:
    db = Database("trainer", make_kernel_database())
    yield db
    await db.close()


@pytest.fixture
def settings(kafka: Any) -> DeliverySettings:
    return delivery_settings(kafka)


@asynccontextmanager
async def relaying(db: Database, settings: DeliverySettings) -> AsyncIterator[Relay]:
    relay = Relay("trainer", db.url, lambda: make_producer(settings, "trainer"))
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def emit(db: Database, topic: str, *steps: int) -> None:
    async with db.unit_of_work() as work:
        for step in steps:
            event = TrainingStatus(model="support", run_id="r", state="progress", step=step)
            work.emit(event, topic=topic)


async def rows(db: Database, query: str) -> list[Any]:
    async with db.unit_of_work() as work:
        return [tuple(row) for row in await work.execute(query)]


async def sent_from(db: Database, topic: str) -> int:
    [(number,)] = await rows(db, f"SELECT count(*) FROM sent WHERE topic = '{topic}'")
    return int(number)


async def steps_of(kafka: Any, topic: str) -> list[int]:
    consumer = AIOKafkaConsumer(topic, **kafka.client(), auto_offset_reset="earliest")
    await consumer.start()
    found: list[int] = []
    try:
        while batch := await consumer.getmany(timeout_ms=2_000):
            found += [json.loads(record.value)["step"] for some in batch.values() for record in some]
    finally:
        await consumer.stop()
    return found


def has(db: Database, topic: str, number: int) -> Callable[[], Any]:
    async def enough() -> bool:
        return await sent_from(db, topic) >= number

    return enough


def refused(relay: Relay, topic: str) -> Callable[[], Any]:
    async def blocked() -> bool:
        return topic in relay.waits_for

    return blocked


async def test_a_topic_of_the_platform_waits_for_ever_in_order_while_others_go_on(
    db: Database, settings: DeliverySettings, kafka: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.delivery.relay._LONGEST_BLOCK_SECONDS", 1.0)
    there = await asyncio.to_thread(kafka.fresh_topic)
    missing = f"platform.later.{there}"
    async with relaying(db, settings) as relay:
        await emit(db, missing, 1, 2, 3)
        await emit(db, there, 1)
        await until(has(db, there, 1), "the other topic")
        for step in range(4, 10):  # as long as six tries of what was given up after five
            await emit(db, missing, step)
            await emit(db, there, step)
            await until(has(db, there, step - 2), "the other topic")
            relay._blocked[missing].until = 0
            await asyncio.sleep(0.2)
        waiting = await rows(db, f"SELECT dead_at, error FROM outbox WHERE topic = '{missing}' ORDER BY id")
        assert len(waiting) == 9
        assert waiting[0] == (None, "UnknownTopicOrPartitionError")
        assert {dead_at for dead_at, _ in waiting} == {None}
        async with db.unit_of_work() as work:
            [blocked] = (await unsent.unsent(work, missing, 10))["unsent"]
        assert (blocked["state"], blocked["topic"]) == ("blocked", missing)
        assert relay.waits_for == f"Kafka takes nothing for {missing}"
        await topics.ensure(kafka.settings(), [topics.Topic(missing, 1)])
        await until(has(db, missing, 9), "the topic that is there now", 60)
        assert relay.waits_for == ""
    assert await steps_of(kafka, missing) == list(range(1, 10))


async def test_what_is_refused_for_its_topic_alone_does_not_end_the_lead(
    db: Database, settings: DeliverySettings, kafka: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leading anew costs seconds in which nothing at all goes its way."""
    monkeypatch.setattr("shared.delivery.relay._LONGEST_BLOCK_SECONDS", 0.0)
    producers: list[Any] = []

    def producer() -> Any:
        producers.append(make_producer(settings, "trainer"))
        return producers[-1]

    missing = [f"platform.never.{await asyncio.to_thread(kafka.fresh_topic)}" for _ in range(3)]
    there = await asyncio.to_thread(kafka.fresh_topic)
    relay = Relay("trainer", db.url, producer)
    task = asyncio.create_task(relay.run())
    for step, topic in enumerate(missing):
        await emit(db, topic, step)
        await until(refused(relay, topic), "its refusal")
        for block in relay._blocked.values():
            block.until = 0
        await emit(db, there, step)
        await until(has(db, there, step + 1), "the other topic")
    assert len(producers) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_reply_to_nowhere_is_given_up_and_sent_again_when_told(
    db: Database, settings: DeliverySettings, kafka: Any
) -> None:
    async with relaying(db, settings):
        await emit(db, "replies.late", 1)

        async def dead() -> bool:
            async with db.unit_of_work() as work:
                found = (await unsent.unsent(work, None, 10))["unsent"]
            return [row["state"] for row in found] == ["dead"]

        await until(dead, "five tries", 90)
        await topics.ensure(kafka.settings(), [topics.Topic("replies.late", 1)])
        async with db.unit_of_work() as work:
            assert (await unsent.retry(work, "replies.other", None))["messages"] == 0
            assert (await unsent.retry(work, "replies.late", None)) == {
                "messages": 1,
                "by_topic": [{"topic": "replies.late", "messages": 1}],
            }
        await until(has(db, "replies.late", 1), "the reply", 60)
    assert await rows(db, "SELECT FROM outbox") == []


async def test_a_record_that_is_too_large_is_given_up_at_once_and_blocks_nothing(
    db: Database, settings: DeliverySettings, kafka: Any
) -> None:
    topic = await asyncio.to_thread(kafka.fresh_topic)
    async with db.unit_of_work() as work:
        work.send(Outgoing("large", topic, b"k", [], b"x" * 5_000_000, "c"))
    await emit(db, topic, 1)
    async with relaying(db, settings):
        await until(has(db, topic, 1), "the row behind it")
    [(error, dead_at, attempts)] = await rows(db, "SELECT error, dead_at, attempts FROM outbox")
    assert (error, dead_at is not None, attempts) == ("MessageSizeTooLargeError", True, 1)


async def test_the_next_one_leads_when_the_leader_ends(
    db: Database, settings: DeliverySettings, kafka: Any
) -> None:
    topic = await asyncio.to_thread(kafka.fresh_topic)
    async with relaying(db, settings):
        await emit(db, topic, 1)
        await until(has(db, topic, 1), "the first leader")
        second = asyncio.create_task(
            Relay("trainer", db.url, lambda: make_producer(settings, "trainer")).run()
        )
        await asyncio.sleep(0.5)
    await emit(db, topic, 2)
    await until(has(db, topic, 2), "the second leader")
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert await steps_of(kafka, topic) == [1, 2]


def test_only_an_idle_relay_is_woken(make_kernel_database: Callable[[], str]) -> None:
    url = make_kernel_database()
    with (
        psycopg.connect(url, autocommit=True) as relay,
        psycopg.connect(url, autocommit=True) as emitter,
    ):
        relay.execute("LISTEN outbox")
        emitter.execute(WAKE)
        assert len(list(relay.notifies(timeout=5, stop_after=1))) == 1
        relay.execute("SELECT pg_advisory_lock(%s)", [LEADING + 1])
        emitter.execute(WAKE)
        assert list(relay.notifies(timeout=0.5)) == []
        relay.execute("SELECT pg_advisory_unlock(%s)", [LEADING + 1])
        held = (
            "SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database "
            "WHERE locktype = 'advisory' AND datname = current_database()"
        )
        assert emitter.execute(held).fetchone() == (0,), "an emitter holds it no longer than it takes to try"
