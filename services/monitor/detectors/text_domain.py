"""Evidently's text drift: can a classifier (TF-IDF, SGD) tell the window's prompts from the training prompts?

The score is its ROC AUC on a held-out half: 0.5 = no, 1 = always. Left alone, Evidently compares the score of a small
sample with the 95th percentile of a random classifier (a thousand draws, most of its time), which cries wolf once in
twenty looks. We give it our bar: an effect (the declared score) *and* more than chance reaches once in a hundred looks.
"""

import math
from collections.abc import Sequence

from services.monitor.detectors.measurement import Measurement, NotMeasurableError
from services.monitor.detectors.words import typical

MIN_TEXTS = 20
_Z99 = 2.3263478740408408  # 99th percentile of the standard normal distribution
_COLUMN = "prompt"


def text_domain(reference: Sequence[str], current: Sequence[str], min_score: float) -> Measurement:
    """Raises NotMeasurableError: too few texts, or no word to tell them by."""
    if min(len(reference), len(current)) < MIN_TEXTS:
        raise NotMeasurableError(
            f"{len(reference)} training prompts and {len(current)} served ones; each needs {MIN_TEXTS}"
        )
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    bar = max(min_score, chance(len(reference) // 2, len(current) // 2))
    definition = DataDefinition(text_columns=[_COLUMN])

    def dataset(texts: Sequence[str]) -> Dataset:
        return Dataset.from_pandas(pd.DataFrame({_COLUMN: list(texts)}), data_definition=definition)

    drift = ValueDrift(column=_COLUMN, method="abs_text_content_drift", threshold=bar)
    try:
        snapshot = Report([drift]).run(dataset(current), dataset(reference))
    except ValueError as error:  # an empty vocabulary, or a half that holds one class only
        raise NotMeasurableError(f"the prompts hold nothing to compare: {str(error)[:200]}") from error
    report = snapshot.dict()
    score = float(report["metrics"][0]["value"])
    if not math.isfinite(score):
        raise NotMeasurableError("the classifier gave no finite score")
    return Measurement(
        score=score,
        bar=bar,
        report={**report, "words": typical(reference, current)},
        page=snapshot.get_html_str(as_iframe=False),
    )


def chance(negatives: int, positives: int) -> float:
    """The ROC AUC that a random score exceeds once in a hundred tries.

    Under no difference the AUC is a scaled Mann-Whitney U: mean 1/2, variance (m+n+1)/(12mn).
    """
    deviation = math.sqrt((negatives + positives + 1) / (12 * negatives * positives))
    return min(1.0, 0.5 + _Z99 * deviation)
