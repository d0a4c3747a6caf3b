"""What a service is doing right now, in one cheap look: for the console's live pages and for people who ask."""

from typing import Any

from psycopg.rows import dict_row

from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork
from shared.operations.backlog import OUTBOX

_SENT = "SELECT id, topic, created_at AS at, event_id FROM outbox ORDER BY id DESC LIMIT 1"
_HANDLED = "SELECT topic, handled_at AS at, event_id FROM inbox ORDER BY handled_at DESC LIMIT 1"
_DEAD = "SELECT count(*) AS dead FROM inbox WHERE state = 'dead'"
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
            return await (await cursor.execute(query)).fetchone() or {}

        outbox, sent, handled = await one(OUTBOX), await one(_SENT), await one(_HANDLED)
        dead, jobs = await one(_DEAD), await one(_JOBS)
    mark = (
        sent.get("id"),
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
        "sent": sent or None,
        "handled": handled or None,
        "dead_letters": dead["dead"],
        "jobs": jobs,
    }
