"""The attempts at each job, one row per job: who may change anything, what that got done, and what became of the job.

A job may run more than once, but only its newest attempt may change anything. A trace tells waiting from work by it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from shared.contracts.envelope import Envelope
from shared.contracts.errors import Cancelled, Superseded
from shared.delivery.unit_of_work import Database, UnitOfWork

Outcome = Literal["done", "failed", "cancelled"]
_WANTED = """
INSERT INTO attempts (key, number, job, model, correlationid, causationid, deferred_at)
VALUES (:key, 0, :job, :model, :correlationid, :causationid, now())
ON CONFLICT (key) DO UPDATE SET job = EXCLUDED.job, model = EXCLUDED.model, correlationid = EXCLUDED.correlationid,
    causationid = EXCLUDED.causationid, deferred_at = now(), started_at = NULL, ended_at = NULL, outcome = NULL,
    error = NULL, crashes = 0, retries = 0
"""
# An attempt counts as a crash until somebody says how it ended: who was killed says nothing.
_CLAIM = """
INSERT INTO attempts (key, number, crashes) VALUES (:key, 1, 1)
ON CONFLICT (key) DO UPDATE SET number = attempts.number + 1, crashes = attempts.crashes + 1, claimed_at = now(),
    started_at = coalesce(attempts.started_at, now())
RETURNING number, crashes - 1, retries
"""
_PROGRESSED = "UPDATE attempts SET crashes = 0, retries = 0 WHERE key = :key AND number = :number"
_RELEASE = """
UPDATE attempts SET crashes = greatest(crashes - 1, 0), retries = retries + CAST(:counted AS int) WHERE key = :key
"""
_ENDED = """
UPDATE attempts SET ended_at = now(), outcome = :outcome, error = :error WHERE key = :key AND number = :number
"""
_CANCEL = """
INSERT INTO attempts (key, number, cancel_reason) VALUES (:key, 0, :reason)
ON CONFLICT (key) DO UPDATE SET cancel_reason = :reason
"""
JOBS_OF = """
SELECT key, job, model, correlationid, causationid, number AS attempts, deferred_at, started_at, claimed_at, ended_at, outcome,
    error, cancel_reason FROM attempts WHERE correlationid = ANY(%(ids)s) AND job IS NOT NULL ORDER BY deferred_at LIMIT %(limit)s
"""
"""Rows for a trace. Not started: it waits in the queue. Not ended: somebody works on it, or its worker fell silent."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The right to work on one job. It is lost as soon as a newer attempt of the same key is claimed.

    Attributes:
        crashes: attempts before this one that died in silence since the job last got anywhere.
        retries: attempts that ended with a passing error since then.
    """

    db: Database
    key: str
    number: int
    cause: Envelope | None
    crashes: int = 0
    retries: int = 0

    @classmethod
    async def claim(cls, db: Database, key: str, cause: Envelope | None) -> "Attempt":
        async with db.unit_of_work() as work:
            number, crashes, retries = (await work.execute(_CLAIM, {"key": key})).one()
        return cls(db, key, number, cause, crashes, retries)

    @asynccontextmanager
    async def work(self) -> AsyncIterator[UnitOfWork]:
        """A unit of work that only the newest attempt can commit: the attempt's row stays locked until its end.

        Raises:
            Superseded: a newer attempt was claimed.
        """
        async with self.db.unit_of_work(self.cause) as work:
            if await hold(work, self.key) != self.number:
                raise self._superseded()
            yield work

    async def check(self) -> None:
        """Raises Superseded or Cancelled if this attempt should stop. Call between steps."""
        async with self.db.unit_of_work() as work:
            row = await work.execute(
                "SELECT number, cancel_reason FROM attempts WHERE key = :key", {"key": self.key}
            )
            number, reason = row.one()
        if number != self.number:
            raise self._superseded()
        if reason is not None:
            raise Cancelled(reason)

    async def progressed(self, work: UnitOfWork | None = None) -> None:
        """Something was got done that the next attempt need not do again: what went wrong before no longer counts."""
        await self._write(_PROGRESSED, {"key": self.key, "number": self.number}, work)

    async def release(self, *, counted: bool = False) -> None:
        """This attempt ended in order, though the job did not: it is no crash. `counted` if it was a passing error."""
        await self._write(_RELEASE, {"key": self.key, "counted": counted})

    async def ended(self, outcome: Outcome, error: str | None = None) -> None:
        """For people to read: nothing is decided by it, and only the newest attempt writes it."""
        values = {"key": self.key, "number": self.number, "outcome": outcome, "error": error}
        await self._write(_ENDED, values)

    async def _write(self, statement: str, values: dict[str, Any], work: UnitOfWork | None = None) -> None:
        if work is not None:
            await work.execute(statement, values)
            return
        async with self.db.unit_of_work() as own:
            await own.execute(statement, values)

    def _superseded(self) -> Superseded:
        return Superseded(f"A newer attempt of {self.key} is running.", "Nothing to do: this one stops.")


async def hold(work: UnitOfWork, key: str) -> int | None:
    """Lock the attempts at this job until the end of the transaction; returns the newest one's number.

    Whoever changes both a job and its attempts takes this lock before the job's own row, as its worker does: in the
    other order the two would wait for each other.
    """
    rows = await work.execute("SELECT number FROM attempts WHERE key = :key FOR UPDATE", {"key": key})
    number: int | None = rows.scalar_one_or_none()
    return number


async def wanted(work: UnitOfWork, key: str, job: str, model: str | None) -> None:
    """In the transaction that defers the job."""
    cause = work.cause
    parameters: dict[str, Any] = {
        "key": key,
        "job": job,
        "model": model,
        "correlationid": cause.correlationid if cause else None,
        "causationid": cause.id if cause else None,
    }
    await work.execute(_WANTED, parameters)


async def request_cancel(work: UnitOfWork, key: str, reason: str) -> None:
    """Ask the job of this key to stop: it never starts if it has not, and else ends at its next `check()` or is ended.

    The caller holds the job (`hold`).
    """
    await work.execute(_CANCEL, {"key": key, "reason": reason})
