"""Make what docker-compose.yml reads: `python -m infra.docker.prepare` writes `.driftwheel/compose/`, once.

One env file per service with its own credentials, one for the administrator, the store's identities and certificates, the token keys.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from infra.kafka import access, certificates, server
from infra.local.credentials import (
    EVENT_KEYS,
    SERVICES,
    SIGNERS,
    Credentials,
    event_key,
    load_or_create,
    write_private,
)
from infra.local.environment import (
    Addresses,
    database_url,
    identity_environment,
    kafka_account,
    kafka_environment,
    service_environment,
)
from infra.local.settings import LocalSettings
from infra.s3 import buckets, security
from shared.artifacts.settings import S3Settings
from shared.delivery.settings import KafkaSettings
from shared.http.settings import IdentityProvider

INSIDE = Addresses(
    kafka=KafkaSettings(kafka_bootstrap="kafka:9092", kafka_ca_file=Path("/run/keys/kafka-ca.pem")),
    postgres="postgresql://postgres:5432",
    s3=S3Settings(s3_endpoint="http://s3:8333"),
    engine="http://engine:8000",
    http_host="0.0.0.0",  # of its container; only the front door publishes a port
    identity=identity_environment(IdentityProvider(), "/run/keys/jwks.json", "/run/keys/revoked.txt"),
    keys="/run/keys",
    base_model="/models/base",
    adapter_cache="/adapters",
    serving_state="/state",
)
PORT = 8080


def environments(credentials: Credentials) -> dict[str, dict[str, str]]:
    """Variables by env file: each holds the credentials of its reader only."""
    admin = credentials.postgres["admin"]
    users = {role: credentials.kafka[role] for role in (*SERVICES, access.READER, access.FOREIGN)}
    kafka = kafka_environment(account("admin", credentials)) | {
        "KAFKA_USERS": json.dumps(users, separators=(",", ":"))
    }
    result = {
        "postgres": {"POSTGRES_PASSWORD": admin},
        "databases": {
            "DRIFTWHEEL_POSTGRES_URL": database_url(INSIDE.postgres, "postgres", admin, "postgres")
        },
        "buckets": {
            "DRIFTWHEEL_S3_ENDPOINT": INSIDE.s3.s3_endpoint,
            "DRIFTWHEEL_S3_ACCESS_KEY": credentials.s3["admin"].access,
            "DRIFTWHEEL_S3_SECRET_KEY": credentials.s3["admin"].secret,
        },
        "topics": {f"DRIFTWHEEL_{name}": value for name, value in kafka.items()},
    }
    for service in SERVICES:
        key = credentials.s3[service]
        own = {"s3_access_key": key.access, "s3_secret_key": SecretStr(key.secret)}
        at = replace(INSIDE, kafka=account(service, credentials), s3=INSIDE.s3.model_copy(update=own))
        result[service] = service_environment(service, at, PORT, credentials.postgres[service], "vllm")
    return result


def account(role: str, credentials: Credentials) -> KafkaSettings:
    """How a role reaches Kafka between containers: in TLS."""
    at = INSIDE.kafka
    return kafka_account(at.kafka_bootstrap, role, credentials.kafka[role], kafka_ca_file=at.kafka_ca_file)


def prepare(folder: Path) -> None:
    """Fill the folder; credentials that are there stay as they are."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    credentials = load_or_create(folder / "secrets")
    for name, variables in environments(credentials).items():
        write_private(folder / f"{name}.env", "".join(f"{key}={value}\n" for key, value in variables.items()))
    if not all((folder / name).exists() for name in security.FILES):
        security.write(folder, seen_as=Path("/run/keys"))
    keys = {role: (key.access, key.secret) for role, key in credentials.s3.items()}
    if not (folder / certificates.CA_FILE).exists():
        certificates.issue(folder, "kafka")
    readable = {
        "kafka.properties": server.properties(
            ":9092", "localhost:9093", "kafka:9092", credentials.kafka, Path("/run/keys")
        ),
        certificates.CA_FILE: (folder / certificates.CA_FILE).read_text(),
        certificates.KEY_FILE: (folder / certificates.KEY_FILE).read_text(),
        "identities.json": json.dumps(buckets.identities(keys)),
        **{
            name: (folder / "secrets" / name).read_text()
            for name in ("jwks.json", EVENT_KEYS, *map(event_key, SIGNERS))
        },
        **{name: (folder / name).read_text() for name in security.FILES},
    }
    # Mounted alone, and read there by a user that is not their owner here.
    for name, text in readable.items():
        write_private(folder / name, text)
        (folder / name).chmod(0o644)
    (folder / "revoked.txt").touch(0o644)  # `driftwheel token revoke` adds to it in place
    folder.chmod(0o700)


def main() -> None:
    folder = LocalSettings().home / "compose"
    prepare(folder)
    print(f"wrote {folder}; now `docker compose up --build`", file=sys.stderr)


if __name__ == "__main__":
    main()
