"""What the evaluator remembers, and what one evaluation is."""

import hashlib
from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, TypeAdapter
from sqlalchemy import CheckConstraint, DateTime, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from shared.contracts.events import Subject
from shared.contracts.policy import Gate, Generation

State = Literal["queued", "running", "done", "superseded", "failed"]
ENDED: frozenset[State] = frozenset({"done", "superseded", "failed"})
EVALUATE_JOB = "evaluate"
Split = Literal["test", "champion_test"]
_GATES = TypeAdapter(tuple[Gate, ...])


class Difference(BaseModel):
    """A metric of the candidate minus that of another subject on the same rows, with its paired bootstrap 95 % interval.

    Attributes:
        higher_is_better: whether a positive difference is good news.
    """

    versus: Subject
    split: Split
    metric: str
    value: float
    low: float
    high: float
    n: int
    higher_is_better: bool


class Kept(BaseModel):
    """Where the answers to one split are kept, row by row, and what they say.

    Attributes:
        rival: the subject that rows are compared with: the champion, or without one the few-shot base, or the base.
        rows: how many were measured; `kept` of them fitted into the object.
        regressions: rows the rival had right and the candidate has wrong; `improvements` the other way round.
    """

    bucket: str
    key: str
    sha256: str
    rival: Subject
    rows: int
    kept: int
    regressions: int
    improvements: int


class Table(SQLModel, registry=registry()):
    """Base of this service's tables."""


class Declared(Table, table=True):
    """The evaluator's slice of the newest policy of a model."""

    __tablename__: ClassVar[Any] = "declared"
    model: str = Field(primary_key=True)
    revision: int
    gates: list[dict[str, Any]] = Field(sa_type=JSONB)
    generation: dict[str, Any] = Field(sa_type=JSONB)

    def parsed_gates(self) -> tuple[Gate, ...]:
        return _GATES.validate_python(self.gates)

    def parsed_generation(self) -> Generation:
        return Generation.stored(self.generation)


class Champion(Table, table=True):
    """The version that serves, as the last promotion said."""

    __tablename__: ClassVar[Any] = "champion"
    model: str = Field(primary_key=True)
    sequence: int
    version: int
    adapter_digest: str
    base_digest: str
    dataset_digest: str


class Evaluation(Table, table=True):
    """One adapter measured against one champion (or against none).

    state: queued, running, then done; superseded if the champion moved meanwhile (another evaluation took its place);
    failed if there is no telling. `scores`, `verdicts` and the report belong to done and failed ones; `differences` and
    `answers` (a Kept by split) to those that were measured.
    """

    __tablename__: ClassVar[Any] = "evaluation"
    __table_args__ = (
        CheckConstraint(
            "state IN ('queued', 'running', 'done', 'superseded', 'failed')", name="evaluation_state"
        ),
        Index("evaluation_model", "model", "created_at", "id"),
        Index("evaluation_newest", "created_at", "id"),
    )
    id: str = Field(primary_key=True)
    model: str
    run_id: str
    adapter_digest: str
    base_digest: str
    dataset_digest: str
    champion_version: int | None = None
    drift_id: str | None = None
    state: str = "queued"
    reason: str = ""
    verdict: str | None = None
    scores: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSONB)
    verdicts: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSONB)
    report: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    differences: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSONB)
    answers: dict[str, Any] = Field(default_factory=dict, sa_type=JSONB)
    created_at: datetime = Field(sa_type=DateTime(timezone=True))
    started_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))
    finished_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


def evaluation_id(model: str, adapter: str, dataset: str, champion: int | None) -> str:
    """Named by what is compared, so that asking twice is one evaluation."""
    identity = f"{model}/{adapter}/{dataset}/{champion or 0}"
    return f"eval-{hashlib.sha256(identity.encode()).hexdigest()[:24]}"
