"""What a service is told, as environment variables: the same names on a laptop and in containers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, SecretStr

from infra.local.credentials import EVENT_KEYS, SERVICES, SIGNERS, event_key
from shared.artifacts.settings import S3Settings
from shared.delivery.settings import KafkaSettings
from shared.http.settings import IdentityProvider


@dataclass(frozen=True)
class Addresses:
    """Where everything is, as seen by one service. `keys` is a folder; `postgres` is a URL without role, password and database."""

    kafka: KafkaSettings
    postgres: str
    s3: S3Settings
    engine: str
    http_host: str
    identity: Mapping[str, str]
    keys: str
    base_model: str
    adapter_cache: str
    serving_state: str
    database_prefix: str = ""


def database_url(server: str, role: str, password: str, database: str) -> str:
    """The server's URL, with its parameters, for this role and database."""
    url = urlsplit(server)
    address = url.netloc.rpartition("@")[2]
    return url._replace(netloc=f"{role}:{quote(password, safe='')}@{address}", path=f"/{database}").geturl()


def kafka_account(bootstrap: str, role: str, password: str, **more: Any) -> KafkaSettings:
    """How a role reaches a Kafka that we started: `admin` is known by the broker's own file, the others are its users."""
    mechanism = "PLAIN" if role == "admin" else "SCRAM-SHA-512"
    return KafkaSettings(
        kafka_bootstrap=bootstrap, kafka_mechanism=mechanism, kafka_username=role, kafka_password=password, **more
    )  # fmt: skip


def kafka_environment(settings: KafkaSettings) -> dict[str, str]:
    """How to reach Kafka."""
    return told(settings, "kafka_bootstrap")


def told(settings: BaseModel, *always: str) -> dict[str, str]:
    """Settings as variables without a prefix: those named `always`, and what differs from its default."""
    fields = type(settings).model_fields
    given = {name: getattr(settings, name) for name in fields}
    return {
        name.upper(): _text(value)
        for name, value in given.items()
        if name in always or value != fields[name].get_default(call_default_factory=True)
    }


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, bool | dict) else str(value)


def identity_environment(provider: IdentityProvider, jwks_file: str, revoked_file: str) -> dict[str, str]:
    """Whose tokens are accepted, as variables without a prefix: those of our own key, or of the provider set."""
    keys = (
        {"AUTH_JWKS_URL": provider.auth_jwks_url} if provider.auth_jwks_url else {"AUTH_JWKS_FILE": jwks_file}
    )
    return {
        **keys,
        "AUTH_REVOKED_FILE": revoked_file,
        "AUTH_ISSUER": provider.auth_issuer,
        "AUTH_AUDIENCE": provider.auth_audience,
        "AUTH_ALGORITHMS": json.dumps(provider.auth_algorithms),
        "AUTH_LONGEST_LIFE_SECONDS": str(provider.auth_longest_life_seconds),
    }


def service_environment(service: str, at: Addresses, port: int, password: str, engine: str) -> dict[str, str]:
    """Settings of one service, prefix `DRIFTWHEEL_<SERVICE>__`. Raises KeyError for a service that does not exist."""
    if service not in SERVICES:
        raise KeyError(f"no service {service!r}; there are {', '.join(SERVICES)}")
    values = {
        "DATABASE_URL": database_url(at.postgres, name := f"{at.database_prefix}{service}", password, name),
        **kafka_environment(at.kafka),
        **told(at.s3, "s3_endpoint"),
        "HTTP_HOST": at.http_host,
        "HTTP_PORT": str(port),
        **at.identity,
        "SIGNING_KEYS_FILE": f"{at.keys}/{EVENT_KEYS}",
        "BASE_MODEL": at.base_model,
    }
    if service in SIGNERS:
        values |= {"SIGNING_KEY_FILE": f"{at.keys}/{event_key(service)}"}
    if service == "serving":
        values |= {"ENGINE": engine, "ENGINE_URL": at.engine}
        values |= {"ADAPTER_CACHE": at.adapter_cache, "STATE_FOLDER": at.serving_state}
    return {f"DRIFTWHEEL_{service.upper()}__{name}": value for name, value in values.items()}
