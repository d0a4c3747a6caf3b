"""Settings of the registry: `DRIFTWHEEL_REGISTRY__<FIELD>`."""

from pydantic import Field

from shared.service.settings import SpeakerSettings, settings_config


class Settings(SpeakerSettings):
    """See each field."""

    model_config = settings_config("registry")

    restate_seconds: float = Field(
        3_600,
        gt=0,
        description="How often policies and champions are announced again, for services that lost them.",
    )
