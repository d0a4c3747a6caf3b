"""From the bytes that Kafka gives to an event, or to the reason why it is none. All of it is linear in the bytes."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from aiokafka import ConsumerRecord
from pydantic import ValidationError

from shared.artifacts.signing import NOBODY, Trust
from shared.contracts.declared import references
from shared.contracts.envelope import Envelope, read, repair_headers
from shared.contracts.errors import DriftwheelError, Poison
from shared.contracts.events import EVENTS, Event
from shared.contracts.text import place
from shared.delivery import inbox
from shared.delivery.failures import classify
from shared.delivery.records import MAX_HEADERS, Unreadable
from shared.delivery.signatures import believed
from shared.delivery.unit_of_work import Database

log = structlog.get_logger()
EVENT_BY_TOPIC: dict[str, type[Event]] = {event.topic: event for event in EVENTS}
_FUTURE = timedelta(minutes=5)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS = 253_000_000_000_000  # in the year 9987
_MAX_REASON = 1_000


def unread(record: "ConsumerRecord[Any, Any]") -> inbox.Delivery:
    """What can be said of any record, readable or not. Never raises."""
    at = _recorded_at(record)
    name = _fingerprint(record, at)
    envelope = Envelope(name, "/unreadable", "unreadable", at, correlationid=name)
    return _delivery(record, datetime.now(UTC), at, envelope)


def take(
    record: "ConsumerRecord[Any, Any]", received_at: datetime, trust: Trust = NOBODY
) -> tuple[inbox.Delivery, Event]:
    """Read a record.

    Args:
        trust: who is believed to be a service of ours on a topic that anybody may write.

    Raises:
        Poison, ValidationError: it is no event of its topic, and never will be.
    """
    if isinstance(record.value, Unreadable):
        raise Poison(record.value.reason, "Mend the producer.")
    if len(record.headers or ()) > MAX_HEADERS:
        raise Poison(f"The message has more than {MAX_HEADERS} headers.", "Mend the producer.")
    at = _recorded_at(record)
    incoming = read(
        repair_headers(record.headers), record.value, lambda: _fingerprint(record, at), record.topic, at
    )
    expected = EVENT_BY_TOPIC[record.topic]
    envelope = incoming.envelope
    if envelope.type != expected.ce_type():
        raise Poison(
            f"{expected.topic} carries {expected.ce_type()}, not this type or version.",
            "Upgrade this service.",
        )
    event = expected.received(incoming.payload())
    if not (expected.foreign or record.key in {None, event.partition_key().encode()}):
        raise Poison(
            "The Kafka key is not the id that orders this event.", "Use the partition key of the event."
        )
    if envelope.time > received_at + _FUTURE:
        log.warning("event.from_the_future", event_id=envelope.id, source=envelope.source)
    refs = references(event)
    delivery = _delivery(record, received_at, at, envelope, refs, expected.signed, expected.foreign)
    return believed(trust, delivery), event


def _recorded_at(record: "ConsumerRecord[Any, Any]") -> datetime:
    return _EPOCH + timedelta(milliseconds=min(max(record.timestamp, 0), _LATEST_MS))


def _fingerprint(record: "ConsumerRecord[Any, Any]", at: datetime) -> str:
    return inbox.fingerprint(f"{record.topic}/{record.partition}/{record.offset}", at, record.value)


def _delivery(
    record: "ConsumerRecord[Any, Any]",
    received_at: datetime,
    recorded_at: datetime,
    envelope: Envelope,
    refs: Sequence[str] | None = (),
    signed: bool = False,
    open_to_all: bool = False,
) -> inbox.Delivery:
    return inbox.Delivery(
        record.topic,
        record.partition,
        record.offset,
        record.key,
        list(record.headers or ())[:MAX_HEADERS],
        None if record.value is None else bytes(record.value),
        received_at,
        recorded_at,
        envelope,
        refs,
        signed,
        open_to_all,
    )


async def bury(db: Database, service: str, delivery: inbox.Delivery, attempts: int, reason: str) -> bool:
    """Record a message as dead, in a transaction of its own; False if it was buried before.

    Its place and body stand in for it if its own words cannot be stored, so nothing that it says can prevent this.

    Raises:
        Exception: the database is away, or refuses even that.
    """
    try:
        async with db.unit_of_work() as work:
            return await inbox.bury(work, service, delivery, attempts, reason)
    except Exception as error:
        if classify(error).passes:
            raise
        log.warning("event.buried_without_its_words", place=delivery.place, error=type(error).__name__)
    async with db.unit_of_work() as work:
        return await inbox.bury(work, service, _nameless(delivery), attempts, reason)


def _nameless(delivery: inbox.Delivery) -> inbox.Delivery:
    name, at = delivery.fingerprint, delivery.recorded_at
    envelope = Envelope(name, "/unreadable", "unreadable", at, correlationid=name)
    return dataclasses.replace(delivery, headers=(), refs=(), envelope=envelope)


def describe(error: Exception) -> str:
    """Why a message died, in storable words and without quoting it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        reason = f"Invalid event: {place(first['loc'])}: {first['msg']}"
    elif isinstance(error, DriftwheelError):
        reason = str(error)
    else:
        reason = f"{type(error).__name__} in the handler; see the log."
    return reason[:_MAX_REASON].replace("\x00", "").encode("utf-8", "backslashreplace").decode()
