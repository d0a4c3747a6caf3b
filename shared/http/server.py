"""The HTTP server under every app: heads bounded in bytes and time, connections that do not outlive their answer."""

from asyncio import BaseTransport, TimerHandle
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 32_768
"""Request line and headers. The front door allows half of it; a token may have 8 kB, a cookie 4 kB."""
HEAD_SECONDS = 10.0
LINGER_SECONDS = 2.0
"""How long a body may go on that nobody reads any more, because its request is answered already."""


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol, with the limits that it leaves to a proxy."""

    _head_bytes = 0
    _in_head = True
    _in_body = False
    _timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(Any, transport))
        self._close_after(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # A header without an end reaches no callback: what came so far is counted here.
        if self._in_head and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")
        elif self._in_head and self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._close_after(HEAD_SECONDS)  # blank lines between requests: no message begins, no timer ran

    def on_message_begin(self) -> None:
        self._in_head, self._in_body = True, True
        self._close_after(HEAD_SECONDS)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._keep()
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > HEAD_BYTES:
            raise ValueError("head too large")  # the parser hands it to `data_received`, which answers 400
        self._in_head, self._head_bytes = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body, self._in_head, self._head_bytes = False, True, 0
        self._keep()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._close_after(LINGER_SECONDS)

    def _close_after(self, seconds: float) -> None:
        self._keep()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _keep(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


def server(app: Any, host: str, port: int) -> uvicorn.Server:
    """A server for one ASGI app; it speaks HTTP/1.1 alone."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=BoundedHttp,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=20,
    )
    return uvicorn.Server(config)
