"""HTTP edge of the monitor: models, windows, verdicts, versions and reports, all read-only."""

import json
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response

from services.monitor.domain import REPORTS, Drift, Promotion, Watched, Window
from services.monitor.evidence import interval
from services.monitor.store import Store
from shared.artifacts.objects import ObjectStore
from shared.contracts.errors import NotFound
from shared.contracts.text import Identifier, Json, ModelName
from shared.http.auth import Caller, requires_for_model, requires_for_some_model
from shared.http.web import HttpWork
from shared.service.clock import Clock

Reader = Annotated[Caller, requires_for_model("monitor:read")]
ReaderOfSome = Annotated[Caller, requires_for_some_model("monitor:read")]
Limit = Annotated[int, Query(ge=1, le=500)]

# The page quotes prompts without escaping them: it is handed out as a file, and no script in it may ever run here.
_HARMLESS = {
    "content-security-policy": "sandbox; default-src 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "private",
}


def make_api(objects: ObjectStore, clock: Clock) -> APIRouter:
    router = APIRouter()

    @router.get("/watched")
    async def watched(work: HttpWork, _caller: Reader, model: ModelName | None = None) -> Json:
        """Declared models: what counts as drift, what holds a retraining, and who serves with which promise."""
        return {"watched": [watched_view(*pair) for pair in await Store(work).all_watched(model)]}

    @router.get("/windows")
    async def windows(
        work: HttpWork,
        _caller: Reader,
        model: ModelName | None = None,
        after: Identifier | None = None,
        limit: Limit = 50,
    ) -> Json:
        """The newest windows; `after` is the last id of the page before."""
        last = await _known(work, after) if after else None
        found = await Store(work).windows(model, limit + 1, last)
        return {"windows": [window_view(row) for row in found[:limit]], "has_more": len(found) > limit}

    @router.get("/windows/{window_id}")
    async def window(window_id: Identifier, work: HttpWork, caller: ReaderOfSome) -> Json:
        row = await _known(work, window_id)
        caller.demand("monitor:read", row.model)
        return window_view(row)

    @router.get("/drifts")
    async def drifts(
        work: HttpWork,
        _caller: Reader,
        model: ModelName | None = None,
        window: Annotated[list[Identifier] | None, Query(max_length=500)] = None,
        after: Identifier | None = None,
        limit: Limit = 50,
    ) -> Json:
        """The newest verdicts, with where each retraining stands; `window` may be given more than once."""
        last = await _announced(work, after) if after else None
        found = await Store(work).drifts(model, limit + 1, last, window)
        return {"drifts": [drift_view(row) for row in found[:limit]], "has_more": len(found) > limit}

    @router.get("/drifts/{drift_id}")
    async def drift(drift_id: Identifier, work: HttpWork, caller: ReaderOfSome) -> Json:
        row = await _announced(work, drift_id)
        caller.demand("monitor:read", row.model)
        return {**drift_view(row), "window": window_view(await _known(work, row.window_id))}

    @router.get("/health-of-versions")
    async def health_of_versions(
        model: ModelName, work: HttpWork, _caller: Reader, hours: Annotated[int, Query(ge=1, le=2_160)] = 24
    ) -> Json:
        """Quality, latency and errors of every version that answered in the last `hours`."""
        store = Store(work)
        champion = await store.champion(model)
        promised = {row.model_version: row.quality for row in await store.promotions(model)}
        versions = await store.versions(model, clock.now() - timedelta(hours=hours))
        for version in versions:
            version["promised"] = promised.get(version["model_version"])
            version["error_rate"] = version["errors"] / version["answers"]
            version["error_interval"] = _interval(version["error_rate"], version["answers"])
            version["score_interval"] = _interval(version["mean_score"], version["scored"])
        return {
            "model": model,
            "champion": champion.model_version if champion else None,
            "versions": versions,
            "rollouts": [row.model_dump(mode="json") for row in await store.rollouts(model)],
        }

    @router.get("/reports/{window_id}.html")
    async def report(window_id: Identifier, work: HttpWork, caller: ReaderOfSome) -> Response:
        """Evidently's page on a drifted window, as a file to download."""
        row = await _known(work, window_id)
        caller.demand("monitor:read", row.model)
        if not row.has_page:
            raise NotFound("Only a drifted window has a page.", f"Its numbers: GET /windows/{window_id}.")
        page = await objects.get(REPORTS, row.page_key)
        attachment = {"content-disposition": f'attachment; filename="{row.id}.html"'}
        return Response(page, media_type="text/html; charset=utf-8", headers={**_HARMLESS, **attachment})

    @router.get("/reports/{window_id}.json")
    async def numbers(window_id: Identifier, work: HttpWork, caller: ReaderOfSome) -> Json:
        """What the detector measured on a window, and the words that tell it from the training set."""
        row = await _known(work, window_id)
        caller.demand("monitor:read", row.model)
        if row.report_sha256 is None:
            raise NotFound("This window was not measured.", f"Why: GET /windows/{window_id}.")
        document: Json = json.loads(await objects.get(REPORTS, row.report_key))
        return document

    return router


async def _announced(work: HttpWork, drift_id: str) -> Drift:
    row = await Store(work).drift(drift_id)
    if row is None:
        raise NotFound("There is no such drift.", "List them: GET /drifts.")
    return row


async def _known(work: HttpWork, window_id: str) -> Window:
    row = await Store(work).window(window_id)
    if row is None:
        raise NotFound("There is no such window.", "List them: GET /windows?model=….")
    return row


def _interval(mean: float | None, n: int) -> Json | None:
    """95 %."""
    found = interval(mean, n)
    return found._asdict() if found else None


def window_view(row: Window) -> Json:
    page = f"/reports/{row.id}.html" if row.has_page else None
    view = row.model_dump(mode="json", exclude={"feedback_seen", "has_page"})
    return {**view, "score_interval": _interval(row.mean_score, row.scored), "page": page}


def drift_view(row: Drift) -> Json:
    return {**row.model_dump(mode="json"), "state": row.state}


def watched_view(row: Watched, champion: Promotion | None) -> Json:
    return {
        **row.model_dump(mode="json"),
        "champion": champion.model_version if champion else None,
        "promised": champion.quality if champion else None,
        "promoted_at": champion.promoted_at.isoformat() if champion else None,
    }
