"""One request and the attempts to answer it; what an attempt leaves in the prediction log."""

import hashlib
import time
from dataclasses import dataclass
from datetime import datetime

from services.serving.answers import Answer
from services.serving.predictions import Served, text_line
from services.serving.requests import ChatRequest, CompletionRequest
from services.serving.routing import Arm, Target
from shared.contracts.envelope import Envelope, new_id
from shared.contracts.events import PredictionServed


@dataclass(frozen=True, slots=True)
class Asked:
    """One accepted request."""

    kind: str
    body: bytes
    parsed: ChatRequest | CompletionRequest
    model: str
    cause: Envelope
    subject: str = ""


class Attempt:
    """One target's chance to answer one request."""

    def __init__(self, asked: Asked, target: Target, arm: Arm, rollout_id: str | None) -> None:
        self.asked = asked
        self.target = target
        self.arm = arm
        self.rollout_id = rollout_id
        self.answer_id = new_id()
        self.started = time.monotonic()
        self.first_token: float | None = None

    def headers(self) -> dict[str, str]:
        version = self.target.version
        return {
            "x-model-version": f"{self.asked.model}:{version}" if version else "base",
            "x-answer-id": self.answer_id,
            "x-request-id": self.asked.cause.correlationid,
        }


def served(
    attempt: Attempt, answer: Answer | None, seconds: float, first: float | None, at: datetime
) -> Served:
    """The record of an attempt; without an answer the caller went away. Only a good answer keeps its text."""
    outcome = answer.outcome if answer else "cancelled"
    event = PredictionServed(
        answer_id=attempt.answer_id,
        model=attempt.asked.model,
        model_version=attempt.target.version,
        engine_name=attempt.target.engine_name,
        arm=attempt.arm,
        rollout_id=attempt.rollout_id,
        served_at=at,
        latency_ms=seconds * 1_000,
        first_token_ms=first * 1_000 if first is not None else None,
        prompt_tokens=answer.prompt_tokens if answer else 0,
        completion_tokens=answer.completion_tokens if answer else 0,
        outcome=outcome,
        error=answer.error if answer else None,
    )
    line = None
    if answer and outcome == "ok":
        messages = attempt.asked.parsed.conversation()
        line = text_line(attempt.answer_id, attempt.asked.model, messages, answer.text)
    asked = attempt.asked
    return Served(event, asked.cause, line, _digest(asked.subject), _digest(asked.parsed.user))


def _digest(name: str | None) -> str | None:
    return hashlib.sha256(name.encode()).hexdigest() if name else None
