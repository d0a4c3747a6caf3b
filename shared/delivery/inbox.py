"""Events arrive inside the transaction of their effects, so a second delivery changes nothing.

A row says `done`, `dead` or `redriven`. Dead is not done: a redriven dead letter is handled again, once. What can be
done with the dead is in dead_letters.py.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from shared.contracts.envelope import Envelope
from shared.contracts.errors import Poison
from shared.delivery.outbox import dead_letter, pack_headers
from shared.delivery.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True)
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
    def place(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

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
            "refs": list(self.refs),
            "body_sha256": hashlib.sha256(self.body or b"").digest(),
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


_COLUMNS = (
    'event_id, topic, partition, "offset", type, source, correlationid, causationid, refs, body_sha256, state, '
    "attempts, error, event_time, recorded_at, received_at, key, headers, body"
)
_VALUES = ", ".join(f"%({name.strip().strip(chr(34))})s" for name in _COLUMNS.split(","))
_CLAIM = f"INSERT INTO inbox ({_COLUMNS}) VALUES ({_VALUES}) ON CONFLICT (event_id) DO NOTHING RETURNING 1"
_AGAIN = """
UPDATE inbox SET state = 'done', attempts = attempts + %(attempts)s, error = NULL, handled_at = now(),
    key = NULL, headers = NULL, body = NULL
WHERE event_id = %(event_id)s AND (state = 'redriven' OR (state = 'dead' AND %(redriven)s)) RETURNING 1
"""
_KNOWN = "SELECT body_sha256, state FROM inbox WHERE event_id = %s"
_DIE = f"""
INSERT INTO inbox ({_COLUMNS}) VALUES ({_VALUES})
ON CONFLICT (event_id) DO UPDATE SET state = 'dead', attempts = inbox.attempts + EXCLUDED.attempts,
    error = EXCLUDED.error, handled_at = now(), key = EXCLUDED.key, headers = EXCLUDED.headers, body = EXCLUDED.body
WHERE inbox.state = 'redriven' RETURNING 1
"""


async def claim(work: UnitOfWork, delivery: Delivery, attempts: int) -> bool:
    """Take the event for this unit of work; False if it was handled (or died) before.

    Raises:
        Poison: the id was used before, with another body.
    """
    event_id = delivery.envelope.id
    row = delivery.row(event_id, "done", attempts)
    async with (await work.raw()).cursor() as cursor:
        if await (await cursor.execute(_CLAIM, row)).fetchone():
            return True
        known = await (await cursor.execute(_KNOWN, (event_id,))).fetchone()
        if known and bytes(known[0]) != row["body_sha256"]:
            raise Poison(
                "This event id was used before, with another body.", "Give each event an id of its own."
            )
        again = {"event_id": event_id, "attempts": attempts, "redriven": delivery.envelope.redriven}
        return await (await cursor.execute(_AGAIN, again)).fetchone() is not None


async def bury(work: UnitOfWork, service: str, delivery: Delivery, attempts: int, reason: str) -> bool:
    """Record the message as dead and send its copy to the dead letters; False if it was buried before."""
    async with (await work.raw()).cursor() as cursor:
        known = await (await cursor.execute(_KNOWN, (delivery.envelope.id,))).fetchone()
        same = known is None or bytes(known[0]) == hashlib.sha256(delivery.body or b"").digest()
        event_id = delivery.envelope.id if same else delivery.place
        if not await (
            await cursor.execute(_DIE, delivery.row(event_id, "dead", attempts, reason))
        ).fetchone():
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
