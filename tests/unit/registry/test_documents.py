"""A refused policy names the place and the reason, and repeats nothing of what was sent."""

from typing import Any

import pytest

from services.registry.documents import parse_policy
from shared.contracts.errors import Invalid

SECRET = "hunter2-do-not-echo"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "model: Field required"),
        ({"model": "Support"}, "model: String should match"),
        ({"model": "support\n"}, "model: String should match"),
        ({"model": "s", "colour": SECRET}, "colour: Extra inputs are not permitted"),
        ({"model": "s", "recipe": {"rank": SECRET}}, "recipe.rank: Input should be a valid integer"),
        ({"model": "s", "recipe": {"rank": 4, "alpha": 64}}, "recipe: alpha/rank must be at most 8"),
        ({"model": "s", "ramp": {"steps": [50, 5]}}, "ramp: steps must rise and end at 100"),
        ({"model": "s", "ramp": {"steps": [0, 100]}}, "ramp.steps.0: Input should be greater than 0"),
        ({"model": "s", "gates": []}, "gates: Tuple should have at least 1 item"),
        ({"model": "s", "gates": [{"name": "g"}]}, "gates.0: give exactly one of at_least and versus"),
        (
            {"model": "s", "gates": [{"name": "g", "at_least": float("nan")}]},
            "gates.0.at_least: Input should be a finite",
        ),
        (
            {"model": "s", "gates": [{"name": "g", "at_least": 0}] * 2},
            "the policy: gate names must be unique",
        ),
        ({"model": "s", "description": "\ud800"}, "description:"),
        ({"model": "s", "description": "\x00"}, "description: contains a NUL character"),
        (
            {"model": "s", "recipe": {"learning_rate": 1e30}},
            "recipe.learning_rate: Input should be less than",
        ),
        ({"model": "s", "budget": {"per_run": 0}}, "budget.per_run: Input should be greater than 0"),
    ],
)
def test_refusals(document: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_policy(document)
    assert said in caught.value.detail
    assert SECRET not in str(caught.value)
    caught.value.detail.encode()


def test_many_mistakes_are_counted_not_listed() -> None:
    with pytest.raises(Invalid, match="and 15 more"):
        parse_policy({f"field{number}": 1 for number in range(19)})


def test_a_small_policy_is_enough() -> None:
    assert parse_policy({"model": "support"}).ramp.steps[-1] == 100
