"""Follow any id: what caused it, what it caused, where it waits and why, and the button that mends it."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from services.console.causality import Step, merge, seconds_between, spent
from services.console.formats import duration
from services.console.session import Monitoring, Visitor, from_our_pages, inside, visits
from services.console.timeline import timeline
from services.console.upstream import segment
from services.console.views import back_to, page
from services.console.waiting import why
from shared.contracts.stories import searched
from shared.contracts.text import Json
from shared.contracts.topology import SERVICES

router = APIRouter()
_LONGEST_ID = 200
_MOST_ROWS = 300


@router.get("/trace")
async def search(request: Request, visitor: Monitoring, id: str = "") -> Response:  # noqa: A002 (what people type)
    """A form; a typed id leads to its story."""
    if typed := id.strip()[:_LONGEST_ID]:
        return RedirectResponse(f"/trace/{segment(typed)}", 303)
    answers = await visitor.everywhere("/pulse")
    newest = sorted(
        (
            {"service": name, **answer.data["sent"]}
            for name, answer in answers.items()
            if answer.good and answer.data["sent"]
        ),
        key=lambda row: row["at"],
        reverse=True,
    )
    return page(
        request,
        visitor,
        "trace_search.html",
        title="Trace",
        live=SERVICES,
        command="driftwheel trace ID",
        newest=newest,
    )


@router.get("/trace/{any_id:path}")
async def story(any_id: str, request: Request, visitor: Monitoring) -> HTMLResponse:
    parts, silent = await collect(visitor, any_id)
    roots, now = merge(parts, silent), datetime.now(UTC)
    rows = _rows(roots)
    waiting = why(roots, parts, silent, now)
    return page(
        request,
        visitor,
        "trace.html",
        title=any_id,
        live=SERVICES,
        command=f"driftwheel trace {any_id}",
        status=200 if roots or silent else 404,
        any_id=any_id,
        silent=silent,
        rows=rows[:_MOST_ROWS],
        left_out=len(rows[_MOST_ROWS:]),
        waiting=waiting,
        times=[(kind, duration(seconds)) for kind, seconds in spent(roots).items() if seconds > 0],
        lanes=timeline(roots, silent, waiting, now),
        began=min((root.at for root in roots), default=""),
        wait_of=lambda row: seconds_between(row["recorded_at"], row["received_at"]),
        work_of=lambda row: seconds_between(row["received_at"], row["handled_at"]),
    )


@router.post("/trace/redrive")
async def redrive(
    request: Request,
    visitor: Annotated[Visitor, visits("admin")],
    service: Annotated[str, Form(pattern="^(" + "|".join(SERVICES) + ")$")],
    event_id: Annotated[str, Form(max_length=500)],
    back: Annotated[str, Form()] = "/trace",
) -> Response:
    from_our_pages(request)
    answer = await visitor.post(service, f"/dead-letters/{segment(event_id)}/redrive")
    said = f"Redriven: {service} gets it again, under its own id." if answer.good else answer.detail
    return back_to(inside(back), said)


async def collect(visitor: Visitor, any_id: str) -> tuple[list[Json], list[str]]:
    """What each service knows of the stories with this id, and which services did not answer."""
    found = await visitor.everywhere(f"/trace/{segment(searched(any_id))}")
    ids = sorted({one for answer in found.values() if answer.good for one in answer.data["correlations"]})[
        :50
    ]
    told = await asyncio.gather(*(visitor.get(name, "/stories", id=ids) for name in SERVICES))
    parts = [answer.data for answer in told if answer.good]
    return parts, [answer.service for answer in told if not answer.good]


def _rows(steps: Sequence[Step], depth: int = 0) -> list[tuple[int, Step, int]]:
    """Depth, step, and how many reports of progress it stands for: a run's many reports are one row."""
    rows: list[tuple[int, Step, int]] = []
    for step in steps:
        reports = [caused for caused in step.causes if _is_progress(caused)]
        kept = [caused for caused in step.causes if caused not in reports[1:]]
        rows.append((depth, step, 1))
        for caused in kept:
            below = _rows([caused], depth + 1)
            if reports and caused is reports[0]:
                below[0] = (depth + 1, caused, len(reports))
            rows += below
    return rows


def _is_progress(step: Step) -> bool:
    return not step.causes and step.payload.get("state") == "progress"
