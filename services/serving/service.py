"""What serving does when something arrives: a policy, an approval, a promotion, a judgement, an order to stop."""

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.serving import store
from services.serving.domain import Adapter, Change, Feedback, LogicalModel, PendingFeedback, Rollout
from services.serving.predictions import PredictionLog
from services.serving.ramp import Stats
from services.serving.rollouts import Rollouts
from shared.artifacts.corrections import correction
from shared.contracts.counters import is_newer
from shared.contracts.envelope import Envelope
from shared.contracts.errors import Conflict, Forbidden, NotFound
from shared.contracts.events import FeedbackRecorded, ModelApproved, ModelDeclared, ModelPromoted, rollout_id
from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork
from shared.service.clock import Clock

_HISTORY = 500
_NAMESPACE = uuid.UUID("5a0c3a52-5a3b-5d41-9d4b-6f2d1c9a7e10")
_SKEW = timedelta(minutes=1)
"""By so much the clocks of replicas may differ."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A caller's judgement as it came in: `score` in [0, 1], what the answer should have been, who says so.

    `models`: those whose answers the caller may judge; None: every one.
    """

    answer_id: str
    score: float
    corrected: str | None
    actor: str
    cause: Envelope
    at: datetime
    models: tuple[str, ...] | None = None


class ServingService:
    """Use cases; each runs inside the caller's unit of work."""

    def __init__(
        self, rollouts: Rollouts, predictions: PredictionLog, clock: Clock, answer_wait_seconds: float = 3_600
    ) -> None:
        self._rollouts = rollouts
        self._predictions = predictions
        self._clock = clock
        self._answer_wait = timedelta(seconds=answer_wait_seconds)

    async def declare(self, work: UnitOfWork, event: ModelDeclared) -> None:
        """From now on the name is known; an older revision, or the same again, is no news."""
        model = await store.lock_model(work, event.model)
        if is_newer(model.revision, event.revision, "revision"):
            model.revision = event.revision
            await store.announce(work)

    async def approve(self, work: UnitOfWork, event: ModelApproved) -> None:
        """Plan a rollout. It starts when the adapter is loaded and probed, and no other rollout is running."""
        model = await store.lock_model(work, event.model)
        stale = not is_newer(model.champion_version or 0, event.model_version, "version")
        await store.want(work, _adapter(event))
        rollout = Rollout(
            id=rollout_id(event.model, event.model_version, event.evaluation_id),
            model=event.model,
            model_version=event.model_version,
            plan=event.ramp.model_dump(mode="json"),
            salt=secrets.token_hex(16),
            state="superseded" if stale else "pending",
            reason="A version as new was champion before this approval came." if stale else "",
            drift_id=event.drift_id,
            cause=work.cause.to_json() if work.cause else None,
            created_at=self._clock.now(),
        )
        if await store.add_rollout(work, rollout):
            self._rollouts.record(work, rollout, "superseded" if stale else "planned")
        await store.announce(work)

    async def promote(self, work: UnitOfWork, event: ModelPromoted) -> None:
        """Move the alias at once, and end what it overtakes; an older promotion is ignored."""
        model = await store.lock_model(work, event.model)
        if not is_newer(model.champion_sequence, event.sequence, "sequence"):
            return
        is_newer(model.champion_version or 0, event.model_version, "version")
        await store.want(work, _adapter(event))
        for rollout in await store.open_rollouts(work, event.model):
            await self._overtake(work, model, rollout, event)
        if model.champion_version != event.model_version:
            model.previous_version, model.champion_version = model.champion_version, event.model_version
        model.champion_sequence, model.rollout_id = event.sequence, None
        await store.announce(work)

    async def _overtake(
        self, work: UnitOfWork, model: LogicalModel, rollout: Rollout, event: ModelPromoted
    ) -> None:
        if rollout.state == "running" and rollout.model_version != event.model_version:
            reason = f"Version {event.model_version} became champion: {event.reason}"
            await self._rollouts.roll_back(work, model, rollout, reason)
        elif rollout.state == "running" or rollout.model_version <= event.model_version:
            self._rollouts.supersede(work, rollout, f"Version {event.model_version} became champion.")

    async def hear(self, work: UnitOfWork, event: FeedbackRecorded) -> None:
        """Keep a judgement from Kafka. Its answer may be written later: the two are joined when a step is judged."""
        await store.add_feedback(work, self._feedback(event))

    async def judge(self, work: UnitOfWork, judged: Judged) -> Feedback | PendingFeedback:
        """Record a caller's judgement of an answer; the same again changes nothing.

        An answer that is young enough to be on its way, perhaps from another replica, is waited for.

        Raises:
            NotFound: no such answer was given here.
            Forbidden: it is of a model that the caller may not judge.
            Conflict: the caller judged this answer differently before.
        """
        answer_id = judged.answer_id
        model = self._predictions.model_of(answer_id) or await store.prediction_model(work, answer_id)
        waiting = PendingFeedback(
            feedback_id=feedback_id(answer_id, judged.actor),
            answer_id=answer_id,
            score=judged.score,
            correction=_reference(judged),
            actor=judged.actor,
            cause=judged.cause.to_json(),
            recorded_at=judged.at,
            since=self._clock.now(),
            models=None if judged.models is None else list(judged.models),
        )
        kept: Feedback | PendingFeedback
        if model is not None:
            kept = await self.keep(work, waiting, model)
        elif self._may_come(judged):
            kept = await store.add_pending(work, waiting)
        else:
            raise NotFound(
                "There is no such answer here.", "Use the x-answer-id header of the answer, or its id."
            )
        if kept.score != judged.score or not _same_words(kept, judged):
            raise Conflict(
                "You judged this answer differently before.", "A judgement stands once it is given."
            )
        return kept

    async def keep(self, work: UnitOfWork, judgement: PendingFeedback, model: str) -> Feedback:
        """Write a judgement of an answer that is known, and announce it; returns the one that stands.

        Raises:
            Forbidden: the caller may not judge this model.
        """
        if judgement.models is not None and model not in judgement.models:
            raise Forbidden(
                "This answer is of a model that the token is not for.",
                f"Make a token for it: driftwheel token --scope feedback --model {model}",
            )
        fields = judgement.model_dump(exclude={"cause", "since", "models"})
        mine = Feedback(**fields, model=model)
        kept = await store.add_feedback(work, mine)
        if kept is mine:
            work.emit(FeedbackRecorded.model_validate(mine.model_dump(exclude={"recorded_at"})))
        return kept

    def _may_come(self, judged: Judged) -> bool:
        """Whether the answer was perhaps given and is not written yet: our ids say when they were made."""
        made = made_at(judged.answer_id)
        return made is not None and judged.at - self._answer_wait <= made <= judged.at + _SKEW

    async def rollout(
        self, work: UnitOfWork, rollout_id: str
    ) -> tuple[Rollout, Stats | None, Sequence[Change]]:
        """A rollout, what its present step is judged on, and its history, oldest first. Raises NotFound."""
        found = await self.known_rollout(work, rollout_id)
        stats = await store.statistics(work, found) if found.started_at else None
        return found, stats, await store.changes(work, rollout_id, _HISTORY)

    def now(self) -> datetime:
        return self._clock.now()

    async def rollouts(
        self, work: UnitOfWork, model: str | None, after: str | None, limit: int
    ) -> Sequence[Rollout]:
        """Newest first, from behind the rollout `after`. Raises NotFound if there is no such rollout."""
        last = await self.known_rollout(work, after) if after else None
        return await store.rollouts(work, model, limit, last)

    async def abort(self, work: UnitOfWork, rollout_id: str, reason: str, actor: str) -> Rollout:
        """Stop a rollout by hand. Raises NotFound, or Conflict if it has ended."""
        model, rollout = await self._open(work, rollout_id)
        await self._rollouts.roll_back(work, model, rollout, f"Aborted by {actor}: {reason}")
        return rollout

    async def pause(self, work: UnitOfWork, rollout_id: str, reason: str, actor: str) -> Rollout:
        """Keep the weight and judge nothing until resumed; a paused one stays as it is.

        Raises NotFound, or Conflict if it has ended or not begun.
        """
        _, rollout = await self._open(work, rollout_id)
        if rollout.state != "running":
            raise Conflict("The rollout has no traffic yet.", "Wait until it runs, or abort it.")
        if rollout.paused_at is None:
            await self._rollouts.pause(work, rollout, f"Paused by {actor}: {reason}")
        return rollout

    async def resume(self, work: UnitOfWork, rollout_id: str, actor: str) -> Rollout:
        """Judge again, on everything answered since the step began. One that is not paused stays as it is.

        Raises NotFound, or Conflict if it has ended.
        """
        _, rollout = await self._open(work, rollout_id)
        if rollout.paused_at is not None:
            await self._rollouts.resume(work, rollout, f"Resumed by {actor}.")
        return rollout

    async def _open(self, work: UnitOfWork, rollout_id: str) -> tuple[LogicalModel, Rollout]:
        """The rollout under its model's lock. Raises NotFound, or Conflict if it has ended."""
        found = await self.known_rollout(work, rollout_id)
        model = await store.lock_model(work, found.model)
        for rollout in await store.open_rollouts(work, found.model):
            if rollout.id == rollout_id:
                return model, rollout
        raise Conflict("The rollout has ended.", "To take back a champion, roll back in the registry.")

    async def known_rollout(self, work: UnitOfWork, rollout_id: str) -> Rollout:
        found = await store.rollout(work, rollout_id)
        if found is None:
            raise NotFound("There is no such rollout.", "List them: GET /rollouts.")
        return found

    async def refuse(self, work: UnitOfWork, adapter: Adapter, reason: str) -> None:
        """Never load this adapter again, and end its rollout."""
        model = await store.lock_model(work, adapter.model)
        await store.set_adapter_state(work, adapter.engine_name, "refused", reason)
        for rollout in await store.open_rollouts(work, adapter.model):
            if rollout.model_version == adapter.model_version:
                await self._rollouts.roll_back(work, model, rollout, f"The adapter was refused: {reason}")
        await store.announce(work)

    def _feedback(self, event: FeedbackRecorded) -> Feedback:
        fields = event.model_dump(
            include={"feedback_id", "answer_id", "model", "score", "correction", "actor"}
        )
        return Feedback(**fields, recorded_at=self._clock.now())


def _reference(judged: Judged) -> Json | None:
    """Where the words of a judgement lie in the store, once they are written."""
    if judged.corrected is None:
        return None
    ref, _ = correction(feedback_id(judged.answer_id, judged.actor), judged.corrected)
    return ref.model_dump(mode="json")


def _same_words(kept: Feedback | PendingFeedback, judged: Judged) -> bool:
    if kept.corrected is not None:
        return kept.corrected == judged.corrected
    return kept.correction == _reference(judged)


def _derived(*parts: str) -> str:
    """The same id for the same parts, however often they arrive."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(parts)))


def feedback_id(answer_id: str, actor: str) -> str:
    """One judgement for each answer and actor."""
    return _derived(answer_id, actor)


def made_at(answer_id: str) -> datetime | None:
    """When an id of ours was made; None if it is none. Source: RFC 9562, section 5.7."""
    try:
        found = uuid.UUID(answer_id)
    except ValueError:
        return None
    if found.version != 7 or str(found) != answer_id:
        return None
    return datetime.fromtimestamp((found.int >> 80) / 1_000, UTC)


def _adapter(event: ModelApproved | ModelPromoted) -> Adapter:
    return Adapter(
        engine_name=event.engine_name,
        model=event.model,
        model_version=event.model_version,
        adapter_digest=event.adapter_digest,
        base_digest=event.base_digest,
        evidence_bucket=event.evidence.bucket,
        evidence_key=event.evidence.key,
        evidence_sha256=event.evidence.sha256,
        targets=list(event.recipe.targets),
    )
