"""What consuming and producing need to be told."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


class KafkaSecurity(BaseModel):
    """Who a client is to Kafka, and whom it trusts. Nothing is needed for a broker that asks nobody."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    kafka_mechanism: Mechanism | None = Field(
        None, description="SASL mechanism. Unset: SCRAM-SHA-512 where a user name is given, else none."
    )
    kafka_username: str = Field("", description="SASL user; the client id with OAUTHBEARER.")
    kafka_password: SecretStr = Field(
        SecretStr(""), description="Its password; the client secret with OAUTHBEARER."
    )
    kafka_tls: bool | None = Field(
        None,
        description="Encrypt. Unset: yes, unless every broker is on loopback. The certificate is checked.",
    )
    kafka_ca_file: Path | None = Field(
        None, description="PEM file of the authorities to trust; unset: those of the system."
    )
    kafka_certificate_file: Path | None = Field(
        None, description="PEM file of our own certificate, for a broker that asks for one."
    )
    kafka_key_file: Path | None = Field(None, description="PEM file of its private key.")
    kafka_key_password: SecretStr = Field(SecretStr(""), description="Password of that key.")
    kafka_check_hostname: bool = Field(
        True, description="The certificate must name the host that we connect to."
    )
    kafka_token_url: str = Field(
        "", description="OAUTHBEARER: token endpoint of the identity provider (client credentials)."
    )
    kafka_token_scope: str = Field("", description="OAUTHBEARER: scope to ask for.")
    kafka_token_file: Path | None = Field(
        None, description="OAUTHBEARER: file that holds a token and is renewed by others; read at each login."
    )
    kafka_token_extensions: dict[str, str] = Field(
        default_factory=dict, description="OAUTHBEARER: SASL extensions, as a JSON object."
    )

    @property
    def mechanism(self) -> Mechanism | None:
        """The mechanism that is used; None logs in nowhere."""
        return self.kafka_mechanism or ("SCRAM-SHA-512" if self.kafka_username else None)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.kafka_certificate_file is None) != (self.kafka_key_file is None):
            raise ValueError("KAFKA_CERTIFICATE_FILE and KAFKA_KEY_FILE go together: give both or neither")
        if self.mechanism == "OAUTHBEARER":
            if bool(self.kafka_token_url) == bool(self.kafka_token_file):
                raise ValueError("OAUTHBEARER needs KAFKA_TOKEN_URL or KAFKA_TOKEN_FILE, and not both")
            if self.kafka_token_url and not (self.kafka_username and self.kafka_password.get_secret_value()):
                raise ValueError("KAFKA_TOKEN_URL needs the client's KAFKA_USERNAME and KAFKA_PASSWORD")
        elif self.mechanism and not (self.kafka_username and self.kafka_password.get_secret_value()):
            raise ValueError(f"{self.mechanism} needs KAFKA_USERNAME and KAFKA_PASSWORD")
        return self


class KafkaSettings(KafkaSecurity):
    """One Kafka, as one process sees it."""

    kafka_bootstrap: str = Field(
        "127.0.0.1:9092", description="host:port of one or more brokers, comma separated."
    )

    @property
    def servers(self) -> list[str]:
        return [server.strip() for server in self.kafka_bootstrap.split(",") if server.strip()]

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return not all(map(_loopback, self.servers)) if self.kafka_tls is None else self.kafka_tls

    @model_validator(mode="after")
    def _no_password_in_the_clear(self) -> Self:
        if self.mechanism in ("PLAIN", "OAUTHBEARER") and not (self.tls or all(map(_loopback, self.servers))):
            raise ValueError(
                f"{self.mechanism} without TLS shows the password to the network: leave KAFKA_TLS unset, or use SCRAM"
            )
        return self


def _loopback(server: str) -> bool:
    host = server.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class DeliverySettings(KafkaSettings, BaseSettings):
    """Kafka, and how patient its consumers are."""

    retry_attempts: int = Field(
        5, ge=1, le=20, description="Tries of one message before it is dead-lettered."
    )
    retry_first_seconds: float = Field(
        0.2, gt=0, le=60, description="Pause before the second try; doubles each time."
    )
    keep_days: int = Field(
        100,
        ge=98,
        le=3_650,
        description="Days that handled and sent messages are remembered. At least the retention of topics and of dead "
        "letters together, and 8 more: an event that can still be delivered must still be recognised.",
    )
    keep_dead_days: int = Field(
        60,
        ge=1,
        le=60,
        description="Days that a dead letter can be redriven; as the retention of the topics of dead letters.",
    )
    retry_later_seconds: float = Field(
        120,
        gt=0,
        description="How long an event waits for the one it depends on, before it is dead-lettered. Time in which "
        "another consumer of the service stands still does not count.",
    )
    dead_in_a_row: int = Field(
        50,
        ge=1,
        description="Dead letters in a row, of one topic and source, after which its consumer stops.",
    )
    dead_ratio: float = Field(
        0.5,
        gt=0,
        le=1,
        description="The same for their share among the newest messages of a topic and source.",
    )
    dead_window: int = Field(
        200, ge=10, description="How many of the newest messages that share is taken of."
    )
    foreign_message_bytes: int = Field(
        131_072,
        ge=1_024,
        le=1_048_576,
        description="Largest message taken from a producer outside the platform. The longest correction fits, however its "
        "characters are escaped.",
    )
    training_requests_per_minute: int = Field(
        60,
        ge=1,
        le=1_000_000,
        description="Training requests taken from one source (ce_source) in a minute; all that name none count as one. "
        "What is too much is answered with a rejection. With several replicas, each counts the partitions it reads.",
    )
    feedback_per_minute: int = Field(
        6_000,
        ge=1,
        le=10_000_000,
        description="The same for judgements from outside the platform. What is too much is dead-lettered, and can be "
        "redriven.",
    )
    batch_size: int = Field(
        200, ge=1, le=1_000, description="Messages that one transaction of a batch subscriber takes at most."
    )
    transaction_size: int = Field(
        20,
        ge=1,
        le=200,
        description="Messages of a partition that share one transaction where many wait, each handled in turn; "
        "1: each has its own.",
    )
    liveness_seconds: float = Field(
        120, gt=5, description="No progress for this long while there is lag, and nothing is away: exit."
    )
