"""What the trainer remembers, the life of a run, and what makes a wish acceptable."""

import hashlib
import json
import re
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, DateTime, Index, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from shared.contracts.errors import Conflict, DriftwheelError
from shared.contracts.events import Cost
from shared.contracts.text import Json

State = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
Action = Literal["start", "cancel", "succeed", "fail", "stop"]
ENDED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
RUN_ID = re.compile("run-[0-9a-f]{24}")
TRAIN_JOB = "train"
DATASETS, ADAPTERS, CHECKPOINTS = "datasets", "adapters", "checkpoints"

TRANSITIONS: dict[tuple[str, Action], State] = {
    ("queued", "start"): "running",
    ("queued", "cancel"): "cancelled",
    ("queued", "fail"): "failed",
    ("running", "start"): "running",  # the next attempt, after a worker died
    ("running", "cancel"): "cancelling",
    ("running", "succeed"): "succeeded",
    ("running", "fail"): "failed",
    ("cancelling", "start"): "cancelling",
    ("cancelling", "cancel"): "cancelling",
    ("cancelling", "stop"): "cancelled",
    ("cancelling", "fail"): "failed",
    ("cancelled", "cancel"): "cancelled",
}


def advance(state: str, action: Action) -> State:
    """The state after an action. Raises Conflict if the action is not possible in this state."""
    try:
        return TRANSITIONS[state, action]
    except KeyError:
        raise Conflict(
            f"A run that is {state} cannot {action}.", "Look at it: driftwheel runs show RUN."
        ) from None


class TrainingFailed(DriftwheelError):
    """The run cannot succeed, whoever tries again."""

    code = "training_failed"


class Table(SQLModel, registry=registry()):
    """Base of this service's tables."""


class Declared(Table, table=True):
    """The slice of a model's newest policy that training needs."""

    model: str = Field(primary_key=True)
    revision: int
    base: str
    recipe: Json = Field(sa_type=JSONB)
    budget: Json = Field(sa_type=JSONB)


class Run(Table, table=True):
    """One training. `round` counts the tries of one wish: a new one opens only after the last failed or was cancelled."""

    __table_args__ = (
        UniqueConstraint(
            "model", "dataset_digest", "recipe_hash", "base_digest", "round", name="run_identity"
        ),
        Index("run_model", "model", "created_at"),
        Index("run_newest", "created_at", "id"),
    )
    id: str = Field(primary_key=True)
    model: str
    dataset_digest: str
    recipe_hash: str
    base_digest: str
    round: int = 1
    recipe: Json = Field(sa_type=JSONB)
    state: str = "queued"
    reason: str = ""
    why: str
    drift_id: str | None = None
    idempotency_key: str | None = None
    priority: int = 0
    budget: float
    device_hour: float
    currency: str
    labels: dict[str, str] = Field(default_factory=dict, sa_type=JSONB)
    attempt: int = 0
    fruitless: int = 0
    """Not used any more; it stays as long as a release runs that writes it."""
    dtype: str | None = None
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    validation_loss: float | None = None
    eta_seconds: float | None = None
    tokens: int = Field(default=0, sa_type=BigInteger)
    device_seconds: float = 0.0
    curve: list[Json] = Field(default_factory=list, sa_type=JSONB)
    adapter_digest: str | None = None
    rejection: Json | None = Field(default=None, sa_type=JSONB)
    sequence: int = 0
    created_by: str
    created_at: datetime = Field(sa_type=DateTime(timezone=True))
    started_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))
    finished_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))

    def best(self) -> Json | None:
        """The point of the curve with the lowest validation loss; None while none was measured."""
        measured = [point for point in self.curve if point.get("validation_loss") is not None]
        return min(measured, key=lambda point: float(point["validation_loss"])) if measured else None

    def cost(self) -> Cost:
        return Cost(
            device_seconds=round(self.device_seconds, 3),
            tokens=self.tokens,
            amount=price(self.device_seconds, self.device_hour),
            currency=self.currency,
        )


class Entry(Table, table=True):
    """One announcement of a run, in order; what `/events` lists and `/stream` follows."""

    run_id: str = Field(primary_key=True)
    sequence: int = Field(primary_key=True)
    status: Json = Field(sa_type=JSONB)
    at: datetime = Field(sa_type=DateTime(timezone=True))


class Request(Table, table=True):
    """A request that was accepted: the same key with the same body means the same run."""

    __table_args__ = (Index("request_run", "run_id"),)
    key: str = Field(primary_key=True)
    body_hash: str
    run_id: str
    reply_topic: str | None = None
    created_at: datetime = Field(sa_type=DateTime(timezone=True))


def price(device_seconds: float, device_hour: float) -> float:
    return round(device_seconds / 3_600 * device_hour, 6)


def digest_of(document: Any) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def thin(curve: list[Json], most: int) -> list[Json]:
    """At most `most` (>= 2) points of a curve, evenly spread; first and last always."""
    if len(curve) <= most:
        return curve
    return [curve[round(i * (len(curve) - 1) / (most - 1))] for i in range(most)]
