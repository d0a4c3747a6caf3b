"""What the registry remembers. Versions change state; policies, evidence and alias events are only ever added."""

from datetime import datetime
from typing import Any, ClassVar, Literal

from sqlalchemy import CheckConstraint, DateTime, Index, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

Alias = Literal["champion", "challenger"]
VersionState = Literal["candidate", "approved", "rejected", "rolled_back"]


class Table(SQLModel, registry=registry()):
    """Base of this service's tables."""


class LogicalModel(Table, table=True):
    """One declared model and its counters. Whoever changes anything of a model locks this row first."""

    __tablename__: ClassVar[Any] = "logical_model"
    name: str = Field(primary_key=True)
    revision: int = 0
    versions: int = 0
    sequence: int = 0


class PolicyRevision(Table, table=True):
    """One state of a model's policy; the largest revision is the current one."""

    __tablename__: ClassVar[Any] = "policy_revision"
    model: str = Field(primary_key=True, foreign_key="logical_model.name")
    revision: int = Field(primary_key=True)
    policy: dict[str, Any] = Field(sa_type=JSONB)
    actor: str
    declared_at: datetime = Field(sa_type=DateTime(timezone=True))


class ModelVersion(Table, table=True):
    """One trained adapter with everything it came from, and what was decided on which evidence.

    A candidate has no number yet; numbers are given when a decision falls, in that order.
    """

    __tablename__: ClassVar[Any] = "model_version"
    __table_args__ = (
        UniqueConstraint("model", "number", name="model_version_number"),
        Index("model_version_trained", "model", "trained_at"),
        CheckConstraint(
            "state IN ('candidate', 'approved', 'rejected', 'rolled_back')", name="model_version_state"
        ),
    )
    model: str = Field(primary_key=True, foreign_key="logical_model.name")
    adapter_digest: str = Field(primary_key=True)
    number: int | None = None
    state: str = "candidate"
    run_id: str
    base_digest: str
    dataset_digest: str
    recipe: dict[str, Any] = Field(sa_type=JSONB)
    code: str
    cost: dict[str, Any] = Field(sa_type=JSONB)
    drift_id: str | None = None
    trained_at: datetime = Field(sa_type=DateTime(timezone=True))
    engine_name: str | None = None
    evaluation_id: str | None = None
    evidence: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    scores: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSONB)
    verdicts: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSONB)
    compared_with: int | None = None
    reasons: list[str] = Field(default_factory=list, sa_type=JSONB)
    remedy: str = ""
    decided_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


class Evidence(Table, table=True):
    """An evaluation as it was announced; it may arrive before the version it is about.

    `problem` says what was wrong with its report when it arrived, if anything.
    """

    __tablename__: ClassVar[Any] = "evidence"
    __table_args__ = (Index("evidence_version", "model", "adapter_digest"),)
    evaluation_id: str = Field(primary_key=True)
    model: str
    adapter_digest: str
    event: dict[str, Any] = Field(sa_type=JSONB)
    problem: str | None = None
    received_at: datetime = Field(sa_type=DateTime(timezone=True))


class AliasEvent(Table, table=True):
    """An alias was set or cleared (`version` null). Never changed: what is true now is the fold of all of them."""

    __tablename__: ClassVar[Any] = "alias_event"
    __table_args__ = (
        CheckConstraint("alias IN ('champion', 'challenger')", name="alias_event_alias"),
        Index("alias_event_holder", "model", "alias", "sequence"),
        Index("alias_event_version", "model", "version", "sequence"),
    )
    model: str = Field(primary_key=True, foreign_key="logical_model.name")
    sequence: int = Field(primary_key=True)
    alias: str
    version: int | None = None
    rollback: bool = False
    actor: str
    reason: str
    evidence: dict[str, Any] = Field(sa_type=JSONB)
    at: datetime = Field(sa_type=DateTime(timezone=True))


class Rollout(Table, table=True):
    """How far serving has come with a version, as it last said."""

    __tablename__: ClassVar[Any] = "rollout"
    __table_args__ = (Index("rollout_version", "model", "version", "changed_at"),)
    id: str = Field(primary_key=True)
    model: str = Field(foreign_key="logical_model.name", index=True)
    version: int
    state: str
    step: int
    weight: float
    reason: str
    changed_at: datetime = Field(sa_type=DateTime(timezone=True))
