"""HTTP edge: runs, and how one goes on (`/stream`). Fine-tuning jobs as OpenAI has them are in fine_tuning.py."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Field

from services.trainer.domain import ENDED, Entry, Run, State
from services.trainer.service import TrainerService
from shared.contracts.text import Digest, Json, ModelName
from shared.delivery.unit_of_work import Database
from shared.http.auth import Caller, requires_for_model, requires_for_some_model
from shared.http.web import HttpWork
from shared.jobs.queue import ahead

ReaderOfModel = Annotated[Caller, requires_for_model("run:read")]
ReaderOfSome = Annotated[Caller, requires_for_some_model("run:read")]
Writer = Annotated[Caller, requires_for_some_model("run:write")]
Several = Annotated[
    list[Annotated[str, Field(pattern=r"^run-[0-9a-f]{24}$")]], Query(min_length=1, max_length=20)
]
POLL_SECONDS = 0.5
_LARGEST = 2**31 - 1


def make_api(service: TrainerService, db: Database) -> APIRouter:
    router = APIRouter(tags=["runs"])

    @router.get("/runs")
    async def runs(
        work: HttpWork,
        _caller: ReaderOfModel,
        model: ModelName | None = None,
        state: State | None = None,
        dataset: Digest | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> Json:
        """Newest first; `after` is the last id of the page before."""
        models = None if model is None else {model}
        found = await service.runs(work, models, after, limit + 1, state, dataset)
        return {"runs": [summary(run) for run in found[:limit]], "has_more": len(found) > limit}

    async def these(work: HttpWork, ids: list[str], caller: Caller) -> list[Run]:
        return [run for run in await service.these(work, ids) if caller.may("run:read", run.model)]

    @router.get("/runs/comparison")
    async def comparison(run: Several, work: HttpWork, caller: ReaderOfSome) -> Json:
        """Up to 20 runs with recipe and best point; what does not exist, or is of no model of the caller, is left out."""
        return {"runs": [compared(one) for one in await these(work, run, caller)]}

    @router.get("/runs/curves")
    async def curves(run: Several, work: HttpWork, caller: ReaderOfSome) -> Json:
        """The loss curves of up to 20 runs; what does not exist, or is of no model of the caller, is left out."""
        return {"curves": [curve(one) for one in await these(work, run, caller)]}

    @router.get("/runs/{run_id}")
    async def run(run_id: str, work: HttpWork, caller: ReaderOfSome) -> Json:
        found = await service.run(work, run_id)
        caller.demand("run:read", found.model)
        places = await ahead(work, [found.id]) if found.state == "queued" else {}
        return {**view(found), "ahead": places.get(found.id)}

    @router.post("/runs/{run_id}/cancel")
    async def cancel(run_id: str, work: HttpWork, caller: Writer) -> Json:
        caller.demand("run:write", (await service.run(work, run_id)).model)
        return view(await service.cancel(work, run_id, caller.subject))

    @router.get("/runs/{run_id}/entries")
    async def entries(
        run_id: str,
        work: HttpWork,
        caller: ReaderOfSome,
        after: Annotated[int | None, Query(ge=0, le=_LARGEST)] = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 50,
    ) -> Json:
        """Every announcement of the run, newest first; `after` is the last sequence of the page before."""
        run = await service.run(work, run_id)
        caller.demand("run:read", run.model)
        before = run.sequence + 1 if after is None else after
        found = await service.entries(work, run_id, before, limit + 1, newest=True)
        return {"entries": [entry_view(entry) for entry in found[:limit]], "has_more": len(found) > limit}

    async def existing(run_id: str, work: HttpWork, caller: ReaderOfSome) -> str:
        run = await service.run(work, run_id)
        caller.demand("run:read", run.model)
        return run.id

    @router.get("/runs/{run_id}/stream", response_class=EventSourceResponse)
    async def stream(
        run_id: Annotated[str, Depends(existing)],
        _caller: ReaderOfSome,
        last_event_id: Annotated[int, Header(ge=0, le=_LARGEST)] = 0,
    ) -> AsyncIterator[ServerSentEvent]:
        """Every announcement of the run after `Last-Event-ID`, then new ones until the run has ended."""
        seen = last_event_id
        while True:
            async with db.unit_of_work() as work:
                ended = (await service.run(work, run_id)).state in ENDED
                news = await service.entries(work, run_id, seen, 100)
            for entry in news:
                seen = entry.sequence
                yield ServerSentEvent(id=str(seen), event=entry.status["state"], data=entry.status)
            if ended and not news:
                return
            if not news:
                await asyncio.sleep(POLL_SECONDS)

    return router


def summary(run: Run) -> Json:
    """A run in a list."""
    return {
        **run.model_dump(mode="json", exclude={"curve", "recipe", "fruitless", "sequence"}),
        "method": run.recipe["method"],
        "cost": _cost(run),
    }


def compared(run: Run) -> Json:
    """A run beside others."""
    return {**summary(run), "recipe": run.recipe, "best": run.best()}


def curve(run: Run) -> Json:
    return {"id": run.id, "model": run.model, "state": run.state, "points": run.curve}


def entry_view(entry: Entry) -> Json:
    return {"sequence": entry.sequence, "at": entry.at.isoformat(), **entry.status}


def view(run: Run) -> Json:
    """Everything about a run that its owner may want to know."""
    return {
        **run.model_dump(mode="json", exclude={"fruitless", "sequence"}),
        "best": run.best(),
        "cost": _cost(run),
    }


def _cost(run: Run) -> Json:
    return run.cost().model_dump(mode="json")
