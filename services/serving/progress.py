"""How far a rollout came and what it is judged on, in a shape to show: to people, and to its own history."""

from collections.abc import Sequence
from datetime import datetime

from services.serving.domain import Change, Rollout
from services.serving.intervals import Sample, quantile, wilson
from services.serving.ramp import Arm, Finding, Stats, error_probability, judge, needs_of
from shared.contracts.text import Json

_Z95 = quantile(0.025)


def judgement(rollout: Rollout, stats: Stats) -> Json:
    """The next test of the present step, as it would turn out now.

    `due`: all its needs are met, so that it counts; else it is made when they are. `error_probability` is the chance
    that one guard calls an equal version worse, `z` the normal quantile its intervals are drawn with.
    """
    plan = rollout.ramp
    alpha = error_probability(plan, stats.looks)
    compared = stats.champion is not None
    needs = needs_of(plan, rollout.step, stats) if compared else []
    return {
        "test": stats.looks + 1,
        "due": all(need.have >= need.need for need in needs),
        "confidence": plan.confidence,
        "error_probability": alpha,
        "z": quantile(alpha),
        "needs": [{"what": need.what, "have": need.have, "need": need.need} for need in needs],
        "guards": [_guard(finding) for finding in judge(plan, stats)] if compared else [],
        "arms": arms(rollout, stats),
    }


def _guard(finding: Finding) -> Json:
    return {
        "guard": finding.guard,
        "verdict": finding.verdict,
        "text": finding.text,
        "value": finding.value,
        "bound": finding.bound,
        "low": finding.interval.low if finding.interval else None,
        "high": finding.interval.high if finding.interval else None,
    }


def arms(rollout: Rollout, stats: Stats) -> list[Json]:
    """Challenger first. Latencies in milliseconds; intervals are 95 % of one arm alone: for the eye, not the test."""
    found = [("challenger", rollout.model_version, stats.challenger)]
    if stats.champion is not None and rollout.champion_version is not None:
        found.append(("champion", rollout.champion_version, stats.champion))
    return [_arm(name, version, arm) for name, version, arm in found]


def _arm(name: str, version: int, arm: Arm) -> Json:
    return {
        "arm": name,
        "model_version": version,
        "answers": arm.answers,
        "errors": arm.errors,
        "error_rate": _share(arm.failed),
        "latency_p50_ms": arm.latency_p50_ms,
        "latency_p99_ms": arm.latency_p99_ms,
        "slow": arm.slow,
        "feedback": arm.feedback,
        "score": _share(arm.scores),
    }


def _share(sample: Sample) -> Json | None:
    if not sample.n:
        return None
    bounds = wilson(sample, _Z95)
    return {"value": sample.mean, "low": bounds.low, "high": bounds.high, "n": sample.n}


def steps(rollout: Rollout, changes: Sequence[Change], now: datetime) -> list[Json]:
    """The ramp: each step with its weight (per cent), when it began and ended, and how long that was.

    `state` is `passed`, `present`, `stopped` (the rollout ended here without passing) or `ahead`.
    """
    began = {change.step: change.at for change in changes if change.state in {"started", "advanced"}}
    if rollout.started_at:
        began.setdefault(0, rollout.started_at)
    if rollout.step_started_at:
        began[rollout.step] = rollout.step_started_at
    shown = []
    for step, weight in enumerate(rollout.ramp.steps):
        state = _state(rollout, step)
        start = began.get(step) if state != "ahead" else None
        end = began.get(step + 1) if step < rollout.step else rollout.ended_at
        until = now if state == "present" else end
        shown.append(
            {
                "step": step,
                "weight": weight,
                "state": state,
                "began_at": start.isoformat() if start else None,
                "ended_at": end.isoformat() if start and end else None,
                "seconds": (until - start).total_seconds() if start and until else None,
            }
        )
    return shown


def _state(rollout: Rollout, step: int) -> str:
    if rollout.started_at is None or step > rollout.step:
        return "ahead"
    if step < rollout.step or rollout.state == "completed":
        return "passed"
    return "present" if rollout.state == "running" else "stopped"
