"""The only SQL of serving."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from sqlalchemy import CursorResult, Executable, func, or_, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import defer
from sqlmodel import col, delete, select, update

from services.serving.domain import (
    Adapter,
    Change,
    Erasure,
    Feedback,
    LogicalModel,
    PendingFeedback,
    Prediction,
    Rollout,
    Snapshot,
)
from services.serving.ramp import Arm, Stats
from shared.delivery.unit_of_work import UnitOfWork

CHANNEL = "serving"
"""PostgreSQL channel that tells every process of this service that wanted state changed, when it is committed."""

_STATISTICS = """
WITH answers AS (
    SELECT arm, outcome, latency_ms,
        (SELECT avg(score) FROM feedback WHERE feedback.answer_id = prediction.answer_id) AS score
    FROM prediction
    WHERE rollout_id = :rollout_id AND outcome <> 'cancelled'
      AND (arm = 'challenger' AND served_at >= :step OR arm = 'champion' AND served_at >= :since)
), champion AS (
    SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY latency_ms) AS p99
    FROM answers WHERE arm = 'champion' AND outcome = 'ok'
)
SELECT arm, count(*) AS answers, count(*) FILTER (WHERE outcome = 'error') AS errors,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE outcome = 'ok') AS latency_p50_ms,
    percentile_disc(0.99) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE outcome = 'ok') AS latency_p99_ms,
    count(*) FILTER (WHERE outcome = 'ok' AND latency_ms > :ratio * (SELECT p99 FROM champion)) AS slow,
    count(score) AS feedback, avg(score)::float AS mean_score
FROM answers GROUP BY arm
"""


async def _run(work: UnitOfWork, statement: Executable) -> CursorResult[Any]:
    return cast(CursorResult[Any], await (await work.session.connection()).execute(statement))


async def announce(work: UnitOfWork) -> None:
    await work.execute("SELECT pg_notify(:channel, '')", {"channel": CHANNEL})


async def lock_model(work: UnitOfWork, name: str) -> LogicalModel:
    """The model's row, made if it is new; other changes of this model wait for this transaction."""
    values = LogicalModel(name=name).model_dump()
    await _run(work, insert(LogicalModel).values(**values).on_conflict_do_nothing())
    return (
        await work.session.exec(select(LogicalModel).where(LogicalModel.name == name).with_for_update())
    ).one()


async def want(work: UnitOfWork, adapter: Adapter) -> None:
    """Remember an adapter; one that is known stays as it is."""
    await _run(work, insert(Adapter).values(**adapter.model_dump()).on_conflict_do_nothing())


async def set_adapter_state(work: UnitOfWork, engine_name: str, state: str, reason: str = "") -> None:
    named = col(Adapter.engine_name) == engine_name
    await _run(work, update(Adapter).where(named).values(state=state, reason=reason))


async def adapters(work: UnitOfWork, model: str | None) -> Sequence[Adapter]:
    query = select(Adapter).order_by(col(Adapter.model), col(Adapter.model_version))
    if model is not None:
        query = query.where(Adapter.model == model)
    return (await work.session.exec(query)).all()


async def refusal(work: UnitOfWork, rollout: Rollout) -> str | None:
    """Why the adapter of this rollout is not served, if it was refused."""
    query = select(Adapter.reason).where(
        Adapter.model == rollout.model,
        Adapter.model_version == rollout.model_version,
        Adapter.state == "refused",
    )
    return (await work.session.exec(query)).one_or_none()


async def snapshot(work: UnitOfWork) -> Snapshot:
    """What is in force now, with the adapters it names; those of the past are many and asked for by nobody."""
    models = (await work.session.exec(select(LogicalModel))).all()
    with_traffic = [model.rollout_id for model in models if model.rollout_id]
    open_ones = or_(col(Rollout.state).in_(("pending", "running")), col(Rollout.id).in_(with_traffic))
    rollouts = (await work.session.exec(select(Rollout).where(open_ones))).all()
    named = {(m.name, version) for m in models for version in (m.champion_version, m.previous_version)}
    named |= {(r.model, r.model_version) for r in rollouts}
    wanted = [(name, version) for name, version in named if version is not None]
    query = select(Adapter).where(tuple_(col(Adapter.model), col(Adapter.model_version)).in_(wanted))
    found = (await work.session.exec(query)).all() if wanted else []
    return Snapshot({m.name: m for m in models}, found, {r.id: r for r in rollouts})


async def add_rollout(work: UnitOfWork, rollout: Rollout) -> bool:
    """False if it is known."""
    query = insert(Rollout).values(**rollout.model_dump()).on_conflict_do_nothing()
    return (await _run(work, query.returning(col(Rollout.id)))).first() is not None


async def open_rollouts(work: UnitOfWork, model: str) -> Sequence[Rollout]:
    """Pending and running ones, oldest version first, as they are now."""
    open_ones = col(Rollout.state).in_(("pending", "running"))
    query = select(Rollout).where(Rollout.model == model, open_ones).order_by(col(Rollout.model_version))
    return (await work.session.exec(query.execution_options(populate_existing=True))).all()


async def rollout(work: UnitOfWork, rollout_id: str) -> Rollout | None:
    return await work.session.get(Rollout, rollout_id)


async def rollouts(
    work: UnitOfWork, model: str | None, limit: int, after: Rollout | None = None
) -> Sequence[Rollout]:
    """Newest first; those older than `after`, if given."""
    place = tuple_(col(Rollout.created_at), col(Rollout.id))
    query = select(Rollout).order_by(col(Rollout.created_at).desc(), col(Rollout.id).desc()).limit(limit)
    if model is not None:
        query = query.where(Rollout.model == model)
    if after is not None:
        query = query.where(place < tuple_(after.created_at, after.id))
    return (await work.session.exec(query.options(defer(Rollout.cause)))).all()  # type: ignore[arg-type]


async def changes(work: UnitOfWork, rollout_id: str, limit: int) -> Sequence[Change]:
    """The newest ones, oldest first."""
    query = select(Change).where(Change.rollout_id == rollout_id).order_by(col(Change.id).desc())
    return (await work.session.exec(query.limit(limit))).all()[::-1]


async def statistics(work: UnitOfWork, rollout: Rollout, errors_in_a_row: int = 0) -> Stats:
    """What the present step is judged on; an answer with several judgements counts once, with their mean."""
    ramp = rollout.ramp
    since: datetime | None = rollout.started_at if rollout.weight >= 100 else rollout.step_started_at
    parameters: dict[str, Any] = {
        "rollout_id": rollout.id,
        "step": rollout.step_started_at,
        "since": since,
        "ratio": ramp.max_latency_ratio,
    }
    rows = (await work.execute(_STATISTICS, parameters)).mappings().all()
    arms = {row["arm"]: Arm(**{name: value for name, value in row.items() if name != "arm"}) for row in rows}
    return Stats(
        challenger=arms.get("challenger", Arm()),
        champion=None if rollout.champion_version is None else arms.get("champion", Arm()),
        looks=rollout.looks,
        passed=rollout.passed,
        errors_in_a_row=errors_in_a_row,
    )


async def add_predictions(work: UnitOfWork, predictions: Sequence[Prediction]) -> set[str]:
    """Write those that are new; returns their answer ids."""
    rows = [prediction.model_dump() for prediction in predictions]
    query = insert(Prediction).values(rows).on_conflict_do_nothing()
    return {row[0] for row in await _run(work, query.returning(col(Prediction.answer_id)))}


async def prediction_model(work: UnitOfWork, answer_id: str) -> str | None:
    """The logical model that gave an answer."""
    return (
        await work.session.exec(select(Prediction.model).where(Prediction.answer_id == answer_id))
    ).one_or_none()


class Erasable(NamedTuple):
    """What is left of a subject: rows of answers with a text, and judgements with words."""

    lines: Sequence[Prediction]
    corrections: Sequence[Feedback]

    @property
    def answers(self) -> list[str]:
        return [row.answer_id for row in self.lines]


async def erasable(
    work: UnitOfWork,
    model: str,
    subject: str,
    until: datetime,
    limit: int,
    since: datetime | None = None,
) -> Erasable:
    """Of a subject (its SHA-256), oldest first: of questions it asked, and of judgements by it or on their answers."""
    asked = or_(col(Prediction.subject_sha256) == subject, col(Prediction.user_sha256) == subject)
    lines = select(Prediction).where(Prediction.model == model, asked, Prediction.served_at <= until)
    lines = lines.where(col(Prediction.object_key).is_not(None))
    judge = func.encode(func.sha256(func.convert_to(Feedback.actor, "UTF8")), "hex")
    answers = select(Prediction.answer_id).where(Prediction.model == model, asked)
    words = select(Feedback).where(
        Feedback.model == model,
        Feedback.recorded_at <= until,
        or_(col(Feedback.correction).is_not(None), col(Feedback.corrected).is_not(None)),
        or_(judge == subject, col(Feedback.answer_id).in_(answers)),
    )
    if since is not None:  # our ids begin with their time, so the index on them serves
        lines = lines.where(col(Prediction.answer_id) >= id_from(since))
        words = words.where(Feedback.recorded_at >= since)
    return Erasable(
        (await work.session.exec(lines.order_by(col(Prediction.answer_id)).limit(limit))).all(),
        (await work.session.exec(words.order_by(col(Feedback.feedback_id)).limit(limit))).all(),
    )


def id_from(at: datetime) -> str:
    """The first id that can have been made then. Source: RFC 9562, section 5.7."""
    digits = f"{int(at.timestamp() * 1_000):012x}"
    return f"{digits[:8]}-{digits[8:]}"


async def lock_erasures(work: UnitOfWork) -> None:
    """One at a time: two would each write an object without the other's blanks."""
    await work.execute("SELECT pg_advisory_xact_lock(hashtextextended('serving.erasure', 0))")


async def add_erasure(
    work: UnitOfWork, erasure_id: str, model: str, subject: str, asked_by: str, at: datetime
) -> None:
    row = Erasure(id=erasure_id, model=model, subject_sha256=subject, asked_by=asked_by, at=at)
    work.session.add(row)


async def erasures_since(work: UnitOfWork, at: datetime) -> list[tuple[str, str, str, datetime]]:
    """Id, model, subject and time of each, oldest first."""
    found = await work.session.exec(
        select(Erasure).where(Erasure.at >= at).order_by(col(Erasure.at), col(Erasure.id))
    )
    return [(row.id, row.model, row.subject_sha256, row.at) for row in found.all()]


async def mark_erased(
    work: UnitOfWork,
    erasure_id: str,
    subject: str,
    lines: Sequence[Prediction],
    words: Sequence[Feedback],
) -> None:
    for line in lines:
        line.object_key = line.line = None
    for word in words:
        word.correction = word.corrected = None
        if hashlib.sha256(word.actor.encode()).hexdigest() == subject:
            word.actor = "erased"
    counts = update(Erasure).where(col(Erasure.id) == erasure_id)
    await _run(
        work,
        counts.values(
            predictions=col(Erasure.predictions) + len(lines),
            corrections=col(Erasure.corrections) + len(words),
        ),
    )


async def add_feedback(work: UnitOfWork, feedback: Feedback) -> Feedback:
    """Write a judgement; returns the one that was there before, if any, else this one."""
    query = insert(Feedback).values(**feedback.model_dump()).on_conflict_do_nothing()
    if (await _run(work, query.returning(col(Feedback.feedback_id)))).first() is not None:
        return feedback
    return (
        await work.session.exec(select(Feedback).where(Feedback.feedback_id == feedback.feedback_id))
    ).one()


async def add_pending(work: UnitOfWork, feedback: PendingFeedback) -> PendingFeedback:
    """Let a judgement wait; returns the one that waited before, if any, else this one."""
    query = insert(PendingFeedback).values(**feedback.model_dump()).on_conflict_do_nothing()
    if (await _run(work, query.returning(col(PendingFeedback.feedback_id)))).first() is not None:
        return feedback
    same = col(PendingFeedback.feedback_id) == feedback.feedback_id
    return (await work.session.exec(select(PendingFeedback).where(same))).one()


async def joinable(work: UnitOfWork, limit: int) -> Sequence[tuple[PendingFeedback, str]]:
    """Take judgements out of waiting whose answers are written by now, each with its model, oldest first."""
    query = (
        select(PendingFeedback, Prediction.model)
        .join(Prediction, col(Prediction.answer_id) == col(PendingFeedback.answer_id))
        .order_by(col(PendingFeedback.recorded_at))
        .limit(limit)
        .with_for_update(of=PendingFeedback, skip_locked=True)
    )
    found = (await work.session.exec(query)).all()
    ids = [pending.feedback_id for pending, _ in found]
    if ids:
        await _run(work, delete(PendingFeedback).where(col(PendingFeedback.feedback_id).in_(ids)))
    return found


async def drop_pending(work: UnitOfWork, before: datetime) -> list[str]:
    """Forget judgements that waited since before then; returns the ids of the answers that never came."""
    query = delete(PendingFeedback).where(col(PendingFeedback.since) < before)
    return [row[0] for row in await _run(work, query.returning(col(PendingFeedback.answer_id)))]
