"""Kafka edge: parse, one call, return."""

from services.data.service import DataService
from shared.contracts.events import (
    DriftDetected,
    FeedbackRecorded,
    ModelDeclared,
    ModelPromoted,
    PredictionServed,
)
from shared.delivery.bus import EventRouter, Work, make_router


def make_handlers(service: DataService) -> EventRouter:
    router = make_router("data")

    @router.on(ModelDeclared)
    async def on_model_declared(event: ModelDeclared, work: Work) -> None:
        await service.declare(work, event)

    @router.on_batch(PredictionServed)
    async def on_prediction_served(events: list[PredictionServed], work: Work) -> None:
        await service.served(work, events)

    @router.on_batch(FeedbackRecorded)
    async def on_feedback_recorded(events: list[FeedbackRecorded], work: Work) -> None:
        await service.judged(work, events)

    @router.on(ModelPromoted)
    async def on_model_promoted(event: ModelPromoted, work: Work) -> None:
        await service.promote(work, event)

    @router.on(DriftDetected)
    async def on_drift_detected(event: DriftDetected, work: Work) -> None:
        await service.drifted(work, event)

    return router
