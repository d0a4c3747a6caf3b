"""Events as the other services send them."""

from datetime import UTC, datetime
from typing import Any

from shared.contracts.events import (
    FeedbackRecorded,
    LineRef,
    ModelDeclared,
    ModelPromoted,
    ModelRejected,
    PredictionServed,
    RolloutChanged,
    TrainingStatus,
)
from shared.contracts.policy import DriftPolicy, Policy, RetrainGovernor

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MODEL = "support"
WINDOW = 40
RULE = DriftPolicy(window_predictions=WINDOW, windows=2, windows_drifted=1, min_feedback=20)
GOVERNOR = RetrainGovernor(cooldown_seconds=600, in_flight_timeout_seconds=3_600)


def declared(revision: int = 1, drift: DriftPolicy = RULE, model: str = MODEL) -> ModelDeclared:
    policy = Policy(model=model, drift=drift, retrain=GOVERNOR)
    return ModelDeclared(model=model, revision=revision, policy=policy, actor="tester")


def promoted(digest: str, sequence: int = 1, version: int = 1, **other: Any) -> ModelPromoted:
    fields = {
        "model": MODEL,
        "model_version": version,
        "engine_name": f"support-v{version}-00000000",
        "adapter_digest": "a" * 64,
        "base_digest": "b" * 64,
        "dataset_digest": digest,
        "recipe": {},
        "evaluation_id": "e-1",
        "evidence": {"bucket": "evaluations", "key": "report", "sha256": "c" * 64},
        "quality": 0.9,
        "sequence": sequence,
        "actor": "tester",
        "reason": "better",
    }
    return ModelPromoted.model_validate({**fields, **other})


def served(answer_id: str, text: LineRef | None = None, **other: Any) -> PredictionServed:
    fields: dict[str, Any] = {
        "answer_id": answer_id,
        "model": MODEL,
        "model_version": 1,
        "engine_name": "support-v1-00000000",
        "arm": "champion",
        "served_at": NOON,
        "latency_ms": 5,
        "outcome": "ok",
        "text": text,
    }
    return PredictionServed(**{**fields, **other})


def scored(answer: PredictionServed, score: float, **other: Any) -> FeedbackRecorded:
    fields: dict[str, Any] = {
        "feedback_id": f"f-{answer.answer_id}",
        "answer_id": answer.answer_id,
        "model": answer.model,
        "score": score,
        "actor": "agent-1",
    }
    return FeedbackRecorded(**{**fields, **other})


def training(state: str, drift_id: str | None) -> TrainingStatus:
    return TrainingStatus.model_validate(
        {"model": MODEL, "run_id": "r-1", "state": state, "reason": "because", "drift_id": drift_id}
    )


def rejected(drift_id: str | None) -> ModelRejected:
    return ModelRejected(
        model=MODEL,
        model_version=2,
        run_id="r-1",
        adapter_digest="a" * 64,
        reasons=("forgot",),
        drift_id=drift_id,
    )


def rollout(state: str, drift_id: str | None = None, step: int = 1, weight: float = 25) -> RolloutChanged:
    return RolloutChanged.model_validate(
        {
            "model": MODEL,
            "rollout_id": "ro-1",
            "model_version": 2,
            "champion_version": 1,
            "state": state,
            "step": step,
            "weight": weight,
            "drift_id": drift_id,
        }
    )
