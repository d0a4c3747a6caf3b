"""The measures a gate may name. A new one is a file here and a line below.

No rows give no value: statistics are empty, every combination of them is NaN, and a gate on it is `insufficient`.
"""

from services.evaluator.metrics import bleu, exact_match, loss, perplexity, rouge_l, token_f1
from services.evaluator.metrics.metric import Answered, Floats, Metric, ratio

METRICS: dict[str, Metric] = {
    "exact_match": Metric(exact_match.exact_match, ratio, exact_match.SIGNATURE),
    "token_f1": Metric(token_f1.token_f1, ratio, token_f1.SIGNATURE),
    "rouge_l": Metric(rouge_l.rouge_l, ratio, rouge_l.SIGNATURE),
    "bleu": Metric(bleu.bleu_counts, bleu.bleu, bleu.SIGNATURE),
    "loss": Metric(loss.answer_loss, ratio, loss.SIGNATURE, higher_is_better=False),
    "perplexity": Metric(
        loss.answer_loss, perplexity.perplexity, perplexity.SIGNATURE, higher_is_better=False
    ),
}

__all__ = ["METRICS", "Answered", "Floats", "Metric"]
