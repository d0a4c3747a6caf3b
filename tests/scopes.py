"""Every route of an app, and the scopes that it demands."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from shared.http.minting import SCOPES


@dataclass(frozen=True)
class Guarded:
    method: str
    path: str
    scopes: frozenset[str]
    by_model: bool
    """Whether the scope is checked for the model that the parameter `model` names."""
    parameters: frozenset[str]
    """Of the route's own function."""


def routes(app: FastAPI) -> Iterator[Guarded]:
    """Included routers are lazy in FastAPI: `app.routes` alone shows none of theirs."""
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute):
            for method in context.methods or ():
                route = context.original_route
                yield Guarded(
                    method,
                    str(context.path),
                    _scopes(route.dependant) & SCOPES,
                    _by_model(route.dependant),
                    frozenset(inspect.signature(route.endpoint).parameters),
                )


def _scopes(dependant: Dependant) -> frozenset[str]:
    own = {scope} if (scope := getattr(dependant.call, "scope", None)) else set()
    return frozenset(own).union(*(_scopes(child) for child in dependant.dependencies))


def _by_model(dependant: Dependant) -> bool:
    return getattr(dependant.call, "by_model", False) or any(
        _by_model(child) for child in dependant.dependencies
    )
