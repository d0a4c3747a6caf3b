"""The engine's completion routes: bytes in, bytes out, with a bound on every wait."""

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus

import aiohttp

from services.serving.answers import starts_with_error
from services.serving.settings import Settings

MAX_ANSWER_BYTES = 16_777_216
_IDLE_SECONDS = 2
"""Less than the 5 s after which the engines close idle connections."""


class EngineFailure(Exception):
    """No answer before the first byte.

    Attributes:
        code: connection, timeout, not_loaded, overloaded, engine_error, not_json or unfinished.
        fault: the version's own doing, as far as one can tell; an engine that is away is nobody's.
    """

    def __init__(self, code: str, *, fault: bool) -> None:
        super().__init__(code)
        self.code = code
        self.fault = fault


class EngineRefused(Exception):
    """The engine says that the request is wrong; `too_long` if prompt and answer do not fit its context."""

    def __init__(self, *, too_long: bool) -> None:
        super().__init__("too_long" if too_long else "refused")
        self.too_long = too_long


class Stream:
    """An answer that comes in pieces; the first one is here already. Closing it aborts the engine's work."""

    def __init__(self, response: aiohttp.ClientResponse, first: bytes, gap_seconds: float) -> None:
        self._response = response
        self._first = first
        self._gap = gap_seconds

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises EngineFailure if the engine falls silent or away."""
        yield self._first
        while chunk := await _read(self._response, self._gap):
            yield chunk

    def close(self) -> None:
        self._response.close()


class Upstream:
    """One session for all requests; made in the event loop that uses it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def keep(self) -> None:
        """Hold the session until cancelled, then close it."""
        try:
            await asyncio.Event().wait()
        finally:
            if self._session:
                await self._session.close()

    async def whole(self, kind: str, body: bytes, answer_id: str, traceparent: str | None) -> bytes:
        """An answer in one piece. Raises EngineFailure or EngineRefused."""
        response = await self._post(kind, body, answer_id, traceparent, self._settings.total_seconds)
        try:
            received = bytearray()
            while chunk := await _read(response, self._settings.total_seconds):
                received += chunk
                if len(received) > MAX_ANSWER_BYTES:
                    raise EngineFailure("engine_error", fault=True)
        except BaseException:
            response.close()
            raise
        return bytes(received)

    async def stream(self, kind: str, body: bytes, answer_id: str, traceparent: str | None) -> Stream:
        """An answer in pieces, after its first one came. Raises EngineFailure or EngineRefused."""
        wait = self._settings.first_token_seconds
        response = await self._post(kind, body, answer_id, traceparent, wait)
        try:
            first = await _read(response, wait)
            if not first or starts_with_error(first):
                raise EngineFailure("engine_error", fault=True)
        except BaseException:
            response.close()
            raise
        return Stream(response, first, self._settings.gap_seconds)

    async def _post(
        self, kind: str, body: bytes, answer_id: str, traceparent: str | None, wait: float
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = self._open()
        headers = {"content-type": "application/json", "x-request-id": answer_id}
        if traceparent:
            headers["traceparent"] = traceparent
        url = f"{self._settings.engine_url}/v1/{kind}"
        session = self._session
        try:
            async with asyncio.timeout(wait):
                try:
                    response = await session.post(url, data=body, headers=headers, allow_redirects=False)
                except (aiohttp.ServerDisconnectedError, ConnectionResetError):
                    # An idle connection that the engine was just closing: a new one tells whether it is there.
                    response = await session.post(url, data=body, headers=headers, allow_redirects=False)
        except TimeoutError as error:
            raise EngineFailure("timeout", fault=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineFailure("connection", fault=False) from error
        if response.status != HTTPStatus.OK:
            try:
                await _raise_for(response)
            finally:
                response.close()
        return response

    def _open(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(
            total=self._settings.total_seconds, sock_connect=self._settings.connect_seconds
        )
        # No limit here: the gateway's own bound on requests in flight is the limit.
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
            timeout=timeout,
            auto_decompress=False,
            trust_env=False,
        )


async def _read(response: aiohttp.ClientResponse, wait: float) -> bytes:
    """The next piece; empty at the end."""
    try:
        async with asyncio.timeout(wait):
            return await response.content.readany()
    except TimeoutError as error:
        raise EngineFailure("timeout", fault=True) from error
    except (aiohttp.ClientError, OSError) as error:
        raise EngineFailure("connection", fault=False) from error


async def _raise_for(response: aiohttp.ClientResponse) -> None:
    """Name what went wrong. The engine's own words stay here: they may quote the request."""
    status = response.status
    if status == HTTPStatus.NOT_FOUND:
        raise EngineFailure("not_loaded", fault=False)
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        raise EngineFailure("overloaded", fault=False)
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        words = json.dumps((await _read(response, 5)).decode("utf-8", "replace")[:2_000]).lower()
        raise EngineRefused(
            too_long="context length" in words or "too long" in words or "longer than" in words
        )
    raise EngineFailure("engine_error", fault=True)
