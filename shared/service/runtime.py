"""How a service lives: start in order, say whether it is alive and ready, stop cleanly."""

import asyncio
import functools
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, TypeVar

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from faststream.kafka import KafkaBroker
from faststream.specification import AsyncAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.artifacts.objects import ObjectStore
from shared.contracts.errors import Invalid
from shared.contracts.text import Json
from shared.delivery.bus import Consumption, Progress, check_topics, make_producer
from shared.delivery.intake import EVENT_BY_TOPIC
from shared.delivery.outbox import Relay
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

_START_SECONDS = 120


class Lifecycle:
    """The state that the probes report."""

    def __init__(self) -> None:
        self.started = False
        self.stopping = False
        self.problems: Callable[[], Awaitable[list[str]]] | None = None

    async def reasons(self) -> list[str]:
        """Why this service is not ready; empty when it is."""
        if not self.started:
            return ["starting"]
        if self.stopping:
            return ["stopping"]
        return await self.problems() if self.problems else []


def make_app(
    service: str,
    settings: ServiceSettings,
    db: Database,
    broker: KafkaBroker,
    api: Sequence[APIRouter] = (),
    jobs: Jobs | None = None,
    background: Sequence[Background] = (),
    store: ObjectStore | None = None,
    ready: Callable[[], Awaitable[list[str]]] | None = None,
    streamed: Collection[str] = (),
    waits: Waits | None = None,
) -> FastAPI:
    """Assemble a service.

    Args:
        jobs: run in this process; leave out when a worker process runs them.
        background: named loops that run until cancelled; one that fails is logged and started again.
        ready: further reasons why the service is not ready.
        streamed: paths whose routes bound and read their bodies themselves.
        waits: what this service waits for in the stories with these correlation ids, each with a `reason` (words) and
            the `command` that shows more: for "why is it not moving".
    """
    lifecycle = Lifecycle()
    consumption: Consumption = broker.context.get("consumption")
    progress = Progress(broker, settings.liveness_seconds)
    topics = [topic for subscriber in broker.subscribers for topic in getattr(subscriber, "topic_names", [])]
    relay = Relay(
        service, settings.database_url.get_secret_value(), functools.partial(make_producer, settings, service)
    )

    async def problems() -> list[str]:
        found = [consumption.stopped_because] if consumption.stopped_because else []
        try:
            await asyncio.wait_for(db.ping(), 2)
        except Exception as error:  # noqa: BLE001 (any failure means the same: not ready)
            found.append(f"database: {type(error).__name__}")
        return [*found, *await authenticator.problems(), *(await ready() if ready else [])]

    authenticator = settings.authenticator()
    lag = Lag(service, broker, settings)
    backlog = Backlog(service, db, topics, settings.stalled_after_seconds)
    lifecycle.problems = problems

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(_keep(name, loop))
            for name, loop in (("relay", relay.run), ("lag", lag.run), ("backlog", backlog.run))
        ]
        if jobs:
            tasks.append(asyncio.create_task(_keep("jobs", jobs.run)))
        tasks += [asyncio.create_task(_keep(name, loop)) for name, loop in background]
        start = asyncio.create_task(_start(broker, settings, topics, lifecycle))
        tasks += [start, asyncio.create_task(_watch(progress, lifecycle))]
        try:
            yield
        finally:
            lifecycle.stopping = True
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
    app.state.lifecycle = lifecycle
    app.state.lag = lag
    guard(
        app,
        authenticator,
        public=PUBLIC_PATHS,
        max_body_bytes=settings.max_body_bytes,
        streamed=streamed,
    )
    app.include_router(_operations(service, lifecycle, broker, progress, lag, waits))
    app.include_router(make_event_operations(service, broker, settings))
    for router in api:
        app.include_router(router)
    return app


async def _start(
    broker: KafkaBroker, settings: ServiceSettings, topics: list[str], lifecycle: Lifecycle
) -> None:
    """Join Kafka, patiently: it may start after us. A missing topic after that ends the process with its name."""
    pause, waited = 0.2, 0.0
    while True:
        try:
            await check_topics(settings, topics)
            await broker.start()
        except Exception as error:  # noqa: BLE001 (whatever hinders the start is retried, then fatal)
            if waited >= _START_SECONDS:
                log.critical("start.failed", error=str(error)[:500])
                os.kill(os.getpid(), signal.SIGTERM)
                return
            log.warning("start.waiting", error=f"{type(error).__name__}: {error}"[:300])
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(pause * 2, 3.0)
        else:
            lifecycle.started = True
            return


async def _keep(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    pause = 0.5
    while True:
        try:
            await loop()
        except Exception:
            log.exception("background.failed", loop=name, seconds=pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 10.0)


async def _watch(progress: Progress, lifecycle: Lifecycle) -> None:
    """Exit when consumption is stuck: a supervisor's restart is the only cure known for a consumer that hangs."""
    while True:
        await asyncio.sleep(5)
        if lifecycle.started and (where := await progress.stuck()):
            log.critical("consumer.stuck", place=where)
            os.kill(os.getpid(), signal.SIGTERM)


def _operations(
    service: str,
    lifecycle: Lifecycle,
    broker: KafkaBroker,
    progress: Progress,
    lag: Lag,
    waits: Waits | None,
) -> APIRouter:
    """Probes, metrics, schema and trace: the same in every service."""
    router = APIRouter()

    @router.get("/health/live", tags=["operations"])
    async def live() -> Response:
        where = await progress.stuck()
        return JSONResponse({"alive": not where, "reasons": [where] if where else []}, 503 if where else 200)

    @router.get("/health/ready", tags=["operations"])
    async def ready() -> Response:
        reasons = await lifecycle.reasons()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    @router.get("/health/startup", tags=["operations"])
    async def startup() -> Response:
        return JSONResponse({"started": lifecycle.started}, 200 if lifecycle.started else 503)

    @router.get("/metrics", tags=["operations"])
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/asyncapi.json", tags=["operations"])
    async def asyncapi() -> Json:
        return describe(service, broker)

    @router.get("/pulse", tags=["operations"])
    async def pulse_now(work: HttpWork, _caller: Annotated[Caller, requires("monitor:read")]) -> Json:
        reasons = await lifecycle.reasons()
        behind = {topic: asdict(found) for topic, found in lag.by_topic().items()}
        return {**await pulse(work, service), "ready": not reasons, "reasons": reasons, "lag": behind}

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


def describe(service: str, broker: KafkaBroker) -> Json:
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


def run_worker(create_worker: Callable[[S], Jobs], settings_type: type[S]) -> None:
    """Run jobs until SIGTERM. The unfinished one goes back to the queue and resumes from its checkpoint."""
    settings = settings_type()
    configure(f"{settings.service}-worker", settings.log_level, settings.otlp_endpoint)
    asyncio.run(_worker(create_worker(settings)))
    flush()
    os._exit(0)


async def _worker(jobs: Jobs) -> None:
    task = asyncio.ensure_future(jobs.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    log.info("worker.started", host=socket.gethostname())
    await asyncio.wait({task}, timeout=None)
    if not task.cancelled() and (error := task.exception()):
        raise error


__all__ = ["PUBLIC_PATHS", "Background", "Lifecycle", "describe", "make_app", "run_app", "run_worker"]
