"""The shapes of the HTTP answers."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from services.registry.domain import Alias, ModelVersion, PolicyRevision, VersionState
from services.registry.rules import Aliases
from shared.contracts.events import Cost, ObjectRef, Score, Verdict
from shared.contracts.policy import Policy, Recipe
from shared.contracts.text import Json


class View(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class PolicyView(View):
    """A policy; `changed` is false when `POST` found it as it was."""

    model: str
    revision: int
    policy: Policy
    actor: str
    declared_at: datetime
    changed: bool = False

    @classmethod
    def of(cls, row: PolicyRevision, *, changed: bool = False) -> "PolicyView":
        return cls.model_validate({**row.model_dump(), "changed": changed})


class PolicyList(View):
    policies: list[PolicyView]


class AliasView(View):
    """The versions that hold an alias; null if none does."""

    champion: int | None
    challenger: int | None


class ModelView(View):
    """A logical model. `versions` counts decided versions, `sequence` alias events.

    `changed_at` is the last time its policy, a version or an alias changed.
    """

    name: str
    revision: int
    versions: int
    sequence: int
    aliases: AliasView
    changed_at: datetime | None

    @classmethod
    def of(cls, row: Json) -> "ModelView":
        return cls.model_validate({**row, "aliases": row})


class ModelList(View):
    models: list[ModelView]


class VersionView(View):
    """A version with its lineage. A candidate has no number; `aliases` says what it is right now."""

    model: str
    number: int | None
    state: VersionState
    aliases: list[Alias]
    engine_name: str | None
    run_id: str
    adapter_digest: str
    base_digest: str
    dataset_digest: str
    recipe: Recipe
    code: str
    cost: Cost
    drift_id: str | None
    trained_at: datetime
    evaluation_id: str | None
    evidence: ObjectRef | None
    compared_with: int | None = Field(description="Champion it was measured against.")
    scores: list[Score]
    verdicts: list[Verdict]
    reasons: list[str]
    remedy: str
    decided_at: datetime | None

    @classmethod
    def of(cls, version: ModelVersion, aliases: Aliases) -> "VersionView":
        return cls.model_validate({**version.model_dump(), "aliases": _held(version.number, aliases)})


def _held(version: int | None, aliases: Aliases) -> list[str]:
    return [name for name, number in aliases._asdict().items() if number is not None and number == version]


class VersionList(View):
    versions: list[VersionView]


class VersionSummary(View):
    """A version in a list. `quality` is its exact match on the test split, `reason` the first one against it."""

    model: str
    number: int | None
    state: VersionState
    aliases: list[Alias]
    engine_name: str | None
    run_id: str
    adapter_digest: str
    dataset_digest: str
    evaluation_id: str | None
    compared_with: int | None
    drift_id: str | None
    quality: Score | None
    reason: str | None
    cost: Cost
    trained_at: datetime
    decided_at: datetime | None

    @classmethod
    def of(cls, row: Json, aliases: Aliases) -> "VersionSummary":
        return cls.model_validate({**row, "aliases": _held(row["number"], aliases)})


class VersionSummaries(View):
    versions: list[VersionSummary]


class PeriodView(View):
    """One time that a version held an alias; `until` null means that it still does."""

    sequence: int
    alias: Alias
    since: datetime
    until: datetime | None
    actor: str
    reason: str
    rollback: bool


class RolloutView(View):
    """How far a rollout has come, as serving last said; `weight` in per cent."""

    id: str
    state: str
    step: int
    weight: float
    reason: str
    changed_at: datetime


class TrafficView(View):
    """What of the traffic a version had, newest first."""

    periods: list[PeriodView]
    rollouts: list[RolloutView]


class CardView(View):
    """A model card: Markdown with a YAML head."""

    adapter_digest: str
    text: str


class RevisionView(View):
    revision: int
    actor: str
    declared_at: datetime


class RevisionList(View):
    """Revisions of a policy, newest first."""

    revisions: list[RevisionView]


class AliasEventView(View):
    """One move of an alias; `version` null means that it was cleared."""

    sequence: int
    alias: Alias
    version: int | None
    rollback: bool
    actor: str
    reason: str
    evidence: dict[str, Any]
    at: datetime


class HistoryView(View):
    """Who was what at `at` (now, if null), and the events that led there."""

    model: str
    at: datetime | None
    aliases: AliasView
    events: list[AliasEventView]


class PreviewView(View):
    """A rollback would make `target` champion instead of `champion`."""

    model: str
    champion: int | None
    target: int


class RollbackView(View):
    """Who is champion after the rollback."""

    model: str
    champion: int
