"""Settings of the console's pages: `DRIFTWHEEL_CONSOLE__<FIELD>`."""

from pydantic import Field, SecretStr

from shared.service.settings import HttpSettings, settings_config


class Settings(HttpSettings):
    model_config = settings_config("console")

    door_url: str = Field(
        "http://127.0.0.1:8080",
        pattern=r"^https?://[^\s/]+$",
        description="The front door, behind which every service answers: scheme, host and port.",
    )
    timeout_seconds: float = Field(
        5, gt=0, le=60, description="A service that takes longer is shown as away."
    )
    pulse_seconds: float = Field(
        1, ge=0.2, le=60, description="Pause between two looks for news while somebody watches."
    )
    secure_cookie: bool | None = Field(
        None,
        description="Send the session's cookie over HTTPS only; unset: unless the browser asks this very machine.",
    )
    session_key: SecretStr = Field(
        SecretStr(""), description="Seals sessions; the same for every replica. Empty: new at each start."
    )
    session_seconds: int = Field(
        43_200, ge=60, le=604_800, description="A session ends after this long, or with its token."
    )
