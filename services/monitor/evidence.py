"""Measured numbers become facts: each with its bar, and with its own answer when there is too little to say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shared.contracts.events import Evidence
from shared.contracts.policy import DriftPolicy

_Z95 = 1.959964  # 97.5th percentile of the standard normal distribution
_ROUNDING = 1e-9  # 0.8 - 0.65 is a little more than 0.15


@dataclass(frozen=True, slots=True)
class Drift:
    """A detector's answer. `bar` = the higher of the declared score and what chance alone reaches."""

    score: float
    bar: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the answers of one window did. `mean_score` counts each scored answer once; latency is in milliseconds."""

    answers: int
    errors: int
    latency_p99_ms: float | None
    scored: int
    mean_score: float | None
    corrected: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    drifted: bool | None
    hurt: bool | None
    alarmed: bool
    evidence: tuple[Evidence, ...]


def weigh(drift: Drift | None, traffic: Traffic, promised: float | None, rule: DriftPolicy) -> Facts:
    """The facts of one window. `promised` is the quality the version was promoted on (0..1)."""
    items: list[Evidence] = []
    if drift is not None:
        items.append(_evidence(rule.detector, drift.score, drift.bar, drift.score >= drift.bar))
    hurt = None
    if promised is not None and traffic.mean_score is not None and traffic.scored >= rule.min_feedback:
        loss = promised - traffic.mean_score
        hurt = not traffic.mean_score >= promised - rule.max_quality_loss - _ROUNDING
        detail = f"promised {promised:.3f}, seen {traffic.mean_score:.3f} on {traffic.scored} scored answers"
        items.append(_evidence("quality_loss", loss, rule.max_quality_loss, hurt, detail))
    if traffic.answers:
        rate = traffic.errors / traffic.answers
        detail = f"{traffic.errors} of {traffic.answers} answers failed"
        items.append(_evidence("error_rate", rate, rule.max_error_rate, rate > rule.max_error_rate, detail))
    if traffic.latency_p99_ms is not None:
        slow = traffic.latency_p99_ms > rule.max_latency_p99_ms
        items.append(_evidence("latency_p99_ms", traffic.latency_p99_ms, rule.max_latency_p99_ms, slow))
    alarmed = any(item.exceeded for item in items if item.name in {"error_rate", "latency_p99_ms"})
    drifted = None if drift is None else items[0].exceeded
    return Facts(drifted, hurt, alarmed, tuple(items))


class Interval(NamedTuple):
    low: float
    high: float


def interval(mean: float | None, n: int) -> Interval | None:
    """Wilson's 95 % bounds of the mean of `n` values in [0, 1]; a score varies at most as much as a coin."""
    if mean is None or n == 0:
        return None
    squared = _Z95 * _Z95 / n
    centre = mean + squared / 2
    spread = _Z95 * math.sqrt(mean * (1 - mean) / n + squared / (4 * n))
    return Interval(max(0.0, (centre - spread) / (1 + squared)), min(1.0, (centre + spread) / (1 + squared)))


def severity(evidence: Sequence[Evidence]) -> float:
    """0..1: the worst exceeded fact."""
    return max((min(max(_severity(item), 0.0), 1.0) for item in evidence if item.exceeded), default=0.0)


def _severity(item: Evidence) -> float:
    match item.name:
        case "quality_loss" | "error_rate":
            return item.value
        case "latency_p99_ms":
            return 1 - item.threshold / item.value
        case _:  # a detector's ROC AUC: 0.5 says nothing, 1 says everything
            return 2 * item.value - 1


def _evidence(name: str, value: float, threshold: float, exceeded: bool, detail: str = "") -> Evidence:
    return Evidence(name=name, value=value, threshold=threshold, exceeded=exceeded, detail=detail)
