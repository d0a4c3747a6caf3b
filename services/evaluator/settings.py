"""Settings of the evaluator: `DRIFTWHEEL_EVALUATOR__<FIELD>`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.service.settings import WorkerSettings, settings_config


class Settings(WorkerSettings):
    model_config = settings_config("evaluator")

    base_model: Path = Field(description="Folder of the base model that adapters are measured on.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Number format of the weights; auto is the stored one, which is what an engine serves.",
    )
    threads: int = Field(
        0, ge=0, le=256, description="Threads of the worker's matrix products; 0 lets torch choose."
    )
    batch_rows: int = Field(32, ge=1, le=1_024, description="Most rows answered at once.")
    batch_tokens: int = Field(
        8_192, ge=64, description="Most tokens in one batch; bounds the worker's memory."
    )
    min_rows: int = Field(
        10, ge=1, description="Fewest held-out rows a gate is decided on; with fewer: insufficient."
    )
    job_seconds: float = Field(
        14_400, gt=0, description="Longest time of an evaluation; then it is stopped, and has failed."
    )
