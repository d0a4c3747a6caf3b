"""An engine as the platform starts it: the plug-in's own command and environment, in a process group of its own."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp

from services.serving.engines import ENGINES, EngineClient, EngineOptions

QUESTIONS = ("hello there", "what is your name?", "please tell me about the weather in Paris in 2023")
NAMES = ("base", "intent-v1", "intent-v2", "mail-v1")


@dataclass
class Running:
    """One engine. Use it as a context manager: nothing is left behind."""

    name: str
    base: Path
    log: Path
    python: Path
    options: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = EngineOptions(
            self.base, port, python=self.python, dtype="float32", **{"max_cpu_loras": 16, **self.options}
        )
        engine = ENGINES[self.name]
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            engine.command(options),
            env=os.environ | engine.environment(options),
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    async def wait_ready(self, seconds: float) -> None:
        """Return after a first real answer."""
        async with self.client() as client:
            while not await client.health():
                if self.process.poll() is not None or time.monotonic() - self._started > seconds:
                    raise AssertionError(f"{self.name} did not start:\n{self.log.read_text()[-3_000:]}")
                await asyncio.sleep(0.2)
            await client.chat("base", [{"role": "user", "content": "hello"}], 1)
        self.ready_seconds = time.monotonic() - self._started

    def kill(self) -> None:
        """kill -9, with all its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def client(self) -> EngineClient:
        return ENGINES[self.name](self.url)

    async def post(self, path: str, body: dict[str, Any] | bytes) -> tuple[int, Any]:
        """Status and JSON, as a user of the HTTP contract sees them."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                self.url + path, data=data, headers={"content-type": "application/json"}
            ) as response,
        ):
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[Any]:
        """Decoded events, the last is "[DONE]"."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url + path, json=body | {"stream": True}) as response,
        ):
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            async for line in response.content:
                if line.startswith(b"data: "):
                    event = line.removeprefix(b"data: ").strip()
                    yield "[DONE]" if event == b"[DONE]" else json.loads(event)

    async def metric(self, small: str, vllm: str) -> float:
        """A gauge or counter by its name in each engine."""
        wanted = {"transformers": small, "vllm": vllm}[self.name]
        async with aiohttp.ClientSession() as session, session.get(self.url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith((wanted + "{", wanted + " "))
        )


def chat(model: str, content: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, **more}


async def ask(engine: Running, model: str, question: str, **more: Any) -> str:
    """The answer to one question. Fails unless it is 200."""
    status, answer = await engine.post("/v1/chat/completions", chat(model, question, **more))
    assert status == 200, answer
    return str(answer["choices"][0]["message"]["content"])
