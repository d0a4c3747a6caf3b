"""The HTTP edge every service shares: one unit of work per request, and the guards around an app."""

import re
from collections.abc import AsyncIterator, Collection
from typing import Annotated

from fastapi import Depends, FastAPI, Request

from shared.contracts.envelope import request_envelope
from shared.delivery.unit_of_work import UnitOfWork
from shared.http.auth import Authentication, Authenticator
from shared.http.bodies import BodyGuard
from shared.http.problems import install_errors
from shared.telemetry.spans import current_traceparent

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


def guard(
    app: FastAPI,
    authenticator: Authenticator,
    *,
    public: Collection[str],
    max_body_bytes: int,
    streamed: Collection[str] = (),
) -> None:
    """In this order: who calls, from headers alone; then the body, bounded and read once; then the route."""
    app.add_middleware(BodyGuard, limit=max_body_bytes, streamed=frozenset(streamed))
    app.add_middleware(Authentication, authenticator=authenticator, public=frozenset(public))
    install_errors(app)
