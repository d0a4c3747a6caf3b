"""Settings of the data service."""

from pathlib import Path

from pydantic import Field

from shared.service.settings import WorkerSettings, settings_config


class Settings(WorkerSettings):
    """Environment: DRIFTWHEEL_DATA__<FIELD>."""

    model_config = settings_config("data")

    base_model: Path = Field(
        description="Folder of the base model; its tokenizer and chat template are read."
    )
    max_upload_bytes: int = Field(536_870_912, ge=1_024, description="Largest uploaded file, in bytes.")
    max_row_bytes: int = Field(
        1_048_576, ge=1_024, description="Longest row that is read; longer ones are counted."
    )
    max_rows: int = Field(
        2_000_000, ge=10, description="Most rows read for one dataset (about 200 bytes each)."
    )
    wake_seconds: float = Field(
        3.0,
        gt=0,
        le=3_600,
        description="Pause between two looks whether a waiting retraining has its labels.",
    )
    jobs_at_once: int = Field(
        2,
        ge=1,
        le=64,
        description="Datasets that one worker builds side by side, each in a process of its own. Models take turns, and one "
        "place is kept for a model that has no build running.",
    )
    job_seconds: float = Field(
        3_600, gt=0, description="Longest time of a build; then it is stopped, and has failed."
    )
