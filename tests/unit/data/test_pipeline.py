"""Every row read is kept or dropped under exactly one reason, and generations never leak."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.data import pipeline
from services.data.pipeline import Tally, parse, shortcoming
from services.data.readers.lines import Broken
from services.data.rows import Kept, Label, Placed, Reject, Row, Turn, marks, normalise
from shared.contracts.errors import Invalid
from shared.contracts.policy import DataPolicy

POLICY = DataPolicy(min_chars=2, max_chars=60, max_tokens=10, min_rows=3)


class WordTokens:
    """Counts words, so that tests can say what is too long."""

    control: Sequence[str] = ("<|end|>",)

    def fits(self, messages: Sequence[Turn], limit: int) -> bool:
        return sum(len(turn.content.split()) for turn in messages) <= limit


CHECKS = pipeline.rules(POLICY, WordTokens())


def row(prompt: str, answer: str, label: Label = "human", origin: str = "o") -> Placed:
    return Placed(
        Row([Turn("user", prompt), Turn("assistant", answer)], "upload", origin, label), "somewhere"
    )


def run(items: Sequence[Placed | Reject], share: float = 0.3) -> tuple[list[Kept], Tally]:
    tally = Tally()
    return list(pipeline.run(items, CHECKS, share, tally, max_rows=10_000)), tally


def turns(*pairs: str) -> list[Turn]:
    return [Turn(*pair.split(":", 1)) for pair in pairs]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (turns("user:hello", "assistant:hi there"), None),
        (turns("system:be kind", "user:hello", "assistant:hi there"), None),
        (turns("user:hello", "assistant:hi there", "user:bye", "assistant:bye bye"), None),
        ([], "wrong_role"),
        (turns("user:hello"), "wrong_role"),
        (turns("assistant:hello"), "wrong_role"),
        (turns("user:hello", "assistant:hi there", "user:more"), "wrong_role"),
        (turns("assistant:hi", "user:hello"), "wrong_role"),
        (turns("user:hello", "user:hello", "assistant:hi there"), "wrong_role"),
        (turns("user:hello", "system:be kind", "assistant:hi there"), "wrong_role"),
        (turns("user:hello", "tool:hi there"), "wrong_role"),
        (turns("User:hello", "assistant:hi there"), "wrong_role"),
        (turns("user:", "assistant:hi there"), "empty"),
        (turns("user:hello", "assistant:"), "empty"),
        (turns("system:", "user:hello", "assistant:hi there"), "empty"),
        (turns("user:he\x00llo", "assistant:hi there"), "bad_text"),
        (turns("user:hello", "assistant:hi \ud800"), "bad_text"),
        (turns("user:hello", "assistant:done<|end|>user: obey"), "control_token"),
        (turns("user:hello", "assistant:x"), "too_short"),
        (turns("user:h", "assistant:hi there"), "too_short"),
        (turns("user:" + "h" * 40, "assistant:" + "a" * 20), None),
        (turns("user:" + "h" * 40, "assistant:" + "a" * 21), "too_long"),
        (turns("user:1 2 3 4 5 6", "assistant:7 8 9 10"), None),
        (turns("user:1 2 3 4 5 6", "assistant:7 8 9 10 11"), "too_many_tokens"),
    ],
)
def test_the_first_rule_that_refuses_names_the_reason(messages: list[Turn], reason: str | None) -> None:
    kept, tally = run([Placed(Row(messages, "upload", "o"), "file:7")])
    assert bool(kept) is (reason is None)
    assert tally.dropped == ({reason: 1} if reason else {})
    assert all(reject.place == "file:7" for reject in tally.rejects)


def test_the_first_answer_to_a_prompt_wins() -> None:
    kept, tally = run([row("Hello", "one"), row("hello ", "ONE"), row("hello", "two"), row("other", "two")])
    assert [item.row.messages[1].content for item in kept] == ["one", "two"]
    assert tally.dropped == {"duplicate": 1, "conflicting_answer": 1}


def prompts(split: str, number: int) -> Iterator[str]:
    candidates = (f"question {n}" for n in range(10_000))
    wanted = (text for text in candidates if marks(row(text, "aa").row.messages).split == split)
    return (next(wanted) for _ in range(number))


@pytest.mark.parametrize(
    ("share", "humans", "expected"), [(0.3, 7, 3), (0.0, 7, 0), (1.0, 0, 5), (0.5, 2, 2)]
)
def test_our_own_answers_are_capped(share: float, humans: int, expected: int) -> None:
    questions = list(prompts("train", humans + 5))
    rows = [row(text, "human") for text in questions[:humans]]
    rows += [row(text, "model", "model") for text in questions[humans:]]
    kept, tally = run(rows, share)
    assert sum(item.row.label == "model" for item in kept) == expected
    assert tally.dropped.get("own_answer_cap", 0) == 5 - expected


def test_our_own_answers_are_never_held_out() -> None:
    rows = [row(text, "model", "model") for split in ("test", "validation") for text in prompts(split, 3)]
    kept, tally = run(rows, share=1.0)
    assert not kept
    assert tally.dropped == {"own_answer_held_out": 6}


words = st.sampled_from(
    ["alpha", "beta", "Gamma", "delta x", "  ", "", "y" * 61, "a b c d e f g h i j k", "\x00", "<|end|>"]
)
placed = st.builds(row, words, words, st.sampled_from(["human", "model"]))
broken = st.just(Reject("invalid_row", "file:1", ""))


@given(st.lists(placed | broken, max_size=60), st.floats(0, 1))
def test_read_is_kept_plus_dropped(items: list[Placed | Reject], share: float) -> None:
    kept, tally = run(items, share)
    assert tally.read == len(items) == sum(tally.rows.values()) + sum(tally.dropped.values())
    assert len(kept) == sum(tally.rows.values())
    assert len({marks(item.row.messages).prompt for item in kept}) == len(kept)
    own = sum(item.row.label == "model" for item in kept)
    assert own <= share * tally.rows["train"] + 1e-9
    assert len(tally.rejects) <= 10


@st.composite
def generations(draw: st.DrawFn) -> list[list[tuple[str, str]]]:
    """New rows of five generations; prompts come back in other cases, spaces and with other answers."""
    vocabulary = draw(st.lists(st.text("abcßéİ Ǆ", min_size=2, max_size=6), min_size=3, max_size=12))
    style = st.sampled_from([str.upper, str.lower, str.title, lambda text: f"  {text}\t", lambda text: text])
    prompt = st.builds(lambda text, change: change(text), st.sampled_from(vocabulary), style)
    new_rows = st.lists(st.tuples(prompt, st.sampled_from(["yes", "no", "maybe"])), max_size=15)
    return draw(st.lists(new_rows, min_size=5, max_size=5))


@given(generations())
def test_no_test_row_of_any_generation_is_ever_trained_on(history: list[list[tuple[str, str]]]) -> None:
    """Each generation holds its corrections first and then all rows of its parent."""
    parent: list[Kept] = []
    home: dict[str, str] = {}
    for fresh in history:
        items = [row(prompt, answer) for prompt, answer in fresh]
        parent, _ = run([*items, *(Placed(item.row, "parent") for item in parent)])
        for item in parent:
            prompt = normalise(item.row.messages[0].content)
            assert home.setdefault(prompt, item.split) == item.split


def test_the_same_rows_come_out_in_the_same_order() -> None:
    rows = [row(f"question {n % 50}", f"answer {n % 7}") for n in range(200)]
    assert run(rows)[0] == run(list(rows))[0]


def test_rejects_show_several_reasons_and_where() -> None:
    items = [Reject("invalid_row", f"a.jsonl:{n}", "x") for n in range(50)]
    items += [Reject("unknown_shape", f"b.jsonl:{n}", "y") for n in range(50)]
    _, tally = run(items)
    assert [reject.reason for reject in tally.rejects] == ["invalid_row"] * 3 + ["unknown_shape"] * 3


def test_too_many_rows_are_refused() -> None:
    endless = (Reject("invalid_row", "a", "") for _ in range(1_000_000_000))
    with pytest.raises(Invalid, match="more than 100 rows"):
        list(pipeline.run(endless, CHECKS, 0.3, Tally(), max_rows=100))


@pytest.mark.parametrize(
    ("rows", "dropped", "answers", "told"),
    [
        ({"train": 8, "validation": 1, "test": 1}, {}, {"a", "b"}, None),
        (
            {"train": 1, "validation": 1, "test": 0},
            {"duplicate": 40, "empty": 2},
            {"a", "b"},
            "2 of 44 rows .* 40 duplicate, 2 empty",
        ),
        ({"train": 0, "validation": 0, "test": 0}, {}, set(), "0 of 0 rows"),
        ({"train": 8, "validation": 1, "test": 0}, {}, {"a", "b"}, "into test"),
        ({"train": 8, "validation": 1, "test": 1}, {}, {"a"}, "same answer"),
    ],
)
def test_what_is_no_dataset_says_why(rows: Any, dropped: Any, answers: set[str], told: str | None) -> None:
    read = sum(rows.values()) + sum(dropped.values())
    found = shortcoming(Tally(read, rows, dropped, answers=answers), POLICY)
    if told is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(told, found)


def test_a_broken_row_keeps_its_reason() -> None:
    (reject,) = parse([(3, Broken("row_too_large", b"\xff\x00"))], "o", "file", None)
    assert reject == Reject("row_too_large", "file:3", "\\xff\\x00")
