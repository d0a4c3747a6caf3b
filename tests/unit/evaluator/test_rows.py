"""Which rows are measured and shown: always the same ones, whatever the order of the file."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluator.outputs import cache_key, plan
from services.evaluator.rows import Row, Turn, few_shot, held_out, make_row, parse, shown
from shared.contracts.errors import Invalid


def line(question: str, answer: str, system: str = "", before: tuple[str, str] | None = None) -> str:
    turns = [("system", system)] if system else []
    turns += [("user", before[0]), ("assistant", before[1])] if before else []
    turns += [("user", question), ("assistant", answer)]
    return json.dumps(
        {"messages": [{"role": role, "content": text} for role, text in turns], "source": "upload"}
    )


def split(folder: Path, lines: list[str], name: str = "test.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_selection_ignores_order_and_repetition(tmp_path: Path) -> None:
    lines = [line(f"question {number}", f"answer {number % 7}") for number in range(100)]
    first = held_out(split(tmp_path, lines), 10)
    random.Random(1).shuffle(lines)
    assert held_out(split(tmp_path, lines * 3), 10) == first
    assert len(first) == 10
    assert held_out(split(tmp_path, lines), 1_000)[:10] == first
    assert len(held_out(split(tmp_path, lines), 1_000)) == 100


def test_few_shot_rows_have_different_answers_first(tmp_path: Path) -> None:
    lines = [line(f"question {number}", f"answer {number % 5}") for number in range(200)]
    chosen = few_shot(split(tmp_path, lines), 8)
    assert len({row.answer for row in chosen[:5]}) == 5
    assert len({row.key for row in chosen}) == 8
    random.Random(2).shuffle(lines)
    assert few_shot(split(tmp_path, lines), 8) == chosen
    assert few_shot(split(tmp_path, lines), 0) == []
    assert len(few_shot(split(tmp_path, lines[:3]), 8)) == 3


def test_few_shot_with_as_many_answers_as_rows(tmp_path: Path) -> None:
    lines = [line(f"question {number}", f"answer {number}") for number in range(200)]
    rows = held_out(split(tmp_path, lines), 200)
    assert few_shot(split(tmp_path, lines), 4) == rows[:4]


def test_shots_are_single_turns_without_their_system_message(tmp_path: Path) -> None:
    lines = [line("q", "a", system="s"), line("q2", "a2", before=("q1", "a1"))]
    assert shown(few_shot(split(tmp_path, lines), 4)) == [Turn("user", "q"), Turn("assistant", "a")]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "[]",
        '{"messages": []}',
        '{"messages": [{"role": "user", "content": "q"}]}',
        '{"messages": [{"role": "user", "content": "q"}, {"role": "user", "content": "q"}]}',
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": null}]}',
        '{"messages": [{"role": "user", "content": "\\u0000"}, {"role": "assistant", "content": "a"}]}',
        '{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "a"}]}',
        "[" * 10_000,
    ],
)
def test_a_line_that_is_no_conversation_is_named(bad: str) -> None:
    lines = [line("q", "a").encode(), bad.encode()]
    with pytest.raises(Invalid, match="Line 1"):
        list(parse(lines))


def test_a_key_tells_rows_apart() -> None:
    rows = [
        make_row([Turn("user", "a")], "b"),
        make_row([Turn("user", "ab")], ""),
        make_row([Turn("system", "a")], "b"),
        make_row([Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")], "b"),
    ]
    assert len({row.key for row in rows}) == len(rows)
    assert make_row([Turn("user", "a")], "b") == rows[0]
    assert isinstance(rows[0], Row)


def test_outputs_are_kept_by_everything_that_decides_them() -> None:
    identity = {"base": "1", "adapter": None, "few_shot": None, "max_tokens": 16}
    keys = {cache_key(identity), *(cache_key({**identity, name: "2"}) for name in identity)}
    assert len(keys) == 5
    assert cache_key(dict(reversed(identity.items()))) == cache_key(identity)


@given(
    lengths=st.lists(st.integers(1, 500), max_size=60),
    budget=st.integers(1, 2_000),
    most=st.integers(1, 20),
)
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int, most: int) -> None:
    batches = plan(lengths, budget, most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= most
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
