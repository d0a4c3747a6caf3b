"""The SQL of flights: a retraining from its verdict to its end."""

from datetime import datetime

from shared.delivery.unit_of_work import UnitOfWork

_SUPERSEDED = "outcome LIKE 'superseded%'"
_FLIGHT = f"verdict = 'retrain' AND (ended_at IS NULL OR outcome = 'timed out' OR {_SUPERSEDED})"
_WAITING = "verdict = 'retrain' AND ended_at IS NULL AND run_id IS NULL AND new_version IS NULL"
_CORRECTED = """
SELECT count(DISTINCT answer_id) FROM feedback WHERE model = :model AND corrected AND seen_at >= :since
"""


class Flights:
    """Reads and writes in one unit of work. An id that is not ours changes nothing."""

    def __init__(self, work: UnitOfWork) -> None:
        self._work = work

    async def set_stage(self, drift_id: str, stage: str) -> None:
        """Say what a flight that has not ended does now."""
        await self._work.execute(
            "UPDATE drift SET stage = :stage WHERE id = :id AND ended_at IS NULL AND stage <> :stage",
            {"id": drift_id, "stage": stage},
        )

    async def advance(
        self,
        drift_id: str,
        stage: str,
        *,
        dataset_digest: str | None = None,
        run_id: str | None = None,
        new_version: int | None = None,
    ) -> None:
        """A flight got on. One that was superseded while it waited is in the air again: two may not train at once."""
        await self._work.execute(
            "UPDATE drift SET stage = :stage, dataset_digest = coalesce(:dataset, dataset_digest), "
            "run_id = coalesce(:run, run_id), new_version = coalesce(:version, new_version), "
            f"ended_at = CASE WHEN {_SUPERSEDED} THEN NULL ELSE ended_at END, "
            f"outcome = CASE WHEN {_SUPERSEDED} THEN '' ELSE outcome END WHERE id = :id AND {_FLIGHT}",
            {
                "id": drift_id,
                "stage": stage,
                "dataset": dataset_digest,
                "run": run_id,
                "version": new_version,
            },
        )

    async def end(self, drift_id: str, outcome: str, at: datetime) -> None:
        """The first real end counts; a time-out or a superseding gives way to it."""
        await self._work.execute(
            f"UPDATE drift SET ended_at = :at, outcome = :outcome WHERE id = :id AND {_FLIGHT}",
            {"id": drift_id, "outcome": outcome, "at": at},
        )

    async def supersede_waiting(self, model: str, by: str, at: datetime) -> None:
        """End the flights of a model that still wait for their dataset."""
        await self._work.execute(
            f"UPDATE drift SET ended_at = :at, outcome = :outcome WHERE model = :model AND {_WAITING}",
            {"model": model, "outcome": f"superseded: {by}", "at": at},
        )

    async def corrected_since(self, model: str, since: datetime) -> int:
        """Answers of a model that somebody corrected."""
        rows = await self._work.execute(_CORRECTED, {"model": model, "since": since})
        return int(rows.scalar() or 0)

    async def time_out(self, model: str, announced_before: datetime, at: datetime) -> None:
        await self._work.execute(
            "UPDATE drift SET ended_at = :at, outcome = 'timed out' WHERE model = :model AND verdict = 'retrain' "
            "AND ended_at IS NULL AND announced_at < :before",
            {"model": model, "before": announced_before, "at": at},
        )
