"""Settings of the trainer: `DRIFTWHEEL_TRAINER__<FIELD>`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.contracts.text import Name
from shared.service.settings import WorkerSettings, settings_config


class Settings(WorkerSettings):
    model_config = settings_config("trainer")

    base_model: Path = Field(description="Folder of the base model that adapters are trained on.")
    base_name: Name = Field("default", description="Name by which a policy's `base` means this base model.")
    tokens_per_second: float = Field(
        300,
        gt=0,
        description="Training rate assumed for cost estimates until runs of this base were measured.",
    )
    threads: int = Field(
        0, ge=0, le=256, description="Threads of the worker's matrix products; 0 lets torch choose."
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Number format of the frozen base; auto times both on this machine. LoRA weights are float32.",
    )
    pack_tokens: int = Field(
        512, ge=16, le=65_536, description="Most tokens in one forward pass; bounds the worker's memory."
    )
    progress_seconds: float = Field(3, ge=0, le=60, description="Shortest time between two progress events.")
    checkpoints_kept: int = Field(2, ge=1, le=20, description="Newest checkpoints kept of a running run.")
