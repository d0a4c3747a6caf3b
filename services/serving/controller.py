"""Moves rollouts: starts the next one when its adapter is ready, and judges the one that runs."""

import time

import structlog

from services.serving import store
from services.serving.domain import LogicalModel, Rollout
from services.serving.live import Live, changed
from services.serving.ramp import TRIPWIRE
from services.serving.rollouts import Rollouts
from shared.contracts.envelope import Envelope
from shared.delivery.failures import classify
from shared.delivery.unit_of_work import Database, UnitOfWork

log = structlog.get_logger()


_SHARE = 0.1
"""Part of the time that may go into counting the answers of one rollout, however many there are."""


class Controller:
    """Each change is one transaction under the lock of its model, so several controllers do not harm, and a restart
    goes on at the same step. The lock is not held while answers are counted: a rollback or promotion does not wait."""

    def __init__(
        self, db: Database, rollouts: Rollouts, live: Live, every_seconds: float, share: float = _SHARE
    ) -> None:
        self._db = db
        self._rollouts = rollouts
        self._live = live
        self._every_seconds = every_seconds
        self._share = share
        self._not_before: dict[str, float] = {}

    async def run(self) -> None:
        while True:
            try:
                await self.tick()
            except Exception as error:
                if classify(error).kind == "outage":
                    log.warning("controller.waiting", error=type(error).__name__)
                else:
                    log.exception("controller.failed")
            await changed(self._live.wake_controller, self._every_seconds)

    async def tick(self) -> None:
        """One look at every model that has an open rollout."""
        rollouts = sorted(self._live.snapshot.rollouts.values(), key=lambda rollout: rollout.model_version)
        self._not_before = {
            rollout.id: self._not_before[rollout.id] for rollout in rollouts if rollout.id in self._not_before
        }
        for rollout in rollouts:
            if rollout.state == "running":
                await self._judge(rollout)
            elif rollout.state == "pending":
                async with self._db.unit_of_work(_cause(rollout)) as work:
                    model = await store.lock_model(work, rollout.model)
                    await self._begin(work, model, rollout.id)

    async def _judge(self, seen: Rollout) -> None:
        """Count, then decide under the lock, if the rollout still is where it was counted."""
        errors, started = self._live.errors_in_a_row[seen.id], time.monotonic()
        tripped = errors >= TRIPWIRE
        if not tripped and (seen.paused_at is not None or started < self._not_before.get(seen.id, 0)):
            return
        async with self._db.unit_of_work() as work:
            stats = await store.statistics(work, seen, errors)
        self._not_before[seen.id] = started + (time.monotonic() - started) / self._share
        async with self._db.unit_of_work(_cause(seen)) as work:
            model = await store.lock_model(work, seen.model)
            for rollout in await store.open_rollouts(work, seen.model):
                if rollout.id == seen.id and _place(rollout) == _place(seen):
                    await self._rollouts.judge(work, model, rollout, stats)

    async def _begin(self, work: UnitOfWork, model: LogicalModel, rollout_id: str) -> None:
        for rollout in await store.open_rollouts(work, model.name):
            if rollout.id != rollout_id or rollout.state != "pending":
                continue
            if refusal := await store.refusal(work, rollout):
                await self._rollouts.roll_back(work, model, rollout, f"The adapter was refused: {refusal}")
            elif model.rollout_id is None and self._is_ready(rollout):
                await self._rollouts.start(work, model, rollout)

    def _is_ready(self, rollout: Rollout) -> bool:
        adapters = self._live.snapshot.adapters
        names = {(adapter.model, adapter.model_version): adapter.engine_name for adapter in adapters}
        return names.get((rollout.model, rollout.model_version)) in self._live.ready


def _place(rollout: Rollout) -> tuple[object, ...]:
    """What a count is of: another place needs another one."""
    return (
        rollout.state,
        rollout.step,
        rollout.step_started_at,
        rollout.looks,
        rollout.passed,
        rollout.paused_at,
    )


def _cause(rollout: Rollout) -> Envelope | None:
    return Envelope.from_json(rollout.cause) if rollout.cause else None
