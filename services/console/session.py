"""Who looks at a page: the platform's own token, sealed in a cookie that no script can read and no service accepts."""

import base64
import hashlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from cryptography.fernet import Fernet, InvalidToken
from fastapi import Depends, Request, Response
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from services.console.upstream import Answer, Upstream
from shared.contracts.document import Json
from shared.contracts.errors import Forbidden, Unauthenticated
from shared.http.minting import SCOPES
from shared.http.tokens import Authenticator, Caller

COOKIE = "driftwheel_session"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Sessions:
    """Seals a token for the browser and opens it again; whoever steals the cookie can call no service with it.

    Args:
        key: any text, the same for every replica; empty makes one that ends with this process.
        seconds: how long a session lasts; the token's own end comes first if it is earlier.
        secure: over HTTPS only; None: unless the browser asks this very machine.
    """

    def __init__(self, key: str, seconds: int, secure: bool | None) -> None:
        made = (
            base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()) if key else Fernet.generate_key()
        )
        self._fernet = Fernet(made)
        self._seconds = seconds
        self._secure = secure

    def seal(self, token: str) -> str:
        return self._fernet.encrypt(token.encode()).decode()

    def unseal(self, cookie: str) -> str:
        """The token. Raises Unauthenticated."""
        try:
            return self._fernet.decrypt(cookie.encode(), ttl=self._seconds).decode()
        except (InvalidToken, ValueError) as error:
            raise Unauthenticated("There is no session.", "Sign in.") from error

    def begin(self, request: Request, answer: Response, token: str) -> None:
        secure = request.url.hostname not in _LOOPBACK if self._secure is None else self._secure
        answer.set_cookie(
            COOKIE, self.seal(token), self._seconds, httponly=True, samesite="strict", secure=secure
        )


class SignIn(Exception):
    """The visitor has no valid token: send them to the login page, and back."""

    def __init__(self, back: str) -> None:
        super().__init__(back)
        self.location = f"/login?next={quote(back, safe='')}"

    def answer(self, path: str) -> Response:
        if path == "/live":
            return Response(status_code=HTTPStatus.UNAUTHORIZED)
        return RedirectResponse(self.location, HTTPStatus.SEE_OTHER)


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


class SignedIn:
    """Only people with a session come further, and nothing that others send is read; `public` paths are for all."""

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        sessions: Sessions,
        upstream: Upstream,
        public: tuple[str, ...],
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._sessions = sessions
        self._upstream = upstream
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not (
            scope["path"] in self._public or scope["path"].startswith("/static/")
        ):
            request = Request(scope)
            try:
                token = self._sessions.unseal(request.cookies.get(COOKIE, ""))
                caller = await self._authenticator.caller(f"Bearer {token}")
            except Unauthenticated:
                await SignIn(_back(request)).answer(scope["path"])(scope, receive, send)
                return
            scope.setdefault("state", {})["visitor"] = Visitor(caller, token, self._upstream)
        await self._app(scope, receive, send)


def visits(scope: str, *, every_model: bool = False) -> Any:
    """A dependency for a page's parameter: `visitor: Annotated[Visitor, visits("run:read")]`.

    Who has the scope for some models comes in too: the services answer the visitor's own token, and show those alone.
    `every_model` is for pages about the platform itself.

    Raises SignIn without a session, Forbidden without the scope.
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}")

    async def visit(request: Request) -> Visitor:
        visitor = getattr(request.state, "visitor", None)
        if not isinstance(visitor, Visitor):
            raise SignIn(_back(request))
        if not (visitor.may(scope) or (visitor.caller.models(scope) and not every_model)):
            raise Forbidden(
                f"This page needs the scope {scope}.",
                f"Make a token with it: driftwheel token --scope {scope}",
            )
        return visitor

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


Monitoring = Annotated[Visitor, visits("monitor:read", every_model=True)]
