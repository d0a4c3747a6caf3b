"""Which tokens are learned, the order of an epoch, and that packing loses nothing."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.examples import Example, Pack, Turn, batches, build, pack

END = 0


class Letters:
    """A ChatML-like tokenizer over characters: `~` ends a turn."""

    eos_id = END

    def render(self, messages: Sequence[Turn], *, add_generation_prompt: bool = False) -> str:
        turns = "".join(f"{turn['role'][0]}:{turn['content']}~\n" for turn in messages)
        return turns + ("a:" if add_generation_prompt else "")

    def encode(self, text: str) -> list[int]:
        return [END if char == "~" else ord(char) for char in text]


def chat(*contents: str) -> list[Turn]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


def learned_text(example: Example) -> str:
    pairs = zip(example.tokens, example.learned, strict=True)
    return "".join("~" if token == END else chr(token) for token, learned in pairs if learned)


@pytest.mark.parametrize(
    ("contents", "learned"),
    [
        (("hi", "yes"), "yes~"),
        (("hi", "yes", "more", "no"), "yes~no~"),
        (("", "x"), "x~"),
        (("a~b", "c"), "c~"),
    ],
)
def test_answers_with_their_end_are_learned_and_nothing_else(contents: tuple[str, ...], learned: str) -> None:
    example = build(Letters(), chat(*contents), 100)
    assert example is not None
    assert learned_text(example) == learned


def test_the_prompt_is_encoded_as_it_will_be_asked() -> None:
    example = build(Letters(), chat("hi", "yes"), 100)
    assert example is not None
    prompt = Letters().encode(Letters().render(chat("hi"), add_generation_prompt=True))
    assert list(example.tokens[: len(prompt)]) == prompt
    assert not any(example.learned[: len(prompt)])


@pytest.mark.parametrize(
    ("messages", "most"),
    [(chat("hi", "yes"), 9), (chat("hi"), 100), ([], 100), (chat("question", "y" * 99), 50)],
)
def test_what_is_too_long_or_has_no_answer_is_left_out(messages: list[Turn], most: int) -> None:
    assert build(Letters(), messages, most) is None


def test_a_template_that_rewrites_history_is_refused() -> None:
    class Forgetful(Letters):
        def render(self, messages: Sequence[Turn], *, add_generation_prompt: bool = False) -> str:
            return super().render(messages[-1:], add_generation_prompt=add_generation_prompt)

    with pytest.raises(ValueError, match="rewrites earlier turns"):
        build(Forgetful(), chat("hi", "yes", "more", "no"), 100)


@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 9), st.integers(0, 3))
def test_an_epoch_takes_every_row_once_in_an_order_of_its_own(
    count: int, size: int, seed: int, epoch: int
) -> None:
    order = batches(count, size, seed, epoch)
    assert sorted(row for batch in order for row in batch) == list(range(count))
    assert all(len(batch) == size for batch in order[:-1])
    assert order == batches(count, size, seed, epoch)
    if count > 20:
        assert order != batches(count, size, seed, epoch + 1)
        assert order != batches(count, size, seed + 1, epoch)


words = st.lists(st.integers(1, 3), min_size=0, max_size=6)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    prompt, answer = draw(words), draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    system = draw(st.sampled_from([[7, 7, 7, 7], [7, 7, 8, 8], [9]]))
    tokens = (*system, *prompt, 5, *answer, END)
    return Example(tokens, (False,) * (len(tokens) - len(answer) - 1) + (True,) * (len(answer) + 1))


def unpack(one: Pack) -> list[Example]:
    """What each segment of a pack sees, as an example again."""
    prefix = one.segments.count(0)
    targets = dict(
        zip(((one.segments[p], one.positions[p] + 1) for p in one.predictors), one.targets, strict=True)
    )
    found = []
    for segment in range(1, max(one.segments) + 1):
        own = [i for i, s in enumerate(one.segments) if s == segment]
        tokens = (*one.tokens[:prefix], *(one.tokens[i] for i in own))
        assert [one.positions[i] for i in own] == list(range(prefix, len(tokens)))
        learned = tuple((segment, position) in targets for position in range(len(tokens)))
        assert all(targets[segment, p] == tokens[p] for p in range(len(tokens)) if learned[p])
        found.append(Example(tokens, learned))
    return found


@given(st.lists(examples(), min_size=1, max_size=30), st.integers(8, 80))
def test_packing_loses_no_row_no_token_and_no_target(rows: list[Example], budget: int) -> None:
    packs = list(pack(rows, budget))
    unpacked = [example for one in packs for example in unpack(one)]
    assert sorted(e.tokens for e in unpacked) == sorted(e.tokens for e in rows)
    assert sorted(unpacked, key=lambda e: e.tokens) == sorted(rows, key=lambda e: e.tokens)
    for one in packs:
        assert len(one.tokens) == len(one.positions) == len(one.segments)
        assert list(one.segments) == sorted(one.segments)
        assert len(one.tokens) <= budget or max(one.segments) == 1


@given(st.lists(examples(), min_size=2, max_size=30))
def test_a_shared_beginning_is_computed_once(rows: list[Example]) -> None:
    same = [Example((7, 7, 7, 7, *e.tokens), (False,) * 4 + e.learned) for e in rows]
    (one,) = pack(same, 10_000)
    assert one.segments.count(0) >= 4
