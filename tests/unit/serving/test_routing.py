"""Names, arms and fallbacks."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.routing import Choice, Route, RoutingTable, Split, Target, challenged, fraction
from shared.contracts.errors import NotFound, Unavailable

V1, V2, V3 = (Target(f"support-v{number}-0123abcd", number) for number in (1, 2, 3))
BASE = Target("base", None)


def split(weight: float, rollout_id: str = "r1") -> Split:
    return Split(rollout_id, V2, weight, rollout_id.encode() + b"secret")


def table(route: Route) -> RoutingTable:
    return RoutingTable({"support": route})


FULL = Route(champion=V1, previous=V3, split=split(0), pinned={1: V1, 2: V2, 3: V3})


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("support", Choice("support", V1, "champion", "r1")),
        ("support@champion", Choice("support", V1, "champion")),
        ("support@challenger", Choice("support", V2, "challenger")),
        ("support:2", Choice("support", V2, "pinned")),
    ],
)
def test_names(name: str, choice: Choice) -> None:
    assert table(FULL).choose(name, "ann") == choice


@pytest.mark.parametrize(
    "name",
    [
        "other", "", "support:0", "support:4", "support:1x", "support@", "support@latest", "Support", "support\n",
        "support:1\n", "../../x", "support:1/../2", "base", "support-v1-0123abcd", "support:99999999999999999999",
        "ｓupport", "support@champion@challenger", "support:١",
    ],
)  # fmt: skip
def test_unknown_names_reach_no_adapter(name: str) -> None:
    with pytest.raises(NotFound) as caught:
        table(FULL).choose(name, "ann")
    assert not name or name.strip() in "support" or name not in str(caught.value)


def test_the_challenger_falls_back_to_the_champion() -> None:
    route = Route(champion=V1, split=split(100), pinned={1: V1, 2: V2})
    assert table(route).choose("support", "ann") == Choice("support", V2, "challenger", "r1", V1)


def test_a_first_version_falls_back_to_the_base_where_that_may_answer() -> None:
    route = Route(base=BASE, split=split(100))
    assert table(route).choose("support", "ann") == Choice("support", V2, "challenger", "r1", BASE)


def test_no_challenger_outside_a_rollout() -> None:
    with pytest.raises(NotFound):
        table(Route(champion=V1)).choose("support@challenger", "ann")


def test_the_base_answers_only_where_the_route_allows_it() -> None:
    assert table(Route(base=BASE)).choose("support", "ann") == Choice("support", BASE, "base")
    with pytest.raises(Unavailable, match="No promoted version"):
        table(Route()).choose("support", "ann")
    with pytest.raises(Unavailable, match="not loaded yet"):
        table(Route(promoted=True)).choose("support", "ann")


def test_a_champion_that_is_not_loaded_is_replaced_by_the_one_before() -> None:
    assert table(Route(previous=V1)).choose("support", "ann").target == V1


subjects = st.text(max_size=20)


@given(subjects, subjects, st.floats(0, 100), st.floats(0, 100))
def test_who_is_in_stays_in(subject: str, user: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if challenged(split(low), subject, user):
        assert challenged(split(high), subject, user)


@given(subjects, subjects)
def test_an_arm_is_sticky_and_the_ends_are_exact(subject: str, user: str) -> None:
    assert fraction(b"salt", subject, user) == fraction(b"salt", subject, user)
    assert 0 <= fraction(b"salt", subject, user) < 1
    assert not challenged(split(0), subject, user)
    assert challenged(split(100), subject, user)


@pytest.mark.parametrize("weight", [5, 25, 50])
def test_weights_are_met_within_three_sigma(weight: int) -> None:
    n = 20_000
    seen = Counter(challenged(split(weight), f"user-{number}", "") for number in range(n))
    share = weight / 100
    assert abs(seen[True] - n * share) <= 3 * (n * share * (1 - share)) ** 0.5


def test_another_rollout_shuffles_the_callers() -> None:
    callers = [f"user-{number}" for number in range(2_000)]
    first = {caller for caller in callers if challenged(split(50, "r1"), caller, "")}
    second = {caller for caller in callers if challenged(split(50, "r2"), caller, "")}
    assert 800 < len(first) < 1_200
    assert 400 < len(first & second) < 600


def test_subject_and_user_do_not_run_into_each_other() -> None:
    assert fraction(b"salt", "ab", "c") != fraction(b"salt", "a", "bc")
