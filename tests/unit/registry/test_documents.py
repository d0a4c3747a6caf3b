"""A refused policy names the place and the reason, and repeats nothing of what was sent."""

from typing import Any

import pytest

from services.registry.documents import parse_policy
from shared.contracts.errors import Invalid
from shared.contracts.policy import Policy

SECRET = "hunter2-do-not-echo"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "model: Field required"),
        ({"model": "Support"}, "model: String should match"),
        ({"model": "support\n"}, "model: String should match"),
        ({"model": "s", "colour": SECRET}, "?: there is no such key here"),
        ({"model": "s", "patient_0815": 1}, "?: there is no such key here"),
        ({"model": "s", "data": {"min_row": 1}}, "data.?: there is no such key here; is it min_rows?"),
        ({"model": "s", "gates": [{"nam": "g"}]}, "gates.0.?: there is no such key here; is it name?"),
        (
            {"model": "s", "retrain": {"cooldown_seconds": 1e308}},
            "retrain.cooldown_seconds: Input should be less",
        ),
        (
            {"model": "s", "retrain": {"in_flight_timeout_seconds": 1e11}},
            "retrain.in_flight_timeout_seconds: Input should be less",
        ),
        ({"model": "s", "ramp": {"hold_seconds": 1e308}}, "ramp.hold_seconds: Input should be less"),
        ({"model": "s", "data": {"min_rows": 10**400}}, "data.min_rows: "),
        ({"model": "s", "drift": {"min_feedback": 2**63}}, "drift.min_feedback: "),
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
    assert "patient" not in str(caught.value)
    caught.value.detail.encode()


def test_many_mistakes_are_counted_not_listed() -> None:
    with pytest.raises(Invalid, match="and 15 more"):
        parse_policy({f"field{number}": 1 for number in range(19)})


def test_a_small_policy_is_enough() -> None:
    assert parse_policy({"model": "support"}).ramp.steps[-1] == 100


def test_whatever_lasts_can_be_added_to_a_time() -> None:
    """Every number of a policy has an upper bound, so that no part overflows when it computes with one."""
    schema = Policy.model_json_schema()
    sections = {"Policy": schema, **schema["$defs"]}
    fields = [
        (f"{name}.{key}", field) for name, one in sections.items() for key, field in one["properties"].items()
    ]
    free = {"Gate.at_least", "Gate.margin"}  # compared, never added to a time or stored in a narrow column
    unbounded = [
        path
        for path, field in fields
        if field.get("type") in {"number", "integer"}
        and not field.keys() & {"maximum", "exclusiveMaximum", "const"}
        and path not in free
    ]
    assert not unbounded
