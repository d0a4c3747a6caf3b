"""Kafka edge: parse, one call, return."""

from services.serving.service import ServingService
from shared.contracts.events import FeedbackRecorded, ModelApproved, ModelDeclared, ModelPromoted
from shared.delivery.bus import EventRouter, Work, make_router


def make_handlers(service: ServingService) -> EventRouter:
    router = make_router("serving")

    @router.on(ModelDeclared)
    async def on_model_declared(event: ModelDeclared, work: Work) -> None:
        await service.declare(work, event)

    @router.on(ModelApproved)
    async def on_model_approved(event: ModelApproved, work: Work) -> None:
        await service.approve(work, event)

    @router.on(ModelPromoted)
    async def on_model_promoted(event: ModelPromoted, work: Work) -> None:
        await service.promote(work, event)

    @router.on(FeedbackRecorded)
    async def on_feedback_recorded(event: FeedbackRecorded, work: Work) -> None:
        await service.hear(work, event)

    return router
