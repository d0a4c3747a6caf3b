"""Settings of the registry: `DRIFTWHEEL_REGISTRY__<FIELD>`."""

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from shared.artifacts.signing import FileSigner, Trust
from shared.service.settings import ServiceSettings, settings_config


class Settings(ServiceSettings):
    """See each field."""

    model_config = settings_config("registry")

    signing_key_file: Path | None = Field(
        None,
        description="JSON Web Key, private: signs what the registry declares, approves and promotes. Unset: nobody "
        "believes it.",
    )
    restate_seconds: float = Field(
        3_600,
        gt=0,
        description="How often policies and champions are announced again, for services that lost them.",
    )

    def trust(self) -> Trust:
        """Whom the registry believes, and its own voice. Raises UnusableKey."""
        signer = FileSigner(self.signing_key_file) if self.signing_key_file else None
        return replace(super().trust(), signer=signer)
