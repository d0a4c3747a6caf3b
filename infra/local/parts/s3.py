"""SeaweedFS in one process: only its S3 port is meant for others; the rest asks for a certificate of its own."""

import json
from pathlib import Path

from infra.local.credentials import write_private
from infra.local.part import Launch, Part
from infra.local.ports import LOOPBACK
from infra.local.site import Site, base_environment, script
from infra.s3 import buckets, security
from shared.artifacts.connection import connect

SOCKETS = Path("/tmp")
SERVERS = ("master", "volume", "filer")


class Store(Part):
    name = "s3"
    ports = ("s3", "s3_grpc", *(f"s3_{server}{kind}" for server in SERVERS for kind in ("", "_grpc")))
    stop_seconds = 2.0  # its volumes close at once; then it waits 10 s for its own connections

    def external(self, site: Site) -> bool:
        return site.settings.s3_endpoint is not None

    def prepare(self, site: Site) -> None:
        folder = site.folder("s3")
        site.folder("s3", "data")
        keys = {role: site.s3_key(role) for role in site.credentials.s3}
        write_private(folder / "identities.json", json.dumps(buckets.identities(keys)))
        security.write(folder)

    def launch(self, site: Site) -> Launch:
        folder, port = site.folder("s3"), site.ports
        options: dict[str, object] = {"dir": folder / "data", "ip": LOOPBACK, "ip.bind": LOOPBACK}
        for server in SERVERS:
            options |= {
                f"{server}.port": port[f"s3_{server}"],
                f"{server}.port.grpc": port[f"s3_{server}_grpc"],
            }
        options |= {
            "master.peers": "none",
            "master.telemetry": "false",  # its default is to report to its makers
            "master.volumeSizeLimitMB": 128,
            "volume.max": 0,
            "volume.preStopSeconds": 0,
            "filer": "true",
            "filer.disableHttp": "true",  # nobody needs the filer's HTTP port
            "filer.localSocket": _socket(folder, "filer", port["s3_filer"]),
            "s3": "true",
            "s3.port": port["s3"],
            "s3.port.grpc": port["s3_grpc"],
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": _socket(folder, "s3", port["s3"]),
            "s3.config": folder / "identities.json",
            "s3.autoCreateBucket": "false",
            "s3.iam": "false",  # keys come from the file above, and from nowhere else
        }
        command = [
            script("weed"),
            "-logtostderr",
            "server",
            *(f"-{name}={value}" for name, value in options.items()),
        ]
        return Launch(command, base_environment(), folder)  # it reads security.toml from its folder

    def check(self, site: Site, since: float) -> None:
        at = site.s3("admin")
        connect(at, connect_seconds=2, read_seconds=20).bucket_exists(at.bucket("uploads"))

    def provide(self, site: Site) -> None:
        at = site.s3("admin")
        buckets.ensure(connect(at), at)

    def cleanup(self, site: Site) -> None:
        for name in self.ports:
            for socket in SOCKETS.glob(f"seaweedfs-*-{site.ports[name]}.sock"):
                socket.unlink(missing_ok=True)


def _socket(folder: Path, name: str, port: int) -> Path:
    """A path short enough for a Unix socket (107 bytes); else the place where it puts its other ones."""
    path = folder / f"{name}.sock"
    return path if len(str(path)) < 100 else SOCKETS / f"seaweedfs-{name}-{port}.sock"
