"""The evaluation report: everything behind a verdict, as one JSON object. Pure.

Deterministic (no times, no host), so that a second run over the same outputs publishes the same object.
`golden` is what serving asks an engine after loading the adapter: it must give `answer`, which differs from `base_answer`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from services.evaluator.domain import Difference, Kept, Split
from services.evaluator.gates import Measured, Place
from services.evaluator.metrics import METRICS, Answered, Floats
from services.evaluator.outputs import Outputs
from services.evaluator.rows import Row
from shared.contracts.events import Score, Subject, Verdict
from shared.contracts.text import Json

SAMPLES = 20
GOLDEN = 8
RIVALS: Mapping[Split, Sequence[Subject]] = {
    "test": ("champion", "few_shot", "base"),
    "champion_test": ("champion",),
}


class Answers(NamedTuple):
    """What was measured at one place: its rows, and an output for each of them by row key."""

    rows: Sequence[Row]
    outputs: Outputs

    def answered(self) -> list[Answered]:
        """In the order of the rows."""
        outputs = [self.outputs[row.key] for row in self.rows]
        return [
            Answered(one.answer, row.answer, one.nll, one.tokens)
            for row, one in zip(self.rows, outputs, strict=True)
        ]


def build(
    about: Json,
    answers: Mapping[Place, Answers],
    scores: Sequence[Score],
    verdicts: Sequence[Verdict],
    verdict: str,
    golden: Sequence[Json],
    differences: Sequence[Difference] = (),
    kept: Mapping[Split, Kept] | None = None,
) -> Json:
    """`about` says what was compared and how; the rest is what came out. `kept` names where all answers are."""
    return {
        **about,
        "metrics": {name: metric.signature for name, metric in METRICS.items()},
        "rows": {place.split: len(found.rows) for place, found in answers.items()},
        "verdict": verdict,
        "verdicts": [one.model_dump(mode="json") for one in verdicts],
        "scores": [one.model_dump(mode="json") for one in scores],
        "differences": [one.model_dump(mode="json") for one in differences],
        "answers": {split: one.model_dump(mode="json") for split, one in (kept or {}).items()},
        "samples": {split: samples(answers, split) for split in RIVALS},
        "golden": list(golden),
    }


def encode(report: Json) -> bytes:
    return json.dumps(
        report, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode()


def samples(answers: Mapping[Place, Answers], split: Split) -> list[Json]:
    """Up to 20 rows with the answer of every subject; first those where the candidate lost most against its best rival.

    The rival is the champion, or without one the few-shot base, or the base. Worse: a lower mean of exact match and token F1.
    """
    found = of_split(answers, split)
    if "candidate" not in found:
        return []
    rows = found["candidate"].rows
    rival = rival_of(found, split)
    change = np.subtract(quality(found["candidate"].answered()), quality(found[rival].answered()))
    worst = np.lexsort((np.arange(len(rows)), change))[:SAMPLES]
    return [
        {
            "row": rows[index].key,
            "messages": [turn._asdict() for turn in rows[index].prompt],
            "reference": rows[index].answer,
            "answers": {name: one.outputs[rows[index].key].answer for name, one in found.items()},
            "change": float(change[index]),
            "rival": rival,
        }
        for index in map(int, worst)
    ]


def of_split(answers: Mapping[Place, Answers], split: Split) -> dict[Subject, Answers]:
    return {place.subject: one for place, one in answers.items() if place.split == split}


def rival_of(found: Mapping[Subject, Answers], split: Split) -> Subject:
    """Whom the candidate is compared with, row by row; itself if nobody else answered."""
    return next((name for name in RIVALS[split] if name in found), "candidate")


def quality(answered: Sequence[Answered]) -> Floats:
    """Mean of exact match and token F1, per row."""
    value: Floats = (METRICS["token_f1"].per_row(answered) + METRICS["exact_match"].per_row(answered)) / 2
    return value


def golden(answers: Mapping[Place, Answers], max_tokens: int) -> list[Json]:
    """Up to 8 questions that tell the adapter from the base in any engine.

    Chosen: answers unlike the base's; complete ones first, then the most certain (the largest smallest lead of a token
    over the next best), so that another number format or kernel gives the same; different answers before repetitions.
    """
    candidate, base = answers.get(Place("candidate", "test")), answers.get(Place("base", "test"))
    if candidate is None or base is None:
        return []
    telling = [
        (candidate.outputs[row.key], base.outputs[row.key].answer, row)
        for row in candidate.rows
        if _tells(candidate.outputs[row.key].answer, base.outputs[row.key].answer)
    ]
    telling.sort(key=lambda one: (not one[0].finished, -one[0].margin, one[2].key))
    first = {output.answer: output.row for output, _, _ in reversed(telling)}
    telling.sort(key=lambda one: first[one[0].answer] != one[0].row)
    return [
        {
            "messages": [turn._asdict() for turn in row.prompt],
            "answer": output.answer,
            "base_answer": base_answer,
            "max_tokens": max_tokens,
            "margin": output.margin,
        }
        for output, base_answer, row in telling[:GOLDEN]
    ]


def _tells(answer: str, base_answer: str) -> bool:
    """Half a character at the end of a cut answer is not the same text in every engine."""
    return bool(answer.strip()) and answer.strip() != base_answer.strip() and "\ufffd" not in answer


def measured(answers: Mapping[Place, Answers]) -> Measured:
    return {place: one.answered() for place, one in answers.items()}
