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
SIGNERS = ("registry", "serving")
"""Services that sign events."""
EVENT_KEYS = "event-keys.json"
"""The public keys of the signers."""
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
        key = _generate_key()
        write_private(folder / "signing-key.json", json.dumps(key))
        public = {name: value for name, value in key.items() if name != "d"}
        write_private(folder / "jwks.json", json.dumps({"keys": [public]}))
    _event_keys(folder)
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


def event_key(service: str) -> str:
    """The file of the private key that a service signs events with."""
    return f"{service}-key.json"


def _event_keys(folder: Path) -> None:
    """A key for each signer that has none; the public one is there before anything is signed with it."""
    path = folder / EVENT_KEYS
    known = json.loads(path.read_text())["keys"] if path.exists() else []
    for service in SIGNERS:
        private = folder / event_key(service)
        key = json.loads(private.read_text()) if private.exists() else _generate_key()
        if key["kid"] not in {one["kid"] for one in known}:
            known.append({name: value for name, value in key.items() if name != "d"} | {"service": service})
            write_private(path, json.dumps({"keys": known}))
        if not private.exists():
            write_private(private, json.dumps(key))


def _generate_key() -> dict[str, Any]:
    from joserfc.jwk import OKPKey

    key = OKPKey.generate_key("Ed25519", {"use": "sig", "alg": "Ed25519"}, private=True, auto_kid=True)
    return dict(key.as_dict(private=True))


def write_private(path: Path, text: str) -> None:
    """Write atomically a file only its owner can read."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)
