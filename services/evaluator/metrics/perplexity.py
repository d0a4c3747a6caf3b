"""The loss as an effective number of choices per token."""

import numpy as np

from services.evaluator.metrics.metric import Floats, ratio

SIGNATURE = "exp of the loss"


def perplexity(sums: Floats) -> Floats:
    """exp(nats per token) of `answer_loss` sums; infinite when the loss is beyond about 709 nats."""
    with np.errstate(over="ignore"):
        value: Floats = np.exp(ratio(sums))
    return value
