"""What a metric is: additive statistics per row, and how their sum becomes a value.

Because statistics add up, one matrix product gives a metric on a thousand resamples, corpus metrics included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answered:
    """One row as a metric sees it.

    Attributes:
        prediction: what the subject answered; may be empty.
        reference: the expected answer.
        nll: negative log-likelihood of the reference under the subject, summed over its tokens, in nats.
        tokens: number of those tokens, at least 1.
    """

    prediction: str
    reference: str
    nll: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of answers.

    Attributes:
        statistics: rows -> array (rows, k), additive over rows.
        combine: array (..., k) of sums -> array (...) of values; NaN where nothing was summed.
        higher_is_better: which way a gate reads.
        signature: exactly which variant was computed, for reports.
    """

    statistics: Callable[[Sequence[Answered]], Floats]
    combine: Callable[[Floats], Floats]
    signature: str
    higher_is_better: bool = True

    def per_row(self, answered: Sequence[Answered]) -> Floats:
        """The value of each row alone."""
        return self.combine(self.statistics(answered))


def mean_of(values: Sequence[float]) -> Floats:
    """Statistics whose combination by `ratio` is the mean of `values`."""
    return np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))]).reshape(-1, 2)


def ratio(sums: Floats) -> Floats:
    """First statistic over second; NaN where the second is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value: Floats = sums[..., 0] / sums[..., 1]
    return value
