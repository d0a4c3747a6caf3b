"""Drift: windows of traffic against what the serving version was trained on, and what came of what they said."""

import asyncio
import shlex
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from services.console.formats import parsed
from services.console.session import Visitor, visits
from services.console.upstream import Answer, segment
from services.console.views import page
from shared.contracts.errors import NotFound
from shared.contracts.text import Json

router = APIRouter()
Reader = Annotated[Visitor, visits("monitor:read")]
Typed = Annotated[str, Query(max_length=200)]
_PAGE, _CHART, _PAST, _BUILDS = 50, 200, 50, 100
HOURS = {1: "hour", 24: "day", 168: "week", 720: "30 days"}

SANDBOX = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data:; font-src data:; frame-ancestors 'self'"
)
"""Evidently's page quotes prompts without escaping them: its scripts run, but without an origin, cookies or network."""

FACTS: dict[str, tuple[str, str]] = {
    "quality_loss": ("Loss of quality", "percent"),
    "error_rate": ("Failed answers", "percent"),
    "latency_p99_ms": ("Latency p99", "milliseconds"),
    "windows_drifted": ("Windows that drifted", "number"),
}
"""What each fact is called and how it is written; any other is a detector's score (ROC AUC)."""


@router.get("/drift")
async def drift(
    request: Request,
    visitor: Reader,
    model: Typed = "",
    after: Typed = "",
    hours: Annotated[int, Query(ge=1, le=2_160)] = 24,
) -> HTMLResponse:
    watched = await visitor.get("monitor", "/watched")
    models = [row["model"] for row in watched.data["watched"]] if watched.data else []
    shown = model or (models[0] if models else "")
    windows, drifts, health = await asyncio.gather(
        visitor.get("monitor", "/windows", model=shown or None, after=after or None, limit=_PAGE),
        visitor.get("monitor", "/drifts", model=shown or None, limit=_PAST),
        visitor.get("monitor", "/health-of-versions", model=shown or "-", hours=hours),
    )
    more = bool(windows.data and windows.data["has_more"])
    query = {"model": shown, "hours": hours}
    return page(
        request,
        visitor,
        "drift.html",
        title="Drift",
        live=("monitor",),
        command="driftwheel drifts list" + (f" --model {shlex.quote(shown)}" if shown else ""),
        watched=watched,
        models=models,
        model=shown,
        rule=_of(watched, shown),
        windows=windows,
        drifts=drifts,
        health=health,
        hours=hours,
        spans=HOURS,
        first="/drift?" + urlencode(query) if after else "",
        older="/drift?" + urlencode({**query, "after": windows.data["windows"][-1]["id"]}) if more else "",
    )


@router.get("/drift/scores.json")
async def scores(visitor: Reader, model: Typed) -> Response:
    """Score against its bar, and quality against its bound, window by window."""
    found = await visitor.get("monitor", "/windows", model=model, limit=_CHART)
    if not found.data:
        return JSONResponse({"detail": found.detail}, 503 if found.away else found.status)
    return JSONResponse(series(found.data["windows"]))


@router.get("/drift/{window_id}")
async def window(request: Request, visitor: Reader, window_id: str) -> Response:
    if window_id.startswith("drift-"):
        return await _window_of(visitor, window_id)
    found = await visitor.get("monitor", f"/windows/{segment(window_id)}")
    one = found.data or {}
    model = one.get("model", "-")
    drifts, watched, numbers = await asyncio.gather(
        visitor.get("monitor", "/drifts", window=window_id, limit=_PAST),
        visitor.get("monitor", "/watched", model=model),
        visitor.get("monitor", f"/reports/{segment(window_id)}.json"),
    )
    announced = drifts.data["drifts"] if one and drifts.data else []
    retrain = next((row for row in announced if row["verdict"] == "retrain"), None)
    return page(
        request,
        visitor,
        "drift_one.html",
        title=f"Window of {one['model']}:{one['model_version']}" if one else f"Window {window_id[:16]}",
        status=404 if found.missing else 200,
        live=("monitor", "data") if retrain and retrain["state"] != "ended" else ("monitor",),
        command=f"driftwheel drifts show {shlex.quote(announced[0]['id'] if announced else window_id)}",
        found=found,
        path=f"/drift/{segment(window_id)}",
        drifts=announced,
        rule=_of(watched, model),
        facts=[fact(item) for item in one.get("evidence", ())],
        quality=quality(one) if one else None,
        words=((numbers.data or {}).get("report") or {}).get("words", []),  # reports from before have none
        numbers=numbers,
        cooled=[cooled_until(row, _of(watched, model)) for row in announced],
        build=await _build(visitor, retrain),
    )


@router.get("/drift/{window_id}/report")
async def report(visitor: Reader, window_id: str, download: bool = False) -> Response:
    """Evidently's page as it is, in a sandbox of its own. Raises NotFound."""
    found = await visitor.upstream.raw(visitor.token, "monitor", f"/reports/{segment(window_id)}.html")
    if found is None:
        raise NotFound(
            "There is no report of this window, or nobody can hand it out now.",
            "Only a window that drifted has one. Look: driftwheel status.",
        )
    headers = {"content-security-policy": SANDBOX, "x-content-type-options": "nosniff"}
    if download:
        headers["content-disposition"] = f'attachment; filename="{segment(window_id)}.html"'
    return Response(found.content, media_type="text/html; charset=utf-8", headers=headers)


async def _window_of(visitor: Visitor, drift_id: str) -> Response:
    """Other pages know a drift by its own id. Raises NotFound."""
    found = await visitor.get("monitor", f"/drifts/{segment(drift_id)}")
    if not found.data:
        raise NotFound(found.detail, found.next_step)
    return RedirectResponse(f"/drift/{segment(found.data['window_id'])}", 303)


async def _build(visitor: Visitor, retrain: Json | None) -> Json | None:
    """The wish for a dataset that a drift made, as the data service tells it; None if it is not known (any more)."""
    if retrain is None or not visitor.may("data:read"):
        return None
    found = await visitor.get("data", "/datasets", model=retrain["model"], limit=_BUILDS)
    builds: list[Json] = found.data["datasets"] if found.data else []
    return next((build for build in builds if build["drift_id"] == retrain["id"]), None)


def _of(watched: Answer, model: str) -> Json | None:
    rows: list[Json] = watched.data["watched"] if watched.data else []
    return next((row for row in rows if row["model"] == model), None)


def series(windows: Sequence[Json]) -> Json:
    """The chart of measured windows, oldest first; all values are shares or ROC AUC, 0 to 1."""
    shown = [one for one in reversed(windows) if one["state"] == "measured" and parsed(one["ended_at"])]
    lines = {
        "drift score": (False, [one["score"] for one in shown]),
        "counts as drift": (True, [one["bar"] for one in shown]),
        "quality": (False, [one["mean_score"] for one in shown]),
        "hurts below": (True, [_bound(one) for one in shown]),
    }
    times = [moment.timestamp() for one in shown if (moment := parsed(one["ended_at"]))]
    return {
        "x": times,
        "x_label": "time",
        "format": "number",
        "series": [
            {"label": label, "values": values, "dash": dash} for label, (dash, values) in lines.items()
        ],
    }


def _bound(window: Json) -> float | None:
    found = quality(window)
    bound: float | None = found["bound"] if found else None
    return bound


def quality(window: Json) -> Json | None:
    """What was promised and what was seen; None while too few answers are scored to say. All 0 to 1."""
    loss = next((item for item in window["evidence"] if item["name"] == "quality_loss"), None)
    if loss is None or window["mean_score"] is None:
        return None
    promised = window["mean_score"] + loss["value"]
    return {"promised": promised, "seen": window["mean_score"], "bound": promised - loss["threshold"]}


def fact(item: Json) -> dict[str, Any]:
    """A fact with its name and unit, and where value and bar lie on an axis from 0 (0.5 for ROC AUC) up."""
    name, unit = FACTS.get(item["name"], (f"Drift score ({item['name']})", "score"))
    low = 0.5 if unit == "score" else 0.0
    high = 1.0 if unit == "score" else max(item["value"], item["threshold"] * 1.6, 1e-9)
    places = {key: min(max((item[key] - low) / (high - low), 0.0), 1.0) for key in ("value", "threshold")}
    return {**item, "label": name, "unit": unit, "at": places}


def cooled_until(drift: Json, rule: Json | None) -> str | None:
    """When a verdict as loud as this one may be announced again."""
    at = parsed(drift["announced_at"])
    if rule is None or at is None:
        return None
    quiet: float = rule["retrain"]["cooldown_seconds"]
    return (at + timedelta(seconds=quiet)).isoformat()
