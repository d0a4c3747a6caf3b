"""Composition root of the serving service: `python -m services.serving.app`."""

from fastapi import FastAPI

from services.serving.admission import BaseSpec
from services.serving.api import make_api
from services.serving.controller import Controller
from services.serving.engines import ENGINES
from services.serving.erasing import make_erasure_api
from services.serving.erasure import Eraser
from services.serving.gateway import Gateway
from services.serving.handlers import make_handlers
from services.serving.judgements import Judgements
from services.serving.last_known import LastKnown
from services.serving.live import Live
from services.serving.predictions import PredictionLog
from services.serving.reconciler import Reconciler
from services.serving.refresher import Refresher
from services.serving.rollouts import Rollouts
from services.serving.service import ServingService
from services.serving.settings import Settings
from services.serving.spool import Spool
from services.serving.upstream import Upstream
from services.serving.waits import waits
from shared.artifacts.objects import S3Objects
from shared.delivery.bus import make_broker
from shared.delivery.unit_of_work import Database
from shared.service.clock import SystemClock
from shared.service.runtime import make_app, run_app


def create_app(settings: Settings) -> FastAPI:
    """Raises NotFound or Invalid if the base model is missing or altered."""
    clock = SystemClock()
    db = Database(
        "serving",
        settings.database_url.get_secret_value(),
        settings.trust(),
        pool=settings.database_connections,
    )
    objects = S3Objects.of(settings)
    live = Live(settings.base_served_name, base_answers=settings.base_answers)
    spool = settings.state_folder / "spool"
    predictions = PredictionLog(
        Spool(spool / "predictions", settings.spool_bytes, settings.flush_records),
        db,
        objects,
        settings.flush_seconds,
    )
    rollouts = Rollouts(clock)
    service = ServingService(rollouts, predictions, clock, settings.feedback_wait_seconds)
    judgements = Judgements(
        service,
        db,
        objects,
        Spool(spool / "feedback", settings.spool_bytes // 16),
        settings.feedback_seconds,
        settings.feedback_wait_seconds,
    )
    upstream = Upstream(settings)
    engine = ENGINES[settings.engine](settings.engine_url, settings.probe_seconds)
    reconciler = Reconciler(settings, engine, objects, db, service, live, BaseSpec.read(settings.base_model))
    refresher = Refresher(db, live, LastKnown(settings.state_folder), settings.poll_seconds)

    eraser = Eraser(db, objects, clock)

    async def problems() -> list[str]:
        return live.problems()

    return make_app(
        service="serving",
        settings=settings,
        db=db,
        broker=make_broker(settings, db, "serving", [make_handlers(service)]),
        api=[
            make_api(service, Gateway(settings, live, upstream, predictions, clock), live, judgements),
            make_erasure_api(eraser),
        ],
        background=[
            ("refresher", refresher.run),
            ("reconciler", reconciler.run),
            ("reports", reconciler.keep_reporting),
            ("rollouts", Controller(db, rollouts, live, settings.rollout_seconds).run),
            ("predictions", predictions.run),
            ("feedback", judgements.run),
            ("erasures", eraser.run),
            ("upstream", upstream.keep),
        ],
        store=objects,
        ready=problems,
        waits=waits,
        needs=(),
        ends_when_stuck=False,
    )


if __name__ == "__main__":
    run_app(create_app, Settings)
