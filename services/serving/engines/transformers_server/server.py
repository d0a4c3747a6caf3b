"""The routes: OpenAI's completions, vLLM's load and unload, health and metrics."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from services.serving.engines.transformers_server.adapters import BadAdapter
from services.serving.engines.transformers_server.answers import Answer
from services.serving.engines.transformers_server.engine import BadRequest, Engine, UnknownModel
from services.serving.engines.transformers_server.replies import (
    ChatReply,
    Reply,
    Text,
    TextReply,
    count,
    error,
)
from services.serving.engines.transformers_server.sampling import NotFinite
from services.serving.engines.transformers_server.scheduler import QueueFull
from services.serving.engines.transformers_server.schemas import (
    ChatRequest,
    Completing,
    CompletionRequest,
    LoadAdapter,
    UnloadAdapter,
)

log = structlog.get_logger()

_INTERNAL = "the engine failed to compute this answer"


class Disconnected(Exception):
    """Whoever asked has gone."""


def make_server(engine: Engine) -> FastAPI:
    """The app; its lifespan starts and stops the scheduler."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.scheduler.start()
        yield
        await asyncio.to_thread(engine.scheduler.stop)

    app = FastAPI(
        title="Driftwheel small engine", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    registry = CollectorRegistry()
    requests = Counter("driftwheel_engine_requests", "Completions asked for.", ["model"], registry=registry)
    running = Gauge("driftwheel_engine_running", "Answers in the batch.", registry=registry)
    queued = Gauge("driftwheel_engine_queued", "Answers that wait for room in the batch.", registry=registry)
    tokens = Gauge("driftwheel_engine_tokens", "Tokens generated since the start.", registry=registry)
    running.set_function(lambda: engine.scheduler.running)
    queued.set_function(lambda: engine.scheduler.queued)
    tokens.set_function(lambda: engine.scheduler.tokens)

    @app.get("/health")
    def health() -> Response:
        return Response(status_code=200 if engine.scheduler.alive else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = {engine.served_name: engine.folder} | engine.adapters()
        return {"object": "list", "data": [_card(engine, name, root) for name, root in names.items()]}

    @app.post("/v1/load_lora_adapter")
    async def load(body: LoadAdapter) -> PlainTextResponse:
        await engine.load(body.lora_name, Path(body.lora_path))
        return PlainTextResponse(f"Success: adapter {body.lora_name} added.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadAdapter) -> PlainTextResponse:
        engine.unload(body.lora_name)
        return PlainTextResponse(f"Success: adapter {body.lora_name} removed.")

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await complete(
            body, request, ChatReply(body.model, engine.decode, request.headers.get("x-request-id"))
        )

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await complete(
            body, request, TextReply(body.model, engine.decode, request.headers.get("x-request-id"))
        )

    async def complete(body: ChatRequest | CompletionRequest, request: Request, reply: Reply) -> Response:
        prompt = engine.encode(body)
        answer = engine.submit(body, prompt)
        requests.labels(body.model).inc()
        if body.stream:
            return StreamingResponse(
                _stream(body, reply, answer, len(prompt)), media_type="text/event-stream"
            )
        try:
            return JSONResponse(await _whole(body, reply, answer, len(prompt), request))
        except Disconnected:
            return Response(status_code=499)

    _render_errors(app)
    return app


async def _whole(body: Completing, reply: Reply, answer: Answer, prompt: int, request: Request) -> Any:
    """All texts in one body. Raises Disconnected once nobody waits for it; the rows leave the batch then."""
    collecting = asyncio.create_task(_collect(answer, body.n or 1))
    leaving = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            raise Disconnected
        return reply.whole(collecting.result(), count(prompt, answer.tokens), logprobs=body.wants_logprobs)
    finally:
        leaving.cancel()
        collecting.cancel()
        answer.cancel()


async def _collect(answer: Answer, n: int) -> list[Text]:
    texts = [Text() for _ in range(n)]
    async for index, piece in answer.pieces():
        texts[index].add(piece)
    return texts


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(body: Completing, reply: Reply, answer: Answer, prompt: int) -> AsyncIterator[bytes]:
    """Server-sent events. A failure is an error event before the last one: the status has been sent long ago."""
    try:
        for index in range(body.n or 1):
            if opening := reply.opening(index):
                yield _event(opening)
        async for index, piece in answer.pieces():
            if piece.text or piece.finish or body.wants_logprobs:
                yield _event(reply.chunk(index, piece, logprobs=body.wants_logprobs))
        if body.wants_usage:
            yield _event(reply.usage(count(prompt, answer.tokens)))
    except Exception:
        log.exception("engine.stream_failed")
        yield _event(error(_INTERNAL, "InternalServerError", 500))
    finally:
        answer.cancel()
    yield b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"


def _card(engine: Engine, name: str, root: Path) -> dict[str, Any]:
    parent = None if name == engine.served_name else engine.served_name
    card = {
        "id": name,
        "object": "model",
        "created": engine.created,
        "owned_by": "driftwheel",
        "root": str(root),
    }
    return card | {"parent": parent, "max_model_len": engine.max_model_len if parent is None else None}


def _render_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape; what was sent is never quoted."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, problem: RequestValidationError) -> JSONResponse:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _error(400, f"{where or 'body'}: {first['msg']}", "BadRequestError", where or None)

    @app.exception_handler(UnknownModel)
    async def unknown(_: Request, problem: UnknownModel) -> JSONResponse:
        return _error(404, "The model does not exist.", "NotFoundError", "model")

    @app.exception_handler(BadRequest)
    @app.exception_handler(BadAdapter)
    async def bad(_: Request, problem: Exception) -> JSONResponse:
        return _error(400, str(problem), "BadRequestError")

    @app.exception_handler(QueueFull)
    async def full(_: Request, problem: QueueFull) -> JSONResponse:
        answer = _error(429, "Too many requests wait already.", "TooManyRequests")
        answer.headers["retry-after"] = "1"
        return answer

    @app.exception_handler(NotFinite)
    async def not_finite(_: Request, problem: NotFinite) -> JSONResponse:
        return _error(500, str(problem), "InternalServerError")

    @app.exception_handler(Exception)
    async def failed(_: Request, problem: Exception) -> JSONResponse:
        return _error(500, _INTERNAL, "InternalServerError")


def _error(status: int, message: str, kind: str, param: str | None = None) -> JSONResponse:
    return JSONResponse(error(message, kind, status, param), status)
