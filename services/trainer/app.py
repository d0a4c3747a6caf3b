"""Composition root of the trainer: `python -m services.trainer.app`."""

from fastapi import FastAPI

from services.trainer.api import make_api
from services.trainer.fine_tuning import make_fine_tuning
from services.trainer.handlers import make_handlers
from services.trainer.methods import METHODS
from services.trainer.metrics import RunProgress
from services.trainer.service import TrainerService
from services.trainer.settings import Settings
from shared.artifacts.base_model import base_digest
from shared.artifacts.objects import S3Objects
from shared.delivery.bus import make_broker
from shared.delivery.unit_of_work import Database
from shared.service.clock import SystemClock
from shared.service.runtime import make_app, run_app


def create_app(settings: Settings) -> FastAPI:
    """Raises NotFound or Invalid if the base model is missing or altered."""
    db = Database(
        "trainer",
        settings.database_url.get_secret_value(),
        settings.trust(),
        pool=settings.database_connections,
    )
    objects = S3Objects.of(settings)
    clock = SystemClock()
    service = TrainerService(
        objects,
        clock,
        base=(settings.base_name, base_digest(settings.base_model)),
        methods=tuple(METHODS),
        tokens_per_second=settings.tokens_per_second,
    )
    return make_app(
        service="trainer",
        settings=settings,
        db=db,
        broker=make_broker(settings, db, "trainer", [make_handlers(service)]),
        api=[make_api(service, db), make_fine_tuning(service, clock)],
        background=[("progress", RunProgress(db).run)],
        store=objects,
    )


if __name__ == "__main__":
    run_app(create_app, Settings)
