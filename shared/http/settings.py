"""Whose tokens are accepted: the same settings for every service, the console and the embedded stack."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from shared.http.jwks import check_url
from shared.http.tokens import ALGORITHMS, LONGEST_LIFE_SECONDS, Algorithm


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
