"""Passwords and keys of one stack: random, made once, readable by their owner only, never logged."""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KAFKA_ROLES = ("admin", "broker", "console", "foreign")
"""Who logs in to Kafka besides the services; `foreign` is an example of a producer outside the platform."""
REGISTRY_KEY, REGISTRY_KEYS = "registry-key.json", "registry-keys.json"
"""What the registry signs events with, and what shows everyone that it did."""
SERVICES = ("data", "trainer", "evaluator", "registry", "serving", "monitor")


@dataclass(frozen=True)
class S3Key:
    access: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Credentials:
    """Per role: PostgreSQL and Kafka passwords and S3 keys, for `admin`, each service, and Kafka's other roles."""

    postgres: Mapping[str, str] = field(repr=False)
    s3: Mapping[str, S3Key] = field(repr=False)
    kafka: Mapping[str, str] = field(repr=False)


def load_or_create(folder: Path) -> Credentials:
    """Read `credentials.json`, after making it and the keys that sign tokens and events if they are not there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "credentials.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    raw = _generate() | kept  # what an older installation lacks is added
    if raw != kept:
        write_private(path, json.dumps(raw, indent=1))
    if not (folder / "jwks.json").exists():
        _generate_key(folder, private="signing-key.json", public="jwks.json")
    if not (folder / REGISTRY_KEYS).exists():
        _generate_key(folder, private=REGISTRY_KEY, public=REGISTRY_KEYS)
    return Credentials(raw["postgres"], {role: S3Key(**key) for role, key in raw["s3"].items()}, raw["kafka"])


def _generate() -> dict[str, dict[str, Any]]:
    roles = ("admin", *SERVICES)
    return {
        "postgres": {role: secrets.token_urlsafe(24) for role in roles},
        "s3": {
            role: {"access": secrets.token_hex(10), "secret": secrets.token_urlsafe(30)} for role in roles
        },
        "kafka": {role: secrets.token_urlsafe(24) for role in (*KAFKA_ROLES, *SERVICES)},
    }


def _generate_key(folder: Path, private: str, public: str) -> None:
    from joserfc.jwk import OKPKey

    key = OKPKey.generate_key("Ed25519", {"use": "sig", "alg": "Ed25519"}, private=True, auto_kid=True)
    write_private(folder / private, json.dumps(key.as_dict(private=True)))
    write_private(folder / public, json.dumps({"keys": [key.as_dict(private=False)]}))


def write_private(path: Path, text: str) -> None:
    """Write atomically a file only its owner can read."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)
