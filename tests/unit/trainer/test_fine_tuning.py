"""OpenAI's request as overrides of the declared recipe."""

from typing import Any

import pytest
from pydantic import ValidationError

from services.trainer.fine_tuning import JobRequest
from shared.contracts.errors import Invalid

FILE = "dataset-" + "a" * 64


@pytest.mark.parametrize(
    ("body", "overrides"),
    [
        ({}, {}),
        ({"hyperparameters": {"n_epochs": "auto", "batch_size": "auto"}}, {}),
        ({"hyperparameters": {"n_epochs": 3, "batch_size": 8}}, {"epochs": 3, "batch_size": 8}),
        (
            {
                "method": {
                    "type": "supervised",
                    "supervised": {"hyperparameters": {"learning_rate_multiplier": 0.1}},
                }
            },
            {"learning_rate_multiplier": 0.1},
        ),
        ({"seed": 7, "recipe": {"epochs": 2}}, {"seed": 7, "epochs": 2}),
        ({"metadata": {"recipe": '{"rank": 8, "alpha": 16}', "team": "x"}}, {"rank": 8, "alpha": 16}),
        ({"metadata": {"recipe": '{"rank": 8}'}, "recipe": {"rank": 4}}, {"rank": 4}),
    ],
)
def test_where_a_recipe_may_be_given(body: dict[str, Any], overrides: dict[str, Any]) -> None:
    assert JobRequest(model="support", training_file=FILE, **body).overrides() == overrides


@pytest.mark.parametrize(
    "body",
    [
        {"model": "../x"},
        {"model": "support\n"},
        {"training_file": "file-123"},
        {"training_file": "a" * 63},
        {"training_file": FILE + "\n"},
        {"validation_file": FILE},
        {"suffix": "mine"},
        {"method": {"type": "dpo"}},
        {"hyperparameters": {"n_epochs": 0}},
        {"hyperparameters": {"n_epochs": float("nan")}},
        {"hyperparameters": {"batch_size": 0}},
        {"seed": -1},
        {"budget": 0},
        {"budget": float("inf")},
        {"metadata": {f"k{i}": "v" for i in range(17)}},
        {"metadata": {"k": "v" * 513}},
        {"metadata": {"k": "\x00"}},
        {"metadata": {"k": "\ud800"}},
        {"unknown": 1},
    ],
)
def test_what_is_refused_at_the_door(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobRequest.model_validate({"model": "support", "training_file": FILE} | body)


@pytest.mark.parametrize("text", ["", "[1]", "NaN", '{"a": 1, "a": 2}', "{", '{"rank": Infinity}'])
def test_a_recipe_in_metadata_must_be_a_json_object(text: str) -> None:
    with pytest.raises(Invalid, match=r"metadata\.recipe"):
        JobRequest(model="support", training_file=FILE, metadata={"recipe": text}).overrides()
