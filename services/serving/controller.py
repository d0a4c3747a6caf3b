"""Moves rollouts: starts the next one when its adapter is ready, and judges the one that runs."""

import structlog

from services.serving import store
from services.serving.domain import LogicalModel, Rollout
from services.serving.live import Live, changed
from services.serving.rollouts import Rollouts
from shared.contracts.envelope import Envelope
from shared.delivery.unit_of_work import Database, UnitOfWork

log = structlog.get_logger()


class Controller:
    """Each change is one transaction under the lock of its model, so several controllers do not harm, and a restart
    goes on at the same step."""

    def __init__(self, db: Database, rollouts: Rollouts, live: Live, every_seconds: float) -> None:
        self._db = db
        self._rollouts = rollouts
        self._live = live
        self._every_seconds = every_seconds

    async def run(self) -> None:
        while True:
            try:
                await self.tick()
            except Exception:
                log.exception("controller.failed")
            await changed(self._live.wake_controller, self._every_seconds)

    async def tick(self) -> None:
        """One look at every model that has an open rollout."""
        rollouts = sorted(self._live.snapshot.rollouts.values(), key=lambda rollout: rollout.model_version)
        for rollout in rollouts:
            if rollout.state in ("pending", "running"):
                async with self._db.unit_of_work(_cause(rollout)) as work:
                    model = await store.lock_model(work, rollout.model)
                    await self._move(work, model, rollout.id)

    async def _move(self, work: UnitOfWork, model: LogicalModel, rollout_id: str) -> None:
        found = [
            rollout for rollout in await store.open_rollouts(work, model.name) if rollout.id == rollout_id
        ]
        for rollout in found:
            if rollout.state == "running":
                await self._rollouts.judge(work, model, rollout, self._live.errors_in_a_row[rollout.id])
            elif refusal := await store.refusal(work, rollout):
                await self._rollouts.roll_back(work, model, rollout, f"The adapter was refused: {refusal}")
            elif model.rollout_id is None and self._is_ready(rollout):
                await self._rollouts.start(work, model, rollout)

    def _is_ready(self, rollout: Rollout) -> bool:
        adapters = self._live.snapshot.adapters
        names = {(adapter.model, adapter.model_version): adapter.engine_name for adapter in adapters}
        return names.get((rollout.model, rollout.model_version)) in self._live.ready


def _cause(rollout: Rollout) -> Envelope | None:
    return Envelope.from_json(rollout.cause) if rollout.cause else None
