"""Use cases of the event and HTTP edges: keep what is declared and promoted, queue what is trained."""

from collections.abc import Sequence

import structlog

from services.evaluator.domain import EVALUATE_JOB, Champion, Declared, Evaluation, evaluation_id
from services.evaluator.store import Store
from shared.contracts.errors import NotFound
from shared.contracts.events import ModelDeclared, ModelPromoted, ModelTrained
from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork
from shared.jobs.worker import defer
from shared.service.clock import Clock

log = structlog.get_logger()


class EvaluatorService:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def declare(self, work: UnitOfWork, event: ModelDeclared) -> None:
        policy = event.policy.model_dump(mode="json")
        await Store(work.session).declare(
            Declared(
                model=event.model,
                revision=event.revision,
                gates=policy["gates"],
                generation=policy["generation"],
            )
        )

    async def promote(self, work: UnitOfWork, event: ModelPromoted) -> None:
        await Store(work.session).promote(
            Champion(
                model=event.model,
                sequence=event.sequence,
                version=event.model_version,
                adapter_digest=event.adapter_digest,
                base_digest=event.base_digest,
                dataset_digest=event.dataset_digest,
            )
        )

    async def trained(self, work: UnitOfWork, event: ModelTrained) -> None:
        """Queue the evaluation of a new adapter against the champion of this moment."""
        champion = await Store(work.session).champion(event.model)
        await queue(
            work,
            Evaluation(
                id="",
                model=event.model,
                run_id=event.run_id,
                adapter_digest=event.adapter_digest,
                base_digest=event.base_digest,
                dataset_digest=event.dataset_digest,
                drift_id=event.drift_id,
                created_at=self._clock.now(),
            ),
            champion,
        )

    async def evaluation(self, work: UnitOfWork, evaluation_id: str) -> Evaluation:
        found = await Store(work.session).evaluation(evaluation_id)
        if found is None:
            raise NotFound("There is no such evaluation.", "List them: GET /evaluations.")
        return found

    async def evaluations(
        self, work: UnitOfWork, model: str | None, after: str | None, limit: int
    ) -> Sequence[Evaluation]:
        """Newest first. Raises NotFound if there is no evaluation `after`."""
        last = await self.evaluation(work, after) if after else None
        return await Store(work.session).evaluations(model, last, limit)

    async def summaries(
        self, work: UnitOfWork, model: str | None, after: str | None, limit: int
    ) -> list[Json]:
        """As `evaluations`, for lists. Raises NotFound likewise."""
        last = await self.evaluation(work, after) if after else None
        return await Store(work.session).summaries(model, last, limit)


async def queue(work: UnitOfWork, wanted: Evaluation, champion: Champion | None) -> None:
    """Queue `wanted` against `champion`, once: asking again for the same comparison changes nothing."""
    version = champion.version if champion else None
    wanted.champion_version = version
    wanted.id = evaluation_id(wanted.model, wanted.adapter_digest, wanted.dataset_digest, version)
    if await Store(work.session).add(wanted):
        await defer(work, EVALUATE_JOB, lock=wanted.id, model=wanted.model, evaluation_id=wanted.id)
        log.info("evaluation.queued", evaluation=wanted.id, model=wanted.model, champion=version)
