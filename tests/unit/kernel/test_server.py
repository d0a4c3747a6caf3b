"""A real server over a real socket: what strangers send is not read, and nobody holds a connection for nothing."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from joserfc.jwk import KeySet, OKPKey

from shared.http import server as limits
from shared.http.bodies import BodyGuard, Patience
from shared.http.jwks import KeyFile
from shared.http.server import server
from shared.http.tokens import Authenticator, mint
from shared.http.web import guard

KEY = OKPKey.generate_key("Ed25519", parameters={"kid": "k1", "use": "sig", "alg": "Ed25519"})


class Connection:
    """Bytes in and out, as an attacker would write them."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def head(self, path: str, *headers: str, method: str = "POST") -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: evil.example", *headers, "", ""]
        self.send("\r\n".join(lines).encode("latin-1"))

    def answer(self) -> bytes:
        """What comes first; empty when the connection is closed."""
        return self._socket.recv(65_536)

    def ended(self) -> bool:
        """Whether the server closes, however it is spoken to meanwhile."""
        deadline = time.monotonic() + 20
        self._socket.settimeout(0.2)
        while time.monotonic() < deadline:
            try:
                self._socket.sendall(b"a")
                if not self._socket.recv(65_536):
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
        return False


@pytest.fixture(scope="module")
def token() -> str:
    return mint(KEY, "ann", ["chat"], 600)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    file = tmp_path_factory.mktemp("keys") / "jwks.json"
    with _serving(_app(file)) as found:
        yield found


def _app(file: Path) -> FastAPI:
    file.write_text(json.dumps(KeySet([KEY]).as_dict(private=False)))
    app = FastAPI(redirect_slashes=False)

    @app.get("/open")
    async def public() -> dict[str, bool]:
        return {"open": True}

    @app.post("/things")
    async def things(body: dict[str, Any]) -> dict[str, int]:
        return {"keys": len(body)}

    @app.post("/files")
    async def files(request: Request) -> dict[str, int]:
        return {"bytes": sum([len(chunk) async for chunk in request.stream()])}

    guard(
        app,
        Authenticator(KeyFile(file), "driftwheel", "driftwheel"),
        public=("/open",),
        max_body_bytes=1_048_576,
        streamed=("/files",),
    )
    for one in app.user_middleware:
        if one.cls is BodyGuard:
            one.kwargs["patience"] = Patience(idle=0.5, whole=1.0, rate=1_000_000.0)
    return app


@contextmanager
def _serving(app: FastAPI) -> Iterator[int]:
    made = server(app, "127.0.0.1", 0)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not made.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    yield int(made.servers[0].sockets[0].getsockname()[1])
    made.should_exit = True
    thread.join(30)


@pytest.mark.parametrize("path", ["/things", "/files", "/nowhere", "/open", "/things/"])
def test_a_stranger_is_refused_before_the_body(port: int, path: str) -> None:
    stranger = Connection(port)
    stranger.head(path, "Content-Type: application/json", "Content-Length: 1000000")
    assert b"HTTP/1.1 401 " in stranger.answer()


def test_a_stranger_is_not_told_to_go_on(port: int) -> None:
    stranger = Connection(port)
    stranger.head("/things", "Content-Length: 1000000", "Expect: 100-continue")
    answer = stranger.answer()
    assert b"HTTP/1.1 401 " in answer
    assert b"www-authenticate: Bearer" in answer


def test_two_tokens_are_none(port: int, token: str) -> None:
    twice = Connection(port)
    twice.head("/things", f"Authorization: Bearer {token}", "Authorization: Bearer x", "Content-Length: 2")
    assert b"HTTP/1.1 401 " in twice.answer()


def test_a_body_that_nobody_reads_ends_with_its_answer(port: int) -> None:
    stranger = Connection(port)
    stranger.head("/things", "Content-Length: 1000000")
    assert b"401" in stranger.answer()
    assert stranger.ended()


@pytest.mark.parametrize("path", ["/things", "/files"])
def test_a_body_that_trickles_is_given_up(port: int, token: str, path: str) -> None:
    slow = Connection(port)
    slow.head(
        path, f"Authorization: Bearer {token}", "Content-Type: application/json", "Content-Length: 100000"
    )
    slow.send(b'{"a":"')
    assert b"HTTP/1.1 408 " in slow.answer()
    assert slow.ended()


def test_a_body_that_never_pauses_is_given_up_too(port: int, token: str) -> None:
    slow = Connection(port)
    slow.head("/things", f"Authorization: Bearer {token}", "Content-Length: 100000")
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.1):
            slow.send(b"a")

    sender = threading.Thread(target=trickle, daemon=True)
    sender.start()
    assert b"HTTP/1.1 408 " in slow.answer()
    stop.set()


def test_a_good_body_passes_and_the_connection_stays(port: int, token: str) -> None:
    good = Connection(port)
    for _ in range(3):
        headers = f"Authorization: Bearer {token}", "Content-Type: application/json", "Content-Length: 8"
        good.head("/things", *headers)
        good.send(b'{"a": 1}')
        assert b"200 OK" in good.answer()


@pytest.mark.parametrize(
    "headers", [[f"X-Large: {'a' * 200_000}"], [f"X-{n}: {'a' * 900}" for n in range(60)]]
)
def test_a_large_head_is_refused(port: int, headers: list[str]) -> None:
    large = Connection(port)
    large.head("/open", *headers, method="GET")
    assert b"HTTP/1.1 400 " in large.answer()


def test_a_header_without_an_end_is_refused(port: int) -> None:
    endless = Connection(port)
    endless.send(b"GET /open HTTP/1.1\r\nX-Endless: ")
    with pytest.raises(OSError):  # the server answers and closes; what is sent after that breaks
        for _ in range(1_000):
            endless.send(b"a" * 10_000)
            time.sleep(0.001)


def test_a_head_that_trickles_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.5)
    for begin in (b"", b"GET /open HT", b"\r\n"):
        slow = Connection(port)
        slow.send(begin)
        assert slow.ended()


def test_malformed_chunks_are_the_callers_mistake(port: int, token: str) -> None:
    broken = Connection(port)
    broken.head("/things", f"Authorization: Bearer {token}", "Transfer-Encoding: chunked")
    broken.send(b"zz\r\nnonsense\r\n")
    assert b"HTTP/1.1 400 " in broken.answer()


def test_no_redirect_names_the_callers_host(port: int, token: str) -> None:
    slash = Connection(port)
    slash.head("/things/", f"Authorization: Bearer {token}", "Content-Length: 0")
    answer = slash.answer()
    assert b"HTTP/1.1 404 " in answer
    assert b"evil.example" not in answer
