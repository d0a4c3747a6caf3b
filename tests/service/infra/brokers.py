"""A broker of a test's own, with TLS in front: nobody else's services read what is tried out on it."""

import asyncio
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.kafka import access, certificates, server, topics
from infra.kafka.admin import ClusterRefused
from infra.local import credentials, ports
from infra.local.credentials import write_private
from infra.local.environment import kafka_account
from infra.local.parts.kafka import Kafka
from infra.local.process import Process
from infra.local.settings import LocalSettings
from infra.local.site import Site
from shared.delivery.kafka import connection
from shared.delivery.settings import KafkaSettings

TOKENS = (
    "listener.name.client.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN,OAUTHBEARER",
    "listener.name.client.oauthbearer.sasl.jaas.config="
    'org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
)
"""Besides what we configure: a cluster that takes tokens, even unsigned ones."""
CLUSTER = "ZHJpZnR3aGVlbC1jbHVzdA"
ROLES = (*credentials.SERVICES, access.READER, access.FOREIGN)


@dataclass(frozen=True)
class TlsBroker:
    """Every topic, user and grant of the platform is made; the certificate is for `localhost`."""

    site: Site

    @property
    def bootstrap(self) -> str:
        return f"localhost:{self.site.ports['kafka']}"

    @property
    def ca_file(self) -> Path:
        return self.site.folder("keys") / certificates.CA_FILE

    def settings(self, role: str = "admin", **more: Any) -> KafkaSettings:
        account = kafka_account(
            self.bootstrap,
            role,
            self.site.credentials.kafka[role],
            kafka_tls=True,
            kafka_ca_file=self.ca_file,
        )
        return KafkaSettings(**account.model_dump() | more)

    def client(self, role: str = "admin", **more: Any) -> dict[str, Any]:
        return connection(self.settings(role, **more))

    def create(self, *wanted: topics.Topic) -> None:
        asyncio.run(topics.ensure(self.settings(), wanted))

    async def apply(self, *without: access.Grant, more: Sequence[access.Grant] = ()) -> None:
        """The platform's access list, less or more."""
        passwords = {role: self.site.credentials.kafka[role] for role in ROLES}
        wanted = [grant for grant in (*access.grants(), *more) if grant not in without]
        await access.apply(self.settings(), wanted, passwords=passwords)


@contextmanager
def tls_broker(home: Path) -> Iterator[TlsBroker]:
    held = {name: ports.reserve() for name in Kafka.ports}
    numbers = {name: socket.getsockname()[1] for name, socket in held.items()}
    site = Site(LocalSettings.of(home), credentials.load_or_create(home / "secrets"), numbers)
    part, broker = Kafka(), TlsBroker(site)
    part.prepare(site)
    certificates.issue(site.folder("keys"), "localhost")
    client, controller = (f"127.0.0.1:{numbers[name]}" for name in Kafka.ports)
    configuration = server.properties(
        client, controller, broker.bootstrap, site.credentials.kafka, site.folder("keys")
    )
    for line in TOKENS:
        name, _, value = line.partition("=")
        configuration = re.sub(f"(?m)^{re.escape(name)}=.*$", "", configuration) + f"{name}={value}\n"
    folder = site.folder("kafka")
    write_private(folder / "server.properties", f"{configuration}log.dirs={folder / 'data'}\n")
    process = Process(part.launch(site), site.log("kafka"), f"{home}|test|kafka")
    try:
        asyncio.run(_ready(broker))
        yield broker
    finally:
        process.kill()
        for socket in held.values():
            socket.close()


async def _ready(broker: TlsBroker) -> None:
    deadline = time.monotonic() + 400
    while True:
        try:
            if await topics.brokers(broker.settings()):
                break
        except ClusterRefused:
            assert time.monotonic() < deadline, broker.site.log("kafka").read_text()[-3_000:]
            await asyncio.sleep(0.3)
    await broker.apply()
    await topics.ensure(broker.settings(), topics.wanted())


@contextmanager
def cluster(home: Path, nodes: int = 3) -> Iterator[KafkaSettings]:
    """Brokers of one cluster, the first of which is the controller too; yields its administrator's settings."""
    held = [{name: ports.reserve() for name in Kafka.ports} for _ in range(nodes)]
    secrets, processes = credentials.load_or_create(home / "secrets"), []
    controller = _addresses(held[0])[1]
    try:
        for node, sockets in enumerate(held, 1):
            numbers = {name: socket.getsockname()[1] for name, socket in sockets.items()}
            site = Site(LocalSettings.of(home / f"node-{node}"), secrets, numbers)
            part, folder = Kafka(), site.folder("kafka")
            client = _addresses(sockets)[0]
            text = server.properties(client, controller, client, secrets.kafka)
            if node > 1:
                text = text.replace("process.roles=broker,controller", "process.roles=broker")
                text = text.replace(f",CONTROLLER://{controller}", "")
            text = text.replace("node.id=1", f"node.id={node}") + f"log.dirs={folder / 'data'}\n"
            write_private(folder / "server.properties", text)
            command = [*part._java(site), "kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER]
            subprocess.run(
                [*command, "--config", str(folder / "server.properties")], check=True, capture_output=True
            )
            processes.append(Process(part.launch(site), site.log("kafka"), f"{site.home}|test|kafka"))
        admin = kafka_account(_addresses(held[0])[0], "admin", secrets.kafka["admin"])
        asyncio.run(_joined(admin, nodes))
        yield admin
    finally:
        for process in processes:
            process.kill()
        for sockets in held:
            for socket in sockets.values():
                socket.close()


def _addresses(sockets: dict[str, Any]) -> list[str]:
    return [f"127.0.0.1:{sockets[name].getsockname()[1]}" for name in Kafka.ports]


async def _joined(admin: KafkaSettings, nodes: int) -> None:
    deadline = time.monotonic() + 600
    while True:
        try:
            if await topics.brokers(admin) == nodes:
                return
        except ClusterRefused:
            pass
        assert time.monotonic() < deadline, f"the cluster never had {nodes} brokers"
        await asyncio.sleep(0.5)
