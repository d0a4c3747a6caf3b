"""Metrics against values worked out by hand or by the libraries' own entry points."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluator.metrics import METRICS, Answered


def answered(prediction: str, reference: str, nll: float = 1.0, tokens: int = 1) -> Answered:
    return Answered(prediction, reference, nll, tokens)


def value(name: str, rows: list[Answered]) -> float:
    metric = METRICS[name]
    return float(metric.combine(metric.statistics(rows).sum(0)))


@pytest.mark.parametrize(
    ("name", "prediction", "reference", "expected"),
    [
        ("exact_match", "card_declined", "card_declined", 1.0),
        ("exact_match", " card  declined\n", "card declined", 1.0),
        ("exact_match", "Card declined", "card declined", 0.0),
        ("exact_match", "", "", 1.0),
        ("exact_match", "", "yes", 0.0),
        ("token_f1", "the card", "card", 2 / 3),
        ("token_f1", "Card!", "card", 1.0),
        ("token_f1", "a a a", "a", 0.5),
        ("token_f1", "", "", 1.0),
        ("token_f1", "", "yes", 0.0),
        ("token_f1", "no", "yes", 0.0),
        ("rouge_l", "police killed the gunman", "police kill the gunman", 0.75),
        ("rouge_l", "the gunman police", "police the gunman", 2 / 3),
        ("rouge_l", "", "yes", 0.0),
        ("bleu", "one two three four", "one two three four", 100.0),
        ("bleu", "five", "one two three four", 0.0),
        ("bleu", "", "one", 0.0),
    ],
)
def test_one_row(name: str, prediction: str, reference: str, expected: float) -> None:
    assert value(name, [answered(prediction, reference)]) == pytest.approx(expected)


def test_losses_weigh_tokens() -> None:
    rows = [answered("", "", nll=1.0, tokens=1), answered("", "", nll=9.0, tokens=3)]
    assert value("loss", rows) == pytest.approx(10 / 4)
    assert value("perplexity", rows) == pytest.approx(math.exp(2.5))
    assert value("perplexity", [answered("", "", nll=1e4)]) == math.inf


def test_corpus_bleu_is_sacrebleus_own() -> None:
    import sacrebleu

    predictions = ["the cat sat on the mat today", "a quick brown dog jumped", "", "hello there my friend"]
    references = [
        "the cat is on the mat today",
        "the quick brown fox jumped over",
        "words",
        "hello there my friend",
    ]
    rows = [answered(p, r) for p, r in zip(predictions, references, strict=True)]
    assert value("bleu", rows) == pytest.approx(sacrebleu.corpus_bleu(predictions, [references]).score)
    scorer = sacrebleu.metrics.BLEU()
    scorer.corpus_score(predictions, [references])
    assert str(scorer.get_signature()).startswith(METRICS["bleu"].signature)


@pytest.mark.parametrize("name", METRICS)
def test_no_rows_have_no_value(name: str) -> None:
    metric = METRICS[name]
    statistics = metric.statistics([])
    assert len(statistics) == 0
    assert math.isnan(float(metric.combine(statistics.sum(0))))


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@pytest.mark.parametrize("name", METRICS)
@given(rows=st.lists(st.tuples(texts, texts, st.floats(0, 50), st.integers(1, 20)), min_size=1, max_size=6))
def test_statistics_add_up_and_any_text_is_survived(
    name: str, rows: list[tuple[str, str, float, int]]
) -> None:
    metric = METRICS[name]
    made = [Answered(*row) for row in rows]
    statistics = metric.statistics(made)
    each = np.concatenate([metric.statistics([row]) for row in made])
    assert statistics.shape[0] == len(rows)
    assert np.allclose(statistics, each)
    total = float(metric.combine(statistics.sum(0)))
    assert 0 <= total <= (100.001 if name == "bleu" else math.inf if name in {"loss", "perplexity"} else 1)
    assert metric.per_row(made).shape == (len(rows),)
