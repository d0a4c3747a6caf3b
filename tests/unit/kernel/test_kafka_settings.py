"""Who a Kafka client is and whom it trusts: what settings mean, which are refused, and that no secret shows."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shared.delivery.kafka import NotConfigured, broker_connection, connection, principal
from shared.delivery.settings import KafkaSettings

USER = {"kafka_username": "data", "kafka_password": "hidden-word"}


@pytest.mark.parametrize(
    ("servers", "said", "encrypted"),
    [
        ("127.0.0.1:9092", None, False),
        ("localhost:9092,[::1]:9092", None, False),
        ("kafka.example:9092", None, True),
        ("127.0.0.1:9092,kafka.example:9092", None, True),
        ("127.0.0.1:9092", True, True),
        ("kafka.example:9092", False, False),
    ],
)
def test_connections_are_encrypted_unless_every_broker_is_on_loopback(
    servers: str, said: bool | None, encrypted: bool
) -> None:
    settings = KafkaSettings(kafka_bootstrap=servers, kafka_tls=said)
    assert connection(settings)["security_protocol"] == ("SSL" if encrypted else "PLAINTEXT")
    assert (connection(settings)["ssl_context"] is not None) == encrypted


@pytest.mark.parametrize(
    ("given", "mechanism"),
    [
        ({}, None),
        (USER, "SCRAM-SHA-512"),
        (USER | {"kafka_mechanism": "SCRAM-SHA-256"}, "SCRAM-SHA-256"),
        (USER | {"kafka_mechanism": "PLAIN"}, "PLAIN"),
    ],
)
async def test_both_kinds_of_clients_log_in_the_same_way(
    given: dict[str, Any], mechanism: str | None
) -> None:
    from faststream.kafka import KafkaBroker
    from faststream.kafka.security import parse_security

    settings = KafkaSettings(kafka_bootstrap="k:1, l:2", **given)
    ours, theirs = connection(settings), broker_connection(settings)
    assert ours.get("sasl_mechanism") == mechanism
    assert ours["security_protocol"] == ("SASL_SSL" if mechanism else "SSL")
    parsed = parse_security(theirs["security"])
    parsed["ssl_context"] = ours["ssl_context"]
    assert parsed | {"bootstrap_servers": theirs["bootstrap_servers"]} == ours
    assert "hidden-word" not in str(KafkaBroker(**theirs).specification.__dict__)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kafka_username": "data"}, "needs KAFKA_USERNAME and KAFKA_PASSWORD"),
        ({"kafka_mechanism": "PLAIN"}, "needs KAFKA_USERNAME and KAFKA_PASSWORD"),
        ({"kafka_mechanism": "OAUTHBEARER"}, "KAFKA_TOKEN_URL or KAFKA_TOKEN_FILE"),
        ({"kafka_certificate_file": "mine.pem"}, "both or neither"),
        (
            USER | {"kafka_mechanism": "PLAIN", "kafka_tls": False, "kafka_bootstrap": "kafka.example:9092"},
            "shows the password to the network",
        ),
    ],
)
def test_what_cannot_work_or_would_leak_is_refused_without_the_password(given: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words) as refused:
        KafkaSettings(**given)
    assert "hidden-word" not in str(refused.value)


def test_no_secret_is_in_a_repr() -> None:
    settings = KafkaSettings(**USER, kafka_key_password="key-word")
    assert not any(secret in repr(settings) for secret in ("hidden-word", "key-word"))
    assert principal(settings) == "data"


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_file_that_cannot_be_used_is_named_with_its_setting(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    with pytest.raises(NotConfigured, match=r"KAFKA_CA_FILE: .*ca\.pem cannot be used"):
        connection(KafkaSettings(kafka_tls=True, kafka_ca_file=file))


def test_settings_survive_the_way_through_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.local.environment import kafka_environment
    from infra.local.settings import LocalSettings

    own = KafkaSettings(
        kafka_bootstrap="k:9093",
        kafka_mechanism="OAUTHBEARER",
        kafka_token_url="https://id.example/token",
        kafka_token_extensions={"logicalCluster": "lkc-1"},
        kafka_check_hostname=False,
        kafka_tls=True,
        kafka_ca_file=Path("/etc/ca.pem"),
        **USER,
    )
    variables = kafka_environment(own)
    assert json.loads(variables["KAFKA_TOKEN_EXTENSIONS"]) == {"logicalCluster": "lkc-1"}
    for name, value in variables.items():
        monkeypatch.setenv(f"DRIFTWHEEL_{name}", value)
    assert LocalSettings().own_kafka == own
