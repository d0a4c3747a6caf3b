"""The job: one run trained, published and announced. Killed anywhere, the next attempt goes on and announces once."""

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from pydantic import ValidationError
from safetensors import SafetensorError

from services.trainer import corpus, publish
from services.trainer.answers import announce
from services.trainer.chat import Chat
from services.trainer.checkpoints import Checkpoints, Place
from services.trainer.compute import Compute
from services.trainer.corpus import Corpus
from services.trainer.domain import (
    ADAPTERS,
    DATASETS,
    ENDED,
    Action,
    Run,
    TrainingFailed,
    advance,
    price,
    thin,
)
from services.trainer.progress import Pace
from services.trainer.settings import Settings
from services.trainer.store import Store
from services.trainer.wishes import over_budget
from shared.artifacts.base_model import base_digest
from shared.artifacts.objects import ObjectStore, fetch
from shared.artifacts.objects import publish as publish_artifact
from shared.contracts.errors import Cancelled, Invalid, NotFound
from shared.contracts.events import CurvePoint, ModelTrained
from shared.contracts.policy import Recipe
from shared.delivery.unit_of_work import UnitOfWork
from shared.jobs.attempts import Attempt
from shared.service.clock import Clock

if TYPE_CHECKING:
    from services.trainer.loop import Training

log = structlog.get_logger()

CURVE_STORED = 500


class Trainer:
    def __init__(self, objects: ObjectStore, settings: Settings, clock: Clock) -> None:
        self._objects = objects
        self._checkpoints = Checkpoints(objects)
        self._settings = settings
        self._clock = clock

    async def run(self, attempt: Attempt, run_id: str) -> None:
        """Train a run to its end. What the run itself cannot do ends it; what we lack ourselves is tried again."""
        await self._sweep(attempt)
        run = await self._start(attempt, run_id)
        if run is None:
            return
        try:
            await self._train(attempt, run)
        except Cancelled as stop:
            await self.cancelled(attempt, stop.detail, run_id)
            return
        except (TrainingFailed, Invalid, NotFound, ValidationError) as error:
            await self._end(attempt, run_id, "fail", _reason(error))
        await self._checkpoints.delete(run_id)

    async def failed(self, attempt: Attempt, reason: str, run_id: str) -> None:
        """There will be no further try: say so, so that nobody waits."""
        await self._end(attempt, run_id, "fail", reason)

    async def cancelled(self, attempt: Attempt, reason: str, run_id: str) -> None:
        await self._end(attempt, run_id, "stop", reason)
        await self._checkpoints.delete(run_id)

    async def _sweep(self, attempt: Attempt) -> None:
        """Delete checkpoints of runs that have ended: a worker may have died between the two."""
        found = await self._checkpoints.runs()
        async with attempt.work() as work:
            kept = await Store(work.session).unfinished(found)
        for run_id in set(found) - kept:
            await self._checkpoints.delete(run_id)

    async def _start(self, attempt: Attempt, run_id: str) -> Run | None:
        """Take the run; None when there is nothing to do."""
        async with attempt.work() as work:
            run = await Store(work.session).run(run_id, lock=True)
            if run is None or run.state in ENDED:
                return None
            run.state = advance(run.state, "start")
            run.attempt, run.started_at = attempt.number, run.started_at or self._clock.now()
            if run.state == "cancelling":
                await self._settle(work, run, "stop", run.reason)
            return None if run.state in ENDED else run

    async def _train(self, attempt: Attempt, run: Run) -> None:
        recipe = Recipe.stored(run.recipe)
        if base_digest(self._settings.base_model) != run.base_digest:
            raise TrainingFailed(
                "the base model is another one than when this run was accepted.", "Request it again."
            )
        compute = Compute(run.device_seconds)
        try:
            rows = await self._corpus(attempt, run, recipe)
            training = await self._resume(attempt, run, recipe, rows, compute)
            await self._steps(attempt, run, training, compute)
            weights = await compute(training.adapter)
        finally:
            compute.close()
        await attempt.check()
        await self._publish(attempt, run, recipe, rows, training, weights, compute.seconds)

    async def _corpus(self, attempt: Attempt, run: Run, recipe: Recipe) -> Corpus:
        """Fetch, verify and encode the dataset; refuse the run if its exact size exceeds the budget."""
        with tempfile.TemporaryDirectory(prefix="driftwheel-train-") as folder:
            manifest = await fetch(self._objects, DATASETS, run.dataset_digest, Path(folder) / "dataset")
            await attempt.check()
            chat = Chat(self._settings.base_model)
            rows = await asyncio.to_thread(
                corpus.load, Path(folder) / "dataset", manifest, chat, recipe.max_length
            )
        async with attempt.work() as work:
            rate = await Store(work.session).tokens_per_second(run.base_digest)
        seconds = rows.tokens * recipe.epochs / (rate or self._settings.tokens_per_second)
        over_budget(seconds, run.budget, run.device_hour, run.currency)
        return rows

    async def _resume(
        self, attempt: Attempt, run: Run, recipe: Recipe, rows: Corpus, compute: Compute
    ) -> "Training":
        """The run at its newest whole checkpoint, or at its beginning."""
        from services.trainer.loop import Training, fastest_dtype

        if self._settings.threads:
            import torch

            await compute(lambda: torch.set_num_threads(self._settings.threads))
        if run.dtype is None:
            auto = self._settings.dtype == "auto"
            run.dtype = await compute(fastest_dtype) if auto else self._settings.dtype
        dtype, base, pack_tokens = run.dtype, self._settings.base_model, self._settings.pack_tokens
        training = await compute(lambda: Training.start(base, rows, recipe, dtype, pack_tokens))
        async for place, files in self._checkpoints.whole(run.id):
            try:
                await compute(lambda files=files: training.restore(files))  # type: ignore[misc]
            except (ValueError, KeyError, TypeError, SafetensorError) as error:
                log.warning("checkpoint.unusable", run=run.id, step=place.step, error=type(error).__name__)
            else:
                log.info("run.resumed", run=run.id, step=training.step)
                break
        async with attempt.work() as work:
            current = await self._report(work, run.id, training, compute.seconds, None)
            current.dtype = dtype
            await announce(
                work, self._clock, current, "started", f"at step {training.step}" if training.step else ""
            )
        return training

    async def _steps(self, attempt: Attempt, run: Run, training: "Training", compute: Compute) -> None:
        every = Recipe.stored(run.recipe).checkpoint_every
        pace = Pace(training.step, training.total, self._settings.progress_seconds)
        while not training.done:
            await attempt.check()
            await compute(training.advance)
            _within_budget(run, training.step, compute.seconds)
            saved = training.step % every == 0 and not training.done
            if saved:
                files = await compute(training.state)
                await attempt.check()
                await self._checkpoints.save(run.id, Place(training.step, attempt.number), files)
            speak = pace.due()
            if saved or speak:
                async with attempt.work() as work:
                    left = pace.eta(training.step)
                    current = await self._report(work, run.id, training, compute.seconds, left)
                    if saved:
                        await attempt.progressed(work)
                    if speak:
                        await announce(work, self._clock, current, "progress")
            if saved:
                await self._checkpoints.prune(run.id, self._settings.checkpoints_kept)

    async def _report(
        self, work: UnitOfWork, run_id: str, training: "Training", seconds: float, left: float | None
    ) -> Run:
        """Write where the training stands into its run; returns the run, locked."""
        run = await Store(work.session).run(run_id, lock=True)
        if run is None:
            raise NotFound("The run is gone.", "Request it again.")
        last = training.curve[-1] if training.curve else {}
        run.step, run.total_steps, run.loss = training.step, training.total, last.get("loss")
        measured = [p["validation_loss"] for p in training.curve if p.get("validation_loss") is not None]
        run.validation_loss = measured[-1] if measured else None
        run.tokens, run.device_seconds, run.eta_seconds = training.tokens, seconds, left
        run.curve = thin(training.curve, CURVE_STORED)
        return run

    async def _publish(
        self,
        attempt: Attempt,
        run: Run,
        recipe: Recipe,
        rows: Corpus,
        training: "Training",
        weights: bytes,
        seconds: float,
    ) -> None:
        """Publish the adapter, then end the run and announce the model in one transaction."""
        base = publish.describe_base(self._settings.base_model, self._settings.base_name, run.base_digest)
        trained = publish.Trained.of(training, rows)
        published = await publish_artifact(
            self._objects,
            ADAPTERS,
            publish.files(run, recipe, base, trained, weights),
            publish.meta(run, recipe, base, trained),
        )
        async with attempt.work() as work:
            current = await self._report(work, run.id, training, seconds, 0.0)
            if current.state == "cancelling":
                raise Cancelled(current.reason)
            current.adapter_digest = published.digest
            reason = f"stopped early at step {training.step}" if training.stopped_early else ""
            await self._settle(work, current, "succeed", reason)
            work.emit(_model_trained(current, recipe))
        log.info("run.trained", run=run.id, adapter=published.digest, steps=training.step)

    async def _end(self, attempt: Attempt, run_id: str, action: Action, reason: str) -> None:
        async with attempt.work() as work:
            run = await Store(work.session).run(run_id, lock=True)
            if run is not None and run.state not in ENDED:
                await self._settle(work, run, action, reason)

    async def _settle(self, work: UnitOfWork, run: Run, action: Action, reason: str) -> None:
        run.state, run.reason, run.finished_at = advance(run.state, action), reason[:2_000], self._clock.now()
        run.eta_seconds = None
        await announce(work, self._clock, run, run.state, run.reason)


def _within_budget(run: Run, step: int, seconds: float) -> None:
    spent = price(seconds, run.device_hour)
    if not spent <= run.budget:
        raise TrainingFailed(
            f"budget exceeded at step {step}: {spent:.4f} {run.currency} spent of {run.budget:.4f}.",
            "Raise budget.per_run, or train less.",
        )


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return f"the stored recipe is not valid: {error.errors(include_input=False)[0]['msg']}"
    return str(error)


def _model_trained(run: Run, recipe: Recipe) -> ModelTrained:
    return ModelTrained(
        model=run.model,
        run_id=run.id,
        adapter_digest=run.adapter_digest or "",
        base_digest=run.base_digest,
        dataset_digest=run.dataset_digest,
        recipe=recipe,
        curves=tuple(CurvePoint.model_validate(point) for point in run.curve),
        cost=run.cost(),
        code=publish.code_version(),
        drift_id=run.drift_id,
    )
