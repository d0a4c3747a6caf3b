"""Evaluations: what was measured, how sure it is, what the gates said, and every answer side by side, worst first."""

import asyncio
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from services.console.formats import parsed
from services.console.session import Visitor, visits
from services.console.upstream import Answer, segment
from services.console.views import page
from shared.contracts.text import Json

router = APIRouter()
Evaluating = Annotated[Visitor, visits("eval:read")]

LIST = "driftwheel events tail --topic model.evaluated --beginning"
PAGE = 50
ROWS = 20
MINE = "candidate"
SUBJECTS = {"candidate": "Candidate", "champion": "Champion", "few_shot": "Few-shot base", "base": "Base"}
"""Who was asked, in the order of the columns."""
CHANGES = {"": "All", "regression": "Regressions", "improvement": "Improvements", "same": "The rest"}
SPLITS = {
    "test": "The candidate's own test set",
    "champion_test": "The champion's test set: what was forgotten",
}
UNFINISHED = {"queued", "running"}


@router.get("/evaluations")
async def evaluations(
    request: Request, visitor: Evaluating, model: str = "", after: str = ""
) -> HTMLResponse:
    found = await visitor.get(
        "evaluator", "/evaluations", summary=True, limit=PAGE, model=model or None, after=after or None
    )
    rows = found.data["evaluations"] if found.good else []
    return page(
        request,
        visitor,
        "evaluations.html",
        title="Evaluations",
        live=("evaluator",),
        command=LIST,
        found=found,
        model=model,
        first=not after,
        seconds={row["id"]: seconds(row) for row in rows},
        older=address("/evaluations", model=model, after=rows[-1]["id"]) if len(rows) == PAGE else "",
    )


@router.get("/evaluations/{evaluation_id}")
async def evaluation(
    request: Request,
    visitor: Evaluating,
    evaluation_id: str,
    split: str = "test",
    change: str = "",
    after: Annotated[int, Query(ge=-1)] = -1,
) -> HTMLResponse:
    path = f"/evaluations/{segment(evaluation_id)}"
    one, answers = await asyncio.gather(
        visitor.get("evaluator", path),
        visitor.get(
            "evaluator", f"{path}/answers", split=split, change=change or None, after=after, limit=ROWS
        ),
    )
    found = one.data or {}
    unfinished = found.get("state") in UNFINISHED
    return page(
        request,
        visitor,
        "evaluations_one.html",
        title=f"Evaluation {evaluation_id}",
        live=("evaluator",) if unfinished else (),
        command=f"driftwheel trace {found['id']}" if found else LIST,
        status=404 if one.missing else 200,
        one=one,
        evaluation_id=evaluation_id,
        unfinished=unfinished,
        seconds=seconds(found),
        measured={name: metrics(found, name) for name in SPLITS},
        answers=answers,
        tabs=tabs(path, found, split, change),
        subjects=SUBJECTS,
        splits=SPLITS,
        split=split,
        older=more(path, answers, split, change),
    )


def seconds(one: Json) -> float | None:
    """From start to end; None while it has not ended."""
    started, finished = parsed(one.get("started_at")), parsed(one.get("finished_at"))
    return (finished - started).total_seconds() if started and finished else None


def metrics(one: Json, split: str) -> list[Json]:
    """One entry per metric of a split: who reached what, on one scale, and how far the candidate is ahead of each.

    `scale` is what the right end of every interval's track stands for; `direction` is None where nobody compared.
    """
    scores = [score for score in one.get("scores", []) if score["split"] == split]
    ahead = {
        (gap["metric"], gap["versus"]): gap for gap in one.get("differences", []) if gap["split"] == split
    }
    return [
        _metric(name, [score for score in scores if score["metric"] == name], ahead)
        for name in dict.fromkeys(score["metric"] for score in scores)
    ]


def _metric(name: str, scores: list[Json], ahead: dict[tuple[str, str], Json]) -> Json:
    by = {score["subject"]: score for score in scores}
    gaps = {subject: {**gap, **verdict(gap)} for subject in by if (gap := ahead.get((name, subject)))}
    directions = {gap["higher_is_better"] for gap in gaps.values()}
    return {
        "name": name,
        "n": max(score["n"] for score in scores),
        "higher_is_better": directions.pop() if directions else None,
        "scale": max([1.0, *(score["high"] for score in scores)]),
        "scores": [{**by[subject], "gap": gaps.get(subject)} for subject in SUBJECTS if subject in by],
    }


def verdict(gap: Json) -> Json:
    """What a paired difference says: an interval around 0 says nothing either way."""
    if gap["low"] <= 0 <= gap["high"]:
        return {"says": "no clear difference", "kind": "soft"}
    better = (gap["value"] > 0) == gap["higher_is_better"]
    return {"says": "better", "kind": "good-text"} if better else {"says": "worse", "kind": "bad-text"}


def tabs(path: str, one: Json, split: str, change: str) -> list[tuple[str, str, bool]]:
    """Label, address, and whether it is the one on show: the splits, then the kinds of rows with their counts."""
    kept = one.get("answers", {})
    found = [
        (f"On {name.replace('_', ' ')}", address(path, split=name) + "#answers", name == split)
        for name in SPLITS
        if name in kept and len(kept) > 1
    ]
    return found + [
        (
            f"{label} ({counts(kept[split])[name]:,})",
            address(path, split=split, change=name) + "#answers",
            name == change,
        )
        for name, label in CHANGES.items()
        if split in kept
    ]


def counts(kept: Json) -> dict[str, int]:
    changed = kept["regressions"] + kept["improvements"]
    return {
        "": kept["rows"],
        "regression": kept["regressions"],
        "improvement": kept["improvements"],
        "same": kept["rows"] - changed,
    }


def more(path: str, answers: Answer, split: str, change: str) -> str:
    if not answers.good or not answers.data["has_more"]:
        return ""
    last = answers.data["answers"][-1]["position"]
    return address(path, split=split, change=change, after=str(last)) + "#answers"


def address(path: str, **params: str) -> str:
    """A path with the parameters that have a value."""
    known = {name: value for name, value in params.items() if value != ""}
    return f"{path}?{urlencode(known)}" if known else path
