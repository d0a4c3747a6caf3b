"""Kept answers: what got worse comes first, everything is bounded, and pages go on where the last one ended."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from services.evaluator.answers import LONGEST, AnswerSheet, sheets
from services.evaluator.domain import Evaluation
from services.evaluator.gates import Place, differences
from services.evaluator.outputs import Output
from services.evaluator.reading import AnswerReader
from services.evaluator.report import Answers, measured
from services.evaluator.rows import Row, Turn, make_row
from shared.contracts.errors import NotFound

ROWS = [make_row([Turn("user", f"question {number}")], f"right {number}") for number in range(30)]


def answers(
    subject: str, wrong: set[int], split: str = "test", rows: list[Row] = ROWS
) -> dict[Place, Answers]:
    """Right answers but for the rows `wrong`: odd ones get half of it right."""
    said = [("right" if n % 2 else "no") if n in wrong else row.answer for n, row in enumerate(rows)]
    outputs = {
        row.key: Output(row=row.key, answer=one, finished=True, margin=1, nll=2, tokens=4)
        for row, one in zip(rows, said, strict=True)
    }
    return {Place(subject, split): Answers(rows, outputs)}  # type: ignore[arg-type]


def sheet() -> AnswerSheet:
    """Regressions at 4 (all lost), 7 and 9 (half lost); improvements at 1 (half won) and 2."""
    found = {
        **answers("base", set(range(30))),
        **answers("candidate", {7, 4, 9}),
        **answers("champion", {1, 2}),
    }
    return sheets(found)["test"]


def read(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def test_regressions_come_first_and_the_largest_loss_first_of_all() -> None:
    kept, data = sheet()
    lines = read(data)
    assert [
        (ROWS.index(row), line["change"]) for line in lines[:6] for row in ROWS if row.key == line["row"]
    ] == [
        (4, "regression"),
        (7, "regression"),
        (9, "regression"),
        (2, "improvement"),
        (1, "improvement"),
        (0, "same"),
    ]
    assert (kept.rival, kept.rows, kept.kept, kept.regressions, kept.improvements) == (
        "champion",
        30,
        30,
        3,
        2,
    )
    first = lines[0]
    assert first["messages"] == [{"role": "user", "content": "question 4"}]
    assert first["reference"] == "right 4"
    assert first["difference"] == -1.0
    assert set(first["answers"]) == {"base", "candidate", "champion"}
    assert first["answers"]["candidate"] == {
        "answer": "no",
        "finished": True,
        "exact_match": 0.0,
        "token_f1": 0.0,
        "loss": 0.5,
    }
    assert sheet() == (kept, data), "the same answers make the same object"


def test_without_a_champion_the_few_shot_base_is_the_rival() -> None:
    found = {**answers("few_shot", set()), **answers("candidate", {3}), **answers("base", set())}
    assert sheets(found)["test"].kept.rival == "few_shot"
    assert set(sheets({**answers("base", set()), **answers("candidate", set(), "champion_test")})) == {
        "champion_test"
    }
    alone = sheets(answers("candidate", {3}))["test"].kept
    assert (alone.rival, alone.regressions, alone.improvements) == ("candidate", 0, 0)


def test_long_texts_are_cut_and_large_sheets_end_early() -> None:
    rows = [make_row([Turn("user", "x" * 50_000)], f"right {number}") for number in range(10)]
    found = {**answers("champion", {1}, rows=rows), **answers("candidate", {8}, rows=rows)}
    kept, data = sheets(found, largest=8_000)["test"]
    assert (kept.rows, kept.regressions) == (10, 1)
    assert 0 < kept.kept < 10
    assert len(data) <= 8_000
    lines = read(data)
    assert len(lines) == kept.kept
    assert lines[0]["change"] == "regression"
    assert len(lines[0]["messages"][0]["content"]) == LONGEST
    assert lines[0]["messages"][0]["content"].endswith("…")


class Chunks:
    """A store with one object, which comes in small pieces."""

    def __init__(self, data: bytes) -> None:
        self.data, self.sent = data, 0

    async def stream(self, _bucket: str, _key: str) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), 100):
            self.sent += 1
            yield self.data[start : start + 100]


@pytest.mark.parametrize("limit", [1, 2, 7, 30, 200])
@pytest.mark.parametrize(
    ("change", "positions"),
    [(None, range(30)), ("regression", range(3)), ("improvement", range(3, 5)), ("same", range(5, 30))],
)
async def test_pages_together_are_the_sheet(change: Any, positions: range, limit: int) -> None:
    kept, data = sheet()
    one = Evaluation(
        id="eval-1",
        model="m",
        run_id="r",
        adapter_digest="a",
        base_digest="b",
        dataset_digest="d",
        answers={"test": kept.model_dump()},
        created_at=datetime.now(UTC),
    )
    found: list[Any] = []
    more, after = True, -1
    while more:
        page = await AnswerReader(Chunks(data)).page(one, "test", change, after, limit)  # type: ignore[arg-type]
        assert 0 < len(page.answers) <= limit
        found += page.answers
        more, after = page.more, found[-1]["position"]
    assert found == [{"position": n, **line} for n, line in enumerate(read(data)) if n in positions]
    beyond = await AnswerReader(Chunks(data)).page(one, "test", change, 99, limit)  # type: ignore[arg-type]
    assert (beyond.answers, beyond.more) == ([], False)
    store = Chunks(data)
    await AnswerReader(store).page(one, "test", None, -1, 1)  # type: ignore[arg-type]
    assert store.sent < 10, "the first page does not need the whole object"
    with pytest.raises(NotFound):
        await AnswerReader(store).page(one, "champion_test", None, -1, 1)  # type: ignore[arg-type]


def test_differences_are_paired_and_say_which_way_is_better() -> None:
    found = measured({**answers("candidate", {3}), **answers("champion", set(range(10)))})
    by = {one.metric: one for one in differences(found)}
    exact = by["exact_match"]
    assert (exact.versus, exact.split, exact.n) == ("champion", "test", 30)
    assert exact.value == pytest.approx(9 / 30)
    assert 0 < exact.low < exact.value < exact.high
    assert exact.higher_is_better
    assert not by["loss"].higher_is_better
    assert by["loss"].value == 0
    assert differences(measured(answers("candidate", {3}))) == []
    other = measured({**answers("candidate", set()), **answers("champion", set(), rows=ROWS[:5])})
    assert differences(other) == []
