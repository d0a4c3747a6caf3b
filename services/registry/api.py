"""HTTP edge: policies, models, versions, aliases, rollback."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from pydantic import Field

from services.registry.catalogue import Catalogue
from services.registry.documents import parse_policy
from services.registry.domain import VersionState
from services.registry.restating import Restating
from services.registry.service import Registry
from services.registry.views import (
    CardView,
    HistoryView,
    ModelList,
    ModelView,
    PolicyList,
    PolicyView,
    PreviewView,
    RevisionList,
    RollbackView,
    TrafficView,
    VersionList,
    VersionSummaries,
    VersionSummary,
    VersionView,
)
from shared.contracts.text import Contract, Digest, Json, ModelName, Moment, Text
from shared.http.auth import Caller, requires, requires_for_model, requires_for_some_model
from shared.http.web import HttpWork

_LARGEST = 2_147_483_647
ReaderOfSome = Annotated[Caller, requires_for_some_model("model:read")]
Reader = Annotated[Caller, requires_for_model("model:read")]
Writer = Annotated[Caller, requires_for_model("model:write")]
WriterOfAll = Annotated[Caller, requires("model:write")]
Declarer = Annotated[Caller, requires_for_some_model("model:write")]
Number = Annotated[int, Field(ge=1, le=_LARGEST)]
PathNumber = Annotated[int, Path(ge=1, le=_LARGEST)]
Limit = Annotated[int, Query(ge=1, le=1_000)]
_POLICY: dict[str, Any] = {
    "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Policy"}}}}
}


class RollbackRequest(Contract):
    """Move the champion back: to version `to`, or to the one before.

    `expected_champion` guards against rolling back twice: the call is refused if somebody else is champion by now.
    """

    reason: Text = Field(min_length=1, max_length=1_000)
    to: Number | None = None
    expected_champion: Number | None = None


def make_api(registry: Registry, catalogue: Catalogue, restating: Restating) -> APIRouter:
    router = APIRouter()

    @router.post("/policies", tags=["policies"], openapi_extra=_POLICY)
    async def apply(document: Annotated[Json, Body()], work: HttpWork, caller: Declarer) -> PolicyView:
        """Declare a model, or change its policy; the same policy again changes nothing."""
        policy = parse_policy(document)
        caller.demand("model:write", policy.model)
        applied = await registry.apply(work, policy, caller.subject)
        return PolicyView.of(applied.revision, changed=applied.changed)

    @router.get("/policies", tags=["policies"])
    async def policies(work: HttpWork, caller: ReaderOfSome, limit: Limit = 100) -> PolicyList:
        """The current ones, of the caller's models."""
        found = await catalogue.policies(work, limit, caller.reach("model:read"))
        return PolicyList(policies=[PolicyView.of(row) for row in found])

    @router.get("/policies/{model}", tags=["policies"])
    async def policy(
        model: ModelName, work: HttpWork, _caller: Reader, revision: Number | None = None
    ) -> PolicyView:
        return PolicyView.of(await catalogue.policy(work, model, revision))

    @router.get("/policies/{model}/revisions", tags=["policies"])
    async def revisions(
        model: ModelName, work: HttpWork, _caller: Reader, after: Number | None = None, limit: Limit = 100
    ) -> RevisionList:
        """Newest first; `after` is the last revision of the page before."""
        found = await catalogue.revisions(work, model, after, limit)
        return RevisionList.model_validate({"revisions": found})

    @router.get("/models", tags=["models"])
    async def models(
        work: HttpWork, caller: ReaderOfSome, after: ModelName | None = None, limit: Limit = 100
    ) -> ModelList:
        """The caller's, by name; `after` is the last name of the page before."""
        found = await catalogue.models(work, after or "", limit, caller.reach("model:read"))
        return ModelList(models=[ModelView.of(row) for row in found])

    @router.get("/models/{model}", tags=["models"])
    async def model(model: ModelName, work: HttpWork, _caller: Reader) -> ModelView:
        return ModelView.of(await catalogue.model(work, model))

    @router.get("/models/{model}/versions", tags=["models"])
    async def versions(
        model: ModelName,
        work: HttpWork,
        _caller: Reader,
        state: VersionState | None = None,
        after: Digest | None = None,
        summary: bool = False,
        limit: Limit = 100,
    ) -> VersionList | VersionSummaries:
        """Newest first; `after` is the last adapter of the page before. `summary` leaves out what only details need."""
        if summary:
            aliases, rows = await catalogue.summaries(work, model, state, after, limit)
            return VersionSummaries(versions=[VersionSummary.of(row, aliases) for row in rows])
        aliases, found = await catalogue.versions(work, model, state, after, limit)
        return VersionList(versions=[VersionView.of(one, aliases) for one in found])

    @router.get("/models/{model}/versions/{number}", tags=["models"])
    async def version(model: ModelName, number: PathNumber, work: HttpWork, _caller: Reader) -> VersionView:
        aliases, found = await catalogue.version(work, model, number)
        return VersionView.of(found, aliases)

    @router.get("/models/{model}/versions/{number}/traffic", tags=["models"])
    async def traffic(model: ModelName, number: PathNumber, work: HttpWork, _caller: Reader) -> TrafficView:
        """When it was challenger and champion, and how far its rollouts came."""
        return TrafficView.model_validate((await catalogue.traffic(work, model, number))._asdict())

    @router.get("/models/{model}/versions/{number}/card", tags=["models"])
    async def card(model: ModelName, number: PathNumber, work: HttpWork, _caller: Reader) -> CardView:
        digest, text = await catalogue.card(work, model, number)
        return CardView(adapter_digest=digest, text=text)

    @router.get("/models/{model}/aliases", tags=["models"])
    async def aliases(
        model: ModelName,
        work: HttpWork,
        _caller: Reader,
        at: Moment | None = None,
        before: Number | None = None,
        limit: Annotated[int, Query(ge=0, le=1_000)] = 1_000,
    ) -> HistoryView:
        """Who is champion and challenger, or who was at the time `at` (ISO 8601 with an offset).

        With the newest `limit` alias events until then, in order; `before` is the first sequence of the page after.
        """
        history = await catalogue.history(work, model, at, before, limit)
        return HistoryView.model_validate(
            {"model": model, "at": at, "aliases": history.aliases._asdict(), "events": list(history.events)}
        )

    @router.get("/models/{model}/rollback", tags=["models"])
    async def preview(
        model: ModelName, work: HttpWork, _caller: Reader, to: Number | None = None
    ) -> PreviewView:
        """What a rollback would do now; refused as the rollback itself would be."""
        return PreviewView.model_validate(
            {"model": model, **(await catalogue.preview(work, model, to))._asdict()}
        )

    @router.post("/models/{model}/rollback", tags=["models"])
    async def rollback(
        model: ModelName, body: RollbackRequest, work: HttpWork, caller: Writer
    ) -> RollbackView:
        moved = await registry.rollback(
            work, model, body.to, body.reason, caller.subject, body.expected_champion
        )
        return RollbackView.model_validate({"model": model, "champion": moved.champion})

    @router.post("/restatements", tags=["models"])
    async def restate(_caller: WriterOfAll) -> Json:
        """Announce all policies and champions again, for a service whose database is new. Nobody else takes notice."""
        return {"events": await restating.restate()}

    return router
