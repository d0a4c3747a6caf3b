"""The shapes of the HTTP answers."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from services.registry.domain import Alias, ModelVersion, PolicyRevision, VersionState
from services.registry.rules import Aliases
from shared.events import Cost, ObjectRef, Score, Verdict
from shared.policy import Policy, Recipe


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
    """A logical model. `versions` counts decided versions, `sequence` alias events."""

    name: str
    revision: int
    versions: int
    sequence: int
    aliases: AliasView


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
        held = [
            name
            for name, number in aliases._asdict().items()
            if number is not None and number == version.number
        ]
        return cls.model_validate({**version.model_dump(), "aliases": held})


class VersionList(View):
    versions: list[VersionView]


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


class RollbackView(View):
    """Who is champion after the rollback."""

    model: str
    champion: int
