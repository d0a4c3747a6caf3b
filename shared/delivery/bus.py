"""The one place that decides how a service meets Kafka: its routers, its consumers and its producer.

FastStream declares the handlers and describes them (AsyncAPI). It consumes nothing: its defaults acknowledge first and
lose, and its injection costs more than a handler. Routers of another make are refused.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any

from aiokafka import AIOKafkaProducer, ConsumerRecord
from faststream import AckPolicy, Context
from faststream.kafka import KafkaBroker, KafkaRouter

from shared.contracts.events import Event
from shared.contracts.topology import CONSUMERS
from shared.delivery.consumer import TopicConsumer
from shared.delivery.failures import NETWORK
from shared.delivery.handling import Call, Handling
from shared.delivery.kafka import broker_connection, connection
from shared.delivery.outbox import MAX_RECORD_BYTES
from shared.delivery.settings import DeliverySettings
from shared.delivery.topics import check_topics
from shared.delivery.unit_of_work import Database, UnitOfWork
from shared.telemetry.metrics import HANDLED, HANDLING_SECONDS, OUTCOMES

Work = Annotated[UnitOfWork, Context("work")]
"""The unit of work of the message, or of the batch, being handled."""
Handler = Callable[..., Awaitable[None]]

_PLATFORM = sorted({f"/{service}" for services in CONSUMERS.values() for service in services})


class EventRouter(KafkaRouter):
    """A router whose subscribers are read by consumers of our own."""

    def __init__(self, service: str) -> None:
        super().__init__(ack_policy=AckPolicy.MANUAL)
        self.service = service
        self.declared: list[tuple[type[Event], Handler, bool]] = []

    def on(self, event: type[Event]) -> Callable[[Handler], Handler]:
        """Subscribe a handler `(event, work)`: one transaction per event.

        Each topic has a consumer group of its own, `<service>.<topic>`: a rebalance or a slow topic stays alone.
        """
        return self._subscribe(event, batch=False)

    def on_batch(self, event: type[Event]) -> Callable[[Handler], Handler]:
        """Subscribe a handler `(events, work)`: one transaction for many events of one partition, in their order.

        `work.causes` are their envelopes. If the handler fails, each event is handled alone: it gets a list of one, and
        only what fails then is dead-lettered.
        """
        return self._subscribe(event, batch=True)

    def _subscribe(self, event: type[Event], *, batch: bool) -> Callable[[Handler], Handler]:
        def subscribe(handler: Handler) -> Handler:
            name = f"{self.service}.{event.topic}"
            subscriber = self.subscriber(
                event.topic, group_id=name, title=name, ack_policy=AckPolicy.MANUAL, no_reply=True
            )
            subscriber(_described(handler, event) if batch else handler)
            self.declared.append((event, handler, batch))
            return handler

        return subscribe


def make_router(service: str) -> EventRouter:
    return EventRouter(service)


class EventBroker(KafkaBroker):
    """FastStream's broker, whose topics are read by `consumers`, one for each, by name of the topic."""

    consumers: dict[str, TopicConsumer]

    async def start(self) -> None:
        """Returns at once: each consumer joins by itself, as soon as Kafka and its topic are there."""
        for consumer in self.consumers.values():
            consumer.start()

    async def again(self, record: "ConsumerRecord[Any, Any]") -> bool:
        """Handle a record that died here before; False if it has to wait, or nobody reads its topic any more."""
        consumer = self.consumers.get(record.topic)
        return consumer is not None and await consumer.again(record)

    async def stop(self, *_: Any) -> None:
        """Finish what is in hand, commit, and leave the groups."""
        await asyncio.gather(*(consumer.stop() for consumer in self.consumers.values()))
        await super().stop()


def make_broker(
    settings: DeliverySettings, db: Database, service: str, routers: Iterable[EventRouter]
) -> EventBroker:
    """A broker that loses nothing."""
    broker = EventBroker(
        **broker_connection(settings),
        ack_policy=AckPolicy.MANUAL,
        allow_auto_create_topics=False,
        consumer_only=True,
        client_id=service,
        logger=None,
    )
    broker.consumers = {}
    declared = []
    for router in routers:
        if not isinstance(router, EventRouter):
            raise TypeError("routers come from shared.delivery.bus.make_router: another one loses messages")
        broker.include_router(router)
        declared += router.declared
    handling = Handling(service, db.apart(max(len(declared), 1)), settings)
    for event, handler, batch in declared:
        broker.consumers[event.topic] = TopicConsumer(
            service,
            event.topic,
            f"{service}.{event.topic}",
            _calling(handler, batch=batch),
            handling,
            settings,
            batch=batch,
            trusted=_PLATFORM if event.foreign else None,
            per_minute=getattr(settings, event.quota) if event.quota else None,
        )
        # A counter that starts with its first event hides that event from rate().
        HANDLING_SECONDS.labels(service, event.topic)
        for outcome in OUTCOMES:
            HANDLED.labels(service, event.topic, outcome)
    for topic, consumer in broker.consumers.items():
        others = [other for name, other in broker.consumers.items() if name != topic]
        consumer.others = lambda others=others: not any(map(_misses_a_part, others))  # type: ignore[misc]
    return broker


def _misses_a_part(consumer: TopicConsumer) -> bool:
    """Whether it is evidence of an outage. A time-out that names no part is none: two handlers may both be too slow."""
    return consumer.state.name == "waiting" and consumer.state.detail != NETWORK.part


def _described(handler: Handler, event: type[Event]) -> Handler:
    """What AsyncAPI tells of a batch handler: a record carries one event, however many we take at once."""

    @functools.wraps(handler)
    async def one(event: Event, work: UnitOfWork) -> None:
        raise NotImplementedError

    del one.__wrapped__
    one.__annotations__ = {"event": event, "work": Work, "return": None}
    return one


def _calling(handler: Handler, *, batch: bool) -> Call:
    async def call(events: list[Event], work: UnitOfWork) -> None:
        await handler(events if batch else events[0], work)

    return call


def make_producer(settings: DeliverySettings, service: str) -> AIOKafkaProducer:
    return AIOKafkaProducer(
        **connection(settings),
        client_id=f"{service}-relay",
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_request_size=MAX_RECORD_BYTES,
    )


__all__ = [
    "EventBroker",
    "EventRouter",
    "Work",
    "check_topics",
    "make_broker",
    "make_producer",
    "make_router",
]
