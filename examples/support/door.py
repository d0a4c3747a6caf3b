"""The front door, as another system would use it: HTTP with a token, and patience."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2


class StoryFailed(Exception):
    """A stage of the story did not come to its end; the message says which, what was seen, and what to look at."""


class Door:
    def __init__(self, url: str, token: str, say: Callable[[str], None]) -> None:
        self._http = httpx2.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=60
        )
        self.say = say
        self.stages: dict[str, float] = {}

    async def get(self, path: str, **params: str) -> Any:
        response = await self._http.get(path, params=params)
        if response.status_code == 404:
            return None
        if response.status_code >= 500:
            return None  # a service that restarts; the caller asks again until its deadline
        response.raise_for_status()
        return response.json()

    async def post(self, path: str, **request: Any) -> Any:
        response = await self._http.post(path, **request)
        if response.is_error:
            raise StoryFailed(f"POST {path} answered {response.status_code}: {response.text[:500]}")
        return response.json()

    async def try_post(self, path: str, body: dict[str, Any]) -> Any:
        """JSON of a POST, or None while what it names is not known there yet."""
        response = await self._http.post(path, json=body)
        if response.status_code == 404:
            return None
        response.raise_for_status()
        return response.json()

    async def stage(
        self, name: str, waits_for: str, look: Callable[[], Awaitable[tuple[Any, str]]], seconds: float
    ) -> Any:
        """Look again and again until `look` returns something; record how long the stage took.

        Args:
            look: returns (result or None, what is seen now).
        """
        started = time.monotonic()
        seen = ""
        while True:
            try:
                result, seen = await look()
            except httpx2.TransportError as error:
                result, seen = None, f"no answer ({type(error).__name__})"
            took = time.monotonic() - started
            if result is not None:
                self.stages[name] = round(took, 1)
                self.say(f"[green]✓[/] {name}: {seen} [dim]({took:.0f} s)[/]")
                return result
            if took > seconds:
                raise StoryFailed(
                    f"{name}: waited {seconds:.0f} s for {waits_for}; last seen: {seen or 'nothing'}"
                )
            self.say(f"… {name}: waits for {waits_for} [dim]· {seen} · {took:.0f} s[/]")
            await asyncio.sleep(0.5)

    async def close(self) -> None:
        await self._http.aclose()
