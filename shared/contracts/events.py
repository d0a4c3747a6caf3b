"""Every event class: the contract between the services.

One topic per event type; `ce_type` is the topic plus `.v<version>`. Payloads carry ids, digests and object keys,
never rows or weights. Readers ignore unknown fields; a break is a new version.
"""

import uuid
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, cast

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from shared.contracts.counters import Counter
from shared.contracts.policy import Policy, Ramp, Recipe
from shared.contracts.text import (
    Digest,
    Finite,
    Identifier,
    Message,
    ModelName,
    Moment,
    Name,
    ObjectKey,
    Share,
    Text,
    place,
)

_ROLLOUTS = uuid.UUID("5a0c3a52-5a3b-5d41-9d4b-6f2d1c9a7e10")
Count = Annotated[int, Field(ge=0)]
Reason = Annotated[Text, Field(max_length=2_000)]
Version = Annotated[int, Field(ge=1)]
RESTATED = (
    "Said again, for those who lost or never had it: no news to anybody who knows this revision or sequence."
)
ReplyTopic = Annotated[str, Field(pattern=r"^replies\.[a-z0-9][a-z0-9._-]{0,99}$")]


class ObjectRef(Message):
    """An object in the store, bound to its content."""

    bucket: Name
    key: ObjectKey
    sha256: Digest


class CorrectionRef(ObjectRef):
    """What an answer should have been: a text that somebody wrote, in the store. `bytes` is the size of the object."""

    bytes: Annotated[int, Field(ge=1, le=65_536)]


class LineRef(Message):
    """One line of a JSONL object; `line` counts from 0."""

    bucket: Name
    key: ObjectKey
    line: Count


class Event(Message):
    """Base of all events. `partition_key` is the id whose events must stay in order.

    Attributes:
        foreign: whether producers outside the platform may write it.
        signed: whether it changes what users get: consumers act on it only with the registry's signature.
    """

    topic: ClassVar[str]
    version: ClassVar[int] = 1
    foreign: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    quota: ClassVar[str | None] = None
    """Where foreign producers may write it: the setting that says how many of a source are taken in a minute."""
    per_answer: ClassVar[bool] = False
    """There is one for each answer: too many to be found by every id, so the answer's id is that of their story."""
    told: ClassVar[tuple[str, ...]] = ()
    """Texts that the platform itself words, and that may be shown to who watches."""

    @classmethod
    def ce_type(cls) -> str:
        return f"{cls.topic}.v{cls.version}"

    @classmethod
    def received(cls, payload: Any) -> Self:
        """Read a payload. Keys that are not known, at any depth, are a newer release's and are passed over.

        Raises:
            ValidationError: it is no such event.
        """
        return cls.model_validate(payload, extra="ignore")

    def turned_down(self, _reason: str) -> Self | None:
        """The event as it is handled when it is one too many or too large; None where nobody waits for an answer."""
        return None

    def partition_key(self) -> str:
        raise NotImplementedError(f"{type(self).__name__} must name the id that orders it")

    def own_id(self) -> str | None:
        """The event's id, where its payload has one that no other event of the topic can have."""
        return None

    def story(self) -> str | None:
        """The id of the story it belongs to, where no cause names one."""
        return None


class ModelEvent(Event):
    """An event ordered by its logical model."""

    model: ModelName

    def partition_key(self) -> str:
        return self.model


class ModelDeclared(ModelEvent):
    """A policy was applied; `revision` rises with each change, and an older revision is ignored."""

    topic = "model.declared"
    signed = True
    revision: Counter
    policy: Policy
    actor: Text = Field(max_length=200)
    restated: bool = Field(False, description=RESTATED)


class DatasetReady(ModelEvent):
    """A dataset manifest is published; `digest` names it in the `datasets` bucket."""

    topic = "dataset.ready"
    digest: Digest
    generation: Version
    rows: dict[Literal["train", "validation", "test"], Count]
    dropped: dict[Name, Count] = Field(default_factory=dict)
    parents: tuple[Digest, ...] = ()
    why: Literal["upload", "schedule", "drift", "request"]
    drift_id: Identifier | None = None


class Fault(NamedTuple):
    """What is wrong with a request: the path of the field, and why; never what was sent."""

    field: str
    problem: str


class TrainingRequested(ModelEvent):
    """Anyone asks for a training run. Always answered on `training.status` (and on `reply_topic`)."""

    topic = "training.requested"
    foreign = True
    quota = "training_requests_per_minute"
    dataset_digest: Digest | None = None
    files: tuple[Identifier, ...] = Field((), max_length=20)
    recipe: Recipe | None = None
    priority: int = Field(0, ge=-10, le=10)
    budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    idempotency_key: Identifier
    reply_topic: ReplyTopic | None = None
    _fault: Fault | None = PrivateAttr(None)
    _refusal: str | None = PrivateAttr(None)

    @classmethod
    def received(cls, payload: Any) -> Self:
        """A request that says for which model and under which key is read whatever else is wrong with it: its `fault`
        is answered, where a dead letter would leave who asked waiting. Its other fields are then not to be used.

        Only reading is lenient: nobody can construct such a request, or send one. Unknown keys of its recipe are
        faults: who asks is told of a misspelt one.
        """
        try:
            return cls.model_validate(payload)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False, include_context=False)
            wrong = {str(one["loc"][0]) if one["loc"] else "" for one in errors}
            if not isinstance(payload, Mapping) or wrong & {"model", "idempotency_key"}:
                raise
            known = {"model", "idempotency_key", "dataset_digest", "reply_topic"} - wrong
            event = cls.model_construct(**{name: payload[name] for name in known if name in payload})
            first = errors[0]
            event._fault = Fault(place(first["loc"]), first["msg"])
            return cast(Self, event)

    @property
    def fault(self) -> Fault | None:
        return self._fault

    @property
    def refusal(self) -> str | None:
        """Why it is turned down whatever it says."""
        return self._refusal

    def turned_down(self, reason: str) -> Self:
        found = self.model_copy()
        found._refusal = reason
        return found

    @model_validator(mode="after")
    def _one_source(self) -> "TrainingRequested":
        if self.fault is None and (self.dataset_digest is None) == (not self.files):
            raise ValueError("give exactly one of dataset_digest and files")
        return self


class Cost(Message):
    """What a run cost. `amount` = device_seconds / 3600 x the declared price."""

    device_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    tokens: Count
    amount: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    currency: str = "EUR"


class TrainingStatus(Event):
    """Where a run stands. `run_id` is empty only for a rejection that never became a run."""

    topic = "training.status"
    told = ("reason",)
    model: ModelName
    run_id: Identifier | None = None
    state: Literal["accepted", "rejected", "started", "progress", "succeeded", "failed", "cancelled"]
    reason: Reason = ""
    dataset_digest: Digest | None = None
    drift_id: Identifier | None = None
    idempotency_key: Identifier | None = None
    attempt: Count = 0
    step: Count = 0
    total_steps: Count = 0
    loss: Finite | None = None
    validation_loss: Finite | None = None
    eta_seconds: Finite | None = None
    cost: Cost | None = None

    def partition_key(self) -> str:
        return self.run_id or self.model


class CurvePoint(Message):
    """One point of the loss curves; losses are mean negative log-likelihood per answer token, in nats."""

    step: Count
    loss: Finite | None = None
    validation_loss: Finite | None = None
    learning_rate: Finite | None = None


class ModelTrained(ModelEvent):
    """An adapter manifest is published; `adapter_digest` names it in the `adapters` bucket."""

    topic = "model.trained"
    run_id: Identifier
    adapter_digest: Digest
    base_digest: Digest
    dataset_digest: Digest
    recipe: Recipe
    curves: tuple[CurvePoint, ...] = Field((), max_length=500)
    cost: Cost
    code: Text = Field(max_length=200, description="Version of the code that trained.")
    drift_id: Identifier | None = None


Subject = Literal["base", "few_shot", "champion", "candidate"]


class Score(Message):
    """One metric of one subject on one split, with its bootstrap 95 % interval [low, high] over n rows."""

    subject: Subject
    split: Literal["test", "champion_test"]
    metric: Name
    value: Finite
    low: Finite
    high: Finite
    n: Count


class Verdict(Message):
    """One gate's answer. `insufficient` means: not enough data to say, which is not a pass."""

    gate: Name
    verdict: Literal["pass", "fail", "insufficient"]
    value: Finite | None = None
    bar: Finite | None = None
    reason: Reason


class ModelEvaluated(ModelEvent):
    """Scores and a verdict per gate; the full report (with golden answers) is `report`."""

    topic = "model.evaluated"
    evaluation_id: Identifier
    run_id: Identifier
    adapter_digest: Digest
    base_digest: Digest
    dataset_digest: Digest
    champion_version: Version | None = None
    scores: tuple[Score, ...] = Field(max_length=200)
    verdicts: tuple[Verdict, ...] = Field(max_length=50)
    verdict: Literal["pass", "fail", "insufficient"]
    report: ObjectRef
    drift_id: Identifier | None = None


class ModelApproved(ModelEvent):
    """Serving may roll this version out. `evidence` is the evaluation report it was approved on."""

    topic = "model.approved"
    signed = True
    model_version: Counter
    engine_name: Name = Field(description="`<model>-v<n>-<digest8>`: the name an engine sees, never reused.")
    adapter_digest: Digest
    base_digest: Digest
    dataset_digest: Digest
    champion_version: Version | None = None
    recipe: Recipe
    evaluation_id: Identifier
    evidence: ObjectRef
    ramp: Ramp
    drift_id: Identifier | None = None


class ModelRejected(ModelEvent):
    """A version will not be served."""

    topic = "model.rejected"
    model_version: Version
    run_id: Identifier
    adapter_digest: Digest
    reasons: tuple[Reason, ...] = Field(max_length=50)
    remedy: Reason = ""
    drift_id: Identifier | None = None


class ArmStatistics(Message):
    """What one version did during a rollout step."""

    model_version: Version | None
    answers: Count
    errors: Count
    latency_p99_ms: Finite | None = None
    feedback: Count = 0
    mean_score: Finite | None = None


def rollout_id(model: str, version: int, evaluation_id: str) -> str:
    """The id of the rollout that an approval leads to: whoever knows the approval knows it."""
    return str(uuid.uuid5(_ROLLOUTS, f"{model}\n{version}\n{evaluation_id}"))


class RolloutChanged(ModelEvent):
    """A step of a rollout, with the numbers behind it. `weight` is the challenger's traffic in per cent."""

    topic = "rollout.changed"
    rollout_id: Identifier
    model_version: Version
    champion_version: Version | None = None
    state: Literal["started", "advanced", "held", "completed", "rolled_back"]
    step: Count
    weight: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
    statistics: tuple[ArmStatistics, ...] = Field((), max_length=4)
    reason: Reason = ""
    drift_id: Identifier | None = None


class ModelPromoted(ModelEvent):
    """The champion moved; a rollback is another promotion."""

    topic = "model.promoted"
    signed = True
    model_version: Counter
    previous_version: Version | None = None
    engine_name: Name
    adapter_digest: Digest
    base_digest: Digest
    dataset_digest: Digest
    recipe: Recipe
    evaluation_id: Identifier
    evidence: ObjectRef
    quality: Share | None = Field(None, description="Exact match in the evidence: what users were promised.")
    sequence: Counter = Field(
        description="Rises with every alias event of the model; an older one is ignored."
    )
    rollback: bool = False
    actor: Text = Field(max_length=200)
    reason: Reason
    drift_id: Identifier | None = None
    restated: bool = Field(False, description=RESTATED)


class PredictionServed(Event):
    """One answer left the platform. `text` points at the line with the messages and the answer."""

    topic = "prediction.served"
    per_answer = True
    answer_id: Identifier
    model: ModelName
    model_version: Version | None = None
    engine_name: Name
    arm: Literal["champion", "challenger", "pinned", "base"]
    rollout_id: Identifier | None = None
    served_at: Moment
    latency_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    first_token_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    outcome: Literal["ok", "error", "cancelled"]
    error: Name | None = None
    text: LineRef | None = None

    def partition_key(self) -> str:
        return self.answer_id

    def own_id(self) -> str:
        return self.answer_id

    def story(self) -> str:
        return self.answer_id


class FeedbackRecorded(Event):
    """Someone judged an answer. `score` 1 is right, 0 is wrong.

    What it should have been is in the store: `correction` says where. Other systems may send the text as `corrected`; who
    needs it moves it to the store, and nobody keeps it elsewhere.
    """

    topic = "feedback.recorded"
    foreign = True
    quota = "feedback_per_minute"
    per_answer = True
    feedback_id: Identifier
    answer_id: Identifier
    model: ModelName
    score: Share
    corrected: Annotated[Text, Field(min_length=1, max_length=8_000)] | None = None
    actor: Text = Field(max_length=200)
    correction: CorrectionRef | None = None

    @property
    def is_corrected(self) -> bool:
        """Whether it says what the answer should have been."""
        return self.corrected is not None or self.correction is not None

    def partition_key(self) -> str:
        return self.answer_id

    def story(self) -> str:
        return self.answer_id


class Evidence(Message):
    """One measured fact behind a verdict."""

    name: Name
    value: Finite
    threshold: Finite
    exceeded: bool
    detail: Reason = ""


class DriftDetected(ModelEvent):
    """The world moved. `verdict`: retrain (drift and quality loss), label (drift alone), watch (quality alone)."""

    topic = "drift.detected"
    drift_id: Identifier
    model_version: Version
    dataset_digest: Digest
    severity: Share
    verdict: Literal["retrain", "label", "watch"]
    window_start: Moment
    window_end: Moment
    window_predictions: Count
    evidence: tuple[Evidence, ...] = Field(max_length=50)
    report: ObjectRef | None = None


EVENTS: tuple[type[Event], ...] = (
    ModelDeclared,
    DatasetReady,
    TrainingRequested,
    TrainingStatus,
    ModelTrained,
    ModelEvaluated,
    ModelApproved,
    ModelRejected,
    RolloutChanged,
    ModelPromoted,
    PredictionServed,
    FeedbackRecorded,
    DriftDetected,
)

STATE = (ModelDeclared, ModelPromoted)
"""Events that are state: their topics are compacted, so the newest one of each key is kept for ever."""

REPLY_PREFIX = "replies."
REPLIER = "trainer"
"""Who answers on the topics of those who ask, which all begin with the prefix."""
