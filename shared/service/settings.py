"""Settings of a service: environment variables `DRIFTWHEEL_<SERVICE>__<FIELD>`; a misspelt one refuses to start."""

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import Self, cast

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.artifacts.settings import S3Settings
from shared.artifacts.signing import FileSigner, FileVerifier, Trust
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import POOL
from shared.http.jwks import KeyFile, KeyUrl
from shared.http.settings import IdentityProvider
from shared.http.tokens import Authenticator, Revoked


def settings_config(service: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=f"DRIFTWHEEL_{service.upper()}__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )


class HttpSettings(IdentityProvider, BaseSettings):
    """What everything that answers HTTP needs. Subclasses set `model_config = settings_config("<service>")`."""

    http_host: str = Field(
        "127.0.0.1", description="Interface to listen on; loopback unless a proxy is in front."
    )
    http_port: int = Field(0, ge=0, le=65_535, description="Port to listen on; 0 picks a free one.")
    auth_jwks_file: Path | None = Field(
        None, description="JSON Web Key Set with the public keys that sign tokens; or give auth_jwks_url."
    )
    auth_revoked_file: Path | None = Field(
        None, description="Ids (`jti`) of revoked tokens, one a line; read again when it changes."
    )
    log_level: str = Field(
        "INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$", description="Least severe log shown."
    )
    otlp_endpoint: str = Field(
        "", description="OTLP/HTTP URL for traces, e.g. http://127.0.0.1:4318/v1/traces; empty sends none."
    )

    @property
    def service(self) -> str:
        return (
            str(self.model_config.get("env_prefix", ""))
            .removeprefix("DRIFTWHEEL_")
            .removesuffix("__")
            .lower()
        )

    def authenticator(self) -> Authenticator:
        """What verifies tokens here."""
        keys = KeyUrl(self.auth_jwks_url) if self.auth_jwks_url else KeyFile(cast(Path, self.auth_jwks_file))
        return Authenticator(
            keys,
            self.auth_issuer,
            self.auth_audience,
            self.auth_algorithms,
            Revoked(self.auth_revoked_file) if self.auth_revoked_file else None,
            self.auth_longest_life_seconds,
        )

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Self:
        if (self.auth_jwks_file is None) == (self.auth_jwks_url is None):
            raise ValueError("give exactly one of auth_jwks_file and auth_jwks_url")
        return self

    @model_validator(mode="after")
    def _no_unknown_variables(self) -> Self:
        prefix = str(self.model_config.get("env_prefix", ""))
        known = {f"{prefix}{name.upper()}" for name in type(self).model_fields}
        for variable in os.environ:
            if prefix and variable.upper().startswith(prefix) and variable.upper() not in known:
                close = difflib.get_close_matches(variable.upper(), known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"{variable} is not a setting of this service{hint}")
        return self


class ServiceSettings(HttpSettings, DeliverySettings, S3Settings):
    """What every service of the loop needs."""

    database_url: SecretStr = Field(
        description="postgresql://user:password@host:port/database of this service alone."
    )
    database_connections: int = Field(
        POOL,
        ge=2,
        le=200,
        description="Most connections for routes and loops. A service has three more (two to send events, one to say how it "
        "is) and one per topic it reads; a worker has six, and two for each job that it runs.",
    )
    signing_keys_file: Path | None = Field(
        None,
        description="JSON Web Key Set with the public keys of the services that sign; `service` in a key says whose it is. "
        "Read again when it changes. Unset: nothing that must be signed is believed.",
    )
    base_model: Path | None = Field(None, description="Folder of the base model.")
    max_body_bytes: int = Field(
        1_048_576, ge=1_024, description="Largest request body, except streamed uploads."
    )
    stalled_after_seconds: float = Field(10, gt=1, description="A worker silent this long has lost its job.")

    def trust(self) -> Trust:
        """Whom this service believes. Raises UnusableKey."""
        return Trust(FileVerifier(self.signing_keys_file)) if self.signing_keys_file else Trust()


class SpeakerSettings(ServiceSettings):
    """What a service needs whose word must be known to be its own."""

    signing_key_file: Path | None = Field(
        None,
        description="JSON Web Key, private: this service signs with it what nobody else may say. Unset: nobody believes it.",
    )

    def trust(self) -> Trust:
        """Whom this service believes, and its own voice. Raises UnusableKey."""
        signer = FileSigner(self.signing_key_file) if self.signing_key_file else None
        return replace(super().trust(), signer=signer)


class WorkerSettings(ServiceSettings):
    """What a service needs whose long work runs in a worker. Each says by its defaults how much a laptop bears."""

    jobs_at_once: int = Field(
        1,
        ge=1,
        le=64,
        description="Jobs that one worker runs side by side, each in a process of its own. Models take turns, and of "
        "two places or more one is kept for a model that has no job running.",
    )
    job_seconds: float = Field(
        86_400,
        gt=0,
        description="Longest time of one attempt at a job; then it is stopped, and the job has failed.",
    )
    scratch: Path | None = Field(
        None, description="Folder for files in progress; the system's own if not set."
    )
