"""HTTP edge: policies, models, versions, aliases, rollback."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from pydantic import AwareDatetime, Field

from services.registry.catalogue import Catalogue
from services.registry.documents import parse_policy
from services.registry.domain import LogicalModel, VersionState
from services.registry.rules import Aliases
from services.registry.service import Registry
from services.registry.views import (
    HistoryView,
    ModelList,
    ModelView,
    PolicyList,
    PolicyView,
    RollbackView,
    VersionList,
    VersionView,
)
from shared.auth import Caller, requires
from shared.text import Contract, Json, ModelName, Text
from shared.web import HttpWork

_LARGEST = 2_147_483_647
Reader = Annotated[Caller, requires("model:read")]
Writer = Annotated[Caller, requires("model:write")]
Number = Annotated[int, Field(ge=1, le=_LARGEST)]
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


def make_api(registry: Registry, catalogue: Catalogue) -> APIRouter:
    router = APIRouter()

    @router.post("/policies", tags=["policies"], openapi_extra=_POLICY)
    async def apply(document: Annotated[Json, Body()], work: HttpWork, caller: Writer) -> PolicyView:
        """Declare a model, or change its policy; the same policy again changes nothing."""
        applied = await registry.apply(work, parse_policy(document), caller.subject)
        return PolicyView.of(applied.revision, changed=applied.changed)

    @router.get("/policies", tags=["policies"])
    async def policies(work: HttpWork, _caller: Reader, limit: Limit = 100) -> PolicyList:
        return PolicyList(policies=[PolicyView.of(row) for row in await catalogue.policies(work, limit)])

    @router.get("/policies/{model}", tags=["policies"])
    async def policy(
        model: ModelName, work: HttpWork, _caller: Reader, revision: Number | None = None
    ) -> PolicyView:
        return PolicyView.of(await catalogue.policy(work, model, revision))

    @router.get("/models", tags=["models"])
    async def models(work: HttpWork, _caller: Reader, limit: Limit = 100) -> ModelList:
        found = await catalogue.models(work, limit)
        return ModelList(models=[_model(*one) for one in found])

    @router.get("/models/{model}", tags=["models"])
    async def model(model: ModelName, work: HttpWork, _caller: Reader) -> ModelView:
        return _model(*await catalogue.model(work, model))

    @router.get("/models/{model}/versions", tags=["models"])
    async def versions(
        model: ModelName,
        work: HttpWork,
        _caller: Reader,
        state: VersionState | None = None,
        limit: Limit = 100,
    ) -> VersionList:
        aliases, found = await catalogue.versions(work, model, state, limit)
        return VersionList(versions=[VersionView.of(one, aliases) for one in found])

    @router.get("/models/{model}/versions/{number}", tags=["models"])
    async def version(
        model: ModelName, number: Annotated[int, Path(ge=1, le=_LARGEST)], work: HttpWork, _caller: Reader
    ) -> VersionView:
        aliases, found = await catalogue.version(work, model, number)
        return VersionView.of(found, aliases)

    @router.get("/models/{model}/aliases", tags=["models"])
    async def aliases(
        model: ModelName, work: HttpWork, _caller: Reader, at: AwareDatetime | None = None
    ) -> HistoryView:
        """Who is champion and challenger, or who was at the time `at` (ISO 8601 with an offset)."""
        history = await catalogue.history(work, model, at)
        return HistoryView.model_validate(
            {"model": model, "at": at, "aliases": history.aliases._asdict(), "events": list(history.events)}
        )

    @router.post("/models/{model}/rollback", tags=["models"])
    async def rollback(
        model: ModelName, body: RollbackRequest, work: HttpWork, caller: Writer
    ) -> RollbackView:
        moved = await registry.rollback(
            work, model, body.to, body.reason, caller.subject, body.expected_champion
        )
        return RollbackView.model_validate({"model": model, "champion": moved.champion})

    return router


def _model(model: LogicalModel, aliases: Aliases) -> ModelView:
    return ModelView.model_validate({**model.model_dump(), "aliases": aliases._asdict()})
