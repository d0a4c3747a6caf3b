"""What the registry tells the others, built from a decided version. Pure."""

from typing import TypeVar

from services.registry import rules
from services.registry.domain import AliasEvent, ModelVersion
from shared.contracts.events import ModelApproved, ModelPromoted, ModelRejected, ObjectRef
from shared.contracts.policy import Policy, Recipe

T = TypeVar("T")


def _given(value: T | None) -> T:
    """A decided version has a number, a name and evidence; a candidate is never announced."""
    if value is None:
        raise ValueError("the version is not decided yet")
    return value


def decided(version: ModelVersion, policy: Policy) -> ModelApproved | ModelRejected:
    if version.state == "rejected":
        return ModelRejected(
            model=version.model,
            model_version=_given(version.number),
            run_id=version.run_id,
            adapter_digest=version.adapter_digest,
            reasons=tuple(version.reasons),
            remedy=version.remedy,
            drift_id=version.drift_id,
        )
    return ModelApproved(
        model=version.model,
        model_version=_given(version.number),
        engine_name=_given(version.engine_name),
        adapter_digest=version.adapter_digest,
        base_digest=version.base_digest,
        dataset_digest=version.dataset_digest,
        champion_version=version.compared_with,
        recipe=Recipe.stored(version.recipe),
        evaluation_id=_given(version.evaluation_id),
        evidence=ObjectRef.model_validate(version.evidence),
        ramp=policy.ramp,
        drift_id=version.drift_id,
    )


def promoted(
    version: ModelVersion, previous: int | None, event: AliasEvent, drift_id: str | None
) -> ModelPromoted:
    return ModelPromoted(
        model=version.model,
        model_version=_given(version.number),
        previous_version=previous,
        engine_name=_given(version.engine_name),
        adapter_digest=version.adapter_digest,
        base_digest=version.base_digest,
        dataset_digest=version.dataset_digest,
        recipe=Recipe.stored(version.recipe),
        evaluation_id=_given(version.evaluation_id),
        evidence=ObjectRef.model_validate(version.evidence),
        quality=rules.quality(version.scores),
        sequence=event.sequence,
        rollback=event.rollback,
        actor=event.actor,
        reason=event.reason,
        drift_id=drift_id,
    )


def restated(version: ModelVersion, previous: int | None, event: AliasEvent) -> ModelPromoted:
    """The promotion that is in force, said again; the drift that led to it has ended long ago."""
    return promoted(version, previous, event, None).model_copy(update={"restated": True})
