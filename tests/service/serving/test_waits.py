"""Why a rollout does not move, in the words that a trace shows."""

import pytest

from services.serving import store
from services.serving.domain import Rollout
from services.serving.waits import waits
from shared.artifacts.objects import S3Objects
from shared.delivery.unit_of_work import Database
from tests.service.serving.story import Story, approved, declared, promoted


@pytest.fixture
async def story(db: Database, objects: S3Objects) -> Story:
    """Version 1 is champion; 2 is approved, and nothing is ready yet but the champion."""
    story = Story.begin(db, objects)
    await story.hears(declared(), approved(1), promoted(1, 1), approved(2))
    await story.has_ready(1)
    await story.ticks()
    return story


async def reasons(story: Story, *rollouts: Rollout) -> list[str]:
    async with story.db.unit_of_work() as work:
        found = [await store.rollout(work, rollout.id) for rollout in rollouts]
        said = await waits(work, [one.cause["correlationid"] for one in found if one and one.cause])
    assert [one["command"] for one in said] == [f"driftwheel rollouts show {r.id}" for r in rollouts]
    return [one["reason"] for one in said]


async def test_what_a_rollout_waits_for_is_said_in_each_state(story: Story) -> None:
    second = await story.rollout(2)
    assert await reasons(story, second) == [
        "the adapter of support:2 is wanted: it is loaded and probed before any traffic"
    ]
    await story.has_ready(1, 2)
    await story.ticks()
    (reason,) = await reasons(story, second)
    assert reason.startswith("the ramp of support:2 is at 5 % and needs challenger answers 0 of 30, ")
    await story.serves(second.id, "challenger", 7)
    (reason,) = await reasons(story, second)
    assert "challenger answers 7 of 30" in reason

    await story.hears(approved(3))
    (reason,) = await reasons(story, await story.rollout(3))
    assert reason == "support:3 waits until the rollout of version 2 has ended"

    async with story.db.unit_of_work() as work:
        await story.service.pause(work, second.id, "it smells", "ann")
    (reason,) = await reasons(story, second)
    assert reason == "the ramp of support:2 is paused at 5 %: Paused by ann: it smells; a person resumes it"


async def test_other_stories_are_left_alone(story: Story) -> None:
    async with story.db.unit_of_work() as work:
        assert await waits(work, ["another story"]) == []
        assert await waits(work, []) == []
