"""One service's part of a causal story: what it sent, handled and worked on.

Inbox, outbox and job rows are the record; spans are only links.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from psycopg.rows import dict_row

from shared.contracts.stories import LIMIT, searched
from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork
from shared.jobs.attempts import JOBS_OF
from shared.jobs.queue import ahead

_CORRELATIONS = """
SELECT DISTINCT correlationid FROM (
    SELECT correlationid FROM outbox WHERE event_id = %(id)s OR correlationid = %(id)s OR refs @> ARRAY[%(id)s]
    UNION ALL
    SELECT coalesce(correlationid, event_id) FROM sent
    WHERE event_id = %(id)s OR correlationid = %(id)s OR refs @> ARRAY[%(id)s]
    UNION ALL
    SELECT coalesce(correlationid, event_id) FROM inbox
    WHERE event_id = %(id)s OR correlationid = %(id)s OR refs @> ARRAY[%(id)s]
    UNION ALL
    SELECT correlationid FROM attempts WHERE key = %(id)s AND correlationid IS NOT NULL
) AS found LIMIT 50
"""
_SENT = """
SELECT event_id, topic, coalesce(correlationid, event_id) AS correlationid, causationid, coalesce(refs, '{}') AS refs,
    partition, "offset", created_at, sent_at, NULL AS dead_at, NULL AS error, coalesce(shown, '{}') AS payload
FROM sent
WHERE (correlationid = ANY(%(ids)s) OR event_id = ANY(%(ids)s) AND correlationid IS NULL) AND topic NOT LIKE '%%.dlq'
UNION ALL
SELECT event_id, topic, correlationid, causationid, coalesce(refs, '{}'), NULL, NULL, created_at, NULL, dead_at, error,
    coalesce(shown, '{}')
FROM outbox WHERE correlationid = ANY(%(ids)s) AND topic NOT LIKE '%%.dlq'
ORDER BY created_at, event_id LIMIT %(limit)s
"""
_HANDLED = """
SELECT inbox.event_id, inbox.topic, coalesce(type, inbox.topic || '.v1') AS type, inbox.source,
    coalesce(inbox.correlationid, inbox.event_id) AS correlationid, inbox.causationid,
    coalesce(inbox.refs, '{}') AS refs, inbox.partition, inbox."offset", inbox.state, inbox.attempts, error,
    inbox.recorded_at, inbox.received_at, inbox.handled_at
FROM inbox LEFT JOIN dead_letters AS dead ON inbox.state <> 'done'
    AND (dead.topic, dead.partition, dead."offset") = (inbox.topic, inbox.partition, inbox."offset")
WHERE inbox.correlationid = ANY(%(ids)s) OR inbox.event_id = ANY(%(ids)s) AND inbox.correlationid IS NULL
ORDER BY handled_at LIMIT %(limit)s
"""
_USUAL = """
SELECT count(*) AS count, percentile_cont(0.5) WITHIN GROUP (
    ORDER BY extract(epoch FROM sent.created_at - cause.handled_at)::float) AS seconds
FROM (
    SELECT causationid, created_at FROM sent WHERE topic = %(topic)s AND refs IS NOT NULL ORDER BY created_at DESC LIMIT 20
) AS sent
JOIN inbox AS cause ON cause.event_id = sent.causationid
"""
ANSWERS = {
    "data": ("dataset.ready",),
    "trainer": ("model.trained",),
    "evaluator": ("model.evaluated",),
    "registry": ("model.approved", "model.promoted"),
    "serving": ("rollout.changed",),
}
"""What each service says in answer to another, and how long that takes it is worth knowing."""


async def correlations(work: UnitOfWork, any_id: str) -> list[str]:
    """The stories in which an id occurs: of an event, a run, a dataset, a version, an answer, an object, a correlation."""
    async with (await work.raw()).cursor() as cursor:
        rows = await (await cursor.execute(_CORRELATIONS, {"id": searched(any_id)})).fetchall()
    return [row[0] for row in rows]


async def local_trace(work: UnitOfWork, service: str, ids: Sequence[str]) -> Json:
    """What this service sent, handled and worked on in the given stories, and how long its answers usually take.

    Returns:
        `sent`, `handled`, `jobs` (rows, each with what is `ahead` of it while it waits), `usual` (topic → median `seconds` and `count` of its last 20 answers).
    """
    async with (await work.raw()).cursor(row_factory=dict_row) as cursor:

        async def rows(query: str) -> list[Json]:
            found = await (await cursor.execute(query, {"ids": list(ids), "limit": LIMIT})).fetchall()
            return [_plain(row) for row in found]

        sent, handled, jobs = await rows(_SENT), await rows(_HANDLED), await rows(JOBS_OF)
        waiting = [job["key"] for job in jobs if not job["started_at"]]
        places = await ahead(work, waiting) if waiting else {}
        for job in jobs:
            job["ahead"] = asdict(places[job["key"]]) if job["key"] in places else None
        usual = {}
        for topic in ANSWERS.get(service, ()):
            usual[topic] = await (await cursor.execute(_USUAL, {"topic": topic})).fetchone()
    return {"service": service, "sent": sent, "handled": handled, "jobs": jobs, "usual": usual}


def _plain(row: Json) -> Json:
    return {name: item.isoformat() if isinstance(item, datetime) else item for name, item in row.items()}
