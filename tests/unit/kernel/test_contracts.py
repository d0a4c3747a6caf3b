"""The policy and the events: strict where people write, tolerant where services talk."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.contracts.events import EVENTS, FeedbackRecorded, ModelEvaluated, TrainingRequested
from shared.contracts.policy import Gate, Policy, Ramp, Recipe
from shared.contracts.text import Message, ModelName
from shared.contracts.topology import CONSUMERS


class _Named(Message):
    name: ModelName


@pytest.mark.parametrize("name", ["support", "a", "s-2", "0"])
def test_good_names(name: str) -> None:
    assert _Named(name=name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "A",
        "a\n",
        "a b",
        "a/b",
        "../a",
        "a" * 49,
        "ä",
        "a\x00",
        "a.b",
        "a\u2028",
        "%2e",
        "a;b",
        "'",
        "\ud800",
    ],
)
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        _Named(name=name)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"model": "support", "recipie": {}}, "recipie"),
        ({"model": "support", "recipe": {"rank": 0}}, "recipe.rank"),
        ({"model": "support", "recipe": {"learning_rate": math.nan}}, "recipe.learning_rate"),
        ({"model": "support", "recipe": {"learning_rate": 1e30}}, "recipe.learning_rate"),
        ({"model": "support", "recipe": {"epochs": 1e9}}, "recipe.epochs"),
        ({"model": "support", "recipe": {"rank": 1, "alpha": 16}}, "recipe"),
        ({"model": "support", "ramp": {"steps": [50, 5, 100]}}, "ramp"),
        ({"model": "support", "ramp": {"steps": [5, 50]}}, "ramp"),
        ({"model": "support", "gates": [{"name": "g"}]}, "gates.0"),
        ({"model": "support", "gates": [{"name": "g", "at_least": 0.5, "versus": "base"}]}, "gates.0"),
        ({"model": "support", "gates": [{"name": "g", "at_least": 1}, {"name": "g", "at_least": 1}]}, ""),
        ({"model": "support", "drift": {"windows": 1, "windows_drifted": 2}}, "drift"),
        ({"model": "support", "budget": {"currency": "euro"}}, "budget.currency"),
    ],
)
def test_a_bad_policy_names_the_path(document: dict[str, object], path: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Policy.model_validate(document)
    assert path in [".".join(str(part) for part in error["loc"]) for error in refused.value.errors()]


def test_defaults_make_a_policy() -> None:
    policy = Policy(model="support")
    assert Policy.model_validate_json(policy.model_dump_json()) == policy
    assert policy.ramp == Ramp()
    assert policy.recipe == Recipe()


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_gates_take_finite_bars_only(bar: float) -> None:
    if math.isfinite(bar):
        assert Gate(name="g", at_least=bar).at_least == bar
    else:
        with pytest.raises(ValidationError):
            Gate(name="g", at_least=bar)


def test_events_ignore_unknown_fields_and_keep_their_topic() -> None:
    feedback = FeedbackRecorded.model_validate(
        {
            "feedback_id": "f",
            "answer_id": "a",
            "model": "support",
            "score": 1,
            "actor": "ann",
            "added_in_v9": 1,
        }
    )
    assert feedback.partition_key() == "a"
    assert ModelEvaluated.ce_type() == "model.evaluated.v1"


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.1, 1.1])
def test_feedback_scores_are_shares(score: float) -> None:
    with pytest.raises(ValidationError):
        FeedbackRecorded(feedback_id="f", answer_id="a", model="support", score=score, actor="ann")


def test_a_request_names_one_source_and_a_harmless_reply_topic() -> None:
    with pytest.raises(ValidationError):
        TrainingRequested(model="support", idempotency_key="k")
    with pytest.raises(ValidationError):
        TrainingRequested(model="support", idempotency_key="k", files=("f",), reply_topic="model.approved")


def test_every_topic_has_one_event_and_known_consumers() -> None:
    topics = [event.topic for event in EVENTS]
    assert len(topics) == len(set(topics))
    assert set(CONSUMERS) == set(topics)
