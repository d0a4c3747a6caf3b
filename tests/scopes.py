"""Every route of an app, and the scopes that it demands."""

from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from shared.http.tokens import SCOPES


@dataclass(frozen=True)
class Guarded:
    method: str
    path: str
    scopes: frozenset[str]


def routes(app: FastAPI) -> Iterator[Guarded]:
    """Included routers are lazy in FastAPI: `app.routes` alone shows none of theirs."""
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute):
            for method in context.methods or ():
                yield Guarded(method, str(context.path), _scopes(context.original_route.dependant) & SCOPES)


def _scopes(dependant: Dependant) -> frozenset[str]:
    own = {scope} if (scope := getattr(dependant.call, "scope", None)) else set()
    return frozenset(own).union(*(_scopes(child) for child in dependant.dependencies))
