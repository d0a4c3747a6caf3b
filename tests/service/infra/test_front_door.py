"""Which path reaches which service, through the real Caddy; upstreams answer with their name and what they were asked."""

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.local.credentials import SERVICES
from infra.local.stack import Stack


def upstream(name: str, port: int) -> ThreadingHTTPServer:
    class Echo(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"service": name, "path": self.path}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The front door with every service behind it but the monitor, which is away."""
    with Stack(tmp_path_factory.mktemp("door"), engine="transformers") as stack:
        servers = [
            upstream(name, stack.site.ports[name]) for name in (*SERVICES, "console") if name != "monitor"
        ]
        stack.start("caddy")
        yield stack.urls["caddy"]
        for server in servers:
            server.shutdown()
            server.server_close()


def get(url: str) -> tuple[int, dict[str, object], str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.loads(answer.read()), answer.headers["content-type"] or ""
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), error.headers["content-type"]


@pytest.mark.parametrize(
    ("path", "service", "seen"),
    [
        ("/v1/chat/completions", "serving", "/v1/chat/completions"),
        ("/v1/completions", "serving", "/v1/completions"),
        ("/v1/models", "serving", "/v1/models"),
        ("/v1/models/support@champion", "serving", "/v1/models/support@champion"),
        ("/v1/feedback", "serving", "/v1/feedback"),
        ("/v1/files", "data", "/v1/files"),
        ("/v1/files/f1/content?after=2", "data", "/v1/files/f1/content?after=2"),
        ("/v1/datasets", "data", "/v1/datasets"),
        ("/v1/fine_tuning/jobs", "trainer", "/v1/fine_tuning/jobs"),
        # Everything else is a page of the console.
        *((path, "console", path) for path in ("/", "/runs/run-1", "/static/console.css", "/live")),
        *((f"/api/{name}/things/1?a=b", name, "/things/1?a=b") for name in SERVICES if name != "monitor"),
    ],
)
def test_a_path_reaches_its_service(door: str, path: str, service: str, seen: str) -> None:
    assert get(door + path)[:2] == (200, {"service": service, "path": seen})


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/api/nobody/x",
        "/v1/unknown",
        "/v1/filesystem",
        "/api/data/metrics",
        "/api/serving/metrics?x=1",
        "/API/data/metrics",
        "/Api/Data/METRICS",
        "/api//data//metrics",
        "/api/data/%6detrics",
        "/api/data/metrics/",
    ],
)
def test_an_unknown_path_and_metrics_end_at_the_door(door: str, path: str) -> None:
    status, body, kind = get(door + path)
    assert (status, body["status"], kind) == (404, 404, "application/problem+json")


def test_a_service_that_is_away_is_a_503_with_what_to_do(door: str) -> None:
    status, body, kind = get(f"{door}/api/monitor/windows")
    assert (status, body["status"], kind) == (503, 503, "application/problem+json")
    assert "driftwheel status" in str(body["detail"])


@pytest.mark.parametrize(
    "body",
    [b"zz\r\nnonsense\r\n", b"5\r\nhelloXX\r\n0\r\n\r\n", b"5;" + b"a" * 9_000 + b"\r\nhello\r\n0\r\n\r\n"],
    ids=["no-length", "no-end", "long-extension"],
)
def test_chunks_that_cannot_be_read_are_the_callers_mistake(door: str, body: bytes) -> None:
    address = door.rpartition("/")[2].partition(":")
    with socket.create_connection((address[0], int(address[2])), timeout=30) as caller:
        caller.sendall(b"POST /api/data/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        assert caller.recv(4_096).startswith(b"HTTP/1.1 400 ")


def test_a_header_of_more_than_16_kb_is_refused(door: str) -> None:
    request = urllib.request.Request(f"{door}/v1/models", headers={"x-long": "a" * 40_000})
    with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)):
        urllib.request.urlopen(request, timeout=10)


def test_the_door_listens_on_loopback_only(door: str) -> None:
    port = int(door.rpartition(":")[2])
    own = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for address in {str(a) for a in own if not str(a).startswith("127.")}:
        with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
            socket.create_connection((address, port), timeout=2)


def test_scrape_targets_are_written_with_the_real_ports(tmp_path: Path) -> None:
    with Stack(tmp_path, engine="transformers") as stack:
        text = (tmp_path / "prometheus.yml").read_text()
        assert all(f"127.0.0.1:{stack.site.ports[name]}" in text for name in (*SERVICES, "engine"))
