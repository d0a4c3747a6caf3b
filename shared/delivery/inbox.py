"""Events arrive inside the transaction of their effects, so a second delivery changes nothing.

A row says `done`, `dead` or `redriven`. Dead is not done: a redriven dead letter is handled again, once. What can be
done with the dead is in dead_letters.py.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

import xxhash
from psycopg.types.json import Jsonb

from shared.contracts.envelope import Envelope
from shared.contracts.errors import Poison
from shared.delivery.outbox import dead_letter, pack_headers
from shared.delivery.unit_of_work import UnitOfWork


@dataclass(frozen=True)
class Delivery:
    """One record as Kafka gave it, and what we read from it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    body: bytes | None
    received_at: datetime
    recorded_at: datetime
    envelope: Envelope
    refs: Sequence[str] = ()

    @property
    def identity(self) -> "Identity":
        return self.topic, self.envelope.source, self.envelope.id

    @cached_property
    def body_sha256(self) -> bytes:
        return hashlib.sha256(self.body or b"").digest()

    @property
    def place(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @cached_property
    def fingerprint(self) -> str:
        """An id for what names none: its place, time and content, since a topic made anew has the same places."""
        digest = xxhash.xxh3_64(self.recorded_at.isoformat().encode())
        digest.update(self.body or b"")
        return f"{self.place}@{digest.hexdigest()}"

    def row(self, event_id: str, state: str, attempts: int, error: str | None = None) -> dict[str, Any]:
        dead = state == "dead"
        return {
            "event_id": event_id,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "type": self.envelope.type,
            "source": self.envelope.source,
            "correlationid": self.envelope.correlationid,
            "causationid": self.envelope.causationid,
            "refs": _REFS_SEPARATOR.join(self.refs),
            "body_sha256": self.body_sha256,
            "state": state,
            "attempts": attempts,
            "error": error,
            "event_time": self.envelope.time,
            "recorded_at": self.recorded_at,
            "received_at": self.received_at,
            "key": self.key if dead else None,
            "headers": Jsonb(pack_headers(self.headers)) if dead else None,
            "body": self.body if dead else None,
        }


Identity = tuple[str, str, str]
"""Topic, source and id: what makes two messages the same one."""
Claim = Literal["fresh", "known", "reused"]
"""What the inbox says of a message: ours to handle; handled (or dead) before; its id was used with another body."""

_COLUMNS = {
    "event_id": "text",
    "topic": "text",
    "partition": "int",
    '"offset"': "bigint",
    "type": "text",
    "source": "text",
    "correlationid": "text",
    "causationid": "text",
    "refs": "text",
    "body_sha256": "bytea",
    "state": "text",
    "attempts": "int",
    "error": "text",
    "event_time": "timestamptz",
    "recorded_at": "timestamptz",
    "received_at": "timestamptz",
    "key": "bytea",
    "headers": "jsonb",
    "body": "bytea",
}
_NAMES = ", ".join(_COLUMNS)
_ROWS = ", ".join(f"%({name.strip(chr(34))})s::{kind}[]" for name, kind in _COLUMNS.items())
# An array of arrays must be a rectangle, so each row's refs travel as one text.
_REFS_SEPARATOR = "\x1f"
_INSERT = f"""
INSERT INTO inbox ({_NAMES})
SELECT {_NAMES.replace("refs", "string_to_array(refs, chr(31))")} FROM unnest({_ROWS}) AS new ({_NAMES})
"""
_CLAIM = _INSERT + "ON CONFLICT (event_id, topic, source) DO NOTHING RETURNING topic, source, event_id"
_NAMED = "FROM unnest(%(topic)s::text[], %(source)s::text[], %(event_id)s::text[]"
_KNOWN = f"""
SELECT topic, source, event_id, body_sha256 FROM inbox JOIN (
    SELECT * {_NAMED}) AS wanted (topic, source, event_id)
) AS wanted USING (topic, source, event_id)
"""
_AGAIN = f"""
UPDATE inbox SET state = 'done', attempts = inbox.attempts + %(attempts)s, error = NULL, handled_at = now(),
    key = NULL, headers = NULL, body = NULL
{_NAMED}, %(redriven)s::bool[]) AS wanted (topic, source, event_id, redriven)
WHERE inbox.event_id = wanted.event_id AND inbox.topic = wanted.topic AND inbox.source = wanted.source
    AND (state = 'redriven' OR (state = 'dead' AND wanted.redriven))
RETURNING inbox.topic, inbox.source, inbox.event_id
"""
_DIE = (
    _INSERT
    + """
ON CONFLICT (event_id, topic, source) DO UPDATE SET state = 'dead', attempts = inbox.attempts + EXCLUDED.attempts,
    error = EXCLUDED.error, handled_at = now(), key = EXCLUDED.key, headers = EXCLUDED.headers, body = EXCLUDED.body
WHERE inbox.state = 'redriven' RETURNING 1
"""
)


async def claim(work: UnitOfWork, delivery: Delivery, attempts: int) -> bool:
    """Take the event for this unit of work; False if it was handled (or died) before.

    Raises:
        Poison: the id was used before, with another body.
    """
    [claimed] = await claim_many(work, [delivery], attempts)
    if claimed == "reused":
        raise Poison("This event id was used before, with another body.", "Give each event an id of its own.")
    return claimed == "fresh"


async def claim_many(work: UnitOfWork, deliveries: Sequence[Delivery], attempts: int = 1) -> list[Claim]:
    """Take many events for this unit of work, in one statement where all are new; one answer for each, in order.

    Of copies among them the first is taken. `reused` is poison: the unit of work may go on without that one.
    """
    first: dict[Identity, Delivery] = {}
    for delivery in deliveries:
        first.setdefault(delivery.identity, delivery)
    bodies = {identity: delivery.body_sha256 for identity, delivery in first.items()}
    async with (await work.raw()).cursor() as cursor:
        rows = [delivery.row(delivery.envelope.id, "done", attempts) for delivery in first.values()]
        fresh: set[Identity] = set(await (await cursor.execute(_CLAIM, _arrays(rows))).fetchall())
        if seen := [delivery for identity, delivery in first.items() if identity not in fresh]:
            for *identity, body in await (
                await cursor.execute(_KNOWN, _arrays(map(_named, seen)))
            ).fetchall():
                bodies[identity[0], identity[1], identity[2]] = bytes(body)
            same = [_named(d) for d in seen if bodies[d.identity] == d.body_sha256]
            again = await cursor.execute(_AGAIN, {**_arrays(same), "attempts": attempts}) if same else None
            fresh |= set(await again.fetchall()) if again else set()
    claims: list[Claim] = []
    for delivery in deliveries:
        if delivery.body_sha256 != bodies[delivery.identity]:
            claims.append("reused")
        else:
            claims.append("fresh" if delivery.identity in fresh else "known")
            fresh.discard(delivery.identity)
    return claims


async def bury(work: UnitOfWork, service: str, delivery: Delivery, attempts: int, reason: str) -> bool:
    """Record the message as dead and send its copy to the dead letters; False if it was buried before."""
    async with (await work.raw()).cursor() as cursor:
        known = await (await cursor.execute(_KNOWN, _arrays([_named(delivery)]))).fetchone()
        same = known is None or bytes(known[3]) == delivery.body_sha256
        row = delivery.row(delivery.envelope.id if same else delivery.fingerprint, "dead", attempts, reason)
        if not await (await cursor.execute(_DIE, _arrays([row]))).fetchone():
            return False
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


def _named(delivery: Delivery) -> dict[str, Any]:
    topic, source, event_id = delivery.identity
    return {"topic": topic, "source": source, "event_id": event_id, "redriven": delivery.envelope.redriven}


def _arrays(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """One array for each column."""
    given = list(rows)
    return {name: [row[name] for row in given] for name in given[0]}
