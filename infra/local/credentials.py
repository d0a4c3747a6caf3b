"""Passwords and keys of one stack: random, made once, readable by their owner only, never logged."""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SERVICES = ("data", "trainer", "evaluator", "registry", "serving", "monitor")


@dataclass(frozen=True)
class S3Key:
    access: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Credentials:
    """Per role: PostgreSQL passwords and S3 keys, for `admin` and each service."""

    postgres: Mapping[str, str] = field(repr=False)
    s3: Mapping[str, S3Key] = field(repr=False)


def load_or_create(folder: Path) -> Credentials:
    """Read `credentials.json`, after making it and the token signing key if they are not there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "credentials.json"
    if not path.exists():
        write_private(path, json.dumps(_generate(), indent=1))
    if not (folder / "jwks.json").exists():
        _generate_signing_key(folder)
    raw = json.loads(path.read_text())
    return Credentials(raw["postgres"], {role: S3Key(**key) for role, key in raw["s3"].items()})


def _generate() -> dict[str, dict[str, object]]:
    roles = ("admin", *SERVICES)
    return {
        "postgres": {role: secrets.token_urlsafe(24) for role in roles},
        "s3": {
            role: {"access": secrets.token_hex(10), "secret": secrets.token_urlsafe(30)} for role in roles
        },
    }


def _generate_signing_key(folder: Path) -> None:
    from joserfc.jwk import OKPKey

    key = OKPKey.generate_key("Ed25519", {"use": "sig", "alg": "Ed25519"}, private=True, auto_kid=True)
    write_private(folder / "signing-key.json", json.dumps(key.as_dict(private=True)))
    write_private(folder / "jwks.json", json.dumps({"keys": [key.as_dict(private=False)]}))


def write_private(path: Path, text: str) -> None:
    """Write atomically a file only its owner can read."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)
