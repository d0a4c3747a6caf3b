"""Percentile bootstrap over rows (Efron and Tibshirani, 1993, chapter 13): the same resamples for every metric."""

from typing import NamedTuple

import numpy as np

from services.evaluator.metrics import Floats, Metric

RESAMPLES = 1_000
SEED = 20_240_229
_LEVELS = (2.5, 97.5)
# What is not finite stays so and is judged by the gates; it is no reason for a warning.
_quiet = np.errstate(invalid="ignore", over="ignore")


class Estimate(NamedTuple):
    """A value and its 95 % interval over `n` rows. The interval is widened to hold the value, where it is skewed."""

    value: float
    low: float
    high: float
    n: int


def resamples(rows: int) -> Floats:
    """How often each row is drawn: (RESAMPLES, rows), each line summing to `rows`. The seed is fixed."""
    if rows == 0:
        return np.zeros((0, 0))
    generator = np.random.default_rng(SEED)
    return generator.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES).astype(np.float64)


@_quiet
def estimate(metric: Metric, statistics: Floats, draws: Floats) -> Estimate | None:
    """A metric over rows (`statistics` is (rows, k)); None without rows."""
    if not len(statistics):
        return None
    return _interval(metric.combine(statistics.sum(0)), metric.combine(draws @ statistics), len(statistics))


@_quiet
def difference(metric: Metric, first: Floats, second: Floats, draws: Floats) -> Estimate | None:
    """`first` minus `second`, measured on the same rows in the same order and resampled together; None without rows.

    Raises:
        ValueError: the two do not have the same number of rows.
    """
    if len(first) != len(second):
        raise ValueError(f"paired measures need the same rows: {len(first)} and {len(second)}")
    if not len(first):
        return None
    value = metric.combine(first.sum(0)) - metric.combine(second.sum(0))
    spread = metric.combine(draws @ first) - metric.combine(draws @ second)
    return _interval(value, spread, len(first))


def _interval(value: Floats, spread: Floats, rows: int) -> Estimate:
    low, high = np.percentile(spread, _LEVELS)
    return Estimate(float(value), float(np.fmin(low, value)), float(np.fmax(high, value)), rows)
