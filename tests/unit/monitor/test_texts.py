"""What counts as the prompt of an answer."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.monitor.texts import prompt_of

USER = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([USER], "hello"),
        ([{"role": "system", "content": "s"}, USER, {"role": "assistant", "content": "a"}], "hello"),
        ([USER, {"role": "assistant", "content": "a"}, {"role": "user", "content": " again "}], "again"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}], "a"),
        ([{"role": "user", "content": "lone \ud800"}], "lone ?"),
        ([{"role": "user", "content": "  "}], None),
        ([{"role": "user", "content": None}], None),
        ([{"role": "assistant", "content": "a"}], None),
        ([], None),
        ("hello", None),
        (None, None),
        ([["user", "hello"]], None),
    ],
)
def test_prompt_of(messages: Any, prompt: str | None) -> None:
    assert prompt_of(messages) == prompt


json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
message = st.fixed_dictionaries({}, optional={"role": st.just("user") | json, "content": json})


@given(st.lists(message) | json)
def test_any_json_gives_a_storable_prompt_or_none(messages: Any) -> None:
    prompt = prompt_of(messages)
    assert prompt is None or (prompt.strip() == prompt and prompt.encode())
