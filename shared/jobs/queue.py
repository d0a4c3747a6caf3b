"""The queue: whose job comes next, and that nobody ends a job that has passed to another.

All SQL that knows Procrastinate's tables stands here; a test pins the release that it was written for.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from procrastinate.connector import BaseConnector
from procrastinate.exceptions import UniqueViolation
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager

from shared.delivery.unit_of_work import UnitOfWork

_TRIES = 5
# The first due job of each model; a job whose lock another one holds, or has before it, is not due.
_HEADS = """
WITH due AS (
    SELECT DISTINCT ON (coalesce(wanted.model, '')) job.id, coalesce(wanted.model, '') AS model
    FROM procrastinate_jobs AS job LEFT JOIN attempts AS wanted ON wanted.key = coalesce(job.lock, 'job-' || job.id)
    WHERE job.status = 'todo' AND job.task_name = ANY(%(names)s) AND (job.scheduled_at IS NULL OR job.scheduled_at <= now())
        AND NOT EXISTS (
            SELECT FROM procrastinate_jobs AS other WHERE other.lock = job.lock AND other.id <> job.id AND (
                other.status = 'doing'
                OR (other.status = 'todo' AND (other.priority > job.priority
                    OR (other.priority = job.priority AND other.id < job.id)))))
    ORDER BY coalesce(wanted.model, ''), job.priority DESC, job.id
), doing AS (
    SELECT coalesce(wanted.model, '') AS model, job.worker_id
    FROM procrastinate_jobs AS job LEFT JOIN attempts AS wanted ON wanted.key = coalesce(job.lock, 'job-' || job.id)
    WHERE job.status = 'doing' AND job.task_name = ANY(%(names)s)
)
SELECT due.id, due.model, (SELECT count(*) FROM doing WHERE doing.model = due.model) AS running,
    (SELECT max(claimed_at) FROM attempts
        WHERE attempts.model = due.model AND job = ANY(%(names)s) AND number > 0) AS served_at,
    (SELECT count(*) FROM doing WHERE worker_id = %(worker_id)s::bigint) AS mine
FROM due
"""
# All jobs that run or are due, in the order of `turn`, as it is now: who runs comes first, then a round of one job per
# model, then the next round.
_AHEAD = """
WITH due AS (
    SELECT job.id, coalesce(job.lock, 'job-' || job.id) AS key, job.task_name, job.status = 'doing' AS doing, wanted.model,
        row_number() OVER (
            PARTITION BY job.task_name, coalesce(wanted.model, '')
            ORDER BY job.status = 'doing' DESC, job.priority DESC, job.id
        ) AS round,
        (SELECT max(claimed_at) FROM attempts
            WHERE attempts.model = wanted.model AND attempts.job = job.task_name AND number > 0) AS served_at
    FROM procrastinate_jobs AS job LEFT JOIN attempts AS wanted ON wanted.key = coalesce(job.lock, 'job-' || job.id)
    WHERE job.status = 'doing' OR job.status = 'todo' AND (job.scheduled_at IS NULL OR job.scheduled_at <= now())
), placed AS (
    SELECT key, doing, row_number() OVER line - 1 AS jobs, lag(model) OVER line AS next_model, lag(key) OVER line AS next_key
    FROM due
    WINDOW line AS (PARTITION BY task_name ORDER BY doing DESC, round, served_at NULLS FIRST, id)
)
SELECT key, jobs, next_model, next_key FROM placed WHERE key = ANY(%(keys)s) AND NOT doing
"""
_TAKE = """
UPDATE procrastinate_jobs SET status = 'doing', worker_id = %(worker_id)s::bigint
WHERE id = %(id)s AND status = 'todo' RETURNING *
"""
_OWN = "id = %(id)s AND status = 'doing' AND worker_id IS NOT DISTINCT FROM %(worker_id)s::bigint"
_FORGET = f"DELETE FROM procrastinate_jobs WHERE {_OWN}"
_FINISH = f"""
UPDATE procrastinate_jobs SET status = %(status)s::procrastinate_job_status, attempts = attempts + 1, abort_requested = false
WHERE {_OWN}
"""
_RETRY = f"""
UPDATE procrastinate_jobs SET status = 'todo', attempts = attempts + 1, scheduled_at = %(at)s WHERE {_OWN}
"""


@dataclass(frozen=True, slots=True)
class Head:
    """The first waiting job of one model.

    Attributes:
        running: jobs of this model that are being worked on.
        served_at: when a worker last took one of its jobs; None if never.
    """

    id: int
    model: str
    running: int = 0
    served_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is before a waiting job, by the turns as they stand now: what others ask for later may come in between.

    Attributes:
        jobs: of its kind, running ones included.
        model, key: whose the nearest of them is, and which; None when there is none.
    """

    jobs: int
    model: str | None
    key: str | None


async def ahead(work: UnitOfWork, keys: Sequence[str]) -> dict[str, Ahead]:
    """What is before each of these jobs, by key; those that do not wait for their turn are left out."""
    async with (await work.raw()).cursor() as cursor:
        rows = await (await cursor.execute(_AHEAD, {"keys": list(keys)})).fetchall()
    return {key: Ahead(jobs, model, next_key) for key, jobs, model, next_key in rows}


def turn(heads: Iterable[Head], *, last_place: bool = False) -> Head | None:
    """Whose turn it is: who has the fewest running, then who was served the longest ago, then who came first.

    Args:
        last_place: only one more job fits beside those of this worker; it is kept for a model that has none running,
            so that slow jobs of one model cannot take all places.
    """
    never = datetime.min.replace(tzinfo=UTC)
    waiting = [head for head in heads if not (last_place and head.running)]
    return min(waiting, key=lambda head: (head.running, head.served_at or never, head.id), default=None)


class FairQueue(JobManager):
    """Procrastinate's jobs in fair order. A worker that was given up ends no job that has passed to another.

    Args:
        names: the kinds of jobs this worker knows; others are left to those who do.
        places: jobs that this worker runs side by side.
    """

    def __init__(self, connector: BaseConnector, names: Collection[str], places: int) -> None:
        super().__init__(connector)
        self._names = list(names)
        self._places = places

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        for _ in range(_TRIES):
            rows = await self._rows(_HEADS, names=self._names, worker_id=worker_id)
            last = self._places > 1 and bool(rows) and rows[0]["mine"] == self._places - 1
            heads = [Head(row["id"], row["model"], row["running"], row["served_at"]) for row in rows]
            if (head := turn(heads, last_place=last)) is None:
                return None
            try:
                taken = await self._rows(_TAKE, id=head.id, worker_id=worker_id)
            except UniqueViolation:  # another worker took one with the same lock
                continue
            if taken:
                return Job.from_row(taken[0])
        return None

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        statement = _FORGET if delete_job else _FINISH
        await self._execute(statement, id=job.id, worker_id=job.worker_id, status=status.value)

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        at = retry_at or datetime.now(UTC)
        await self._execute(_RETRY, id=job.id, worker_id=job.worker_id, at=at)

    async def _rows(self, statement: str, **values: Any) -> Sequence[dict[str, Any]]:
        found: Sequence[dict[str, Any]] = await self.connector.execute_query_all_async(statement, **values)
        return found

    async def _execute(self, statement: str, **values: Any) -> None:
        await self.connector.execute_query_async(statement, **values)
