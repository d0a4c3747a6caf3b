"""What somebody on this machine without a key gets from the store: nothing, at any port or socket it listens on."""

import io
import os
import socket
import ssl
import stat
import subprocess
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from minio.error import InvalidResponseError, S3Error

from infra.local.site import base_environment, script
from infra.s3 import buckets, security
from tests.conftest import S3Store

SECRET = b"the secret object " * 400
STRANGER = 65_534 if os.geteuid() == 0 else None
"""Another user where we may become one; else the attack runs as we do, which is no weaker."""
ASKED = (
    "GET /", "GET /dir/assign", "GET /dir/lookup?fileId=1,0100000000&read=yes", "GET /dir/status", "GET /vol/status",
    "GET /col/delete?collection=adapters", "POST /col/delete?collection=adapters", "GET /vol/grow?count=1",
    "GET /cluster/status", "GET /status", "GET /metrics", "GET /ui/index.html", "GET /stats/disk", "POST /submit",
    "GET /buckets/?limit=10", "GET /buckets/adapters/secret.txt", "DELETE /buckets/adapters?recursive=true",
    "PUT /buckets/adapters/secret.txt", "GET /1,0100000000", "DELETE /1,0100000000", "GET /admin/assign_volume",
    "GET /debug/pprof/", "PUT /etc/iam/identity.json",
)  # fmt: skip
SHELL = (
    "fs.ls /buckets", "fs.cat /buckets/adapters/secret.txt", "volume.list", "collection.list", "lock",
    "s3.configure -access_key=made -secret_key=bystranger -user=x -actions=Admin,Read,Write,List -apply",
    "collection.delete -collection=adapters -force", "fs.rm -r /buckets/adapters",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(s3: S3Store) -> S3Store:
    admin = buckets.client(s3.endpoint, s3.key())
    admin.put_object("adapters", "secret.txt", io.BytesIO(SECRET), len(SECRET))
    return s3


def unharmed(store: S3Store) -> bool:
    admin = buckets.client(store.endpoint, store.key())
    return admin.get_object("adapters", "secret.txt").read() == SECRET


def listening(store: S3Store) -> set[int]:
    process = psutil.Process(store.stack.pid("s3"))
    return {
        connection.laddr.port
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def inner_ports(store: S3Store) -> list[int]:
    found = listening(store) - {store.stack.site.ports["s3"]}
    assert len(found) == 7, "the store opens other ports than this test was written for"
    return sorted(found)


def answer(port: int, asked: str, wrap: Callable[[socket.socket], socket.socket]) -> bytes:
    """What comes back, empty when the connection is refused or cut."""
    try:
        with wrap(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
            connection.sendall(
                f"{asked} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )
            received = b""
            while piece := connection.recv(65_536):
                received += piece
            return received
    except OSError:
        return b""


def plain(connection: socket.socket) -> socket.socket:
    return connection


def encrypted(certificates: Path | None = None) -> Callable[[socket.socket], socket.socket]:
    """TLS that trusts anybody, without a certificate or with one of another store."""

    def wrap(connection: socket.socket) -> socket.socket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2", "http/1.1"])
        if certificates:
            context.load_cert_chain(certificates / "store.pem", certificates / "store.key")
        return context.wrap_socket(connection)

    return wrap


def test_no_inner_port_answers_a_request_without_the_store_s_certificate(
    store: S3Store, tmp_path: Path
) -> None:
    security.write(tmp_path)
    asked_as = {"plain": plain, "encrypted": encrypted(), "certificate of another store": encrypted(tmp_path)}
    answered = {
        (port, way, asked): got.partition(b"\r\n")[0]
        for port in inner_ports(store)
        for way, wrap in asked_as.items()
        for asked in ASKED
        if (got := answer(port, asked, wrap)) and not got.startswith(b"HTTP/1.0 400 Bad Request")
        and not got.startswith(b"\x00\x00")  # a gRPC server's settings: it says which protocol it speaks, and closes
    }  # fmt: skip
    assert answered == {}
    assert unharmed(store)


def weed_shell(store: S3Store, folder: Path) -> str:
    """All of `SHELL` typed into SeaweedFS's own tool, by another user; what it prints."""
    ports = store.stack.site.ports
    at = {name: f"127.0.0.1:{ports[f's3_{name}']}.{ports[f's3_{name}_grpc']}" for name in ("master", "filer")}
    try:
        done = subprocess.run(
            [script("weed"), "shell", f"-master={at['master']}", f"-filer={at['filer']}"],
            input="\n".join((*SHELL, "exit")) + "\n", capture_output=True, text=True, timeout=15, cwd=folder,
            env=base_environment() | {"HOME": str(folder)}, user=STRANGER, group=STRANGER,
            extra_groups=None if STRANGER is None else [], check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:  # it waits for ever for a master that talks to it
        return "".join(part.decode() for part in (error.stdout, error.stderr) if isinstance(part, bytes))
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "certificates", [False, True], ids=["no certificate", "certificate of another store"]
)
def test_the_store_s_own_tool_does_nothing_for_a_stranger(
    store: S3Store, tmp_path_factory: pytest.TempPathFactory, certificates: bool
) -> None:
    folder = tmp_path_factory.mktemp("stranger")
    for above in (folder, folder.parent, folder.parent.parent):
        above.chmod(0o755)
    if certificates:
        security.write(folder)
        for name in security.FILES:
            (folder / name).chmod(0o644)
    printed = weed_shell(store, folder)
    assert "adapters" not in printed.replace("/buckets/adapters", "")
    assert SECRET[:18].decode() not in printed
    assert unharmed(store)
    with pytest.raises(S3Error):
        buckets.client(store.endpoint, ("made", "bystranger")).list_buckets()


def test_sockets_and_folders_of_the_store_are_its_owner_s_alone(store: S3Store) -> None:
    process, folder = psutil.Process(store.stack.pid("s3")), store.stack.home / "s3"
    sockets = {Path(c.laddr) for c in process.net_connections(kind="unix") if c.laddr}
    assert len(sockets) == 6
    closed = [*sockets, folder, *(path for path in folder.rglob("*") if path.is_dir())]
    assert [str(path) for path in closed if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


@pytest.mark.parametrize("role", [None, "data", "trainer"])
def test_nobody_makes_keys_through_the_s3_port(store: S3Store, role: str | None) -> None:
    form = urllib.parse.urlencode({"Action": "CreateAccessKey", "Version": "2010-05-08", "UserName": "x"})
    key = store.key(role) if role else ("", "")
    client = buckets.client(store.endpoint, key)
    with pytest.raises((S3Error, InvalidResponseError), match=r"Denied|NotImplemented|NotAllowed|405"):
        client._execute(
            "POST", body=form.encode(), headers={"content-type": "application/x-www-form-urlencoded"}
        )
