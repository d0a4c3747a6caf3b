"""A row keeps its split for life: the split is a function of the normalised prompt and of nothing else."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.data.rows import SPLITS, Turn, excerpt, marks, normalise

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def conversation(prompt: str, answer: str = "a", system: str | None = None) -> list[Turn]:
    first = [Turn("system", system)] if system is not None else []
    return [*first, Turn("user", prompt), Turn("assistant", answer)]


@pytest.mark.parametrize(
    ("prompt", "split"),
    [
        ("where is my card", "train"),
        ("what is the exchange rate", "train"),
        ("pay my bill", "validation"),
        ("  STRASSE ", "validation"),
        ("straße", "validation"),
        ("", "train"),
    ],
)
def test_the_split_of_a_prompt_never_changes(prompt: str, split: str) -> None:
    """These values are a promise: changing the hash would move test rows of the past into training."""
    assert marks(conversation(prompt)).split == split


@given(texts, texts, texts, st.none() | texts)
def test_answer_and_system_message_do_not_move_a_row(
    prompt: str, one: str, two: str, system: str | None
) -> None:
    assert marks(conversation(prompt, one)).split == marks(conversation(prompt, two, system)).split


@given(texts, texts)
def test_case_and_white_space_do_not_matter(left: str, right: str) -> None:
    plain = marks(conversation(f"{left} {right}", "yes"))
    assert marks(conversation(f"\t{left}\r\n {right} ", " YES")) == plain
    assert marks(conversation(normalise(f"{left} {right}"), "yes")).split == plain.split


@pytest.mark.parametrize(
    ("one", "other"), [("ﬁx", "FIX"), ("STRASSE", "straße"), ("１２", "12"), ("é", "E\u0301")]
)
def test_compatible_characters_are_the_same_text(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@given(st.lists(texts, min_size=3, max_size=3), st.lists(texts, min_size=3, max_size=3))
def test_other_conversations_have_other_marks(one: list[str], two: list[str]) -> None:
    """The parts of a conversation cannot be shifted into each other."""

    def told(parts: list[str]) -> list[Turn]:
        first, second, third = parts
        return [Turn("user", first), Turn("assistant", second), Turn("user", third), Turn("assistant", "a")]

    same = [normalise(part) for part in one] == [normalise(part) for part in two]
    assert (marks(told(one)).prompt == marks(told(two)).prompt) is same


def test_the_splits_are_80_10_10() -> None:
    shares = Counter(marks(conversation(f"question number {n}")).split for n in range(20_000))
    assert shares["train"] / 20_000 == pytest.approx(0.8, abs=0.01)
    assert shares["validation"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert set(shares) == set(SPLITS)


@given(st.text(max_size=500) | st.binary(max_size=500))
def test_an_excerpt_can_always_be_stored(value: str | bytes) -> None:
    found = excerpt(value)
    assert "\x00" not in found
    assert found.encode().decode() == found
    assert len(found) <= 2_400
