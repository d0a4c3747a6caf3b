"""Events arrive inside the transaction of their effects, so a second delivery changes nothing.

A row of `inbox` says `done`, `dead` or `redriven`. Dead is not done: a redriven dead letter is handled again, once. What
died is whole in `dead_letters`, by its place, until it is handled.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any, Literal

import psycopg
import xxhash
from psycopg.types.json import Jsonb

from shared.contracts.envelope import Envelope
from shared.contracts.errors import Poison
from shared.contracts.topology import OURS
from shared.delivery.outbox import dead_letter, pack_headers
from shared.delivery.signatures import refusal
from shared.delivery.unit_of_work import UnitOfWork
from shared.telemetry.metrics import SIGNATURE_REFUSED

HORIZON = timedelta(days=7)
"""An event that waited longer than this for Kafka is filed under the day it got there."""
REPEATED_DAYS = 7
"""A foreign producer that repeats an id with another time, or with none, is recognised for so long."""
_FIRST, _LAST = datetime(1970, 1, 9, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Delivery:
    """One record as Kafka gave it, and what we read from it. `open`: anybody may write its topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    body: bytes | None
    received_at: datetime
    recorded_at: datetime
    envelope: Envelope
    refs: Sequence[str] | None = ()
    signed: bool = False
    open: bool = False

    @property
    def identity(self) -> "Identity":
        return self.topic, self.envelope.source, self.envelope.id

    @cached_property
    def body_digest(self) -> int:
        """The first 8 bytes of its SHA-256."""
        return int.from_bytes(hashlib.sha256(self.body or b"").digest()[:8], signed=True)

    @property
    def place(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.place, self.recorded_at, self.body)

    @cached_property
    def day(self) -> date:
        """The partition of the message: it follows from the message alone, so that a copy falls into the same one.

        Its own time, unless that is far from when Kafka got it.
        """
        usual = self.envelope.time.date()
        if self.envelope.time.tzinfo is UTC and usual == self.recorded_at.date():
            return usual
        recorded_at = min(max(self.recorded_at, _FIRST), _LAST)  # a producer may have given any time
        earliest, latest = recorded_at - HORIZON, recorded_at + timedelta(days=1)
        return min(max(self.envelope.time, earliest), latest).astimezone(UTC).date()

    @property
    def foreign(self) -> bool:
        return self.envelope.source not in OURS


def fingerprint(place: str, recorded_at: datetime, body: bytes | None) -> str:
    """An id for what names none: its place, time and content, since a topic made anew has the same places."""
    digest = xxhash.xxh3_64(recorded_at.isoformat().encode())
    digest.update(body or b"")
    return f"{place}@{digest.hexdigest()}"


Identity = tuple[str, str, str]
"""Topic, source and id: what makes two messages the same one."""
Known = dict[Identity, tuple[int, date]]
"""What the inbox has of messages: the digest of the body, and the day."""
Cursor = psycopg.AsyncCursor[Any]
Claim = Literal["fresh", "known", "reused"]
"""What the inbox says of a message: ours to handle; handled (or dead) before; poison, since its id was used with another
body or its signature is refused."""

_COLUMNS = {
    "recorded_at": "timestamptz",
    "received_at": "timestamptz",
    '"offset"': "bigint",
    "body_digest": "bigint",
    "day": "date",
    "partition": "int",
    "attempts": "smallint",
    "state": "text",
    "event_id": "text",
    "topic": "text",
    "source": "text",
    "correlationid": "text",
    "causationid": "text",
    "refs": "text[]",
}
_NAMES = ", ".join(_COLUMNS)


def _given(**columns: str) -> str:
    """Rows that travel as one text: an array for each column costs the client five times as much."""
    return f"json_to_recordset(%(rows)s::json) AS given ({', '.join(f'{n} {kind}' for n, kind in columns.items())})"


_IDENTITY = {"topic": "text", "source": "text", "event_id": "text"}
# What could not be read when it died, and can now, lies in dead_letters under its place.
_CLAIM = f"""
WITH new AS (
    INSERT INTO inbox ({_NAMES})
    SELECT {_NAMES} FROM {_given(**_COLUMNS)}
    ON CONFLICT (event_id, topic, source, day) DO NOTHING
    RETURNING topic, source, event_id, partition, "offset"
), buried AS (
    DELETE FROM dead_letters USING new
    WHERE (dead_letters.topic, dead_letters.partition, dead_letters."offset") = (new.topic, new.partition, new."offset")
)
SELECT topic, source, event_id FROM new
"""
_KNOWN = f"""
SELECT inbox.topic, inbox.source, inbox.event_id, body_digest, day
FROM {_given(**_IDENTITY, first="date", last="date")} JOIN inbox
ON inbox.event_id = given.event_id AND inbox.topic = given.topic AND inbox.source = given.source
    AND day BETWEEN given.first AND given.last AND day BETWEEN %(from)s AND %(to)s
"""
_ONE_BY_ONE = "SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) FROM unnest(%s::text[]) AS name"
_AGAIN = f"""
WITH again AS (
    UPDATE inbox SET state = 'done', attempts = inbox.attempts + %(attempts)s, handled_at = now()
    FROM {_given(**_IDENTITY, day="date", redriven="bool")}
    WHERE inbox.event_id = given.event_id AND inbox.topic = given.topic AND inbox.source = given.source
        AND inbox.day = given.day AND (state = 'redriven' OR (state = 'dead' AND given.redriven))
    RETURNING inbox.topic, inbox.source, inbox.event_id, inbox.partition, inbox."offset"
), buried AS (
    DELETE FROM dead_letters USING again
    WHERE (dead_letters.topic, dead_letters.partition, dead_letters."offset")
        = (again.topic, again.partition, again."offset")
)
SELECT topic, source, event_id FROM again
"""
_DEAD = f"""
INSERT INTO inbox ({_NAMES})
SELECT {_NAMES} FROM {_given(**_COLUMNS)}
ON CONFLICT (event_id, topic, source, day) DO UPDATE SET state = 'dead', handled_at = now(),
    attempts = inbox.attempts + EXCLUDED.attempts
WHERE inbox.state = 'redriven'
RETURNING partition, "offset", attempts, day
"""
_BURY = """
INSERT INTO dead_letters (topic, partition, "offset", event_id, source, type, correlationid, causationid, refs, state,
    attempts, error, event_time, recorded_at, received_at, day, key, headers, body)
VALUES (%(topic)s, %(partition)s, %(offset)s, %(event_id)s, %(source)s, %(type)s, %(correlationid)s, %(causationid)s,
    %(refs)s, 'dead', %(attempts)s, %(error)s, %(event_time)s, %(recorded_at)s, %(received_at)s, %(day)s, %(key)s,
    %(headers)s, %(body)s)
ON CONFLICT (topic, partition, "offset") DO UPDATE SET event_id = EXCLUDED.event_id, source = EXCLUDED.source,
    type = EXCLUDED.type, correlationid = EXCLUDED.correlationid, causationid = EXCLUDED.causationid,
    refs = EXCLUDED.refs, state = 'dead', attempts = EXCLUDED.attempts, error = EXCLUDED.error, handled_at = now(),
    due_at = NULL
"""


async def claim(work: UnitOfWork, delivery: Delivery, attempts: int) -> bool:
    """Take the event for this unit of work; False if it was handled (or died) before.

    Raises:
        Poison: the id was used before, with another body; or the message is not from whom its event must be from.
    """
    if wrong := refusal(work.trust, delivery):
        SIGNATURE_REFUSED.labels(work.service, delivery.topic, wrong).inc()
        raise Poison(f"The signature of this event is {wrong}.", "Only the registry may send it.")
    [claimed] = await claim_many(work, [delivery], attempts)
    if claimed == "reused":
        raise Poison("This event id was used before, with another body.", "Give each event an id of its own.")
    return claimed == "fresh"


async def claim_many(work: UnitOfWork, deliveries: Sequence[Delivery], attempts: int = 1) -> list[Claim]:
    """Take many events for this unit of work, in one statement where all are new; one answer for each, in order.

    Of copies among them the first is taken. `reused` is poison: the unit of work may go on without that one.
    """
    believed = [refusal(work.trust, delivery) is None for delivery in deliveries]
    kept = [delivery for delivery, right in zip(deliveries, believed, strict=True) if right]
    claims = iter(await _claim(work, kept, attempts) if kept else ())
    return [next(claims) if right else "reused" for right in believed]


async def _claim(work: UnitOfWork, deliveries: Sequence[Delivery], attempts: int) -> list[Claim]:
    first: dict[Identity, Delivery] = {}
    for delivery in deliveries:
        first.setdefault(delivery.identity, delivery)
    async with (await work.raw()).cursor() as cursor:
        known = await _repeated(cursor, [delivery for delivery in first.values() if delivery.foreign])
        fresh: set[Identity] = set()
        if new := [delivery for identity, delivery in first.items() if identity not in known]:
            rows = _rows(_row(delivery, delivery.envelope.id, "done", attempts) for delivery in new)
            fresh = set(await (await cursor.execute(_CLAIM, rows)).fetchall())
            if seen := [delivery for delivery in new if delivery.identity not in fresh]:
                known |= await _known(cursor, seen)
        again = [_again(first[i], at) for i, (digest, at) in known.items() if digest == first[i].body_digest]
        if again:
            given = {**_rows(again), "attempts": attempts}
            fresh |= set(await (await cursor.execute(_AGAIN, given)).fetchall())
    claims: list[Claim] = []
    for delivery in deliveries:
        identity = delivery.identity
        if delivery.body_digest != (known[identity][0] if identity in known else first[identity].body_digest):
            claims.append("reused")
        else:
            claims.append("fresh" if identity in fresh else "known")
            fresh.discard(identity)
    return claims


async def bury(work: UnitOfWork, service: str, delivery: Delivery, attempts: int, reason: str) -> bool:
    """Record the message as dead and send its copy to the dead letters; False if it was buried before."""
    async with (await work.raw()).cursor() as cursor:
        known = await (_repeated if delivery.foreign else _known)(cursor, [delivery])
        digest, day = known.get(delivery.identity, (delivery.body_digest, delivery.day))
        # A forgery must not take the name of what it imitates.
        same = digest == delivery.body_digest and not refusal(work.trust, delivery)
        event_id = delivery.envelope.id if same else delivery.fingerprint
        row = {**_row(delivery, event_id, "dead", attempts), "day": day}
        found = await (await cursor.execute(_DEAD, _rows([row]))).fetchone()
        if found is None:
            return False
        envelope = delivery.envelope
        given = {
            **row,
            **dict(zip(("partition", "offset", "attempts", "day"), found, strict=True)),
            "type": envelope.type,
            "correlationid": envelope.correlationid,
            "error": reason,
            "event_time": envelope.time,
            "key": delivery.key,
            "headers": Jsonb(pack_headers(delivery.headers)),
            "body": delivery.body,
        }
        await cursor.execute(_BURY, given)
    work.send(
        dead_letter(
            service,
            delivery.topic,
            delivery.key,
            delivery.headers,
            delivery.body,
            partition=delivery.partition,
            offset=delivery.offset,
            attempts=attempts,
            reason=reason,
            cause=delivery.envelope,
        )
    )
    return True


async def _repeated(cursor: Cursor, foreign: Sequence[Delivery]) -> Known:
    """Foreign messages that were seen on another day: a producer that tries again may give another time, or none.

    One at a time by identity, so that two copies on two days cannot pass each other.
    """
    if not foreign:
        return {}
    await cursor.execute(_ONE_BY_ONE, (sorted("\x1f".join(delivery.identity) for delivery in foreign),))
    return await _known(cursor, foreign, REPEATED_DAYS, 1)


async def _known(cursor: Cursor, deliveries: Sequence[Delivery], before: int = 0, after: int = 0) -> Known:
    wanted = [
        {
            "topic": delivery.topic,
            "source": delivery.envelope.source,
            "event_id": delivery.envelope.id,
            "first": delivery.day - timedelta(days=before),
            "last": delivery.day + timedelta(days=after),
        }
        for delivery in deliveries
    ]
    days = [delivery.day for delivery in deliveries]
    # With these bounds PostgreSQL opens these partitions alone.
    bounds = {"from": min(days) - timedelta(days=before), "to": max(days) + timedelta(days=after)}
    rows = await (await cursor.execute(_KNOWN, {**_rows(wanted), **bounds})).fetchall()
    return {(topic, source, event_id): (digest, day) for topic, source, event_id, digest, day in rows}


def _row(delivery: Delivery, event_id: str, state: str, attempts: int) -> dict[str, Any]:
    envelope = delivery.envelope
    return {
        "recorded_at": delivery.recorded_at,
        "received_at": delivery.received_at,
        "offset": delivery.offset,
        "body_digest": delivery.body_digest,
        "day": delivery.day,
        "partition": delivery.partition,
        "attempts": attempts,
        "state": state,
        "event_id": event_id,
        "topic": delivery.topic,
        "source": envelope.source,
        "correlationid": envelope.correlationid if envelope.correlationid != event_id else None,
        "causationid": envelope.causationid,
        "refs": None if delivery.refs is None else list(delivery.refs),
    }


def _again(delivery: Delivery, day: date) -> dict[str, Any]:
    topic, source, event_id = delivery.identity
    redriven = delivery.envelope.redriven
    return {"topic": topic, "source": source, "event_id": event_id, "day": day, "redriven": redriven}


def _rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {"rows": json.dumps(list(rows), default=str)}
