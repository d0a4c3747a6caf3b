"""What a service says of itself: an edge that answers is ready, whatever becomes of its consumers."""

from typing import Any

from fastapi.testclient import TestClient
from pydantic import SecretStr

from shared.delivery.unit_of_work import POOL
from tests.kit import wait_until
from tests.service.kernel.small_service import SmallService


def troubles(client: TestClient) -> dict[str, Any]:
    return {part["name"]: part for part in client.get("/health/ready").json()["parts"]}


def test_a_stopped_consumer_is_reported_and_resumed_and_the_edge_stays_ready(service: SmallService) -> None:
    service.settings = service.settings.model_copy(update={"dead_in_a_row": 3})
    name = f"consumer {service.topic}"
    with TestClient(service.app(worker=False), headers=service.caller) as client:
        for _ in range(3):
            assert client.post("/judgements/poison").status_code == 200
        wait_until(lambda: troubles(client).get(name, {}).get("state") == "stopped", "the stop", 60)
        answer = client.get("/health/ready")
        assert (answer.status_code, answer.json()["reasons"]) == (200, [])
        assert troubles(client)[name]["state"] == "stopped"
        assert "driftwheel consumers resume data" in troubles(client)[name]["detail"]
        assert client.get("/health/live").status_code == 200
        [pulse] = [part for part in client.get("/pulse").json()["parts"] if part["name"] == name]
        assert pulse["state"] == "stopped"
        gauge = f'driftwheel_consumer_stopped{{service="data",topic="{service.topic}"}}'
        assert f"{gauge} 1.0" in client.get("/metrics").text
        [listed] = client.get("/consumers").json()["consumers"]
        assert (listed["topic"], listed["state"]) == (service.topic, "stopped")
        resume = f"/consumers/{service.topic}/resume"
        assert client.post(resume, json={"source": "/nobody"}).status_code == 404
        assert client.post("/consumers/no.such.topic/resume", json={}).status_code == 404
        assert client.post(resume, json={}).json()["state"] == "running"
        assert client.post(resume, json={}).status_code == 409, "it has not stopped"
        client.post("/judgements/well")
        wait_until(lambda: service.sent("accepted", "well"), "the event after the resume", 60)
        assert f"{gauge} 0.0" in client.get("/metrics").text


def test_without_kafka_a_service_is_ready_and_says_what_waits(service: SmallService) -> None:
    service.settings = service.settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})
    with TestClient(service.app(worker=False), headers=service.caller) as client:

        def waiting() -> Any:
            found = troubles(client)
            said = found.get(f"consumer {service.topic}", {}).get("detail", "")
            return found if said.startswith("Kafka at 127.0.0.1:9 does not answer") else None

        found = wait_until(waiting, "the consumer to say what it waits for", 60)
        assert found["kafka"]["state"] == "waiting"
        relay = wait_until(lambda: troubles(client).get("relay"), "the relay to say what it waits for", 60)
        assert (relay["state"], relay["detail"]) == ("waiting", "kafka")
        assert client.get("/health/ready").status_code == 200
        assert client.get("/health/live").status_code == 200
        assert client.post("/judgements/well").status_code == 200


def test_requests_that_hold_all_connections_do_not_make_the_database_look_away(service: SmallService) -> None:
    with TestClient(service.app(worker=False), headers=service.caller) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200, "the start")
        db = client.app.state.db  # type: ignore[attr-defined]
        portal = client.portal
        assert portal is not None
        held = [db.unit_of_work() for _ in range(POOL)]
        works = [portal.call(one.__aenter__) for one in held]
        for work in works:
            portal.call(work.execute, "SELECT 1")
        assert client.get("/health/ready").status_code == 200
        for one in held:
            portal.call(one.__aexit__, None, None, None)


def test_without_its_database_a_service_is_unready_only_if_it_needs_one(service: SmallService) -> None:
    service.url = "postgresql://nobody@127.0.0.1:9/none"
    service.settings = service.settings.model_copy(update={"database_url": SecretStr(service.url)})
    with TestClient(service.app(worker=False)) as client:
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["reasons"][0].startswith("database: waiting")
    with TestClient(service.app(needs=())) as client:
        answer = client.get("/health/ready")
        assert answer.status_code == 200
        assert troubles(client)["database"]["state"] == "waiting"
        for loop in ("relay", "jobs"):
            part = wait_until(
                lambda loop=loop: troubles(client).get(loop), f"{loop} to say what it waits for", 60
            )
            assert (part["state"], part["detail"]) == ("waiting", "postgres")
