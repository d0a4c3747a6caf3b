"""What events tell the monitor: each becomes a row, and any of them may come first, late or twice."""

from collections.abc import Sequence
from datetime import UTC, datetime

from services.monitor.domain import PREDICTIONS, Feedback, Prediction, Promotion, Rollout, Watched
from services.monitor.flights import Flights
from services.monitor.store import Store
from shared.contracts.counters import is_newer
from shared.contracts.events import (
    FeedbackRecorded,
    ModelDeclared,
    ModelPromoted,
    ModelRejected,
    PredictionServed,
    RolloutChanged,
    TrainingStatus,
)
from shared.delivery.unit_of_work import UnitOfWork
from shared.service.clock import Clock

_ENDS_IN = ("rejected", "failed", "cancelled")


class MonitorService:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def declare(self, work: UnitOfWork, event: ModelDeclared) -> None:
        policy = event.policy
        await Store(work).put_watched(
            Watched(
                model=event.model,
                revision=event.revision,
                drift=policy.drift.model_dump(mode="json"),
                retrain=policy.retrain.model_dump(mode="json"),
            )
        )

    async def record_predictions(self, work: UnitOfWork, events: Sequence[PredictionServed]) -> None:
        await Store(work).add_new([self._prediction(event) for event in events])

    def _prediction(self, event: PredictionServed) -> Prediction:
        # Only the bucket of predictions is ever read, whatever an event may name.
        place = event.text if event.text and event.text.bucket == PREDICTIONS else None
        return Prediction(
            answer_id=event.answer_id,
            model=event.model,
            model_version=event.model_version,
            arm=event.arm,
            outcome=event.outcome,
            error=event.error,
            latency_ms=event.latency_ms,
            first_token_ms=event.first_token_ms,
            text_key=place.key if place else None,
            text_line=place.line if place else None,
            served_at=_aware(event.served_at),
            seen_at=self._clock.now(),
        )

    async def record_feedback(self, work: UnitOfWork, events: Sequence[FeedbackRecorded]) -> None:
        rows = [
            Feedback(
                feedback_id=event.feedback_id,
                answer_id=event.answer_id,
                model=event.model,
                score=event.score,
                corrected=event.is_corrected,
                seen_at=self._clock.now(),
            )
            for event in events
        ]
        await Store(work).add_new(rows)

    async def promote(self, work: UnitOfWork, event: ModelPromoted) -> None:
        """The version serves from now on; flights that still wait for their dataset were for what it replaced."""
        store = Store(work)
        serving = await store.champion(event.model)
        news = is_newer(serving.sequence if serving else 0, event.sequence, "sequence")
        new = await store.add_once(
            Promotion(
                model=event.model,
                sequence=event.sequence,
                model_version=event.model_version,
                dataset_digest=event.dataset_digest,
                quality=event.quality,
                rollback=event.rollback,
                promoted_at=self._clock.now(),
            )
        )
        if new and event.drift_id:
            await Flights(work).end(event.drift_id, "promoted", self._clock.now())
        if new and news:
            by = f"version {event.model_version} became champion"
            await Flights(work).supersede_waiting(event.model, by, self._clock.now())

    async def follow_rollout(self, work: UnitOfWork, event: RolloutChanged) -> None:
        store = Store(work)
        await store.put_rollout(
            Rollout(
                rollout_id=event.rollout_id,
                model=event.model,
                model_version=event.model_version,
                champion_version=event.champion_version,
                state=event.state,
                step=event.step,
                weight=event.weight,
                reason=event.reason,
                seen_at=self._clock.now(),
            )
        )
        if event.drift_id and event.state == "rolled_back":
            await Flights(work).end(event.drift_id, "rolled back", self._clock.now())
        elif event.drift_id:
            stage = f"rollout {event.state}, {event.weight:g} %"
            await Flights(work).advance(event.drift_id, stage, new_version=event.model_version)

    async def follow_training(self, work: UnitOfWork, event: TrainingStatus) -> None:
        if not event.drift_id:
            return
        if event.state in _ENDS_IN:
            outcome = f"training {event.state}: {event.reason}"
            await Flights(work).end(event.drift_id, outcome[:500], self._clock.now())
        else:
            await Flights(work).advance(
                event.drift_id,
                f"training {event.state}",
                dataset_digest=event.dataset_digest,
                run_id=event.run_id,
            )

    async def follow_rejection(self, work: UnitOfWork, event: ModelRejected) -> None:
        if event.drift_id:
            outcome = f"version {event.model_version} rejected: {'; '.join(event.reasons)}"
            await Flights(work).end(event.drift_id, outcome[:500], self._clock.now())


def _aware(time: datetime) -> datetime:
    """A producer that names no zone means UTC."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)
