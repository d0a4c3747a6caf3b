"""Bearer tokens, made: a signed JWT (RFC 7519) with scopes. It brings only what signs, so a command can afford one.

What verifies them is in `tokens`, by a library: it has to stand what strangers send.
"""

import base64
import json
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCOPES = frozenset(
    {
        "admin",
        "chat",
        "data:read",
        "data:write",
        "eval:read",
        "feedback",
        "model:read",
        "model:write",
        "monitor:read",
        "run:read",
        "run:write",
    }
)
"""Every scope there is; `admin` implies all others. `chat:support` is `chat`, for the model `support` alone."""

_MODEL = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
LONGEST_SUBJECT = 200


def known_scope(word: str) -> bool:
    """Whether this is a scope, or one of a model (`data:write:support`); there is no `admin` of a model."""
    base, _, model = word.rpartition(":")
    return word in SCOPES or (base in SCOPES - {"admin"} and _MODEL.fullmatch(model) is not None)


def usable(subject: Any) -> bool:
    """A short text that can be stored, shown and logged: no NUL, no lone surrogate, no control character."""
    return (
        isinstance(subject, str)
        and 0 < len(subject) <= LONGEST_SUBJECT
        and not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", subject)
    )


def mint(
    private_key: Mapping[str, Any],
    subject: str,
    scopes: Collection[str],
    ttl_seconds: float,
    *,
    issuer: str = "driftwheel",
    audience: str = "driftwheel",
    now: Callable[[], float] = time.time,
    token_id: str | None = None,
) -> str:
    """A token signed with an Ed25519 private key, given as a JSON Web Key with its `kid`.

    Raises ValueError for an unknown scope or an unusable subject.
    """
    if unknown := sorted(word for word in scopes if not known_scope(word)):
        raise ValueError(f"unknown scope {', '.join(unknown)}; there are {', '.join(sorted(SCOPES))}")
    if not usable(subject):
        raise ValueError(f"a subject has 1 to {LONGEST_SUBJECT} characters, none of them a control character")
    issued = int(now())
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "scope": " ".join(sorted(set(scopes))),
        "iat": issued,
        "exp": issued + int(ttl_seconds),
        "jti": token_id or secrets.token_urlsafe(12),
    }
    header = {"typ": "JWT", "alg": "Ed25519", "kid": private_key.get("kid")}
    signed = b".".join(_base64(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    seed = base64.urlsafe_b64decode(private_key["d"] + "==")
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(signed)
    return (signed + b"." + _base64(signature)).decode()


def _base64(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")
