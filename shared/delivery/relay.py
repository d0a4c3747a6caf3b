"""The relay takes what the outbox holds to Kafka, in order; one leads in each database, the others wait for its end.

At least once: a crash between Kafka's acknowledgement and the commit sends a row twice, under the same id. A topic of the
platform that Kafka refuses blocks itself alone, and goes on by itself when that is mended. Given up is only what no
waiting can mend: a record that is too large, and a reply topic that does not exist.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    IllegalStateError,
    InvalidTopicError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from psycopg.rows import dict_row

from shared.delivery.failures import classify
from shared.delivery.outbox import LEADING, unpack_headers
from shared.delivery.postgres import connect
from shared.telemetry import spans
from shared.telemetry.metrics import OUTBOX_BLOCKED, OUTBOX_REFUSED, OUTBOX_SENT

BATCH = 500
DEAD_AFTER = 5
"""Tries of a reply to a topic that somebody named and nobody made."""
_MANY = 20
"""Rows at once that show load: then the relay looks every few milliseconds instead of being woken."""
_AGAIN_SECONDS = 0.01
_QUIET_SECONDS = 1.0
_SENDING_SECONDS = 20.0
_PROBING_SECONDS = 3.0
_LONGEST_BLOCK_SECONDS = 30.0
_MOST_PAUSE_SECONDS = 5.0
# A leader that is frozen or cut off loses the lock after this: a living one speaks every second.
_IDLE = "30s"
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_NO_TOPIC = (InvalidTopicError, UnknownTopicOrPartitionError, TopicAuthorizationFailedError)
_PRODUCER_IS_LOST = (OutOfOrderSequenceNumber, ProducerFenced, IllegalStateError)

_TAKE = """
SELECT id, event_id, topic, key, headers, body, attempts FROM outbox
WHERE dead_at IS NULL AND next_try_at <= now() AND topic <> ALL(%s)
ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
"""
_SENT = """
WITH gone AS (
    DELETE FROM outbox USING unnest(%s::bigint[], %s::int[], %s::bigint[]) AS done (id, partition, "offset")
    WHERE outbox.id = done.id
    RETURNING outbox.*, done.partition, done."offset"
)
INSERT INTO sent
    (created_at, sent_at, "offset", partition, bytes, event_id, topic, correlationid, causationid, refs, shown)
SELECT created_at, clock_timestamp(), "offset", partition, coalesce(octet_length(body), 0), event_id, topic,
    nullif(correlationid, event_id), causationid, refs, shown
FROM gone ORDER BY id
"""
_WAITS = "UPDATE outbox SET error = %s WHERE id = %s"
_FAILED = """
UPDATE outbox SET attempts = attempts + 1, error = %(error)s, next_try_at = now() + attempts * interval '1 second',
    dead_at = CASE WHEN %(final)s OR attempts + 1 >= %(most)s THEN now() END
WHERE id = %(id)s RETURNING dead_at
"""

Outcome = tuple[Any, Any]
"""A row, and the place that Kafka gave it or the error that it met."""

log = structlog.get_logger()


@dataclass(slots=True)
class Block:
    """A topic that Kafka refuses: not tried again before `until` (monotonic seconds)."""

    until: float
    seconds: float


class Relay:
    """Takes rows to Kafka in id order. One leader per database (advisory lock); the others wait for its end."""

    def __init__(
        self, service: str, database_url: str, make_producer: Callable[[], AIOKafkaProducer]
    ) -> None:
        self._service = service
        self._url = database_url
        self._make_producer = make_producer
        self._known_topics: set[str] = set()
        self._blocked: dict[str, Block] = {}
        self._away = ""
        OUTBOX_SENT.labels(service)  # from 0: a counter that starts with its first event hides it from rate()
        OUTBOX_REFUSED.labels(service)

    @property
    def waits_for(self) -> str:
        """The part that is away, or what Kafka refuses; empty while events go their way."""
        refused = f"Kafka takes nothing for {', '.join(sorted(self._blocked))}" if self._blocked else ""
        return self._away or refused

    async def run(self) -> None:
        """Relay until cancelled; a lost database or broker is met with back-off."""
        pause = 0.2
        while True:
            began = time.monotonic()
            try:
                await self._lead()
            except (psycopg.Error, KafkaError, OSError, TimeoutError) as error:
                self._away = classify(error).part or type(error).__name__
                log.warning("relay.paused", error=type(error).__name__, part=self._away)
                pause = 0.2 if time.monotonic() - began > _MOST_PAUSE_SECONDS else pause
                await asyncio.sleep(pause)
                pause = min(pause * 2, _MOST_PAUSE_SECONDS)

    async def _lead(self) -> None:
        async with await connect(self._url, autocommit=True, idle_session_timeout=_IDLE) as lead:
            while not await _locked(lead, LEADING):  # PostgreSQL does not tell when a lock is free
                self._away = ""
                await asyncio.sleep(1)
            await lead.execute("LISTEN outbox")
            producer = self._make_producer()
            await producer.start()
            try:
                async with await connect(
                    self._url, row_factory=dict_row, idle_session_timeout=_IDLE
                ) as connection:
                    await self._relay(lead, connection, producer)
            finally:
                await producer.stop()

    async def _relay(
        self,
        lead: psycopg.AsyncConnection[Any],
        connection: psycopg.AsyncConnection[Any],
        producer: AIOKafkaProducer,
    ) -> None:
        """Under load look again at once; idle, wait to be woken, with a look each second in case a wake-up was lost."""
        busy, last = False, 0.0
        while True:
            await lead.execute("SELECT 1")
            rows = await self._relay_batch(connection, producer)
            self._away = ""
            last = time.monotonic() if rows else last
            if rows >= _MANY and not busy:
                busy = await _locked(lead, LEADING + 1)
            if busy and time.monotonic() - last > _QUIET_SECONDS:
                await lead.execute("SELECT pg_advisory_unlock(%s)", (LEADING + 1,))
                busy = False  # and look once more: who committed meanwhile may not have woken us
            elif busy:
                await asyncio.sleep(0 if rows == BATCH else _AGAIN_SECONDS)
            elif not rows:
                async for _ in lead.notifies(timeout=1.0, stop_after=1):
                    pass

    async def _relay_batch(self, connection: psycopg.AsyncConnection[Any], producer: AIOKafkaProducer) -> int:
        """Send what is next of all topics that are not blocked; returns how many rows that were."""
        now = time.monotonic()
        held = [topic for topic, block in self._blocked.items() if block.until > now]
        async with connection.transaction():
            rows = await (await connection.execute(_TAKE, (held, BATCH))).fetchall()
            if not rows:
                return 0
            began = time.time_ns()
            outcomes = await self._send(producer, rows)
            sent = [(row, place) for row, place in outcomes if not isinstance(place, BaseException)]
            failed = [(row, error) for row, error in outcomes if isinstance(error, BaseException)]
            if sent:
                places = [(row["id"], place.partition, place.offset) for row, place in sent]
                await connection.execute(_SENT, tuple(list(column) for column in zip(*places, strict=True)))
            await self._settle(connection, failed)
        OUTBOX_SENT.labels(self._service).inc(len(sent))
        self._unblock({row["topic"] for row, _ in sent} - {row["topic"] for row, _ in failed})
        for row, place in sent if spans.exporting else ():
            spans.sent(row["topic"], place.partition, place.offset, unpack_headers(row["headers"]), began)
        for _, error in failed:
            away = not (sent or isinstance(error, _NO_TOPIC)) and classify(error).kind == "outage"
            if away or isinstance(error, _PRODUCER_IS_LOST):
                raise error
        return len(rows)

    async def _settle(self, connection: psycopg.AsyncConnection[Any], failed: Iterable[Outcome]) -> None:
        """Give up what never passes; what may pass blocks its topic, so that nothing of the same key overtakes it."""
        blocked: set[str] = set()
        for row, error in failed:
            topic, name = row["topic"], type(error).__name__
            too_large = isinstance(error, _TOO_LARGE)
            if too_large or (isinstance(error, _NO_TOPIC) and topic.startswith("replies.")):
                given = {"error": name, "final": too_large, "most": DEAD_AFTER, "id": row["id"]}
                [dead_at] = await (await connection.execute(_FAILED, given)).fetchone() or [None]
                log.error("outbox.failed", id=row["id"], topic=topic, error=name, final=dead_at is not None)
                OUTBOX_REFUSED.labels(self._service).inc(dead_at is not None)
            elif topic not in blocked:
                blocked.add(topic)
                await connection.execute(_WAITS, (name, row["id"]))
                self._block(topic, name)

    def _block(self, topic: str, error: str) -> None:
        last = self._blocked.get(topic)
        seconds = min(last.seconds * 2, _LONGEST_BLOCK_SECONDS) if last else 1.0
        self._blocked[topic] = Block(time.monotonic() + seconds, seconds)
        self._known_topics.discard(topic)
        OUTBOX_BLOCKED.labels(self._service, topic).set(1)
        log.error("outbox.blocked", topic=topic, error=error, seconds=seconds)

    def _unblock(self, topics: set[str]) -> None:
        for topic in topics & self._blocked.keys():
            del self._blocked[topic]
            OUTBOX_BLOCKED.labels(self._service, topic).set(0)
            log.info("outbox.unblocked", topic=topic)

    async def _send(self, producer: AIOKafkaProducer, rows: Sequence[Any]) -> list[Outcome]:
        """Each topic for itself, so that none waits for another."""
        missing = await self._missing_topics(producer, {row["topic"] for row in rows})
        by_topic: dict[str, list[Any]] = {}
        for row in rows:
            by_topic.setdefault(row["topic"], []).append(row)
        outcomes: list[Outcome] = []
        for some in await asyncio.gather(
            *(self._send_topic(producer, its) for topic, its in by_topic.items() if topic not in missing)
        ):
            outcomes += some
        gone = [(row, UnknownTopicOrPartitionError(topic)) for topic in missing for row in by_topic[topic]]
        return outcomes + gone

    async def _send_topic(self, producer: AIOKafkaProducer, rows: Sequence[Any]) -> list[Outcome]:
        """Enqueue one after the other, to keep id order within a partition; await together."""
        topic = rows[0]["topic"]
        found: list[Any] = []
        try:
            async with asyncio.timeout(_PROBING_SECONDS if topic in self._blocked else _SENDING_SECONDS):
                for row in rows:
                    try:
                        headers = unpack_headers(row["headers"])
                        found.append(await producer.send(topic, row["body"], row["key"], headers=headers))
                    except _TOO_LARGE as error:
                        found.append(error)
                    except KafkaError as error:
                        found += [error] * (len(rows) - len(found))  # none may overtake this one
                        break
                if futures := [one for one in found if asyncio.isfuture(one)]:
                    await asyncio.wait(futures)
        except TimeoutError:
            log.warning("outbox.slow", topic=topic)
        found += [KafkaTimeoutError()] * (len(rows) - len(found))
        return [(row, _result(one)) for row, one in zip(rows, found, strict=True)]

    async def _missing_topics(self, producer: AIOKafkaProducer, topics: set[str]) -> set[str]:
        """Topics that Kafka lacks. Asked only for names not seen before: a send to a missing topic blocks for long."""
        if not topics <= self._known_topics:
            self._known_topics = set((await producer.client.fetch_all_metadata()).topics())
        return topics - self._known_topics


async def _locked(connection: psycopg.AsyncConnection[Any], key: int) -> bool:
    row = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", (key,))).fetchone()
    return bool(row and row[0])


def _result(one: Any) -> Any:
    """The place of a record, or its error."""
    if not asyncio.isfuture(one):
        return one
    if not one.done():
        return KafkaTimeoutError()
    return one.exception() or one.result()
