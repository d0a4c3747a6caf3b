"""Interval bounds for shares, for means of scores in [0, 1], and for the difference of two of them.

Sources: Wilson (1927) for one share; Newcombe (1998), method 10, for a difference. A score in [0, 1] varies at most
as much as a coin with the same mean, so the same bounds hold for mean scores: wider than they need be, never narrower.
"""

import math
from statistics import NormalDist
from typing import NamedTuple


class Sample(NamedTuple):
    """The mean of `n` values in [0, 1]; a share is the mean of zeros and ones."""

    n: int
    mean: float


class Interval(NamedTuple):
    low: float
    high: float


def quantile(alpha: float) -> float:
    """The z that a standard normal exceeds with probability `alpha` (one-sided), 0 < alpha < 1."""
    return NormalDist().inv_cdf(1 - alpha)


def wilson(sample: Sample, z: float) -> Interval:
    """Bounds of a share, each missed with the probability behind `z`; everything is possible when n = 0."""
    n, mean = sample
    if n == 0:
        return Interval(0.0, 1.0)
    squared = z * z / n
    centre = mean + squared / 2
    spread = z * math.sqrt(mean * (1 - mean) / n + squared / (4 * n))
    return Interval(max(0.0, (centre - spread) / (1 + squared)), min(1.0, (centre + spread) / (1 + squared)))


def difference(first: Sample, second: Sample, z: float) -> Interval:
    """Bounds of `first.mean - second.mean`."""
    a, b = wilson(first, z), wilson(second, z)
    estimate = first.mean - second.mean
    return Interval(
        estimate - math.hypot(first.mean - a.low, b.high - second.mean),
        estimate + math.hypot(a.high - first.mean, second.mean - b.low),
    )
