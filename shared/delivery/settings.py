"""What consuming and producing need to be told."""

from pydantic import Field
from pydantic_settings import BaseSettings


class DeliverySettings(BaseSettings):
    """Kafka, and how patient its consumers are."""

    kafka_bootstrap: str = Field(
        "127.0.0.1:9092", description="host:port of one or more brokers, comma separated."
    )
    retry_attempts: int = Field(
        5, ge=1, le=20, description="Tries of one message before it is dead-lettered."
    )
    retry_first_seconds: float = Field(
        0.2, gt=0, le=60, description="Pause before the second try; doubles each time."
    )
    dead_in_a_row: int = Field(50, ge=1, description="Dead letters in a row after which the consumer stops.")
    liveness_seconds: float = Field(
        120, gt=5, description="No progress for this long while there is lag: exit."
    )
