"""Corpus BLEU, 0 to 100. Source: Papineni et al. (2002), computed by sacreBLEU with its defaults."""

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU

from services.evaluator.metrics.metric import Answered, Floats

SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp"
_ORDERS = 4
_WIDTH = 2 * _ORDERS + 3


def bleu_counts(answered: Sequence[Answered]) -> Floats:
    """Matched n-grams (n = 1..4), n-grams of the answer, words of answer and reference, rows: (rows, 11)."""
    scorer = BLEU()
    rows = [scorer.corpus_score([one.prediction], [[one.reference]]) for one in answered]
    counts = [[*row.counts, *row.totals, row.sys_len, row.ref_len, 1] for row in rows]
    return np.asarray(counts, dtype=np.float64).reshape(-1, _WIDTH)


def bleu(sums: Floats) -> Floats:
    """BLEU of summed counts; 0 if no word matched, NaN if there were no rows."""
    values = [_one(row) for row in sums.reshape(-1, _WIDTH)]
    return np.asarray(values, dtype=np.float64).reshape(sums.shape[:-1])


def _one(row: Floats) -> float:
    counts = [int(value) for value in row]
    if counts[-1] == 0:
        return float("nan")
    score = BLEU.compute_bleu(
        correct=counts[:_ORDERS],
        total=counts[_ORDERS : 2 * _ORDERS],
        sys_len=counts[-3],
        ref_len=counts[-2],
        smooth_method="exp",
    )
    return float(score.score)
