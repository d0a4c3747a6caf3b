"""The loop: six stations, the events between them, what waits and for whom, and what is wrong."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from services.console import loop
from services.console.session import Monitoring
from services.console.views import page
from shared.contracts.topology import SERVICES

router = APIRouter()
_NEWEST: dict[str, tuple[str, dict[str, str]]] = {
    "data": ("/datasets", {"limit": "1"}),
    "trainer": ("/runs", {"limit": "1"}),
    "evaluator": ("/evaluations", {"limit": "1", "summary": "true"}),
    "registry": ("/models", {"limit": "20"}),
    "serving": ("/rollouts", {"limit": "5"}),
    "monitor": ("/drifts", {"limit": "1"}),
}


@router.get("/")
async def home(request: Request, visitor: Monitoring) -> HTMLResponse:
    asked = asyncio.gather(*(visitor.get(name, path, **params) for name, (path, params) in _NEWEST.items()))
    pulses, answers = await asyncio.gather(visitor.everywhere("/pulse"), asked)
    newest = {answer.service: answer for answer in answers}
    arrows = [loop.arrow(*ends, pulses) for ends in loop.ARROWS]
    return page(
        request,
        visitor,
        "home.html",
        title="The loop",
        live=SERVICES,
        command="driftwheel status",
        stations={station.service: station for station in loop.stations(pulses, newest)},
        arrows={arrow.topic: arrow for arrow in arrows},
        troubles=loop.troubles(pulses, arrows),
        for_people=list(loop.for_people(newest)),
    )
