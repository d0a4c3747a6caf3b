"""How a service lives: start in order, say whether it is alive and ready, stop cleanly."""

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, TypeVar

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from faststream.specification import AsyncAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.artifacts.objects import ObjectStore
from shared.contracts.errors import Invalid
from shared.contracts.text import Json
from shared.delivery.bus import EventBroker, make_producer
from shared.delivery.intake import EVENT_BY_TOPIC
from shared.delivery.redrive import Redrive
from shared.delivery.relay import Relay
from shared.delivery.retention import Retention
from shared.delivery.unit_of_work import Database, UnitOfWork
from shared.http.auth import Caller, requires
from shared.http.server import server
from shared.http.web import HttpWork, guard
from shared.jobs.worker import Jobs
from shared.operations import trace
from shared.operations.backlog import Backlog
from shared.operations.lag import Lag
from shared.operations.pulse import pulse
from shared.operations.routes import make_event_operations
from shared.service.health import Health, Loop
from shared.service.progress import Progress, Watch
from shared.service.settings import HttpSettings, ServiceSettings
from shared.telemetry.logs import configure
from shared.telemetry.spans import REQUESTS, flush

log = structlog.get_logger()
S = TypeVar("S", bound=HttpSettings)
Background = tuple[str, Callable[[], Awaitable[None]]]
Waits = Callable[[UnitOfWork, Sequence[str]], Awaitable[list[Json]]]
PUBLIC_PATHS = (
    "/health/live",
    "/health/ready",
    "/health/startup",
    "/metrics",
    "/asyncapi.json",
    "/openapi.json",
)
"""What answers without a token: probes, metrics and schemas; a deployment keeps them off the public door."""


def make_app(
    service: str,
    settings: ServiceSettings,
    db: Database,
    broker: EventBroker,
    api: Sequence[APIRouter] = (),
    jobs: Jobs | None = None,
    background: Sequence[Background] = (),
    store: ObjectStore | None = None,
    ready: Callable[[], Awaitable[list[str]]] | None = None,
    streamed: Collection[str] = (),
    waits: Waits | None = None,
    needs: Collection[str] = ("database",),
    ends_when_stuck: bool = True,
) -> FastAPI:
    """Assemble a service.

    Args:
        jobs: run in this process; leave out when a worker process runs them.
        background: named loops that run until cancelled; one that fails is logged and started again.
        ready: further reasons why the service is not ready.
        streamed: paths whose routes bound and read their bodies themselves.
        waits: what this service waits for in the stories with these correlation ids, each with a `reason` (words) and
            the `command` that shows more: for "why is it not moving".
        needs: the parts without which no route answers: they alone make the service unready. What happens to any other
            part is reported.
        ends_when_stuck: end the process when a consumer hangs that was begun anew already. Not for a service whose
            routes answer users: it goes on to try.
    """
    relay = Relay(
        service, settings.database_url.get_secret_value(), functools.partial(make_producer, settings, service)
    )
    authenticator = settings.authenticator()
    lag = Lag(service, broker, settings)
    backlog = Backlog(service, db, list(broker.consumers), settings.stalled_after_seconds)
    loops = [
        Loop("relay", relay.run, lambda: relay.waits_for),
        Loop("redrive", Redrive(db, broker.again).run),
        Loop("retention", Retention(db, settings).run),
        Loop("lag", lag.run),
        Loop("backlog", backlog.run),
        *(Loop(name, run) for name, run in background),
    ]
    if jobs:
        loops.append(Loop("jobs", jobs.run, lambda: jobs.waits_for))
    consumers = broker.consumers.values()

    async def unready() -> list[str]:
        return [*await authenticator.problems(), *(await ready() if ready else [])]

    health = Health(db.apart(1), consumers, lag, loops, needs, unready)

    async def answering() -> bool:
        return (await health.database()).well

    progress = Progress(consumers, lag, settings.liveness_seconds, answering)
    watch = Watch(progress, broker, ends=ends_when_stuck)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(loop.keep()) for loop in (*loops, Loop("watch", watch.run))]
        await broker.start()
        health.started = True
        try:
            yield
        finally:
            health.stopping = True
            await broker.stop()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=10)
            await db.close()

    app = FastAPI(
        title=f"Driftwheel {service}",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=REQUESTS,
    )
    app.state.service = service
    app.state.db = db
    app.state.store = store
    app.state.lag = lag
    guard(
        app,
        authenticator,
        public=PUBLIC_PATHS,
        max_body_bytes=settings.max_body_bytes,
        streamed=streamed,
    )
    app.include_router(_operations(service, health, watch, broker, lag, waits))
    app.include_router(make_event_operations(service, broker, settings))
    for router in api:
        app.include_router(router)
    return app


def _operations(
    service: str,
    health: Health,
    watch: Watch,
    broker: EventBroker,
    lag: Lag,
    waits: Waits | None,
) -> APIRouter:
    """Probes, metrics, schema and trace: the same in every service."""
    router = APIRouter()

    @router.get("/health/live", tags=["operations"])
    async def live() -> Response:
        reasons = watch.reasons
        return JSONResponse({"alive": not reasons, "reasons": reasons}, 503 if reasons else 200)

    @router.get("/health/ready", tags=["operations"])
    async def ready() -> Response:
        """Whether this service can answer. `parts` are all that are not well, those it can do without as well."""
        parts = await health.parts()
        reasons = await health.reasons(parts)
        troubles = [part.to_json() for part in parts if not part.well]
        said = {"ready": not reasons, "reasons": reasons, "parts": troubles}
        return JSONResponse(said, 503 if reasons else 200)

    @router.get("/health/startup", tags=["operations"])
    async def startup() -> Response:
        return JSONResponse({"started": health.started}, 200 if health.started else 503)

    @router.get("/metrics", tags=["operations"])
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/asyncapi.json", tags=["operations"])
    async def asyncapi() -> Json:
        return describe(service, broker)

    @router.get("/pulse", tags=["operations"])
    async def pulse_now(work: HttpWork, _caller: Annotated[Caller, requires("monitor:read")]) -> Json:
        parts = await health.parts()
        reasons = await health.reasons(parts)
        return {
            **await pulse(work, service),
            "ready": not reasons,
            "reasons": reasons,
            "parts": [part.to_json() for part in parts],
            "lag": {topic: asdict(found) for topic, found in lag.by_topic().items()},
        }

    @router.get("/trace/{any_id:path}", tags=["operations"])
    async def trace_of(
        any_id: str, work: HttpWork, _caller: Annotated[Caller, requires("monitor:read")]
    ) -> Json:
        if len(any_id) > 200 or "\x00" in any_id:
            raise Invalid(
                "That is not an id.", "Give an event, run, dataset, version, answer or correlation id."
            )
        return {"correlations": await trace.correlations(work, any_id)}

    @router.get("/stories", tags=["operations"])
    async def stories(
        request: Request, work: HttpWork, _caller: Annotated[Caller, requires("monitor:read")]
    ) -> Json:
        """What this service did in the stories `?id=…` (repeatable, at most 50)."""
        ids = [item for item in request.query_params.getlist("id") if "\x00" not in item][:50]
        told = await trace.local_trace(work, service, ids)
        behind = {topic: asdict(found) for topic, found in lag.by_topic().items()}
        return {**told, "lag": behind, "waits": await waits(work, ids) if waits else []}

    return router


def describe(service: str, broker: EventBroker) -> Json:
    """FastStream's AsyncAPI document, with the consumer groups and CloudEvents headers it leaves out."""
    document: Json = (
        AsyncAPI(broker, title=f"Driftwheel {service}", version="1").to_specification().to_jsonable()
    )
    for name, channel in document.get("channels", {}).items():
        topic = str(channel.get("address", name))
        if topic in EVENT_BY_TOPIC:
            channel["x-consumer-group"] = f"{service}.{topic}"
            channel["x-cloudevents"] = {"type": EVENT_BY_TOPIC[topic].ce_type(), "mode": "binary"}
    return document


def run_app(create_app: Callable[[S], FastAPI], settings_type: type[S]) -> None:
    """Serve until SIGTERM. Ends the process even if a thread still works: its job is taken up again elsewhere."""
    settings = settings_type()
    configure(settings.service, settings.log_level, settings.otlp_endpoint)
    server(create_app(settings), settings.http_host, settings.http_port).run()
    flush()
    os._exit(0)


__all__ = ["PUBLIC_PATHS", "Background", "describe", "make_app", "run_app"]
