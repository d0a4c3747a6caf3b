"""Settings of the serving service: `DRIFTWHEEL_SERVING__<FIELD>`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.service.settings import SpeakerSettings, settings_config


class Settings(SpeakerSettings):
    """See each field."""

    model_config = settings_config("serving")

    base_model: Path = Field(
        description="Folder of the base model that the engine runs: adapters must fit it."
    )
    engine: Literal["vllm", "transformers"] = Field(
        "vllm", description="A key of services.serving.engines.ENGINES."
    )
    engine_url: str = Field(
        "http://127.0.0.1:8000",
        pattern=r"^https?://[A-Za-z0-9._:\[\]-]+$",
        description="The engine, on loopback or a private network: it guards its admin routes badly.",
    )
    adapter_cache: Path = Field(
        Path(".driftwheel/adapters"),
        description="Folder, shared with the engine, where adapters are kept by digest.",
    )
    state_folder: Path = Field(
        Path(".driftwheel/serving-state"),
        description="Folder on a local disk, of this service alone, for what must outlive it: the last known routes, "
        "and answers and judgements until they are written.",
    )
    max_rank: int = Field(
        16, ge=1, le=512, description="Largest LoRA rank; no more than the engine was started with."
    )
    base_served_name: str = Field(
        "base", description="The name under which the engine serves the base model."
    )
    base_answers: bool = Field(
        False,
        description="Let the base model answer while no champion of a model is known, as in a new database.",
    )
    max_in_flight: int = Field(
        64, ge=1, description="Requests in the engine at once; beyond it the answer is 429."
    )
    max_answer_tokens: int = Field(1_024, ge=1, description="Largest max_tokens a request may ask for.")
    connect_seconds: float = Field(2, gt=0, description="Longest wait for a connection to the engine.")
    first_token_seconds: float = Field(30, gt=0, description="Longest wait for the first token of a stream.")
    gap_seconds: float = Field(15, gt=0, description="Longest pause inside a stream.")
    total_seconds: float = Field(300, gt=0, description="Longest answer.")
    poll_seconds: float = Field(
        2, gt=0, le=60, description="How often wanted state and engine are compared anyway."
    )
    probe_share: float = Field(
        0.75,
        gt=0,
        le=1,
        description="Share of golden prompts an adapter must answer as the evaluator saw it.",
    )
    probe_seconds: float = Field(30, gt=0, description="Longest wait for one golden answer.")
    rollout_seconds: float = Field(1, gt=0, le=60, description="How often a running rollout is judged.")
    flush_seconds: float = Field(
        0.5, gt=0, le=60, description="How often answers are written to disk for good, and to the store."
    )
    flush_records: int = Field(
        200, ge=1, le=5_000, description="Answers written in one object and transaction."
    )
    spool_bytes: int = Field(
        1_073_741_824,
        ge=1_048_576,
        description="Bytes of answers kept on local disk while store or database are away (about 500,000 answers); "
        "the newest are shed beyond it. Judgements have a sixteenth of it on top.",
    )
    feedback_seconds: float = Field(
        2,
        gt=0,
        le=60,
        description="Longest wait for the database with a judgement; then it waits on local disk.",
    )
    feedback_wait_seconds: float = Field(
        3_600,
        ge=1,
        description="How long a judgement waits for its answer to be written, by whichever replica gave it.",
    )
