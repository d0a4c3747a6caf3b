"""How surprising the reference answers are."""

from collections.abc import Sequence

import numpy as np

from services.evaluator.metrics.metric import Answered, Floats

SIGNATURE = "nats per reference token, end of turn included"


def answer_loss(answered: Sequence[Answered]) -> Floats:
    """Negative log-likelihood and tokens of each reference, (rows, 2): combined by `ratio`, long answers weigh more."""
    return np.asarray([(one.nll, one.tokens) for one in answered], dtype=np.float64).reshape(-1, 2)
