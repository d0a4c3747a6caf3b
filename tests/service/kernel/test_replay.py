"""A replay on real Kafka and PostgreSQL: what was handled comes again and changes nothing."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka import TopicPartition
from fastapi.testclient import TestClient
from joserfc.jwk import OKPKey
from prometheus_client import REGISTRY

from shared.contracts.errors import Conflict, Invalid
from shared.contracts.events import FeedbackRecorded
from shared.delivery.bus import make_broker
from shared.http.tokens import mint
from shared.operations import replay
from shared.operations.replay import Replay, Start
from tests.kit import until, wait_until
from tests.service.kernel.small_service import SmallService
from tests.service.kernel.test_delivery import Desk, desk, topic

__all__ = ["desk", "topic"]
N = 300


def duplicates(desk: Desk) -> float:
    labels = {"service": "data", "topic": desk.topic, "outcome": "duplicate"}
    return REGISTRY.get_sample_value("driftwheel_events_handled_total", labels) or 0


async def handled(desk: Desk, count: int) -> None:
    """Handled, and the offset committed: a replay goes up to what is committed."""

    async def committed() -> bool:
        for consumer in (desk.consumer.consumer,):
            partition = TopicPartition(desk.topic, 0)
            if consumer and partition in consumer.assignment():
                return int(await consumer.committed(partition) or 0) >= count
        return False

    await until(committed, f"{count} committed records")


async def test_handled_events_come_again_without_effect(desk: Desk) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    async with desk.open():
        for n in range(N):
            await desk.send(f"n-{n:03}")
        await handled(desk, N)
        again = Replay("data", desk.broker, desk.settings)
        dry = await again.replay(desk.db, Start(time=before), [], dry_run=True)
        assert (dry["records"], dry["new_effects"]) == (N, 0)
        [told] = dry["topics"]
        assert (told["topic"], told["done"]) == (desk.topic, N)
        assert told["partitions"] == [{"partition": 0, "from": 0, "to": N}]
        assert (dry["here"], dry["elsewhere"]) == ([f"{desk.topic}/0"], [])
        await desk.send("after-the-dry-run")
        await handled(desk, N + 1)
        assert duplicates(desk) == 0, "a dry run moves nothing"
        await again.replay(desk.db, Start.of(f"{desk.topic}/0/0"), [], dry_run=False)

        async def all_again() -> bool:
            return duplicates(desk) == N + 1

        await until(all_again, "the duplicates")
        await desk.send("after")
        await handled(desk, N + 2)
    assert len(desk.calls) == N + 2, "the handler ran for nothing"
    assert len(await desk.effects()) == N + 2
    assert duplicates(desk) == N + 1


async def test_the_dead_stay_dead_and_what_nobody_knows_is_announced(desk: Desk) -> None:
    """Unreadable messages that come again are no new deaths: they neither count nor stop the consumer."""
    desk.settings = desk.settings.model_copy(update={"dead_in_a_row": 5})

    def fail(event: FeedbackRecorded) -> None:
        if event.feedback_id == "sick":
            raise ValueError("bug")

    desk.behaviour = fail
    async with desk.open():
        await desk.send("sick")
        await desk.send("well")
        for n in range(4):
            key, _, headers = desk.event(f"broken-{n}")
            await desk.producer.send_and_wait(desk.topic, b"{", key=key, headers=headers, partition=0)
        await desk.send("forgotten")
        await handled(desk, 7)
        async with desk.db.unit_of_work() as work:
            await work.execute("DELETE FROM inbox WHERE event_id LIKE '%forgotten'")
        again = Replay("data", desk.broker, desk.settings)
        start = Start.of(f"{desk.topic}/0/0")
        dry = await again.replay(desk.db, start, [], dry_run=True)
        assert dry["topics"][0] | {"done": 1, "dead": 5, "unknown": 1, "records": 7} == dry["topics"][0]
        assert dry["new_effects"] == 1
        for _ in range(2):
            await again.replay(desk.db, start, [desk.topic], dry_run=False)
            await until(lambda: _calls(desk, "forgotten", 2), "the one effect that was announced")
            await desk.send(f"mark-{time.time_ns()}")
            await until(lambda: _has_mark(desk), "the next event")
        assert desk.consumer.state.name == "running"
    states = await desk.inbox()
    assert sorted(state for state in states.values() if state == "dead") == ["dead"] * 5
    assert desk.calls.count("well") == 1


async def _calls(desk: Desk, name: str, count: int) -> bool:
    return desk.calls.count(name) >= count


async def _has_mark(desk: Desk) -> bool:
    return desk.calls[-1].startswith("mark-")


async def test_what_is_too_much_or_not_ours_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk.open():
        for n in range(3):
            await desk.send(f"n-{n}")
        await handled(desk, 3)
        again = Replay("data", desk.broker, desk.settings)
        start = Start(time=datetime.now(UTC) - timedelta(hours=1))
        with pytest.raises(Invalid, match=desk.topic):
            await again.replay(desk.db, start, ["model.promoted"], dry_run=True)
        with pytest.raises(Invalid, match="does not consume"):
            await again.replay(desk.db, Start.of("model.promoted/0/0"), [], dry_run=True)
        monkeypatch.setattr(replay, "MOST_RECORDS", 2)
        with pytest.raises(Invalid, match="3 records lie between; a replay brings at most 2"):
            await again.replay(desk.db, start, [], dry_run=False)
        desk.consumer._turn("stopped", "too many died")
        with pytest.raises(Conflict):
            await again.replay(desk.db, start, [], dry_run=True)
    assert len(desk.calls) == 3


async def test_nothing_lies_after_now(desk: Desk) -> None:
    async with desk.open():
        await desk.send("n")
        await handled(desk, 1)
        found = await Replay("data", desk.broker, desk.settings).replay(
            desk.db, Start(time=datetime.now(UTC) + timedelta(hours=1)), [], dry_run=False
        )
    assert (found["records"], found["topics"], found["here"]) == (0, [], [])


async def test_what_another_replica_reads_is_named_and_left_alone(desk: Desk) -> None:
    idle = make_broker(desk.settings, desk.db, "data", [desk.router()])
    async with desk.open():
        await desk.send("n")
        await handled(desk, 1)
        start = Start.of(f"{desk.topic}/0/0")
        found = await Replay("data", idle, desk.settings).replay(desk.db, start, [], dry_run=False)
        assert (found["records"], found["here"], found["elsewhere"]) == (1, [], [f"{desk.topic}/0"])
        await desk.send("after")
        await handled(desk, 2)
    assert duplicates(desk) == 0


@pytest.mark.parametrize(
    "text", ["", "yesterday", "a/b/c", "topic/0", "topic/-1/0", "topic/0/1/2", "9999-99-99"]
)
def test_a_start_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        Start.of(text)


def test_a_start_is_a_time_or_a_place() -> None:
    assert Start.of("2026-01-01T00:00:00").time == datetime(2026, 1, 1, tzinfo=UTC)
    assert Start.of("model.promoted/2/118").place == (TopicPartition("model.promoted", 2), 118)


def test_over_http_it_is_for_admins_and_a_dry_run_unless_told_otherwise(service: SmallService) -> None:
    key = OKPKey.generate_key("Ed25519", {"kid": "k", "alg": "Ed25519"}, auto_kid=False)
    service.settings.auth_jwks_file.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))

    def headers(*scopes: str) -> dict[str, str]:
        return {"authorization": f"Bearer {mint(key, 'ann', list(scopes), 60)}"}

    with TestClient(service.app(worker=False)) as client:
        wait_until(lambda: client.get("/health/startup").json()["started"], "the start")
        client.post("/judgements/poison", headers=headers("admin"))
        client.post("/judgements/well", headers=headers("admin"))
        path = f"{service.topic}/0/0"

        def counted() -> Any:
            answer = client.post("/replay", json={"from": path}, headers=headers("admin"))
            if answer.status_code == 503:  # a Kafka that is new makes the topic of the groups' offsets first
                return None
            assert answer.status_code == 200, answer.text
            return answer.json() if answer.json()["records"] == 2 else None

        told = wait_until(counted, "two committed records")
        assert told["dry_run"] is True
        assert (told["topics"][0]["done"], told["topics"][0]["dead"], told["new_effects"]) == (1, 1, 0)
        watching = headers("monitor:read")
        assert client.post("/replay", json={"from": path}, headers=watching).status_code == 403
        assert client.post("/replay", json={"from": "x"}, headers=headers("admin")).status_code == 422
        [dead] = client.get("/dead-letters", headers=watching).json()["dead_letters"]
        letter = client.get(f"/dead-letters/{dead['event_id']}", headers=watching).json()
        assert (letter["payload"], letter["payload_needs"]) == (None, "admin")
        whole = client.get(f"/dead-letters/{dead['event_id']}", headers=headers("admin")).json()
        assert "poison" in whole["payload"]["text"]
        many = {"topic": service.topic, "dry_run": True}
        assert client.post("/dead-letters/redrive", json=many, headers=watching).status_code == 403
        dry = client.post("/dead-letters/redrive", json=many, headers=headers("admin")).json()
        assert (dry["messages"], dry["first"]) == (1, [dead["event_id"]])
        known = client.get("/events", params={"id": dead["event_id"]}, headers=watching).json()["events"]
        assert {row["topic"] for row in known} == {service.topic}
        assert client.get("/events?after=x", headers=watching).status_code == 422


async def test_what_the_inbox_forgot_is_not_replayed(desk: Desk) -> None:
    async with desk.open():
        await desk.send("old")
        await handled(desk, 1)
        async with desk.db.unit_of_work() as work:
            await work.execute("INSERT INTO remembered VALUES (current_date + 1)")
        again = Replay("data", desk.broker, desk.settings)
        with pytest.raises(Invalid, match="forgotten here"):
            await again.replay(desk.db, Start.of(f"{desk.topic}/0/0"), [], dry_run=True)
