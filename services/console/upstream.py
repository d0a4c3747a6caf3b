"""The services, as a visitor of a page may see them: one HTTP client, the visitor's own token, no answer that breaks a page."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx2

from shared.contracts.document import Json
from shared.contracts.topology import SERVICES

_AWAY = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service said to one request; `data` is None unless it was good.

    Attributes:
        status: of HTTP; 0 when nobody answered.
        detail: what went wrong, for a person; `next_step` says what to do about it.
    """

    service: str
    status: int
    data: Any = None
    detail: str = ""
    next_step: str = ""

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def away(self) -> bool:
        """Nobody can say now: the service is down, starting, or too slow."""
        return self.status == 0 or self.status in _AWAY

    @property
    def missing(self) -> bool:
        return self.status == HTTPStatus.NOT_FOUND


class Upstream:
    """Asks services through the front door. It never raises for what a service says or does not say."""

    def __init__(self, door_url: str, timeout_seconds: float) -> None:
        self._http = httpx2.AsyncClient(base_url=door_url, timeout=timeout_seconds)

    async def ask(
        self,
        token: str,
        service: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        body: Json | None = None,
    ) -> Answer:
        """GET, or POST if there is a body. `path` is the service's own; see `segment` for what a person typed."""
        if service not in SERVICES:
            raise ValueError(f"there is no service {service!r}")
        known = {name: value for name, value in (params or {}).items() if value is not None}
        headers = {"authorization": f"Bearer {token}"}
        try:
            response = await self._http.request(
                "GET" if body is None else "POST",
                f"/api/{service}{path}",
                params=known,
                json=body,
                headers=headers,
            )
        except httpx2.TransportError:
            return Answer(service, 0, None, f"{service} does not answer.", "Look: driftwheel status.")
        return _answer(service, response)

    async def raw(self, token: str, service: str, path: str) -> httpx2.Response | None:
        """A file, as it is; None if there is no good answer."""
        try:
            response = await self._http.get(
                f"/api/{service}{path}", headers={"authorization": f"Bearer {token}"}
            )
        except httpx2.TransportError:
            return None
        return response if response.is_success else None

    async def everywhere(
        self, token: str, path: str, params: Mapping[str, Any] | None = None
    ) -> dict[str, Answer]:
        """The same question to every service, at once."""
        answers = await asyncio.gather(*(self.ask(token, name, path, params) for name in SERVICES))
        return {answer.service: answer for answer in answers}

    async def close(self) -> None:
        await self._http.aclose()


def segment(typed: object) -> str:
    """One segment of a path: whatever was typed stays one segment."""
    return quote(str(typed), safe="")


def _answer(service: str, response: httpx2.Response) -> Answer:
    try:
        data = response.json()
    except ValueError:
        data = None
    if response.is_success and data is not None:
        return Answer(service, response.status_code, data)
    problem = data if isinstance(data, dict) else {}
    if response.status_code in _AWAY:
        detail = f"{service} does not answer."
    else:
        detail = str(problem.get("detail") or f"{service} answered {response.status_code}.")
    return Answer(
        service,
        response.status_code if not response.is_success else HTTPStatus.BAD_GATEWAY,
        None,
        detail,
        str(problem.get("next_step") or ""),
    )
