"""The contract between teams: a change of an event must leave every old reader and writer working."""

import copy
from typing import Any

import pytest

from tests.contract.schemas import breaks, committed, current


def test_every_event_has_its_committed_schema() -> None:
    assert committed().keys() == current().keys(), "run: python -m tests.contract.schemas"


@pytest.mark.parametrize("name", sorted(current()))
def test_no_event_breaks_its_committed_schema(name: str) -> None:
    assert not breaks(committed()[name], current()[name])


@pytest.mark.parametrize("name", sorted(current()))
def test_the_committed_schema_is_up_to_date(name: str) -> None:
    assert committed()[name] == current()[name], "run: python -m tests.contract.schemas"


def _mutate(change: str) -> dict[str, Any]:
    schema = copy.deepcopy(current()["feedback.recorded.v1"])
    if change == "new required field":
        schema["properties"]["team"] = {"type": "string"}
        schema["required"].append("team")
    elif change == "required field gone":
        del schema["properties"]["score"]
        schema["required"].remove("score")
    elif change == "type changed":
        schema["properties"]["score"]["type"] = "string"
    elif change == "pattern narrowed":
        schema["properties"]["model"]["pattern"] = "x"
    elif change == "optional became required":
        schema["required"].append("corrected")
    return schema


@pytest.mark.parametrize(
    "change",
    [
        "new required field",
        "required field gone",
        "type changed",
        "pattern narrowed",
        "optional became required",
    ],
)
def test_the_checker_sees_breaks(change: str) -> None:
    assert breaks(current()["feedback.recorded.v1"], _mutate(change))


def test_an_optional_field_is_no_break() -> None:
    schema = copy.deepcopy(current()["feedback.recorded.v1"])
    schema["properties"]["mood"] = {"type": "string", "default": ""}
    assert not breaks(current()["feedback.recorded.v1"], schema)
