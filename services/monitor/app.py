"""Composition root of the monitor: `python -m services.monitor.app`."""

from fastapi import FastAPI

from services.monitor.api import make_api
from services.monitor.detectors.process import DetectorProcess
from services.monitor.handlers import make_handlers
from services.monitor.measure import Measuring
from services.monitor.service import MonitorService
from services.monitor.settings import Settings
from services.monitor.watch import MEASURE_JOB, Watch
from shared.artifacts.objects import S3Objects
from shared.delivery.bus import make_broker
from shared.delivery.unit_of_work import Database
from shared.jobs.worker import Jobs
from shared.service.clock import Clock, SystemClock
from shared.service.runtime import make_app, run_app


def create_app(settings: Settings, clock: Clock | None = None) -> FastAPI:
    clock = clock or SystemClock()
    db = Database(
        "monitor",
        settings.database_url.get_secret_value(),
        settings.trust(),
        pool=settings.database_connections,
    )
    objects = S3Objects.of(settings)
    watch = Watch(db, settings, clock)
    detectors = DetectorProcess(settings.detector_timeout_seconds, settings.detector_idle_seconds)
    measuring = Measuring(objects, detectors, watch, settings, clock)
    jobs = Jobs("monitor", db, stalled_after=settings.stalled_after_seconds)
    jobs.add(MEASURE_JOB, measuring.run, measuring.failed)
    return make_app(
        service="monitor",
        settings=settings,
        db=db,
        broker=make_broker(settings, db, "monitor", [make_handlers(MonitorService(clock))]),
        api=[make_api(objects, clock)],
        jobs=jobs,
        background=[("watch", watch.run)],
        store=objects,
    )


if __name__ == "__main__":
    run_app(create_app, Settings)
