"""The HTTP edge every service shares: units of work, strict bodies, and errors that never echo what was sent."""

import re
from collections.abc import AsyncIterator, Collection
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg import OperationalError
from sqlalchemy.exc import InterfaceError
from sqlalchemy.exc import OperationalError as SqlOperationalError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.contracts.envelope import request_envelope, strict_json
from shared.contracts.errors import DriftwheelError, Invalid, Poison, TooLarge
from shared.contracts.text import place
from shared.delivery.unit_of_work import UnitOfWork
from shared.telemetry.spans import current_traceparent

log = structlog.get_logger()
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


async def _unit_of_work(request: Request) -> AsyncIterator[UnitOfWork]:
    asked = request.headers.get("x-request-id", "")
    cause = request_envelope(
        request.app.state.service,
        correlationid=asked if _REQUEST_ID.fullmatch(asked) else None,
        traceparent=current_traceparent(),
    )
    async with request.app.state.db.unit_of_work(cause) as work:
        yield work


# scope="function": committed before the response leaves, so that a 2xx is never a promise that failed.
HttpWork = Annotated[UnitOfWork, Depends(_unit_of_work, scope="function")]


def problem(
    request_path: str, status: int, code: str, detail: str, next_step: str, retryable: bool
) -> JSONResponse:
    """OpenAI's error shape below /v1, RFC 9457 elsewhere."""
    headers = {"retry-after": "2"} if retryable else None
    message = f"{detail} {next_step}".strip()
    if request_path.startswith("/v1/"):
        kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": None, "code": code}}
        return JSONResponse(body, status, headers)
    body = {
        "type": f"urn:driftwheel:error:{code}",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
        "next_step": next_step,
        "retryable": retryable,
    }
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def _path(request: Request) -> str:
    return str(request.scope["path"])


async def _expected(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DriftwheelError)
    return problem(_path(request), error.status, error.code, error.detail, error.next_step, error.retryable)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Where and why, never what: an echo would leak prompts, and NaN or surrogates in it cannot even be encoded."""
    first = error.errors()[0] if isinstance(error, RequestValidationError) and error.errors() else {}
    detail = f"{place(first.get('loc', ()))}: {first.get('msg', 'invalid')}"
    return problem(
        _path(request), 422, "invalid_request", detail, "See /openapi.json for the accepted shape.", False
    )


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    return problem(
        _path(request), error.status_code, phrase.lower().replace(" ", "_"), f"{phrase}.", "", False
    )


async def _outage(request: Request, error: Exception) -> JSONResponse:
    log.warning("request.outage", path=_path(request), error=type(error).__name__)
    detail = "A part of the platform is away for the moment."
    return problem(_path(request), 503, "unavailable", detail, "Try again in a few seconds.", True)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("request.failed", path=_path(request), error=type(error).__name__, exc_info=error)
    return problem(_path(request), 500, "internal_error", "Something broke here; it was logged.", "", False)


def install_errors(app: FastAPI) -> None:
    app.add_exception_handler(DriftwheelError, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for outage in (OperationalError, SqlOperationalError, InterfaceError):
        app.add_exception_handler(outage, _outage)
    app.add_exception_handler(Exception, _unexpected)


class BodyGuard:
    """Reads JSON bodies once, bounded, and refuses what is ambiguous before any model sees it.

    Uploads to `streamed` paths pass through: their route streams and bounds them itself.
    """

    def __init__(self, app: ASGIApp, limit: int, streamed: Collection[str] = ()) -> None:
        self._app = app
        self._limit = limit
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["path"] in self._streamed:
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(receive, headers.get("content-length", ""))
            if body is None:
                return
            if body:
                if headers.get("content-encoding", "identity").lower() != "identity":
                    raise Invalid("Compressed bodies are not accepted.", "Send the JSON as it is.")
                strict_json(body)
        except (Poison, Invalid, TooLarge) as error:
            status = HTTPStatus.BAD_REQUEST if isinstance(error, Poison) else error.status
            response = problem(scope["path"], status, "invalid_request", error.detail, error.next_step, False)
            await response(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive, content_length: str) -> bytes | None:
        too_large = TooLarge(f"The body is larger than {self._limit} bytes.", "Send less, or upload a file.")
        if content_length.isdecimal() and int(content_length) > self._limit:
            raise too_large
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._limit:
                raise too_large
            if not message.get("more_body", False):
                return bytes(body)
