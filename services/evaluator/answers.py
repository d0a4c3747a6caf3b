"""Every measured row with what each subject answered, as JSON lines: regressions first, then improvements. Pure.

One object per split, bounded in bytes: what does not fit is at the end, where nothing changed. Deterministic like the report.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from services.evaluator.domain import Kept, Split
from services.evaluator.gates import Place
from services.evaluator.metrics import METRICS, Floats
from services.evaluator.outputs import BUCKET
from services.evaluator.report import RIVALS, Answers, of_split, quality, rival_of
from shared.artifacts.objects import object_key
from shared.contracts.events import Subject
from shared.contracts.text import Json

LARGEST = 16 * 1_048_576
"""Most bytes of one object."""
LONGEST = 2_000
"""Most characters of one text; a longer one is cut and ends with an ellipsis."""
PER_ROW = ("exact_match", "token_f1", "loss")
KINDS = ("regression", "improvement", "same")


class AnswerSheet(NamedTuple):
    """An object to publish, and how the evaluation refers to it."""

    kept: Kept
    data: bytes


class _Ranked(NamedTuple):
    """Rows by index: what became of each, by how much, and which comes first."""

    kinds: list[int]
    change: Floats
    order: list[int]


def sheets(answers: Mapping[Place, Answers], largest: int = LARGEST) -> dict[Split, AnswerSheet]:
    """One sheet for every split that the candidate was asked."""
    found = {split: of_split(answers, split) for split in RIVALS}
    return {split: _sheet(split, by, largest) for split, by in found.items() if "candidate" in by}


def _sheet(split: Split, found: Mapping[Subject, Answers], largest: int) -> AnswerSheet:
    rival = rival_of(found, split)
    ranked = _rank(found["candidate"], found[rival])
    lines, size = [], 0
    for line in _lines(found, ranked):
        size += len(line)
        if size > largest:
            break
        lines.append(line)
    data = b"".join(lines)
    digest = hashlib.sha256(data).hexdigest()
    kept = Kept(
        bucket=BUCKET,
        key=object_key(digest, f"answers-{split}.jsonl"),
        sha256=digest,
        rival=rival,
        rows=len(ranked.order),
        kept=len(lines),
        regressions=ranked.kinds.count(0),
        improvements=ranked.kinds.count(1),
    )
    return AnswerSheet(kept, data)


def _rank(candidate: Answers, rival: Answers) -> _Ranked:
    """Regressions with the largest loss first, improvements with the largest gain, then the rest as regressions."""
    mine, theirs = candidate.answered(), rival.answered()
    right, was_right = (METRICS["exact_match"].per_row(one) == 1 for one in (mine, theirs))
    change = quality(mine) - quality(theirs)
    kinds = np.select([was_right & ~right, right & ~was_right], [0, 1], 2)
    order = np.lexsort(
        (np.where(kinds == 1, -change, change), kinds)
    )  # stable: ties stay in the order of rows
    return _Ranked(kinds.tolist(), change, order.tolist())


def _lines(found: Mapping[Subject, Answers], ranked: _Ranked) -> Iterator[bytes]:
    values = {
        name: {metric: METRICS[metric].per_row(one.answered()) for metric in PER_ROW}
        for name, one in found.items()
    }
    for index in ranked.order:
        row = found["candidate"].rows[index]
        line: Json = {
            "row": row.key,
            "change": KINDS[ranked.kinds[index]],
            "difference": float(ranked.change[index]),
            "messages": [{"role": turn.role, "content": _cut(turn.content)} for turn in row.prompt],
            "reference": _cut(row.answer),
            "answers": {
                name: {
                    "answer": _cut(one.outputs[row.key].answer),
                    "finished": one.outputs[row.key].finished,
                    **{metric: float(values[name][metric][index]) for metric in PER_ROW},
                }
                for name, one in found.items()
            },
        }
        yield json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
