"""What a user may set for the embedded stack; every address given here replaces the part it names."""

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.kafka.settings import TopicChoices
from infra.local.state import HOME, ROOT
from shared.artifacts.settings import S3Connection, S3Settings
from shared.delivery.settings import KafkaSecurity, KafkaSettings
from shared.http.settings import IdentityProvider

EngineName = Literal["vllm", "transformers"]


class LocalSettings(KafkaSecurity, IdentityProvider, TopicChoices, S3Connection, BaseSettings):
    """Settings of the embedded stack, prefix `DRIFTWHEEL_`. Those of `KafkaSecurity` are for your own Kafka."""

    model_config = SettingsConfigDict(
        env_prefix="DRIFTWHEEL_", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    home: Path = Field(HOME, description="Folder of all state: data, logs, secrets.")
    unprivileged: Path = Field(
        Path("/var/lib/driftwheel"),
        description="Only for root: folder that a process which gave up root can reach; PostgreSQL's data lie in it.",
    )
    cache: Path = Field(
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "driftwheel",
        description="Folder of downloads that all stacks share, such as jars.",
    )
    base_model: Path = Field(
        HOME / "base-model",
        description="Folder of the base model (safetensors, tokenizer, config).",
    )
    engine: EngineName = Field(
        "vllm", description="Inference engine to start: vllm, or the small transformers one."
    )
    engine_python: Path = Field(
        ROOT / ".venv-engine" / "bin" / "python",
        description="Interpreter of the environment that holds vLLM.",
    )
    engine_max_lora_rank: int = Field(
        16,
        ge=1,
        le=512,
        description="Largest rank of any adapter; a generous value makes vLLM up to 7 times slower.",
    )
    replicas: int = Field(1, ge=1, le=4, description="How many times each service and each worker runs.")
    engine_url: str | None = Field(None, description="Your own engine; then none is started.")
    kafka_bootstrap: str | None = Field(None, description="Your own Kafka, host:port; then none is started.")
    postgres_url: SecretStr | None = Field(
        None,
        description="Your own PostgreSQL as an administrator's URL; databases and roles are created in it.",
    )
    postgres_prefix: str = Field(
        "driftwheel_",
        pattern=r"\A(-|[a-z][a-z0-9_]{0,30})\z",
        description="Put before the names of roles and databases in your own PostgreSQL; a single `-` puts nothing.",
    )
    s3_endpoint: str | None = Field(
        None, description="Your own S3 store, http(s)://host:port; then none is started."
    )
    durable: bool = Field(
        True,
        description="Survive a power loss: PostgreSQL waits for the disk. Killed processes lose nothing either way.",
    )
    http_port: int = Field(
        8080, ge=1, le=65535, description="Preferred port of the front door; a taken one is skipped."
    )

    @field_validator("home")
    @classmethod
    def _one_name(cls, home: Path) -> Path:
        return home.resolve()  # processes are found by it, so it must have one spelling

    @field_validator("cache", "base_model", "engine_python")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return (
            path.absolute()
        )  # parts run in folders of their own; not resolved, since a venv's python is a link

    @property
    def own_kafka(self) -> KafkaSettings | None:
        """The Kafka that the user brings, as its administrator sees it; None when ours is started."""
        if self.kafka_bootstrap is None:
            return None
        names = KafkaSecurity.model_fields.keys()
        return KafkaSettings(kafka_bootstrap=self.kafka_bootstrap, **{n: getattr(self, n) for n in names})

    @property
    def database_prefix(self) -> str:
        """What roles and databases are called before the service's name; the embedded server is ours alone."""
        return self.postgres_prefix.strip("-") if self.postgres_url else ""

    @property
    def own_s3(self) -> S3Settings | None:
        """The store that the user brings, as its administrator sees it; None when ours is started."""
        if self.s3_endpoint is None:
            return None
        names = S3Connection.model_fields.keys()
        return S3Settings(s3_endpoint=self.s3_endpoint, **{n: getattr(self, n) for n in names})

    @classmethod
    def of(cls, home: Path | None = None, **given: Any) -> Self:
        """The environment's settings with the given ones on top."""
        return cls(**(given | ({"home": home} if home else {})))
