"""Rollouts: how far each came, what its next test waits for, and the numbers it is judged on against their bounds."""

import shlex
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from services.console.formats import parsed
from services.console.session import Visitor, from_our_pages, visits
from services.console.upstream import segment
from services.console.views import back_to, page
from shared.contracts.text import Json

router = APIRouter()
Reader = Annotated[Visitor, visits("model:read")]
Writer = Annotated[Visitor, visits("model:write")]
Typed = Annotated[str, Query(max_length=200)]
_PAGE = 50

GUARDS: dict[str, tuple[str, str]] = {
    "errors": ("Failed answers", "share of the challenger's answers that failed"),
    "quality": (
        "Loss of mean score",
        "champion's mean score minus the challenger's; below 0 the challenger is better",
    ),
    "latency": ("Slow answers", "share of the challenger's answers slower than the tolerated multiple"),
}
"""What each guard of a step measures, in the unit of its bound: a share."""
VERDICTS: dict[str, tuple[str, str]] = {
    "fine": ("within the bound", "good"),
    "unsure": ("over it, perhaps by chance", "warn"),
    "worse": ("worse, not by chance", "bad"),
    "unmeasured": ("not measured", "plain"),
}
DONE = {"pause": "Paused", "resume": "Resumed", "abort": "Aborted"}


class Drawn(NamedTuple):
    """A guard on its own axis; places run from 0 to 1."""

    guard: str
    name: str
    meaning: str
    says: str
    kind: str
    text: str
    value: float | None
    low: float | None
    high: float | None
    bound: float
    at: dict[str, float | None]


@router.get("/rollouts")
async def rollouts(request: Request, visitor: Reader, model: Typed = "", after: Typed = "") -> HTMLResponse:
    found = await visitor.get("serving", "/rollouts", model=model or None, after=after or None, limit=_PAGE)
    filters = {"model": model} if model else {}
    more = bool(found.data and found.data["has_more"])
    return page(
        request,
        visitor,
        "rollouts.html",
        title="Rollouts",
        live=("serving",),
        command="driftwheel rollouts list" + (f" --model {shlex.quote(model)}" if model else ""),
        found=found,
        model=model,
        seconds=lasted,
        first="/rollouts?" + urlencode(filters) if after else "",
        older="/rollouts?" + urlencode({**filters, "after": found.data["rollouts"][-1]["id"]})
        if more
        else "",
    )


@router.get("/rollouts/{rollout_id}")
async def rollout(request: Request, visitor: Reader, rollout_id: str) -> HTMLResponse:
    found = await visitor.get("serving", f"/rollouts/{segment(rollout_id)}")
    one = found.data or {}
    judged = judgement(one)
    return page(
        request,
        visitor,
        "rollouts_one.html",
        title=f"Rollout of {one['model']}:{one['model_version']}" if one else f"Rollout {rollout_id[:12]}",
        status=404 if found.missing else 200,
        live=("serving",),
        command=f"driftwheel rollouts show {shlex.quote(rollout_id)}",
        found=found,
        path=f"/rollouts/{segment(rollout_id)}",
        is_open=one.get("state") in {"pending", "running"},
        judged=judged,
        guards=[drawn(guard) for guard in judged["guards"]] if judged else [],
        share=share(judged) if judged else None,
        tested={guard: len(tests(one, guard)) for guard in GUARDS} if one else {},
        names=GUARDS,
        drawn=drawn,
        seconds=lasted(one) if one else None,
    )


@router.get("/rollouts/{rollout_id}/tests.json")
async def chart(visitor: Reader, rollout_id: str, guard: Typed = "quality") -> Response:
    """One guard over all tests: its value and interval against its bound."""
    found = await visitor.get("serving", f"/rollouts/{segment(rollout_id)}")
    if not found.data:
        return JSONResponse({"detail": found.detail}, 503 if found.away else found.status)
    made = tests(found.data, guard)
    lines = (
        ("value", "value", False),
        ("low", "low", True),
        ("high", "high", True),
        ("bound", "bound", True),
    )
    return JSONResponse(
        {
            "x": [at for at, _ in made],
            "x_label": "time",
            "format": "percent",
            "series": [
                {"label": label, "values": [measured[key] for _, measured in made], "dash": dash}
                for label, key, dash in lines
            ],
        }
    )


@router.post("/rollouts/{rollout_id}/{verb}")
async def act(
    request: Request, visitor: Writer, rollout_id: str, verb: str, reason: Annotated[str, Form()] = ""
) -> RedirectResponse:
    """Pause, resume or abort: what of it is possible now, serving knows."""
    from_our_pages(request)
    path = f"/rollouts/{segment(rollout_id)}"
    if verb not in DONE:
        return back_to(path, "There is no such action.")
    body: Json = {} if verb == "resume" else {"reason": reason.strip()}
    answer = await visitor.post("serving", f"{path}/{verb}", body)
    if not answer.good:
        return back_to(path, f"Not {DONE[verb].lower()}: {answer.detail}")
    return back_to(path, f"{DONE[verb]}.")


def lasted(one: Json) -> float | None:
    """Seconds from its first traffic to its end; None while it has no end."""
    start, end = parsed(one["started_at"]), parsed(one["ended_at"])
    return (end - start).total_seconds() if start and end else None


def judgement(one: Json) -> Json | None:
    """While it runs the next test as it would turn out now; of one that ended, the last that was made."""
    if not one or one["state"] in {"pending", "running"}:
        return one.get("judgement")
    made: list[Json] = [change["judgement"] for change in one["changes"] if change["judgement"]]
    return made[-1] if made else one["judgement"]


def tests(one: Json, guard: str) -> list[tuple[float, Json]]:
    """When each test that counted was made (seconds since 1970) and what a guard measured in it, oldest first."""
    return [
        (at.timestamp(), measured)
        for change in one["changes"]
        if (at := parsed(change["at"])) and change["judgement"] and change["judgement"]["due"]
        for measured in change["judgement"]["guards"]
        if measured["guard"] == guard and measured["value"] is not None
    ]


def share(judged: Json) -> Json | None:
    """The challenger's part of the answers of this step; None without answers to compare."""
    by = {arm["arm"]: arm["answers"] for arm in judged["arms"]}
    total = sum(by.values())
    if "champion" not in by or not total:
        return None
    return {"challenger": by["challenger"], "total": total, "share": by["challenger"] / total}


def drawn(guard: Json) -> Drawn:
    """Its interval and bound on one axis that holds both, and 0."""
    name, meaning = GUARDS.get(guard["guard"], (guard["guard"], ""))
    says, kind = VERDICTS.get(guard["verdict"], (guard["verdict"], "plain"))
    known: list[Any] = [guard[key] for key in ("value", "low", "high") if guard[key] is not None]
    left, right = min([0.0, *known]), max([guard["bound"] * 2, *known])
    span = (right - left) * 1.04 or 1.0

    def place(value: float | None) -> float | None:
        return None if value is None else (value - left) / span

    at = {key: place(guard[key]) for key in ("value", "low", "high", "bound")} | {"zero": place(0.0)}
    return Drawn(
        guard["guard"],
        name,
        meaning,
        says,
        kind,
        guard["text"],
        guard["value"],
        guard["low"],
        guard["high"],
        guard["bound"],
        at,
    )
