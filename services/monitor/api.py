"""HTTP edge of the monitor: windows, verdicts, versions and reports, all read-only."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response

from services.monitor.domain import REPORTS, Window
from services.monitor.store import Store
from shared.auth import Caller, requires
from shared.clock import Clock
from shared.errors import NotFound
from shared.objects import ObjectStore
from shared.text import Identifier, Json, ModelName
from shared.web import HttpWork

Reader = Annotated[Caller, requires("monitor:read")]
Limit = Annotated[int, Query(ge=1, le=500)]

# The page quotes prompts without escaping them: it is handed out as a file, and no script in it may ever run here.
_HARMLESS = {
    "content-security-policy": "sandbox; default-src 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "private",
}


def make_api(objects: ObjectStore, clock: Clock) -> APIRouter:
    router = APIRouter()

    @router.get("/windows")
    async def windows(model: ModelName, work: HttpWork, _caller: Reader, limit: Limit = 50) -> Json:
        """The newest windows of a model."""
        return {"windows": [_window(row) for row in await Store(work).windows(model, limit)]}

    @router.get("/windows/{window_id}")
    async def window(window_id: Identifier, work: HttpWork, _caller: Reader) -> Json:
        return _window(await _known(work, window_id))

    @router.get("/drifts")
    async def drifts(
        work: HttpWork, _caller: Reader, model: ModelName | None = None, limit: Limit = 50
    ) -> Json:
        """The newest verdicts, with where each retraining stands."""
        return {"drifts": [row.model_dump(mode="json") for row in await Store(work).drifts(model, limit)]}

    @router.get("/drifts/{drift_id}")
    async def drift(drift_id: Identifier, work: HttpWork, _caller: Reader) -> Json:
        row = await Store(work).drift(drift_id)
        if row is None:
            raise NotFound("There is no such drift.", "List them: GET /drifts.")
        return {**row.model_dump(mode="json"), "window": _window(await _known(work, row.window_id))}

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
        return {
            "model": model,
            "champion": champion.model_version if champion else None,
            "versions": versions,
            "rollouts": [row.model_dump(mode="json") for row in await store.rollouts(model)],
        }

    @router.get("/reports/{window_id}.html")
    async def report(window_id: Identifier, work: HttpWork, _caller: Reader) -> Response:
        """Evidently's page on a drifted window, as a file to download."""
        row = await _known(work, window_id)
        if not row.has_page:
            raise NotFound("Only a drifted window has a page.", f"Its numbers: GET /windows/{window_id}.")
        page = await objects.get(REPORTS, row.page_key)
        attachment = {"content-disposition": f'attachment; filename="{row.id}.html"'}
        return Response(page, media_type="text/html; charset=utf-8", headers={**_HARMLESS, **attachment})

    return router


async def _known(work: HttpWork, window_id: str) -> Window:
    row = await Store(work).window(window_id)
    if row is None:
        raise NotFound("There is no such window.", "List them: GET /windows?model=….")
    return row


def _window(row: Window) -> Json:
    page = f"/reports/{row.id}.html" if row.has_page else None
    return {**row.model_dump(mode="json", exclude={"feedback_seen", "has_page"}), "page": page}
