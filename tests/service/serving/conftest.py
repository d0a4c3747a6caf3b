"""A gateway on a real socket, in front of an engine that misbehaves on command."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
import uvicorn
from aiohttp import web
from fastapi import FastAPI
from psycopg import sql

from infra.base_model.tiny import make_tiny
from services.serving.domain import Adapter, LogicalModel, Rollout, Snapshot
from services.serving.settings import Settings
from shared.artifacts.objects import S3Objects
from shared.contracts.events import Event
from shared.contracts.policy import Ramp
from shared.delivery.schema import upgrade
from shared.delivery.unit_of_work import Database
from tests.kit import Keys
from tests.service.serving.small_engine import SmallEngine

_numbers = itertools.count(1)
V1, V2 = "support-v1-aaaaaaaa", "support-v2-bbbbbbbb"


@asynccontextmanager
async def served(app: FastAPI, lifespan: Literal["on", "off"] = "off") -> AsyncIterator[str]:
    """The app behind uvicorn, as in production; yields its URL. With lifespan on, its loops and Kafka run, too."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http="httptools", lifespan=lifespan, log_level="warning"
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


Behaviour = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


@dataclass
class ScriptedEngine:
    """An engine whose every answer is a test's decision; by engine name, else it echoes the last message."""

    url: str = ""
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    aborted: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.received.append((dict(request.headers), raw))
        body = json.loads(raw)
        try:
            return await self.behaviours.get(body["model"], say)(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted += 1
            raise


def chunk(text: str | None = None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    data = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


async def stream(request: web.Request, *pieces: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
    return response


async def say(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """The model's name, as an answer."""
    text = body["model"]
    if body.get("stream"):
        return await stream(
            request, chunk(text[:4]), chunk(text[4:]), chunk(finish="stop"), b"data: [DONE]\n\n"
        )
    identity = f"chatcmpl-{request.headers.get('x-request-id', 'probe')}"
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    known = {"id": identity, "object": "chat.completion", "created": 0, "model": text}
    return web.json_response({**known, "choices": [choice], "usage": usage})


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine()
    app = web.Application(client_max_size=4_194_304)
    app.router.add_post("/v1/chat/completions", engine.answer)
    app.router.add_post("/v1/completions", engine.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield engine
    await runner.cleanup()


@pytest.fixture
def make_settings(keys: Keys, tmp_path: Path) -> Callable[..., Settings]:
    def make(**more: Any) -> Settings:
        return Settings(
            **{
                "database_url": "postgresql://nobody@127.0.0.1:1/nothing",
                "auth_jwks_file": keys.jwks_file,
                "base_model": tmp_path,
                "adapter_cache": tmp_path / "adapters",
                "state_folder": tmp_path / "state",
                **more,
            }
        )

    return make


def adapter(name: str, version: int) -> Adapter:
    digest = f"{version:064d}"
    return Adapter(
        engine_name=name,
        model="support",
        model_version=version,
        adapter_digest=digest,
        base_digest="b" * 64,
        evidence_bucket="evaluations",
        evidence_key=f"sha256/{digest}/report.json",
        evidence_sha256=digest,
        targets=["q_proj"],
    )


def snapshot(*, champion: int | None = 1, challenger: int | None = None, weight: int = 100) -> Snapshot:
    """One model with versions 1 and 2; `challenger` has `weight` per cent of the traffic."""
    rollouts = {}
    if challenger:
        plan = Ramp(steps=(100,)) if weight == 100 else Ramp(steps=(weight, 100))
        rollouts["r1"] = Rollout(
            id="r1",
            model="support",
            model_version=challenger,
            champion_version=champion,
            plan=plan.model_dump(mode="json"),
            salt="pepper",
            state="running",
        )
    model = LogicalModel(name="support", champion_version=champion, rollout_id="r1" if challenger else None)
    return Snapshot({"support": model}, (adapter(V1, 1), adapter(V2, 2)), rollouts)


@pytest.fixture(scope="session")
def template(postgres: Any) -> str:
    """URL of a database at the newest schema, which tests copy: faster than migrating each."""
    url: str = postgres.fresh_database("serving")
    upgrade("serving", url)
    return url


@pytest.fixture
async def db(postgres: Any, template: str) -> AsyncIterator[Database]:
    """A database of the test's own, gone after it: hundreds of them would slow the server's end down."""
    name, origin = f"serving_{next(_numbers)}", template.rpartition("/")
    copy = sql.SQL("CREATE DATABASE {} OWNER serving TEMPLATE {}").format(
        sql.Identifier(name), sql.Identifier(origin[2])
    )
    async with await psycopg.AsyncConnection.connect(postgres.admin_url, autocommit=True) as connection:
        await connection.execute(copy)
        database = Database("serving", f"{origin[0]}/{name}")
        yield database
        await database.close()
        await connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def objects(s3: Any) -> S3Objects:
    return S3Objects(s3.endpoint, *s3.key("serving"))


@pytest.fixture(scope="session")
def small_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallEngine]:
    """A real engine on a tiny random model; it takes some seconds to be `ready`."""
    folder = tmp_path_factory.mktemp("engine")
    make_tiny(folder / "tiny")
    engine = SmallEngine(folder / "tiny", folder / "log")
    engine.start()
    yield engine
    engine.kill()


async def sent(db: Database, kind: type[Event]) -> list[Any]:
    """Events of one kind in the outbox, oldest first."""
    async with db.unit_of_work() as work:
        rows = await work.execute(
            "SELECT body FROM outbox WHERE topic = :topic ORDER BY id", {"topic": kind.topic}
        )
        return [kind.model_validate_json(bytes(row[0])) for row in rows]
