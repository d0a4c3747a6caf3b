"""What the rollouts of a story wait for, in words: for "why is it not moving"."""

from collections.abc import Sequence

from sqlmodel import col, select

from services.serving import store
from services.serving.domain import Adapter, Rollout
from services.serving.ramp import needs_of
from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork


async def waits(work: UnitOfWork, correlation_ids: Sequence[str]) -> list[Json]:
    """The open rollouts that the stories with these ids led to: `reason` and the `command` that shows more."""
    query = select(Rollout).where(
        col(Rollout.state).in_(("pending", "running")),
        col(Rollout.cause)["correlationid"].as_string().in_(correlation_ids),
    )
    return [
        {"reason": await _reason(work, rollout), "command": f"driftwheel rollouts show {rollout.id}"}
        for rollout in (await work.session.exec(query)).all()
    ]


async def _reason(work: UnitOfWork, rollout: Rollout) -> str:
    name = f"{rollout.model}:{rollout.model_version}"
    if rollout.paused_at is not None:
        return f"the ramp of {name} is paused at {rollout.weight:g} %: {rollout.reason}; a person resumes it"
    if rollout.state == "running":
        needs = needs_of(rollout.ramp, rollout.step, await store.statistics(work, rollout))
        missing = [f"{need.what} {need.have} of {need.need}" for need in needs if need.have < need.need]
        return (
            f"the ramp of {name} is at {rollout.weight:g} % and needs {', '.join(missing) or 'its next look'}"
        )
    running = [other for other in await store.open_rollouts(work, rollout.model) if other.state == "running"]
    if running:
        return f"{name} waits until the rollout of version {running[0].model_version} has ended"
    found = select(Adapter).where(
        Adapter.model == rollout.model, Adapter.model_version == rollout.model_version
    )
    adapter = (await work.session.exec(found)).one_or_none()
    state = f"{adapter.state} {adapter.reason}".strip() if adapter else "not known"
    return f"the adapter of {name} is {state}: it is loaded and probed before any traffic"
