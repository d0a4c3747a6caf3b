"""HTTP edge: fine-tuning jobs as OpenAI's API has them. `training_file` is a dataset (`dataset-<digest>`), `model` a declared one."""

import hashlib
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from pydantic import Field

from services.trainer.domain import Entry, Request, Run, digest_of
from services.trainer.service import TrainerService
from services.trainer.wishes import Wish
from shared.contracts.errors import Invalid, Poison
from shared.contracts.strict_json import strict_json
from shared.contracts.text import Contract, Json, ModelName, Text
from shared.http.auth import Caller, requires_for_some_model
from shared.http.web import HttpWork
from shared.service.clock import Clock

Writer = Annotated[Caller, requires_for_some_model("run:write")]
ReaderOfSome = Annotated[Caller, requires_for_some_model("run:read")]
Limit = Annotated[int, Query(ge=1, le=1_000)]
Label = Annotated[Text, Field(max_length=64)]
Value = Annotated[Text, Field(max_length=512)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PREFIX = "dataset-"
_STATUS = {"cancelling": "running"}
_AUTO = "auto"


class Hyperparameters(Contract):
    """`auto` and absent mean: as the policy declares."""

    n_epochs: Literal["auto"] | Positive | None = None
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] | None = None
    learning_rate_multiplier: Literal["auto"] | Positive | None = None

    def overrides(self) -> Json:
        names = {"n_epochs": "epochs"}
        return {names.get(name, name): value for name, value in self if value is not None and value != _AUTO}


class Supervised(Contract):
    hyperparameters: Hyperparameters = Hyperparameters()


class Method(Contract):
    type: Literal["supervised"] = "supervised"
    supervised: Supervised = Supervised()


class JobRequest(Contract):
    """OpenAI's request, and `recipe`: fields of the declared recipe to replace. Validation rows come with the dataset."""

    model: ModelName
    training_file: Annotated[str, Field(pattern=r"^(dataset-)?[0-9a-f]{64}$")]
    hyperparameters: Hyperparameters = Hyperparameters()
    method: Method = Method()
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    metadata: Annotated[dict[Label, Value], Field(max_length=16)] | None = None
    recipe: Annotated[dict[Label, Any], Field(max_length=32, default_factory=dict)]
    budget: Positive | None = None
    validation_file: None = None
    suffix: None = None
    integrations: None = None

    def overrides(self) -> Json:
        """Fields of the recipe, from whichever place they were given; `recipe` wins."""
        seed = {} if self.seed is None else {"seed": self.seed}
        parts = (self.hyperparameters.overrides(), self.method.supervised.hyperparameters.overrides(), seed)
        merged = {name: value for part in parts for name, value in part.items()}
        return merged | self._recipe_in_metadata() | self.recipe

    def _recipe_in_metadata(self) -> Json:
        """For clients that can send nothing but metadata: `metadata={"recipe": '{"epochs": 3}'}`."""
        text = (self.metadata or {}).get("recipe")
        if text is None:
            return {}
        try:
            found = strict_json(text.encode())
        except Poison as error:
            raise Invalid(f"metadata.recipe: {error.detail}", "Give a JSON object as text.") from None
        if not isinstance(found, dict):
            raise Invalid("metadata.recipe is not a JSON object.", 'For instance {"epochs": 3}.')
        return found


def make_fine_tuning(service: TrainerService, clock: Clock) -> APIRouter:
    router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])

    @router.post("")
    async def create(
        body: JobRequest,
        work: HttpWork,
        caller: Writer,
        idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    ) -> Json:
        """Start a run, or return the one that exists for the same model, dataset, recipe and base."""
        caller.demand("run:write", body.model)
        key = _key(caller.subject, idempotency_key) if idempotency_key else None
        wish = Wish(
            body.model,
            body.training_file.removeprefix(PREFIX),
            "request",
            created_by=caller.subject,
            overrides=body.overrides(),
            budget=body.budget,
            idempotency_key=key,
            labels=body.metadata or {},
            again=True,
        )
        request = None
        if key:
            request = Request(
                key=key, body_hash=digest_of(body.model_dump(mode="json")), run_id="", created_at=clock.now()
            )
        return job(await service.submit(work, wish, request))

    @router.get("")
    async def jobs(work: HttpWork, caller: ReaderOfSome, after: str | None = None, limit: Limit = 20) -> Json:
        """Those of the caller's models."""
        found = await service.runs(work, caller.reach("run:read"), after, limit + 1)
        return _page([job(run) for run in found[:limit]], len(found) > limit)

    @router.get("/{job_id}")
    async def one(job_id: str, work: HttpWork, caller: ReaderOfSome) -> Json:
        run = await service.run(work, job_id)
        caller.demand("run:read", run.model)
        return job(run)

    @router.post("/{job_id}/cancel")
    async def cancel(job_id: str, work: HttpWork, caller: Writer) -> Json:
        caller.demand("run:write", (await service.run(work, job_id)).model)
        return job(await service.cancel(work, job_id, caller.subject))

    @router.get("/{job_id}/events")
    async def events(
        job_id: str, work: HttpWork, caller: ReaderOfSome, after: str | None = None, limit: Limit = 20
    ) -> Json:
        """Newest first, as OpenAI lists them; `after` is the last id of the page before."""
        run = await service.run(work, job_id)
        caller.demand("run:read", run.model)
        before = _sequence(after) if after else run.sequence + 1
        found = await service.entries(work, run.id, before, limit + 1, newest=True)
        return _page([event(entry) for entry in found[:limit]], len(found) > limit)

    @router.get("/{job_id}/checkpoints")
    async def checkpoints(job_id: str, work: HttpWork, caller: ReaderOfSome) -> Json:
        """The one that can be used: what was published, with the losses of its step. Resume points are kept apart."""
        run = await service.run(work, job_id)
        caller.demand("run:read", run.model)
        return _page([checkpoint(run)] if run.adapter_digest else [], False)

    return router


def _key(subject: str, key: str) -> str:
    """A key belongs to its caller: two callers may use the same one."""
    return f"http-{hashlib.sha256(f'{subject}/{key}'.encode()).hexdigest()[:32]}"


def _page(data: list[Json], has_more: bool) -> Json:
    ids = (
        {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        if data
        else {"first_id": None, "last_id": None}
    )
    return {"object": "list", "data": data, **ids, "has_more": has_more}


def _sequence(event_id: str) -> int:
    number = event_id.rpartition("-")[2]
    if not number.isdecimal() or len(number) > 9:
        raise Invalid("`after` is not the id of an event.", "Use last_id of the page before.")
    return int(number)


def job(run: Run) -> Json:
    hyperparameters = {
        "n_epochs": run.recipe["epochs"],
        "batch_size": run.recipe["batch_size"],
        "learning_rate_multiplier": 1.0,
    }
    return {
        "id": run.id,
        "object": "fine_tuning.job",
        "created_at": int(run.created_at.timestamp()),
        "finished_at": int(run.finished_at.timestamp()) if run.finished_at else None,
        "estimated_finish": None,
        "model": run.model,
        "fine_tuned_model": _model_name(run),
        "organization_id": "driftwheel",
        "status": _STATUS.get(run.state, run.state),
        "error": {"code": "training_failed", "message": run.reason, "param": None}
        if run.state == "failed"
        else None,
        "training_file": PREFIX + run.dataset_digest,
        "validation_file": None,
        "result_files": [],
        "trained_tokens": run.tokens if run.state == "succeeded" else None,
        "seed": run.recipe["seed"],
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "metadata": run.labels,
        "integrations": [],
    }


def _model_name(run: Run) -> str | None:
    """The adapter; the registry gives it a version when it is evaluated."""
    return f"adapter-{run.adapter_digest}" if run.adapter_digest else None


def event(entry: Entry) -> Json:
    status = entry.status
    return {
        "id": f"{entry.run_id}-{entry.sequence}",
        "object": "fine_tuning.job.event",
        "created_at": int(entry.at.timestamp()),
        "level": {"failed": "error", "cancelled": "warn"}.get(status["state"], "info"),
        "message": f"{status['state']}: {status['reason']}" if status["reason"] else _message(status),
        "type": "metrics" if status["state"] == "progress" else "message",
        "data": {
            "step": status["step"],
            "total_steps": status["total_steps"],
            "train_loss": status["loss"],
            "valid_loss": status["validation_loss"],
        },
    }


def _message(status: Json) -> str:
    return (
        f"step {status['step']} of {status['total_steps']}"
        if status["state"] == "progress"
        else status["state"]
    )


def checkpoint(run: Run) -> Json:
    best = run.best() or run.curve[-1]
    return {
        "id": f"{run.id}-step-{best['step']}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(run.finished_at.timestamp()) if run.finished_at else 0,
        "fine_tuned_model_checkpoint": _model_name(run),
        "fine_tuning_job_id": run.id,
        "step_number": best["step"],
        "metrics": {
            "step": best["step"],
            "train_loss": best["loss"],
            "valid_loss": best.get("validation_loss"),
        },
    }
