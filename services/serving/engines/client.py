"""The client of an engine's admin side: what is loaded, load, unload, probe. Users' answers go another way, as bytes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from services.serving.engines.options import EngineOptions
from shared.contracts.errors import Invalid, Unavailable

_CONNECT_SECONDS = 2.0
# How vLLM (whose answer would not be JSON) and the small engine say that a log-probability is NaN or infinite.
_NOT_FINITE = ("Out of range float values", "output is not finite")


class EngineUnavailable(Unavailable):
    """The engine is away, starting, stopping or full; the same call may succeed later."""

    code = "engine_unavailable"


class AdapterRefused(Invalid):
    """The engine cannot use this adapter, or there is none of this name; the same call fails again."""

    code = "adapter_refused"


class RequestRefused(Invalid):
    """The engine says that the request itself is wrong."""

    code = "engine_request_refused"


class EngineClient(ABC):
    """One engine, reached at `url`. Make it anywhere, use it in one event loop, `close` it there."""

    def __init__(self, url: str, timeout_seconds: float = 60.0) -> None:
        self._url = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=_CONNECT_SECONDS)
        self._session: aiohttp.ClientSession | None = None

    @staticmethod
    @abstractmethod
    def command(options: EngineOptions) -> list[str]:
        """The command line that starts this engine."""

    @staticmethod
    @abstractmethod
    def environment(options: EngineOptions) -> dict[str, str]:
        """Variables to set for it, over the caller's environment."""

    async def health(self) -> bool:
        """Whether the engine says it works; False when it does not answer. Never raises."""
        try:
            return (await self._call("GET", "/health"))[0] == HTTPStatus.OK
        except EngineUnavailable:
            return False

    async def loaded(self) -> set[str]:
        """Names of the adapters in the engine, without the base model. Raises EngineUnavailable."""
        status, body = await self._call("GET", "/v1/models")
        if status != HTTPStatus.OK:
            raise EngineUnavailable(f"the engine lists no models (status {status})")
        return {model["id"] for model in body["data"] if model.get("parent") is not None}

    async def load(self, name: str, path: Path) -> None:
        """Load the adapter in folder `path`; nothing happens if `name` is loaded: names are never used again.

        Raises EngineUnavailable, or AdapterRefused if the engine cannot use it.
        """
        if name in await self.loaded():
            return
        status, answer = await self._call("POST", "/v1/load_lora_adapter", _load_body(name, path))
        # Someone else may have loaded it in between; and vLLM answers 500 for adapters it cannot use, not only when
        # it is dying.
        if status != HTTPStatus.OK and name not in await self.loaded():
            await self._raise_unavailable(status)
            raise AdapterRefused(
                f"the engine refused adapter {name}: {_message(answer)}",
                "Train it again for this base model.",
            )

    async def unload(self, name: str) -> None:
        """Unload an adapter; nothing happens if it is not loaded. Raises EngineUnavailable."""
        status, _ = await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        if status != HTTPStatus.OK and name in await self.loaded():
            raise EngineUnavailable(f"the engine did not unload {name} (status {status})")

    async def chat(self, name: str, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> str:
        """The most likely answer of adapter `name` (or the base model), for probes.

        Raises EngineUnavailable; RequestRefused; AdapterRefused if it is not loaded or computes what is not a number.
        """
        body = {
            "model": name,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
            "logprobs": True,
        }
        status, answer = await self._call("POST", "/v1/chat/completions", body)
        if status == HTTPStatus.NOT_FOUND:
            raise AdapterRefused(f"the engine has no adapter {name}", "Load it first.")
        if status != HTTPStatus.OK:
            await self._raise_unavailable(status)
            if any(words in _message(answer) for words in _NOT_FINITE):
                raise AdapterRefused(f"adapter {name} computes values that are not finite", "Train it again.")
            raise RequestRefused(f"the engine refused a probe of {name}: {_message(answer)}")
        choice = answer["choices"][0]
        logprobs = [token["logprob"] for token in (choice.get("logprobs") or {}).get("content") or ()]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in logprobs):
            raise AdapterRefused(f"adapter {name} computes values that are not finite", "Train it again.")
        return str(choice["message"]["content"] or "")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _raise_unavailable(self, status: int) -> None:
        """A 429, a 503, or a 500 of an engine that is no longer healthy, says nothing about the adapter."""
        busy = status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
        if busy or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and not await self.health()):
            raise EngineUnavailable(f"the engine cannot answer now (status {status})")

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Status and decoded JSON (None if the body is something else)."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        try:
            async with self._session.request(
                method, self._url + path, json=body, allow_redirects=False
            ) as response:
                is_json = response.content_type == "application/json"
                return response.status, await response.json() if is_json else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise EngineUnavailable(
                f"no answer from the engine at {self._url} ({type(error).__name__})",
                "Check that it runs and is reachable: driftwheel status.",
            ) from error


def _load_body(name: str, path: Path) -> dict[str, str]:
    """The engine has another working directory."""
    return {"lora_name": name, "lora_path": str(path.resolve())}


def _message(answer: Any) -> str:
    """The engine's own words, shortened and printable: they end in logs and tables."""
    error = answer.get("error") if isinstance(answer, dict) else None
    words = str(error.get("message", ""))[:500] if isinstance(error, dict) else ""
    return "".join(letter if letter.isprintable() else " " for letter in words) or "no reason given"
