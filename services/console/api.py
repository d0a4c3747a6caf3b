"""What is no page: probes, login and logout, news, and the files in static/."""

from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Header, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.console.live import Live
from services.console.session import COOKIE, Monitoring, Sessions, from_our_pages, inside
from services.console.views import templates
from shared.contracts.errors import Unauthenticated, Unavailable
from shared.http.tokens import Authenticator

PUBLIC_PATHS = ("/health/live", "/health/ready", "/health/startup", "/metrics", "/login", "/logout")
"""What answers without a token."""
_LONGEST_TOKEN = 2_900
"""Sealed, it still fits a browser's cookie of 4 kB."""
WHY = {
    "invalid": "That token is not valid here, or has expired.",
    "long": "That token is too long for a browser's cookie. Ask for one with fewer scopes.",
    "away": "Tokens cannot be verified now. Try again in a few seconds.",
}
"""What the login page may say; an address can only choose among these."""


def make_api(authenticator: Authenticator, sessions: Sessions, live: Live) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/health/live")
    @router.get("/health/ready")
    @router.get("/health/startup")
    async def health() -> Response:
        return JSONResponse({"ready": True, "reasons": await authenticator.problems()})

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/login")
    async def login_page(next: str = "/", why: str = "") -> Response:  # noqa: A002 (the field's usual name)
        body = templates().get_template("login.html").render(next=inside(next), why=WHY.get(why, ""))
        return HTMLResponse(body)

    @router.post("/login")
    async def login(
        request: Request,
        token: Annotated[str, Form()] = "",
        next: Annotated[str, Form()] = "/",  # noqa: A002
    ) -> Response:
        from_our_pages(request)
        token = token.strip()
        why = "long" if len(token) > _LONGEST_TOKEN else await _refusal(authenticator, token)
        if why:
            return RedirectResponse(f"/login?next={quote(inside(next))}&why={why}", 303)
        answer = RedirectResponse(inside(next), 303)
        sessions.begin(request, answer, token)
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


async def _refusal(authenticator: Authenticator, token: str) -> str:
    """A key of WHY; empty for a good token."""
    try:
        await authenticator.caller(f"Bearer {token}")
    except Unauthenticated:
        return "invalid"
    except Unavailable:
        return "away"
    return ""
