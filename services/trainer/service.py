"""Use cases: keep policies, turn wishes into runs, answer everyone, cancel."""

from collections.abc import Collection, Sequence

import structlog

from services.trainer.answers import ANSWERS, announce, reject, repeat
from services.trainer.domain import (
    DATASETS,
    RUN_ID,
    TRAIN_JOB,
    Declared,
    Entry,
    Request,
    Run,
    advance,
    digest_of,
)
from services.trainer.store import Store
from services.trainer.wishes import (
    BYTES_PER_TOKEN,
    Facts,
    Wish,
    check,
    limit,
    recipe_hash,
    recipe_of,
    refusal,
    run_id,
)
from shared.artifacts.objects import Manifest, ObjectStore, look, read_manifest
from shared.contracts.errors import Conflict, Invalid, NotFound, RetryLater
from shared.contracts.events import DatasetReady, ModelDeclared, ModelRejected, TrainingRequested
from shared.contracts.policy import Budget, Recipe
from shared.delivery.unit_of_work import UnitOfWork
from shared.jobs.attempts import hold, request_cancel
from shared.jobs.worker import defer
from shared.service.clock import Clock

log = structlog.get_logger()


class TrainerService:
    """
    Args:
        base: name and digest of the base model that this trainer has.
        tokens_per_second: assumed until runs were measured.
    """

    def __init__(
        self,
        objects: ObjectStore,
        clock: Clock,
        base: tuple[str, str],
        methods: Collection[str],
        tokens_per_second: float,
    ) -> None:
        self._objects = objects
        self._clock = clock
        self._base_name, self._base_digest = base
        self._methods = methods
        self._tokens_per_second = tokens_per_second

    async def declare(self, work: UnitOfWork, event: ModelDeclared) -> None:
        policy = event.policy
        await Store(work.session).declare(
            Declared(
                model=event.model,
                revision=event.revision,
                base=policy.base,
                recipe=policy.recipe.model_dump(mode="json"),
                budget=policy.budget.model_dump(mode="json"),
            )
        )

    async def dataset_ready(self, work: UnitOfWork, event: DatasetReady) -> None:
        """Train the declared recipe on a new dataset. Waits (bounded) for the model to be declared."""
        wish = Wish(event.model, event.digest, event.why, created_by="dataset.ready", drift_id=event.drift_id)
        if await Store(work.session).declared(event.model) is None:
            raise RetryLater(
                "The model of this dataset is not declared.", "Declare it: driftwheel apply POLICY.yaml"
            )
        await self._answer(work, wish)

    async def requested(self, work: UnitOfWork, event: TrainingRequested) -> None:
        """Answer a request: accepted with a run, or rejected with the reason. What cannot be read is rejected too."""
        wish = Wish(
            event.model,
            event.dataset_digest or "",
            "request",
            created_by="training.requested",
            recipe=event.recipe,
            budget=event.budget,
            priority=event.priority,
            idempotency_key=event.idempotency_key,
            again=True,
        )
        if event.refusal:
            reject(work, wish, event.reply_topic, Invalid(event.refusal))
            return
        if event.fault:
            reject(work, wish, event.reply_topic, refusal(event.fault))
            return
        body = digest_of(event.model_dump(mode="json", exclude={"idempotency_key"}))
        await self._answer(
            work,
            wish,
            Request(
                key=event.idempotency_key,
                body_hash=body,
                run_id="",
                reply_topic=event.reply_topic,
                created_at=self._clock.now(),
            ),
        )

    async def rejected(self, work: UnitOfWork, event: ModelRejected) -> None:
        """Remember why a version made by a run will not be served."""
        run = await Store(work.session).run(event.run_id, lock=True)
        if run is None:
            log.warning("run.unknown", run=event.run_id)
            return
        run.rejection = event.model_dump(mode="json", include={"model_version", "reasons", "remedy"})

    async def _answer(self, work: UnitOfWork, wish: Wish, request: Request | None = None) -> None:
        """Accept or reject on `training.status`, and on the reply topic if one was named."""
        try:
            await self.submit(work, wish, request)
        except (Invalid, NotFound, Conflict) as error:
            reject(work, wish, request.reply_topic if request else None, error)

    async def submit(self, work: UnitOfWork, wish: Wish, request: Request | None = None) -> Run:
        """The run of a wish: a new one, or the one that exists for the same model, dataset, recipe and base.

        Raises:
            Invalid, NotFound, Conflict: the wish is refused; nothing was written.
        """
        store = Store(work.session)
        if request and (earlier := await store.request(request.key)):
            run = await self._same(store, earlier, request)
        else:
            run = await self._run_of(work, store, wish)
            if request:
                request.run_id = run.id
                if not await store.add_once(request):
                    raise RetryLater("Another request with this key is being answered.", "Send it again.")
        if run.sequence == 0:
            ANSWERS.labels("accepted").inc()
            await announce(work, self._clock, run, "accepted")
        elif wish.idempotency_key or wish.drift_id != run.drift_id:
            repeat(work, run, wish, request)
        return run

    async def _same(self, store: Store, earlier: Request, request: Request) -> Run:
        if earlier.body_hash != request.body_hash:
            raise Conflict(
                "This idempotency key was used for another request.", "Use a new key for a new request."
            )
        run = await store.run(earlier.run_id, lock=True)
        if run is None:
            raise NotFound("The run of this request is gone.", "Use a new key.")
        return run

    async def _run_of(self, work: UnitOfWork, store: Store, wish: Wish) -> Run:
        declared = await store.declared(wish.model)
        if declared is None:
            raise NotFound(
                f"The model {wish.model} is not declared.", "Declare it: driftwheel apply POLICY.yaml"
            )
        if not wish.dataset_digest:
            raise Invalid(
                "Training from files is not possible: a run is bound to a dataset.",
                "Build one (POST /datasets with the files), then request training with its dataset_digest.",
            )
        recipe = recipe_of(wish, declared)
        check(wish, recipe, declared, await self._facts(store, wish.dataset_digest))
        run = self._new_run(wish, recipe, Budget.stored(declared.budget), round_=1)
        last = await store.last_round(run)
        if last and wish.again and last.state in {"failed", "cancelled"}:
            run = self._new_run(wish, recipe, Budget.stored(declared.budget), round_=last.round + 1)
        elif last:
            return await store.run(last.id, lock=True) or last
        if await store.add_once(run):
            await defer(work, TRAIN_JOB, lock=run.id, model=run.model, priority=wish.priority, run_id=run.id)
        return await store.run(run.id, lock=True) or run

    async def _facts(self, store: Store, digest: str) -> Facts:
        try:
            manifest = await look(read_manifest(self._objects, DATASETS, digest))
        except NotFound:
            raise NotFound(
                "There is no dataset with this digest in the store.", "List them: driftwheel datasets list."
            ) from None
        rate = await store.tokens_per_second(self._base_digest)
        return Facts(
            methods=self._methods,
            base_name=self._base_name,
            base_digest=self._base_digest,
            dataset_base=manifest.meta.get("base_digest"),
            train_rows=_train_rows(manifest),
            tokens=round(int(manifest.files.get("train.jsonl", {}).get("size", 0)) / BYTES_PER_TOKEN),
            tokens_per_second=rate or self._tokens_per_second,
        )

    def _new_run(self, wish: Wish, recipe: Recipe, budget: Budget, round_: int) -> Run:
        return Run(
            id=run_id(wish, recipe, self._base_digest, round_),
            model=wish.model,
            dataset_digest=wish.dataset_digest,
            recipe_hash=recipe_hash(recipe),
            base_digest=self._base_digest,
            round=round_,
            recipe=recipe.model_dump(mode="json"),
            why=wish.why,
            drift_id=wish.drift_id,
            idempotency_key=wish.idempotency_key,
            priority=wish.priority,
            budget=limit(wish.budget, budget),
            device_hour=budget.device_hour,
            currency=budget.currency,
            labels=dict(wish.labels),
            created_by=wish.created_by,
            created_at=self._clock.now(),
        )

    async def run(self, work: UnitOfWork, run_id: str) -> Run:
        return await self._existing(work, run_id)

    async def _existing(self, work: UnitOfWork, run_id: str, *, lock: bool = False) -> Run:
        run = await Store(work.session).run(run_id, lock=lock) if RUN_ID.fullmatch(run_id) else None
        if run is None:
            raise NotFound("There is no such run.", "List them: driftwheel runs list.")
        return run

    async def runs(
        self,
        work: UnitOfWork,
        models: Collection[str] | None,
        after: str | None,
        limit: int,
        state: str | None = None,
        dataset_digest: str | None = None,
    ) -> Sequence[Run]:
        """Newest first, of these models or (None) of all, without their curves; `after` is the last id of the page before."""
        start = await self.run(work, after) if after else None
        return await Store(work.session).runs(models, start, limit, state, dataset_digest)

    async def these(self, work: UnitOfWork, run_ids: Sequence[str]) -> list[Run]:
        """Those of these runs that exist, in the given order, with their curves."""
        found = {run.id: run for run in await Store(work.session).these(run_ids)}
        return [found[run_id] for run_id in dict.fromkeys(run_ids) if run_id in found]

    async def entries(
        self, work: UnitOfWork, run_id: str, after: int, limit: int, newest: bool = False
    ) -> Sequence[Entry]:
        return await Store(work.session).entries(run_id, after, limit, newest)

    async def cancel(self, work: UnitOfWork, run_id: str, who: str) -> Run:
        """Stop a run: at once while it is queued, at its next step while it runs. Cancelling twice changes nothing."""
        await hold(work, run_id)
        run = await self._existing(work, run_id, lock=True)
        state = advance(run.state, "cancel")
        if state == run.state:
            return run
        run.state, run.reason = state, f"cancelled by {who}"
        if state == "cancelled":
            run.finished_at = self._clock.now()
            await announce(work, self._clock, run, "cancelled", run.reason)
        await request_cancel(work, run.id, run.reason)
        return run


def _train_rows(manifest: Manifest) -> int | None:
    """As the dataset counts them; None if it does not say."""
    rows = manifest.meta.get("counts", {}).get("rows", {}).get("train")
    return rows if isinstance(rows, int) else None
