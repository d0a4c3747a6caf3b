"""HTTP edge: OpenAI's routes and feedback under /v1, rollouts beside them."""

from http import HTTPStatus
from typing import Annotated, Any, Self

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, StringConstraints, model_validator

from services.serving import progress, store
from services.serving.domain import Change, Feedback, PendingFeedback, Rollout
from services.serving.gateway import Gateway
from services.serving.incoming import cause_of
from services.serving.judgements import Accepted, Judgements
from services.serving.live import Live
from services.serving.requests import ChatRequest, CompletionRequest
from services.serving.rollouts import arm_statistics
from services.serving.routing import Target
from services.serving.service import Judged, ServingService
from shared.contracts.errors import NotFound
from shared.contracts.text import Contract, Identifier, Json, ModelName, Share, Text
from shared.http.auth import Caller, requires_for_model, requires_for_some_model
from shared.http.web import HttpWork

Chatter = Annotated[Caller, requires_for_some_model("chat")]
Reader = Annotated[Caller, requires_for_some_model("model:read")]
ReaderOfModel = Annotated[Caller, requires_for_model("model:read")]
Writer = Annotated[Caller, requires_for_some_model("model:write")]
Judge = Annotated[Caller, requires_for_some_model("feedback")]
RolloutId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]{36}$")]


_ACCEPTED = (
    "Kept, and joined with its answer as soon as that is written. Where no such answer comes, it is dropped."
)


class Judgement(Contract):
    """Was an answer right? `answer_id` is its x-answer-id header, or the id in its body."""

    answer_id: Identifier
    score: Share | None = Field(None, description="1 is right, 0 is wrong.")
    correct: bool | None = Field(None, description="Instead of a score.")
    corrected: Annotated[Text, Field(min_length=1, max_length=8_000)] | None = Field(
        None, description="The answer it should have been."
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.score is None) == (self.correct is None):
            raise ValueError("give exactly one of score and correct")
        return self

    def value(self) -> float:
        return float(self.score if self.score is not None else bool(self.correct))


class Stop(Contract):
    """Why a person stops a rollout, for a while or for good; it stays in its history."""

    reason: Annotated[Text, Field(min_length=1, max_length=500)]


def make_api(service: ServingService, gateway: Gateway, live: Live, judgements: Judgements) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", tags=["answers"], openapi_extra=_body(ChatRequest))
    async def chat(request: Request, caller: Chatter) -> Response:
        return await gateway.answer("chat/completions", request, caller)

    @router.post("/v1/completions", tags=["answers"], openapi_extra=_body(CompletionRequest))
    async def completions(request: Request, caller: Chatter) -> Response:
        return await gateway.answer("completions", request, caller)

    @router.get("/v1/models", tags=["answers"])
    async def models(caller: Chatter) -> Json:
        return {"object": "list", "data": model_cards(live, caller)}

    @router.get("/v1/models/{name}", tags=["answers"])
    async def model(name: str, caller: Chatter) -> Json:
        for card in model_cards(live, caller):
            if card["id"] == name:
                return card
        raise NotFound("There is no such model here.", "List the models: GET /v1/models.")

    @router.post("/v1/feedback", tags=["feedback"], responses={202: {"description": _ACCEPTED}})
    async def feedback(body: Judgement, request: Request, response: Response, caller: Judge) -> Json:
        answer_id = body.answer_id.removeprefix("chatcmpl-").removeprefix("cmpl-")
        cause, now, reach = cause_of(request), service.now(), caller.reach("feedback")
        models = None if reach is None else tuple(sorted(reach))
        kept = await judgements.take(
            Judged(answer_id, body.value(), body.corrected, caller.subject, cause, now, models)
        )
        if not isinstance(kept, Feedback):
            response.status_code = HTTPStatus.ACCEPTED
        return feedback_view(kept, body.corrected)

    @router.get("/rollouts", tags=["rollouts"])
    async def rollouts(
        work: HttpWork,
        _caller: ReaderOfModel,
        model: ModelName | None = None,
        after: RolloutId | None = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> Json:
        """Newest first; `after` is the last id of the page before."""
        found = await service.rollouts(work, model, after, limit + 1)
        return {"rollouts": [rollout_view(one) for one in found[:limit]], "has_more": len(found) > limit}

    async def demand(work: HttpWork, caller: Caller, scope: str, rollout_id: str) -> None:
        caller.demand(scope, (await service.known_rollout(work, rollout_id)).model)

    @router.get("/rollouts/{rollout_id}", tags=["rollouts"])
    async def rollout(rollout_id: RolloutId, work: HttpWork, caller: Reader) -> Json:
        """A rollout, its ramp, the next test as it would turn out now, and what happened, oldest first."""
        await demand(work, caller, "model:read", rollout_id)
        found, stats, changes = await service.rollout(work, rollout_id)
        statistics = arm_statistics(found, stats) if stats else ()
        return {
            **rollout_view(found),
            "statistics": [arm.model_dump(mode="json") for arm in statistics],
            "steps": progress.steps(found, changes, service.now()),
            "judgement": progress.judgement(found, stats) if stats else None,
            "changes": [change_view(change) for change in changes],
        }

    @router.post("/rollouts/{rollout_id}/abort", tags=["rollouts"])
    async def abort(rollout_id: RolloutId, body: Stop, work: HttpWork, caller: Writer) -> Json:
        await demand(work, caller, "model:write", rollout_id)
        return rollout_view(await service.abort(work, rollout_id, body.reason, caller.subject))

    @router.post("/rollouts/{rollout_id}/pause", tags=["rollouts"])
    async def pause(rollout_id: RolloutId, body: Stop, work: HttpWork, caller: Writer) -> Json:
        """Keep the weight and judge nothing until resumed; five errors in a row still roll back."""
        await demand(work, caller, "model:write", rollout_id)
        return rollout_view(await service.pause(work, rollout_id, body.reason, caller.subject))

    @router.post("/rollouts/{rollout_id}/resume", tags=["rollouts"])
    async def resume(rollout_id: RolloutId, work: HttpWork, caller: Writer) -> Json:
        await demand(work, caller, "model:write", rollout_id)
        return rollout_view(await service.resume(work, rollout_id, caller.subject))

    @router.get("/adapters", tags=["rollouts"])
    async def adapters(work: HttpWork, _caller: ReaderOfModel, model: ModelName | None = None) -> Json:
        """Wanted state and how far each adapter came; `ready` is what this process routes to."""
        found = await store.adapters(work, model)
        return {
            "adapters": [{**a.model_dump(mode="json"), "ready": a.engine_name in live.ready} for a in found]
        }

    return router


def model_cards(live: Live, caller: Caller) -> list[Json]:
    """What this caller can ask now: the alias, its champion and challenger, and each loaded version."""
    cards: list[Json] = []
    for name, route in sorted(live.table.routes.items()):
        if not caller.may("chat", name):
            continue
        named = {name: route.champion or route.previous or route.base, f"{name}@champion": route.champion}
        named[f"{name}@challenger"] = route.split.challenger if route.split else None
        named |= {f"{name}:{version}": target for version, target in sorted(route.pinned.items())}
        cards += [
            _card(alias, target, live.base_name) for alias, target in named.items() if target or alias == name
        ]
    return cards


def _card(name: str, target: Target | None, base: str) -> Json:
    """OpenAI's model object; `root` is the adapter that answers now, `parent` the base model under it."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "driftwheel",
        "root": target.engine_name if target else None,
        "parent": base if target and target.version else None,
        "version": target.version if target else None,
    }


def rollout_view(rollout: Rollout) -> Json:
    """A rollout without what makes its arms predictable."""
    return {**rollout.model_dump(mode="json", exclude={"salt", "cause"}), "weight": rollout.weight}


def change_view(change: Change) -> Json:
    view: Json = change.model_dump(mode="json", exclude={"rollout_id"})
    return view


def feedback_view(feedback: Feedback | PendingFeedback | Accepted, corrected: str | None) -> Json:
    """A judgement that stands; or only its ids, while it waits for its answer or for the database.

    Its words are those of the caller, since no others stand; we only have a reference to them.
    """
    if isinstance(feedback, Feedback):
        told = feedback.model_dump(mode="json", exclude={"correction"})
        return {"object": "feedback", "state": "kept", **told, "corrected": corrected}
    return {
        "object": "feedback",
        "state": "accepted",
        "feedback_id": feedback.feedback_id,
        "answer_id": feedback.answer_id,
    }


def _body(model: type[BaseModel]) -> Json:
    """The schema of a body that the route reads itself, byte by byte, with every reference resolved."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _resolved(schema, parts)}},
        }
    }


def _resolved(schema: Any, parts: Json) -> Any:
    """Without references: `#/$defs/…` would lead nowhere from inside an OpenAPI document."""
    if isinstance(schema, list):
        return [_resolved(item, parts) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if reference := schema.get("$ref"):
        return _resolved(parts[reference.rpartition("/")[2]], parts)
    return {key: _resolved(item, parts) for key, item in schema.items()}
