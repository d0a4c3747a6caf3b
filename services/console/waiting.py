"""Why a story does not move: the event that should come next, from whom, what it waits for, and what to run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from services.console.causality import Step, seconds_between
from services.console.formats import behind, duration
from shared.contracts.document import Json

_ENDED_RUNS = {"failed", "rejected", "cancelled"}
_ENDED_ROLLOUTS = {"completed", "rolled_back", "superseded"}


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a story waits for.

    Attributes:
        topic, service: the next expected event, and who should send it.
        after: the event it should follow.
        waited_seconds: since that event; `usual_seconds` is the service's own median, None before its first.
        lag_seconds: age of the oldest record that the service has not read of that event's topic.
        reason: where it stands, and why.
        command: what to run next.
    """

    topic: str
    service: str
    after: str
    event_id: str
    waited_seconds: float
    usual_seconds: float | None
    lag_seconds: float | None
    reason: str
    command: str

    def to_json(self) -> Json:
        return asdict(self)


def why(
    roots: Sequence[Step],
    parts: Sequence[Json],
    unreachable: Sequence[str],
    now: datetime,
) -> Waiting | None:
    """The newest open end of a story; None if it has come to its end.

    Args:
        parts: what the services answered, for `usual`, `lag` and `waits` (what each says of itself).
    """
    steps = [step for root in roots for step in root.walk()]
    ends = [(step, found) for step in steps if (found := expected(step))]
    if not ends:
        return None
    step, (topic, service) = max(ends, key=lambda end: end[0].at)
    by_service = {part["service"]: part for part in parts}
    usual = (by_service.get(service, {}).get("usual", {}).get(topic) or {}).get("seconds")
    lag = (by_service.get(service, {}).get("lag", {}).get(step.topic) or {}).get("seconds")
    waits = by_service.get(service, {}).get("waits", ())
    reason, command = _reason(step, service, unreachable, lag, waits)
    return Waiting(
        topic=topic,
        service=service,
        after=step.topic,
        event_id=step.event_id,
        waited_seconds=seconds_between(step.at, now.isoformat()) or 0.0,
        usual_seconds=usual,
        lag_seconds=lag,
        reason=reason,
        command=command,
    )


def expected(step: Step) -> tuple[str, str] | None:
    """The event that should follow this one, and its sender; None if it came, or nothing has to."""
    followed = {caused.topic for caused in step.causes}
    states = {caused.payload.get("state") for caused in step.causes}
    match step.topic:
        case "training.requested" | "dataset.ready" if (
            "model.trained" not in followed and not states & _ENDED_RUNS
        ):
            return "model.trained", "trainer"
        case "model.trained" if "model.evaluated" not in followed:
            return "model.evaluated", "evaluator"
        case "model.evaluated" if not followed & {"model.approved", "model.rejected"}:
            return "model.approved", "registry"
        case "model.approved" if not states & _ENDED_ROLLOUTS:
            return "rollout.changed", "serving"
        case "rollout.changed" if (
            step.payload.get("state") == "completed" and "model.promoted" not in followed
        ):
            return "model.promoted", "registry"
        case "drift.detected" if step.payload.get("verdict") == "retrain" and "dataset.ready" not in followed:
            return "dataset.ready", "data"
        case _:
            return None


def _reason(
    step: Step, service: str, unreachable: Sequence[str], lag: float | None, waits: Sequence[Json]
) -> tuple[str, str]:
    """From the outbox to the worker: the first place where it stands."""
    if step.sent.get("dead_at"):
        return f"{step.source} could not send it: {step.sent['error']}", "driftwheel status"
    if step.sent and not step.sent.get("sent_at"):
        return f"it waits in the outbox of {step.source}: Kafka does not take it", "driftwheel doctor"
    row: Mapping[str, Any] = step.by(service) or {}
    if row.get("state") == "dead":
        tries = f"{row['attempts']} attempt{'s' if row['attempts'] > 1 else ''}"
        return (
            f"it died in {service} after {tries}: {row['error']}",
            f"driftwheel dlq redrive {service} {step.event_id}",
        )
    if service in unreachable:
        return f"{service} does not answer", "driftwheel status"
    if row.get("state") == "redriven":
        return f"it was redriven, and {service} has not taken it yet", "driftwheel status"
    if not row:
        behind = "" if lag is None else f" (its oldest unread event there is {duration(lag)} old)"
        return f"{service} has not taken it from Kafka yet{behind}", "driftwheel status"
    if waits:
        return waits[0]["reason"], waits[0]["command"]
    job = next((job for job in step.jobs if job["service"] == service), None)
    if job:
        return _job(job, service)
    return f"{service} has handled it and not answered yet", "driftwheel status"


def _job(job: Json, service: str) -> tuple[str, str]:
    name = f"{job['job']} {job['key']}"
    look = f"driftwheel runs watch {job['key']}" if service == "trainer" else "driftwheel status"
    if job["cancel_reason"]:
        return f"{name} was cancelled: {job['cancel_reason']}", look
    if not job["started_at"]:
        place = behind(job.get("ahead"))
        return f"{name} {f'is {place}' if place else f'waits for a worker of {service}'}", "driftwheel status"
    if not job["ended_at"]:
        return f"a worker of {service} is at {name}, attempt {job['attempts']}", look
    return f"{name} ended: {job['outcome']} {job['error'] or ''}".rstrip(), look
