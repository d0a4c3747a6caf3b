"""Events and use cases as short words, so that a test reads as the story it tells."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.serving import store
from services.serving.controller import Controller
from services.serving.domain import Feedback, Prediction, Rollout
from services.serving.judgements import Judgements
from services.serving.live import Live
from services.serving.predictions import PredictionLog
from services.serving.rollouts import Rollouts
from services.serving.service import ServingService
from services.serving.spool import Spool
from shared.artifacts.objects import ObjectStore
from shared.contracts.envelope import new_id, request_envelope
from shared.contracts.events import ModelApproved, ModelDeclared, ModelPromoted, ObjectRef
from shared.contracts.policy import Policy, Ramp, Recipe
from shared.delivery.unit_of_work import Database
from shared.service.clock import ManualClock

START = datetime(2026, 1, 1, tzinfo=UTC)
RAMP = Ramp(steps=(5, 25, 50, 100), min_samples=30, hold_seconds=10)


def engine_name(version: int) -> str:
    return f"support-v{version}-{version:08d}"


def evidence(version: int) -> ObjectRef:
    digest = f"{version:064x}"
    return ObjectRef(bucket="evaluations", key=f"sha256/{digest}/report.json", sha256=digest)


def approved(version: int, ramp: Ramp = RAMP, **more: object) -> ModelApproved:
    known = {
        "model": "support",
        "model_version": version,
        "engine_name": engine_name(version),
        "adapter_digest": f"{version:064x}",
        "base_digest": "b" * 64,
        "dataset_digest": "d" * 64,
        "recipe": Recipe(),
        "evaluation_id": f"evaluation-{version}",
        "evidence": evidence(version),
        "ramp": ramp,
        "drift_id": f"drift-{version}",
    }
    return ModelApproved.model_validate(known | more)


def promoted(version: int, sequence: int, **more: object) -> ModelPromoted:
    known = approved(version).model_dump(exclude={"ramp", "champion_version"})
    return ModelPromoted.model_validate(
        known | {"sequence": sequence, "actor": "registry", "reason": "its rollout completed"} | more
    )


_SPOOLS = tempfile.TemporaryDirectory(prefix="driftwheel-spools-")


def spool(folder: Path | None = None, limit: int = 10_000_000, records: int = 200) -> Spool:
    """In a folder of its own, if none is given."""
    return Spool(folder or Path(tempfile.mkdtemp(dir=_SPOOLS.name)), limit, records)


@dataclass
class Story:
    """The use cases over a real database, with a clock that a test moves."""

    db: Database
    clock: ManualClock
    live: Live
    log: PredictionLog
    service: ServingService
    controller: Controller
    objects: ObjectStore

    @classmethod
    def begin(cls, db: Database, objects: ObjectStore) -> "Story":
        clock, live = ManualClock(START), Live("base", base_answers=True)
        log = PredictionLog(spool(), db, objects)
        rollouts = Rollouts(clock)
        service = ServingService(rollouts, log, clock)
        return cls(db, clock, live, log, service, Controller(db, rollouts, live, 1, share=1), objects)

    def judgements(self) -> Judgements:
        return Judgements(
            self.service, self.db, self.objects, spool(), feedback_seconds=30, wait_seconds=3_600
        )

    async def hears(self, *events: ModelDeclared | ModelApproved | ModelPromoted) -> None:
        """Handle events one by one, each in its own transaction, then look again."""
        for event in events:
            async with self.db.unit_of_work(request_envelope("test")) as work:
                match event:
                    case ModelDeclared():
                        await self.service.declare(work, event)
                    case ModelApproved():
                        await self.service.approve(work, event)
                    case ModelPromoted():
                        await self.service.promote(work, event)
        await self.looks()

    async def looks(self) -> None:
        async with self.db.unit_of_work() as work:
            self.live.see(await store.snapshot(work))

    async def ticks(self, seconds: float = 0) -> None:
        """The controller's turn, on what the process has seen by then."""
        self.clock.advance(timedelta(seconds=seconds))
        await self.looks()
        await self.controller.tick()
        await self.looks()

    async def has_ready(self, *versions: int) -> None:
        self.live.set_ready(frozenset(engine_name(version) for version in versions))

    async def rollout(self, version: int) -> Rollout:
        async with self.db.unit_of_work() as work:
            return next(
                found
                for found in await store.rollouts(work, "support", 100)
                if found.model_version == version
            )

    async def serves(
        self,
        rollout_id: str,
        arm: str,
        count: int,
        *,
        errors: int = 0,
        latency: float = 100,
        scores: Sequence[float] = (),
    ) -> None:
        """Answers of one arm, written now; the first ones fail, and the last ones are judged."""
        rows = [
            Prediction(
                answer_id=new_id(),
                model="support",
                model_version=1,
                arm=arm,
                rollout_id=rollout_id,
                served_at=self.clock.now(),
                latency_ms=latency,
                outcome="error" if number < errors else "ok",
            )
            for number in range(count)
        ]
        async with self.db.unit_of_work() as work:
            await store.add_predictions(work, rows)
            for row, score in zip(reversed(rows), scores, strict=False):
                judgement = Feedback(
                    feedback_id=new_id(),
                    answer_id=row.answer_id,
                    model="support",
                    score=score,
                    actor="ann",
                    recorded_at=self.clock.now(),
                )
                await store.add_feedback(work, judgement)


def declared(revision: int = 1) -> ModelDeclared:
    return ModelDeclared(model="support", revision=revision, policy=Policy(model="support"), actor="ann")
