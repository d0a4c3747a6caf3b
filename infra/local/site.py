"""Where one stack lives: its folders, ports, credentials, and what each service is told about them."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from infra.local.credentials import Credentials
from infra.local.environment import (
    Addresses,
    database_url,
    identity_environment,
    kafka_account,
    service_environment,
)
from infra.local.ports import LOOPBACK
from infra.local.settings import LocalSettings
from infra.local.state import ROOT
from shared.artifacts.settings import S3Settings
from shared.delivery.settings import KafkaSettings


@dataclass(frozen=True)
class Site:
    """Everything a part needs to know to start. Addresses are the user's own where given, else ours."""

    settings: LocalSettings
    credentials: Credentials
    ports: Mapping[str, int]

    @property
    def home(self) -> Path:
        return self.settings.home

    def folder(self, *names: str) -> Path:
        path = self.home.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, part: str) -> Path:
        return self.folder("logs") / f"{part}.log"

    def url(self, part: str) -> str:
        return f"http://{LOOPBACK}:{self.ports[part]}"

    @property
    def kafka_bootstrap(self) -> str:
        return self.settings.kafka_bootstrap or f"{LOOPBACK}:{self.ports['kafka']}"

    def kafka(self, role: str) -> KafkaSettings:
        """How a role of `Credentials.kafka` reaches Kafka; a user's own has one account for every role."""
        return self.settings.own_kafka or kafka_account(
            self.kafka_bootstrap, role, self.credentials.kafka[role]
        )

    @property
    def s3_endpoint(self) -> str:
        return self.settings.s3_endpoint or self.url("s3")

    @property
    def engine_url(self) -> str:
        return self.settings.engine_url or self.url("engine")

    @property
    def postgres_admin_url(self) -> str:
        if self.settings.postgres_url:
            return self.settings.postgres_url.get_secret_value()
        server = f"postgresql://{LOOPBACK}:{self.ports['postgres']}"
        return database_url(server, "postgres", self.credentials.postgres["admin"], "postgres")

    def database_url(self, service: str) -> str:
        """As the service itself is told: in a server that the user brings, it may have a database of its own."""
        variable = f"DRIFTWHEEL_{service.upper()}__DATABASE_URL"
        if self.settings.postgres_url and variable in os.environ:
            return os.environ[variable]
        name = f"{self.settings.database_prefix}{service}"
        return database_url(self.postgres_admin_url, name, self.credentials.postgres[service], name)

    def s3(self, role: str) -> S3Settings:
        """How this role (a service or `admin`) reaches the store; a user's own has one account for every role."""
        if own := self.settings.own_s3:
            return own
        access, secret = self.s3_key(role)
        return S3Settings(s3_endpoint=self.s3_endpoint, s3_access_key=access, s3_secret_key=SecretStr(secret))

    def s3_key(self, role: str) -> tuple[str, str]:
        """Access and secret key in the embedded store."""
        key = self.credentials.s3[role]
        return key.access, key.secret

    @property
    def identity(self) -> dict[str, str]:
        """Whose tokens are accepted, as variables without a prefix."""
        jwks_file, revoked_file = self.home / "secrets" / "jwks.json", self.home / "revoked.txt"
        return identity_environment(self.settings, str(jwks_file), str(revoked_file))

    def env_for(self, service: str, part: str | None = None) -> dict[str, str]:
        """Settings of one service as environment variables, prefix `DRIFTWHEEL_<SERVICE>__`.

        Args:
            part: the replica that is told; each has a port and a folder of its own.
        """
        part = part or service
        at = Addresses(
            kafka=self.kafka(service),
            postgres=self.postgres_admin_url,
            s3=self.s3(service),
            engine=self.engine_url,
            http_host=LOOPBACK,
            identity=self.identity,
            keys=str(self.home / "secrets"),
            base_model=str(self.settings.base_model),
            adapter_cache=str(self.folder(part, "adapters")),
            serving_state=str(self.folder(part) / "state"),
            database_prefix=self.settings.database_prefix,
        )
        password = self.credentials.postgres.get(service, "")
        told = service_environment(service, at, self.ports.get(part, 0), password, self.settings.engine)
        # In a part that the user brings, a service may have its own account: DRIFTWHEEL_<SERVICE>__KAFKA_USERNAME and the like.
        brings = self.settings
        own = {"KAFKA_": brings.own_kafka, "S3_": brings.own_s3, "DATABASE_": brings.postgres_url}
        given = tuple(f"DRIFTWHEEL_{service.upper()}__{kind}" for kind, brought in own.items() if brought)
        return {
            name: value for name, value in told.items() if not (name.startswith(given) and name in os.environ)
        }

    def settings_of(self, service: str) -> dict[str, str]:
        """The user's own settings for one service; ours for addresses and credentials go on top."""
        prefix = f"DRIFTWHEEL_{service.upper()}__"
        return {name: value for name, value in os.environ.items() if name.startswith(prefix)}


def base_environment() -> dict[str, str]:
    """Our own environment for a child, without settings and secrets meant for other parts."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DRIFTWHEEL_")}


def python_environment() -> dict[str, str]:
    """The same for a child that imports this project."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return base_environment() | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def script(name: str) -> str:
    """Full path of a program that a package put beside our interpreter."""
    return str(Path(sys.executable).with_name(name))
