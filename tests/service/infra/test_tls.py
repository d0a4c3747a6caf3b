"""A Kafka like a hosted one, with TLS and SCRAM in front: every client works over it, and what hinders it is said."""

import asyncio
import base64
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from infra.kafka import access, certificates
from infra.kafka.admin import ClusterRefused, administrator
from shared.delivery.kafka import connection, trouble
from shared.delivery.settings import KafkaSettings
from tests.service.infra.brokers import TlsBroker, tls_broker


@pytest.fixture(scope="module")
def broker() -> Iterator[TlsBroker]:
    with tempfile.TemporaryDirectory(prefix="driftwheel-") as home, tls_broker(Path(home)) as broker:
        yield broker


async def test_a_service_that_is_let_in_has_no_trouble(broker: TlsBroker) -> None:
    assert await trouble(broker.settings("data")) is None
    assert await trouble(broker.settings("admin")) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kafka_password": "wrong-word"}, "refuses data: there is no such user, or the password"),
        ({"kafka_username": "nobody"}, "refuses nobody"),
        ({"kafka_mechanism": "SCRAM-SHA-256"}, "does not know the mechanism SCRAM-SHA-256"),
        ({"kafka_ca_file": None}, "KAFKA_CA_FILE names whom to trust"),
        ({"kafka_tls": False}, "may want TLS"),
        ({"kafka_ca_file": Path("/no/such/file.pem")}, "KAFKA_CA_FILE: /no/such/file.pem"),
    ],
)
async def test_what_keeps_a_client_out_is_said_with_its_name_and_without_its_password(
    broker: TlsBroker, changed: dict[str, Any], words: str
) -> None:
    settings = broker.settings("data", **changed)
    said = await trouble(settings)
    assert said is not None
    assert words in said
    assert settings.kafka_password.get_secret_value() not in said
    if "kafka_ca_file" not in changed:
        with pytest.raises(ClusterRefused, match=words.split(":", maxsplit=1)[0]):
            async with administrator(settings, request_timeout_ms=5_000):
                pass


async def test_an_authority_that_did_not_sign_the_broker_is_not_enough(
    broker: TlsBroker, tmp_path: Path
) -> None:
    certificates.issue(tmp_path, "localhost")
    said = await trouble(broker.settings("data", kafka_ca_file=tmp_path / certificates.CA_FILE))
    assert said is not None
    assert "is not accepted" in said


async def test_a_certificate_for_another_host_is_refused_unless_told(broker: TlsBroker) -> None:
    elsewhere = broker.bootstrap.replace("localhost", "127.0.0.1")
    said = await trouble(broker.settings("data", kafka_bootstrap=elsewhere))
    assert said is not None
    assert "is not accepted" in said
    assert (
        await trouble(broker.settings("data", kafka_bootstrap=elsewhere, kafka_check_hostname=False)) is None
    )


async def test_a_bearer_of_a_token_is_the_principal_that_it_names(broker: TlsBroker, tmp_path: Path) -> None:
    """Kafka reads unsigned tokens unless it is told whose to accept, which is the cluster's side."""
    part = {"sub": "foreign", "iat": int(time.time()), "exp": int(time.time()) + 600}
    file = tmp_path / "token"
    file.write_text(
        ".".join(
            base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=")
            for p in ({"alg": "none"}, part)
        )
        + "."
    )
    settings = KafkaSettings(
        kafka_bootstrap=broker.bootstrap, kafka_tls=True, kafka_ca_file=broker.ca_file,
        kafka_mechanism="OAUTHBEARER", kafka_token_file=file,
    )  # fmt: skip
    assert await trouble(settings) is None
    async with AIOKafkaProducer(**connection(settings)) as producer:
        await producer.send_and_wait("feedback.recorded", b"{}")
    missing = settings.model_copy(update={"kafka_token_file": tmp_path / "gone"})
    assert "KAFKA_TOKEN_FILE" in (await trouble(missing) or "")


async def test_revoked_access_ends_and_returns_while_clients_live(broker: TlsBroker) -> None:
    """A grant that is taken away binds at once; given back, the same clients go on."""
    topic, grant = "dataset.ready", access.Grant("trainer", "Read", "topic", "dataset.ready")
    consumer = AIOKafkaConsumer(topic, **broker.client("trainer"), group_id=f"trainer.{topic}", auto_offset_reset="earliest")  # fmt: skip
    async with AIOKafkaProducer(**broker.client("data")) as producer, consumer:
        await producer.send_and_wait(topic, b"1", partition=0)
        assert (await asyncio.wait_for(consumer.getone(), 30)).value == b"1"
        await broker.apply(grant)
        await producer.send_and_wait(topic, b"2", partition=0)
        await _refused(consumer)
        await broker.apply()
        assert await _next(consumer) == b"2"


async def _refused(consumer: AIOKafkaConsumer) -> None:
    from aiokafka.errors import TopicAuthorizationFailedError

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            await consumer.getmany(timeout_ms=500)
        except TopicAuthorizationFailedError:
            return
    raise AssertionError("a revoked reader was never refused")


async def _next(consumer: AIOKafkaConsumer) -> bytes:
    from aiokafka.errors import TopicAuthorizationFailedError

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                return bytes(records[0].value)
        except TopicAuthorizationFailedError:
            continue
    raise AssertionError("nothing came after access was given back")
