"""Kafka edge: parse, one call, return."""

from services.trainer.service import TrainerService
from shared.contracts.events import DatasetReady, ModelDeclared, ModelRejected, TrainingRequested
from shared.delivery.bus import EventRouter, Work, make_router


def make_handlers(service: TrainerService) -> EventRouter:
    router = make_router("trainer")

    @router.on(ModelDeclared)
    async def on_model_declared(event: ModelDeclared, work: Work) -> None:
        await service.declare(work, event)

    @router.on(DatasetReady)
    async def on_dataset_ready(event: DatasetReady, work: Work) -> None:
        await service.dataset_ready(work, event)

    @router.on(TrainingRequested)
    async def on_training_requested(event: TrainingRequested, work: Work) -> None:
        await service.requested(work, event)

    @router.on(ModelRejected)
    async def on_model_rejected(event: ModelRejected, work: Work) -> None:
        await service.rejected(work, event)

    return router
