"""From a trained adapter and its evidence to a decision: once, in any order, and never without evidence."""

import asyncio
import random
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.registry.service import Registry
from shared.artifacts.objects import S3Objects
from shared.contracts.errors import DriftwheelError, Invalid, NotFound, RetryLater, Unavailable
from shared.contracts.events import ModelEvaluated
from shared.delivery.failures import S3, classify
from shared.service.clock import SystemClock
from tests.kit import silent_store
from tests.service.registry.conftest import BASE, MODEL, World, adapter, rollout, together, trained


async def test_an_approval_carries_the_whole_lineage(world: World) -> None:
    await world.declare(ramp={"steps": [10, 100]})
    await world.approve(1)
    (approved,) = await world.announced("model.approved")
    assert approved["model_version"] == 1
    assert approved["engine_name"] == f"support-v1-{adapter(1)[:8]}"
    assert approved["adapter_digest"] == adapter(1)
    assert approved["recipe"]["rank"] == 8
    assert approved["ramp"]["steps"] == [10, 100]
    version = await world.get(f"/models/{MODEL}/versions/1")
    assert version["state"] == "approved"
    assert version["evidence"] == approved["evidence"]
    assert version["run_id"] == "run-1"
    assert version["cost"]["device_seconds"] == 60
    assert version["scores"][0]["value"] == 0.8
    assert version["aliases"] == []


async def test_a_candidate_waits_without_a_number(world: World) -> None:
    await world.declare()
    await world.tell(trained(1))
    (version,) = (await world.get(f"/models/{MODEL}/versions"))["versions"]
    assert (version["state"], version["number"]) == ("candidate", None)
    assert await world.announced("model.approved") == []


@pytest.mark.parametrize("seed", range(6))
async def test_any_order_and_any_number_of_deliveries_decide_once(world: World, seed: int) -> None:
    await world.declare()
    events: list[Any] = [trained(1), await world.evaluated(1), trained(2), await world.evaluated(2, "fail")]
    deliveries = events * 3
    random.Random(seed).shuffle(deliveries)
    await world.tell(*deliveries)
    approved, rejected = await world.announced("model.approved"), await world.announced("model.rejected")
    assert [one["adapter_digest"] for one in approved] == [adapter(1)]
    assert [one["adapter_digest"] for one in rejected] == [adapter(2)]
    assert {approved[0]["model_version"], rejected[0]["model_version"]} == {1, 2}


async def test_both_sides_at_once_decide_once(world: World) -> None:
    await world.declare()
    event = await world.evaluated(1)
    assert await together(*(world.tell(one) for one in [trained(1), event] * 4)) == [None] * 8
    assert len(await world.announced("model.approved")) == 1


async def test_approving_twice_changes_nothing(world: World) -> None:
    await world.declare()
    await world.approve(1)
    before = await world.get(f"/models/{MODEL}/versions/1")
    await world.tell(await world.evaluated(1, "fail"))
    assert await world.get(f"/models/{MODEL}/versions/1") == before
    assert await world.announced("model.rejected") == []


@pytest.mark.parametrize(
    ("said", "remedy"), [("fail", "worst regressions"), ("insufficient", "More held-out rows")]
)
async def test_a_rejection_has_reasons_and_a_remedy(world: World, said: str, remedy: str) -> None:
    await world.declare()
    await world.tell(trained(1), await world.evaluated(1, said))
    (rejected,) = await world.announced("model.rejected")
    assert rejected["reasons"] == [f"gate floor: {said}: it is a {said}"]
    assert remedy in rejected["remedy"]
    version = await world.get(f"/models/{MODEL}/versions/1")
    assert (version["state"], version["reasons"]) == ("rejected", rejected["reasons"])
    assert await world.announced("model.approved") == []


async def harmed(world: World, how: str) -> ModelEvaluated:
    event = await world.evaluated(1)
    if how == "missing":
        report = event.report.model_copy(update={"key": f"sha256/{BASE}/report.json"})
    elif how == "altered":
        await world.evaluations.put("evaluations", "sha256/altered/report.json", b"{}")
        report = event.report.model_copy(update={"key": "sha256/altered/report.json"})
    elif how == "elsewhere":
        report = event.report.model_copy(update={"bucket": "adapters"})
    elif how == "other-adapter":
        report = await world.report(event, adapter_digest=BASE)
    else:
        report = await world.report(event, verdict="fail")
    return event.model_copy(update={"report": report})


async def test_an_evaluation_without_its_report_decides_nothing(world: World) -> None:
    await world.declare()
    with pytest.raises(RetryLater, match="report"):
        await world.tell(trained(1), await harmed(world, "missing"))
    assert await world.announced("model.rejected") == []
    await world.tell(await world.evaluated(1))
    assert len(await world.announced("model.approved")) == 1


async def test_a_store_that_hangs_is_asked_for_seconds_and_then_waited_for_as_away(world: World) -> None:
    """PostgreSQL would end the transaction after 30 s; the store's client gives up after minutes."""
    await world.declare()
    event = await world.evaluated(1)
    with silent_store() as endpoint:
        hanging = Registry(S3Objects(endpoint, "a", "b"), SystemClock())
        with pytest.raises(Unavailable) as said:
            async with asyncio.timeout(20), world.db.unit_of_work() as work:
                await hanging.evaluated(work, event)
    assert classify(said.value) == S3
    assert not classify(said.value).bounded


@pytest.mark.parametrize("how", ["altered", "elsewhere", "other-adapter", "other-verdict"])
async def test_no_approval_without_the_evidence_itself(world: World, how: str) -> None:
    await world.declare()
    await world.tell(trained(1), await harmed(world, how))
    (rejected,) = await world.announced("model.rejected")
    assert "report" in rejected["reasons"][0]
    assert await world.announced("model.approved") == []


async def test_evidence_against_a_former_champion_is_stale(world: World) -> None:
    await world.declare()
    await world.crown(1)
    await world.tell(trained(2), await world.evaluated(2, champion=None))
    (rejected,) = await world.announced("model.rejected")
    assert "measured against no champion, but by now there is version 1" in rejected["reasons"][0]


async def test_a_gate_declared_since_is_missed(world: World) -> None:
    await world.declare()
    event = await world.evaluated(1)
    await world.declare(gates=[{"name": "floor", "at_least": 0.5}, {"name": "new", "at_least": 0.1}])
    await world.tell(trained(1), event)
    (rejected,) = await world.announced("model.rejected")
    assert rejected["reasons"] == ["gate new: insufficient: not evaluated"]


async def test_what_is_not_declared_is_refused_for_good(world: World) -> None:
    for event in (trained(1), await world.evaluated(1), rollout(1, "started")):
        with pytest.raises(NotFound) as caught:
            await world.tell(event)
        assert not caught.value.retryable
        assert "driftwheel apply" in caught.value.next_step


async def test_a_rollout_of_what_was_never_approved_is_refused(world: World) -> None:
    await world.declare()
    await world.tell(trained(1), await world.evaluated(1, "fail"))
    for version in (1, 9):
        with pytest.raises(Invalid, match="never approved"):
            await world.tell(rollout(version, "completed"))
    assert await world.aliases() == {"champion": None, "challenger": None}


@pytest.mark.parametrize("version", [1, 2])
async def test_a_rollout_that_no_approval_led_to_moves_nobody(world: World, version: int) -> None:
    await world.declare()
    await world.crown(1)
    await world.approve(2, champion=1)
    before = await world.aliases()
    for state in ("started", "completed", "rolled_back"):
        with pytest.raises(Invalid, match="approval"):
            await world.tell(rollout(version, state, "invented"))
    assert await world.aliases() == before


async def test_alias_events_cannot_be_changed(world: World) -> None:
    await world.declare()
    await world.crown(1)
    for change in ("UPDATE alias_event SET version = 9", "DELETE FROM alias_event"):
        with pytest.raises(DBAPIError, match="only ever added"):
            async with world.db.unit_of_work() as work:
                await work.session.execute(text(change))


@pytest.mark.parametrize("seed", range(10))
async def test_the_loop_in_any_order_ends_with_one_champion(world: World, seed: int) -> None:
    """What dies for coming too early is redriven later; nothing is crowned twice."""
    await world.declare()
    events: list[Any] = [trained(1), await world.evaluated(1)]
    events += [rollout(1, state) for state in ("started", "advanced", "completed")]
    drawn = random.Random(seed)
    deliveries = [event for event in events for _ in range(drawn.randint(1, 3))]
    drawn.shuffle(deliveries)
    dead = []
    for event in deliveries:
        try:
            await world.tell(event)
        except DriftwheelError:
            dead.append(event)
    await world.tell(*dead)
    assert await world.aliases() == {"champion": 1, "challenger": None}
    assert len(await world.announced("model.promoted")) == 1
    assert len(await world.announced("model.approved")) == 1
