"""Datasets: what was read, what was kept and why not the rest, where it came from, what was trained on it."""

import asyncio
import shlex
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from services.console.figures import bins, funnel, lasted
from services.console.session import Visitor, from_our_pages, visits
from services.console.upstream import Answer, segment
from services.console.views import back_to, page

router = APIRouter()
Reader = Annotated[Visitor, visits("data:read")]
Writer = Annotated[Visitor, visits("data:write")]
Typed = Annotated[str, Query(max_length=200)]
STATES = ("queued", "waiting", "running", "ready", "failed", "superseded", "cancelled")
SPLITS = ("train", "validation", "test")
_PAGE, _FEW = 50, 20


@router.get("/datasets")
async def datasets(
    request: Request, visitor: Reader, model: Typed = "", state: Typed = "", after: Typed = ""
) -> HTMLResponse:
    found = await visitor.get(
        "data", "/datasets", model=model or None, state=state or None, after=after or None, limit=_PAGE
    )
    filters = {name: value for name, value in (("model", model), ("state", state)) if value}
    return page(
        request,
        visitor,
        "datasets.html",
        title="Datasets",
        live=("data",),
        command="driftwheel datasets list" + (f" --model {shlex.quote(model)}" if model else ""),
        found=found,
        model=model,
        state=state,
        states=STATES,
        splits=SPLITS,
        lasted=lasted,
        first="/datasets?" + urlencode(filters) if after else "",
        older=_older(found, filters),
    )


@router.get("/datasets/{any_id}")
async def dataset(request: Request, visitor: Reader, any_id: str, against: Typed = "") -> HTMLResponse:
    found = await visitor.get("data", f"/datasets/{segment(any_id)}")
    build = found.data or {}
    digest = build.get("digest")
    runs, others, diff = await asyncio.gather(
        _runs(visitor, build), _others(visitor, build), _diff(visitor, build, against)
    )
    return page(
        request,
        visitor,
        "datasets_one.html",
        title=f"Dataset {(digest or any_id)[:12]}",
        status=404 if found.missing else 200,
        live=("data", "trainer"),
        command=f"driftwheel datasets show {shlex.quote(any_id)}",
        found=found,
        any_id=any_id,
        path=f"/datasets/{segment(any_id)}",
        open=build.get("state") in {"queued", "waiting", "running"},
        funnel=funnel(build) if build else [],
        characters=bins(build.get("lengths", {}).get("characters")),
        tokens=bins(build.get("lengths", {}).get("tokens")),
        splits=SPLITS,
        seconds=lasted(build.get("created_at"), build.get("finished_at")),
        runs=runs,
        others=others,
        against=against,
        diff=diff,
    )


@router.post("/datasets/{any_id}/cancel")
async def cancel(request: Request, visitor: Writer, any_id: str) -> RedirectResponse:
    from_our_pages(request)
    path = f"/datasets/{segment(any_id)}"
    answer = await visitor.post("data", f"{path}/cancel")
    return back_to(path, "Cancelled." if answer.good else f"Not cancelled: {answer.detail}")


async def _runs(visitor: Visitor, build: dict[str, str]) -> Answer | None:
    """What was trained on it, and could be: None while it is no dataset, or for who may not see runs."""
    if not build.get("digest") or not visitor.may("run:read"):
        return None
    return await visitor.get("trainer", "/runs", model=build["model"], dataset=build["digest"], limit=_FEW)


async def _others(visitor: Visitor, build: dict[str, str]) -> list[dict[str, str]]:
    """Datasets of the same model that it can be compared with, newest first, each once."""
    if not build.get("digest"):
        return []
    found = await visitor.get("data", "/datasets", model=build["model"], state="ready", limit=_PAGE)
    seen = {build["digest"]}
    others = []
    for other in found.data["datasets"] if found.data else ():
        if other["digest"] not in seen:
            seen.add(other["digest"])
            others.append(other)
    return others


async def _diff(visitor: Visitor, build: dict[str, str], against: str) -> Answer | None:
    if not against or not build.get("id"):
        return None
    return await visitor.get("data", f"/datasets/{segment(build['id'])}/diff", against=against)


def _older(found: Answer, filters: dict[str, str]) -> str:
    if not found.data or not found.data["has_more"]:
        return ""
    return "/datasets?" + urlencode({**filters, "after": found.data["datasets"][-1]["id"]})
