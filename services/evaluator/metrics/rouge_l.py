"""Longest common subsequence of words. Source: Lin (2004), computed by rouge-score."""

from collections.abc import Sequence

from services.evaluator.metrics.metric import Answered, Floats, mean_of

SIGNATURE = "rouge-score rougeL f-measure, no stemmer"


def rouge_l(answered: Sequence[Answered]) -> Floats:
    """F-measure of ROUGE-L per row; a text without letters or digits gives 0."""
    from rouge_score.rouge_scorer import (
        RougeScorer,
    )  # it brings scipy and pandas: 190 MB for the process of a job alone

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return mean_of([scorer.score(one.reference, one.prediction)["rougeL"].fmeasure for one in answered])
