"""Forms of the console's pages: small, urlencoded, in time. No part of one ever becomes a file."""

from collections.abc import Callable

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.contracts.errors import DriftwheelError, Invalid
from shared.http.bodies import Gone, Patience, Timed, read_body, replay

LARGEST_FORM = 16_384
_TYPE = "application/x-www-form-urlencoded"


class FormGuard:
    """Reads the body of a POST before its route does; `refuse` draws what is wrong with one that is refused."""

    def __init__(
        self, app: ASGIApp, refuse: Callable[[DriftwheelError], Response], patience: Patience | None = None
    ) -> None:
        self._app = app
        self._refuse = refuse
        self._patience = patience or Patience()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        length = headers.get(b"content-length", "")
        try:
            if headers.get(b"content-type", _TYPE).partition(";")[0].strip().lower() != _TYPE:
                raise Invalid("A form is sent urlencoded here.", "Use the form of the page.")
            body = await read_body(Timed(receive, self._patience), LARGEST_FORM, length)
        except Gone:
            return
        except DriftwheelError as error:
            await self._refuse(error)(scope, receive, send)
            return
        await self._app(scope, replay(body, receive), send)
