"""Kafka edge: parse, one call, return."""

from services.registry.service import Registry
from shared.contracts.events import ModelEvaluated, ModelTrained, RolloutChanged
from shared.delivery.bus import EventRouter, Work, make_router


def make_handlers(registry: Registry) -> EventRouter:
    router = make_router("registry")

    @router.on(ModelTrained)
    async def on_model_trained(event: ModelTrained, work: Work) -> None:
        await registry.trained(work, event)

    @router.on(ModelEvaluated)
    async def on_model_evaluated(event: ModelEvaluated, work: Work) -> None:
        await registry.evaluated(work, event)

    @router.on(RolloutChanged)
    async def on_rollout_changed(event: RolloutChanged, work: Work) -> None:
        await registry.rolled(work, event)

    return router
