"""What the monitor remembers."""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from shared.contracts.policy import DriftPolicy, RetrainGovernor

Verdict = Literal["none", "watch", "label", "retrain"]
WindowState = Literal["measuring", "measured", "failed"]
DriftState = Literal["announced", "waiting", "running", "ended"]

DATASETS, PREDICTIONS, REPORTS = "datasets", "predictions", "reports"


class Table(SQLModel, registry=registry()):
    """Base of this service's tables."""


def _time() -> Any:
    return Field(sa_type=DateTime(timezone=True))


def _maybe_time() -> Any:
    return Field(default=None, sa_type=DateTime(timezone=True))


def _arrival() -> Any:
    """A number that rises with arrival; the order in which windows are cut."""
    return Field(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))


class Watched(Table, table=True):
    """The monitor's slice of a model's policy."""

    model: str = Field(primary_key=True)
    revision: int
    drift: dict[str, Any] = Field(sa_type=JSONB)
    retrain: dict[str, Any] = Field(sa_type=JSONB)

    def rule(self) -> DriftPolicy:
        return DriftPolicy.stored(self.drift)

    def governor(self) -> RetrainGovernor:
        return RetrainGovernor.stored(self.retrain)


class Promotion(Table, table=True):
    """A version became champion; the highest sequence of a model is the one that serves."""

    model: str = Field(primary_key=True)
    sequence: int = Field(primary_key=True)
    model_version: int
    dataset_digest: str
    quality: float | None = None
    rollback: bool = False
    promoted_at: datetime = _time()


class Prediction(Table, table=True):
    """An answer that left the platform, and where its text is."""

    __table_args__ = (
        UniqueConstraint("answer_id"),
        Index(
            "prediction_champion", "model", "model_version", "id", postgresql_where=text("arm = 'champion'")
        ),
        Index("prediction_seen", "model", "seen_at"),
    )
    id: int = _arrival()
    answer_id: str
    model: str
    model_version: int | None = None
    arm: str
    outcome: str
    error: str | None = None
    latency_ms: float
    first_token_ms: float | None = None
    text_key: str | None = None
    text_line: int | None = None
    served_at: datetime = _time()
    seen_at: datetime = _time()


class Feedback(Table, table=True):
    """A judgement of an answer; it may arrive before the answer."""

    __table_args__ = (
        UniqueConstraint("feedback_id"),
        Index("feedback_answer", "answer_id"),
        Index("feedback_newest", "model", "id"),
        Index("feedback_corrected", "model", "seen_at", postgresql_where=text("corrected")),
    )
    id: int = _arrival()
    feedback_id: str
    answer_id: str
    model: str
    score: float
    corrected: bool = Field(default=False, description="It said what the answer should have been.")
    seen_at: datetime = _time()


class Rollout(Table, table=True):
    """Where a rollout stands."""

    __table_args__ = (Index("rollout_model", "model"),)
    rollout_id: str = Field(primary_key=True)
    model: str
    model_version: int
    champion_version: int | None = None
    state: str
    step: int
    weight: float
    reason: str = ""
    seen_at: datetime = _time()


class Window(Table, table=True):
    """The champion's answers `first_id..last_id` of one promotion, and what was measured on them.

    `drifted` and `hurt` are None when there was not enough data to say, which is not a no.
    """

    __table_args__ = (
        Index("window_model", "model", "sequence", "last_id"),
        Index("window_open", "model", unique=True, postgresql_where=text("state = 'measuring'")),
        Index("window_newest", "opened_at", "id"),
        Index("window_newest_of_model", "model", "opened_at", "id"),
    )
    id: str = Field(primary_key=True)
    model: str
    sequence: int
    model_version: int
    dataset_digest: str
    state: str
    first_id: int = Field(sa_type=BigInteger)
    middle_id: int = Field(sa_type=BigInteger, description="The next window starts behind it: half overlap.")
    last_id: int = Field(sa_type=BigInteger)
    predictions: int
    started_at: datetime = _time()
    ended_at: datetime = _time()
    opened_at: datetime = _time()
    measured_at: datetime | None = _maybe_time()
    score: float | None = None
    bar: float | None = None
    drifted: bool | None = None
    hurt: bool | None = None
    alarmed: bool = False
    scored: int = 0
    mean_score: float | None = None
    corrected: int = 0
    feedback_seen: int = Field(default=-1, sa_type=BigInteger)
    evidence: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSONB)
    notes: list[str] = Field(default_factory=list, sa_type=JSONB)
    report_sha256: str | None = None
    has_page: bool = False
    verdict: str = "none"
    reason: str = ""

    @property
    def report_key(self) -> str:
        return f"windows/{self.id}.json"

    @property
    def page_key(self) -> str:
        return f"windows/{self.id}.html"


class Drift(Table, table=True):
    """A verdict that was announced. For `retrain`, also the flight it started: stage, end, outcome.

    `dataset_digest`, `run_id` and `new_version` are what the flight has made so far.
    """

    __table_args__ = (
        UniqueConstraint("window_id", "verdict"),
        Index("drift_model", "model", "announced_at", "id"),
        Index("drift_newest", "announced_at", "id"),
    )
    id: str = Field(primary_key=True)
    model: str
    model_version: int
    window_id: str
    verdict: str
    severity: float
    event_id: str
    announced_at: datetime = _time()
    stage: str = ""
    ended_at: datetime | None = _maybe_time()
    outcome: str = ""
    dataset_digest: str | None = None
    run_id: str | None = None
    new_version: int | None = None

    @property
    def in_flight(self) -> bool:
        return self.verdict == "retrain" and self.ended_at is None

    @property
    def waiting(self) -> bool:
        """In flight, and no training has begun: its dataset is not there yet."""
        return self.in_flight and self.run_id is None and self.new_version is None

    @property
    def state(self) -> DriftState:
        if self.verdict != "retrain":
            return "announced"
        if self.ended_at is not None:
            return "ended"
        return "waiting" if self.waiting else "running"
