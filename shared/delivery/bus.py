"""The one place that decides delivery: how events are consumed, retried, buried, and how progress is judged.

FastStream's defaults acknowledge first and lose; so brokers and routers come from here, and start-up refuses others.
"""

import asyncio
import dataclasses
import functools
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import structlog
from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from faststream import AckPolicy, BaseMiddleware, Context
from faststream.kafka import KafkaBroker, KafkaRouter

from shared.contracts.envelope import repair_headers
from shared.contracts.events import Event
from shared.delivery import inbox
from shared.delivery.failures import classify
from shared.delivery.intake import describe, take, unread
from shared.delivery.kafka import broker_connection, connection
from shared.delivery.outbox import MAX_RECORD_BYTES
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database, UnitOfWork
from shared.telemetry.metrics import CONSUMER_STOPPED, HANDLED, HANDLING_SECONDS, OUTCOMES
from shared.telemetry.spans import processing

log = structlog.get_logger()

Work = Annotated[UnitOfWork, Context("work")]
"""The unit of work of the message being handled."""

_OUTAGE_SECONDS = 60.0


class OutageError(Exception):
    """A part we need is away; the message stays where it is."""


class EventRouter(KafkaRouter):
    """A router whose every subscriber has the platform's delivery policy."""

    def __init__(self, service: str) -> None:
        super().__init__(ack_policy=AckPolicy.NACK_ON_ERROR)
        self.service = service
        self.topics_consumed: list[str] = []

    def on(
        self, event: type[Event]
    ) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
        """Subscribe a handler. Each topic has a consumer group of its own, `<service>.<topic>`: a rebalance or a
        slow topic stays alone."""

        def subscribe(handler: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
            self.topics_consumed.append(event.topic)
            subscriber = self.subscriber(
                event.topic,
                group_id=f"{self.service}.{event.topic}",
                auto_offset_reset="earliest",
                ack_policy=AckPolicy.NACK_ON_ERROR,
                no_reply=True,
                max_poll_interval_ms=300_000,
                session_timeout_ms=10_000,
                title=f"{self.service}.{event.topic}",
            )
            subscriber(handler)
            return handler

        return subscribe


def make_router(service: str) -> EventRouter:
    return EventRouter(service)


class Consumption:
    """The life of a message in one service: read, claim, handle, commit; or retry; or bury."""

    def __init__(self, service: str, db: Database, settings: DeliverySettings) -> None:
        self.service = service
        self._db = db
        self._settings = settings
        self._dead_in_a_row = 0
        self.stopped_because: str | None = None
        self.busy_since: dict[str, float] = {}
        self.handled_at: dict[str, datetime] = {}
        self.stop: Callable[[], Awaitable[None]] | None = None
        CONSUMER_STOPPED.labels(service).set(0)

    async def handle(
        self, record: "ConsumerRecord[Any, Any]", call: Callable[[Event, UnitOfWork], Any]
    ) -> None:
        """Returns when the message needs no more care, and its offset may be committed.

        Raises:
            OutageError: a part we need is away (the offset stays), or too many messages died in a row.
        """
        if self.stopped_because:
            raise OutageError(self.stopped_because)
        started = time.monotonic()
        self.busy_since[record.topic] = started
        try:
            outcome = await self._outcome(record, call)
        finally:
            del self.busy_since[record.topic]
        self.handled_at[record.topic] = datetime.now(UTC)
        HANDLED.labels(self.service, record.topic, outcome).inc()
        HANDLING_SECONDS.labels(self.service, record.topic).observe(time.monotonic() - started)

    async def _outcome(
        self, record: "ConsumerRecord[Any, Any]", call: Callable[[Event, UnitOfWork], Any]
    ) -> str:
        delivery = unread(record)
        attempts, started, pause = 0, time.monotonic(), self._settings.retry_first_seconds
        while True:
            attempts += 1
            try:
                delivery, event = take(record, delivery.received_at)
                return await self._once(delivery, event, call, attempts)
            except Exception as error:
                failure = classify(error)
                if failure.kind == "outage":
                    if time.monotonic() - started > _OUTAGE_SECONDS:
                        if failure.bounded:
                            return "dead" if await self._bury(delivery, attempts, error) else "duplicate"
                        raise OutageError(type(error).__name__) from error
                    attempts -= 1
                    log.warning("event.waiting", place=delivery.place, error=type(error).__name__)
                elif failure.kind != "retry" or attempts >= self._settings.retry_attempts:
                    return "dead" if await self._bury(delivery, attempts, error) else "duplicate"
                else:
                    log.info(
                        "event.retry", place=delivery.place, attempt=attempts, error=type(error).__name__
                    )
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def _once(
        self, delivery: inbox.Delivery, event: Event, call: Callable[[Event, UnitOfWork], Any], attempts: int
    ) -> str:
        envelope = delivery.envelope
        with processing(self.service, delivery):
            async with self._db.unit_of_work(envelope) as work:
                if not await inbox.claim(work, delivery, attempts):
                    return "duplicate"
                await call(event, work)
            self._dead_in_a_row = 0
            log.info(  # inside the span, whose trace_id every line gets
                "event.handled",
                topic=delivery.topic,
                partition=delivery.partition,
                offset=delivery.offset,
                event_id=envelope.id,
                correlation_id=envelope.correlationid,
                attempt=attempts,
            )
        return "handled"

    async def _bury(self, delivery: inbox.Delivery, attempts: int, error: Exception) -> bool:
        """False if the message was buried before: what a replay brings again does not count as one more death."""
        reason = describe(error)
        try:
            async with self._db.unit_of_work() as work:
                fresh = await inbox.bury(work, self.service, delivery, attempts, reason)
        except Exception as error:
            raise OutageError(type(error).__name__) from error
        if not fresh:
            return False
        log.error("event.dead", place=delivery.place, event_id=delivery.envelope.id, reason=reason)
        self._dead_in_a_row += 1
        if self._dead_in_a_row >= self._settings.dead_in_a_row:
            self.stopped_because = (
                f"{self._dead_in_a_row} messages died in a row, the last one with: {reason}. "
                "Mend the cause, restart the service, then redrive: driftwheel dlq redrive."
            )
            CONSUMER_STOPPED.labels(self.service).set(1)
            log.critical("consumer.stopped", reason=self.stopped_because)
            if self.stop:
                # Not awaited: stopping waits for the message that is being handled, which is this one.
                self._stopping = asyncio.ensure_future(self.stop())
        return True


class _Scope(BaseMiddleware[Any, Any]):
    """FastStream's hook around one message."""

    def __init__(self, msg: Any, /, *, context: Any, consumption: Consumption) -> None:
        super().__init__(msg, context=context)
        self._consumption = consumption

    async def consume_scope(self, call_next: Any, msg: Any) -> Any:
        async def call(event: Event, work: UnitOfWork) -> None:
            msg.set_decoder(_constant(event))
            with self.context.scope("work", work):
                await call_next(msg)

        await self._consumption.handle(msg.raw_message, call)


def _constant(event: Event) -> Callable[[Any], Awaitable[Event]]:
    async def decode(_message: Any) -> Event:
        return event

    return decode


async def _parse_record(record: "ConsumerRecord[Any, Any]", original: Callable[[Any], Awaitable[Any]]) -> Any:
    """Broker-level parser. It never fails, since what fails here never reaches the dead letters."""
    headers = [(name, value.encode()) for name, value in repair_headers(record.headers).items()]
    message = await original(dataclasses.replace(record, headers=headers))
    message.raw_message = record
    return message


def make_broker(
    settings: DeliverySettings, db: Database, service: str, routers: Iterable[EventRouter]
) -> KafkaBroker:
    """A broker that loses nothing. Its `consumption` (state, reason of a stop) is in `broker.context`."""
    consumption = Consumption(service, db, settings)
    broker = KafkaBroker(
        **broker_connection(settings),
        ack_policy=AckPolicy.NACK_ON_ERROR,
        parser=_parse_record,
        middlewares=(functools.partial(_Scope, consumption=consumption),),
        allow_auto_create_topics=False,
        enable_idempotence=True,
        acks="all",
        graceful_timeout=20.0,
        client_id=service,
        logger=None,
    )
    for router in routers:
        if not isinstance(router, EventRouter):
            raise TypeError("routers come from shared.delivery.bus.make_router: another one loses messages")
        broker.include_router(router)
        # A counter that starts with its first event hides that event from rate().
        for topic in router.topics_consumed:
            HANDLING_SECONDS.labels(service, topic)
            for outcome in OUTCOMES:
                HANDLED.labels(service, topic, outcome)
    broker.context.set_global("consumption", consumption)

    async def stop() -> None:
        for subscriber in broker.subscribers:
            await subscriber.stop()

    consumption.stop = stop
    return broker


async def check_topics(settings: DeliverySettings, topics: Iterable[str]) -> None:
    """Raises RuntimeError naming topics that do not exist: a consumer of a missing topic waits in silence."""
    admin = AIOKafkaAdminClient(**connection(settings))
    await admin.start()
    try:
        missing = sorted(set(topics) - set(await admin.list_topics()))
    finally:
        await admin.close()
    if missing:
        raise RuntimeError(
            f"Kafka lacks {', '.join(missing)}. Create them: python -m infra.kafka.topics --bootstrap …"
        )


def make_producer(settings: DeliverySettings, service: str) -> AIOKafkaProducer:
    return AIOKafkaProducer(
        **connection(settings),
        client_id=f"{service}-relay",
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_request_size=MAX_RECORD_BYTES,
    )


class Progress:
    """Liveness is progress: while there is lag, the position must move. A ping proves nothing."""

    def __init__(self, broker: KafkaBroker, patience: float) -> None:
        self._broker = broker
        self._patience = patience
        self._seen: dict[TopicPartition, tuple[int, float]] = {}

    async def stuck(self) -> str | None:
        """Which partition has unread records and has not moved for `patience` seconds."""
        now = time.monotonic()
        for subscriber in self._broker.subscribers:
            consumer: Any = getattr(subscriber, "consumer", None)
            for partition in consumer.assignment() if consumer else ():
                try:
                    position = await asyncio.wait_for(consumer.position(partition), 1)
                except (TimeoutError, KafkaError):
                    continue  # not positioned yet, or Kafka is away: nothing to read is not stuck
                end = consumer.highwater(partition)
                last = self._seen.get(partition)
                if last is None or last[0] != position or end is None or position >= end:
                    self._seen[partition] = (position, now)
                elif now - last[1] > self._patience:
                    return f"{partition.topic}/{partition.partition} at {position} of {end}"
        return None


__all__ = [
    "Consumption",
    "EventRouter",
    "Progress",
    "Work",
    "check_topics",
    "make_broker",
    "make_producer",
    "make_router",
]
