"""A front door that answers what a test tells it to, on a real port, and the command line in front of it."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from joserfc.jwk import OKPKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typer.testing import CliRunner, Result

from services.console.cli import app


@dataclass
class Door:
    """`answers[(method, path)]` is a body, or (status, body), or a Response; what is not there is a 404."""

    url: str = ""
    answers: dict[tuple[str, str], Any] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    async def handle(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode()
        self.asked.append((request.method, path + (f"?{request.url.query}" if request.url.query else "")))
        self.tokens.append(request.headers.get("authorization", "").removeprefix("Bearer "))
        body = await request.body()
        self.bodies.append(json.loads(body) if body.startswith(b"{") else body)
        answer = self.answers.get(
            (request.method, path), (404, problem(404, "not_found", "There is no such thing."))
        )
        if isinstance(answer, Response):
            return answer
        status, content = answer if isinstance(answer, tuple) else (200, answer)
        return JSONResponse(content, status)


def problem(status: int, code: str, detail: str, next_step: str = "") -> dict[str, Any]:
    return {
        "type": f"urn:driftwheel:error:{code}",
        "status": status,
        "detail": detail,
        "next_step": next_step,
    }


@pytest.fixture(scope="session")
def served() -> Iterator[Door]:
    door = Door()
    routes = [Route("/{path:path}", door.handle, methods=["GET", "POST"])]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        door.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield door
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def door(served: Door) -> Door:
    """The same door for each test, with nothing behind it yet."""
    for memory in (served.answers, served.asked, served.bodies, served.tokens):
        memory.clear()  # type: ignore[attr-defined]
    return served


@dataclass
class Command:
    """Runs `driftwheel …` and returns its result."""

    home: Path

    def __call__(self, *arguments: str, **env: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env={"NO_COLOR": "1", "COLUMNS": "200", **env})


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A machine on which nothing runs."""
    for name in ("DRIFTWHEEL_URL", "DRIFTWHEEL_TOKEN", "DRIFTWHEEL_KAFKA_BOOTSTRAP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DRIFTWHEEL_HOME", str(tmp_path))
    return Command(tmp_path)


@pytest.fixture
def key(nowhere: Command) -> OKPKey:
    """The signing key of the local stack."""
    made = OKPKey.generate_key("Ed25519", {"kid": "local"}, auto_kid=False)
    (nowhere.home / "secrets").mkdir()
    (nowhere.home / "secrets" / "signing-key.json").write_text(json.dumps(made.as_dict(private=True)))
    return made


@pytest.fixture
def driftwheel(nowhere: Command, door: Door, key: OKPKey) -> Command:
    """A machine whose stack is the scripted front door."""
    (nowhere.home / "stack.json").write_text(json.dumps({"urls": {"caddy": door.url}}))
    return nowhere
