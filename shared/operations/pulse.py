"""What a service is doing right now, in one cheap look: for the console's live pages and for people who ask."""

from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import dict_row

from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork
from shared.operations.backlog import MOST_COUNTED, OUTBOX

# Of the last days alone, so that PostgreSQL opens few partitions.
_SENT = """
SELECT topic, created_at AS at, event_id FROM sent WHERE created_at > %(since)s ORDER BY created_at DESC LIMIT 1
"""
_WAITING = "SELECT id, topic, created_at AS at, event_id FROM outbox ORDER BY id DESC LIMIT 1"
_HANDLED = """
SELECT topic, handled_at AS at, event_id FROM inbox WHERE day >= %(since)s::date ORDER BY handled_at DESC LIMIT 1
"""
_RECENT = timedelta(days=8)
_DEAD = f"SELECT count(*) AS dead FROM (SELECT FROM dead_letters WHERE state = 'dead' LIMIT {MOST_COUNTED}) AS counted"
_JOBS = """
SELECT count(*) FILTER (WHERE status = 'todo') AS waiting, count(*) FILTER (WHERE status = 'doing') AS running,
    coalesce(extract(epoch FROM now() - min(deferred.at) FILTER (WHERE status = 'todo')), 0)::float AS oldest_seconds
FROM procrastinate_jobs AS job
LEFT JOIN procrastinate_events AS deferred ON deferred.job_id = job.id AND deferred.type = 'deferred'
WHERE status IN ('todo', 'doing')
"""


async def pulse(work: UnitOfWork, service: str) -> Json:
    """Its newest event out and in, and what waits. `mark` changes whenever anything did.

    Ages are in seconds.
    """
    async with (await work.raw()).cursor(row_factory=dict_row) as cursor:

        async def one(query: str) -> dict[str, Any]:
            given = {"since": datetime.now(UTC) - _RECENT}
            return await (await cursor.execute(query, given)).fetchone() or {}

        outbox, sent, handled = await one(OUTBOX), await one(_SENT), await one(_HANDLED)
        waiting, dead, jobs = await one(_WAITING), await one(_DEAD), await one(_JOBS)
    newest = waiting or sent
    mark = (
        newest.get("event_id"),
        sent.get("event_id"),
        handled.get("at"),
        dead["dead"],
        outbox["pending"],
        jobs["waiting"],
        jobs["running"],
    )
    return {
        "service": service,
        "mark": "|".join(str(part) for part in mark),
        "outbox": outbox,
        "sent": newest or None,
        "handled": handled or None,
        "dead_letters": dead["dead"],
        "jobs": jobs,
    }
