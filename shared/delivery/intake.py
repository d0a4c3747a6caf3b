"""From the bytes that Kafka gives to an event, or to the reason why it is none."""

from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from aiokafka import ConsumerRecord
from pydantic import ValidationError

from shared.contracts.envelope import Envelope, read, repair_headers, strict_json
from shared.contracts.errors import DriftwheelError, Poison
from shared.contracts.events import EVENTS, Event
from shared.contracts.text import place
from shared.delivery import inbox
from shared.delivery.outbox import references

log = structlog.get_logger()
EVENT_BY_TOPIC: dict[str, type[Event]] = {event.topic: event for event in EVENTS}
_FUTURE = timedelta(minutes=5)


def unread(record: "ConsumerRecord[Any, Any]") -> inbox.Delivery:
    """What can be said of any record, readable or not."""
    place = f"{record.topic}/{record.partition}/{record.offset}"
    at = datetime.fromtimestamp(record.timestamp / 1_000, UTC)
    return inbox.Delivery(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        headers=list(record.headers or ()),
        body=record.value,
        received_at=datetime.now(UTC),
        recorded_at=at,
        envelope=Envelope(place, "/unreadable", "unreadable", at, correlationid=place),
    )


def take(record: "ConsumerRecord[Any, Any]", received_at: datetime) -> tuple[inbox.Delivery, Event]:
    """Read a record.

    Raises:
        Poison, ValidationError: it is no event of its topic, and never will be.
    """
    blank = unread(record)
    incoming = read(
        repair_headers(record.headers), record.value, blank.place, record.topic, blank.recorded_at
    )
    expected = EVENT_BY_TOPIC[record.topic]
    envelope = incoming.envelope
    if envelope.type != expected.ce_type():
        raise Poison(
            f"{expected.topic} carries {expected.ce_type()}, not this type or version.",
            "Upgrade this service.",
        )
    payload = strict_json(incoming.data)
    event = expected.received(payload)
    if record.key is not None and record.key != event.partition_key().encode():
        raise Poison(
            "The Kafka key is not the id that orders this event.", "Use the partition key of the event."
        )
    if envelope.time > received_at + _FUTURE:
        log.warning("event.from_the_future", event_id=envelope.id, source=envelope.source)
    delivery = inbox.Delivery(
        topic=blank.topic,
        partition=blank.partition,
        offset=blank.offset,
        key=blank.key,
        headers=blank.headers,
        body=blank.body,
        received_at=received_at,
        recorded_at=blank.recorded_at,
        envelope=envelope,
        refs=references(payload),
    )
    return delivery, event


def describe(error: Exception) -> str:
    """Why a message died, without quoting it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        return f"Invalid event: {place(first['loc'])}: {first['msg']}"[:1_000]
    if isinstance(error, DriftwheelError):
        return str(error)
    return f"{type(error).__name__} in the handler; see the log."
