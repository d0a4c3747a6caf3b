"""A whole service in front of a Kafka with TLS and an access list: refused, it waits and says why; let in, it goes on."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from infra.kafka import requests, topics
from infra.kafka.access import Grant
from infra.kafka.admin import administrator
from shared.delivery.settings import KafkaSettings
from tests.kit import wait_until
from tests.service.infra.brokers import TlsBroker, tls_broker
from tests.service.kernel.small_service import SmallService
from tests.service.kernel.test_health import troubles

TOPIC = "test.refused"
READ = Grant("data", "Read", "topic", TOPIC)
GRANTS = [
    READ,
    Grant("data", "Write", "topic", TOPIC),
    Grant("data", "Write", "topic", f"{TOPIC}.data.dlq"),
    Grant("data", "Write", "topic", "training.status"),
]


@dataclass
class AsData:
    """The broker as a small service sees it: it is `data` there, with the rights of that service and no more."""

    broker: TlsBroker

    def fresh_topic(self) -> str:
        self.create(topics.Topic(TOPIC, 1))
        return TOPIC

    def create(self, *wanted: topics.Topic) -> None:
        self.broker.create(*wanted)

    def settings(self) -> KafkaSettings:
        return self.broker.settings("data")

    def client(self) -> dict[str, Any]:
        return self.broker.client()


@pytest.fixture(scope="module")
def broker() -> Iterator[TlsBroker]:
    with tempfile.TemporaryDirectory(prefix="driftwheel-") as home, tls_broker(Path(home)) as broker:
        yield broker


@pytest.fixture
def refused(
    broker: TlsBroker,
    make_kernel_database: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> SmallService:
    asyncio.run(broker.apply(more=GRANTS))
    return SmallService(AsData(broker), make_kernel_database(), tmp_path / "jwks.json", monkeypatch)


def said(service: SmallService, client: TestClient) -> str:
    return str(troubles(client).get(f"consumer {service.topic}", {}).get("detail", ""))


def test_a_service_whose_access_is_revoked_says_so_and_goes_on_when_it_returns(
    broker: TlsBroker, refused: SmallService
) -> None:
    with TestClient(refused.app(worker=False), headers=refused.caller) as client:
        client.post("/judgements/one")
        wait_until(lambda: refused.sent("accepted", "one"), "an event to go round over TLS", 120)
        asyncio.run(broker.apply(READ, more=GRANTS))
        wait_until(lambda: "data" in said(refused, client), "the consumer to say who lacks a right", 120)
        assert "infra.kafka.access" in said(refused, client)
        client.post("/judgements/two")
        assert client.get("/health/live").status_code == 200
        assert not refused.sent("accepted", "two")
        asyncio.run(broker.apply(more=GRANTS))
        wait_until(lambda: refused.sent("accepted", "two"), "what came meanwhile, without a restart", 120)
        wait_until(lambda: not said(refused, client), "nothing to be said any more", 60)


def test_a_service_with_a_wrong_password_says_who_is_refused_and_goes_on_when_it_is_right(
    broker: TlsBroker, refused: SmallService
) -> None:
    refused.settings = refused.settings.model_copy(update={"kafka_password": _secret("another-word")})
    with TestClient(refused.app(worker=False), headers=refused.caller) as client:
        wait_until(lambda: "refuses data" in said(refused, client), "the consumer to say who is refused", 120)
        assert "another-word" not in client.get("/health/ready").text + said(refused, client)
        client.post("/judgements/three")
        asyncio.run(_set_password(broker, "another-word"))
        wait_until(lambda: refused.sent("accepted", "three"), "the event after the right password", 120)


def _secret(word: str) -> Any:
    return KafkaSettings(kafka_username="data", kafka_password=word).kafka_password


async def _set_password(broker: TlsBroker, word: str) -> None:
    async with administrator(broker.settings()) as admin:
        await requests.set_passwords(admin, {"data": word})
