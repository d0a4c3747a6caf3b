"""Every shape people have becomes the same conversation."""

import json
from typing import Any

import pytest

from services.data.formats import FORMATS, detect
from services.data.pipeline import parse
from services.data.rows import Placed, Reject, Turn

ASKED = [Turn("user", "Where is my card?"), Turn("assistant", "card arrival")]
LONGER = [Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Hello"), *ASKED]


def spoken(turns: list[Turn], role: str, content: str, names: dict[str, str]) -> list[dict[str, str]]:
    return [{role: names.get(turn.role, turn.role), content: turn.content} for turn in turns]


SHAREGPT = {"user": "human", "assistant": "gpt"}
SHAPES: list[tuple[str, dict[str, Any], list[Turn]]] = [
    ("instruction-response", {"instruction": "Where is my card?", "response": "card arrival"}, ASKED),
    ("prompt-completion", {"prompt": " Where is my card?", "completion": " card arrival\n"}, ASKED),
    ("messages", {"messages": spoken(LONGER, "role", "content", {})}, LONGER),
    ("messages", {"messages": json.dumps(spoken(ASKED, "role", "content", {}))}, ASKED),
    ("alpaca", {"instruction": "Where is my card?", "input": "", "output": "card arrival"}, ASKED),
    ("alpaca", {"instruction": "Where is my card?", "input": None, "output": "card arrival"}, ASKED),
    (
        "alpaca",
        {"instruction": "Name the intent.", "input": "Where is my card?", "output": "card arrival"},
        [Turn("user", "Name the intent.\n\nWhere is my card?"), Turn("assistant", "card arrival")],
    ),
    ("sharegpt", {"conversations": spoken(LONGER, "from", "value", SHAREGPT)}, LONGER),
]
UNFIT: list[tuple[str, dict[str, Any]]] = [
    ("prompt-completion", {"prompt": "a", "completion": 5}),
    ("prompt-completion", {"prompt": None, "completion": "b"}),
    ("prompt-completion", {"instruction": "a", "response": "b"}),
    ("alpaca", {"instruction": "a", "input": 3, "output": "b"}),
    ("messages", {"messages": None}),
    ("messages", {"messages": "[[[["}),
    ("messages", {"messages": "[" * 100_000}),
    ("messages", {"messages": ["user", "assistant"]}),
    ("messages", {"messages": [{"role": "user"}]}),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    ("sharegpt", {"conversations": [{"from": "human", "text": "a"}]}),
]


@pytest.mark.parametrize(("name", "record", "expected"), SHAPES)
def test_a_shape_is_detected_and_becomes_a_conversation(
    name: str, record: dict[str, Any], expected: list[Turn]
) -> None:
    assert detect(record) == name
    for given in (name, None):
        (placed,) = parse([(1, record)], "origin", "file", given)
        assert isinstance(placed, Placed)
        assert placed.row.messages == expected


def test_every_format_is_covered() -> None:
    assert {name for name, _, _ in SHAPES} == set(FORMATS)


@pytest.mark.parametrize(("name", "record"), UNFIT)
def test_a_row_of_another_shape_is_counted_not_guessed(name: str, record: dict[str, Any]) -> None:
    (reject,) = parse([(1, record)], "origin", "file", name)
    assert isinstance(reject, Reject)
    assert reject.reason == "unknown_shape"
    assert reject.place == "file:1"


def test_the_first_row_that_fits_decides_for_the_file() -> None:
    records: list[dict[str, Any]] = [
        {"x": 1},
        {"prompt": "a", "completion": "b"},
        {"instruction": "a", "response": "b"},
    ]
    found = list(parse(enumerate(records, 1), "origin", "file", None))
    assert [isinstance(item, Placed) for item in found] == [False, True, False]


def test_the_shape_of_every_row_may_differ_between_files_only() -> None:
    assert detect({"text": "a"}) is None
    assert detect({"prompt": "a"}) is None
