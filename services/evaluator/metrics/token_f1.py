"""Overlap of the words of answer and reference. Source: Rajpurkar et al. (2016), SQuAD, without dropping articles."""

import re
from collections import Counter
from collections.abc import Sequence

from services.evaluator.metrics.metric import Answered, Floats, mean_of

SIGNATURE = "words \\w+, lower case"
_WORD = re.compile(r"\w+")


def token_f1(answered: Sequence[Answered]) -> Floats:
    """Harmonic mean of the share of answer words in the reference and the reverse. No words on both sides count as 1."""
    return mean_of([_f1(_words(one.prediction), _words(one.reference)) for one in answered])


def _words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.lower()))


def _f1(prediction: Counter[str], reference: Counter[str]) -> float:
    total = prediction.total() + reference.total()
    return 2 * (prediction & reference).total() / total if total else 1.0
