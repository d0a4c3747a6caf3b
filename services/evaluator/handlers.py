"""Kafka edge: parse, one call, return."""

from services.evaluator.service import EvaluatorService
from shared.contracts.events import ModelDeclared, ModelPromoted, ModelTrained
from shared.delivery.bus import EventRouter, Work, make_router


def make_handlers(service: EvaluatorService) -> EventRouter:
    router = make_router("evaluator")

    @router.on(ModelDeclared)
    async def on_model_declared(event: ModelDeclared, work: Work) -> None:
        await service.declare(work, event)

    @router.on(ModelTrained)
    async def on_model_trained(event: ModelTrained, work: Work) -> None:
        await service.trained(work, event)

    @router.on(ModelPromoted)
    async def on_model_promoted(event: ModelPromoted, work: Work) -> None:
        await service.promote(work, event)

    return router
