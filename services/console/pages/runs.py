"""Runs: how far each is, what it costs, how its loss falls; several of them in one chart; and stopping one."""

import asyncio
import shlex
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from services.console.figures import chart, differences, lasted, plain
from services.console.session import Visitor, from_our_pages, visits
from services.console.upstream import Answer, segment
from services.console.views import back_to, page
from shared.contracts.text import Json

router = APIRouter()
_PAGE, _MOST, _ENTRIES, _VERSIONS, _COLOURS = 50, 20, 50, 200, 6
Reader = Annotated[Visitor, visits("run:read")]
Writer = Annotated[Visitor, visits("run:write")]
Typed = Annotated[str, Query(max_length=200)]
Several = Annotated[list[Annotated[str, Query(max_length=64)]], Query(max_length=_PAGE)]
STATES = ("queued", "running", "cancelling", "succeeded", "failed", "cancelled")


@router.get("/runs")
async def runs(
    request: Request, visitor: Reader, model: Typed = "", state: Typed = "", after: Typed = ""
) -> HTMLResponse:
    found = await visitor.get(
        "trainer", "/runs", model=model or None, state=state or None, after=after or None, limit=_PAGE
    )
    filters = {name: value for name, value in (("model", model), ("state", state)) if value}
    more = bool(found.data and found.data["has_more"])
    return page(
        request,
        visitor,
        "runs.html",
        title="Runs",
        live=("trainer",),
        command="driftwheel runs list" + (f" --model {shlex.quote(model)}" if model else ""),
        found=found,
        model=model,
        state=state,
        states=STATES,
        lasted=lasted,
        first="/runs?" + urlencode(filters) if after else "",
        older="/runs?" + urlencode({**filters, "after": found.data["runs"][-1]["id"]}) if more else "",
    )


@router.get("/runs/compare")
async def compare(request: Request, visitor: Reader, run: Several = []) -> HTMLResponse:  # noqa: B006
    chosen = run[:_MOST]
    found = await visitor.get("trainer", "/runs/comparison", run=chosen) if run else None
    rows = found.data["runs"] if found and found.data else []
    known = {row["id"] for row in rows}
    return page(
        request,
        visitor,
        "runs_compare.html",
        title="Runs side by side",
        live=("trainer",),
        command="driftwheel runs list",
        found=found,
        fields=differences([row["recipe"] for row in rows]) if rows else [],
        missing=[one for one in chosen if one not in known] if rows else [],
        left_out=len(run) - len(chosen),
        chart=f"/runs/compare.json?{urlencode([('run', row['id']) for row in rows])}",
        lasted=lasted,
        plain=plain,
    )


@router.get("/runs/compare.json")
async def compare_curves(visitor: Reader, run: Several = []) -> Response:  # noqa: B006
    found = await visitor.get("trainer", "/runs/curves", run=run[:_MOST])
    lines = [
        (one["id"][4:12], one["points"], "validation_loss", place // _COLOURS % 2 == 1)
        for place, one in enumerate(found.data["curves"] if found.data else ())
    ]
    return _drawn(found, chart(lines))


@router.get("/runs/{run_id}")
async def run(request: Request, visitor: Reader, run_id: str, after: Typed = "") -> HTMLResponse:
    path = f"/runs/{segment(run_id)}"
    found, entries = await asyncio.gather(
        visitor.get("trainer", path),
        visitor.get("trainer", f"{path}/entries", after=after or None, limit=_ENTRIES),
    )
    version = await _version(visitor, found.data) if found.data else None
    more = bool(entries.data and entries.data["has_more"])
    return page(
        request,
        visitor,
        "runs_one.html",
        title=f"Run {run_id[:16]}",
        status=404 if found.missing else 200,
        live=("trainer", "registry"),
        command=f"driftwheel runs show {shlex.quote(run_id)}",
        found=found,
        path=path,
        entries=entries,
        after=after,
        older=f"{path}?after={entries.data['entries'][-1]['sequence']}#log" if more else "",
        version=version,
        seconds=lasted(found.data["started_at"], found.data["finished_at"]) if found.data else None,
        open=bool(found.data and found.data["state"] in {"queued", "running"}),
        plain=plain,
    )


@router.get("/runs/{run_id}/curve.json")
async def curve(visitor: Reader, run_id: str) -> Response:
    return await _chart_of(
        visitor, run_id, [("train", "loss", False), ("validation", "validation_loss", True)]
    )


@router.get("/runs/{run_id}/rate.json")
async def rate(visitor: Reader, run_id: str) -> Response:
    return await _chart_of(visitor, run_id, [("learning rate", "learning_rate", False)])


@router.post("/runs/{run_id}/cancel")
async def cancel(request: Request, visitor: Writer, run_id: str) -> RedirectResponse:
    from_our_pages(request)
    path = f"/runs/{segment(run_id)}"
    answer = await visitor.post("trainer", f"{path}/cancel")
    if not answer.good:
        return back_to(path, f"Not cancelled: {answer.detail}")
    stopped = answer.data["state"] == "cancelled"
    return back_to(path, "Cancelled." if stopped else "It stops at its next step.")


async def _version(visitor: Visitor, run: Json) -> Answer | None:
    """What the registry made of the run's adapter; `data` is None inside a good answer's place if it has none yet."""
    if not run["adapter_digest"] or not visitor.may("model:read"):
        return None
    path = f"/models/{segment(run['model'])}/versions"
    found = await visitor.get("registry", path, summary=True, limit=_VERSIONS)
    if not found.data:
        return found
    mine = [one for one in found.data["versions"] if one["run_id"] == run["id"]]
    return Answer("registry", found.status, {"version": mine[0] if mine else None})


async def _chart_of(visitor: Visitor, run_id: str, lines: list[tuple[str, str, bool]]) -> Response:
    found = await visitor.get("trainer", "/runs/curves", run=[run_id])
    curves = found.data["curves"] if found.data else []
    if found.good and not curves:
        return JSONResponse({"detail": "There is no such run."}, 404)
    points = curves[0]["points"] if curves else []
    return _drawn(found, chart([(label, points, name, dash) for label, name, dash in lines]))


def _drawn(found: Answer, drawing: Json) -> Response:
    if found.good:
        return JSONResponse(drawing)
    return JSONResponse({"detail": found.detail}, 503 if found.away else found.status)
