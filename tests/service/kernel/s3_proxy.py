"""A proxy before the object store that loses answers, says 409, or speaks TLS: signatures hold, since the host is kept."""

import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Fate = Literal["pass", "conflict", "lose the answer"]
CONFLICT = (
    b"<Error><Code>ConditionalRequestConflict</Code><Message>another write is under way</Message></Error>"
)
HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass
class Proxy:
    """`decide` tells the fate of each request from its method and path; `seen` are all of them."""

    endpoint: str = ""
    decide: Callable[[str, str], Fate] = lambda method, path: "pass"
    seen: list[tuple[str, str]] = field(default_factory=list)

    def first(self, fate: Fate, method: str, ending: str) -> None:
        """This fate for the first request that fits, and none for the others."""
        left = [fate]

        def decide(asked: str, path: str) -> Fate:
            fits = asked == method and path.partition("?")[0].endswith(ending)
            return left.pop() if fits and left else "pass"

        self.decide = decide


@contextmanager
def before(target: str, certificates: Path | None = None) -> Iterator[Proxy]:
    """A proxy for the store at `target`; with certificates (`store.pem`, `store.key`) it speaks TLS."""
    proxy, upstream = Proxy(), urlsplit(target).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            proxy.seen.append((self.command, self.path))
            fate = proxy.decide(self.command, self.path)
            if fate == "conflict":
                self._answer(409, {"content-type": "application/xml"}, CONFLICT)
                return
            connection = http.client.HTTPConnection(upstream, timeout=30)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            if fate == "lose the answer":
                self.close_connection = True
                return
            kept = {n: v for n, v in answer.getheaders() if n.lower() not in HOP}
            self._answer(answer.status, kept, content)

        do_PUT = do_HEAD = do_POST = do_DELETE = do_GET  # noqa: N815

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() != "content-length" or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificates:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "store.pem", certificates / "store.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    proxy.endpoint = f"{'https' if certificates else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
