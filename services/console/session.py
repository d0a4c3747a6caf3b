"""Who looks at a page: the platform's own token, in a cookie that no script can read."""

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request

from services.console.upstream import Answer, Upstream
from shared.contracts.errors import Forbidden, Unauthenticated
from shared.contracts.text import Json
from shared.http.auth import SCOPES, Authenticator, Caller

COOKIE = "driftwheel_token"


class SignIn(Exception):
    """The visitor has no valid token: send them to the login page, and back."""

    def __init__(self, back: str) -> None:
        super().__init__(back)
        self.location = f"/login?next={quote(back, safe='')}"


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person with a token. What they may not do, the services refuse; pages only leave the button out."""

    caller: Caller
    token: str
    upstream: Upstream

    def may(self, scope: str) -> bool:
        return self.caller.may(scope)

    async def get(self, service: str, path: str, **params: Any) -> Answer:
        return await self.upstream.ask(self.token, service, path, params)

    async def post(self, service: str, path: str, body: Json | None = None) -> Answer:
        return await self.upstream.ask(self.token, service, path, body=body or {})

    async def everywhere(self, path: str, **params: Any) -> dict[str, Answer]:
        return await self.upstream.everywhere(self.token, path, params)


def visits(scope: str) -> Any:
    """A dependency for a page's parameter: `visitor: Annotated[Visitor, visits("run:read")]`.

    Raises SignIn without a valid token, Forbidden without the scope.
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}")

    async def visit(request: Request) -> Visitor:
        token = request.cookies.get(COOKIE, "")
        authenticator: Authenticator = request.app.state.authenticator
        try:
            caller = authenticator.caller(f"Bearer {token}")
        except Unauthenticated:
            raise SignIn(_back(request)) from None
        if not caller.may(scope):
            raise Forbidden(
                f"This page needs the scope {scope}.",
                f"Make a token with it: driftwheel token --scope {scope}",
            )
        return Visitor(caller, token, request.app.state.upstream)

    visit.scope = scope  # type: ignore[attr-defined]  # read by the test that no route lacks one
    return Depends(visit)


def from_our_pages(request: Request) -> None:
    """Forms are accepted from this site's own pages only. Raises Forbidden."""
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    ours = origin is not None and urlsplit(origin).netloc == request.headers.get("host")
    if not ours and site != "same-origin":
        raise Forbidden("This form was not sent by a page of the console.", "Open the page and try there.")


def inside(path: str) -> str:
    """A path of this site, whatever was asked for: never another host."""
    parts = urlsplit(path)
    safe = (
        path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.netloc and not parts.scheme
    )
    return path if safe and path.isprintable() else "/"


def _back(request: Request) -> str:
    if request.method != "GET":
        return "/"
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{request.url.path}{query}"


Monitoring = Annotated[Visitor, visits("monitor:read")]
