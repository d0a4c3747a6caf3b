"""Each change of a rollout: its row, a line of its history and one event, in the caller's transaction.

The caller holds the lock of the model's row: whatever changes a model or its rollouts waits for it.
"""

from datetime import timedelta
from typing import NamedTuple

import structlog

from services.serving import store
from services.serving.domain import FIRST_VERSION, Announced, Change, ChangeState, LogicalModel, Rollout
from services.serving.metrics import ROLLOUTS
from services.serving.progress import judgement
from services.serving.ramp import TRIPWIRE, Advance, Arm, Complete, Hold, RollBack, Stats, decide
from shared.contracts.events import ArmStatistics, RolloutChanged
from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork
from shared.service.clock import Clock

log = structlog.get_logger()


class Numbers(NamedTuple):
    """What a change was decided on, taken before it."""

    judgement: Json | None = None
    arms: tuple[ArmStatistics, ...] = ()

    @classmethod
    def of(cls, rollout: Rollout, stats: Stats) -> "Numbers":
        return cls(judgement(rollout, stats), arm_statistics(rollout, stats))


class Rollouts:
    """The transitions: start, judge (advance, hold, complete), pause, resume, roll back, supersede."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def start(self, work: UnitOfWork, model: LogicalModel, rollout: Rollout) -> None:
        """First traffic for a version whose adapter answered its golden probe."""
        now = self._clock.now()
        rollout.state, rollout.champion_version = "running", model.champion_version
        rollout.started_at = rollout.step_started_at = now
        if model.champion_version is None:
            rollout.plan = FIRST_VERSION.model_dump(mode="json")
        model.rollout_id = rollout.id
        await self._announce(work, rollout, "started", "The adapter answers as it was evaluated.")

    async def judge(self, work: UnitOfWork, model: LogicalModel, rollout: Rollout, stats: Stats) -> None:
        """Apply what `decide` says about the present step; of a paused one only the tripwire is looked at."""
        if rollout.paused_at is not None and stats.errors_in_a_row < TRIPWIRE:
            return
        now = self._clock.now()
        numbers = Numbers.of(rollout, stats)
        elapsed = (now - (rollout.step_started_at or now)) / timedelta(seconds=1)
        match decide(rollout.ramp, rollout.step, stats, elapsed):
            case RollBack(reason):
                await self.roll_back(work, model, rollout, reason, numbers)
            case Complete(reason):
                rollout.state, rollout.ended_at = "completed", now
                await self._announce(work, rollout, "completed", reason, numbers)
            case Advance(reason):
                rollout.step, rollout.step_started_at = rollout.step + 1, now
                rollout.looks, rollout.passed = 0, False
                await self._announce(work, rollout, "advanced", reason, numbers)
            case Hold(reason, looked=True, passed=passed):
                rollout.looks, rollout.passed, rollout.reason = rollout.looks + 1, passed, reason
                if passed:
                    self.record(work, rollout, "passed", numbers)
                else:
                    await self._announce(work, rollout, "held", reason, numbers)
            case Hold(reason):
                rollout.reason = reason

    async def pause(self, work: UnitOfWork, rollout: Rollout, reason: str) -> None:
        rollout.paused_at = self._clock.now()
        await self._announce(work, rollout, "held", reason, change="paused")

    async def resume(self, work: UnitOfWork, rollout: Rollout, reason: str) -> None:
        rollout.paused_at = None
        await self._announce(work, rollout, "held", reason, change="resumed")

    async def roll_back(
        self,
        work: UnitOfWork,
        model: LogicalModel,
        rollout: Rollout,
        reason: str,
        numbers: Numbers | None = None,
    ) -> None:
        """All traffic back to the champion. A pending rollout ends the same way, before its first answer."""
        if model.rollout_id == rollout.id:
            model.rollout_id = None
        rollout.state, rollout.ended_at, rollout.paused_at = "rolled_back", self._clock.now(), None
        await self._announce(work, rollout, "rolled_back", reason, numbers)

    def supersede(self, work: UnitOfWork, rollout: Rollout, reason: str) -> None:
        """It is overtaken. No event: the promotion that did it was one."""
        rollout.state, rollout.ended_at, rollout.paused_at = "superseded", self._clock.now(), None
        rollout.reason = reason
        self.record(work, rollout, "superseded")

    def record(
        self, work: UnitOfWork, rollout: Rollout, state: ChangeState, numbers: Numbers | None = None
    ) -> None:
        """One more line of its history, as it stands now."""
        work.session.add(
            Change(
                rollout_id=rollout.id,
                at=self._clock.now(),
                state=state,
                step=rollout.step,
                weight=rollout.weight,
                reason=rollout.reason,
                judgement=numbers.judgement if numbers else None,
            )
        )

    async def _announce(
        self,
        work: UnitOfWork,
        rollout: Rollout,
        state: Announced,
        reason: str,
        numbers: Numbers | None = None,
        change: ChangeState | None = None,
    ) -> None:
        """Remember and tell. `change` is the history's word where events have none of their own."""
        rollout.reason = reason
        work.session.add(rollout)
        self.record(work, rollout, change or state, numbers)
        work.emit(
            RolloutChanged(
                model=rollout.model,
                rollout_id=rollout.id,
                model_version=rollout.model_version,
                champion_version=rollout.champion_version,
                state=state,
                step=rollout.step,
                weight=rollout.weight,
                statistics=numbers.arms if numbers else (),
                reason=reason[:2_000],
                drift_id=rollout.drift_id,
            )
        )
        ROLLOUTS.labels(state).inc()
        log.info(
            "rollout.changed",
            rollout=rollout.id,
            version=rollout.model_version,
            state=change or state,
            reason=reason,
        )
        await store.announce(work)


def arm_statistics(rollout: Rollout, stats: Stats) -> tuple[ArmStatistics, ...]:
    arms = [(rollout.model_version, stats.challenger)]
    if stats.champion is not None:
        arms.append((rollout.champion_version or 0, stats.champion))
    return tuple(_arm(version, arm) for version, arm in arms)


def _arm(version: int, arm: Arm) -> ArmStatistics:
    return ArmStatistics(
        model_version=version,
        answers=arm.answers,
        errors=arm.errors,
        latency_p99_ms=arm.latency_p99_ms,
        feedback=arm.feedback,
        mean_score=arm.mean_score,
    )
