"""Whose tokens are accepted: the same settings for every service, the console and the embedded stack."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field

Algorithm = Literal["Ed25519", "EdDSA", "ES256", "RS256"]
ALGORITHMS: tuple[Algorithm, ...] = ("Ed25519", "EdDSA")
"""RFC 9864 names the curve; issuers from before it still say EdDSA."""
LONGEST_LIFE_SECONDS = 31 * 86_400.0


def check_url(url: str) -> str:
    """A JWKS URL: https, or http on this machine. Raises ValueError."""
    parts = urlsplit(url)
    local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    if (
        not parts.hostname
        or parts.username
        or not (parts.scheme == "https" or (parts.scheme == "http" and local))
    ):
        raise ValueError("give an https URL without credentials; http is for this machine alone")
    return url


class IdentityProvider(BaseModel):
    """An identity provider of your own; without its URL, tokens are made by `driftwheel token`."""

    auth_jwks_url: Annotated[str, AfterValidator(check_url)] | None = Field(
        None, description="Where an identity provider publishes its keys (JWKS), https."
    )
    auth_issuer: str = Field("driftwheel", description="Required `iss` of a token.")
    auth_audience: str = Field("driftwheel", description="Required `aud` of a token.")
    auth_algorithms: tuple[Algorithm, ...] = Field(
        ALGORITHMS,
        min_length=1,
        description="Signatures accepted, of Ed25519, EdDSA, ES256 and RS256; as JSON.",
    )
    auth_longest_life_seconds: float = Field(
        LONGEST_LIFE_SECONDS, gt=0, description="A token that lives longer, from `iat` to `exp`, is refused."
    )
