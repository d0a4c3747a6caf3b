"""What an administrator of a Kafka cluster decides: who asks, how many copies, how many partitions."""

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.delivery.settings import KafkaSettings


class TopicChoices(BaseModel):
    """What differs from cluster to cluster about our topics."""

    kafka_replication: int | None = Field(
        None, ge=1, le=7, description="Copies of each partition. Unset: asked of the cluster."
    )
    kafka_partitions: int = Field(
        3, ge=1, le=512,
        description="Partitions of prediction.served and feedback.recorded; a larger number is also given to existing ones.",
    )  # fmt: skip


class AdminSettings(KafkaSettings, TopicChoices, BaseSettings):
    """For `python -m infra.kafka.topics` and `access`: variables `DRIFTWHEEL_KAFKA_…`."""

    kafka_users: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="Users to make with SCRAM-SHA-512, as a JSON object of names and passwords; none where they come "
        "from elsewhere.",
    )
    model_config = SettingsConfigDict(
        env_prefix="DRIFTWHEEL_", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )
