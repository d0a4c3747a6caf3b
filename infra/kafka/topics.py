"""Every topic of the platform: one per event type, and one for the dead letters of each of its consumers.

`python -m infra.kafka.topics --bootstrap HOST:PORT` creates what is missing; nothing else ever creates a topic.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from infra.kafka.admin import ClusterRefused, administrator
from infra.kafka.settings import AdminSettings
from shared.contracts.events import CONSUMERS, EVENTS, STATE
from shared.delivery.settings import KafkaSettings

DAY_MS = 24 * 60 * 60 * 1000
PARTITIONS = 3
RETENTION_DAYS = {"event": 30, "dead letter": 60}
"""The inbox must remember longer than both: a redriven event is still recognised."""
VISIBLE_SECONDS = 30.0
"""The controller answers before the brokers have heard of a new topic; this long we wait until they have."""
EVENT_BYTES = 1_048_576
DEAD_LETTER_BYTES = 4 * 1_048_576
"""A dead letter is the refused message plus headers that say why, so it may be larger than any event."""


@dataclass(frozen=True)
class Topic:
    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


class TopicsMissing(Exception):
    """A topic could not be created; the message names it and the broker's reason."""


def dead_letters_of(topic: str, service: str) -> str:
    """The topic in which a service keeps what it could not handle of another one."""
    return f"{topic}.{service}.dlq"


def wanted() -> list[Topic]:
    """Topics of all events and dead letters, in the order of the contract."""
    topics = [_event_topic(event.topic) for event in EVENTS]
    dead = [_dead_letters(topic, service) for topic, services in CONSUMERS.items() for service in services]
    return topics + dead


def _event_topic(name: str) -> Topic:
    config = {"max.message.bytes": str(EVENT_BYTES)}
    if name in {event.topic for event in STATE}:
        config |= {"cleanup.policy": "compact", "segment.ms": str(DAY_MS)}
    else:
        config |= {"retention.ms": str(RETENTION_DAYS["event"] * DAY_MS)}
    return Topic(name, PARTITIONS, config)


def _dead_letters(topic: str, service: str) -> Topic:
    retention = str(RETENTION_DAYS["dead letter"] * DAY_MS)
    return Topic(
        dead_letters_of(topic, service),
        1,
        {"retention.ms": retention, "max.message.bytes": str(DEAD_LETTER_BYTES)},
    )


async def brokers(settings: KafkaSettings) -> int:
    """How many brokers the cluster lists. Raises ClusterRefused."""
    async with administrator(settings, request_timeout_ms=3_000) as admin:
        return len((await admin.describe_cluster())["brokers"])


async def ensure(settings: KafkaSettings, topics: Iterable[Topic], replication: int = 1) -> list[str]:
    """Create the missing topics and return their names, once every broker we ask knows them all.

    Existing ones are left as they are, but for one thing: what became state since is kept for ever from now on.
    Raises TopicsMissing when the broker refuses one.
    """
    wanted = {topic.name: topic for topic in topics}
    async with administrator(settings) as admin:
        existing = wanted.keys() & set(await admin.list_topics())
        await _keep_state(admin, [wanted[name] for name in existing])
        missing = [wanted[name] for name in wanted.keys() - existing]
        if not missing:
            return []
        answer = await admin.create_topics(
            [NewTopic(t.name, t.partitions, replication, topic_configs=dict(t.config)) for t in missing]
        )
        created = []
        for name, code, *reason in answer.topic_errors:
            if code == 0:
                created.append(name)
            elif for_code(code) is not TopicAlreadyExistsError:  # somebody else was faster
                raise TopicsMissing(f"topic {name}: {for_code(code).__name__} {' '.join(map(str, reason))}")
        async with asyncio.timeout(VISIBLE_SECONDS):
            while not wanted.keys() <= set(await admin.list_topics()):  # noqa: ASYNC110  the event is the brokers'
                await asyncio.sleep(0.05)
        return created


_POLICY = "cleanup.policy"
_OWN = 1
"""Source of a configuration entry that was set on the topic itself."""


async def _keep_state(admin: AIOKafkaAdminClient, topics: Iterable[Topic]) -> None:
    """Compact the topics that should be and are not. Whatever else was set on them stays."""
    state = {topic.name: topic for topic in topics if topic.config.get(_POLICY) == "compact"}
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in state]
    for answer in await admin.describe_configs(asked) if asked else []:
        for code, reason, _, name, entries in answer.resources:
            if code:
                raise TopicsMissing(f"topic {name}: {for_code(code).__name__} {reason}")
            own = {entry[0]: entry[1] for entry in entries if entry[3] == _OWN}
            if own.get(_POLICY) != "compact":
                config = own | dict(state[name].config)
                config.pop("retention.ms", None)
                await _alter(admin, name, config)


async def _alter(admin: AIOKafkaAdminClient, name: str, config: Mapping[str, str]) -> None:
    for answer in await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, dict(config))]):
        for code, reason, *_ in answer.resources:
            if code:
                raise TopicsMissing(f"topic {name}: {for_code(code).__name__} {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.kafka.topics", description=__doc__)
    parser.add_argument("--bootstrap", help="host:port of Kafka; else DRIFTWHEEL_KAFKA_BOOTSTRAP")
    parser.add_argument("--replication", type=int, default=1, help="replicas of each partition (default 1)")
    arguments = parser.parse_args()
    given = {"kafka_bootstrap": arguments.bootstrap} if arguments.bootstrap else {}
    try:
        created = asyncio.run(ensure(AdminSettings(**given), wanted(), arguments.replication))
    except (ClusterRefused, TopicsMissing) as error:
        sys.exit(str(error))
    print("\n".join(created) if created else "all topics exist")


if __name__ == "__main__":
    main()
