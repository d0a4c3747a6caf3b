"""Topics on a cluster of three real brokers: three copies, of which two must have a record before it counts."""

import asyncio
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from infra.kafka import topics
from infra.kafka.admin import administrator
from shared.delivery.settings import KafkaSettings
from tests.service.infra.brokers import cluster


@pytest.fixture(scope="module")
def three() -> Iterator[KafkaSettings]:
    with tempfile.TemporaryDirectory(prefix="driftwheel-") as home, cluster(Path(home)) as admin:
        yield admin


async def described(settings: KafkaSettings, name: str) -> tuple[int, str]:
    """Copies of its first partition, and how many of them must have a record."""
    async with administrator(settings) as admin:
        [topic] = await admin.describe_topics([name])
        [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    [(*_, entries)] = answer.resources
    needed = next(entry[1] for entry in entries if entry[0] == "min.insync.replicas")
    return len(topic["partitions"][0]["replicas"]), needed


@pytest.mark.slow
def test_a_cluster_of_three_gets_three_copies_and_fewer_only_when_told(
    three: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(topics.ensure(three, [topics.Topic("test.copied", 1)]))
    assert asyncio.run(described(three, "test.copied")) == (3, "2")
    told = [topics.Topic("test.told", 1)]
    asyncio.run(topics.ensure(three, told, 1))
    assert asyncio.run(described(three, "test.told")) == (1, "1")
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(topics.ensure(three, told)) == []
    assert "test.told" in caplog.text
    assert asyncio.run(described(three, "test.told")) == (1, "1"), "a lone copy must stay writable"
    with pytest.raises(topics.TopicsMissing, match="lists 3"):
        asyncio.run(topics.ensure(three, told, 4))
