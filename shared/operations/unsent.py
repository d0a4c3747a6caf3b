"""What Kafka does not take: see it, and have the relay try again what it gave up."""

from typing import Any

from psycopg.rows import dict_row

from shared.contracts.text import Json
from shared.delivery.outbox import WAKE
from shared.delivery.unit_of_work import UnitOfWork

MOST = 10_000
"""Tried again by one call."""
_LIST = """
SELECT id, event_id, topic, correlationid, created_at, attempts, error, dead_at, octet_length(body) AS bytes,
    CASE WHEN dead_at IS NULL THEN 'blocked' ELSE 'dead' END AS state
FROM outbox
WHERE (dead_at IS NOT NULL OR error IS NOT NULL) AND (%(topic)s::text IS NULL OR topic = %(topic)s)
ORDER BY id LIMIT %(limit)s
"""
_RETRY = """
UPDATE outbox SET dead_at = NULL, attempts = 0, error = NULL, next_try_at = now()
WHERE id IN (
    SELECT id FROM outbox WHERE dead_at IS NOT NULL AND (%(topic)s::text IS NULL OR topic = %(topic)s)
        AND (%(event_id)s::text IS NULL OR event_id = %(event_id)s)
    ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
RETURNING topic
"""


async def unsent(work: UnitOfWork, topic: str | None, limit: int) -> Json:
    """Events that Kafka refused, the oldest first: `dead` ones were given up, `blocked` ones head a topic that waits."""
    return {"unsent": await _rows(work, _LIST, {"topic": topic, "limit": limit})}


async def retry(work: UnitOfWork, topic: str | None, event_id: str | None) -> Json:
    """Let the relay send again what it gave up; returns how many events of which topics."""
    rows = await _rows(work, _RETRY, {"topic": topic, "event_id": event_id, "limit": MOST})
    await _rows(work, WAKE, {})
    topics = [row["topic"] for row in rows]
    return {
        "messages": len(rows),
        "by_topic": [{"topic": name, "messages": topics.count(name)} for name in sorted(set(topics))],
    }


async def _rows(work: UnitOfWork, query: str, parameters: Json) -> list[dict[str, Any]]:
    async with (await work.raw()).cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(query, parameters)).fetchall()
