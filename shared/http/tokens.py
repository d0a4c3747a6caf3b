"""Bearer tokens: signed JWTs with scopes, verified against a key set, for a bounded time, unless revoked."""

import json
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from shared.contracts.errors import Forbidden, Unauthenticated, Unavailable
from shared.http import minting
from shared.http.jwks import Keys
from shared.http.minting import LONGEST_SUBJECT, known_scope, usable
from shared.http.settings import ALGORITHMS, LONGEST_LIFE_SECONDS, Algorithm

log = structlog.get_logger()
_LEEWAY_SECONDS = 30
_RELOAD_SECONDS = 5.0
_LONGEST_TOKEN = 8_192
_SCOPE_WORDS = 500


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what they were granted: `chat` reaches every model, `chat:support` that one."""

    subject: str
    scopes: frozenset[str]

    def may(self, scope: str, model: str | None = None) -> bool:
        """Whether the scope is held, for this model or (None) for every one."""
        held = {"admin", scope} if model is None else {"admin", scope, f"{scope}:{model}"}
        return not held.isdisjoint(self.scopes)

    def models(self, scope: str) -> frozenset[str]:
        """The models that this scope was granted for one by one."""
        return frozenset(
            word.removeprefix(f"{scope}:") for word in self.scopes if word.startswith(f"{scope}:")
        )

    def reach(self, scope: str) -> frozenset[str] | None:
        """The models that this scope reaches; None: every one."""
        return None if self.may(scope) else self.models(scope)

    def demand(self, scope: str, model: str | None = None) -> None:
        """Raises Forbidden."""
        if self.may(scope, model):
            return
        if model is None and self.models(scope):
            raise Forbidden(
                f"This call reaches every model, and the token has {scope} for some of them.",
                f"Name one of its models, or make a token: driftwheel token --scope {scope}",
            )
        raise Forbidden(
            f"This call needs the scope {scope}.", f"Make a token with it: driftwheel token --scope {scope}"
        )


class Revoked:
    """Ids (`jti`) of tokens that count no more: one a line in a file that is read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids: frozenset[str] = frozenset()
        self._version: tuple[int, int] | None = None
        self._looked = -_RELOAD_SECONDS
        self.problem: str | None = None

    def ids(self) -> frozenset[str]:
        """Raises Unavailable where the list cannot be read: a revoked token must not pass for want of a file."""
        now = time.monotonic()
        if now - self._looked >= _RELOAD_SECONDS or self.problem:
            self._looked = now
            self._reload()
        if self.problem:
            raise Unavailable(
                "No token can be verified here: revocations cannot be read.", "Mend their file."
            )
        return self._ids

    def _reload(self) -> None:
        try:
            found = self._path.stat()
            if (version := (found.st_mtime_ns, found.st_size)) != self._version:
                lines = self._path.read_text("utf-8").splitlines()
                self._ids = frozenset(line.strip() for line in lines if line.strip())
                self._version = version
            self.problem = None
        except FileNotFoundError:
            self._ids, self._version, self.problem = frozenset(), None, None  # nothing was revoked yet
        except (OSError, ValueError) as error:
            self.problem = f"auth: the list of revoked tokens cannot be read ({type(error).__name__})"


class Authenticator:
    """Verifies bearer tokens against `keys`.

    Args:
        algorithms: that a signature may have; nothing else is tried, whatever a token's header says.
        longest_life: seconds from a token's `iat` to its `exp`.
    """

    def __init__(
        self,
        keys: Keys,
        issuer: str,
        audience: str,
        algorithms: Collection[Algorithm] = ALGORITHMS,
        revoked: Revoked | None = None,
        longest_life: float = LONGEST_LIFE_SECONDS,
    ) -> None:
        self._keys = keys
        self._revoked = revoked
        self._longest_life = longest_life
        self._registry = jws.JWSRegistry(algorithms=list(algorithms), strict_check_header=False)
        self._claims = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_SECONDS,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            sub={"essential": True},
            exp={"essential": True},
        )

    async def caller(self, authorization: str | None) -> Caller:
        """The caller of an `Authorization` header.

        Raises:
            Unauthenticated: without saying why in detail.
            Unavailable: nobody's token can be verified now.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("This call needs a bearer token.", "Make one: driftwheel token --scope …")
        revoked = self._revoked.ids() if self._revoked else frozenset()
        try:
            claims = await self._verified(token)
            self._claims.validate(claims)
            _check_life(claims, self._longest_life)
        except (JoseError, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise _invalid() from error
        subject, scope, token_id = claims["sub"], claims.get("scope", ""), claims.get("jti")
        if not usable(subject) or not isinstance(scope, str) or token_id in revoked:
            raise _invalid()
        return Caller(subject, frozenset(word for word in scope.split()[:_SCOPE_WORDS] if known_scope(word)))

    async def _verified(self, token: str) -> dict[str, Any]:
        """The claims of a token whose signature is right. Raises JoseError, ValueError."""
        if len(token) > _LONGEST_TOKEN:
            raise ValueError("too long")
        signed = jws.extract_compact(token.encode("ascii"), registry=self._registry)
        header = signed.headers()
        self._registry.get_alg(header["alg"])  # refused before any key is looked for
        kid = header.get("kid")
        if kid is not None and (not isinstance(kid, str) or len(kid) > LONGEST_SUBJECT):
            raise ValueError("no usable key id")
        key = await self._keys.find(kid)
        if key is None:
            raise ValueError("unknown key")
        key.check_alg(header["alg"])
        if not jws.validate_compact(signed, key, registry=self._registry):
            raise ValueError("wrong signature")
        claims = json.loads(signed.payload or b"")
        if not isinstance(claims, dict):
            raise ValueError("no claims")  # noqa: TRY004 (of a token, not of an argument)
        return claims

    async def problems(self) -> list[str]:
        """Why no token, or not the right ones, can be verified now."""
        found = [await self._keys.problem()]
        if self._revoked:
            try:
                self._revoked.ids()
            except Unavailable:
                found.append(self._revoked.problem)
        return [problem for problem in found if problem]


def _check_life(claims: dict[str, Any], longest: float) -> None:
    begin = claims.get("iat", time.time())
    life = float(claims["exp"]) - float(begin)
    if not math.isfinite(life) or life > longest + _LEEWAY_SECONDS:
        raise ValueError("lives too long")


def _invalid() -> Unauthenticated:
    return Unauthenticated(
        "The token is not valid here, or has expired.", "Make a new one: driftwheel token."
    )


def mint(
    private_key: OKPKey,
    subject: str,
    scopes: Collection[str],
    ttl_seconds: float,
    *,
    issuer: str = "driftwheel",
    audience: str = "driftwheel",
    now: Callable[[], float] = time.time,
    token_id: str | None = None,
) -> str:
    """See `minting.mint`."""
    return minting.mint(
        private_key.as_dict(private=True),
        subject,
        scopes,
        ttl_seconds,
        issuer=issuer,
        audience=audience,
        now=now,
        token_id=token_id,
    )
