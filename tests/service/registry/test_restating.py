"""State said again: whole, under the old revision and sequence, outside every story, and never behind a newer one."""

from datetime import UTC, datetime, timedelta
from typing import Any

from services.registry.restating import Restating
from shared.service.clock import ManualClock
from tests.service.registry.conftest import MODEL, World, together


def restating(world: World, at: datetime | None = None, every: float = 3_600) -> Restating:
    return Restating(world.db, ManualClock(at or datetime.now(UTC)), every)


async def words(world: World, topic: str) -> list[dict[str, Any]]:
    """What was announced, without the story that it belongs to."""
    return [
        {name: value for name, value in event.items() if name != "correlationid"}
        for event in await world.announced(topic)
    ]


async def test_policy_and_champion_are_said_again_as_they_were(world: World) -> None:
    await world.declare()
    await world.crown(1)
    await world.crown(2, champion=1)
    declared, promoted = await words(world, "model.declared"), await words(world, "model.promoted")
    for _ in range(2):
        assert await restating(world).restate() == 2
    assert (await words(world, "model.declared"))[1:] == [{**declared[0], "restated": True}] * 2
    assert (await words(world, "model.promoted"))[2:] == [{**promoted[1], "restated": True}] * 2
    assert await world.aliases() == {"champion": 2, "challenger": None}


async def test_a_model_without_a_champion_restates_its_policy_alone(world: World) -> None:
    await world.declare()
    await world.approve(1)
    assert await restating(world).restate() == 1
    assert await world.announced("model.promoted") == []


async def test_what_is_said_again_belongs_to_no_story(world: World) -> None:
    await world.declare()
    await world.crown(1)
    await restating(world).restate()
    async with world.db.unit_of_work() as work:
        rows = await work.execute(
            "SELECT refs, causationid FROM outbox WHERE convert_from(body, 'utf8')::jsonb @> '{\"restated\": true}'"
        )
        assert [(list(row.refs), row.causationid is None) for row in rows] == [([], False)] * 2


async def test_news_of_this_round_is_not_said_twice(world: World) -> None:
    await world.declare()
    await world.crown(1)
    now = datetime.now(UTC)
    assert await restating(world).restate(before=now - timedelta(hours=1)) == 0
    assert await restating(world).restate(before=now + timedelta(hours=1)) == 2


async def test_a_promotion_that_comes_at_the_same_time_has_the_last_word(world: World) -> None:
    await world.declare()
    await world.crown(1)
    for number in range(2, 8):
        await together(restating(world).restate(), world.crown(number, champion=number - 1))
    sequences = [event["sequence"] for event in await world.announced("model.promoted")]
    assert sequences == sorted(sequences)


async def test_it_is_asked_for_with_the_right_to_write(world: World) -> None:
    await world.declare()
    assert await world.post("/restatements", {}) == {"events": 1}
    assert (await world.announced("model.declared"))[-1]["model"] == MODEL
    refused = await world.http.post("/restatements", headers={"authorization": ""})
    assert refused.status_code == 401
