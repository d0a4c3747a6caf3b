"""Settings of the monitor: `DRIFTWHEEL_MONITOR__<FIELD>`."""

from pydantic import Field

from shared.service.settings import ServiceSettings, settings_config


class Settings(ServiceSettings):
    model_config = settings_config("monitor")

    tick_seconds: float = Field(5, gt=0, le=3_600, description="Pause between two looks at every model.")
    feedback_grace_seconds: float = Field(
        60, ge=0, description="How long a drifted window waits for feedback before labels are asked for."
    )
    dataset_patience_seconds: float = Field(
        1_800,
        gt=0,
        description="How long a retraining that still waits for its dataset holds the next verdict.",
    )
    reference_rows: int = Field(
        20_000, ge=100, le=200_000, description="Most training prompts a window is compared with."
    )
    detector_timeout_seconds: float = Field(300, gt=0, description="A detector that takes longer is stopped.")
    detector_idle_seconds: float = Field(
        300, gt=0, description="The detector process (about 350 MB) ends after this long without work."
    )
    keep_days: int = Field(90, ge=1, description="How long predictions and feedback are kept.")
