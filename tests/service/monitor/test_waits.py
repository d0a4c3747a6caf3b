"""A retraining that waits for its dataset: what it says meanwhile, and what ends the wait."""

from typing import Any

from shared.contracts.events import PredictionServed
from tests.service.monitor.conftest import BANK, TRAVEL, World
from tests.service.monitor.events import promoted, rollout, scored, training

PATIENCE = 1_800


async def drifts(world: World) -> list[dict[str, Any]]:
    """Oldest first."""
    found: list[dict[str, Any]] = (await world.get("/drifts"))["drifts"]
    return found[::-1]


async def asks_for_retraining(world: World) -> list[PredictionServed]:
    return await world.live_through(TRAVEL, right=0.1)


def corrected(answers: list[PredictionServed], by: str) -> list[Any]:
    return [
        scored(answer, 0.0, feedback_id=f"{by}-{answer.answer_id}", corrected="x", actor=by)
        for answer in answers
    ]


async def test_the_wait_is_said_and_counts_answers_once(world: World) -> None:
    answers = await asks_for_retraining(world)
    await world.look()
    [drift] = await drifts(world)
    need = "since version 1 serves"
    assert (drift["state"], drift["stage"]) == (
        "waiting",
        f"waits for 30 more corrected answers: 0 of 30 {need}",
    )
    await world.tell(*corrected(answers[:12], "ann"), *corrected(answers[:12], "bob"))
    await world.look()
    assert (await drifts(world))[0]["stage"] == f"waits for 18 more corrected answers: 12 of 30 {need}"
    assert (await world.windows())[0]["corrected"] == 12
    await world.tell(*corrected(answers[12:30], "ann"))
    await world.look()
    [drift] = await drifts(world)
    assert drift["stage"] == "waits for its dataset: 30 of 30 corrected answers are here"
    await world.tell(training("accepted", drift["id"]))
    await world.look()
    [drift] = await drifts(world)
    assert (drift["state"], drift["stage"], drift["run_id"]) == ("running", "training accepted", "r-1")


async def test_a_wait_holds_the_next_verdict_only_so_long_and_new_evidence_supersedes_it(
    world: World,
) -> None:
    await asks_for_retraining(world)
    world.later(PATIENCE - 1)
    await asks_for_retraining(world)
    assert await world.verdicts() == ["retrain"]
    assert "a retraining is in flight" in (await world.windows())[0]["reason"]
    world.later(1)
    await world.look()
    assert await world.verdicts() == ["retrain", "retrain"]
    first, second = await drifts(world)
    assert (first["state"], first["outcome"]) == (
        "ended",
        f"superseded: {second['window_id']} asks anew",
    )
    assert second["state"] == "waiting"


async def test_labels_may_be_asked_for_while_a_retraining_waits_for_them(world: World) -> None:
    await asks_for_retraining(world)
    world.later(PATIENCE)
    await world.live_through(TRAVEL, right=1.0)
    assert await world.verdicts() == ["retrain", "label"]
    waiting, _ = await drifts(world)
    assert waiting["state"] == "waiting"
    assert waiting["stage"].endswith("it no longer holds the next verdict")


async def test_a_superseded_flight_that_trains_after_all_holds_the_next_again(world: World) -> None:
    await asks_for_retraining(world)
    world.later(PATIENCE)
    await asks_for_retraining(world)
    first, second = await drifts(world)
    await world.tell(training("accepted", first["id"]))
    world.later(PATIENCE)
    await asks_for_retraining(world)
    assert await world.verdicts() == ["retrain", "retrain"]
    states = [(drift["state"], drift["outcome"]) for drift in await drifts(world)]
    assert states == [("running", ""), ("waiting", "")]
    await world.tell(promoted(world.dataset, sequence=2, version=2, drift_id=first["id"]))
    assert [drift["outcome"] for drift in await drifts(world)] == [
        "promoted",
        "superseded: version 2 became champion",
    ]
    assert second["id"] == (await drifts(world))[1]["id"]


async def test_another_champion_ends_the_wait_but_not_a_training(world: World) -> None:
    await asks_for_retraining(world)
    await world.tell(promoted(world.dataset, sequence=2, version=2))
    [waited] = await drifts(world)
    assert waited["outcome"] == "superseded: version 2 became champion"
    # The same promotion again, and an older one, end nothing that came after.
    await world.live_through(BANK, right=0.9, model_version=2)
    world.later(PATIENCE)
    await world.live_through(TRAVEL, right=0.1, model_version=2)
    await world.tell(promoted(world.dataset, sequence=2, version=2), promoted(world.dataset, version=1))
    flying = (await drifts(world))[1]
    assert flying["state"] == "waiting"
    await world.tell(rollout("started", flying["id"], step=0, weight=5))
    await world.tell(promoted(world.dataset, sequence=3, version=9))
    flying = (await drifts(world))[1]
    assert (flying["state"], flying["new_version"], flying["stage"]) == ("running", 2, "rollout started, 5 %")
