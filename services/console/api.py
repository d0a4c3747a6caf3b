"""What is no page: probes, login and logout, news, and the files in static/."""

from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Header, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.console.live import Live
from services.console.session import COOKIE, Monitoring, from_our_pages, inside
from services.console.settings import Settings
from services.console.views import templates
from shared.contracts.errors import DriftwheelError, Unauthenticated

PUBLIC_PATHS = ("/health/live", "/health/ready", "/health/startup", "/metrics", "/login", "/logout")
"""What answers without a token."""
_LONGEST_TOKEN = 8_192


def make_api(settings: Settings, live: Live) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/health/live")
    @router.get("/health/ready")
    @router.get("/health/startup")
    async def health() -> Response:
        return JSONResponse({"ready": True, "reasons": []})

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/login")
    async def login_page(next: str = "/", why: str = "") -> Response:  # noqa: A002 (the field's usual name)
        body = templates().get_template("login.html").render(next=inside(next), why=why)
        return HTMLResponse(body)

    @router.post("/login")
    async def login(
        request: Request,
        token: Annotated[str, Form()] = "",
        next: Annotated[str, Form()] = "/",  # noqa: A002
    ) -> Response:
        from_our_pages(request)
        token = token.strip()
        try:
            if len(token) > _LONGEST_TOKEN:
                raise Unauthenticated("That is no token.", "Make one: driftwheel token.")
            request.app.state.authenticator.caller(f"Bearer {token}")
        except DriftwheelError as error:
            return RedirectResponse(f"/login?next={quote(inside(next))}&why={quote(error.detail)}", 303)
        answer = RedirectResponse(inside(next), 303)
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=settings.secure_cookie)
        return answer

    @router.post("/logout")
    async def logout(request: Request) -> Response:
        from_our_pages(request)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE)
        return answer

    @router.get("/live", response_class=EventSourceResponse)
    async def news(
        visitor: Monitoring, last_event_id: Annotated[str, Header(max_length=64)] = ""
    ) -> AsyncIterator[ServerSentEvent]:
        """Which services changed; a browser reconnects by itself and sends the last id it saw."""
        async for event in live.watch(visitor.token, last_event_id):
            yield event

    return router
