"""Bodies of requests: bounded in bytes and in time, read once, and refused where they are ambiguous."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.contracts.errors import DriftwheelError, Invalid, Poison, TooLarge
from shared.contracts.strict_json import strict_json
from shared.http.problems import problem, problem_of


class TooSlow(DriftwheelError):
    """The body trickles: whoever sends it holds a connection for nothing."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "too_slow"


class Gone(Exception):
    """The caller went away before its body was complete."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a body may take.

    Attributes:
        idle: seconds without any byte.
        whole: seconds for all of it, plus one for each `rate` bytes received.
    """

    idle: float = 10.0
    whole: float = 20.0
    rate: float = 16_384.0


class Timed:
    """`receive` of a request whose body keeps its pace. Raises TooSlow where it does not."""

    def __init__(self, receive: Receive, patience: Patience) -> None:
        self._receive = receive
        self._patience = patience
        self._started = time.monotonic()
        self._received = 0
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        patience = self._patience
        left = self._started + patience.whole + self._received / patience.rate - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), min(patience.idle, left))
        except TimeoutError:
            raise TooSlow("The body came too slowly.", "Send it without pauses.") from None
        self._received += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message


async def read_body(receive: Receive, limit: int, content_length: str = "") -> bytes:
    """The whole body. Raises TooLarge (at once, where its length is announced), and Gone."""
    too_large = TooLarge(f"The body is larger than {limit} bytes.", "Send less, or upload a file.")
    if content_length.isdecimal() and int(content_length[:20]) > limit:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large
        if not message.get("more_body", False):
            return bytes(body)


class BodyGuard:
    """Reads JSON bodies once, bounded, and refuses what is ambiguous before any model sees it.

    Uploads to `streamed` paths are only held to their pace: their route streams and bounds them itself.
    """

    def __init__(
        self, app: ASGIApp, limit: int, streamed: Collection[str] = (), patience: Patience | None = None
    ) -> None:
        self._app = app
        self._limit = limit
        self._streamed = streamed
        self._patience = patience or Patience()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        timed = Timed(receive, self._patience)
        if scope["path"] in self._streamed:
            await self._app(scope, timed, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        try:
            if headers.get(b"content-encoding", "identity").lower() != "identity":
                raise Invalid("Compressed bodies are not accepted.", "Send the JSON as it is.")
            body = await read_body(timed, self._limit, headers.get(b"content-length", ""))
            if body:
                strict_json(body)
        except Gone:
            return
        except Poison as error:
            refused = problem(scope["path"], 400, "invalid_request", error.detail, error.next_step, False)
            await refused(scope, receive, send)
            return
        except DriftwheelError as error:
            await problem_of(error, scope["path"])(scope, receive, send)
            return
        await self._app(scope, replay(body, receive), send)


def replay(body: bytes, receive: Receive) -> Receive:
    """`receive` of a request whose body was read already; after it comes what the connection says."""
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
