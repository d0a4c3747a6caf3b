"""One of our services, or the worker beside it."""

import sys
import threading
import time
from typing import Any

import psycopg

from infra.local.http import ask
from infra.local.part import Launch, NotReady, Part, Sight, cpu_share
from infra.local.site import Site, python_environment

# Alembic keeps its migration context in module globals, so one database at a time.
_MIGRATING = threading.Lock()
HEARTBEAT_SECONDS = 30.0


def replica_name(part: str, replica: int) -> str:
    """`data`, `data-2`, `data-3`, …"""
    return part if replica == 1 else f"{part}-{replica}"


class MigrationFailed(Exception):
    """The database of a service could not be brought up to date; the message says why."""


class Service(Part):
    """`python -m services.<name>.app`, after its database is migrated."""

    needs: tuple[str, ...] = ("kafka", "postgres", "s3")
    start_seconds = 300.0
    stop_seconds = 30.0

    def __init__(self, service: str, replica: int = 1):
        self.service = service
        self.name = replica_name(service, replica)
        self.ports = (self.name,)

    def prepare(self, site: Site) -> None:
        from shared.delivery.schema import upgrade  # seconds of imports that `status` and `down` need not pay

        try:
            with _MIGRATING:
                upgrade(self.service, site.database_url(self.service))
        except Exception as error:
            raise MigrationFailed(f"the database of {self.service} could not be migrated: {error}") from error

    def launch(self, site: Site) -> Launch:
        command = [sys.executable, "-m", f"services.{self.service}.app"]
        return Launch(command, self._environment(site), site.folder(self.name))

    def check(self, site: Site, since: float) -> None:
        ready, said = ask(f"{site.url(self.name)}/health/ready")
        if not ready:
            raise NotReady("; ".join(_reasons(said)) or "it says that it is not ready")

    def look(self, site: Site, since: float) -> Sight:
        alive, _ = ask(f"{site.url(self.name)}/health/live")
        ready, said = ask(f"{site.url(self.name)}/health/ready")
        return Sight(
            alive, () if ready else _reasons(said) or ("it says that it is not ready",), _troubles(said)
        )

    def _environment(self, site: Site) -> dict[str, str]:
        return python_environment() | site.settings_of(self.service) | site.env_for(self.service, self.name)


class Worker(Service):
    """`python -m services.<name>.worker`: the long work of a service, kept on its own cores."""

    def __init__(self, service: str, replica: int = 1):
        self.service = service
        self.name = replica_name(f"{service}-worker", replica)
        self.needs = (*Service.needs, service)
        self.ports = ()

    def prepare(self, site: Site) -> None:
        """The service, which it needs, has migrated the database."""

    def launch(self, site: Site) -> Launch:
        cpus = cpu_share("worker")
        # Waiting threads sleep instead of spinning, so that what shares their cores goes on.
        threads = {"OMP_WAIT_POLICY": "PASSIVE"} | ({"OMP_NUM_THREADS": str(len(cpus))} if cpus else {})
        command = [sys.executable, "-m", f"services.{self.service}.worker"]
        return Launch(command, self._environment(site) | threads, site.folder(self.name), cpus=cpus)

    def check(self, site: Site, since: float) -> None:
        """A worker has no port: it shows in its database, where it writes a heartbeat every two seconds."""
        alive = "SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > to_timestamp(%s)"
        with psycopg.connect(site.database_url(self.service), connect_timeout=3) as connection:
            if connection.execute(alive, [since]).fetchone() == (0,):
                raise NotReady("it has written no heartbeat to its database yet")

    def look(self, site: Site, since: float) -> Sight:
        """Silent while its database answers, it hangs; without a database nobody can tell."""
        try:
            self.check(site, time.time() - HEARTBEAT_SECONDS)
        except psycopg.OperationalError:
            return Sight(waits=("database: it does not answer",))
        return Sight()


def _reasons(said: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(reason) for reason in said.get("reasons", ()))


def _troubles(said: dict[str, Any]) -> tuple[str, ...]:
    """Parts of the service that stand still, as it reports them."""
    return tuple(
        f"{part.get('name')}: {part.get('state')}" + (f" ({part['detail']})" if part.get("detail") else "")
        for part in said.get("parts", ())
        if isinstance(part, dict) and part.get("state") not in ("running", "starting")
    )
