"""What the trainer says about a run: in its log, on `training.status`, and on the reply topics that were named."""

import structlog
from prometheus_client import Counter

from services.trainer.domain import ENDED, Entry, Request, Run
from services.trainer.store import Store
from services.trainer.wishes import Wish
from shared.contracts.errors import DriftwheelError
from shared.contracts.events import TrainingStatus
from shared.delivery.unit_of_work import UnitOfWork
from shared.service.clock import Clock

log = structlog.get_logger()

ANSWERS = Counter("driftwheel_trainer_answers_total", "Wishes for training by their answer.", ["answer"])


async def announce(work: UnitOfWork, clock: Clock, run: Run, state: str, reason: str = "") -> None:
    """Say where a run stands: in its log, on `training.status`, and to everyone who named a reply topic."""
    store = Store(work.session)
    status = _status(run, state, reason)
    run.sequence += 1
    store.add_entry(
        Entry(run_id=run.id, sequence=run.sequence, status=status.model_dump(mode="json"), at=clock.now())
    )
    work.emit(status)
    for request in await store.replies(run.id):
        work.emit(status.model_copy(update={"idempotency_key": request.key}), topic=request.reply_topic)


def repeat(work: UnitOfWork, run: Run, wish: Wish, request: Request | None) -> None:
    """Answer a wish whose run exists: accepted, and its end if it has ended, so that nobody waits for it."""
    ANSWERS.labels("repeated").inc()
    asked = {
        "drift_id": wish.drift_id or run.drift_id,
        "idempotency_key": wish.idempotency_key or run.idempotency_key,
    }
    answers = [_status(run, "accepted", f"this wish has a run already, which is {run.state}")]
    if run.state in ENDED:
        answers.append(_status(run, run.state, run.reason))
    for status in answers:
        work.emit(status.model_copy(update=asked))
        if request and request.reply_topic:
            work.emit(status.model_copy(update=asked), topic=request.reply_topic)


def reject(work: UnitOfWork, wish: Wish, reply_topic: str | None, error: DriftwheelError) -> None:
    """Answer a wish that becomes no run."""
    ANSWERS.labels("rejected").inc()
    status = TrainingStatus(
        model=wish.model,
        state="rejected",
        reason=str(error)[:2_000],
        dataset_digest=wish.dataset_digest or None,
        drift_id=wish.drift_id,
        idempotency_key=wish.idempotency_key,
    )
    log.info("wish.rejected", model=wish.model, reason=status.reason)
    work.emit(status)
    if reply_topic:
        work.emit(status, topic=reply_topic)


def _status(run: Run, state: str, reason: str) -> TrainingStatus:
    return TrainingStatus.model_validate(
        {
            **run.model_dump(include=_REPORTED),
            "run_id": run.id,
            "state": state,
            "reason": reason[:2_000],
            "cost": run.cost(),
        }
    )


_REPORTED = {
    "model",
    "dataset_digest",
    "drift_id",
    "idempotency_key",
    "attempt",
    "step",
    "total_steps",
    "loss",
    "validation_loss",
    "eta_seconds",
}
