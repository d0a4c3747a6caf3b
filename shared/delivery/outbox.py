"""Events leave inside the transaction that caused them; one relay per service takes them to Kafka.

At least once: a crash between Kafka's acknowledgement and `sent_at` sends a row twice, under the same id.
"""

import asyncio
import base64
import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    IllegalStateError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from psycopg.rows import dict_row

from shared.contracts.envelope import Envelope, new_id
from shared.contracts.errors import Invalid
from shared.contracts.events import Event
from shared.delivery.postgres import connect
from shared.telemetry import spans
from shared.telemetry.metrics import OUTBOX_REFUSED, OUTBOX_SENT

MAX_EVENT_BYTES = 262_144
MAX_RECORD_BYTES = 4_194_304
BATCH = 500
DEAD_AFTER = 5
_SENDING_SECONDS = 20
# A leader that is frozen or cut off loses the lock after this: a living one speaks every second.
_IDLE = "30s"
# Errors of one record: it will fail again however healthy the broker is.
_RECORD_ERRORS = (
    MessageSizeTooLargeError,
    InvalidTopicError,
    UnknownTopicOrPartitionError,
    TopicAuthorizationFailedError,
)
_PRODUCER_ERRORS = (OutOfOrderSequenceNumber, ProducerFenced, IllegalStateError)

log = structlog.get_logger()


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
    refs: Sequence[str] = field(default_factory=tuple)


def outgoing(event: Event, envelope: Envelope, topic: str | None = None) -> Outgoing:
    """Raises Invalid if the event is larger than 256 KiB: payloads carry references, not rows."""
    body = event.model_dump_json().encode()
    if len(body) > MAX_EVENT_BYTES:
        raise Invalid(
            f"{type(event).__name__} is {len(body)} bytes; an event may have {MAX_EVENT_BYTES}.",
            "Put the content into the object store and send its key.",
        )
    return Outgoing(
        event_id=envelope.id,
        topic=topic or event.topic,
        key=event.partition_key().encode(),
        headers=[(name, value.encode()) for name, value in envelope.headers()],
        body=body,
        correlationid=envelope.correlationid,
        causationid=envelope.causationid,
        refs=references(json.loads(body)),
    )


def references(payload: Any) -> list[str]:
    """The ids a trace can be asked for: every top-level text of an event that is short enough to be an id."""
    if not isinstance(payload, dict) or payload.get("restated") is True:
        return []  # what is only said again belongs to no story
    found = {value for value in payload.values() if isinstance(value, str) and 0 < len(value) <= 128}
    # Not of single answers: the story of a version would drown in them.
    if isinstance(payload.get("model_version"), int) and "model" in payload and "answer_id" not in payload:
        found.add(f"{payload['model']}:{payload['model_version']}")
    return sorted(found - {payload.get("model")})


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
INSERT INTO outbox (event_id, topic, key, headers, body, correlationid, causationid, refs)
VALUES (%(event_id)s, %(topic)s, %(key)s, %(headers)s, %(body)s, %(correlationid)s, %(causationid)s, %(refs)s)
"""

_TAKE = """
SELECT id, topic, key, headers, body, attempts FROM outbox
WHERE sent_at IS NULL AND dead_at IS NULL AND next_try_at <= now()
ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
"""
_SENT = """
UPDATE outbox SET sent_at = now(), partition = sent.partition, "offset" = sent."offset"
FROM unnest(%s::bigint[], %s::int[], %s::bigint[]) AS sent (id, partition, "offset") WHERE outbox.id = sent.id
"""
_FAILED = """
UPDATE outbox SET attempts = attempts + 1, error = %s, next_try_at = now() + attempts * interval '1 second',
    dead_at = CASE WHEN attempts + 1 >= %s THEN now() END
WHERE id = %s
"""


class Relay:
    """Takes rows to Kafka in id order. One leader per database (advisory lock); the others wait for its end."""

    def __init__(
        self, service: str, database_url: str, make_producer: Callable[[], AIOKafkaProducer]
    ) -> None:
        self._service = service
        self._url = database_url
        self._make_producer = make_producer
        self._known_topics: set[str] = set()
        self._lock_key = zlib.crc32(b"driftwheel-outbox-relay")
        OUTBOX_SENT.labels(service)  # from 0: a counter that starts with its first event hides it from rate()
        OUTBOX_REFUSED.labels(service)

    async def run(self) -> None:
        """Relay until cancelled; a lost database or broker is met with back-off."""
        pause = 0.2
        while True:
            try:
                await self._lead()
                pause = 0.2
            except (psycopg.OperationalError, psycopg.InternalError, KafkaError, TimeoutError) as error:
                log.warning(
                    "relay.paused", error=type(error).__name__, detail=str(error)[:200], seconds=pause
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)

    async def _lead(self) -> None:
        async with await connect(self._url, autocommit=True, idle_session_timeout=_IDLE) as lead:
            while not await self._try_lead(lead):  # noqa: ASYNC110 (PostgreSQL does not tell when a lock is free)
                await asyncio.sleep(1)
            await lead.execute("LISTEN outbox")
            producer = self._make_producer()
            await producer.start()
            try:
                async with await connect(
                    self._url, row_factory=dict_row, idle_session_timeout=_IDLE
                ) as connection:
                    while True:
                        await lead.execute("SELECT 1")
                        if await self._relay_batch(connection, producer) < BATCH:
                            async for _ in lead.notifies(timeout=1.0, stop_after=1):
                                pass
            finally:
                await producer.stop()

    async def _try_lead(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        row = await (
            await connection.execute("SELECT pg_try_advisory_lock(%s)", (self._lock_key,))
        ).fetchone()
        return bool(row and row[0])

    async def _relay_batch(self, connection: psycopg.AsyncConnection[Any], producer: AIOKafkaProducer) -> int:
        async with connection.transaction():
            rows = await (await connection.execute(_TAKE, (BATCH,))).fetchall()
            if not rows:
                return 0
            began = time.time_ns()
            results = await asyncio.wait_for(self._send(producer, rows), _SENDING_SECONDS)
            sent = [
                (row["id"], r.partition, r.offset) for row, r in results if not isinstance(r, BaseException)
            ]
            if sent:
                await connection.execute(_SENT, tuple(list(column) for column in zip(*sent, strict=True)))
            for row, error in results:
                if isinstance(error, _RECORD_ERRORS):
                    log.error("outbox.failed", id=row["id"], topic=row["topic"], error=type(error).__name__)
                    await connection.execute(_FAILED, (type(error).__name__, DEAD_AFTER, row["id"]))
                    if row["attempts"] + 1 >= DEAD_AFTER:
                        OUTBOX_REFUSED.labels(self._service).inc()
        OUTBOX_SENT.labels(self._service).inc(len(sent))
        for row, result in results if spans.exporting else ():
            if not isinstance(result, BaseException):
                headers = unpack_headers(row["headers"])
                spans.sent(row["topic"], result.partition, result.offset, headers, began)
        for _, error in results:
            if isinstance(error, BaseException) and not isinstance(error, _RECORD_ERRORS):
                raise error
        return len(rows)

    async def _send(self, producer: AIOKafkaProducer, rows: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Enqueue one after the other, to keep id order within a partition; await together."""
        missing = await self._missing_topics(producer, {row["topic"] for row in rows})
        sent: list[tuple[Any, Any]] = []
        for row in rows:
            if row["topic"] in missing:
                sent.append((row, UnknownTopicOrPartitionError(row["topic"])))
                continue
            try:
                headers = unpack_headers(row["headers"])
                sent.append(
                    (row, await producer.send(row["topic"], row["body"], row["key"], headers=headers))
                )
            except KafkaError as error:
                sent.append((row, error))
        futures = [future for _, future in sent if not isinstance(future, BaseException)]
        await asyncio.gather(*futures, return_exceptions=True)
        return [
            (row, f if isinstance(f, BaseException) else (f.exception() or f.result())) for row, f in sent
        ]

    async def _missing_topics(self, producer: AIOKafkaProducer, topics: set[str]) -> set[str]:
        """Topics that Kafka lacks. Asked only for names not seen before: a send to a missing topic blocks for long."""
        if not topics <= self._known_topics:
            self._known_topics = set((await producer.client.fetch_all_metadata()).topics())
        return topics - self._known_topics


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
