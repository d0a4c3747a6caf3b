"""Who may do what in Kafka: the generated list, tried out for every principal, topic and operation, over TLS."""

import asyncio
import tempfile
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    TopicAuthorizationFailedError,
)

from infra.kafka import access, requests, topics
from shared.contracts.events import EVENTS
from shared.contracts.topology import CONSUMERS, PRODUCERS
from tests.conftest import KafkaBroker
from tests.service.infra.brokers import ROLES, TlsBroker, tls_broker

TOPICS = [topic.name for topic in topics.wanted()]
GRANTS = access.grants()


@pytest.fixture(scope="module")
def broker() -> Iterator[TlsBroker]:
    with tempfile.TemporaryDirectory(prefix="driftwheel-") as home, tls_broker(Path(home)) as broker:
        asyncio.run(_seed(broker))
        yield broker


async def _seed(broker: TlsBroker) -> None:
    async with AIOKafkaProducer(**broker.client()) as producer:
        for topic in TOPICS:
            await producer.send_and_wait(topic, b"seed", key=b"seed", partition=0)


def listed(role: str, operation: str, kind: str, name: str) -> bool:
    return any(grant.role == role and grant.allows(operation, kind, name) for grant in GRANTS)


async def allowed(attempt: Awaitable[Any]) -> bool:
    """Whether Kafka lets it through."""
    try:
        await asyncio.wait_for(attempt, 30)
    except (TopicAuthorizationFailedError, GroupAuthorizationFailedError):
        return False
    return True


@pytest.mark.parametrize("role", ROLES)
async def test_a_principal_writes_what_is_listed_and_nothing_else(broker: TlsBroker, role: str) -> None:
    async with AIOKafkaProducer(**broker.client(role), enable_idempotence=False) as producer:
        tried = {
            topic: await allowed(producer.send_and_wait(topic, b"x", key=b"x", partition=0))
            for topic in TOPICS
        }
    assert tried == {topic: listed(role, "Write", "topic", topic) for topic in TOPICS}


@pytest.mark.parametrize("role", ROLES)
async def test_a_principal_reads_what_is_listed_and_nothing_else(broker: TlsBroker, role: str) -> None:
    async with AIOKafkaConsumer(**broker.client(role), auto_offset_reset="earliest") as consumer:
        described = set(await consumer.topics())
        assert described == {topic for topic in TOPICS if listed(role, "Describe", "topic", topic)}
        tried = {topic: topic in described and await allowed(_fetched(consumer, topic)) for topic in TOPICS}
    assert tried == {topic: listed(role, "Read", "topic", topic) for topic in TOPICS}


async def _fetched(consumer: AIOKafkaConsumer, topic: str) -> None:
    consumer.assign([TopicPartition(topic, 0)])
    while not await consumer.getmany(timeout_ms=1_000):
        pass


@pytest.mark.parametrize("role", ROLES)
async def test_a_principal_joins_groups_of_its_own_name_only(broker: TlsBroker, role: str) -> None:
    readable = next((t for t in TOPICS if listed(role, "Read", "topic", t)), None)
    if readable is None:
        readable = EVENTS[0].topic

    async def joined(group: str) -> bool:
        async with AIOKafkaConsumer(**broker.client(role), group_id=group) as consumer:
            return await allowed(_committed(consumer, readable))

    groups = [f"{name}.matrix" for name in (*ROLES, "stranger")]
    tried = dict(zip(groups, await asyncio.gather(*map(joined, groups)), strict=True))
    assert tried == {group: listed(role, "Read", "group", group) for group in groups}


async def _committed(consumer: AIOKafkaConsumer, topic: str) -> None:
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    try:
        await consumer.commit({partition: 1})
    except TopicAuthorizationFailedError:  # the group was fine
        return


@pytest.mark.parametrize("role", ROLES)
async def test_no_principal_but_the_administrator_changes_anything(broker: TlsBroker, role: str) -> None:
    admin = AIOKafkaAdminClient(**broker.client(role))
    await admin.start()
    try:
        made = await admin.create_topics([NewTopic(f"made.by.{role}", 1, 1)])
        gone = await admin.delete_topics(["model.declared"])
        codes = [made.topic_errors[0][1], gone.topic_error_codes[0][1]]
        with pytest.raises(TopicAuthorizationFailedError):
            await admin.create_partitions({"model.declared": NewPartitions(9)})
    finally:
        await admin.close()
    assert all(code in (29, 31) for code in codes), codes  # not authorized: topic, cluster
    with pytest.raises(requests.Refused, match="access list"):
        await access.apply(broker.settings(role), GRANTS)


async def test_the_list_is_made_exact_and_entries_of_others_stay(broker: TlsBroker) -> None:
    theirs = access.Grant("somebody", "Read", "topic", "model.declared")
    too_much = access.Grant("data", "Write", "topic", "model.approved")
    try:
        assert await access.apply(broker.settings(), [theirs]) == (1, 0)
        assert await access.apply(broker.settings(), [*GRANTS, too_much]) == (1, 0)
        assert await access.apply(broker.settings(), GRANTS) == (0, 1)
        assert await access.apply(broker.settings(), GRANTS) == (0, 0)
        assert await access.apply(broker.settings(), [theirs]) == (0, 0)
    finally:
        await broker.apply()


def test_a_topic_is_written_by_its_owner_and_open_topics_by_strangers_too() -> None:
    for event in EVENTS:
        writers = {
            g.role for g in GRANTS if g.allows("Write", "topic", event.topic) and g.operation == "Write"
        }
        foreign = {access.FOREIGN} if event.foreign else set()
        assert writers == set(PRODUCERS[event.topic]) | foreign, event.topic
    for topic, services in CONSUMERS.items():
        for service in services:
            dead = topics.dead_letters_of(topic, service)
            assert {g.role for g in GRANTS if g.operation == "Write" and g.name == dead} == {service}


async def test_a_client_without_a_name_can_do_nothing(kafka: KafkaBroker) -> None:
    for client in (AIOKafkaAdminClient, AIOKafkaProducer, AIOKafkaConsumer):
        nobody = client(bootstrap_servers=kafka.bootstrap, request_timeout_ms=3_000)
        with pytest.raises(KafkaConnectionError):
            await nobody.start()
        await (nobody.close() if client is AIOKafkaAdminClient else nobody.stop())


async def test_a_foreign_producer_can_do_nothing_but_produce_to_the_open_topics(kafka: KafkaBroker) -> None:
    admin = AIOKafkaAdminClient(**kafka.client("foreign"))
    await admin.start()
    try:
        assert set(await admin.list_topics()) == {"training.requested", "feedback.recorded"}
        assert await admin.list_consumer_groups() == []
        assert (await admin.create_topics([NewTopic("made.by.foreign", 1, 1)])).topic_errors[0][1] != 0
    finally:
        await admin.close()
    async with AIOKafkaProducer(**kafka.client("foreign")) as producer:
        for topic in (
            "model.approved",
            "model.promoted",
            "model.declared",
            "rollout.changed",
            "drift.detected",
        ):
            with pytest.raises(TopicAuthorizationFailedError):
                await producer.send_and_wait(topic, b"{}", key=b"support")
    async with AIOKafkaConsumer(**kafka.client("foreign")) as consumer:
        consumer.assign([TopicPartition("feedback.recorded", 0)])
        with pytest.raises(TopicAuthorizationFailedError):
            await consumer.seek_to_beginning()
            await consumer.getone()
