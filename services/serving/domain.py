"""What serving keeps: models, adapters, rollouts and their history, predictions, feedback."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from shared.contracts.policy import Ramp


class Table(SQLModel, registry=registry()):
    """Base of this service's tables."""


AdapterState = Literal["wanted", "admitted", "loaded", "probed", "refused"]
RolloutState = Literal["pending", "running", "completed", "rolled_back", "superseded"]
Announced = Literal["started", "advanced", "held", "completed", "rolled_back"]
ChangeState = Literal[Announced, "planned", "passed", "paused", "resumed", "superseded"]

FIRST_VERSION = Ramp(steps=(100,))
"""The plan while there is no champion to compare with."""


def _timestamp(*, nullable: bool = False) -> Any:
    return Column(DateTime(timezone=True), nullable=nullable)


class LogicalModel(Table, table=True):
    """A declared model and who answers for it; `rollout_id` is the rollout that has traffic now.

    The ramp itself travels with each approval: a rollout keeps the plan it was approved with.
    """

    __tablename__ = "logical_model"
    name: str = Field(primary_key=True)
    revision: int = 0
    champion_version: int | None = None
    previous_version: int | None = None
    champion_sequence: int = 0
    rollout_id: str | None = None


class Adapter(Table, table=True):
    """An adapter that may have to be in the engine, and how far it came."""

    __tablename__ = "adapter"
    __table_args__ = (
        UniqueConstraint("model", "model_version"),
        CheckConstraint(
            "state IN ('wanted', 'admitted', 'loaded', 'probed', 'refused')", name="adapter_state"
        ),
    )
    engine_name: str = Field(primary_key=True)
    model: str
    model_version: int
    adapter_digest: str
    base_digest: str
    evidence_bucket: str
    evidence_key: str
    evidence_sha256: str
    targets: list[str] = Field(sa_column=Column(JSON, nullable=False))
    state: str = "wanted"
    reason: str = ""


class Rollout(Table, table=True):
    """One version's way to 100 %. `looks` and `passed` are the tests made at the present step.

    `salt` makes the arms unpredictable and stays the same, so that they are sticky. `cause` is the approval's envelope.
    While `paused_at` is set a running rollout keeps its weight and is not judged.
    """

    __tablename__ = "rollout"
    __table_args__ = (
        CheckConstraint(
            "state IN ('pending', 'running', 'completed', 'rolled_back', 'superseded')", name="rollout_state"
        ),
        Index("rollout_one_running", "model", unique=True, postgresql_where=text("state = 'running'")),
        Index("rollout_newest", "created_at", "id"),
        Index("rollout_newest_of_model", "model", "created_at", "id"),
    )
    id: str = Field(primary_key=True)
    model: str = Field(index=True)
    model_version: int
    champion_version: int | None = None
    plan: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    salt: str = Field(repr=False)
    state: str = "pending"
    step: int = 0
    looks: int = 0
    passed: bool = False
    reason: str = ""
    drift_id: str | None = None
    cause: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    created_at: datetime = Field(sa_column=_timestamp())
    started_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    step_started_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    paused_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    ended_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))

    @property
    def ramp(self) -> Ramp:
        return Ramp.stored(self.plan)

    @property
    def weight(self) -> float:
        """The challenger's traffic, per cent."""
        if self.state == "running":
            return float(self.ramp.steps[self.step])
        return 100.0 if self.state == "completed" else 0.0


class Change(Table, table=True):
    """One thing that happened to a rollout, as it was then; rows are only ever added.

    `judgement` is the test behind it, if one was made: see `progress.judgement`.
    """

    __tablename__ = "rollout_change"
    __table_args__ = (Index("rollout_change_order", "rollout_id", "id"),)
    id: int = Field(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    rollout_id: str
    at: datetime = Field(sa_column=_timestamp())
    state: str
    step: int
    weight: float
    reason: str
    judgement: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))


class Prediction(Table, table=True):
    """One answer; its text is line `line` of the object `object_key`, unless it was erased.

    The digests are of who asked: of the token's subject, and of the end user that the request names.
    """

    __tablename__ = "prediction"
    __table_args__ = (Index("prediction_rollout", "rollout_id", "arm", "served_at"),)
    answer_id: str = Field(primary_key=True)
    model: str
    model_version: int | None = None
    arm: str
    rollout_id: str | None = None
    served_at: datetime = Field(sa_column=_timestamp())
    latency_ms: float
    outcome: str
    object_key: str | None = None
    line: int | None = None
    subject_sha256: str | None = None
    user_sha256: str | None = None


class Erasure(Table, table=True):
    """Somebody asked for the texts of a subject to be erased; rows are only ever added, and their counts rise."""

    __tablename__ = "erasure"
    id: str = Field(primary_key=True)
    model: str
    subject_sha256: str
    asked_by: str
    at: datetime = Field(sa_column=_timestamp())
    predictions: int = 0
    corrections: int = 0


class Feedback(Table, table=True):
    """One judgement of one answer by one actor; `correction` refers to the text of what it should have been."""

    __tablename__ = "feedback"
    feedback_id: str = Field(primary_key=True)
    answer_id: str = Field(index=True)
    model: str
    score: float
    corrected: str | None = Field(
        default=None, description="Of releases before 0004 of the schema; else None."
    )
    correction: dict[str, Any] | None = Field(
        default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True)
    )
    actor: str
    recorded_at: datetime = Field(sa_column=_timestamp())


class PendingFeedback(Table, table=True):
    """A judgement whose answer is not written yet, and since when it waits; `cause` is the envelope of the request.

    `models`: those that its author may judge; None: every one.
    """

    __tablename__ = "pending_feedback"
    feedback_id: str = Field(primary_key=True)
    answer_id: str = Field(index=True)
    score: float
    corrected: str | None = Field(
        default=None, description="Of releases before 0004 of the schema; else None."
    )
    correction: dict[str, Any] | None = Field(
        default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True)
    )
    actor: str
    cause: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    recorded_at: datetime = Field(sa_column=_timestamp())
    since: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, index=True))
    models: list[str] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The database at one moment. `rollouts` holds those that are pending, running or carry traffic."""

    models: Mapping[str, LogicalModel] = field(default_factory=dict)
    adapters: Sequence[Adapter] = ()
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)

    def wanted(self) -> list[Adapter]:
        """Adapters that must be in the engine, champions first.

        Per model: champion, the one before (for a rollback without a wait), the rollout with traffic, and the next.
        """
        ranks: dict[tuple[str, int], int] = {}
        for model in self.models.values():
            rollout = self.rollouts.get(model.rollout_id or "")
            waiting = [
                r.model_version
                for r in self.rollouts.values()
                if r.model == model.name and r.state == "pending"
            ]
            challenger = rollout.model_version if rollout else min(waiting, default=None)
            for rank, version in enumerate((model.champion_version, challenger, model.previous_version)):
                if version is not None:
                    ranks.setdefault((model.name, version), rank)
        found = [adapter for adapter in self.adapters if (adapter.model, adapter.model_version) in ranks]
        return sorted(found, key=lambda adapter: ranks[adapter.model, adapter.model_version])

    def is_champion(self, adapter: Adapter) -> bool:
        model = self.models.get(adapter.model)
        return model is not None and model.champion_version == adapter.model_version
