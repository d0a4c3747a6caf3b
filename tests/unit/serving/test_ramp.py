"""The rule that moves a rollout: tables for each branch, simulations for what it promises."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.ramp import TRIPWIRE, Advance, Arm, Complete, Hold, RollBack, Stats, decide
from shared.contracts.policy import Ramp

PLAN = Ramp(steps=(5, 25, 50, 100), min_samples=30, min_feedback=0, hold_seconds=10)
GOOD = Arm(answers=30, errors=0, latency_p99_ms=100, feedback=30, mean_score=0.8)
CHAMPION = Arm(answers=500, errors=2, latency_p99_ms=100, feedback=500, mean_score=0.8)


def test_without_a_champion_the_first_version_takes_everything() -> None:
    assert isinstance(decide(Ramp(steps=(100,)), 0, Stats(Arm(), None), 0), Complete)


def test_a_good_step_advances_and_the_last_one_completes() -> None:
    stats = Stats(GOOD, CHAMPION)
    assert [type(decide(PLAN, step, stats, 10)) for step in range(4)] == [Advance, Advance, Advance, Complete]


def test_a_passed_step_is_held_for_its_time() -> None:
    assert decide(PLAN, 0, Stats(GOOD, CHAMPION), 9.9) == Hold("held for 10 s", looked=True, passed=True)
    waited = Stats(GOOD, CHAMPION, looks=1, passed=True)
    assert isinstance(decide(PLAN, 0, waited, 9.9), Hold)
    assert isinstance(decide(PLAN, 0, waited, 10), Advance)


@pytest.mark.parametrize(
    ("challenger", "champion", "needs"),
    [
        (replace(GOOD, answers=29), CHAMPION, "29 of 30 challenger answers"),
        (Arm(), CHAMPION, "0 of 30 challenger answers; 0 of 20 scored challenger answers"),
        (replace(GOOD, feedback=19), CHAMPION, "19 of 20 scored challenger answers"),
        (GOOD, Arm(), "0 of 30 champion answers; 0 of 20 scored champion answers"),
    ],
)
def test_missing_data_holds(challenger: Arm, champion: Arm, needs: str) -> None:
    plan = PLAN.model_copy(update={"min_feedback": 20})
    decision = decide(plan, 1, Stats(challenger, champion), 1e9)
    assert decision == Hold(needs)


def test_at_100_per_cent_the_champion_needs_no_new_answers() -> None:
    assert isinstance(decide(PLAN, 3, Stats(GOOD, Arm()), 10), Complete)


@pytest.mark.parametrize(
    ("challenger", "word"),
    [
        (replace(GOOD, errors=12), "errors 12 of 30"),
        (replace(GOOD, mean_score=0.3), "mean score 0.300"),
        (replace(GOOD, slow=5), "5 of 30 slower"),
    ],
)
def test_a_clearly_worse_challenger_is_rolled_back(challenger: Arm, word: str) -> None:
    decision = decide(PLAN, 0, Stats(challenger, CHAMPION), 0)
    assert isinstance(decision, RollBack)
    assert word in decision.reason


@pytest.mark.parametrize(
    "challenger",
    [replace(GOOD, errors=2), replace(GOOD, mean_score=0.65), replace(GOOD, slow=1)],
)
def test_worse_perhaps_by_chance_holds_and_looks_again_at_twice_the_answers(challenger: Arm) -> None:
    first = decide(PLAN, 0, Stats(challenger, CHAMPION), 1e9)
    assert isinstance(first, Hold)
    assert (first.looked, first.passed) == (True, False)
    again = decide(PLAN, 0, Stats(replace(challenger, answers=59), CHAMPION, looks=1), 1e9)
    assert isinstance(again, Hold)
    assert not again.looked
    enough = decide(PLAN, 0, Stats(replace(GOOD, answers=60, feedback=60), CHAMPION, looks=1), 1e9)
    assert isinstance(enough, Advance)


def test_errors_of_both_arms_are_not_the_challengers_fault() -> None:
    outage = Stats(replace(GOOD, errors=15), replace(CHAMPION, errors=250))
    assert isinstance(decide(PLAN, 0, outage, 1e9), Hold)


def test_few_champion_answers_leave_latency_unmeasured() -> None:
    slow = Stats(replace(GOOD, slow=30), replace(CHAMPION, answers=99))
    assert isinstance(decide(PLAN, 0, slow, 10), Advance)


def test_the_tripwire_ends_a_rollout_whatever_else_is_known() -> None:
    assert isinstance(decide(PLAN, 0, Stats(GOOD, CHAMPION, errors_in_a_row=TRIPWIRE), 10), RollBack)
    assert isinstance(decide(PLAN, 0, Stats(GOOD, CHAMPION, errors_in_a_row=TRIPWIRE - 1), 10), Advance)


def test_a_score_that_is_no_number_never_promotes() -> None:
    assert isinstance(decide(PLAN, 0, Stats(replace(GOOD, mean_score=float("nan")), CHAMPION), 1e9), Hold)


arms = st.builds(
    lambda answers, errors, feedback, mean, slow: Arm(
        answers, min(errors, answers), 100.0, min(slow, answers), min(feedback, answers), mean
    ),
    st.integers(0, 2_000),
    st.integers(0, 200),
    st.integers(0, 2_000),
    st.floats(0, 1),
    st.integers(0, 50),
)


@given(arms, arms, st.integers(0, 3), st.integers(0, 6), st.booleans(), st.floats(0, 100))
def test_nothing_moves_before_its_time_or_on_too_little_data(
    challenger: Arm, champion: Arm, step: int, looks: int, passed: bool, elapsed: float
) -> None:
    stats = Stats(challenger, champion, looks, passed)
    decision = decide(PLAN, step, stats, elapsed)
    if isinstance(decision, Advance | Complete):
        assert elapsed >= PLAN.hold_seconds
        assert passed or challenger.answers >= PLAN.min_samples << looks
        assert isinstance(decision, Complete) == (step == 3)
    if isinstance(decision, RollBack):
        assert challenger.answers >= PLAN.min_samples << looks


@given(arms, arms, st.integers(0, 3), st.floats(0, 0.2))
def test_a_better_score_never_turns_an_advance_into_a_hold(
    challenger: Arm, champion: Arm, step: int, more: float
) -> None:
    before = decide(PLAN, step, Stats(challenger, champion), 10)
    better = replace(challenger, mean_score=min(1.0, (challenger.mean_score or 0) + more))
    after = decide(PLAN, step, Stats(better, champion), 10)
    if isinstance(before, Advance | Complete):
        assert isinstance(after, Advance | Complete)


def _simulate(
    draw: random.Random, champion_quality: float, challenger_quality: float, plan: Ramp = PLAN
) -> str:
    """A whole rollout, judged after each answer."""
    for step in range(len(plan.steps)):
        weight = plan.steps[step] / 100
        counts = {True: [0, 0], False: [0, 0]}
        looks, passed = 0, False
        for _ in range(20_000):
            arm = draw.random() < weight
            counts[arm][0] += 1
            counts[arm][1] += draw.random() < (challenger_quality if arm else champion_quality)
            if not arm or counts[True][0] < plan.min_samples << looks:
                continue
            stats = Stats(_arm(*counts[True]), _arm(*counts[False]), looks, passed)
            decision = decide(plan, step, stats, 10)
            if isinstance(decision, RollBack):
                return "rolled_back"
            if isinstance(decision, Hold):
                looks, passed = looks + decision.looked, decision.passed
            else:
                break
        else:
            return "held"
    return "completed"


def _arm(answers: int, right: int) -> Arm:
    return Arm(answers, 0, 100.0, 0, answers, right / answers if answers else None)


@pytest.mark.parametrize("min_samples", [8, 30])
@pytest.mark.parametrize("quality", [0.5, 0.9])
def test_an_equal_version_is_rolled_back_no_more_often_than_promised(
    min_samples: int, quality: float
) -> None:
    draw, plan = random.Random(11), PLAN.model_copy(update={"min_samples": min_samples})
    outcomes = [_simulate(draw, quality, quality, plan) for _ in range(200)]
    assert outcomes.count("rolled_back") / 200 <= 1 - PLAN.confidence
    assert outcomes.count("completed") / 200 >= 0.9


def test_a_much_worse_version_is_never_completed() -> None:
    draw = random.Random(13)
    outcomes = [_simulate(draw, 0.8, 0.5) for _ in range(200)]
    assert outcomes.count("completed") == 0
    assert outcomes.count("rolled_back") >= 190
