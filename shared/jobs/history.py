"""When each job was wanted, begun and ended, and what became of it: a trace tells waiting in the queue from work."""

from typing import Any, Literal

from shared.delivery.unit_of_work import Database, UnitOfWork

Outcome = Literal["done", "failed", "cancelled"]
_WANTED = """
INSERT INTO attempts (key, number, job, correlationid, causationid, deferred_at)
VALUES (:key, 0, :job, :correlationid, :causationid, now())
ON CONFLICT (key) DO UPDATE SET job = EXCLUDED.job, correlationid = EXCLUDED.correlationid,
    causationid = EXCLUDED.causationid, deferred_at = now(), started_at = NULL, ended_at = NULL, outcome = NULL, error = NULL
"""
_ENDED = """
UPDATE attempts SET ended_at = now(), outcome = :outcome, error = :error WHERE key = :key AND number = :number
"""
JOBS_OF = """
SELECT key, job, correlationid, causationid, number AS attempts, deferred_at, started_at, claimed_at, ended_at, outcome, error,
    cancel_reason FROM attempts WHERE correlationid = ANY(%(ids)s) AND job IS NOT NULL ORDER BY deferred_at LIMIT %(limit)s
"""
"""Rows for a trace. Not started: it waits in the queue. Not ended: somebody works on it, or its worker fell silent."""


async def wanted(work: UnitOfWork, key: str, job: str) -> None:
    """In the transaction that defers the job."""
    cause = work.cause
    parameters: dict[str, Any] = {
        "key": key,
        "job": job,
        "correlationid": cause.correlationid if cause else None,
        "causationid": cause.id if cause else None,
    }
    await work.execute(_WANTED, parameters)


async def ended(db: Database, key: str, number: int, outcome: Outcome, error: str | None = None) -> None:
    """For people to read: nothing is decided by it, and only the newest attempt writes it."""
    async with db.unit_of_work() as work:
        await work.execute(_ENDED, {"key": key, "number": number, "outcome": outcome, "error": error})
