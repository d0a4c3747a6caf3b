"""Rollouts that a person stops for a while, and the history that each one leaves."""

import asyncio
from datetime import timedelta

import pytest

from services.serving import store
from services.serving.domain import Change, Rollout
from services.serving.progress import steps
from services.serving.ramp import TRIPWIRE
from shared.artifacts.objects import S3Objects
from shared.contracts.errors import Conflict, NotFound
from shared.contracts.events import RolloutChanged
from shared.delivery.unit_of_work import Database
from tests.service.serving.conftest import sent
from tests.service.serving.story import RAMP, START, Story, approved, declared, promoted


@pytest.fixture
async def story(db: Database, objects: S3Objects) -> Story:
    """Version 1 is champion, version 2 has its first traffic."""
    story = Story.begin(db, objects)
    await story.hears(declared(), approved(1), promoted(1, 1), approved(2))
    await story.has_ready(1, 2)
    await story.ticks()
    return story


async def pause(story: Story, rollout: Rollout, reason: str = "it smells") -> Rollout:
    async with story.db.unit_of_work() as work:
        return await story.service.pause(work, rollout.id, reason, "ann")


async def resume(story: Story, rollout: Rollout) -> Rollout:
    async with story.db.unit_of_work() as work:
        return await story.service.resume(work, rollout.id, "bob")


async def history(story: Story, rollout: Rollout) -> list[Change]:
    async with story.db.unit_of_work() as work:
        return list((await story.service.rollout(work, rollout.id))[2])


async def words(story: Story, rollout: Rollout) -> list[tuple[str, float]]:
    return [(change.state, change.weight) for change in await history(story, rollout)]


async def good_traffic(story: Story, rollout: Rollout, number: int = 30) -> None:
    await story.serves(rollout.id, "challenger", number, scores=[1] * 15)
    await story.serves(rollout.id, "champion", 2 * number, scores=[1] * 15)


async def test_a_paused_rollout_keeps_its_weight_and_is_judged_again_when_resumed(story: Story) -> None:
    rollout = await story.rollout(2)
    paused = await pause(story, rollout)
    assert (paused.state, paused.weight, paused.reason) == ("running", 5, "Paused by ann: it smells")
    await good_traffic(story, rollout)
    await story.ticks(1_000)
    still = await story.rollout(2)
    assert (still.weight, still.looks, still.reason) == (5, 0, "Paused by ann: it smells")
    arms = {story.live.table.choose("support", f"user-{n}").arm for n in range(500)}
    assert arms == {"champion", "challenger"}
    assert (await resume(story, rollout)).paused_at is None
    await story.ticks()
    assert (await story.rollout(2)).weight == 25
    assert [(e.state, e.weight, e.reason.split(":")[0]) for e in await sent(story.db, RolloutChanged)][
        :3
    ] == [
        ("started", 5, "The adapter answers as it was evaluated."),
        ("held", 5, "Paused by ann"),
        ("held", 5, "Resumed by bob."),
    ]
    assert await words(story, rollout) == [
        ("planned", 0), ("started", 5), ("paused", 5), ("resumed", 5), ("advanced", 25),
    ]  # fmt: skip


async def test_what_was_bad_in_a_pause_counts_after_it(story: Story) -> None:
    rollout = await story.rollout(2)
    await pause(story, rollout)
    await story.serves(rollout.id, "champion", 150)
    await story.serves(rollout.id, "challenger", 30, errors=25)
    await story.ticks(1)
    assert (await story.rollout(2)).state == "running"
    await resume(story, rollout)
    await story.ticks()
    assert (await story.rollout(2)).state == "rolled_back"


async def test_the_tripwire_rolls_a_paused_rollout_back(story: Story) -> None:
    rollout = await story.rollout(2)
    await pause(story, rollout)
    for _ in range(TRIPWIRE):
        story.live.challenger_failed(rollout.id)
    await story.ticks()
    ended = await story.rollout(2)
    assert (ended.state, ended.paused_at) == ("rolled_back", None)
    assert "errors in a row" in ended.reason


async def test_a_pause_outlives_the_process(story: Story, objects: S3Objects) -> None:
    """Nothing of it is in memory: another process over the same database holds still, too."""
    rollout = await story.rollout(2)
    await pause(story, rollout)
    await good_traffic(story, rollout)
    heir = Story.begin(story.db, objects)
    heir.clock.advance(timedelta(hours=1))
    await heir.looks()
    await heir.has_ready(1, 2)
    await heir.ticks(60)
    assert (await heir.rollout(2)).weight == 5
    await resume(heir, rollout)
    await heir.ticks()
    assert (await heir.rollout(2)).weight == 25


async def test_saying_it_again_changes_nothing(story: Story) -> None:
    rollout = await story.rollout(2)
    await asyncio.gather(*(pause(story, rollout, f"reason {n}") for n in range(5)))
    await asyncio.gather(*(resume(story, rollout) for _ in range(5)))
    assert [event.state for event in await sent(story.db, RolloutChanged)] == ["started", "held", "held"]
    assert [word for word, _ in await words(story, rollout)] == ["planned", "started", "paused", "resumed"]


async def test_only_a_running_rollout_is_paused(story: Story) -> None:
    await story.hears(approved(3))
    pending = await story.rollout(3)
    with pytest.raises(Conflict, match="no traffic yet"):
        await pause(story, pending)
    running = await story.rollout(2)
    async with story.db.unit_of_work() as work:
        await story.service.abort(work, running.id, "enough", "ann")
    for call in (pause, resume):
        with pytest.raises(Conflict, match="has ended"):
            await call(story, running)
    with pytest.raises(NotFound):
        await pause(story, Rollout(id="0" * 36))


async def test_a_promotion_ends_a_paused_rollout(story: Story) -> None:
    rollout = await story.rollout(2)
    await pause(story, rollout)
    await story.hears(promoted(2, 2))
    ended = await story.rollout(2)
    assert (ended.state, ended.paused_at) == ("superseded", None)
    assert (await words(story, rollout))[-1] == ("superseded", 0)


async def test_history_holds_each_test_with_its_numbers(story: Story) -> None:
    rollout = await story.rollout(2)
    await story.serves(rollout.id, "champion", 100, latency=100)
    await story.serves(rollout.id, "challenger", 30, errors=3, latency=50)
    await story.ticks(1)  # 3 of 30 is over 5 %, and may be chance
    await story.serves(rollout.id, "challenger", 60, latency=50)
    await story.ticks(1)  # 3 of 90 is not
    await story.ticks(20)
    planned, _, held, passed, advanced = await history(story, rollout)
    assert (planned.judgement, held.state, passed.state, advanced.state) == (
        None,
        "held",
        "passed",
        "advanced",
    )
    test = held.judgement or {}
    assert (test["test"], test["due"], test["needs"][0]) == (
        1,
        True,
        {"what": "challenger answers", "have": 30, "need": 30},
    )
    errors, quality, latency = test["guards"]
    assert (errors["verdict"], errors["value"], errors["bound"]) == ("unsure", 0.1, 0.05)
    assert errors["low"] < 0.05 < errors["high"]
    assert (quality["verdict"], quality["value"]) == ("unmeasured", None)
    assert (latency["verdict"], latency["value"]) == ("fine", 0)
    challenger, champion = test["arms"]
    assert (challenger["answers"], challenger["latency_p50_ms"], challenger["score"]) == (30, 50, None)
    assert (champion["model_version"], champion["error_rate"]["value"]) == (1, 0)
    again = passed.judgement or {}
    assert (again["test"], again["guards"][0]["verdict"]) == (2, "fine")
    assert again["error_probability"] == pytest.approx(test["error_probability"] / 2)


async def test_the_ramp_says_how_long_each_step_took(story: Story) -> None:
    rollout = await story.rollout(2)
    await good_traffic(story, rollout)
    await story.ticks(60)
    async with story.db.unit_of_work() as work:
        found, _, changes = await story.service.rollout(work, rollout.id)
    shown = steps(found, changes, START + timedelta(seconds=90))
    assert [(step["weight"], step["state"], step["seconds"]) for step in shown] == [
        (5, "passed", 60), (25, "present", 30), (50, "ahead", None), (100, "ahead", None),
    ]  # fmt: skip
    async with story.db.unit_of_work() as work:
        await story.service.abort(work, rollout.id, "enough", "ann")
        found, _, changes = await story.service.rollout(work, rollout.id)
    stopped = steps(found, changes, START + timedelta(days=9))[1]
    assert (stopped["state"], stopped["seconds"]) == ("stopped", 0)
    assert len(shown) == len(RAMP.steps)


async def test_lists_go_on_where_the_page_before_ended(story: Story) -> None:
    await story.hears(*(approved(version) for version in range(3, 9)))
    async with story.db.unit_of_work() as work:
        everything = [one.id for one in await store.rollouts(work, "support", 100)]
        seen: list[str] = []
        while page := await story.service.rollouts(work, "support", seen[-1] if seen else None, 3):
            seen += [one.id for one in page]
        with pytest.raises(NotFound):
            await story.service.rollouts(work, None, "0" * 36, 3)
    assert seen == everything
    assert len(seen) == 8
