"""What is taken from an HTTP request besides its keys: its bytes, its place in a story, and whether anyone still waits."""

import asyncio
import re
from collections.abc import Coroutine
from typing import Any

from fastapi import Request, Response

from services.serving.requests import BadRequest
from shared.contracts.envelope import Envelope, request_envelope
from shared.contracts.errors import TooLarge
from shared.telemetry.spans import current_traceparent

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def cause_of(request: Request) -> Envelope:
    asked = request.headers.get("x-request-id", "")
    return request_envelope(
        "serving",
        correlationid=asked if _REQUEST_ID.fullmatch(asked) else None,
        traceparent=current_traceparent(),
    )


async def read_body(request: Request, limit: int) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadRequest("The body must be JSON.", "Send the header content-type: application/json.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLarge(f"The body is larger than {limit} bytes.", "Send less.")
    return bytes(body)


async def unless_gone(request: Request, answering: Coroutine[Any, Any, Response]) -> Response:
    """The answer, given up when the caller goes away: the engine must not work for nobody."""
    task, gone = asyncio.ensure_future(answering), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else Response(status_code=499)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
