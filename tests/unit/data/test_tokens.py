"""Tokens are counted as the base model would see them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.data.rows import Turn
from services.data.tokens import Tokens
from shared.contracts.errors import Invalid, NotFound

words = st.text("ab ,.'!?9é漢\n<|", max_size=40).map(str.strip).filter(bool)


def told(contents: list[str], system: str | None) -> list[Turn]:
    turns = [Turn("assistant" if index % 2 else "user", text) for index, text in enumerate(contents)]
    return [*([Turn("system", system)] if system else []), *turns]


conversations = st.builds(
    told, st.lists(words, min_size=2, max_size=6).filter(lambda c: len(c) % 2 == 0), st.none() | words
)


@pytest.fixture(scope="module")
def tokens(tiny_model: Path) -> Tokens:
    return Tokens(tiny_model)


@given(messages=conversations)
def test_the_count_is_that_of_the_rendered_conversation(tokens: Tokens, messages: list[Turn]) -> None:
    assert tokens.count(messages) == tokens._length(tokens.render(messages))


@given(messages=conversations, limit=st.integers(0, 200))
def test_the_shortcut_never_differs_from_counting(tokens: Tokens, messages: list[Turn], limit: int) -> None:
    assert tokens.fits(messages, limit) is (tokens.count(messages) <= limit)


def test_control_tokens_are_those_of_the_template(tokens: Tokens) -> None:
    assert set(tokens.control) == {"<|im_start|>", "<|im_end|>"}


def copy(base: Path, to: Path, template: str | None) -> Path:
    (to / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    (to / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    return to


def test_a_template_may_live_in_the_tokenizer_config(
    tokens: Tokens, tiny_model: Path, tmp_path: Path
) -> None:
    marked = tokens.template.replace("{% for", "{% generation %}{% for").replace(
        "{% endfor %}", "{% endfor %}{% endgeneration %}"
    )
    other = Tokens(copy(tiny_model, tmp_path, marked))
    messages = told(["question", "answer"], None)
    assert other.count(messages) == tokens.count(messages)


@pytest.mark.parametrize(
    "template",
    [None, "{{ messages.__class__.__mro__ }}", "{% for", "{{ raise_exception('no') }}", "{{ 1 / 0 }}"],
)
def test_a_base_without_a_usable_template_says_so(
    tiny_model: Path, tmp_path: Path, template: str | None
) -> None:
    with pytest.raises(Invalid, match="chat template"):
        Tokens(copy(tiny_model, tmp_path, template))


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no tokenizer"):
        Tokens(tmp_path)
