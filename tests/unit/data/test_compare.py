"""What differs between two datasets is what a plain comparison in memory finds."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from services.data import compare as module
from services.data.builder import write
from services.data.compare import compare
from services.data.rows import SPLITS, Kept, Row, Split, Turn, marks


def kept(prompt: str, answer: str, split: Split | None = None) -> Kept:
    turns = [Turn("user", prompt), Turn("assistant", answer)]
    return Kept(Row(turns, "upload", "o"), split or marks(turns).split, "somewhere")


def dataset(folder: Path, rows: list[Kept]) -> Path:
    folder.mkdir(parents=True)
    write(rows, folder)
    return folder


def test_rows_are_added_removed_kept_or_answered_otherwise(tmp_path: Path) -> None:
    old = [kept(f"question {n}", f"answer {n % 3}") for n in range(100)]
    new = [*old[20:], kept("QUESTION  7", "something else"), kept("another", "answer 0")]
    found = compare(dataset(tmp_path / "new", new), dataset(tmp_path / "old", old), tmp_path / "scratch")
    total = {name: sum(found[name].values()) for name in ("added", "removed", "kept", "changed_answer")}
    assert total == {"added": 1, "removed": 19, "kept": 80, "changed_answer": 1}
    assert found["added"] == {**dict.fromkeys(SPLITS, 0), new[-1].split: 1}
    assert found["changed_split"] == 0
    example = {"answer": "something else", "rows": 1, "split": new[-2].split}
    assert found["new_answers"] == {"number": 1, "examples": [example]}
    assert found["gone_answers"] == {"number": 0, "examples": []}


def test_a_row_in_another_split_is_counted(tmp_path: Path) -> None:
    new, old = [kept("q", "a", "test")], [kept("q", "a", "train")]
    found = compare(dataset(tmp_path / "new", new), dataset(tmp_path / "old", old), tmp_path / "scratch")
    assert found["changed_split"] == 1


def test_only_the_most_frequent_answers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXAMPLES", 2)
    new = [kept(f"{answer} {n}", f"answer {answer}") for answer in range(5) for n in range(answer + 1)]
    found = compare(dataset(tmp_path / "new", new), dataset(tmp_path / "old", []), tmp_path / "scratch")[
        "new_answers"
    ]
    assert found["number"] == 5
    assert [(one["answer"], one["rows"]) for one in found["examples"]] == [("answer 4", 5), ("answer 3", 4)]


ROWS = st.dictionaries(st.text("abc ", min_size=1), st.text("xy", min_size=1), max_size=30)


@given(ROWS, ROWS)
@hypothesis(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_counts_are_those_of_sets(
    tmp_path_factory: pytest.TempPathFactory, new: dict[str, str], old: dict[str, str]
) -> None:
    def by_mark(rows: dict[str, str]) -> dict[bytes, tuple[bytes, Kept]]:
        made = [kept(prompt, answer) for prompt, answer in rows.items()]
        return {(mark := marks(one.row.messages)).prompt: (mark.answer, one) for one in made}

    here, there = by_mark(new), by_mark(old)
    folder = tmp_path_factory.mktemp("compare")
    found = compare(
        dataset(folder / "new", [one for _, one in here.values()]),
        dataset(folder / "old", [one for _, one in there.values()]),
        folder / "scratch",
    )
    both = here.keys() & there.keys()
    same = {prompt for prompt in both if here[prompt][0] == there[prompt][0]}
    assert sum(found["kept"].values()) == len(same)
    assert sum(found["changed_answer"].values()) == len(both - same)
    assert sum(found["added"].values()) == len(here.keys() - there.keys())
    assert sum(found["removed"].values()) == len(there.keys() - here.keys())
    assert found["changed_split"] == 0
    answers = [{answer for answer, _ in side.values()} for side in (here, there)]
    assert found["new_answers"]["number"] == len(answers[0] - answers[1])
    assert found["gone_answers"]["number"] == len(answers[1] - answers[0])
