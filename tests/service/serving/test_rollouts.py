"""Rollouts over a real database: from approval to the end, in every order of events, across restarts."""

import asyncio
import itertools
import time
from typing import Any

import pytest

from services.serving import store
from services.serving.controller import Controller
from services.serving.domain import Table
from services.serving.ramp import TRIPWIRE, Stats
from services.serving.rollouts import Rollouts
from shared.artifacts.objects import S3Objects
from shared.contracts.errors import Conflict, NotFound
from shared.contracts.events import RolloutChanged
from shared.contracts.policy import Ramp
from shared.delivery.unit_of_work import Database
from tests.kit import until
from tests.service.serving.conftest import sent
from tests.service.serving.story import RAMP, Story, approved, declared, engine_name, promoted


@pytest.fixture
def story(db: Database, objects: S3Objects) -> Story:
    return Story.begin(db, objects)


async def changes(story: Story) -> list[tuple[int, str, float]]:
    return [
        (event.model_version, event.state, event.weight) for event in await sent(story.db, RolloutChanged)
    ]


async def with_champion(story: Story) -> None:
    """Version 1 is champion, version 2 approved and ready."""
    await story.hears(declared(), approved(1), promoted(1, 1), approved(2))
    await story.has_ready(1, 2)


async def test_models_and_migration_agree(db: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    def compare() -> list[object]:
        engine = create_engine(db.url.replace("postgresql://", "postgresql+psycopg://", 1))
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection,
                opts={"include_name": lambda name, kind, _: kind != "table" or name in Table.metadata.tables},
            )
            return list(compare_metadata(context, Table.metadata))

    assert await asyncio.to_thread(compare) == []


async def test_the_first_version_is_rolled_out_as_soon_as_it_is_probed(story: Story) -> None:
    await story.hears(declared(), approved(1))
    assert story.live.table.choose("support", "ann").arm == "base"
    await story.ticks()
    assert await changes(story) == []
    await story.has_ready(1)
    await story.ticks()
    await story.ticks()
    assert await changes(story) == [(1, "started", 100), (1, "completed", 100)]
    # Between its end and the promotion the version keeps the traffic.
    assert story.live.table.choose("support", "ann").target.version == 1
    await story.hears(promoted(1, 1))
    choice = story.live.table.choose("support", "ann")
    assert (choice.target.version, choice.arm, choice.rollout_id) == (1, "champion", None)


async def test_a_good_challenger_goes_from_5_to_100(story: Story) -> None:
    await with_champion(story)
    await story.ticks()
    rollout = await story.rollout(2)
    for _ in RAMP.steps:
        weight = (await story.rollout(2)).weight
        await story.ticks(1)
        assert (await story.rollout(2)).weight == weight  # no data: no move
        await story.serves(rollout.id, "challenger", 30, scores=[1] * 15)
        if weight < 100:
            await story.serves(rollout.id, "champion", 60, scores=[1] * 15)
        await story.ticks(5)
        assert (await story.rollout(2)).weight == weight  # too early
        await story.ticks(5)
    assert await changes(story) == [
        (2, "started", 5), (2, "advanced", 25), (2, "advanced", 50), (2, "advanced", 100), (2, "completed", 100),
    ]  # fmt: skip
    last = (await sent(story.db, RolloutChanged))[-1]
    assert [(arm.model_version, arm.answers, arm.mean_score) for arm in last.statistics] == [
        (2, 30, 1.0),
        (1, 180, 1.0),
    ]
    assert last.drift_id == "drift-2"
    await story.hears(promoted(2, 2))
    assert story.live.table.choose("support", "ann").target.version == 2
    assert [adapter.model_version for adapter in story.live.snapshot.wanted()] == [2, 1]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"scores": [0] * 30}, "mean score 0.000"),
        ({"errors": 15}, "errors 15 of 30"),
        ({"latency": 1_000}, "30 of 30 slower"),
    ],
)
async def test_a_worse_challenger_is_rolled_back(story: Story, bad: dict[str, object], word: str) -> None:
    await with_champion(story)
    await story.ticks()
    rollout = await story.rollout(2)
    await story.serves(rollout.id, "champion", 150, scores=[1] * 100)
    await story.serves(rollout.id, "challenger", 30, **bad)
    await story.ticks(1)
    assert await changes(story) == [(2, "started", 5), (2, "rolled_back", 0)]
    assert word in (await story.rollout(2)).reason
    assert {story.live.table.choose("support", f"user-{n}").target.version for n in range(200)} == {1}
    assert [adapter.model_version for adapter in story.live.snapshot.wanted()] == [1]


async def test_no_traffic_moves_nothing_however_long(story: Story) -> None:
    await with_champion(story)
    for _ in range(5):
        await story.ticks(100_000)
    assert await changes(story) == [(2, "started", 5)]
    assert "0 of 30 challenger answers" in (await story.rollout(2)).reason


async def test_a_doubtful_step_is_held_and_said_once(story: Story) -> None:
    await with_champion(story)
    await story.ticks()
    rollout = await story.rollout(2)
    await story.serves(rollout.id, "champion", 100)
    await story.serves(rollout.id, "challenger", 30, errors=3)
    for _ in range(3):
        await story.ticks(60)
    assert await changes(story) == [(2, "started", 5), (2, "held", 5)]
    await story.serves(rollout.id, "challenger", 40)
    await story.ticks(60)
    assert (await changes(story))[-1] == (2, "advanced", 25)


async def test_answers_before_the_step_do_not_count(story: Story) -> None:
    await with_champion(story)
    await story.ticks()
    rollout = await story.rollout(2)
    await story.serves(rollout.id, "champion", 30)
    await story.serves(rollout.id, "challenger", 30)
    await story.ticks(10)
    async with story.db.unit_of_work() as work:
        stats = await store.statistics(work, await story.rollout(2))
    assert stats.champion is not None
    assert (stats.challenger.answers, stats.champion.answers) == (0, 0)
    assert (await story.rollout(2)).weight == 25


async def test_a_restart_keeps_the_step(story: Story, objects: S3Objects) -> None:
    await with_champion(story)
    await story.ticks()
    rollout = await story.rollout(2)
    await story.serves(rollout.id, "champion", 30)
    await story.serves(rollout.id, "challenger", 30)
    await story.ticks(10)
    again = Story.begin(story.db, objects)
    again.clock = story.clock
    await again.looks()
    await again.has_ready(1, 2)
    choices = [again.live.table.choose("support", f"user-{n}") for n in range(400)]
    assert choices == [story.live.table.choose("support", f"user-{n}") for n in range(400)]
    assert 60 < sum(choice.arm == "challenger" for choice in choices) < 140
    await again.ticks()
    assert await changes(again) == [(2, "started", 5), (2, "advanced", 25)]


async def test_two_controllers_move_a_rollout_once(story: Story, objects: S3Objects) -> None:
    await with_champion(story)
    await story.ticks()
    rollout = await story.rollout(2)
    await story.serves(rollout.id, "champion", 30)
    await story.serves(rollout.id, "challenger", 30)
    other = Story.begin(story.db, objects)
    await other.looks()
    await asyncio.gather(*(one.ticks(10) for one in (story, other, story)))
    assert await changes(story) == [(2, "started", 5), (2, "advanced", 25)]


async def test_the_tripwire_rolls_back(story: Story) -> None:
    await with_champion(story)
    await story.ticks()
    rollout = await story.rollout(2)
    for _ in range(TRIPWIRE):
        story.live.challenger_failed(rollout.id)
    await story.ticks()
    assert (await changes(story))[-1] == (2, "rolled_back", 0)


async def test_abort(story: Story) -> None:
    await with_champion(story)
    await story.ticks()
    rollout = await story.rollout(2)
    async with story.db.unit_of_work() as work:
        await story.service.abort(work, rollout.id, "smells", "ann")
    assert (await story.rollout(2)).reason == "Aborted by ann: smells"
    assert (await changes(story))[-1] == (2, "rolled_back", 0)
    with pytest.raises(Conflict):
        async with story.db.unit_of_work() as work:
            await story.service.abort(work, rollout.id, "again", "ann")
    with pytest.raises(NotFound):
        async with story.db.unit_of_work() as work:
            await story.service.abort(work, "0" * 36, "what", "ann")


async def test_a_rollback_promotion_moves_traffic_at_once_and_cancels_the_rollout(story: Story) -> None:
    await with_champion(story)
    await story.hears(promoted(2, 2), approved(3))
    await story.has_ready(1, 2, 3)
    await story.ticks()
    assert (await story.rollout(3)).state == "running"
    await story.hears(promoted(1, 3, rollback=True, reason="version 2 was wrong"))
    assert {story.live.table.choose("support", f"user-{n}").target.version for n in range(200)} == {1}
    assert (await changes(story))[-1] == (3, "rolled_back", 0)
    assert "version 2 was wrong" in (await story.rollout(3)).reason


async def test_an_older_promotion_is_ignored(story: Story) -> None:
    await story.hears(promoted(2, 5), promoted(1, 4), promoted(1, 5))
    await story.has_ready(1, 2)
    assert story.live.table.choose("support", "ann").target.version == 2


async def test_rollouts_wait_for_each_other(story: Story) -> None:
    await with_champion(story)
    await story.hears(approved(3))
    await story.has_ready(1, 2, 3)
    await story.ticks()
    await story.ticks()
    assert [(await story.rollout(version)).state for version in (2, 3)] == ["running", "pending"]
    rollout = await story.rollout(2)
    async with story.db.unit_of_work() as work:
        await story.service.abort(work, rollout.id, "next", "ann")
    await story.looks()
    await story.ticks()
    assert [(await story.rollout(version)).state for version in (2, 3)] == ["rolled_back", "running"]


EVENTS = (declared(), approved(1), promoted(1, 1), approved(2), promoted(2, 2))


@pytest.mark.parametrize("order", list(itertools.permutations(range(5)))[::7])
async def test_any_order_and_repetition_of_history_ends_the_same(
    story: Story, order: tuple[int, ...]
) -> None:
    for number in order:
        await story.hears(EVENTS[number], EVENTS[number])
        await story.ticks()
    await story.has_ready(1, 2)
    for _ in range(4):
        await story.ticks(60)
    model = story.live.snapshot.models["support"]
    assert (model.champion_version, model.champion_sequence, model.rollout_id) == (2, 2, None)
    assert {story.live.table.choose("support", f"user-{n}").target.version for n in range(50)} == {2}
    assert {(await story.rollout(version)).state for version in (1, 2)} == {"superseded"}
    assert await changes(story) == []


async def test_a_refused_adapter_ends_its_rollout_with_the_reason(story: Story) -> None:
    await with_champion(story)
    adapter = next(a for a in story.live.snapshot.adapters if a.engine_name == engine_name(2))
    async with story.db.unit_of_work() as work:
        await story.service.refuse(work, adapter, "its tensors are not finite")
    assert await changes(story) == [(2, "rolled_back", 0)]
    assert "its tensors are not finite" in (await story.rollout(2)).reason
    await story.hears(approved(2))  # delivered again: stays ended
    await story.ticks()
    assert await changes(story) == [(2, "rolled_back", 0)]


async def test_a_rollout_of_an_adapter_refused_before_ends_and_blocks_nobody(story: Story) -> None:
    await story.hears(promoted(2, 1), promoted(1, 2, rollback=True))
    adapter = next(a for a in story.live.snapshot.adapters if a.engine_name == engine_name(2))
    async with story.db.unit_of_work() as work:
        await story.service.refuse(work, adapter, "it garbles")
    await story.hears(approved(2), approved(3))
    await story.has_ready(1, 3)
    await story.ticks()
    await story.ticks()
    assert await changes(story) == [(2, "rolled_back", 0), (3, "started", 5)]


async def test_a_plan_of_one_step_is_judged_without_new_champion_answers(story: Story) -> None:
    await story.hears(
        approved(1), promoted(1, 1), approved(2, Ramp(steps=(100,), min_samples=5, hold_seconds=0))
    )
    await story.has_ready(1, 2)
    await story.ticks()
    rollout = await story.rollout(2)
    await story.ticks()
    assert await changes(story) == [(2, "started", 100)]
    await story.serves(rollout.id, "challenger", 5)
    await story.ticks(1)
    assert (await changes(story))[-1] == (2, "completed", 100)


async def test_who_looks_loads_what_is_wanted_and_not_the_past(story: Story) -> None:
    for version in range(1, 31):
        await story.hears(approved(version), promoted(version, version))
    await story.hears(approved(31))
    known = story.live.snapshot
    assert sorted(one.model_version for one in known.adapters) == [29, 30, 31]
    assert [one.model_version for one in known.wanted()] == [30, 31, 29]


async def test_nobody_waits_while_answers_are_counted(story: Story) -> None:
    """Counting may take long; a promotion, an abort and the other models go on."""
    await with_champion(story)
    await story.ticks()
    rollout = await story.rollout(2)
    async with story.db.unit_of_work() as blocking:
        await blocking.execute("LOCK TABLE prediction IN ACCESS EXCLUSIVE MODE")
        counting = asyncio.ensure_future(story.controller.tick())
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

        async def counts() -> bool:
            async with (
                story.db.unit_of_work() as work
            ):  # within one, PostgreSQL would show the same state for ever
                return bool((await work.execute(waiting)).scalar())

        await until(counts)
        async with asyncio.timeout(60), story.db.unit_of_work() as work:
            await story.service.abort(work, rollout.id, "smells", "ann")
        assert not counting.done()
    await counting
    assert [state for _, state, _ in await changes(story)] == ["started", "rolled_back"]


async def test_counting_takes_its_share_of_the_time_and_no_more(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_champion(story)
    await story.ticks()
    counted, count = [], store.statistics

    async def slowly(*given: Any) -> Stats:
        counted.append(time.monotonic())
        await asyncio.sleep(0.2)
        return await count(*given)

    monkeypatch.setattr(store, "statistics", slowly)
    controller = Controller(story.db, Rollouts(story.clock), story.live, 1, share=0.1)
    await controller.tick()
    while len(counted) < 2:
        await controller.tick()
        await asyncio.sleep(0.01)
    assert counted[1] - counted[0] >= 2
