"""Settings of the registry: `DRIFTWHEEL_REGISTRY__<FIELD>`. It needs nothing beyond what every service has."""

from shared.service.settings import ServiceSettings, settings_config


class Settings(ServiceSettings):
    model_config = settings_config("registry")
