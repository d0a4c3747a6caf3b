"""Every topic of the platform: one per event type, and one for the dead letters of each of its consumers.

`python -m infra.kafka.topics --bootstrap HOST:PORT` creates what is missing and mends what differs; nothing else ever
creates a topic.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from infra.kafka.admin import ClusterRefused, administrator
from infra.kafka.settings import AdminSettings
from shared.contracts.events import EVENTS, STATE, FeedbackRecorded, PredictionServed
from shared.contracts.topology import CONSUMERS
from shared.delivery.settings import KafkaSettings

DAY_MS = 24 * 60 * 60 * 1000
PARTITIONS = 3
BUSY = (PredictionServed.topic, FeedbackRecorded.topic)
"""Topics of single answers: their number of partitions is configured, and may grow."""
RETENTION_DAYS = {"event": 30, "dead letter": 60}
"""The inbox must remember longer than both: a redriven event is still recognised."""
VISIBLE_SECONDS = 30.0
"""The controller answers before the brokers have heard of a new topic; this long we wait until they have."""
EVENT_BYTES = 1_048_576
TIMESTAMPS = {"message.timestamp.type": "LogAppendTime"}
"""The broker says when a record came: what producers say may be anything, and retention and lag are counted from it."""
DEAD_LETTER_BYTES = 4 * 1_048_576
"""A dead letter is the refused message plus headers that say why, so it may be larger than any event."""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Topic:
    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


class TopicsMissing(Exception):
    """A topic could not be created or changed; the message names it and the reason."""


def dead_letters_of(topic: str, service: str) -> str:
    """The topic in which a service keeps what it could not handle of another one."""
    return f"{topic}.{service}.dlq"


def wanted(busy_partitions: int = PARTITIONS) -> list[Topic]:
    """Topics of all events and dead letters, in the order of the contract."""
    topics = [_event_topic(e.topic, busy_partitions if e.topic in BUSY else PARTITIONS) for e in EVENTS]
    dead = [_dead_letters(topic, service) for topic, services in CONSUMERS.items() for service in services]
    return topics + dead


def _event_topic(name: str, partitions: int) -> Topic:
    config = {"max.message.bytes": str(EVENT_BYTES), **TIMESTAMPS}
    if name in {event.topic for event in STATE}:
        config |= {"cleanup.policy": "compact", "segment.ms": str(DAY_MS)}
    else:
        config |= {"retention.ms": str(RETENTION_DAYS["event"] * DAY_MS)}
    return Topic(name, partitions, config)


def _dead_letters(topic: str, service: str) -> Topic:
    retention = str(RETENTION_DAYS["dead letter"] * DAY_MS)
    return Topic(
        dead_letters_of(topic, service),
        1,
        {"retention.ms": retention, "max.message.bytes": str(DEAD_LETTER_BYTES), **TIMESTAMPS},
    )


async def brokers(settings: KafkaSettings) -> int:
    """How many brokers the cluster lists. Raises ClusterRefused."""
    async with administrator(settings, request_timeout_ms=3_000) as admin:
        return len((await admin.describe_cluster())["brokers"])


async def ensure(
    settings: KafkaSettings, topics: Iterable[Topic], replication: int | None = None
) -> list[str]:
    """Create the missing topics and bring existing ones up to date: configuration, and partitions where there are fewer.

    Returns the names of those that changed, once every broker we ask knows them all. What was set on a topic beyond
    what we decide stays.

    Args:
        replication: copies of each partition; None asks the cluster (`copies`).

    Raises:
        ClusterRefused: Kafka does not let us in.
        TopicsMissing: the broker refuses a topic or a change.
    """
    wanted = {topic.name: topic for topic in topics}
    async with administrator(settings) as admin:
        number = copies(len((await admin.describe_cluster())["brokers"]), replication)
        existing = wanted.keys() & set(await admin.list_topics())
        described = await admin.describe_topics(sorted(existing)) if existing else []
        changed = await _configure(admin, wanted, described, number)
        changed |= await _grow(admin, wanted, described)
        return sorted(changed | await _create(admin, [wanted[n] for n in wanted.keys() - existing], number))


def copies(brokers: int, told: int | None) -> int:
    """How many copies of each partition. Raises TopicsMissing when the cluster is too small for three and nobody said fewer.

    A lone broker has one: there is nowhere else. Of three copies two must have a record before it counts as written.
    """
    if told is not None:
        if told > brokers:
            raise TopicsMissing(f"{told} copies need as many brokers; the cluster lists {brokers}")
        return told
    if brokers == 2:
        raise TopicsMissing(
            "the cluster lists 2 brokers, and three copies need three: add one, "
            "or say how many copies will do (--replication 2, DRIFTWHEEL_KAFKA_REPLICATION=2)"
        )
    return min(brokers, 3)


def _configuration(topic: Topic, replicas: int) -> dict[str, str]:
    return {**topic.config, **({"min.insync.replicas": "2"} if replicas >= 3 else {})}


async def _create(admin: AIOKafkaAdminClient, missing: Collection[Topic], number: int) -> set[str]:
    if not missing:
        return set()
    answer = await admin.create_topics(
        [NewTopic(t.name, t.partitions, number, topic_configs=_configuration(t, number)) for t in missing]
    )
    created = set()
    for name, code, *reason in answer.topic_errors:
        if code == 0:
            created.add(name)
        elif for_code(code) is not TopicAlreadyExistsError:  # somebody else was faster
            raise TopicsMissing(f"topic {name}: {for_code(code).__name__} {' '.join(map(str, reason))}")
    names = {topic.name for topic in missing}
    async with asyncio.timeout(VISIBLE_SECONDS):
        while not names <= set(await admin.list_topics()):  # noqa: ASYNC110  the event is the brokers'
            await asyncio.sleep(0.05)
    return created


_SET_ON_TOPIC = 1


async def _configure(
    admin: AIOKafkaAdminClient,
    wanted: Mapping[str, Topic],
    described: Sequence[Mapping[str, Any]],
    number: int,
) -> set[str]:
    """Names of the topics whose configuration differed."""
    replicas = {
        topic["topic"]: min((len(p["replicas"]) for p in topic["partitions"]), default=number)
        for topic in described
    }
    if thin := sorted(name for name, held in replicas.items() if held < number):
        log.warning(
            "fewer than %d copies: %s; add some with kafka-reassign-partitions", number, ", ".join(thin)
        )
    changed = set()
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in replicas]
    for answer in await admin.describe_configs(asked) if asked else []:
        for code, reason, _, name, entries in answer.resources:
            if code:
                raise TopicsMissing(f"topic {name}: {for_code(code).__name__} {reason}")
            present = {entry[0]: entry[1] for entry in entries if entry[3] == _SET_ON_TOPIC}
            target = present | _configuration(wanted[name], replicas[name])
            if target.get("cleanup.policy") == "compact":
                target.pop("retention.ms", None)  # what is state is kept for ever
            if target != present:
                await _alter(admin, name, target)
                changed.add(name)
    return changed


async def _grow(
    admin: AIOKafkaAdminClient, wanted: Mapping[str, Topic], described: Sequence[Mapping[str, Any]]
) -> set[str]:
    """Names of the topics that got more partitions. Keys move, so only topics of single answers are ever asked to."""
    few = {
        topic["topic"]: NewPartitions(wanted[topic["topic"]].partitions)
        for topic in described
        if len(topic["partitions"]) < wanted[topic["topic"]].partitions
    }
    if few:
        try:
            await admin.create_partitions(few)
        except KafkaError as error:
            raise TopicsMissing(str(error)) from error
    return set(few)


async def _alter(admin: AIOKafkaAdminClient, name: str, config: Mapping[str, str]) -> None:
    for answer in await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, dict(config))]):
        for code, reason, *_ in answer.resources:
            if code:
                raise TopicsMissing(f"topic {name}: {for_code(code).__name__} {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.kafka.topics", description=__doc__)
    parser.add_argument("--bootstrap", help="host:port of Kafka; else DRIFTWHEEL_KAFKA_BOOTSTRAP")
    parser.add_argument("--replication", type=int, help="copies of each partition; else asked of the cluster")
    arguments = parser.parse_args()
    given = {"kafka_bootstrap": arguments.bootstrap, "kafka_replication": arguments.replication}
    settings = AdminSettings(**{name: value for name, value in given.items() if value is not None})
    try:
        changed = asyncio.run(ensure(settings, wanted(settings.kafka_partitions), settings.kafka_replication))
    except (ClusterRefused, TopicsMissing) as error:
        sys.exit(str(error))
    print("\n".join(changed) if changed else "all topics are as they should be")


if __name__ == "__main__":
    main()
