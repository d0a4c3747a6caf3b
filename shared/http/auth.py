"""Who calls, found out before anything else; and what each route demands of them. No route without a scope."""

from collections.abc import Collection
from typing import Any

from fastapi import Depends, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.contracts.errors import DriftwheelError, Unauthenticated
from shared.contracts.text import ModelName
from shared.http.minting import SCOPES
from shared.http.problems import problem_of
from shared.http.tokens import Authenticator, Caller

__all__ = [
    "Authentication",
    "Authenticator",
    "Caller",
    "requires",
    "requires_for_model",
    "requires_for_some_model",
]


class Authentication:
    """No request goes further without a valid token, and none of its body is read before; GETs of `public` paths do.

    It knows no routes: what does not exist is 401 to a stranger as well.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, public: Collection[str]) -> None:
        self._app = app
        self._authenticator = authenticator
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (
            scope["path"] in self._public and scope.get("method") in {"GET", "HEAD"}
        ):
            await self._app(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["caller"] = await self._authenticator.caller(_authorization(scope))
        except DriftwheelError as error:
            await problem_of(error, scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _authorization(scope: Scope) -> str | None:
    found = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    return found[0] if len(found) == 1 else None


def caller_of(request: Request) -> Caller:
    """Whom `Authentication` let pass. Raises Unauthenticated where it did not stand in front."""
    caller = getattr(request.state, "caller", None)
    if not isinstance(caller, Caller):
        raise Unauthenticated("This call needs a bearer token.", "Make one: driftwheel token --scope …")
    return caller


def requires(scope: str) -> Any:
    """A dependency for a route's parameter: `caller: Annotated[Caller, requires("data:write")]`.

    The scope must reach every model.
    """

    async def authorise(request: Request) -> Caller:  # async: no thread per request
        caller = caller_of(request)
        caller.demand(scope)
        return caller

    return _dependency(authorise, scope)


def requires_for_model(scope: str) -> Any:
    """The same for a route with a parameter `model`, in its path or query: the scope must reach that model."""

    async def authorise(request: Request, model: ModelName | None = None) -> Caller:
        caller = caller_of(request)
        caller.demand(scope, model)
        return caller

    authorise.by_model = True  # type: ignore[attr-defined]  # read by the test that its route has such a parameter
    return _dependency(authorise, scope)


def requires_for_some_model(scope: str) -> Any:
    """The same for a route that learns of its model later, and then calls `caller.demand(scope, model)`."""

    async def authorise(request: Request) -> Caller:
        caller = caller_of(request)
        if not caller.models(scope):
            caller.demand(scope)
        return caller

    return _dependency(authorise, scope)


def _dependency(authorise: Any, scope: str) -> Any:
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}")
    authorise.scope = scope  # read by the test that no route lacks one
    return Depends(authorise)
