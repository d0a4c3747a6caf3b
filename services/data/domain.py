"""What the data service remembers, and its rules as pure functions."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal, NamedTuple

from sqlalchemy import BigInteger, DateTime, Index, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from shared.contracts.policy import Policy

State = Literal["queued", "waiting", "running", "ready", "failed", "superseded", "cancelled"]
Why = Literal["upload", "drift"]

ENDED: frozenset[str] = frozenset({"ready", "failed", "superseded", "cancelled"})
UPLOADS, DATASETS, PREDICTIONS = "uploads", "datasets", "predictions"


class Table(SQLModel, registry=registry()):
    """Base of this service's tables."""


class UploadedFile(Table, table=True):
    """A file as OpenAI's API knows it; its content is `uploads/sha256/<sha256>`."""

    __tablename__: ClassVar[Any] = "file"
    id: str = Field(primary_key=True)
    filename: str
    bytes: int = Field(sa_type=BigInteger)
    purpose: str
    sha256: str
    created_by: str
    created_at: datetime = Field(sa_type=DateTime(timezone=True))


class Declared(Table, table=True):
    """The newest policy of a model."""

    model: str = Field(primary_key=True)
    revision: int
    policy: dict[str, Any] = Field(sa_type=JSONB)

    def parsed(self) -> Policy:
        return Policy.stored(self.policy)


class Champion(Table, table=True):
    """The dataset that the serving version of a model was trained on."""

    model: str = Field(primary_key=True)
    model_version: int
    dataset_digest: str
    sequence: int


class Prediction(Table, table=True):
    """An answer that left the platform, and where its text is."""

    answer_id: str = Field(primary_key=True)
    model: str
    outcome: str
    key: str
    line: int = Field(sa_type=BigInteger)
    served_at: datetime = Field(sa_type=DateTime(timezone=True))


class Feedback(Table, table=True):
    """A judgement of an answer; it may come before the answer. `correction` refers to what it should have been."""

    __table_args__ = (Index("feedback_answer", "answer_id"), Index("feedback_model", "model"))
    feedback_id: str = Field(primary_key=True)
    answer_id: str
    model: str
    score: float
    corrected: str | None = Field(
        default=None, description="Of releases before 0003 of the schema; else None."
    )
    correction: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    actor: str
    recorded_at: datetime = Field(sa_type=DateTime(timezone=True))


class Drift(Table, table=True):
    """A drift that was announced; only the verdict `retrain` asks for a dataset."""

    drift_id: str = Field(primary_key=True)
    model: str
    verdict: str
    dataset_digest: str
    severity: float
    received_at: datetime = Field(sa_type=DateTime(timezone=True))


class Build(Table, table=True):
    """One wish for a dataset, from the wish to its end."""

    __table_args__ = (
        UniqueConstraint("drift_id", name="build_drift"),
        Index("build_model", "model", "created_at"),
        Index("build_digest", "digest"),
        Index("build_newest", "created_at", "id"),
    )
    id: str = Field(primary_key=True)
    model: str
    why: str
    state: str
    detail: str = ""
    files: list[str] = Field(default_factory=list, sa_type=JSONB)
    format: str | None = None
    drift_id: str | None = None
    digest: str | None = None
    generation: int | None = None
    parents: list[str] = Field(default_factory=list, sa_type=JSONB)
    rows: dict[str, int] = Field(default_factory=dict, sa_type=JSONB)
    read: int = 0
    dropped: dict[str, int] = Field(default_factory=dict, sa_type=JSONB)
    rejects: list[dict[str, str]] = Field(default_factory=list, sa_type=JSONB)
    lengths: dict[str, Any] = Field(default_factory=dict, sa_type=JSONB)
    cause: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    created_by: str
    created_at: datetime = Field(sa_type=DateTime(timezone=True))
    finished_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


class Dataset(Table, table=True):
    """A dataset that was announced. `generation` counts the retrainings that led to it, from 1."""

    model: str = Field(primary_key=True)
    digest: str = Field(primary_key=True)
    generation: int
    created_at: datetime = Field(sa_type=DateTime(timezone=True))


class Used(Table, table=True):
    """Feedback that a dataset, or one of its ancestors, has taken in."""

    digest: str = Field(primary_key=True)
    feedback_id: str = Field(primary_key=True)


class Comparison(Table, table=True):
    """What differs between two datasets: both are named by their content, so it is found out once."""

    digest: str = Field(primary_key=True)
    against: str = Field(primary_key=True)
    result: dict[str, Any] = Field(sa_type=JSONB)
    created_at: datetime = Field(sa_type=DateTime(timezone=True))


class Erased(Table, table=True):
    """A prompt that no dataset of the model may have any more, by the hash that the pipeline knows prompts by."""

    model: str = Field(primary_key=True)
    prompt: bytes = Field(primary_key=True)


class Erasure(Table, table=True):
    """Somebody asked for a subject to be forgotten; rows are only ever added."""

    id: str = Field(primary_key=True)
    model: str
    subject_sha256: str
    asked_by: str
    at: datetime = Field(sa_type=DateTime(timezone=True))
    rows: int


class Provenance(NamedTuple):
    """What a build was made from and because of."""

    files: Sequence[UploadedFile]
    drift: Drift | None


class Labelled(NamedTuple):
    """A served answer with the judgement that counts: the newest correction, else the newest score."""

    answer_id: str
    feedback_id: str
    key: str
    line: int
    corrected: str | None
    actor: str
    correction: dict[str, Any] | None = None

    @property
    def by_a_person(self) -> bool:
        """Whether somebody wrote what the answer should have been."""
        return self.corrected is not None or self.correction is not None


class Voices(NamedTuple):
    """What one author contributed."""

    labels: int
    corrected: int


class Chosen(NamedTuple):
    """Labels for a new dataset, newest first, and those refused because their author gave too many."""

    corrected: list[Labelled]
    own: list[Labelled]
    refused: list[Labelled]


def author_cap(labels: Collection[int], share: float) -> int:
    """Most labels one author may contribute, so that nobody exceeds `share` of what all contribute together.

    0 when there are too few authors for that: then nobody speaks for the model.
    """

    def exceeded(cap: int) -> bool:
        return cap > share * sum(min(number, cap) for number in labels)

    # Every cap below an allowed one is allowed, so the number of allowed caps is the largest of them.
    return bisect_left(range(1, max(labels, default=0) + 1), True, key=exceeded)


def usable(voices: Collection[Voices], share: float) -> int:
    """How many corrections remain under the author cap."""
    cap = author_cap([voice.labels for voice in voices], share)
    return sum(min(voice.corrected, cap) for voice in voices)


def choose(labels: Sequence[Labelled], share: float) -> Chosen:
    """Apply the author cap to labels that stand newest first; corrections are taken before own answers."""
    cap = author_cap(Counter(label.actor for label in labels).values(), share)
    chosen, taken = Chosen([], [], []), Counter[str]()
    for label in sorted(labels, key=lambda label: not label.by_a_person):
        taken[label.actor] += 1
        if taken[label.actor] > cap:
            chosen.refused.append(label)
        elif not label.by_a_person:
            chosen.own.append(label)
        else:
            chosen.corrected.append(label)
    return chosen


def missing(policy: Policy | None, corrected: int) -> str | None:
    """What a retraining still waits for, or None."""
    if policy is None:
        return "Waiting until the model is declared: driftwheel apply POLICY.yaml"
    if corrected < (needed := policy.retrain.min_corrected):
        return (
            f"Waiting for corrected answers: {corrected} of {needed} have come in that no dataset has used and no "
            "author cap excludes. Send more (driftwheel feedback), lower retrain.min_corrected, or, if all come through "
            "one account that you trust, set retrain.max_rows_per_subject to 1."
        )
    return None
