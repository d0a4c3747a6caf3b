"""Which adapters are wanted, and what routes follow from what is wanted and what is ready."""

from datetime import UTC, datetime

import pytest

from services.serving.domain import Adapter, LogicalModel, Rollout, Snapshot
from services.serving.live import Live, build
from services.serving.metrics import CHAMPIONS_MISSING
from services.serving.ramp import TRIPWIRE
from services.serving.routing import Target
from shared.contracts.policy import Ramp

BASE = Target("base", None)


def adapter(version: int, state: str = "probed") -> Adapter:
    digest = f"{version:064d}"
    return Adapter(
        engine_name=f"support-v{version}-0",
        model="support",
        model_version=version,
        adapter_digest=digest,
        base_digest=digest,
        evidence_bucket="evaluations",
        evidence_key="k",
        evidence_sha256=digest,
        targets=[],
        state=state,
    )


def rollout(version: int, state: str, step: int = 0) -> Rollout:
    return Rollout(
        id=f"r{version}",
        model="support",
        model_version=version,
        champion_version=1,
        plan=Ramp(steps=(5, 50, 100)).model_dump(mode="json"),
        salt="s",
        state=state,
        step=step,
        created_at=datetime.now(UTC),
    )


def snapshot(model: LogicalModel, *rollouts: Rollout) -> Snapshot:
    return Snapshot({"support": model}, [adapter(n) for n in range(1, 6)], {r.id: r for r in rollouts})


def model(
    champion: int | None = 1, previous: int | None = None, rollout_id: str | None = None
) -> LogicalModel:
    return LogicalModel(
        name="support", champion_version=champion, previous_version=previous, rollout_id=rollout_id
    )


READY = frozenset(f"support-v{n}-0" for n in range(1, 6))


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (snapshot(model(None)), []),
        (snapshot(model(1)), [1]),
        (snapshot(model(3, 2)), [3, 2]),
        (snapshot(model(2, 1), rollout(4, "pending"), rollout(5, "pending")), [2, 4, 1]),
        (snapshot(model(2, 1, "r3"), rollout(3, "running"), rollout(4, "pending")), [2, 3, 1]),
        (snapshot(model(2, 1, "r3"), rollout(3, "completed")), [2, 3, 1]),
        (snapshot(model(1, 2, "r2"), rollout(2, "completed")), [1, 2]),
    ],
)
def test_wanted_champions_first(state: Snapshot, wanted: list[int]) -> None:
    assert [one.model_version for one in state.wanted()] == wanted


def test_only_ready_adapters_are_routed_to() -> None:
    state = snapshot(model(2, 1, "r3"), rollout(3, "running"))
    route = build(state, READY - {"support-v2-0", "support-v3-0"}, frozenset(), BASE).routes["support"]
    assert (route.champion, route.split, route.base) == (None, None, None)
    assert route.previous == Target("support-v1-0", 1)
    assert sorted(route.pinned) == [1, 4, 5]


@pytest.mark.parametrize(
    ("state", "step", "weight"), [("running", 0, 5), ("running", 1, 50), ("completed", 2, 100)]
)
def test_the_split_follows_the_step(state: str, step: int, weight: float) -> None:
    routes = build(snapshot(model(2, 1, "r3"), rollout(3, state, step)), READY, frozenset(), BASE).routes
    split = routes["support"].split
    assert split is not None
    assert (split.challenger.version, split.weight, split.rollout_id) == (3, weight, "r3")


def test_a_pending_or_tripped_rollout_gets_no_traffic() -> None:
    assert (
        build(snapshot(model(2), rollout(3, "pending")), READY, frozenset(), BASE).routes["support"].split
        is None
    )
    running = snapshot(model(2, rollout_id="r3"), rollout(3, "running"))
    assert build(running, READY, frozenset({"r3"}), BASE).routes["support"].split is None


def test_the_base_answers_only_while_there_was_never_a_champion() -> None:
    assert build(snapshot(model(None)), frozenset(), frozenset(), BASE).routes["support"].base == BASE
    assert build(snapshot(model(1)), frozenset(), frozenset(), BASE).routes["support"].base is None
    assert build(snapshot(model(None)), frozenset(), frozenset(), None).routes["support"].base is None


def test_the_tripwire_counts_errors_in_a_row_only() -> None:
    live = Live("base", base_answers=True)
    live.see(snapshot(model(2, rollout_id="r3"), rollout(3, "running", 1)))
    live.set_ready(READY)
    for _ in range(TRIPWIRE - 1):
        live.challenger_failed("r3")
    live.challenger_answered("r3")
    for _ in range(TRIPWIRE - 1):
        live.challenger_failed("r3")
    assert live.table.routes["support"].split is not None
    live.challenger_failed("r3")
    assert live.table.routes["support"].split is None
    live.challenger_answered("r3")
    assert live.errors_in_a_row["r3"] == TRIPWIRE
    live.see(snapshot(model(2)))
    assert not live.errors_in_a_row


def test_problems_name_what_users_miss() -> None:
    live = Live("base", base_answers=True)
    assert live.problems() == ["the wanted state is not read yet"]
    live.see(snapshot(model(2)))
    assert live.problems() == ["the engine does not answer"]
    live.engine_up = True
    assert live.problems() == ["support@champion is not loaded"]
    live.set_ready(READY)
    assert live.problems() == []
    live.lost_engine()
    assert live.problems() == ["the engine does not answer"]
    assert live.table.routes["support"].champion is None


def test_a_refused_champion_keeps_nobody_from_the_other_models() -> None:
    live = Live("base", base_answers=True)
    live.engine_up = True
    refused = [adapter(1), adapter(2, "refused")]
    live.see(Snapshot({"support": model(2, previous=1)}, refused, {}))
    live.set_ready(frozenset({"support-v1-0"}))
    assert live.problems() == []
    assert CHAMPIONS_MISSING._value.get() == 1
