"""Who calls and what they may do: EdDSA tokens with scopes, verified against a key set. No route without a scope."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fastapi import Depends, Request
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from shared.contracts.errors import Forbidden, Unauthenticated

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
"""Every scope there is; `admin` implies all others."""

ALGORITHMS = ["Ed25519", "EdDSA"]
"""RFC 9864 names the curve; issuers from before it still say EdDSA."""

_LEEWAY_SECONDS = 30
_RELOAD_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Caller:
    subject: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


class Authenticator:
    """Verifies bearer tokens. The key file is read again when it changes, so keys rotate without a restart."""

    def __init__(self, jwks_file: Path, issuer: str, audience: str) -> None:
        self._file = jwks_file
        self._claims = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_SECONDS,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            sub={"essential": True},
            exp={"essential": True},
        )
        self._keys: KeySet | None = None
        self._changed = 0
        self._looked = 0.0

    def _key_set(self) -> KeySet:
        now = time.monotonic()
        if self._keys is None or now - self._looked > _RELOAD_SECONDS:
            self._looked = now
            changed = self._file.stat().st_mtime_ns
            if changed != self._changed:
                self._keys = KeySet.import_key_set(json.loads(self._file.read_bytes()))
                self._changed = changed
        return cast(KeySet, self._keys)

    def caller(self, authorization: str | None) -> Caller:
        """The caller of an `Authorization` header. Raises Unauthenticated, without saying why in detail."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("This call needs a bearer token.", "Make one: driftwheel token --scope …")
        try:
            decoded = jwt.decode(token, self._key_set(), algorithms=ALGORITHMS)
            self._claims.validate(decoded.claims)
        except (JoseError, ValueError, TypeError) as error:
            raise Unauthenticated(
                "The token is not valid here, or has expired.", "Make a new one: driftwheel token."
            ) from error
        subject, scope = decoded.claims["sub"], decoded.claims.get("scope", "")
        if not isinstance(subject, str) or not isinstance(scope, str) or not subject or len(subject) > 200:
            raise Unauthenticated(
                "The token names no usable subject or scope.", "Make a new one: driftwheel token."
            )
        return Caller(subject, frozenset(scope.split()) & SCOPES)


def requires(scope: str) -> Any:
    """A dependency for a route's parameter: `caller: Annotated[Caller, requires("data:write")]`."""
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}")

    async def authorise(request: Request) -> Caller:  # async: no thread per request for a signature check
        return authorise_request(request, scope)

    authorise.scope = scope  # type: ignore[attr-defined]  # read by the test that no route lacks one
    return Depends(authorise)


def authorise_request(request: Request, scope: str) -> Caller:
    """The same check for a route outside FastAPI. Raises Unauthenticated or Forbidden."""
    authenticator: Authenticator = request.app.state.authenticator
    caller = authenticator.caller(request.headers.get("authorization"))
    if not caller.may(scope):
        raise Forbidden(
            f"This call needs the scope {scope}.", f"Make a token with it: driftwheel token --scope {scope}"
        )
    return caller


def mint(
    private_key: OKPKey,
    subject: str,
    scopes: list[str],
    ttl_seconds: float,
    *,
    issuer: str = "driftwheel",
    audience: str = "driftwheel",
    now: Callable[[], float] = time.time,
) -> str:
    """A token signed with an Ed25519 private key. Raises ValueError for an unknown scope."""
    if unknown := sorted(set(scopes) - SCOPES):
        raise ValueError(f"unknown scope {', '.join(unknown)}; there are {', '.join(sorted(SCOPES))}")
    issued = int(now())
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "scope": " ".join(sorted(set(scopes))),
        "iat": issued,
        "exp": issued + int(ttl_seconds),
    }
    return jwt.encode({"alg": "Ed25519", "kid": private_key.kid}, claims, private_key, algorithms=ALGORITHMS)
