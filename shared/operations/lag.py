"""How far the consumer groups of a service are behind, in messages and in seconds.

Counted from the committed offsets, which Kafka keeps: a group without a member shows as well, and so does one whose
consumer stopped. Other replicas of the service report the same numbers: take the largest, never the sum.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.delivery.bus import EventBroker
from shared.delivery.kafka import connection
from shared.delivery.settings import DeliverySettings
from shared.telemetry.metrics import CONSUMER_LAG_MESSAGES, CONSUMER_LAG_SECONDS

EVERY_SECONDS = 5.0
_PATIENCE_SECONDS = 15.0
_READ_SECONDS = 3.0
Offsets = dict[TopicPartition, int]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TopicLag:
    """Where a group stands in one topic, as of the last measurement (a few seconds ago).

    Attributes:
        messages: offsets between the committed one and the end. Some may hold no record: compacted away, or the end of
            a foreign producer's transaction.
        seconds: age of the oldest record not yet handled, 0 if there is none. Exact but for the difference between our
            clock and that of whoever sent the record.
        last_handled_at: when this process last finished a record of the topic; None if not since its start.
    """

    messages: int
    seconds: float
    last_handled_at: datetime | None


class Lag:
    """Measures every few seconds, over connections of its own: it never disturbs what consumes.

    Attributes:
        unread: the committed offset of each partition that has records after it, as of the last measurement; None while
            Kafka does not say.
    """

    def __init__(self, service: str, broker: EventBroker, settings: DeliverySettings) -> None:
        self._service = service
        self._consumers = broker.consumers
        self._groups = {topic: consumer.group_id for topic, consumer in broker.consumers.items()}
        self._connection = connection(settings)
        self.unread: dict[TopicPartition, int] | None = None
        self._behind: dict[str, tuple[int, float | None]] = {}
        self._appended: dict[TopicPartition, tuple[int, float]] = {}

    def by_topic(self) -> dict[str, TopicLag]:
        """The last measurement; empty while there is none, or while Kafka is away."""
        now = time.time()
        return {
            topic: TopicLag(messages, _age(now, oldest), self._consumers[topic].handled_at)
            for topic, (messages, oldest) in self._behind.items()
        }

    async def run(self) -> None:
        """Measure until cancelled. What is not known is not shown: an old number would look like a calm one."""
        while self._groups:
            try:
                async with self._connected() as (admin, reader):
                    while True:
                        async with asyncio.timeout(_PATIENCE_SECONDS):
                            self._behind = await self._measure(admin, reader)
                        self._show()
                        await asyncio.sleep(EVERY_SECONDS)
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("lag.unknown", error=type(error).__name__)
            finally:
                self.unread = None
                self._behind = {}
                self._show()
            await asyncio.sleep(EVERY_SECONDS)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[AIOKafkaAdminClient, AIOKafkaConsumer]]:
        name = f"{self._service}-lag"
        admin = AIOKafkaAdminClient(**self._connection, client_id=name)
        # Only the first record of a partition is looked at: a small fetch is enough, and Kafka never cuts a record.
        reader = AIOKafkaConsumer(
            **self._connection,
            client_id=name,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=1_024,
        )
        try:
            await admin.start()
            await reader.start()
            yield admin, reader
        finally:
            await reader.stop()
            await admin.close()

    async def _measure(
        self, admin: AIOKafkaAdminClient, reader: AIOKafkaConsumer
    ) -> dict[str, tuple[int, float | None]]:
        """Of each topic: messages behind, and when the oldest of them was appended (seconds since the epoch)."""
        partitions = [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in await admin.describe_topics(list(self._groups))
            for partition in topic["partitions"]
        ]
        places = await self._places(admin, reader, partitions)
        ends: Offsets = await reader.end_offsets(partitions)
        unread = {p: place for p, place in places.items() if place < ends[p]}
        appended = await self._append_times(reader, unread)
        self.unread = unread
        return {
            topic: (
                sum(ends[p] - place for p, place in unread.items() if p.topic == topic),
                min((at for p, at in appended.items() if p.topic == topic), default=None),
            )
            for topic in {p.topic for p in partitions}  # one that Kafka lacks is not known, rather than calm
        }

    async def _places(
        self, admin: AIOKafkaAdminClient, reader: AIOKafkaConsumer, partitions: list[TopicPartition]
    ) -> Offsets:
        """The next offset each group will handle; one that never committed begins at the oldest record."""
        places: Offsets = dict(await reader.beginning_offsets(partitions))
        for topic, group in self._groups.items():
            committed = await admin.list_consumer_group_offsets(group)
            for partition, kept in committed.items():
                if partition.topic == topic and partition in places:
                    places[partition] = max(places[partition], kept.offset)
        return places

    async def _append_times(
        self, reader: AIOKafkaConsumer, unread: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, float]:
        """When the records at these offsets were appended. A record that was looked at before is not read again."""
        self._appended = {p: known for p, known in self._appended.items() if unread.get(p) == known[0]}
        wanted = {p: offset for p, offset in unread.items() if p not in self._appended}
        if wanted:
            reader.assign(list(wanted))
            for partition, offset in wanted.items():
                reader.seek(partition, offset)
            # Not for ever: what ends a transaction takes an offset and is no record.
            until = time.monotonic() + _READ_SECONDS
            while (left := [p for p in wanted if p not in self._appended]) and time.monotonic() < until:
                found: dict[TopicPartition, list[Any]] = await reader.getmany(*left, timeout_ms=500)
                for partition, records in found.items():
                    if records:
                        self._appended[partition] = (wanted[partition], records[0].timestamp / 1_000)
            reader.unsubscribe()
        return {p: at for p, (_, at) in self._appended.items()}

    def _show(self) -> None:
        CONSUMER_LAG_MESSAGES.clear()
        CONSUMER_LAG_SECONDS.clear()
        for topic, lag in self.by_topic().items():
            labels = (self._service, self._groups[topic], topic)
            CONSUMER_LAG_MESSAGES.labels(*labels).set(lag.messages)
            CONSUMER_LAG_SECONDS.labels(*labels).set(lag.seconds)


def _age(now: float, appended: float | None) -> float:
    return 0.0 if appended is None else max(0.0, now - appended)
