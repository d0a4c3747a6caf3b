"""Liveness is progress: while a group is behind, its committed offset must move. A ping proves nothing.

What waits for a part that is away is not stuck, however long that takes.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog
from aiokafka import TopicPartition

from shared.delivery.bus import EventBroker
from shared.delivery.consumer import TopicConsumer
from shared.operations.lag import Lag

log = structlog.get_logger()
_LOOK_SECONDS = 5.0
_ONE_PARTITION = 5
"""A partition alone may stand still this many times longer, while others of its topic move."""


class Progress:
    """Judges the consumers of a process.

    Args:
        patience: seconds without progress.
        well: whether the parts answer that a handler needs. While they do not, a hang is theirs.
    """

    def __init__(
        self,
        consumers: Iterable[TopicConsumer],
        lag: Lag,
        patience: float,
        well: Callable[[], Awaitable[bool]],
    ) -> None:
        self._consumers = list(consumers)
        self._lag = lag
        self._patience = patience
        self._well = well
        self._seen: dict[TopicPartition, tuple[int, float]] = {}

    async def stuck(self) -> dict[str, str]:
        """The topics whose consumer hangs, and where."""
        now = time.monotonic()
        self._seen = _still(self._seen, self._lag.unread or {}, now)
        found = {c.topic: where for c in self._consumers if (where := self._stuck(c, now))}
        if found and not await self._well():
            self._seen = {}
            return {}
        return found

    def forget(self, topic: str) -> None:
        """Judge this topic anew."""
        self._seen = {p: seen for p, seen in self._seen.items() if p.topic != topic}

    def _stuck(self, consumer: TopicConsumer, now: float) -> str | None:
        if consumer.state.name in ("waiting", "stopped"):
            for partition in [p for p in self._seen if p.topic == consumer.topic]:
                self._seen[partition] = (self._seen[partition][0], now)
            return None
        joined_at = consumer.joined_at
        still = {
            partition: (offset, since if joined_at is None else max(since, joined_at))
            for partition, (offset, since) in self._seen.items()
            if partition.topic == consumer.topic and (joined_at is None or partition in consumer.assigned)
        }
        return stuck(still, consumer.parked, consumer.moved_at, now, self._patience)


class Watch:
    """Begins a consumer anew that hangs. If that does not help it is not alive, and ends: a supervisor starts it again.

    Attributes:
        reasons: why this process is not alive; empty when it is.
    """

    def __init__(self, progress: Progress, broker: EventBroker, *, ends: bool) -> None:
        self.reasons: list[str] = []
        self._progress = progress
        self._consumers = broker.consumers
        self._ends = ends
        self._restarted: dict[str, int] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for topic, where in (await self._progress.stuck()).items():
                await self._cure(self._consumers[topic], where)

    async def _cure(self, consumer: TopicConsumer, where: str) -> None:
        log.critical("consumer.stuck", place=where)
        if self._ends and self._restarted.get(consumer.topic) == consumer.finished:
            self.reasons = [f"{where} does not move, though its consumer was begun anew"]
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self._restarted[consumer.topic] = consumer.finished
        self._progress.forget(consumer.topic)
        await consumer.restart()


def _still(
    seen: Mapping[TopicPartition, tuple[int, float]], unread: Mapping[TopicPartition, int], now: float
) -> dict[TopicPartition, tuple[int, float]]:
    """Since when each partition with unread records has stood at its offset."""
    return {
        partition: seen[partition] if seen.get(partition, (None,))[0] == offset else (offset, now)
        for partition, offset in unread.items()
    }


def stuck(
    still: Mapping[TopicPartition, tuple[int, float]],
    parked: frozenset[TopicPartition],
    moved_at: float,
    now: float,
    patience: float,
) -> str | None:
    """Which partition hangs, of one topic.

    Args:
        still: the committed offset of each partition with unread records that is read here, and since when it stands
            there. While we are no member of the group, of each partition: nobody moves them.
        parked: partitions that wait for the event on which theirs depends.
        moved_at: when this process last finished anything of the topic.
    """
    waiting = {partition: seen for partition, seen in still.items() if partition not in parked}
    if not waiting:
        return None
    slowest = min(waiting, key=lambda partition: waiting[partition][1])
    moved_at = max(moved_at, *(since for _, since in waiting.values()))
    if now - moved_at > patience or now - waiting[slowest][1] > patience * _ONE_PARTITION:
        return f"{slowest.topic}/{slowest.partition} at {waiting[slowest][0]}"
    return None
