"""A new database whose news are older than the topics remember: nothing is made up, and the word said again is enough."""

import pytest

from services.serving.live import Live
from shared.artifacts.objects import S3Objects
from shared.contracts.errors import Unavailable
from shared.contracts.events import RolloutChanged
from shared.delivery.unit_of_work import Database
from tests.service.serving.conftest import sent
from tests.service.serving.story import Story, approved, declared, promoted


async def test_until_a_champion_is_known_nobody_answers_in_its_place(
    db: Database, objects: S3Objects
) -> None:
    story = Story.begin(db, objects)
    story.live = Live("base", base_answers=False)
    await story.hears(declared())
    await story.has_ready(3)
    with pytest.raises(Unavailable, match="No promoted version"):
        story.live.table.choose("support", "ann")
    await story.hears(promoted(3, 17, restated=True))
    assert story.live.table.choose("support", "ann").target.version == 3
    assert story.live.snapshot.models["support"].champion_sequence == 17


async def test_what_is_known_is_no_news(db: Database, objects: S3Objects) -> None:
    story = Story.begin(db, objects)
    await story.hears(declared(2), promoted(1, 1), approved(2), promoted(2, 4), approved(3))
    await story.has_ready(2, 3)
    await story.ticks()
    before = await everything(story)
    await story.hears(declared(2).model_copy(update={"restated": True}), promoted(2, 4, restated=True))
    assert await everything(story) == before
    assert len(await sent(db, RolloutChanged)) == 1


async def test_what_the_registry_signed_changes_nothing_when_it_comes_again_under_another_time(
    db: Database, objects: S3Objects
) -> None:
    """The signature does not cover ce_time, and the inbox files by day: so deciding must not depend on either."""
    story = Story.begin(db, objects)
    signed = (declared(2), approved(2), promoted(2, 4), approved(3))
    await story.hears(*signed)
    before = await everything(story)
    await story.hears(*signed)
    assert await everything(story) == before


async def everything(story: Story) -> list[list[tuple[object, ...]]]:
    tables = ("logical_model", "adapter", "rollout", "rollout_change", "outbox")
    async with story.db.unit_of_work() as work:
        found = [await work.execute(f"SELECT * FROM {name} ORDER BY 1") for name in tables]
        return [[tuple(str(value) for value in row) for row in rows.all()] for rows in found]
