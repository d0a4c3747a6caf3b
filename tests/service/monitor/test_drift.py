"""From served answers and feedback to verdicts: exactly one per window, whatever comes late, twice or in any order."""

import asyncio
import hashlib
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from services.monitor.domain import REPORTS
from shared.contracts.events import Event
from shared.contracts.policy import DriftPolicy
from tests.service.monitor import events
from tests.service.monitor.conftest import BANK, TRAVEL, World
from tests.service.monitor.events import (
    MODEL,
    declared,
    promoted,
    rejected,
    rollout,
    scored,
    served,
    training,
)


async def test_the_world_shifts_and_one_retraining_is_asked_for(world: World) -> None:
    await world.live_through(BANK, right=0.9)
    assert await world.verdicts() == []
    told = await world.live_through(TRAVEL, right=0.1)
    [event] = await world.detected()
    assert event["verdict"] == "retrain"
    assert (event["model"], event["model_version"], event["dataset_digest"]) == (MODEL, 1, world.dataset)
    assert event["window_predictions"] == events.WINDOW
    evidence = {item["name"]: item for item in event["evidence"]}
    assert evidence["text_domain"]["value"] > 0.8
    assert evidence["quality_loss"]["value"] == pytest.approx(0.8)
    assert evidence["windows_drifted"]["value"] == 1
    assert event["severity"] > 0.6
    report = event["report"]
    content = await world.admin_objects.get(REPORTS, report["key"])
    assert hashlib.sha256(content).hexdigest() == report["sha256"]
    # The same events again, and more of the same world: nothing new is said.
    await world.tell(*told, *(scored(answer, 0.0) for answer in told))
    await world.live_through(TRAVEL, right=0.1)
    assert await world.verdicts() == ["retrain"]
    assert "in flight" in (await world.windows())[0]["reason"]


async def test_order_does_not_matter(quiet: World, world: World) -> None:
    """Feedback before its answers, and the policy and the promotion last of all."""
    async with world.db.unit_of_work() as work:
        await work.execute("TRUNCATE watched, promotion")
    answers = await world.answers(TRAVEL)
    await world.tell(*(scored(answer, 0.0) for answer in answers))
    await world.look()
    await world.tell(*reversed(answers))
    await world.look()
    assert await world.windows() == []
    await world.tell(promoted(world.dataset))
    await world.look()
    await world.tell(declared())
    await world.look()
    assert await world.verdicts() == ["retrain"]


async def test_late_feedback_turns_a_call_for_labels_into_a_retraining(world: World) -> None:
    answers = await world.live_through(TRAVEL, right=None)
    assert await world.verdicts() == []
    world.later(61)
    await world.look()
    assert await world.verdicts() == ["label"]
    await world.tell(*(scored(answer, 0.0) for answer in answers))
    await world.look()
    await world.look()
    assert await world.verdicts() == ["label", "retrain"]


@pytest.mark.parametrize(
    ("source", "right", "other", "verdict"),
    [
        (TRAVEL, 0.9, {}, "label"),
        (BANK, 0.2, {}, "watch"),
        (BANK, 0.9, {"latency_ms": 60_000}, "watch"),
        (BANK, 0.9, {"outcome": "error", "error": "engine_error"}, "watch"),
    ],
    ids=["drift alone", "quality alone", "slow", "failing"],
)
async def test_quieter_verdicts_are_said_once_per_cooldown(
    world: World, source: str, right: float, other: dict[str, object], verdict: str
) -> None:
    await world.live_through(source, right, **other)
    await world.live_through(source, right, **other)
    assert await world.verdicts() == [verdict]
    world.later(600)
    await world.live_through(source, right, **other)
    assert await world.verdicts() == [verdict, verdict]


ENDS: list[Callable[[str], Event]] = [
    lambda drift_id: training("failed", drift_id),
    lambda drift_id: training("cancelled", drift_id),
    lambda drift_id: training("rejected", drift_id),
    rejected,
    lambda drift_id: rollout("rolled_back", drift_id),
]


@pytest.mark.parametrize("end", ENDS, ids=["failed", "cancelled", "refused", "rejected", "rolled back"])
async def test_the_next_retraining_waits_for_the_end_of_the_last_and_for_the_cooldown(
    world: World, end: Callable[[str], Event]
) -> None:
    await world.live_through(TRAVEL, right=0.1)
    [first] = await world.detected()
    await world.tell(training("accepted", first["drift_id"]), training("succeeded", first["drift_id"]))
    world.later(600)
    await world.live_through(TRAVEL, right=0.1)
    assert await world.verdicts() == ["retrain"]
    assert (await world.get("/drifts"))["drifts"][0]["stage"] == "training succeeded"
    await world.tell(end("drift-of-another"), end(first["drift_id"]))
    await world.look()
    assert await world.verdicts() == ["retrain", "retrain"]
    # An end that comes again, or a late word of the first flight, does not end or restart the second.
    await world.tell(end(first["drift_id"]), training("started", first["drift_id"]))
    ended, flying = sorted((await world.get("/drifts"))["drifts"], key=lambda drift: drift["announced_at"])
    assert ended["outcome"]
    assert flying["ended_at"] is None


async def test_a_flight_nobody_ends_times_out_after_the_cooldown_too(world: World) -> None:
    await world.live_through(TRAVEL, right=0.1)
    [first] = await world.detected()
    await world.tell(training("started", first["drift_id"]))
    world.later(3_600)
    await world.live_through(TRAVEL, right=0.1)
    assert await world.verdicts() == ["retrain"]
    world.later(1)
    await world.look()
    assert await world.verdicts() == ["retrain", "retrain"]
    await world.tell(promoted(world.dataset, sequence=2, version=2, drift_id=first["drift_id"]))
    outcomes = {drift["id"]: drift["outcome"] for drift in (await world.get("/drifts"))["drifts"]}
    assert outcomes[first["drift_id"]] == "promoted"


async def test_a_promotion_opens_a_new_chapter(world: World) -> None:
    await world.live_through(TRAVEL, right=0.1)
    [first] = await world.detected()
    await world.tell(promoted(world.dataset, sequence=2, version=2, drift_id=first["drift_id"]))
    world.later(600)
    await world.live_through(TRAVEL, right=0.1)  # answers of version 1, which is champion no more
    assert len(await world.windows()) == 1
    await world.live_through(BANK, right=0.9, model_version=2)
    assert len(await world.windows()) == 2
    assert await world.verdicts() == ["retrain"]
    # Back to version 1: its old answers are not looked at again, and an older promotion changes nothing.
    await world.tell(promoted(world.dataset, sequence=3, version=1, rollback=True))
    await world.tell(promoted(world.dataset, sequence=2, version=2))
    await world.tell(promoted(world.dataset, sequence=3, version=1, rollback=True, restated=True))
    health = await world.get("/health-of-versions", model=MODEL)
    assert health["champion"] == 1
    assert await world.verdicts() == ["retrain"]


async def test_only_the_champions_answers_count(world: World) -> None:
    for other in ({"arm": "challenger"}, {"arm": "pinned"}, {"arm": "base", "model_version": None}):
        await world.live_through(TRAVEL, right=0.0, **other)
    await world.tell(*(await world.answers(TRAVEL, events.WINDOW - 1)))
    await world.look()
    assert await world.windows() == []
    await world.tell(*(await world.answers(TRAVEL, 1)))
    await world.look()
    assert len(await world.windows()) == 1


async def test_windows_overlap_by_half_and_a_backlog_is_not_worked_through_one_by_one(world: World) -> None:
    answers = await world.answers(BANK, 5 * events.WINDOW // 2)
    await world.tell(*answers[: events.WINDOW])
    await world.look()
    await world.tell(*answers[events.WINDOW : events.WINDOW + events.WINDOW // 2 - 1])
    await world.look()
    assert len(await world.windows()) == 1
    await world.tell(answers[events.WINDOW + events.WINDOW // 2 - 1])
    await world.look()
    await world.tell(*answers[events.WINDOW + events.WINDOW // 2 :])
    await world.look()
    await world.look()
    newest, second, first = await world.windows()
    assert second["first_id"] == first["middle_id"] + 1
    assert newest["last_id"] - newest["first_id"] == events.WINDOW - 1


async def test_a_flood_of_feedback_on_one_answer_is_one_vote(world: World) -> None:
    answers = await world.answers(BANK)
    flood = [scored(answers[0], 0.0, feedback_id=f"flood-{n}") for n in range(200)]
    foreign = [scored(answer, 0.0, feedback_id=f"x-{answer.answer_id}", model="other") for answer in answers]
    await world.tell(*answers, *(scored(answer, 1.0) for answer in answers[1:]), *flood, *foreign)
    await world.look()
    [window] = await world.windows()
    assert window["scored"] == events.WINDOW
    assert window["mean_score"] == pytest.approx(1 - 1 / events.WINDOW)


async def test_too_little_feedback_is_not_a_judgement(world: World) -> None:
    answers = await world.answers(BANK)
    await world.tell(*answers, *(scored(answer, 0.0) for answer in answers[:19]))
    await world.look()
    assert (await world.windows())[0]["hurt"] is None
    await world.tell(scored(answers[19], 0.0))
    await world.look()
    assert (await world.windows())[0]["hurt"] is True
    assert await world.verdicts() == ["watch"]


async def test_many_looks_at_once_cut_one_window_and_say_one_thing(world: World) -> None:
    answers = await world.answers(TRAVEL)
    await world.tell(*answers, *(scored(answer, 0.0) for answer in answers))
    await asyncio.gather(*(world.watch.tick() for _ in range(6)))
    await world.look()
    await asyncio.gather(*(world.watch.tick() for _ in range(6)))
    assert len(await world.windows()) == 1
    assert await world.verdicts() == ["retrain"]


async def test_an_older_policy_changes_nothing(world: World) -> None:
    await world.tell(declared(3, DriftPolicy(window_predictions=20, min_score=0.99)), declared(2))
    async with world.db.unit_of_work() as work:
        assert (await work.execute("SELECT revision FROM watched")).scalar() == 3


async def test_rollouts_only_move_forward(world: World) -> None:
    async def state() -> tuple[str, int]:
        [row] = (await world.get("/health-of-versions", model=MODEL))["rollouts"]
        return row["state"], row["step"]

    await world.tell(rollout("started", step=0, weight=5), rollout("advanced", step=2, weight=50))
    await world.tell(rollout("advanced", step=1, weight=25))
    assert await state() == ("advanced", 2)
    await world.tell(rollout("completed", step=3, weight=100), rollout("held", step=3, weight=50))
    assert await state() == ("completed", 3)


async def test_old_answers_are_forgotten(world: World) -> None:
    await world.tell(served("old"), scored(served("old"), 1.0))
    world.later(91 * 86_400)
    await world.tell(served("new"))
    await world.watch.tick()
    async with world.db.unit_of_work() as work:
        assert (await work.execute("SELECT answer_id FROM prediction")).scalars().all() == ["new"]
        assert (await work.execute("SELECT count(*) FROM feedback")).scalar() == 0


async def test_prometheus_sees_how_long_a_retraining_is_under_way(world: World) -> None:
    def seconds() -> float | None:
        return REGISTRY.get_sample_value("driftwheel_monitor_retraining_seconds", {"model": MODEL})

    await world.live_through(BANK, right=0.9)
    assert seconds() == 0
    await world.live_through(TRAVEL, right=0.1)
    [drift] = await world.detected()
    world.later(500)
    await world.look()
    assert seconds() == 500
    await world.tell(training("failed", drift["drift_id"]))
    await world.look()
    assert seconds() == 0
