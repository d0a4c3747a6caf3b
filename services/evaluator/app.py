"""Composition root of the evaluator: `python -m services.evaluator.app`. The work itself is in worker.py."""

from fastapi import FastAPI

from services.evaluator.api import make_api
from services.evaluator.handlers import make_handlers
from services.evaluator.reading import AnswerReader
from services.evaluator.service import EvaluatorService
from services.evaluator.settings import Settings
from shared.artifacts.objects import S3Objects
from shared.delivery.bus import make_broker
from shared.delivery.unit_of_work import Database
from shared.service.clock import SystemClock
from shared.service.runtime import make_app, run_app


def create_app(settings: Settings) -> FastAPI:
    db = Database(
        "evaluator",
        settings.database_url.get_secret_value(),
        settings.trust(),
        pool=settings.database_connections,
    )
    objects = S3Objects.of(settings)
    service = EvaluatorService(SystemClock())
    return make_app(
        service="evaluator",
        settings=settings,
        db=db,
        broker=make_broker(settings, db, "evaluator", [make_handlers(service)]),
        api=[make_api(service, AnswerReader(objects))],
        store=objects,
    )


if __name__ == "__main__":
    run_app(create_app, Settings)
