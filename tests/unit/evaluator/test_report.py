"""The report: worst regressions first, and golden answers that tell the adapter from the base."""

import json

from services.evaluator.gates import Place
from services.evaluator.outputs import Output
from services.evaluator.report import Answers, build, encode, golden, samples
from services.evaluator.rows import Row, Turn, make_row

ROWS = [make_row([Turn("user", f"question {number}")], f"right {number}") for number in range(30)]


def output(row: Row, answer: str, margin: float = 1.0, finished: bool = True) -> Output:
    return Output(row=row.key, answer=answer, finished=finished, margin=margin, nll=1.0, tokens=2)


def answers(**by_subject: list[Output]) -> dict[Place, Answers]:
    return {
        Place(name, "test"): Answers(ROWS, {one.row: one for one in found})  # type: ignore[arg-type]
        for name, found in by_subject.items()
    }


def test_samples_begin_with_what_got_worse() -> None:
    rival = [output(row, row.answer) for row in ROWS]
    candidate = [output(row, "wrong" if index in {7, 21} else row.answer) for index, row in enumerate(ROWS)]
    found = samples(
        answers(base=[output(row, "") for row in ROWS], few_shot=rival, candidate=candidate), "test"
    )
    assert len(found) == 20
    assert {one["row"] for one in found[:2]} == {ROWS[7].key, ROWS[21].key}
    assert found[0]["rival"] == "few_shot"
    assert found[0]["change"] == -1.0
    assert set(found[0]["answers"]) == {"base", "few_shot", "candidate"}
    assert samples(answers(candidate=candidate), "champion_test") == []


def test_golden_answers_are_sure_complete_and_unlike_the_base() -> None:
    base = [output(row, "base") for row in ROWS]
    candidate = [output(row, f"intent {index}", margin=float(index)) for index, row in enumerate(ROWS)]
    candidate[29] = output(ROWS[29], "base ", margin=99)
    candidate[28] = output(ROWS[28], "cut", margin=98, finished=False)
    candidate[27] = output(ROWS[27], " ", margin=97)
    candidate[26] = output(ROWS[26], "half a \ufffd", margin=96)
    found = golden(answers(base=base, candidate=candidate), 16)
    assert [one["answer"] for one in found] == [f"intent {index}" for index in range(25, 17, -1)]
    assert found[0] == {
        "messages": [{"role": "user", "content": "question 25"}],
        "answer": "intent 25",
        "base_answer": "base",
        "max_tokens": 16,
        "margin": 25.0,
    }


def test_cut_answers_serve_only_where_complete_ones_are_missing() -> None:
    base = [output(row, "base") for row in ROWS]
    candidate = [output(row, f"cut {index}", margin=9, finished=False) for index, row in enumerate(ROWS)]
    candidate[4] = output(ROWS[4], "whole", margin=0.1)
    found = golden(answers(base=base, candidate=candidate), 16)
    assert found[0]["answer"] == "whole"
    assert len(found) == 8


def test_golden_answers_differ_before_they_repeat() -> None:
    base = [output(row, "base") for row in ROWS]
    candidate = [
        output(row, "common" if index else "rare", margin=float(index)) for index, row in enumerate(ROWS)
    ]
    found = golden(answers(base=base, candidate=candidate), 16)
    assert [one["answer"] for one in found] == ["common", "rare", *["common"] * 6]
    assert golden(answers(candidate=candidate), 16) == []


def test_a_report_is_deterministic_json() -> None:
    candidate = [output(row, row.answer) for row in ROWS]
    made = [build({"model": "m"}, answers(candidate=candidate), [], [], "pass", []) for _ in range(2)]
    assert encode(made[0]) == encode(made[1])
    assert json.loads(encode(made[0]))["rows"] == {"test": 30}
