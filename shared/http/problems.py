"""What went wrong, as an answer: OpenAI's error shape below /v1, RFC 9457 elsewhere; never an echo of what was sent."""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.contracts.errors import DriftwheelError, Unavailable
from shared.contracts.text import place
from shared.delivery.failures import classify

log = structlog.get_logger()


def problem(
    request_path: str, status: int, code: str, detail: str, next_step: str, retryable: bool
) -> JSONResponse:
    headers = {"retry-after": "2"} if retryable else {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
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


def problem_of(error: DriftwheelError, path: str) -> JSONResponse:
    return problem(path, error.status, error.code, error.detail, error.next_step, error.retryable)


def _path(request: Request) -> str:
    return str(request.scope["path"])


async def _expected(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DriftwheelError)
    return problem_of(error, _path(request))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Where and why, never what: an echo would leak prompts, and NaN or surrogates in it cannot even be encoded."""
    first = error.errors()[0] if isinstance(error, RequestValidationError) and error.errors() else {}
    where = place(first.get("loc", ()), unknown_key=first.get("type") == "extra_forbidden")
    detail = f"{where}: {first.get('msg', 'invalid')}"
    service = getattr(request.app.state, "service", None)
    next_step = f"See /api/{service}/openapi.json for the accepted shape." if service else "Correct it."
    return problem(_path(request), 422, "invalid_request", detail, next_step, False)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    return problem(
        _path(request), error.status_code, phrase.lower().replace(" ", "_"), f"{phrase}.", "", False
    )


def install_errors(app: FastAPI) -> None:
    """Answers for everything that a route may raise; `Failures` stands around it all for what nobody expected."""
    app.add_exception_handler(DriftwheelError, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(Failures)


class Failures:
    """The last resort: 503 with Retry-After for what passes by itself (see `classify`), 500 for a bug."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http" or started:
                raise
            await _unforeseen(error, scope["path"])(scope, receive, send)


def _unforeseen(error: Exception, path: str) -> JSONResponse:
    failure = classify(error)
    if failure.passes:
        log.warning("request.outage", path=path, part=failure.part, error=type(error).__name__)
        away = Unavailable("A part of the platform is away for the moment.", "Try again in a few seconds.")
        return problem_of(away, path)
    log.error("request.failed", path=path, error=type(error).__name__, exc_info=error)
    return problem(path, 500, "internal_error", "Something broke here; it was logged.", "", False)
