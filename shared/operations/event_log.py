"""The events of one service, newest first: what it sent, and what reached it from producers outside the platform.

All services together are the log of the platform: each event of ours is in the outbox of the one that sent it.
"""

import json
from typing import Any

from psycopg.rows import dict_row

from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork
from shared.http.keyset import Cursor, page

SUMMARISED_BYTES = 65_536
"""Larger payloads are listed without their values."""
_LONGEST_VALUE = 500

# What is not from one of us. Written out, because only then does PostgreSQL use the index on just these rows.
_FOREIGN = "source NOT IN ('/data', '/trainer', '/evaluator', '/registry', '/serving', '/monitor')"
# Copies for the dead-letter topics are no events of their own; they are listed when asked for by topic.
_NO_COPIES = "topic NOT LIKE '%%.dlq'"
# Found by index first and sorted after: with LIMIT in sight PostgreSQL might walk the whole table by time instead.
_OUTBOX_BY_ID = """
WITH found AS MATERIALIZED (
    SELECT id FROM outbox WHERE event_id = %(id)s
    UNION SELECT id FROM outbox WHERE correlationid = %(id)s
    UNION SELECT id FROM outbox WHERE refs @> ARRAY[%(id)s]
)
"""
_INBOX_BY_ID = """
WITH found AS MATERIALIZED (
    SELECT event_id FROM inbox WHERE event_id = %(id)s
    UNION SELECT event_id FROM inbox WHERE correlationid = %(id)s
    UNION SELECT event_id FROM inbox WHERE refs @> ARRAY[%(id)s]
)
"""
_SENT = f"""
SELECT event_id, topic, correlationid, causationid, refs, created_at AS at, sent_at, dead_at, next_try_at, attempts,
    error, partition, "offset", headers, octet_length(body) AS bytes,
    CASE WHEN octet_length(body) <= {SUMMARISED_BYTES} THEN body END AS body
FROM outbox {{where}} ORDER BY created_at DESC, event_id DESC LIMIT %(limit)s
"""
_RECEIVED = """
SELECT event_id, topic, correlationid, causationid, refs, received_at AS at, recorded_at AS sent_at, type, source,
    state AS handled, error, partition, "offset"
FROM inbox {where} ORDER BY received_at DESC, event_id DESC LIMIT %(limit)s
"""


async def newest(
    work: UnitOfWork,
    service: str,
    topic: str | None = None,
    any_id: str | None = None,
    after: Cursor | None = None,
    limit: int = 50,
) -> Json:
    """A page of events.

    Args:
        any_id: an event's own id, that of its story, or one that its payload names.
    """
    given: Json = {"limit": limit + 1, "topic": topic, "id": any_id}
    if after:
        given |= {"after_at": after.at, "after_id": after.id}
    sent = await _rows(work, *_query(_SENT, "created_at", "id", _OUTBOX_BY_ID, given, []))
    received = await _rows(
        work, *_query(_RECEIVED, "received_at", "event_id", _INBOX_BY_ID, given, [_FOREIGN])
    )
    rows = [_sent(service, row) for row in sent] + [_received(service, row) for row in received]
    # Stable: rows of one moment stay as PostgreSQL orders their ids, which is how the next page goes on.
    rows.sort(key=lambda row: row["at"], reverse=True)
    shown, following = page(rows, limit, "at")
    return {"events": shown, "next": following}


def _query(
    template: str, time: str, key: str, by_id: str, given: Json, always: list[str]
) -> tuple[str, Json]:
    conditions = list(always)
    conditions.append("topic = %(topic)s" if given["topic"] else _NO_COPIES)
    if given["id"]:
        conditions.append(f"{key} IN (SELECT {key} FROM found)")
    if "after_at" in given:
        conditions.append(f"({time}, event_id) < (%(after_at)s, %(after_id)s)")
    where = "WHERE " + " AND ".join(conditions)
    return (by_id if given["id"] else "") + template.format(where=where), given


def _sent(service: str, row: Json) -> Json:
    headers = {name: _text(value) for name, value in row.pop("headers")}
    body = row.pop("body")
    if row["dead_at"]:
        state = "never sent"
    elif row["sent_at"]:
        state = "sent"
    else:
        state = "waiting"
    return {
        **row,
        "service": service,
        "state": state,
        "source": headers.get("ce_source", "/foreign"),
        "type": headers.get("ce_type"),
        "subject": headers.get("ce_subject"),
        "redriven": "ce_redrivenat" in headers,
        "headers": headers,
        "payload": summary(bytes(body) if body is not None else None),
    }


def _received(service: str, row: Json) -> Json:
    """The inbox keeps no payload and no headers of what was handled: Kafka has them."""
    return {
        **row,
        "service": service,
        "state": "received",
        "dead_at": None,
        "next_try_at": None,
        "attempts": 0,
        "subject": None,
        "redriven": False,
        "headers": {},
        "bytes": None,
        "payload": {},
    }


def summary(body: bytes | None) -> Json:
    """The scalars of a payload, shortened; nothing of one that is no JSON object: a redriven one may be anything."""
    try:
        payload = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(payload, dict):
        return {}
    return {
        name[:_LONGEST_VALUE]: item[:_LONGEST_VALUE] if isinstance(item, str) else item
        for name, item in payload.items()
        if isinstance(item, str | int | float) and item != ""
    }


def _text(value: Any) -> str:
    return f"base64:{value['base64']}" if isinstance(value, dict) else str(value or "")


async def _rows(work: UnitOfWork, query: str, parameters: Json) -> list[dict[str, Any]]:
    async with (await work.raw()).cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(query, parameters)).fetchall()
