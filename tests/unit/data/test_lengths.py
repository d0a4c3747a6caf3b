"""Histograms of lengths: every row in one bin, tokens sampled evenly, the same rows give the same numbers."""

from collections.abc import Sequence

import pytest

from services.data import lengths
from services.data.lengths import CHARACTERS, Histogram, Lengths
from services.data.rows import Kept, Row, Turn


class Letters:
    def count(self, messages: Sequence[Turn]) -> int:
        return sum(len(turn.content) for turn in messages)


def kept(number: int, length: int = 5) -> list[Kept]:
    row = Row([Turn("user", "q" * (length - 1)), Turn("assistant", "a")], "upload", "o")
    return [Kept(row, "train", "somewhere")] * number


def test_edges_belong_to_the_bin_below_and_one_bin_takes_the_rest() -> None:
    histogram = Histogram((10, 20))
    for length in (1, 10, 11, 20, 21, 9_999):
        histogram.add(length)
    assert histogram.view() == {
        "edges": [10, 20],
        "counts": [2, 2, 2],
        "rows": 6,
        "mean": 1677.0,
        "longest": 9_999,
    }


def test_rows_pass_unchanged_and_are_measured() -> None:
    measured = Lengths(Letters())
    rows = kept(3) + kept(1, 200)
    assert list(measured.watch(rows)) == rows
    view = measured.view()
    assert view["characters"]["counts"][0] == 3
    assert view["characters"]["counts"][CHARACTERS.index(200)] == 1
    assert (view["tokens"]["rows"], view["tokens"]["longest"]) == (4, 200)


def test_nothing_measured_has_no_mean() -> None:
    view = Lengths(Letters()).view()["tokens"]
    assert (view["rows"], view["mean"], view["longest"]) == (0, None, None)


def test_tokens_of_many_rows_are_sampled_from_the_whole_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "_SAMPLES", 64)
    measured = Lengths(Letters())
    for _ in measured.watch([row for length in range(2, 1_002) for row in kept(1, length)]):
        pass
    view = measured.view()
    assert view["characters"]["rows"] == 1_000
    assert 32 <= view["tokens"]["rows"] < 64
    assert view["tokens"]["mean"] == pytest.approx(view["characters"]["mean"], rel=0.05)
