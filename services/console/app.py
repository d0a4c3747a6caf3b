"""Composition root of the console's pages: `python -m services.console.app`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.console.api import PUBLIC_PATHS, make_api
from services.console.forms import FormGuard
from services.console.live import Live
from services.console.pages import PAGES
from services.console.session import Sessions, SignedIn, SignIn
from services.console.settings import Settings
from services.console.upstream import Answer, Upstream
from services.console.views import ROOT, templates
from shared.contracts.errors import DriftwheelError
from shared.service.runtime import run_app
from shared.telemetry import spans

log = structlog.get_logger()

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
"""No inline script, no inline style, nothing from elsewhere."""
_HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
}


class SecurityHeaders:
    """On every answer, unless its route was stricter."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                kept = scope["path"].startswith("/static/")
                headers.setdefault(
                    "cache-control", "public, max-age=31536000, immutable" if kept else "no-store"
                )
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] == "http" else send)


def create_app(settings: Settings) -> FastAPI:
    upstream = Upstream(settings.door_url, settings.timeout_seconds)

    async def look(token: str) -> Mapping[str, Answer]:
        return await upstream.everywhere(token, "/pulse")

    live = Live(look, settings.pulse_seconds)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await live.close()
        await upstream.close()

    app = FastAPI(
        title="Driftwheel console",
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
        telemetry=spans.REQUESTS,
    )
    authenticator = settings.authenticator()
    sessions = Sessions(
        settings.session_key.get_secret_value(), settings.session_seconds, settings.secure_cookie
    )
    app.state.service = "console"
    app.state.upstream = upstream
    app.state.sessions = sessions
    app.add_middleware(FormGuard, refuse=_trouble_of)
    app.add_middleware(
        SignedIn,
        authenticator=authenticator,
        sessions=sessions,
        upstream=upstream,
        public=PUBLIC_PATHS,
    )
    app.add_middleware(SecurityHeaders)
    app.add_exception_handler(SignIn, _sign_in)
    app.add_exception_handler(DriftwheelError, _refused)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _broken)
    app.include_router(make_api(authenticator, sessions, live))
    for router in PAGES.values():
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=ROOT / "static"))
    return app


async def _sign_in(request: Request, error: Exception) -> Response:
    assert isinstance(error, SignIn)
    return error.answer(request.url.path)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, DriftwheelError)
    return _trouble_of(error)


async def _unreadable(_request: Request, _error: Exception) -> Response:
    return trouble(HTTPStatus.UNPROCESSABLE_ENTITY, "This address cannot be read.", "Start at the loop.")


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return trouble(error.status_code, f"{HTTPStatus(error.status_code).phrase}.", "Start at the loop.")


async def _broken(request: Request, error: Exception) -> Response:
    log.error("page.failed", path=request.url.path, error=type(error).__name__, exc_info=error)
    return trouble(HTTPStatus.INTERNAL_SERVER_ERROR, "This page broke; it was logged.", "Other pages go on.")


def _trouble_of(error: DriftwheelError) -> Response:
    return trouble(error.status, error.detail, error.next_step)


def trouble(status: int, detail: str, next_step: str) -> HTMLResponse:
    """A page of its own for what cannot be shown."""
    body = templates().get_template("trouble.html").render(status=status, detail=detail, next_step=next_step)
    return HTMLResponse(body, status)


if __name__ == "__main__":
    run_app(create_app, Settings)
