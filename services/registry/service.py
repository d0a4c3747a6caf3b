"""Use cases: declare, register, decide, move aliases. Each locks its model first, so two at once happen in turn."""

from typing import NamedTuple

import structlog

from services.registry import announcements, rules
from services.registry.domain import AliasEvent, Evidence, LogicalModel, ModelVersion, PolicyRevision, Rollout
from services.registry.evidence import evidence_problem
from services.registry.rules import Aliases, Move
from services.registry.store import Store
from shared.artifacts.objects import ObjectStore
from shared.contracts.errors import Conflict, Invalid, NotFound
from shared.contracts.events import ModelDeclared, ModelEvaluated, ModelTrained, RolloutChanged, rollout_id
from shared.contracts.policy import Policy
from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork
from shared.service.clock import Clock

log = structlog.get_logger()
SERVING = "serving"


class Applied(NamedTuple):
    """The current policy, and whether it is a new one."""

    revision: PolicyRevision
    changed: bool


class Why(NamedTuple):
    """Behind an alias event: who moved it, why, and what it rests on."""

    actor: str
    reason: str
    evidence: Json
    rollback: bool = False
    drift_id: str | None = None


class Registry:
    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock

    async def apply(self, work: UnitOfWork, policy: Policy, actor: str) -> Applied:
        """Declare a policy; the same one again changes nothing."""
        store = Store(work.session)
        await store.create_model(policy.model)
        model = await self._lock(store, policy.model)
        document = policy.model_dump(mode="json")
        known = await store.policy(policy.model, model.revision)
        if known is not None and known.policy == document:
            return Applied(known, changed=False)
        model.revision += 1
        row = PolicyRevision(
            model=policy.model,
            revision=model.revision,
            policy=document,
            actor=actor,
            declared_at=self._clock.now(),
        )
        store.add(row)
        work.emit(ModelDeclared(model=policy.model, revision=row.revision, policy=policy, actor=actor))
        return Applied(row, changed=True)

    async def trained(self, work: UnitOfWork, event: ModelTrained) -> None:
        """Register a candidate, and decide on it if its evaluation was faster."""
        store = Store(work.session)
        model = await self._lock(store, event.model)
        candidate = ModelVersion(
            **event.model_dump(
                mode="json", include={"model", "adapter_digest", "run_id", "base_digest", "dataset_digest"}
            ),
            recipe=event.recipe.model_dump(mode="json"),
            code=event.code,
            cost=event.cost.model_dump(mode="json"),
            drift_id=event.drift_id,
            trained_at=work.cause.time if work.cause else self._clock.now(),
        )
        if not await store.add_version(candidate):
            log.info("version.known", model=event.model, adapter=event.adapter_digest)
            return
        for evidence in await store.evidence(event.model, event.adapter_digest):
            await self._decide(work, model, evidence)

    async def evaluated(self, work: UnitOfWork, event: ModelEvaluated) -> None:
        """Keep the evidence, and decide if the version is known.

        Raises:
            RetryLater: the report is not there. Without it nothing is decided: a rejection would stand for ever.
        """
        store = Store(work.session)
        evidence = Evidence(
            evaluation_id=event.evaluation_id,
            model=event.model,
            adapter_digest=event.adapter_digest,
            event=event.model_dump(mode="json"),
            problem=await evidence_problem(self._objects, event),  # before the lock: the store may be slow
            received_at=self._clock.now(),
        )
        model = await self._lock(store, event.model)
        if await store.add_evidence(evidence):
            await self._decide(work, model, evidence)

    async def _decide(self, work: UnitOfWork, model: LogicalModel, evidence: Evidence) -> None:
        """Approve or reject a candidate, once; what is decided stays."""
        store = Store(work.session)
        event = ModelEvaluated.model_validate(evidence.event)
        version = await store.version_of(event.model, event.adapter_digest)
        if version is None or version.state != "candidate":
            return
        policy = await self._policy(store, model)
        champion = rules.fold(await store.alias_events(event.model)).champion
        decision = rules.decide(version, event, policy, champion, evidence.problem)
        model.versions += 1
        version.number, version.decided_at = model.versions, self._clock.now()
        version.engine_name = rules.engine_name(event.model, model.versions, event.adapter_digest)
        version.evaluation_id, version.evidence = event.evaluation_id, event.report.model_dump(mode="json")
        version.scores = [one.model_dump(mode="json") for one in event.scores]
        version.verdicts = [one.model_dump(mode="json") for one in event.verdicts]
        version.compared_with = event.champion_version
        version.state = "approved" if decision.approved else "rejected"
        version.reasons, version.remedy = list(decision.reasons), decision.remedy
        work.emit(announcements.decided(version, policy))
        log.info("version.decided", model=event.model, version=version.number, state=version.state)

    async def rolled(self, work: UnitOfWork, event: RolloutChanged) -> None:
        """Follow a rollout: challenger while it runs, champion when it completes.

        Raises:
            Invalid: the version was never approved, or another rollout is that of its approval.
        """
        store = Store(work.session)
        model = await self._lock(store, event.model)
        version = await store.version(event.model, event.model_version)
        if version is None or version.state not in {"approved", "rolled_back"}:
            raise Invalid("The rollout is of a version that was never approved.", "Look at who sent it.")
        if event.rollout_id != rollout_id(event.model, event.model_version, version.evaluation_id or ""):
            raise Invalid("The rollout is not the one that the approval led to.", "Look at who sent it.")
        known = await store.rollout(event.rollout_id)
        aliases = rules.fold(await store.alias_events(event.model))
        for move in rules.moves(event, known.state if known else None, version.state, aliases):
            why = Why(
                SERVING,
                event.reason or event.state,
                _rollout_evidence(event, version),
                drift_id=event.drift_id,
            )
            await self._move(work, model, version, move, why)
        if rules.withdrawn(event, known.state if known else None, aliases):
            version.state = "rolled_back"
        self._follow(store, known, event)

    def _follow(self, store: Store, known: Rollout | None, event: RolloutChanged) -> None:
        if known is None:
            known = Rollout(
                id=event.rollout_id,
                model=event.model,
                version=event.model_version,
                state=event.state,
                step=event.step,
                weight=event.weight,
                reason=event.reason,
                changed_at=self._clock.now(),
            )
            store.add(known)
        elif known.state not in rules.TERMINAL:
            known.state, known.step, known.weight = event.state, event.step, event.weight
            known.reason, known.changed_at = event.reason, self._clock.now()

    async def rollback(
        self, work: UnitOfWork, name: str, to: int | None, reason: str, actor: str, expected: int | None
    ) -> Aliases:
        """Move the champion back at once; a rollout under way ends with it.

        Args:
            expected: the champion the caller means to leave; another one refuses the call.

        Raises:
            NotFound: no such model. Conflict: nothing fit to go back to, or another champion than expected.
        """
        store = Store(work.session)
        model = await self._lock(store, name)
        events = await store.alias_events(name)
        current = rules.fold(events)
        if expected is not None and current.champion != expected:
            raise Conflict(f"Version {expected} is not the champion.", "Look again: driftwheel models show.")
        target = rules.rollback_target(events, await store.states(name), to)
        version = await self._version(store, name, target)
        for left in (current.champion, current.challenger):
            if left is not None and left != target:
                (await self._version(store, name, left)).state = "rolled_back"
        version.state = "approved"
        why = Why(
            actor, reason, {"left": current.champion, "evaluation_id": version.evaluation_id}, rollback=True
        )
        if current.challenger is not None:
            await self._move(work, model, version, Move("challenger", None), why)
        await self._move(work, model, version, Move("champion", target), why)
        return Aliases(target, None)

    async def _move(
        self, work: UnitOfWork, model: LogicalModel, version: ModelVersion, move: Move, why: Why
    ) -> None:
        """Append one alias event; a move of the champion is announced."""
        store = Store(work.session)
        events = await store.alias_events(model.name)
        model.sequence += 1
        # Time never runs backwards in a history, whatever the clock does.
        now = max([self._clock.now(), *(event.at for event in events)])
        event = AliasEvent(
            model=model.name,
            sequence=model.sequence,
            alias=move.alias,
            version=move.version,
            rollback=why.rollback,
            actor=why.actor,
            reason=why.reason,
            evidence=why.evidence,
            at=now,
        )
        store.add(event)
        await work.session.flush()
        if move.alias == "champion":
            work.emit(announcements.promoted(version, rules.fold(events).champion, event, why.drift_id))
        log.info(
            "alias.moved", model=model.name, alias=move.alias, version=move.version, sequence=event.sequence
        )

    async def _lock(self, store: Store, name: str) -> LogicalModel:
        model = await store.lock_model(name)
        if model is None:
            raise NotFound("This model is not declared.", "Declare it: driftwheel apply POLICY.yaml")
        return model

    async def _policy(self, store: Store, model: LogicalModel) -> Policy:
        row = await store.policy(model.name, model.revision)
        if row is None:
            raise NotFound("This model has no policy.", "Declare it: driftwheel apply POLICY.yaml")
        return Policy.stored(row.policy)

    async def _version(self, store: Store, model: str, number: int) -> ModelVersion:
        version = await store.version(model, number)
        if version is None:
            raise NotFound("The model has no such version.", "List them: driftwheel models show.")
        return version


def _rollout_evidence(event: RolloutChanged, version: ModelVersion) -> Json:
    statistics = [one.model_dump(mode="json") for one in event.statistics]
    return {"rollout_id": event.rollout_id, "evaluation_id": version.evaluation_id, "statistics": statistics}
