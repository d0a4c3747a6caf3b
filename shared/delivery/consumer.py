"""One topic's consumer as a unit of its own: it runs, waits for a part that is away, or has stopped at its limit.

It waits in place, for as long as it takes: a partition whose record must come again is paused, while the consumer goes
on to poll and keeps its membership of the group. No other topic, and nothing that answers users, shares its fate.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from shared.contracts.errors import Conflict, NotFound
from shared.contracts.text import Json
from shared.delivery.failures import classify
from shared.delivery.handling import Again, Call, Done, Handling, Record, Refusal, Tries
from shared.delivery.inbox import Delivery
from shared.delivery.kafka import connection, refusal
from shared.delivery.limits import DeadLetters, Limit, Quota
from shared.delivery.settings import DeliverySettings
from shared.delivery.topics import MissingTopics, check_topics
from shared.telemetry.metrics import CONSUMER_QUARANTINED, CONSUMER_STOPPED, CONSUMER_WAITING

log = structlog.get_logger()

StateName = Literal["starting", "running", "waiting", "stopped"]
_ANONYMOUS = ("/unreadable", "/foreign")
_POLL_SECONDS = 1.0
_COMMIT_EVERY_SECONDS = 0.5
_COMMIT_PATIENCE_SECONDS = 10.0
_STOP_SECONDS = 20.0
_MOST_PAUSE_SECONDS = 5.0
_MOST_QUARANTINED = 1_000


@dataclass(frozen=True, slots=True)
class State:
    """`detail`: the part that is waited for, or why it stopped and what to do."""

    name: StateName
    detail: str = ""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(slots=True)
class _Parked:
    """A partition that is paused until its record is due again."""

    offset: int
    tries: Tries
    pause: float
    due: float
    error: str


class TopicConsumer(ConsumerRebalanceListener):  # type: ignore[misc]
    """Reads one topic for one service, in order of each partition.

    Args:
        batch: give the handler many events in one transaction.
        trusted: of a topic that anybody may write, the sources whose dead letters may stop this consumer. Any other one
            is quarantined when too many of its messages die, and the rest goes on. None: the topic has one writer.
        per_minute: of such a topic, how many messages of any other source are taken in a minute.
    """

    def __init__(
        self,
        service: str,
        topic: str,
        group_id: str,
        call: Call,
        handling: Handling,
        settings: DeliverySettings,
        *,
        batch: bool = False,
        trusted: Iterable[str] | None = None,
        per_minute: int | None = None,
    ) -> None:
        self.topic = topic
        self.group_id = group_id
        self.consumer: AIOKafkaConsumer | None = None
        self.handled_at: datetime | None = None
        self.moved_at = time.monotonic()
        self.joined_at: float | None = None
        self.finished = 0
        self.others: Callable[[], bool] = lambda: True
        self._state = State("starting")
        self._service = service
        self._call = call
        self._handling = handling
        self._settings = settings
        self._batch = batch
        self._trusted = None if trusted is None else frozenset(trusted)
        self._deaths = DeadLetters(Limit(settings.dead_in_a_row, settings.dead_ratio, settings.dead_window))
        self._quota = None if per_minute is None else Quota(per_minute)
        self._quarantined: dict[str, State] = {}
        self._parked: dict[TopicPartition, _Parked] = {}
        self._handled: dict[TopicPartition, int] = {}
        self._committed_at = 0.0
        self._moves: Counter[TopicPartition] = Counter()
        self._busy = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._show()

    @property
    def state(self) -> State:
        return self._state

    @property
    def assigned(self) -> frozenset[TopicPartition]:
        """The partitions that are read here now."""
        return frozenset(self.consumer.assignment()) if self.consumer else frozenset()

    @property
    def parked(self) -> frozenset[TopicPartition]:
        """Those whose record waits to come again."""
        return frozenset(self._parked)

    @property
    def quarantined(self) -> list[str]:
        """Sources of which nothing is handled now."""
        return list(self._quarantined)

    @property
    def _stopped(self) -> bool:
        return self._state.name == "stopped"

    def _halted(self) -> bool:
        return self._stopped or self._stopping

    def to_json(self) -> Json:
        return {
            "topic": self.topic,
            "state": self._state.name,
            "detail": self._state.detail,
            "since": self._state.since.isoformat(),
            "quarantined": [
                {"source": source, "reason": why.detail, "since": why.since.isoformat()}
                for source, why in self._quarantined.items()
            ],
            "parked": [
                {"partition": p.partition, "offset": parked.offset, "error": parked.error}
                for p, parked in self._parked.items()
            ],
        }

    def start(self) -> None:
        """Begin, in the background. Whatever hinders it is waited for."""
        if self._task is None:
            self._stopping = False
            self._task = asyncio.create_task(self._supervise(), name=self.group_id)

    async def stop(self) -> None:
        """Finish the record in hand, commit, and leave the group."""
        if self._task is None:
            return
        self._stopping = True
        if self._busy:
            await asyncio.wait({self._task}, timeout=_STOP_SECONDS)
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=_STOP_SECONDS)
        self._task = None

    async def restart(self) -> None:
        """For a consumer that hangs: let go of what is in hand, and begin anew."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_STOP_SECONDS)
            self._task = None
            self.start()

    def resume(self, source: str | None = None) -> None:
        """Go on after the limit; with a source, lift its quarantine.

        Raises:
            NotFound: this source is not in quarantine.
            Conflict: the consumer has not stopped.
        """
        if source is not None:
            if self._quarantined.pop(source, None) is None:
                raise NotFound(
                    "This source is not in quarantine.", "List what is: driftwheel consumers list."
                )
        elif not self._stopped:
            raise Conflict("This consumer has not stopped.", "Look: driftwheel consumers list.")
        else:
            if self.consumer:
                self.consumer.resume(*self.consumer.assignment() - self._parked.keys())
            self._turn("running")
        self._deaths.forget(source)
        self._show()
        log.warning("consumer.resumed", topic=self.topic, source=source)

    def rewind(self, partition: TopicPartition, offset: int) -> None:
        """Deliver again from this offset on. Raises Conflict if the partition is not ours now."""
        if self.consumer is None or partition not in self.consumer.assignment():
            raise Conflict("This partition is not consumed here any more.", "Plan the replay again.")
        self._forget(partition)
        self.consumer.seek(partition, offset)
        if not self._stopped:
            self.consumer.resume(partition)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self.joined_at = None
        await self._commit()
        for partition in revoked:
            self._forget(partition)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.joined_at = self.moved_at = time.monotonic()
        if self._stopped and self.consumer:
            self.consumer.pause(*assigned)

    def _forget(self, partition: TopicPartition) -> None:
        """What is in hand of this partition is no longer ours, or has moved: it is neither handled nor committed."""
        self._moves[partition] += 1
        self._parked.pop(partition, None)
        self._handled.pop(partition, None)

    async def _supervise(self) -> None:
        """Start once at a time: what failed is stopped wholly before the next try."""
        pause = 0.2
        while not self._stopping:
            began = time.monotonic()
            try:
                await self._consume()
            except MissingTopics as error:
                self._wait_for(str(error))
            except Exception as error:  # noqa: BLE001 (nothing may end this consumer but its limit, or its stop)
                said = await refusal(self._settings, error)
                self._wait_for(said or classify(error).part or type(error).__name__)
                log.warning(
                    "consumer.again", topic=self.topic, error=type(error).__name__, detail=str(error)[:200]
                )
            pause = 0.2 if time.monotonic() - began > _MOST_PAUSE_SECONDS else min(pause * 2, 5.0)
            await asyncio.sleep(pause)

    async def _consume(self) -> None:
        await check_topics(self._settings, [self.topic])
        consumer = AIOKafkaConsumer(
            **connection(self._settings),
            client_id=self._service,
            group_id=self.group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=10_000,
            max_poll_interval_ms=300_000,
        )
        self.consumer = consumer
        try:
            consumer.subscribe([self.topic], listener=self)
            await consumer.start()
            if not self._stopped:
                self._turn("running")
            while not self._stopping:
                await self._step(consumer)
        finally:
            with suppress(Exception):
                await self._commit()
            self.consumer = self.joined_at = None
            self._parked.clear()
            self._handled.clear()
            with suppress(Exception):
                await asyncio.wait_for(consumer.stop(), _COMMIT_PATIENCE_SECONDS)

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        self._take_up(consumer)
        most = self._settings.batch_size if self._batch else self._settings.transaction_size
        found = await consumer.getmany(timeout_ms=0, max_records=most)
        if not found:
            await self._commit()
            found = await consumer.getmany(timeout_ms=self._patience_ms(), max_records=most)
        for partition, records in found.items():
            await self._take(consumer, partition, records)
        if time.monotonic() - self._committed_at > _COMMIT_EVERY_SECONDS:
            await self._commit()
        if self._state.name == "waiting" and not self._parked and not self._handled:
            self._turn("running")

    def _patience_ms(self) -> int:
        now = time.monotonic()
        due = min((parked.due - now for parked in self._parked.values()), default=_POLL_SECONDS)
        return int(1_000 * min(max(due, 0.01), _POLL_SECONDS))

    def _take_up(self, consumer: AIOKafkaConsumer) -> None:
        """Let partitions go on whose record is due again."""
        if self._stopped:
            return
        now = time.monotonic()
        for partition, parked in self._parked.items():
            if parked.due <= now and partition in consumer.paused():
                consumer.resume(partition)

    async def _take(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, records: Sequence[Record]
    ) -> None:
        if self._halted():
            consumer.seek(partition, records[0].offset)
            return
        moves = self._moves[partition]
        self._busy = True
        try:
            answers = await self._answers(partition, records)
            for record, answer in zip(records, answers, strict=True):
                tries = self._tries(partition, record.offset)
                result = answer or await self._handling.one(record, self._call, tries, self._refused)
                if moves != self._moves[partition]:
                    return
                if isinstance(result, Again):
                    self._park(consumer, partition, record.offset, tries, result)
                    return
                self._settle(partition, record.offset, result)
                if answer is None and self._halted():
                    consumer.seek(partition, record.offset + 1)
                    return
        finally:
            self._busy = False

    async def _answers(
        self, partition: TopicPartition, records: Sequence[Record]
    ) -> Sequence[Done | Again | None]:
        """What one transaction for all of them says; None where a record is to be handled singly."""
        tries = self._tries(partition, records[0].offset)
        if len(records) == 1 or tries.attempts or tries.waited:
            return [None] * len(records)
        answers = await self._handling.many(records, self._call, self._refused, batch=self._batch)
        return [answers] * len(records) if isinstance(answers, Again) else answers

    async def again(self, record: Record) -> bool:
        """Handle a record that died here before, or bury it again; False if it has to wait."""
        tries, pause = Tries(), self._settings.retry_first_seconds
        for _ in range(self._settings.retry_attempts):
            if self._stopped:
                return False
            result = await self._handling.one(record, self._call, tries, lambda _source: None)
            if not isinstance(result, Again):
                return True
            if result.failure.kind == "outage":
                return False
            await asyncio.sleep(pause)
            pause *= 2
        return False

    def _tries(self, partition: TopicPartition, offset: int) -> Tries:
        parked = self._parked.get(partition)
        return parked.tries if parked and parked.offset == offset else Tries()

    def _park(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int, tries: Tries, again: Again
    ) -> None:
        """Pause the partition at this record. Its order is kept, other partitions go on."""
        before = self._parked.get(partition)
        same = before is not None and before.offset == offset
        pause = self._settings.retry_first_seconds
        if before is not None and same:
            pause = min(before.pause * 2, _MOST_PAUSE_SECONDS)
        if again.failure.bounded and self.others():
            tries.waited += pause
        due = time.monotonic() + pause
        self._parked[partition] = _Parked(offset, tries, pause, due, again.error)
        consumer.pause(partition)
        consumer.seek(partition, offset)
        self.moved_at = time.monotonic()
        if again.failure.kind != "retry":
            self._wait_for(again.failure.part or "its dead letters")
        log.info(
            "event.again", topic=self.topic, partition=partition.partition, offset=offset, error=again.error
        )

    def _settle(self, partition: TopicPartition, offset: int, done: Done) -> None:
        self._handled[partition] = offset + 1
        self._parked.pop(partition, None)
        self.handled_at = datetime.now(UTC)
        self.finished += 1
        self.moved_at = time.monotonic()
        if self._state.name == "waiting":
            self._turn("running")
        if done.outcome == "handled":
            self._deaths.handled(done.source)
        elif done.outcome == "dead" and not done.surplus and done.source not in self._quarantined:
            self._mourn(done)

    def _mourn(self, done: Done) -> None:
        if self._trusted is not None and done.source in _ANONYMOUS:
            return  # nobody to single out: each is buried, the others go on
        why = self._deaths.died(done.source)
        if why is None:
            return
        reason = f"{why}, the last one with: {done.reason}"
        if self._trusted is None or done.source in self._trusted:
            self._turn(
                "stopped",
                f"{reason} Mend the cause, then: driftwheel consumers resume {self._service} {self.topic}, and "
                "driftwheel dlq redrive.",
            )
            if self.consumer:
                self.consumer.pause(*self.consumer.assignment())
            log.critical("consumer.stopped", topic=self.topic, reason=reason)
        elif len(self._quarantined) < _MOST_QUARANTINED:
            self._quarantined[done.source] = State("stopped", reason)
            log.error("consumer.quarantined", topic=self.topic, source=done.source, reason=reason)
        self._show()

    def _refused(self, delivery: Delivery) -> Refusal | None:
        source = delivery.envelope.source
        if source in self._quarantined:
            return Refusal(
                "Too many messages of this source died, so it is in quarantine. "
                f"Lift it (driftwheel consumers resume {self._service} {self.topic} --source …), then redrive."
            )
        if self._quota is None or source in (self._trusted or ()):
            return None
        if len(delivery.body or b"") > (most := self._settings.foreign_message_bytes):
            return Refusal(f"The message has more than {most} bytes. Send references, not contents.", "bytes")
        if self._quota.over(source, delivery.recorded_at, delivery.partition, delivery.offset):
            return Refusal(
                f"This source sent more than {self._quota.per_minute} of these in a minute. Send it again later, as a "
                "new event.",
                "quota",
            )
        return None

    def _wait_for(self, part: str) -> None:
        if not self._stopped and self._state != State("waiting", part, self._state.since):
            self._turn("waiting", part)
            log.warning("consumer.waiting", topic=self.topic, part=part)

    def _turn(self, name: StateName, detail: str = "") -> None:
        self._state = State(name, detail)
        self._show()

    def _show(self) -> None:
        labels = (self._service, self.topic)
        CONSUMER_STOPPED.labels(*labels).set(self._stopped)
        CONSUMER_WAITING.labels(*labels).set(self._state.name == "waiting")
        CONSUMER_QUARANTINED.labels(*labels).set(len(self._quarantined))

    async def _commit(self) -> None:
        """Tell Kafka how far we are. What is lost here comes again, and the inbox knows it."""
        if not self._handled or self.consumer is None:
            return
        ours = self.consumer.assignment()
        handled, self._handled = {p: at for p, at in self._handled.items() if p in ours}, {}
        if not handled:
            return
        try:
            await asyncio.wait_for(self.consumer.commit(handled), _COMMIT_PATIENCE_SECONDS)
            self._committed_at = self.moved_at = time.monotonic()
        except (CommitFailedError, IllegalStateError):
            log.info("consumer.rebalanced", topic=self.topic)
        except (KafkaError, TimeoutError) as error:
            self._handled = handled | self._handled
            self._wait_for("kafka")
            log.warning("consumer.uncommitted", topic=self.topic, error=type(error).__name__)
