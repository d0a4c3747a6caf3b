"""The life of a run: every (state, action) pair, and what holds for any history."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.domain import ENDED, TRANSITIONS, Action, State, advance, digest_of, price, thin
from shared.contracts.errors import Conflict

STATES, ACTIONS = get_args(State), get_args(Action)
EXPECTED = {
    "queued": {"start": "running", "cancel": "cancelled", "fail": "failed"},
    "running": {"start": "running", "cancel": "cancelling", "succeed": "succeeded", "fail": "failed"},
    "cancelling": {"start": "cancelling", "cancel": "cancelling", "stop": "cancelled", "fail": "failed"},
    "succeeded": {},
    "failed": {},
    "cancelled": {"cancel": "cancelled"},
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_pair_of_state_and_action_is_decided(state: State, action: Action) -> None:
    if action in EXPECTED[state]:
        assert advance(state, action) == EXPECTED[state][action]
    else:
        with pytest.raises(Conflict, match=f"{state} cannot {action}"):
            advance(state, action)


@given(st.lists(st.sampled_from(ACTIONS), max_size=30))
def test_an_ended_run_never_changes_and_a_cancelled_one_never_succeeds(actions: list[Action]) -> None:
    state, asked, ends = "queued", False, []
    for action in actions:
        try:
            after = advance(state, action)
        except Conflict:
            continue
        assert state not in ENDED or after == state
        asked = asked or (action == "cancel" and after in {"cancelling", "cancelled"})
        assert not (asked and after == "succeeded")
        if after in ENDED and state not in ENDED:
            ends.append(after)
        state = after
    assert len(ends) <= 1


@given(st.sampled_from([state for state in STATES if state not in ENDED]))
def test_every_living_run_can_be_cancelled_and_can_fail(state: State) -> None:
    stopped = advance(state, "cancel")
    assert (stopped if stopped in ENDED else advance(stopped, "stop")) == "cancelled"
    assert advance(state, "fail") == "failed"


def test_the_table_names_only_known_states_and_actions() -> None:
    assert {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()) <= set(STATES)
    assert {action for _, action in TRANSITIONS} == set(ACTIONS)


@given(st.integers(0, 2_000), st.integers(2, 500))
def test_a_thinned_curve_keeps_its_ends_its_order_and_its_limit(length: int, most: int) -> None:
    curve = [{"step": step} for step in range(length)]
    thinned = thin(curve, most)
    assert len(thinned) == min(length, most)
    assert thinned[:1] == curve[:1]
    assert thinned[-1:] == curve[-1:]
    steps = [point["step"] for point in thinned]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize(
    ("seconds", "hour", "amount"), [(0, 5, 0), (3_600, 0.1, 0.1), (36, 1, 0.01), (60, 0, 0)]
)
def test_price_is_device_hours_times_their_price(seconds: float, hour: float, amount: float) -> None:
    assert price(seconds, hour) == pytest.approx(amount)


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [1.5, None]}) == digest_of({"b": [1.5, None], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
