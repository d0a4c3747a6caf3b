"""Kafka, PostgreSQL and S3 go away together: users notice nothing, and nothing of what they were told is lost."""

import asyncio

import pytest

from tests.loop import Platform, until
from tests.outage import How, Traffic, all_kept, champion, outage

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
SECONDS = 15


@pytest.mark.parametrize("how", ["gone", pytest.param("frozen", marks=pytest.mark.soak)])
async def test_chat_goes_on_and_everything_is_written_afterwards(platform: Platform, how: How) -> None:
    model = f"outage-{how}"
    await champion(platform, model)
    traffic = Traffic(platform, model)
    pid = platform.stack.pid("serving")
    async with outage(platform, how):
        await traffic.run(SECONDS)
        listed = await platform.get("/v1/models")
        probe = await platform.http.get(f"{platform.stack.urls['serving']}/health/ready")
    assert traffic.statuses == {"200": SECONDS * 2}
    assert (probe.status_code, probe.json()["ready"]) == (200, True)
    assert {"database", "kafka"} & {part["name"] for part in probe.json()["parts"]}
    assert model in {card["id"] for card in listed["data"]}
    assert set(traffic.judgements) <= {200, 202}, traffic.judgements
    assert traffic.judgements[202]
    assert platform.stack.pid("serving") == pid
    found = await until(lambda: all_kept(platform, traffic), "what was answered in the outage", 300, pause=1)
    assert found.texts == len(traffic.answers)
    assert set(found.events.values()) == {1}
    assert set(found.judgement_events.values()) == {1}


@pytest.mark.soak
async def test_serving_and_its_engine_come_back_in_the_middle_of_an_outage(platform: Platform) -> None:
    """kill -9 of both: routes, adapters and what was not written yet survive on the disk."""
    model = "outage-restart"
    await champion(platform, model)
    traffic = Traffic(platform, model)
    async with outage(platform, "gone"):
        await traffic.run(5)
        assert traffic.failed == 0
        for part in ("engine", "serving"):
            await asyncio.to_thread(platform.stack.kill, part)
        before = len(traffic.answers)

        async def answers() -> bool:
            await traffic.run(0.5)
            return len(traffic.answers) > before

        await until(answers, "an answer after both were killed", 180, pause=0.5)
        failed = traffic.failed
        await traffic.run(5)
        assert traffic.failed == failed
    found = await until(lambda: all_kept(platform, traffic), "what was answered in the outage", 300, pause=1)
    assert set(found.events.values()) == {1}
    assert set(found.judgement_events.values()) == {1}
