"""HTTP edge: evaluations, newest first, and what was answered in them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from services.evaluator.domain import Difference, Kept, Split, State
from services.evaluator.reading import AnswerReader, Change
from services.evaluator.service import EvaluatorService
from shared.contracts.events import ObjectRef, Score, Verdict
from shared.contracts.text import Identifier, ModelName
from shared.http.auth import Caller, requires_for_model, requires_for_some_model
from shared.http.web import HttpWork
from shared.jobs.queue import Ahead, ahead

ReaderOfModel = Annotated[Caller, requires_for_model("eval:read")]
ReaderOfSome = Annotated[Caller, requires_for_some_model("eval:read")]
_MOST_ROWS = 100_000


class EvaluationView(BaseModel):
    """One evaluation. `report` names the object with samples and golden answers, `answers` those with every row.

    `ahead`: asked for alone while it is queued, what is before it.
    """

    model_config = ConfigDict(from_attributes=True)
    id: str
    model: str
    run_id: str
    adapter_digest: str
    base_digest: str
    dataset_digest: str
    champion_version: int | None
    drift_id: str | None
    state: State
    reason: str
    verdict: str | None
    verdicts: list[Verdict]
    scores: list[Score]
    differences: list[Difference]
    answers: dict[Split, Kept]
    report: ObjectRef | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    ahead: Ahead | None = None


class EvaluationList(BaseModel):
    evaluations: list[EvaluationView]


class GateView(BaseModel):
    gate: str
    verdict: Literal["pass", "fail", "insufficient"]


class EvaluationSummary(BaseModel):
    """One evaluation in a list; `candidate` and `champion` are their exact match on the test split."""

    id: str
    model: str
    run_id: str
    adapter_digest: str
    dataset_digest: str
    champion_version: int | None
    drift_id: str | None
    state: State
    reason: str
    verdict: str | None
    gates: list[GateView]
    candidate: Score | None
    champion: Score | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class EvaluationSummaries(BaseModel):
    evaluations: list[EvaluationSummary]


class AnswerPage(BaseModel):
    """Rows with the answer of every subject, as `answers.py` writes them, and how many there are of each kind."""

    evaluation_id: str
    split: Split
    kept: Kept
    answers: list[dict[str, Any]]
    has_more: bool


def make_api(service: EvaluatorService, reader: AnswerReader) -> APIRouter:
    router = APIRouter(tags=["evaluations"])

    @router.get("/evaluations")
    async def evaluations(
        work: HttpWork,
        _caller: ReaderOfModel,
        model: ModelName | None = None,
        after: Identifier | None = None,
        summary: bool = False,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> EvaluationList | EvaluationSummaries:
        """Newest first; `after` is the last id of the page before. `summary` leaves out what only details need."""
        if summary:
            rows = await service.summaries(work, model, after, limit)
            return EvaluationSummaries(evaluations=[EvaluationSummary.model_validate(row) for row in rows])
        found = await service.evaluations(work, model, after, limit)
        return EvaluationList(evaluations=[EvaluationView.model_validate(one) for one in found])

    @router.get("/evaluations/{evaluation_id}")
    async def evaluation(evaluation_id: Identifier, work: HttpWork, caller: ReaderOfSome) -> EvaluationView:
        found = await service.evaluation(work, evaluation_id)
        caller.demand("eval:read", found.model)
        places = await ahead(work, [found.id]) if found.state == "queued" else {}
        return EvaluationView.model_validate(found).model_copy(update={"ahead": places.get(found.id)})

    @router.get("/evaluations/{evaluation_id}/answers")
    async def answers(
        evaluation_id: Identifier,
        work: HttpWork,
        caller: ReaderOfSome,
        split: Split = "test",
        change: Change | None = None,
        after: Annotated[int, Query(ge=-1, le=_MOST_ROWS)] = -1,
        limit: Annotated[int, Query(ge=1, le=200)] = 20,
    ) -> AnswerPage:
        """Regressions first, then improvements, then the rest; `after` is the last position of the page before."""
        one = await service.evaluation(work, evaluation_id)
        caller.demand("eval:read", one.model)
        page = await reader.page(one, split, change, after, limit)
        return AnswerPage(
            evaluation_id=one.id, split=split, kept=page.kept, answers=page.answers, has_more=page.more
        )

    return router
