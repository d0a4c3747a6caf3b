"""Kafka edge: parse, one call, return."""

from services.monitor.service import MonitorService
from shared.contracts.events import (
    FeedbackRecorded,
    ModelDeclared,
    ModelPromoted,
    ModelRejected,
    PredictionServed,
    RolloutChanged,
    TrainingStatus,
)
from shared.delivery.bus import EventRouter, Work, make_router


def make_handlers(service: MonitorService) -> EventRouter:
    router = make_router("monitor")

    @router.on(ModelDeclared)
    async def on_model_declared(event: ModelDeclared, work: Work) -> None:
        await service.declare(work, event)

    @router.on_batch(PredictionServed)
    async def on_prediction_served(events: list[PredictionServed], work: Work) -> None:
        await service.record_predictions(work, events)

    @router.on_batch(FeedbackRecorded)
    async def on_feedback_recorded(events: list[FeedbackRecorded], work: Work) -> None:
        await service.record_feedback(work, events)

    @router.on(ModelPromoted)
    async def on_model_promoted(event: ModelPromoted, work: Work) -> None:
        await service.promote(work, event)

    @router.on(RolloutChanged)
    async def on_rollout_changed(event: RolloutChanged, work: Work) -> None:
        await service.follow_rollout(work, event)

    @router.on(TrainingStatus)
    async def on_training_status(event: TrainingStatus, work: Work) -> None:
        await service.follow_training(work, event)

    @router.on(ModelRejected)
    async def on_model_rejected(event: ModelRejected, work: Work) -> None:
        await service.follow_rejection(work, event)

    return router
