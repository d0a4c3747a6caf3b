"""Events leave inside the transaction that caused them: rows of `outbox`, which the relay takes to Kafka."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.artifacts.signing import Signer
from shared.contracts.declared import references, shown
from shared.contracts.envelope import Envelope, new_id
from shared.contracts.errors import Invalid
from shared.contracts.events import Event
from shared.contracts.text import Json

MAX_EVENT_BYTES = 262_144
MAX_RECORD_BYTES = 4_194_304
SIGNATURE = ("ce_keyid", "ce_signature")
"""Headers of a signed event."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One row to be: what Kafka will get, and what a trace looks for."""

    event_id: str
    topic: str
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    body: bytes | None
    correlationid: str
    causationid: str | None = None
    refs: Sequence[str] | None = None
    shown: Json | None = None


def outgoing(
    event: Event, envelope: Envelope, topic: str | None = None, signer: Signer | None = None
) -> Outgoing:
    """What is sent of an event, signed if it must be and can be here. Raises Invalid if the event is larger than 256 KiB: payloads carry references, not rows."""
    body = event.model_dump_json().encode()
    if len(body) > MAX_EVENT_BYTES:
        raise Invalid(
            f"{type(event).__name__} is {len(body)} bytes; an event may have {MAX_EVENT_BYTES}.",
            "Put the content into the object store and send its key.",
        )
    signature: list[tuple[str, str]] = []
    if signer and (event.signed or event.foreign):
        signature = list(zip(SIGNATURE, signer.sign(envelope.id, envelope.type, body), strict=True))
    return Outgoing(
        event_id=envelope.id,
        topic=topic or event.topic,
        key=event.partition_key().encode(),
        headers=[(name, value.encode()) for name, value in [*envelope.headers(), *signature]],
        body=body,
        correlationid=envelope.correlationid,
        causationid=envelope.causationid,
        refs=references(event),
        shown=None if event.per_answer else shown(event),
    )


def pack_headers(headers: Sequence[tuple[str, bytes | None]]) -> list[list[Any]]:
    """Headers as JSON; a value that is no clean UTF-8 is kept as base64, so nothing is lost."""

    def pack(value: bytes | None) -> Any:
        if value is None:
            return None
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            text = "\x00"
        return text if "\x00" not in text else {"base64": base64.b64encode(value).decode()}

    return [[name.replace("\x00", ""), pack(value)] for name, value in headers]


def unpack_headers(packed: Sequence[Sequence[Any]]) -> list[tuple[str, bytes]]:
    def unpack(value: Any) -> bytes:
        if isinstance(value, Mapping):
            return base64.b64decode(value["base64"])
        return (value or "").encode()

    return [(name, unpack(value)) for name, value in packed]


INSERT = """
INSERT INTO outbox (event_id, topic, key, headers, body, correlationid, causationid, refs, shown)
VALUES (%(event_id)s, %(topic)s, %(key)s, %(headers)s, %(body)s, %(correlationid)s, %(causationid)s, %(refs)s, %(shown)s)
"""
LEADING = zlib.crc32(b"driftwheel-outbox-relay")
"""The advisory lock of the relay that leads; `LEADING + 1` is held while it is busy anyway."""
# A notification queues commits of the whole cluster behind each other, so a relay that is busy gets none: it looks again
# by itself. Whether it is busy is tried with a shared lock that is given back at once.
WAKE = f"""
SELECT pg_notify('outbox', '')
WHERE CASE WHEN pg_try_advisory_lock_shared({LEADING + 1}) THEN pg_advisory_unlock_shared({LEADING + 1}) ELSE false END
"""


def dead_letter(
    service: str,
    topic: str,
    key: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    body: bytes | None,
    *,
    partition: int,
    offset: int,
    attempts: int,
    reason: str,
    cause: Envelope,
) -> Outgoing:
    """A copy of the message with its key, body and headers, plus why it died. Header names as in KIP-1191."""
    errors = {
        "__dlq.errors.topic": topic,
        "__dlq.errors.partition": str(partition),
        "__dlq.errors.offset": str(offset),
        "__dlq.errors.group": service,
        "__dlq.errors.delivery.count": str(attempts),
        "__dlq.errors.message": reason[:1_000],
    }
    kept = [(name, value) for name, value in headers if not name.startswith("__dlq.")]
    return Outgoing(
        event_id=new_id(),
        topic=f"{topic}.{service}.dlq",
        key=key,
        headers=[*kept, *((name, value.encode()) for name, value in errors.items())],
        body=body,
        correlationid=cause.correlationid,
        causationid=cause.id,
    )
