"""Who serves, who served when, and going back in one call."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.service.registry.conftest import MODEL, World, adapter, rollout, together

ROLLBACK = f"/models/{MODEL}/rollback"


async def test_a_rollout_makes_a_challenger_then_a_champion(world: World) -> None:
    await world.declare()
    await world.approve(1)
    await world.tell(rollout(1, "started"))
    assert await world.aliases() == {"champion": None, "challenger": 1}
    assert (await world.get(f"/models/{MODEL}/versions/1"))["aliases"] == ["challenger"]
    await world.tell(rollout(1, "advanced"), rollout(1, "completed"), rollout(1, "completed"))
    assert await world.aliases() == {"champion": 1, "challenger": None}
    (promoted,) = await world.announced("model.promoted")
    assert promoted["adapter_digest"] == adapter(1)
    assert promoted["quality"] == 0.8
    assert promoted["previous_version"] is None
    assert promoted["rollback"] is False
    assert promoted["actor"] == "serving"
    history = await world.get(f"/models/{MODEL}/aliases")
    assert [(one["alias"], one["version"]) for one in history["events"]] == [
        ("challenger", 1),
        ("challenger", None),
        ("champion", 1),
    ]
    assert promoted["sequence"] == history["events"][-1]["sequence"]
    assert history["events"][0]["evidence"]["rollout_id"] == await world.rollout_id(1)


async def test_a_rollout_rolled_back_leaves_the_champion(world: World) -> None:
    await world.declare()
    await world.crown(1)
    await world.approve(2, champion=1)
    await world.tell(
        rollout(2, "started"), rollout(2, "rolled_back"), rollout(2, "completed"), rollout(2, "started")
    )
    assert await world.aliases() == {"champion": 1, "challenger": None}
    assert (await world.get(f"/models/{MODEL}/versions/2"))["state"] == "rolled_back"
    assert len(await world.announced("model.promoted")) == 1


async def test_who_was_champion_when(world: World) -> None:
    await world.declare()
    await world.crown(1)
    between = datetime.now(UTC)
    await world.crown(2, champion=1)
    path = f"/models/{MODEL}/aliases"
    assert (await world.get(path))["aliases"]["champion"] == 2
    assert (await world.get(path, at=between.isoformat()))["aliases"]["champion"] == 1
    assert (await world.get(path, at=(between - timedelta(days=1)).isoformat()))["aliases"][
        "champion"
    ] is None
    naive = await world.http.get(path, params={"at": "2026-01-01T00:00:00"})
    assert naive.status_code == 422


async def test_a_rollback_is_one_call_and_another_promotion(world: World) -> None:
    await world.declare()
    await world.crown(1)
    await world.crown(2, champion=1)
    answer = await world.post(ROLLBACK, {"reason": "wrong answers", "expected_champion": 2})
    assert answer == {"model": MODEL, "champion": 1}
    promoted = (await world.announced("model.promoted"))[-1]
    assert (promoted["model_version"], promoted["previous_version"]) == (1, 2)
    assert promoted["rollback"] is True
    assert (promoted["actor"], promoted["reason"]) == ("tester", "wrong answers")
    assert promoted["sequence"] > (await world.announced("model.promoted"))[-2]["sequence"]
    assert (await world.get(f"/models/{MODEL}/versions/2"))["state"] == "rolled_back"
    event = (await world.get(f"/models/{MODEL}/aliases"))["events"][-1]
    assert (event["actor"], event["reason"], event["rollback"]) == ("tester", "wrong answers", True)


async def test_rolling_back_again_goes_further_back_and_then_says_no(world: World) -> None:
    await world.declare()
    for number, champion in ((1, None), (2, 1), (3, 2)):
        await world.crown(number, champion)
    assert (await world.post(ROLLBACK, {"reason": "r"}))["champion"] == 2
    assert (await world.post(ROLLBACK, {"reason": "r"}))["champion"] == 1
    refused = await world.http.post(ROLLBACK, json={"reason": "r"})
    assert refused.status_code == 409
    assert "no earlier champion" in refused.json()["detail"]
    assert (await world.post(ROLLBACK, {"reason": "r", "to": 3}))["champion"] == 3
    assert (await world.get(f"/models/{MODEL}/versions/3"))["state"] == "approved"


async def test_a_rollback_ends_the_rollout_under_way(world: World) -> None:
    await world.declare()
    await world.crown(1)
    await world.crown(2, champion=1)
    await world.approve(3, champion=2)
    await world.tell(rollout(3, "started"))
    await world.post(ROLLBACK, {"reason": "everything is on fire"})
    await world.tell(rollout(3, "completed"))
    assert await world.aliases() == {"champion": 1, "challenger": None}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"reason": "r", "to": 9}, 409),
        ({"reason": "r", "to": 1}, 409),
        ({"reason": "r", "to": 3}, 409),
        ({"reason": "r", "expected_champion": 2}, 409),
        ({"reason": "r"}, 409),
        ({"reason": ""}, 422),
        ({"to": 1}, 422),
        ({"reason": "r", "to": 0}, 422),
        ({"reason": "r", "to": 2**40}, 422),
        ({"reason": "r", "to": "first"}, 422),
        ({"reason": "r", "force": True}, 422),
        ({"reason": "r\x00"}, 400),
    ],
)
async def test_a_rollback_to_nowhere_is_refused(world: World, body: dict[str, object], status: int) -> None:
    await world.declare()
    await world.crown(1)
    await world.approve(2, champion=1)
    await world.tell(rollout(2, "started"), rollout(2, "rolled_back"))
    await world.tell(*[await world.evaluated(3, "fail", champion=1)])
    answer = await world.http.post(ROLLBACK, json=body)
    assert answer.status_code == status
    assert await world.aliases() == {"champion": 1, "challenger": None}


async def test_two_rollbacks_at_once_happen_in_turn(world: World) -> None:
    await world.declare()
    for number, champion in ((1, None), (2, 1), (3, 2)):
        await world.crown(number, champion)
    body = {"reason": "r", "expected_champion": 3}
    answers = await together(*(world.http.post(ROLLBACK, json=body) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert (await world.aliases())["champion"] == 2
    events = (await world.get(f"/models/{MODEL}/aliases"))["events"]
    assert [one["sequence"] for one in events] == list(range(1, len(events) + 1))


async def test_a_rollback_and_a_promotion_at_once_leave_one_history(world: World) -> None:
    await world.declare()
    await world.crown(1)
    await world.crown(2, champion=1)
    await world.approve(3, champion=2)
    await world.tell(rollout(3, "started"))
    await together(
        world.tell(rollout(3, "completed")),
        world.http.post(ROLLBACK, json={"reason": "r"}),
        world.tell(rollout(3, "held")),
    )
    events = (await world.get(f"/models/{MODEL}/aliases"))["events"]
    promoted = await world.announced("model.promoted")
    crowned = [one for one in events if one["alias"] == "champion"]
    assert [one["sequence"] for one in promoted] == [one["sequence"] for one in crowned]
    assert [one["model_version"] for one in promoted] == [one["version"] for one in crowned]
    assert (await world.aliases())["champion"] == crowned[-1]["version"]
