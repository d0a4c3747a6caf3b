"""HTTP edge: runs, and how one goes on (`/stream`). Fine-tuning jobs as OpenAI has them are in fine_tuning.py."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services.trainer.domain import ENDED, Run
from services.trainer.service import TrainerService
from shared.auth import Caller, requires
from shared.db import Database
from shared.text import Json, ModelName
from shared.web import HttpWork

Reader = Annotated[Caller, requires("run:read")]
Writer = Annotated[Caller, requires("run:write")]
POLL_SECONDS = 0.5


def make_api(service: TrainerService, db: Database) -> APIRouter:
    router = APIRouter(tags=["runs"])

    @router.get("/runs")
    async def runs(
        work: HttpWork,
        _caller: Reader,
        model: ModelName | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> Json:
        """Newest first; `after` is the last id of the page before."""
        return {"runs": [summary(run) for run in await service.runs(work, model, after, limit)]}

    @router.get("/runs/{run_id}")
    async def run(run_id: str, work: HttpWork, _caller: Reader) -> Json:
        return view(await service.run(work, run_id))

    @router.post("/runs/{run_id}/cancel")
    async def cancel(run_id: str, work: HttpWork, caller: Writer) -> Json:
        return view(await service.cancel(work, run_id, caller.subject))

    async def existing(run_id: str, work: HttpWork, _caller: Reader) -> str:
        return (await service.run(work, run_id)).id

    @router.get("/runs/{run_id}/stream", response_class=EventSourceResponse)
    async def stream(
        run_id: Annotated[str, Depends(existing)],
        _caller: Reader,
        last_event_id: Annotated[int, Header(ge=0, le=2**31 - 1)] = 0,
    ) -> AsyncIterator[ServerSentEvent]:
        """Every announcement of the run after `Last-Event-ID`, then new ones until the run has ended."""
        seen = last_event_id
        while True:
            async with db.unit_of_work() as work:
                ended = (await service.run(work, run_id)).state in ENDED
                entries = await service.entries(work, run_id, seen, 100)
            for entry in entries:
                seen = entry.sequence
                yield ServerSentEvent(id=str(seen), event=entry.status["state"], data=entry.status)
            if ended and not entries:
                return
            if not entries:
                await asyncio.sleep(POLL_SECONDS)

    return router


def summary(run: Run) -> Json:
    """A run in a list."""
    return {
        **run.model_dump(mode="json", exclude={"curve", "recipe", "fruitless", "sequence"}),
        "cost": _cost(run),
    }


def view(run: Run) -> Json:
    """Everything about a run that its owner may want to know."""
    return {**run.model_dump(mode="json", exclude={"fruitless", "sequence"}), "cost": _cost(run)}


def _cost(run: Run) -> Json:
    return run.cost().model_dump(mode="json")
