"""Events of all services, newest first: what each sent and what came from outside; by topic and by any id."""

import shlex
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from services.console.merged import newest, silent
from services.console.session import Monitoring
from services.console.views import page
from shared.contracts.events import EVENTS
from shared.contracts.text import Json
from shared.contracts.topology import SERVICES

router = APIRouter()
Typed = Annotated[str, Query(max_length=200)]
_PAGE = 50
_TOLD, _LONGEST = 6, 40


@router.get("/events")
async def events(
    request: Request,
    visitor: Monitoring,
    topic: Typed = "",
    id: Typed = "",  # noqa: A002 (what people type)
    after: Annotated[str, Query(max_length=1_200)] = "",
) -> HTMLResponse:
    kept = {name: value for name, value in (("topic", topic.strip()), ("id", id.strip())) if value}
    answers = await visitor.everywhere("/events", **kept, after=after or None, limit=_PAGE)
    rows, following = newest(answers, "events", "at", _PAGE)
    return page(
        request,
        visitor,
        "events.html",
        title="Events",
        live=() if after else SERVICES,
        command=_command(kept),
        rows=[{**row, "told": told(row["payload"])} for row in once(rows)],
        silent=silent(answers),
        all_silent=len(silent(answers)) == len(SERVICES),
        topics=[event.topic for event in EVENTS],
        topic=topic,
        id=id,
        after=after,
        first="/events?" + urlencode(kept) if after else "",
        older="/events?" + urlencode({**kept, "after": following}) if following else "",
    )


def once(rows: list[Json]) -> list[Json]:
    """An event from outside is in the list of each service that read it: shown once, with all of their names."""
    shown: list[Json] = []
    foreign: dict[str, Json] = {}
    for row in rows:
        if row["state"] != "received":
            shown.append(row)
        elif row["event_id"] in foreign:
            foreign[row["event_id"]]["readers"].append(row["service"])
        else:
            foreign[row["event_id"]] = {**row, "readers": [row["service"]]}
            shown.append(foreign[row["event_id"]])
    return shown


def told(payload: Json) -> str:
    """The first values of a payload, in one line."""
    parts = [f"{name} {str(value)[:_LONGEST]}" for name, value in list(payload.items())[:_TOLD]]
    return " · ".join(parts)


def _command(kept: dict[str, str]) -> str:
    named = f" --topic {shlex.quote(kept['topic'])}" if "topic" in kept else ""
    if "id" in kept:
        return f"driftwheel events search --id {shlex.quote(kept['id'])}{named}"
    return f"driftwheel events tail --beginning{named}"
