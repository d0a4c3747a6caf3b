"""Topics on the real broker: created once, as declared, and never by accident."""

import asyncio
import time
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from infra.kafka import topics
from tests.conftest import KafkaBroker


async def configuration(kafka: KafkaBroker, names: list[str]) -> dict[str, dict[str, str]]:
    admin = AIOKafkaAdminClient(**kafka.client())
    await admin.start()
    try:
        answers = await admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        )
    finally:
        await admin.close()
    rows: list[Any] = [row for answer in answers for row in answer.resources]
    return {row[3]: {entry[0]: entry[1] for entry in row[4]} for row in rows}


async def partitions(kafka: KafkaBroker, names: list[str]) -> dict[str, int]:
    admin = AIOKafkaAdminClient(**kafka.client())
    await admin.start()
    try:
        return {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics(names)}
    finally:
        await admin.close()


async def test_every_topic_is_as_declared(kafka: KafkaBroker) -> None:
    wanted = {topic.name: topic for topic in topics.wanted()}
    real = await configuration(kafka, list(wanted))
    assert set(real) == set(wanted)
    for name, topic in wanted.items():
        assert {key: real[name][key] for key in topic.config} == dict(topic.config), name
    assert await partitions(kafka, list(wanted)) == {name: t.partitions for name, t in wanted.items()}


async def test_creating_topics_again_changes_nothing(kafka: KafkaBroker) -> None:
    assert await topics.ensure(kafka.settings(), topics.wanted()) == []


async def test_a_topic_that_became_state_is_compacted_and_keeps_what_else_was_set(kafka: KafkaBroker) -> None:
    """As in an installation that is older than the decision."""
    name = "test.state"
    await topics.ensure(
        kafka.settings(), [topics.Topic(name, 1, {"retention.ms": "60000", "max.message.bytes": "2000000"})]
    )
    state = topics.Topic(name, 1, {"cleanup.policy": "compact", "segment.ms": "86400000"})
    assert await topics.ensure(kafka.settings(), [state]) == [name]
    assert await topics.ensure(kafka.settings(), [state]) == []
    real = (await configuration(kafka, [name]))[name]
    assert (real["cleanup.policy"], real["segment.ms"]) == ("compact", "86400000")
    assert real["max.message.bytes"] == "2000000"


async def test_what_services_must_never_forget_is_compacted(kafka: KafkaBroker) -> None:
    real = await configuration(kafka, ["model.declared", "model.promoted"])
    assert {name: config["cleanup.policy"] for name, config in real.items()} == {
        "model.declared": "compact",
        "model.promoted": "compact",
    }


async def test_a_topic_of_an_older_installation_is_brought_up_to_date(kafka: KafkaBroker) -> None:
    name = "test.older"
    await topics.ensure(kafka.settings(), [topics.Topic(name, 1, {"segment.bytes": "2000000"})])
    now = topics.Topic(name, 4, {"retention.ms": "60000", **topics.TIMESTAMPS})
    assert await topics.ensure(kafka.settings(), [now]) == [name]
    real = (await configuration(kafka, [name]))[name]
    assert (real["message.timestamp.type"], real["retention.ms"]) == ("LogAppendTime", "60000")
    assert real["segment.bytes"] == "2000000"  # what we do not decide stays
    assert await partitions(kafka, [name]) == {name: 4}
    assert await topics.ensure(kafka.settings(), [now]) == []


@pytest.mark.parametrize("said", [-(10**15), 0, 4 * 10**12])
async def test_the_broker_says_when_a_record_came_whatever_its_producer_says(
    kafka: KafkaBroker, said: int
) -> None:
    async with AIOKafkaProducer(**kafka.client("foreign")) as producer:
        sent = await producer.send_and_wait("feedback.recorded", b"{}", partition=0, timestamp_ms=said)
    async with AIOKafkaConsumer(**kafka.client("console")) as consumer:
        partition = TopicPartition("feedback.recorded", 0)
        consumer.assign([partition])
        consumer.seek(partition, sent.offset)
        record = await consumer.getone()
    assert abs(record.timestamp / 1_000 - time.time()) < 300


async def test_two_at_once_create_each_topic_once(kafka: KafkaBroker) -> None:
    new = [topics.Topic(f"test.race.{i}", 1) for i in range(5)]
    first, second = await asyncio.gather(*(topics.ensure(kafka.settings(), new) for _ in range(2)))
    assert sorted([*first, *second]) == [topic.name for topic in new]
    assert await topics.ensure(kafka.settings(), new) == []


async def test_a_topic_the_broker_refuses_is_named(kafka: KafkaBroker) -> None:
    with pytest.raises(topics.TopicsMissing, match=r"test\.refused"):
        await topics.ensure(kafka.settings(), [topics.Topic("test.refused", 1, {"retention.ms": "soon"})])


async def test_a_typo_does_not_make_a_topic_and_an_event_is_at_most_a_megabyte(kafka: KafkaBroker) -> None:
    producer = AIOKafkaProducer(
        **kafka.client(), request_timeout_ms=3_000, max_request_size=8 * topics.EVENT_BYTES
    )
    await producer.start()
    try:
        with pytest.raises(KafkaError):
            await producer.send_and_wait("dataset.raedy", b"x")
        with pytest.raises(MessageSizeTooLargeError):
            await producer.send_and_wait("dataset.ready", b"x" * (2 * topics.EVENT_BYTES))
        await producer.send_and_wait("dataset.ready.trainer.dlq", b"x" * (2 * topics.EVENT_BYTES))
    finally:
        await producer.stop()
    assert "dataset.raedy" in await topics.ensure(kafka.settings(), [topics.Topic("dataset.raedy", 1)])
