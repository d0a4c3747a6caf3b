"""Fencing: a job may run more than once, but only its newest attempt may change anything."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.contracts.envelope import Envelope
from shared.contracts.errors import Cancelled, Superseded
from shared.delivery.unit_of_work import Database, UnitOfWork


class Attempt:
    """The right to work on one job. It is lost as soon as a newer attempt of the same key is claimed."""

    def __init__(self, db: Database, key: str, number: int, cause: Envelope | None) -> None:
        self._db = db
        self.key = key
        self.number = number
        self.cause = cause

    @classmethod
    async def claim(cls, db: Database, key: str, cause: Envelope | None) -> "Attempt":
        async with db.unit_of_work() as work:
            row = await work.execute(
                "INSERT INTO attempts (key, number) VALUES (:key, 1) ON CONFLICT (key) "
                "DO UPDATE SET number = attempts.number + 1, claimed_at = now(), "
                "started_at = coalesce(attempts.started_at, now()) RETURNING number",
                {"key": key},
            )
            return cls(db, key, row.scalar_one(), cause)

    @asynccontextmanager
    async def work(self) -> AsyncIterator[UnitOfWork]:
        """A unit of work that only the newest attempt can commit: the attempt's row stays locked until its end.

        Raises:
            Superseded: a newer attempt was claimed.
        """
        async with self._db.unit_of_work(self.cause) as work:
            row = await work.execute(
                "SELECT number FROM attempts WHERE key = :key FOR UPDATE", {"key": self.key}
            )
            if row.scalar_one() != self.number:
                raise Superseded(
                    f"A newer attempt of {self.key} is running.", "Nothing to do: this one stops."
                )
            yield work

    async def check(self) -> None:
        """Raises Superseded or Cancelled if this attempt should stop. Call between steps."""
        async with self._db.unit_of_work() as work:
            row = await work.execute(
                "SELECT number, cancel_reason FROM attempts WHERE key = :key", {"key": self.key}
            )
            number, reason = row.one()
        if number != self.number:
            raise Superseded(f"A newer attempt of {self.key} is running.", "Nothing to do: this one stops.")
        if reason is not None:
            raise Cancelled(reason)
