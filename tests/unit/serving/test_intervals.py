"""Interval bounds against published values and by simulation."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.intervals import Sample, difference, quantile, wilson

Z95 = quantile(0.025)
samples = st.builds(
    lambda n, k: Sample(n, min(k, n) / n if n else 0.0), st.integers(0, 5_000), st.integers(0, 5_000)
)


def test_wilson_agrees_with_newcombe_1998_table_1() -> None:
    low, high = wilson(Sample(263, 81 / 263), Z95)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson(Sample(20, 0.0), Z95)
    assert (round(low, 4), round(high, 4)) == (0.0, 0.1611)


def test_difference_agrees_with_newcombe_1998_table_2() -> None:
    low, high = difference(Sample(70, 56 / 70), Sample(80, 48 / 80), Z95)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)
    low, high = difference(Sample(10, 1.0), Sample(20, 0.0), Z95)
    assert (round(low, 4), high) == (0.6791, 1.0)


def test_no_data_excludes_nothing() -> None:
    assert wilson(Sample(0, 0.0), Z95) == (0.0, 1.0)
    assert difference(Sample(0, 0.0), Sample(100, 0.5), Z95).low <= -0.4


@given(samples, samples, st.floats(0.5, 4))
def test_bounds_hold_the_estimate_and_mirror(first: Sample, second: Sample, z: float) -> None:
    interval = difference(first, second, z)
    assert interval.low <= first.mean - second.mean + 1e-12
    assert interval.high >= first.mean - second.mean - 1e-12
    mirrored = difference(second, first, z)
    assert interval.low == pytest.approx(-mirrored.high, abs=1e-12)


@given(samples.filter(lambda sample: sample.n > 0), st.floats(0.5, 3), st.floats(0.01, 1))
def test_more_confidence_is_wider(sample: Sample, z: float, more: float) -> None:
    narrow, wide = wilson(sample, z), wilson(sample, z + more)
    assert wide.low <= narrow.low + 1e-12
    assert wide.high >= narrow.high - 1e-12


def test_fractional_scores_are_covered_at_least_as_often_as_promised() -> None:
    draw = random.Random(7)
    truth, missed, rounds = 0.5, 0, 2_000
    for _ in range(rounds):
        values = [draw.betavariate(2, 2) for _ in range(40)]
        low, high = wilson(Sample(40, sum(values) / 40), Z95)
        missed += not low <= truth <= high
    assert missed / rounds <= 0.05
