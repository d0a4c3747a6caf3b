"""What waits in a service's own database: events to send, dead letters, jobs.

Every replica reports the same rows: take the largest, never the sum.
"""

from collections.abc import Collection
from typing import Any

from psycopg.rows import TupleRow

from shared.delivery.unit_of_work import Database
from shared.operations.measuring import measuring
from shared.telemetry.metrics import (
    DEAD_LETTERS,
    JOB_OLDEST_SECONDS,
    JOBS,
    OUTBOX_AGE_SECONDS,
    OUTBOX_PENDING,
)

EVERY_SECONDS = 5.0
STATES = ("waiting", "running")

MOST_COUNTED = 10_000
"""Beyond this a number is PostgreSQL's estimate: counting 300,000 rows each second is load without news."""
OUTBOX = f"""
SELECT CASE WHEN counted < {MOST_COUNTED} THEN counted ELSE greatest(counted, estimated) END AS pending,
    coalesce(extract(epoch FROM now() - oldest.created_at), 0)::float AS age_seconds
FROM (SELECT count(*) AS counted FROM (SELECT FROM outbox WHERE dead_at IS NULL LIMIT {MOST_COUNTED}) AS first) AS bounded,
    (SELECT reltuples::bigint AS estimated FROM pg_class WHERE oid = 'outbox'::regclass) AS whole
LEFT JOIN LATERAL (SELECT created_at FROM outbox WHERE dead_at IS NULL ORDER BY id LIMIT 1) AS oldest ON true
"""
_DEAD = "SELECT topic, count(*) FROM dead_letters WHERE state = 'dead' GROUP BY topic"
# A job whose worker fell silent waits for another one. A job that is to be tried later is not due before then.
_JOBS = """
SELECT task_name, state, count(*), greatest(0, extract(epoch FROM now() - min(since)))::float
FROM (
    SELECT task_name,
        CASE WHEN status = 'doing' AND last_heartbeat > now() - make_interval(secs => %s)
            THEN 'running' ELSE 'waiting' END AS state,
        CASE WHEN status = 'doing' AND last_heartbeat <= now() - make_interval(secs => %s)
            THEN last_heartbeat ELSE greatest(changed.at, scheduled_at) END AS since
    FROM procrastinate_jobs AS job
    LEFT JOIN procrastinate_workers AS worker ON worker.id = job.worker_id
    LEFT JOIN LATERAL (SELECT max(at) AS at FROM procrastinate_events WHERE job_id = job.id) AS changed ON true
    WHERE status IN ('todo', 'doing')
) AS open
GROUP BY task_name, state
"""


class Backlog:
    """Measures every few seconds.

    Args:
        topics: what the service consumes; each has its number of dead letters, 0 as well.
        stalled_after: seconds of silence after which a worker has lost its job.
    """

    def __init__(self, service: str, db: Database, topics: Collection[str], stalled_after: float) -> None:
        self._service = service
        self._db = db
        self._topics = topics
        self._stalled_after = stalled_after
        self._jobs: set[str] = set()

    async def run(self) -> None:
        gauges = (OUTBOX_PENDING, OUTBOX_AGE_SECONDS, DEAD_LETTERS, JOBS, JOB_OLDEST_SECONDS)
        await measuring("backlog", self.measure, gauges, EVERY_SECONDS)

    async def measure(self) -> None:
        """Look once, and show what was found."""
        async with self._db.unit_of_work() as work, (await work.raw()).cursor() as cursor:

            async def rows(query: str, *parameters: Any) -> list[TupleRow]:
                return await (await cursor.execute(query, parameters or None)).fetchall()

            [(pending, age)] = await rows(OUTBOX)
            dead: dict[str, int] = dict(await rows(_DEAD))
            jobs = await rows(_JOBS, self._stalled_after, self._stalled_after)
        OUTBOX_PENDING.labels(self._service).set(pending)
        OUTBOX_AGE_SECONDS.labels(self._service).set(age)
        for topic in {*self._topics, *dead}:
            DEAD_LETTERS.labels(self._service, topic).set(dead.get(topic, 0))
        self._show_jobs({(name, state): (number, oldest) for name, state, number, oldest in jobs})

    def _show_jobs(self, jobs: dict[tuple[str, str], tuple[int, float]]) -> None:
        """A kind of job that was seen once stays, at 0."""
        self._jobs |= {name for name, _ in jobs}
        for name in self._jobs:
            for state in STATES:
                number, oldest = jobs.get((name, state), (0, 0.0))
                JOBS.labels(self._service, name, state).set(number)
                JOB_OLDEST_SECONDS.labels(self._service, name, state).set(oldest)
