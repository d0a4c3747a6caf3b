"""Who says so: Ed25519 signatures of events that change what users get, and of ours on topics that anybody may write.

Each service that signs holds a private key of its own; everyone who acts on its word has the public ones, each with the
name of its service. Several of one service may stand side by side, so that a key is changed without a pause: publish the
new public key, then sign with it, then withdraw the old one.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SERVICE, REGISTRY = "service", "registry"
"""The member of a public key that says whose it is; a key without one is the registry's."""
_CONTEXT = b"driftwheel event 1"
"""No signature of anything else can pass for one of an event."""


class UnusableKey(Exception):
    """A key file that is missing or no Ed25519 key; the message names the file."""


class Refused(Exception):
    """Not signed by anybody we trust. `reason` is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the signature is {reason}")
        self.reason = reason


REASONS = ("missing", "of an unknown key", "wrong")


class Signer(Protocol):
    def sign(self, event_id: str, event_type: str, body: bytes) -> tuple[str, str]:
        """Key id and signature, both text."""
        ...


class Verifier(Protocol):
    def check(
        self, event_id: str, event_type: str, body: bytes, service: str, signature: tuple[str, str]
    ) -> None:
        """Raises Refused unless this service signed exactly this id, type and body.

        Args:
            signature: key id and signature; empty where there is none.
        """
        ...


class FileSigner:
    """Signs with the private key of a file (a JSON Web Key). Raises UnusableKey."""

    def __init__(self, path: Path) -> None:
        found = _read(path)
        self.key_id, private = str(found.get("kid", "")), found.get("d")
        if not self.key_id or found.get("crv") != "Ed25519" or not isinstance(private, str):
            raise UnusableKey(f"{path} is no private Ed25519 key with a `kid`.")
        self._key = Ed25519PrivateKey.from_private_bytes(_unpadded(private))

    def sign(self, event_id: str, event_type: str, body: bytes) -> tuple[str, str]:
        signature = self._key.sign(_message(event_id, event_type, body))
        return self.key_id, base64.urlsafe_b64encode(signature).decode().rstrip("=")


class FileVerifier:
    """Trusts the public keys of a file (a JSON Web Key Set); read again when it changes. Raises UnusableKey."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = -1
        self._keys: dict[tuple[str, str], Ed25519PublicKey] = {}
        self._refresh()

    def check(
        self, event_id: str, event_type: str, body: bytes, service: str, signature: tuple[str, str]
    ) -> None:
        key_id, given = signature
        if not key_id or not given:
            raise Refused("missing")
        self._refresh()
        key = self._keys.get((service, key_id))
        if key is None:
            raise Refused("of an unknown key")
        try:
            key.verify(_unpadded(given), _message(event_id, event_type, body))
        except (InvalidSignature, ValueError) as error:
            raise Refused("wrong") from error

    def _refresh(self) -> None:
        try:
            changed = self._path.stat().st_mtime_ns
            if changed == self._changed:
                return
            given = _read(self._path)["keys"]
            self._keys = {
                (str(key.get(SERVICE, REGISTRY)), str(key["kid"])): _public(key)
                for key in given
                if key.get("crv") == "Ed25519"
            }
        except (UnusableKey, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            if self._keys:  # it is being replaced: whom we believe stays
                return
            raise UnusableKey(f"{self._path} is no JSON Web Key Set with Ed25519 keys.") from error
        self._changed = changed


class Nobody:
    """Trusts no key at all."""

    def check(
        self, event_id: str, event_type: str, body: bytes, service: str, signature: tuple[str, str]
    ) -> None:
        raise Refused("of an unknown key" if all(signature) else "missing")


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a service believes, and as whom it speaks. By default nobody and nobody: nothing signed is acted on."""

    verifier: Verifier = field(default_factory=Nobody)
    signer: Signer | None = None


NOBODY = Trust()


def _message(event_id: str, event_type: str, body: bytes) -> bytes:
    """Lengths keep the parts apart: no two events have the same."""
    parts = (_CONTEXT, event_id.encode(), event_type.encode(), hashlib.sha256(body).digest())
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _public(key: Any) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(_unpadded(str(key["x"])))


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UnusableKey(f"{path} cannot be read as a JSON Web Key ({type(error).__name__}).") from error
    if not isinstance(found, dict):
        raise UnusableKey(f"{path} is no JSON Web Key.")
    return found
