"""Composition root of the data service: `python -m services.data.app`. Datasets are built in worker.py."""

from fastapi import FastAPI

from services.data.api import make_api, make_erasure_api
from services.data.comparer import Comparer
from services.data.erasure import Forgetting
from services.data.handlers import make_handlers
from services.data.metrics import BuildCounts
from services.data.service import DataService
from services.data.settings import Settings
from services.data.store import waits
from services.data.waker import Waker
from shared.artifacts.base_model import base_digest
from shared.artifacts.objects import S3Objects
from shared.delivery.bus import make_broker
from shared.delivery.unit_of_work import Database
from shared.service.clock import SystemClock
from shared.service.runtime import make_app, run_app


def create_app(settings: Settings) -> FastAPI:
    base_digest(settings.base_model)  # a missing base model is found now, not at the first build
    db = Database(
        "data", settings.database_url.get_secret_value(), settings.trust(), pool=settings.database_connections
    )
    objects = S3Objects.of(settings)
    clock = SystemClock()
    service = DataService(objects, clock)
    return make_app(
        service="data",
        settings=settings,
        db=db,
        broker=make_broker(settings, db, "data", [make_handlers(service)]),
        api=[
            make_api(service, settings, Comparer(db, objects, clock, settings.scratch)),
            make_erasure_api(Forgetting(db, objects, clock)),
        ],
        background=[
            ("waker", Waker(db, service, settings.wake_seconds).run),
            ("builds", BuildCounts(db).run),
        ],
        store=objects,
        streamed=("/v1/files",),
        waits=waits,
    )


if __name__ == "__main__":
    run_app(create_app, Settings)
