"""Composition root of the registry: `python -m services.registry.app`."""

from fastapi import FastAPI

from services.registry.api import make_api
from services.registry.catalogue import Catalogue
from services.registry.handlers import make_handlers
from services.registry.restating import Restating
from services.registry.service import Registry
from services.registry.settings import Settings
from shared.artifacts.objects import S3Objects
from shared.delivery.bus import make_broker
from shared.delivery.unit_of_work import Database
from shared.service.clock import SystemClock
from shared.service.runtime import make_app, run_app


def create_app(settings: Settings) -> FastAPI:
    db = Database(
        "registry",
        settings.database_url.get_secret_value(),
        settings.trust(),
        pool=settings.database_connections,
    )
    objects = S3Objects.of(settings)
    clock = SystemClock()
    registry, restating = Registry(objects, clock), Restating(db, clock, settings.restate_seconds)
    return make_app(
        service="registry",
        settings=settings,
        db=db,
        broker=make_broker(settings, db, "registry", [make_handlers(registry)]),
        api=[make_api(registry, Catalogue(objects), restating)],
        background=[("restating", restating.run)],
        store=objects,
    )


if __name__ == "__main__":
    run_app(create_app, Settings)
