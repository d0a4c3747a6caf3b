"""Gates: accept if at least the bar; never on NaN, never on too little, never against other rows."""

import math
import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from services.evaluator import gates as gates_module
from services.evaluator.gates import Measured, Place, judge, needed, overall, scores, telling
from services.evaluator.intervals import Estimate, difference, estimate, resamples
from services.evaluator.metrics import METRICS, Answered, Metric
from shared.contracts.events import Subject, Verdict
from shared.contracts.policy import Gate

FLOOR = Gate(name="floor", at_least=0.5)
BEATS = Gate(name="beats", versus="few_shot", margin=0.1)
KEEPS = Gate(name="keeps", split="champion_test", versus="champion", margin=-0.1)


def hits(right: int, rows: int, nll: float = 1.0) -> list[Answered]:
    """`rows` answers, the first `right` of them right."""
    return [Answered("a" if index < right else "b", "a", nll, 1) for index in range(rows)]


def on(split: str, **subjects: list[Answered]) -> Measured:
    return {Place(name, split): rows for name, rows in subjects.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gate", "measured", "champion", "expected"),
    [
        (FLOOR, on("test", candidate=hits(50, 100)), False, "pass"),
        (FLOOR, on("test", candidate=hits(49, 100)), False, "fail"),
        (FLOOR, on("test", candidate=hits(20, 20)), False, "pass"),
        (FLOOR, on("test", candidate=hits(19, 19)), False, "insufficient"),
        (FLOOR, on("test", candidate=[]), False, "insufficient"),
        (FLOOR, {}, False, "insufficient"),
        (BEATS, on("test", candidate=hits(60, 100), few_shot=hits(50, 100)), False, "pass"),
        (BEATS, on("test", candidate=hits(59, 100), few_shot=hits(50, 100)), False, "fail"),
        (BEATS, on("test", candidate=hits(60, 100)), False, "insufficient"),
        (BEATS, on("test", candidate=hits(60, 100), few_shot=hits(50, 99)), False, "insufficient"),
        (KEEPS, on("test", candidate=hits(0, 100)), False, "pass"),
        (KEEPS, on("champion_test", candidate=hits(90, 100), champion=hits(100, 100)), True, "pass"),
        (KEEPS, on("champion_test", candidate=hits(89, 100), champion=hits(100, 100)), True, "fail"),
        (KEEPS, on("champion_test", candidate=hits(9, 10), champion=hits(10, 10)), True, "insufficient"),
        (KEEPS, {}, True, "insufficient"),
        (Gate(name="g", metric="loss", at_least=1.0), on("test", candidate=hits(0, 50, 1.0)), False, "pass"),
        (Gate(name="g", metric="loss", at_least=1.0), on("test", candidate=hits(0, 50, 1.1)), False, "fail"),
        (
            Gate(name="g", metric="loss", at_least=1.0),
            on("test", candidate=hits(0, 50, math.nan)),
            False,
            "fail",
        ),
        (
            Gate(name="g", metric="loss", at_least=1.0),
            on("test", candidate=hits(0, 50, -math.inf)),
            False,
            "fail",
        ),
        (
            Gate(name="g", metric="perplexity", versus="base", margin=0.5),
            on("test", candidate=hits(0, 50, 1.0), base=hits(0, 50, 2.0)),
            False,
            "pass",
        ),
        (
            Gate(name="g", metric="perplexity", versus="base", margin=0.0),
            on("test", candidate=hits(0, 50, 2.0), base=hits(0, 50, 1.0)),
            False,
            "fail",
        ),
        (
            Gate(name="g", metric="perplexity", versus="base", margin=0.0),
            on("test", candidate=hits(0, 50, 1.0), base=hits(0, 50, 1e6)),
            False,
            "fail",
        ),
        (
            Gate(name="g", metric="wer", at_least=0.0),
            on("test", candidate=hits(50, 50)),
            False,
            "insufficient",
        ),
    ],
)
def test_verdicts(gate: Gate, measured: Measured, champion: bool, expected: str) -> None:
    verdict = judge(gate, measured, champion=champion, min_rows=20)
    assert verdict.verdict == expected
    assert verdict.gate == gate.name
    assert verdict.reason


def test_a_reason_has_value_bar_interval_and_rows() -> None:
    verdict = judge(
        BEATS, on("test", candidate=hits(80, 100), few_shot=hits(50, 100)), champion=False, min_rows=20
    )
    assert verdict.value == pytest.approx(0.3)
    assert verdict.bar == 0.1
    for part in ("0.3", "at least 0.1", "n=100", "95 % interval", "few_shot"):
        assert part in verdict.reason


def test_no_champion_yet_is_said() -> None:
    assert judge(KEEPS, {}, champion=False, min_rows=20).reason == "no champion yet"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], "insufficient"),
        (["pass"], "pass"),
        (["pass", "fail", "insufficient"], "fail"),
        (["pass", "insufficient"], "insufficient"),
    ],
)
def test_overall(verdicts: list[str], expected: str) -> None:
    made = [Verdict(gate="g", verdict=one, reason="") for one in verdicts]  # type: ignore[arg-type]
    assert overall(made) == expected


def test_an_adapter_without_effect_fails() -> None:
    measured = on("test", candidate=hits(50, 50))
    assert [one.verdict for one in telling([], measured)] == ["fail"]
    assert telling([{"answer": "a"}], measured) == []
    assert telling([], {}) == []


def test_what_is_generated() -> None:
    first = needed([FLOOR, BEATS, KEEPS], champion=False)
    assert first == [Place("base", "test"), Place("few_shot", "test"), Place("candidate", "test")]
    later = needed([FLOOR, BEATS, KEEPS, Gate(name="g", split="champion_test", versus="base")], champion=True)
    assert set(later) == {
        *first,
        Place("champion", "test"),
        Place("champion", "champion_test"),
        Place("candidate", "champion_test"),
        Place("base", "champion_test"),
    }


def test_scores_leave_out_what_is_not_finite() -> None:
    found = scores(on("test", candidate=hits(10, 20, 1e6)))
    assert {one.metric for one in found} == set(METRICS) - {"perplexity"}
    assert scores(on("test", candidate=[])) == []
    for one in found:
        assert one.low <= one.value <= one.high
        assert one.n == 20


losses = st.one_of(
    st.floats(0, 100), st.just(math.nan), st.just(math.inf), st.just(-math.inf), st.just(1e308)
)
answers = st.builds(Answered, st.sampled_from(["a", "b", ""]), st.just("a"), losses, st.integers(1, 5))
gates = st.builds(
    lambda metric, bar, versus: Gate(
        name="g", metric=metric, at_least=None if versus else bar, versus=versus, margin=bar
    ),
    st.sampled_from(sorted(METRICS)),
    st.floats(-1, 1),
    st.sampled_from([None, "base", "champion"]),
)


row = st.tuples(answers, answers, answers)
three_answers = st.one_of(st.lists(row, max_size=12), st.lists(row, min_size=10, max_size=20))


def _honest(gate: Gate, rows: list[tuple[Answered, Answered, Answered]]) -> None:
    """A pass is finite, reaches the bar, and rests on enough rows."""
    names: list[Subject] = ["candidate", "base", "champion"]
    measured = {Place(name, "test"): [row[index] for row in rows] for index, name in enumerate(names)}
    verdict = judge(gate, measured, champion=True, min_rows=10)
    if len(rows) < 10:
        assert verdict.verdict == "insufficient"
    if verdict.verdict == "pass":
        assert verdict.value is not None
        assert verdict.bar is not None
        assert math.isfinite(verdict.value)
        rising = METRICS[gate.metric].higher_is_better or gate.versus
        assert verdict.value >= verdict.bar if rising else verdict.value <= verdict.bar


@settings(max_examples=150, deadline=None)
@given(gate=gates, rows=three_answers)
def test_a_pass_is_finite_and_reaches_the_bar_on_enough_rows(
    gate: Gate, rows: list[tuple[Answered, Answered, Answered]]
) -> None:
    _honest(gate, rows)


def _refuses_if_less(gate: Gate, metric: Metric, found: Estimate, bar: float) -> Verdict:
    """The mutant: "refuse if <" lets NaN pass, for NaN is not less than anything."""
    rising = metric.higher_is_better or gate.versus is not None
    refused = found.value < bar if rising else found.value > bar
    value = found.value if math.isfinite(found.value) else None
    return Verdict(gate=gate.name, verdict="fail" if refused else "pass", value=value, bar=bar, reason="")


def test_mutant_gate_that_refuses_if_less_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates_module, "_decide", _refuses_if_less)
    explore = given(gate=gates, rows=three_answers)(_honest)
    with pytest.raises(AssertionError):
        settings(max_examples=150, deadline=None, phases=[Phase.generate], database=None)(explore)()


@settings(max_examples=60, deadline=None)
@given(right=st.integers(0, 30), rows=st.just(30), bar=st.floats(0, 1), seed=st.integers(0, 99))
def test_more_right_answers_never_turn_a_pass_into_a_fail_and_order_does_not_matter(
    right: int, rows: int, bar: float, seed: int
) -> None:
    gate = Gate(name="g", at_least=bar)
    order = hits(right, rows)
    random.Random(seed).shuffle(order)
    verdict = judge(gate, on("test", candidate=hits(right, rows)), champion=False, min_rows=20)
    assert judge(gate, on("test", candidate=order), champion=False, min_rows=20).verdict == verdict.verdict
    if verdict.verdict == "pass":
        better = judge(
            gate, on("test", candidate=hits(min(right + 1, rows), rows)), champion=False, min_rows=20
        )
        assert better.verdict == "pass"


def test_intervals_are_those_of_the_bootstrap() -> None:
    metric = METRICS["exact_match"]
    statistics = metric.statistics(hits(80, 100))
    found = estimate(metric, statistics, resamples(100))
    assert found is not None
    # The normal approximation of a share of 0.8 over 100 rows: 0.8 +- 1.96 * 0.04.
    assert found.low == pytest.approx(0.72, abs=0.025)
    assert found.high == pytest.approx(0.88, abs=0.025)
    assert estimate(metric, statistics, resamples(100)) == found


def test_paired_intervals_are_narrower_than_unpaired_ones() -> None:
    metric = METRICS["exact_match"]
    first, second = metric.statistics(hits(80, 100)), metric.statistics(hits(70, 100))
    paired = difference(metric, first, second, resamples(100))
    alone = estimate(metric, first, resamples(100))
    assert paired is not None
    assert alone is not None
    assert paired.value == pytest.approx(0.1)
    assert paired.low > 0
    with pytest.raises(ValueError, match="same rows"):
        difference(metric, first, second[:-1], resamples(100))
