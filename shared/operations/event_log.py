"""The events of one service, newest first: what it sent, and what reached it from producers outside the platform.

All services together are the log of the platform: each event of ours is in the outbox of the one that sent it, or in what
that one has sent. Shown is what the event class declares, never what a user wrote.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import dict_row

from shared.contracts.events import EVENTS
from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork
from shared.http.keyset import Cursor, page

# What is not from one of us. Written out, because only then does PostgreSQL use the index on just these rows.
_FOREIGN = "source NOT IN ('/data', '/trainer', '/evaluator', '/registry', '/serving', '/monitor')"
# Copies for the dead-letter topics are no events of their own; they are listed when asked for by topic.
_NO_COPIES = "topic NOT LIKE '%%.dlq'"
_PER_ANSWER = frozenset(event.topic for event in EVENTS if event.per_answer)
_TYPES = {event.topic: event.ce_type() for event in EVENTS}
_BY_ID = "(event_id = %(id)s OR correlationid = %(id)s OR refs @> ARRAY[%(id)s])"
_RECENT = timedelta(days=2)
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

_WAITING = """
SELECT event_id, topic, correlationid, causationid, coalesce(refs, '{}') AS refs, created_at AS at, NULL AS sent_at, dead_at,
    next_try_at, attempts, error, NULL AS partition, NULL AS "offset", octet_length(body) AS bytes,
    coalesce(shown, '{}') AS payload"""
_SENT = """
SELECT event_id, topic, coalesce(correlationid, event_id) AS correlationid, causationid, coalesce(refs, '{}') AS refs,
    created_at AS at, sent_at, NULL AS dead_at, NULL AS next_try_at, 0 AS attempts, NULL AS error, partition, "offset", bytes,
    coalesce(shown, '{}') AS payload"""
_RECEIVED = """
SELECT event_id, topic, coalesce(correlationid, event_id) AS correlationid, causationid, coalesce(refs, '{}') AS refs,
    received_at AS at, recorded_at AS sent_at, source, state AS handled, partition, "offset"
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
    since = (after.at if after else datetime.now(UTC)) - _RECENT
    given: Json = {"limit": limit + 1, "topic": topic, "id": any_id, "since": since}
    if after:
        given |= {"after_at": after.at, "after_id": after.id}
    waiting = await _rows(work, _query(_WAITING, "outbox", "created_at", given, []), given)
    sent = await _newest(work, _SENT, "sent", "created_at", "created_at > %(since)s", given, [])
    received = await _newest(
        work, _RECEIVED, "inbox", "received_at", "day > (%(since)s)::date", given, [_FOREIGN]
    )
    rows = [_ours(service, row) for row in waiting + sent] + [_received(service, row) for row in received]
    # By time and id, as PostgreSQL orders them, which is how the next page goes on.
    rows.sort(key=lambda row: (row["at"], row["event_id"]), reverse=True)
    shown, following = page(rows, limit, "at")
    return {"events": shown, "next": following}


async def _newest(
    work: UnitOfWork, columns: str, table: str, time: str, recent: str, given: Json, always: list[str]
) -> list[dict[str, Any]]:
    """Of the last days first: mostly that is enough, and saves opening a partition for each day that is kept."""
    if not given["id"]:
        found = await _rows(work, _query(columns, table, time, given, [*always, recent]), given)
        if len(found) == given["limit"]:
            return found
    return await _rows(work, _query(columns, table, time, given, always), given)


def _query(columns: str, table: str, time: str, given: Json, always: list[str]) -> str:
    conditions = list(always)
    conditions.append("topic = %(topic)s" if given["topic"] else _NO_COPIES)
    if table == "sent" and given["topic"] and given["topic"] not in _PER_ANSWER:
        conditions.append("refs IS NOT NULL")
    if "after_at" in given:
        conditions.append(f"{time} <= %(after_at)s AND ({time}, event_id) < (%(after_at)s, %(after_id)s)")
    where = " AND ".join(conditions)
    # Found by index first and sorted after: with LIMIT in sight PostgreSQL might walk the whole table by time instead.
    found = f"WITH found AS MATERIALIZED (SELECT * FROM {table} WHERE {_BY_ID})" if given["id"] else ""
    source = "found" if given["id"] else table
    return f"{found}{columns} FROM {source} WHERE {where} ORDER BY {time} DESC, event_id DESC LIMIT %(limit)s"


def _ours(service: str, row: Json) -> Json:
    state = "never sent" if row["dead_at"] else "sent" if row["sent_at"] else "waiting"
    return {
        **row,
        "service": service,
        "state": state,
        "source": f"/{service}",
        "type": _TYPES.get(row["topic"]),
        "subject": None,
        "redriven": False,
        "headers": {},
    }


def _received(service: str, row: Json) -> Json:
    """The inbox keeps no payload and no headers: Kafka has them."""
    return {
        **row,
        "service": service,
        "state": "received",
        "type": _TYPES.get(row["topic"]),
        "dead_at": None,
        "next_try_at": None,
        "attempts": 0,
        "error": None,
        "subject": None,
        "redriven": False,
        "headers": {},
        "bytes": None,
        "payload": {},
    }


async def _rows(work: UnitOfWork, query: str, parameters: Json) -> list[dict[str, Any]]:
    async with (await work.raw()).cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(query, parameters)).fetchall()
