"""HTTP edge: evaluations, newest first."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from services.evaluator.domain import State
from services.evaluator.service import EvaluatorService
from shared.auth import Caller, requires
from shared.events import ObjectRef, Score, Verdict
from shared.text import Identifier, ModelName
from shared.web import HttpWork

Reader = Annotated[Caller, requires("eval:read")]


class EvaluationView(BaseModel):
    """One evaluation. `report` names the object with samples and golden answers."""

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
    report: ObjectRef | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class EvaluationList(BaseModel):
    evaluations: list[EvaluationView]


def make_api(service: EvaluatorService) -> APIRouter:
    router = APIRouter(tags=["evaluations"])

    @router.get("/evaluations")
    async def evaluations(
        work: HttpWork,
        _caller: Reader,
        model: ModelName | None = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> EvaluationList:
        found = await service.evaluations(work, model, limit)
        return EvaluationList(evaluations=[EvaluationView.model_validate(one) for one in found])

    @router.get("/evaluations/{evaluation_id}")
    async def evaluation(evaluation_id: Identifier, work: HttpWork, _caller: Reader) -> EvaluationView:
        return EvaluationView.model_validate(await service.evaluation(work, evaluation_id))

    return router
