"""One service's part of a causal story: what it sent, handled and worked on.

Inbox, outbox and job rows are the record; spans are only links.
"""

import re
from collections.abc import Sequence
from datetime import datetime

from psycopg.rows import dict_row

from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork
from shared.jobs.attempts import JOBS_OF
from shared.operations.event_log import summary

LIMIT = 2_000
_KEY_OF_AN_OBJECT = re.compile(r"(?:.*/)?sha256/([0-9a-f]{64})(?:/.*)?")
_CORRELATIONS = """
SELECT DISTINCT correlationid FROM (
    SELECT correlationid FROM outbox WHERE event_id = %(id)s OR correlationid = %(id)s OR refs @> ARRAY[%(id)s]
    UNION ALL
    SELECT correlationid FROM inbox WHERE event_id = %(id)s OR correlationid = %(id)s OR refs @> ARRAY[%(id)s]
    UNION ALL
    SELECT correlationid FROM attempts WHERE key = %(id)s AND correlationid IS NOT NULL
) AS found LIMIT 50
"""
_SENT = """
SELECT event_id, topic, correlationid, causationid, refs, partition, "offset", created_at, sent_at, dead_at, error, body
FROM outbox WHERE correlationid = ANY(%(ids)s) AND topic NOT LIKE '%%.dlq' ORDER BY id LIMIT %(limit)s
"""
_HANDLED = """
SELECT event_id, topic, type, source, correlationid, causationid, refs, partition, "offset", state, attempts, error,
    recorded_at, received_at, handled_at FROM inbox WHERE correlationid = ANY(%(ids)s) ORDER BY handled_at LIMIT %(limit)s
"""
_USUAL = """
SELECT count(*) AS count, percentile_cont(0.5) WITHIN GROUP (
    ORDER BY extract(epoch FROM sent.created_at - cause.handled_at)::float) AS seconds
FROM (SELECT causationid, created_at FROM outbox WHERE topic = %(topic)s ORDER BY id DESC LIMIT 20) AS sent
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


def searched(any_id: str) -> str:
    """The id to look for: of an object's key, the digest that names it."""
    found = _KEY_OF_AN_OBJECT.fullmatch(any_id)
    return found.group(1) if found else any_id


async def correlations(work: UnitOfWork, any_id: str) -> list[str]:
    """The stories in which an id occurs: of an event, a run, a dataset, a version, an answer, an object, a correlation."""
    async with (await work.raw()).cursor() as cursor:
        rows = await (await cursor.execute(_CORRELATIONS, {"id": searched(any_id)})).fetchall()
    return [row[0] for row in rows]


async def local_trace(work: UnitOfWork, service: str, ids: Sequence[str]) -> Json:
    """What this service sent, handled and worked on in the given stories, and how long its answers usually take.

    Returns:
        `sent`, `handled`, `jobs` (rows), `usual` (topic → median `seconds` and `count` of its last 20 answers).
    """
    async with (await work.raw()).cursor(row_factory=dict_row) as cursor:

        async def rows(query: str) -> list[Json]:
            found = await (await cursor.execute(query, {"ids": list(ids), "limit": LIMIT})).fetchall()
            return [_plain(row) for row in found]

        sent, handled, jobs = await rows(_SENT), await rows(_HANDLED), await rows(JOBS_OF)
        usual = {}
        for topic in ANSWERS.get(service, ()):
            usual[topic] = await (await cursor.execute(_USUAL, {"topic": topic})).fetchone()
    return {"service": service, "sent": sent, "handled": handled, "jobs": jobs, "usual": usual}


def _plain(row: Json) -> Json:
    if "body" in row:
        row["payload"] = summary(row.pop("body"))
    return {name: item.isoformat() if isinstance(item, datetime) else item for name, item in row.items()}
