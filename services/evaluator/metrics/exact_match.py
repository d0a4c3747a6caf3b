"""Share of answers that equal the reference."""

from collections.abc import Sequence

from services.evaluator.metrics.metric import Answered, Floats, mean_of

SIGNATURE = "case-sensitive, white space collapsed"


def exact_match(answered: Sequence[Answered]) -> Floats:
    """1 where prediction and reference are the same words in the same order, else 0; two empty texts are the same."""
    return mean_of([float(one.prediction.split() == one.reference.split()) for one in answered])
