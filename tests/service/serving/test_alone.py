"""The whole service without Kafka, PostgreSQL and S3, from its first second: refused, or taken and never answered."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from infra.base_model.tiny import make_tiny
from services.serving.admission import BaseSpec
from services.serving.app import create_app
from services.serving.domain import Adapter, LogicalModel, Snapshot
from services.serving.last_known import LastKnown, write
from services.serving.settings import Settings
from shared.artifacts.objects import Manifest
from shared.contracts.events import FeedbackRecorded, PredictionServed
from shared.delivery.unit_of_work import Database
from tests.service.serving.conftest import Keys, say, sent, served
from tests.service.serving.small_engine import RANK, TARGETS, adapter_files, until

NAME = "support-v1-aaaaaaaa"
ASK = {"model": "support", "messages": [{"role": "user", "content": "where is my card?"}]}


@asynccontextmanager
async def engine() -> AsyncIterator[str]:
    """One that holds the adapter, and answers with the name of whom it is asked for."""

    async def healthy(_request: web.Request) -> web.Response:
        return web.json_response({})

    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "base", "parent": None}, {"id": NAME, "parent": "base"}]})

    async def answer(request: web.Request) -> web.StreamResponse:
        return await say(request, await request.json())

    app = web.Application()
    app.router.add_get("/health", healthy)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@asynccontextmanager
async def silence() -> AsyncIterator[int]:
    """A port that takes every connection and never says a word, as a frozen process does."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            pass
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def left_by_the_process_before(base: Path, settings: Settings) -> None:
    """Its routes, and an adapter with its proof."""
    files = adapter_files(base, 1)
    described = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in sorted(files.items())
    }
    manifest = Manifest(described, {"version": 1}).canonical()
    golden = {"messages": ASK["messages"], "answer": NAME, "base_answer": "base", "max_tokens": 4}
    report = json.dumps({"golden": [golden]}).encode()
    digest, evidence = (hashlib.sha256(one).hexdigest() for one in (manifest, report))
    for content in (manifest, report):
        write(settings.state_folder / "documents" / f"{hashlib.sha256(content).hexdigest()}.json", content)
    for name, content in files.items():
        write(settings.adapter_cache / digest / name, content)
    adapter = Adapter(
        engine_name=NAME,
        model="support",
        model_version=1,
        adapter_digest=digest,
        base_digest=BaseSpec.read(base).digest,
        evidence_bucket="evaluations",
        evidence_key="k",
        evidence_sha256=evidence,
        targets=list(TARGETS),
        state="probed",
    )
    model = LogicalModel(name="support", champion_version=1, champion_sequence=1)
    LastKnown(settings.state_folder).save(Snapshot({"support": model}, (adapter,), {}))


class Caller:
    def __init__(self, url: str, keys: Keys) -> None:
        self.url, self.keys = url, keys

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = self.keys.headers("chat", "feedback")
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, json=body, headers=headers) as response,
        ):
            return response.status, await response.json()

    async def is_ready(self) -> bool:
        return (await self.call("GET", "/health/ready"))[0] == 200


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_a_restart_in_an_outage_answers_from_the_disk_and_loses_nothing(
    how: str, db: Database, s3: Any, keys: Keys, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    make_tiny(tmp_path / "base")
    async with engine() as engine_url, silence() as port:
        away = f"127.0.0.1:{1 if how == 'refused' else port}"
        known = {"engine": "transformers", "engine_url": engine_url, "base_model": tmp_path / "base",
                 "max_rank": RANK, "poll_seconds": 0.5}  # fmt: skip
        settings = make_settings(
            **known,
            kafka_bootstrap=away,
            database_url=f"postgresql://serving:x@{away}/serving",
            s3_endpoint=f"http://{away}",
        )
        left_by_the_process_before(tmp_path / "base", settings)
        async with served(create_app(settings), "on") as url:
            caller = Caller(url, keys)
            await until(caller.is_ready)
            _, listed = await caller.call("GET", "/v1/models")
            assert {"support", "support@champion"} <= {card["id"] for card in listed["data"]}
            answers = []
            for number in range(6):
                status, answer = await caller.call("POST", "/v1/chat/completions", ASK)
                assert (status, answer["choices"][0]["message"]["content"]) == (200, NAME)
                answers.append(answer["id"].removeprefix("chatcmpl-"))
                status, kept = await caller.call(
                    "POST", "/v1/feedback", {"answer_id": answers[number], "correct": True}
                )
                assert (status, kept["state"]) == (202, "accepted")
            assert (await caller.call("GET", "/v1/models/nobody"))[0] == 404
            assert await caller.is_ready()

        access, secret = s3.key("serving")
        back = make_settings(
            **known,
            kafka_bootstrap=away,
            database_url=db.url,
            s3_endpoint=s3.endpoint,
            s3_access_key=access,
            s3_secret_key=secret,
        )
        async with served(create_app(back), "on"):

            async def written() -> bool:
                return len(await sent(db, FeedbackRecorded)) == len(answers)

            await until(written, 120)
    assert sorted(event.answer_id for event in await sent(db, PredictionServed)) == sorted(answers)
    assert sorted(event.answer_id for event in await sent(db, FeedbackRecorded)) == sorted(answers)
